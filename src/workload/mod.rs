//! Attention to be timed: shapes, inputs, the work there is, and the check of an answer on some of its rows. It knows
//! the library only: `regard bench` and `cargo bench --bench attention` both have it.

pub mod naive;

use crate::attention::{Algorithm, Attention, AttentionInputs, Causal, Mask, Score, ScoreWeights};
use crate::compare::{Verdict, judge};
use crate::device::Caps;
use crate::gpu::Gpu;
use crate::plan::AttentionPlan;
use crate::problem::AttentionProblem;
use crate::tensor::{Array, DType, TensorLike};
use crate::{Error, Result, baseline, reference};

/// Numbers in ±`size` that differ from place to place: a linear congruential generator (Numerical Recipes' 32-bit
/// factors), the upper 24 bits of each state. `benches/peers/common.py` has the same.
pub fn numbers(shape: &[usize], seed: u32, size: f32) -> Array {
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(1);
    Array::from_fn(shape, |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * size
    })
}

/// What a workload is an example of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As many queries as keys, each query sees all.
    Prefill,
    /// The same, each query sees the keys up to its own.
    Causal,
    /// A few queries over a cache.
    Decode,
    /// A decoder step: one query a sentence over projected annotations (Bahdanau et al. 2015), v·tanh(q + k).
    AdditiveStep,
    /// Additive scores of each token of a sentence with each.
    AdditiveSelf,
    /// The shapes that llama.cpp's `test-backend-ops perf -o FLASH_ATTN_EXT` times, with its added mask where it has
    /// one.
    Ggml,
}

/// An attention problem with inputs of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub kind: Kind,
    /// B.
    pub batch: usize,
    /// Hq.
    pub query_heads: usize,
    /// Hkv.
    pub kv_heads: usize,
    /// Nq.
    pub queries: usize,
    /// Nk.
    pub keys: usize,
    /// D; A of an additive score.
    pub dim: usize,
    /// Dv.
    pub value_dim: usize,
    /// What query, key, value and output are stored as.
    pub dtype: DType,
}

/// Rows that an answer is checked on: the same of each head.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Query heads of all batch rows, b · Hq + h.
    pub heads: Vec<usize>,
    /// Queries.
    pub rows: Vec<usize>,
}

/// What the reference says of the sampled rows, each array [heads, 1, rows, Dv].
#[derive(Debug)]
pub struct Truth {
    sample: Sample,
    /// What results are multiplied with, oracle and baseline have been: a power of two that brings the largest element to
    /// 1 or a little above. An average of very many values is small, and the comparator allows units in the last
    /// place of 1 at least: without this, zeros would pass.
    scale: f32,
    oracle: Array<f64>,
    baseline: Array,
    dtype: DType,
}

/// Operations that the reference may take for a check; beyond that, rows are left out.
const MOST_CHECKED: f64 = 3e8;
/// Operations that a tanh of the reference counts as.
const TANH: f64 = 10.0;
/// Heads and rows that are checked at least, where there are so many.
const LEAST_HEADS: usize = 4;
const LEAST_ROWS: usize = 8;

impl Workload {
    /// [B, Hq, Hkv, Nq, Nk, D].
    fn new(kind: Kind, [batch, query_heads, kv_heads, queries, keys, dim]: [usize; 6], dtype: DType) -> Self {
        let value_dim = match kind {
            // Annotations of the length that a value may have in a fused kernel.
            Kind::AdditiveStep | Kind::AdditiveSelf => dim.min(256),
            _ => dim,
        };
        Self { kind, batch, query_heads, kv_heads, queries, keys, dim, value_dim, dtype }
    }

    /// B, H, N, D: queries and keys of the same sequence.
    fn square(kind: Kind, [batch, heads, n, dim]: [usize; 4], dtype: DType) -> Self {
        Self::new(kind, [batch, heads, heads, n, n, dim], dtype)
    }

    pub fn is_additive(&self) -> bool {
        matches!(self.kind, Kind::AdditiveStep | Kind::AdditiveSelf)
    }

    /// Whether a query sees the keys up to its own only.
    pub fn is_causal(&self) -> bool {
        self.kind == Kind::Causal
    }

