//! Key–value caches: preallocated memory that grows in place, in one piece or in pages.

use crate::attention::AttentionInputs;
use crate::error::{Error, Result};
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
/// A step turns, appends and attends in one submission:
/// ```no_run
/// # use regard::{Gpu, Tensor, attention::{Attention, Causal}, gpu::Run, ops::cache::KvCache};
/// # fn step(gpu: &Gpu, cache: &mut KvCache, query: &Tensor, key: &Tensor, value: &Tensor) -> regard::Result<Tensor> {
/// let mut run = Run::new(gpu);
/// cache.append(&mut run, key, value, None)?;                    // [B, Hkv, 1, D]
/// let attention = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
/// let outputs = attention.record(&mut run, &cache.inputs(gpu, query, None)?)?; // [B, Hq, 1, D]
/// run.submit()?;
/// # Ok(outputs.output)
/// # }
/// ```
#[derive(Debug)]
pub struct KvCache {
    key: Tensor,
    value: Tensor,
    lengths: Vec<usize>,
    capacity: usize,
    pages: Option<Pages>,
}

/// Which pages belong to whom.
#[derive(Debug)]
struct Pages {
    size: usize,
    free: Vec<u32>,
    /// The pages of each batch row, in order.
    rows: Vec<Vec<u32>>,
}

/// Entry of a block table that names no page.
const NO_PAGE: u32 = u32::MAX;

