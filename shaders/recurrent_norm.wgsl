// Gates and state of one time step of an LSTM with layer normalisation, after the product U·h (`recurrent.wgsl`).
//
//   over products  pre = LN(x) + LN(U·h) + b + b', each over all four gates together     (Ba et al. 2016)
//   over gates     pre = LN(x + U·h) + b + b', over each gate alone
//   c' = f∘c + i∘g        h' = o∘act(LN(c'))        the next step gets c' or LN(c') as its c
//
// LN(v) = (v − mean) / √(variance + ε) ∘ gain + shift, of numbers brought near 1 by a power of two `scale`, so that no sum
// or square overflows or vanishes: (s·v − mean(s·v)) / √(variance(s·v) + s²·ε) with s = scale. A workgroup has one batch
// row of one direction; a lane has every LANES-th quad of units.
override LANES: u32 = 64u;
override OVER_GATES: bool = false;
override CARRY: bool = false; // the next step gets LN(c'), not c'
override GAINS: bool = false; // `norms` has gains and shifts; 1 and 0 without
override HAS_BIAS: bool = false;
override PEEPHOLES: bool = false;
override PROJECTED: bool = false; // o∘act(…) is the operand of a projection
override EMIT: bool = true;

// Offsets in `state`, `vectors` and `norms` count vec4.
struct Params {
    output: View, // [T, B, directions, H]
    cell: CellParams,
    step: u32,
    steps: u32,
    batch: u32,
    units: u32,
    quads: u32,
    rows: u32,        // of h: rounded up to a multiple of 4, except a single one
    directions: u32,
    result: u32,      // h', or the operand of the projection, [directions, units, rows]
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
@group(0) @binding(5) var<storage, read_write> state: array<f32>; // not vec4, as a vec4 has rows of four workgroups
@group(0) @binding(6) var<storage, read_write> output: array<out_elem>;

var<workgroup> shared_sums: array<vec4<f32>, LANES>;

fn reduce(lane: u32, value: vec4<f32>, is_max: bool) -> vec4<f32> {
    shared_sums[lane] = value;
    workgroupBarrier();
    for (var step = LANES / 2u; step > 0u; step = step / 2u) {
        if (lane < step) {
            let a = shared_sums[lane];
            let b = shared_sums[lane + step];
            shared_sums[lane] = select(a + b, max(a, b), is_max);
        }
        workgroupBarrier();
    }
    return workgroupUniformLoad(&shared_sums[0]);
}

// Zeros in the components that pad the last quad of units.
fn mask_units(quad: u32, value: vec4<f32>) -> vec4<f32> {
    let unit = vec4<u32>(quad * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), value, unit < vec4<u32>(params.units));
}

fn sum_of_units(quad: u32, value: vec4<f32>) -> f32 {
    return dot(mask_units(quad, value), vec4<f32>(1.0));
}

fn vector(direction: u32, row: u32, quad: u32) -> vec4<f32> {
    if (!HAS_BIAS && !PEEPHOLES) {
        return vec4<f32>(0.0);
    }
    return vectors[params.vectors_start + (direction * params.vector_rows + row) * params.quads + quad];
}

fn largest_unit(quad: u32, value: vec4<f32>) -> f32 {
    let x = abs(mask_units(quad, value));
    return max(max(x.x, x.y), max(x.z, x.w));
}

// x as the component of gate k.
fn gate_component(k: u32, x: f32) -> vec4<f32> {
    return select(vec4<f32>(0.0), vec4<f32>(x), vec4<u32>(k) == vec4<u32>(0u, 1u, 2u, 3u));
}

// value · inverse ∘ gain + shift; the gain is row `row` of `norms`, the shift `next` rows behind it.
fn normalized(direction: u32, row: u32, next: u32, quad: u32, value: vec4<f32>, inverse: f32) -> vec4<f32> {
    let normal = value * inverse;
    if (!GAINS) {
        return normal;
    }
    let index = params.norms_start + direction * 18u * params.quads + quad;
    return normal * norms[index + row * params.quads] + norms[index + (row + next) * params.quads];
}

fn load4(offset: u32) -> vec4<f32> {
    let index = 4u * offset;
    return vec4<f32>(state[index], state[index + 1u], state[index + 2u], state[index + 3u]);
}

