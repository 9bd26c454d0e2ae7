// What the fused kernels of attention share: parameters, the tile of a workgroup, and the epilogue of a row.
override LSE: bool = false;    // the log-sum-exp of each row is asked for
override MAX_SUM: u32 = 0u;    // its largest score and sum: 1 as the caller gets them, 2 of one split of the keys

// Views of query, key, value and output count quads of 4 elements along their last axis, and in strides and offset.
struct Params {
    query: View,  // [B, Hq, Nq, D / 4]
    key: View,    // [B, Hkv, Nk, D / 4], or pages [pages, Hkv, page size, D / 4]
    value: View,
    output: View, // [splits · B, Hq, Nq, Dv / 4]
    stats: View,  // [splits · B, Hq, Nq, 1 or 2]: log-sum-exp, or row_max and row_sum
    positions: Positions,
    mask: Mask,
    blocks: Blocks,
    pages: Pages,
    mask_map: MaskMap,
    batch: u32,
    heads: u32, // query heads
    group: u32, // query heads per key head
    row_tiles: u32,
    splits: u32,     // split-KV: ranges of keys that have workgroups of their own
    split_keys: u32, // keys of a split
    tiles: u32,      // workgroups
    head_quads: u32, // D / 4
    scale: f32,
    softcap: f32,
    temperature: f32,
    negative_infinity: f32,
    v: List, // of an additive score
    g: u32,
    value_quads: u32, // Dv / 4
    sinks: List,
    units: u32, // A of an additive score
    not_a_number: f32,
    weight_unit: f32, // scale of the weights while values are summed: a power of two near 1 / split_keys, so that no sum overflows
}

// What a workgroup computes: a tile of rows of one batch row and head, over the keys first_key .. end_key of a split.
struct Tile {
    split: u32,
    b: u32,
    h: u32,
    row_tile: u32,
    first_key: u32,
    end_key: u32,
}

// `heads` is the number of heads that have workgroups of their own in a batch row.
fn tile_of(index: u32, heads: u32) -> Tile {
    let rest = index / params.row_tiles;
    let bh = rest / params.splits;
    let split = rest % params.splits;
    let first = split * params.split_keys;
    let last = min(first + params.split_keys, params.positions.keys);
    return Tile(split, bh / heads, bh % heads, index % params.row_tiles, first, last);
}

fn sink_of(h: vec4<u32>) -> vec4<f32> {
    if (!SINKS || MAX_SUM == 2u) {
        return vec4<f32>(0.0);
    }
    return bitcast<vec4<f32>>(
        vec4<u32>(word(params.sinks, h.x), word(params.sinks, h.y), word(params.sinks, h.z), word(params.sinks, h.w)),
    );
}

// Four rows of an accumulator (a column is a row) += p·v of one key, whose value counts for nothing where the weight is 0: it
// may be hidden, and NaN or infinite.
fn add_visible_value(y: mat4x4<f32>, p: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    let zero = vec4<f32>(0.0);
    return mat4x4<f32>(
        y[0] + select(p.x * v, zero, p.x == 0.0),
        y[1] + select(p.y * v, zero, p.y == 0.0),
        y[2] + select(p.z * v, zero, p.z == 0.0),
        y[3] + select(p.w * v, zero, p.w == 0.0),
    );
}

// Each row (a column of the matrix) times a number of its own.
fn scale_columns(acc: mat4x4<f32>, factors: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(acc[0] * factors.x, acc[1] * factors.y, acc[2] * factors.z, acc[3] * factors.w);
}

// Softmax weights times `weight_unit`, a power of two, which changes no digit.
fn scaled_weight(s: vec4<f32>, row_max: vec4<f32>) -> vec4<f32> {
    return exp_weight(s, row_max, f32(i32(bitcast<u32>(params.weight_unit) >> 23u) - 127));
}

// The epilogue of four rows from the sums of their scaled weights. A split of the keys leaves the sink to the merge.
fn finish_rows(row_max: vec4<f32>, scaled_sum: vec4<f32>, sink: vec4<f32>) -> RowResult {
    let row_sum = scaled_sum / params.weight_unit;
    if (MAX_SUM == 2u) {
        return RowResult(row_max, row_sum, select(1.0 / scaled_sum, vec4<f32>(0.0), scaled_sum == vec4<f32>(0.0)));
    }
    let end = finish_softmax(row_max, row_sum, sink);
    return RowResult(end.row_max, end.row_sum, end.output_scale / params.weight_unit);
}

// The statistics of query i that are asked for.
fn store_stats(tile: Tile, h: u32, i: u32, row_max: f32, row_sum: f32) {
    let index = element(params.stats, tile.split * params.batch + tile.b, h, i, 0u);
    if (MAX_SUM == 2u) {
        stats[index] = row_max;
        stats[index + params.stats.strides.w] = row_sum;
    } else if (MAX_SUM == 1u) {
        let pair = max_and_sum(row_max, row_sum);
        stats[index] = pair.x;
        stats[index + params.stats.strides.w] = pair.y;
    } else if (LSE) {
        stats[index] = log_sum_exp(row_max, row_sum);
    }
}

// Skips tiles of keys between the sink tokens and the window: the next tile to visit, from the one at key j on.
fn skip_gap(visible: TileVisibility, j: u32, step: u32) -> u32 {
    if (WINDOW && j >= visible.any.sinks_end && j < visible.any.first) {
        return max(j, visible.any.first / step * step);
    }
    return j;
}
