// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention") for devices whose lanes
// are those of a processor's vector unit: a workgroup owns 16 query rows, which all its lanes read at the same time.
//
//   m = −∞, l = 0, y = 0                                  with a sink, in the first range: m = sink, l = 1
//   for each KEYS keys that one of the rows sees:
//     scores: a lane compares eight keys with the 16 rows, in registers
//     m' = max(m, max_j s_j);  c = exp(m − m');  p_j = exp(s_j − m');  l = c·l + Σ p;  y = c·y
//     values: a lane takes eight dimensions of the 16 rows, in registers: y += p_j·v_j
//   output = y / l;  lse = m + ln l
//
// Rows come in fours, a vec4 or one side of a mat4x4. LANES, at least Dv / 8, comes with the spread_* file.
override KEYS: u32 = 64u; // 8 · LANES
override WEIGHTS: u32 = 256u; // 4 · KEYS

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
// 2 and 3 are key and value: common/key_*.wgsl, value_*.wgsl
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> lse: array<f32>;

// Scores, then weights, of a step: key by key, four vec4 of rows each.
var<workgroup> weights: array<vec4<f32>, WEIGHTS>;
var<workgroup> rows: array<Row, 16>;

fn key_row(b: u32, h: u32, j: u32) -> u32 {
    let at = place(b, min(j, params.positions.keys - 1u));
    return element(params.key, at.x, h, at.y, 0u);
}

fn value_row(b: u32, h: u32, j: u32) -> u32 {
    let at = place(b, min(j, params.positions.keys - 1u));
    return element(params.value, at.x, h, at.y, 0u);
}

fn is_finite4(x: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) < vec4<u32>(0x7f800000u));
}

// Four rows of outputs with one more key: NaN and infinity count for nothing where the weight is 0.
fn with_key(y: mat4x4<f32>, p: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        y[0] + select(p.x * v, vec4<f32>(0.0), p.x == 0.0),
        y[1] + select(p.y * v, vec4<f32>(0.0), p.y == 0.0),
        y[2] + select(p.z * v, vec4<f32>(0.0), p.z == 0.0),
        y[3] + select(p.w * v, vec4<f32>(0.0), p.w == 0.0),
    );
}

// Each column times one number.
fn scaled(y: mat4x4<f32>, c: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(y[0] * c.x, y[1] * c.y, y[2] * c.z, y[3] * c.w);
}

// The scores of one lane's eight keys with four rows, column by column.
fn store_scores(own: u32, four: u32, low: mat4x4<f32>, high: mat4x4<f32>) {
    let at = 4u * own + four;
    weights[at] = low[0];
    weights[at + 4u] = low[1];
    weights[at + 8u] = low[2];
    weights[at + 12u] = low[3];
    weights[at + 16u] = high[0];
    weights[at + 20u] = high[1];
    weights[at + 24u] = high[2];
    weights[at + 28u] = high[3];
}

fn stored(at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(weights[at], weights[at + 4u], weights[at + 8u], weights[at + 12u]);
}

// Scale and softcap of four rows with four keys.
fn scored4(s: mat4x4<f32>) -> mat4x4<f32> {
    let scaled = s * params.scale;
    if (SOFTCAP) {
        return mat4x4<f32>(capped4(scaled[0]), capped4(scaled[1]), capped4(scaled[2]), capped4(scaled[3]));
    }
    return scaled;
}

fn largest(low: mat4x4<f32>, high: mat4x4<f32>) -> vec4<f32> {
    return max(max(max(low[0], low[1]), max(low[2], low[3])), max(max(high[0], high[1]), max(high[2], high[3])));
}

fn exponential(s: mat4x4<f32>, m: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(weight(s[0], m), weight(s[1], m), weight(s[2], m), weight(s[3], m));
}

