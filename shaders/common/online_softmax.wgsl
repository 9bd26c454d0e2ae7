// A row's softmax while its keys pass by: the largest score m so far and l = Σ exp(s − m). Its end, with the sink. Two
// numbers, because where |m| is large their one log-sum-exp, m + ln l, has no digits left for l. A kernel that includes
// this file has the members `temperature`, `negative_infinity` and `not_a_number` in its `params`.
override SINKS: bool = false;
override TEMPERATURE: bool = false;

// A difference of scores on its way into the exponential function.
fn relative(s: vec4<f32>) -> vec4<f32> {
    if (TEMPERATURE) {
        return s / params.temperature;
    }
    return s;
}

// exp(s − m), 0 for hidden scores and those of −∞.
fn weight(s: vec4<f32>, m: vec4<f32>) -> vec4<f32> {
    return select(exp_falling4(relative(s - m)), vec4<f32>(0.0), s <= vec4<f32>(MINUS_INFINITY));
}

// Rows that see nothing; a row of NaN may have kept the m that it began with.
fn see_nothing(m: vec4<f32>, l: vec4<f32>) -> vec4<bool> {
    return (m == vec4<f32>(HIDDEN)) & (l == vec4<f32>(0.0));
}

// Four rows at their end. A row that sees nothing gives 0 whatever its sink is; one that sees only scores of −∞, NaN.
struct Softmax {
    m: vec4<f32>,
    l: vec4<f32>,
    share: vec4<f32>, // what Σ exp(s − m)·v is to be multiplied with
}

fn ended(m: vec4<f32>, l: vec4<f32>, sink: vec4<f32>) -> Softmax {
    let zero = vec4<f32>(0.0);
    var top = m;
    var sum = l;
    var kept = vec4<f32>(1.0);
    if (SINKS) {
        top = max(m, sink);
        kept = select(exp_falling4(relative(m - top)), zero, l == zero);
        sum = l * kept + exp_falling4(relative(sink - top));
    }
    let share = select(kept / sum, vec4<f32>(params.not_a_number), sum == zero);
    return Softmax(top, sum, select(share, zero, see_nothing(m, l)));
}

// The largest score over the temperature.
fn shifted_max(m: f32) -> f32 {
    if (TEMPERATURE) {
        return m / params.temperature;
    }
    return m;
}

// ln Σ exp(s); −∞ of nothing, NaN of scores of −∞ alone.
fn log_sum_exp(m: f32, l: f32) -> f32 {
    return select(
        shifted_max(m) + log1(l), select(params.not_a_number, params.negative_infinity, m == HIDDEN), l == 0.0,
    );
}

// The pair that the caller gets: (−∞, 0) of nothing, (NaN, NaN) where one of them is.
fn max_and_sum(m: f32, l: f32) -> vec2<f32> {
    if (l == 0.0) {
        return select(vec2<f32>(params.not_a_number), vec2<f32>(params.negative_infinity, 0.0), m == HIDDEN);
    }
    return select(vec2<f32>(shifted_max(m), l), vec2<f32>(params.not_a_number), is_nan1(l));
}
