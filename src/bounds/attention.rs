//! The fused kernels of attention: `flash.wgsl`, `flash_rows.wgsl`, `flash_split.wgsl` and the files of `common` that they share.

use super::{FAR, Seen, holds_that, reach};

/// The largest batch row, query head and key head, the numbers of queries and keys.
struct Problem {
    batch: u64,
    head: u64,
    kv_head: u64,
    queries: u64,
    keys: u64,
}

/// Workgroup arrays of `flash.wgsl` and `group_shared.wgsl`. All sizes are powers of two, of which those below are what is staged at a
/// time: LANES_M · LANES_N / CHUNK rows, of 4 · LANES_N keys and of 4 · ROWS queries with ROWS = ROW_QUADS · LANES_M.
///
/// | array | largest index |
/// |---|---|
/// | `qp_tile` | LANES_N − 1: `entry`, `n` < CHUNK ≤ LANES_N; `lane_n`; `(first + n) / 4` of a key of the tile |
/// | its `at` | [3][ROWS − 1]: `row_place` of row r + n · STEP < 4 · ROWS; `lane_m + LANES_M` where ROW_QUADS is 2 |
/// | `kv_tile` | VALUE_SLICES · CHUNK − 1: `entry` < CHUNK, of the second slice CHUNK further on |
/// | its `at` | [3][LANES_N − 1]: key r + n · STEP < 4 · LANES_N over 4; `lane_n` |
/// | `shared_values` | LANES − 1: `first + LANES_N − 1` of a group of LANES_N lanes |
pub(super) fn tiled(seen: &Seen<'_>) -> Option<()> {
    let sizes = ["LANES_M", "LANES_N", "ROW_QUADS", "CHUNK", "VALUE_SLICES"].map(|name| seen.constant(name));
    let [m, n, row_quads, chunk, value_slices] = [sizes[0]?, sizes[1]?, sizes[2]?, sizes[3]?, sizes[4]?];
    holds_that([m, n, row_quads, chunk, value_slices].iter().all(|size| size.is_power_of_two()))?;
    holds_that(seen.constant("LANES")? == m * n && row_quads <= 2 && value_slices <= 2)?;
    // Two entries an iteration with two quads of rows; a load at least, and quads of keys at a time.
    holds_that(row_quads <= chunk && chunk <= n && n <= 4 * row_quads * chunk && m <= 4 * chunk && m * n >= 4 * chunk)?;
    let problem = problem(seen, 4 * row_quads * m)?;
    let (head_quads, value_quads) = (seen.count("head_quads")?, seen.count("value_quads")?);
    let slices = match (value_slices, seen.constant("SLICES")?) {
        (2, 0..=2) => 2,
        (2, _) => 4,
        (_, slices) => slices.clamp(1, 4),
    };
    // Where the last chunk or slice is not whole, quads are compared with the end.
    let head = if seen.is_on("HEAD_TAIL")? { head_quads } else { head_quads.next_multiple_of(chunk) };
    let value = if seen.is_on("VALUE_TAIL")? { value_quads } else { slices * n };
    fused(seen, &problem, [head, head, value])?;
    additive(seen)
}

/// Workgroup arrays of `flash_rows.wgsl`, `query_rows_*.wgsl` and `reduce4_*.wgsl`, of eight lanes.
///
/// | array | largest index |
/// |---|---|
/// | `p_tile` | ROW_QUADS · 64 − 1: key `8 · lane + 7`, row quad ROW_QUADS − 1; `ROW_QUADS · n + id + 24` with ROW_QUADS = 8, `+ 8` with 4, where n ≤ 60 is a multiple of 4 |
/// | `key_ranges` | 16 · ROW_BLOCKS − 1 ≤ 31 |
/// | `shared_values` | 7 |
pub(super) fn rows(seen: &Seen<'_>) -> Option<()> {
    let blocks = seen.constant("ROW_BLOCKS")?;
    holds_that((1..=2).contains(&blocks) && seen.constant("ROW_QUADS")? == 4 * blocks)?;
    holds_that(seen.constant("P_ENTRIES")? >= 64 * 4 * blocks)?;
    let problem = problem(seen, 16 * blocks)?;
    let head_quads = seen.count("head_quads")?;
    fused(seen, &problem, [head_quads, head_quads, seen.count("value_quads")?])
}

