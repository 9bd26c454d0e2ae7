// The score of one query with one key on its way into a softmax:
//
//   s = score_mod(scale · q·k);  s = softcap · tanh(s / softcap);  s += bias;  hidden pairs get HIDDEN
//
// A kernel that includes this file has the members `scale: f32` and
// `softcap: f32` in its `params`.
override SOFTCAP: bool = false;
override SCORE_MOD: bool = false; // the user has a score function

// Score function and softcap, of a visible pair with the product `sum` = q·k.
fn modified_score(b: u32, h: u32, i: u32, j: u32, sum: f32) -> f32 {
    return finite_score1(softcap1(score_mod(params.scale * sum, b, h, i, j)));
}

fn softcap4(s: vec4<f32>) -> vec4<f32> {
    if (SOFTCAP) {
        return params.softcap * tanh4(s / params.softcap);
    }
    return s;
}

fn softcap1(s: f32) -> f32 {
    return softcap4(vec4<f32>(s)).x;
}

// The score with bias; HIDDEN where the mask hides the pair.
fn masked_score(range: KeyRange, b: u32, h: u32, i: u32, j: u32, s: f32) -> f32 {
    let mask = masked(range, b, h, i, j);
    if (MASK != 2u && !ALIBI) {
        return select(HIDDEN, s, mask.visible);
    }
    let score = select(s, s + s, s == MINUS_INFINITY); // MINUS_INFINITY doubled is −∞, which no finite bias moves
    return select(HIDDEN, finite_score1(score + mask.bias), mask.visible);
}
