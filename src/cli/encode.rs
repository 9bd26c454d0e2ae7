//! `regard encode`: a recurrent encoder over the tensors of a file.

mod options;
mod weights;

use std::path::PathBuf;

use regard::backend::cpu::CpuRnn;
use regard::backend::{Backend, CpuTensor};
use regard::baseline;
use regard::gpu::Run;
use regard::ops::rnn::GpuRnn;
use regard::plan::RnnPlan;
use regard::problem::{RnnProblem, Role};
use regard::rnn::{Rnn, RnnAlgorithm, RnnInputs, RnnOutputs, RnnStack, Steps};
use regard::tensor::{Array, DType};
use regard::{Cpu, Device, Error, Gpu, Result};
use serde_json::json;

use crate::attend::ElementType;
use crate::check::{self, Report};
use crate::device::{DeviceArgs, device_json, refuse_path};
use crate::explain::{self, Explained};
use crate::failure::Outcome;
use crate::output::{self, Named, OutputType};
use crate::progress::Busy;
use crate::stream;
use crate::tensors::{self, Input};
use crate::time::{self, Times};
use options::Options;
pub(crate) use options::path_name;

/// A recurrent encoder (LSTM, GRU, RNN) over the tensors of a file
///
/// Reads `input` [T, B, I] and weights by PyTorch's names: `weight_ih_l0` [G·H, I], `weight_hh_l0` [G·H, H],
/// `bias_ih_l0` and `bias_hh_l0` [G·H] (both optional), `…_l1` and so on for more layers, `…_reverse` for the second
/// direction; gates i, f, g, o (LSTM) and r, z, n (GRU). Layers and directions follow from the names.
///
/// Optional tensors: `initial_h`, `initial_c` [layers·directions, B, H], `lengths` `[B]` (I32 or I64: how many steps are
/// real; past the end the output is 0). LSTM: `peephole_l0` [3, H] (rows i, f, o); `weight_hr_l0` [P, H], a projection,
/// with which h is P wide and `weight_hh_l0` [G·H, P]; with --layer-norm gains and shifts `norm_ih_l0` (products),
/// `norm_hh_l0` [2, G·H] and `norm_c_l0` [2, H], 1 and 0 when left out.
///
/// Writes `output` [T, B, directions·H], `final_h` and, for an LSTM, `final_c` [layers·directions, B, H]. With --last
/// `output` is [B, directions·H].
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Tensors to read; `-` is standard input
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write the results to; `-` is standard output
    #[arg(short, long, value_name = "OUT.safetensors", required_unless_present_any = ["check", "explain", "time"])]
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
    dtype: ElementType,
    /// Element type of the tensors written; f32 when left out
    #[arg(long, value_enum, value_name = "TYPE")]
    output_dtype: Option<OutputType>,
    /// Print what ran, and how long each dispatch took on the device
    #[arg(long)]
    explain: bool,
    /// Also run it N times on the device, after once that is not timed and with tensors and weights already there, and print
    /// median and minimum: device time where there are timestamps. With --json the summary is one line with `median_ms`,
    /// `min_ms` and `runs`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    time: Option<u32>,
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
  regard encode in.safetensors -o out.safetensors --cell gru --weights m.safetensors --prefix rnn.
  regard encode in.safetensors -o out.safetensors --cell rnn --activation relu --merge sum
  regard encode in.safetensors -o out.safetensors --cell lstm --path steps --device gpu --explain
  regard encode in.safetensors -o out.safetensors --cell lstm --layer-norm gates --layer-norm-carry";

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    output::refuse_dtype(args.output.as_deref(), args.output_dtype)?;
    let inputs = [("IN", Some(&*args.input)), ("weights", args.weights.as_deref())];
    output::refuse_streams(inputs, args.output.as_deref(), args.json)?;
    let input = Input::open(&args.input)?;
    let stack = match &args.weights {
        Some(path) => weights::read(&Input::open(path)?, &args.prefix)?,
        None => weights::read(&input, &args.prefix)?,
    };
    let options = args.options.rnn(stack[0].len())?;
    let inputs = read(args, &input)?;
    input.warn_unused("encode");
    let shapes = stack.iter().map(|layer| layer.iter().map(|w| w.map(Array::shape)).collect()).collect();
    let problem = RnnProblem::new(&options, &shapes, &inputs.map(Array::shape, Array::shape))?;
    let device = device.open()?;
    refuse_path(&device, options.path != RnnAlgorithm::Auto)?;
    let dtype = args.dtype.into();
    warn_storage(&stack, &inputs, dtype)?;

    let mut explained = Explained::new(&device);
    let outputs = {
        let _busy = Busy::new("computing");
        match &device {
            Device::Cpu(cpu) => {
                explained.fact("plan", cpu.rnn_plan(&options, &problem));
                on_cpu(cpu, &options, &stack, &inputs, dtype)?
            }
            Device::Gpu(gpu) => {
                let timed = args.explain.then_some(&mut explained);
                let outputs = on_gpu(gpu, &options, &stack, &inputs, dtype, timed)?;
                if args.explain {
                    let plan = RnnPlan::new(&options, &problem, dtype, gpu.caps())?;
                    explain_plan(&mut explained, &options, &problem, &plan, dtype);
                    explained.floor(gpu, plan.flops, plan.bytes)?;
                }
                outputs
            }
        }
    };
    let times = args.time.map(|runs| timed(&device, &options, &stack, &inputs, dtype, runs)).transpose()?;
    let report = args
        .check
        .then(|| Report::new(|| baseline::judge_rnn(&options, &stack, &inputs, &outputs, dtype)))
        .transpose()?;
    let named = named(args, &options, outputs)?;
    let output_dtype = args.output_dtype.unwrap_or_default();
    if let Some(path) = &args.output {
        output::save_tensors(path, &named, output_dtype)?;
    }

    let summary = json!({
        "command": "encode",
        "device": device_json(&device),
        "file": args.output,
        "layers": problem.layers,
        "directions": problem.directions,
        "outputs": output::describe(&named, output_dtype),
    });
    let taken = stream::any(args.output.as_deref());
    check::finish(args.json, taken, summary, args.explain.then_some(&explained), times.as_ref(), report)
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

