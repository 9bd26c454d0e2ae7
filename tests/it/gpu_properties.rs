//! What must hold of attention on the GPU, whatever the shapes, strides, masks and options: drawn at random, from the
//! same seed every time.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use regard::attention::{
    Attention, AttentionInputs, AttentionOutputs, BlockMask, Causal, Mask, Monotonic, Normalize, Rotary,
    RotaryEmbedding, RotaryLayout, Score, Window,
};
use regard::cases::AttentionCase;
use regard::gpu::Run;
use regard::ops::merge::{merge, merge_max_sum};
use regard::tensor::{Array, DType, Layout};
use regard::validate::judge_attention;
use regard::{Error, Result, Tensor};

use crate::gpu::{drawn, gpu, random};

/// Runs a property over `cases` drawn values; a failure is told with the smallest value that was found to fail.
pub(crate) fn hold<S: Strategy>(cases: u32, strategy: S, property: impl Fn(S::Value) -> Result<()>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let checked = |value| property(value).map_err(|error| TestCaseError::fail(error.to_string()));
    runner.run(&strategy, checked).unwrap_or_else(|failure| panic!("{failure}"));
}

pub(crate) fn wrong(reason: impl Into<String>) -> Error {
    Error::Gpu(reason.into().into())
}

/// How a tensor [B, H, N, D] lies in its buffer.
#[derive(Debug, Clone, Copy)]
enum Lie {
    Dense,
    /// [B, N, H, D]: heads side by side in one row.
    Packed,
    /// [B, H, D, N].
    Turned,
    /// A part of something longer on every axis but the first.
    Narrowed,
}

fn lie() -> impl Strategy<Value = Lie> {
    prop_oneof![Just(Lie::Dense), Just(Lie::Packed), Just(Lie::Turned), Just(Lie::Narrowed)]
}

/// `array` on the GPU, lying as asked; what surrounds it is NaN.
fn upload(array: &Array<f32>, lie: Lie, dtype: DType) -> Result<Tensor> {
    let put = |array: &Array<f32>| Tensor::upload(gpu(), "tensor", array, dtype);
    match lie {
        Lie::Dense => put(array),
        Lie::Packed => put(&array.permute(&[0, 2, 1, 3])?)?.permute(&[0, 2, 1, 3]),
        Lie::Turned => put(&array.permute(&[0, 1, 3, 2])?)?.permute(&[0, 1, 3, 2]),
        Lie::Narrowed => {
            let shape = array.shape();
            let longer: Vec<usize> = shape.iter().enumerate().map(|(axis, n)| n + 2 * usize::from(axis > 0)).collect();
            let inside =
                (1..4).try_fold(Layout::contiguous(&longer), |layout, axis| layout.narrow(axis, 1, shape[axis]))?;
            let mut around = Array::filled(&longer, f32::NAN);
            let places = Array::from_fn(&longer, |k| k).gather(&inside)?;
            places.data().iter().zip(array.data()).for_each(|(&place, &x)| around.data_mut()[place] = x);
            put(&around)?.with_layout(inside)
        }
    }
}

/// Sizes and how the tensors lie.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    batch: usize,
    kv_heads: usize,
    group: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    value_dim: usize,
    lies: [Lie; 3],
    half: bool,
    seed: u64,
}

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    let sizes = (1..3usize, 1..3usize, 1..4usize, 1..41usize, 1..81usize, 1..73usize, 1..73usize);
    (sizes, [lie(), lie(), lie()], any::<u64>()).prop_map(|(sizes, lies, seed)| {
        let (batch, kv_heads, group, queries, keys, dim, value_dim) = sizes;
        Shape { batch, kv_heads, group, queries, keys, dim, value_dim, lies, half: false, seed }
    })
}

impl Shape {
    fn full(&self) -> [usize; 4] {
        [self.batch, self.kv_heads * self.group, self.queries, self.keys]
    }

    fn dtype(&self) -> DType {
        if self.half && gpu().caps().f16 { DType::F16 } else { DType::F32 }
    }

    /// Numbers of variance 1 that no other stream of this shape shares.
    fn numbers(&self, stream: u64, shape: &[usize]) -> Array<f32> {
        random(self.seed, stream, 1.732, shape)
    }

    /// Whole numbers from −2 to 2: dot products and sums of them are exact in any order.
    fn whole(&self, stream: u64, shape: &[usize]) -> Array<f32> {
        self.numbers(stream, shape).map(|x| (x * 1.4).round())
    }

