// Scores of every query with every key, masked.
//
//   for each batch row b, query head h, query i, key j:
//     s = Σ_d q[i,d]·k[j,d]   or   Σ_d v[d]·tanh(q[i,d] + k[j,d])   or   q·k / (‖q‖·‖k‖)
//     s = score_mod(scale · s);  s = cap·tanh(s / cap);  s += bias;  hidden pairs get params.hidden
//
// A workgroup computes 4 queries × 4 · LANES keys; workgroups go over tiles of keys, then of queries, then heads. A lane
// has a register tile of 4 queries × 4 keys, which are LANES apart, so that neighbouring lanes read neighbouring keys.
override LANES: u32 = 64u;
override ROWS: u32 = 4u;  // 1 with a single query: the four rows are then the same, and the compiler drops three of them
override SCORE: u32 = 0u; // 0 dot, 1 additive, 2 cosine
override HAS_V: bool = false;
override NORMED: bool = false; // v is g · v / ‖v‖
override STAGE: u32 = 2u; // what is stored: 0 after the scale, 1 after the softcap, 2 masked

struct Params {
    query: View, // [B, Hq, Nq', D]
    key: View,   // [B, Hkv, Nk, D], or pages [pages, Hkv, page size, D]
    scores: View, // [B, Hq, Nq', Nk]
    positions: Positions,
    mask: Mask,
    blocks: Blocks,
    pages: Pages,
    group: u32, // query heads per key head
    depth: u32, // D
    row_tiles: u32,
    column_tiles: u32,
    tiles: u32,
    first_query: u32, // number of the view's first query in the whole problem
    scale: f32,
    softcap: f32,
    hidden: f32, // written for hidden pairs: HIDDEN for a softmax
    g: u32, // index of g in `vectors`
    v: List,
}

@group(0) @binding(1) var<storage, read> query: array<elem>;
@group(0) @binding(2) var<storage, read> key: array<k_elem>;
@group(0) @binding(3) var<storage, read> vectors: array<u32>;
@group(0) @binding(4) var<storage, read> mask: array<u32>;
@group(0) @binding(5) var<storage, read> block_mask: array<u32>;
@group(0) @binding(6) var<storage, read_write> scores: array<f32>;

fn store_score(range: KeyRange, b: u32, h: u32, i: u32, j: u32, sum: f32) {
    if (i >= params.scores.shape.z || j >= params.scores.shape.w) {
        return;
    }
    let query_index = params.first_query + i;
    var s = score_mod(params.scale * sum, b, h, query_index, j);
    if (STAGE > 0u) {
        s = softcap1(s);
    }
    if (STAGE > 1u) {
        let pair = masked(range, b, h, query_index, j);
        s = s + pair.bias;
        s = select(s, finite_score1(s), params.hidden == HIDDEN);
        s = select(params.hidden, s, pair.visible);
    }
    scores[element(params.scores, b, h, i, j)] = s;
}

fn store_hidden(b: u32, h: u32, i: u32, column: vec4<u32>) {
    for (var c = 0u; c < 4u; c += 1u) {
        if (i < params.scores.shape.z && column[c] < params.scores.shape.w) {
            scores[element(params.scores, b, h, i, column[c])] = params.hidden;
        }
    }
}

fn key_offset(b: u32, h: u32, j: u32) -> u32 {
    let row = locate(b, j);
    return element(params.key, row.x, h, row.y, 0u);
}

fn load_queries(offsets: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(query[offsets.x]), f32(query[offsets.y]), f32(query[offsets.z]), f32(query[offsets.w]));
}