fn store4(offset: u32, value: vec4<f32>) {
    let index = 4u * offset;
    state[index] = value.x;
    state[index + 1u] = value.y;
    state[index + 2u] = value.z;
    state[index + 3u] = value.w;
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_index(wg);
    if (tile >= params.batch * params.directions) {
        return;
    }
    let direction = tile / params.batch;
    let row = tile % params.batch;
    let length = length_of(row);
    let is_active = params.step < length;
    let time = time_at(params.step, length, direction);
    let x = ((time * params.batch + row) * params.directions + direction) * 4u * params.quads;
    let u = params.sums + tile * 4u * params.quads;
    let c_offset = params.row_state + tile * params.quads;

    // Over products the components are x and U·h, over gates the four gates: scale, mean and inverse deviation of each.
    var largest = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        for (var k = 0u; k < 4u; k += 1u) {
            let gate_x = gates[x + k * params.quads + quad];
            let gate_u = load4(u + k * params.quads + quad);
            if (OVER_GATES) {
                largest = max(largest, gate_component(k, largest_unit(quad, gate_x + gate_u)));
            } else {
                largest = max(largest, vec4<f32>(largest_unit(quad, gate_x), largest_unit(quad, gate_u), 0.0, 0.0));
            }
        }
    }
    let scale = scale_of4(reduce(lane, largest, true));
    var sum = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        for (var k = 0u; k < 4u; k += 1u) {
            let gate_x = gates[x + k * params.quads + quad];
            let gate_u = load4(u + k * params.quads + quad);
            if (OVER_GATES) {
                sum += gate_component(k, sum_of_units(quad, (gate_x + gate_u) * scale[k]));
            } else {
                sum += vec4<f32>(sum_of_units(quad, gate_x * scale.x), sum_of_units(quad, gate_u * scale.y), 0.0, 0.0);
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
            let gate_u = load4(u + k * params.quads + quad);
            if (OVER_GATES) {
                let deviation = (gate_x + gate_u) * scale[k] - mean[k];
                squares += gate_component(k, sum_of_units(quad, deviation * deviation));
            } else {
                let deviation_x = gate_x * scale.x - mean.x;
                let deviation_u = gate_u * scale.y - mean.y;
                squares += vec4<f32>(
                    sum_of_units(quad, deviation_x * deviation_x), sum_of_units(quad, deviation_u * deviation_u), 0.0, 0.0,
                );
            }
        }
    }
    let inverse = inverse_deviation4(reduce(lane, squares, false) / count, scale, params.epsilon);

    // Pre-activations replace U·h in `sums`, then c' those of gate 0; the last loop needs it and gate 3.
    var cell_largest = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        for (var k = 0u; k < 4u; k += 1u) {
            let gate_x = gates[x + k * params.quads + quad];
            let gate_u = load4(u + k * params.quads + quad);
            var value = vec4<f32>(0.0);
            if (OVER_GATES) {
                value = normalized(direction, 8u + k, 4u, quad, (gate_x + gate_u) * scale[k] - mean[k], inverse[k]);
            } else {
                value = normalized(direction, k, 4u, quad, gate_x * scale.x - mean.x, inverse.x)
                    + normalized(direction, 8u + k, 4u, quad, gate_u * scale.y - mean.y, inverse.y);
            }
            if (HAS_BIAS) {
                value += vector(direction, k, quad) + vector(direction, 4u + k, quad);
            }
            store4(u + k * params.quads + quad, value);
        }
        var i = load4(u + quad);
        var f = load4(u + params.quads + quad);
        let g = load4(u + 2u * params.quads + quad);
        let old = load4(c_offset + quad);
        if (PEEPHOLES) {
            i += vector(direction, 8u, quad) * old;
            f += vector(direction, 9u, quad) * old;
        }
        let next = lstm_cell(direction, i, f, g, old);
        store4(u + quad, next);
        cell_largest.x = max(cell_largest.x, largest_unit(quad, next));
    }
    let cell_scale = scale_of4(reduce(lane, cell_largest, true)).x;
    var cell_sum = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        cell_sum.x += sum_of_units(quad, load4(u + quad) * cell_scale);
    }
    let cell_mean = reduce(lane, cell_sum, false).x / f32(params.units);
    var cell_squares = vec4<f32>(0.0);
    for (var quad = lane; quad < params.quads; quad += LANES) {
        let deviation = load4(u + quad) * cell_scale - cell_mean;
        cell_squares.x += sum_of_units(quad, deviation * deviation);
    }
    let cell_inverse = inverse_deviation4(
        reduce(lane, cell_squares, false) / f32(params.units), vec4<f32>(cell_scale), params.epsilon,
    ).x;

    for (var quad = lane; quad < params.quads; quad += LANES) {
        let next = load4(u + quad);
        let normal = normalized(direction, 16u, 1u, quad, next * cell_scale - cell_mean, cell_inverse);
        var carried = next;
        if (CARRY) {
            carried = normal;
        }
        var o = load4(u + 3u * params.quads + quad);
        if (PEEPHOLES) {
            o += vector(direction, 10u, quad) * carried;
        }
        if (is_active) {
            store4(c_offset + quad, carried);
        }
        let h = lstm_output(direction, o, normal);
        for (var k = 0u; k < 4u; k += 1u) {
            // h is [directions, units, rows].
            let index = ((direction * params.quads + quad) * 4u + k) * params.rows + row;
            state[4u * params.result + index] = select(state[4u * params.old + index], h[k], is_active || PROJECTED);
            if (EMIT && !PROJECTED && quad * 4u + k < params.units) {
                output[element(params.output, time, row, direction, quad * 4u + k)] = out_elem(select(0.0, h[k], is_active));
            }
        }
    }
}
