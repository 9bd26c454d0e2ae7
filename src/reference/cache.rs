//! Key–value caches: concatenated, appended in place, in pages.

use super::Float;
use crate::error::{Error, Result};
use crate::tensor::Array;

/// `cache` [B, H, C, D] with `rows` [B, H, n, D] written from row `starts[b]` on. What falls past the end is dropped, or,
/// with `wrap`, begins again at row 0 (ONNX `TensorScatter` 24, modes linear and circular).
///
/// # Errors
/// [`Error::Shape`] when an axis does not fit.
pub fn append<T: Float>(cache: &Array<T>, rows: &Array<T>, starts: &[usize], wrap: bool) -> Result<Array<T>> {
    let &[batch, heads, capacity, dim] = cache.shape() else {
        return Err(Error::shape("cache", "rank", "4 [B, H, C, D]", cache.shape().len()));
    };
    let &[rows_batch, rows_heads, n, rows_dim] = rows.shape() else {
        return Err(Error::shape("rows", "rank", "4 [B, H, n, D]", rows.shape().len()));
    };
    let axes =
        [("axis 0 (batch)", batch, rows_batch), ("axis 1 (heads)", heads, rows_heads), ("axis 3 (dim)", dim, rows_dim)];
    if let Some((axis, expected, found)) = axes.into_iter().find(|(_, expected, found)| expected != found) {
        return Err(Error::shape("rows", axis, expected, found));
    }
    if starts.len() != batch {
        return Err(Error::shape("starts", "axis 0 (batch)", batch, starts.len()));
    }
    let mut out = cache.clone();
    for head in 0..batch * heads {
        for k in 0..n {
            let place = match starts[head / heads].checked_add(k) {
                Some(place) if place < capacity => place,
                Some(place) if wrap && capacity > 0 => place % capacity,
                _ => continue,
            };
            let row = &rows.data()[(head * n + k) * dim..][..dim];
            out.data_mut()[(head * capacity + place) * dim..][..dim].copy_from_slice(row);
        }
    }
    Ok(out)
}

/// As [`append`], into the cache's own elements; `starts` are `[B]`. With a block table [B, pages] the cache is a pool
/// [pages, H, page size, D], and rows whose entry is past the pool are dropped.
pub(crate) fn append_in_place<T: Copy>(
    (cache, cache_shape): (&mut [T], &[usize]),
    (rows, rows_shape): (&[T], &[usize]),
    starts: &Array<u32>,
    table: Option<&Array<u32>>,
) -> Result<()> {
    let &[pages, heads, size, dim] = cache_shape else {
        return Err(Error::shape("cache", "rank", "4 [B, H, C, D]", cache_shape.len()));
    };
    let &[batch, rows_heads, n, rows_dim] = rows_shape else {
        return Err(Error::shape("rows", "rank", "4 [B, H, n, D]", rows_shape.len()));
    };
    let own = if table.is_some() { batch } else { pages };
    for (axis, expected, found) in
        [("axis 0 (batch)", own, batch), ("axis 1 (heads)", heads, rows_heads), ("axis 3 (dim)", dim, rows_dim)]
    {
        if expected != found {
            return Err(Error::shape("rows", axis, expected, found));
        }
    }
    if starts.shape() != [batch] {
        return Err(Error::shape("starts", "shape", format!("[{batch}]"), format!("{:?}", starts.shape())));
    }
    let columns = match table {
        None => 1,
        Some(table) => match *table.shape() {
            [rows, columns] if rows == batch => columns,
            _ => {
                let found = format!("{:?}", table.shape());
                return Err(Error::shape("block_table", "shape", format!("[{batch}, pages]"), found));
            }
        },
    };
    for b in 0..batch {
        for k in 0..n {
            let place = (starts.data()[b] as usize).saturating_add(k);
            if place >= columns.saturating_mul(size) {
                continue;
            }
            let page = table.map_or(b, |table| table.data()[b * columns + place / size] as usize);
            if page >= pages {
                continue;
            }
            for h in 0..heads {
                let row = &rows[((b * heads + h) * n + k) * dim..][..dim];
                cache[((page * heads + h) * size + place % size) * dim..][..dim].copy_from_slice(row);
            }
        }
    }
    Ok(())
}

/// [B, H, P, D] and [B, H, N, D] concatenated along the third axis.
pub(crate) fn join<T: Float>(past: Option<&Array<T>>, new: &Array<T>) -> Result<Array<T>> {
    let Some(past) = past else {
        return Ok(new.clone());
    };
    let &[batch, heads, n, d] = new.shape() else {
        return Err(Error::shape("key", "rank", 4, new.shape().len()));
    };
    let p = past.shape()[2];
    let mut data = Vec::with_capacity(past.data().len() + new.data().len());
    for k in 0..batch * heads {
        data.extend_from_slice(&past.data()[k * p * d..][..p * d]);
        data.extend_from_slice(&new.data()[k * n * d..][..n * d]);
    }
    Array::new(&[batch, heads, p + n, d], data)
}

/// Pages [page count, H, page size, D] put together as [B, H, pages · page size, D] by the `table` [B, pages]. Only the
/// pages that hold a real key, before `lengths[b]`, are looked up; the others are left at 0.
pub(super) fn unpage<T: Float>(cache: &Array<T>, table: &Array<u32>, lengths: &[usize]) -> Result<Array<T>> {
    let &[count, heads, size, dim] = cache.shape() else {
        return Err(Error::shape("key", "rank", 4, cache.shape().len()));
    };
    let &[batch, pages] = table.shape() else {
        return Err(Error::shape("block_table", "rank", "2 [B, pages]", table.shape().len()));
    };
    let mut out = Array::filled(&[batch, heads, pages * size, dim], T::ZERO);
    for (b, row) in table.data().chunks_exact(pages).enumerate() {
        let used = lengths[b].div_ceil(size).min(pages);
        for (n, &page) in row[..used].iter().enumerate() {
            for h in 0..heads {
                let from = &cache.data()[((page as usize).min(count - 1) * heads + h) * size * dim..][..size * dim];
                out.data_mut()[((b * heads + h) * pages + n) * size * dim..][..size * dim].copy_from_slice(from);
            }
        }
    }
    Ok(out)
}
