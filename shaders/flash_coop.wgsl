// Attention with an online softmax whose products are cooperative matrices of SIDE × SIDE: f16 operands, f32 accumulators.
//
//   row_max = −∞, row_sum = 0, accumulator = 0
//   for each tile of TILE_N keys, of which one is visible to one of the rows:
//     S = Q·Kᵀ                              SCORE_MATRICES matrices a subgroup, into `s_tile`
//     row_max = max(row_max, max_j s_j);  scale_max follows row_max
//     p_j = exp(s_j − scale_max);  row_sum += Σ_j p_j;  P = p in f16, into `p_tile`
//     accumulator = rescale · accumulator + P·V      OUTPUT_MATRICES matrices a subgroup, in its registers
//   output = accumulator / Σ P;  lse = row_max + ln row_sum           (with a sink as in online_softmax.wgsl)
//
// A workgroup computes tile_m = SUBGROUPS_M · SIDE query rows. Its subgroups are arranged SUBGROUPS_M × SUBGROUPS_N: those
// with the same subgroup_m share SIDE rows, and divide their keys and their output columns between them. For the softmax,
// ROW_LANES neighbouring lanes share a row.
//
// The elements of a matrix cannot be accessed, so a rescale goes through workgroup memory. It is rare: scale_max follows
// row_max only when that is more than RESCALE_THRESHOLD ahead (as in FlashAttention 4); until then rescale = 1 and p ≤
// e^RESCALE_THRESHOLD. Numerator and denominator of the output sum the same rounded weights, the log-sum-exp the exact
// ones.
//
// A hidden value may be NaN or infinite, and 0 · NaN is NaN. Values that are not finite count as 0 in the product, and are
// added during a rescale to the rows that they are visible to, where the weight is not 0 in f16.
override LANES: u32 = 32u;           // SUBGROUPS_M · SUBGROUPS_N times the largest subgroup; smaller ones leave some idle
override SUBGROUPS_M: u32 = 2u;
override SUBGROUPS_N: u32 = 1u;
override TILE_N: u32 = 16u;          // SUBGROUPS_N · SCORE_MATRICES · SIDE
override SCORE_MATRICES: u32 = 1u;   // 1, 2 or 4
override OUTPUT_MATRICES: u32 = 1u;  // up to 8
override ROW_LANES: u32 = 2u;        // LANES / (SUBGROUPS_M · SIDE), a power of two; neighbours in a subgroup
override HEAD_QUADS: u32 = 8u;       // D / 4, D rounded up to whole matrices
override KV_ELEMENTS: u32 = 32u;     // elements of a row of `kv_tile`: the larger of D and Dv, both rounded up

const RESCALE_THRESHOLD = 5.5; // e^RESCALE_THRESHOLD · WEIGHT_SCALE is below the largest f16
const WEIGHT_SCALE = 256.0;    // keeps weights far below the largest one from underflowing in f16
const PAD = 8u;                // elements between rows of a tile, so that rows start in different banks

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

override Q_STRIDE: u32 = 4u * HEAD_QUADS + PAD;
override KV_STRIDE: u32 = KV_ELEMENTS + PAD;
override S_STRIDE: u32 = TILE_N + 4u;
override P_STRIDE: u32 = TILE_N + PAD;

var<workgroup> q_tile: array<f16, SUBGROUPS_M * SIDE * Q_STRIDE>;
var<workgroup> kv_tile: array<f16, TILE_N * KV_STRIDE>; // K, then V
var<workgroup> s_tile: array<f32, SUBGROUPS_M * SIDE * S_STRIDE>;
var<workgroup> p_tile: array<f16, SUBGROUPS_M * SIDE * P_STRIDE>;
var<workgroup> row_scale: array<f32, SUBGROUPS_M * SIDE>; // what the accumulator of a row is to be multiplied with
var<workgroup> flags: atomic<u32>;

const RESCALE = 1u;    // flags: some entry of `row_scale` is not 1
const NON_FINITE = 2u; // some value is not finite

struct LaneIds {
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) id: u32,
}

// A tile of keys.
struct KeyTile {
    b: u32,
    head: u32,  // key head
    j: u32,
    first: u32, // first .. last (exclusive): those of j .. j + TILE_N that belong to the workgroup's split
    last: u32,
}

