// One time step of a recurrence, all directions and, in a wavefront, all layers in one dispatch: recurrent product,
// gates, state, output and lengths. X·W + b of every step of the lowest layer lies in `gates`, computed before.
//
//   LSTM  i, f, g, o = x + U·h + b'   c' = f∘c + i∘g                       h' = o∘tanh(c')
//   GRU   r, z = …   after:  n = tanh(x_n + r∘(U_n·h + b'_n))             h' = (1 − z)∘n + z∘h
//                    before: one dispatch stores r∘h and z, the next has n = tanh(x_n + U_n·(r∘h) + b'_n)
//   RNN   h' = tanh(x + U·h + b')
//   and beside them: the product U·h alone (for a layer normalisation), a projection h = R·m
//
// Step s of a forward direction is time s; of a reverse one, time length − 1 − s. Past the length the state is kept
// and the output at time s is 0. In a wavefront the layer l is at step s − l; what lies below it is at the next step,
// so that its h, the input of this one, has just been written: x = W·h_below + b is then computed here as well.
//
// An invocation has a tile of 4 units × 4 or 8 batch rows of every gate in registers; it reads each weight once for
// all its rows. Vectors that a product reads are stored [K, rows], so that four rows are one load; with a single row
// that is [K], and the rows of a tile are one.
override TALL: bool = false;   // 8 batch rows instead of 4
override SINGLE: bool = false; // one batch row
override STAGE: u32 = 0u;      // as the constants below
override STACKED: bool = false; // the dispatch has layers above the lowest
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

// Places in `state` and `vectors` are counted in vec4.
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
    layer_state: u32, // from one layer's state to the next's
    operand: u32,     // what the product reads [directions, depth, rows], at even steps
    result: u32,      // what this stage makes of it, in the same layout, at even steps
    operand_flip: u32, // added at odd steps; `result_flip` is taken off
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

struct Sums {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
}

// What every invocation of a workgroup shares.
struct Place {
    layer: u32,
    direction: u32,
    step: u32,
    odd: bool,
    vectors: u32, // of this layer and direction
    state: u32,   // of this layer
}

// The place in [directions, depth, rows] of row quad `q` of direction d.
fn operand_at(start: u32, direction: u32, depth: u32, q: u32) -> u32 {
    if (SINGLE) {
        return start + direction * ((depth + 3u) / 4u);
    }
    return start + direction * ((depth + 3u) / 4u) * 4u * params.row_quads + q;
}

fn load_operand(at: u32, k: u32) -> vec4<f32> {
    if (SINGLE) {
        return vec4<f32>(state[at + k / 4u][k % 4u]);
    }
    return state[at + k * params.row_quads];
}

fn store_operand(at: u32, quad: u32, row: u32, value: vec4<f32>) {
    if (SINGLE) {
        state[at + quad] = value;
        return;
    }
    let first = at + quad * 4u * params.row_quads;
    state[first][row] = value.x;
    state[first + params.row_quads][row] = value.y;
    state[first + 2u * params.row_quads][row] = value.z;
    state[first + 3u * params.row_quads][row] = value.w;
}

fn read_operand(at: u32, quad: u32, row: u32) -> vec4<f32> {
    if (SINGLE) {
        return state[at + quad];
    }
    let first = at + quad * 4u * params.row_quads;
    let rows = params.row_quads;
    return vec4<f32>(state[first][row], state[first + rows][row], state[first + 2u * rows][row], state[first + 3u * rows][row]);
}

fn at_step(start: u32, flip: u32, odd: bool) -> u32 {
    return select(start, start + flip, odd);
}

fn vector(place: Place, row: u32, quad: u32) -> vec4<f32> {
    return vectors[place.vectors + row * params.quads + quad];
}

fn bias(place: Place, row: u32, quad: u32) -> vec4<f32> {
    if (HAS_BIAS) {
        return vector(place, row, quad);
    }
    return vec4<f32>(0.0);
}

// x of a gate: hoisted, or the bias of the product with the layer below, which is in the sums.
fn input_gate(place: Place, gate: u32, quad: u32, time: u32, row: u32) -> vec4<f32> {
    if (STACKED && place.layer > 0u) {
        return bias(place, params.gate_count + gate, quad);
    }
    let at = (time * params.batch + row) * params.directions + place.direction;
    return gates[(at * params.gate_count + gate) * params.quads + quad];
}

fn emit(place: Place, time: u32, row: u32, quad: u32, h: vec4<f32>) {
    if (!EMIT) {
        return;
    }
    if (STACKED && place.layer + 1u != params.layers) {
        return;
    }
    let at = element(params.output, time, row, place.direction, quad * 4u);
    let stride = params.output.strides.w;
    output[at] = out_elem(h.x);
    if (quad * 4u + 1u < params.units) { output[at + stride] = out_elem(h.y); }
    if (quad * 4u + 2u < params.units) { output[at + 2u * stride] = out_elem(h.z); }
    if (quad * 4u + 3u < params.units) { output[at + 3u * stride] = out_elem(h.w); }
}

