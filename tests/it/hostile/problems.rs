//! Any attention, recurrence or cache, in any shapes, strides, types and options, on any device: recorded without one.

use std::cell::RefCell;

use arbitrary::{Result, Unstructured};
use regard::attention::{
    Algorithm, Attention, AttentionInputs, BlockMask, Causal, CuSeqlens, Mask, Monotonic, Normalize, Past, Rotary,
    RotaryEmbedding, RotaryLayout, Score, ScoreMod, ScoreStage, Window,
};
use regard::device::Caps;
use regard::kernels::{self, rotary::RowPositions};
use regard::ops::{self, rnn::LayerWeights, rnn::StackedWeights, rnn::Weights};
use regard::plan::{AttentionPlan, RnnPlan};
use regard::problem::{AttentionProblem, RnnProblem, Storage};
use regard::recording::{Recording, View};
use regard::rnn::{
    Activation, Activations, Cell, Direction, LayerNorm, Merge, NormOver, Reset, Rnn, RnnAlgorithm, RnnInputs,
    RnnOutputs, RnnStack, RnnWeights, Steps,
};
use regard::tensor::{DType, Layout};

use super::bounds;

/// Commands of a recording that is still made here; longer ones are honest work of their own kind.
const MOST_COMMANDS: usize = 3000;

fn pick<T: Copy>(u: &mut Unstructured<'_>, from: &[T]) -> Result<T> {
    u.choose(from).copied()
}

/// True about once in so many times, and not once the bytes are used up.
fn once_in(u: &mut Unstructured<'_>, times: u8) -> Result<bool> {
    u.ratio(1, times).map(|hit| hit && !u.is_empty())
}

/// The length of an axis: mostly small, at times next to a tile or a limit.
fn axis(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(match u.int_in_range(0..=31u8)? {
        0..=23 => u.int_in_range(1..=9)?,
        24..=27 => pick(u, &[16, 31, 32, 33, 64, 65, 128, 256, 257])?,
        28 | 29 => pick(u, &[300, 1000, 4096, 65_535, 65_536, 70_000, 1 << 20])?,
        30 => 0,
        _ => pick(u, &[1 << 24, 1 << 31, (1 << 31) + 1, 1 << 32, usize::MAX / 2, usize::MAX])?,
    })
}

/// A number as options have them.
fn number(u: &mut Unstructured<'_>) -> Result<f32> {
    pick(u, &[0.5, 1.0, 0.0, -1.0, 30.0, 1e-38, 1e-45, f32::MAX, f32::INFINITY, f32::NAN])
}

fn maybe<T>(u: &mut Unstructured<'_>, f: impl FnOnce(&mut Unstructured<'_>) -> Result<T>) -> Result<Option<T>> {
    if once_in(u, 3)? { f(u).map(Some) } else { Ok(None) }
}

/// A shape, at times with an axis of another length, one more, or one less.
fn bent(u: &mut Unstructured<'_>, shape: &[usize]) -> Result<Vec<usize>> {
    let mut shape = shape.to_vec();
    if once_in(u, 40)? {
        match u.int_in_range(0..=3u8)? {
            0 => shape.push(axis(u)?),
            1 => drop(shape.pop()),
            _ if shape.is_empty() => {}
            _ => {
                let at = u.choose_index(shape.len())?;
                shape[at] = axis(u)?;
            }
        }
    }
    Ok(shape)
}

