// Activation functions of linear layers and recurrent cells. The numbers are those of `kernels::ActivationParams`.
struct Activation {
    @align(16) kind: u32,
    alpha: f32,
    beta: f32,
}

// x·Φ(x) = x/2·erfc(−x/√2). erfc(z) = t·e^(P(t) − z²) with t = 1 / (1 + z/2), relative error below 1.2e-7 (Press et al.,
// "Numerical Recipes", section 6.2), where z² is x²/2, of an x that is cut in two so that its square loses nothing.
fn gelu4(x: vec4<f32>) -> vec4<f32> {
    let a = min(abs(x), vec4<f32>(20.0));
    let t = 1.0 / (1.0 + 0.35355339 * a);
    var p = -0.82215223 + t * 0.17087277;
    p = 1.48851587 + t * p;
    p = -1.13520398 + t * p;
    p = 0.27886807 + t * p;
    p = -0.18628806 + t * p;
    p = 0.09678418 + t * p;
    p = 0.37409196 + t * p;
    p = 1.00002368 + t * p;
    p = -1.26551223 + t * p;
    let high = bitcast<vec4<f32>>(bitcast<vec4<u32>>(a) & vec4<u32>(0xfffff000u));
    let tail = t * exp4(-0.5 * high * high) * exp4(p - 0.5 * (a - high) * (a + high));
    return x * select(1.0 - 0.5 * tail, 0.5 * tail, x < vec4<f32>(0.0));
}

fn activate(f: Activation, x: vec4<f32>) -> vec4<f32> {
    let zero = vec4<f32>(0.0);
    switch f.kind {
        case 1u: { return sigmoid4(x); }
        case 2u: { return tanh4(x); }
        case 3u: { return select(x, zero, x < zero); }
        case 4u: { return f.alpha * x + f.beta; }
        case 5u: { return select(x, f.alpha * x, x < zero); }
        case 6u: { return select(x, zero, x < vec4<f32>(f.alpha)); }
        case 7u: { return f.alpha * tanh4(f.beta * x); }
        case 8u: { return clamp(f.alpha * x + f.beta, zero, vec4<f32>(1.0)); }
        case 9u: { return select(x, f.alpha * (exp4(x) - 1.0), x < zero); }
        case 10u: { return x / (1.0 + abs(x)); }
        // log(1 + e^x) = max(x, 0) + log(1 + e^−|x|)
        case 11u: {
            let e = 1.0 + exp4(-abs(x));
            return max(x, zero) + vec4<f32>(log1(e.x), log1(e.y), log1(e.z), log1(e.w));
        }
        case 12u: { return gelu4(x); }
        // x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
        case 13u: { return 0.5 * x * (1.0 + tanh4(0.7978845608 * (x + 0.044715 * x * x * x))); }
        case 14u: { return x / (1.0 + exp4(-x)); }
        default: { return x; }
    }
}
