// One time step of one layer, all directions in one dispatch: recurrent product, gates, state, output and lengths.
// W·x (+ b) of every step lies in `gates`, computed before the loop.
//
//   LSTM  i, f, g, o = gates[t] + U·h + b'   c' = f∘c + i∘g                 h' = o∘h(c')
//   GRU   r, z = …   after:  n = g(x_n + r∘(U_n·h + b'_n))                 h' = (1 − z)∘n + z∘h
//                    before: phase 1 stores r∘h and z, phase 2 has n = g(x_n + U_n·(r∘h) + b'_n)
//   RNN   h' = f(x + U·h + b')
//
// Step s of a forward direction is time s; of a reverse one, time length − 1 − s. Past the length the state is kept
// and the output at time s is 0.
//
// One invocation computes one unit of up to four batch rows, so that each weight is read once for them.
override LANES: u32 = 64u;
override ROWS: u32 = 4u; // 1 for a single batch row: the four rows are then the same and fold into one
override CELL: u32 = 0u; // 0 LSTM, 1 GRU reset after, 2 GRU reset before, phase 1, 3 the same, phase 2, 4 RNN
override LENGTHS: bool = false;
override HAS_BIAS: bool = false;
override PEEPHOLES: bool = false;
override INPUT_FORGET: bool = false;
override CLIP: bool = false;

// Slots of the state: h is read from one of the first two and written to the other.
const STATE_C = 2u;           // LSTM: c
const STATE_RESET_HIDDEN = 2u; // GRU reset before: r∘h
const STATE_UPDATE = 3u;       // GRU reset before: z