/// Any device.
fn caps(u: &mut Unstructured<'_>) -> Result<Caps> {
    let small = once_in(u, 6)?;
    let subgroup = pick(u, &[4, 8, 16, 32, 64])?;
    let limits = |u: &mut Unstructured<'_>, usual: &[u64], odd: &[u64]| pick(u, if small { odd } else { usual });
    let mut caps = Caps::default();
    caps.max_binding_bytes = limits(u, &[128 << 20, 1 << 30, 1 << 40], &[0, 16, 1000, 64 << 10, u64::MAX])?;
    caps.max_buffer_bytes = limits(u, &[256 << 20, 1 << 40], &[0, 1000, u64::MAX])?;
    caps.max_workgroup_bytes = limits(u, &[16 << 10, 32 << 10], &[0, 63, 128, u64::from(u32::MAX)])? as u32;
    caps.max_invocations = limits(u, &[128, 256, 1024], &[0, 1, 7, 8, 100, u64::from(u32::MAX)])? as u32;
    caps.max_workgroups = limits(u, &[65_535], &[0, 1, 3, u64::from(u32::MAX)])? as u32;
    caps.max_storage_buffers = limits(u, &[8, 10, 16, 32], &[0, 1, 4, 9])? as u32;
    caps.max_iterations = limits(u, &[65_000, u64::MAX], &[0, 1, 7, 300])?;
    caps.f16 = u.arbitrary()?;
    caps.subgroups = u.arbitrary()?;
    caps.min_subgroup = limits(u, &[subgroup], &[0, 1, 3])? as u32;
    caps.max_subgroup = limits(u, &[subgroup, 128], &[0, 1, 3])? as u32;
    caps.timestamps = false;
    caps.software = u.arbitrary()?;
    caps.workers = limits(u, &[2, 64], &[0, 1, u64::from(u32::MAX)])? as u32;
    caps.cooperative = pick(u, &[None, None, Some(8), Some(16)])?;
    Ok(caps)
}

/// A tensor of that shape lying in a buffer that just holds it, in some order, at some distance; none where a buffer
/// cannot be seen so.
/// Why there is no view.
enum Odd {
    /// The numbers have come to their end.
    Ended(arbitrary::Error),
    /// No layout of this shape.
    Shape,
}

fn view(
    u: &mut Unstructured<'_>,
    recording: &mut Recording,
    name: &str,
    shape: &[usize],
    dtype: DType,
    repeats: bool,
) -> Result<Option<View>> {
    let product = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
    let mut layout = match product {
        Some(_) => Layout::contiguous(shape),
        None => Layout { shape: shape.into(), strides: vec![0; shape.len()].into(), offset: 0 },
    };
    if dtype.block() == 1 && once_in(u, 3)? {
        // Rows further apart, an axis that repeats, axes in memory in another order, an offset.
        match u.int_in_range(0..=3u8)? {
            0 => layout.strides.iter_mut().rev().skip(1).for_each(|stride| *stride = stride.saturating_mul(3)),
            1 if repeats && !shape.is_empty() => {
                let at = u.choose_index(shape.len())?;
                layout.strides[at] = 0;
            }
            2 if shape.len() > 1 && product.is_some() => {
                let mut order: Vec<usize> = (0..shape.len()).collect();
                order.rotate_left(u.choose_index(shape.len())?);
                let turned: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
                let mut back = vec![0; order.len()];
                order.iter().enumerate().for_each(|(at, &axis)| back[axis] = at);
                layout = Layout::contiguous(&turned).permute(&back).unwrap();
            }
            _ => layout.offset = pick(u, &[1, 3, 4, 1000, usize::MAX])?,
        }
    } else if product.is_none() && !repeats {
        return Ok(None);
    }
    let whole = shape.last().is_none_or(|n| n.is_multiple_of(dtype.block()));
    let Some(span) = layout.checked_span().ok().filter(|_| whole) else { return Ok(None) };
    if span as u64 >= 1 << 40 {
        return Ok(None);
    }
    let bytes = dtype.bytes_of(span) as u64;
    Ok(Some(recording.bound(name.to_owned(), layout, dtype, bytes)))
}

fn score_weights(
    u: &mut Unstructured<'_>,
    inputs: &mut AttentionInputs<Vec<usize>>,
    score: Score,
    dim: usize,
) -> Result<()> {
    let units = axis(u)?;
    let weights = &mut inputs.score;
    match score {
        Score::General => weights.weight = Some(bent(u, &[dim, dim])?),
        Score::Concat => {
            weights.weight = Some(bent(u, &[units, dim.saturating_mul(2)])?);
            weights.v = Some(bent(u, &[units])?);
        }
        Score::Additive | Score::Location => {
            let projected = u.arbitrary()?;
            let units = if projected { units } else { dim };
            if projected {
                weights.query_weight = Some(bent(u, &[units, dim])?);
                weights.key_weight = Some(bent(u, &[units, dim])?);
                weights.bias = maybe(u, |u| bent(u, &[units]))?;
            }
            if score == Score::Location || u.arbitrary()? {
                weights.v = Some(bent(u, &[units])?);
                weights.g = maybe(u, |u| bent(u, &[1]))?;
            }
            if score == Score::Location {
                let [channels, width] = [axis(u)?, axis(u)?];
                weights.location_filter = Some(bent(u, &[channels, width])?);
                weights.location_weight = Some(bent(u, &[units, channels])?);
            }
        }
        _ => {}
    }
    Ok(())
}

