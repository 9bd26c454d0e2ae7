//! What must hold of recurrences on the GPU, of every cell on every path, whatever the shapes, lengths and states: drawn
//! at random, from the same seed every time.
//!
//! Where the same programs run over the same rows the bits must be the same. Where one call is cut into several, or
//! several joined into one, products may be tiled another way and sums come in another order: then every result must be
//! within the tolerance rule of what the reference gives for the other form.

use proptest::prelude::*;
use regard::baseline::judge_rnn;
use regard::gpu::Run;
use regard::ops::rnn::GpuRnn;
use regard::reference::{self, Float};
use regard::rnn::{
    Cell, Direction, LayerNorm, Merge, NormOver, Reset, Rnn, RnnAlgorithm, RnnInputs, RnnOutputs, RnnStack, RnnWeights,
    Steps,
};
use regard::tensor::{Array, DType, Layout};
use regard::{Result, Tensor};

use crate::gpu::{self, cards, drawn, gpu, minimal_gpu, some};
use crate::gpu_properties::{hold, wrong};
use crate::layers::{Named, judge_all, numbers};

const CELLS: [Cell; 4] = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];
const ONE_WAY: [Direction; 2] = [Direction::Forward, Direction::Reverse];

/// Every path that can run this. A wavefront is for several layers in one direction whose step is one dispatch; a loop
/// in one dispatch, for what no other workgroup has a part in.
fn paths(shape: &Shape, options: &Rnn) -> Vec<RnnAlgorithm> {
    let mut paths = vec![RnnAlgorithm::Auto, RnnAlgorithm::Steps];
    if options.layer_norm.is_none() && shape.projection.is_none() {
        paths.push(RnnAlgorithm::Persistent);
        let one_dispatch = options.cell != Cell::Gru { reset: Reset::Before };
        if one_dispatch && shape.layers > 1 && options.direction != Direction::Bidirectional {
            paths.push(RnnAlgorithm::Wavefront);
        }
    }
    paths
}

/// Sizes of a drawn call.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    /// P of an LSTM with a projection.
    projection: Option<usize>,
    layers: usize,
    /// Of each row as a share of the steps.
    lengths: [f64; 6],
    seed: u16,
}

