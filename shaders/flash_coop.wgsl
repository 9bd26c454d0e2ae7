// Attention with an online softmax whose products are cooperative matrices: f16 factors, f32 sums. A workgroup owns
// STRIPS strips of SIDE query rows; a strip belongs to GROUPS subgroups, which share its keys and its output columns.
//
//   for each KEYS keys that one of the rows sees:
//     S = Q·Kᵀ                 each subgroup SCORES matrices of its strip, into `scores`
//     s = S masked; m follows max s;  p = exp(s − m);  l += p;  P = p in f16, into `weights`
//     Y = c·Y + P·V            each subgroup COLUMNS matrices of its strip, which stay in its registers
//   with a sink, as flash.wgsl has it;  output = Y / Σ P;  lse = m + ln l
//
// Elements of a matrix cannot be reached, so c·Y is a way through workgroup memory. It is rare: m follows the largest
// score only when that is LAG ahead (as FlashAttention 4 does), until then c = 1 and p ≤ e^LAG. Numerator and
// denominator of the output add up the same rounded weights; the log-sum-exp adds up the exact ones.
//
// A hidden value may be NaN or infinite, and 0 · NaN is NaN. Such values count as 0 in the product, and are added on
// the way through workgroup memory to the rows that see them with a weight that is not 0 in f16.
override LANES: u32 = 32u;  // STRIPS · GROUPS times the longest subgroup: where they are shorter, some own nothing
override STRIPS: u32 = 2u;
override GROUPS: u32 = 1u;
override KEYS: u32 = 16u;   // GROUPS · SCORES · SIDE
override SCORES: u32 = 1u;  // 1, 2 or 4
override COLUMNS: u32 = 1u; // up to 8
override PARTS: u32 = 2u;   // lanes of a row: LANES / (STRIPS · SIDE), a power of two, neighbours in a subgroup
override QUERY_QUADS: u32 = 8u; // D / 4, whole matrices
override WIDEST: u32 = 32u; // elements of a row of keys, or of the matrices of a row of values

const LAG = 5.5;    // e^LAG · LIFT is below the largest f16
const LIFT = 256.0; // keeps weights far below the largest one from the end of f16's range
const PAD = 8u;     // elements between rows, so that rows start in different banks

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

override QUERY_STEP: u32 = 4u * QUERY_QUADS + PAD;
override TILE_STEP: u32 = WIDEST + PAD;
override SCORE_STEP: u32 = KEYS + 4u;
override WEIGHT_STEP: u32 = KEYS + PAD;

var<workgroup> rows: array<f16, STRIPS * SIDE * QUERY_STEP>;
var<workgroup> tile: array<f16, KEYS * TILE_STEP>; // keys, then their values
var<workgroup> scores: array<f32, STRIPS * SIDE * SCORE_STEP>;
var<workgroup> weights: array<f16, STRIPS * SIDE * WEIGHT_STEP>;
var<workgroup> factors: array<f32, STRIPS * SIDE>; // what the outputs of a row are to be multiplied with
var<workgroup> flags: atomic<u32>;

const RESCALE = 1u; // some factor is not 1
const POISON = 2u;  // some value is not finite

// Where an invocation stands.
struct Lane {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

// The tile of keys that a step is about.
struct Step {
    b: u32,
    head: u32,  // of keys
    j: u32,
    first: u32, // first .. last: those of j .. j + KEYS that lie in the workgroup's range
    last: u32,
}

fn stage_rows(lane: u32, b: u32, h: u32, first_i: u32) {
    for (var e = lane; e < STRIPS * SIDE * QUERY_QUADS; e += LANES) {
        let r = e / QUERY_QUADS;
        let quad = e % QUERY_QUADS;
        var x = vec4<f16>();
        if (first_i + r < params.positions.queries) {
            x = vec4<f16>(query[element(params.query, b, h, first_i + r, quad)]);
        }
        let at = r * QUERY_STEP + 4u * quad;
        rows[at] = x.x;
        rows[at + 1u] = x.y;
        rows[at + 2u] = x.z;
        rows[at + 3u] = x.w;
    }
}

fn put(n: u32, quad: u32, x: vec4<f16>) {
    let at = n * TILE_STEP + 4u * quad;
    tile[at] = x.x;
    tile[at + 1u] = x.y;
    tile[at + 2u] = x.z;
    tile[at + 3u] = x.w;
}

fn stage_keys(lane: u32, here: Step) {
    for (var e = lane; e < KEYS * QUERY_QUADS; e += LANES) {
        let n = e / QUERY_QUADS;
        let quad = e % QUERY_QUADS;
        var x = vec4<f16>();
        if (here.j + n >= here.first && here.j + n < here.last) {
            let at = place(here.b, here.j + n);
            x = vec4<f16>(key_at(element(params.key, at.x, here.head, at.y, quad)));
        }
        put(n, quad, x);
    }
}

// Numbers too large for f16 are none of its either.
fn not_finite(x: vec4<f16>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(vec4<f32>(x)) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u);
}

