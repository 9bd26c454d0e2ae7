// Scores on their way into a softmax. The mask alone decides what is hidden, so a hidden pair has a score that no visible
// pair can have, HIDDEN; a visible score of −∞ becomes MINUS_INFINITY, and all others are at least LEAST_VISIBLE. The three
// are finite, because WGSL has no infinite constants and compilers may assume that there is no infinity.
const HIDDEN = -3.4028234e38;
const MINUS_INFINITY = -3.4028232e38;
const LEAST_VISIBLE = -3.402823e38;

// A finite number for the score of a visible pair.
fn finite_score4(s: vec4<f32>) -> vec4<f32> {
    let infinite = bitcast<vec4<u32>>(s) == vec4<u32>(0xff800000u); // the bits of −∞
    let least = select(vec4<f32>(LEAST_VISIBLE), vec4<f32>(MINUS_INFINITY), infinite);
    return select(s, least, s < vec4<f32>(LEAST_VISIBLE));
}

fn finite_score1(s: f32) -> f32 {
    return finite_score4(vec4<f32>(s)).x;
}
