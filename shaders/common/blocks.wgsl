// Block-sparse attention: a mask over blocks of queries and keys. What it hides is not computed. A kernel that includes
// this file has the member `blocks: Blocks` in its `params`, and binds `block_mask`.
override BLOCKS: bool = false;

struct Blocks {
    view: View,   // broadcast over [B, Hq, blocks of queries, blocks of keys]
    queries: u32, // in a block
    keys: u32,
}

// i and j are the numbers of the query and key in the whole problem.
fn block_visible(b: u32, h: u32, i: u32, j: u32) -> bool {
    if (!BLOCKS) {
        return true;
    }
    let block = vec2<u32>(i / params.blocks.queries, j / params.blocks.keys);
    let inside = all(block < params.blocks.view.shape.zw);
    let index = min(block, params.blocks.view.shape.zw - vec2<u32>(1u));
    return inside && block_mask[element(params.blocks.view, b, h, index.x, index.y)] != 0u;
}

// Whether any pair of the queries i .. last_i and the keys first .. last (both exclusive) is in a visible block.
fn any_block_visible(b: u32, h: u32, i: u32, last_i: u32, first: u32, last: u32) -> bool {
    if (!BLOCKS) {
        return true;
    }
    let step = vec2<u32>(params.blocks.queries, params.blocks.keys);
    for (var n = i; n < last_i; n = (n / step.x + 1u) * step.x) {
        for (var j = first; j < last; j = (j / step.y + 1u) * step.y) {
            if (block_visible(b, h, n, j)) {
                return true;
            }
        }
    }
    return false;
}
