// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention") for drivers that run on
// the CPU, whose lanes are those of the vector unit: a workgroup of eight lanes computes 16 or 32 query rows.
//
//   row_max = −∞, row_sum = 0, accumulator = 0
//   for each tile of 64 keys, of which one is visible to one of the rows:
//     S = Q·Kᵀ       a register tile of all rows × 8 keys a lane
//     new_max = max(row_max, max_j s_j);  rescale = exp(row_max − new_max);  p_j = exp(s_j − new_max)
//     row_sum = rescale · row_sum + Σ_j p_j;  P goes through workgroup memory
//     for each 64 dimensions of a value:
//       accumulator = rescale · accumulator + P·V     all rows × 8 dimensions a lane
//   output = accumulator / row_sum;  lse = row_max + ln row_sum        (with a sink as in online_softmax.wgsl)
//   a split of the keys stores row_max and row_sum for `merge_partials` instead
//
// Lane n has the keys 8·n to 8·n + 7 of a tile, then the quads n and n + 8 of each 64 dimensions. All lanes need the same
// query rows and weights at the same time: query_rows_*.wgsl. Rows come in quads, a vec4 or one side of a mat4x4, and in
// blocks of 16. These drivers run both sides of a condition, one of them without effect, and a loop's body at least once; so what is
// seldom needed is a loop with a short body, in which the quads of rows rotate through the first place.
const LANES = 8u;
const TILE_N = 64u;
override ROW_BLOCKS: u32 = 1u;  // of 16 rows: 1 or 2
override ROW_QUADS: u32 = 4u;   // 4 · ROW_BLOCKS
override P_ENTRIES: u32 = 256u; // TILE_N · ROW_QUADS
override VALUE_TILES: u32 = 1u; // 64 dimensions of a value each: 1, 2 or 4

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
// 2 and 3 are key and value: common/key_*.wgsl, value_*.wgsl
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

// Scores of a tile, then softmax weights: [TILE_N, ROW_QUADS].
var<workgroup> p_tile: array<vec4<f32>, P_ENTRIES>;
var<workgroup> key_ranges: array<KeyRange, 32>;
// Whether a value of a partial tile is not finite.
var<workgroup> has_non_finite: u32;

// Four numbers of each of 16 rows (or of each row for 4 keys): a matrix has four of the rows.
struct Tile16x4 {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
}

// The same of two blocks of 16 rows.
struct Tile32x4 {
    a: Tile16x4,
    b: Tile16x4,
}

// The scores of 16 rows with the eight keys of a lane: a column is a key, each matrix has four of the rows.
struct ScoreTile {
    low: Tile16x4,
    high: Tile16x4,
}

// The accumulator of 16 rows, eight dimensions of a lane: a column is a row, each matrix has four dimensions of four rows.
struct OutputTile {
    near: Tile16x4,
    far: Tile16x4,
}

// Of both blocks of rows; with one block the second is not used.
struct Scores {
    a: ScoreTile,
    b: ScoreTile,
}

struct Accumulator {
    a: OutputTile,
    b: OutputTile,
}

// A number for each row: column q of a mat4x4 has those of rows 4·q to 4·q + 3 of the block.
struct PerRow {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
}

fn kv_offset(view: View, b: u32, h: u32, j: u32, keys: u32) -> u32 {
    let row = locate(b, min(j, keys - 1u));
    return element(view, row.x, h, row.y, 0u);
}

fn transposed(x: Tile16x4) -> Tile16x4 {
    return Tile16x4(transpose(x.a), transpose(x.b), transpose(x.c), transpose(x.d));
}

// S += Q·Kᵀ over a quad of dimensions.
fn add_scores(s: ScoreTile, quad: Tile16x4, low: mat4x4<f32>, high: mat4x4<f32>) -> ScoreTile {
    let q = transposed(quad);
    return ScoreTile(
        Tile16x4(s.low.a + q.a * low, s.low.b + q.b * low, s.low.c + q.c * low, s.low.d + q.d * low),
        Tile16x4(s.high.a + q.a * high, s.high.b + q.b * high, s.high.c + q.c * high, s.high.d + q.d * high),
    );
}

