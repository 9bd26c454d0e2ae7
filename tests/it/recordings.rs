//! Recordings made without a device: what the planner and the kernels' host side would send to one.

use std::cell::RefCell;

use regard::attention::{
    Algorithm, Attention, AttentionInputs, BlockMask, Causal, CuSeqlens, Mask, Monotonic, Normalize, Past, Rotary,
    RotaryEmbedding, RotaryLayout, Score, ScoreMod, ScoreStage, Window,
};
use regard::device::Caps;
use regard::kernels::{self, append::Rows};
use regard::layers::CoverageCost;
use regard::norm::Norm;
use regard::ops::{self, rnn::LayerWeights, rnn::StackedWeights, rnn::Weights};
use regard::plan::{AttentionPlan, RnnPlan};
use regard::problem::{AttentionProblem, RnnProblem, Role, Storage};
use regard::recording::{Recording, View};
use regard::rnn::{
    Activation, Activations, Cell, Direction, LayerNorm, Merge, NormOver, Reset, Rnn, RnnAlgorithm, RnnInputs,
    RnnOutputs, RnnStack, RnnWeights, Steps,
};
use regard::tensor::{DType, Layout};

fn bound(recording: &mut Recording, name: &'static str, shape: &[usize], dtype: DType) -> View {
    let layout = Layout::contiguous(shape);
    let bytes = dtype.bytes_of(layout.elements()) as u64;
    recording.bound(name, layout, dtype, bytes)
}

/// Attention over inputs of these shapes, query, key and value stored like this.
pub(crate) fn attention(
    caps: &Caps,
    options: &Attention,
    inputs: &AttentionInputs<Vec<usize>>,
    storage: impl Into<Storage>,
) -> Recording {
    let storage = storage.into();
    let problem = AttentionProblem::new(options, &inputs.map(Vec::as_slice, Vec::as_slice)).unwrap();
    let plan = AttentionPlan::new(options, &problem, storage, caps).unwrap();
    let mut recording = Recording::new();
    let shared = RefCell::new(&mut recording);
    let bind =
        |name: &'static str, shape: &[usize], dtype| Ok::<_, ()>(bound(&mut shared.borrow_mut(), name, shape, dtype));
    let views = inputs
        .try_map(
            |name, shape| bind(name, shape, Role::of(name).dtype(storage)),
            |name, shape| bind(name, shape, DType::U32),
        )
        .unwrap();
    let outputs = problem
        .outputs(options, storage.element, inputs.past.is_some())
        .try_map(|name, (shape, dtype)| Ok::<_, ()>(bound(&mut recording, name, shape, *dtype)))
        .unwrap();
    ops::attention::record(&mut recording, caps, options, &problem, &plan, &views, &outputs).unwrap();
    recording
}

/// The same on every path that can compute it.
fn attentions(caps: &Caps, options: &Attention, inputs: &AttentionInputs<Vec<usize>>, dtype: DType) -> Vec<Recording> {
    let problem = AttentionProblem::new(options, &inputs.map(Vec::as_slice, Vec::as_slice)).unwrap();
    let on = |path: Algorithm| {
        let options = Attention { path, ..options.clone() };
        AttentionPlan::new(&options, &problem, dtype, caps).is_ok().then(|| attention(caps, &options, inputs, dtype))
    };
    [Algorithm::Staged, Algorithm::Fused, Algorithm::Split].into_iter().filter_map(on).collect()
}

