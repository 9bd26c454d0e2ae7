// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention"), without workgroup memory
// and barriers: every invocation owns four query rows and keeps them, and their outputs, in registers. All invocations
// of a workgroup read the same keys and values at the same time.
//
//   m = −∞, l = 0, y = 0                                 with a sink: m = sink, l = 1
//   for each KEYS keys that one of the rows sees:
//     s_j = score of row and key j, masked
//     m' = max(m, max_j s_j);  c = exp(m − m');  l = c·l;  y = c·y
//     for each key: p = exp(s_j − m');  l += p;  y += p·v_j
//   output = y / l;  lse = m + ln l
//
// The components of a vec4 are the four rows. Head dims are counted in blocks of 16, padded with zeros.
override LANES: u32 = 8u;
override KEYS: u32 = 8u;         // 4 or 8
override BLOCKS_OF_QUERY: u32 = 4u; // D / 16
override BLOCKS_OF_VALUE: u32 = 4u; // Dv / 16

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
@group(0) @binding(2) var<storage, read> key: array<vec4<elem>>;
@group(0) @binding(3) var<storage, read> value: array<vec4<elem>>;
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> lse: array<f32>;

// 16 dimensions of four rows: each column is one dimension.
struct Block {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
}

fn quads_of_rows(at: vec4<u32>) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(
        vec4<f32>(query[at.x]),
        vec4<f32>(query[at.y]),
        vec4<f32>(query[at.z]),
        vec4<f32>(query[at.w]),
    ));
}

fn load(at: vec4<u32>) -> Block {
    return Block(quads_of_rows(at), quads_of_rows(at + 1u), quads_of_rows(at + 2u), quads_of_rows(at + 3u));
}

// Σ_d q[d]·k[d] of four rows with one key.
fn product(q: Block, at: u32) -> vec4<f32> {
    return q.a * vec4<f32>(key[at]) + q.b * vec4<f32>(key[at + 1u])
        + q.c * vec4<f32>(key[at + 2u]) + q.d * vec4<f32>(key[at + 3u]);
}

fn outer(p: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(p * v.x, p * v.y, p * v.z, p * v.w);
}

fn weighted(y: Block, p: vec4<f32>, at: u32) -> Block {
    return Block(
        y.a + outer(p, vec4<f32>(value[at])),
        y.b + outer(p, vec4<f32>(value[at + 1u])),
        y.c + outer(p, vec4<f32>(value[at + 2u])),
        y.d + outer(p, vec4<f32>(value[at + 3u])),
    );
}

// NaN and infinity count for nothing where the weight is 0.
fn outer_seen(p: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    let zero = vec4<f32>(0.0);
    let none = p == zero;
    return mat4x4<f32>(
        select(p * v.x, zero, none), select(p * v.y, zero, none), select(p * v.z, zero, none), select(p * v.w, zero, none),
    );
}

fn weighted_seen(y: Block, p: vec4<f32>, at: u32) -> Block {
    return Block(
        y.a + outer_seen(p, vec4<f32>(value[at])),
        y.b + outer_seen(p, vec4<f32>(value[at + 1u])),
        y.c + outer_seen(p, vec4<f32>(value[at + 2u])),
        y.d + outer_seen(p, vec4<f32>(value[at + 3u])),
    );
}

fn scaled(y: Block, c: vec4<f32>) -> Block {
    return Block(
        mat4x4<f32>(y.a[0] * c, y.a[1] * c, y.a[2] * c, y.a[3] * c),
        mat4x4<f32>(y.b[0] * c, y.b[1] * c, y.b[2] * c, y.b[3] * c),
        mat4x4<f32>(y.c[0] * c, y.c[1] * c, y.c[2] * c, y.c[3] * c),
        mat4x4<f32>(y.d[0] * c, y.d[1] * c, y.d[2] * c, y.d[3] * c),
    );
}

fn store_quads(at: vec4<u32>, real: vec4<bool>, y: mat4x4<f32>) {
    let rows = transpose(y);
    if (real.x) {
        output[at.x] = vec4<out_elem>(rows[0]);
    }
    if (real.y) {
        output[at.y] = vec4<out_elem>(rows[1]);
    }
    if (real.z) {
        output[at.z] = vec4<out_elem>(rows[2]);
    }
    if (real.w) {
        output[at.w] = vec4<out_elem>(rows[3]);
    }
}