pub(crate) fn shape() -> impl Strategy<Value = Shape> {
    let hidden = proptest::sample::select(vec![1, 5, 16, 33, 64]);
    let lengths = [(); 6].map(|()| prop_oneof![1 => Just(0.0), 1 => Just(1.0), 3 => 0.0..1.0f64]);
    (1..12usize, 1..7usize, 1..20usize, hidden, 1..4usize, lengths, any::<u16>()).prop_map(
        |(steps, batch, input, hidden, layers, lengths, seed)| Shape {
            lengths,
            seed,
            ..Shape::full([steps, batch, input, hidden, layers])
        },
    )
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Request<T> {
    pub(crate) options: Rnn,
    pub(crate) stack: RnnStack<Array<T>>,
    pub(crate) inputs: RnnInputs<Array<T>>,
}

impl Shape {
    pub(crate) fn full([steps, batch, input, hidden, layers]: [usize; 5]) -> Self {
        Self { steps, batch, input, hidden, projection: None, layers, lengths: [1.0; 6], seed: 7 }
    }

    /// h of half as many elements.
    pub(crate) fn project(&mut self) {
        self.projection = Some(self.hidden.div_ceil(2));
    }

    /// P: width of h.
    fn state(&self) -> usize {
        self.projection.unwrap_or(self.hidden)
    }

    fn lengths(&self) -> Vec<usize> {
        (0..self.batch).map(|b| (self.lengths[b] * (self.steps as f64 + 0.99)).floor() as usize).collect()
    }

    /// Full rows, an initial state, weights within 1/√H.
    pub(crate) fn request(&self, options: Rnn) -> Request<f32> {
        let (rows, hidden, bound) =
            (options.cell.gates() * self.hidden, self.hidden, 1.0 / (self.hidden as f32).sqrt());
        let (directions, width) = (options.direction.count(), options.output_width(self.state()));
        let mut stream = f32::from(self.seed);
        let mut draw = |shape: &[usize], size: f32| {
            stream += 1.0;
            numbers(shape, stream, size)
        };
        let normed = options.layer_norm.is_some();
        let products = options.layer_norm.is_some_and(|norm| norm.over == NormOver::Products);
        let mut cell = |columns: usize| RnnWeights {
            bias_ih: Some(draw(&[rows], bound)),
            bias_hh: Some(draw(&[rows], bound)),
            weight_hr: self.projection.map(|p| draw(&[p, hidden], 1.7 * bound)),
            norm_ih: products.then(|| draw(&[2, rows], 1.0)),
            norm_hh: normed.then(|| draw(&[2, rows], 1.0)),
            norm_c: normed.then(|| draw(&[2, hidden], 1.0)),
            ..RnnWeights::new(draw(&[rows, columns], bound), draw(&[rows, self.state()], bound))
        };
        let columns = |l: usize| if l == 0 { self.input } else { width };
        let stack = (0..self.layers).map(|l| (0..directions).map(|_| cell(columns(l))).collect()).collect();
        let states = |width: usize| [self.layers * directions, self.batch, width];
        let inputs = RnnInputs {
            input: draw(&[self.steps, self.batch, self.input], 1.7),
            initial_h: Some(draw(&states(self.state()), 0.9)),
            initial_c: (options.cell == Cell::Lstm).then(|| draw(&states(hidden), 1.7)),
            lengths: None,
        };
        Request { options, stack, inputs }
    }

    /// With lengths, and NaN past them.
    pub(crate) fn ragged(&self, options: Rnn) -> Request<f32> {
        let (mut request, lengths) = (self.request(options), self.lengths());
        request.inputs.lengths = Some(Array::from_fn(&[self.batch], |b| lengths[b] as u32));
        for (row, x) in request.inputs.input.data_mut().chunks_exact_mut(self.input).enumerate() {
            if row / self.batch >= lengths[row % self.batch] {
                x.fill(f32::NAN);
            }
        }
        request
    }
}

type Outputs<T> = RnnOutputs<Array<T>>;

impl Request<f32> {
    fn on_gpu(&self, dtype: DType) -> Result<Outputs<f32>> {
        gpu::rnn(gpu(), &self.options, &self.stack, &self.inputs, dtype)
    }

    fn widened(&self) -> Request<f64> {
        let stack = self.stack.iter().map(|layer| layer.iter().map(|w| w.map(Array::cast)).collect()).collect();
        Request { options: self.options.clone(), stack, inputs: self.inputs.map_numbers(Array::cast) }
    }

    /// Every result within the tolerance rule of this call's oracle.
    fn judge(&self, got: &Outputs<f32>, dtype: DType) -> Result<()> {
        let verdicts = judge_rnn(&self.options, &self.stack, &self.inputs, got, dtype)?;
        verdicts.into_iter().try_for_each(|(name, verdict)| verdict.check(name).map(|_| ()))
    }
}

impl<T: Float> Request<T> {
    fn on_cpu(&self) -> Result<Outputs<T>> {
        reference::rnn(&self.options, &self.stack, &self.inputs)
    }

    /// One direction of a layer in both.
    fn one_way(&self, d: usize) -> Result<Self> {
        let mut one = self.clone();
        one.options = Rnn { direction: ONE_WAY[d], merge: Merge::Concat, ..self.options.clone() };
        one.stack = vec![vec![self.stack[0][d].clone()]];
        one.inputs.initial_h = self.inputs.initial_h.as_ref().map(|h| cut(h, 0, d, 1)).transpose()?;
        one.inputs.initial_c = self.inputs.initial_c.as_ref().map(|c| cut(c, 0, d, 1)).transpose()?;
        Ok(one)
    }

    /// The first `length` steps of row `b`.
    fn row(&self, b: usize, length: usize) -> Result<Self> {
        let mut one = self.clone();
        let state = |a: &Option<Array<T>>| a.as_ref().map(|a| cut(a, 1, b, 1)).transpose();
        one.inputs = RnnInputs {
            input: cut(&cut(&self.inputs.input, 1, b, 1)?, 0, 0, length)?,
            initial_h: state(&self.inputs.initial_h)?,
            initial_c: state(&self.inputs.initial_c)?,
            lengths: None,
        };
        Ok(one)
    }
}

fn named<T: Clone>(outputs: &Outputs<T>) -> Named<T> {
    outputs.named().map(|(name, array)| (name.to_owned(), array.clone())).collect()
}

/// The bits of every result.
fn bits(outputs: &Outputs<f32>) -> Vec<Array<u32>> {
    outputs.named().map(|(_, array)| array.map(|x| x.to_bits())).collect()
}

/// One axis cut to `length` entries from `start` on.
fn cut<T: Clone>(array: &Array<T>, axis: usize, start: usize, length: usize) -> Result<Array<T>> {
    array.gather(&Layout::contiguous(array.shape()).narrow(axis, start, length)?)
}

/// The valid steps of every row of [T, B, ·] in reverse order, the rest as it is.
fn flip(array: &Array<f32>, lengths: &[usize]) -> Array<f32> {
    let (batch, width) = (array.shape()[1], array.shape()[2]);
    Array::from_fn(array.shape(), |k| {
        let (t, b, column) = (k / width / batch, k / width % batch, k % width);
        let from = if t < lengths[b] { lengths[b] - 1 - t } else { t };
        array.data()[(from * batch + b) * width + column]
    })
}

/// What both directions give as one.
fn join<T: Float>(merge: Merge, a: &Array<T>, b: &Array<T>) -> Array<T> {
    let each = |f: fn(T, T) -> T| Array::from_fn(a.shape(), |k| f(a.data()[k], b.data()[k]));
    match merge {
        Merge::Sum => each(|a, b| a + b),
        Merge::Mul => each(|a, b| a * b),
        Merge::Average => each(|a, b| (a + b) * T::from_f64(0.5)),
        Merge::Concat => {
            let width = *a.shape().last().unwrap();
            let shape = [&a.shape()[..a.shape().len() - 1], &[2 * width]].concat();
            let of = |k: usize| if (k / width).is_multiple_of(2) { a } else { b };
            Array::from_fn(&shape, |k| of(k).data()[k / width / 2 * width + k % width])
        }
    }
}

/// `b` behind `a` along the first axis.
fn stacked<T: Clone>(a: &Array<T>, b: &Array<T>) -> Result<Array<T>> {
    let shape = [&[a.shape()[0] + b.shape()[0]], &a.shape()[1..]].concat();
    Array::new(&shape, [a.data(), b.data()].concat())
}

/// A property of every cell on every path, over `cases` drawn shapes; of LSTMs with a projection and with layer
/// normalisation too.
fn hold_everywhere(cases: u32, directions: &[Direction], property: impl Fn(&Shape, Rnn) -> Result<()>) {
    hold(drawn(cases), shape(), |shape| {
        let norm = |over| LayerNorm { over, carry: !shape.seed.is_multiple_of(2), epsilon: 1e-3 };
        let norm = norm(if shape.seed / 2 % 2 == 1 { NormOver::Gates } else { NormOver::Products });
        // Narrower, as wide, wider.
        let projection = [shape.hidden / 2 + 1, shape.hidden, shape.hidden + 3][usize::from(shape.seed % 3)];
        let projected = Shape { projection: Some(projection), ..shape.clone() };
        let forms = CELLS.map(|cell| (&shape, Rnn::new(cell))).into_iter().chain([
            (&projected, Rnn::new(Cell::Lstm)),
            (&shape, Rnn { layer_norm: Some(norm), ..Rnn::new(Cell::Lstm) }),
        ]);
        for (shape, form) in forms {
            for &direction in directions {
                let form = Rnn { direction, ..form.clone() };
                for path in paths(shape, &form) {
                    property(shape, Rnn { path, ..form.clone() }).map_err(|error| {
                        let (cell, norm, projection) = (form.cell, form.layer_norm, shape.projection);
                        wrong(format!(
                            "{cell:?}, {norm:?}, projection {projection:?}, {direction:?}, {path:?}: {error}"
                        ))
                    })?;
                }
            }
        }
        Ok(())
    });
}

/// So all paths agree with each other within twice that, too.
#[test]
fn every_path_is_within_the_tolerance_of_the_oracle() {
    hold_everywhere(3, &[Direction::Forward, Direction::Reverse, Direction::Bidirectional], |shape, options| {
        let request = shape.ragged(options);
        let [card, minimal_card] = cards();
        for gpu in some([gpu(), minimal_gpu(), card, minimal_card], 2) {
            let got = gpu::rnn(gpu, &request.options, &request.stack, &request.inputs, DType::F32)?;
            request.judge(&got, DType::F32)?;
        }
        Ok(())
    });
}

#[test]
fn weights_in_f16_are_within_the_tolerance_of_the_oracle() {
    if !gpu().caps().f16 {
        println!("{} stores no f16", gpu().adapter().name);
        return;
    }
    hold_everywhere(4, &[Direction::Forward, Direction::Bidirectional], |shape, options| {
        let request = shape.ragged(options);
        request.judge(&request.on_gpu(DType::F16)?, DType::F16)
    });
}

/// Chunk after chunk in one recording, each from the state that the one before ended in.
#[test]
fn a_sequence_in_chunks_equals_one_call() {
    hold_everywhere(4, &[Direction::Forward], |shape, options| {
        let whole = shape.ragged(options);
        let encoder = GpuRnn::upload(gpu(), &whole.options, &whole.stack, DType::F32)?;
        let uploaded = whole.inputs.upload(gpu(), DType::F32)?;
        for longest in [1, 4] {
            let (mut run, mut outputs, mut state) = (Run::new(gpu()), Vec::new(), None);
            for start in (0..shape.steps).step_by(longest) {
                let length = longest.min(shape.steps - start);
                let input = uploaded.input.narrow(0, start, length)?;
                // What is left of each row.
                let left =
                    Array::from_fn(&[shape.batch], |b| shape.lengths()[b].saturating_sub(start).min(length) as u32);
                let chunk = match state.take() {
                    Some(before) => RnnInputs::after(input, before),
                    None => RnnInputs { input, ..uploaded.clone() },
                };
                let chunk = RnnInputs { lengths: Some(Tensor::upload_u32(gpu(), "left", &left)?), ..chunk };
                let given = encoder.record(&mut run, &chunk)?;
                outputs.push(given.output.clone());
                state = Some(given);
            }
            run.submit()?;
            let last = state.ok_or_else(|| wrong("no chunk"))?.download(gpu())?;
            let parts: Result<Vec<_>> = outputs.iter().map(|output| output.download(gpu())).collect();
            let parts: Vec<f32> = parts?.into_iter().flat_map(Array::into_data).collect();
            let output = Array::new(&[shape.steps, shape.batch, shape.state()], parts)?;
            whole.judge(&RnnOutputs { output, ..last }, DType::F32)?;
        }
        Ok(())
    });
}

/// The oracle sees each row without padding.
#[test]
fn a_padded_batch_equals_each_row_alone() {
    hold_everywhere(4, &[Direction::Forward, Direction::Reverse, Direction::Bidirectional], |shape, options| {
        let padded = shape.ragged(options);
        let got = padded.on_gpu(DType::F32)?;
        for (b, length) in shape.lengths().into_iter().enumerate() {
            let output = cut(&got.output, 1, b, 1)?;
            let width = output.shape()[2];
            if output.data()[length * width..].iter().any(|&x| x != 0.0) {
                return Err(wrong(format!("row {b} goes on after {length} steps")));
            }
            let state = |a: &Array<f32>| cut(a, 1, b, 1);
            let final_c = got.final_c.as_ref().map(state).transpose()?;
            if length == 0 {
                let kept = padded.row(b, 1)?.inputs;
                if (Some(state(&got.final_h)?), final_c) != (kept.initial_h, kept.initial_c) {
                    return Err(wrong(format!("row {b} has no step and another state")));
                }
                continue;
            }
            let row = RnnOutputs { output: cut(&output, 0, 0, length)?, final_h: state(&got.final_h)?, final_c };
            padded.row(b, length)?.judge(&row, DType::F32)?;
        }
        Ok(())
    });
}

/// The same programs over the same rows in another order: the same bits.
#[test]
fn reverse_equals_flipping_the_valid_part() {
    hold_everywhere(4, &[Direction::Reverse], |shape, options| {
        let reverse = shape.ragged(options);
        let mut forward = reverse.clone();
        forward.options.direction = Direction::Forward;
        forward.inputs.input = flip(&reverse.inputs.input, &shape.lengths());
        let (got, mut want) = (reverse.on_gpu(DType::F32)?, forward.on_gpu(DType::F32)?);
        want.output = flip(&want.output, &shape.lengths());
        if bits(&got) != bits(&want) { Err(wrong("the bits differ")) } else { Ok(()) }
    });
}

#[test]
fn both_directions_equal_two_runs() {
    fn joined<T: Float>(merge: Merge, [a, b]: [Outputs<T>; 2]) -> Result<Named<T>> {
        let c = a.final_c.as_ref().zip(b.final_c.as_ref()).map(|(a, b)| stacked(a, b)).transpose()?;
        let output = join(merge, &a.output, &b.output);
        Ok(named(&RnnOutputs { output, final_h: stacked(&a.final_h, &b.final_h)?, final_c: c }))
    }
    hold_everywhere(3, &[Direction::Bidirectional], |shape, options| {
        let shape = Shape { layers: 1, ..shape.clone() };
        for merge in [Merge::Concat, Merge::Sum, Merge::Mul, Merge::Average] {
            let both = shape.ragged(Rnn { merge, ..options.clone() });
            let [a, b] = [both.one_way(0)?, both.one_way(1)?];
            let oracle = joined(merge, [a.widened().on_cpu()?, b.widened().on_cpu()?])?;
            let baseline = joined(merge, [a.on_cpu()?, b.on_cpu()?])?;
            judge_all(&named(&both.on_gpu(DType::F32)?), &oracle, &baseline)?;
            judge_all(&joined(merge, [a.on_gpu(DType::F32)?, b.on_gpu(DType::F32)?])?, &oracle, &baseline)?;
        }
        Ok(())
    });
}

/// Outputs of the last step are the final states, bit by bit, and so is everything else that both calls give.
#[test]
fn the_last_step_is_the_last_of_all() {
    hold_everywhere(4, &[Direction::Forward, Direction::Reverse, Direction::Bidirectional], |shape, options| {
        let directions = options.direction.count();
        for merge in [Merge::Concat, Merge::Sum, Merge::Mul, Merge::Average] {
            if directions == 1 && merge != Merge::Concat {
                continue;
            }
            let mut request = shape.ragged(Rnn { merge, ..options.clone() });
            let all = request.on_gpu(DType::F32)?;
            request.options.steps = Steps::Last;
            let last = request.on_gpu(DType::F32)?;
            request.judge(&last, DType::F32)?;
            let states = all.final_h.shape()[0];
            let top = |d: usize| cut(&all.final_h, 0, states - directions + d, 1);
            let want = if directions == 2 { join(merge, &top(0)?, &top(1)?) } else { top(0)? };
            let want = RnnOutputs { output: want.reshape(&[shape.batch, last.output.shape()[1]])?, ..all };
            if bits(&last) != bits(&want) {
                return Err(wrong(format!("{merge:?}: the bits differ")));
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let types = if gpu().caps().f16 { vec![DType::F32, DType::F16] } else { vec![DType::F32] };
    hold_everywhere(3, &[Direction::Forward, Direction::Bidirectional], |shape, options| {
        let request = shape.ragged(options);
        for &dtype in &types {
            let encoder = GpuRnn::upload(gpu(), &request.options, &request.stack, dtype)?;
            let inputs = request.inputs.upload(gpu(), dtype)?;
            let first = bits(&encoder.run(gpu(), &inputs)?.download(gpu())?);
            for _ in 0..3 {
                if bits(&encoder.run(gpu(), &inputs)?.download(gpu())?) != first {
                    return Err(wrong(format!("{dtype}: the bits differ")));
                }
            }
        }
        Ok(())
    });
}

/// Pre-activations of ±10⁴ in every gate, in every combination of signs; through the input, through W and through U.
#[test]
fn saturated_gates_are_finite_and_right() {
    const LARGE: f32 = 1e4;
    let hidden = 16;
    for cell in CELLS {
        let rows = cell.gates() * hidden;
        // Unit k has gate g open or shut by bit g of k.
        let sign = |row: usize| if (row % hidden) >> (row / hidden) & 1 == 1 { 1.0 } else { -1.0 };
        let column = |size: f32| Array::from_fn(&[rows, 1], |row| sign(row) * size);
        // Row 0 the same at every step, row 1 with alternating signs.
        let input = |steps: usize, size: f32| Array::from_fn(&[steps, 2, 1], |k| if k % 4 == 3 { -size } else { size });
        let small = numbers(&[rows, hidden], 1.0, 0.2);
        let diagonal = Array::from_fn(&[rows, hidden], |k| {
            let (row, column) = (k / hidden, k % hidden);
            if row % hidden == column { sign(row) * LARGE } else { 0.0 }
        });
        // What the second layer reads saturates it through its own W.
        let second = RnnWeights::new(diagonal.clone(), small.clone());
        let forms = [
            ("input", input(4, LARGE), RnnWeights::new(column(1.0), small.clone())),
            ("W", input(4, 1.0), RnnWeights::new(column(LARGE), small)),
            ("U", input(1, 0.0), RnnWeights::new(column(0.0), diagonal)),
        ];
        for (form, input, first) in forms {
            let shape = Shape::full([input.shape()[0], 2, 1, hidden, 2]);
            for path in paths(&shape, &Rnn::new(cell)) {
                let request = Request {
                    options: Rnn { path, ..Rnn::new(cell) },
                    stack: vec![vec![first.clone()], vec![second.clone()]],
                    inputs: RnnInputs {
                        initial_h: Some(Array::from_fn(
                            &[2, 2, hidden],
                            |k| if k / hidden % 2 == 0 { 1.0 } else { -1.0 },
                        )),
                        initial_c: (cell == Cell::Lstm).then(|| numbers(&[2, 2, hidden], 2.0, 1.0)),
                        ..RnnInputs::new(input.clone())
                    },
                };
                let got = request.on_gpu(DType::F32).unwrap();
                let finite = got.named().all(|(_, array)| array.data().iter().all(|x| x.is_finite()));
                assert!(finite, "{cell:?}, {path:?}, large {form}: {got:?}");
                request.judge(&got, DType::F32).unwrap_or_else(|e| panic!("{cell:?}, {path:?}, large {form}: {e}"));
            }
        }
    }
}

/// `cargo test error_growth -- --ignored --nocapture` prints how far the output is from the oracle after so many steps, beside the
/// reference in f32. The cells remember: gates keep most of the state, the RNN's U nearly preserves its length.
#[test]
#[ignore = "half a minute of arithmetic: by tests/all"]
fn error_growth_over_a_thousand_steps_is_within_the_tolerance() {
    let shape = Shape::full([1000, 2, 8, 32, 2]);
    let upto = [1, 10, 100, 1000];
    println!("{:<34}{}", "largest error of the output", upto.map(|t| format!("T = {t:<6}")).concat());
    for cell in CELLS {
        let mut plain = shape.request(Rnn::new(cell));
        // An LSTM with such a memory and a U of the usual size would be chaotic.
        let gain = match cell {
            Cell::Lstm => 0.5,
            Cell::Gru { .. } => 1.0,
            Cell::Rnn => 1.7,
        };
        for weights in plain.stack.iter_mut().flatten() {
            weights.weight_hh.data_mut().iter_mut().for_each(|u| *u *= gain);
            // Gate 1: the LSTM's forget gate, the GRU's update gate.
            let keep = weights.bias_ih.iter_mut().flat_map(|bias| bias.data_mut().iter_mut().skip(32).take(32));
            keep.for_each(|b| *b += 4.0);
        }
        let oracle = plain.widened().on_cpu().unwrap();
        let baseline = plain.on_cpu().unwrap();
        let print = |what: String, got: &Array<f32>| {
            let far = |k: usize| (f64::from(got.data()[k]) - oracle.output.data()[k]).abs();
            let row = upto.map(|t| (0..t * 2 * 32).map(far).fold(0.0, f64::max)).map(|error| format!("{error:<10.2e}"));
            println!("{what:<34}{}", row.concat());
        };
        print(format!("{cell:?}, in f32"), &baseline.output);
        for path in paths(&shape, &Rnn::new(cell)) {
            let request = Request { options: Rnn { path, ..Rnn::new(cell) }, ..plain.clone() };
            let got = request.on_gpu(DType::F32).unwrap();
            print(format!("{cell:?}, {path:?}"), &got.output);
            judge_all(&named(&got), &named(&oracle), &named(&baseline))
                .unwrap_or_else(|e| panic!("{cell:?}, {path:?}: {e}"));
        }
    }
}

/// Loops over time that turn more often than some drivers let one invocation turn: 65,535 times on Mesa 22.3, which then
/// ends it without a word. 16 units are one part of the depth, 64 are two, joined by a loop inside.
#[test]
fn long_sequences_are_not_cut_off() {
    for (steps, hidden) in [(70_000, 16), (25_000, 64)] {
        for cell in some(CELLS, 4) {
            let shape = Shape::full([steps, 1, 2, hidden, 1]);
            let request = shape.request(Rnn { path: RnnAlgorithm::Persistent, ..Rnn::new(cell) });
            let got = request.on_gpu(DType::F32).unwrap();
            request.judge(&got, DType::F32).unwrap_or_else(|e| panic!("{cell:?}, {hidden} units, {steps} steps: {e}"));
        }
    }
}
