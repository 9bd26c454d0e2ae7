// Classifies the tiles of a mask tensor, so that fused kernels skip hidden tiles and do not read the mask in full ones: 0
// (hidden) where it hides every pair, 2 (full) where it hides none and adds nothing, 1 (partial) otherwise. One workgroup a
// tile, lanes along the keys.
override LANES: u32 = 32u;
override MASK: u32 = 1u; // 1 bool (nonzero = attend), 2 float (added; −∞ hides)

struct Params {
    view: View, // the mask, [B, Hq, Nq, Nk], repeated axes of length 1
    start: u32, // of the map in `tiles`
    columns: u32,
    row_tiles: u32,
    count: u32, // tiles in all
    queries: u32, // in a tile
    keys: u32,
}

@group(0) @binding(1) var<storage, read> mask: array<u32>;
@group(0) @binding(2) var<storage, read_write> tiles: array<u32>;

const VISIBLE = 1u; // flags: some pair is visible
const PARTIAL = 2u;  // some pair is hidden, or has something added to its score

var<workgroup> flags: atomic<u32>;

@compute @workgroup_size(LANES)
fn main(wg: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let tile = workgroup_index(wg);
    if (tile >= params.count) {
        return;
    }
    if (lane == 0u) {
        atomicStore(&flags, 0u);
    }
    workgroupBarrier();
    let rest = tile / params.columns;
    let bh = rest / params.row_tiles;
    let b = bh / params.view.shape.y;
    let h = bh % params.view.shape.y;
    let first_i = (rest % params.row_tiles) * params.queries;
    let first_j = (tile % params.columns) * params.keys;
    let last_i = min(first_i + params.queries, params.view.shape.z);
    let last_j = min(first_j + params.keys, params.view.shape.w);
    var found = 0u;
    for (var j = first_j + lane; j < last_j; j += LANES) {
        for (var i = first_i; i < last_i; i += 1u) {
            let bits = mask[element(params.view, b, h, i, j)];
            let hides = select(bits == 0xff800000u, bits == 0u, MASK == 1u); // the bits of −∞
            let adds = MASK == 2u && (bits & 0x7fffffffu) != 0u;
            found |= select(VISIBLE, 0u, hides) | select(0u, PARTIAL, hides || adds);
        }
    }
    atomicOr(&flags, found);
    workgroupBarrier();
    if (lane == 0u) {
        let all = atomicLoad(&flags);
        tiles[params.start + tile] = select(select(2u, 1u, (all & PARTIAL) != 0u), 0u, (all & VISIBLE) == 0u);
    }
}
