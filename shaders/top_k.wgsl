// The k largest entries of each row, largest first, the smaller index first among equals; one workgroup a row. Each
// iteration finds the largest entry that comes after the previous one. NaN and −∞ come last, in the order of their indices.
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
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(wg);
    if (row >= params.rows) {
        return;
    }
    let base = row_start(params.x, row);
    let values_row = row_start(params.values, row);
    let ids_row = row_start(params.ids, row);
    let width = params.x.shape.w;
    var previous = 0.0;
    var previous_index = 0u;
    for (var rank = 0u; rank < params.values.shape.w; rank += 1u) {
        var best = params.least;
        var best_index = 0xffffffffu;
        for (var k = lane; k < width; k += LANES) {
            var value = f32(x[base + k * params.x.strides.w]);
            value = select(value, params.least, is_nan1(value));
            let is_after = rank == 0u || value < previous || (value == previous && k > previous_index);
            if (is_after && (best_index == 0xffffffffu || value > best)) {
                best = value;
                best_index = k;
            }
        }
        previous_index = reduce_argmax(lane, best, best_index);
        previous = f32(x[base + previous_index * params.x.strides.w]);
        previous = select(previous, params.least, is_nan1(previous));
        if (lane == 0u) {
            values[values_row + rank * params.values.strides.w] = f32(x[base + previous_index * params.x.strides.w]);
            ids[ids_row + rank * params.ids.strides.w] = previous_index;
        }
    }
}
