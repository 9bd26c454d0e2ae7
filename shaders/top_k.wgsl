// The k largest entries of each row, largest first, the smaller index first among equals; one workgroup a row. Each turn
// looks for the largest that comes behind the one before. NaN and −∞ come last, in the order of their indices.
struct Params {
    x: View,      // [.., .., .., N]
    values: View, // [.., .., .., k]
    ids: View,    // the same
    rows: u32,
    least: f32,   // −∞
}

@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read_write> values: array<f32>;
@group(0) @binding(3) var<storage, read_write> ids: array<u32>;

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_number(here);
    if (row >= params.rows) {
        return;
    }
    let base = row_start(params.x, row);
    let values_row = row_start(params.values, row);
    let ids_row = row_start(params.ids, row);
    let width = params.x.shape.w;
    var before = 0.0;
    var before_index = 0u;
    for (var turn = 0u; turn < params.values.shape.w; turn += 1u) {
        var best = params.least;
        var best_index = 0xffffffffu;
        for (var k = lane; k < width; k += LANES) {
            var value = f32(x[base + k * params.x.strides.w]);
            value = select(value, params.least, is_nan1(value));
            let behind = turn == 0u || value < before || (value == before && k > before_index);
            if (behind && (best_index == 0xffffffffu || value > best)) {
                best = value;
                best_index = k;
            }
        }
        before_index = reduce_argmax(lane, best, best_index);
        before = f32(x[base + before_index * params.x.strides.w]);
        before = select(before, params.least, is_nan1(before));
        if (lane == 0u) {
            values[values_row + turn * params.values.strides.w] = f32(x[base + before_index * params.x.strides.w]);
            ids[ids_row + turn * params.ids.strides.w] = before_index;
        }
    }
}
