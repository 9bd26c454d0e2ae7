// One time step of a recurrence, all directions and, in a wavefront, all layers in one dispatch: recurrent product, gates,
// cell and hidden state, output and lengths. X·W + b of every step of the lowest layer is in `gates`, computed before.
//
//   LSTM  i, f, g, o = x + U·h + b'   c' = f∘c + i∘g                       h' = o∘tanh(c')
//   GRU   r, z = …   after:  n = tanh(x_n + r∘(U_n·h + b'_n))             h' = (1 − z)∘n + z∘h
//                    before: one dispatch stores r∘h and z, the next has n = tanh(x_n + U_n·(r∘h) + b'_n)
//   RNN   h' = tanh(x + U·h + b')
//   other stages: the product U·h alone (before a layer normalisation), a projection h = R·m of m = o∘act(c')
//
// Step s of a forward direction is time s; of a reverse one, time length − 1 − s. Past the length the state does not change
// and the output at time s is 0. In a wavefront layer l is at step s − l, and the layer below it one step ahead: the h that
// is the input of this step was written by the previous dispatch, and x = W·h_below + b is computed here as well.
//
// Workgroups go over tiles of units, then tiles of rows, then directions (or layers, in a wavefront). A lane has a register
// tile of 4 units × 4 or 8 batch rows of every gate, and loads each weight once for all its rows; split-K over K_SPLITS
// lanes. Operands of a product are stored [K, rows], so that four rows are one load; with a single batch row that is [K]. h
// at even and odd steps has buffers of its own, as a step reads the one and writes the other.
override TALL: bool = false;    // a tile of 8 batch rows instead of 4
override SINGLE: bool = false;  // there is one batch row
override FOURS: bool = true;    // four steps of the depth at a time
override STAGE: u32 = 0u;       // one of the constants below
override STACKED: bool = false; // wavefront: the dispatch has layers above the lowest
override HAS_BIAS: bool = false;
override PEEPHOLES: bool = false;
override PROJECTED: bool = false; // LSTM: h is computed by the next dispatch, from o∘act(c')
override EMIT: bool = true;       // whether there is an output
override PROJECTION_CLIP: bool = false;

const LSTM = 0u;
const GRU = 1u;        // reset after
const GRU_RESET = 2u;  // reset before: r∘h and z
const GRU_UPDATE = 3u; // reset before: n and h'
const RNN = 4u;
const PRODUCT = 5u;    // U·h into `sums`
const PROJECT = 6u;    // h' = R·m

// Offsets in `state` and `vectors` count vec4.
struct Params {
    output: View, // [T, B, directions, P]
    cell: CellParams,
    step: u32,
    steps: u32,
    batch: u32,
    units: u32,       // that this stage computes: H, or P for a projection
    depth: u32,       // that its product runs over: P, or H for a projection
    input_depth: u32, // the same of the product with the layer below
    gate_count: u32,  // G: rows of weights and of `gates`, each `quads` long
    quads: u32,       // units / 4, rounded up
    row_quads: u32,   // batch / 4, rounded up; of a single row 1
    directions: u32,
    row_tiles: u32,
    unit_tiles: u32,
    tiles: u32,
    layers: u32,
    first_layer: u32, // lowest layer of this dispatch
    layer_state: u32, // stride between the states of layers
    operand: u32,     // what the product reads [directions, depth, rows], at even steps
    result: u32,      // what this stage makes of it, in the same layout, at even steps
    operand_flip: u32, // added to `operand` at odd steps; the result is in the other buffer
    result_flip: u32,
    old: u32,         // h at even steps
    old_flip: u32,
    row_state: u32,   // [directions, rows, units]: c, or z
    sums: u32,        // [directions, rows, G, units]: U·h
    vector_rows: u32, // rows of `vectors` of one direction
    lengths: u32,     // index of the first length
    reverse: u32,     // bit d: direction d reads backwards
    projection_clip: f32,
    weight_start: u32,
    below_start: u32,
    vectors_start: u32,
}

