// Partial results over disjoint keys, put together by their log-sum-exp:
//
//   m = max_p lse_p;  w_p = exp(lse_p − m);  output = Σ_p w_p·output_p / Σ_p w_p;  lse = m + ln Σ_p w_p
//
// A part that saw no key (−∞) counts for nothing, whatever its output holds. One invocation writes one element.
override LANES: u32 = 64u;
override OTHER: bool = false; // there is one more part, a tensor of its own
override LSE: bool = true;    // the joined log-sum-exp is asked for

struct Params {
    parts: View,     // [parts · B, H, N, Dv]
    other: View,     // [B, H, N, Dv]
    output: View,
    parts_lse: View, // [parts · B, H, N, 1]
    other_lse: View, // [B, H, N, 1]
    lse: View,
    count: u32, // parts
    elements: u32,
    negative_infinity: f32,
    pad_0: u32,
}

@group(0) @binding(1) var<storage, read> parts: array<elem>;
@group(0) @binding(2) var<storage, read> other: array<k_elem>;
@group(0) @binding(3) var<storage, read> parts_lse: array<f32>;
@group(0) @binding(4) var<storage, read> other_lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> output: array<out_elem>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;

fn is_empty(lse: f32) -> bool {
    return bitcast<u32>(lse) == 0xff800000u; // the bits of −∞
}

// A running sum of weighted parts, with the largest log-sum-exp so far.
struct Sum {
    m: f32,
    weight: f32,
    y: f32,
}

fn with_part(sum: Sum, lse: f32, y: f32) -> Sum {
    if (is_empty(lse)) {
        return sum;
    }
    // NaN in one part is NaN in all.
    let m = select(max(sum.m, lse), sum.m + lse, is_nan1(sum.m) || is_nan1(lse));
    let before = select(exp1(sum.m - m), 0.0, sum.weight == 0.0);
    let now = exp1(lse - m);
    return Sum(m, sum.weight * before + now, sum.y * before + now * y);
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
        sum = with_part(sum, parts_lse[element(params.parts_lse, i, h, n, 0u)], f32(parts[element(params.parts, i, h, n, d)]));
    }
    if (OTHER) {
        sum = with_part(sum, other_lse[row_start(params.other_lse, row)], f32(other[element(params.other, b, h, n, d)]));
    }
    let none = sum.weight == 0.0;
    output[element(params.output, b, h, n, d)] = out_elem(select(sum.y / sum.weight, 0.0, none));
    if (LSE && d == 0u) {
        lse[row_start(params.lse, row)] = select(sum.m + log1(sum.weight), params.negative_infinity, none);
    }
}