    fn inputs(&self) -> AttentionInputs<Array<f32>> {
        let [batch, heads, queries, keys] = self.full();
        AttentionInputs::new(
            self.numbers(1, &[batch, heads, queries, self.dim]),
            self.numbers(2, &[batch, self.kv_heads, keys, self.dim]),
            self.numbers(3, &[batch, self.kv_heads, keys, self.value_dim]),
        )
    }

    /// Whole queries and keys.
    fn whole_inputs(&self) -> AttentionInputs<Array<f32>> {
        let mut inputs = self.inputs();
        inputs.query = self.whole(1, inputs.query.shape());
        inputs.key = self.whole(2, inputs.key.shape());
        inputs
    }

    fn run(&self, options: &Attention, inputs: &AttentionInputs<Array<f32>>) -> Result<AttentionOutputs<Array<f32>>> {
        let dtype = self.dtype();
        let mut tensors = inputs.upload(gpu(), dtype)?;
        tensors.query = upload(&inputs.query, self.lies[0], dtype)?;
        tensors.key = upload(&inputs.key, self.lies[1], dtype)?;
        tensors.value = upload(&inputs.value, self.lies[2], dtype)?;
        options.run(gpu(), &tensors)?.download(gpu())
    }

    /// Every output within the tolerance rule of the oracle.
    fn judge(
        &self,
        options: &Attention,
        inputs: &AttentionInputs<Array<f32>>,
        got: &AttentionOutputs<Array<f32>>,
    ) -> Result<()> {
        let case =
            AttentionCase { name: String::new(), options: options.clone(), inputs: inputs.clone(), f32_only: false };
        for (name, ratio) in judge_attention(&case, got, self.dtype())? {
            if ratio > 1.0 {
                return Err(wrong(format!("{name}: {ratio:.2} times the tolerance")));
            }
        }
        Ok(())
    }
}

/// A mask's axes: how many of [B, Hq, Nq, Nk] it has, which of them are 1, and how many keys it falls short.
#[derive(Debug, Clone)]
struct MaskShape {
    rank: usize,
    ones: [bool; 4],
    short: usize,
}

impl MaskShape {
    const FULL: Self = Self { rank: 4, ones: [false; 4], short: 0 };

    fn axes(&self, shape: &Shape) -> Vec<usize> {
        let mut axes = shape.full();
        axes[3] = axes[3].saturating_sub(self.short).max(1);
        (4 - self.rank..4).map(|axis| if self.ones[axis] { 1 } else { axes[axis] }).collect()
    }

    fn bools(&self, shape: &Shape) -> Mask<Array<f32>> {
        Mask::Bool(shape.numbers(4, &self.axes(shape)).map(|&x| u32::from(x >= -0.5)))
    }

    fn floats(&self, shape: &Shape) -> Mask<Array<f32>> {
        Mask::Float(shape.numbers(4, &self.axes(shape)).map(|&x| if x < -0.7 { f32::NEG_INFINITY } else { x }))
    }
}

/// Options that go together, as a switch each. Most of the time of a test is the driver's, spent on compiling shaders:
/// these combinations stand in the case table too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    WindowAlibiSinks,
    BlocksCausalLengths,
    CausalLengths,
    Tempered,
    Capped,
    Parallel,
    Recursive,
    Rotary,
    Additive,
    Cosine,
}

/// A kind with its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    kind: Kind,
    mask: MaskShape,
    causal: Causal,
    window: Window,
    blocks: [usize; 2],
    softcap: f32,
    temperature: f32,
    offset: usize,
}

pub(crate) fn choice() -> impl Strategy<Value = Choice> {
    let kind = proptest::sample::select(vec![
        Kind::Plain,
        Kind::WindowAlibiSinks,
        Kind::BlocksCausalLengths,
        Kind::CausalLengths,
        Kind::Tempered,
        Kind::Capped,
        Kind::Parallel,
        Kind::Recursive,
        Kind::Rotary,
        Kind::Additive,
        Kind::Cosine,
    ]);
    let numbers = (1.0..8.0f32, 0.4..3.0f32, 0..5usize);
    (kind, mask_shape(), causal(), window(), [1..70usize, 1..70usize], numbers).prop_map(
        |(kind, mask, causal, window, blocks, (softcap, temperature, offset))| Choice {
            kind,
            mask,
            causal,
            window,
            blocks,
            softcap,
            temperature,
            offset,
        },
    )
}

fn causal() -> impl Strategy<Value = Causal> {
    prop_oneof![Just(Causal::TopLeft), Just(Causal::BottomRight)]
}

