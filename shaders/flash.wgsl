// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention"), tiled for graphics
// cards: a workgroup computes TILE_M query rows; tiles of queries, keys and values are staged in workgroup memory.
//
//   row_max = −∞, row_sum = 0, accumulator = 0
//   for each tile of TILE_N keys, of which one is visible to one of the rows:
//     S = Q·Kᵀ       staging CHUNK quads of dimensions at a time; a register tile of 4 · ROW_QUADS rows × 4 keys a lane
//     new_max = max(row_max, max_j s_j);  rescale = exp(row_max − new_max);  p_j = exp(s_j − new_max)
//     row_sum = rescale · row_sum + Σ_j p_j;  P is staged where Q was
//     accumulator = rescale · accumulator
//     for each VALUE_SLICES slices of 4 · LANES_N dimensions of a value, for each 4 · CHUNK keys of the tile:
//       accumulator += P·V       a register tile of 4 · ROW_QUADS rows × 4 · VALUE_SLICES dimensions a lane
//   output = accumulator / row_sum;  lse = row_max + ln row_sum        (with a sink as in online_softmax.wgsl)
//   a split of the keys stores row_max and row_sum for `merge_partials` instead
//
// Lanes are arranged LANES_M × LANES_N. Lane (lane_m, lane_n) has the rows lane_m + n · LANES_M, the keys 4 · lane_n to
// 4 · lane_n + 3 of a tile, and the quad lane_n of each slice of dimensions. Its rows come in one or two quads, a vec4 each:
// rows of the first are ROWS apart, those of the second LANES_M further on.
//
// Entries of the tiles hold four vec4 of each lane at constant places, so that an entry costs one check of an index, and
// are padded by one vec4, so that lanes that write to neighbouring entries write to different banks. The sizes within an
// entry are constants of the header: LANES_M, LANES_N, ROW_QUADS (1 or 2), CHUNK (4 to LANES_N), VALUE_SLICES (1 or 2).
override HEAD_TAIL: bool = false;  // D is no multiple of 4 · CHUNK
override VALUE_TAIL: bool = false; // Dv is no multiple of 4 · LANES_N · VALUE_SLICES
override SLICES: u32 = 2u;         // Dv / (4 · LANES_N), rounded up, at most 4

const ROWS = ROW_QUADS * LANES_M;
const TILE_M = 4u * ROWS;
const TILE_N = 4u * LANES_N;
// Loads of a lane for a chunk of queries, and for one of keys or a slice of values.
const QUERY_LOADS = 4u * ROW_QUADS * CHUNK / LANES_N;
const KEY_LOADS = 4u * CHUNK / LANES_M;

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
// 2 and 3 are key and value: common/key_*.wgsl, value_*.wgsl
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

// Four dimensions of each row of Q: [r][n] is row r · ROWS + n. Or the softmax weights of four keys: [k][n] has key k, its
// components are the rows n, n + ROWS, n + 2 · ROWS, n + 3 · ROWS.
struct RowEntry {
    at: array<array<vec4<f32>, ROWS>, 4>,
    pad: vec4<f32>,
}

// Four dimensions of each key of a tile: [c][n] is key 4 · n + c. Or a slice of four values: [k][n] is quad n of value k.
struct KeyEntry {
    at: array<array<vec4<f32>, LANES_N>, 4>,
    pad: vec4<f32>,
}

var<workgroup> qp_tile: array<RowEntry, LANES_N>;
var<workgroup> kv_tile: array<KeyEntry, VALUE_SLICES * CHUNK>;
// Whether a value of a partial tile is not finite.
var<workgroup> has_non_finite: atomic<u32>;

// Of a lane's two quads of rows; with one quad the second is not used.
struct Accumulator {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
}

// Lanes stage neighbouring quads of a row; this many rows are staged at a time.
const STEP = LANES_M * LANES_N / CHUNK;
const STEPS = max(ROWS / STEP, 1u);

// Where a lane's n-th row is in an entry: its first is row r < STEP.
fn row_place(r: u32, n: u32) -> vec2<u32> {
    if (STEP == ROWS) {
        return vec2<u32>(n, r);
    }
    if (STEP < ROWS) {
        return vec2<u32>(n / STEPS, r + n % STEPS * STEP);
    }
    return vec2<u32>(n * (STEP / ROWS) + r / ROWS, r % ROWS);
}