/// Workgroup arrays of `flash_split.wgsl`, `split_k_*.wgsl` and `reduce4_*.wgsl`.
///
/// | array | largest index |
/// |---|---|
/// | `q_tile` | QUERY_QUADS − 1: `quad`; `n + k_split`, in steps of K_SPLITS that divide QUERY_QUADS |
/// | `p_tile` | TILE_N − 1: `column` < LANES / K_SPLITS, four of them further on, `first + lane`, `n_3`, in steps that divide TILE_N |
/// | `accumulators` | LANES − 1: `other` < LANES |
/// | `partial_sums`, `shared_values` | LANES − 1: slice K_SPLITS − 1, column LANES / K_SPLITS − 1 |
pub(super) fn split(seen: &Seen<'_>) -> Option<()> {
    let [lanes, k_splits, tile_n] = ["LANES", "K_SPLITS", "TILE_N"].map(|name| seen.constant(name));
    let (lanes, k_splits, tile_n) = (lanes?, k_splits?, tile_n?);
    holds_that(lanes.is_power_of_two() && k_splits.is_power_of_two() && k_splits <= lanes)?;
    let width = seen.constant("VALUE_LANES")?;
    holds_that(tile_n > 0 && width.is_power_of_two() && width <= lanes)?;
    let steps = [4 * lanes / k_splits, lanes, 4 * (lanes / width)];
    holds_that(steps.into_iter().all(|step| step > 0 && tile_n.is_multiple_of(step)))?;
    let query_quads = seen.constant("QUERY_QUADS")?;
    holds_that(query_quads.is_multiple_of(k_splits))?;
    // The rows of a workgroup are the queries of all heads of a key head.
    let (heads, group) = (seen.count("heads")?, seen.count("group")?);
    let rows = seen.count("positions.queries")?.checked_mul(group).filter(|rows| *rows <= FAR)?;
    holds_that(seen.count("row_tiles")? == rows.div_ceil(4))?;
    let problem = Problem { head: heads * group - 1, kv_head: heads - 1, ..problem(seen, 0)? };
    let (head_quads, value_quads) = (seen.count("head_quads")?, seen.count("value_quads")?);
    // Quads past the end are compared with it, or read the last one.
    let key_quads = if seen.is_on("HEAD_TAIL")? { head_quads } else { query_quads.max(1) };
    fused(seen, &problem, [head_quads, key_quads, value_quads])?;
    additive(seen)
}

/// `tile_of`: a workgroup below `tiles` has a batch row, a head and a tile of `tile_m` rows, of which the first is a query.
fn problem(seen: &Seen<'_>, tile_m: u64) -> Option<Problem> {
    let [batch, heads, group, row_tiles, splits, tiles] =
        ["batch", "heads", "group", "row_tiles", "splits", "tiles"].map(|name| seen.count(name));
    let (batch, heads, row_tiles) = (batch?, heads?, row_tiles?);
    let whole = [heads, row_tiles, splits?].into_iter().try_fold(batch, u64::checked_mul)?;
    let (queries, keys) = (seen.count("positions.queries")?, seen.count("positions.keys")?);
    holds_that(tiles? == whole && (row_tiles - 1) * tile_m < queries)?;
    Some(Problem { batch: batch - 1, head: heads - 1, kv_head: (heads - 1) / group?, queries, keys })
}

/// Buffers. Queries are at most `queries − 1` (`min(…, last_i − 1)`), keys at most `keys − 1` (`min(…, keys − 1)`, or a visible
/// key, which lies before the end of a split), quads below those that a kernel reads of a query, a key and a value; what is stored has
/// `value_quads`.
fn fused(seen: &Seen<'_>, p: &Problem, [query_quads, key_quads, value_quads]: [u64; 3]) -> Option<()> {
    let [query, key, value, output] = ["query", "key", "value", "output"].map(|name| seen.view(name));
    let (batch, head, i) = (p.batch, p.head, p.queries - 1);
    seen.within("query", query?.reach([batch, head, i, query_quads - 1]))?;
    let (first, third) = locate(seen, p)?;
    for (name, view, quads) in [("key", key?, key_quads), ("value", value?, value_quads)] {
        let quad = view.reach([first, p.kv_head, third, quads - 1])?;
        seen.within(name, Some(quads_at(seen, name, quad)?))?;
    }
    let rows = seen.count("splits")? * seen.count("batch")?;
    seen.within("output", output?.reach([rows - 1, head, i, seen.count("value_quads")? - 1]))?;
    let max_sum = seen.constant("MAX_SUM")?;
    if max_sum > 0 || seen.is_on("LSE")? {
        let last = u64::from(max_sum > 0);
        seen.within("stats", seen.view("stats")?.reach([rows - 1, head, i, last]))?;
    }
    if seen.is_on("SINKS")? && max_sum != 2 {
        seen.within("vectors", seen.list("sinks", head))?;
    }
    visibility(seen, p)
}