// Accumulator += P·V over four keys.
fn add_values(y: OutputTile, weights: Tile16x4, near: mat4x4<f32>, far: mat4x4<f32>) -> OutputTile {
    let p = transposed(weights);
    return OutputTile(
        Tile16x4(y.near.a + near * p.a, y.near.b + near * p.b, y.near.c + near * p.c, y.near.d + near * p.d),
        Tile16x4(y.far.a + far * p.a, y.far.b + far * p.b, y.far.c + far * p.c, y.far.d + far * p.d),
    );
}

fn add_value16(y: Tile16x4, p: mat4x4<f32>, v: vec4<f32>) -> Tile16x4 {
    return Tile16x4(
        add_visible_value(y.a, p[0], v), add_visible_value(y.b, p[1], v),
        add_visible_value(y.c, p[2], v), add_visible_value(y.d, p[3], v),
    );
}

fn scale16(acc: Tile16x4, factors: mat4x4<f32>) -> Tile16x4 {
    return Tile16x4(
        scale_columns(acc.a, factors[0]), scale_columns(acc.b, factors[1]),
        scale_columns(acc.c, factors[2]), scale_columns(acc.d, factors[3]),
    );
}

fn scale_outputs(acc: OutputTile, factors: mat4x4<f32>) -> OutputTile {
    return OutputTile(scale16(acc.near, factors), scale16(acc.far, factors));
}

// The scores or weights of a lane's eight keys with four rows.
fn store_p(index: u32, low: mat4x4<f32>, high: mat4x4<f32>) {
    p_tile[index] = low[0];
    p_tile[index + ROW_QUADS] = low[1];
    p_tile[index + 2u * ROW_QUADS] = low[2];
    p_tile[index + 3u * ROW_QUADS] = low[3];
    p_tile[index + 4u * ROW_QUADS] = high[0];
    p_tile[index + 5u * ROW_QUADS] = high[1];
    p_tile[index + 6u * ROW_QUADS] = high[2];
    p_tile[index + 7u * ROW_QUADS] = high[3];
}

fn load_p(index: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        p_tile[index], p_tile[index + ROW_QUADS], p_tile[index + 2u * ROW_QUADS], p_tile[index + 3u * ROW_QUADS],
    );
}

// Scale and softcap, of visible pairs.
fn scale_scores4(s: mat4x4<f32>, scale: f32) -> mat4x4<f32> {
    let scaled = s * scale;
    return mat4x4<f32>(
        finite_score4(softcap4(scaled[0])),
        finite_score4(softcap4(scaled[1])),
        finite_score4(softcap4(scaled[2])),
        finite_score4(softcap4(scaled[3])),
    );
}

fn scale_scores16(s: Tile16x4, scale: f32) -> Tile16x4 {
    return Tile16x4(
        scale_scores4(s.a, scale), scale_scores4(s.b, scale), scale_scores4(s.c, scale), scale_scores4(s.d, scale),
    );
}

fn scale_score_tile(s: ScoreTile, scale: f32) -> ScoreTile {
    return ScoreTile(scale_scores16(s.low, scale), scale_scores16(s.high, scale));
}

fn max_of_keys4(low: mat4x4<f32>, high: mat4x4<f32>) -> vec4<f32> {
    return max(max(max(low[0], low[1]), max(low[2], low[3])), max(max(high[0], high[1]), max(high[2], high[3])));
}

fn row_max16(ids: LaneIds, s: ScoreTile, row_max: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        max(row_max[0], reduce_max4(ids, max_of_keys4(s.low.a, s.high.a))),
        max(row_max[1], reduce_max4(ids, max_of_keys4(s.low.b, s.high.b))),
        max(row_max[2], reduce_max4(ids, max_of_keys4(s.low.c, s.high.c))),
        max(row_max[3], reduce_max4(ids, max_of_keys4(s.low.d, s.high.d))),
    );
}

// The largest score of each row so far.
fn update_row_max(ids: LaneIds, s: Scores, row_max: PerRow) -> PerRow {
    let a = row_max16(ids, s.a, row_max.a);
    if (ROW_BLOCKS == 1u) {
        return PerRow(a, row_max.b);
    }
    return PerRow(a, row_max16(ids, s.b, row_max.b));
}