fn stage_values(lane: u32, here: Step) {
    for (var e = lane; e < KEYS * params.width; e += LANES) {
        let n = e / params.width;
        let quad = e % params.width;
        var x = vec4<f16>();
        if (here.j + n >= here.first && here.j + n < here.last) {
            let at = place(here.b, here.j + n);
            x = vec4<f16>(value_at(element(params.value, at.x, here.head, at.y, quad)));
            let bad = not_finite(x);
            if (any(bad)) {
                atomicOr(&flags, POISON);
                x = select(x, vec4<f16>(), bad);
            }
        }
        put(n, quad, x);
    }
}

// The scores of one subgroup.
fn multiply_keys(strip: u32, group: u32) {
    let q_at = strip * SIDE * QUERY_STEP;
    let k_at = group * SCORES * SIDE * TILE_STEP;
    let k_step = SIDE * TILE_STEP;
    var s0 = sum_matrix();
    var s1 = sum_matrix();
    var s2 = sum_matrix();
    var s3 = sum_matrix();
    for (var d = 0u; d < 4u * QUERY_QUADS; d += SIDE) {
        let q = coopLoadT<left_factor>(&rows[q_at + d], QUERY_STEP);
        s0 = coopMultiplyAdd(q, coopLoad<right_factor>(&tile[k_at + d], TILE_STEP), s0);
        if (SCORES > 1u) {
            s1 = coopMultiplyAdd(q, coopLoad<right_factor>(&tile[k_at + k_step + d], TILE_STEP), s1);
        }
        if (SCORES > 2u) {
            s2 = coopMultiplyAdd(q, coopLoad<right_factor>(&tile[k_at + 2u * k_step + d], TILE_STEP), s2);
            s3 = coopMultiplyAdd(q, coopLoad<right_factor>(&tile[k_at + 3u * k_step + d], TILE_STEP), s3);
        }
    }
    // naga 30 wants the arguments of a store to have names.
    let step = SCORE_STEP;
    let at_0 = strip * SIDE * SCORE_STEP + group * SCORES * SIDE;
    coopStoreT(s0, &scores[at_0], step);
    if (SCORES > 1u) {
        let at_1 = at_0 + SIDE;
        coopStoreT(s1, &scores[at_1], step);
    }
    if (SCORES > 2u) {
        let at_2 = at_0 + 2u * SIDE;
        let at_3 = at_0 + 3u * SIDE;
        coopStoreT(s2, &scores[at_2], step);
        coopStoreT(s3, &scores[at_3], step);
    }
}

// `scores` as one matrix a subgroup.
fn area_of(subgroup: u32) -> u32 {
    return subgroup * SIDE * SIDE;
}

// The row and the output column of an element of those, in column `c` of each subgroup's matrices.
fn where_is(e: u32, c: u32) -> vec2<u32> {
    let owner = e / (SIDE * SIDE);
    let row = (owner / GROUPS) * SIDE + e / SIDE % SIDE;
    return vec2<u32>(row, ((owner % GROUPS) * COLUMNS + c) * SIDE + e % SIDE);
}

// c·Y, and the values that are no numbers.
fn renew(lane: u32, here: Step, c: u32, poisoned: bool) {
    for (var e = lane; e < STRIPS * GROUPS * SIDE * SIDE; e += LANES) {
        let at = where_is(e, c);
        var y = scores[e] * factors[at.x];
        if (poisoned && at.y < 4u * params.width) {
            for (var j = here.first; j < here.last; j += 1u) {
                let p = f32(weights[at.x * WEIGHT_STEP + j - here.j]);
                let spot = place(here.b, j);
                let v = value_at(element(params.value, spot.x, here.head, spot.y, at.y / 4u))[at.y % 4u];
                if (p != 0.0 && not_finite(vec4<f16>(f16(v))).x) {
                    y += p * v;
                }
            }
        }
        scores[e] = y;
    }
}

// One of a subgroup's matrices through workgroup memory, where `renew` works on it.
fn renewed(subgroup: u32, lane: u32, here: Step, c: u32, poisoned: bool, y: sum_matrix) -> sum_matrix {
    let at = area_of(subgroup);
    let step = SIDE;
    workgroupBarrier();
    if (subgroup < STRIPS * GROUPS) {
        coopStoreT(y, &scores[at], step);
    }
    workgroupBarrier();
    renew(lane, here, c, poisoned);
    workgroupBarrier();
    var next = y;
    if (subgroup < STRIPS * GROUPS) {
        next = coopLoadT<sum_matrix>(&scores[at], step);
    }
    return next;
}

