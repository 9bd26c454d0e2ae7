// Attention with an online softmax for few queries, over ranges of keys side by side (Dao et al. 2023, "Flash-Decoding"). A
// workgroup takes one range and four rows: the queries of the heads that share one key head are its rows, so that each
// key and value is read once for all of them.
//
//   m = −∞, l = 0, y = 0
//   for each KEYS keys of the range that one of the rows sees:
//     scores: a lane compares four keys with the four rows, PARTS neighbouring lanes share the depth
//     m' = max(m, max_j s_j);  c = exp(m − m');  p_j = exp(s_j − m');  l = c·l + Σ p;  y = c·y
//     values: a lane takes four dimensions, y += p_j·v_j; the lanes left over share the keys
//   with a sink, m' = max(m, sink);  l = exp(m − m')·l + exp(sink − m');  y = exp(m − m')·y
//   output = y / l;  lse = m + ln l;  of one range of keys, m and l, and no sink
//
// The components of scores and weights are the four rows. LANES and PARTS come with the split_*.wgsl file.
override KEYS: u32 = 128u;  // a multiple of 4 · LANES / PARTS
override WIDTH: u32 = 32u;  // lanes along the dimensions of a value: a power of two, at least Dv / 4

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
// 2 and 3 are key and value: common/key_*.wgsl, value_*.wgsl
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

var<workgroup> weights: array<vec4<f32>, KEYS>;
var<workgroup> outputs: array<mat4x4<f32>, LANES>;

fn key_row(b: u32, h: u32, j: u32) -> u32 {
    let at = place(b, min(j, params.positions.keys - 1u));
    return element(params.key, at.x, h, at.y, 0u);
}

fn value_row(b: u32, h: u32, j: u32) -> u32 {
    let at = place(b, min(j, params.positions.keys - 1u));
    return element(params.value, at.x, h, at.y, 0u);
}

fn rows_at(at: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(query[at.x]), vec4<f32>(query[at.y]), vec4<f32>(query[at.z]), vec4<f32>(query[at.w]),
    );
}