fn rescale_of(row_max: mat4x4<f32>, new_max: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        exp_falling4(over_temperature(row_max[0] - new_max[0])),
        exp_falling4(over_temperature(row_max[1] - new_max[1])),
        exp_falling4(over_temperature(row_max[2] - new_max[2])),
        exp_falling4(over_temperature(row_max[3] - new_max[3])),
    );
}

fn multiply_columns(row_sum: mat4x4<f32>, rescale: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        row_sum[0] * rescale[0], row_sum[1] * rescale[1], row_sum[2] * rescale[2], row_sum[3] * rescale[3],
    );
}

fn softmax_weights(s: mat4x4<f32>, row_max: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        scaled_weight(s[0], row_max), scaled_weight(s[1], row_max),
        scaled_weight(s[2], row_max), scaled_weight(s[3], row_max),
    );
}

fn sum_of_keys(low: mat4x4<f32>, high: mat4x4<f32>) -> vec4<f32> {
    return low[0] + low[1] + low[2] + low[3] + high[0] + high[1] + high[2] + high[3];
}

// Quads of rows moved up by one, with `last` at the end. A register file cannot be indexed by a variable; so loops over the
// quads always work on the first one.
fn rotate_columns(x: mat4x4<f32>, last: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(x[1], x[2], x[3], last);
}

fn rotate_quads(s: Tile16x4, last: mat4x4<f32>) -> Tile16x4 {
    return Tile16x4(s.b, s.c, s.d, last);
}

fn rotate_rows(n: PerRow, last: vec4<f32>) -> PerRow {
    if (ROW_BLOCKS == 1u) {
        return PerRow(rotate_columns(n.a, last), n.b);
    }
    return PerRow(rotate_columns(n.a, n.b[0]), rotate_columns(n.b, last));
}

fn rotate_scores(s: Scores, low: mat4x4<f32>, high: mat4x4<f32>) -> Scores {
    if (ROW_BLOCKS == 1u) {
        return Scores(ScoreTile(rotate_quads(s.a.low, low), rotate_quads(s.a.high, high)), s.b);
    }
    return Scores(
        ScoreTile(rotate_quads(s.a.low, s.b.low.a), rotate_quads(s.a.high, s.b.high.a)),
        ScoreTile(rotate_quads(s.b.low, low), rotate_quads(s.b.high, high)),
    );
}

fn rotate_outputs(y: Accumulator, near: mat4x4<f32>, far: mat4x4<f32>) -> Accumulator {
    if (ROW_BLOCKS == 1u) {
        return Accumulator(OutputTile(rotate_quads(y.a.near, near), rotate_quads(y.a.far, far)), y.b);
    }
    return Accumulator(
        OutputTile(rotate_quads(y.a.near, y.b.near.a), rotate_quads(y.a.far, y.b.far.a)),
        OutputTile(rotate_quads(y.b.near, near), rotate_quads(y.b.far, far)),
    );
}

fn row_sum16(ids: LaneIds, row_sum: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        reduce_sum4(ids, row_sum[0]), reduce_sum4(ids, row_sum[1]),
        reduce_sum4(ids, row_sum[2]), reduce_sum4(ids, row_sum[3]),
    );
}

// 16 finished rows; the output is the accumulator times output_scale.
struct RowResults {
    row_max: mat4x4<f32>,
    row_sum: mat4x4<f32>,
    output_scale: mat4x4<f32>,
}

fn finish_rows16(row_max: mat4x4<f32>, row_sum: mat4x4<f32>, sink: vec4<f32>) -> RowResults {
    let a = finish_rows(row_max[0], row_sum[0], sink);
    let b = finish_rows(row_max[1], row_sum[1], sink);
    let c = finish_rows(row_max[2], row_sum[2], sink);
    let d = finish_rows(row_max[3], row_sum[3], sink);
    return RowResults(
        mat4x4<f32>(a.row_max, b.row_max, c.row_max, d.row_max),
        mat4x4<f32>(a.row_sum, b.row_sum, c.row_sum, d.row_sum),
        mat4x4<f32>(a.output_scale, b.output_scale, c.output_scale, d.output_scale),
    );
}