// One of a subgroup's matrices to where the caller wants it, times the factors.
fn finish(subgroup: u32, lane: u32, output_at: u32, first_i: u32, c: u32, y: sum_matrix) {
    let at = area_of(subgroup);
    let step = SIDE;
    workgroupBarrier();
    if (subgroup < STRIPS * GROUPS) {
        coopStoreT(y, &scores[at], step);
    }
    workgroupBarrier();
    for (var e = 4u * lane; e < STRIPS * GROUPS * SIDE * SIDE; e += 4u * LANES) {
        let to = where_is(e, c);
        let i = first_i + to.x;
        if (i < params.positions.queries && to.y < 4u * params.width) {
            let y4 = vec4<f32>(scores[e], scores[e + 1u], scores[e + 2u], scores[e + 3u]) * factors[to.x];
            output[output_at + i * params.output.strides.z + to.y / 4u] = vec4<out_elem>(y4);
        }
    }
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, at: Lane) {
    let number = workgroup_number(here);
    if (number >= params.tiles) {
        return;
    }
    let stand = place_of(number, params.heads);
    let b = stand.b;
    let h = stand.h;
    let queries = params.positions.queries;
    let first_i = stand.row * STRIPS * SIDE;
    let last_i = min(first_i + STRIPS * SIDE, queries);
    let reach = reach_of(b, first_i, last_i);

    let subgroup = at.subgroup;
    let lane = subgroup * at.size + at.id;
    let owns = subgroup < STRIPS * GROUPS;
    let strip = subgroup / GROUPS;
    let group = subgroup % GROUPS;
    // The row of this lane's scores. Rows past the end repeat the last one and are not stored.
    let r = lane / PARTS;
    let part = lane % PARTS;
    let i = min(first_i + r, queries - 1u);
    let row = row_of(b, i);

    if (lane == 0u) {
        atomicStore(&flags, 0u);
    }
    stage_rows(lane, b, h, first_i);

    var m = HIDDEN;
    var top = HIDDEN; // the largest score, which m follows
    var l = 0.0;     // of this lane's keys
    var total = 0.0; // of their weights as they are multiplied
    var y0 = sum_matrix();
    var y1 = sum_matrix();
    var y2 = sum_matrix();
    var y3 = sum_matrix();
    var y4 = sum_matrix();
    var y5 = sum_matrix();
    var y6 = sum_matrix();
    var y7 = sum_matrix();

    let lowest = max(min(reach.any.first, reach.any.start), stand.first_key);
    let highest = min(max(reach.any.last, reach.any.sinks_last), stand.last_key);
    for (var j = lowest / KEYS * KEYS; j < highest; j += KEYS) {
        j = skip_gap(reach, j, KEYS);
        let state = tile_state(reach, b, h, first_i, last_i, j, j + KEYS);
        if (j >= highest || state == TILE_HIDDEN) {
            continue;
        }
        let open = state == TILE_OPEN && j + KEYS <= highest && j >= stand.first_key;
        let step = Step(b, h / params.group, j, max(j, stand.first_key), min(j + KEYS, highest));

        workgroupBarrier();
        stage_keys(lane, step);
        workgroupBarrier();
        if (lane == 0u) {
            atomicStore(&flags, 0u);
        }
        if (owns) {
            multiply_keys(strip, group);
        }
        workgroupBarrier();

        stage_values(lane, step);
        var most = HIDDEN;
        for (var n = part; n < KEYS; n += PARTS) {
            let s_at = r * SCORE_STEP + n;
            var s = scored(b, h, i, j + n, scores[s_at]);
            if (!open) {
                s = shown(row, b, h, i, j + n, s);
                if (j + n >= step.last || j + n < step.first) {
                    s = HIDDEN;
                }
            }
            scores[s_at] = s;
            most = max(most, s);
        }
        for (var distance = 1u; distance < PARTS; distance *= 2u) {
            most = max(most, subgroupShuffleXor(most, distance));
        }
        top = max(top, most);
        var c = 1.0;
        if (m <= MINUS_INFINITY) {
            m = most; // nothing to multiply yet
        } else if (relative(vec4<f32>(most - m)).x > LAG) {
            c = exp_falling4(relative(vec4<f32>(m - most))).x;
            m = most;
            l *= c;
            total *= c;
            atomicOr(&flags, RESCALE);
        }
        if (part == 0u) {
            factors[r] = c;
        }
        for (var n = part; n < KEYS; n += PARTS) {
            let s = scores[r * SCORE_STEP + n];
            let p = weight(vec4<f32>(s), vec4<f32>(m)).x;
            let weight = f16(LIFT * p);
            weights[r * WEIGHT_STEP + n] = weight;
            l += p;
            total += f32(weight);
        }
        workgroupBarrier();

        let found = atomicLoad(&flags);
        if (found != 0u) {
            let poisoned = (found & POISON) != 0u;
            y0 = renewed(subgroup, lane, step, 0u, poisoned, y0);
            if (COLUMNS > 1u) {
                y1 = renewed(subgroup, lane, step, 1u, poisoned, y1);
            }
            if (COLUMNS > 2u) {
                y2 = renewed(subgroup, lane, step, 2u, poisoned, y2);
            }
            if (COLUMNS > 3u) {
                y3 = renewed(subgroup, lane, step, 3u, poisoned, y3);
            }
            if (COLUMNS > 4u) {
                y4 = renewed(subgroup, lane, step, 4u, poisoned, y4);
            }
            if (COLUMNS > 5u) {
                y5 = renewed(subgroup, lane, step, 5u, poisoned, y5);
            }
            if (COLUMNS > 6u) {
                y6 = renewed(subgroup, lane, step, 6u, poisoned, y6);
            }
            if (COLUMNS > 7u) {
                y7 = renewed(subgroup, lane, step, 7u, poisoned, y7);
            }
        }
        if (owns) {
            for (var n = 0u; n < KEYS; n += SIDE) {
                let p = coopLoadT<left_factor>(&weights[strip * SIDE * WEIGHT_STEP + n], WEIGHT_STEP);
                let v = n * TILE_STEP + group * COLUMNS * SIDE;
                y0 = coopMultiplyAdd(p, coopLoadT<right_factor>(&tile[v], TILE_STEP), y0);
                if (COLUMNS > 1u) {
                    y1 = coopMultiplyAdd(p, coopLoadT<right_factor>(&tile[v + SIDE], TILE_STEP), y1);
                }
                if (COLUMNS > 2u) {
                    y2 = coopMultiplyAdd(p, coopLoadT<right_factor>(&tile[v + 2u * SIDE], TILE_STEP), y2);
                }
                if (COLUMNS > 3u) {
                    y3 = coopMultiplyAdd(p, coopLoadT<right_factor>(&tile[v + 3u * SIDE], TILE_STEP), y3);
                }
                if (COLUMNS > 4u) {
                    y4 = coopMultiplyAdd(p, coopLoadT<right_factor>(&tile[v + 4u * SIDE], TILE_STEP), y4);
                }
                if (COLUMNS > 5u) {
                    y5 = coopMultiplyAdd(p, coopLoadT<right_factor>(&tile[v + 5u * SIDE], TILE_STEP), y5);
                }
                if (COLUMNS > 6u) {
                    y6 = coopMultiplyAdd(p, coopLoadT<right_factor>(&tile[v + 6u * SIDE], TILE_STEP), y6);
                }
                if (COLUMNS > 7u) {
                    y7 = coopMultiplyAdd(p, coopLoadT<right_factor>(&tile[v + 7u * SIDE], TILE_STEP), y7);
                }
            }
        }
    }

    for (var distance = 1u; distance < PARTS; distance *= 2u) {
        l += subgroupShuffleXor(l, distance);
        total += subgroupShuffleXor(total, distance);
    }
    let sink = sink_of(vec4<u32>(h));
    let behind = exp_falling4(relative(vec4<f32>(m - top)));
    let end = row_end(vec4<f32>(top), l * behind, sink);
    workgroupBarrier();
    if (part == 0u) {
        factors[r] = (row_end(vec4<f32>(top), total / LIFT * behind, sink).share * behind).x / LIFT;
    }
    let part_of_batch = stand.range * params.batch + b;
    let y_at = element(params.output, part_of_batch, h, 0u, 0u);
    finish(subgroup, lane, y_at, first_i, 0u, y0);
    if (COLUMNS > 1u) {
        finish(subgroup, lane, y_at, first_i, 1u, y1);
    }
    if (COLUMNS > 2u) {
        finish(subgroup, lane, y_at, first_i, 2u, y2);
    }
    if (COLUMNS > 3u) {
        finish(subgroup, lane, y_at, first_i, 3u, y3);
    }
    if (COLUMNS > 4u) {
        finish(subgroup, lane, y_at, first_i, 4u, y4);
    }
    if (COLUMNS > 5u) {
        finish(subgroup, lane, y_at, first_i, 5u, y5);
    }
    if (COLUMNS > 6u) {
        finish(subgroup, lane, y_at, first_i, 6u, y6);
    }
    if (COLUMNS > 7u) {
        finish(subgroup, lane, y_at, first_i, 7u, y7);
    }
    if (part == 0u && first_i + r < queries) {
        store_stats(stand, h, first_i + r, end.m.x, end.l.x);
    }
}
