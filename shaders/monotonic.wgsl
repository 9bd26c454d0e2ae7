// Monotonic alignment, in place over scores, one workgroup for all queries of a head in turn.
//
//   p_j = sigmoid(s_j), 0 where hidden;  α = the alignment before this query
//   parallel   w_j = p_j · c_j · Σ_{k ≤ j} α_k / clamp(c_k, 1e-10, 1),  c_j = Π_{k < j} (1 − p_k)
//   recursive  w_j = p_j · (r_{j−1} + α_j),  r_j = (1 − p_j) · (r_{j−1} + α_j),  r_{−1} = 0
//   hard       a_j = p_j · Σ_{k ≤ j} α_k with p_j = 1 where s_j > 0, else 0;  w_j = a_j · Π_{k < j} (1 − a_k)
//
// Each lane walks a stretch of neighbouring keys; what a stretch takes over from those before it is put together
// from one number (or, recursive, one linear map) a lane. A NaN among the visible scores of a query, or in the
// alignment before it, makes all its visible weights NaN.
override MODE: u32 = 0u; // 0 parallel, 1 recursive, 2 hard
override TEMPERATURE: bool = false;
override START: bool = false; // before the first query everything is at key 0
override KEY_LENGTHS: bool = false; // before the first query nothing is past the batch row's keys

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

// What each lane's stretch does to what comes in: x → scale · x + shift.
var<workgroup> scales: array<f32, LANES>;
var<workgroup> shifts: array<f32, LANES>;

// What the stretches before this lane's make of `initial`. Every invocation must call it.
fn incoming(lane: u32, scale: f32, shift: f32, initial: f32) -> f32 {
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
fn stops(s: f32) -> vec2<f32> {
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
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let bh = workgroup_number(here);
    if (bh >= params.heads) {
        return;
    }
    let keys = params.scores.shape.w;
    let stretch = (keys + LANES - 1u) / LANES;
    let first = min(lane * stretch, keys);
    let last = min(first + stretch, keys);
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
        var found = 0.0;
        for (var j = first; j < last; j += 1u) {
            let is_nan = is_nan1(scores[s + j * s_step]) || is_nan1(alignment[a + j * a_step]);
            found = select(found, 1.0, is_nan);
        }
        if (reduce_max(lane, found) > 0.0) {
            for (var j = first; j < last; j += 1u) {
                let hidden = scores[s + j * s_step] == HIDDEN;
                write(a + j * a_step, s + j * s_step, select(params.not_a_number, 0.0, hidden));
            }
            continue;
        }
        if (MODE == 0u) {
            var product = 1.0;
            for (var j = first; j < last; j += 1u) {
                product *= stops(scores[s + j * s_step]).y;
            }
            let passed = incoming(lane, product, 0.0, 1.0);
            var c = passed;
            var sum = 0.0;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step] / clamp(c, 1e-10, 1.0);
                c *= stops(scores[s + j * s_step]).y;
            }
            sum = incoming(lane, 1.0, sum, 0.0);
            c = passed;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step] / clamp(c, 1e-10, 1.0);
                let p = stops(scores[s + j * s_step]);
                write(a + j * a_step, s + j * s_step, p.x * c * sum);
                c *= p.y;
            }
        } else if (MODE == 1u) {
            var scale = 1.0;
            var shift = 0.0;
            for (var j = first; j < last; j += 1u) {
                let on = stops(scores[s + j * s_step]).y;
                scale *= on;
                shift = on * (shift + alignment[a + j * a_step]);
            }
            var rest = incoming(lane, scale, shift, 0.0);
            for (var j = first; j < last; j += 1u) {
                let p = stops(scores[s + j * s_step]);
                let mass = rest + alignment[a + j * a_step];
                write(a + j * a_step, s + j * s_step, p.x * mass);
                rest = p.y * mass;
            }
        } else {
            var sum = 0.0;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step];
            }
            let before = incoming(lane, 1.0, sum, 0.0);
            sum = before;
            var product = 1.0;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step];
                product *= 1.0 - stops(scores[s + j * s_step]).x * sum;
            }
            product = incoming(lane, product, 0.0, 1.0);
            sum = before;
            for (var j = first; j < last; j += 1u) {
                sum += alignment[a + j * a_step];
                let reached = stops(scores[s + j * s_step]).x * sum;
                write(a + j * a_step, s + j * s_step, reached * product);
                product *= 1.0 - reached;
            }
        }
    }
}

fn write(alignment_at: u32, score_at: u32, weight: f32) {
    alignment[alignment_at] = weight;
    scores[score_at] = weight;
}