    /// Whether numbers are added to the scores.
    pub fn is_masked(&self) -> bool {
        self.kind == Kind::Ggml && self.queries < self.keys
    }

    /// The name, without the sequence length where `length` is false: what the points of a curve have in common.
    fn name_with(&self, length: bool) -> String {
        let Self { batch, query_heads, kv_heads, queries, keys, dim, dtype, .. } = self;
        let heads =
            if query_heads == kv_heads { format!("H{query_heads}") } else { format!("H{query_heads}/{kv_heads}") };
        let n = |letter: &str, n: &usize| if length { format!(" {letter}{n}") } else { String::new() };
        match self.kind {
            Kind::Prefill => format!("prefill B{batch} {heads}{} D{dim} {dtype}", n("N", keys)),
            Kind::Causal => format!("prefill causal B{batch} {heads}{} D{dim} {dtype}", n("N", keys)),
            Kind::Decode => format!("decode {heads} Nq{queries}{} D{dim} {dtype}", n("Nk", keys)),
            Kind::AdditiveStep => format!("additive step B{batch}{} A{dim} {dtype}", n("T", keys)),
            Kind::AdditiveSelf => format!("additive self{} A{dim} {dtype}", n("T", keys)),
            Kind::Ggml => format!("ggml {heads} Nq{queries}{} D{dim} {dtype}", n("Nk", keys)),
        }
    }

    pub fn name(&self) -> String {
        self.name_with(true)
    }

    /// What workloads have in common that differ in the sequence length alone.
    pub fn series(&self) -> String {
        self.name_with(false)
    }

    pub fn options(&self, path: Algorithm) -> Attention {
        Attention {
            score: if self.is_additive() { Score::Additive } else { Score::ScaledDot },
            causal: self.is_causal().then_some(Causal::TopLeft),
            path,
            ..Attention::default()
        }
    }

    /// Each input from its shape, its seed and the size of its numbers. Scores are about as far apart as those of a
    /// trained model.
    fn each_input<A: TensorLike>(&self, make: impl Fn(&[usize], u32, f32) -> A) -> AttentionInputs<A> {
        let Self { batch, query_heads, kv_heads, queries, keys, dim, value_dim, .. } = *self;
        let v = self.is_additive().then(|| make(&[dim], 5, 4.0 / (dim as f32).sqrt()));
        AttentionInputs {
            mask: self.is_masked().then(|| Mask::Float(make(&[1, 1, queries, keys], 4, 1.0))),
            score: ScoreWeights { v, ..ScoreWeights::default() },
            ..AttentionInputs::new(
                make(&[batch, query_heads, queries, dim], 1, 1.7),
                make(&[batch, kv_heads, keys, dim], 2, 1.7),
                make(&[batch, kv_heads, keys, value_dim], 3, 1.7),
            )
        }
    }

    pub fn inputs(&self) -> AttentionInputs<Array> {
        self.each_input(numbers)
    }

    /// Refuses what a device cannot hold: keys or queries larger than its largest binding.
    ///
    /// # Errors
    /// [`Error::Limit`].
    pub fn check_limits(&self, caps: &Caps) -> Result<()> {
        let rows = (self.kv_heads * self.keys).max(self.query_heads * self.queries);
        let needed = self.dtype.bytes_of(self.batch * rows * self.dim.max(self.value_dim)) as u64;
        let allowed = caps.max_tensor_bytes();
        if needed <= allowed {
            return Ok(());
        }
        Err(Error::Limit { what: "bytes of the largest input".to_owned(), needed, allowed })
    }

    /// How it would be run on a device.
    ///
    /// # Errors
    /// Why it would not.
    pub fn plan(&self, path: Algorithm, gpu: &Gpu) -> Result<AttentionPlan> {
        let options = self.options(path);
        let shapes = self.each_input(|shape, _, _| shape.to_vec());
        let problem = AttentionProblem::new(&options, &shapes.map(Vec::as_slice, Vec::as_slice))?;
        AttentionPlan::tuned(&options, &problem, self.dtype, gpu.caps(), gpu.tuning())
    }

    /// Whether query i sees key j.
    pub fn sees(&self, i: usize, j: usize) -> bool {
        !self.is_causal() || j <= i
    }

