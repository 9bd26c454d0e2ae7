// The score of one pair on its way into a softmax. A kernel that includes this file has the members `scale: f32` and
// `softcap: f32` in its `params`.
override SOFTCAP: bool = false;
override SCORE_MOD: bool = false; // there is a term of the user's

// The user's term and the softcap, of a visible pair.
fn scored(b: u32, h: u32, i: u32, j: u32, sum: f32) -> f32 {
    return visible1(capped(score_mod(params.scale * sum, b, h, i, j)));
}

fn capped4(s: vec4<f32>) -> vec4<f32> {
    if (SOFTCAP) {
        return params.softcap * tanh4(s / params.softcap);
    }
    return s;
}

fn capped(s: f32) -> f32 {
    return capped4(vec4<f32>(s)).x;
}

// With bias; HIDDEN where the mask hides the pair.
fn shown(row: Row, b: u32, h: u32, i: u32, j: u32, s: f32) -> f32 {
    let m = masked(row, b, h, i, j);
    let score = select(s, s + s, s == MINUS_INFINITY); // −∞ again
    return select(HIDDEN, visible1(score + m.bias), m.visible);
}