fn stage_queries(lane: u32, b: u32, h: u32, first_i: u32) {
    for (var e = lane; e < SUBGROUPS_M * SIDE * HEAD_QUADS; e += LANES) {
        let r = e / HEAD_QUADS;
        let quad = e % HEAD_QUADS;
        var x = vec4<f16>();
        if (first_i + r < params.positions.queries) {
            x = vec4<f16>(query[element(params.query, b, h, first_i + r, quad)]);
        }
        let index = r * Q_STRIDE + 4u * quad;
        q_tile[index] = x.x;
        q_tile[index + 1u] = x.y;
        q_tile[index + 2u] = x.z;
        q_tile[index + 3u] = x.w;
    }
}

fn store_kv(n: u32, quad: u32, x: vec4<f16>) {
    let index = n * KV_STRIDE + 4u * quad;
    kv_tile[index] = x.x;
    kv_tile[index + 1u] = x.y;
    kv_tile[index + 2u] = x.z;
    kv_tile[index + 3u] = x.w;
}

fn stage_keys(lane: u32, keys: KeyTile) {
    for (var e = lane; e < TILE_N * HEAD_QUADS; e += LANES) {
        let n = e / HEAD_QUADS;
        let quad = e % HEAD_QUADS;
        var x = vec4<f16>();
        if (keys.j + n >= keys.first && keys.j + n < keys.last) {
            let kv_row = locate(keys.b, keys.j + n);
            x = vec4<f16>(key_at(element(params.key, kv_row.x, keys.head, kv_row.y, quad)));
        }
        store_kv(n, quad, x);
    }
}

// Numbers too large for f16 are infinite in it.
fn is_non_finite(x: vec4<f16>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(vec4<f32>(x)) & vec4<u32>(0x7f800000u)) == vec4<u32>(0x7f800000u);
}

fn stage_values(lane: u32, keys: KeyTile) {
    for (var e = lane; e < TILE_N * params.value_quads; e += LANES) {
        let n = e / params.value_quads;
        let quad = e % params.value_quads;
        var x = vec4<f16>();
        if (keys.j + n >= keys.first && keys.j + n < keys.last) {
            let kv_row = locate(keys.b, keys.j + n);
            x = vec4<f16>(value_at(element(params.value, kv_row.x, keys.head, kv_row.y, quad)));
            let non_finite = is_non_finite(x);
            if (any(non_finite)) {
                atomicOr(&flags, NON_FINITE);
                x = select(x, vec4<f16>(), non_finite);
            }
        }
        store_kv(n, quad, x);
    }
}

// S = Q·Kᵀ of one subgroup, into `s_tile`.
fn compute_scores(subgroup_m: u32, subgroup_n: u32) {
    let q_offset = subgroup_m * SIDE * Q_STRIDE;
    let k_offset = subgroup_n * SCORE_MATRICES * SIDE * KV_STRIDE;
    let k_stride = SIDE * KV_STRIDE;
    var s0 = matrix_c();
    var s1 = matrix_c();
    var s2 = matrix_c();
    var s3 = matrix_c();
    for (var d = 0u; d < 4u * HEAD_QUADS; d += SIDE) {
        let q = coopLoadT<matrix_a>(&q_tile[q_offset + d], Q_STRIDE);
        s0 = coopMultiplyAdd(q, coopLoad<matrix_b>(&kv_tile[k_offset + d], KV_STRIDE), s0);
        if (SCORE_MATRICES > 1u) {
            s1 = coopMultiplyAdd(q, coopLoad<matrix_b>(&kv_tile[k_offset + k_stride + d], KV_STRIDE), s1);
        }
        if (SCORE_MATRICES > 2u) {
            s2 = coopMultiplyAdd(q, coopLoad<matrix_b>(&kv_tile[k_offset + 2u * k_stride + d], KV_STRIDE), s2);
            s3 = coopMultiplyAdd(q, coopLoad<matrix_b>(&kv_tile[k_offset + 3u * k_stride + d], KV_STRIDE), s3);
        }
    }
    // naga 30 wants the arguments of a store to be variables.
    let stride = S_STRIDE;
    let offset_0 = subgroup_m * SIDE * S_STRIDE + subgroup_n * SCORE_MATRICES * SIDE;
    coopStoreT(s0, &s_tile[offset_0], stride);
    if (SCORE_MATRICES > 1u) {
        let offset_1 = offset_0 + SIDE;
        coopStoreT(s1, &s_tile[offset_1], stride);
    }
    if (SCORE_MATRICES > 2u) {
        let offset_2 = offset_0 + 2u * SIDE;
        let offset_3 = offset_0 + 3u * SIDE;
        coopStoreT(s2, &s_tile[offset_2], stride);
        coopStoreT(s3, &s_tile[offset_3], stride);
    }
}