impl KvCache {
    /// [B, Hkv, C, D] and [B, Hkv, C, Dv], empty, of f32, f16 or q8 (D and Dv then multiples of 32).
    ///
    /// # Errors
    /// [`Error::Shape`] for an axis of 0, [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn new(gpu: &Gpu, shape: CacheShape, dtype: DType) -> Result<Self> {
        Self::with(gpu, shape, [shape.batch, shape.capacity], dtype)
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
        let mut cache = Self::with(gpu, CacheShape { capacity, ..shape }, [pages, page_size], dtype)?;
        let rows = vec![Vec::new(); shape.batch];
        cache.pages = Some(Pages { size: page_size, free: (0..count).rev().collect(), rows });
        Ok(cache)
    }

    fn with(gpu: &Gpu, shape: CacheShape, [outer, rows]: [usize; 2], dtype: DType) -> Result<Self> {
        let CacheShape { batch, kv_heads, capacity, key_dim, value_dim } = shape;
        let axes = [batch, kv_heads, capacity, key_dim, value_dim, outer];
        if axes.contains(&0) {
            return Err(Error::shape("cache", "axes", "at least 1 each", format!("{axes:?}")));
        }
        dtype.check_cache("cache")?;
        Ok(Self {
            key: Tensor::uninitialized(gpu, "cached keys", &[outer, kv_heads, rows, key_dim], dtype)?,
            value: Tensor::uninitialized(gpu, "cached values", &[outer, kv_heads, rows, value_dim], dtype)?,
            lengths: vec![0; batch],
            capacity,
            pages: None,
        })
    }

    /// Keys of each batch row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The memory of keys and values: [B, Hkv, C, D] and [B, Hkv, C, Dv], or pools [pages, Hkv, page size, ..].
    pub fn tensors(&self) -> [&Tensor; 2] {
        [&self.key, &self.value]
    }

    /// Pages that no batch row holds; `None` for a cache in one piece.
    pub fn free_pages(&self) -> Option<usize> {
        self.pages.as_ref().map(|pages| pages.free.len())
    }

    /// Positions [B, n] (u32) of the next n keys of each batch row, for [`crate::ops::rotary::rotary`].
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::Gpu`] from the device.
    pub fn positions(&self, gpu: &Gpu, n: usize) -> Result<Tensor> {
        let position = |k: usize| (self.lengths[k / n] + k % n) as u32;
        Tensor::upload_u32(gpu, "positions", &Array::from_fn(&[self.lengths.len(), n], position))
    }

    /// Records that the rows of `key` [B, Hkv, n, D] and `value` [B, Hkv, n, Dv] are written behind what is there. With
    /// `counts` only the first `counts[b]` of them are real for batch row b (0 leaves it as it is).
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes or counts do not fit; [`Error::Limit`] when a batch row or the pool of pages is full.
    /// The cache is then as it was.
    pub fn append(&mut self, run: &mut Run<'_>, key: &Tensor, value: &Tensor, counts: Option<&[usize]>) -> Result<()> {
        let new = key.shape().get(2).copied().unwrap_or(0);
        let batch = self.lengths.len();
        for (name, tensor) in [("key", key), ("value", value)] {
            let own = if name == "key" { &self.key } else { &self.value };
            let wanted = [batch, own.shape()[1], new, own.shape()[3]];
            if tensor.shape() != wanted {
                return Err(Error::shape(name, "shape", format!("{wanted:?}"), format!("{:?}", tensor.shape())));
            }
        }
        let counts = self.counts(counts, new)?;
        let grown: Vec<usize> = self.lengths.iter().zip(&counts).map(|(length, n)| length + n).collect();
        if let Some((row, &needed)) = grown.iter().enumerate().find(|(_, length)| **length > self.capacity) {
            let what = format!("keys in batch row {row} of a cache");
            return Err(Error::Limit { what, needed: needed as u64, allowed: self.capacity as u64 });
        }
        let (gpu, starts) = (run.gpu(), self.starts(run.gpu())?);
        if let Some(pages) = &mut self.pages {
            pages.grow(&grown)?;
        }
        let written = self.block_table(gpu).and_then(|table| {
            append(run, &self.key, key, &starts, table.as_ref(), false)?;
            append(run, &self.value, value, &starts, table.as_ref(), false)
        });
        match written {
            Ok(()) => self.lengths = grown,
            Err(error) => {
                if let Some(pages) = &mut self.pages {
                    pages.shrink(&self.lengths);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// How many of `new` rows are real for each batch row.
    fn counts(&self, counts: Option<&[usize]>, new: usize) -> Result<Vec<usize>> {
        let batch = self.lengths.len();
        match counts {
            None => Ok(vec![new; batch]),
            Some(counts) if counts.len() == batch && counts.iter().all(|&n| n <= new) => Ok(counts.to_vec()),
            Some(counts) => {
                let expected = format!("{batch} numbers from 0 to {new}");
                Err(Error::shape("counts", "elements", expected, format!("{counts:?}")))
            }
        }
    }

    /// Forgets the keys of a batch row from `length` on; its pages become free. Record it after the runs that read them
    /// have been submitted.
    ///
    /// # Errors
    /// [`Error::Shape`] for a row that is not there or a length beyond its own.
    pub fn truncate(&mut self, row: usize, length: usize) -> Result<()> {
        let batch = self.lengths.len();
        let Some(own) = self.lengths.get_mut(row) else {
            return Err(Error::shape("cache", "row", format!("below {batch}"), row));
        };
        if length > *own {
            return Err(Error::shape("cache", format!("length of row {row}"), format!("at most {own}"), length));
        }
        *own = length;
        if let Some(pages) = &mut self.pages {
            pages.shrink(&self.lengths);
        }
        Ok(())
    }

    /// `query` [B, Hq, n, D] with these keys, values and their lengths: own(i) = length − n + i, the last query at the
    /// last key. With `counts`, as they were given to [`KvCache::append`], only the first `counts[b]` queries of batch row b
    /// are real, and the last of them stands at the last key.
    ///
    /// # Errors
    /// [`Error::Shape`] when counts do not fit; [`Error::Limit`] or [`Error::Gpu`] from the device.
    pub fn inputs(&self, gpu: &Gpu, query: &Tensor, counts: Option<&[usize]>) -> Result<AttentionInputs<Tensor>> {
        let mut inputs = AttentionInputs::new(query.clone(), self.key.clone(), self.value.clone());
        if let Some(counts) = counts {
            let counts = self.counts(Some(counts), query.shape().get(2).copied().unwrap_or(0))?;
            let counts = Array::from_fn(&[counts.len()], |b| counts[b] as u32);
            inputs.query_lengths = Some(Tensor::upload_u32(gpu, "query lengths", &counts)?);
        }
        inputs.kv_lengths = Some(self.starts(gpu)?);
        inputs.block_table = self.block_table(gpu)?;
        Ok(inputs)
    }

    /// The lengths `[B]` as they are now. Each call makes its own small buffer, so that steps recorded into one run do not
    /// see each other's.
    fn starts(&self, gpu: &Gpu) -> Result<Tensor> {
        let lengths = Array::from_fn(&[self.lengths.len()], |b| self.lengths[b] as u32);
        Tensor::upload_u32(gpu, "cache lengths", &lengths)
    }

    fn block_table(&self, gpu: &Gpu) -> Result<Option<Tensor>> {
        let Some(pages) = &self.pages else { return Ok(None) };
        let columns = self.capacity / pages.size;
        let entry = |k: usize| pages.rows[k / columns].get(k % columns).copied().unwrap_or(NO_PAGE);
        Tensor::upload_u32(gpu, "block table", &Array::from_fn(&[pages.rows.len(), columns], entry)).map(Some)
    }
}

impl Pages {
    /// Takes pages until each row can hold its length.
    fn grow(&mut self, lengths: &[usize]) -> Result<()> {
        let missing = |(row, length): (&Vec<u32>, &usize)| length.div_ceil(self.size).saturating_sub(row.len());
        let needed: usize = self.rows.iter().zip(lengths).map(missing).sum();
        if needed > self.free.len() {
            let allowed = self.free.len() as u64;
            return Err(Error::Limit { what: "free pages of a cache".into(), needed: needed as u64, allowed });
        }
        for (row, length) in self.rows.iter_mut().zip(lengths) {
            let count = length.div_ceil(self.size).saturating_sub(row.len());
            row.extend(self.free.split_off(self.free.len() - count).into_iter().rev());
        }
        Ok(())
    }

    /// Gives back what the rows do not need for their lengths.
    fn shrink(&mut self, lengths: &[usize]) {
        for (row, length) in self.rows.iter_mut().zip(lengths) {
            let kept = length.div_ceil(self.size).min(row.len());
            self.free.extend(row.split_off(kept).into_iter().rev());
        }
    }
}