fn store_query(entry: u32, place: vec2<u32>, x: vec4<f32>) {
    qp_tile[entry].at[place.x][place.y] = x;
}

fn load_query(start: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(query[start + i * params.query.strides.z]);
}

// Rows past last_i repeat the row before it. `start` is the first quad of the chunk of the first row of all.
fn stage_queries(lane: u32, start: u32, first_i: u32, last_i: u32, first_quad: u32) {
    let entry = lane % CHUNK;
    let r = lane / CHUNK;
    let i = first_i + r;
    let last = last_i - 1u;
    if (HEAD_TAIL && first_quad + entry >= params.head_quads) {
        for (var n = 0u; n < QUERY_LOADS; n += 1u) {
            store_query(entry, row_place(r, n), vec4<f32>(0.0));
        }
        return;
    }
    let lane_start = start + entry;
    for (var n = 0u; n < QUERY_LOADS; n += 4u) {
        let x_0 = load_query(lane_start, min(i + n * STEP, last));
        var x_1 = x_0;
        var x_2 = x_0;
        var x_3 = x_0;
        if (QUERY_LOADS > 1u) {
            x_1 = load_query(lane_start, min(i + (n + 1u) * STEP, last));
        }
        if (QUERY_LOADS > 2u) {
            x_2 = load_query(lane_start, min(i + (n + 2u) * STEP, last));
            x_3 = load_query(lane_start, min(i + (n + 3u) * STEP, last));
        }
        store_query(entry, row_place(r, n), x_0);
        if (QUERY_LOADS > 1u) {
            store_query(entry, row_place(r, n + 1u), x_1);
        }
        if (QUERY_LOADS > 2u) {
            store_query(entry, row_place(r, n + 2u), x_2);
            store_query(entry, row_place(r, n + 3u), x_3);
        }
    }
}

// Where the row of key j of batch row b begins.
fn kv_row_start(view: View, b: u32, h: u32, j: u32) -> u32 {
    let kv_row = locate(b, min(j, params.positions.keys - 1u));
    return element(view, kv_row.x, h, kv_row.y, 0u);
}

fn stage_keys(lane: u32, b: u32, h: u32, j: u32, first_quad: u32) {
    let entry = lane % CHUNK;
    let quad = first_quad + entry;
    let r = lane / CHUNK;
    let is_inside = !HEAD_TAIL || quad < params.head_quads;
    for (var n = 0u; n < KEY_LOADS; n += 2u) {
        let key = r + n * STEP;
        var x_0 = vec4<f32>(0.0);
        var x_1 = x_0;
        if (is_inside) {
            x_0 = key_at(kv_row_start(params.key, b, h, j + key) + quad);
            if (KEY_LOADS > 1u) {
                x_1 = key_at(kv_row_start(params.key, b, h, j + key + STEP) + quad);
            }
        }
        kv_tile[entry].at[r % 4u][r / 4u + n * STEP / 4u] = x_0;
        if (KEY_LOADS > 1u) {
            kv_tile[entry].at[r % 4u][r / 4u + (n + 1u) * STEP / 4u] = x_1;
        }
    }
}

fn load_value(start: u32, quad: u32, full: bool) -> vec4<f32> {
    if (VALUE_TAIL && quad >= params.value_quads) {
        return vec4<f32>(0.0);
    }
    let x = value_at(start + quad);
    if (!full && !is_finite4(x)) {
        atomicStore(&has_non_finite, 1u);
    }
    return x;
}

