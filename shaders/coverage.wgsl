// Coverage: the running sum of alignments, and the loss of a row of it. One workgroup a row.
//
//   after[j] = before[j] + alignment[j]
//   overlap          cost = factor · Σ_j min(alignment[j], before[j])      See et al. 2017, eq. 12
//   doubly stochastic cost = factor · Σ_j (1 − after[j])²                  Xu et al. 2015, eq. 14
override COST: u32 = 0u; // 0 none, 1 overlap, 2 doubly stochastic
override HAS_BEFORE: bool = false; // zeros without

struct Params {
    alignment: View, // [.., Nk]
    before: View,
    after: View,
    rows: u32,
    factor: f32,
    cost_start: u32, // in `cost`: index of the first, distance between neighbours
    cost_step: u32,
}

@group(0) @binding(1) var<storage, read> alignment: array<f32>;
@group(0) @binding(2) var<storage, read> before: array<f32>;
@group(0) @binding(3) var<storage, read_write> after: array<f32>;
@group(0) @binding(4) var<storage, read_write> cost: array<f32>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(wg);
    if (row >= params.rows) {
        return;
    }
    let source_index = row_start(params.alignment, row);
    let before_index = row_start(params.before, row);
    let target_index = row_start(params.after, row);
    let keys = params.alignment.shape.w;
    var sum = 0.0;
    for (var j = lane; j < keys; j += LANES) {
        let a = alignment[source_index + j * params.alignment.strides.w];
        var old = 0.0;
        if (HAS_BEFORE) {
            old = before[before_index + j * params.before.strides.w];
        }
        let total = old + a;
        after[target_index + j * params.after.strides.w] = total;
        if (COST == 1u) {
            sum += min(a, old);
        } else if (COST == 2u) {
            sum += (1.0 - total) * (1.0 - total);
        }
    }
    if (COST != 0u) {
        sum = reduce_sum(lane, sum);
        if (lane == 0u) {
            cost[params.cost_start + row * params.cost_step] = params.factor * sum;
        }
    }
}
