// Which keys the queries of a tile see, all together and each of them. A kernel that includes this file includes
// positions.wgsl, blocks.wgsl and mask.wgsl, and has the member `reach: Tiles` in its `params`.
override MAPPED: bool = false; // the mask tensor has been looked through, tile by tile

// The map of the mask's tiles, one word each, in `vectors`: 0 hidden, 1 mixed, 2 open.
struct Tiles {
    @align(16) start: u32,
    batch_step: u32,
    head_step: u32,
    query_step: u32, // between tiles of queries
    queries: u32,    // in a tile
    keys: u32,
    columns: u32,    // tiles of keys
}

struct Reach {
    any: Row,   // what one query or the other sees, and what lies between
    first: u32, // first .. last: what every query sees, as far as positions say
    last: u32,
}

// Of the queries i .. last_i.
fn reach_of(b: u32, i: u32, last_i: u32) -> Reach {
    let row = row_of(b, i);
    var reach = Reach(row, row.first, row.last);
    if (CAUSAL || WINDOW || SEQUENCES || QUERY_LENGTHS) {
        for (var n = i + 1u; n < last_i; n += 1u) {
            let next = row_of(b, n);
            reach.any = join_rows(reach.any, next);
            reach.first = max(reach.first, next.first);
            reach.last = min(reach.last, next.last);
        }
    }
    return reach;
}

const TILE_HIDDEN = 0u;
const TILE_MIXED = 1u;
const TILE_OPEN = 2u; // every query sees every key, and nothing is added to a score

// Of the queries i .. last_i and the keys first .. last, which lie in one tile of the map.
fn tile_state(reach: Reach, b: u32, h: u32, i: u32, last_i: u32, first: u32, last: u32) -> u32 {
    var open = !ALIBI && first >= reach.first && last <= reach.last && last <= params.mask.mask_keys;
    if (BLOCKS) {
        open = false;
        if (!any_block_visible(b, h, i, last_i, first, last)) {
            return TILE_HIDDEN;
        }
    }
    if (MASK != 0u) {
        if (!MAPPED) {
            return TILE_MIXED;
        }
        let t = params.reach;
        let column = min(first / t.keys, t.columns - 1u);
        let at = t.start + b * t.batch_step + h * t.head_step + (i / t.queries) * t.query_step + column;
        let state = vectors[at];
        if (state != TILE_OPEN) {
            return state;
        }
    }
    return select(TILE_MIXED, TILE_OPEN, open);
}
