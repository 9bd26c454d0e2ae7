// Which keys a query sees and what is added to its scores: the one place. A kernel that includes this file has the
// member `mask: Mask` in its uniform `params` and binds `mask`, `kv_lengths` and `alibi_slopes`.
override MASK: u32 = 0u; // 0 none, 1 bool (nonzero = attend), 2 float (added; −∞ hides)
override CAUSAL: bool = false;
override WINDOW: bool = false;
override LENGTHS: bool = false;
override ALIBI: bool = false;

struct Mask {
    view: View,        // broadcast over [B, Hq, Nq, Nk]: repeated axes have stride 0
    mask_keys: u32,    // columns of the mask; keys past them are hidden
    keys: u32,         // Nk
    queries: u32,      // Nq of the whole problem
    diagonal: i32,     // key j is at query i's own position when j = i + diagonal (without lengths)
    window_left: i32,  // −1 = open
    window_right: i32, // −1 = open
    lengths_start: u32, // where the lengths lie: index of the first, distance between neighbours
    lengths_step: u32,
    slopes_start: u32,
    slopes_step: u32,
    pad_0: u32,
    pad_1: u32,
}

fn key_length(b: u32) -> u32 {
    return min(kv_lengths[params.mask.lengths_start + b * params.mask.lengths_step], params.mask.keys);
}

fn diagonal(b: u32) -> i32 {
    if (LENGTHS) {
        return i32(key_length(b)) - i32(params.mask.queries);
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
    var out = Masked(0.0, j < params.mask.mask_keys);
    // Position of the key relative to the query's own.
    let distance = i32(j) - (i32(i) + diagonal(b));
    if (LENGTHS) {
        out.visible = out.visible && j < key_length(b);
    }
    if (CAUSAL) {
        out.visible = out.visible && distance <= 0;
    }
    if (WINDOW) {
        out.visible = out.visible && (params.mask.window_left < 0 || distance >= -params.mask.window_left)
            && (params.mask.window_right < 0 || distance <= params.mask.window_right);
    }
    if (ALIBI) {
        out.bias = -alibi_slopes[params.mask.slopes_start + h * params.mask.slopes_step] * f32(abs(distance));
    }
    if (MASK != 0u && out.visible) {
        let word = mask[element(params.mask.view, b, h, i, j)];
        if (MASK == 1u) {
            out.visible = word != 0u;
        } else {
            out.visible = word != 0xff800000u; // the bits of −∞
            out.bias = out.bias + bitcast<f32>(word);
        }
    }
    return out;
}
