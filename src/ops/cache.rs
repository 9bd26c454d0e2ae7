//! Key–value caches: preallocated memory that grows in place, in one piece or in pages.

use crate::attention::AttentionInputs;
use crate::error::{Error, Result};
use crate::fill::{Fill, Pages, Shared};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::append;
use crate::tensor::{Array, DType};

/// Writes `rows` [B, H, n, D] into `cache` [B, H, C, D] in place: row k of batch row b goes to `starts[b] + k` (`[B]`, u32).
/// Rows past the end are dropped or, with `wrap`, begin again at the front (ONNX `TensorScatter` 24, linear and circular).
/// A start is taken as it is, and a row for which start + k does not fit in 32 bits is past the end.
/// With a block table [B, pages] (u32) the cache is a pool [pages, H, page size, D]; rows whose entry is past the pool are
/// dropped. Where rows share a page and a place, one of them stands there. A cache of q8 rounds rows of f32 or f16 on their way in ([`q8`](crate::q8)).
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not fit the device.
pub fn append(
    run: &mut Run<'_>,
    cache: &Tensor,
    rows: &Tensor,
    starts: &Tensor,
    block_table: Option<&Tensor>,
    wrap: bool,
) -> Result<()> {
    cache.dtype().check_cache("cache")?;
    rows.dtype().check_float("rows")?;
    let (cache, rows, starts) = (run.bind("cache", cache), run.bind("rows", rows), run.bind("starts", starts));
    let table = block_table.map(|table| run.bind("block_table", table));
    let caps = run.gpu().caps();
    append::record(run.recording_mut(), caps, &rows, &cache, &starts, table.as_ref(), wrap)
}

/// Sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// B: batch rows.
    pub batch: usize,
    /// Hkv: key and value heads.
    pub kv_heads: usize,
    /// C: keys that a batch row can hold.
    pub capacity: usize,
    /// D.
    pub key_dim: usize,
    /// Dv.
    pub value_dim: usize,
}

/// Keys and values of a decoder, on the GPU, with the length of each batch row on the host.
///
/// A step turns, appends and attends in one run:
/// ```no_run
/// # use regard::{Gpu, Tensor, attention::{Attention, Causal}, gpu::Run, ops::cache::KvCache};
/// # fn step(gpu: &Gpu, cache: &mut KvCache, query: &Tensor, key: &Tensor, value: &Tensor) -> regard::Result<Tensor> {
/// let mut run = Run::new(gpu);
/// cache.append(&mut run, key, value, None)?;                    // [B, Hkv, 1, D]
/// let inputs = cache.inputs(&run, query, None)?;                // [B, Hq, 1, D]
/// let attention = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
/// let outputs = attention.record(&mut run, &inputs)?;
/// run.submit()?;                                                // now the cache is longer
/// # Ok(outputs.output)
/// # }
/// ```
///
/// The cache moves when a run that appends is submitted, by whatever submits it, or encoded ([`Run::encode`]). Until then
/// the new rows are that run's own: it sees them in [`KvCache::inputs`] and [`KvCache::positions`], further appends of it
/// come behind them, and everybody else sees the cache as it was. A run that is dropped, or fails, leaves it so. Of runs
/// that append to the same state of a cache the first one counts; the others are refused with [`Error::Shape`] when they
/// are submitted, and change nothing. A clone of a run that has been submitted writes the same rows to the same places
/// again, and is refused once the cache has changed otherwise.
#[derive(Debug)]
pub struct KvCache {
    key: Tensor,
    value: Tensor,
    capacity: usize,
    fill: Shared,
}

/// Entry of a block table that names no page.
const NO_PAGE: u32 = u32::MAX;