// Gates and state of one batch row; a to d are the sums of its products.
fn finish(place: Place, quad: u32, q: u32, r: u32, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    let row = select(q * 4u + r, 0u, SINGLE);
    let direction = place.direction;
    if (STAGE == PRODUCT) {
        let at = params.sums + ((direction * params.batch + row) * params.gate_count) * params.quads + quad;
        state[at] = a;
        state[at + params.quads] = b;
        state[at + 2u * params.quads] = c;
        state[at + 3u * params.quads] = d;
        return;
    }
    let length = length_of(row);
    let alive = place.step < length;
    let time = time_at(place.step, length, direction);
    let depth = params.depth;
    let old_depth = select(depth, params.units, STAGE == PROJECT);
    let old_at = operand_at(place.state + at_step(params.old, params.old_flip, place.odd), direction, old_depth, q);
    let result = place.state + at_step(params.result + params.result_flip, 0u - params.result_flip, place.odd);
    let result_at = operand_at(result, direction, params.units, q);
    let row_at = place.state + params.row_state + (direction * params.batch + row) * params.quads + quad;
    let g0 = bias(place, 0u, quad);
    var h = vec4<f32>(0.0);
    if (STAGE == LSTM) {
        let old = state[row_at];
        var i = a + g0 + input_gate(place, 0u, quad, time, row);
        var f = b + bias(place, 1u, quad) + input_gate(place, 1u, quad, time, row);
        let g = c + bias(place, 2u, quad) + input_gate(place, 2u, quad, time, row);
        var o = d + bias(place, 3u, quad) + input_gate(place, 3u, quad, time, row);
        if (PEEPHOLES) {
            i += vector(place, 8u, quad) * old;
            f += vector(place, 9u, quad) * old;
        }
        let next = lstm_cell(direction, i, f, g, old);
        if (PEEPHOLES) {
            o += vector(place, 10u, quad) * next;
        }
        if (alive) {
            state[row_at] = next;
        }
        h = lstm_output(direction, o, next);
        if (PROJECTED) {
            store_operand(result_at, quad, r, h);
            return;
        }
    } else if (STAGE == GRU) {
        let reset = gate(0u, direction, a + g0 + input_gate(place, 0u, quad, time, row));
        let update = gate(1u, direction, b + bias(place, 1u, quad) + input_gate(place, 1u, quad, time, row));
        // `d` has the part of n that comes from the layer below.
        let n = d + input_gate(place, 2u, quad, time, row) + reset * (c + bias(place, 2u, quad));
        h = gru_output(direction, update, n, read_operand(old_at, quad, r));
    } else if (STAGE == GRU_RESET) {
        let reset = gate(0u, direction, a + g0 + input_gate(place, 0u, quad, time, row));
        state[row_at] = gate(1u, direction, b + bias(place, 1u, quad) + input_gate(place, 1u, quad, time, row));
        store_operand(result_at, quad, r, reset * read_operand(old_at, quad, r));
        return;
    } else if (STAGE == GRU_UPDATE) {
        let n = c + bias(place, 2u, quad) + input_gate(place, 2u, quad, time, row);
        h = gru_output(direction, state[row_at], n, read_operand(old_at, quad, r));
    } else if (STAGE == RNN) {
        h = gate(0u, direction, a + g0 + input_gate(place, 0u, quad, time, row));
    } else {
        h = a;
        if (PROJECTION_CLIP) {
            let limit = vec4<f32>(params.projection_clip);
            h = select(clamp(h, -limit, limit), h, is_nan4(h));
        }
    }
    let kept = select(read_operand(old_at, quad, r), h, alive);
    store_operand(result_at, quad, r, kept);
    emit(place, time, row, quad, select(vec4<f32>(0.0), h, alive));
}

// One more step of the product: weights of up to four gates, rows x.
fn add(sums: Sums, at: u32, x: vec4<f32>, below: bool) -> Sums {
    var s = sums;
    let gate = params.quads;
    if (below) {
        s.a += tile_of(vec4<f32>(weight_below[at]), x);
        if (STAGE != RNN) {
            s.b += tile_of(vec4<f32>(weight_below[at + gate]), x);
        }
        if (STAGE == LSTM) {
            s.c += tile_of(vec4<f32>(weight_below[at + 2u * gate]), x);
            s.d += tile_of(vec4<f32>(weight_below[at + 3u * gate]), x);
        } else if (STAGE == GRU) {
            s.d += tile_of(vec4<f32>(weight_below[at + 2u * gate]), x);
        }
        return s;
    }
    if (STAGE != GRU_UPDATE) {
        s.a += tile_of(vec4<f32>(weight[at]), x);
    }
    if (STAGE != GRU_UPDATE && STAGE != RNN && STAGE != PROJECT) {
        s.b += tile_of(vec4<f32>(weight[at + gate]), x);
    }
    if (STAGE == LSTM || STAGE == GRU || STAGE == GRU_UPDATE || STAGE == PRODUCT) {
        s.c += tile_of(vec4<f32>(weight[at + 2u * gate]), x);
    }
    if (STAGE == LSTM || STAGE == PRODUCT) {
        s.d += tile_of(vec4<f32>(weight[at + 3u * gate]), x);
    }
    return s;
}

