// Attention with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention") for devices whose lanes
// are those of a processor's vector unit: a workgroup of eight lanes owns 16 or 32 query rows, which all lanes read at the
// same time.
//
//   m = −∞, l = 0, y = 0
//   for each 64 keys that one of the rows sees:
//     scores: a lane compares eight keys with the rows, in registers
//     m' = max(m, max_j s_j);  c = exp(m − m');  p_j = exp(s_j − m');  l = c·l + Σ p;  y = c·y
//     values: a lane takes eight of 64 dimensions of the rows, in registers: y += p_j·v_j; then of the next 64
//   with a sink, m' = max(m, sink);  l = exp(m − m')·l + exp(sink − m');  y = exp(m − m')·y
//   output = y / l;  lse = m + ln l;  of one range of keys, m and l, and no sink
//
// Rows come in fours, a vec4 or one side of a mat4x4, and fours in bands of 16. Software drivers run both sides of a
// condition, the one without effect, and a loop's body at least once: what is seldom wanted is a loop with a short body, in
// which the fours take turns in the first place.
const KEYS = 64u;
override BANDS: u32 = 1u; // 1 or 2
override FOURS: u32 = 4u; // 4 · BANDS
override WEIGHTS: u32 = 256u; // KEYS · FOURS
override PARTS: u32 = 1u; // 64 dimensions of a value each: 1, 2 or 4

@group(0) @binding(1) var<storage, read> query: array<vec4<elem>>;
// 2 and 3 are key and value: common/key_*.wgsl, value_*.wgsl
@group(0) @binding(4) var<storage, read> vectors: array<u32>;
@group(0) @binding(5) var<storage, read> mask: array<u32>;
@group(0) @binding(6) var<storage, read> block_mask: array<u32>;
@group(0) @binding(7) var<storage, read_write> output: array<vec4<out_elem>>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;

// Scores, then weights, of a step: key by key, a vec4 for each four rows.
var<workgroup> weights: array<vec4<f32>, WEIGHTS>;
var<workgroup> rows: array<Row, 32>;
// Whether a value of a mixed tile is not finite.
var<workgroup> wild: u32;

// Scores of a band with eight keys of a lane: a column is a key, each matrix has four of the rows.
struct Scores {
    low: Fours,
    high: Fours,
}

// Outputs of a band, eight dimensions of a lane: a column is a row, each matrix has four dimensions of four rows.
struct Outputs {
    near: Fours,
    far: Fours,
}

// Of both bands; of one band, the second counts for nothing.
struct Step {
    a: Scores,
    b: Scores,
}

struct Part {
    a: Outputs,
    b: Outputs,
}

// A number a row: column f of a mat4x4 belongs to rows 4·f and on of its band.
struct Numbers {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
}

fn row_at(view: View, b: u32, h: u32, j: u32, keys: u32) -> u32 {
    let at = place(b, min(j, keys - 1u));
    return element(view, at.x, h, at.y, 0u);
}

fn is_finite4(x: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) < vec4<u32>(0x7f800000u));
}

fn transposed(x: Fours) -> Fours {
    return Fours(transpose(x.a), transpose(x.b), transpose(x.c), transpose(x.d));
}

// q · k of rows and keys, four dimensions more.
fn with_quad(s: Scores, quad: Fours, low: mat4x4<f32>, high: mat4x4<f32>) -> Scores {
    let q = transposed(quad);
    return Scores(
        Fours(s.low.a + q.a * low, s.low.b + q.b * low, s.low.c + q.c * low, s.low.d + q.d * low),
        Fours(s.high.a + q.a * high, s.high.b + q.b * high, s.high.c + q.c * high, s.high.d + q.d * high),
    );
}

