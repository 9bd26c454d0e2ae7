// Scores to weights, in place, one workgroup a row; hidden scores (HIDDEN) get weight 0.
//
// Where there is a temperature, s stands for (s − m) / temperature: scores over a small one may not be numbers any more.
//
//   softmax    m = max s;  l = Σ exp(s − m) [+ exp(sink − m)];  w = exp(s − m) / l;  lse = m + ln l
//   hardmax    w = 1 at the first largest s
//   sample     w = 1 at argmax (s + Gumbel noise), one draw from the softmax
//   sparsemax  w = max(s − τ, 0) with τ such that Σ w = 1, by Newton's method from below
//
// A NaN among the visible scores of a row makes all its visible weights NaN.
// A row without a visible key gets weights 0 and lse = −∞ (handed over as params.negative_infinity).
override NORMALIZE: u32 = 0u; // 0 softmax, 1 hardmax, 2 sample, 3 sparsemax
override SINKS: bool = false;
override LSE: bool = false;
override TEMPERATURE: bool = false;
override SPARSEMAX_STEPS: u32 = 64u;

struct Params {
    scores: View, // [B, Hq, Nq', Nk]
    lse: View,    // [B, Hq, Nq', 1]
    rows: u32,
    seed: u32,
    queries: u32,     // Nq of the whole problem
    first_query: u32, // number of the view's first query in it
    negative_infinity: f32,
    not_a_number: f32,
    sinks_start: u32, // where the sinks lie: index of the first, distance between neighbours
    sinks_step: u32,
    temperature: f32,
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

@group(0) @binding(1) var<storage, read_write> scores: array<f32>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<storage, read> sinks: array<f32>;

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

// s − most, over the temperature.
fn relative(s: f32, most: f32) -> f32 {
    if (TEMPERATURE) {
        return (s - most) / params.temperature;
    }
    return s - most;
}

@compute @workgroup_size(LANES)
fn main(here: Invocation, @builtin(local_invocation_index) lane: u32) {
    let row = workgroup_number(here);
    if (row >= params.rows) {
        return;
    }
    let base = row_start(params.scores, row);
    let step = params.scores.strides.w;
    let keys = params.scores.shape.w;
    let h = (row / params.scores.shape.z) % params.scores.shape.y;

    // A softmax carries NaN along by its sum; the others would lose it in comparisons.
    if (NORMALIZE != 0u && has_nan(lane, base, step, keys)) {
        for (var j = lane; j < keys; j += LANES) {
            scores[base + j * step] = select(params.not_a_number, 0.0, hidden(scores[base + j * step]));
        }
        if (LSE && lane == 0u) {
            lse[row_start(params.lse, row)] = params.not_a_number;
        }
        return;
    }

    if (NORMALIZE == 1u || NORMALIZE == 2u) {
        let bh = row / params.scores.shape.z;
        let whole_row = bh * params.queries + params.first_query + row % params.scores.shape.z;
        var most = 0.0;
        if (NORMALIZE == 2u && TEMPERATURE) {
            most = softmax_max(lane, base, step, keys);
        }
        var best = HIDDEN;
        var best_j = 0xffffffffu;
        for (var j = lane; j < keys; j += LANES) {
            let s = scores[base + j * step];
            var noisy = s;
            if (NORMALIZE == 2u) {
                noisy = relative(s, most) + gumbel(whole_row, j);
            }
            if (!hidden(s) && (best_j == 0xffffffffu || noisy > best)) {
                best = noisy;
                best_j = j;
            }
        }
        let chosen = reduce_argmax(lane, best, best_j);
        if (NORMALIZE == 1u || !LSE) {
            for (var j = lane; j < keys; j += LANES) {
                scores[base + j * step] = select(0.0, 1.0, j == chosen);
            }
            return;
        }
        let m = softmax_max(lane, base, step, keys);
        let l = softmax_sum(lane, base, step, keys, m);
        write_lse(lane, row, m, l);
        for (var j = lane; j < keys; j += LANES) {
            scores[base + j * step] = select(0.0, 1.0, j == chosen);
        }
        return;
    }

    let m = softmax_max(lane, base, step, keys);
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
                if (!hidden(s) && relative(s, m) > tau) {
                    sum += relative(s, m);
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
            scores[base + j * step] = select(max(relative(s, m) - tau, 0.0), 0.0, hidden(s));
        }
        return;
    }

    var top = m;
    var extra = 0.0;
    if (SINKS) {
        let sink = sinks[params.sinks_start + h * params.sinks_step];
        top = max(m, sink);
        extra = exp1(relative(sink, top));
    }
    let l = softmax_sum(lane, base, step, keys, top) + extra;
    if (LSE) {
        write_lse(lane, row, top, l);
    }
    for (var j = lane; j < keys; j += LANES) {
        let s = scores[base + j * step];
        scores[base + j * step] = select(exp1(relative(s, top)) / l, 0.0, hidden(s));
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
    var most = HIDDEN;
    for (var j = lane; j < keys; j += LANES) {
        most = max(most, scores[base + j * step]);
    }
    return reduce_max(lane, most);
}

fn softmax_sum(lane: u32, base: u32, step: u32, keys: u32, top: f32) -> f32 {
    var sum = 0.0;
    for (var j = lane; j < keys; j += LANES) {
        let s = scores[base + j * step];
        sum += select(exp1(relative(s, top)), 0.0, hidden(s));
    }
    return reduce_sum(lane, sum);
}

fn write_lse(lane: u32, row: u32, top: f32, l: f32) {
    if (lane == 0u) {
        var shift = top;
        if (TEMPERATURE) {
            shift = top / params.temperature;
        }
        lse[row_start(params.lse, row)] = select(shift + log1(l), params.negative_infinity, l == 0.0);
    }
}
