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
// weights (a column is a step of the depth, a component a gate). The lanes of slice 0 own the units: they have h and c. The
// host cuts the loop over time into several dispatches, as drivers limit the iterations of an invocation.
override LANES: u32 = 64u;        // UNITS · K_SPLITS
override UNITS: u32 = 64u;        // H, rounded up to a multiple of 4
override K_SPLITS: u32 = 1u;      // slices of the depth, 1 to 8
override SPLIT_BLOCKS: u32 = 8u;  // weight blocks of a slice, 1 to 8
override HIDDEN_ROWS: u32 = 2u;   // of `hidden`: K_SPLITS, and at least 2
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

// h by slices of the depth; for a GRU with the reset before, r∘h as well. A single slice alternates between two rows, so that
// a product reads the one while the next operand is written into the other. Past UNITS it stays 0, as it began. A row has
// the 32 steps of the longest slice, and 4 more so that slices begin in different banks.
var<workgroup> hidden: array<array<f32, 36>, HIDDEN_ROWS>;
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

// Of one lane; its blocks past SPLIT_BLOCKS are 0 and take no registers.
alias Weights = array<mat4x4<f32>, 8>;

// U·hidden over the slice of the depth in row r, for all gates of one unit. Constant indices are not clamped.
fn product(w: Weights, r: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    sum = multiply_add4(sum, w[0], vec4<f32>(hidden[r][0], hidden[r][1], hidden[r][2], hidden[r][3]));
    if (SPLIT_BLOCKS > 1u) {
        sum = multiply_add4(sum, w[1], vec4<f32>(hidden[r][4], hidden[r][5], hidden[r][6], hidden[r][7]));
    }
    if (SPLIT_BLOCKS > 2u) {
        sum = multiply_add4(sum, w[2], vec4<f32>(hidden[r][8], hidden[r][9], hidden[r][10], hidden[r][11]));
    }
    if (SPLIT_BLOCKS > 3u) {
        sum = multiply_add4(sum, w[3], vec4<f32>(hidden[r][12], hidden[r][13], hidden[r][14], hidden[r][15]));
    }
    if (SPLIT_BLOCKS > 4u) {
        sum = multiply_add4(sum, w[4], vec4<f32>(hidden[r][16], hidden[r][17], hidden[r][18], hidden[r][19]));
    }
    if (SPLIT_BLOCKS > 5u) {
        sum = multiply_add4(sum, w[5], vec4<f32>(hidden[r][20], hidden[r][21], hidden[r][22], hidden[r][23]));
    }
    if (SPLIT_BLOCKS > 6u) {
        sum = multiply_add4(sum, w[6], vec4<f32>(hidden[r][24], hidden[r][25], hidden[r][26], hidden[r][27]));
    }
    if (SPLIT_BLOCKS > 7u) {
        sum = multiply_add4(sum, w[7], vec4<f32>(hidden[r][28], hidden[r][29], hidden[r][30], hidden[r][31]));
    }
    return sum;
}

// The row of `hidden` with a lane's slice: in an odd product that of a single slice is the second.
fn hidden_row(split: u32, odd: u32) -> u32 {
    return select(split, odd, K_SPLITS == 1u);
}

// The whole product U·value, in the owners' lanes, of the owners' values. All lanes must call it. Of two barriers between
// them, the first is passed when all sums of the product before are read, the second when all of `hidden` is.
fn sum_splits(lane: u32, w: Weights, odd: u32, value: f32) -> vec4<f32> {
    let slice = 4u * SPLIT_BLOCKS;
    if (lane < UNITS) {
        hidden[hidden_row(lane / slice, odd)][lane % slice] = value;
    }
    workgroupBarrier();
    var sum = product(w, hidden_row(lane / UNITS, odd));
    if (K_SPLITS > 1u) {
        if (lane >= UNITS) {
            partial_sums[lane] = sum;
        }
        workgroupBarrier();
        if (lane < UNITS) {
            sum += partial_sums[lane + UNITS];
            if (K_SPLITS > 2u) { sum += partial_sums[lane + 2u * UNITS]; }
            if (K_SPLITS > 3u) { sum += partial_sums[lane + 3u * UNITS]; }
            if (K_SPLITS > 4u) { sum += partial_sums[lane + 4u * UNITS]; }
            if (K_SPLITS > 5u) { sum += partial_sums[lane + 5u * UNITS]; }
            if (K_SPLITS > 6u) { sum += partial_sums[lane + 6u * UNITS]; }
            if (K_SPLITS > 7u) { sum += partial_sums[lane + 7u * UNITS]; }
        }
    }
    return sum;
}

// X·W + b of a unit's gates.
fn input_gates(row: u32, direction: u32, time: u32, unit: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    let index = ((time * params.batch + row) * params.directions + direction) * params.gate_count * UNITS + unit;
    x.x = gates[index];
    if (CELL != 4u) {
        x.y = gates[index + UNITS];
        x.z = gates[index + 2u * UNITS];
    }
    if (CELL == 0u) {
        x.w = gates[index + 3u * UNITS];
    }
    return x;
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
    let in_bounds = lane < params.units;
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
    var x = vec4<f32>(0.0);
    if (in_bounds) {
        x = input_gates(row, direction, time_at(params.first, length, direction), unit);
    }
    for (var step = params.first; step < params.last; step += 1u) {
        var sum = sum_splits(lane, w, select(step % 2u, 0u, CELL == 2u), h);
        var update = vec4<f32>(0.0);
        if (CELL == 2u) {
            var reset_h = 0.0;
            if (in_bounds) {
                sum += x + bias;
                reset_h = gate(0u, direction, vec4<f32>(sum.x)).x * h;
                update = gate(1u, direction, vec4<f32>(sum.y));
            }
            sum = sum_splits(lane, w, 1u, reset_h);
        }
        if (in_bounds) {
            sum += bias;
            let pre = x + sum;
            let x_n = x.z;
            // That of the next step, early enough for the rest of this one to hide how long it takes.
            x = input_gates(row, direction, time_at(min(step + 1u, params.last - 1u), length, direction), unit);
            // The functions of the cell take four units at a time; a lane has one.
            var next = 0.0;
            var cell = c;
            if (CELL == 0u) {
                let i = vec4<f32>(pre.x + peephole.x * c);
                let f = vec4<f32>(pre.y + peephole.y * c);
                cell = lstm_cell(direction, i, f, vec4<f32>(pre.z), vec4<f32>(c)).x;
                next = lstm_output(direction, vec4<f32>(pre.w + peephole.z * cell), vec4<f32>(cell)).x;
            } else if (CELL == 1u) {
                let reset = gate(0u, direction, vec4<f32>(pre.x)).x;
                update = gate(1u, direction, vec4<f32>(pre.y));
                next = gru_output(direction, update, vec4<f32>(x_n + reset * sum.z), vec4<f32>(h)).x;
            } else if (CELL == 2u) {
                next = gru_output(direction, update, vec4<f32>(pre.z), vec4<f32>(h)).x;
            } else {
                next = gate(0u, direction, vec4<f32>(pre.x)).x;
            }
            let is_active = step < length;
            if (EMIT) {
                let time = time_at(step, length, direction);
                output[element(params.output, time, row, direction, unit)] = out_elem(select(0.0, next, is_active));
            }
            h = select(h, next, is_active);
            c = select(c, cell, is_active);
        }
    }
    if (in_bounds) {
        state[h_index] = h;
        if (CELL == 0u) {
            state[c_index] = c;
        }
    }
}