    /// Pairs of a query and a key that it sees, over all heads.
    pub fn pairs(&self) -> f64 {
        let (queries, keys) = (self.queries as f64, self.keys as f64);
        let of_head = if self.is_causal() {
            // 1 + 2 + … up to the last key, and all keys from there on.
            let rising = queries.min(keys);
            rising * (rising + 1.0) / 2.0 + (queries - rising) * keys
        } else {
            queries * keys
        };
        of_head * (self.batch * self.query_heads) as f64
    }

    /// Operations and bytes that any solution needs: a multiplication and an addition for each visible pair and entry of
    /// key and value (an addition and a multiply-add are counted as two for each tanh, the tanh itself not), each
    /// input and output once.
    pub fn work(&self) -> (f64, f64) {
        let Self { batch, query_heads, kv_heads, queries, keys, dim, value_dim, dtype, .. } = self;
        let flops = self.pairs() * 2.0 * (dim + value_dim) as f64;
        let rows = batch * (query_heads * queries + kv_heads * keys) * (dim + value_dim);
        let f32s = if self.is_masked() { queries * keys } else { 0 } + if self.is_additive() { *dim } else { 0 };
        (flops, (dtype.bytes_of(rows) + DType::F32.bytes_of(f32s)) as f64)
    }

    /// As many heads and rows as the reference has time for, evenly apart, the first and the last among them.
    pub fn sample(&self) -> Sample {
        let each =
            2.0 * (self.dim + self.value_dim) as f64 + if self.is_additive() { TANH * self.dim as f64 } else { 0.0 };
        // The reference compares a row with hidden keys too.
        let rows = (MOST_CHECKED / (each * self.keys as f64)) as usize;
        let all = self.batch * self.query_heads;
        let heads = (rows / self.queries).clamp(LEAST_HEADS.min(all), all);
        let rows = (rows / heads).clamp(LEAST_ROWS.min(self.queries), self.queries);
        Sample { heads: spread(heads, all), rows: spread(rows, self.queries) }
    }

    /// What the reference says of the rows of [`Workload::sample`].
    ///
    /// # Errors
    /// Those of the reference.
    pub fn truth(&self, inputs: &AttentionInputs<Array>) -> Result<Truth> {
        self.truth_of(self.sample(), inputs)
    }

