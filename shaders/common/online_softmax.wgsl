// Online softmax (Milakov and Gimelshein 2018): a row's running maximum row_max and its row_sum = Σ exp(s − row_max), and
// how they end. They stay two numbers, since their log-sum-exp, row_max + ln row_sum, has no digits left for row_sum where
// |row_max| is large.
//
//   with a sink: new_max = max(row_max, sink);  rescale = exp(row_max − new_max)
//                row_sum = rescale · row_sum + exp(sink − new_max)
//   output = accumulator · rescale / row_sum;  lse = row_max + ln row_sum
//
// A kernel that includes this file has the members `temperature`, `negative_infinity` and `not_a_number` in its `params`.
override SINKS: bool = false;
override TEMPERATURE: bool = false;

// A difference of scores, divided by the temperature before the exponential.
fn over_temperature(s: vec4<f32>) -> vec4<f32> {
    if (TEMPERATURE) {
        return s / params.temperature;
    }
    return s;
}

// exp(s − row_max) · 2^n, 0 for hidden scores and those of −∞: the difference from any other is below −87.3. n ≤ 0 is a whole
// number.
fn exp_weight(s: vec4<f32>, row_max: vec4<f32>, n: f32) -> vec4<f32> {
    let zero = vec4<f32>(0.0);
    if (TEMPERATURE) {
        return select(exp_falling_times4(over_temperature(s - row_max), n), zero, s <= vec4<f32>(MINUS_INFINITY));
    }
    return exp_falling_times4(s - select(row_max, zero, row_max <= vec4<f32>(MINUS_INFINITY)), n);
}

// Rows without a visible key. The maximum alone does not tell: a row of NaN may still have its initial one.
fn is_fully_masked(row_max: vec4<f32>, row_sum: vec4<f32>) -> vec4<bool> {
    return (row_max == vec4<f32>(HIDDEN)) & (row_sum == vec4<f32>(0.0));
}

// Four finished rows. A row without a visible key has the output 0 whatever its sink is; one with no score but −∞ has NaN.
struct RowResult {
    row_max: vec4<f32>,
    row_sum: vec4<f32>,
    output_scale: vec4<f32>, // the output is the accumulator Σ exp(s − row_max)·v times this
}

fn finish_softmax(row_max: vec4<f32>, row_sum: vec4<f32>, sink: vec4<f32>) -> RowResult {
    let zero = vec4<f32>(0.0);
    var new_max = row_max;
    var sum = row_sum;
    var rescale = vec4<f32>(1.0);
    if (SINKS) {
        new_max = max(row_max, sink);
        rescale = select(exp_falling4(over_temperature(row_max - new_max)), zero, row_sum == zero);
        sum = row_sum * rescale + exp_falling4(over_temperature(sink - new_max));
    }
    let output_scale = select(rescale / sum, vec4<f32>(params.not_a_number), sum == zero);
    return RowResult(new_max, sum, select(output_scale, zero, is_fully_masked(row_max, row_sum)));
}

// The largest score over the temperature.
fn max_over_temperature(row_max: f32) -> f32 {
    if (TEMPERATURE) {
        return row_max / params.temperature;
    }
    return row_max;
}

// ln Σ exp(s); −∞ without a visible key, NaN where all visible scores are −∞.
fn log_sum_exp(row_max: f32, row_sum: f32) -> f32 {
    return select(
        max_over_temperature(row_max) + log1(row_sum),
        select(params.not_a_number, params.negative_infinity, row_max == HIDDEN),
        row_sum == 0.0,
    );
}

// (row_max, row_sum) as the caller gets them: (−∞, 0) without a visible key, (NaN, NaN) where either is NaN.
fn max_and_sum(row_max: f32, row_sum: f32) -> vec2<f32> {
    if (row_sum == 0.0) {
        return select(vec2<f32>(params.not_a_number), vec2<f32>(params.negative_infinity, 0.0), row_max == HIDDEN);
    }
    return select(vec2<f32>(max_over_temperature(row_max), row_sum), vec2<f32>(params.not_a_number), is_nan1(row_sum));
}
