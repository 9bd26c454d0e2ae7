// A persistent recurrence: many time steps in one dispatch, with the recurrent weights in registers. A workgroup computes
// one batch row of one direction. The cells are those of `recurrent.wgsl`.
//
//   load the weights of this lane;  h, c = state
//   for each step:
//     h to workgroup memory;  sum = U·h over this lane's slice of the depth;  split-K: sum the K_SPLITS slices
//     gates;  c and h;  output
//   state = h, c
//
// Lane split · UNITS + unit has one unit and one slice of 4 · SPLIT_BLOCKS steps of the depth: SPLIT_BLOCKS blocks of 4 × 4
// weights (a column is a step of the depth, a component a gate). The host cuts the loop over time into several dispatches,
// as drivers limit the iterations of an invocation.
override LANES: u32 = 64u;        // UNITS · K_SPLITS
override UNITS: u32 = 64u;        // H, rounded up to a multiple of 4
override K_SPLITS: u32 = 1u;      // slices of the depth
override SPLIT_BLOCKS: u32 = 8u;  // weight blocks of a slice, 1 to 8
override HIDDEN_QUADS: u32 = 16u; // quads of `hidden`: UNITS / 4, and at least K_SPLITS · SPLIT_BLOCKS
override CELL: u32 = 0u;          // 0 LSTM, 1 GRU with the reset after the product, 2 before it, 4 RNN
override HAS_BIAS: bool = false;
override PEEPHOLES: bool = false;
override EMIT: bool = true;