fn any_attention(u: &mut Unstructured<'_>) -> Result<(Attention, AttentionInputs<Vec<usize>>)> {
    let score = pick(
        u,
        &[
            Score::ScaledDot,
            Score::ScaledDot,
            Score::Dot,
            Score::General,
            Score::Additive,
            Score::Concat,
            Score::Cosine,
            Score::Location,
        ],
    )?;
    let monotonic = [Monotonic::Parallel, Monotonic::Recursive, Monotonic::Hard].map(Normalize::Monotonic);
    let normalize = match u.int_in_range(0..=7u8)? {
        0 => Normalize::Hardmax,
        1 => Normalize::Sample { seed: 7 },
        2 => Normalize::Sparsemax,
        3 => pick(u, &monotonic)?,
        _ => Normalize::Softmax,
    };
    let far = |u: &mut Unstructured<'_>| pick(u, &[None, Some(0), Some(3), Some(u32::MAX)]);
    let body = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 { return score; }";
    let wgsl = if once_in(u, 8)? { "fn other() {}" } else { body };
    let options = Attention {
        score,
        scale: maybe(u, number)?,
        score_mod: maybe(u, |_| Ok(ScoreMod::new(wgsl, None)))?,
        softcap: maybe(u, number)?,
        causal: pick(u, &[None, Some(Causal::TopLeft), Some(Causal::BottomRight)])?,
        window: maybe(u, |u| Ok(Window { sink_tokens: pick(u, &[0, 2, u32::MAX])?, ..Window::new(far(u)?, far(u)?) }))?,
        temperature: maybe(u, number)?,
        normalize,
        path: pick(u, &[Algorithm::Auto, Algorithm::Auto, Algorithm::Staged, Algorithm::Fused, Algorithm::Split])?,
        weights: once_in(u, 4)?,
        lse: once_in(u, 4)?,
        max_sum: once_in(u, 4)?,
        entropy: once_in(u, 4)?,
        scores: pick(u, &[None, None, Some(ScoreStage::Raw), Some(ScoreStage::Capped), Some(ScoreStage::Masked)])?,
    };
    let rotary = maybe(u, |u| {
        let layout = pick(u, &[RotaryLayout::HalfSplit, RotaryLayout::Interleaved])?;
        Ok(Rotary { layout, offset: pick(u, &[0, 0, 5, usize::MAX])? })
    })?;
    let block = maybe(u, |u| Ok([axis(u)?, axis(u)?]))?;
    let [batch, kv_heads, group, queries, keys, dim, value_dim] =
        [axis(u)?, axis(u)?, axis(u)?, axis(u)?, axis(u)?, axis(u)?, axis(u)?];
    let heads = kv_heads.saturating_mul(group);
    let paged = once_in(u, 5)?;
    let ragged = !paged && once_in(u, 5)?;
    let batch = if ragged { 1 } else { batch };
    let pool = if paged { axis(u)? } else { batch };
    let mut inputs = AttentionInputs::new(
        bent(u, &[batch, heads, queries, dim])?,
        bent(u, &[pool, kv_heads, keys, dim])?,
        bent(u, &[pool, kv_heads, keys, value_dim])?,
    );
    let mut all = keys;
    if paged {
        let columns = axis(u)?;
        all = columns.saturating_mul(keys);
        inputs.block_table = Some(bent(u, &[batch, columns])?);
        inputs.kv_lengths = Some(bent(u, &[batch])?);
    } else if ragged {
        let sequences = axis(u)?;
        inputs.cu_seqlens = Some(CuSeqlens { q: bent(u, &[sequences])?, k: bent(u, &[sequences])? });
    } else if once_in(u, 4)? {
        let past = if once_in(u, 4)? { 0 } else { axis(u)? };
        all = keys.saturating_add(past);
        let key = bent(u, &[batch, kv_heads, past, dim])?;
        inputs.past = Some(Past { key, value: bent(u, &[batch, kv_heads, past, value_dim])? });
    } else {
        inputs.kv_lengths = maybe(u, |u| bent(u, &[batch]))?;
    }
    inputs.query_lengths = maybe(u, |u| bent(u, &[batch]))?;
    inputs.mask = maybe(u, |u| {
        let one = |u: &mut Unstructured<'_>, n: usize| Ok::<_, arbitrary::Error>(if u.arbitrary()? { n } else { 1 });
        let full = [one(u, batch)?, one(u, heads)?, one(u, queries)?, one(u, all)?];
        let first = u.choose_index(4)?;
        let shape = bent(u, &full[first..])?;
        Ok(if u.arbitrary()? { Mask::Bool(shape) } else { Mask::Float(shape) })
    })?;
    if let Some(size @ [q, k]) = block {
        let lead = [pick(u, &[1, batch])?, pick(u, &[1, heads])?];
        let blocks = [queries.div_ceil(q.max(1)), all.div_ceil(k.max(1))];
        let mask = bent(u, &[lead[0], lead[1], blocks[0], blocks[1]])?;
        inputs.block_mask = Some(BlockMask { mask, size });
    }
    if let Some(rotary) = rotary {
        let (positions, pairs) = (all.max(queries).saturating_add(axis(u)?), pick(u, &[1, dim / 2])?);
        let tables = [bent(u, &[positions, pairs])?, bent(u, &[positions, pairs])?];
        inputs.rotary = Some(RotaryEmbedding::new(rotary, tables));
    }
    inputs.alibi_slopes = maybe(u, |u| {
        let full = [batch, heads];
        let first = u.choose_index(2)?;
        bent(u, &full[first..])
    })?;
    inputs.sinks = maybe(u, |u| bent(u, &[heads]))?;
    if score == Score::Location {
        inputs.previous = Some(bent(u, &[batch, heads, queries, all])?);
    } else if matches!(normalize, Normalize::Monotonic(_)) {
        inputs.previous = maybe(u, |u| bent(u, &[batch, heads, 1, all]))?;
    }
    score_weights(u, &mut inputs, score, dim)?;
    Ok((options, inputs))
}

