// Attention with an online softmax whose products are cooperative matrices of SIDE × SIDE: f16 operands, f32 accumulators.
//
//   row_max = −∞, row_sum = 0, O = 0
//   for each tile of TILE_N keys, of which one is visible to one of the rows:
//     S = Q·Kᵀ                              SCORE_MATRICES matrices a subgroup, through `s_tile` to the lanes
//     row_max = max(row_max, max_j s_j);  reference follows row_max
//     p_j = exp(s_j − reference);  row_sum += Σ_j p_j;  P = p in f16, into `p_tile`
//     O = rescale · O + P·V                 OUTPUT_MATRICES matrices a subgroup
//   output = O / Σ P;  lse = row_max + ln row_sum           (with a sink as in online_softmax.wgsl)
//
// A workgroup computes tile_m = SUBGROUPS_M · SIDE query rows. Its subgroups are arranged SUBGROUPS_M × SUBGROUPS_N: those
// with the same subgroup_m share SIDE rows, and divide their keys and their output columns between them. ROW_LANES
// neighbouring lanes share a row of scores and outputs: quads of four columns, dealt out in turn.
//
// The elements of a matrix cannot be accessed, so what a lane is to see of one goes through workgroup memory. O is held
//   in the lanes (CARRIED false): each tile's P·V starts from 0 and is added in f32; the rescale is a multiplication.
//   in matrices (CARRIED true): P·V adds to them. A rescale takes them through workgroup memory, and is rare: reference
//     follows row_max only when that is more than RESCALE_THRESHOLD ahead (as in FlashAttention 4); until then rescale = 1
//     and p ≤ e^RESCALE_THRESHOLD.
// Numerator and denominator of the output sum the same rounded weights, the log-sum-exp the exact ones.
//
// A hidden value may be NaN or infinite, and 0 · NaN is NaN. Values that are not finite count as 0 in the product, and are
// added in workgroup memory to the rows that they are visible to, where the weight is not 0 in f16.
const RESCALE_THRESHOLD = 5.5; // e^RESCALE_THRESHOLD · WEIGHT_SCALE is below the largest f16
const WEIGHT_SCALE = 256.0;    // keeps weights far below the largest one from underflowing in f16

@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

alias Scores = array<vec4<f32>, 8>;
alias Outputs = array<vec4<f32>, 16>;

// The score of a pair on its way into a softmax; HIDDEN outside the split.
fn pair_score(range: KeyRange, keys: KeyTile, full: bool, h: u32, i: u32, j: u32, product: f32) -> f32 {
    let s = modified_score(keys.b, h, i, j, product);
    if (full) {
        return s;
    }
    return select(HIDDEN, masked_score(range, keys.b, h, i, j, s), j >= keys.first && j < keys.last);
}

// The same of a lane's scores of a block, in `s_tile`: of none or all, as a loop that no compiler unrolls.
fn score_pairs(range: KeyRange, keys: KeyTile, full: bool, h: u32, i: u32, block: u32, count: u32, lane: Lane) {
    for (var quad = lane.quad; quad < count; quad += ROW_LANES) {
        let j = keys.j + 4u * (block * BLOCK_QUADS + quad);
        let index = lane.r * S_STRIDE + quad;
        let s = s_tile[index];
        s_tile[index] = vec4<f32>(
            pair_score(range, keys, full, h, i, j, s.x), pair_score(range, keys, full, h, i, j + 1u, s.y),
            pair_score(range, keys, full, h, i, j + 2u, s.z), pair_score(range, keys, full, h, i, j + 3u, s.w),
        );
    }
}

// Of four columns of one row each.
struct Extremes {
    most: vec4<f32>,
    least: vec4<f32>,
}

fn load_score(s: ptr<function, Scores>, extremes: ptr<function, Extremes>, ready: bool, block: u32, k: u32, lane: Lane) {
    var x = s_tile[lane.first + k * ROW_LANES];
    if (!ready) {
        x = softcap4(params.scale * x);
    }
    (*s)[block * LANE_QUADS + k] = x;
    (*extremes).most = max((*extremes).most, x);
    (*extremes).least = min((*extremes).least, x);
}

