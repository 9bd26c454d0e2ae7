// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention"), tiled for graphics
// cards: a workgroup computes tile_m = 4 · LANES_M query rows; tiles of queries, keys and values are staged in workgroup
// memory.
//
//   row_max = −∞, row_sum = 0, accumulator = 0
//   for each tile of TILE_N keys, of which one is visible to one of the rows:
//     S = Q·Kᵀ       staging tile_k = 4 · LANES_N dimensions of Q and K at a time; a register tile of 4 × 4 scores a lane
//     new_max = max(row_max, max_j s_j);  rescale = exp(row_max − new_max);  p_j = exp(s_j − new_max)
//     row_sum = rescale · row_sum + Σ_j p_j;  P is staged where Q was
//     accumulator = rescale · accumulator + P·V     staging 4 · LANES_N dimensions of V at a time
//   output = accumulator / row_sum;  lse = row_max + ln row_sum        (with a sink as in online_softmax.wgsl)
//   a split of the keys stores row_max and row_sum for `merge_partials` instead
//
// Lanes are arranged LANES_M × LANES_N. Lane (lane_m, lane_n) has the rows lane_m, lane_m + LANES_M, …, and the keys or
// quads of dimensions lane_n, lane_n + LANES_N, …, so that neighbouring lanes read neighbouring words. The components of a
// vec4 of scores or weights are the lane's four rows. LANES and LANES_N come with the group_*.wgsl file.
override LANES_M: u32 = 16u;       // LANES / LANES_N
override TILE_N: u32 = 32u;        // 4 · LANES_N
override QP_ENTRIES: u32 = 520u;   // of `qp_tile`
override KV_ENTRIES: u32 = 264u;   // of `kv_tile`
override ACCUMULATORS: u32 = 2u;   // register tiles of the output in a lane: Dv / (4 · LANES_N), rounded up

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
// 2 and 3 are key and value: common/key_*.wgsl, value_*.wgsl
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

// The tile of Q, [LANES_N quads of dimensions, tile_m + 1 rows]: one entry of padding, so that lanes write to different
// banks. Then the tile of P, [TILE_N keys, LANES_M], a vec4 for the four rows of a lane.
var<workgroup> qp_tile: array<vec4<f32>, QP_ENTRIES>;
// The tile of K, [LANES_N quads of dimensions, TILE_N + 1 keys]; then the tile of V, [TILE_N keys, LANES_N quads].
var<workgroup> kv_tile: array<vec4<f32>, KV_ENTRIES>;
// Whether a value of a partial tile is not finite.
var<workgroup> has_non_finite: atomic<u32>;

fn is_finite4(x: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) < vec4<u32>(0x7f800000u));
}

fn stage_queries(lane: u32, start: u32, first_i: u32, last_i: u32, first_quad: u32) {
    for (var n = lane; n < 4u * LANES_M * LANES_N; n += LANES) {
        let row = n / LANES_N;
        let quad = first_quad + n % LANES_N;
        var x = vec4<f32>(0.0);
        if (quad < params.head_quads) {
            x = vec4<f32>(query[start + min(first_i + row, last_i - 1u) * params.query.strides.z + quad]);
        }
        qp_tile[(n % LANES_N) * (4u * LANES_M + 1u) + row] = x;
    }
}

fn stage_keys(lane: u32, b: u32, h: u32, j: u32, first_quad: u32) {
    for (var n = lane; n < TILE_N * LANES_N; n += LANES) {
        let column = n / LANES_N;
        let quad = first_quad + n % LANES_N;
        var x = vec4<f32>(0.0);
        if (quad < params.head_quads) {
            let kv_row = locate(b, min(j + column, params.positions.keys - 1u));
            x = key_at(element(params.key, kv_row.x, h, kv_row.y, quad));
        }
        kv_tile[(n % LANES_N) * (TILE_N + 1u) + column] = x;
    }
}

