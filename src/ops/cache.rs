//! Key–value caches: preallocated memory that grows in place, in one piece or in pages.

use std::sync::Arc;

use crate::attention::AttentionInputs;
use crate::error::{Error, Result};
use crate::fill::{Draft, Fill, Known, NO_PAGE, Pages, Shared};
use crate::gpu::{Gpu, Run, Tensor};
use crate::kernels::append::{self, Rows};
use crate::tensor::{Array, DType, Layout};

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
    let rows = Rows { rows: &rows, cache: &cache };
    append::record(run.recording_mut(), caps, rows, None, &starts, table.as_ref(), wrap)
}

/// [`append`] of keys and of values, in one dispatch where they have the same type.
pub(crate) fn append_pair(
    run: &mut Run<'_>,
    [keys, values]: [&Tensor; 2],
    [key, value]: [&Tensor; 2],
    starts: &Tensor,
    table: Option<&Tensor>,
) -> Result<()> {
    if key.dtype() != value.dtype() || keys.dtype() != values.dtype() {
        append(run, keys, key, starts, table, false)?;
        return append(run, values, value, starts, table, false);
    }
    let (key, keys) = (run.bind("key", key), run.bind("cached keys", keys));
    let (value, values) = (run.bind("value", value), run.bind("cached values", values));
    let starts = run.bind("starts", starts);
    let table = table.map(|table| run.bind("block_table", table));
    let (keys, values) = (Rows { rows: &key, cache: &keys }, Rows { rows: &value, cache: &values });
    let caps = run.gpu().caps();
    append::record(run.recording_mut(), caps, keys, Some(values), &starts, table.as_ref(), false)
}

/// Sizes of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    /// Layers of the model; all have the same lengths.
    pub layers: usize,
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

/// Keys and values of all layers of a decoder, on the GPU, with the length of each batch row on the host.
///
/// A step turns, appends and attends in one run; here for a model of several layers:
/// ```no_run
/// # use regard::{Gpu, Tensor, attention::{Attention, Causal}, gpu::Run, ops::cache::KvCache};
/// # type Project = fn(&mut Run<'_>, usize, &Tensor) -> regard::Result<[Tensor; 3]>;
/// # fn token(gpu: &Gpu, cache: &mut KvCache, project: Project, mut x: Tensor) -> regard::Result<Tensor> {
/// let attention = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
/// let mut run = Run::new(gpu);
/// let step = cache.step(&mut run, 1, None)?;                         // one more token in each batch row
/// for layer in 0..cache.layers() {
///     let [query, key, value] = project(&mut run, layer, &x)?;       // [B, Hq or Hkv, 1, D]
///     step.append(&mut run, layer, &key, &value)?;
///     x = attention.record(&mut run, &step.inputs(layer, &query)?)?.output;
/// }
/// run.submit()?;                                                     // now the cache is longer
/// # Ok(x)
/// # }
/// ```
/// With one layer [`KvCache::append`] and [`KvCache::inputs`] do the same.
///
/// The cache moves when a run that appends is submitted, by whatever submits it, or encoded ([`Run::encode`]). Until then
/// the new rows are that run's own: it sees them in [`KvCache::inputs`] and [`KvCache::positions`], further appends of it
/// come behind them, and everybody else sees the cache as it was. A run that is dropped, or fails, leaves it so. Of runs
/// that append to the same state of a cache the first one counts; the others are refused with [`Error::Shape`] when they
/// are submitted, and change nothing. A clone of a run that has been submitted writes the same rows to the same places
/// again, and is refused once the cache has changed otherwise.
///
/// A prepared run ([`Run::prepare`]) appends each time it is submitted, behind what is there by then: lengths, positions
/// and block table lie in device memory, where small writes move them.
#[derive(Debug)]
pub struct KvCache {
    /// Of each layer: [B, Hkv, C, D] and [B, Hkv, C, Dv], or pools of pages.
    layers: Arc<[[Tensor; 2]]>,
    /// [B, pages of a row], of a cache in pages.
    table: Option<Tensor>,
    fill: Shared,
}

/// Rows that a run appends to every layer of a [`KvCache`]: made by [`KvCache::step`].
#[derive(Debug, Clone)]
pub struct CacheStep {
    layers: Arc<[[Tensor; 2]]>,
    table: Option<Tensor>,
    /// `[B]`, before and after.
    starts: Tensor,
    lengths: Tensor,
    /// `[B]`, where not all rows are real.
    query_lengths: Option<Tensor>,
    /// n.
    rows: usize,
}

impl KvCache {
    /// [B, Hkv, C, D] and [B, Hkv, C, Dv] for each layer, empty, of f32, f16 or q8 (D and Dv then multiples of 32).
    ///
    /// # Errors
    /// [`Error::Shape`] for an axis of 0, [`Error::Limit`], [`Error::Unsupported`] or [`Error::Gpu`] from the device.
    pub fn new(gpu: &Gpu, shape: CacheShape, dtype: DType) -> Result<Self> {
        Self::with(gpu, shape, [shape.batch, shape.capacity], None, dtype)
    }