// 4 · CHUNK values from j on, VALUE_SLICES slices of their dimensions.
fn stage_values(lane_m: u32, lane_n: u32, b: u32, h: u32, j: u32, first_quad: u32, full: bool) {
    let quad = first_quad + lane_n;
    for (var n = 0u; n < KEY_LOADS; n += 2u) {
        let start_0 = kv_row_start(params.value, b, h, j + lane_m + n * LANES_M);
        let x_0 = load_value(start_0, quad, full);
        var x_1 = x_0;
        var y_0 = x_0;
        var y_1 = x_0;
        if (VALUE_SLICES == 2u) {
            y_0 = load_value(start_0, quad + LANES_N, full);
        }
        if (KEY_LOADS > 1u) {
            let start_1 = kv_row_start(params.value, b, h, j + lane_m + (n + 1u) * LANES_M);
            x_1 = load_value(start_1, quad, full);
            if (VALUE_SLICES == 2u) {
                y_1 = load_value(start_1, quad + LANES_N, full);
            }
        }
        let entry_0 = (lane_m + n * LANES_M) / 4u;
        let entry_1 = (lane_m + (n + 1u) * LANES_M) / 4u;
        kv_tile[entry_0].at[lane_m % 4u][lane_n] = x_0;
        if (VALUE_SLICES == 2u) {
            kv_tile[CHUNK + entry_0].at[lane_m % 4u][lane_n] = y_0;
        }
        if (KEY_LOADS > 1u) {
            kv_tile[entry_1].at[lane_m % 4u][lane_n] = x_1;
            if (VALUE_SLICES == 2u) {
                kv_tile[CHUNK + entry_1].at[lane_m % 4u][lane_n] = y_1;
            }
        }
    }
}

fn load_rows(entry: u32, n: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        qp_tile[entry].at[0][n], qp_tile[entry].at[1][n], qp_tile[entry].at[2][n], qp_tile[entry].at[3][n],
    );
}

fn load_keys(entry: u32, n: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        kv_tile[entry].at[0][n], kv_tile[entry].at[1][n], kv_tile[entry].at[2][n], kv_tile[entry].at[3][n],
    );
}

fn store_weights(entry: u32, n: u32, p: mat4x4<f32>) {
    qp_tile[entry].at[0][n] = p[0];
    qp_tile[entry].at[1][n] = p[1];
    qp_tile[entry].at[2][n] = p[2];
    qp_tile[entry].at[3][n] = p[3];
}

// S += Q·Kᵀ over a quad of dimensions: column c is key c, its components are the rows.
fn add_scores(s: Accumulator, entry: u32, quad: u32, lane_m: u32, lane_n: u32) -> Accumulator {
    var sums = s;
    let k = load_keys(entry, lane_n);
    sums.a = score_tile(s.a, transpose(load_rows(entry, lane_m)), k, quad);
    if (ROW_QUADS == 2u) {
        sums.b = score_tile(s.b, transpose(load_rows(entry, lane_m + LANES_M)), k, quad);
    }
    return sums;
}

// Accumulator += P·V of four keys: column r is row r.
fn add_values(y: mat4x4<f32>, p: mat4x4<f32>, v: mat4x4<f32>) -> mat4x4<f32> {
    return outer_add4(outer_add4(outer_add4(outer_add4(y, v[0], p[0]), v[1], p[1]), v[2], p[2]), v[3], p[3]);
}

// Of VALUE_SLICES slices.
struct Slices {
    near: Accumulator,
    far: Accumulator,
}

// Accumulator += P·V of four keys: entry n of the staged values, and their weights.
fn add_entry(slices: Slices, weights: u32, n: u32, lane_m: u32, lane_n: u32) -> Slices {
    var y = slices;
    let p_a = load_rows(weights, lane_m);
    var p_b = p_a;
    let v = load_keys(n, lane_n);
    y.near.a = add_values(y.near.a, p_a, v);
    if (ROW_QUADS == 2u) {
        p_b = load_rows(weights, lane_m + LANES_M);
        y.near.b = add_values(y.near.b, p_b, v);
    }
    if (VALUE_SLICES == 2u) {
        let w = load_keys(CHUNK + n, lane_n);
        y.far.a = add_values(y.far.a, p_a, w);
        if (ROW_QUADS == 2u) {
            y.far.b = add_values(y.far.b, p_b, w);
        }
    }
    return y;
}

// Accumulator += P·V of the keys first .. first + 4 · CHUNK of the tile.
fn add_all_values(slices: Slices, first: u32, lane_m: u32, lane_n: u32) -> Slices {
    var y = slices;
    // Two entries an iteration where lanes have the registers for their operands.
    for (var n = 0u; n < CHUNK; n += ROW_QUADS) {
        y = add_entry(y, first / 4u + n, n, lane_m, lane_n);
        if (ROW_QUADS == 2u) {
            y = add_entry(y, first / 4u + n + 1u, n + 1u, lane_m, lane_n);
        }
    }
    return y;
}