/// No memory for scores: beside the partial results of ranges nothing but copies of operands may be needed.
#[test]
fn scratch_of_fused_attention_grows_with_the_rows() {
    for software in [false, true] {
        let large = Caps::default().with(|caps| {
            caps.max_binding_bytes = 1 << 30;
            caps.max_buffer_bytes = 1 << 30;
        });
        let caps = large.with(|caps| {
            caps.software = software;
            caps.max_storage_buffers = 16;
        });
        let scratch = |n: usize, path: Algorithm, mask: Option<Mask<Vec<usize>>>| {
            let shape = vec![1, 1, n, 64];
            let inputs = AttentionInputs { mask, ..AttentionInputs::new(shape.clone(), shape.clone(), shape) };
            let options = Attention { path, lse: true, ..Attention::default() };
            attention(&caps, &options, &inputs, DType::F32).scratch_bytes()
        };
        for path in [Algorithm::Fused, Algorithm::Split, Algorithm::Auto] {
            for n in [1 << 12, 1 << 14, 1 << 16] {
                // Outputs and log-sum-exp in f32 of at most a handful of ranges.
                let (found, rows) = (scratch(n, path, None), n as u64 * 65 * 4);
                assert!(found <= 16 * rows, "{path}, {n}: {found} bytes for {rows} of output");
            }
            // A mask of all pairs is N² by itself; the map of its tiles is a small part of that.
            let n = 4096;
            let mapped = scratch(n, path, Some(Mask::Bool(vec![n, n]))) - scratch(n, path, None);
            assert!(mapped <= (n * n * 4) as u64 / 32, "{path}: {mapped} bytes");
        }
        assert!(scratch(4096, Algorithm::Staged, None) >= 4096 * 4096 * 4);
    }
}

/// What a recurrence is given beside its input.
#[derive(Clone, Copy, Default)]
pub(crate) struct Given {
    pub(crate) lengths: bool,
    pub(crate) bias: bool,
    pub(crate) peephole: bool,
    pub(crate) initial: bool,
    pub(crate) norms: bool,
    /// P of a projection.
    pub(crate) projection: Option<usize>,
}

/// A stack of `layers` over [steps, batch, input], and its plan.
pub(crate) fn rnn(
    caps: &Caps,
    options: &Rnn,
    [steps, batch, input, hidden, layers]: [usize; 5],
    given: Given,
    dtype: DType,
) -> (Recording, RnnPlan) {
    let (directions, gates) = (options.direction.count(), options.cell.gates());
    let state = given.projection.unwrap_or(hidden);
    let width = options.output_width(state);
    let inputs_of = |l: usize| if l == 0 { input } else { width };
    let stack: Vec<Vec<RnnWeights<Vec<usize>>>> = (0..layers)
        .map(|l| {
            let weights = RnnWeights {
                weight_hr: given.projection.map(|p| vec![p, hidden]),
                ..RnnWeights::new(vec![gates * hidden, inputs_of(l)], vec![gates * hidden, state])
            };
            vec![weights; directions]
        })
        .collect();
    let shapes: RnnStack<&[usize]> =
        stack.iter().map(|layer| layer.iter().map(|w| w.map(Vec::as_slice)).collect()).collect();
    let problem = RnnProblem::new(options, &shapes, &RnnInputs::new(&[steps, batch, input][..])).unwrap();
    let plan = RnnPlan::new(options, &problem, dtype, caps).unwrap();
    let mut recording = Recording::new();
    let r = &mut recording;
    let states = |width: usize| [layers * directions, batch, width];
    let lstm = options.cell == Cell::Lstm;
    let (units, vectors) = (hidden.next_multiple_of(4), given.bias || given.peephole);
    let rows = kernels::recurrent::vector_rows(options.cell);
    let wavefront = plan.path == RnnAlgorithm::Wavefront;
    let weights = Weights {
        layers: (0..if wavefront { 1 } else { layers })
            .map(|l| LayerWeights {
                weight_ih: bound(r, "weight_ih", &[inputs_of(l), directions * gates * units], dtype),
                bias_ih: given.bias.then(|| bound(r, "bias_ih", &[directions * gates * units], DType::F32)),
                weight_hh: bound(r, "weight_hh", &[directions, state, gates, units], dtype),
                vectors: vectors.then(|| bound(r, "vectors", &[directions, rows, units], DType::F32)),
                weight_hr: given
                    .projection
                    .map(|p| bound(r, "weight_hr", &[directions, hidden, p.next_multiple_of(4)], dtype)),
                norms: given.norms.then(|| bound(r, "norms", &[directions, 18, units], DType::F32)),
            })
            .collect(),
        stacked: wavefront.then(|| StackedWeights {
            weight_hh: bound(r, "weight_hh", &[layers, state, gates, units], dtype),
            weight_ih: bound(r, "weight_ih", &[layers - 1, state, gates, units], dtype),
            vectors: vectors.then(|| bound(r, "vectors", &[layers, rows, units], DType::F32)),
        }),
        has_bias: given.bias,
        stacked_bias: given.bias,
        peepholes: given.peephole,
    };
    let inputs = RnnInputs {
        input: bound(r, "input", &[steps, batch, input], dtype),
        initial_h: given.initial.then(|| bound(r, "initial_h", &states(state), DType::F32)),
        initial_c: (given.initial && lstm).then(|| bound(r, "initial_c", &states(hidden), DType::F32)),
        lengths: given.lengths.then(|| bound(r, "lengths", &[batch], DType::U32)),
    };
    let outputs = RnnOutputs {
        output: bound(r, "output", &problem.output_shape(options), DType::F32),
        final_h: bound(r, "final_h", &states(state), DType::F32),
        final_c: lstm.then(|| bound(r, "final_c", &states(hidden), DType::F32)),
    };
    ops::rnn::record(r, caps, options, &problem, &plan, &weights, &inputs, &outputs).unwrap();
    (recording, plan)
}