struct Params {
    output: View, // [T, B, directions, H]
    cell: CellParams,
    first: u32, // steps first .. last (exclusive) of this dispatch
    last: u32,
    steps: u32,
    batch: u32,
    units: u32,
    gate_count: u32,
    directions: u32,
    hidden: u32,       // h in `state`: [directions, units, rows]
    row_stride: u32,   // between the h of neighbouring units
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

var<workgroup> hidden: array<f32, 4 * HIDDEN_QUADS>; // h; then, for a GRU with the reset before, r∘h
var<workgroup> partial_sums: array<vec4<f32>, LANES>;

// Weights of one unit: column n is step k + n of the depth.
fn weight_block(direction: u32, k: u32, unit: u32) -> mat4x4<f32> {
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
        let index = params.weight_start + (direction * params.units + k) * params.gate_count * UNITS + unit;
        w.x = f32(weight[index]);
        if (CELL != 4u) {
            w.y = f32(weight[index + UNITS]);
            w.z = f32(weight[index + 2u * UNITS]);
        }
        if (CELL == 0u) {
            w.w = f32(weight[index + 3u * UNITS]);
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

// U·hidden over one slice of the depth, for all gates of one unit.
fn product(w: Weights, split: u32) -> vec4<f32> {
    let index = split * SPLIT_BLOCKS;
    var sum = w.a * hidden_quad(index);
    if (SPLIT_BLOCKS > 1u) { sum += w.b * hidden_quad(index + 1u); }
    if (SPLIT_BLOCKS > 2u) { sum += w.c * hidden_quad(index + 2u); }
    if (SPLIT_BLOCKS > 3u) { sum += w.d * hidden_quad(index + 3u); }
    if (SPLIT_BLOCKS > 4u) { sum += w.e * hidden_quad(index + 4u); }
    if (SPLIT_BLOCKS > 5u) { sum += w.f * hidden_quad(index + 5u); }
    if (SPLIT_BLOCKS > 6u) { sum += w.g * hidden_quad(index + 6u); }
    if (SPLIT_BLOCKS > 7u) { sum += w.h * hidden_quad(index + 7u); }
    return sum;
}

fn hidden_quad(quad: u32) -> vec4<f32> {
    return vec4<f32>(hidden[4u * quad], hidden[4u * quad + 1u], hidden[4u * quad + 2u], hidden[4u * quad + 3u]);
}

// The whole product, in the lanes of slice 0. All lanes must call it.
fn sum_splits(lane: u32, w: Weights) -> vec4<f32> {
    var sum = product(w, lane / UNITS);
    if (K_SPLITS > 1u) {
        partial_sums[lane] = sum;
        workgroupBarrier();
        if (lane < UNITS) {
            for (var split = 1u; split < K_SPLITS; split += 1u) {
                sum += partial_sums[lane + split * UNITS];
            }
        }
    }
    return sum;
}

fn vector(direction: u32, row: u32, unit: u32) -> f32 {
    return vectors[params.vectors_start + (direction * params.vector_rows + row) * UNITS + unit];
}

fn split_block(direction: u32, block_index: u32, split: u32, unit: u32) -> mat4x4<f32> {
    if (block_index < SPLIT_BLOCKS) {
        return weight_block(direction, (split * SPLIT_BLOCKS + block_index) * 4u, unit);
    }
    return mat4x4<f32>();
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_index(wg);
    if (tile >= params.batch * params.directions) {
        return;
    }
    let direction = tile / params.batch;
    let row = tile % params.batch;
    let unit = lane % UNITS;
    let split = lane / UNITS;
    let w = Weights(
        split_block(direction, 0u, split, unit),
        split_block(direction, 1u, split, unit),
        split_block(direction, 2u, split, unit),
        split_block(direction, 3u, split, unit),
        split_block(direction, 4u, split, unit),
        split_block(direction, 5u, split, unit),
        split_block(direction, 6u, split, unit),
        split_block(direction, 7u, split, unit),
    );
    let owner = split == 0u;
    let in_bounds = owner && unit < params.units;
    let h_index = params.hidden + direction * UNITS * params.row_stride + unit * params.row_stride + row;
    let c_index = params.row_state + tile * UNITS + unit;
    var bias = vec4<f32>(0.0);
    var peephole = vec3<f32>(0.0);
    var h = 0.0;
    var c = 0.0;
    if (in_bounds) {
        h = state[h_index];
        if (CELL == 0u) {
            c = state[c_index];
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
    // Past UNITS `hidden` is 0, as the weights are.
    for (var k = lane; k < 4u * HIDDEN_QUADS; k += LANES) {
        hidden[k] = 0.0;
    }
    workgroupBarrier();

    for (var step = params.first; step < last; step += 1u) {
        if (owner) {
            hidden[unit] = h;
        }
        workgroupBarrier();
        let is_active = step < length;
        let time = time_at(step, length, direction);
        var sum = sum_splits(lane, w) + bias;
        var x = vec4<f32>(0.0);
        if (in_bounds) {
            let index = ((time * params.batch + row) * params.directions + direction) * params.gate_count * UNITS + unit;
            x.x = gates[index];
            if (CELL != 4u) {
                x.y = gates[index + UNITS];
                x.z = gates[index + 2u * UNITS];
            }
            if (CELL == 0u) {
                x.w = gates[index + 3u * UNITS];
            }
        }
        var next = 0.0;
        var cell = c;
        // The functions of the cell take four units at a time; a lane has one.
        if (CELL == 0u) {
            let pre = x + sum;
            let old = vec4<f32>(c);
            let i = vec4<f32>(pre.x + peephole.x * c);
            let f = vec4<f32>(pre.y + peephole.y * c);
            cell = lstm_cell(direction, i, f, vec4<f32>(pre.z), old).x;
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
            sum = sum_splits(lane, w) + bias;
            next = gru_output(direction, update, vec4<f32>(x.z + sum.z), vec4<f32>(h)).x;
        } else {
            next = gate(0u, direction, vec4<f32>(x.x + sum.x)).x;
        }
        if (in_bounds) {
            if (EMIT) {
                output[element(params.output, time, row, direction, unit)] = out_elem(select(0.0, next, is_active));
            }
            h = select(h, next, is_active);
            c = select(c, cell, is_active);
        }
        // All reads of `hidden` and `partial_sums` are done before the next step writes them.
        workgroupBarrier();
    }
    if (in_bounds) {
        state[h_index] = h;
        if (CELL == 0u) {
            state[c_index] = c;
        }
    }
}
