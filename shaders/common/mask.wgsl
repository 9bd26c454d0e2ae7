// Whether a query attends to a key, and what is added to their score: positions, mask tensor, block mask and ALiBi
// together. Every kernel of attention takes this rule from here. A kernel that includes this file has the member `mask:
// Mask` in its `params`, and binds `mask` and `block_mask`.
override MASK: u32 = 0u; // 0 none, 1 bool (nonzero = attend), 2 float (added; −∞ hides)
override ALIBI: bool = false;

struct Mask {
    view: View,      // broadcast over [B, Hq, Nq, Nk]: repeated axes have stride 0
    mask_keys: u32,  // columns of the mask; keys past them are hidden
    slope_step: u32, // words between two rows of slopes; 0 where all share one
    slopes: List,    // of the heads: the first row, or the only one
}

// What is added to the score of a visible pair, and whether it is visible.
struct Masked {
    bias: f32,
    visible: bool,
}

// i is the number of the query in the whole problem.
fn masked(range: KeyRange, b: u32, h: u32, i: u32, j: u32) -> Masked {
    var out = Masked(0.0, j < params.mask.mask_keys && in_key_range(range, j) && block_visible(b, h, i, j));
    if (ALIBI) {
        let slope = vectors[params.mask.slopes.x + range.sequence * params.mask.slope_step + h * params.mask.slopes.y];
        out.bias = -bitcast<f32>(slope) * f32(abs(i32(j) - range.position));
    }
    if (MASK != 0u && out.visible) {
        let bits = mask[element(params.mask.view, b, h, i, j)];
        if (MASK == 1u) {
            out.visible = bits != 0u;
        } else {
            out.visible = bits != 0xff800000u; // the bits of −∞
            out.bias = out.bias + bitcast<f32>(bits);
        }
    }
    return out;
}
