// Appends rows to a cache in place: cache[b, h, starts[b] + n, :] = rows[b, h, n, :]. With PAIR it does so for keys and
// values, whose rows may differ in width. An invocation writes a unit of UNIT elements with `write_unit` of
// `common/write_*.wgsl`.
override LANES: u32 = 64u;
override WRAP: bool = false; // ring buffer: rows past the end wrap to the front; without, they are dropped
override PAIR: bool = false;

struct Params {
    rows: View,  // [B, H, N, D]
    cache: View, // [B, H, C, D], or pages [pages, H, page size, D]
    value_rows: View,
    value_cache: View,
    pages: Pages,
    starts: vec2<u32>, // in `vectors`: index of the first, words between neighbours
    capacity: u32, // C, or pages of a batch row · page size
    units: u32,       // of the keys
    value_units: u32, // of the values
}

@group(0) @binding(1) var<storage, read> rows: array<elem>;
@group(0) @binding(2) var<storage, read> value_rows: array<elem>;
@group(0) @binding(3) var<storage, read> vectors: array<u32>;

fn append_unit(value: bool, unit: u32, rows: View, cache: View) {
    let row_units = rows.shape.w / UNIT;
    let d = unit % row_units * UNIT;
    let row = unit / row_units;
    let n = row % rows.shape.z;
    let bh = row / rows.shape.z;
    let b = bh / rows.shape.y;
    let start = vectors[params.starts.x + b * params.starts.y];
    var j = start + n;
    // A sum that overflows 32 bits is past the end as well.
    var dropped = j < n || j >= params.capacity;
    if (WRAP) {
        j = (start % params.capacity + n) % params.capacity;
        // If there are more rows than the cache holds, the last ones are written.
        dropped = n + params.capacity < rows.shape.z;
    }
    if (dropped) {
        return;
    }
    if (PAGED && page_of(b, j) >= params.pages.count) {
        return; // there is no page for this row
    }
    let row_in_cache = locate(b, j);
    let target_index = element(cache, row_in_cache.x, bh % rows.shape.y, row_in_cache.y, d);
    write_unit(value, target_index, row_start(rows, row) + d * rows.strides.w, rows.strides.w);
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let unit = workgroup_index(wg) * LANES + lane;
    if (unit < params.units) {
        append_unit(false, unit, params.rows, params.cache);
    } else if (PAIR && unit - params.units < params.value_units) {
        append_unit(true, unit - params.units, params.value_rows, params.value_cache);
    }
}