fn store_four(row: u32, last_row: u32, at: u32, step: u32, y: mat4x4<f32>) {
    if (row < last_row) {
        output[at + row * step] = vec4<out_elem>(y[0]);
    }
    if (row + 1u < last_row) {
        output[at + (row + 1u) * step] = vec4<out_elem>(y[1]);
    }
    if (row + 2u < last_row) {
        output[at + (row + 2u) * step] = vec4<out_elem>(y[2]);
    }
    if (row + 3u < last_row) {
        output[at + (row + 3u) * step] = vec4<out_elem>(y[3]);
    }
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, at_lane: Lane) {
    let tile = workgroup_number(here);
    if (tile >= params.tiles) {
        return;
    }
    let lane = number_of(at_lane);
    let stand = place_of(tile, params.heads);
    let b = stand.b;
    let h = stand.h;
    let k_head = h / params.group;
    // Rows past the end repeat the last one and are not stored.
    let first_i = stand.row * 16u;
    let last_i = min(first_i + 16u, params.positions.queries);
    let most_i = vec4<u32>(last_i - 1u);
    for (var r = lane; r < 16u; r += LANES) {
        rows[r] = row_of(b, min(first_i + r, last_i - 1u));
    }
    workgroupBarrier();
    let reach = reach_of(b, first_i, last_i);
    let q_rows = query_rows(
        at_lane, element(params.query, b, h, 0u, 0u), params.query.strides.z, first_i, last_i,
    );
    // This lane's quads of dimensions.
    let d_0 = min(lane, params.width - 1u);
    let d_1 = min(lane + LANES, params.width - 1u);

    // Column f of a mat4x4 belongs to rows 4·f and on.
    let none = vec4<f32>(HIDDEN);
    var m = mat4x4<f32>(none, none, none, none);
    var l = mat4x4<f32>(); // of this lane's keys
    if (SINKS && stand.range == 0u) {
        let sink = vec4<f32>(sink_of(h));
        m = mat4x4<f32>(sink, sink, sink, sink);
        let one = vec4<f32>(select(0.0, 1.0, lane == 0u));
        l = mat4x4<f32>(one, one, one, one);
    }
    // y_fq: column r is row 4·f + r, of the quad q of dimensions.
    var y_00 = mat4x4<f32>();
    var y_01 = mat4x4<f32>();
    var y_10 = mat4x4<f32>();
    var y_11 = mat4x4<f32>();
    var y_20 = mat4x4<f32>();
    var y_21 = mat4x4<f32>();
    var y_30 = mat4x4<f32>();
    var y_31 = mat4x4<f32>();
    let depth = params.depth;
    let lowest = max(min(reach.any.first, reach.any.start), stand.first_key);
    let highest = min(max(reach.any.last, reach.any.sinks_last), stand.last_key);
    for (var j = lowest / KEYS * KEYS; j < highest; j += KEYS) {
        j = skip_gap(reach, j, KEYS);
        let state = tile_state(reach, b, h, first_i, last_i, j, j + KEYS);
        if (j >= highest || state == TILE_HIDDEN) {
            continue;
        }
        let open = state == TILE_OPEN && j >= stand.first_key && j + KEYS <= stand.last_key;

        // s_fl, s_fh: of rows 4·f and on; column k is key k, or key 4 + k, of this lane.
        let own = lane * 8u;
        let k_0 = key_row(b, k_head, j + own);
        let k_1 = key_row(b, k_head, j + own + 1u);
        let k_2 = key_row(b, k_head, j + own + 2u);
        let k_3 = key_row(b, k_head, j + own + 3u);
        let k_4 = key_row(b, k_head, j + own + 4u);
        let k_5 = key_row(b, k_head, j + own + 5u);
        let k_6 = key_row(b, k_head, j + own + 6u);
        let k_7 = key_row(b, k_head, j + own + 7u);
        var s_0l = mat4x4<f32>();
        var s_0h = mat4x4<f32>();
        var s_1l = mat4x4<f32>();
        var s_1h = mat4x4<f32>();
        var s_2l = mat4x4<f32>();
        var s_2h = mat4x4<f32>();
        var s_3l = mat4x4<f32>();
        var s_3h = mat4x4<f32>();
        for (var quad = 0u; quad < depth; quad += 1u) {
            let low = mat4x4<f32>(
                key_at(k_0 + quad),
                key_at(k_1 + quad),
                key_at(k_2 + quad),
                key_at(k_3 + quad),
            );
            let high = mat4x4<f32>(
                key_at(k_4 + quad),
                key_at(k_5 + quad),
                key_at(k_6 + quad),
                key_at(k_7 + quad),
            );
            let q = query_fours(at_lane, q_rows, quad);
            let q_0 = transpose(q.a);
            s_0l += q_0 * low;
            s_0h += q_0 * high;
            let q_1 = transpose(q.b);
            s_1l += q_1 * low;
            s_1h += q_1 * high;
            let q_2 = transpose(q.c);
            s_2l += q_2 * low;
            s_2h += q_2 * high;
            let q_3 = transpose(q.d);
            s_3l += q_3 * low;
            s_3h += q_3 * high;
        }
        if (open && !SCORE_MOD) {
            s_0l = scored4(s_0l);
            s_0h = scored4(s_0h);
            s_1l = scored4(s_1l);
            s_1h = scored4(s_1h);
            s_2l = scored4(s_2l);
            s_2h = scored4(s_2h);
            s_3l = scored4(s_3l);
            s_3h = scored4(s_3h);
        } else {
            // Pair by pair, in workgroup memory.
            store_scores(own, 0u, s_0l, s_0h);
            store_scores(own, 1u, s_1l, s_1h);
            store_scores(own, 2u, s_2l, s_2h);
            store_scores(own, 3u, s_3l, s_3h);
            for (var n = 4u * own; n < 4u * own + 32u; n += 1u) {
                let four = 4u * (n % 4u);
                let i = min(vec4<u32>(first_i + four) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last_i - 1u));
                let at = j + n / 4u;
                let sum = weights[n];
                var s = vec4<f32>(
                    scored(b, h, i.x, at, sum.x),
                    scored(b, h, i.y, at, sum.y),
                    scored(b, h, i.z, at, sum.z),
                    scored(b, h, i.w, at, sum.w),
                );
                if (!open) {
                    s = vec4<f32>(
                        shown(rows[four], b, h, i.x, at, s.x),
                        shown(rows[four + 1u], b, h, i.y, at, s.y),
                        shown(rows[four + 2u], b, h, i.z, at, s.z),
                        shown(rows[four + 3u], b, h, i.w, at, s.w),
                    );
                    s = select(s, none, at < stand.first_key || at >= stand.last_key);
                }
                weights[n] = s;
            }
            s_0l = stored(4u * own);
            s_0h = stored(4u * own + 16u);
            s_1l = stored(4u * own + 1u);
            s_1h = stored(4u * own + 17u);
            s_2l = stored(4u * own + 2u);
            s_2h = stored(4u * own + 18u);
            s_3l = stored(4u * own + 3u);
            s_3h = stored(4u * own + 19u);
        }
        let next = mat4x4<f32>(
            max(m[0], reduce_max4(at_lane, largest(s_0l, s_0h))),
            max(m[1], reduce_max4(at_lane, largest(s_1l, s_1h))),
            max(m[2], reduce_max4(at_lane, largest(s_2l, s_2h))),
            max(m[3], reduce_max4(at_lane, largest(s_3l, s_3h))),
        );
        let c_0 = exp_falling4(relative(m[0] - next[0]));
        let c_1 = exp_falling4(relative(m[1] - next[1]));
        let c_2 = exp_falling4(relative(m[2] - next[2]));
        let c_3 = exp_falling4(relative(m[3] - next[3]));
        m = next;
        l = mat4x4<f32>(l[0] * c_0, l[1] * c_1, l[2] * c_2, l[3] * c_3);
        // The fours take turns in the first place: a loop over names.
        for (var four = 0u; four < 4u; four += 1u) {
            let top = m[0];
            let low = exponential(s_0l, top);
            let high = exponential(s_0h, top);
            store_scores(own, four, low, high);
            let sum = l[0] + low[0] + low[1] + low[2] + low[3] + high[0] + high[1] + high[2] + high[3];
            l = mat4x4<f32>(l[1], l[2], l[3], sum);
            m = mat4x4<f32>(m[1], m[2], m[3], top);
            s_0l = s_1l;
            s_0h = s_1h;
            s_1l = s_2l;
            s_1h = s_2h;
            s_2l = s_3l;
            s_2h = s_3h;
        }
        workgroupBarrier();

        y_00 = scaled(y_00, c_0);
        y_01 = scaled(y_01, c_0);
        y_10 = scaled(y_10, c_1);
        y_11 = scaled(y_11, c_1);
        y_20 = scaled(y_20, c_2);
        y_21 = scaled(y_21, c_2);
        y_30 = scaled(y_30, c_3);
        y_31 = scaled(y_31, c_3);
        var finite = true;
        if (!open) {
            for (var n = 0u; n < KEYS; n += 1u) {
                let v = value_row(b, k_head, j + n);
                finite = finite && is_finite4(value_at(v + d_0)) && is_finite4(value_at(v + d_1));
            }
        }
        if (finite) {
            for (var n = 0u; n < KEYS; n += 4u) {
                let v_0 = value_row(b, k_head, j + n);
                let v_1 = value_row(b, k_head, j + n + 1u);
                let v_2 = value_row(b, k_head, j + n + 2u);
                let v_3 = value_row(b, k_head, j + n + 3u);
                let near = mat4x4<f32>(
                    value_at(v_0 + d_0),
                    value_at(v_1 + d_0),
                    value_at(v_2 + d_0),
                    value_at(v_3 + d_0),
                );
                let far = mat4x4<f32>(
                    value_at(v_0 + d_1),
                    value_at(v_1 + d_1),
                    value_at(v_2 + d_1),
                    value_at(v_3 + d_1),
                );
                let p = weight_fours(at_lane, n);
                let p_0 = transpose(p.a);
                y_00 += near * p_0;
                y_01 += far * p_0;
                let p_1 = transpose(p.b);
                y_10 += near * p_1;
                y_11 += far * p_1;
                let p_2 = transpose(p.c);
                y_20 += near * p_2;
                y_21 += far * p_2;
                let p_3 = transpose(p.d);
                y_30 += near * p_3;
                y_31 += far * p_3;
            }
        } else {
            for (var n = 0u; n < KEYS; n += 1u) {
                let v = value_row(b, k_head, j + n);
                let near = value_at(v + d_0);
                let far = value_at(v + d_1);
                let a = weights[n * 4u];
                y_00 = with_key(y_00, a, near);
                y_01 = with_key(y_01, a, far);
                let b = weights[n * 4u + 1u];
                y_10 = with_key(y_10, b, near);
                y_11 = with_key(y_11, b, far);
                let c = weights[n * 4u + 2u];
                y_20 = with_key(y_20, c, near);
                y_21 = with_key(y_21, c, far);
                let d = weights[n * 4u + 3u];
                y_30 = with_key(y_30, d, near);
                y_31 = with_key(y_31, d, far);
            }
        }
        workgroupBarrier();
    }

    l = mat4x4<f32>(
        reduce_sum4(at_lane, l[0]), reduce_sum4(at_lane, l[1]), reduce_sum4(at_lane, l[2]), reduce_sum4(at_lane, l[3]),
    );
    let zero = vec4<f32>(0.0);
    let share = mat4x4<f32>(
        select(1.0 / l[0], zero, l[0] == zero),
        select(1.0 / l[1], zero, l[1] == zero),
        select(1.0 / l[2], zero, l[2] == zero),
        select(1.0 / l[3], zero, l[3] == zero),
    );
    let o_at = element(params.output, stand.range * params.batch + b, h, 0u, 0u);
    let step = params.output.strides.z;
    if (lane < params.width) {
        store_four(first_i, last_i, o_at + lane, step, scaled(y_00, share[0]));
        store_four(first_i + 4u, last_i, o_at + lane, step, scaled(y_10, share[1]));
        store_four(first_i + 8u, last_i, o_at + lane, step, scaled(y_20, share[2]));
        store_four(first_i + 12u, last_i, o_at + lane, step, scaled(y_30, share[3]));
    }
    if (lane + LANES < params.width) {
        let at = o_at + lane + LANES;
        store_four(first_i, last_i, at, step, scaled(y_01, share[0]));
        store_four(first_i + 4u, last_i, at, step, scaled(y_11, share[1]));
        store_four(first_i + 8u, last_i, at, step, scaled(y_21, share[2]));
        store_four(first_i + 12u, last_i, at, step, scaled(y_31, share[3]));
    }
    if (LSE && lane == 0u) {
        let l_at = element(params.lse, stand.range * params.batch + b, h, 0u, 0u);
        for (var i = first_i; i < last_i; i += 1u) {
            // The fours take turns in the first column.
            lse[l_at + i * params.lse.strides.z] = log_sum_exp(m[0][0], l[0][0]);
            m[0] = vec4<f32>(m[0].y, m[0].z, m[0].w, m[1].x);
            m[1] = vec4<f32>(m[1].y, m[1].z, m[1].w, m[2].x);
            m[2] = vec4<f32>(m[2].y, m[2].z, m[2].w, m[3].x);
            m[3] = vec4<f32>(m[3].y, m[3].z, m[3].w, m[3].x);
            l[0] = vec4<f32>(l[0].y, l[0].z, l[0].w, l[1].x);
            l[1] = vec4<f32>(l[1].y, l[1].z, l[1].w, l[2].x);
            l[2] = vec4<f32>(l[2].y, l[2].z, l[2].w, l[3].x);
            l[3] = vec4<f32>(l[3].y, l[3].z, l[3].w, l[3].x);
        }
    }
}
