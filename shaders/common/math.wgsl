// exp, log, tanh and sigmoid with an error of a few units in the last place on every driver, finite for every finite
// argument. The built-in functions differ by driver: relative errors of 3.5e-6, NaN for tanh of large arguments.
// NaN passes through; it is recognized by its bits, because compilers may assume that x == x.

const LN2_HIGH = 0.693359375; // 355 / 512: k · LN2_HIGH is exact in f32 for |k| < 2^15
const LN2_LOW = -2.12194440054690583e-4; // ln 2 − LN2_HIGH

fn is_nan4(x: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
}

fn is_nan1(x: f32) -> bool {
    return is_nan4(vec4<f32>(x)).x;
}

fn is_finite4(x: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) < vec4<u32>(0x7f800000u));
}

// sum + m·v, one column after the other.
fn multiply_add4(sum: vec4<f32>, m: mat4x4<f32>, v: vec4<f32>) -> vec4<f32> {
    let a = fma(m[0], vec4<f32>(v.x), sum);
    let b = fma(m[1], vec4<f32>(v.y), a);
    let c = fma(m[2], vec4<f32>(v.z), b);
    return fma(m[3], vec4<f32>(v.w), c);
}

// sum + v·xᵀ: column c has v · x_c added.
fn outer_add4(sum: mat4x4<f32>, v: vec4<f32>, x: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(v, vec4<f32>(x.x), sum[0]), fma(v, vec4<f32>(x.y), sum[1]),
        fma(v, vec4<f32>(x.z), sum[2]), fma(v, vec4<f32>(x.w), sum[3]),
    );
}

// 2^k of whole numbers. The sum with 1.5 · 2^23 has a whole number in its last bits, which cost no conversion: with that of
// 127 the biased exponent of the result.
fn power_of_two(k: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(k + 12583039.0) << vec4<u32>(23u));
}

// A power of two that brings numbers of at most `largest` near 1, so that their squares neither overflow nor vanish.
fn scale_of4(largest: vec4<f32>) -> vec4<f32> {
    let exponent = vec4<i32>((bitcast<vec4<u32>>(largest) >> vec4<u32>(23u)) & vec4<u32>(255u));
    return bitcast<vec4<f32>>(clamp(254 - exponent, vec4<i32>(1), vec4<i32>(227)) << vec4<u32>(23u));
}

fn scale_of1(largest: f32) -> f32 {
    return scale_of4(vec4<f32>(largest)).x;
}

// 1 / √(variance + c²·ε), the larger of the two taken out of the root, with a Newton step, as drivers' roots differ:
// of numbers that were multiplied by c = scale_of4.
fn inverse_deviation4(variance: vec4<f32>, c: vec4<f32>, epsilon: f32) -> vec4<f32> {
    let longer = max(max(sqrt(variance), c * sqrt(epsilon)), vec4<f32>(1.2e-38));
    let share = c / longer;
    // About 1 to 2; where all numbers are the same, there may be nothing left of either.
    let x = max(variance / longer / longer + share * epsilon * share, vec4<f32>(0.25));
    let r = 1.0 / sqrt(x);
    return r * (1.5 - 0.5 * x * r * r) / longer;
}

// e^r − 1 for |r| ≤ ln 2 / 2: the Taylor series to r^8, remainder below 1e-9 of the value.
fn expm1_reduced(r: vec4<f32>) -> vec4<f32> {
    var p = 1.9841270e-4 + r * 2.4801587e-5;
    p = 1.3888889e-3 + r * p;
    p = 8.3333333e-3 + r * p;
    p = 4.1666667e-2 + r * p;
    p = 0.16666667 + r * p;
    p = 0.5 + r * p;
    p = 1.0 + r * p;
    return r * p;
}

// e^x; 0 below −87.3 (f32 has no normal number there), e^88 above 88.
fn exp4(x: vec4<f32>) -> vec4<f32> {
    let c = clamp(x, vec4<f32>(-87.3), vec4<f32>(88.0));
    let k = round(c * 1.44269504);
    let r = (c - k * LN2_HIGH) - k * LN2_LOW;
    let scale = power_of_two(k);
    let y = scale + scale * expm1_reduced(r);
    return select(select(y, vec4<f32>(0.0), x < vec4<f32>(-87.3)), x, is_nan4(x));
}

// e^x for x ≤ 0, in fewer steps: 0 below −87.3; NaN passes through. 2^f for |f| ≤ 1/2 by the polynomial 1 + f·q(f) of
// degree 6 with the least relative error, 2e-9; the product with log2 e costs |x| · 6e-8 more.
fn exp_falling4(x: vec4<f32>) -> vec4<f32> {
    return exp_falling_times4(x, 0.0);
}

// The same times 2^n, n ≤ 0 a whole number: 0 where the result has no normal number in f32.
fn exp_falling_times4(x: vec4<f32>, n: f32) -> vec4<f32> {
    let t = x * 1.44269504;
    let k = round(t);
    let f = t - k;
    var p = 1.3398874e-3 + f * 1.5353362e-4;
    p = 9.6184374e-3 + f * p;
    p = 5.5503325e-2 + f * p;
    p = 2.4022648e-1 + f * p;
    p = 6.9314720e-1 + f * p;
    p = 1.0 + f * p;
    return select(p * power_of_two(k + n), vec4<f32>(0.0), x < vec4<f32>(-87.3 - 0.69314718 * n));
}

fn exp1(x: f32) -> f32 {
    return exp4(vec4<f32>(x)).x;
}

// tanh x = e / (e + 2) with e = e^(2|x|) − 1, which loses no digits near 0; 1 beyond 10.
fn tanh4(x: vec4<f32>) -> vec4<f32> {
    let t = min(abs(x), vec4<f32>(10.0)) * 2.0;
    let k = round(t * 1.44269504);
    let r = (t - k * LN2_HIGH) - k * LN2_LOW;
    let scale = power_of_two(k);
    let e = (scale - 1.0) + scale * expm1_reduced(r);
    let y = e / (e + 2.0);
    return select(select(y, -y, x < vec4<f32>(0.0)), x, is_nan4(x));
}

fn tanh1(x: f32) -> f32 {
    return tanh4(vec4<f32>(x)).x;
}

fn sigmoid4(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp4(-x));
}

// ln x for normal x > 0: x = 2^k · m with m near 1, ln m = 2·atanh((m − 1) / (m + 1)).
fn log1(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    var k = f32(i32(bits >> 23u) - 127);
    var m = bitcast<f32>((bits & 0x7fffffu) | 0x3f800000u);
    if (m > 1.41421356) {
        m = m * 0.5;
        k = k + 1.0;
    }
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    var p = 0.11111111 + s2 * 0.09090909;
    p = 0.14285715 + s2 * p;
    p = 0.2 + s2 * p;
    p = 0.33333334 + s2 * p;
    let y = k * LN2_HIGH + (k * LN2_LOW + (2.0 * s * s2 * p + 2.0 * s));
    return select(y, x, is_nan1(x));
}
