// A recurrence over many time steps in one dispatch: one workgroup has one batch row of one direction, its recurrent
// weights stay in registers. The cells are those of `recurrent.wgsl`.
//
//   for each step:  Σ = U·h by parts of 4·CHUNKS of the depth, joined in workgroup memory;  gates;  h and c
//
// A lane has one unit and one part: a 4 × 4 block of weights (column: one k, component: one gate) for each CHUNKS.
// The loop over time is cut into ranges by the host, so that no invocation turns more often than drivers allow.
override LANES: u32 = 64u; // UNITS · PARTS
override UNITS: u32 = 64u; // H, rounded up to a multiple of 4
override PARTS: u32 = 1u;  // of the depth
override CHUNKS: u32 = 8u; // 1 to 8 blocks a part
override QUADS: u32 = 16u; // 4 units each that h fills, PARTS · CHUNKS at least
override CELL: u32 = 0u;   // LSTM 0, GRU with the reset after 1 or before 2, RNN 4
override HAS_BIAS: bool = false;
override PEEPHOLES: bool = false;
override EMIT: bool = true;

struct Params {
    output: View, // [T, B, directions, H]
    cell: CellParams,
    first: u32, // range of steps
    last: u32,
    steps: u32,
    batch: u32,
    units: u32,
    gate_count: u32,
    directions: u32,
    hidden: u32,       // h in `state`: [directions, units, rows]
    row_stride: u32,   // from one unit's h to the next's
    row_state: u32,    // c in `state`: [directions, rows, UNITS]
    vector_rows: u32,
    lengths: u32,
    reverse: u32,
    weight_start: u32,
    vectors_start: u32,
}

@group(0) @binding(1) var<storage, read> gates: array<f32>;   // [T, B, directions, G, UNITS]
@group(0) @binding(2) var<storage, read> weight: array<w_elem>; // [directions, H, G, UNITS]
@group(0) @binding(3) var<storage, read> vectors: array<f32>; // [directions, rows, UNITS]: G of b', G unused, peepholes
@group(0) @binding(4) var<storage, read> lengths: array<u32>;
@group(0) @binding(5) var<storage, read_write> state: array<f32>;
@group(0) @binding(6) var<storage, read_write> output: array<out_elem>;

var<workgroup> hidden: array<f32, 4 * QUADS>; // h; then, for a GRU with the reset before, r∘h
var<workgroup> partial: array<vec4<f32>, LANES>;

// Weights of one unit: four steps of the depth from `k` on, one column each.
fn block(direction: u32, k: u32, unit: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        gate_weights(direction, k, unit),
        gate_weights(direction, k + 1u, unit),
        gate_weights(direction, k + 2u, unit),
        gate_weights(direction, k + 3u, unit),
    );
}

fn gate_weights(direction: u32, k: u32, unit: u32) -> vec4<f32> {
    var w = vec4<f32>(0.0);
    if (k < params.units) {
        let at = params.weight_start + (direction * params.units + k) * params.gate_count * UNITS + unit;
        w.x = f32(weight[at]);
        if (CELL != 4u) {
            w.y = f32(weight[at + UNITS]);
            w.z = f32(weight[at + 2u * UNITS]);
        }
        if (CELL == 0u) {
            w.w = f32(weight[at + 3u * UNITS]);
        }
    }
    return w;
}

struct Weights {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
    e: mat4x4<f32>,
    f: mat4x4<f32>,
    g: mat4x4<f32>,
    h: mat4x4<f32>,
}

// This part of U·hidden for all gates of one unit.
fn product(w: Weights, part: u32) -> vec4<f32> {
    let at = part * CHUNKS;
    var sum = w.a * hidden_quad(at);
    if (CHUNKS > 1u) { sum += w.b * hidden_quad(at + 1u); }
    if (CHUNKS > 2u) { sum += w.c * hidden_quad(at + 2u); }
    if (CHUNKS > 3u) { sum += w.d * hidden_quad(at + 3u); }
    if (CHUNKS > 4u) { sum += w.e * hidden_quad(at + 4u); }
    if (CHUNKS > 5u) { sum += w.f * hidden_quad(at + 5u); }
    if (CHUNKS > 6u) { sum += w.g * hidden_quad(at + 6u); }
    if (CHUNKS > 7u) { sum += w.h * hidden_quad(at + 7u); }
    return sum;
}

fn hidden_quad(quad: u32) -> vec4<f32> {
    return vec4<f32>(hidden[4u * quad], hidden[4u * quad + 1u], hidden[4u * quad + 2u], hidden[4u * quad + 3u]);
}

// The whole product, for the lanes of part 0. All lanes must call it.
fn whole(lane: u32, w: Weights) -> vec4<f32> {
    var sum = product(w, lane / UNITS);
    if (PARTS > 1u) {
        partial[lane] = sum;
        workgroupBarrier();
        if (lane < UNITS) {
            for (var part = 1u; part < PARTS; part += 1u) {
                sum += partial[lane + part * UNITS];
            }
        }
    }
    return sum;
}