    fn truth_of(&self, sample: Sample, inputs: &AttentionInputs<Array>) -> Result<Truth> {
        let group = self.query_heads / self.kv_heads;
        // Batch rows and heads lie one behind the other, so query head b · Hq + h reads key head (b · Hq + h) / group.
        let kv: Vec<usize> = sample.heads.iter().map(|head| head / group).collect();
        let all = |n: usize| (0..n).collect::<Vec<_>>();
        let keys = all(self.keys);
        let mask = match &inputs.mask {
            Some(Mask::Float(mask)) => Some(Mask::Float(rows_of(mask, &[0], &sample.rows)?)),
            _ if self.is_causal() => {
                let sees = |at: usize| u32::from(self.sees(sample.rows[at / self.keys], at % self.keys));
                Some(Mask::Bool(Array::from_fn(&[1, 1, sample.rows.len(), self.keys], sees)))
            }
            _ => None,
        };
        let some = AttentionInputs {
            mask,
            score: inputs.score.clone(),
            ..AttentionInputs::new(
                rows_of(&inputs.query, &sample.heads, &sample.rows)?,
                rows_of(&inputs.key, &kv, &keys)?,
                rows_of(&inputs.value, &kv, &keys)?,
            )
        };
        // What is visible is said by the mask here.
        let options = Attention { causal: None, ..self.options(Algorithm::Auto) };
        let oracle = reference::attention(&options, &some.map_numbers(|array| array.map(|&x| f64::from(x))))?.output;
        let baseline = baseline::attention(&options, &some, self.dtype)?.output;
        let largest = oracle.data().iter().fold(f64::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
        let scale = (-largest.log2().floor()).exp2();
        Ok(Truth {
            sample,
            scale: scale as f32,
            oracle: oracle.map(|x| x * scale),
            baseline: baseline.map(|x| x * scale as f32),
            dtype: self.dtype,
        })
    }
}

impl Truth {
    /// How far an output [B, Hq, Nq, Dv] is from it, in units of about its largest element.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for an output of another shape.
    pub fn judge(&self, output: &Array) -> Result<Verdict> {
        let got = rows_of(output, &self.sample.heads, &self.sample.rows)?.map(|x| x * self.scale);
        judge("output", &got, &self.oracle, &self.baseline, self.dtype)
    }
}

/// `count` of 0 … `all` − 1, evenly apart, the first and the last among them where there are two.
fn spread(count: usize, all: usize) -> Vec<usize> {
    (0..count).map(|k| k * (all - 1) / (count - 1).max(1)).collect()
}

/// Some rows of some heads of an array [B, H, N, D], as [heads, 1, rows, D].
fn rows_of(array: &Array, heads: &[usize], rows: &[usize]) -> Result<Array> {
    let (n, dim) = (array.shape()[2], array.shape()[3]);
    let row = |head: usize, row: usize| &array.data()[(head * n + row) * dim..][..dim];
    let data = heads.iter().flat_map(|&h| rows.iter().flat_map(move |&i| row(h, i))).copied().collect();
    Array::new(&[heads.len(), 1, rows.len(), dim], data)
}

/// Every workload; few and small ones when quick.
pub fn all(quick: bool) -> Vec<Workload> {
    use Kind::{AdditiveSelf, AdditiveStep, Causal, Decode, Ggml, Prefill};
    let (f32, f16) = (DType::F32, DType::F16);
    let square = Workload::square;
    if quick {
        return vec![
            square(Prefill, [1, 4, 64, 64], f32),
            square(Prefill, [1, 4, 128, 64], f32),
            square(Prefill, [1, 4, 256, 64], f32),
            square(Prefill, [1, 4, 256, 64], f16),
            square(Causal, [1, 4, 256, 64], f32),
            Workload::new(Decode, [1, 8, 2, 1, 512, 64], f32),
            Workload::new(Decode, [1, 8, 2, 1, 2048, 64], f32),
            Workload::new(Decode, [1, 8, 2, 4, 2048, 64], f16),
            Workload::new(AdditiveStep, [4, 1, 1, 1, 64, 128], f32),
            square(AdditiveSelf, [1, 1, 64, 128], f32),
            Workload::new(Ggml, [1, 8, 2, 1, 1024, 64], f32),
            square(Ggml, [1, 4, 121, 72], f32),
        ];
    }
    let mut works = Vec::new();
    let types = [f32, f16];
    for dtype in types {
        for kind in [Prefill, Causal] {
            let shapes = [[1, 8, 1024, 64], [1, 16, 4096, 64], [1, 16, 4096, 128], [4, 16, 2048, 128]];
            works.extend(shapes.map(|shape| square(kind, shape, dtype)));
        }
        // With the 4096 above, a curve.
        works.extend([512, 1024, 2048, 8192].map(|n| square(Prefill, [1, 16, n, 64], dtype)));
    }
    for (dtype, queries) in types.into_iter().flat_map(|dtype| [(dtype, 1), (dtype, 4)]) {
        works.extend((10..=16).map(|k| Workload::new(Decode, [1, 32, 8, queries, 1 << k, 128], dtype)));
    }
    for (dtype, t) in types.into_iter().flat_map(|dtype| [128, 256, 512, 1024].map(|t| (dtype, t))) {
        works.push(Workload::new(AdditiveStep, [16, 1, 1, 1, t, 512], dtype));
        works.push(square(AdditiveSelf, [1, 1, t, 512], dtype));
    }
    for (dtype, dim) in types.into_iter().flat_map(|dtype| [(dtype, 64), (dtype, 128)]) {
        for (group, queries) in [(1, 1), (1, 4), (4, 1), (4, 4)] {
            let shape = |keys| [1, 8 * group, 8, queries, keys, dim];
            works.extend([4096, 8192, 16384].map(|keys| Workload::new(Ggml, shape(keys), dtype)));
        }
    }
    works.extend(types.map(|dtype| square(Ggml, [1, 16, 5776, 72], dtype)));
    works
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        for works in [all(false), all(true)] {
            let names: BTreeSet<String> = works.iter().map(Workload::name).collect();
            assert_eq!(names.len(), works.len());
            // Workloads of one series differ in the length that stands on the axis of a plot.
            let points: BTreeSet<_> = works.iter().map(|work| (work.series(), work.keys)).collect();
            assert_eq!(points.len(), works.len());
        }
    }