fn add_visible_values(slices: Slices, first: u32, lane_m: u32, lane_n: u32) -> Slices {
    var y = slices;
    for (var n = 0u; n < 4u * CHUNK; n += 1u) {
        let p_a = qp_tile[(first + n) / 4u].at[n % 4u][lane_m];
        var p_b = p_a;
        let v = kv_tile[n / 4u].at[n % 4u][lane_n];
        y.near.a = add_visible_value(y.near.a, p_a, v);
        if (ROW_QUADS == 2u) {
            p_b = qp_tile[(first + n) / 4u].at[n % 4u][lane_m + LANES_M];
            y.near.b = add_visible_value(y.near.b, p_b, v);
        }
        if (VALUE_SLICES == 2u) {
            let w = kv_tile[CHUNK + n / 4u].at[n % 4u][lane_n];
            y.far.a = add_visible_value(y.far.a, p_a, w);
            if (ROW_QUADS == 2u) {
                y.far.b = add_visible_value(y.far.b, p_b, w);
            }
        }
    }
    return y;
}

// Accumulator += P·V of a tile of keys for VALUE_SLICES slices, from number `slice` on.
fn accumulate(
    near: Accumulator, far: Accumulator, slice: u32, lane_m: u32, lane_n: u32, b: u32, h: u32, j: u32, full: bool,
) -> Slices {
    var y = Slices(near, far);
    for (var first = 0u; first < TILE_N; first += 4u * CHUNK) {
        workgroupBarrier();
        stage_values(lane_m, lane_n, b, h, j + first, slice * LANES_N, full);
        workgroupBarrier();
        if (!full && atomicLoad(&has_non_finite) != 0u) {
            y = add_visible_values(y, first, lane_m, lane_n);
        } else {
            y = add_all_values(y, first, lane_m, lane_n);
        }
    }
    return y;
}

fn scale_rows(acc: Accumulator, a: vec4<f32>, b: vec4<f32>) -> Accumulator {
    return Accumulator(scale_columns(acc.a, a), scale_columns(acc.b, b));
}

// The scores of visible pairs from their products: scale or score function, softcap.
fn modified_scores(b: u32, h: u32, i: vec4<u32>, first_key: u32, products: mat4x4<f32>) -> mat4x4<f32> {
    var s = products;
    if (SCORE_MOD) {
        // Columns rotate through the first place, so that the loop indexes registers by constants.
        for (var c = 0u; c < 4u; c += 1u) {
            let j = first_key + c;
            let next = vec4<f32>(
                modified_score(b, h, i.x, j, s[0].x), modified_score(b, h, i.y, j, s[0].y),
                modified_score(b, h, i.z, j, s[0].z), modified_score(b, h, i.w, j, s[0].w),
            );
            s = mat4x4<f32>(s[1], s[2], s[3], next);
        }
        return s;
    }
    s = mat4x4<f32>(
        softcap4(params.scale * s[0]), softcap4(params.scale * s[1]),
        softcap4(params.scale * s[2]), softcap4(params.scale * s[3]),
    );
    // Scores of −∞ are rare, and one comparison finds that there is none.
    let least = min(min(s[0], s[1]), min(s[2], s[3]));
    if (min(min(least.x, least.y), min(least.z, least.w)) < LEAST_VISIBLE) {
        s = mat4x4<f32>(finite_score4(s[0]), finite_score4(s[1]), finite_score4(s[2]), finite_score4(s[3]));
    }
    return s;
}

// The scores of a partial tile with bias and mask; of keys outside first .. end (exclusive) HIDDEN. The rows' ranges are
// found anew for each such tile, as registers are scarcer than they are frequent.
fn masked_scores(
    b: u32, h: u32, i: vec4<u32>, first_key: u32, first: u32, end: u32, scores: mat4x4<f32>,
) -> mat4x4<f32> {
    let range_0 = key_range(b, i.x);
    let range_1 = key_range(b, i.y);
    let range_2 = key_range(b, i.z);
    let range_3 = key_range(b, i.w);
    var s = scores;
    // Four, which compilers do not know: sixteen masks side by side would want more registers than Apple's lanes have.
    let columns = select(4u, 0u, params.batch == 0u);
    for (var c = 0u; c < columns; c += 1u) {
        let j = first_key + c;
        let next = vec4<f32>(
            masked_score(range_0, b, h, i.x, j, s[0].x), masked_score(range_1, b, h, i.y, j, s[0].y),
            masked_score(range_2, b, h, i.z, j, s[0].z), masked_score(range_3, b, h, i.w, j, s[0].w),
        );
        s = mat4x4<f32>(s[1], s[2], s[3], select(next, vec4<f32>(HIDDEN), j < first || j >= end));
    }
    return s;
}