@group(0) @binding(1) var<storage, read> gates: array<vec4<f32>>; // [T, B, directions, G, units]
@group(0) @binding(2) var<storage, read> weight: array<vec4<w_elem>>; // [layers, directions, depth, G, units]
@group(0) @binding(3) var<storage, read> weight_below: array<vec4<w_elem>>; // [layers − 1, input depth, G, units]
// [layers, directions, rows, units]: G of b', G of b where x is computed here, 3 of peepholes
@group(0) @binding(4) var<storage, read> vectors: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> lengths: array<u32>;
@group(0) @binding(6) var<storage, read_write> state: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> output: array<out_elem>;

// Of four rows: a to d belong to the gates.
struct Sums {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
}

// The register tile: its first four rows, and the other four of a TALL one.
struct Tile {
    low: Sums,
    high: Sums,
}

// The layer, direction and step that a workgroup computes.
struct CellStep {
    layer: u32,
    direction: u32,
    step: u32,
    odd: bool,
    vectors: u32, // offset of the vectors of this layer and direction
    state: u32,   // offset of the state of this layer
}

// The offset of row quad q of a direction in an operand [directions, depth, rows].
fn operand_offset(start: u32, direction: u32, depth: u32, q: u32) -> u32 {
    if (SINGLE) {
        return start + direction * ((depth + 3u) / 4u);
    }
    return start + direction * ((depth + 3u) / 4u) * 4u * params.row_quads + q;
}

// Four rows at one step of the depth.
fn load_operand(index: u32, k: u32) -> vec4<f32> {
    if (SINGLE) {
        return vec4<f32>(state[index + k / 4u][k % 4u]);
    }
    return state[index + k * params.row_quads];
}

fn store_operand(index: u32, quad: u32, row: u32, value: vec4<f32>) {
    if (SINGLE) {
        state[index + quad] = value;
        return;
    }
    let first = index + quad * 4u * params.row_quads;
    state[first][row] = value.x;
    state[first + params.row_quads][row] = value.y;
    state[first + 2u * params.row_quads][row] = value.z;
    state[first + 3u * params.row_quads][row] = value.w;
}

fn read_operand(index: u32, quad: u32, row: u32) -> vec4<f32> {
    if (SINGLE) {
        return state[index + quad];
    }
    let first = index + quad * 4u * params.row_quads;
    let rows = params.row_quads;
    return vec4<f32>(
        state[first][row], state[first + rows][row], state[first + 2u * rows][row], state[first + 3u * rows][row],
    );
}

fn offset_at_step(start: u32, flip: u32, odd: bool) -> u32 {
    return select(start, start + flip, odd);
}

fn vector(cell: CellStep, row: u32, quad: u32) -> vec4<f32> {
    return vectors[cell.vectors + row * params.quads + quad];
}

fn bias(cell: CellStep, row: u32, quad: u32) -> vec4<f32> {
    if (HAS_BIAS) {
        return vector(cell, row, quad);
    }
    return vec4<f32>(0.0);
}

// x of a gate: X·W + b from before, or in layers above the lowest b alone, as W·h_below is in the sums.
fn input_gate(cell: CellStep, gate: u32, quad: u32, time: u32, row: u32) -> vec4<f32> {
    if (STACKED && cell.layer > 0u) {
        return bias(cell, params.gate_count + gate, quad);
    }
    let index = (time * params.batch + row) * params.directions + cell.direction;
    return gates[(index * params.gate_count + gate) * params.quads + quad];
}

fn emit(cell: CellStep, time: u32, row: u32, quad: u32, h: vec4<f32>) {
    if (!EMIT) {
        return;
    }
    if (STACKED && cell.layer + 1u != params.layers) {
        return;
    }
    let index = element(params.output, time, row, cell.direction, quad * 4u);
    let stride = params.output.strides.w;
    output[index] = out_elem(h.x);
    if (quad * 4u + 1u < params.units) { output[index + stride] = out_elem(h.y); }
    if (quad * 4u + 2u < params.units) { output[index + 2u * stride] = out_elem(h.z); }
    if (quad * 4u + 3u < params.units) { output[index + 3u * stride] = out_elem(h.w); }
}