    #[test]
    fn visible_pairs_are_counted() {
        let mut works = all(true);
        works.push(Workload { queries: 7, keys: 5, ..Workload::square(Kind::Causal, [2, 3, 7, 8], DType::F32) });
        works.push(Workload { queries: 5, keys: 9, ..Workload::square(Kind::Causal, [2, 3, 7, 8], DType::F32) });
        for work in works {
            let pairs = (0..work.queries).flat_map(|i| (0..work.keys).map(move |j| (i, j)));
            let seen = pairs.filter(|&(i, j)| work.sees(i, j)).count() * work.batch * work.query_heads;
            assert_eq!(work.pairs(), seen as f64, "{}", work.name());
        }
    }

    #[test]
    fn work_is_counted_by_visible_pairs_and_bytes_once() {
        let work = Workload::new(Kind::Decode, [1, 8, 2, 4, 100, 64], DType::F16);
        assert_eq!(work.work(), (8.0 * 400.0 * 256.0, ((8 * 4 + 2 * 100) * 128 * 2) as f64));
        let work = Workload::square(Kind::Causal, [1, 1, 3, 4], DType::F32);
        assert_eq!(work.work(), (6.0 * 16.0, (2 * 3 * 8 * 4) as f64));
        let masked = Workload::new(Kind::Ggml, [1, 4, 4, 2, 10, 8], DType::F16);
        assert_eq!(masked.work().1, ((4 * 12 * 16) * 2 + 20 * 4) as f64);
    }

    /// `benches/peers/common.py` asserts the same numbers of its generator.
    #[test]
    fn numbers_are_those_that_the_peers_get() {
        let first = [0.163_916_72, 1.286_133_2, -1.585_462_5, -1.501_074_1, 0.554_443_96, 0.871_012_4];
        assert_eq!(numbers(&[2, 3], 1, 1.7).data(), first);
        assert_eq!(numbers(&[1, 2, 1000], 5, 1.0).data()[1999], 0.648_955_6);
    }

    #[test]
    fn samples_are_spread_over_the_problem() {
        for work in all(false).into_iter().chain(all(true)) {
            let Sample { heads, rows } = work.sample();
            for (picked, all, least) in
                [(&heads, work.batch * work.query_heads, LEAST_HEADS), (&rows, work.queries, LEAST_ROWS)]
            {
                assert!(picked.len() >= least.min(all), "{}: {picked:?}", work.name());
                assert!(picked.windows(2).all(|w| w[0] < w[1]), "{}: {picked:?}", work.name());
                assert_eq!((picked[0], picked[picked.len() - 1]), (0, all - 1), "{}", work.name());
                let widest = picked.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(1);
                assert!(widest <= all.div_ceil(picked.len() - usize::from(picked.len() > 1)), "{}", work.name());
            }
        }
    }

    /// The truth about some rows is that about the whole, and one wrong element among them is seen, be all of them small.
    #[test]
    fn sampled_rows_judge_the_whole() {
        let mut works = all(true);
        works.push(Workload::new(Kind::Decode, [2, 2, 1, 1, 16_384, 8], DType::F16));
        for work in works {
            let inputs = work.inputs();
            let whole = reference::attention(&work.options(Algorithm::Auto), &inputs).unwrap().output;
            let stored = baseline::stored("output", &whole, work.dtype).unwrap();
            let last_head = work.batch * work.query_heads - 1;
            let few = Sample { heads: vec![last_head], rows: vec![work.queries - 1] };
            for truth in [work.truth(&inputs).unwrap(), work.truth_of(few, &inputs).unwrap()] {
                assert!(truth.judge(&stored).unwrap().passed(), "{}", work.name());
                let mut wrong = stored.clone();
                let last = wrong.data().len() - 1;
                wrong.data_mut()[last] += 0.04 / truth.scale;
                assert!(!truth.judge(&wrong).unwrap().passed(), "{}", work.name());
                let zeros = whole.map(|_| 0.0);
                assert!(!truth.judge(&zeros).unwrap().passed(), "{}", work.name());
            }
        }
    }
}
