// Writes rows into a cache in place: row n of batch row b goes to starts[b] + n. With PAIR the same of a second set of rows
// and its cache, values beside keys, which may have rows of another width. One invocation writes UNIT elements;
// `write_unit` is that of `common/write_*.wgsl`.
override LANES: u32 = 64u;
override WRAP: bool = false; // rows past the end begin again at the front; else they are dropped, as are rows without a page
override PAIR: bool = false;

struct Params {
    rows: View,  // [B, H, N, D]
    cache: View, // [B, H, C, D], or pages [pages, H, page size, D]
    value_rows: View,
    value_cache: View,
    pages: Pages,
    starts: vec2<u32>, // in `vectors`: index of the first, words between neighbours
    capacity: u32, // C, or pages of a batch row · page size
    units: u32,       // of the first set
    value_units: u32, // of the second, which come behind
}

@group(0) @binding(1) var<storage, read> rows: array<elem>;
@group(0) @binding(2) var<storage, read> value_rows: array<elem>;
@group(0) @binding(3) var<storage, read> vectors: array<u32>;

fn append_unit(value: bool, at: u32, rows: View, cache: View) {
    let row_units = rows.shape.w / UNIT;
    let d = at % row_units * UNIT;
    let row = at / row_units;
    let n = row % rows.shape.z;
    let bh = row / rows.shape.z;
    let b = bh / rows.shape.y;
    let start = vectors[params.starts.x + b * params.starts.y];
    var j = start + n;
    // A sum that does not fit in 32 bits is past the end as well.
    var dropped = j < n || j >= params.capacity;
    if (WRAP) {
        j = (start % params.capacity + n) % params.capacity;
        // Of more rows than the cache holds the last ones stay.
        dropped = n + params.capacity < rows.shape.z;
    }
    if (dropped) {
        return;
    }
    if (PAGED && page_of(b, j) >= params.pages.count) {
        return;
    }
    let to = place(b, j);
    let to_at = element(cache, to.x, bh % rows.shape.y, to.y, d);
    write_unit(value, to_at, row_start(rows, row) + d * rows.strides.w, rows.strides.w);
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_number(here) * LANES + lane;
    if (at < params.units) {
        append_unit(false, at, params.rows, params.cache);
    } else if (PAIR && at - params.units < params.value_units) {
        append_unit(true, at - params.units, params.value_rows, params.value_cache);
    }
}
