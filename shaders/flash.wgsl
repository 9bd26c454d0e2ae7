// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention"), tiled for graphics cards:
// a workgroup owns 4 · GROUPS query rows; queries, keys and values pass through workgroup memory.
//
//   m = −∞, l = 0, y = 0
//   for each 4 · GROUP keys that one of the rows sees:
//     for each GROUP quads of dimensions: bring queries and keys; a lane compares 4 rows with 4 keys
//     m' = max(m, max_j s_j);  c = exp(m − m');  p_j = exp(s_j − m');  l = c·l + Σ p;  y = c·y
//     weights go where the queries were
//     for each GROUP quads of dimensions: bring values; a lane adds to 4 rows and 4 dimensions, y += p_j·v_j
//   with a sink, m' = max(m, sink);  l = exp(m − m')·l + exp(sink − m');  y = exp(m − m')·y
//   output = y / l;  lse = m + ln l;  of one range of keys, m and l, and no sink
//
// A lane is column `c` of GROUP in row group `g` of GROUPS: its rows are g, g + GROUPS, …, its keys c, c + GROUP, …, so
// that neighbouring lanes read neighbouring words. Components of scores and weights are the lane's four rows. LANES and
// GROUP come with the group_* file.
override GROUPS: u32 = 16u;   // LANES / GROUP
override KEYS: u32 = 32u;     // 4 · GROUP
override LEFT: u32 = 520u;    // entries of `left`
override RIGHT: u32 = 264u;   // entries of `right`
override SLICES: u32 = 2u;    // Dv / (4 · GROUP), rounded up

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
// 2 and 3 are key and value: common/key_*.wgsl, value_*.wgsl
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

// Quads of queries, GROUP of them, each of all rows and one entry apart from the next so that no two lanes that write
// meet in a bank; then weights, key by key, a vec4 for each row group.
var<workgroup> left: array<vec4<f32>, LEFT>;
// Quads of keys, likewise; then values, key by key, GROUP quads each.
var<workgroup> right: array<vec4<f32>, RIGHT>;
// Whether a value of a mixed tile is not finite.
var<workgroup> wild: atomic<u32>;

fn is_finite4(x: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) < vec4<u32>(0x7f800000u));
}

fn bring_queries(lane: u32, start: u32, first_i: u32, last_i: u32, first_quad: u32) {
    for (var n = lane; n < 4u * GROUPS * GROUP; n += LANES) {
        let row = n / GROUP;
        let quad = first_quad + n % GROUP;
        var x = vec4<f32>(0.0);
        if (quad < params.depth) {
            x = vec4<f32>(query[start + min(first_i + row, last_i - 1u) * params.query.strides.z + quad]);
        }
        left[(n % GROUP) * (4u * GROUPS + 1u) + row] = x;
    }
}

fn bring_keys(lane: u32, b: u32, h: u32, j: u32, first_quad: u32) {
    for (var n = lane; n < KEYS * GROUP; n += LANES) {
        let column = n / GROUP;
        let quad = first_quad + n % GROUP;
        var x = vec4<f32>(0.0);
        if (quad < params.depth) {
            let at = place(b, min(j + column, params.positions.keys - 1u));
            x = key_at(element(params.key, at.x, h, at.y, quad));
        }
        right[(n % GROUP) * (KEYS + 1u) + column] = x;
    }
}

fn bring_values(lane: u32, b: u32, h: u32, j: u32, first_quad: u32, open: bool) {
    for (var n = lane; n < KEYS * GROUP; n += LANES) {
        let quad = first_quad + n % GROUP;
        var x = vec4<f32>(0.0);
        if (quad < params.width) {
            let at = place(b, min(j + n / GROUP, params.positions.keys - 1u));
            x = value_at(element(params.value, at.x, h, at.y, quad));
        }
        if (!open && !is_finite4(x)) {
            atomicStore(&wild, 1u);
        }
        right[n] = x;
    }
}

// Σ_j p_j·v_j over the keys of a tile: column r is row r.
fn weighted(g: u32, c: u32) -> mat4x4<f32> {
    var y = mat4x4<f32>();
    for (var n = 0u; n < KEYS; n += 1u) {
        let p = left[n * GROUPS + g];
        let v = right[n * GROUP + c];
        y += mat4x4<f32>(p.x * v, p.y * v, p.z * v, p.w * v);
    }
    return y;
}

