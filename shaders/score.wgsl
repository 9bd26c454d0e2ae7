// Scores of every query with every key, masked.
//
//   for each batch row b, query head h, query i, key j:
//     s = Σ_d q[i,d]·k[j,d]   or   Σ_d v[d]·tanh(q[i,d] + k[j,d])   or   q·k / (‖q‖·‖k‖)
//     s = score_mod(scale · s);  s = cap·tanh(s / cap);  s += bias;  hidden pairs get params.hidden
//
// One invocation computes a tile of 4 queries × 4 keys in registers; the keys of an invocation are LANES apart.
override LANES: u32 = 64u;
override ROWS: u32 = 4u;  // 1 when there is a single query: the four rows are then the same and fold into one
override SCORE: u32 = 0u; // 0 dot, 1 additive, 2 cosine
override HAS_V: bool = false;
override NORMED: bool = false; // v is g · v / ‖v‖
override STAGE: u32 = 2u; // 0 after the scale, 1 after the softcap, 2 masked

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

fn finish(row: Row, b: u32, h: u32, i: u32, j: u32, sum: f32) {
    if (i >= params.scores.shape.z || j >= params.scores.shape.w) {
        return;
    }
    let at_query = params.first_query + i;
    var s = score_mod(params.scale * sum, b, h, at_query, j);
    if (STAGE > 0u) {
        s = capped(s);
    }
    if (STAGE > 1u) {
        let m = masked(row, b, h, at_query, j);
        s = s + m.bias;
        s = select(s, visible1(s), params.hidden == HIDDEN);
        s = select(params.hidden, s, m.visible);
    }
    scores[element(params.scores, b, h, i, j)] = s;
}

fn hide(b: u32, h: u32, i: u32, column: vec4<u32>) {
    for (var c = 0u; c < 4u; c += 1u) {
        if (i < params.scores.shape.z && column[c] < params.scores.shape.w) {
            scores[element(params.scores, b, h, i, column[c])] = params.hidden;
        }
    }
}

fn key_row(b: u32, h: u32, j: u32) -> u32 {
    let at = place(b, j);
    return element(params.key, at.x, h, at.y, 0u);
}

fn queries_at(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(query[at.x]), f32(query[at.y]), f32(query[at.z]), f32(query[at.w]));
}

fn keys_at(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(f32(key[at.x]), f32(key[at.y]), f32(key[at.z]), f32(key[at.w]));
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_number(here);
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

    let at_query = params.first_query + i;
    let row0 = row_of(b, at_query);
    let row1 = row_of(b, at_query + 1u);
    let row2 = row_of(b, at_query + 2u);
    let row3 = row_of(b, at_query + 3u);
    // A tile that no one sees needs no scores. (Scores before the mask are seen by the caller.)
    let column = vec4<u32>(j) + LANES * vec4<u32>(0u, 1u, 2u, 3u);
    if (STAGE == 2u) {
        let end_j = min(first_j + LANES * 4u, params.scores.shape.w);
        var seen = sees_any(row0, first_j, end_j);
        if (ROWS == 4u) {
            seen = seen || sees_any(row1, first_j, end_j) || sees_any(row2, first_j, end_j)
                || sees_any(row3, first_j, end_j);
        }
        if (!(seen && any_block_visible(b, h, at_query, at_query + ROWS, first_j, end_j))) {
            for (var r = 0u; r < ROWS; r += 1u) {
                hide(b, h, i + r, column);
            }
            return;
        }
    }

    // Rows and columns past the end repeat the last one; `finish` drops them.
    let last_i = params.scores.shape.z - 1u;
    let last_j = params.scores.shape.w - 1u;
    let i_rows = min(vec4<u32>(i) + select(vec4<u32>(0u), vec4<u32>(0u, 1u, 2u, 3u), ROWS == 4u), vec4<u32>(last_i));
    let j_columns = min(vec4<u32>(j) + LANES * vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last_j));
    let q = element(params.query, b, h, 0u, 0u) + i_rows * params.query.strides.z;
    let k_head = h / params.group;
    let k = vec4<u32>(
        key_row(b, k_head, j_columns.x),
        key_row(b, k_head, j_columns.y),
        key_row(b, k_head, j_columns.z),
        key_row(b, k_head, j_columns.w),
    );
    let q_step = params.query.strides.w;
    let k_step = params.key.strides.w;

    // Where there is a division by lengths, the vectors are brought near 1 first.
    var q_scale = vec4<f32>(1.0);
    var k_scale = vec4<f32>(1.0);
    var v_scale = 1.0;
    if (SCORE == 2u || NORMED) {
        var q_largest = vec4<f32>(0.0);
        var k_largest = vec4<f32>(0.0);
        var v_largest = 0.0;
        for (var d = 0u; d < params.depth; d += 1u) {
            if (SCORE == 2u) {
                q_largest = max(q_largest, abs(queries_at(q + d * q_step)));
                k_largest = max(k_largest, abs(keys_at(k + d * k_step)));
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
    var qq = vec4<f32>(0.0);
    var kk = vec4<f32>(0.0);
    var vv = 0.0;
    for (var d = 0u; d < params.depth; d += 1u) {
        var kd = keys_at(k + d * k_step);
        var qd = queries_at(q + d * q_step);
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
                vv += vd * vd;
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
                qq += qd * qd;
                kk += kd * kd;
            }
        }
    }
    if (NORMED) {
        let norm = sqrt(vv);
        let factor = select(bitcast<f32>(vectors[params.g]) / norm, 0.0, norm == 0.0);
        s0 *= factor;
        s1 *= factor;
        s2 *= factor;
        s3 *= factor;
    }
    if (SCORE == 2u) {
        let qn = sqrt(qq);
        let kn = sqrt(kk);
        s0 = select(s0 / qn.x / kn, vec4<f32>(0.0), vec4<f32>(qn.x) * kn == vec4<f32>(0.0));
        s1 = select(s1 / qn.y / kn, vec4<f32>(0.0), vec4<f32>(qn.y) * kn == vec4<f32>(0.0));
        s2 = select(s2 / qn.z / kn, vec4<f32>(0.0), vec4<f32>(qn.z) * kn == vec4<f32>(0.0));
        s3 = select(s3 / qn.w / kn, vec4<f32>(0.0), vec4<f32>(qn.w) * kn == vec4<f32>(0.0));
    }
    finish(row0, b, h, i, column.x, s0.x);
    finish(row0, b, h, i, column.y, s0.y);
    finish(row0, b, h, i, column.z, s0.z);
    finish(row0, b, h, i, column.w, s0.w);
    if (ROWS == 4u) {
        finish(row1, b, h, i + 1u, column.x, s1.x);
        finish(row1, b, h, i + 1u, column.y, s1.y);
        finish(row1, b, h, i + 1u, column.z, s1.z);
        finish(row1, b, h, i + 1u, column.w, s1.w);
        finish(row2, b, h, i + 2u, column.x, s2.x);
        finish(row2, b, h, i + 2u, column.y, s2.y);
        finish(row2, b, h, i + 2u, column.z, s2.z);
        finish(row2, b, h, i + 2u, column.w, s2.w);
        finish(row3, b, h, i + 3u, column.x, s3.x);
        finish(row3, b, h, i + 3u, column.y, s3.y);
        finish(row3, b, h, i + 3u, column.z, s3.z);
        finish(row3, b, h, i + 3u, column.w, s3.w);
    }
}
