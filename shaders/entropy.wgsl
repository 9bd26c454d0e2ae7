// Entropy −Σ_j w_j · ln w_j (nats) of rows of weights, one workgroup a row.
struct Params {
    weights: View, // [B, Hq, Nq', Nk]
    entropy: View, // [B, Hq, Nq', 1]
    rows: u32,
}

@group(0) @binding(1) var<storage, read> weights: array<f32>;
@group(0) @binding(2) var<storage, read_write> entropy: array<f32>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(wg);
    if (row >= params.rows) {
        return;
    }
    let base = row_start(params.weights, row);
    var sum = 0.0;
    for (var j = lane; j < params.weights.shape.w; j += LANES) {
        let w = weights[base + j * params.weights.strides.w];
        // log1 takes normal numbers only; the term of a smaller weight is below 1e-36.
        sum -= select(w * log1(w), 0.0, abs(w) < 1.1754944e-38);
    }
    sum = reduce_sum(lane, sum);
    if (lane == 0u) {
        entropy[row_start(params.entropy, row)] = sum;
    }
}
