// Gates and state of one time step of an LSTM with layer normalisation, after the product U·h (`recurrent.wgsl`).
//
//   over products  pre = LN(x) + LN(U·h) + b + b', each over all four gates together     (Ba et al. 2016)
//   over gates     pre = LN(x + U·h) + b + b', over each gate alone
//   c' = f∘c + i∘g        h' = o∘act(LN(c'))        what the next step sees is c' or LN(c')
//
// LN(v) = (v − mean) / √(variance + ε) ∘ gain + shift, of numbers brought near 1 by a power of two c, so that no sum or
// square overflows or vanishes: (c·v − mean(c·v)) / √(variance(c·v) + c²·ε). One workgroup has one batch row of one
// direction; a lane has every LANES-th quad of units.
override LANES: u32 = 64u;
override OVER_GATES: bool = false;
override CARRY: bool = false; // LN(c') is what the next step sees
override GAINS: bool = false; // `norms` has gains and shifts; 1 and 0 without
override HAS_BIAS: bool = false;
override PEEPHOLES: bool = false;
override PROJECTED: bool = false; // o∘act(…) is what a projection reads
override EMIT: bool = true;

// Places in `state`, `vectors` and `norms` are counted in vec4.
struct Params {
    output: View, // [T, B, directions, H]
    cell: CellParams,
    step: u32,
    steps: u32,
    batch: u32,
    units: u32,
    quads: u32,
    rows: u32,        // of h: rounded up to a multiple of 4, a single one not
    directions: u32,
    result: u32,      // h', or what the projection reads, [directions, units, rows]
    old: u32,         // h, the same
    row_state: u32,   // [directions, rows, units]: c
    sums: u32,        // [directions, rows, G, units]: U·h
    vector_rows: u32, // rows of `vectors` of one direction
    lengths: u32,
    reverse: u32,
    epsilon: f32,
    vectors_start: u32,
    norms_start: u32,
}

@group(0) @binding(1) var<storage, read> gates: array<vec4<f32>>; // [T, B, directions, G, units], without b
@group(0) @binding(2) var<storage, read> norms: array<vec4<f32>>; // [directions, 18, units]: gain, shift of x, U·h, c'
@group(0) @binding(3) var<storage, read> vectors: array<vec4<f32>>; // [directions, rows, units]: G of b', G of b, peepholes
@group(0) @binding(4) var<storage, read> lengths: array<u32>;
@group(0) @binding(5) var<storage, read_write> state: array<f32>; // numbers, as four workgroups have rows of one vec4
@group(0) @binding(6) var<storage, read_write> output: array<out_elem>;

var<workgroup> shared_sums: array<vec4<f32>, LANES>;

fn reduce(lane: u32, value: vec4<f32>, largest: bool) -> vec4<f32> {
    shared_sums[lane] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            let a = shared_sums[lane];
            let b = shared_sums[lane + step];
            shared_sums[lane] = select(a + b, max(a, b), largest);
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&shared_sums[0]);
}

// The components that are units, 0 for the others.
fn units_of(quad: u32, value: vec4<f32>) -> vec4<f32> {
    let unit = vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), value, unit < vec4<u32>(params.units));
}

fn total(quad: u32, value: vec4<f32>) -> f32 {
    return dot(units_of(quad, value), vec4<f32>(1.0));
}

fn vector(direction: u32, row: u32, quad: u32) -> vec4<f32> {
    if (!HAS_BIAS && !PEEPHOLES) {
        return vec4<f32>(0.0);
    }
    return vectors[params.vectors_start + (direction * params.vector_rows + row) * params.quads + quad];
}

fn largest(quad: u32, value: vec4<f32>) -> f32 {
    let x = abs(units_of(quad, value));
    return max(max(x.x, x.y), max(x.z, x.w));
}

// A number of gate k among those of all four.
fn of_gate(k: u32, x: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), vec4<f32>(x), vec4<u32>(k) == vec4<u32>(0u, 1u, 2u, 3u));
}

// value · (1 / deviation) ∘ gain + shift; `row` is the gain's.
fn scaled(direction: u32, row: u32, next: u32, quad: u32, value: vec4<f32>, inverse: f32) -> vec4<f32> {
    let normal = value * inverse;
    if (!GAINS) {
        return normal;
    }
    let at = params.norms_start + direction * 18u * params.quads + quad;
    return normal * norms[at + row * params.quads] + norms[at + (row + next) * params.quads];
}

fn load(place: u32) -> vec4<f32> {
    let at = 4u * place;
    return vec4<f32>(state[at], state[at + 1u], state[at + 2u], state[at + 3u]);
}

