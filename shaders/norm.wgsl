// Layer and RMS normalisation of rows, one workgroup a row, of x or of x + residual:
//
//   layer    y = (s − mean s) / √(mean (s − mean s)² + ε) · weight + bias
//   RMS      y = s / √(mean s² + ε) · weight + bias
//
// Numbers are first brought near 1 by a power of two c, so that their squares neither overflow nor vanish.
override RMS: bool = false;
override HAS_RESIDUAL: bool = false; // s = x + residual, which is stored as well
override HAS_WEIGHT: bool = false;
override HAS_BIAS: bool = false;

struct Params {
    x: View,        // [.., .., .., N]
    residual: View, // the same
    sum: View,      // the same
    y: View,        // the same
    rows: u32,
    epsilon: f32,
    weight: vec2<u32>, // index of the first, distance between neighbours
    bias: vec2<u32>,
}

@group(0) @binding(1) var<storage, read> x: array<elem>;
@group(0) @binding(2) var<storage, read> residual: array<residual_elem>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> sum: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<out_elem>;

fn load_input(x_row: u32, residual_row: u32, k: u32) -> f32 {
    var value = f32(x[x_row + k * params.x.strides.w]);
    if (HAS_RESIDUAL) {
        value += f32(residual[residual_row + k * params.residual.strides.w]);
    }
    return value;
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(wg);
    if (row >= params.rows) {
        return;
    }
    let width = params.y.shape.w;
    let x_row = row_start(params.x, row);
    let residual_row = row_start(params.residual, row);
    var largest = 0.0;
    for (var k = lane; k < width; k += LANES) {
        largest = max(largest, abs(load_input(x_row, residual_row, k)));
    }
    let c = scale_of1(reduce_max(lane, largest));
    var mean = 0.0;
    if (!RMS) {
        var total = 0.0;
        for (var k = lane; k < width; k += LANES) {
            total += load_input(x_row, residual_row, k) * c;
        }
        mean = reduce_sum(lane, total) / f32(width);
    }
    var squares = 0.0;
    for (var k = lane; k < width; k += LANES) {
        let deviation = load_input(x_row, residual_row, k) * c - mean;
        squares += deviation * deviation;
    }
    let variance = reduce_sum(lane, squares) / f32(width);
    let inverse = inverse_deviation4(vec4<f32>(variance), vec4<f32>(c), params.epsilon).x;
    let sum_row = row_start(params.sum, row);
    let y_row = row_start(params.y, row);
    for (var k = lane; k < width; k += LANES) {
        let value = load_input(x_row, residual_row, k);
        if (HAS_RESIDUAL) {
            sum[sum_row + k * params.sum.strides.w] = value;
        }
        var normal = (value * c - mean) * inverse;
        if (HAS_WEIGHT) {
            normal *= weight[params.weight.x + k * params.weight.y];
        }
        if (HAS_BIAS) {
            normal += bias[params.bias.x + k * params.bias.y];
        }
        y[y_row + k * params.y.strides.w] = out_elem(normal);
    }
}