fn window() -> impl Strategy<Value = Window> {
    (proptest::option::of(0..40u32), 0..10u32, 0..4u32).prop_map(|(left, right, sink_tokens)| Window {
        left,
        right: Some(right),
        sink_tokens,
    })
}

fn mask_shape() -> impl Strategy<Value = MaskShape> {
    (1..5usize, any::<[bool; 4]>(), prop_oneof![2 => Just(0), 1 => 1..20usize])
        .prop_map(|(rank, ones, short)| MaskShape { rank, ones, short })
}

impl Choice {
    pub(crate) fn request(&self, shape: &Shape) -> Result<(Attention, AttentionInputs<Array<f32>>)> {
        let [batch, heads, queries, keys] = shape.full();
        let mut inputs = shape.inputs();
        let mut options = Attention { weights: true, entropy: true, lse: true, ..Attention::default() };
        // from 0 to all
        let lengths = |stream: u64, longest: usize| {
            let most = longest as f32;
            shape.numbers(stream, &[batch]).map(|x| ((x / 3.464 + 0.5) * (most + 1.0)).floor().clamp(0.0, most) as u32)
        };
        match self.kind {
            Kind::Plain => {}
            Kind::WindowAlibiSinks => {
                options.window = Some(self.window);
                inputs.mask = Some(self.mask.bools(shape));
                inputs.alibi_slopes = Some(shape.numbers(7, &[heads]).map(|x| x.abs() / 8.0));
                inputs.sinks = Some(shape.numbers(8, &[heads]));
            }
            Kind::BlocksCausalLengths => {
                let blocks = [batch, heads, queries.div_ceil(self.blocks[0]), keys.div_ceil(self.blocks[1])];
                let mask = shape.numbers(9, &blocks).map(|&x| u32::from(x >= -0.5));
                inputs.block_mask = Some(BlockMask { mask, size: self.blocks });
                options.causal = Some(self.causal);
                inputs.kv_lengths = Some(lengths(5, keys));
                inputs.mask = Some(self.mask.floats(shape));
            }
            Kind::CausalLengths => {
                options.causal = Some(self.causal);
                inputs.kv_lengths = Some(lengths(5, keys));
                inputs.query_lengths = Some(lengths(6, queries));
            }
            Kind::Tempered => {
                options.temperature = Some(self.temperature);
                inputs.mask = Some(self.mask.floats(shape));
                inputs.alibi_slopes = Some(shape.numbers(7, &[batch, heads]).map(|x| x.abs() / 8.0));
                inputs.sinks = Some(shape.numbers(8, &[heads]));
            }
            Kind::Capped => {
                options.softcap = Some(self.softcap);
                options.normalize = Normalize::Sparsemax;
                inputs.mask = Some(self.mask.floats(shape));
            }
            Kind::Parallel => {
                options.normalize = Normalize::Monotonic(Monotonic::Parallel);
                inputs.mask = Some(self.mask.floats(shape));
                inputs.kv_lengths = Some(lengths(5, keys));
                inputs.query_lengths = Some(lengths(6, queries));
            }
            Kind::Recursive => {
                options.normalize = Normalize::Monotonic(Monotonic::Recursive);
                inputs.mask = Some(self.mask.floats(shape));
                options.causal = Some(self.causal);
            }
            Kind::Rotary => {
                options.causal = Some(self.causal);
                inputs.kv_lengths = Some(lengths(5, keys));
                inputs.query_lengths = Some(lengths(6, queries));
                let width = 2 * shape.dim.div_ceil(3).min(shape.dim / 2);
                if width > 0 {
                    let rotary = Rotary { layout: RotaryLayout::Interleaved, offset: self.offset };
                    let tables = Rotary::tables(100.0, width, self.offset + queries.max(keys))?;
                    inputs.rotary = Some(RotaryEmbedding::new(rotary, tables));
                }
            }
            Kind::Additive => {
                options.score = Score::Additive;
                options.scale = Some(2.0 / shape.dim as f32);
            }
            Kind::Cosine => {
                options.score = Score::Cosine;
                options.scale = Some(4.0);
            }
        }
        options.lse = options.normalize == Normalize::Softmax;
        Ok((options, inputs))
    }
}

