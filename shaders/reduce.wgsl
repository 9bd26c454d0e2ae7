// Sums, means and ln Σ e^x of rows, one workgroup a row; with lengths, of the first entries of each row.
override MEAN: bool = false;
override LOG_SUM_EXP: bool = false;
override LENGTHS: bool = false; // by the first axis

struct Params {
    x: View, // [B, .., .., K]
    y: View, // [B, .., .., 1]
    rows: u32,
    lengths: vec2<u32>, // index of the first, distance between neighbours
    negative_infinity: f32,
}

@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read> lengths: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(wg);
    if (row >= params.rows) {
        return;
    }
    var count = params.x.shape.w;
    if (LENGTHS) {
        let b = row / (params.x.shape.y * params.x.shape.z);
        count = min(count, lengths[params.lengths.x + b * params.lengths.y]);
    }
    let base = row_start(params.x, row);
    var largest = -3.4028232e38; // a little above the least number, which not every compiler reads
    if (LOG_SUM_EXP) {
        for (var k = lane; k < count; k += LANES) {
            largest = max(largest, f32(x[base + k * params.x.strides.w]));
        }
        largest = reduce_max(lane, largest);
    }
    var total = 0.0;
    for (var k = lane; k < count; k += LANES) {
        let value = f32(x[base + k * params.x.strides.w]);
        if (LOG_SUM_EXP) {
            total += exp1(value - largest);
        } else {
            total += value;
        }
    }
    total = reduce_sum(lane, total);
    if (LOG_SUM_EXP) {
        if (lane == 0u) {
            // Nothing, or nothing but −∞; NaN stays.
            let sum = select(largest + log1(total), params.negative_infinity, total == 0.0);
            y[row_start(params.y, row)] = select(sum, total, is_nan1(total));
        }
    } else if (lane == 0u) {
        // A mean of nothing is 0.
        y[row_start(params.y, row)] = select(total, total / f32(max(count, 1u)), MEAN);
    }
}