// With a single row only the first column of a tile is used.
fn tile_of(w: vec4<f32>, x: vec4<f32>) -> mat4x4<f32> {
    if (SINGLE) {
        let none = vec4<f32>(0.0);
        return mat4x4<f32>(w * x.x, none, none, none);
    }
    return outer(w, x);
}

fn join_all(lane: Lane, sums: Sums) -> Sums {
    var s = sums;
    if (STAGE != GRU_UPDATE) {
        s.a = join(lane, s.a);
    }
    if (STAGE != GRU_UPDATE && STAGE != RNN && STAGE != PROJECT) {
        s.b = join(lane, s.b);
    }
    if (STAGE == LSTM || STAGE == GRU || STAGE == GRU_UPDATE || STAGE == PRODUCT) {
        s.c = join(lane, s.c);
    }
    if (STAGE == LSTM || STAGE == PRODUCT || (STAGE == GRU && STACKED)) {
        s.d = join(lane, s.d);
    }
    return s;
}

fn none() -> Sums {
    return Sums(mat4x4<f32>(), mat4x4<f32>(), mat4x4<f32>(), mat4x4<f32>());
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, lane: Lane) {
    let tile = workgroup_number(here);
    if (tile >= params.tiles) {
        return;
    }
    let own_quad = (tile % params.unit_tiles) * (LANES / PARTS) + column_of(lane);
    let quad = min(own_quad, params.quads - 1u);
    let part = part_of(lane);
    let rest = tile / params.unit_tiles;
    let tile_quads = select(1u, 2u, TALL);
    let q = (rest % params.row_tiles) * tile_quads;
    let above = rest / params.row_tiles;
    var place = Place(0u, above, params.step, false, 0u, 0u);
    if (STACKED) {
        place.layer = params.first_layer + above;
        place.direction = 0u;
        place.step = params.step - place.layer;
    }
    place.odd = place.step % 2u == 1u;
    place.vectors = params.vectors_start
        + (place.layer * params.directions + place.direction) * params.vector_rows * params.quads;
    place.state = place.layer * params.layer_state;

    let line = params.gate_count * params.quads;
    let q1 = min(q + 1u, params.row_quads - 1u);
    let operand = place.state + at_step(params.operand, params.operand_flip, place.odd);
    let x0 = operand_at(operand, place.direction, params.depth, q);
    let x1 = operand_at(operand, place.direction, params.depth, q1);
    let w = params.weight_start + (place.layer * params.directions + place.direction) * params.depth * line + quad;
    let depth = params.depth;
    var s0 = none();
    var s1 = none();
    for (var k = part; k < depth; k += PARTS) {
        s0 = add(s0, w + k * line, load_operand(x0, k), false);
        if (TALL) {
            s1 = add(s1, w + k * line, load_operand(x1, k), false);
        }
    }
    if (STACKED) {
        // h that the layer below has after this step: where it goes at even steps, and the other way round.
        let below = place.state - params.layer_state + at_step(params.operand, params.operand_flip, !place.odd);
        let y0 = operand_at(below, 0u, params.input_depth, q);
        let y1 = operand_at(below, 0u, params.input_depth, q1);
        let v = params.below_start + (place.layer - 1u) * params.input_depth * line + quad;
        let input_depth = select(params.input_depth, 0u, place.layer == 0u);
        for (var k = part; k < input_depth; k += PARTS) {
            s0 = add(s0, v + k * line, load_operand(y0, k), true);
            if (TALL) {
                s1 = add(s1, v + k * line, load_operand(y1, k), true);
            }
        }
    }
    s0 = join_all(lane, s0);
    if (TALL) {
        s1 = join_all(lane, s1);
    }
    if (own_quad >= params.quads) {
        return;
    }
    // All rows of a quad are finished by one invocation, as it writes their h into the same vec4: a store of one
    // component may write the others as well.
    if (part >= tile_quads) {
        return;
    }
    let mine = select(4u * part, 0u, PARTS == 1u);
    let end = select(mine + 4u, 4u * tile_quads, PARTS == 1u);
    for (var r = mine; r < end; r += 1u) {
        let at = q * 4u + r;
        if (at < params.batch && !(SINGLE && r > 0u)) {
            if (TALL && r >= 4u) {
                let n = r - 4u;
                finish(place, quad, q + 1u, n, column(s1.a, n), column(s1.b, n), column(s1.c, n), column(s1.d, n));
            } else {
                finish(place, quad, q, r, column(s0.a, r), column(s0.b, r), column(s0.c, r), column(s0.d, r));
            }
        }
    }
}
