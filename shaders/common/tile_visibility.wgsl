// Visibility of a tile of queries × keys: hidden tiles are skipped, full ones need no mask. A kernel that includes this
// file includes positions.wgsl, blocks.wgsl and mask.wgsl, and has the member `mask_map: MaskMap` in its `params`.
override HAS_MASK_MAP: bool = false; // `mask_tiles` has classified the tiles of the mask tensor

// The classes of the mask tensor's tiles, a word each in `vectors`: TILE_HIDDEN, TILE_PARTIAL or TILE_FULL.
struct MaskMap {
    @align(16) start: u32,
    batch_step: u32,
    head_step: u32,
    query_step: u32, // between tiles of queries
    queries: u32,    // in a tile
    keys: u32,
    columns: u32,    // tiles of keys
}

struct TileVisibility {
    any: KeyRange,  // the smallest range that contains the keys of every query
    all_first: u32, // [all_first, all_end): keys visible to every query, by position alone
    all_end: u32,
}

// Of the queries i .. last_i (exclusive).
fn tile_visibility(b: u32, i: u32, last_i: u32) -> TileVisibility {
    let range = key_range(b, i);
    var visible = TileVisibility(range, range.first, range.end);
    if (CAUSAL || WINDOW || SEQUENCES || QUERY_LENGTHS) {
        for (var n = i + 1u; n < last_i; n += 1u) {
            let next = key_range(b, n);
            visible.any = enclosing_range(visible.any, next);
            visible.all_first = max(visible.all_first, next.first);
            visible.all_end = min(visible.all_end, next.end);
        }
    }
    return visible;
}

const TILE_HIDDEN = 0u;  // no pair is visible
const TILE_PARTIAL = 1u;
const TILE_FULL = 2u;    // every pair is visible, and nothing is added to a score

// Of the queries i .. last_i and the keys first .. last (both exclusive), which lie in one tile of the map.
fn tile_state(visible: TileVisibility, b: u32, h: u32, i: u32, last_i: u32, first: u32, last: u32) -> u32 {
    var full = !ALIBI && first >= visible.all_first && last <= visible.all_end && last <= params.mask.mask_keys;
    if (BLOCKS) {
        full = false;
        if (!any_block_visible(b, h, i, last_i, first, last)) {
            return TILE_HIDDEN;
        }
    }
    if (MASK != 0u) {
        if (!HAS_MASK_MAP) {
            return TILE_PARTIAL;
        }
        let map = params.mask_map;
        let column = min(first / map.keys, map.columns - 1u);
        let at = map.start + b * map.batch_step + h * map.head_step + (i / map.queries) * map.query_step + column;
        let state = vectors[at];
        if (state != TILE_FULL) {
            return state;
        }
    }
    return select(TILE_PARTIAL, TILE_FULL, full);
}