/// Whether a device that ends its invocations early makes honest work of long axes: a dispatch for every few turns.
fn is_slow(caps: &Caps, axes: &[usize]) -> bool {
    caps.max_iterations < 1000 && axes.iter().any(|&n| n > 5000)
}

/// Any attention; how many dispatches it came to, none where it was refused.
pub(crate) fn attention(u: &mut Unstructured<'_>) -> Result<Option<usize>> {
    let caps = caps(u)?;
    let (options, inputs) = any_attention(u)?;
    let Ok(problem) = AttentionProblem::new(&options, &inputs.map(Vec::as_slice, Vec::as_slice)) else {
        return Ok(None);
    };
    let [dims, units] = [&inputs.query, &inputs.key].map(|shape| shape.iter().copied().max().unwrap_or(0));
    if is_slow(&caps, &[dims, units, problem.keys, problem.score_dim, problem.value_dim]) {
        return Ok(None);
    }
    let element = pick(u, &[DType::F32, DType::F32, DType::F16])?;
    let cache = if once_in(u, 4)? { DType::Q8 } else { element };
    let storage = Storage { element, cache };
    let role = |name: &str| regard::problem::Role::of(name).dtype(storage);
    let dtypes = inputs.try_map(
        |name, _| Ok::<_, arbitrary::Error>(if once_in(u, 200)? { DType::U32 } else { role(name) }),
        |_, _| Ok(DType::U32),
    )?;
    let Ok(storage) = AttentionProblem::storage(&dtypes) else { return Ok(None) };
    let Ok(plan) = AttentionPlan::new(&options, &problem, storage, &caps) else { return Ok(None) };
    let each = if options.score == Score::Location { problem.queries } else { 1 };
    if plan.query_ranges.len().saturating_mul(each).saturating_mul(problem.queries.min(8)) > MOST_COMMANDS {
        return Ok(None);
    }
    let mut recording = Recording::new();
    let binding = RefCell::new((&mut *u, &mut recording));
    let bind = |name: &str, shape: &[usize], dtype: DType, repeats: bool| {
        let (u, recording) = &mut *binding.borrow_mut();
        view(u, recording, name, shape, dtype, repeats).map_err(Odd::Ended)?.ok_or(Odd::Shape)
    };
    let views = inputs
        .try_map(|name, shape| bind(name, shape, role(name), true), |name, shape| bind(name, shape, DType::U32, true));
    let shapes = problem.outputs(&options, storage.element, inputs.past.is_some());
    let outputs = shapes.try_map(|name, (shape, dtype)| bind(name, shape, *dtype, false));
    let (views, outputs) = match (views, outputs) {
        (Ok(views), Ok(outputs)) => (views, outputs),
        (Err(Odd::Ended(error)), _) | (_, Err(Odd::Ended(error))) => return Err(error),
        _ => return Ok(None),
    };
    Ok(match ops::attention::record(&mut recording, &caps, &options, &problem, &plan, &views, &outputs) {
        Ok(()) => {
            bounds::check(&recording, &caps);
            Some(recording.dispatches().count())
        }
        Err(_) => None,
    })
}