/// Recordings that together use every variant that options can lead to.
pub(crate) fn every_kind(caps: &Caps) -> Vec<Recording> {
    let mut all = Vec::new();
    let shapes = |queries: usize, keys: usize, dim: usize| {
        AttentionInputs::new(vec![2, 4, queries, dim], vec![2, 2, keys, dim], vec![2, 2, keys, 7])
    };
    let plain = Attention::default();
    for dtype in [DType::F32, DType::F16] {
        for (queries, keys, dim) in [(1, 5, 8), (1, 300, 64), (9, 70, 40), (4, 70_000, 3)] {
            all.extend(attentions(caps, &plain, &shapes(queries, keys, dim), dtype));
        }
        for score in [Score::Dot, Score::Cosine, Score::General, Score::Additive, Score::Concat] {
            let options = Attention { score, ..plain.clone() };
            let mut inputs = shapes(9, 11, 8);
            match score {
                Score::General => inputs.score.weight = Some(vec![8, 8]),
                Score::Concat => {
                    (inputs.score.weight, inputs.score.v) = (Some(vec![5, 16]), Some(vec![5]));
                }
                Score::Additive => {
                    all.extend(attentions(caps, &options, &inputs, dtype));
                    inputs.score.query_weight = Some(vec![5, 8]);
                    inputs.score.key_weight = Some(vec![5, 8]);
                    (inputs.score.v, inputs.score.bias) = (Some(vec![5]), Some(vec![5]));
                }
                _ => {}
            }
            all.extend(attentions(caps, &options, &inputs, dtype));
        }
        let cached = AttentionInputs::new(vec![2, 4, 3, 64], vec![2, 2, 70, 64], vec![2, 2, 70, 32]);
        all.push(attention(caps, &plain, &cached, Storage { element: dtype, cache: DType::Q8 }));
        let mut past = shapes(3, 2, 8);
        past.past = Some(Past { key: vec![2, 2, 6, 8], value: vec![2, 2, 6, 7] });
        all.extend(attentions(caps, &plain, &past, dtype));
    }
    let normalizers = [
        Normalize::Softmax,
        Normalize::Hardmax,
        Normalize::Sample { seed: 1 },
        Normalize::Sparsemax,
        Normalize::Monotonic(Monotonic::Parallel),
        Normalize::Monotonic(Monotonic::Recursive),
        Normalize::Monotonic(Monotonic::Hard),
    ];
    for normalize in normalizers {
        let lse = matches!(normalize, Normalize::Softmax | Normalize::Sample { .. });
        let monotonic = matches!(normalize, Normalize::Monotonic(_));
        let hard = matches!(normalize, Normalize::Hardmax | Normalize::Monotonic(Monotonic::Hard));
        let mut inputs = shapes(3, 9, 8);
        all.extend(attentions(caps, &Attention { normalize, lse, ..plain.clone() }, &inputs, DType::F32));
        let temperature = (!hard).then_some(0.5);
        inputs.previous = monotonic.then(|| vec![2, 4, 1, 9]);
        let options = Attention { normalize, entropy: true, temperature, ..plain.clone() };
        all.extend(attentions(caps, &options, &inputs, DType::F32));
    }
    // Long enough for several dispatches along queries or keys.
    let monotonic = Attention { normalize: Normalize::Monotonic(Monotonic::Parallel), ..plain.clone() };
    all.extend(attentions(caps, &monotonic, &shapes(2000, 300, 4), DType::F32));

    for dtype in [DType::F32, DType::F16] {
        for layout in [RotaryLayout::HalfSplit, RotaryLayout::Interleaved] {
            let options = Attention { causal: Some(Causal::TopLeft), ..plain.clone() };
            let mut inputs = shapes(3, 2, 8);
            let rotary = Rotary { layout, offset: 3 };
            inputs.rotary = Some(RotaryEmbedding::new(rotary, [vec![20, 3], vec![20, 3]]));
            all.extend(attentions(caps, &options, &inputs, dtype));
            inputs.past = Some(Past { key: vec![2, 2, 6, 8], value: vec![2, 2, 6, 7] });
            all.extend(attentions(caps, &options, &inputs, dtype));
        }
        let options = Attention { score: Score::Location, ..plain.clone() };
        let mut inputs = shapes(3, 9, 8);
        inputs.score.query_weight = Some(vec![5, 8]);
        inputs.score.key_weight = Some(vec![5, 8]);
        (inputs.score.v, inputs.score.g) = (Some(vec![5]), Some(vec![1]));
        (inputs.score.location_filter, inputs.score.location_weight) = (Some(vec![2, 3]), Some(vec![5, 2]));
        inputs.previous = Some(vec![2, 4, 3, 9]);
        all.extend(attentions(caps, &options, &inputs, dtype));

        let ragged = Attention {
            causal: Some(Causal::BottomRight),
            window: Some(Window { left: Some(3), right: Some(0), sink_tokens: 2 }),
            ..plain.clone()
        };
        let mut inputs = AttentionInputs::new(vec![1, 4, 70, 8], vec![1, 2, 90, 8], vec![1, 2, 90, 7]);
        inputs.cu_seqlens = Some(CuSeqlens { q: vec![6], k: vec![6] });
        inputs.rotary = Some(RotaryEmbedding::new(Rotary::default(), [vec![40, 4], vec![40, 4]]));
        inputs.block_mask = Some(BlockMask { mask: vec![1, 4, 18, 90], size: [4, 1] });
        all.extend(attentions(caps, &ragged, &inputs, dtype));

        let mut inputs = AttentionInputs::new(vec![2, 4, 1, 8], vec![10, 2, 16, 8], vec![10, 2, 16, 7]);
        (inputs.kv_lengths, inputs.block_table) = (Some(vec![2]), Some(vec![2, 4]));
        inputs.query_lengths = Some(vec![2]);
        all.extend(attentions(caps, &plain, &inputs, dtype));

        let mut recording = Recording::new();
        let r = &mut recording;
        let new = bound(r, "new", &[2, 3, 4, 8], dtype);
        let (cache, pool) = (bound(r, "cache", &[2, 3, 20, 8], dtype), bound(r, "pool", &[9, 3, 4, 8], dtype));
        let (starts, table) = (bound(r, "starts", &[2], DType::U32), bound(r, "table", &[2, 5], DType::U32));
        kernels::append::record(r, caps, Rows { rows: &new, cache: &cache }, None, &starts, None, false).unwrap();
        kernels::append::record(r, caps, Rows { rows: &new, cache: &cache }, None, &starts, None, true).unwrap();
        kernels::append::record(r, caps, Rows { rows: &new, cache: &pool }, None, &starts, Some(&table), false)
            .unwrap();
        let (values, value_cache) =
            (bound(r, "values", new.shape(), dtype), bound(r, "value cache", cache.shape(), dtype));
        let (keys, values) = (Rows { rows: &new, cache: &cache }, Rows { rows: &values, cache: &value_cache });
        kernels::append::record(r, caps, keys, Some(values), &starts, None, false).unwrap();
        let (wide, cache) = (bound(r, "wide", &[2, 3, 4, 32], dtype), bound(r, "cache", &[2, 3, 20, 32], DType::Q8));
        kernels::append::record(r, caps, Rows { rows: &wide, cache: &cache }, None, &starts, None, true).unwrap();
        let tables = [&bound(r, "cos", &[9, 4], DType::F32), &bound(r, "sin", &[9, 4], DType::F32)];
        let (turned, list) = (r.scratch("turned", &[2, 3, 4, 8], dtype), bound(r, "list", &[2, 4], DType::U32));
        let place = kernels::rotary::RowPositions::List(&list);
        kernels::rotary::record(r, caps, Rotary::default(), &new, tables, place, &turned).unwrap();
        use kernels::{elementwise, norm, reduce, top_k};
        let (x, row) = (bound(r, "x", &[2, 3, 4, 9], dtype), bound(r, "row", &[9], DType::F32));
        let [y, sum] = ["y", "sum"].map(|name| r.scratch(name, &[2, 3, 4, 9], DType::F32));
        let (totals, lengths) = (r.scratch("totals", &[2, 3, 4], DType::F32), bound(r, "lengths", &[2], DType::U32));
        for other in [None, Some((elementwise::Op::Add, &row)), Some((elementwise::Op::Multiply, &x))] {
            elementwise::record(r, caps, &x, other, Some(Activation::Gelu), &y).unwrap();
        }
        for scale in [[None, None], [Some(&row), None], [Some(&row), Some(&row)]] {
            norm::record(r, caps, Norm::rms(1e-5), &x, None, scale, &y).unwrap();
            let added = Some(norm::Residual { residual: &x, sum: &sum });
            norm::record(r, caps, Norm::layer(1e-5), &x, added, scale, &y).unwrap();
        }
        reduce::record(r, caps, reduce::Reduction::Sum, &x, None, &totals).unwrap();
        reduce::record(r, caps, reduce::Reduction::Mean, &x, Some(&lengths), &totals).unwrap();
        let (values, ids) =
            (r.scratch("values", &[2, 3, 4, 2], DType::F32), r.scratch("ids", &[2, 3, 4, 2], DType::U32));
        top_k::record(r, caps, &x, &values, &ids).unwrap();
        use kernels::merge_partials::{Merged, Partials, Stats, Terms};
        let mut partial = |dtype: DType| {
            let lse = Stats::LogSumExp(bound(r, "lse", &[2, 3, 4], DType::F32));
            Partials { output: bound(r, "output", &[2, 3, 4, 8], dtype), stats: lse, count: 1 }
        };
        let [a, b, whole] = &[partial(dtype), partial(DType::F32), partial(dtype)];
        let pair = bound(r, "max_sum", &[2, 3, 4, 2], DType::F32);
        for (lse, max_sum) in
            [(Some(whole.stats.view()), None), (None, Some((&pair, true))), (None, Some((&pair, false)))]
        {
            let merged = Merged { output: &whole.output, lse, max_sum };
            kernels::merge_partials::record(r, caps, a, Some(b), merged, Terms::default()).unwrap();
        }
        all.push(recording);
    }
    for mask in [Mask::Bool(vec![9]), Mask::Float(vec![2, 1, 3, 9])] {
        let inputs = AttentionInputs { mask: Some(mask.clone()), ..shapes(3, 9, 40) };
        all.extend(attentions(
            caps,
            &Attention { softcap: Some(5.0), lse: true, ..plain.clone() },
            &inputs,
            DType::F32,
        ));
        for stage in [ScoreStage::Raw, ScoreStage::Capped, ScoreStage::Masked] {
            let options = Attention {
                softcap: Some(5.0),
                causal: Some(Causal::BottomRight),
                window: Some(Window::new(Some(2), None)),
                weights: true,
                scores: Some(stage),
                score_mod: Some(ScoreMod::new(
                    "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 { return score * 2.0; }",
                    None,
                )),
                ..plain.clone()
            };
            let mut inputs = shapes(3, 9, 8);
            inputs.mask = Some(mask.clone());
            inputs.kv_lengths = Some(vec![2]);
            inputs.alibi_slopes = Some(vec![4]);
            inputs.sinks = Some(vec![4]);
            all.extend(attentions(caps, &options, &inputs, DType::F32));
            let fused = Attention { weights: false, scores: None, lse: true, temperature: Some(2.0), ..options };
            all.extend(attentions(caps, &fused, &inputs, DType::F16));
        }
    }
    for (dim, value_dim) in [(3, 64), (64, 65), (256, 256)] {
        let inputs = AttentionInputs::new(vec![1, 4, 70, dim], vec![1, 2, 90, dim], vec![1, 2, 90, value_dim]);
        all.extend(attentions(caps, &plain, &inputs, DType::F16));
    }

    recurrences(caps, &mut all);
    products(caps, &mut all);

    for keys in [5, 300, 3000] {
        let mut recording = Recording::new();
        let r = &mut recording;
        let [alignment, before, after] = ["alignment", "before", "after"].map(|n| bound(r, n, &[4, keys], DType::F32));
        let cost = bound(r, "cost", &[4], DType::F32);
        for asked in [None, Some(CoverageCost::Overlap), Some(CoverageCost::DoublyStochastic { factor: 1.0 })] {
            for before in [None, Some(&before)] {
                let cost = asked.map(|asked| (asked, &cost));
                kernels::coverage::record(r, caps, &alignment, before, &after, cost).unwrap();
            }
        }
        all.push(recording);
    }

    let mut recording = Recording::new();
    let output = bound(&mut recording, "output", &[128], DType::F32);
    kernels::fma_rate::record(&mut recording, caps, [0.5, 1.0], 1000, &output).unwrap();
    kernels::barrier_rate::record(&mut recording, caps, 1000, &output).unwrap();
    if caps.cooperative.is_some() {
        let output = bound(&mut recording, "output", &[1024], DType::F32);
        kernels::coop_rate::record(&mut recording, caps, 1000, &output).unwrap();
    }
    all.push(recording);

    for dtype in [DType::F32, DType::F16] {
        let mut recording = Recording::new();
        let r = &mut recording;
        let (table, ids) = (bound(r, "table", &[9, 6], dtype), bound(r, "ids", &[4], DType::U32));
        let rows = r.scratch("rows", &[4, 6], DType::F32);
        kernels::gather::record(r, caps, &table, &ids, &rows).unwrap();
        let weight = bound(r, "weight", &[3, 6], dtype);
        let y = r.scratch("y", &[4, 3], DType::F32);
        let summands = [(&rows, &weight), (&rows, &weight)];
        let epilogue = regard::epilogue::Epilogue { activation: Some(Activation::Tanh), ..Default::default() };
        kernels::matmul::record(r, caps, &summands, &epilogue, &y).unwrap();
        all.push(recording);
    }
    all
}