/// Each row of weights is a distribution, or all 0; less than one with sinks or a scan that runs off the end.
fn distributions(weights: &Array<f32>, less: bool) -> Result<()> {
    let keys = weights.shape()[3];
    for (row, weights) in weights.data().chunks_exact(keys).enumerate() {
        let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let whole = (sum - 1.0).abs() < 1e-5 || weights.iter().all(|&w| w == 0.0);
        if !(weights.iter().all(|w| (0.0..=1.0).contains(w)) && (whole || less && sum < 1.0 + 1e-5)) {
            return Err(wrong(format!("the weights of row {row} sum to {sum}")));
        }
    }
    Ok(())
}

#[test]
fn any_request_is_answered_as_the_oracle_would() {
    hold(drawn(120), (shape(), choice()), |(mut shape, choice)| {
        // both storage types, but not of everything
        shape.half = matches!(choice.kind, Kind::Plain | Kind::Tempered | Kind::Parallel | Kind::Rotary);
        let (options, inputs) = choice.request(&shape)?;
        let got = shape.run(&options, &inputs)?;
        shape.judge(&options, &inputs, &got)?;
        let weights = got.weights.as_ref().ok_or_else(|| wrong("no weights"))?;
        distributions(weights, inputs.sinks.is_some() || matches!(options.normalize, Normalize::Monotonic(_)))
    });
}

/// One axis in the order of `order`.
fn reorder(array: &Array<f32>, axis: usize, order: &[usize]) -> Array<f32> {
    let inner: usize = array.shape()[axis + 1..].iter().product();
    let n = array.shape()[axis];
    Array::from_fn(array.shape(), |k| {
        let (outer, place, rest) = (k / (n * inner), k / inner % n, k % inner);
        array.data()[(outer * n + order[place]) * inner + rest]
    })
}

#[test]
fn permuted_keys_permute_the_weights() {
    let order = |keys: usize, seed: u64| {
        let mut order: Vec<usize> = (0..keys).collect();
        order.sort_by_key(|&j| (j as u64 + 1).wrapping_mul(seed | 1).rotate_left(17));
        order
    };
    let normalize = prop_oneof![Just(Normalize::Softmax), Just(Normalize::Sparsemax)];
    hold(drawn(20), (shape(), normalize), |(shape, normalize)| {
        let options = Attention { normalize, weights: true, entropy: true, causal: None, ..Attention::default() };
        let mut inputs = shape.inputs();
        let mask = shape.numbers(4, &[shape.queries, shape.keys]);
        inputs.mask = Some(Mask::Float(mask.clone()));
        let order = order(shape.keys, shape.seed);
        let mut permuted = inputs.clone();
        permuted.key = reorder(&inputs.key, 2, &order);
        permuted.value = reorder(&inputs.value, 2, &order);
        permuted.mask = Some(Mask::Float(reorder(&mask, 1, &order)));
        let mut got = shape.run(&options, &permuted)?;
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
        got.weights = got.weights.map(|weights| reorder(&weights, 3, &back));
        shape.judge(&options, &inputs, &got)
    });
}

/// Parts of the keys, each its own call, put together on the GPU: by log-sum-exp, and by largest score and sum, which
/// scores of any size leave exact.
#[test]
fn split_keys_merge_to_the_whole() {
    let cuts = proptest::collection::vec(0.0..1.0f64, 1..4);
    let level = proptest::sample::select(vec![0.0, 0.0, 1e4, -1e6, 1e8, -1e9, f32::MIN]);
    hold(drawn(30), (shape(), cuts, proptest::option::of(any::<bool>()), level), |(shape, cuts, mask, level)| {
        let apart = level != 0.0 || mask.is_none();
        let options = Attention { lse: !apart, max_sum: apart, ..Attention::default() };
        let mut inputs = shape.inputs();
        inputs.mask = mask.map(|float| match float {
            true => MaskShape::FULL.floats(&shape),
            false => MaskShape::FULL.bools(&shape),
        });
        if level != 0.0 {
            // Whole numbers on top of one large one.
            inputs.query.data_mut().fill(0.0);
            let [batch, heads, queries, keys] = shape.full();
            let mask = shape.numbers(4, &[batch, heads, queries, keys]).map(|x| x.round() + level);
            inputs.mask = Some(Mask::Float(mask));
        }
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * shape.keys as f64) as usize).collect();
        ends.extend([0, shape.keys]);
        ends.sort_unstable();
        ends.dedup();
        if ends.len() < 3 {
            return Ok(());
        }
        let whole = inputs.upload(gpu(), shape.dtype())?;
        let mut run = Run::new(gpu());
        let mut parts = Vec::new();
        for ends in ends.windows(2) {
            let (start, length) = (ends[0], ends[1] - ends[0]);
            let mut part = whole.clone();
            part.key = whole.key.narrow(2, start, length)?;
            part.value = whole.value.narrow(2, start, length)?;
            part.mask = match &whole.mask {
                Some(Mask::Bool(mask)) => Some(Mask::Bool(mask.narrow(3, start, length)?)),
                Some(Mask::Float(mask)) => Some(Mask::Float(mask.narrow(3, start, length)?)),
                None => None,
            };
            let got = options.record(&mut run, &part)?;
            parts.push((got.output, got.lse.or(got.max_sum).ok_or_else(|| wrong("nothing to merge by"))?));
        }
        let parts: Vec<_> = parts.iter().map(|(output, stats)| (output, stats)).collect();
        let (output, stats) = if apart { merge_max_sum(&mut run, &parts) } else { merge(&mut run, &parts) }?;
        run.submit()?;
        let stats = stats.download(gpu())?;
        let got = AttentionOutputs {
            output: output.download(gpu())?,
            lse: (!apart).then(|| stats.clone()),
            max_sum: apart.then_some(stats),
            weights: None,
            entropy: None,
            scores: None,
            present_key: None,
            present_value: None,
        };
        shape.judge(&options, &inputs, &got)
    });
}