fn any_rnn(u: &mut Unstructured<'_>) -> Result<Rnn> {
    let cell = pick(
        u,
        &[Cell::Lstm, Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn],
    )?;
    let activations = [
        Activations::all(Activation::Softsign),
        Activations::all(Activation::Elu { alpha: f32::NAN }),
        Activations::all(Activation::Affine { alpha: 2.0, beta: f32::INFINITY }),
    ];
    let direction = pick(u, &[Direction::Forward, Direction::Reverse, Direction::Bidirectional])?;
    Ok(Rnn {
        direction,
        merge: pick(u, &[Merge::Concat, Merge::Concat, Merge::Sum, Merge::Mul, Merge::Average])?,
        reverse_activations: if once_in(u, 8)? { Some(pick(u, &activations)?) } else { None },
        clip: if once_in(u, 6)? { Some(number(u)?) } else { None },
        input_forget: once_in(u, 8)?,
        forget_bias: if once_in(u, 8)? { number(u)? } else { 0.0 },
        cell_clip: if once_in(u, 8)? { Some(number(u)?) } else { None },
        projection_clip: if once_in(u, 16)? { Some(number(u)?) } else { None },
        layer_norm: if once_in(u, 6)? {
            let over = pick(u, &[NormOver::Products, NormOver::Gates])?;
            Some(LayerNorm { over, carry: u.arbitrary()?, epsilon: number(u)? })
        } else {
            None
        },
        steps: pick(u, &[Steps::All, Steps::Last])?,
        path: pick(u, &[RnnAlgorithm::Auto, RnnAlgorithm::Steps, RnnAlgorithm::Wavefront, RnnAlgorithm::Persistent])?,
        ..Rnn::new(cell)
    })
}