// Where a subgroup's matrix lies in `s_tile` when that holds one matrix of each subgroup.
fn matrix_offset(subgroup: u32) -> u32 {
    return subgroup * SIDE * SIDE;
}

// The row of the tile and the output column of element e of those, of output matrix `column` of each subgroup.
fn output_position(e: u32, column: u32) -> vec2<u32> {
    let owner = e / (SIDE * SIDE);
    let row = (owner / SUBGROUPS_N) * SIDE + e / SIDE % SIDE;
    return vec2<u32>(row, ((owner % SUBGROUPS_N) * OUTPUT_MATRICES + column) * SIDE + e % SIDE);
}

// rescale · accumulator in `s_tile`, plus the products with values that are not finite.
fn rescale_elements(lane: u32, keys: KeyTile, column: u32, non_finite: bool) {
    for (var e = lane; e < SUBGROUPS_M * SUBGROUPS_N * SIDE * SIDE; e += LANES) {
        let position = output_position(e, column);
        var y = s_tile[e] * row_scale[position.x];
        if (non_finite && position.y < 4u * params.value_quads) {
            for (var j = keys.first; j < keys.last; j += 1u) {
                let p = f32(p_tile[position.x * P_STRIDE + j - keys.j]);
                let kv_row = locate(keys.b, j);
                let v = value_at(element(params.value, kv_row.x, keys.head, kv_row.y, position.y / 4u))[position.y % 4u];
                if (p != 0.0 && is_non_finite(vec4<f16>(f16(v))).x) {
                    y += p * v;
                }
            }
        }
        s_tile[e] = y;
    }
}

// Takes one of a subgroup's output matrices through `s_tile`, where `rescale_elements` works on it.
fn rescale_output(subgroup: u32, lane: u32, keys: KeyTile, column: u32, non_finite: bool, acc: matrix_c) -> matrix_c {
    let offset = matrix_offset(subgroup);
    let stride = SIDE;
    workgroupBarrier();
    if (subgroup < SUBGROUPS_M * SUBGROUPS_N) {
        coopStoreT(acc, &s_tile[offset], stride);
    }
    workgroupBarrier();
    rescale_elements(lane, keys, column, non_finite);
    workgroupBarrier();
    var rescaled = acc;
    if (subgroup < SUBGROUPS_M * SUBGROUPS_N) {
        rescaled = coopLoadT<matrix_c>(&s_tile[offset], stride);
    }
    return rescaled;
}