/// Products in every form, from every layout, with and without what follows.
fn products(caps: &Caps, all: &mut Vec<Recording>) {
    let sizes = [[1, 40, 64], [3, 40, 64], [8, 40, 64], [20, 40, 64], [70, 40, 4096], [1000, 1200, 60], [5, 7, 30_000]];
    for (k, ([rows, columns, depth], turned)) in sizes.into_iter().flat_map(|s| [0, 1, 2].map(|t| (s, t))).enumerate() {
        let dtype = [DType::F32, DType::F16][k % 2];
        let mut recording = Recording::new();
        let r = &mut recording;
        let x = bound(r, "x", &[rows, depth], dtype);
        let w = match turned {
            0 => bound(r, "w", &[columns, depth], dtype),
            1 => {
                let w = bound(r, "w", &[depth, columns], dtype);
                w.with(w.layout.permute(&[1, 0]).unwrap())
            }
            _ => {
                let w = bound(r, "w", &[columns, depth + 1], dtype);
                w.with(w.layout.narrow(1, 1, depth).unwrap())
            }
        };
        let (bias, residual) =
            (bound(r, "bias", &[columns], DType::F32), bound(r, "residual", &[rows, columns], dtype));
        let y = bound(r, "y", &[rows, columns], dtype);
        let whole = regard::epilogue::Epilogue {
            bias: Some(&bias),
            residual: Some(&residual),
            activation: Some(Activation::Softplus),
        };
        let epilogue = if k % 3 == 0 { whole } else { regard::epilogue::Epilogue::default() };
        kernels::matmul::record(r, caps, &[(&x, &w)], &epilogue, &y).unwrap();
        all.push(recording);
    }
}

