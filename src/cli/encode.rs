//! `regard encode`: a recurrent encoder over the tensors of a file.

mod weights;

use std::path::PathBuf;

use clap::ValueEnum;
use regard::baseline;
use regard::gpu::Run;
use regard::ops::rnn::GpuRnn;
use regard::problem::RnnProblem;
use regard::rnn::{Activation, Activations, Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnOutputs, RnnStack};
use regard::tensor::{Array, DType};
use regard::{Error, Gpu, Result};
use serde_json::json;

use crate::attend::Storage;
use crate::check::{self, Report};
use crate::device::{Device, DeviceArgs};
use crate::explain::Explained;
use crate::failure::Outcome;
use crate::output::{self, Named, OutputType};
use crate::progress::Busy;
use crate::tensors::Input;

/// A recurrent encoder (LSTM, GRU, RNN) over the tensors of a file
///
/// Reads `input` [T, B, I] and weights by PyTorch's names: `weight_ih_l0` [G·H, I], `weight_hh_l0` [G·H, H],
/// `bias_ih_l0` and `bias_hh_l0` [G·H] (both optional), `…_l1` and so on for more layers, `…_reverse` for the second
/// direction; gates i, f, g, o (LSTM) and r, z, n (GRU). Layers and directions follow from the names.
///
/// Optional tensors: `initial_h`, `initial_c` [layers·directions, B, H], `lengths` `[B]` (I32 or I64: how many steps are
/// real; past the end the output is 0), `peephole_l0` [3, H] (LSTM; rows i, f, o).
///
/// Writes `output` [T, B, directions·H], `final_h` and, for an LSTM, `final_c` [layers·directions, B, H].
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Tensors to read
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write the results to
    #[arg(short, long, value_name = "OUT.safetensors", required_unless_present_any = ["check", "explain"])]
    output: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// File to take the weights from, instead of the input file
    #[arg(long, value_name = "FILE.safetensors")]
    weights: Option<PathBuf>,
    /// What stands before the weights' names, such as `encoder.`
    #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
    prefix: String,
    /// `input` and `output` are [B, T, …]
    #[arg(long)]
    batch_first: bool,
    /// Element type of input and weight matrices on the device; states, outputs and arithmetic are f32 always
    #[arg(long, value_enum, default_value_t)]
    dtype: Storage,
    /// Element type of the tensors written; f32 when left out
    #[arg(long, value_enum, value_name = "TYPE")]
    output_dtype: Option<OutputType>,
    /// Print what ran, and how long each dispatch took on the device
    #[arg(long)]
    explain: bool,
    /// Also run the reference in f64; print the largest error of each result and its ratio to the f32 reference's
    /// error; exit 1 if one is over tolerance
    #[arg(long)]
    check: bool,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  regard encode in.safetensors -o out.safetensors --cell lstm
  regard encode in.safetensors -o out.safetensors --cell gru --batch-first --check
  regard encode in.safetensors -o out.safetensors --cell gru --weights model.safetensors --prefix encoder.
  regard encode in.safetensors -o out.safetensors --cell rnn --activation relu --merge sum";

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Recurrence")]
struct Options {
    /// The kind of recurrence
    #[arg(long, value_enum, value_name = "CELL")]
    cell: CellKind,
    /// GRU: the reset gate acts after the recurrent product (PyTorch, cuDNN) or before it (Cho et al. 2014); after,
    /// when left out
    #[arg(long, value_enum, value_name = "WHERE")]
    reset: Option<ResetKind>,
    /// RNN: its activation; tanh, when left out
    #[arg(long, value_enum, value_name = "NAME", conflicts_with = "activations")]
    activation: Option<ActivationKind>,
    /// Activations by ONNX's names, as many as the cell has: LSTM f,g,h; GRU f,g; RNN f. With parameters:
    /// `LeakyRelu:0.1` (alpha), `HardSigmoid:0.2:0.5` (alpha, beta)
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    activations: Vec<String>,
    /// LSTM: added to the forget gate (TensorFlow's BasicLSTMCell adds 1)
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true)]
    forget_bias: f32,
    /// Clamp pre-activations to -X ... X
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    clip: Option<f32>,
    /// LSTM: the forget gate is 1 - the input gate
    #[arg(long)]
    input_forget: bool,
    /// Read backwards (weights of one direction)
    #[arg(long)]
    reverse: bool,
    /// How the outputs of two directions become one; concat, when left out
    #[arg(long, value_enum, value_name = "HOW")]
    merge: Option<MergeKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CellKind {
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent unit.
    Gru,
    /// Elman's simple recurrence.
    Rnn,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ResetKind {
    /// r∘(U·h).
    After,
    /// U·(r∘h).
    Before,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ActivationKind {
    /// tanh x.
    Tanh,
    /// max(x, 0).
    Relu,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MergeKind {
    /// [forward; backward].
    Concat,
    /// forward + backward.
    Sum,
    /// forward · backward.
    Mul,
    /// (forward + backward) / 2.
    Average,
}

impl Options {
    /// As the library has them, for weights of that many directions.
    fn rnn(&self, directions: usize) -> Result<Rnn> {
        let cell = match (self.cell, self.reset) {
            (CellKind::Lstm, None) => Cell::Lstm,
            (CellKind::Rnn, None) => Cell::Rnn,
            (CellKind::Gru, reset) => Cell::Gru {
                reset: match reset {
                    Some(ResetKind::Before) => Reset::Before,
                    Some(ResetKind::After) | None => Reset::After,
                },
            },
            (_, Some(_)) => return Err(Error::option("reset", "only a GRU has a reset gate: use `--cell gru`")),
        };
        let direction = match (self.reverse, directions) {
            (false, 1) => Direction::Forward,
            (true, 1) => Direction::Reverse,
            (false, _) => Direction::Bidirectional,
            (true, _) => {
                let reason = "is for weights of one direction, and these have `…_reverse` too: leave it out";
                return Err(Error::option("reverse", reason));
            }
        };
        Ok(Rnn {
            direction,
            merge: match self.merge {
                None | Some(MergeKind::Concat) => Merge::Concat,
                Some(MergeKind::Sum) => Merge::Sum,
                Some(MergeKind::Mul) => Merge::Mul,
                Some(MergeKind::Average) => Merge::Average,
            },
            activations: self.activations(cell)?,
            clip: self.clip,
            input_forget: self.input_forget,
            forget_bias: self.forget_bias,
            ..Rnn::new(cell)
        })
    }

    fn activations(&self, cell: Cell) -> Result<Activations> {
        let usual = cell.activations();
        let mut activations = [usual.gates[0], usual.gates[2], usual.output];
        if let Some(kind) = self.activation {
            if cell != Cell::Rnn {
                return Err(Error::option("activation", "is for `--cell rnn`: use `--activations` for other cells"));
            }
            activations[0] = match kind {
                ActivationKind::Tanh => Activation::Tanh,
                ActivationKind::Relu => Activation::Relu,
            };
        }
        if !self.activations.is_empty() {
            let wanted = match cell {
                Cell::Lstm => 3,
                Cell::Gru { .. } => 2,
                Cell::Rnn => 1,
            };
            if self.activations.len() != wanted {
                let found = self.activations.len();
                let name = format!("{:?}", self.cell).to_uppercase();
                return Err(Error::option("activations", format!("expected {wanted} for {name}, found {found}")));
            }
            for (slot, text) in activations.iter_mut().zip(&self.activations) {
                *slot = activation(text)?;
            }
        }
        Ok(Activations::onnx(cell, activations))
    }
}

/// `NAME`, `NAME:alpha` or `NAME:alpha:beta`.
fn activation(text: &str) -> Result<Activation> {
    let mut parts = text.split(':');
    let mut activation = Activation::from_name(parts.next().unwrap_or_default().trim())?;
    let numbers = parts
        .map(|part| part.trim().parse::<f32>().ok().filter(|x| x.is_finite()))
        .collect::<Option<Vec<f32>>>()
        .ok_or_else(|| Error::option("activations", format!("`{text}`: parameters are finite numbers")))?;
    let slots: Vec<&mut f32> = match &mut activation {
        Activation::Affine { alpha, beta }
        | Activation::ScaledTanh { alpha, beta }
        | Activation::HardSigmoid { alpha, beta } => vec![alpha, beta],
        Activation::LeakyRelu { alpha } | Activation::ThresholdedRelu { alpha } | Activation::Elu { alpha } => {
            vec![alpha]
        }
        _ => Vec::new(),
    };
    if numbers.len() > slots.len() {
        let reason = format!("`{text}`: expected at most {} parameters, found {}", slots.len(), numbers.len());
        return Err(Error::option("activations", reason));
    }
    slots.into_iter().zip(numbers).for_each(|(slot, number)| *slot = number);
    Ok(activation)
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    output::refuse_dtype(args.output.as_deref(), args.output_dtype)?;
    let input = Input::open(&args.input)?;
    let stack = match &args.weights {
        Some(path) => weights::read(&Input::open(path)?, &args.prefix)?,
        None => weights::read(&input, &args.prefix)?,
    };
    let options = args.options.rnn(stack[0].len())?;
    let inputs = read(args, &input)?;
    input.warn_unused("encode");
    let shapes = stack.iter().map(|layer| layer.iter().map(|w| w.map(Array::shape)).collect()).collect();
    let problem = RnnProblem::new(&options, &shapes, &inputs.map(Array::shape))?;
    let device = device.open()?;
    let dtype = args.dtype.into();

    let mut explained = Explained::new(&device);
    let outputs = {
        let _busy = Busy::new("computing");
        match &device {
            Device::Cpu => baseline::rnn(&options, &stack, &inputs, dtype)?,
            Device::Gpu(gpu) => {
                let timed = args.explain.then_some(&mut explained);
                let outputs = on_gpu(gpu, &options, &stack, &inputs, dtype, timed)?;
                if args.explain {
                    explain_problem(&mut explained, &problem, dtype);
                    let (flops, bytes) = floor(&options, &problem, dtype);
                    explained.floor(gpu, flops, bytes)?;
                }
                outputs
            }
        }
    };
    let report = args
        .check
        .then(|| Report::new(|| baseline::judge_rnn(&options, &stack, &inputs, &outputs, dtype)))
        .transpose()?;
    let named = named(args, outputs)?;
    let output_dtype = args.output_dtype.unwrap_or_default();
    if let Some(path) = &args.output {
        output::save_tensors(path, &named, output_dtype)?;
    }

    let summary = json!({
        "command": "encode",
        "device": device.json(),
        "file": args.output,
        "layers": problem.layers,
        "directions": problem.directions,
        "outputs": output::describe(&named, output_dtype),
    });
    check::finish(args.json, summary, args.explain.then_some(&explained), report)
}

/// The tensors of the file that are no weights, time first.
fn read(args: &Args, input: &Input) -> Outcome<RnnInputs<Array>> {
    let layout = if args.batch_first { "[B, T, I]" } else { "[T, B, I]" };
    let mut x = input.require("input", layout)?;
    if x.shape().len() != 3 {
        let found = format!("{} {:?}", x.shape().len(), x.shape());
        return Err(Error::shape("input", "rank", format!("3 {layout}"), found).into());
    }
    if args.batch_first {
        x = x.permute(&[1, 0, 2])?;
    }
    let steps = x.shape()[0];
    let mut inputs = RnnInputs::new(x);
    inputs.initial_h = input.float("initial_h")?;
    inputs.initial_c = input.float("initial_c")?;
    inputs.lengths = input.lengths("lengths", steps)?;
    Ok(inputs)
}

fn on_gpu(
    gpu: &Gpu,
    options: &Rnn,
    stack: &RnnStack<Array>,
    inputs: &RnnInputs<Array>,
    dtype: DType,
    explained: Option<&mut Explained>,
) -> Result<RnnOutputs<Array>> {
    let network = GpuRnn::upload(gpu, options, stack, dtype)?;
    let tensors = inputs.upload(gpu, dtype)?;
    if explained.is_some() {
        // Drivers compile on first use: once unmeasured.
        network.run(gpu, &tensors)?;
        gpu.wait()?;
    }
    let mut run = Run::new(gpu);
    let outputs = network.record(&mut run, &tensors)?;
    match explained {
        None => run.submit()?,
        Some(explained) => {
            explained.recording(run.recording());
            explained.timings(&run.submit_timed()?);
        }
    }
    outputs.download(gpu)
}

fn explain_problem(explained: &mut Explained, p: &RnnProblem, dtype: DType) {
    let shape = format!(
        "T {} · B {} · I {} · H {} · {} layers · {} directions, {dtype}",
        p.steps, p.batch, p.inputs[0], p.hidden, p.layers, p.directions
    );
    explained.fact("problem", shape);
    explained.fact("path", "per layer one product for all steps, then one dispatch a step");
}

/// Operations and bytes that the recurrence cannot do without: both products of every step; each weight, input and
/// output once.
pub(crate) fn floor(options: &Rnn, p: &RnnProblem, dtype: DType) -> (u64, u64) {
    let widths: usize = p.inputs.iter().map(|width| width + p.hidden).sum();
    let weights = widths * p.directions * options.cell.gates() * p.hidden;
    let rows = p.steps * p.batch;
    let bytes = weights * dtype.bytes() + rows * (p.inputs[0] * dtype.bytes() + p.width * DType::F32.bytes());
    ((2 * weights * rows) as u64, bytes as u64)
}

/// The results by name.
fn named(args: &Args, outputs: RnnOutputs<Array>) -> Result<Named> {
    let output = if args.batch_first { outputs.output.permute(&[1, 0, 2])? } else { outputs.output };
    let mut named = vec![("output", output), ("final_h", outputs.final_h)];
    named.extend(outputs.final_c.map(|c| ("final_c", c)));
    Ok(named)
}