// Loads a lane's scores of a block, times the scale if they are not `ready`.
fn load_scores(s: ptr<function, Scores>, extremes: ptr<function, Extremes>, ready: bool, block: u32, lane: Lane) {
    load_score(s, extremes, ready, block, 0u, lane);
    if (LANE_QUADS > 1u) { load_score(s, extremes, ready, block, 1u, lane); }
    if (LANE_QUADS > 2u) { load_score(s, extremes, ready, block, 2u, lane); load_score(s, extremes, ready, block, 3u, lane); }
    if (LANE_QUADS > 4u) {
        load_score(s, extremes, ready, block, 4u, lane);
        load_score(s, extremes, ready, block, 5u, lane);
        load_score(s, extremes, ready, block, 6u, lane);
        load_score(s, extremes, ready, block, 7u, lane);
    }
}

struct Sums {
    weights: vec4<f32>, // of exp(s − reference), times WEIGHT_SCALE
    rounded: vec4<f32>, // of the same as rounded to f16
}

fn store_weight(s: ptr<function, Scores>, sums: ptr<function, Sums>, subtrahend: f32, k: u32, lane: Lane) {
    var p = WEIGHT_SCALE * exp_falling4(over_temperature((*s)[k] - subtrahend));
    if (TEMPERATURE) {
        p = select(p, vec4<f32>(), (*s)[k] <= vec4<f32>(MINUS_INFINITY)); // which a high one brings near the others
    }
    let rounded = vec4<f16>(p);
    p_tile[lane.r * N_STRIDE + lane.quad + k * ROW_LANES] = rounded;
    (*sums).weights += p;
    (*sums).rounded += vec4<f32>(rounded);
}

// Stores a lane's weights of a block.
fn store_weights(s: ptr<function, Scores>, sums: ptr<function, Sums>, subtrahend: f32, block: u32, lane: Lane) {
    let k = block * LANE_QUADS;
    store_weight(s, sums, subtrahend, k, lane);
    if (LANE_QUADS > 1u) { store_weight(s, sums, subtrahend, k + 1u, lane); }
    if (LANE_QUADS > 2u) {
        store_weight(s, sums, subtrahend, k + 2u, lane);
        store_weight(s, sums, subtrahend, k + 3u, lane);
    }
    if (LANE_QUADS > 4u) {
        store_weight(s, sums, subtrahend, k + 4u, lane);
        store_weight(s, sums, subtrahend, k + 5u, lane);
        store_weight(s, sums, subtrahend, k + 6u, lane);
        store_weight(s, sums, subtrahend, k + 7u, lane);
    }
}

// A lane's outputs of a block in `s_tile`, times `rescale`.
fn rescale_outputs(rescale: f32, lane: Lane) {
    for (var quad = 0u; quad < BLOCK_QUADS; quad += ROW_LANES) {
        s_tile[lane.first + quad] *= rescale;
    }
}

// Adds the products with values that are not finite to a lane's outputs of a block in `s_tile`.
fn add_non_finite(keys: KeyTile, block: u32, lane: Lane) {
    for (var quad = lane.quad; quad < min(BLOCK_QUADS, VALUE_QUADS - block * BLOCK_QUADS); quad += ROW_LANES) {
        var sum = vec4<f32>();
        for (var j = keys.first; j < keys.last; j += 1u) {
            let n = j - keys.j;
            let p = f32(p_tile[lane.r * N_STRIDE + n / 4u][n % 4u]);
            let kv_row = locate(keys.b, j);
            let v = value_at(element(params.value, kv_row.x, keys.head, kv_row.y, block * BLOCK_QUADS + quad));
            if (p != 0.0) {
                sum += select(vec4<f32>(), p * v, is_non_finite(vec4<f16>(v)));
            }
        }
        s_tile[lane.r * S_STRIDE + quad] += sum;
    }
}

fn add_to_output(o: ptr<function, Outputs>, block: u32, k: u32, rescale: f32, lane: Lane) {
    let n = block * LANE_QUADS + k;
    (*o)[n] = fma((*o)[n], vec4<f32>(rescale), s_tile[lane.first + k * ROW_LANES]);
}

// O = rescale · O + P·V of a lane's outputs of a block.
fn add_to_outputs(o: ptr<function, Outputs>, block: u32, rescale: f32, lane: Lane) {
    add_to_output(o, block, 0u, rescale, lane);
    if (LANE_QUADS > 1u) { add_to_output(o, block, 1u, rescale, lane); }
    if (LANE_QUADS > 2u) { add_to_output(o, block, 2u, rescale, lane); add_to_output(o, block, 3u, rescale, lane); }
    if (LANE_QUADS > 4u) {
        add_to_output(o, block, 4u, rescale, lane);
        add_to_output(o, block, 5u, rescale, lane);
        add_to_output(o, block, 6u, rescale, lane);
        add_to_output(o, block, 7u, rescale, lane);
    }
}