/// Any recurrence; how many dispatches it came to, none where it was refused.
pub(crate) fn rnn(u: &mut Unstructured<'_>) -> Result<Option<usize>> {
    let caps = caps(u)?;
    let options = any_rnn(u)?;
    let (gates, directions) = (options.cell.gates(), options.direction.count());
    let [steps, batch, input, hidden] = [axis(u)?, axis(u)?, axis(u)?, axis(u)?];
    let layers = u.int_in_range(0..=4usize)?;
    let projection = if options.cell == Cell::Lstm && once_in(u, 6)? { Some(axis(u)?) } else { None };
    let state = projection.unwrap_or(hidden);
    let width = options.output_width(1).saturating_mul(state);
    let rows = gates.saturating_mul(hidden);
    let normed = options.layer_norm.is_some();
    let [bias, peephole, norms] = [u.arbitrary()?, once_in(u, 6)?, normed && u.arbitrary()?];
    let mut stack: RnnStack<Vec<usize>> = Vec::new();
    for l in 0..layers {
        let mut layer = Vec::new();
        for _ in 0..directions {
            let of_bias = |u: &mut Unstructured<'_>| if bias { bent(u, &[rows]).map(Some) } else { Ok(None) };
            layer.push(RnnWeights {
                weight_ih: bent(u, &[rows, if l == 0 { input } else { width }])?,
                weight_hh: bent(u, &[rows, state])?,
                bias_ih: of_bias(u)?,
                bias_hh: of_bias(u)?,
                peephole: if peephole { Some(bent(u, &[3, hidden])?) } else { None },
                weight_hr: projection.map(|p| vec![p, hidden]),
                norm_ih: None,
                norm_hh: if norms { Some(bent(u, &[2, rows])?) } else { None },
                norm_c: if norms { Some(bent(u, &[2, hidden])?) } else { None },
            });
        }
        stack.push(layer);
    }
    let states = |width: usize| [layers * directions, batch, width];
    let lstm = options.cell == Cell::Lstm;
    let inputs = RnnInputs {
        input: bent(u, &[steps, batch, input])?,
        initial_h: maybe(u, |u| bent(u, &states(state)))?,
        initial_c: if lstm { maybe(u, |u| bent(u, &states(hidden)))? } else { None },
        lengths: maybe(u, |u| bent(u, &[batch]))?,
    };
    let shapes: RnnStack<&[usize]> =
        stack.iter().map(|layer| layer.iter().map(|weights| weights.map(Vec::as_slice)).collect()).collect();
    let Ok(problem) = RnnProblem::new(&options, &shapes, &inputs.map(Vec::as_slice, Vec::as_slice)) else {
        return Ok(None);
    };
    let dtype = pick(u, &[DType::F32, DType::F16])?;
    let Ok(plan) = RnnPlan::new(&options, &problem, dtype, &caps) else { return Ok(None) };
    if plan.dispatches > MOST_COMMANDS || is_slow(&caps, &[steps, batch, input, hidden, state]) {
        return Ok(None);
    }
    let mut recording = Recording::new();
    let units = hidden.next_multiple_of(4);
    let vectors = bias || peephole;
    let vector_rows = kernels::recurrent::vector_rows(options.cell);
    let mut odd = false;
    let mut dense = |name: &'static str, shape: &[usize], dtype: DType| {
        let elements = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n)).filter(|&n| (n as u64) < 1 << 40);
        odd |= elements.is_none();
        let shape = if elements.is_some() { shape } else { &[1][..] };
        let bytes = dtype.bytes_of(elements.unwrap_or(1)) as u64;
        recording.bound(name, Layout::contiguous(shape), dtype, bytes)
    };
    let wavefront = plan.path == RnnAlgorithm::Wavefront;
    let weights = Weights {
        layers: (0..if wavefront { 1 } else { layers })
            .map(|l| LayerWeights {
                weight_ih: dense("weight_ih", &[problem.inputs[l], directions * gates * units], dtype),
                bias_ih: bias.then(|| dense("bias_ih", &[directions * gates * units], DType::F32)),
                weight_hh: dense("weight_hh", &[directions, state, gates, units], dtype),
                vectors: vectors.then(|| dense("vectors", &[directions, vector_rows, units], DType::F32)),
                weight_hr: projection.map(|p| dense("weight_hr", &[directions, hidden, p.next_multiple_of(4)], dtype)),
                norms: normed.then(|| dense("norms", &[directions, 18, units], DType::F32)),
            })
            .collect(),
        stacked: wavefront.then(|| StackedWeights {
            weight_hh: dense("weight_hh", &[layers, state, gates, units], dtype),
            weight_ih: dense("weight_ih", &[layers.saturating_sub(1), state, gates, units], dtype),
            vectors: vectors.then(|| dense("vectors", &[layers, vector_rows, units], DType::F32)),
        }),
        has_bias: bias,
        stacked_bias: bias,
        peepholes: peephole,
    };
    let outputs = RnnOutputs {
        output: dense("output", &problem.output_shape(&options), DType::F32),
        final_h: dense("final_h", &states(state), DType::F32),
        final_c: lstm.then(|| dense("final_c", &states(hidden), DType::F32)),
    };
    let views = {
        let binding = RefCell::new((&mut *u, &mut recording));
        let bind = |name: &str, shape: &[usize], kind: DType| {
            let (u, recording) = &mut *binding.borrow_mut();
            view(u, recording, name, shape, kind, true).ok().flatten().ok_or(Odd::Shape)
        };
        inputs.try_map(
            |name, shape| bind(name, shape, if name == "input" { dtype } else { DType::F32 }),
            |name, shape| bind(name, shape, DType::U32),
        )
    };
    let Ok(views) = views else { return Ok(None) };
    Ok(match ops::rnn::record(&mut recording, &caps, &options, &problem, &plan, &weights, &views, &outputs) {
        Ok(()) => {
            bounds::check(&recording, &caps);
            Some(recording.dispatches().count())
        }
        Err(_) => None,
    })
}