fn load_keys(offsets: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(key[offsets.x]), f32(key[offsets.y]), f32(key[offsets.z]), f32(key[offsets.w]));
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_index(wg);
    if (tile >= params.tiles) {
        return;
    }
    let rest = tile / params.column_tiles;
    let i = (rest % params.row_tiles) * 4u;
    let heads = params.scores.shape.y;
    let bh = rest / params.row_tiles;
    let b = bh / heads;
    let h = bh % heads;
    let first_j = (tile % params.column_tiles) * LANES * 4u;
    let j = first_j + lane;

    let query_index = params.first_query + i;
    let range0 = key_range(b, query_index);
    let range1 = key_range(b, query_index + 1u);
    let range2 = key_range(b, query_index + 2u);
    let range3 = key_range(b, query_index + 3u);
    // Tiles without a visible pair are skipped, unless the caller asks for scores before the mask.
    let column = vec4<u32>(j) + LANES * vec4<u32>(0u, 1u, 2u, 3u);
    if (STAGE == 2u) {
        let end_j = min(first_j + LANES * 4u, params.scores.shape.w);
        var any_visible = overlaps(range0, first_j, end_j);
        if (ROWS == 4u) {
            any_visible = any_visible || overlaps(range1, first_j, end_j) || overlaps(range2, first_j, end_j)
                || overlaps(range3, first_j, end_j);
        }
        if (!(any_visible && any_block_visible(b, h, query_index, query_index + ROWS, first_j, end_j))) {
            for (var r = 0u; r < ROWS; r += 1u) {
                store_hidden(b, h, i + r, column);
            }
            return;
        }
    }

    // Rows and columns past the end repeat the last one; `store_score` drops them.
    let last_i = params.scores.shape.z - 1u;
    let last_j = params.scores.shape.w - 1u;
    let i_rows = min(vec4<u32>(i) + select(vec4<u32>(0u), vec4<u32>(0u, 1u, 2u, 3u), ROWS == 4u), vec4<u32>(last_i));
    let j_columns = min(vec4<u32>(j) + LANES * vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last_j));
    let q = element(params.query, b, h, 0u, 0u) + i_rows * params.query.strides.z;
    let k_head = h / params.group;
    let k = vec4<u32>(
        key_offset(b, k_head, j_columns.x),
        key_offset(b, k_head, j_columns.y),
        key_offset(b, k_head, j_columns.z),
        key_offset(b, k_head, j_columns.w),
    );
    let q_step = params.query.strides.w;
    let k_step = params.key.strides.w;

    // Vectors that are divided by their norms are brought near 1 first, so that squares neither overflow nor vanish.
    var q_scale = vec4<f32>(1.0);
    var k_scale = vec4<f32>(1.0);
    var v_scale = 1.0;
    if (SCORE == 2u || NORMED) {
        var q_largest = vec4<f32>(0.0);
        var k_largest = vec4<f32>(0.0);
        var v_largest = 0.0;
        for (var d = 0u; d < params.depth; d += 1u) {
            if (SCORE == 2u) {
                q_largest = max(q_largest, abs(load_queries(q + d * q_step)));
                k_largest = max(k_largest, abs(load_keys(k + d * k_step)));
            } else {
                v_largest = max(v_largest, abs(bitcast<f32>(word(params.v, d))));
            }
        }
        q_scale = scale_of4(q_largest);
        k_scale = scale_of4(k_largest);
        v_scale = scale_of1(v_largest);
    }

    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    var q_squares = vec4<f32>(0.0);
    var k_squares = vec4<f32>(0.0);
    var v_squares = 0.0;
    for (var d = 0u; d < params.depth; d += 1u) {
        var kd = load_keys(k + d * k_step);
        var qd = load_queries(q + d * q_step);
        if (SCORE == 1u) {
            var vd = 1.0;
            if (HAS_V) {
                vd = bitcast<f32>(word(params.v, d));
            }
            if (NORMED) {
                vd *= v_scale;
            }
            s0 += vd * tanh4(qd.x + kd);
            s1 += vd * tanh4(qd.y + kd);
            s2 += vd * tanh4(qd.z + kd);
            s3 += vd * tanh4(qd.w + kd);
            if (NORMED) {
                v_squares += vd * vd;
            }
        } else {
            if (SCORE == 2u) {
                qd *= q_scale;
                kd *= k_scale;
            }
            s0 += qd.x * kd;
            s1 += qd.y * kd;
            s2 += qd.z * kd;
            s3 += qd.w * kd;
            if (SCORE == 2u) {
                q_squares += qd * qd;
                k_squares += kd * kd;
            }
        }
    }
    if (NORMED) {
        let norm = sqrt(v_squares);
        let factor = select(bitcast<f32>(vectors[params.g]) / norm, 0.0, norm == 0.0);
        s0 *= factor;
        s1 *= factor;
        s2 *= factor;
        s3 *= factor;
    }
    if (SCORE == 2u) {
        let q_norm = sqrt(q_squares);
        let k_norm = sqrt(k_squares);
        s0 = select(s0 / q_norm.x / k_norm, vec4<f32>(0.0), vec4<f32>(q_norm.x) * k_norm == vec4<f32>(0.0));
        s1 = select(s1 / q_norm.y / k_norm, vec4<f32>(0.0), vec4<f32>(q_norm.y) * k_norm == vec4<f32>(0.0));
        s2 = select(s2 / q_norm.z / k_norm, vec4<f32>(0.0), vec4<f32>(q_norm.z) * k_norm == vec4<f32>(0.0));
        s3 = select(s3 / q_norm.w / k_norm, vec4<f32>(0.0), vec4<f32>(q_norm.w) * k_norm == vec4<f32>(0.0));
    }
    store_score(range0, b, h, i, column.x, s0.x);
    store_score(range0, b, h, i, column.y, s0.y);
    store_score(range0, b, h, i, column.z, s0.z);
    store_score(range0, b, h, i, column.w, s0.w);
    if (ROWS == 4u) {
        store_score(range1, b, h, i + 1u, column.x, s1.x);
        store_score(range1, b, h, i + 1u, column.y, s1.y);
        store_score(range1, b, h, i + 1u, column.z, s1.z);
        store_score(range1, b, h, i + 1u, column.w, s1.w);
        store_score(range2, b, h, i + 2u, column.x, s2.x);
        store_score(range2, b, h, i + 2u, column.y, s2.y);
        store_score(range2, b, h, i + 2u, column.z, s2.z);
        store_score(range2, b, h, i + 2u, column.w, s2.w);
        store_score(range3, b, h, i + 3u, column.x, s3.x);
        store_score(range3, b, h, i + 3u, column.y, s3.y);
        store_score(range3, b, h, i + 3u, column.z, s3.z);
        store_score(range3, b, h, i + 3u, column.w, s3.w);
    }
}