struct Params {
    gates: View,  // [T, B, directions, G·H]
    weight: View, // [1, directions, G·H, H]
    state: View,  // [slots, directions, B, H]
    output: View, // [T, B, directions, H]
    f: Activation,
    g: Activation,
    h: Activation,
    step: u32,
    steps: u32,
    batch: u32,
    hidden: u32,
    unit_tiles: u32,
    batch_tiles: u32,
    tiles: u32,
    bias: u32,      // index of the first recurrent bias, [directions, G·H]
    peephole: u32,  // index of the first peephole, [directions, 3, H]
    lengths: u32,   // index of the first length
    reverse: u32,   // bit d: direction d reads backwards
    read_slot: u32, // 0 or 1
    clip: f32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(1) var<storage, read> gates: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<w_elem>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> peephole: array<f32>;
@group(0) @binding(5) var<storage, read> lengths: array<u32>;
@group(0) @binding(6) var<storage, read_write> state: array<f32>;
@group(0) @binding(7) var<storage, read_write> output: array<out_elem>;

fn state_at(slot: u32, direction: u32, b: vec4<u32>, unit: u32) -> vec4<u32> {
    return element(params.state, slot, direction, 0u, unit) + b * params.state.strides.z;
}

fn load_state(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(state[at.x], state[at.y], state[at.z], state[at.w]);
}

fn gate_x(t: vec4<u32>, b: vec4<u32>, direction: u32, row: u32) -> vec4<f32> {
    let at = element(params.gates, 0u, 0u, direction, row) + t * params.gates.strides.x + b * params.gates.strides.y;
    return vec4<f32>(gates[at.x], gates[at.y], gates[at.z], gates[at.w]);
}

fn gate_bias(direction: u32, gate_rows: u32, row: u32) -> vec4<f32> {
    if (HAS_BIAS) {
        return vec4<f32>(bias[params.bias + direction * gate_rows + row]);
    }
    return vec4<f32>(0.0);
}

fn peep(direction: u32, gate: u32, unit: u32) -> f32 {
    return peephole[params.peephole + (direction * 3u + gate) * params.hidden + unit];
}

fn clipped(x: vec4<f32>) -> vec4<f32> {
    if (CLIP) {
        return select(clamp(x, vec4<f32>(-params.clip), vec4<f32>(params.clip)), x, is_nan4(x));
    }
    return x;
}

@compute @workgroup_size(LANES)
fn main(here: Invocation) {
    let lane = here.lane;
    let tile = workgroup_number(here);
    let unit = (tile % params.unit_tiles) * LANES + lane;
    if (tile >= params.tiles || unit >= params.hidden) {
        return;
    }
    let rest = tile / params.unit_tiles;
    let b_first = (rest % params.batch_tiles) * ROWS;
    let direction = rest / params.batch_tiles;
    let hidden = params.hidden;
    let spread = select(vec4<u32>(0u), vec4<u32>(0u, 1u, 2u, 3u), ROWS == 4u);
    let b = min(vec4<u32>(b_first) + spread, vec4<u32>(params.batch - 1u));

    var length = vec4<u32>(params.steps);
    if (LENGTHS) {
        let at = vec4<u32>(params.lengths) + b;
        length = min(vec4<u32>(lengths[at.x], lengths[at.y], lengths[at.z], lengths[at.w]), length);
    }
    let alive = vec4<u32>(params.step) < length;
    var time = vec4<u32>(params.step);
    if ((params.reverse & (1u << direction)) != 0u) {
        time = select(time, length - 1u - params.step, alive);
    }

    // Recurrent product of the gates this phase needs; `product` is what U multiplies.
    var product_slot = params.read_slot;
    if (CELL == 3u) {
        product_slot = STATE_RESET_HIDDEN;
    }
    let h_row = state_at(product_slot, direction, b, 0u);
    let w_row = element(params.weight, 0u, direction, unit, 0u);
    let gate_step = hidden * params.weight.strides.z;
    var a0 = vec4<f32>(0.0);
    var a1 = vec4<f32>(0.0);
    var a2 = vec4<f32>(0.0);
    var a3 = vec4<f32>(0.0);
    for (var k = 0u; k < hidden; k += 1u) {
        let hk = load_state(h_row + k * params.state.strides.w);
        let w = w_row + k * params.weight.strides.w;
        if (CELL == 3u) {
            a2 += f32(weight[w + 2u * gate_step]) * hk;
        } else {
            a0 += f32(weight[w]) * hk;
            if (CELL != 4u) {
                a1 += f32(weight[w + gate_step]) * hk;
            }
            if (CELL == 0u || CELL == 1u) {
                a2 += f32(weight[w + 2u * gate_step]) * hk;
            }
            if (CELL == 0u) {
                a3 += f32(weight[w + 3u * gate_step]) * hk;
            }
        }
    }

    let h_old = load_state(state_at(params.read_slot, direction, b, unit));
    var h_new = h_old;
    if (CELL == 0u) {
        let rows = 4u * hidden;
        let c_at = state_at(STATE_C, direction, b, unit);
        let c_old = load_state(c_at);
        var i = a0 + gate_x(time, b, direction, unit) + gate_bias(direction, rows, unit);
        var f = a1 + gate_x(time, b, direction, hidden + unit) + gate_bias(direction, rows, hidden + unit);
        let g = a2 + gate_x(time, b, direction, 2u * hidden + unit) + gate_bias(direction, rows, 2u * hidden + unit);
        var o = a3 + gate_x(time, b, direction, 3u * hidden + unit) + gate_bias(direction, rows, 3u * hidden + unit);
        if (PEEPHOLES) {
            i += peep(direction, 0u, unit) * c_old;
            f += peep(direction, 1u, unit) * c_old;
        }
        i = activate(params.f, clipped(i));
        if (INPUT_FORGET) {
            f = 1.0 - i;
        } else {
            f = activate(params.f, clipped(f));
        }
        let c_new = f * c_old + i * activate(params.g, clipped(g));
        if (PEEPHOLES) {
            o += peep(direction, 2u, unit) * c_new;
        }
        h_new = activate(params.f, clipped(o)) * activate(params.h, c_new);
        let c = select(c_old, c_new, alive);
        for (var r = 0u; r < ROWS; r += 1u) {
            if (b_first + r < params.batch) {
                state[c_at[r]] = c[r];
            }
        }
    } else if (CELL == 1u) {
        let rows = 3u * hidden;
        let r = activate(params.f, clipped(a0 + gate_x(time, b, direction, unit) + gate_bias(direction, rows, unit)));
        let z = activate(
            params.f,
            clipped(a1 + gate_x(time, b, direction, hidden + unit) + gate_bias(direction, rows, hidden + unit)),
        );
        let inner = a2 + gate_bias(direction, rows, 2u * hidden + unit);
        let n = activate(params.g, clipped(gate_x(time, b, direction, 2u * hidden + unit) + r * inner));
        h_new = (1.0 - z) * n + z * h_old;
    } else if (CELL == 2u) {
        let rows = 3u * hidden;
        let r = activate(params.f, clipped(a0 + gate_x(time, b, direction, unit) + gate_bias(direction, rows, unit)));
        let z = activate(
            params.f,
            clipped(a1 + gate_x(time, b, direction, hidden + unit) + gate_bias(direction, rows, hidden + unit)),
        );
        let rh = r * h_old;
        let rh_at = state_at(STATE_RESET_HIDDEN, direction, b, unit);
        let z_at = state_at(STATE_UPDATE, direction, b, unit);
        for (var q = 0u; q < ROWS; q += 1u) {
            if (b_first + q < params.batch) {
                state[rh_at[q]] = rh[q];
                state[z_at[q]] = z[q];
            }
        }
        return;
    } else if (CELL == 3u) {
        let z = load_state(state_at(STATE_UPDATE, direction, b, unit));
        let row = 2u * hidden + unit;
        let n = activate(
            params.g,
            clipped(a2 + gate_x(time, b, direction, row) + gate_bias(direction, 3u * hidden, row)),
        );
        h_new = (1.0 - z) * n + z * h_old;
    } else {
        h_new = activate(params.f, clipped(a0 + gate_x(time, b, direction, unit) + gate_bias(direction, hidden, unit)));
    }

    let h = select(h_old, h_new, alive);
    let y = select(vec4<f32>(0.0), h_new, alive);
    let h_at = state_at(1u - params.read_slot, direction, b, unit);
    for (var r = 0u; r < ROWS; r += 1u) {
        if (b_first + r < params.batch) {
            state[h_at[r]] = h[r];
            output[element(params.output, time[r], b_first + r, direction, unit)] = out_elem(y[r]);
        }
    }
}