/// Rows into a cache, rows out of a table, rows turned by positions from a list, a copy.
pub(crate) fn movement(u: &mut Unstructured<'_>) -> Result<Option<usize>> {
    let caps = caps(u)?;
    let mut recording = Recording::new();
    let [batch, heads, rows, dim, capacity] = [axis(u)?, axis(u)?, axis(u)?, axis(u)?, axis(u)?];
    let dtype = pick(u, &[DType::F32, DType::F16, DType::U32, DType::Q8])?;
    let r = &mut recording;
    let mut bind = |u: &mut Unstructured<'_>, shape: &[usize], dtype: DType, repeats: bool| {
        let shape = bent(u, shape)?;
        view(u, r, "x", &shape, dtype, repeats)
    };
    let recorded = match u.int_in_range(0..=3u8)? {
        0 => {
            let paged = u.arbitrary()?;
            let pool = if paged { axis(u)? } else { batch };
            let views = [
                bind(u, &[batch, heads, rows, dim], DType::F32, true)?,
                bind(u, &[pool, heads, capacity, dim], dtype, false)?,
                bind(u, &[batch], DType::U32, true)?,
            ];
            let columns = axis(u)?;
            let table = if paged { bind(u, &[batch, columns], DType::U32, true)? } else { None };
            let [Some(new), Some(cache), Some(starts)] = views else { return Ok(None) };
            kernels::append::record(
                &mut recording,
                &caps,
                kernels::append::Rows { rows: &new, cache: &cache },
                None,
                &starts,
                table.as_ref(),
                u.arbitrary()?,
            )
        }
        1 => {
            let views = [
                bind(u, &[rows, dim], dtype, true)?,
                bind(u, &[heads], DType::U32, true)?,
                bind(u, &[heads, dim], DType::F32, false)?,
            ];
            let [Some(table), Some(ids), Some(output)] = views else { return Ok(None) };
            kernels::gather::record(&mut recording, &caps, &table, &ids, &output)
        }
        2 => {
            let [positions, pairs] = [axis(u)?, pick(u, &[1, dim / 2])?];
            let views = [
                bind(u, &[batch, heads, rows, dim], dtype, true)?,
                bind(u, &[positions, pairs], DType::F32, true)?,
                bind(u, &[positions, pairs], DType::F32, true)?,
                bind(u, &[batch, rows], DType::U32, true)?,
                bind(u, &[batch, heads, rows, dim], DType::F32, false)?,
            ];
            let [Some(x), Some(cos), Some(sin), Some(list), Some(output)] = views else { return Ok(None) };
            let rotary = Rotary { offset: pick(u, &[0, 1, usize::MAX])?, ..Rotary::default() };
            kernels::rotary::record(&mut recording, &caps, rotary, &x, [&cos, &sin], RowPositions::List(&list), &output)
        }
        _ => {
            let shape = [batch, heads, rows, dim];
            let shape = &shape[u.choose_index(4)?..];
            let views = [bind(u, shape, dtype, true)?, bind(u, shape, DType::F32, false)?];
            let [Some(source), Some(target)] = views else { return Ok(None) };
            kernels::copy::record(&mut recording, &caps, &source, &target)
        }
    };
    Ok(match recorded {
        Ok(()) => {
            bounds::check(&recording, &caps);
            Some(recording.dispatches().count())
        }
        Err(_) => None,
    })
}

/// Any of them.
pub(crate) fn problem(data: &[u8]) -> Option<usize> {
    let mut u = Unstructured::new(data);
    let done = match u.int_in_range(0..=4u8).unwrap_or(0) {
        0 | 1 => attention(&mut u),
        2 | 3 => rnn(&mut u),
        _ => movement(&mut u),
    };
    done.unwrap_or(None)
}
