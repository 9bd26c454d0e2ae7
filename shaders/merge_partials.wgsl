// Merges partial attention over disjoint keys, as the splits of split-KV, by row_max m_p and row_sum l_p of each:
//
//   m = max_p m_p;  w_p = exp(m_p − m)·l_p;  output = Σ_p w_p·output_p / Σ_p w_p;  l = Σ_p w_p;  then the sink
//
// After each partial the running output is their weighted mean, so that no sum overflows. A partial of which only the
// log-sum-exp is known has that as m_p, and l_p = 1. A partial without a visible key (l_p = 0, or a log-sum-exp of −∞)
// counts for nothing, whatever its output holds. One invocation writes one element of the output.
override LANES: u32 = 64u;
override OTHER: bool = false;              // there is one more partial, a tensor of its own
override PARTIALS_HAVE_SUMS: bool = false; // statistics are row_max and row_sum, else log-sum-exp; of the partials
override OTHER_HAS_SUM: bool = false;      // and of the other one
override LSE: bool = true;                 // the merged log-sum-exp is asked for
override MAX_SUM: u32 = 0u;                // merged row_max and row_sum: 1 as the caller gets them, 2 to be merged further

struct Params {
    partials: View,      // [partials · B, H, N, Dv]
    other: View,         // [B, H, N, Dv]
    output: View,
    partial_stats: View, // [partials · B, H, N, 1 or 2]
    other_stats: View,   // [B, H, N, 1 or 2]
    lse: View,           // [B, H, N, 1]
    max_sum: View,       // [B, H, N, 2]
    count: u32, // partials
    elements: u32,
    negative_infinity: f32,
    not_a_number: f32,
    sinks: vec2<u32>, // in `vectors`: index of the first, distance between neighbours
    temperature: f32,
}

@group(0) @binding(1) var<storage, read> partials: array<elem>;
@group(0) @binding(2) var<storage, read> other: array<k_elem>;
@group(0) @binding(3) var<storage, read> partial_stats: array<f32>;
@group(0) @binding(4) var<storage, read> other_stats: array<f32>;
@group(0) @binding(5) var<storage, read_write> output: array<out_elem>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;
@group(0) @binding(7) var<storage, read_write> max_sum: array<f32>;
@group(0) @binding(8) var<storage, read> vectors: array<u32>;

fn is_empty(lse: f32) -> bool {
    return bitcast<u32>(lse) == 0xff800000u; // the bits of −∞
}

// One partial, or the merge of several, at one element of the output.
struct Partial {
    row_max: f32,
    row_sum: f32,
    output_value: f32,
}

fn partial_of_lse(lse: f32, output_value: f32) -> Partial {
    return Partial(lse, select(1.0, 0.0, is_empty(lse)), output_value);
}

fn exp_relative(x: f32) -> f32 {
    return exp1(over_temperature(vec4<f32>(x)).x);
}

fn merge(sum: Partial, partial: Partial) -> Partial {
    // The maximum of a partial without a sum is HIDDEN or MINUS_INFINITY. One with a sum may come from the caller, and have
    // such a number as its true maximum.
    let is_empty_partial = partial.row_sum == 0.0;
    let partial_max = select(
        finite_score1(partial.row_max),
        select(HIDDEN, partial.row_max, partial.row_max <= MINUS_INFINITY),
        is_empty_partial,
    );
    // NaN in one partial is NaN in the merge.
    let row_max = select(
        max(sum.row_max, partial_max),
        sum.row_max + partial_max,
        is_nan1(sum.row_max) || is_nan1(partial_max),
    );
    if (is_empty_partial) {
        return Partial(row_max, sum.row_sum, sum.output_value);
    }
    let old_weight = select(exp_relative(sum.row_max - row_max) * sum.row_sum, 0.0, sum.row_sum == 0.0);
    let weight = exp_relative(partial_max - row_max) * partial.row_sum;
    let row_sum = old_weight + weight;
    return Partial(
        row_max,
        row_sum,
        select(sum.output_value * (old_weight / row_sum), 0.0, old_weight == 0.0) + (weight / row_sum) * partial.output_value,
    );
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    if (index >= params.elements) {
        return;
    }
    let shape = params.output.shape;
    let d = index % shape.w;
    let row = index / shape.w;
    let n = row % shape.z;
    let h = (row / shape.z) % shape.y;
    let b = row / shape.z / shape.y;
    var sum = Partial(HIDDEN, 0.0, 0.0);
    for (var p = 0u; p < params.count; p += 1u) {
        let i = p * shape.x + b;
        let stats = element(params.partial_stats, i, h, n, 0u);
        let output_value = f32(partials[element(params.partials, i, h, n, d)]);
        if (PARTIALS_HAVE_SUMS) {
            sum = merge(
                sum, Partial(partial_stats[stats], partial_stats[stats + params.partial_stats.strides.w], output_value),
            );
        } else {
            sum = merge(sum, partial_of_lse(partial_stats[stats], output_value));
        }
    }
    if (OTHER) {
        let stats = row_start(params.other_stats, row);
        let output_value = f32(other[element(params.other, b, h, n, d)]);
        if (OTHER_HAS_SUM) {
            sum = merge(
                sum, Partial(other_stats[stats], other_stats[stats + params.other_stats.strides.w], output_value),
            );
        } else {
            sum = merge(sum, partial_of_lse(other_stats[stats], output_value));
        }
    }
    var sink = 0.0;
    if (SINKS) {
        sink = bitcast<f32>(vectors[params.sinks.x + h * params.sinks.y]);
    }
    let result = finish_softmax(vec4<f32>(sum.row_max), vec4<f32>(sum.row_sum), vec4<f32>(sink));
    // What share of the softmax the keys have, beside the sink.
    let output_scale = result.output_scale.x * sum.row_sum;
    let fully_masked = is_fully_masked(vec4<f32>(sum.row_max), vec4<f32>(sum.row_sum)).x;
    output[element(params.output, b, h, n, d)] = out_elem(select(sum.output_value * output_scale, 0.0, fully_masked));
    if (d > 0u) {
        return;
    }
    if (LSE) {
        lse[row_start(params.lse, row)] = log_sum_exp(result.row_max.x, result.row_sum.x);
    }
    if (MAX_SUM > 0u) {
        let pair = select(
            vec2<f32>(sum.row_max, sum.row_sum), max_and_sum(result.row_max.x, result.row_sum.x), MAX_SUM == 1u,
        );
        let offset = row_start(params.max_sum, row);
        max_sum[offset] = pair.x;
        max_sum[offset + params.max_sum.strides.w] = pair.y;
    }
}
