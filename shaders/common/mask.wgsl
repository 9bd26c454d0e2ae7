// Which keys a query sees and what is added to its scores: the one place. A kernel that includes this file has the
// member `mask: Mask` in its uniform `params` and binds `mask`, `kv_lengths` and `alibi_slopes`.
override MASK: u32 = 0u; // 0 none, 1 bool (nonzero = attend), 2 float (added; −∞ hides)
override CAUSAL: bool = false;
override WINDOW: bool = false;
override LENGTHS: bool = false;
override ALIBI: bool = false;

struct Mask {
    view: View,        // broadcast over [B, Hq, Nq, Nk]: repeated axes have stride 0
    keys: u32,         // columns of the mask; keys past them are hidden
    queries: u32,      // Nq of the whole problem
    diagonal: i32,     // key j is at query i's own position when j = i + diagonal (without lengths)
    window_left: i32,  // −1 = open
    window_right: i32, // −1 = open
    pad_0: u32,
    pad_1: u32,
    pad_2: u32,
}

fn diagonal(b: u32) -> i32 {
    if (LENGTHS) {
        return i32(kv_lengths[b]) - i32(params.mask.queries);
    }
    return params.mask.diagonal;
}

// What is added to the score of a visible pair, and whether it is visible.
struct Masked {
    bias: f32,
    visible: bool,
}

// i counts from the first query of the problem.
fn masked(b: u32, h: u32, i: u32, j: u32) -> Masked {
    var out = Masked(0.0, j < params.mask.keys);
    // Position of the key relative to the query's own.
    let distance = i32(j) - (i32(i) + diagonal(b));
    if (LENGTHS) {
        out.visible = out.visible && j < kv_lengths[b];
    }
    if (CAUSAL) {
        out.visible = out.visible && distance <= 0;
    }
    if (WINDOW) {
        out.visible = out.visible && (params.mask.window_left < 0 || distance >= -params.mask.window_left)
            && (params.mask.window_right < 0 || distance <= params.mask.window_right);
    }
    if (ALIBI) {
        out.bias = -alibi_slopes[h] * f32(abs(distance));
    }
    if (MASK != 0u && out.visible) {
        let word = mask[element(params.mask.view, b, h, i, j)];
        if (MASK == 1u) {
            out.visible = word != 0u;
        } else {
            let value = bitcast<f32>(word);
            out.visible = !(value <= LEAST_VISIBLE);
            out.bias = out.bias + value;
        }
    }
    return out;
}