fn vector(direction: u32, row: u32, unit: u32) -> f32 {
    return vectors[params.vectors_start + (direction * params.vector_rows + row) * UNITS + unit];
}

fn block_of(direction: u32, chunk: u32, part: u32, unit: u32) -> mat4x4<f32> {
    if (chunk < CHUNKS) {
        return block(direction, (part * CHUNKS + chunk) * 4u, unit);
    }
    return mat4x4<f32>();
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_number(here);
    if (tile >= params.batch * params.directions) {
        return;
    }
    let direction = tile / params.batch;
    let row = tile % params.batch;
    let unit = lane % UNITS;
    let part = lane / UNITS;
    let w = Weights(
        block_of(direction, 0u, part, unit),
        block_of(direction, 1u, part, unit),
        block_of(direction, 2u, part, unit),
        block_of(direction, 3u, part, unit),
        block_of(direction, 4u, part, unit),
        block_of(direction, 5u, part, unit),
        block_of(direction, 6u, part, unit),
        block_of(direction, 7u, part, unit),
    );
    let owner = part == 0u;
    let real = owner && unit < params.units;
    let h_at = params.hidden + direction * UNITS * params.row_stride + unit * params.row_stride + row;
    let c_at = params.row_state + tile * UNITS + unit;
    var bias = vec4<f32>(0.0);
    var peephole = vec3<f32>(0.0);
    var h = 0.0;
    var c = 0.0;
    if (real) {
        h = state[h_at];
        if (CELL == 0u) {
            c = state[c_at];
        }
        if (HAS_BIAS) {
            bias.x = vector(direction, 0u, unit);
            if (CELL != 4u) {
                bias.y = vector(direction, 1u, unit);
                bias.z = vector(direction, 2u, unit);
            }
            if (CELL == 0u) {
                bias.w = vector(direction, 3u, unit);
            }
        }
        if (PEEPHOLES) {
            peephole = vec3<f32>(vector(direction, 8u, unit), vector(direction, 9u, unit), vector(direction, 10u, unit));
        }
    }
    let length = length_of(row);
    let last = params.last;
    // Beyond UNITS what the products read is 0, like the weights there.
    for (var k = lane; k < 4u * QUADS; k += LANES) {
        hidden[k] = 0.0;
    }
    workgroupBarrier();

    for (var step = params.first; step < last; step += 1u) {
        if (owner) {
            hidden[unit] = h;
        }
        workgroupBarrier();
        let alive = step < length;
        let time = time_at(step, length, direction);
        var sum = whole(lane, w) + bias;
        var x = vec4<f32>(0.0);
        if (real) {
            let at = ((time * params.batch + row) * params.directions + direction) * params.gate_count * UNITS + unit;
            x.x = gates[at];
            if (CELL != 4u) {
                x.y = gates[at + UNITS];
                x.z = gates[at + 2u * UNITS];
            }
            if (CELL == 0u) {
                x.w = gates[at + 3u * UNITS];
            }
        }
        var next = 0.0;
        var cell = c;
        // Four numbers at a time is what the cell's functions take; a lane has one.
        if (CELL == 0u) {
            let pre = x + sum;
            let old = vec4<f32>(c);
            cell = lstm_cell(direction, vec4<f32>(pre.x + peephole.x * c), vec4<f32>(pre.y + peephole.y * c), vec4<f32>(pre.z), old).x;
            next = lstm_output(direction, vec4<f32>(pre.w + peephole.z * cell), vec4<f32>(cell)).x;
        } else if (CELL == 1u) {
            let reset = gate(0u, direction, vec4<f32>(x.x + sum.x)).x;
            let update = gate(1u, direction, vec4<f32>(x.y + sum.y));
            next = gru_output(direction, update, vec4<f32>(x.z + reset * sum.z), vec4<f32>(h)).x;
        } else if (CELL == 2u) {
            let reset = gate(0u, direction, vec4<f32>(x.x + sum.x)).x;
            let update = gate(1u, direction, vec4<f32>(x.y + sum.y));
            workgroupBarrier();
            if (owner) {
                hidden[unit] = reset * h;
            }
            workgroupBarrier();
            sum = whole(lane, w) + bias;
            next = gru_output(direction, update, vec4<f32>(x.z + sum.z), vec4<f32>(h)).x;
        } else {
            next = gate(0u, direction, vec4<f32>(x.x + sum.x)).x;
        }
        if (real) {
            if (EMIT) {
                output[element(params.output, time, row, direction, unit)] = out_elem(select(0.0, next, alive));
            }
            h = select(h, next, alive);
            c = select(c, cell, alive);
        }
        // Nobody reads h or the parts any more.
        workgroupBarrier();
    }
    if (real) {
        state[h_at] = h;
        if (CELL == 0u) {
            state[c_at] = c;
        }
    }
}