/// Bit for bit: whole scores plus a whole number are exact, and only differences of scores count.
#[test]
fn a_constant_added_to_a_row_changes_nothing() {
    let normalize = prop_oneof![Just(Normalize::Softmax), Just(Normalize::Sparsemax), Just(Normalize::Hardmax)];
    hold(drawn(20), (shape(), normalize), |(shape, normalize)| {
        let options = Attention { normalize, scale: Some(1.0), weights: true, entropy: true, ..Attention::default() };
        let [batch, heads, queries, _] = shape.full();
        let mut inputs = shape.whole_inputs();
        inputs.mask = Some(Mask::Float(Array::filled(&[batch, heads, queries, 1], 0.0)));
        let level = shape.run(&options, &inputs)?;
        inputs.mask = Some(Mask::Float(shape.numbers(4, &[batch, heads, queries, 1]).map(|x| (x * 100.0).round())));
        let raised = shape.run(&options, &inputs)?;
        if level == raised { Ok(()) } else { Err(wrong("weights, entropy or output differ")) }
    });
}

/// Causal, a window, lengths: each against the same written out as a mask.
#[test]
fn positions_equal_the_mask_written_out() {
    // which of the three, so that no more than four combinations are compiled
    let which = proptest::sample::select(vec![
        [true, false, false],
        [true, true, false],
        [true, true, true],
        [false, true, true],
    ]);
    hold(drawn(25), (shape(), causal(), window(), which), |(shape, causal, window, [is_causal, is_window, padded])| {
        let (causal, window) = (Some(causal).filter(|_| is_causal), Some(window).filter(|_| is_window));
        let [batch, _, queries, keys] = shape.full();
        let plain = Attention { weights: true, lse: true, entropy: true, ..Attention::default() };
        let options = Attention { causal, window, ..plain.clone() };
        let mut inputs = shape.inputs();
        let lengths: Vec<usize> =
            (0..batch).map(|b| if padded { (shape.seed as usize >> (8 * b)) % (keys + 1) } else { keys }).collect();
        inputs.kv_lengths = padded.then(|| Array::from_fn(&[batch], |b| lengths[b] as u32));
        let by_position = shape.run(&options, &inputs)?;
        let mask = Array::from_fn(&[batch, 1, queries, keys], |k| {
            let (b, i, j) = (k / (queries * keys), (k / keys % queries) as i64, (k % keys) as i64);
            let length = lengths[b] as i64;
            let corner = padded || causal == Some(Causal::BottomRight);
            let own = if corner { i + length - queries as i64 } else { i };
            let near = window.is_none_or(|window| {
                let near = window.left.is_none_or(|left| own - j <= i64::from(left))
                    && window.right.is_none_or(|right| j - own <= i64::from(right));
                near || j < i64::from(window.sink_tokens)
            });
            u32::from(j < length && near && (causal.is_none() || j <= own))
        });
        inputs.kv_lengths = None;
        inputs.mask = Some(Mask::Bool(mask));
        let by_mask = shape.run(&plain, &inputs)?;
        if by_position.weights != by_mask.weights {
            return Err(wrong("the weights differ"));
        }
        shape.judge(&plain, &inputs, &by_position)
    });
}
