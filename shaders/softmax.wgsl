// Scores to weights, in place, one workgroup a row; hidden scores get weight 0 (common/hidden.wgsl).
//
// With a temperature, s is (s − row_max) / temperature below: a score divided by a small temperature may overflow, a
// difference of scores at most underflows in the exponential.
//
//   softmax    row_max = max s;  row_sum = Σ exp(s − row_max) [+ exp(sink − row_max)]
//              w = exp(s − row_max) / row_sum;  lse = row_max + ln row_sum
//   hardmax    w = 1 at the first largest s
//   sample     w = 1 at argmax (s + Gumbel noise), one draw from the softmax
//   sparsemax  w = max(s − τ, 0) with τ such that Σ w = 1, by Newton's method from below
//
// A NaN among the visible scores of a row makes all its visible weights NaN, and so do scores of −∞ without any other,
// but for hardmax. A row without a visible key gets weights 0.
override NORMALIZE: u32 = 0u; // 0 softmax, 1 hardmax, 2 sample, 3 sparsemax
override LSE: bool = false;     // the log-sum-exp is asked for
override MAX_SUM: bool = false; // row_max and row_sum are asked for
override SPARSEMAX_STEPS: u32 = 64u;

struct Params {
    scores: View,  // [B, Hq, Nq', Nk]
    lse: View,     // [B, Hq, Nq', 1]
    max_sum: View, // [B, Hq, Nq', 2]
    rows: u32,
    seed: u32,
    queries: u32,     // Nq of the whole problem
    first_query: u32, // number of the view's first query in it
    negative_infinity: f32,
    not_a_number: f32,
    sinks_start: u32, // in `sinks`: index of the first, distance between neighbours
    sinks_step: u32,
    temperature: f32,
}

@group(0) @binding(1) var<storage, read_write> scores: array<f32>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<storage, read_write> max_sum: array<f32>;
@group(0) @binding(4) var<storage, read> sinks: array<f32>;