    /// For each layer a pool of `pages` pages of `page_size` keys that the batch rows draw from as they grow, up to the
    /// capacity (rounded up to whole pages, at most the whole pool) each (Kwon et al. 2023, "Efficient Memory Management for
    /// Large Language Model Serving with PagedAttention"). A page has the same number in all layers.
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
        let CacheShape { layers, batch, kv_heads, capacity, key_dim, value_dim } = shape;
        let axes = [layers, batch, kv_heads, capacity, key_dim, value_dim, outer];
        if axes.contains(&0) {
            return Err(Error::shape("cache", "axes", "at least 1 each", format!("{axes:?}")));
        }
        dtype.check_cache("cache")?;
        let memory = |name: &str, dim: usize| Tensor::uninitialized(gpu, name, &[outer, kv_heads, rows, dim], dtype);
        let layer = |_| Ok([memory("cached keys", key_dim)?, memory("cached values", value_dim)?]);
        let table = match &pages {
            Some(pages) => {
                let empty = Array::filled(&[batch, capacity / pages.size], NO_PAGE);
                Some(Tensor::upload_u32(gpu, "block table", &empty)?)
            }
            None => None,
        };
        let fill = Shared::new(Fill { lengths: vec![0; batch], capacity, pages });
        Ok(Self { layers: (0..layers).map(layer).collect::<Result<_>>()?, table, fill })
    }

    /// How many layers it has.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Keys of each batch row, by what has been submitted.
    pub fn lengths(&self) -> Vec<usize> {
        self.fill.read(|fill| fill.lengths.clone())
    }

    /// The memory of a layer's keys and values: [B, Hkv, C, D] and [B, Hkv, C, Dv], or pools [pages, Hkv, page size, ..].
    ///
    /// # Errors
    /// [`Error::Shape`] for a layer that is not there.
    pub fn tensors(&self, layer: usize) -> Result<[&Tensor; 2]> {
        layer_of(&self.layers, layer).map(|[key, value]| [key, value])
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
    pub fn positions(&self, run: &mut Run<'_>, n: usize) -> Result<Tensor> {
        let draft = run.drafts().of(&self.fill)?;
        let batch = draft.fill.lengths.len();
        self.know(run, draft, Known::Positions(n), "positions", &[batch, n])
    }

    /// Puts what shaders know of a draft into a tensor, and keeps both with the run.
    fn know(
        &self,
        run: &mut Run<'_>,
        mut draft: Draft,
        known: Known,
        name: &'static str,
        shape: &[usize],
    ) -> Result<Tensor> {
        let words = known.words(&mut draft.fill)?;
        let tensor = Tensor::words(run.gpu(), name, shape, &words)?;
        if let (Known::Append(_), Some(table)) = (&known, &self.table) {
            draft.note_table(run.keep_words(table.clone()), table.shape()[1]);
        }
        draft.note(known, run.keep_words(tensor.clone()));
        run.drafts_mut().keep(draft);
        Ok(tensor)
    }

    /// Makes room for `rows` more keys in each batch row of every layer, behind what is there and what `run` has appended
    /// before; each layer's keys and values are then appended with [`CacheStep::append`]. With `counts` only the first
    /// `counts[b]` of them are real for batch row b (0 leaves it as it is). The cache is longer once `run` is submitted.
    ///
    /// # Errors
    /// [`Error::Shape`] when counts do not fit, or the cache has changed since `run` appended to it; [`Error::Limit`] when
    /// a batch row or the pool of pages is full; [`Error::Gpu`] from the device.
    pub fn step(&mut self, run: &mut Run<'_>, rows: usize, counts: Option<&[usize]>) -> Result<CacheStep> {
        let draft = run.drafts().of(&self.fill)?;
        let batch = draft.fill.lengths.len();
        let all = real_rows(counts, batch, rows)?;
        let query_lengths = counts.map(|_| query_lengths(run.gpu(), &all)).transpose()?;
        let known = self.know(run, draft, Known::Append(all), "cache lengths", &[2, batch])?;
        let part = |k: usize| known.with_layout(Layout { offset: k * batch, ..Layout::contiguous(&[batch]) });
        let (starts, lengths) = (part(0)?, part(1)?);
        Ok(CacheStep { layers: self.layers.clone(), table: self.table.clone(), starts, lengths, query_lengths, rows })
    }

    fn the_only_layer(&self) -> Result<()> {
        match self.layers() {
            1 => Ok(()),
            n => Err(Error::option("cache", format!("has {n} layers: begin a step with `KvCache::step`"))),
        }
    }

    /// Records that the rows of `key` [B, Hkv, n, D] and `value` [B, Hkv, n, Dv] are written behind what is there and what
    /// `run` has appended before: [`KvCache::step`] and [`CacheStep::append`] of a cache of one layer.
    ///
    /// # Errors
    /// As those two, and [`Error::Option`] for a cache of several layers.
    pub fn append(&mut self, run: &mut Run<'_>, key: &Tensor, value: &Tensor, counts: Option<&[usize]>) -> Result<()> {
        self.the_only_layer()?;
        let rows = key.shape().get(2).copied().unwrap_or(0);
        let batch = self.fill.read(|fill| fill.lengths.len());
        check_rows(layer_of(&self.layers, 0)?, batch, rows, key, value)?;
        self.step(run, rows, counts)?.append(run, 0, key, value)
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

    /// `query` [B, Hq, n, D] with the keys and values of the only layer, those that `run` has appended among them, and their
    /// lengths: pos(i) = length − n + i, the last query at the last key. With `counts`, as they were given to
    /// [`KvCache::append`], only the first `counts[b]` queries of batch row b are real, and the last of them stands at the
    /// last key. They are for `run`, or for a run that is submitted after it.
    ///
    /// # Errors
    /// [`Error::Shape`] when counts do not fit, or the cache has changed since `run` appended to it; [`Error::Option`] for a
    /// cache of several layers; [`Error::Limit`] or [`Error::Gpu`] from the device.
    pub fn inputs(
        &self,
        run: &mut Run<'_>,
        query: &Tensor,
        counts: Option<&[usize]>,
    ) -> Result<AttentionInputs<Tensor>> {
        self.the_only_layer()?;
        let draft = run.drafts().of(&self.fill)?;
        let batch = draft.fill.lengths.len();
        let queries = query.shape().get(2).copied().unwrap_or(0);
        let query_lengths = match counts {
            Some(_) => Some(query_lengths(run.gpu(), &real_rows(counts, batch, queries)?)?),
            None => None,
        };
        let appended = draft.last_append().and_then(|number| run.words(number));
        let lengths = match appended {
            Some(words) => words.with_layout(Layout { offset: batch, ..Layout::contiguous(&[batch]) })?,
            None => self.know(run, draft, Known::Lengths, "cache lengths", &[batch])?,
        };
        let [key, value] = layer_of(&self.layers, 0)?;
        Ok(inputs(query, [key, value], lengths, query_lengths, self.table.as_ref()))
    }
}

impl CacheStep {
    /// Records that the rows of `key` [B, Hkv, n, D] and `value` [B, Hkv, n, Dv] are written into a layer.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes do not fit or the layer is not there, [`Error::Limit`] when the work does not fit the
    /// device.
    pub fn append(&self, run: &mut Run<'_>, layer: usize, key: &Tensor, value: &Tensor) -> Result<()> {
        let own = layer_of(&self.layers, layer)?;
        check_rows(own, self.lengths.shape()[0], self.rows, key, value)?;
        append_pair(run, own.each_ref(), [key, value], &self.starts, self.table.as_ref())
    }

    /// `query` [B, Hq, n, D] with the keys and values of a layer, those of this step among them, and their lengths; as
    /// [`KvCache::inputs`].
    ///
    /// # Errors
    /// [`Error::Shape`] when the layer is not there.
    pub fn inputs(&self, layer: usize, query: &Tensor) -> Result<AttentionInputs<Tensor>> {
        let [key, value] = layer_of(&self.layers, layer)?;
        Ok(inputs(query, [key, value], self.lengths.clone(), self.query_lengths.clone(), self.table.as_ref()))
    }
}

fn layer_of(layers: &[[Tensor; 2]], layer: usize) -> Result<&[Tensor; 2]> {
    layers.get(layer).ok_or_else(|| Error::shape("cache", "layer", format!("below {}", layers.len()), layer))
}

fn inputs(
    query: &Tensor,
    [key, value]: [&Tensor; 2],
    lengths: Tensor,
    query_lengths: Option<Tensor>,
    table: Option<&Tensor>,
) -> AttentionInputs<Tensor> {
    let mut inputs = AttentionInputs::new(query.clone(), key.clone(), value.clone());
    (inputs.kv_lengths, inputs.query_lengths, inputs.block_table) = (Some(lengths), query_lengths, table.cloned());
    inputs
}

/// New rows against a layer's memory.
fn check_rows([keys, values]: &[Tensor; 2], batch: usize, rows: usize, key: &Tensor, value: &Tensor) -> Result<()> {
    for (name, tensor, own) in [("key", key, keys), ("value", value, values)] {
        let wanted = [batch, own.shape()[1], rows, own.shape()[3]];
        if tensor.shape() != wanted {
            return Err(Error::shape(name, "shape", format!("{wanted:?}"), format!("{:?}", tensor.shape())));
        }
        tensor.dtype().check_float(name)?;
    }
    Ok(())
}

/// How many queries of each batch row are real, `[B]`.
fn query_lengths(gpu: &Gpu, counts: &[usize]) -> Result<Tensor> {
    let words: Vec<u32> = counts.iter().map(|&n| n as u32).collect();
    Tensor::words(gpu, "query lengths", &[counts.len()], &words)
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