// One block of O = rescale · O + P·V.
fn update_outputs(
    acc: ptr<function, Accumulators>, o: ptr<function, Outputs>, block: u32, rescale: f32, found: u32, keys: KeyTile, lane: Lane,
) {
    let m = block * BLOCK_MATRICES;
    if (CARRIED) {
        if (found != 0u) {
            workgroupBarrier();
            if (lane.has_matrices) {
                store_block(acc, m, OUTPUT_MATRICES - m, lane);
            }
            workgroupBarrier();
            rescale_outputs(rescale, lane);
            if ((found & NON_FINITE) != 0u) {
                add_non_finite(keys, block, lane);
            }
            workgroupBarrier();
            if (lane.has_matrices) {
                load_block(acc, m, OUTPUT_MATRICES - m, lane);
            }
        }
        if (lane.has_matrices) {
            add_outputs(acc, m, block, lane);
        }
    } else {
        if (block > 0u) {
            workgroupBarrier();
        }
        if (lane.has_matrices) {
            var sums = Accumulators();
            add_outputs(&sums, 0u, block, lane);
            store_block(&sums, 0u, OUTPUT_MATRICES - m, lane);
        }
        workgroupBarrier();
        if ((found & NON_FINITE) != 0u) {
            add_non_finite(keys, block, lane);
        }
        add_to_outputs(o, block, rescale, lane);
    }
}

fn store_output(o: ptr<function, Outputs>, block: u32, k: u32, scale: f32, offset: u32, lane: Lane) {
    let quad = block * BLOCK_QUADS + lane.quad + k * ROW_LANES;
    if (quad < VALUE_QUADS) {
        var values = s_tile[lane.first + k * ROW_LANES];
        if (!CARRIED) {
            values = (*o)[block * LANE_QUADS + k];
        }
        output[offset + quad] = vec4<out_elem>(scale * values);
    }
}