// Epilogue of one batch row: gates and state from a to d, the products of its gates.
fn finish_row(cell: CellStep, quad: u32, q: u32, r: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    let row = select(q * 4u + r, 0u, SINGLE);
    let direction = cell.direction;
    if (STAGE == PRODUCT) {
        let index = params.sums + ((direction * params.batch + row) * params.gate_count) * params.quads + quad;
        state[index] = a;
        state[index + params.quads] = b;
        state[index + 2u * params.quads] = c;
        state[index + 3u * params.quads] = d;
        return;
    }
    let length = length_of(row);
    let is_active = cell.step < length;
    let time = time_at(cell.step, length, direction);
    let depth = params.depth;
    let old_depth = select(depth, params.units, STAGE == PROJECT);
    let old_start = cell.state + offset_at_step(params.old, params.old_flip, cell.odd);
    let old_offset = operand_offset(old_start, direction, old_depth, q);
    let result = cell.state + offset_at_step(params.result + params.result_flip, 0u - params.result_flip, cell.odd);
    let result_offset = operand_offset(result, direction, params.units, q);
    let row_index = cell.state + params.row_state + (direction * params.batch + row) * params.quads + quad;
    let g0 = bias(cell, 0u, quad);
    var h = vec4<f32>(0.0);
    if (STAGE == LSTM) {
        let old = state[row_index];
        var i = a + g0 + input_gate(cell, 0u, quad, time, row);
        var f = b + bias(cell, 1u, quad) + input_gate(cell, 1u, quad, time, row);
        let g = c + bias(cell, 2u, quad) + input_gate(cell, 2u, quad, time, row);
        var o = d + bias(cell, 3u, quad) + input_gate(cell, 3u, quad, time, row);
        if (PEEPHOLES) {
            i += vector(cell, 8u, quad) * old;
            f += vector(cell, 9u, quad) * old;
        }
        let next = lstm_cell(direction, i, f, g, old);
        if (PEEPHOLES) {
            o += vector(cell, 10u, quad) * next;
        }
        if (is_active) {
            state[row_index] = next;
        }
        h = lstm_output(direction, o, next);
        if (PROJECTED) {
            store_operand(result_offset, quad, r, h);
            return;
        }
    } else if (STAGE == GRU) {
        let reset = gate(0u, direction, a + g0 + input_gate(cell, 0u, quad, time, row));
        let update = gate(1u, direction, b + bias(cell, 1u, quad) + input_gate(cell, 1u, quad, time, row));
        // `d` is what the layer below adds to n.
        let n = d + input_gate(cell, 2u, quad, time, row) + reset * (c + bias(cell, 2u, quad));
        h = gru_output(direction, update, n, read_operand(old_offset, quad, r));
    } else if (STAGE == GRU_RESET) {
        let reset = gate(0u, direction, a + g0 + input_gate(cell, 0u, quad, time, row));
        state[row_index] = gate(1u, direction, b + bias(cell, 1u, quad) + input_gate(cell, 1u, quad, time, row));
        store_operand(result_offset, quad, r, reset * read_operand(old_offset, quad, r));
        return;
    } else if (STAGE == GRU_UPDATE) {
        let n = c + bias(cell, 2u, quad) + input_gate(cell, 2u, quad, time, row);
        h = gru_output(direction, state[row_index], n, read_operand(old_offset, quad, r));
    } else if (STAGE == RNN) {
        h = gate(0u, direction, a + g0 + input_gate(cell, 0u, quad, time, row));
    } else {
        h = a;
        if (PROJECTION_CLIP) {
            let limit = vec4<f32>(params.projection_clip);
            h = select(clamp(h, -limit, limit), h, is_nan4(h));
        }
    }
    let new_h = select(read_operand(old_offset, quad, r), h, is_active);
    store_operand(result_offset, quad, r, new_h);
    emit(cell, time, row, quad, select(vec4<f32>(0.0), h, is_active));
}

// Which of a to d have a product with h, or with h of the layer `below`: only layers above the lowest have that, and their
// GRU keeps what it adds to n apart, in d.
fn has_a() -> bool {
    return STAGE != GRU_UPDATE;
}

fn has_b() -> bool {
    return STAGE != GRU_UPDATE && STAGE != RNN && STAGE != PROJECT;
}

fn has_c(below: bool) -> bool {
    return STAGE == LSTM || (STAGE == GRU && !below) || STAGE == GRU_UPDATE || STAGE == PRODUCT;
}

