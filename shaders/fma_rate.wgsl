// Measures the rate of fused multiply-adds: independent chains of x = a·x + b in registers.
override LANES: u32 = 64u;

struct Params {
    a: f32,
    b: f32,
    iterations: u32, // each does 16 vec4 multiply-adds
}

@group(0) @binding(1) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let index = workgroup_index(wg) * LANES + lane;
    // The lane number keeps the chains of neighbours apart, so that no compiler computes one for all.
    let a = vec4<f32>(params.a);
    let b = vec4<f32>(params.b);
    var x0 = vec4<f32>(f32(index % 7u));
    var x1 = x0 + 1.0;
    var x2 = x0 + 2.0;
    var x3 = x0 + 3.0;
    for (var iteration = 0u; iteration < params.iterations; iteration += 1u) {
        x0 = fma(a, x0, b); x1 = fma(a, x1, b); x2 = fma(a, x2, b); x3 = fma(a, x3, b);
        x0 = fma(a, x0, b); x1 = fma(a, x1, b); x2 = fma(a, x2, b); x3 = fma(a, x3, b);
        x0 = fma(a, x0, b); x1 = fma(a, x1, b); x2 = fma(a, x2, b); x3 = fma(a, x3, b);
        x0 = fma(a, x0, b); x1 = fma(a, x1, b); x2 = fma(a, x2, b); x3 = fma(a, x3, b);
    }
    let sum = x0 + x1 + x2 + x3;
    output[index] = sum.x + sum.y + sum.z + sum.w;
}
