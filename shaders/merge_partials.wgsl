// Two partial results over disjoint keys, put together by their log-sum-exp:
//
//   m = max(a_lse, b_lse);  A = exp(a_lse − m);  B = exp(b_lse − m)
//   output = (A·a + B·b) / (A + B);  lse = m + ln(A + B)
//
// A part that saw no key (−∞) counts for nothing, whatever its output holds. One invocation writes one element.
override LANES: u32 = 64u;

struct Params {
    a: View, // [B, H, N, Dv]
    b: View,
    output: View,
    a_lse: View, // [B, H, N, 1]
    b_lse: View,
    lse: View,
    elements: u32,
    negative_infinity: f32,
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(1) var<storage, read> a: array<elem>;
@group(0) @binding(2) var<storage, read> b: array<k_elem>;
@group(0) @binding(3) var<storage, read> a_lse: array<f32>;
@group(0) @binding(4) var<storage, read> b_lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> output: array<out_elem>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;

fn is_empty(lse: f32) -> bool {
    return bitcast<u32>(lse) == 0xff800000u; // the bits of −∞
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let at = workgroup_number(here) * LANES + lane;
    if (at >= params.elements) {
        return;
    }
    let width = params.output.shape.w;
    let row = at / width;
    let d = at % width;
    let l = vec2<f32>(a_lse[row_start(params.a_lse, row)], b_lse[row_start(params.b_lse, row)]);
    let empty = vec2<bool>(is_empty(l.x), is_empty(l.y));
    let parts = vec2<f32>(
        f32(a[row_start(params.a, row) + d * params.a.strides.w]),
        f32(b[row_start(params.b, row) + d * params.b.strides.w]),
    );
    let known = select(l, vec2<f32>(HIDDEN), empty);
    let m = select(max(known.x, known.y), known.x + known.y, is_nan1(known.x) || is_nan1(known.y));
    let share = select(vec2<f32>(exp1(known.x - m), exp1(known.y - m)), vec2<f32>(0.0), empty);
    let sum = share.x + share.y;
    let none = all(empty);
    let weighted = select(share * parts, vec2<f32>(0.0), empty);
    let y = select((weighted.x + weighted.y) / sum, 0.0, none);
    output[row_start(params.output, row) + d * params.output.strides.w] = out_elem(y);
    if (d == 0u) {
        lse[row_start(params.lse, row)] = select(m + log1(sum), params.negative_infinity, none);
    }
}