// y + p · v, four keys more.
fn with_four(y: Outputs, four: Fours, near: mat4x4<f32>, far: mat4x4<f32>) -> Outputs {
    let p = transposed(four);
    return Outputs(
        Fours(y.near.a + near * p.a, y.near.b + near * p.b, y.near.c + near * p.c, y.near.d + near * p.d),
        Fours(y.far.a + far * p.a, y.far.b + far * p.b, y.far.c + far * p.c, y.far.d + far * p.d),
    );
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

fn with_key16(y: Fours, p: mat4x4<f32>, v: vec4<f32>) -> Fours {
    return Fours(with_key(y.a, p[0], v), with_key(y.b, p[1], v), with_key(y.c, p[2], v), with_key(y.d, p[3], v));
}

// Each column times one number.
fn scaled(y: mat4x4<f32>, c: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(y[0] * c.x, y[1] * c.y, y[2] * c.z, y[3] * c.w);
}

fn scaled16(y: Fours, c: mat4x4<f32>) -> Fours {
    return Fours(scaled(y.a, c[0]), scaled(y.b, c[1]), scaled(y.c, c[2]), scaled(y.d, c[3]));
}

fn scaled_outputs(y: Outputs, c: mat4x4<f32>) -> Outputs {
    return Outputs(scaled16(y.near, c), scaled16(y.far, c));
}

// The scores of one lane's eight keys with four rows, column by column.
fn store_scores(at: u32, low: mat4x4<f32>, high: mat4x4<f32>) {
    weights[at] = low[0];
    weights[at + FOURS] = low[1];
    weights[at + 2u * FOURS] = low[2];
    weights[at + 3u * FOURS] = low[3];
    weights[at + 4u * FOURS] = high[0];
    weights[at + 5u * FOURS] = high[1];
    weights[at + 6u * FOURS] = high[2];
    weights[at + 7u * FOURS] = high[3];
}

fn stored(at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(weights[at], weights[at + FOURS], weights[at + 2u * FOURS], weights[at + 3u * FOURS]);
}

// Scale and softcap, of visible pairs.
fn scored4(s: mat4x4<f32>, scale: f32) -> mat4x4<f32> {
    let scaled = s * scale;
    return mat4x4<f32>(
        visible4(capped4(scaled[0])),
        visible4(capped4(scaled[1])),
        visible4(capped4(scaled[2])),
        visible4(capped4(scaled[3])),
    );
}

fn scored16(s: Fours, scale: f32) -> Fours {
    return Fours(scored4(s.a, scale), scored4(s.b, scale), scored4(s.c, scale), scored4(s.d, scale));
}

fn scored_band(s: Scores, scale: f32) -> Scores {
    return Scores(scored16(s.low, scale), scored16(s.high, scale));
}

fn largest4(low: mat4x4<f32>, high: mat4x4<f32>) -> vec4<f32> {
    return max(max(max(low[0], low[1]), max(low[2], low[3])), max(max(high[0], high[1]), max(high[2], high[3])));
}

fn largest16(lane: Lane, s: Scores, m: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        max(m[0], reduce_max4(lane, largest4(s.low.a, s.high.a))),
        max(m[1], reduce_max4(lane, largest4(s.low.b, s.high.b))),
        max(m[2], reduce_max4(lane, largest4(s.low.c, s.high.c))),
        max(m[3], reduce_max4(lane, largest4(s.low.d, s.high.d))),
    );
}

// The largest score of each row so far.
fn largest(lane: Lane, s: Step, m: Numbers) -> Numbers {
    let a = largest16(lane, s.a, m.a);
    if (BANDS == 1u) {
        return Numbers(a, m.b);
    }
    return Numbers(a, largest16(lane, s.b, m.b));
}

fn falling(m: mat4x4<f32>, next: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        exp_falling4(relative(m[0] - next[0])),
        exp_falling4(relative(m[1] - next[1])),
        exp_falling4(relative(m[2] - next[2])),
        exp_falling4(relative(m[3] - next[3])),
    );
}

fn products(l: mat4x4<f32>, c: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(l[0] * c[0], l[1] * c[1], l[2] * c[2], l[3] * c[3]);
}

fn exponential(s: mat4x4<f32>, m: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(weight_units(s[0], m), weight_units(s[1], m), weight_units(s[2], m), weight_units(s[3], m));
}

fn total(low: mat4x4<f32>, high: mat4x4<f32>) -> vec4<f32> {
    return low[0] + low[1] + low[2] + low[3] + high[0] + high[1] + high[2] + high[3];
}

// Columns, or fours, moved up by one; a new one at the end.
fn turned4(m: mat4x4<f32>, last: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(m[1], m[2], m[3], last);
}

