// What the fused kernels of attention share: parameters, where a workgroup stands, the running softmax.
override SINKS: bool = false;
override LSE: bool = false;
override TEMPERATURE: bool = false;

// Views of query, key, value and output count quads of 4 elements along their last axis, and in strides and offset.
struct Params {
    query: View,  // [B, Hq, Nq, D / 4]
    key: View,    // [B, Hkv, Nk, D / 4], or pages [pages, Hkv, page size, D / 4]
    value: View,
    output: View, // [ranges · B, Hq, Nq, Dv / 4]
    lse: View,    // [ranges · B, Hq, Nq, 1]
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
    pad_0: u32,
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

fn sink_of(h: u32) -> f32 {
    return bitcast<f32>(word(params.sinks, h));
}

// A difference of scores on its way into the exponential function.
fn relative(s: vec4<f32>) -> vec4<f32> {
    if (TEMPERATURE) {
        return s / params.temperature;
    }
    return s;
}

// exp(s − m), 0 for hidden scores.
fn weight(s: vec4<f32>, m: vec4<f32>) -> vec4<f32> {
    return select(exp_falling4(relative(s - m)), vec4<f32>(0.0), s == vec4<f32>(HIDDEN));
}

// ln Σ exp(s) from the largest s and Σ exp(s − m).
fn log_sum_exp(m: f32, l: f32) -> f32 {
    var shift = m;
    if (TEMPERATURE) {
        shift = m / params.temperature;
    }
    return select(shift + log1(l), params.negative_infinity, l == 0.0);
}

// From a tile of keys that lies between the sink tokens and the window to the first one of the window.
fn skip_gap(reach: Reach, j: u32, step: u32) -> u32 {
    if (WINDOW && j >= reach.any.sinks_last && j < reach.any.first) {
        return max(j, reach.any.first / step * step);
    }
    return j;
}