/// Tells of numbers that the device's storage cannot hold.
fn warn_storage(stack: &RnnStack<Array>, inputs: &RnnInputs<Array>, dtype: DType) -> Result<()> {
    let held = |stem: &str, suffix: &str, array: &Array| {
        tensors::warn_storage(&format!("{stem}{suffix}"), array, Role::of_rnn(stem).dtype(dtype))
    };
    inputs.try_map(|name, array| held(name, "", array), |_, _| Ok(()))?;
    for (l, layer) in stack.iter().enumerate() {
        for (weights, reverse) in layer.iter().zip(["", "_reverse"]) {
            weights.try_map(|stem, array| held(stem, &format!("_l{l}{reverse}"), array))?;
        }
    }
    Ok(())
}

fn on_cpu(
    cpu: &Cpu,
    options: &Rnn,
    stack: &RnnStack<Array>,
    inputs: &RnnInputs<Array>,
    dtype: DType,
) -> Result<RnnOutputs<Array>> {
    let network = CpuRnn::stored(cpu, options, stack, dtype)?;
    Ok(cpu.clone().rnn(&network, &RnnInputs::<CpuTensor>::stored(inputs, dtype)?)?.to_arrays())
}

/// How long it takes with tensors and weights on the device.
fn timed(
    device: &Device,
    options: &Rnn,
    stack: &RnnStack<Array>,
    inputs: &RnnInputs<Array>,
    dtype: DType,
    runs: u32,
) -> Result<Times> {
    match device {
        Device::Cpu(cpu) => {
            let network = CpuRnn::stored(cpu, options, stack, dtype)?;
            let (mut cpu, tensors) = (cpu.clone(), RnnInputs::<CpuTensor>::stored(inputs, dtype)?);
            Times::of(runs, || time::on_host(|| cpu.rnn(&network, &tensors)))
        }
        Device::Gpu(gpu) => {
            let (network, tensors) = (GpuRnn::upload(gpu, options, stack, dtype)?, inputs.upload(gpu, dtype)?);
            Times::of(runs, || {
                let mut run = Run::new(gpu);
                network.record(&mut run, &tensors)?;
                run.submit_and_time()
            })
        }
    }
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
            explained.recording(run.recording(), gpu);
            explained.timings(&run.submit_timed()?);
        }
    }
    outputs.download(gpu)
}

fn explain_plan(explained: &mut Explained, options: &Rnn, p: &RnnProblem, plan: &RnnPlan, dtype: DType) {
    let counted = |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
    let state = if p.projected { format!(" · P {}", p.state) } else { String::new() };
    let (layers, directions) = (counted(p.layers, "layer", "layers"), counted(p.directions, "direction", "directions"));
    let shape = format!(
        "T {} · B {} · I {} · H {}{state} · {layers} · {directions}, {dtype}",
        p.steps, p.batch, p.inputs[0], p.hidden
    );
    explained.fact("problem", shape);
    let count = |n: usize| counted(n, "dispatch", "dispatches");
    let why = if options.path == RnnAlgorithm::Auto { "expected to be the fastest" } else { "as asked" };
    explained.fact("path", format!("{}, {why}, in {}", path_name(plan.path), count(plan.dispatches)));
    for estimate in &plan.estimates {
        let expected = match &estimate.nanoseconds {
            Ok(ns) => format!("{} expected, {}", explain::time(Some(*ns)), count(estimate.dispatches)),
            Err(reason) => format!("not possible: {reason}"),
        };
        explained.fact(path_name(estimate.path), expected);
    }
}

/// The results by name.
fn named(args: &Args, options: &Rnn, outputs: RnnOutputs<Array>) -> Result<Named> {
    let swap = args.batch_first && options.steps == Steps::All;
    let output = if swap { outputs.output.permute(&[1, 0, 2])? } else { outputs.output };
    let mut named = vec![("output", output), ("final_h", outputs.final_h)];
    named.extend(outputs.final_c.map(|c| ("final_c", c)));
    Ok(named)
}