fn stage_values(lane: u32, b: u32, h: u32, j: u32, first_quad: u32, full: bool) {
    for (var n = lane; n < TILE_N * LANES_N; n += LANES) {
        let quad = first_quad + n % LANES_N;
        var x = vec4<f32>(0.0);
        if (quad < params.value_quads) {
            let kv_row = locate(b, min(j + n / LANES_N, params.positions.keys - 1u));
            x = value_at(element(params.value, kv_row.x, h, kv_row.y, quad));
        }
        if (!full && !is_finite4(x)) {
            atomicStore(&has_non_finite, 1u);
        }
        kv_tile[n] = x;
    }
}

// P·V over the keys of a tile, four dimensions of four rows: column r is row r.
fn weighted_values(lane_m: u32, lane_n: u32) -> mat4x4<f32> {
    var y = mat4x4<f32>();
    for (var n = 0u; n < TILE_N; n += 1u) {
        let p = qp_tile[n * LANES_M + lane_m];
        let v = kv_tile[n * LANES_N + lane_n];
        y += mat4x4<f32>(p.x * v, p.y * v, p.z * v, p.w * v);
    }
    return y;
}

// The same where hidden values may be NaN or infinite: a value counts for nothing where its weight is 0.
fn weighted_visible_values(lane_m: u32, lane_n: u32) -> mat4x4<f32> {
    let zero = vec4<f32>(0.0);
    var y = mat4x4<f32>();
    for (var n = 0u; n < TILE_N; n += 1u) {
        let p = qp_tile[n * LANES_M + lane_m];
        let v = kv_tile[n * LANES_N + lane_n];
        y += mat4x4<f32>(
            select(p.x * v, zero, p.x == 0.0),
            select(p.y * v, zero, p.y == 0.0),
            select(p.z * v, zero, p.z == 0.0),
            select(p.w * v, zero, p.w == 0.0),
        );
    }
    return y;
}

// accumulator = rescale · accumulator + P·V for one slice of 4 · LANES_N dimensions.
fn accumulate(
    acc: mat4x4<f32>, slice: u32, rescale: vec4<f32>, lane: u32, b: u32, h: u32, j: u32, full: bool,
) -> mat4x4<f32> {
    workgroupBarrier();
    stage_values(lane, b, h, j, slice * LANES_N, full);
    workgroupBarrier();
    var sum = mat4x4<f32>();
    if (!full && atomicLoad(&has_non_finite) != 0u) {
        sum = weighted_visible_values(lane / LANES_N, lane % LANES_N);
    } else {
        sum = weighted_values(lane / LANES_N, lane % LANES_N);
    }
    return scale_columns(acc, rescale) + sum;
}

// Each row (a column of the matrix) times a number of its own.
fn scale_columns(acc: mat4x4<f32>, factors: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(acc[0] * factors.x, acc[1] * factors.y, acc[2] * factors.z, acc[3] * factors.w);
}