fn turned16(s: Fours, last: mat4x4<f32>) -> Fours {
    return Fours(s.b, s.c, s.d, last);
}

fn turned(n: Numbers, last: vec4<f32>) -> Numbers {
    if (BANDS == 1u) {
        return Numbers(turned4(n.a, last), n.b);
    }
    return Numbers(turned4(n.a, n.b[0]), turned4(n.b, last));
}

fn turned_step(s: Step, low: mat4x4<f32>, high: mat4x4<f32>) -> Step {
    if (BANDS == 1u) {
        return Step(Scores(turned16(s.a.low, low), turned16(s.a.high, high)), s.b);
    }
    return Step(
        Scores(turned16(s.a.low, s.b.low.a), turned16(s.a.high, s.b.high.a)),
        Scores(turned16(s.b.low, low), turned16(s.b.high, high)),
    );
}

fn turned_part(y: Part, near: mat4x4<f32>, far: mat4x4<f32>) -> Part {
    if (BANDS == 1u) {
        return Part(Outputs(turned16(y.a.near, near), turned16(y.a.far, far)), y.b);
    }
    return Part(
        Outputs(turned16(y.a.near, y.b.near.a), turned16(y.a.far, y.b.far.a)),
        Outputs(turned16(y.b.near, near), turned16(y.b.far, far)),
    );
}

fn reduced(lane: Lane, l: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        reduce_sum4(lane, l[0]), reduce_sum4(lane, l[1]), reduce_sum4(lane, l[2]), reduce_sum4(lane, l[3]),
    );
}

// 16 rows at their end: m, l and what the outputs are to be multiplied with.
struct Ends {
    m: mat4x4<f32>,
    l: mat4x4<f32>,
    share: mat4x4<f32>,
}

fn ends(m: mat4x4<f32>, l: mat4x4<f32>, sink: vec4<f32>) -> Ends {
    let a = row_end(m[0], l[0], sink);
    let b = row_end(m[1], l[1], sink);
    let c = row_end(m[2], l[2], sink);
    let d = row_end(m[3], l[3], sink);
    return Ends(
        mat4x4<f32>(a.m, b.m, c.m, d.m), mat4x4<f32>(a.l, b.l, c.l, d.l),
        mat4x4<f32>(a.share, b.share, c.share, d.share),
    );
}

fn shifted16(m: mat4x4<f32>, last: f32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(m[0].yzw, m[1].x), vec4<f32>(m[1].yzw, m[2].x), vec4<f32>(m[2].yzw, m[3].x), vec4<f32>(m[3].yzw, last),
    );
}