/// Every cell, path, direction and option of a recurrence.
fn recurrences(caps: &Caps, all: &mut Vec<Recording>) {
    let cells = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];
    let sizes = [(1, 5, Merge::Concat), (5, 70, Merge::Sum), (3, 16, Merge::Mul), (4, 16, Merge::Average)];
    for (cell, (batch, hidden, merge)) in cells.into_iter().flat_map(|cell| sizes.map(|size| (cell, size))) {
        let lstm = cell == Cell::Lstm;
        for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
            let both = direction == Direction::Bidirectional;
            let f = [Activation::Softplus, Activation::Softsign, Activation::Elu { alpha: 1.0 }];
            let plain = Rnn {
                direction,
                merge: if both { merge } else { Merge::Concat },
                clip: (batch == 5).then_some(3.0),
                cell_clip: (lstm && batch == 4).then_some(2.0),
                input_forget: lstm && batch == 3,
                activations: Activations::onnx(cell, f),
                reverse_activations: (both && batch == 3).then(|| Activations::all(Activation::Tanh)),
                steps: if batch == 4 { Steps::Last } else { Steps::All },
                ..Rnn::new(cell)
            };
            let given = Given {
                lengths: batch > 1,
                bias: batch != 3,
                peephole: lstm && batch == 4,
                initial: batch == 5,
                ..Given::default()
            };
            let dtype = if batch == 4 { DType::F16 } else { DType::F32 };
            for path in [RnnAlgorithm::Auto, RnnAlgorithm::Steps, RnnAlgorithm::Wavefront, RnnAlgorithm::Persistent] {
                let options = Rnn { path, ..plain.clone() };
                let two_stages = cell == Cell::Gru { reset: Reset::Before };
                let possible = match path {
                    RnnAlgorithm::Wavefront => !both && !two_stages,
                    RnnAlgorithm::Persistent => hidden <= 70 && (caps.max_invocations >= 512 || hidden < 70 || !both),
                    _ => true,
                };
                if possible {
                    all.push(rnn(caps, &options, [3, batch, 6, hidden, 2], given, dtype).0);
                }
            }
            for (over, carry) in [(NormOver::Products, true), (NormOver::Gates, false)] {
                if !lstm {
                    continue;
                }
                let layer_norm = Some(LayerNorm { over, carry, epsilon: 1e-3 });
                let projection_clip = (batch == 5).then_some(1.0);
                for projection in [None, Some(6)] {
                    let options = Rnn {
                        layer_norm: layer_norm.filter(|_| projection.is_none() || batch > 1),
                        projection_clip: projection_clip.filter(|_| projection.is_some()),
                        ..plain.clone()
                    };
                    let given = Given { projection, norms: options.layer_norm.is_some() && batch == 5, ..given };
                    all.push(rnn(caps, &options, [3, batch, 6, hidden, 2], given, dtype).0);
                }
            }
        }
    }
}