fn save(place: u32, value: vec4<f32>) {
    let at = 4u * place;
    state[at] = value.x;
    state[at + 1u] = value.y;
    state[at + 2u] = value.z;
    state[at + 3u] = value.w;
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_number(here);
    if (tile >= params.batch * params.directions) {
        return;
    }
    let direction = tile / params.batch;
    let row = tile % params.batch;
    let length = length_of(row);
    let alive = params.step < length;
    let time = time_at(params.step, length, direction);
    let x = ((time * params.batch + row) * params.directions + direction) * 4u * params.quads;
    let u = params.sums + tile * 4u * params.quads;
    let c_at = params.row_state + tile * params.quads;

    // Of x and U·h over products, of each gate's sum over gates: powers of two, means, deviations.
    var most = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        for (var k = 0u; k < 4u; k += 1u) {
            let gate_x = gates[x + k * params.quads + quad];
            let gate_u = load(u + k * params.quads + quad);
            if (OVER_GATES) {
                most = max(most, of_gate(k, largest(quad, gate_x + gate_u)));
            } else {
                most = max(most, vec4<f32>(largest(quad, gate_x), largest(quad, gate_u), 0.0, 0.0));
            }
        }
    }
    let c = scale_of4(reduce(lane, most, true));
    var sum = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        for (var k = 0u; k < 4u; k += 1u) {
            let gate_x = gates[x + k * params.quads + quad];
            let gate_u = load(u + k * params.quads + quad);
            if (OVER_GATES) {
                sum += of_gate(k, total(quad, (gate_x + gate_u) * c[k]));
            } else {
                sum += vec4<f32>(total(quad, gate_x * c.x), total(quad, gate_u * c.y), 0.0, 0.0);
            }
        }
    }
    var count = f32(params.units);
    if (!OVER_GATES) {
        count = count * 4.0;
    }
    let mean = reduce(lane, sum, false) / count;
    var squares = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        for (var k = 0u; k < 4u; k += 1u) {
            let gate_x = gates[x + k * params.quads + quad];
            let gate_u = load(u + k * params.quads + quad);
            if (OVER_GATES) {
                let off = (gate_x + gate_u) * c[k] - mean[k];
                squares += of_gate(k, total(quad, off * off));
            } else {
                let off_x = gate_x * c.x - mean.x;
                let off_u = gate_u * c.y - mean.y;
                squares += vec4<f32>(total(quad, off_x * off_x), total(quad, off_u * off_u), 0.0, 0.0);
            }
        }
    }
    let inverse = inverse_deviation4(reduce(lane, squares, false) / count, c, params.epsilon);

    // c', kept where the sums of gate 0 were, beside the output gate's in those of gate 3.
    var cell_most = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        for (var k = 0u; k < 4u; k += 1u) {
            let gate_x = gates[x + k * params.quads + quad];
            let gate_u = load(u + k * params.quads + quad);
            var value = vec4<f32>(0.0);
            if (OVER_GATES) {
                value = scaled(direction, 8u + k, 4u, quad, (gate_x + gate_u) * c[k] - mean[k], inverse[k]);
            } else {
                value = scaled(direction, k, 4u, quad, gate_x * c.x - mean.x, inverse.x)
                    + scaled(direction, 8u + k, 4u, quad, gate_u * c.y - mean.y, inverse.y);
            }
            if (HAS_BIAS) {
                value += vector(direction, k, quad) + vector(direction, 4u + k, quad);
            }
            save(u + k * params.quads + quad, value);
        }
        var i = load(u + quad);
        var f = load(u + params.quads + quad);
        let g = load(u + 2u * params.quads + quad);
        let old = load(c_at + quad);
        if (PEEPHOLES) {
            i += vector(direction, 8u, quad) * old;
            f += vector(direction, 9u, quad) * old;
        }
        let next = lstm_cell(direction, i, f, g, old);
        save(u + quad, next);
        cell_most.x = max(cell_most.x, largest(quad, next));
    }
    let cell_c = scale_of4(reduce(lane, cell_most, true)).x;
    var cell_sum = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        cell_sum.x += total(quad, load(u + quad) * cell_c);
    }
    let cell_mean = reduce(lane, cell_sum, false).x / f32(params.units);
    var cell_squares = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        let off = load(u + quad) * cell_c - cell_mean;
        cell_squares.x += total(quad, off * off);
    }
    let cell_inverse = inverse_deviation4(reduce(lane, cell_squares, false) / f32(params.units), vec4<f32>(cell_c), params.epsilon).x;

    for (var quad = lane; quad < params.quads; quad += LANES) {
        let next = load(u + quad);
        let normal = scaled(direction, 16u, 1u, quad, next * cell_c - cell_mean, cell_inverse);
        var carried = next;
        if (CARRY) {
            carried = normal;
        }
        var o = load(u + 3u * params.quads + quad);
        if (PEEPHOLES) {
            o += vector(direction, 10u, quad) * carried;
        }
        if (alive) {
            save(c_at + quad, carried);
        }
        let h = lstm_output(direction, o, normal);
        for (var k = 0u; k < 4u; k += 1u) {
            // h is [directions, units, rows].
            let at = ((direction * params.quads + quad) * 4u + k) * params.rows + row;
            state[4u * params.result + at] = select(state[4u * params.old + at], h[k], alive || PROJECTED);
            if (EMIT && !PROJECTED && quad * 4u + k < params.units) {
                output[element(params.output, time, row, direction, quad * 4u + k)] = out_elem(select(0.0, h[k], alive));
            }
        }
    }
}
