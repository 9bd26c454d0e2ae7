// Attention with an online softmax for few queries, split-KV (Dao et al. 2023, "Flash-Decoding"): splits of the keys have
// workgroups of their own. A workgroup computes four rows over one split: the queries of the heads that share one key head
// are its rows, so that each key and value is loaded once for all of them.
//
//   row_max = −∞, row_sum = 0, accumulator = 0
//   for each tile of TILE_N keys of the split, of which one is visible to one of the rows:
//     S = Q·Kᵀ       a register tile of 4 rows × 4 keys a lane; split-K over K_SPLITS lanes
//     new_max = max(row_max, max_j s_j);  rescale = exp(row_max − new_max);  p_j = exp(s_j − new_max)
//     row_sum = rescale · row_sum + Σ_j p_j
//     accumulator = rescale · accumulator + P·V     4 dimensions of 4 rows a lane; LANES / VALUE_LANES lanes share the keys
//   output = accumulator / row_sum;  lse = row_max + ln row_sum        (with a sink as in online_softmax.wgsl)
//   where there are several splits, row_max and row_sum are stored for `merge_partials`
//
// The components of a vec4 of scores or weights are the four rows. LANES and K_SPLITS come with the split_k_*.wgsl file.
override TILE_N: u32 = 128u;       // a multiple of LANES and of 4 · LANES / K_SPLITS
override VALUE_LANES: u32 = 32u;   // lanes along the dimensions of a value: a power of two, at least Dv / 4 and 4 · LANES / TILE_N
override QUERY_QUADS: u32 = 32u;   // of `q_tile`: D / 4 rounded up to a multiple of K_SPLITS
override HEAD_TAIL: bool = false;  // D / 4 is no multiple of K_SPLITS
override BRANCHES: bool = true;    // the driver skips what a condition rules out

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
// 2 and 3 are key and value: common/key_*.wgsl, value_*.wgsl
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

// Four dimensions of the four rows: a column is a dimension. Padded, so that neighbouring lanes read different banks.
struct QueryQuad {
    dimensions: mat4x4<f32>,
    pad: vec4<f32>,
}

var<workgroup> q_tile: array<QueryQuad, QUERY_QUADS>;
// Scores of a tile, then softmax weights: a vec4 for the four rows.
var<workgroup> p_tile: array<vec4<f32>, TILE_N>;
var<workgroup> accumulators: array<mat4x4<f32>, LANES>;

fn key_offset(b: u32, h: u32, j: u32) -> u32 {
    let row = locate(b, min(j, params.positions.keys - 1u));
    return element(params.key, row.x, h, row.y, 0u);
}

fn value_offset(b: u32, h: u32, j: u32) -> u32 {
    let row = locate(b, min(j, params.positions.keys - 1u));
    return element(params.value, row.x, h, row.y, 0u);
}

// Quads past the end of D are 0.
fn stage_queries(lane: u32, offsets: vec4<u32>) {
    for (var quad = lane; quad < QUERY_QUADS; quad += LANES) {
        var rows = mat4x4<f32>();
        if (quad < params.head_quads) {
            let q = offsets + quad;
            rows = mat4x4<f32>(vec4<f32>(query[q.x]), vec4<f32>(query[q.y]), vec4<f32>(query[q.z]), vec4<f32>(query[q.w]));
        }
        q_tile[quad].dimensions = transpose(rows);
    }
}

fn load_key(offset: u32, quad: u32) -> vec4<f32> {
    if (HEAD_TAIL) {
        let k = key_at(offset + min(quad, params.head_quads - 1u));
        return select(vec4<f32>(0.0), k, quad < params.head_quads);
    }
    return key_at(offset + quad);
}

// Accumulator += p·v of one key; NaN and infinity count for nothing where the weight is 0.
fn add_value(acc: mat4x4<f32>, p: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    if (BRANCHES && is_finite4(v)) {
        return outer_add4(acc, v, p);
    }
    return add_visible_value(acc, p, v);
}