fn store(at: vec4<u32>, real: vec4<bool>, y: Block) {
    store_quads(at, real, y.a);
    store_quads(at + 1u, real, y.b);
    store_quads(at + 2u, real, y.c);
    store_quads(at + 3u, real, y.d);
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_number(here);
    if (tile >= params.tiles) {
        return;
    }
    let stand = place_of(tile, params.heads);
    let b = stand.b;
    let h = stand.h;
    let queries = params.positions.queries;
    let first_i = stand.row * LANES * 4u;
    let last_i = min(first_i + LANES * 4u, queries);
    // Rows past the end repeat the last one and are not stored.
    let i = vec4<u32>(first_i + lane * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    let real = i < vec4<u32>(queries);
    let rows = min(i, vec4<u32>(queries - 1u));
    let row_0 = row_of(b, rows.x);
    let row_1 = row_of(b, rows.y);
    let row_2 = row_of(b, rows.z);
    let row_3 = row_of(b, rows.w);
    let reach = reach_of(b, first_i, last_i);
    let k_head = h / params.group;

    let q_at = element(params.query, b, h, 0u, 0u) + rows * params.query.strides.z;
    let zero = mat4x4<f32>();
    let none = Block(zero, zero, zero, zero);
    var q_0 = none;
    if (BLOCKS_OF_QUERY > 0u) {
        q_0 = load(q_at + 0u);
    }
    var q_1 = none;
    if (BLOCKS_OF_QUERY > 1u) {
        q_1 = load(q_at + 4u);
    }
    var q_2 = none;
    if (BLOCKS_OF_QUERY > 2u) {
        q_2 = load(q_at + 8u);
    }
    var q_3 = none;
    if (BLOCKS_OF_QUERY > 3u) {
        q_3 = load(q_at + 12u);
    }
    var q_4 = none;
    if (BLOCKS_OF_QUERY > 4u) {
        q_4 = load(q_at + 16u);
    }
    var q_5 = none;
    if (BLOCKS_OF_QUERY > 5u) {
        q_5 = load(q_at + 20u);
    }
    var q_6 = none;
    if (BLOCKS_OF_QUERY > 6u) {
        q_6 = load(q_at + 24u);
    }
    var q_7 = none;
    if (BLOCKS_OF_QUERY > 7u) {
        q_7 = load(q_at + 28u);
    }
    var q_8 = none;
    if (BLOCKS_OF_QUERY > 8u) {
        q_8 = load(q_at + 32u);
    }
    var q_9 = none;
    if (BLOCKS_OF_QUERY > 9u) {
        q_9 = load(q_at + 36u);
    }
    var q_10 = none;
    if (BLOCKS_OF_QUERY > 10u) {
        q_10 = load(q_at + 40u);
    }
    var q_11 = none;
    if (BLOCKS_OF_QUERY > 11u) {
        q_11 = load(q_at + 44u);
    }
    var q_12 = none;
    if (BLOCKS_OF_QUERY > 12u) {
        q_12 = load(q_at + 48u);
    }
    var q_13 = none;
    if (BLOCKS_OF_QUERY > 13u) {
        q_13 = load(q_at + 52u);
    }
    var q_14 = none;
    if (BLOCKS_OF_QUERY > 14u) {
        q_14 = load(q_at + 56u);
    }
    var q_15 = none;
    if (BLOCKS_OF_QUERY > 15u) {
        q_15 = load(q_at + 60u);
    }
    var y_0 = none;
    var y_1 = none;
    var y_2 = none;
    var y_3 = none;
    var y_4 = none;
    var y_5 = none;
    var y_6 = none;
    var y_7 = none;
    var y_8 = none;
    var y_9 = none;
    var y_10 = none;
    var y_11 = none;
    var y_12 = none;
    var y_13 = none;
    var y_14 = none;
    var y_15 = none;

    var m = vec4<f32>(HIDDEN);
    var l = vec4<f32>(0.0);
    if (SINKS && stand.range == 0u) {
        m = vec4<f32>(sink_of(h));
        l = vec4<f32>(1.0);
    }
    let lowest = max(min(reach.any.first, reach.any.start), stand.first_key);
    let highest = min(max(reach.any.last, reach.any.sinks_last), stand.last_key);
    for (var j = lowest / KEYS * KEYS; j < highest; j += KEYS) {
        j = skip_gap(reach, j, KEYS);
        let last_j = min(j + KEYS, highest);
        let state = tile_state(reach, b, h, first_i, last_i, j, j + KEYS);
        if (j >= highest || state == TILE_HIDDEN) {
            continue;
        }
        let open = state == TILE_OPEN && j + KEYS <= highest && j >= stand.first_key;

        var s_low = zero;
        var s_high = zero;
        for (var n = 0u; n < KEYS; n += 1u) {
            let at = place(b, min(j + n, params.positions.keys - 1u));
            let k_at = element(params.key, at.x, k_head, at.y, 0u);
            var sum = vec4<f32>(0.0);
            if (BLOCKS_OF_QUERY > 0u) {
                sum += product(q_0, k_at + 0u);
            }
            if (BLOCKS_OF_QUERY > 1u) {
                sum += product(q_1, k_at + 4u);
            }
            if (BLOCKS_OF_QUERY > 2u) {
                sum += product(q_2, k_at + 8u);
            }
            if (BLOCKS_OF_QUERY > 3u) {
                sum += product(q_3, k_at + 12u);
            }
            if (BLOCKS_OF_QUERY > 4u) {
                sum += product(q_4, k_at + 16u);
            }
            if (BLOCKS_OF_QUERY > 5u) {
                sum += product(q_5, k_at + 20u);
            }
            if (BLOCKS_OF_QUERY > 6u) {
                sum += product(q_6, k_at + 24u);
            }
            if (BLOCKS_OF_QUERY > 7u) {
                sum += product(q_7, k_at + 28u);
            }
            if (BLOCKS_OF_QUERY > 8u) {
                sum += product(q_8, k_at + 32u);
            }
            if (BLOCKS_OF_QUERY > 9u) {
                sum += product(q_9, k_at + 36u);
            }
            if (BLOCKS_OF_QUERY > 10u) {
                sum += product(q_10, k_at + 40u);
            }
            if (BLOCKS_OF_QUERY > 11u) {
                sum += product(q_11, k_at + 44u);
            }
            if (BLOCKS_OF_QUERY > 12u) {
                sum += product(q_12, k_at + 48u);
            }
            if (BLOCKS_OF_QUERY > 13u) {
                sum += product(q_13, k_at + 52u);
            }
            if (BLOCKS_OF_QUERY > 14u) {
                sum += product(q_14, k_at + 56u);
            }
            if (BLOCKS_OF_QUERY > 15u) {
                sum += product(q_15, k_at + 60u);
            }
            var s = vec4<f32>(
                scored(b, h, i.x, j + n, sum.x),
                scored(b, h, i.y, j + n, sum.y),
                scored(b, h, i.z, j + n, sum.z),
                scored(b, h, i.w, j + n, sum.w),
            );
            if (!open) {
                s = vec4<f32>(
                    shown(row_0, b, h, rows.x, j + n, s.x),
                    shown(row_1, b, h, rows.y, j + n, s.y),
                    shown(row_2, b, h, rows.z, j + n, s.z),
                    shown(row_3, b, h, rows.w, j + n, s.w),
                );
                if (j + n >= last_j || j + n < stand.first_key) {
                    s = vec4<f32>(HIDDEN);
                }
            }
            s_low = mat4x4<f32>(s_low[1], s_low[2], s_low[3], s_high[0]);
            s_high = mat4x4<f32>(s_high[1], s_high[2], s_high[3], s);
        }
        // With four keys they are all in the upper half.
        var most = max(max(s_high[0], s_high[1]), max(s_high[2], s_high[3]));
        if (KEYS > 4u) {
            most = max(most, max(max(s_low[0], s_low[1]), max(s_low[2], s_low[3])));
        } else {
            s_low = s_high;
        }
        if (any(most > m)) {
            let next = max(m, most);
            let c = exp_falling4(relative(m - next));
            m = next;
            l *= c;
            if (BLOCKS_OF_VALUE > 0u) {
                y_0 = scaled(y_0, c);
            }
            if (BLOCKS_OF_VALUE > 1u) {
                y_1 = scaled(y_1, c);
            }
            if (BLOCKS_OF_VALUE > 2u) {
                y_2 = scaled(y_2, c);
            }
            if (BLOCKS_OF_VALUE > 3u) {
                y_3 = scaled(y_3, c);
            }
            if (BLOCKS_OF_VALUE > 4u) {
                y_4 = scaled(y_4, c);
            }
            if (BLOCKS_OF_VALUE > 5u) {
                y_5 = scaled(y_5, c);
            }
            if (BLOCKS_OF_VALUE > 6u) {
                y_6 = scaled(y_6, c);
            }
            if (BLOCKS_OF_VALUE > 7u) {
                y_7 = scaled(y_7, c);
            }
            if (BLOCKS_OF_VALUE > 8u) {
                y_8 = scaled(y_8, c);
            }
            if (BLOCKS_OF_VALUE > 9u) {
                y_9 = scaled(y_9, c);
            }
            if (BLOCKS_OF_VALUE > 10u) {
                y_10 = scaled(y_10, c);
            }
            if (BLOCKS_OF_VALUE > 11u) {
                y_11 = scaled(y_11, c);
            }
            if (BLOCKS_OF_VALUE > 12u) {
                y_12 = scaled(y_12, c);
            }
            if (BLOCKS_OF_VALUE > 13u) {
                y_13 = scaled(y_13, c);
            }
            if (BLOCKS_OF_VALUE > 14u) {
                y_14 = scaled(y_14, c);
            }
            if (BLOCKS_OF_VALUE > 15u) {
                y_15 = scaled(y_15, c);
            }
        }
        for (var n = 0u; n < KEYS; n += 1u) {
            let at = place(b, min(j + n, params.positions.keys - 1u));
            let v_at = element(params.value, at.x, k_head, at.y, 0u);
            let s = s_low[0];
            s_low = mat4x4<f32>(s_low[1], s_low[2], s_low[3], s_high[0]);
            s_high = mat4x4<f32>(s_high[1], s_high[2], s_high[3], s);
            var p = exp_falling4(relative(s - m));
            if (open) {
                l += p;
                if (BLOCKS_OF_VALUE > 0u) {
                    y_0 = weighted(y_0, p, v_at + 0u);
                }
                if (BLOCKS_OF_VALUE > 1u) {
                    y_1 = weighted(y_1, p, v_at + 4u);
                }
                if (BLOCKS_OF_VALUE > 2u) {
                    y_2 = weighted(y_2, p, v_at + 8u);
                }
                if (BLOCKS_OF_VALUE > 3u) {
                    y_3 = weighted(y_3, p, v_at + 12u);
                }
                if (BLOCKS_OF_VALUE > 4u) {
                    y_4 = weighted(y_4, p, v_at + 16u);
                }
                if (BLOCKS_OF_VALUE > 5u) {
                    y_5 = weighted(y_5, p, v_at + 20u);
                }
                if (BLOCKS_OF_VALUE > 6u) {
                    y_6 = weighted(y_6, p, v_at + 24u);
                }
                if (BLOCKS_OF_VALUE > 7u) {
                    y_7 = weighted(y_7, p, v_at + 28u);
                }
                if (BLOCKS_OF_VALUE > 8u) {
                    y_8 = weighted(y_8, p, v_at + 32u);
                }
                if (BLOCKS_OF_VALUE > 9u) {
                    y_9 = weighted(y_9, p, v_at + 36u);
                }
                if (BLOCKS_OF_VALUE > 10u) {
                    y_10 = weighted(y_10, p, v_at + 40u);
                }
                if (BLOCKS_OF_VALUE > 11u) {
                    y_11 = weighted(y_11, p, v_at + 44u);
                }
                if (BLOCKS_OF_VALUE > 12u) {
                    y_12 = weighted(y_12, p, v_at + 48u);
                }
                if (BLOCKS_OF_VALUE > 13u) {
                    y_13 = weighted(y_13, p, v_at + 52u);
                }
                if (BLOCKS_OF_VALUE > 14u) {
                    y_14 = weighted(y_14, p, v_at + 56u);
                }
                if (BLOCKS_OF_VALUE > 15u) {
                    y_15 = weighted(y_15, p, v_at + 60u);
                }
            } else {
                p = select(p, vec4<f32>(0.0), s == vec4<f32>(HIDDEN));
                l += p;
                if (BLOCKS_OF_VALUE > 0u) {
                    y_0 = weighted_seen(y_0, p, v_at + 0u);
                }
                if (BLOCKS_OF_VALUE > 1u) {
                    y_1 = weighted_seen(y_1, p, v_at + 4u);
                }
                if (BLOCKS_OF_VALUE > 2u) {
                    y_2 = weighted_seen(y_2, p, v_at + 8u);
                }
                if (BLOCKS_OF_VALUE > 3u) {
                    y_3 = weighted_seen(y_3, p, v_at + 12u);
                }
                if (BLOCKS_OF_VALUE > 4u) {
                    y_4 = weighted_seen(y_4, p, v_at + 16u);
                }
                if (BLOCKS_OF_VALUE > 5u) {
                    y_5 = weighted_seen(y_5, p, v_at + 20u);
                }
                if (BLOCKS_OF_VALUE > 6u) {
                    y_6 = weighted_seen(y_6, p, v_at + 24u);
                }
                if (BLOCKS_OF_VALUE > 7u) {
                    y_7 = weighted_seen(y_7, p, v_at + 28u);
                }
                if (BLOCKS_OF_VALUE > 8u) {
                    y_8 = weighted_seen(y_8, p, v_at + 32u);
                }
                if (BLOCKS_OF_VALUE > 9u) {
                    y_9 = weighted_seen(y_9, p, v_at + 36u);
                }
                if (BLOCKS_OF_VALUE > 10u) {
                    y_10 = weighted_seen(y_10, p, v_at + 40u);
                }
                if (BLOCKS_OF_VALUE > 11u) {
                    y_11 = weighted_seen(y_11, p, v_at + 44u);
                }
                if (BLOCKS_OF_VALUE > 12u) {
                    y_12 = weighted_seen(y_12, p, v_at + 48u);
                }
                if (BLOCKS_OF_VALUE > 13u) {
                    y_13 = weighted_seen(y_13, p, v_at + 52u);
                }
                if (BLOCKS_OF_VALUE > 14u) {
                    y_14 = weighted_seen(y_14, p, v_at + 56u);
                }
                if (BLOCKS_OF_VALUE > 15u) {
                    y_15 = weighted_seen(y_15, p, v_at + 60u);
                }
            }
        }
    }

    let share = select(1.0 / l, vec4<f32>(0.0), l == vec4<f32>(0.0));
    let o_at = element(params.output, stand.range * params.batch + b, h, 0u, 0u) + rows * params.output.strides.z;
    if (BLOCKS_OF_VALUE > 0u) {
        store(o_at + 0u, real, scaled(y_0, share));
    }
    if (BLOCKS_OF_VALUE > 1u) {
        store(o_at + 4u, real, scaled(y_1, share));
    }
    if (BLOCKS_OF_VALUE > 2u) {
        store(o_at + 8u, real, scaled(y_2, share));
    }
    if (BLOCKS_OF_VALUE > 3u) {
        store(o_at + 12u, real, scaled(y_3, share));
    }
    if (BLOCKS_OF_VALUE > 4u) {
        store(o_at + 16u, real, scaled(y_4, share));
    }
    if (BLOCKS_OF_VALUE > 5u) {
        store(o_at + 20u, real, scaled(y_5, share));
    }
    if (BLOCKS_OF_VALUE > 6u) {
        store(o_at + 24u, real, scaled(y_6, share));
    }
    if (BLOCKS_OF_VALUE > 7u) {
        store(o_at + 28u, real, scaled(y_7, share));
    }
    if (BLOCKS_OF_VALUE > 8u) {
        store(o_at + 32u, real, scaled(y_8, share));
    }
    if (BLOCKS_OF_VALUE > 9u) {
        store(o_at + 36u, real, scaled(y_9, share));
    }
    if (BLOCKS_OF_VALUE > 10u) {
        store(o_at + 40u, real, scaled(y_10, share));
    }
    if (BLOCKS_OF_VALUE > 11u) {
        store(o_at + 44u, real, scaled(y_11, share));
    }
    if (BLOCKS_OF_VALUE > 12u) {
        store(o_at + 48u, real, scaled(y_12, share));
    }
    if (BLOCKS_OF_VALUE > 13u) {
        store(o_at + 52u, real, scaled(y_13, share));
    }
    if (BLOCKS_OF_VALUE > 14u) {
        store(o_at + 56u, real, scaled(y_14, share));
    }
    if (BLOCKS_OF_VALUE > 15u) {
        store(o_at + 60u, real, scaled(y_15, share));
    }
    if (LSE) {
        let l_at = element(params.lse, stand.range * params.batch + b, h, 0u, 0u) + rows * params.lse.strides.z;
        for (var r = 0u; r < 4u; r += 1u) {
            if (real[r]) {
                lse[l_at[r]] = log_sum_exp(m[r], l[r]);
            }
        }
    }
}