fn has_d(below: bool) -> bool {
    return STAGE == LSTM || (STAGE == GRU && below) || STAGE == PRODUCT;
}

// Weights of four units at one step of the depth, for the gate of sums a (0) to d (3).
fn load_weight(index: u32, gate: u32, below: bool) -> vec4<f32> {
    let row = select(gate, 2u, STAGE == GRU && gate == 3u);
    if (below) {
        return vec4<f32>(weight_below[index + row * params.quads]);
    }
    return vec4<f32>(weight[index + row * params.quads]);
}

// sum + w·xᵀ; of a single row only the first column is used.
fn add_outer(sum: mat4x4<f32>, w: vec4<f32>, x: vec4<f32>) -> mat4x4<f32> {
    if (SINGLE) {
        return mat4x4<f32>(fma(w, vec4<f32>(x.x), sum[0]), sum[1], sum[2], sum[3]);
    }
    return outer_add4(sum, w, x);
}

// tile += w·xᵀ of step k of the depth, one gate after the other.
fn add_rows(tile: Tile, w: u32, x0: u32, x1: u32, k: u32, below: bool) -> Tile {
    var t = tile;
    let index = w + k * params.gate_count * params.quads;
    let low = load_operand(x0, k);
    var high = vec4<f32>(0.0);
    if (TALL) {
        high = load_operand(x1, k);
    }
    if (has_a()) {
        let weights = load_weight(index, 0u, below);
        t.low.a = add_outer(t.low.a, weights, low);
        if (TALL) { t.high.a = add_outer(t.high.a, weights, high); }
    }
    if (has_b()) {
        let weights = load_weight(index, 1u, below);
        t.low.b = add_outer(t.low.b, weights, low);
        if (TALL) { t.high.b = add_outer(t.high.b, weights, high); }
    }
    if (has_c(below)) {
        let weights = load_weight(index, 2u, below);
        t.low.c = add_outer(t.low.c, weights, low);
        if (TALL) { t.high.c = add_outer(t.high.c, weights, high); }
    }
    if (has_d(below)) {
        let weights = load_weight(index, 3u, below);
        t.low.d = add_outer(t.low.d, weights, low);
        if (TALL) { t.high.d = add_outer(t.high.d, weights, high); }
    }
    return t;
}

// Weights of one gate at four steps of the depth, a column each.
fn load_weights(index: u32, gate: u32, below: bool) -> mat4x4<f32> {
    let stride = params.gate_count * params.quads;
    return mat4x4<f32>(
        load_weight(index, gate, below),
        load_weight(index + stride, gate, below),
        load_weight(index + 2u * stride, gate, below),
        load_weight(index + 3u * stride, gate, below),
    );
}

// The same of four steps of a single row, whose h is one load. Few sums leave registers for all loads to be in flight at once.
fn add_single_row(sums: Sums, w: u32, x0: u32, k: u32, below: bool) -> Sums {
    var s = sums;
    var weights = Sums();
    let index = w + k * params.gate_count * params.quads;
    let x = state[x0 + k / 4u];
    if (has_a()) { weights.a = load_weights(index, 0u, below); }
    if (has_b()) { weights.b = load_weights(index, 1u, below); }
    if (has_c(below)) { weights.c = load_weights(index, 2u, below); }
    if (has_d(below)) { weights.d = load_weights(index, 3u, below); }
    if (has_a()) { s.a[0] = multiply_add4(s.a[0], weights.a, x); }
    if (has_b()) { s.b[0] = multiply_add4(s.b[0], weights.b, x); }
    if (has_c(below)) { s.c[0] = multiply_add4(s.c[0], weights.c, x); }
    if (has_d(below)) { s.d[0] = multiply_add4(s.d[0], weights.d, x); }
    return s;
}

