// Writes rows into a cache in place: row n of batch row b goes to starts[b] + n. One invocation writes UNIT elements;
// `write_unit` is that of `common/write_*.wgsl`.
override LANES: u32 = 64u;
override WRAP: bool = false; // rows past the end begin again at the front; else they are dropped, as are rows without a page

struct Params {
    rows: View,  // [B, H, N, D]
    cache: View, // [B, H, C, D], or pages [pages, H, page size, D]
    pages: Pages,
    starts: vec2<u32>, // in `vectors`: index of the first, words between neighbours
    capacity: u32, // C, or pages of a batch row · page size
    units: u32,
}

@group(0) @binding(1) var<storage, read> rows: array<elem>;
@group(0) @binding(2) var<storage, read> vectors: array<u32>;

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_number(here) * LANES + lane;
    if (at >= params.units) {
        return;
    }
    let row_units = params.rows.shape.w / UNIT;
    let d = at % row_units * UNIT;
    let row = at / row_units;
    let n = row % params.rows.shape.z;
    let bh = row / params.rows.shape.z;
    let b = bh / params.rows.shape.y;
    let start = vectors[params.starts.x + b * params.starts.y];
    var j = start + n;
    // A sum that does not fit in 32 bits is past the end as well.
    var dropped = j < n || j >= params.capacity;
    if (WRAP) {
        j = (start % params.capacity + n) % params.capacity;
        // Of more rows than the cache holds the last ones stay.
        dropped = n + params.capacity < params.rows.shape.z;
    }
    if (dropped) {
        return;
    }
    if (PAGED && page_of(b, j) >= params.pages.count) {
        return;
    }
    let to = place(b, j);
    let to_at = element(params.cache, to.x, bh % params.rows.shape.y, to.y, d);
    write_unit(to_at, row_start(params.rows, row) + d * params.rows.strides.w, params.rows.strides.w);
}