/// Where a quad of `key` or `value` ends: itself, or its word in blocks of `q8.wgsl`.
fn quads_at(seen: &Seen<'_>, name: &str, quad: u64) -> Option<u64> {
    let alias = if name == "key" { "k_elem" } else { "v_elem" };
    let (_, dtype) = seen.dispatch.variant.aliases.iter().find(|(found, _)| *found == alias)?;
    if *dtype != crate::tensor::DType::Q8 {
        return Some(quad);
    }
    let element = 4 * quad;
    holds_that(element <= u64::from(u32::MAX))?;
    Some(element / 32 * 9 + 1 + element % 32 / 4)
}

/// `locate`: the largest first and third index of a key row. A page is clamped to the pool.
fn locate(seen: &Seen<'_>, p: &Problem) -> Option<(u64, u64)> {
    if !seen.is_on("PAGED")? {
        return Some((p.batch, p.keys - 1));
    }
    let (size, count) = (seen.count("pages.size")?, seen.count("pages.count")?);
    let [start, row_step, page_step] =
        ["start", "row_step", "page_step"].map(|name| seen.number(&format!("pages.{name}")));
    seen.within("vectors", reach(start?, [(p.batch, row_step?), ((p.keys - 1) / size, page_step?)]))?;
    Some((count - 1, size - 1))
}

/// `key_range`, `masked`, `block_visible` and `tile_state`.
fn visibility(seen: &Seen<'_>, p: &Problem) -> Option<()> {
    let (batch, head, i) = (p.batch, p.head, p.queries - 1);
    let mut sequence = batch;
    if seen.is_on("SEQUENCES")? {
        // `sequence_of` is below their number; its neighbour is read too.
        let sequences = seen.count("positions.sequences")?;
        seen.within("vectors", seen.list("positions.cu_seqlens_q", sequences))?;
        seen.within("vectors", seen.list("positions.cu_seqlens_k", sequences))?;
        sequence = sequence.max(sequences - 1);
    }
    for (switch, list) in [("KEY_LENGTHS", "kv_lengths"), ("QUERY_LENGTHS", "query_lengths")] {
        if seen.is_on(switch)? {
            seen.within("vectors", seen.list(&format!("positions.{list}"), batch))?;
        }
    }
    if seen.is_on("ALIBI")? {
        let ([start, head_step], row_step) = (seen.words("mask.slopes")?, seen.number("mask.slope_step")?);
        seen.within("vectors", reach(start, [(sequence, row_step), (head, head_step)]))?;
    }
    if seen.is_on("BLOCKS")? {
        let view = seen.view("blocks.view")?;
        let [.., rows, columns] = view.shape;
        // At least 1, so that the search over blocks moves on.
        seen.count("blocks.queries").and(seen.count("blocks.keys"))?;
        seen.within("block_mask", view.reach([batch, head, rows.checked_sub(1)?, columns.checked_sub(1)?]))?;
    }
    if seen.is_on("MASK")? {
        // Read of visible pairs, whose keys lie before `mask_keys` and before the end of the keys.
        if let Some(last) = seen.number("mask.mask_keys")?.min(p.keys).checked_sub(1) {
            seen.within("mask", seen.view("mask.view")?.reach([batch, head, i, last]))?;
        }
        if seen.is_on("HAS_MASK_MAP")? {
            let [start, b, h, q, queries, columns] =
                ["start", "batch_step", "head_step", "query_step", "queries", "columns"]
                    .map(|name| seen.number(&format!("mask_map.{name}")));
            let (row, column) = (i.checked_div(queries?)?, columns?.checked_sub(1)?);
            seen.within("vectors", reach(start?, [(batch, b?), (head, h?), (row, q?), (column, 1)]))?;
        }
    }
    Some(())
}

/// `additive.wgsl`: units are clamped to the last.
fn additive(seen: &Seen<'_>) -> Option<()> {
    if seen.is_on("HAS_V")? {
        seen.within("vectors", seen.list("v", seen.count("units")? - 1))?;
    }
    if seen.is_on("NORMED")? {
        seen.within("vectors", seen.number("g"))?;
    }
    Some(())
}
