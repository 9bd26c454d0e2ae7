// Monotonic alignment, in place over scores, one workgroup for all queries of a head, one after the other.
//
//   p_j = sigmoid(s_j), 0 where hidden;  α = the alignment before this query
//   parallel   w_j = p_j · c_j · Σ_{k ≤ j} α_k / clamp(c_k, 1e-10, 1),  c_j = Π_{k < j} (1 − p_k)
//   recursive  w_j = p_j · (r_{j−1} + α_j),  r_j = (1 − p_j) · (r_{j−1} + α_j),  r_{−1} = 0
//   hard       a_j = p_j · Σ_{k ≤ j} α_k with p_j = 1 where s_j > 0, else 0;  w_j = a_j · Π_{k < j} (1 − a_k)
//
// Each lane has a chunk of neighbouring keys. The sums, products and recurrences over keys are scans: each chunk is an
// affine map, and a lane composes those of the chunks before its own. A NaN among the visible scores of a query, or in the
// alignment before it, makes all its visible weights NaN.
override MODE: u32 = 0u; // 0 parallel, 1 recursive, 2 hard
override TEMPERATURE: bool = false;
override START: bool = false; // the alignment before the first query is 1 at key 0
override KEY_LENGTHS: bool = false; // the alignment before the first query is 0 past the keys of the batch row

struct Params {
    scores: View,    // [B, Hq, Nq', Nk]
    alignment: View, // [B, Hq, 1, Nk]: before the first query on the way in, after the last on the way out
    heads: u32,      // B · Hq
    temperature: f32,
    not_a_number: f32,
    kv_lengths: vec2<u32>, // in `vectors`: index of the first, words between neighbours
}

@group(0) @binding(1) var<storage, read_write> scores: array<f32>;
@group(0) @binding(2) var<storage, read_write> alignment: array<f32>;
@group(0) @binding(3) var<storage, read> vectors: array<u32>;

// The affine map of each lane's chunk: x → scale · x + shift.
var<workgroup> scales: array<f32, LANES>;
var<workgroup> shifts: array<f32, LANES>;

// `initial` mapped by the chunks before this lane's. Every invocation must call it.
fn exclusive_scan(lane: u32, scale: f32, shift: f32, initial: f32) -> f32 {
    scales[lane] = scale;
    shifts[lane] = shift;
    workgroupBarrier();
    var x = initial;
    for (var k = 0u; k < lane; k += 1u) {
        x = scales[k] * x + shifts[k];
    }
    workgroupBarrier();
    return x;
}

// p and 1 − p, each to full precision.
fn stop_probability(s: f32) -> vec2<f32> {
    let hidden = s == HIDDEN;
    if (MODE == 2u) {
        return select(vec2<f32>(0.0, 1.0), vec2<f32>(1.0, 0.0), s > 0.0 && !hidden);
    }
    var t = s;
    if (TEMPERATURE) {
        t = s / params.temperature;
    }
    return select(sigmoid4(vec4<f32>(t, -t, 0.0, 0.0)).xy, vec2<f32>(0.0, 1.0), hidden);
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let bh = workgroup_index(wg);
    if (bh >= params.heads) {
        return;
    }
    let keys = params.scores.shape.w;
    let chunk = (keys + LANES - 1u) / LANES;
    let first = min(lane * chunk, keys);
    let last = min(first + chunk, keys);
    let s_step = params.scores.strides.w;
    let a_step = params.alignment.strides.w;
    let a = row_start(params.alignment, bh);
    if (START) {
        for (var j = first; j < last; j += 1u) {
            alignment[a + j * a_step] = select(0.0, 1.0, j == 0u);
        }
    }
    if (KEY_LENGTHS) {
        let b = bh / params.scores.shape.y;
        let end = vectors[params.kv_lengths.x + b * params.kv_lengths.y];
        for (var j = max(first, end); j < last; j += 1u) {
            alignment[a + j * a_step] = 0.0;
        }
    }
    for (var i = 0u; i < params.scores.shape.z; i += 1u) {
        let s = element(params.scores, bh / params.scores.shape.y, bh % params.scores.shape.y, i, 0u);
        var has_nan = 0.0;
        for (var j = first; j < last; j += 1u) {
            let is_nan = is_nan1(scores[s + j * s_step]) || is_nan1(alignment[a + j * a_step]);
            has_nan = select(has_nan, 1.0, is_nan);
        }
        if (reduce_max(lane, has_nan) > 0.0) {
            for (var j = first; j < last; j += 1u) {
                let hidden = scores[s + j * s_step] == HIDDEN;
                store_weight(a + j * a_step, s + j * s_step, select(params.not_a_number, 0.0, hidden));
            }
            continue;
        }
        if (MODE == 0u) {
            var product = 1.0;
            for (var j = first; j < last; j += 1u) {
                product *= stop_probability(scores[s + j * s_step]).y;
            }
            let not_stopped = exclusive_scan(lane, product, 0.0, 1.0);
            var c = not_stopped;
            var sum = 0.0;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step] / clamp(c, 1e-10, 1.0);
                c *= stop_probability(scores[s + j * s_step]).y;
            }
            sum = exclusive_scan(lane, 1.0, sum, 0.0);
            c = not_stopped;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step] / clamp(c, 1e-10, 1.0);
                let p = stop_probability(scores[s + j * s_step]);
                store_weight(a + j * a_step, s + j * s_step, p.x * c * sum);
                c *= p.y;
            }
        } else if (MODE == 1u) {
            var scale = 1.0;
            var shift = 0.0;
            for (var j = first; j < last; j += 1u) {
                let go_on = stop_probability(scores[s + j * s_step]).y;
                scale *= go_on;
                shift = go_on * (shift + alignment[a + j * a_step]);
            }
            var carry = exclusive_scan(lane, scale, shift, 0.0);
            for (var j = first; j < last; j += 1u) {
                let p = stop_probability(scores[s + j * s_step]);
                let mass = carry + alignment[a + j * a_step];
                store_weight(a + j * a_step, s + j * s_step, p.x * mass);
                carry = p.y * mass;
            }
        } else {
            var sum = 0.0;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step];
            }
            let before = exclusive_scan(lane, 1.0, sum, 0.0);
            sum = before;
            var product = 1.0;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step];
                product *= 1.0 - stop_probability(scores[s + j * s_step]).x * sum;
            }
            product = exclusive_scan(lane, product, 0.0, 1.0);
            sum = before;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step];
                let attended = stop_probability(scores[s + j * s_step]).x * sum;
                store_weight(a + j * a_step, s + j * s_step, attended * product);
                product *= 1.0 - attended;
            }
        }
    }
}

fn store_weight(alignment_at: u32, score_at: u32, weight: f32) {
    alignment[alignment_at] = weight;
    scores[score_at] = weight;
}
