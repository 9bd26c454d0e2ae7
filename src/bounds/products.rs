//! Matrix products: `matmul.wgsl`, `matmul_tiled.wgsl`, `matmul_sum.wgsl` and `common/product*.wgsl`.

use super::{FAR, Seen, View, holds_that, reach};

/// What a workgroup's tile is cut from.
struct Product {
    x: View,
    w: View,
    y: View,
    /// Of x and the residual.
    rows: u64,
    /// Of y: as many for each slice of the depth.
    all_rows: u64,
    batches: u64,
    row_tiles: u64,
    column_tiles: u64,
    /// One past the last quad of the depth.
    depth_quads: u64,
}

/// In registers: `partial_sums` of `split_k_shared.wgsl` has slice K_SPLITS − 1, column LANES / K_SPLITS − 1.
pub(super) fn registers(seen: &Seen<'_>) -> Option<()> {
    let [lanes, k_splits, tile_m] = ["LANES", "K_SPLITS", "TILE_M"].map(|name| seen.constant(name));
    let (lanes, k_splits, tile_m) = (lanes?, k_splits?, tile_m?);
    let broadcast = seen.is_on("BROADCAST")?;
    holds_that(k_splits > 0 && lanes.is_multiple_of(k_splits) && lanes > 0 && (!broadcast || k_splits == 1))?;
    let product = product(seen)?;
    // A single row is not compared with their number.
    holds_that(tile_m > 1 || product.row_tiles * product.batches <= product.rows)?;
    operands(seen, &product, k_splits)?;
    holds_that(product.column_tiles * 4 * lanes <= FAR)?;
    epilogue(seen, &product, product.all_rows, product.y.shape[3].checked_sub(1)? / 4)
}

/// In workgroup memory: 64 blocks [64 / TILE_QUADS, TILE_QUADS] of each operand. A block's entry is `k_quad · TILE_QUADS + quad`; of
/// a lane's two blocks the second, TILE_QUADS / 2 = 8 further on, is read with 16 quads alone.
pub(super) fn tiled(seen: &Seen<'_>) -> Option<()> {
    let quads = seen.constant("TILE_QUADS").filter(|quads| [8, 16].contains(quads))?;
    let product = product(seen)?;
    operands(seen, &product, 64 / quads)?;
    holds_that(product.column_tiles * 4 * quads <= FAR)?;
    epilogue(seen, &product, product.all_rows, product.y.shape[3].checked_sub(1)? / 4)
}

/// The sum over the slices of the depth: entry `split · all + index` of x, whose rows are those of all batches.
pub(super) fn sum(seen: &Seen<'_>) -> Option<()> {
    let product = product(seen)?;
    let quads = product.w.shape[2].div_ceil(4);
    let all = product.rows.checked_mul(quads).filter(|all| *all <= FAR)?;
    seen.within("x", reach(product.x.offset / 4, [(seen.count("splits")?, all)]).and_then(|end| end.checked_sub(1)))?;
    epilogue(seen, &product, product.rows, quads.checked_sub(1)?)
}

/// `tile_of`: a workgroup below `tiles` has a tile of a batch and of a slice of the depth, which begins within it.
fn product(seen: &Seen<'_>) -> Option<Product> {
    let [rows, batches, row_tiles, column_tiles, splits, split_quads] =
        ["rows", "batches", "row_tiles", "column_tiles", "splits", "split_quads"].map(|name| seen.count(name));
    let (batches, row_tiles, column_tiles, splits) = (batches?, row_tiles?, column_tiles?, splits?);
    let whole = [row_tiles, column_tiles, splits].into_iter().try_fold(batches, u64::checked_mul)?;
    let rows = batches.checked_mul(rows?).filter(|rows| *rows <= FAR)?;
    let all_rows = rows.checked_mul(splits).filter(|rows| *rows <= FAR)?;
    let [x, w, y] = ["x", "w", "y"].map(|name| seen.view(name));
    let w = w?;
    let depth_quads = w.shape[3].div_ceil(4);
    holds_that(seen.count("tiles")? == whole && w.shape[3] <= FAR && (splits - 1) * split_quads? < depth_quads)?;
    Some(Product { x: x?, w, y: y?, rows, all_rows, batches, row_tiles, column_tiles, depth_quads })
}

/// The largest `row_offset` of so many rows.
fn row_reach(seen: &Seen<'_>, view: &View, rows: u64) -> Option<u64> {
    if seen.is_on("FLAT")? { view.reach([0, 0, rows - 1, 0]) } else { view.row_reach(rows) }
}

/// x and w. Rows, columns and, where elements are read one by one, steps of the depth are clamped to the last; quads of the depth
/// go on to the end of the last iteration, which takes `tile_k` of them.
fn operands(seen: &Seen<'_>, p: &Product, tile_k: u64) -> Option<()> {
    let (splits, split_quads) = (seen.count("splits")?, seen.count("split_quads")?);
    holds_that(splits == 1 || split_quads.is_multiple_of(tile_k))?;
    let last_quad = p.depth_quads.next_multiple_of(tile_k) - 1;
    let x_row = row_reach(seen, &p.x, p.rows)?;
    let x = match seen.constant("X_LAYOUT")? {
        0 => reach(x_row, [(p.x.shape[3].checked_sub(1)?, p.x.strides[3])]),
        1 => reach(x_row / 4, [(last_quad, 1)]),
        _ => None,
    };
    seen.within("x", x)?;
    let [_, inner, columns, depth] = p.w.shape;
    let (column, step) = (columns.checked_sub(1)?, depth.checked_sub(1)?);
    let last = p.batches - 1;
    let start = p.w.reach([last.checked_div(inner)?, last.min(inner - 1), 0, 0])?;
    let [.., column_stride, depth_stride] = p.w.strides;
    let w = match seen.constant("W_LAYOUT")? {
        0 => reach(start, [(column, column_stride), (step, depth_stride)]),
        1 => reach(reach(start, [(column, column_stride)])? / 4, [(last_quad, 1)]),
        2 => reach(start / 4 + column / 4, [(4 * last_quad + 3, depth_stride / 4)]),
        _ => None,
    };
    seen.within("w", w)
}

/// `epilogue` of so many rows of y, and quads up to `last_quad`; elements read one by one are clamped to the last column.
fn epilogue(seen: &Seen<'_>, p: &Product, rows: u64, last_quad: u64) -> Option<()> {
    let in_quads = match seen.constant("Y_LAYOUT")? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let reach_of = |view: &View| {
        let row = row_reach(seen, view, rows)?;
        match in_quads {
            true => reach(row / 4, [(last_quad, 1)]),
            false => reach(row, [(view.shape[3].checked_sub(1)?, view.strides[3])]),
        }
    };
    seen.within("y", reach_of(&p.y))?;
    if seen.is_on("HAS_RESIDUAL")? {
        seen.within("residual", reach_of(&seen.view("residual")?))?;
    }
    if seen.is_on("HAS_BIAS")? {
        let (start, stride) = (seen.number("bias")?, seen.number("bias_stride")?);
        seen.within("bias", reach(start, [(p.w.shape[2].checked_sub(1)?, stride)]))?;
    }
    Some(())
}