// Four rows from `row` on; those past the end repeat the last one and are not stored.
fn quad_rows(row: u32, last_i: u32) -> vec4<u32> {
    return min(vec4<u32>(row) + ROWS * vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last_i - 1u));
}

// A step of the online softmax of four rows.
struct Softmax {
    p: mat4x4<f32>,
    row_max: vec4<f32>,
    row_sum: vec4<f32>,
    rescale: vec4<f32>,
}

fn softmax_step(ids: LaneIds, s: mat4x4<f32>, row_max: vec4<f32>, row_sum: vec4<f32>) -> Softmax {
    let new_max = max(row_max, group_max4(ids, max(max(s[0], s[1]), max(s[2], s[3]))));
    let rescale = exp_falling4(over_temperature(row_max - new_max));
    let p = mat4x4<f32>(
        scaled_weight(s[0], new_max), scaled_weight(s[1], new_max),
        scaled_weight(s[2], new_max), scaled_weight(s[3], new_max),
    );
    return Softmax(p, new_max, row_sum * rescale + p[0] + p[1] + p[2] + p[3], rescale);
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

// Every slice of four rows.
struct Accumulators {
    y_0: mat4x4<f32>,
    y_1: mat4x4<f32>,
    y_2: mat4x4<f32>,
    y_3: mat4x4<f32>,
}

// Epilogue of four rows. All lanes must call it.
fn store_rows(
    ids: LaneIds, tile: Tile, h: u32, lane_n: u32, row: u32, last_i: u32, row_max: vec4<f32>, row_sum: vec4<f32>,
    acc: Accumulators,
) {
    let result = finish_rows(row_max, group_sum4(ids, row_sum), sink_of(vec4<u32>(h)));
    let i = quad_rows(row, last_i);
    let start = element(params.output, tile.split * params.batch + tile.b, h, 0u, 0u);
    let offset = vec4<u32>(start) + i * params.output.strides.z;
    let is_row = vec4<u32>(row) + ROWS * vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(last_i);
    store(scale_columns(acc.y_0, result.output_scale), offset, is_row, lane_n);
    if (SLICES > 1u) {
        store(scale_columns(acc.y_1, result.output_scale), offset, is_row, LANES_N + lane_n);
    }
    if (SLICES > 2u) {
        store(scale_columns(acc.y_2, result.output_scale), offset, is_row, 2u * LANES_N + lane_n);
    }
    if (SLICES > 3u) {
        store(scale_columns(acc.y_3, result.output_scale), offset, is_row, 3u * LANES_N + lane_n);
    }
    if (lane_n == 0u) {
        for (var r = 0u; r < 4u; r += 1u) {
            if (is_row[r]) {
                store_stats(tile, h, i[r], result.row_max[r], result.row_sum[r]);
            }
        }
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
    let first_i = tile.row_tile * TILE_M;
    let last_i = min(first_i + TILE_M, params.positions.queries);
    let row_a = first_i + lane_m;
    let row_b = row_a + LANES_M;
    let visible = tile_visibility(b, first_i, last_i);
    let v_norm = v_norm_factor();

    var max_a = vec4<f32>(HIDDEN);
    var max_b = max_a;
    var sum_a = vec4<f32>(0.0); // of this lane's keys
    var sum_b = sum_a;
    var acc_0 = Accumulator();
    var acc_1 = Accumulator();
    var acc_2 = Accumulator();
    var acc_3 = Accumulator();
    let key_begin = max(min(visible.any.first, visible.any.start), tile.first_key);
    let key_end = min(max(visible.any.end, visible.any.sinks_end), tile.end_key);
    for (var j = key_begin / TILE_N * TILE_N; j < key_end; j += TILE_N) {
        j = skip_gap(visible, j, TILE_N);
        let state = tile_state(visible, b, h, first_i, last_i, j, j + TILE_N);
        if ((WINDOW && j >= key_end) || state == TILE_HIDDEN) {
            continue;
        }
        let full = state == TILE_FULL && j >= tile.first_key && j + TILE_N <= tile.end_key;

        var s = Accumulator();
        for (var first = 0u; first < params.head_quads; first += CHUNK) {
            workgroupBarrier();
            stage_queries(lane, element(params.query, b, h, 0u, first), first_i, last_i, first);
            stage_keys(lane, b, kv_head, j, first);
            workgroupBarrier();
            for (var n = 0u; n < CHUNK; n += ROW_QUADS) {
                s = add_scores(s, n, first + n, lane_m, lane_n);
                if (ROW_QUADS == 2u) {
                    s = add_scores(s, n + 1u, first + n + 1u, lane_m, lane_n);
                }
            }
        }
        if (NORMED) {
            s = Accumulator(s.a * v_norm, s.b * v_norm);
        }
        let first_key = j + 4u * lane_n;
        s.a = modified_scores(b, h, quad_rows(row_a, last_i), first_key, s.a);
        if (ROW_QUADS == 2u) {
            s.b = modified_scores(b, h, quad_rows(row_b, last_i), first_key, s.b);
        }
        if (!full) {
            s.a = masked_scores(b, h, quad_rows(row_a, last_i), first_key, tile.first_key, tile.end_key, s.a);
            if (ROW_QUADS == 2u) {
                s.b = masked_scores(b, h, quad_rows(row_b, last_i), first_key, tile.first_key, tile.end_key, s.b);
            }
        }
        workgroupBarrier();
        let step_a = softmax_step(ids, s.a, max_a, sum_a);
        max_a = step_a.row_max;
        sum_a = step_a.row_sum;
        store_weights(lane_n, lane_m, step_a.p);
        var rescale_b = step_a.rescale;
        if (ROW_QUADS == 2u) {
            let step_b = softmax_step(ids, s.b, max_b, sum_b);
            max_b = step_b.row_max;
            sum_b = step_b.row_sum;
            rescale_b = step_b.rescale;
            store_weights(lane_n, lane_m + LANES_M, step_b.p);
        }
        if (lane == 0u) {
            atomicStore(&has_non_finite, 0u);
        }
        acc_0 = scale_rows(acc_0, step_a.rescale, rescale_b);
        acc_1 = scale_rows(acc_1, step_a.rescale, rescale_b);
        acc_2 = scale_rows(acc_2, step_a.rescale, rescale_b);
        acc_3 = scale_rows(acc_3, step_a.rescale, rescale_b);
        if (VALUE_SLICES == 2u) {
            let y = accumulate(acc_0, acc_1, 0u, lane_m, lane_n, b, kv_head, j, full);
            acc_0 = y.near;
            acc_1 = y.far;
            if (SLICES > 2u) {
                let y = accumulate(acc_2, acc_3, 2u, lane_m, lane_n, b, kv_head, j, full);
                acc_2 = y.near;
                acc_3 = y.far;
            }
        } else {
            acc_0 = accumulate(acc_0, acc_0, 0u, lane_m, lane_n, b, kv_head, j, full).near;
            if (SLICES > 1u) {
                acc_1 = accumulate(acc_1, acc_1, 1u, lane_m, lane_n, b, kv_head, j, full).near;
            }
            if (SLICES > 2u) {
                acc_2 = accumulate(acc_2, acc_2, 2u, lane_m, lane_n, b, kv_head, j, full).near;
            }
            if (SLICES > 3u) {
                acc_3 = accumulate(acc_3, acc_3, 3u, lane_m, lane_n, b, kv_head, j, full).near;
            }
        }
    }

    let rows_a = Accumulators(acc_0.a, acc_1.a, acc_2.a, acc_3.a);
    store_rows(ids, tile, h, lane_n, row_a, last_i, max_a, sum_a, rows_a);
    if (ROW_QUADS == 2u) {
        let rows_b = Accumulators(acc_0.b, acc_1.b, acc_2.b, acc_3.b);
        store_rows(ids, tile, h, lane_n, row_b, last_i, max_b, sum_b, rows_b);
    }
}