#[test]
fn the_steps_of_a_layer_bind_the_same_buffers() {
    let options = Rnn { path: RnnAlgorithm::Steps, ..Rnn::new(Cell::Lstm) };
    let (recording, _) = rnn(&Caps::default(), &options, [20, 3, 4, 8, 1], Given::default(), DType::F32);
    let mut steps = recording.dispatches().filter(|d| d.variant.kernel.name() == "recurrent");
    let first = steps.next().unwrap();
    assert!(steps.all(|d| d.bindings == first.bindings && d.variant == first.variant && d.params != first.params));
}

#[test]
fn no_recording_passes_the_iteration_limit_or_binds_a_buffer_twice() {
    use regard::recording::Binding;
    let caps = Caps::default().with(|caps| caps.f16 = true);
    for recording in every_kind(&caps) {
        for dispatch in recording.dispatches() {
            let name = dispatch.variant.label();
            assert!(dispatch.iterations <= caps.max_iterations, "{name}: {} iterations", dispatch.iterations);
            assert!(dispatch.grid.iter().all(|&n| n >= 1 && n <= caps.max_workgroups), "{name}: {:?}", dispatch.grid);
            for (k, binding) in dispatch.bindings.iter().enumerate() {
                let Binding::Write(slot) = binding else { continue };
                let again = |(other, b): (usize, &Binding)| {
                    other != k && matches!(b, Binding::Read(s) | Binding::Write(s) if s == slot)
                };
                assert!(!dispatch.bindings.iter().enumerate().any(again), "{name} reads and writes one buffer");
            }
        }
    }
}