// The same where NaN and infinity may be hidden: they count for nothing where the weight is 0.
fn weighted_seen(g: u32, c: u32) -> mat4x4<f32> {
    let zero = vec4<f32>(0.0);
    var y = mat4x4<f32>();
    for (var n = 0u; n < KEYS; n += 1u) {
        let p = left[n * GROUPS + g];
        let v = right[n * GROUP + c];
        y += mat4x4<f32>(
            select(p.x * v, zero, p.x == 0.0),
            select(p.y * v, zero, p.y == 0.0),
            select(p.z * v, zero, p.z == 0.0),
            select(p.w * v, zero, p.w == 0.0),
        );
    }
    return y;
}

// One slice of dimensions, with the outputs so far.
fn slice(
    y: mat4x4<f32>, number: u32, correction: vec4<f32>, lane: u32, b: u32, h: u32, j: u32, open: bool,
) -> mat4x4<f32> {
    workgroupBarrier();
    bring_values(lane, b, h, j, number * GROUP, open);
    workgroupBarrier();
    var sum = mat4x4<f32>();
    if (!open && atomicLoad(&wild) != 0u) {
        sum = weighted_seen(lane / GROUP, lane % GROUP);
    } else {
        sum = weighted(lane / GROUP, lane % GROUP);
    }
    return scaled(y, correction) + sum;
}

// Each column times one number.
fn scaled(y: mat4x4<f32>, c: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(y[0] * c.x, y[1] * c.y, y[2] * c.z, y[3] * c.w);
}