// The visibility of a tile of keys to all four rows.
fn tile_state4(visible: TileVisibility, b: u32, h: vec4<u32>, i: vec4<u32>, first: u32, last: u32) -> u32 {
    var hidden = true;
    var full = true;
    for (var r = 0u; r < 4u; r += 1u) {
        let state = tile_state(visible, b, h[r], i[r], i[r] + 1u, first, last);
        hidden = hidden && state == TILE_HIDDEN;
        full = full && state == TILE_FULL;
    }
    return select(select(TILE_PARTIAL, TILE_FULL, full), TILE_HIDDEN, hidden);
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, ids: LaneIds) {
    let tile_index = workgroup_index(wg);
    if (tile_index >= params.tiles) {
        return;
    }
    let lane = lane_index(ids);
    let tile = tile_of(tile_index, params.heads);
    let b = tile.b;
    let kv_head = tile.h;
    // Row n is query n / group of head n % group. Rows past the end repeat the last one and are not stored.
    let n = vec4<u32>(tile.row_tile * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    let count = params.positions.queries * params.group;
    let in_bounds = n < vec4<u32>(count);
    let rows = min(n, vec4<u32>(count - 1u));
    let i = rows / params.group;
    let h = vec4<u32>(kv_head * params.group) + rows % params.group;
    let range_0 = key_range(b, i.x);
    let range_1 = key_range(b, i.y);
    let range_2 = key_range(b, i.z);
    let range_3 = key_range(b, i.w);
    let visible = tile_visibility(b, i.x, i.w + 1u);
    let query_offsets = element(params.query, b, 0u, 0u, 0u) + h * params.query.strides.y + i * params.query.strides.z;
    stage_queries(lane, query_offsets);
    workgroupBarrier();
    let key_lanes = LANES / K_SPLITS;
    let v_norm = v_norm_factor();

    var row_max = vec4<f32>(HIDDEN);
    var row_sum = vec4<f32>(0.0); // of this lane's keys
    var acc = mat4x4<f32>(); // column r is row r
    let d = lane % VALUE_LANES;
    let key_begin = max(min(visible.any.first, visible.any.start), tile.first_key);
    let key_end = min(max(visible.any.end, visible.any.sinks_end), tile.end_key);
    for (var j = key_begin / TILE_N * TILE_N; j < key_end; j += TILE_N) {
        j = skip_gap(visible, j, TILE_N);
        let state = tile_state4(visible, b, h, i, j, j + TILE_N);
        if (j >= key_end || state == TILE_HIDDEN) {
            continue;
        }
        for (var first = 0u; first < TILE_N; first += 4u * key_lanes) {
            let column = first + column_index(ids);
            let k = vec4<u32>(
                key_offset(b, kv_head, j + column),
                key_offset(b, kv_head, j + column + key_lanes),
                key_offset(b, kv_head, j + column + 2u * key_lanes),
                key_offset(b, kv_head, j + column + 3u * key_lanes),
            );
            var s = mat4x4<f32>(); // column c is key c
            for (var n = 0u; n < QUERY_QUADS; n += K_SPLITS) {
                let quad = n + k_split(ids);
                let keys = mat4x4<f32>(load_key(k.x, quad), load_key(k.y, quad), load_key(k.z, quad), load_key(k.w, quad));
                s = score_tile(s, q_tile[quad].dimensions, keys, quad);
            }
            s = sum_splits(ids, s);
            if (k_split(ids) == 0u) {
                p_tile[column] = s[0];
                p_tile[column + key_lanes] = s[1];
                p_tile[column + 2u * key_lanes] = s[2];
                p_tile[column + 3u * key_lanes] = s[3];
            }
        }
        workgroupBarrier();
        var tile_max = vec4<f32>(HIDDEN);
        for (var first = 0u; first < TILE_N; first += LANES) {
            let n = first + lane;
            let sum = p_tile[n] * v_norm;
            let key_index = j + n;
            var s = vec4<f32>(
                modified_score(b, h.x, i.x, key_index, sum.x),
                modified_score(b, h.y, i.y, key_index, sum.y),
                modified_score(b, h.z, i.z, key_index, sum.z),
                modified_score(b, h.w, i.w, key_index, sum.w),
            );
            if (state == TILE_PARTIAL) {
                s = vec4<f32>(
                    masked_score(range_0, b, h.x, i.x, key_index, s.x),
                    masked_score(range_1, b, h.y, i.y, key_index, s.y),
                    masked_score(range_2, b, h.z, i.z, key_index, s.z),
                    masked_score(range_3, b, h.w, i.w, key_index, s.w),
                );
            }
            if (key_index < tile.first_key || key_index >= tile.end_key) {
                s = vec4<f32>(HIDDEN);
            }
            p_tile[n] = s;
            tile_max = max(tile_max, s);
        }
        let new_max = max(row_max, reduce_max4(ids, tile_max));
        let rescale = exp_falling4(over_temperature(row_max - new_max));
        row_max = new_max;
        row_sum *= rescale;
        for (var first = 0u; first < TILE_N; first += LANES) {
            let n = first + lane;
            let p = scaled_weight(p_tile[n], row_max);
            p_tile[n] = p;
            row_sum += p;
        }
        workgroupBarrier();
        acc = scale_columns(acc, rescale);
        if (d < params.value_quads) {
            // Four loads are under way at a time.
            for (var first = 0u; first < TILE_N; first += 4u * (LANES / VALUE_LANES)) {
                let n_0 = first + lane / VALUE_LANES;
                let n_1 = n_0 + LANES / VALUE_LANES;
                let n_2 = n_1 + LANES / VALUE_LANES;
                let n_3 = n_2 + LANES / VALUE_LANES;
                let v_0 = value_at(value_offset(b, kv_head, j + n_0) + d);
                let v_1 = value_at(value_offset(b, kv_head, j + n_1) + d);
                let v_2 = value_at(value_offset(b, kv_head, j + n_2) + d);
                let v_3 = value_at(value_offset(b, kv_head, j + n_3) + d);
                acc = add_value(acc, p_tile[n_0], v_0);
                acc = add_value(acc, p_tile[n_1], v_1);
                acc = add_value(acc, p_tile[n_2], v_2);
                acc = add_value(acc, p_tile[n_3], v_3);
            }
        }
        workgroupBarrier();
    }

    let result = finish_rows(row_max, reduce_sum4(ids, row_sum), sink_of(h));
    accumulators[lane] = acc;
    workgroupBarrier();
    let output_offsets = element(params.output, tile.split * params.batch + b, 0u, 0u, 0u)
        + h * params.output.strides.y + i * params.output.strides.z;
    if (lane < params.value_quads) {
        for (var other = lane + VALUE_LANES; other < LANES; other += VALUE_LANES) {
            acc += accumulators[other];
        }
        let output_scale = result.output_scale;
        if (in_bounds.x) {
            output[output_offsets.x + lane] = vec4<out_elem>(acc[0] * output_scale.x);
        }
        if (in_bounds.y) {
            output[output_offsets.y + lane] = vec4<out_elem>(acc[1] * output_scale.y);
        }
        if (in_bounds.z) {
            output[output_offsets.z + lane] = vec4<out_elem>(acc[2] * output_scale.z);
        }
        if (in_bounds.w) {
            output[output_offsets.w + lane] = vec4<out_elem>(acc[3] * output_scale.w);
        }
    }
    if (lane < 4u && in_bounds[lane]) {
        store_stats(tile, h[lane], i[lane], result.row_max[lane], result.row_sum[lane]);
    }
}