fn shift_rows16(x: mat4x4<f32>, last: f32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(x[0].yzw, x[1].x), vec4<f32>(x[1].yzw, x[2].x), vec4<f32>(x[2].yzw, x[3].x), vec4<f32>(x[3].yzw, last),
    );
}

// The numbers of all rows moved up by one.
fn shift_rows(n: PerRow) -> PerRow {
    return PerRow(shift_rows16(n.a, n.b[0].x), shift_rows16(n.b, 0.0));
}

fn store_rows4(row: u32, last_row: u32, offset: u32, row_stride: u32, y: mat4x4<f32>) {
    if (row < last_row) {
        output[offset + row * row_stride] = vec4<out_elem>(y[0]);
    }
    if (row + 1u < last_row) {
        output[offset + (row + 1u) * row_stride] = vec4<out_elem>(y[1]);
    }
    if (row + 2u < last_row) {
        output[offset + (row + 2u) * row_stride] = vec4<out_elem>(y[2]);
    }
    if (row + 3u < last_row) {
        output[offset + (row + 3u) * row_stride] = vec4<out_elem>(y[3]);
    }
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
    let h = tile.h;
    let kv_head = h / params.group;
    // Rows past the end repeat the last one and are not stored.
    let first_i = tile.row_tile * 16u * ROW_BLOCKS;
    let last_i = min(first_i + 16u * ROW_BLOCKS, params.positions.queries);
    for (var r = lane; r < 16u * ROW_BLOCKS; r += LANES) {
        key_ranges[r] = key_range(b, min(first_i + r, last_i - 1u));
    }
    workgroupBarrier();
    let visible = tile_visibility(b, first_i, last_i);
    let query_offsets = query_row_offsets(
        ids, element(params.query, b, h, 0u, 0u), params.query.strides.z, first_i, last_i,
    );
    // Read once: a load costs as much as many multiplications.
    let key_view = params.key;
    let value_view = params.value;
    let keys = params.positions.keys;
    let head_quads = params.head_quads;
    let value_quads = params.value_quads;
    let scale = params.scale;

    let hidden = vec4<f32>(HIDDEN);
    let hidden4 = mat4x4<f32>(hidden, hidden, hidden, hidden);
    var row_max = PerRow(hidden4, hidden4);
    var row_sum = PerRow(); // of this lane's keys
    // For each 64 dimensions of a value; the loop over them works on the first and rotates.
    var acc_0 = Accumulator();
    var acc_1 = Accumulator();
    var acc_2 = Accumulator();
    var acc_3 = Accumulator();
    let key_begin = max(min(visible.any.first, visible.any.start), tile.first_key);
    let key_end = min(max(visible.any.end, visible.any.sinks_end), tile.end_key);
    for (var j = key_begin / TILE_N * TILE_N; j < key_end; j += TILE_N) {
        j = skip_gap(visible, j, TILE_N);
        let state = tile_state(visible, b, h, first_i, last_i, j, j + TILE_N);
        if (j >= key_end || state == TILE_HIDDEN) {
            continue;
        }
        let full = state == TILE_FULL && j >= tile.first_key && j + TILE_N <= tile.end_key;

        let lane_key = lane * 8u;
        let k_0 = kv_offset(key_view, b, kv_head, j + lane_key, keys);
        let k_1 = kv_offset(key_view, b, kv_head, j + lane_key + 1u, keys);
        let k_2 = kv_offset(key_view, b, kv_head, j + lane_key + 2u, keys);
        let k_3 = kv_offset(key_view, b, kv_head, j + lane_key + 3u, keys);
        let k_4 = kv_offset(key_view, b, kv_head, j + lane_key + 4u, keys);
        let k_5 = kv_offset(key_view, b, kv_head, j + lane_key + 5u, keys);
        let k_6 = kv_offset(key_view, b, kv_head, j + lane_key + 6u, keys);
        let k_7 = kv_offset(key_view, b, kv_head, j + lane_key + 7u, keys);
        var s = Scores();
        for (var quad = 0u; quad < head_quads; quad += 1u) {
            let low = mat4x4<f32>(key_at(k_0 + quad), key_at(k_1 + quad), key_at(k_2 + quad), key_at(k_3 + quad));
            let high = mat4x4<f32>(key_at(k_4 + quad), key_at(k_5 + quad), key_at(k_6 + quad), key_at(k_7 + quad));
            s.a = add_scores(s.a, load_query16(query_offsets.a, quad), low, high);
            if (ROW_BLOCKS > 1u) {
                s.b = add_scores(s.b, load_query16(query_offsets.b, quad), low, high);
            }
        }
        if (!SCORE_MOD) {
            s = Scores(scale_score_tile(s.a, scale), scale_score_tile(s.b, scale));
        }
        // Score function and mask, pair by pair in workgroup memory.
        if (!full || SCORE_MOD) {
            for (var row_quad = 0u; row_quad < ROW_QUADS; row_quad += 1u) {
                let start = ROW_QUADS * lane_key + row_quad;
                store_p(start, s.a.low.a, s.a.high.a);
                for (var k = 0u; k < 8u; k += 1u) {
                    let n = start + ROW_QUADS * k;
                    let r = 4u * row_quad;
                    let i = min(vec4<u32>(first_i + r) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last_i - 1u));
                    let key_index = j + lane_key + k;
                    var score = p_tile[n];
                    if (SCORE_MOD) {
                        score = vec4<f32>(
                            modified_score(b, h, i.x, key_index, score.x),
                            modified_score(b, h, i.y, key_index, score.y),
                            modified_score(b, h, i.z, key_index, score.z),
                            modified_score(b, h, i.w, key_index, score.w),
                        );
                    }
                    if (!full) {
                        score = vec4<f32>(
                            masked_score(key_ranges[r], b, h, i.x, key_index, score.x),
                            masked_score(key_ranges[r + 1u], b, h, i.y, key_index, score.y),
                            masked_score(key_ranges[r + 2u], b, h, i.z, key_index, score.z),
                            masked_score(key_ranges[r + 3u], b, h, i.w, key_index, score.w),
                        );
                        score = select(score, hidden, key_index < tile.first_key || key_index >= tile.end_key);
                    }
                    p_tile[n] = score;
                }
                s = rotate_scores(s, load_p(start), load_p(start + 4u * ROW_QUADS));
            }
        }
        let new_max = update_row_max(ids, s, row_max);
        let rescale = PerRow(rescale_of(row_max.a, new_max.a), rescale_of(row_max.b, new_max.b));
        row_max = new_max;
        row_sum = PerRow(multiply_columns(row_sum.a, rescale.a), multiply_columns(row_sum.b, rescale.b));
        for (var row_quad = 0u; row_quad < ROW_QUADS; row_quad += 1u) {
            let quad_max = row_max.a[0];
            let low = softmax_weights(s.a.low.a, quad_max);
            let high = softmax_weights(s.a.high.a, quad_max);
            store_p(ROW_QUADS * lane_key + row_quad, low, high);
            row_sum = rotate_rows(row_sum, row_sum.a[0] + sum_of_keys(low, high));
            row_max = rotate_rows(row_max, quad_max);
            s = rotate_scores(s, low, high);
        }
        workgroupBarrier();

        for (var value_tile = 0u; value_tile < VALUE_TILES; value_tile += 1u) {
            // This lane's quads of dimensions.
            let d_0 = min(16u * value_tile + lane, value_quads - 1u);
            let d_1 = min(16u * value_tile + lane + 8u, value_quads - 1u);
            acc_0 = Accumulator(scale_outputs(acc_0.a, rescale.a), scale_outputs(acc_0.b, rescale.b));
            var finite = true;
            if (!full) {
                // The branch must be uniform, as `load_weights` may broadcast between lanes.
                if (lane == 0u) {
                    has_non_finite = 0u;
                }
                workgroupBarrier();
                for (var n = 0u; n < TILE_N; n += 1u) {
                    let v = kv_offset(value_view, b, kv_head, j + n, keys);
                    finite = finite && is_finite4(value_at(v + d_0)) && is_finite4(value_at(v + d_1));
                }
                if (!finite) {
                    has_non_finite = 1u;
                }
                finite = workgroupUniformLoad(&has_non_finite) == 0u;
            }
            if (finite) {
                for (var n = 0u; n < TILE_N; n += 4u) {
                    let v_0 = kv_offset(value_view, b, kv_head, j + n, keys);
                    let v_1 = kv_offset(value_view, b, kv_head, j + n + 1u, keys);
                    let v_2 = kv_offset(value_view, b, kv_head, j + n + 2u, keys);
                    let v_3 = kv_offset(value_view, b, kv_head, j + n + 3u, keys);
                    let near = mat4x4<f32>(
                        value_at(v_0 + d_0), value_at(v_1 + d_0), value_at(v_2 + d_0), value_at(v_3 + d_0),
                    );
                    let far = mat4x4<f32>(
                        value_at(v_0 + d_1), value_at(v_1 + d_1), value_at(v_2 + d_1), value_at(v_3 + d_1),
                    );
                    let p = load_weights(ids, n);
                    acc_0.a = add_values(acc_0.a, p.a, near, far);
                    if (ROW_BLOCKS > 1u) {
                        acc_0.b = add_values(acc_0.b, p.b, near, far);
                    }
                }
            }
            if (!finite) {
                // Each key with one block of rows, then with the other.
                for (var n = 0u; n < ROW_BLOCKS * TILE_N; n += 1u) {
                    let v = kv_offset(value_view, b, kv_head, j + n / ROW_BLOCKS, keys);
                    let p = mat4x4<f32>(
                        p_tile[4u * n], p_tile[4u * n + 1u], p_tile[4u * n + 2u], p_tile[4u * n + 3u],
                    );
                    let near = add_value16(acc_0.a.near, p, value_at(v + d_0));
                    let far = add_value16(acc_0.a.far, p, value_at(v + d_1));
                    let block = OutputTile(near, far);
                    if (ROW_BLOCKS == 1u) {
                        acc_0.a = block;
                    } else {
                        acc_0 = Accumulator(acc_0.b, block);
                    }
                }
            }
            let finished = acc_0;
            if (VALUE_TILES > 1u) {
                acc_0 = acc_1;
                acc_1 = finished;
            }
            if (VALUE_TILES > 2u) {
                acc_1 = acc_2;
                acc_2 = acc_3;
                acc_3 = finished;
            }
        }
        workgroupBarrier();
    }

    let sink = sink_of(vec4<u32>(h));
    let result = finish_rows16(row_max.a, row_sum16(ids, row_sum.a), sink);
    var output_scale = PerRow(result.output_scale, result.output_scale);
    row_max.a = result.row_max;
    row_sum.a = result.row_sum;
    if (ROW_BLOCKS > 1u) {
        let second = finish_rows16(row_max.b, row_sum16(ids, row_sum.b), sink);
        output_scale.b = second.output_scale;
        row_max.b = second.row_max;
        row_sum.b = second.row_sum;
    }
    let output_offset = element(params.output, tile.split * params.batch + b, h, 0u, 0u);
    let row_stride = params.output.strides.z;
    for (var value_tile = 0u; value_tile < VALUE_TILES; value_tile += 1u) {
        let d = 16u * value_tile + lane;
        acc_0 = Accumulator(scale_outputs(acc_0.a, output_scale.a), scale_outputs(acc_0.b, output_scale.b));
        for (var i = first_i; i < first_i + 4u * ROW_QUADS; i += 4u) {
            if (d < value_quads) {
                store_rows4(i, last_i, output_offset + d, row_stride, acc_0.a.near.a);
            }
            if (d + 8u < value_quads) {
                store_rows4(i, last_i, output_offset + d + 8u, row_stride, acc_0.a.far.a);
            }
            acc_0 = rotate_outputs(acc_0, acc_0.a.near.a, acc_0.a.far.a);
        }
        if (VALUE_TILES > 1u) {
            acc_0 = acc_1;
        }
        if (VALUE_TILES > 2u) {
            acc_1 = acc_2;
            acc_2 = acc_3;
        }
    }
    if ((LSE || MAX_SUM > 0u) && lane == 0u) {
        for (var i = first_i; i < last_i; i += 1u) {
            store_stats(tile, h, i, row_max.a[0][0], row_sum.a[0][0]);
            row_max = shift_rows(row_max);
            row_sum = shift_rows(row_sum);
        }
    }
}
