// One time step the way a first port has it: one invocation a unit of a batch row, W·x and U·h from memory every step.
// Weights lie as PyTorch has them, row-major, gates i, f, g, o or r, z, n.

struct Params {
    step: u32,
    batch: u32,
    inputs: u32,
    hidden: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [T, B, I]
@group(0) @binding(2) var<storage, read> w: array<f32>; // [G·H, I]
@group(0) @binding(3) var<storage, read> u: array<f32>; // [G·H, H]
@group(0) @binding(4) var<storage, read> bias: array<f32>; // [2, G·H], of W·x and of U·h
@group(0) @binding(5) var<storage, read_write> h: array<f32>; // [1 + T, B, H], zeros first
@group(0) @binding(6) var<storage, read_write> c: array<f32>; // [B, H]

fn sigmoid(v: f32) -> f32 {
    return 1.0 / (1.0 + exp(-clamp(v, -80.0, 80.0)));
}

fn tanh_of(v: f32) -> f32 {
    return 2.0 * sigmoid(2.0 * v) - 1.0;
}

fn input_product(row: u32, b: u32) -> f32 {
    let at = (params.step * params.batch + b) * params.inputs;
    var sum = bias[row];
    for (var k = 0u; k < params.inputs; k += 1u) {
        sum += w[row * params.inputs + k] * x[at + k];
    }
    return sum;
}

fn state_product(row: u32, b: u32, rows: u32) -> f32 {
    let at = (params.step * params.batch + b) * params.hidden;
    var sum = bias[rows + row];
    for (var k = 0u; k < params.hidden; k += 1u) {
        sum += u[row * params.hidden + k] * h[at + k];
    }
    return sum;
}

@compute @workgroup_size(64)
fn lstm(@builtin(global_invocation_id) id: vec3<u32>) {
    let hidden = params.hidden;
    if (id.x >= params.batch * hidden) {
        return;
    }
    let b = id.x / hidden;
    let unit = id.x % hidden;
    let i = sigmoid(input_product(unit, b) + state_product(unit, b, 4u * hidden));
    let f = sigmoid(input_product(hidden + unit, b) + state_product(hidden + unit, b, 4u * hidden));
    let g = tanh_of(input_product(2u * hidden + unit, b) + state_product(2u * hidden + unit, b, 4u * hidden));
    let o = sigmoid(input_product(3u * hidden + unit, b) + state_product(3u * hidden + unit, b, 4u * hidden));
    let cell = f * c[id.x] + i * g;
    c[id.x] = cell;
    h[(params.step + 1u) * params.batch * hidden + id.x] = o * tanh_of(cell);
}

@compute @workgroup_size(64)
fn gru(@builtin(global_invocation_id) id: vec3<u32>) {
    let hidden = params.hidden;
    if (id.x >= params.batch * hidden) {
        return;
    }
    let b = id.x / hidden;
    let unit = id.x % hidden;
    let r = sigmoid(input_product(unit, b) + state_product(unit, b, 3u * hidden));
    let z = sigmoid(input_product(hidden + unit, b) + state_product(hidden + unit, b, 3u * hidden));
    let n = tanh_of(input_product(2u * hidden + unit, b) + r * state_product(2u * hidden + unit, b, 3u * hidden));
    let before = h[params.step * params.batch * hidden + id.x];
    h[(params.step + 1u) * params.batch * hidden + id.x] = (1.0 - z) * n + z * before;
}