fn store(y: mat4x4<f32>, at: vec4<u32>, real: vec4<bool>, quad: u32) {
    if (quad >= params.width) {
        return;
    }
    if (real.x) {
        output[at.x + quad] = vec4<out_elem>(y[0]);
    }
    if (real.y) {
        output[at.y + quad] = vec4<out_elem>(y[1]);
    }
    if (real.z) {
        output[at.z + quad] = vec4<out_elem>(y[2]);
    }
    if (real.w) {
        output[at.w + quad] = vec4<out_elem>(y[3]);
    }
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, at_lane: Lane) {
    let tile = workgroup_number(here);
    if (tile >= params.tiles) {
        return;
    }
    let lane = number_of(at_lane);
    let g = lane / GROUP;
    let c = lane % GROUP;
    let stand = place_of(tile, params.heads);
    let b = stand.b;
    let h = stand.h;
    let k_head = h / params.group;
    // Rows past the end repeat the last one and are not stored.
    let first_i = stand.row * 4u * GROUPS;
    let last_i = min(first_i + 4u * GROUPS, params.positions.queries);
    let own = vec4<u32>(first_i + g) + GROUPS * vec4<u32>(0u, 1u, 2u, 3u);
    let real = own < vec4<u32>(last_i);
    let i = min(own, vec4<u32>(last_i - 1u));
    let row_0 = row_of(b, i.x);
    let row_1 = row_of(b, i.y);
    let row_2 = row_of(b, i.z);
    let row_3 = row_of(b, i.w);
    let reach = reach_of(b, first_i, last_i);
    let q_start = element(params.query, b, h, 0u, 0u);
    let factor = length_factor();
    let hidden = vec4<f32>(HIDDEN);

    var m = hidden;
    var l = vec4<f32>(0.0); // of this lane's keys
    var y_0 = mat4x4<f32>();
    var y_1 = mat4x4<f32>();
    var y_2 = mat4x4<f32>();
    var y_3 = mat4x4<f32>();
    var y_4 = mat4x4<f32>();
    var y_5 = mat4x4<f32>();
    var y_6 = mat4x4<f32>();
    var y_7 = mat4x4<f32>();
    let lowest = max(min(reach.any.first, reach.any.start), stand.first_key);
    let highest = min(max(reach.any.last, reach.any.sinks_last), stand.last_key);
    for (var j = lowest / KEYS * KEYS; j < highest; j += KEYS) {
        j = skip_gap(reach, j, KEYS);
        let state = tile_state(reach, b, h, first_i, last_i, j, j + KEYS);
        if (j >= highest || state == TILE_HIDDEN) {
            continue;
        }
        let open = state == TILE_OPEN && j >= stand.first_key && j + KEYS <= stand.last_key;

        var s = mat4x4<f32>(); // column k is key k
        for (var first = 0u; first < params.depth; first += GROUP) {
            workgroupBarrier();
            bring_queries(lane, q_start, first_i, last_i, first);
            bring_keys(lane, b, k_head, j, first);
            workgroupBarrier();
            for (var quad = 0u; quad < GROUP; quad += 1u) {
                let q_at = quad * (4u * GROUPS + 1u) + g;
                let k_at = quad * (KEYS + 1u) + c;
                let q = mat4x4<f32>(
                    left[q_at], left[q_at + GROUPS], left[q_at + 2u * GROUPS], left[q_at + 3u * GROUPS],
                );
                let k = mat4x4<f32>(
                    right[k_at], right[k_at + GROUP], right[k_at + 2u * GROUP], right[k_at + 3u * GROUP],
                );
                s += compared(q, k, first + quad);
            }
        }
        if (NORMED) {
            s = s * factor;
        }
        // The keys take turns in the first column: a loop over names.
        for (var k = 0u; k < 4u; k += 1u) {
            let at = j + c + k * GROUP;
            var next = vec4<f32>(
                scored(b, h, i.x, at, s[0].x),
                scored(b, h, i.y, at, s[0].y),
                scored(b, h, i.z, at, s[0].z),
                scored(b, h, i.w, at, s[0].w),
            );
            if (!open) {
                next = vec4<f32>(
                    shown(row_0, b, h, i.x, at, next.x),
                    shown(row_1, b, h, i.y, at, next.y),
                    shown(row_2, b, h, i.z, at, next.z),
                    shown(row_3, b, h, i.w, at, next.w),
                );
                next = select(next, hidden, at < stand.first_key || at >= stand.last_key);
            }
            s = mat4x4<f32>(s[1], s[2], s[3], next);
        }
        let most = group_max4(at_lane, max(max(s[0], s[1]), max(s[2], s[3])));
        let next = max(m, most);
        let correction = exp_falling4(relative(m - next));
        m = next;
        let p = mat4x4<f32>(weight_units(s[0], m), weight_units(s[1], m), weight_units(s[2], m), weight_units(s[3], m));
        l = l * correction + p[0] + p[1] + p[2] + p[3];
        workgroupBarrier();
        left[c * GROUPS + g] = p[0];
        left[(c + GROUP) * GROUPS + g] = p[1];
        left[(c + 2u * GROUP) * GROUPS + g] = p[2];
        left[(c + 3u * GROUP) * GROUPS + g] = p[3];
        if (lane == 0u) {
            atomicStore(&wild, 0u);
        }
        if (SLICES > 0u) {
            y_0 = slice(y_0, 0u, correction, lane, b, k_head, j, open);
        }
        if (SLICES > 1u) {
            y_1 = slice(y_1, 1u, correction, lane, b, k_head, j, open);
        }
        if (SLICES > 2u) {
            y_2 = slice(y_2, 2u, correction, lane, b, k_head, j, open);
        }
        if (SLICES > 3u) {
            y_3 = slice(y_3, 3u, correction, lane, b, k_head, j, open);
        }
        if (SLICES > 4u) {
            y_4 = slice(y_4, 4u, correction, lane, b, k_head, j, open);
        }
        if (SLICES > 5u) {
            y_5 = slice(y_5, 5u, correction, lane, b, k_head, j, open);
        }
        if (SLICES > 6u) {
            y_6 = slice(y_6, 6u, correction, lane, b, k_head, j, open);
        }
        if (SLICES > 7u) {
            y_7 = slice(y_7, 7u, correction, lane, b, k_head, j, open);
        }
    }

    let end = row_end(m, group_sum4(at_lane, l), sink_of(vec4<u32>(h)));
    let share = end.share;
    let o_at = element(params.output, stand.range * params.batch + b, h, 0u, 0u) + i * params.output.strides.z;
    if (SLICES > 0u) {
        store(scaled(y_0, share), o_at, real, 0u * GROUP + c);
    }
    if (SLICES > 1u) {
        store(scaled(y_1, share), o_at, real, 1u * GROUP + c);
    }
    if (SLICES > 2u) {
        store(scaled(y_2, share), o_at, real, 2u * GROUP + c);
    }
    if (SLICES > 3u) {
        store(scaled(y_3, share), o_at, real, 3u * GROUP + c);
    }
    if (SLICES > 4u) {
        store(scaled(y_4, share), o_at, real, 4u * GROUP + c);
    }
    if (SLICES > 5u) {
        store(scaled(y_5, share), o_at, real, 5u * GROUP + c);
    }
    if (SLICES > 6u) {
        store(scaled(y_6, share), o_at, real, 6u * GROUP + c);
    }
    if (SLICES > 7u) {
        store(scaled(y_7, share), o_at, real, 7u * GROUP + c);
    }
    if (c == 0u) {
        for (var r = 0u; r < 4u; r += 1u) {
            if (real[r]) {
                store_stats(stand, h, i[r], end.m[r], end.l[r]);
            }
        }
    }
}
