// Partial results over disjoint keys, put together by the largest score m and the sum l of each:
//
//   m = max_p m_p;  w_p = exp(m_p − m)·l_p;  output = Σ_p w_p·output_p / Σ_p w_p;  l = Σ_p w_p;  then the sink
//
// The output so far is a mean at any time, so that no sum overflows.
//
// A part's log-sum-exp alone stands for m_p with l_p = 1. A part that saw no key (l = 0, or −∞) counts for nothing,
// whatever its output holds. One invocation writes one element.
override LANES: u32 = 64u;
override OTHER: bool = false;       // there is one more part, a tensor of its own
override PARTS_PAIRS: bool = false; // m and l are known of the parts; of the other one
override OTHER_PAIRS: bool = false;
override LSE: bool = true;          // the joined log-sum-exp is asked for
override MAX_SUM: u32 = 0u;         // the joined m and l are: 1 as the caller gets them, 2 to be joined further

struct Params {
    parts: View,       // [parts · B, H, N, Dv]
    other: View,       // [B, H, N, Dv]
    output: View,
    parts_stats: View, // [parts · B, H, N, 1 or 2]
    other_stats: View, // [B, H, N, 1 or 2]
    lse: View,         // [B, H, N, 1]
    max_sum: View,     // [B, H, N, 2]
    count: u32, // parts
    elements: u32,
    negative_infinity: f32,
    not_a_number: f32,
    sinks: vec2<u32>, // where they lie in `vectors`: index of the first, distance between neighbours
    temperature: f32,
}

@group(0) @binding(1) var<storage, read> parts: array<elem>;
@group(0) @binding(2) var<storage, read> other: array<k_elem>;
@group(0) @binding(3) var<storage, read> parts_stats: array<f32>;
@group(0) @binding(4) var<storage, read> other_stats: array<f32>;
@group(0) @binding(5) var<storage, read_write> output: array<out_elem>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;
@group(0) @binding(7) var<storage, read_write> max_sum: array<f32>;
@group(0) @binding(8) var<storage, read> vectors: array<u32>;

fn is_empty(lse: f32) -> bool {
    return bitcast<u32>(lse) == 0xff800000u; // the bits of −∞
}

// Parts put together so far: m, l and their output.
struct Sum {
    m: f32,
    l: f32,
    y: f32,
}

fn part_of_lse(lse: f32, y: f32) -> Sum {
    return Sum(lse, select(1.0, 0.0, is_empty(lse)), y);
}

fn exp_relative(x: f32) -> f32 {
    return exp1(relative(vec4<f32>(x)).x);
}

fn joined(sum: Sum, part: Sum) -> Sum {
    // A part without a sum has seen nothing, or nothing but −∞; one with a sum may have, as a caller's, the very number
    // that stands for nothing.
    let nothing = part.l == 0.0;
    let own = select(visible1(part.m), select(HIDDEN, part.m, part.m <= MINUS_INFINITY), nothing);
    // NaN in one part is NaN in all.
    let m = select(max(sum.m, own), sum.m + own, is_nan1(sum.m) || is_nan1(own));
    if (nothing) {
        return Sum(m, sum.l, sum.y);
    }
    let before = select(exp_relative(sum.m - m) * sum.l, 0.0, sum.l == 0.0);
    let now = exp_relative(own - m) * part.l;
    let l = before + now;
    return Sum(m, l, select(sum.y * (before / l), 0.0, before == 0.0) + (now / l) * part.y);
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_number(here) * LANES + lane;
    if (at >= params.elements) {
        return;
    }
    let shape = params.output.shape;
    let d = at % shape.w;
    let row = at / shape.w;
    let n = row % shape.z;
    let h = (row / shape.z) % shape.y;
    let b = row / shape.z / shape.y;
    var sum = Sum(HIDDEN, 0.0, 0.0);
    for (var part = 0u; part < params.count; part += 1u) {
        let i = part * shape.x + b;
        let stats = element(params.parts_stats, i, h, n, 0u);
        let y = f32(parts[element(params.parts, i, h, n, d)]);
        if (PARTS_PAIRS) {
            sum = joined(sum, Sum(parts_stats[stats], parts_stats[stats + params.parts_stats.strides.w], y));
        } else {
            sum = joined(sum, part_of_lse(parts_stats[stats], y));
        }
    }
    if (OTHER) {
        let stats = row_start(params.other_stats, row);
        let y = f32(other[element(params.other, b, h, n, d)]);
        if (OTHER_PAIRS) {
            sum = joined(sum, Sum(other_stats[stats], other_stats[stats + params.other_stats.strides.w], y));
        } else {
            sum = joined(sum, part_of_lse(other_stats[stats], y));
        }
    }
    var sink = 0.0;
    if (SINKS) {
        sink = bitcast<f32>(vectors[params.sinks.x + h * params.sinks.y]);
    }
    let end = ended(vec4<f32>(sum.m), vec4<f32>(sum.l), vec4<f32>(sink));
    // The share of all keys beside the sink.
    let share = end.share.x * sum.l;
    let none = see_nothing(vec4<f32>(sum.m), vec4<f32>(sum.l)).x;
    output[element(params.output, b, h, n, d)] = out_elem(select(sum.y * share, 0.0, none));
    if (d > 0u) {
        return;
    }
    if (LSE) {
        lse[row_start(params.lse, row)] = log_sum_exp(end.m.x, end.l.x);
    }
    if (MAX_SUM > 0u) {
        let pair = select(vec2<f32>(sum.m, sum.l), max_and_sum(end.m.x, end.l.x), MAX_SUM == 1u);
        let to = row_start(params.max_sum, row);
        max_sum[to] = pair.x;
        max_sum[to + params.max_sum.strides.w] = pair.y;
    }
}