// Stores one block of a row's outputs, times `scale`.
fn store_outputs(
    acc: ptr<function, Accumulators>, o: ptr<function, Outputs>, block: u32, scale: f32, offset: u32, is_query: bool, lane: Lane,
) {
    if (CARRIED) {
        workgroupBarrier();
        if (lane.has_matrices) {
            store_block(acc, block * BLOCK_MATRICES, OUTPUT_MATRICES - block * BLOCK_MATRICES, lane);
        }
        workgroupBarrier();
    }
    if (is_query) {
        store_output(o, block, 0u, scale, offset, lane);
        if (LANE_QUADS > 1u) { store_output(o, block, 1u, scale, offset, lane); }
        if (LANE_QUADS > 2u) { store_output(o, block, 2u, scale, offset, lane); store_output(o, block, 3u, scale, offset, lane); }
        if (LANE_QUADS > 4u) {
            store_output(o, block, 4u, scale, offset, lane);
            store_output(o, block, 5u, scale, offset, lane);
            store_output(o, block, 6u, scale, offset, lane);
            store_output(o, block, 7u, scale, offset, lane);
        }
    }
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, ids: LaneIds) {
    let tile_index = workgroup_index(wg);
    if (tile_index >= params.tiles) {
        return;
    }
    let tile = tile_of(tile_index, params.heads);
    let b = tile.b;
    let h = tile.h;
    let queries = params.positions.queries;
    let first_i = tile.row_tile * ROWS;
    let last_i = min(first_i + ROWS, queries);
    let visible = tile_visibility(b, first_i, last_i);

    let index = ids.subgroup * ids.size + ids.id;
    let lane = Lane(
        index,
        ids.subgroup < SUBGROUPS_M * SUBGROUPS_N, ids.subgroup / SUBGROUPS_N, ids.subgroup % SUBGROUPS_N,
        index / ROW_LANES, index % ROW_LANES, index / ROW_LANES * S_STRIDE + index % ROW_LANES,
    );
    let i = min(first_i + lane.r, queries - 1u);
    let range = key_range(b, i);

    if (lane.index == 0u) {
        atomicStore(&flags, 0u);
    }
    var q = array<matrix_a, 8>();
    if (QUERY_MATRICES == 0u) {
        stage_queries(lane.index, b, h, first_i, 0u, ROWS);
    } else {
        // As many rows at a time as there is room for keys.
        for (var row = 0u; row < ROWS; row += TILE_N) {
            workgroupBarrier();
            stage_queries(lane.index, b, h, first_i, row, min(row + TILE_N, ROWS));
            workgroupBarrier();
            if (lane.has_matrices && lane.m * SIDE / TILE_N == row / TILE_N) {
                q = load_queries(lane.m * SIDE - row);
            }
        }
    }

    var reference = HIDDEN;
    var row_max = HIDDEN;
    var sums = Sums(); // of this lane's keys
    var acc = Accumulators();
    var o = Outputs();

    let key_begin = max(min(visible.any.first, visible.any.start), tile.first_key);
    let key_end = min(max(visible.any.end, visible.any.sinks_end), tile.end_key);
    for (var j = key_begin / TILE_N * TILE_N; j < key_end; j += TILE_N) {
        j = skip_gap(visible, j, TILE_N);
        let state = tile_state(visible, b, h, first_i, last_i, j, j + TILE_N);
        if (j >= key_end || state == TILE_HIDDEN) {
            continue;
        }
        let full = state == TILE_FULL && j + TILE_N <= key_end && j >= tile.first_key;
        let keys = KeyTile(b, h / params.group, j, max(j, tile.first_key), min(j + TILE_N, key_end));

        workgroupBarrier();
        stage_keys(lane.index, keys);
        workgroupBarrier();
        if (lane.index == 0u) {
            atomicStore(&flags, 0u);
        }
        var matrices = Accumulators();
        if (lane.has_matrices) {
            if (QUERY_MATRICES == 0u) {
                for (var d = 0u; d < HEAD_QUADS; d += SIDE / 4u) {
                    let q_d = coopLoadT<matrix_a>(&q_tile[lane.m * SIDE * D_STRIDE + d], D_STRIDE);
                    add_scores(&matrices, q_d, lane.n, d);
                }
            } else {
                let step = SIDE / 4u;
                add_scores(&matrices, q[0], lane.n, 0u);
                if (QUERY_MATRICES > 1u) { add_scores(&matrices, q[1], lane.n, step); }
                if (QUERY_MATRICES > 2u) { add_scores(&matrices, q[2], lane.n, 2u * step); }
                if (QUERY_MATRICES > 3u) { add_scores(&matrices, q[3], lane.n, 3u * step); }
                if (QUERY_MATRICES > 4u) { add_scores(&matrices, q[4], lane.n, 4u * step); }
                if (QUERY_MATRICES > 5u) { add_scores(&matrices, q[5], lane.n, 5u * step); }
                if (QUERY_MATRICES > 6u) { add_scores(&matrices, q[6], lane.n, 6u * step); }
                if (QUERY_MATRICES > 7u) { add_scores(&matrices, q[7], lane.n, 7u * step); }
            }
            store_block(&matrices, 0u, BLOCK_MATRICES, lane);
        }
        workgroupBarrier();

        stage_values(lane.index, keys);
        var s = Scores();
        var extremes = Extremes(vec4<f32>(HIDDEN), vec4<f32>(0.0));
        let ready = SCORE_MOD || !full;
        let count = select(0u, BLOCK_QUADS, ready);
        score_pairs(range, keys, full, h, i, 0u, count, lane);
        load_scores(&s, &extremes, ready, 0u, lane);
        if (SCORE_BLOCKS > 1u) {
            workgroupBarrier();
            if (lane.has_matrices) {
                store_block(&matrices, BLOCK_MATRICES, BLOCK_MATRICES, lane);
            }
            workgroupBarrier();
            score_pairs(range, keys, full, h, i, 1u, count, lane);
            load_scores(&s, &extremes, ready, 1u, lane);
        }
        var most = extremes.most;
        let least = min(min(extremes.least.x, extremes.least.y), min(extremes.least.z, extremes.least.w));
        if (!ready && least < LEAST_VISIBLE) {
            for (var k = 0u; k < SCORE_BLOCKS * LANE_QUADS; k += 1u) {
                s[k] = finite_score4(s[k]);
                most = max(most, s[k]);
            }
        }
        var tile_max = max(max(most.x, most.y), max(most.z, most.w));
        for (var xor_mask = 1u; xor_mask < ROW_LANES; xor_mask *= 2u) {
            tile_max = max(tile_max, subgroupShuffleXor(tile_max, xor_mask));
        }
        row_max = max(row_max, tile_max);
        var rescale = 1.0;
        if (!CARRIED) {
            rescale = exp_falling4(over_temperature(vec4<f32>(reference - row_max))).x;
            reference = row_max;
        } else if (reference <= MINUS_INFINITY) {
            reference = tile_max; // O is still 0
        } else if (over_temperature(vec4<f32>(tile_max - reference)).x > RESCALE_THRESHOLD) {
            rescale = exp_falling4(over_temperature(vec4<f32>(reference - tile_max))).x;
            reference = tile_max;
            atomicOr(&flags, RESCALE);
        }
        // Of hidden scores the weight is 0 beside any other, and so it is in rows without one.
        let subtrahend = select(reference, 0.0, reference <= MINUS_INFINITY);
        sums.weights *= rescale;
        sums.rounded *= rescale;
        store_weights(&s, &sums, subtrahend, 0u, lane);
        if (SCORE_BLOCKS > 1u) {
            store_weights(&s, &sums, subtrahend, 1u, lane);
        }
        workgroupBarrier();

        let found = atomicLoad(&flags);
        update_outputs(&acc, &o, 0u, rescale, found, keys, lane);
        if (OUTPUT_BLOCKS > 1u) { update_outputs(&acc, &o, 1u, rescale, found, keys, lane); }
        if (OUTPUT_BLOCKS > 2u) { update_outputs(&acc, &o, 2u, rescale, found, keys, lane); }
        if (OUTPUT_BLOCKS > 3u) { update_outputs(&acc, &o, 3u, rescale, found, keys, lane); }
        if (OUTPUT_BLOCKS > 4u) { update_outputs(&acc, &o, 4u, rescale, found, keys, lane); }
        if (OUTPUT_BLOCKS > 5u) { update_outputs(&acc, &o, 5u, rescale, found, keys, lane); }
        if (OUTPUT_BLOCKS > 6u) { update_outputs(&acc, &o, 6u, rescale, found, keys, lane); }
        if (OUTPUT_BLOCKS > 7u) { update_outputs(&acc, &o, 7u, rescale, found, keys, lane); }
    }

    var row_sum = (sums.weights.x + sums.weights.y) + (sums.weights.z + sums.weights.w);
    var weight_sum = (sums.rounded.x + sums.rounded.y) + (sums.rounded.z + sums.rounded.w);
    for (var xor_mask = 1u; xor_mask < ROW_LANES; xor_mask *= 2u) {
        row_sum += subgroupShuffleXor(row_sum, xor_mask);
        weight_sum += subgroupShuffleXor(weight_sum, xor_mask);
    }
    let sink = sink_of(vec4<u32>(h));
    let lag = exp_falling4(over_temperature(vec4<f32>(reference - row_max)));
    let result = finish_rows(vec4<f32>(row_max), row_sum / WEIGHT_SCALE * lag, sink);
    let weights = finish_rows(vec4<f32>(row_max), weight_sum / WEIGHT_SCALE * lag, sink);
    let scale = (weights.output_scale * lag).x / WEIGHT_SCALE;
    let is_query = first_i + lane.r < queries;
    let offset = element(params.output, tile.split * params.batch + b, h, i, 0u);
    store_outputs(&acc, &o, 0u, scale, offset, is_query, lane);
    if (OUTPUT_BLOCKS > 1u) { store_outputs(&acc, &o, 1u, scale, offset, is_query, lane); }
    if (OUTPUT_BLOCKS > 2u) { store_outputs(&acc, &o, 2u, scale, offset, is_query, lane); }
    if (OUTPUT_BLOCKS > 3u) { store_outputs(&acc, &o, 3u, scale, offset, is_query, lane); }
    if (OUTPUT_BLOCKS > 4u) { store_outputs(&acc, &o, 4u, scale, offset, is_query, lane); }
    if (OUTPUT_BLOCKS > 5u) { store_outputs(&acc, &o, 5u, scale, offset, is_query, lane); }
    if (OUTPUT_BLOCKS > 6u) { store_outputs(&acc, &o, 6u, scale, offset, is_query, lane); }
    if (OUTPUT_BLOCKS > 7u) { store_outputs(&acc, &o, 7u, scale, offset, is_query, lane); }
    if (lane.quad == 0u && is_query) {
        store_stats(tile, h, i, result.row_max.x, result.row_sum.x);
    }
}