// PCG output function as a hash (Jarzynski and Olano 2020).
fn pcg(x: u32) -> u32 {
    let state = x * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

// −ln(−ln u) with u uniform in (0, 1), a function of seed, row and key alone.
fn gumbel(row: u32, j: u32) -> f32 {
    let bits = pcg(pcg(pcg(params.seed) ^ row) ^ j) >> 9u;
    let u = (f32(bits) + 0.5) * 1.1920928955078125e-7; // 2⁻²³: exact, and never 1
    return -log1(-log1(u));
}

fn hidden(s: f32) -> bool {
    return s == HIDDEN;
}

fn has_zero_weight(s: f32) -> bool {
    return s <= MINUS_INFINITY;
}

// s − largest, over the temperature.
fn relative_score(largest: f32, s: f32) -> f32 {
    return over_temperature(vec4<f32>(s - largest)).x;
}

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_index(wg);
    if (row >= params.rows) {
        return;
    }
    let base = row_start(params.scores, row);
    let step = params.scores.strides.w;
    let keys = params.scores.shape.w;
    let h = (row / params.scores.shape.z) % params.scores.shape.y;

    var row_max = HIDDEN;
    if (NORMALIZE != 1u) {
        row_max = softmax_max(lane, base, step, keys);
    }
    // A softmax propagates NaN by its sum; the others would lose it in comparisons. Where all visible scores are −∞, their
    // differences are NaN.
    if (NORMALIZE != 0u && (row_max == MINUS_INFINITY || has_nan(lane, base, step, keys))) {
        for (var j = lane; j < keys; j += LANES) {
            scores[base + j * step] = select(params.not_a_number, 0.0, hidden(scores[base + j * step]));
        }
        store_stats(lane, row, 0.0, params.not_a_number);
        return;
    }

    if (NORMALIZE == 1u || NORMALIZE == 2u) {
        let bh = row / params.scores.shape.z;
        let whole_row = bh * params.queries + params.first_query + row % params.scores.shape.z;
        // Without a temperature the noise is added to the scores themselves.
        let largest = select(0.0, row_max, TEMPERATURE);
        var best = HIDDEN;
        var best_j = 0xffffffffu;
        for (var j = lane; j < keys; j += LANES) {
            let s = scores[base + j * step];
            var noisy = s;
            if (NORMALIZE == 2u) {
                noisy = relative_score(largest, s) + gumbel(whole_row, j);
            }
            if (!hidden(s) && (best_j == 0xffffffffu || noisy > best)) {
                best = noisy;
                best_j = j;
            }
        }
        let chosen = reduce_argmax(lane, best, best_j);
        if (LSE || MAX_SUM) {
            store_stats(lane, row, row_max, softmax_sum(lane, base, step, keys, row_max));
        }
        for (var j = lane; j < keys; j += LANES) {
            scores[base + j * step] = select(0.0, 1.0, j == chosen);
        }
        return;
    }

    if (NORMALIZE == 3u) {
        // f(τ) = Σ max(s − τ, 0) − 1 is convex and falls; from τ = m − 1, where f ≥ 0, each Newton step
        // τ = (Σ_{s > τ} s − 1) / |{s > τ}| moves up to the root and stops changing there. Scores are taken
        // relative to m.
        var tau = -1.0;
        for (var n = 0u; n < SPARSEMAX_STEPS; n += 1u) {
            var sum = 0.0;
            var support = 0.0;
            for (var j = lane; j < keys; j += LANES) {
                let s = scores[base + j * step];
                if (!hidden(s) && relative_score(row_max, s) > tau) {
                    sum += relative_score(row_max, s);
                    support += 1.0;
                }
            }
            sum = reduce_sum(lane, sum);
            support = reduce_sum(lane, support);
            let next = (sum - 1.0) / max(support, 1.0);
            if (!(next > tau)) {
                break;
            }
            tau = next;
        }
        for (var j = lane; j < keys; j += LANES) {
            let s = scores[base + j * step];
            scores[base + j * step] = select(max(relative_score(row_max, s) - tau, 0.0), 0.0, hidden(s));
        }
        return;
    }

    var sink = 0.0;
    if (SINKS) {
        sink = sinks[params.sinks_start + h * params.sinks_step];
    }
    let result = finish_softmax(vec4<f32>(row_max), vec4<f32>(softmax_sum(lane, base, step, keys, row_max)), vec4<f32>(sink));
    store_stats(lane, row, result.row_max.x, result.row_sum.x);
    for (var j = lane; j < keys; j += LANES) {
        let s = scores[base + j * step];
        let p = select(exp1(relative_score(row_max, s)), 0.0, has_zero_weight(s));
        scores[base + j * step] = select(p * result.output_scale.x, 0.0, hidden(s));
    }
}

fn has_nan(lane: u32, base: u32, step: u32, keys: u32) -> bool {
    var found = 0.0;
    for (var j = lane; j < keys; j += LANES) {
        found = select(found, 1.0, is_nan1(scores[base + j * step]));
    }
    return reduce_max(lane, found) > 0.0;
}

fn softmax_max(lane: u32, base: u32, step: u32, keys: u32) -> f32 {
    var largest = HIDDEN;
    for (var j = lane; j < keys; j += LANES) {
        largest = max(largest, scores[base + j * step]);
    }
    return reduce_max(lane, largest);
}

fn softmax_sum(lane: u32, base: u32, step: u32, keys: u32, row_max: f32) -> f32 {
    var sum = 0.0;
    for (var j = lane; j < keys; j += LANES) {
        let s = scores[base + j * step];
        sum += select(exp1(relative_score(row_max, s)), 0.0, has_zero_weight(s));
    }
    return reduce_sum(lane, sum);
}

// The statistics that are asked for.
fn store_stats(lane: u32, row: u32, row_max: f32, row_sum: f32) {
    if (LSE && lane == 0u) {
        lse[row_start(params.lse, row)] = log_sum_exp(row_max, row_sum);
    }
    if (MAX_SUM && lane == 0u) {
        let at = row_start(params.max_sum, row);
        let pair = max_and_sum(row_max, row_sum);
        max_sum[at] = pair.x;
        max_sum[at + params.max_sum.strides.w] = pair.y;
    }
}