// The state of a tile of keys for all four rows.
fn state_of(reach: Reach, b: u32, h: vec4<u32>, i: vec4<u32>, first: u32, last: u32) -> u32 {
    var hidden = true;
    var open = true;
    for (var r = 0u; r < 4u; r += 1u) {
        let state = tile_state(reach, b, h[r], i[r], i[r] + 1u, first, last);
        hidden = hidden && state == TILE_HIDDEN;
        open = open && state == TILE_OPEN;
    }
    return select(select(TILE_MIXED, TILE_OPEN, open), TILE_HIDDEN, hidden);
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
    let k_head = stand.h;
    // Row n is query n / group of head n % group. Rows past the end repeat the last one and are not stored.
    let n = vec4<u32>(stand.row * 4u) + vec4<u32>(0u, 1u, 2u, 3u);
    let count = params.positions.queries * params.group;
    let real = n < vec4<u32>(count);
    let rows = min(n, vec4<u32>(count - 1u));
    let i = rows / params.group;
    let h = vec4<u32>(k_head * params.group) + rows % params.group;
    let row_0 = row_of(b, i.x);
    let row_1 = row_of(b, i.y);
    let row_2 = row_of(b, i.z);
    let row_3 = row_of(b, i.w);
    let reach = reach_of(b, i.x, i.w + 1u);
    let q_at = element(params.query, b, 0u, 0u, 0u) + h * params.query.strides.y + i * params.query.strides.z;
    let columns = LANES / PARTS;
    let factor = length_factor();

    var m = vec4<f32>(HIDDEN);
    var l = vec4<f32>(0.0); // of this lane's keys
    var y = mat4x4<f32>(); // column r is row r
    let d = lane % WIDTH;
    let lowest = max(min(reach.any.first, reach.any.start), stand.first_key);
    let highest = min(max(reach.any.last, reach.any.sinks_last), stand.last_key);
    for (var j = lowest / KEYS * KEYS; j < highest; j += KEYS) {
        j = skip_gap(reach, j, KEYS);
        let state = state_of(reach, b, h, i, j, j + KEYS);
        if (j >= highest || state == TILE_HIDDEN) {
            continue;
        }
        for (var first = 0u; first < KEYS; first += 4u * columns) {
            let column = first + column_of(at_lane);
            let k = vec4<u32>(
                key_row(b, k_head, j + column),
                key_row(b, k_head, j + column + columns),
                key_row(b, k_head, j + column + 2u * columns),
                key_row(b, k_head, j + column + 3u * columns),
            );
            var s = mat4x4<f32>(); // column c is key c
            for (var quad = part_of(at_lane); quad < params.depth; quad += PARTS) {
                let q = rows_at(q_at + quad);
                let keys = mat4x4<f32>(
                    key_at(k.x + quad),
                    key_at(k.y + quad),
                    key_at(k.z + quad),
                    key_at(k.w + quad),
                );
                s += compared(q, keys, quad);
            }
            s = join(at_lane, s);
            if (part_of(at_lane) == 0u) {
                weights[column] = s[0];
                weights[column + columns] = s[1];
                weights[column + 2u * columns] = s[2];
                weights[column + 3u * columns] = s[3];
            }
        }
        workgroupBarrier();
        var most = vec4<f32>(HIDDEN);
        for (var n = lane; n < KEYS; n += LANES) {
            let sum = weights[n] * factor;
            let at = j + n;
            var s = vec4<f32>(
                scored(b, h.x, i.x, at, sum.x),
                scored(b, h.y, i.y, at, sum.y),
                scored(b, h.z, i.z, at, sum.z),
                scored(b, h.w, i.w, at, sum.w),
            );
            if (state == TILE_MIXED) {
                s = vec4<f32>(
                    shown(row_0, b, h.x, i.x, at, s.x),
                    shown(row_1, b, h.y, i.y, at, s.y),
                    shown(row_2, b, h.z, i.z, at, s.z),
                    shown(row_3, b, h.w, i.w, at, s.w),
                );
            }
            if (at < stand.first_key || at >= stand.last_key) {
                s = vec4<f32>(HIDDEN);
            }
            weights[n] = s;
            most = max(most, s);
        }
        let next = max(m, reduce_max4(at_lane, most));
        let c = exp_falling4(relative(m - next));
        m = next;
        l *= c;
        for (var n = lane; n < KEYS; n += LANES) {
            let p = weight_units(weights[n], m);
            weights[n] = p;
            l += p;
        }
        workgroupBarrier();
        y = mat4x4<f32>(y[0] * c.x, y[1] * c.y, y[2] * c.z, y[3] * c.w);
        if (d < params.width) {
            for (var n = lane / WIDTH; n < KEYS; n += LANES / WIDTH) {
                let p = weights[n];
                let v = value_at(value_row(b, k_head, j + n) + d);
                // NaN and infinity count for nothing where the weight is 0.
                y += mat4x4<f32>(
                    select(p.x * v, vec4<f32>(0.0), p.x == 0.0),
                    select(p.y * v, vec4<f32>(0.0), p.y == 0.0),
                    select(p.z * v, vec4<f32>(0.0), p.z == 0.0),
                    select(p.w * v, vec4<f32>(0.0), p.w == 0.0),
                );
            }
        }
        workgroupBarrier();
    }

    let end = row_end(m, reduce_sum4(at_lane, l), sink_of(h));
    outputs[lane] = y;
    workgroupBarrier();
    let o_at = element(params.output, stand.range * params.batch + b, 0u, 0u, 0u)
        + h * params.output.strides.y + i * params.output.strides.z;
    if (lane < params.width) {
        for (var other = lane + WIDTH; other < LANES; other += WIDTH) {
            y += outputs[other];
        }
        let share = end.share;
        if (real.x) {
            output[o_at.x + lane] = vec4<out_elem>(y[0] * share.x);
        }
        if (real.y) {
            output[o_at.y + lane] = vec4<out_elem>(y[1] * share.y);
        }
        if (real.z) {
            output[o_at.z + lane] = vec4<out_elem>(y[2] * share.z);
        }
        if (real.w) {
            output[o_at.w + lane] = vec4<out_elem>(y[3] * share.w);
        }
    }
    if (lane < 4u && real[lane]) {
        store_stats(stand, h[lane], i[lane], end.m[lane], end.l[lane]);
    }
}
