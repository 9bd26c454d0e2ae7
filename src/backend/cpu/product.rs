//! The tile behind every product: rows times columns, its sums in registers.
//!
//! ```text
//! C[r, n] = start[r, n] + Σ_k A[r, k] · B[k, n]        k in order, so that a sum has the same bits in every tile
//! ```
//! An element of A is read by all lanes, wherever it lies. The columns of B lie side by side, W vectors of them.

use super::simd::Simd;

/// A matrix of which single elements are read: row r and column k at `r · row + k · column` from the pointer.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub(crate) at: *const f32,
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// A matrix of which vectors are read: its row k at `k · row` from the pointer.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub(crate) at: *const f32,
    pub(crate) row: usize,
}

/// The sums of R rows and W vectors of columns.
pub(crate) type Sums<S, const R: usize, const W: usize> = [[<S as Simd>::V; W]; R];

/// Adds the product of R rows of A and W vectors of columns of B.
///
/// # Safety
/// `a` can be read at rows below R and columns below `depth`, `b` at W vectors of rows below `depth`.
#[inline(always)]
pub(crate) unsafe fn accumulate<S: Simd, const R: usize, const W: usize>(
    s: S,
    depth: usize,
    a: Strided,
    b: Columns,
    mut sums: Sums<S, R, W>,
) -> Sums<S, R, W> {
    for k in 0..depth {
        let mut columns = [s.splat(0.0); W];
        for (w, column) in columns.iter_mut().enumerate() {
            // SAFETY: as the caller's.
            *column = unsafe { s.load(b.at.add(k * b.row + w * S::LANES)) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as the caller's.
            let x = s.splat(unsafe { *a.at.add(r * a.row + k * a.column) });
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = s.mul_add(x, column, *sum);
            }
        }
    }
    sums
}

/// What is done with each tile.
pub(crate) trait Tiles<S: Simd> {
    /// Rows `first .. first + R`.
    fn tile<const R: usize>(&mut self, s: S, first: usize);
}

/// All rows in tiles as large as registers hold, of about the same size rather than full ones and a rest.
#[inline(always)]
pub(crate) fn tiles<S: Simd>(s: S, rows: usize, tiles: &mut impl Tiles<S>) {
    let count = rows.div_ceil(S::ROWS);
    for n in 0..count {
        let (first, end) = (rows * n / count, rows * (n + 1) / count);
        macro_rules! of {
            ($($rows:literal)*) => {
                match end - first {
                    $($rows if $rows <= S::ROWS => tiles.tile::<$rows>(s, first),)*
                    _ => {}
                }
            };
        }
        of!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}