impl KvCache {
    /// [B, Hkv, C, D] and [B, Hkv, C, Dv], empty, of f32, f16 or q8 (D and Dv then multiples of 32).
    ///
    /// # Errors
    /// [`Error::Shape`] for an axis of 0, [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn new(gpu: &Gpu, shape: CacheShape, dtype: DType) -> Result<Self> {
        Self::with(gpu, shape, [shape.batch, shape.capacity], None, dtype)
    }

    /// A pool of `pages` pages of `page_size` keys that the batch rows draw from as they grow, up to the capacity
    /// (rounded up to whole pages, at most the whole pool) each (Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving
    /// with PagedAttention").
    ///
    /// # Errors
    /// As [`KvCache::new`].
    pub fn paged(gpu: &Gpu, shape: CacheShape, page_size: usize, pages: usize, dtype: DType) -> Result<Self> {
        let count = u32::try_from(pages).ok().filter(|&count| count < NO_PAGE);
        let (Some(count), true) = (count, page_size > 0) else {
            let found = format!("{pages} pages of {page_size}");
            return Err(Error::shape("cache", "pages", "at least 1 page of at least 1 key", found));
        };
        // No row can hold more than the pool.
        let allowed = pages.saturating_mul(page_size);
        let capacity = shape.capacity.min(allowed).div_ceil(page_size) * page_size;
        let rows = vec![Vec::new(); shape.batch];
        let paging = Pages { size: page_size, free: (0..count).rev().collect(), rows };
        Self::with(gpu, CacheShape { capacity, ..shape }, [pages, page_size], Some(paging), dtype)
    }

    fn with(
        gpu: &Gpu,
        shape: CacheShape,
        [outer, rows]: [usize; 2],
        pages: Option<Pages>,
        dtype: DType,
    ) -> Result<Self> {
        let CacheShape { batch, kv_heads, capacity, key_dim, value_dim } = shape;
        let axes = [batch, kv_heads, capacity, key_dim, value_dim, outer];
        if axes.contains(&0) {
            return Err(Error::shape("cache", "axes", "at least 1 each", format!("{axes:?}")));
        }
        dtype.check_cache("cache")?;
        Ok(Self {
            key: Tensor::uninitialized(gpu, "cached keys", &[outer, kv_heads, rows, key_dim], dtype)?,
            value: Tensor::uninitialized(gpu, "cached values", &[outer, kv_heads, rows, value_dim], dtype)?,
            capacity,
            fill: Shared::new(Fill { lengths: vec![0; batch], pages }),
        })
    }

    /// Keys of each batch row, by what has been submitted.
    pub fn lengths(&self) -> Vec<usize> {
        self.fill.read(|fill| fill.lengths.clone())
    }

    /// The memory of keys and values: [B, Hkv, C, D] and [B, Hkv, C, Dv], or pools [pages, Hkv, page size, ..].
    pub fn tensors(&self) -> [&Tensor; 2] {
        [&self.key, &self.value]
    }

    /// Pages that no batch row holds, by what has been submitted; `None` for a cache in one piece.
    pub fn free_pages(&self) -> Option<usize> {
        self.fill.read(|fill| fill.pages.as_ref().map(|pages| pages.free.len()))
    }

    /// Positions [B, n] (u32) of the next n keys of each batch row, behind what `run` has appended, for
    /// [`crate::ops::rotary::rotary`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the cache has changed since `run` appended to it; [`Error::Limit`] or [`Error::Gpu`] from the
    /// device.
    pub fn positions(&self, run: &Run<'_>, n: usize) -> Result<Tensor> {
        let lengths = run.drafts().of(&self.fill)?.fill.lengths;
        let position = |k: usize| (lengths[k / n] + k % n) as u32;
        Tensor::upload_u32(run.gpu(), "positions", &Array::from_fn(&[lengths.len(), n], position))
    }

    /// Records that the rows of `key` [B, Hkv, n, D] and `value` [B, Hkv, n, Dv] are written behind what is there and what
    /// `run` has appended before. With `counts` only the first `counts[b]` of them are real for batch row b (0 leaves it as
    /// it is). The cache is longer once `run` is submitted.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes or counts do not fit, or the cache has changed since `run` appended to it;
    /// [`Error::Limit`] when a batch row or the pool of pages is full.
    pub fn append(&mut self, run: &mut Run<'_>, key: &Tensor, value: &Tensor, counts: Option<&[usize]>) -> Result<()> {
        let mut draft = run.drafts().of(&self.fill)?;
        let new = key.shape().get(2).copied().unwrap_or(0);
        let batch = draft.fill.lengths.len();
        for (name, tensor) in [("key", key), ("value", value)] {
            let own = if name == "key" { &self.key } else { &self.value };
            let wanted = [batch, own.shape()[1], new, own.shape()[3]];
            if tensor.shape() != wanted {
                return Err(Error::shape(name, "shape", format!("{wanted:?}"), format!("{:?}", tensor.shape())));
            }
            tensor.dtype().check_float(name)?;
        }
        let counts = real_rows(counts, batch, new)?;
        let grown: Vec<usize> = draft.fill.lengths.iter().zip(&counts).map(|(length, n)| length + n).collect();
        if let Some((row, &needed)) = grown.iter().enumerate().find(|(_, length)| **length > self.capacity) {
            let what = format!("keys in batch row {row} of a cache");
            return Err(Error::Limit { what, needed: needed as u64, allowed: self.capacity as u64 });
        }
        let starts = lengths_tensor(run.gpu(), &draft.fill)?;
        draft.fill.grow(grown)?;
        let table = self.block_table(run.gpu(), &draft.fill)?;
        append(run, &self.key, key, &starts, table.as_ref(), false)?;
        append(run, &self.value, value, &starts, table.as_ref(), false)?;
        run.drafts_mut().keep(draft);
        Ok(())
    }

    /// Forgets the keys of a batch row from `length` on, at once; its pages become free. Call it when the runs that read them
    /// have been submitted; a run that has appended on top of them and has not been is refused from then on.
    ///
    /// # Errors
    /// [`Error::Shape`] for a row that is not there, a length beyond its own, or while another thread submits a run that
    /// appends.
    pub fn truncate(&mut self, row: usize, length: usize) -> Result<()> {
        self.fill.truncate(row, length)
    }

    /// `query` [B, Hq, n, D] with these keys and values, those that `run` has appended among them, and their lengths:
    /// own(i) = length − n + i, the last query at the last key. With `counts`, as they were given to [`KvCache::append`],
    /// only the first `counts[b]` queries of batch row b are real, and the last of them stands at the last key. They are
    /// for `run`, or for a run that is submitted after it.
    ///
    /// # Errors
    /// [`Error::Shape`] when counts do not fit, or the cache has changed since `run` appended to it; [`Error::Limit`] or
    /// [`Error::Gpu`] from the device.
    pub fn inputs(&self, run: &Run<'_>, query: &Tensor, counts: Option<&[usize]>) -> Result<AttentionInputs<Tensor>> {
        let (gpu, fill) = (run.gpu(), run.drafts().of(&self.fill)?.fill);
        let mut inputs = AttentionInputs::new(query.clone(), self.key.clone(), self.value.clone());
        if let Some(counts) = counts {
            let queries = query.shape().get(2).copied().unwrap_or(0);
            let counts = real_rows(Some(counts), fill.lengths.len(), queries)?;
            let counts = Array::from_fn(&[counts.len()], |b| counts[b] as u32);
            inputs.query_lengths = Some(Tensor::upload_u32(gpu, "query lengths", &counts)?);
        }
        inputs.kv_lengths = Some(lengths_tensor(gpu, &fill)?);
        inputs.block_table = self.block_table(gpu, &fill)?;
        Ok(inputs)
    }

    fn block_table(&self, gpu: &Gpu, fill: &Fill) -> Result<Option<Tensor>> {
        let Some(pages) = &fill.pages else { return Ok(None) };
        let columns = self.capacity / pages.size;
        let entry = |k: usize| pages.rows[k / columns].get(k % columns).copied().unwrap_or(NO_PAGE);
        Tensor::upload_u32(gpu, "block table", &Array::from_fn(&[pages.rows.len(), columns], entry)).map(Some)
    }
}

/// The lengths `[B]`. Each call makes its own small buffer, so that steps recorded into one run do not see each other's.
fn lengths_tensor(gpu: &Gpu, fill: &Fill) -> Result<Tensor> {
    let lengths = Array::from_fn(&[fill.lengths.len()], |b| fill.lengths[b] as u32);
    Tensor::upload_u32(gpu, "cache lengths", &lengths)
}

/// How many of `new` rows are real for each batch row.
fn real_rows(counts: Option<&[usize]>, batch: usize, new: usize) -> Result<Vec<usize>> {
    match counts {
        None => Ok(vec![new; batch]),
        Some(counts) if counts.len() == batch && counts.iter().all(|&n| n <= new) => Ok(counts.to_vec()),
        Some(counts) => {
            let expected = format!("{batch} numbers from 0 to {new}");
            Err(Error::shape("counts", "elements", expected, format!("{counts:?}")))
        }
    }
}
