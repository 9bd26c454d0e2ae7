// Gates of recurrent cells, for four neighbouring units of one batch row.
//
//   LSTM  i, f, g, o             c' = f∘c + i∘g              h' = o∘act(c')
//   GRU   r, z, n                                            h' = (1 − z)∘n + z∘h
//
// The usual activations are constants of the program: a switch on a value from memory costs all its branches on drivers
// that run on the CPU.
override ACTIVATION_0: u32 = 1u; // kind of the activation of gate 0 (activation.wgsl)
override ACTIVATION_1: u32 = 1u;
override ACTIVATION_2: u32 = 2u;
override ACTIVATION_3: u32 = 1u;
override ACTIVATION_OUTPUT: u32 = 2u; // LSTM: of c' on its way to h'
override RUNTIME_ACTIVATIONS: bool = false; // kinds from `params.cell.activations` instead
override LENGTHS: bool = false; // batch rows have lengths
override CLIP: bool = false;
override CELL_CLIP: bool = false;
override INPUT_FORGET: bool = false;

struct CellParams {
    @align(16) activations: array<Activation, 10>, // of each direction: gates 0 to 3, output
    clip: f32,
    cell_clip: f32,
}

// The number of valid steps of a batch row.
fn length_of(row: u32) -> u32 {
    if (LENGTHS) {
        return min(lengths[params.lengths + row], params.steps);
    }
    return params.steps;
}

// The time of a step: the step, or in a reverse direction length − 1 − step; past the length the step itself.
fn time_at(step: u32, length: u32, direction: u32) -> u32 {
    let backwards = (params.reverse & (1u << direction)) != 0u;
    if (backwards && step < length) {
        return length - 1u - step;
    }
    return step;
}

fn activation_kind(gate: u32) -> u32 {
    switch gate {
        case 0u: { return ACTIVATION_0; }
        case 1u: { return ACTIVATION_1; }
        case 2u: { return ACTIVATION_2; }
        case 3u: { return ACTIVATION_3; }
        default: { return ACTIVATION_OUTPUT; }
    }
}

fn activate_as(gate: u32, direction: u32, x: vec4<f32>) -> vec4<f32> {
    var f = params.cell.activations[direction * 5u + gate];
    if (!RUNTIME_ACTIVATIONS) {
        f.kind = activation_kind(gate);
    }
    return activate(f, x);
}

// Activation of a gate's pre-activation, which is clamped first.
fn gate(number: u32, direction: u32, x: vec4<f32>) -> vec4<f32> {
    if (CLIP) {
        let limit = vec4<f32>(params.cell.clip);
        return activate_as(number, direction, select(clamp(x, -limit, limit), x, is_nan4(x)));
    }
    return activate_as(number, direction, x);
}

// c' of an LSTM from the pre-activations of i, f and g, which have their peepholes in.
fn lstm_cell(direction: u32, i: vec4<f32>, f: vec4<f32>, g: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    let input = gate(0u, direction, i);
    var forget = 1.0 - input;
    if (!INPUT_FORGET) {
        forget = gate(1u, direction, f);
    }
    let next = forget * c + input * gate(2u, direction, g);
    if (CELL_CLIP) {
        let limit = vec4<f32>(params.cell.cell_clip);
        return select(clamp(next, -limit, limit), next, is_nan4(next));
    }
    return next;
}

// h' of an LSTM from the pre-activation of o, which has its peephole in, and c'.
fn lstm_output(direction: u32, o: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    return gate(3u, direction, o) * activate_as(4u, direction, c);
}

// h' of a GRU from z, the pre-activation of n and h.
fn gru_output(direction: u32, z: vec4<f32>, n: vec4<f32>, h: vec4<f32>) -> vec4<f32> {
    return (1.0 - z) * gate(2u, direction, n) + z * h;
}