// tile += this lane's slice of the product of the weights from w on with the rows from x0 and x1 on. A slice has every
// K_SPLITS-th four steps of the depth, and of what is left every K_SPLITS-th step.
fn add_product(tile: Tile, w: u32, x0: u32, x1: u32, depth: u32, split: u32, below: bool) -> Tile {
    var t = tile;
    let fours = select(0u, depth / (4u * K_SPLITS), FOURS);
    for (var n = 0u; n < fours; n += 1u) {
        let k = 4u * (n * K_SPLITS + split);
        if (SINGLE) {
            t.low = add_single_row(t.low, w, x0, k, below);
        } else {
            t = add_rows(t, w, x0, x1, k, below);
            t = add_rows(t, w, x0, x1, k + 1u, below);
            t = add_rows(t, w, x0, x1, k + 2u, below);
            t = add_rows(t, w, x0, x1, k + 3u, below);
        }
    }
    for (var k = 4u * fours * K_SPLITS + split; k < depth; k += K_SPLITS) {
        t = add_rows(t, w, x0, x1, k, below);
    }
    return t;
}

fn sum_all_splits(ids: LaneIds, sums: Sums) -> Sums {
    var s = sums;
    if (has_a()) { s.a = sum_splits(ids, s.a); }
    if (has_b()) { s.b = sum_splits(ids, s.b); }
    if (has_c(false)) { s.c = sum_splits(ids, s.c); }
    if (has_d(STACKED)) { s.d = sum_splits(ids, s.d); }
    return s;
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, ids: LaneIds) {
    let tile = workgroup_index(wg);
    if (tile >= params.tiles) {
        return;
    }
    let lane_quad = (tile % params.unit_tiles) * (LANES / K_SPLITS) + column_index(ids);
    let quad = min(lane_quad, params.quads - 1u);
    let split = k_split(ids);
    let rest = tile / params.unit_tiles;
    let tile_quads = select(1u, 2u, TALL);
    let q = (rest % params.row_tiles) * tile_quads;
    let block = rest / params.row_tiles;
    var cell = CellStep(0u, block, params.step, false, 0u, 0u);
    if (STACKED) {
        cell.layer = params.first_layer + block;
        cell.direction = 0u;
        cell.step = params.step - cell.layer;
    }
    cell.odd = cell.step % 2u == 1u;
    cell.vectors = params.vectors_start
        + (cell.layer * params.directions + cell.direction) * params.vector_rows * params.quads;
    cell.state = cell.layer * params.layer_state;

    let weight_stride = params.gate_count * params.quads;
    let q1 = min(q + 1u, params.row_quads - 1u);
    let operand = cell.state + offset_at_step(params.operand, params.operand_flip, cell.odd);
    let x0 = operand_offset(operand, cell.direction, params.depth, q);
    let x1 = operand_offset(operand, cell.direction, params.depth, q1);
    let w = params.weight_start + (cell.layer * params.directions + cell.direction) * params.depth * weight_stride + quad;
    var sums = add_product(Tile(), w, x0, x1, params.depth, split, false);
    if (STACKED) {
        // h of the layer below after this step: in the buffer of the next step, so of the other parity.
        let below = cell.state - params.layer_state + offset_at_step(params.operand, params.operand_flip, !cell.odd);
        let y0 = operand_offset(below, 0u, params.input_depth, q);
        let y1 = operand_offset(below, 0u, params.input_depth, q1);
        let v = params.below_start + (cell.layer - 1u) * params.input_depth * weight_stride + quad;
        sums = add_product(sums, v, y0, y1, select(params.input_depth, 0u, cell.layer == 0u), split, true);
    }
    let s0 = sum_all_splits(ids, sums.low);
    var s1 = Sums();
    if (TALL) {
        s1 = sum_all_splits(ids, sums.high);
    }
    if (lane_quad >= params.quads) {
        return;
    }
    // One invocation does the epilogue of all four rows of a quad, whose h share a vec4: a store of one component may write
    // the others as well.
    if (split >= tile_quads) {
        return;
    }
    let first_row = select(4u * split, 0u, K_SPLITS == 1u);
    let end = select(first_row + 4u, 4u * tile_quads, K_SPLITS == 1u);
    for (var r = first_row; r < end; r += 1u) {
        let row = q * 4u + r;
        if (row < params.batch && !(SINGLE && r > 0u)) {
            if (TALL && r >= 4u) {
                let n = r - 4u;
                finish_row(cell, quad, q + 1u, n, column(s1.a, n), column(s1.b, n), column(s1.c, n), column(s1.d, n));
            } else {
                finish_row(cell, quad, q, r, column(s0.a, r), column(s0.b, r), column(s0.c, r), column(s0.d, r));
            }
        }
    }
}