fn store(y: mat4x4<f32>, offset: vec4<u32>, in_bounds: vec4<bool>, quad: u32) {
    if (quad >= params.value_quads) {
        return;
    }
    if (in_bounds.x) {
        output[offset.x + quad] = vec4<out_elem>(y[0]);
    }
    if (in_bounds.y) {
        output[offset.y + quad] = vec4<out_elem>(y[1]);
    }
    if (in_bounds.z) {
        output[offset.z + quad] = vec4<out_elem>(y[2]);
    }
    if (in_bounds.w) {
        output[offset.w + quad] = vec4<out_elem>(y[3]);
    }
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, ids: LaneIds) {
    let tile_index = workgroup_index(wg);
    if (tile_index >= params.tiles) {
        return;
    }
    let lane = lane_index(ids);
    let lane_m = lane / LANES_N;
    let lane_n = lane % LANES_N;
    let tile = tile_of(tile_index, params.heads);
    let b = tile.b;
    let h = tile.h;
    let kv_head = h / params.group;
    // Rows past the end repeat the last one and are not stored.
    let first_i = tile.row_tile * 4u * LANES_M;
    let last_i = min(first_i + 4u * LANES_M, params.positions.queries);
    let rows = vec4<u32>(first_i + lane_m) + LANES_M * vec4<u32>(0u, 1u, 2u, 3u);
    let in_bounds = rows < vec4<u32>(last_i);
    let i = min(rows, vec4<u32>(last_i - 1u));
    let range_0 = key_range(b, i.x);
    let range_1 = key_range(b, i.y);
    let range_2 = key_range(b, i.z);
    let range_3 = key_range(b, i.w);
    let visible = tile_visibility(b, first_i, last_i);
    let q_start = element(params.query, b, h, 0u, 0u);
    let v_norm = v_norm_factor();
    let hidden = vec4<f32>(HIDDEN);

    var row_max = hidden;
    var row_sum = vec4<f32>(0.0); // of this lane's keys
    var acc_0 = mat4x4<f32>();
    var acc_1 = mat4x4<f32>();
    var acc_2 = mat4x4<f32>();
    var acc_3 = mat4x4<f32>();
    var acc_4 = mat4x4<f32>();
    var acc_5 = mat4x4<f32>();
    var acc_6 = mat4x4<f32>();
    var acc_7 = mat4x4<f32>();
    let key_begin = max(min(visible.any.first, visible.any.start), tile.first_key);
    let key_end = min(max(visible.any.end, visible.any.sinks_end), tile.end_key);
    for (var j = key_begin / TILE_N * TILE_N; j < key_end; j += TILE_N) {
        j = skip_gap(visible, j, TILE_N);
        let state = tile_state(visible, b, h, first_i, last_i, j, j + TILE_N);
        if (j >= key_end || state == TILE_HIDDEN) {
            continue;
        }
        let full = state == TILE_FULL && j >= tile.first_key && j + TILE_N <= tile.end_key;

        var s = mat4x4<f32>(); // column k is key k
        for (var first = 0u; first < params.head_quads; first += LANES_N) {
            workgroupBarrier();
            stage_queries(lane, q_start, first_i, last_i, first);
            stage_keys(lane, b, kv_head, j, first);
            workgroupBarrier();
            for (var quad = 0u; quad < LANES_N; quad += 1u) {
                let q_at = quad * (4u * LANES_M + 1u) + lane_m;
                let k_at = quad * (TILE_N + 1u) + lane_n;
                let q = mat4x4<f32>(
                    qp_tile[q_at], qp_tile[q_at + LANES_M], qp_tile[q_at + 2u * LANES_M], qp_tile[q_at + 3u * LANES_M],
                );
                let k = mat4x4<f32>(
                    kv_tile[k_at], kv_tile[k_at + LANES_N], kv_tile[k_at + 2u * LANES_N], kv_tile[k_at + 3u * LANES_N],
                );
                s += score_tile(q, k, first + quad);
            }
        }
        if (NORMED) {
            s = s * v_norm;
        }
        // Columns rotate through the first place, so that the loop indexes registers by constants.
        for (var k = 0u; k < 4u; k += 1u) {
            let key_index = j + lane_n + k * LANES_N;
            var next = vec4<f32>(
                modified_score(b, h, i.x, key_index, s[0].x),
                modified_score(b, h, i.y, key_index, s[0].y),
                modified_score(b, h, i.z, key_index, s[0].z),
                modified_score(b, h, i.w, key_index, s[0].w),
            );
            if (!full) {
                next = vec4<f32>(
                    masked_score(range_0, b, h, i.x, key_index, next.x),
                    masked_score(range_1, b, h, i.y, key_index, next.y),
                    masked_score(range_2, b, h, i.z, key_index, next.z),
                    masked_score(range_3, b, h, i.w, key_index, next.w),
                );
                next = select(next, hidden, key_index < tile.first_key || key_index >= tile.end_key);
            }
            s = mat4x4<f32>(s[1], s[2], s[3], next);
        }
        let tile_max = group_max4(ids, max(max(s[0], s[1]), max(s[2], s[3])));
        let new_max = max(row_max, tile_max);
        let rescale = exp_falling4(over_temperature(row_max - new_max));
        row_max = new_max;
        let p = mat4x4<f32>(
            scaled_weight(s[0], row_max), scaled_weight(s[1], row_max),
            scaled_weight(s[2], row_max), scaled_weight(s[3], row_max),
        );
        row_sum = row_sum * rescale + p[0] + p[1] + p[2] + p[3];
        workgroupBarrier();
        qp_tile[lane_n * LANES_M + lane_m] = p[0];
        qp_tile[(lane_n + LANES_N) * LANES_M + lane_m] = p[1];
        qp_tile[(lane_n + 2u * LANES_N) * LANES_M + lane_m] = p[2];
        qp_tile[(lane_n + 3u * LANES_N) * LANES_M + lane_m] = p[3];
        if (lane == 0u) {
            atomicStore(&has_non_finite, 0u);
        }
        if (ACCUMULATORS > 0u) {
            acc_0 = accumulate(acc_0, 0u, rescale, lane, b, kv_head, j, full);
        }
        if (ACCUMULATORS > 1u) {
            acc_1 = accumulate(acc_1, 1u, rescale, lane, b, kv_head, j, full);
        }
        if (ACCUMULATORS > 2u) {
            acc_2 = accumulate(acc_2, 2u, rescale, lane, b, kv_head, j, full);
        }
        if (ACCUMULATORS > 3u) {
            acc_3 = accumulate(acc_3, 3u, rescale, lane, b, kv_head, j, full);
        }
        if (ACCUMULATORS > 4u) {
            acc_4 = accumulate(acc_4, 4u, rescale, lane, b, kv_head, j, full);
        }
        if (ACCUMULATORS > 5u) {
            acc_5 = accumulate(acc_5, 5u, rescale, lane, b, kv_head, j, full);
        }
        if (ACCUMULATORS > 6u) {
            acc_6 = accumulate(acc_6, 6u, rescale, lane, b, kv_head, j, full);
        }
        if (ACCUMULATORS > 7u) {
            acc_7 = accumulate(acc_7, 7u, rescale, lane, b, kv_head, j, full);
        }
    }

    let result = finish_rows(row_max, group_sum4(ids, row_sum), sink_of(vec4<u32>(h)));
    let output_scale = result.output_scale;
    let output_offset = element(params.output, tile.split * params.batch + b, h, 0u, 0u) + i * params.output.strides.z;
    if (ACCUMULATORS > 0u) {
        store(scale_columns(acc_0, output_scale), output_offset, in_bounds, 0u * LANES_N + lane_n);
    }
    if (ACCUMULATORS > 1u) {
        store(scale_columns(acc_1, output_scale), output_offset, in_bounds, 1u * LANES_N + lane_n);
    }
    if (ACCUMULATORS > 2u) {
        store(scale_columns(acc_2, output_scale), output_offset, in_bounds, 2u * LANES_N + lane_n);
    }
    if (ACCUMULATORS > 3u) {
        store(scale_columns(acc_3, output_scale), output_offset, in_bounds, 3u * LANES_N + lane_n);
    }
    if (ACCUMULATORS > 4u) {
        store(scale_columns(acc_4, output_scale), output_offset, in_bounds, 4u * LANES_N + lane_n);
    }
    if (ACCUMULATORS > 5u) {
        store(scale_columns(acc_5, output_scale), output_offset, in_bounds, 5u * LANES_N + lane_n);
    }
    if (ACCUMULATORS > 6u) {
        store(scale_columns(acc_6, output_scale), output_offset, in_bounds, 6u * LANES_N + lane_n);
    }
    if (ACCUMULATORS > 7u) {
        store(scale_columns(acc_7, output_scale), output_offset, in_bounds, 7u * LANES_N + lane_n);
    }
    if (lane_n == 0u) {
        for (var r = 0u; r < 4u; r += 1u) {
            if (in_bounds[r]) {
                store_stats(tile, h, i[r], result.row_max[r], result.row_sum[r]);
            }
        }
    }
}