// Stores one of a subgroup's output matrices, times `row_scale`.
fn store_output(subgroup: u32, lane: u32, output_offset: u32, first_i: u32, column: u32, acc: matrix_c) {
    let offset = matrix_offset(subgroup);
    let stride = SIDE;
    workgroupBarrier();
    if (subgroup < SUBGROUPS_M * SUBGROUPS_N) {
        coopStoreT(acc, &s_tile[offset], stride);
    }
    workgroupBarrier();
    for (var e = 4u * lane; e < SUBGROUPS_M * SUBGROUPS_N * SIDE * SIDE; e += 4u * LANES) {
        let position = output_position(e, column);
        let i = first_i + position.x;
        if (i < params.positions.queries && position.y < 4u * params.value_quads) {
            let values = vec4<f32>(s_tile[e], s_tile[e + 1u], s_tile[e + 2u], s_tile[e + 3u]) * row_scale[position.x];
            output[output_offset + i * params.output.strides.z + position.y / 4u] = vec4<out_elem>(values);
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
    let first_i = tile.row_tile * SUBGROUPS_M * SIDE;
    let last_i = min(first_i + SUBGROUPS_M * SIDE, queries);
    let visible = tile_visibility(b, first_i, last_i);

    let subgroup = ids.subgroup;
    let lane = subgroup * ids.size + ids.id;
    let has_matrices = subgroup < SUBGROUPS_M * SUBGROUPS_N;
    let subgroup_m = subgroup / SUBGROUPS_N;
    let subgroup_n = subgroup % SUBGROUPS_N;
    // The row of this lane's scores. Rows past the end repeat the last one and are not stored.
    let r = lane / ROW_LANES;
    let row_lane = lane % ROW_LANES;
    let i = min(first_i + r, queries - 1u);
    let range = key_range(b, i);

    if (lane == 0u) {
        atomicStore(&flags, 0u);
    }
    stage_queries(lane, b, h, first_i);

    var scale_max = HIDDEN;
    var row_max = HIDDEN;
    var row_sum = 0.0;    // of this lane's keys
    var weight_sum = 0.0; // of their weights as rounded to f16, times WEIGHT_SCALE
    var acc0 = matrix_c();
    var acc1 = matrix_c();
    var acc2 = matrix_c();
    var acc3 = matrix_c();
    var acc4 = matrix_c();
    var acc5 = matrix_c();
    var acc6 = matrix_c();
    var acc7 = matrix_c();

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
        stage_keys(lane, keys);
        workgroupBarrier();
        if (lane == 0u) {
            atomicStore(&flags, 0u);
        }
        if (has_matrices) {
            compute_scores(subgroup_m, subgroup_n);
        }
        workgroupBarrier();

        stage_values(lane, keys);
        var tile_max = HIDDEN;
        for (var n = row_lane; n < TILE_N; n += ROW_LANES) {
            let s_index = r * S_STRIDE + n;
            var s = modified_score(b, h, i, j + n, s_tile[s_index]);
            if (!full) {
                s = masked_score(range, b, h, i, j + n, s);
                if (j + n >= keys.last || j + n < keys.first) {
                    s = HIDDEN;
                }
            }
            s_tile[s_index] = s;
            tile_max = max(tile_max, s);
        }
        for (var xor_mask = 1u; xor_mask < ROW_LANES; xor_mask *= 2u) {
            tile_max = max(tile_max, subgroupShuffleXor(tile_max, xor_mask));
        }
        row_max = max(row_max, tile_max);
        var rescale = 1.0;
        if (scale_max <= MINUS_INFINITY) {
            scale_max = tile_max; // the accumulator is still 0
        } else if (over_temperature(vec4<f32>(tile_max - scale_max)).x > RESCALE_THRESHOLD) {
            rescale = exp_falling4(over_temperature(vec4<f32>(scale_max - tile_max))).x;
            scale_max = tile_max;
            row_sum *= rescale;
            weight_sum *= rescale;
            atomicOr(&flags, RESCALE);
        }
        if (row_lane == 0u) {
            row_scale[r] = rescale;
        }
        for (var n = row_lane; n < TILE_N; n += ROW_LANES) {
            let s = s_tile[r * S_STRIDE + n];
            let p = exp_weight(vec4<f32>(s), vec4<f32>(scale_max), 0.0).x;
            let rounded = f16(WEIGHT_SCALE * p);
            p_tile[r * P_STRIDE + n] = rounded;
            row_sum += p;
            weight_sum += f32(rounded);
        }
        workgroupBarrier();

        let flags_set = atomicLoad(&flags);
        if (flags_set != 0u) {
            let non_finite = (flags_set & NON_FINITE) != 0u;
            acc0 = rescale_output(subgroup, lane, keys, 0u, non_finite, acc0);
            if (OUTPUT_MATRICES > 1u) {
                acc1 = rescale_output(subgroup, lane, keys, 1u, non_finite, acc1);
            }
            if (OUTPUT_MATRICES > 2u) {
                acc2 = rescale_output(subgroup, lane, keys, 2u, non_finite, acc2);
            }
            if (OUTPUT_MATRICES > 3u) {
                acc3 = rescale_output(subgroup, lane, keys, 3u, non_finite, acc3);
            }
            if (OUTPUT_MATRICES > 4u) {
                acc4 = rescale_output(subgroup, lane, keys, 4u, non_finite, acc4);
            }
            if (OUTPUT_MATRICES > 5u) {
                acc5 = rescale_output(subgroup, lane, keys, 5u, non_finite, acc5);
            }
            if (OUTPUT_MATRICES > 6u) {
                acc6 = rescale_output(subgroup, lane, keys, 6u, non_finite, acc6);
            }
            if (OUTPUT_MATRICES > 7u) {
                acc7 = rescale_output(subgroup, lane, keys, 7u, non_finite, acc7);
            }
        }
        if (has_matrices) {
            for (var n = 0u; n < TILE_N; n += SIDE) {
                let p = coopLoadT<matrix_a>(&p_tile[subgroup_m * SIDE * P_STRIDE + n], P_STRIDE);
                let v = n * KV_STRIDE + subgroup_n * OUTPUT_MATRICES * SIDE;
                acc0 = coopMultiplyAdd(p, coopLoadT<matrix_b>(&kv_tile[v], KV_STRIDE), acc0);
                if (OUTPUT_MATRICES > 1u) {
                    acc1 = coopMultiplyAdd(p, coopLoadT<matrix_b>(&kv_tile[v + SIDE], KV_STRIDE), acc1);
                }
                if (OUTPUT_MATRICES > 2u) {
                    acc2 = coopMultiplyAdd(p, coopLoadT<matrix_b>(&kv_tile[v + 2u * SIDE], KV_STRIDE), acc2);
                }
                if (OUTPUT_MATRICES > 3u) {
                    acc3 = coopMultiplyAdd(p, coopLoadT<matrix_b>(&kv_tile[v + 3u * SIDE], KV_STRIDE), acc3);
                }
                if (OUTPUT_MATRICES > 4u) {
                    acc4 = coopMultiplyAdd(p, coopLoadT<matrix_b>(&kv_tile[v + 4u * SIDE], KV_STRIDE), acc4);
                }
                if (OUTPUT_MATRICES > 5u) {
                    acc5 = coopMultiplyAdd(p, coopLoadT<matrix_b>(&kv_tile[v + 5u * SIDE], KV_STRIDE), acc5);
                }
                if (OUTPUT_MATRICES > 6u) {
                    acc6 = coopMultiplyAdd(p, coopLoadT<matrix_b>(&kv_tile[v + 6u * SIDE], KV_STRIDE), acc6);
                }
                if (OUTPUT_MATRICES > 7u) {
                    acc7 = coopMultiplyAdd(p, coopLoadT<matrix_b>(&kv_tile[v + 7u * SIDE], KV_STRIDE), acc7);
                }
            }
        }
    }

    for (var xor_mask = 1u; xor_mask < ROW_LANES; xor_mask *= 2u) {
        row_sum += subgroupShuffleXor(row_sum, xor_mask);
        weight_sum += subgroupShuffleXor(weight_sum, xor_mask);
    }
    let sink = sink_of(vec4<u32>(h));
    let lag = exp_falling4(over_temperature(vec4<f32>(scale_max - row_max)));
    let result = finish_rows(vec4<f32>(row_max), row_sum * lag, sink);
    workgroupBarrier();
    if (row_lane == 0u) {
        row_scale[r] =
            (finish_rows(vec4<f32>(row_max), weight_sum / WEIGHT_SCALE * lag, sink).output_scale * lag).x / WEIGHT_SCALE;
    }
    let output_batch = tile.split * params.batch + b;
    let output_offset = element(params.output, output_batch, h, 0u, 0u);
    store_output(subgroup, lane, output_offset, first_i, 0u, acc0);
    if (OUTPUT_MATRICES > 1u) {
        store_output(subgroup, lane, output_offset, first_i, 1u, acc1);
    }
    if (OUTPUT_MATRICES > 2u) {
        store_output(subgroup, lane, output_offset, first_i, 2u, acc2);
    }
    if (OUTPUT_MATRICES > 3u) {
        store_output(subgroup, lane, output_offset, first_i, 3u, acc3);
    }
    if (OUTPUT_MATRICES > 4u) {
        store_output(subgroup, lane, output_offset, first_i, 4u, acc4);
    }
    if (OUTPUT_MATRICES > 5u) {
        store_output(subgroup, lane, output_offset, first_i, 5u, acc5);
    }
    if (OUTPUT_MATRICES > 6u) {
        store_output(subgroup, lane, output_offset, first_i, 6u, acc6);
    }
    if (OUTPUT_MATRICES > 7u) {
        store_output(subgroup, lane, output_offset, first_i, 7u, acc7);
    }
    if (row_lane == 0u && first_i + r < queries) {
        store_stats(tile, h, first_i + r, result.row_max.x, result.row_sum.x);
    }
}