// The numbers of all rows moved up by one.
fn shifted(n: Numbers) -> Numbers {
    return Numbers(shifted16(n.a, n.b[0].x), shifted16(n.b, 0.0));
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
    let first_i = stand.row * 16u * BANDS;
    let last_i = min(first_i + 16u * BANDS, params.positions.queries);
    for (var r = lane; r < 16u * BANDS; r += LANES) {
        rows[r] = row_of(b, min(first_i + r, last_i - 1u));
    }
    workgroupBarrier();
    let reach = reach_of(b, first_i, last_i);
    let q_rows = query_rows(
        at_lane, element(params.query, b, h, 0u, 0u), params.query.strides.z, first_i, last_i,
    );
    // Read once: a load costs as much as many multiplications.
    let key_view = params.key;
    let value_view = params.value;
    let keys = params.positions.keys;
    let depth = params.depth;
    let width = params.width;
    let scale = params.scale;

    let none = vec4<f32>(HIDDEN);
    let lowest_scores = mat4x4<f32>(none, none, none, none);
    var m = Numbers(lowest_scores, lowest_scores);
    var l = Numbers(); // of this lane's keys
    // The first is the part at hand.
    var y_0 = Part();
    var y_1 = Part();
    var y_2 = Part();
    var y_3 = Part();
    let lowest = max(min(reach.any.first, reach.any.start), stand.first_key);
    let highest = min(max(reach.any.last, reach.any.sinks_last), stand.last_key);
    for (var j = lowest / KEYS * KEYS; j < highest; j += KEYS) {
        j = skip_gap(reach, j, KEYS);
        let state = tile_state(reach, b, h, first_i, last_i, j, j + KEYS);
        if (j >= highest || state == TILE_HIDDEN) {
            continue;
        }
        let open = state == TILE_OPEN && j >= stand.first_key && j + KEYS <= stand.last_key;

        let own = lane * 8u;
        let k_0 = row_at(key_view, b, k_head, j + own, keys);
        let k_1 = row_at(key_view, b, k_head, j + own + 1u, keys);
        let k_2 = row_at(key_view, b, k_head, j + own + 2u, keys);
        let k_3 = row_at(key_view, b, k_head, j + own + 3u, keys);
        let k_4 = row_at(key_view, b, k_head, j + own + 4u, keys);
        let k_5 = row_at(key_view, b, k_head, j + own + 5u, keys);
        let k_6 = row_at(key_view, b, k_head, j + own + 6u, keys);
        let k_7 = row_at(key_view, b, k_head, j + own + 7u, keys);
        var s = Step();
        for (var quad = 0u; quad < depth; quad += 1u) {
            let low = mat4x4<f32>(key_at(k_0 + quad), key_at(k_1 + quad), key_at(k_2 + quad), key_at(k_3 + quad));
            let high = mat4x4<f32>(key_at(k_4 + quad), key_at(k_5 + quad), key_at(k_6 + quad), key_at(k_7 + quad));
            s.a = with_quad(s.a, query_fours(q_rows.a, quad), low, high);
            if (BANDS > 1u) {
                s.b = with_quad(s.b, query_fours(q_rows.b, quad), low, high);
            }
        }
        if (!SCORE_MOD) {
            s = Step(scored_band(s.a, scale), scored_band(s.b, scale));
        }
        // Pair by pair, in workgroup memory.
        if (!open || SCORE_MOD) {
            for (var four = 0u; four < FOURS; four += 1u) {
                let start = FOURS * own + four;
                store_scores(start, s.a.low.a, s.a.high.a);
                for (var k = 0u; k < 8u; k += 1u) {
                    let n = start + FOURS * k;
                    let r = 4u * four;
                    let i = min(vec4<u32>(first_i + r) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last_i - 1u));
                    let at = j + own + k;
                    var score = weights[n];
                    if (SCORE_MOD) {
                        score = vec4<f32>(
                            scored(b, h, i.x, at, score.x),
                            scored(b, h, i.y, at, score.y),
                            scored(b, h, i.z, at, score.z),
                            scored(b, h, i.w, at, score.w),
                        );
                    }
                    if (!open) {
                        score = vec4<f32>(
                            shown(rows[r], b, h, i.x, at, score.x),
                            shown(rows[r + 1u], b, h, i.y, at, score.y),
                            shown(rows[r + 2u], b, h, i.z, at, score.z),
                            shown(rows[r + 3u], b, h, i.w, at, score.w),
                        );
                        score = select(score, none, at < stand.first_key || at >= stand.last_key);
                    }
                    weights[n] = score;
                }
                s = turned_step(s, stored(start), stored(start + 4u * FOURS));
            }
        }
        let next = largest(at_lane, s, m);
        let c = Numbers(falling(m.a, next.a), falling(m.b, next.b));
        m = next;
        l = Numbers(products(l.a, c.a), products(l.b, c.b));
        for (var four = 0u; four < FOURS; four += 1u) {
            let top = m.a[0];
            let low = exponential(s.a.low.a, top);
            let high = exponential(s.a.high.a, top);
            store_scores(FOURS * own + four, low, high);
            l = turned(l, l.a[0] + total(low, high));
            m = turned(m, top);
            s = turned_step(s, low, high);
        }
        workgroupBarrier();

        for (var part = 0u; part < PARTS; part += 1u) {
            // This lane's quads of dimensions.
            let d_0 = min(16u * part + lane, width - 1u);
            let d_1 = min(16u * part + lane + 8u, width - 1u);
            y_0 = Part(scaled_outputs(y_0.a, c.a), scaled_outputs(y_0.b, c.b));
            var finite = true;
            if (!open) {
                // Lanes that talk to each other must agree on the way.
                if (lane == 0u) {
                    wild = 0u;
                }
                workgroupBarrier();
                for (var n = 0u; n < KEYS; n += 1u) {
                    let v = row_at(value_view, b, k_head, j + n, keys);
                    finite = finite && is_finite4(value_at(v + d_0)) && is_finite4(value_at(v + d_1));
                }
                if (!finite) {
                    wild = 1u;
                }
                finite = workgroupUniformLoad(&wild) == 0u;
            }
            if (finite) {
                for (var n = 0u; n < KEYS; n += 4u) {
                    let v_0 = row_at(value_view, b, k_head, j + n, keys);
                    let v_1 = row_at(value_view, b, k_head, j + n + 1u, keys);
                    let v_2 = row_at(value_view, b, k_head, j + n + 2u, keys);
                    let v_3 = row_at(value_view, b, k_head, j + n + 3u, keys);
                    let near = mat4x4<f32>(
                        value_at(v_0 + d_0), value_at(v_1 + d_0), value_at(v_2 + d_0), value_at(v_3 + d_0),
                    );
                    let far = mat4x4<f32>(
                        value_at(v_0 + d_1), value_at(v_1 + d_1), value_at(v_2 + d_1), value_at(v_3 + d_1),
                    );
                    let p = weight_bands(at_lane, n);
                    y_0.a = with_four(y_0.a, p.a, near, far);
                    if (BANDS > 1u) {
                        y_0.b = with_four(y_0.b, p.b, near, far);
                    }
                }
            }
            if (!finite) {
                // A key with one band, then with the other.
                for (var n = 0u; n < BANDS * KEYS; n += 1u) {
                    let v = row_at(value_view, b, k_head, j + n / BANDS, keys);
                    let p = mat4x4<f32>(
                        weights[4u * n], weights[4u * n + 1u], weights[4u * n + 2u], weights[4u * n + 3u],
                    );
                    let near = with_key16(y_0.a.near, p, value_at(v + d_0));
                    let far = with_key16(y_0.a.far, p, value_at(v + d_1));
                    let band = Outputs(near, far);
                    if (BANDS == 1u) {
                        y_0.a = band;
                    } else {
                        y_0 = Part(y_0.b, band);
                    }
                }
            }
            // The parts take turns as well.
            let done = y_0;
            if (PARTS > 1u) {
                y_0 = y_1;
                y_1 = done;
            }
            if (PARTS > 2u) {
                y_1 = y_2;
                y_2 = y_3;
                y_3 = done;
            }
        }
        workgroupBarrier();
    }

    let sink = sink_of(vec4<u32>(h));
    let end = ends(m.a, reduced(at_lane, l.a), sink);
    var share = Numbers(end.share, end.share);
    m.a = end.m;
    l.a = end.l;
    if (BANDS > 1u) {
        let second = ends(m.b, reduced(at_lane, l.b), sink);
        share.b = second.share;
        m.b = second.m;
        l.b = second.l;
    }
    let o_at = element(params.output, stand.range * params.batch + b, h, 0u, 0u);
    let step = params.output.strides.z;
    for (var part = 0u; part < PARTS; part += 1u) {
        let d = 16u * part + lane;
        y_0 = Part(scaled_outputs(y_0.a, share.a), scaled_outputs(y_0.b, share.b));
        for (var four = first_i; four < first_i + 4u * FOURS; four += 4u) {
            if (d < width) {
                store_four(four, last_i, o_at + d, step, y_0.a.near.a);
            }
            if (d + 8u < width) {
                store_four(four, last_i, o_at + d + 8u, step, y_0.a.far.a);
            }
            y_0 = turned_part(y_0, y_0.a.near.a, y_0.a.far.a);
        }
        if (PARTS > 1u) {
            y_0 = y_1;
        }
        if (PARTS > 2u) {
            y_1 = y_2;
            y_2 = y_3;
        }
    }
    if ((LSE || MAX_SUM > 0u) && lane == 0u) {
        for (var i = first_i; i < last_i; i += 1u) {
            store_stats(stand, h, i, m.a[0][0], l.a[0][0]);
            m = shifted(m);
            l = shifted(l);
        }
    }
}
