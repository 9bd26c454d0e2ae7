// What the fused kernels of attention share: parameters, where a workgroup stands, the end of a row.
override LSE: bool = false;    // the log-sum-exp of each row is asked for
override MAX_SUM: u32 = 0u;    // its largest score and sum: 1 as the caller gets them, 2 of one range of keys

// Views of query, key, value and output count quads of 4 elements along their last axis, and in strides and offset.
struct Params {
    query: View,  // [B, Hq, Nq, D / 4]
    key: View,    // [B, Hkv, Nk, D / 4], or pages [pages, Hkv, page size, D / 4]
    value: View,
    output: View, // [ranges · B, Hq, Nq, Dv / 4]
    stats: View,  // [ranges · B, Hq, Nq, 1 or 2]: log-sum-exp, or largest score and sum
    positions: Positions,
    mask: Mask,
    blocks: Blocks,
    pages: Pages,
    reach: Tiles,
    batch: u32,
    heads: u32, // query heads
    group: u32, // query heads per key head
    row_tiles: u32,
    ranges: u32,
    range_keys: u32,
    tiles: u32, // workgroups
    depth: u32, // D / 4
    scale: f32,
    softcap: f32,
    temperature: f32,
    negative_infinity: f32,
    v: List, // of an additive score
    g: u32,
    width: u32, // Dv / 4
    sinks: List,
    units: u32, // A of an additive score
    not_a_number: f32,
    unit: f32, // what a weight of 1 is while values are summed: 1 over the keys of a range, so that no sum overflows
}

// Where a workgroup stands: its range of keys, batch row, head and tile of rows.
struct Place {
    range: u32,
    b: u32,
    h: u32,
    row: u32,
    first_key: u32,
    last_key: u32,
}

// `heads` of them in a batch row.
fn place_of(tile: u32, heads: u32) -> Place {
    let rest = tile / params.row_tiles;
    let bh = rest / params.ranges;
    let range = rest % params.ranges;
    let first = range * params.range_keys;
    let last = min(first + params.range_keys, params.positions.keys);
    return Place(range, bh / heads, bh % heads, tile % params.row_tiles, first, last);
}

fn sink_of(h: vec4<u32>) -> vec4<f32> {
    if (!SINKS || MAX_SUM == 2u) {
        return vec4<f32>(0.0);
    }
    return bitcast<vec4<f32>>(
        vec4<u32>(word(params.sinks, h.x), word(params.sinks, h.y), word(params.sinks, h.z), word(params.sinks, h.w)),
    );
}

// Weights in units of their own: a power of two, which changes no digit.
fn weight_units(s: vec4<f32>, m: vec4<f32>) -> vec4<f32> {
    return weight(s, m) * params.unit;
}

// The end of four rows whose weights are in units; of one range of keys, which the sink is not part of.
fn row_end(m: vec4<f32>, units: vec4<f32>, sink: vec4<f32>) -> Softmax {
    let l = units / params.unit;
    if (MAX_SUM == 2u) {
        return Softmax(m, l, select(1.0 / units, vec4<f32>(0.0), units == vec4<f32>(0.0)));
    }
    let end = ended(m, l, sink);
    return Softmax(end.m, end.l, end.share / params.unit);
}

// What is told of query i, from its m and l at the end.
fn store_stats(stand: Place, h: u32, i: u32, m: f32, l: f32) {
    let at = element(params.stats, stand.range * params.batch + stand.b, h, i, 0u);
    if (MAX_SUM == 2u) {
        stats[at] = m;
        stats[at + params.stats.strides.w] = l;
    } else if (MAX_SUM == 1u) {
        let pair = max_and_sum(m, l);
        stats[at] = pair.x;
        stats[at + params.stats.strides.w] = pair.y;
    } else if (LSE) {
        stats[at] = log_sum_exp(m, l);
    }
}

// From a tile of keys that lies between the sink tokens and the window to the first one of the window.
fn skip_gap(reach: Reach, j: u32, step: u32) -> u32 {
    if (WINDOW && j >= reach.any.sinks_last && j < reach.any.first) {
        return max(j, reach.any.first / step * step);
    }
    return j;
}
