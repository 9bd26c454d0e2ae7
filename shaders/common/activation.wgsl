// Activation functions of linear layers and recurrent cells. The numbers are those of `kernels::ActivationParams`.
struct Activation {
    @align(16) kind: u32,
    alpha: f32,
    beta: f32,
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
        default: { return x; }
    }
}
