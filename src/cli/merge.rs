//! `regard merge`: attention over all keys from attention over parts of them.

use std::path::{Path, PathBuf};

use regard::baseline::Verdicts;
use regard::gpu::Run;
use regard::ops::merge::{merge, merge_max_sum};
use regard::reference::Float;
use regard::tensor::{Array, DType};
use regard::{Device, Error, Gpu, Result, Tensor, compare, reference};
use serde_json::json;

use crate::attend::Form;
use crate::check::{self, Report};
use crate::device::{DeviceArgs, device_json};
use crate::failure::Outcome;
use crate::output::{self, OutputType};
use crate::progress::Busy;
use crate::stream;
use crate::tensors::Input;

/// Attention over all keys, from attention over parts of them
///
/// Each file holds `output` and `max_sum`, as `regard attend --max-sum` writes them for one part of the keys, all for the
/// same queries; or `lse` (`--lse`) in place of `max_sum`. Writes `output` and `lse` of all keys together, and `max_sum`
/// where a part has it. A part that saw no key counts for nothing. The order of the files is of no importance.
///
/// A log-sum-exp is rounded to one f32, which is exact to 1e-7 of itself: at 1000 weights of parts are off by 1e-4, at 1e6
/// by 0.1. The largest score and the sum of `max_sum` are exact whatever the scores.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Results over disjoint sets of keys; one may be `-`, standard input
    #[arg(value_name = "PART.safetensors", num_args = 2.., required = true)]
    parts: Vec<PathBuf>,
    /// File to write the results to; `-` is standard output
    #[arg(short, long, value_name = "OUT.safetensors", required_unless_present = "check")]
    output: Option<PathBuf>,
    /// Element type of the tensors written; f32 when left out
    #[arg(long, value_enum, value_name = "TYPE")]
    output_dtype: Option<OutputType>,
    /// Also run the reference in f64; print the largest error of each result and its ratio to the f32 reference's
    /// error; exit 1 if one is over tolerance
    #[arg(long)]
    check: bool,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Example:
  regard attend first.safetensors -o a.safetensors --max-sum
  regard attend second.safetensors -o b.safetensors --max-sum
  regard merge a.safetensors b.safetensors -o all.safetensors
  regard attend second.safetensors --max-sum -o - | regard merge a.safetensors - -o all.safetensors";

/// An output [B, H, N, Dv], and its log-sum-exp [B, H, N] or its largest scores and sums [B, H, N, 2].
type Partial<T> = (Array<T>, Array<T>);

/// Which statistics the partials are weighted by.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    LogSumExp,
    MaxSum,
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    output::refuse_dtype(args.output.as_deref(), args.output_dtype)?;
    output::refuse_streams(args.parts.iter().map(|path| ("PART", Some(&**path))), args.output.as_deref(), args.json)?;
    let (partials, by, form) = read(&args.parts)?;
    let device = device.open()?;
    let (merged, stats) = {
        let _busy = Busy::new("computing");
        match &device {
            Device::Cpu(_) => on_cpu(by, &partials)?,
            Device::Gpu(gpu) => on_gpu(gpu, by, &partials)?,
        }
    };
    let report = args.check.then(|| Report::new(|| judge(by, &partials, &merged, &stats))).transpose()?;
    let mut named = vec![("output", form.join(&merged)?)];
    match by {
        By::LogSumExp => named.push(("lse", stats)),
        By::MaxSum => named.extend([("lse", log_sum_exp(&stats)), ("max_sum", stats)]),
    }
    let output_dtype = args.output_dtype.unwrap_or_default();
    if let Some(path) = &args.output {
        output::save_tensors(path, &named, output_dtype)?;
    }
    let summary = json!({
        "command": "merge",
        "device": device_json(&device),
        "file": args.output,
        "outputs": output::describe(&named, output_dtype),
    });
    check::finish(args.json, stream::any(args.output.as_deref()), summary, None, None, report)
}

/// The partials, which statistics weight them, and the layout of the first output.
fn read(paths: &[PathBuf]) -> Outcome<(Vec<Partial<f32>>, By, Form)> {
    let inputs = paths.iter().map(|path| Ok(Input::open(path)?.named())).collect::<Outcome<Vec<_>>>()?;
    let by = if inputs.iter().any(|input| input.has("max_sum")) { By::MaxSum } else { By::LogSumExp };
    let mut forms = Vec::new();
    let mut partials: Vec<Partial<f32>> = Vec::new();
    for (input, path) in inputs.iter().zip(paths) {
        let output = input.require("output", "[B, H, N, Dv], as `regard attend` writes it")?;
        let stats = match input.has("max_sum") {
            true => pairs(input.require("max_sum", "[B, H, N, 2], as `regard attend --max-sum` writes it")?)?,
            false => {
                let lse = input.require("lse", "[B, H, N], as `regard attend --lse` writes it")?;
                note_large(path, &lse);
                if by == By::MaxSum { alone(&lse)? } else { lse }
            }
        };
        let rows = &stats.shape()[..stats.shape().len() - usize::from(by == By::MaxSum)];
        let (output, form) = Form::of_output(output, rows)?;
        if let Some((first, _)) = partials.first()
            && first.shape() != output.shape()
        {
            let expected = format!("{:?} as in {}", first.shape(), paths[0].display());
            let found = format!("{:?} in {}", output.shape(), path.display());
            return Err(Error::shape("output", "shape", expected, found).into());
        }
        forms.push(form);
        partials.push((output, stats));
    }
    match forms.first() {
        Some(&form) => Ok((partials, by, form)),
        None => Err(Error::missing("PART.safetensors", "two files at least").into()),
    }
}

/// Largest scores and sums, of which no sum is below 0.
fn pairs(max_sum: Array) -> Result<Array> {
    if max_sum.shape().len() != 4 || max_sum.shape()[3] != 2 {
        return Err(Error::shape("max_sum", "shape", "[B, H, N, 2]", format!("{:?}", max_sum.shape())));
    }
    match max_sum.data().chunks_exact(2).position(|pair| pair[1] < 0.0) {
        Some(row) => {
            let found = max_sum.data()[2 * row + 1];
            Err(Error::shape("max_sum", format!("element {} (a sum)", 2 * row + 1), "0 or more", found))
        }
        None => Ok(max_sum),
    }
}

/// A log-sum-exp as the largest of one score alone.
fn alone(lse: &Array) -> Result<Array> {
    let pair = lse.data().iter().flat_map(|&lse| [lse, if lse == f32::NEG_INFINITY { 0.0 } else { 1.0 }]);
    Array::new(&[lse.shape(), &[2]].concat(), pair.collect())
}

/// Warns where a log-sum-exp is so large that the weights of the partials are off by a thousandth or more.
fn note_large(path: &Path, lse: &Array) {
    let largest = lse.data().iter().filter(|x| x.is_finite()).fold(0.0, |most: f32, x| most.max(x.abs()));
    if largest * f32::EPSILON / 2.0 >= 1e-3 {
        output::note(&format!(
            "`lse` in {} reaches {largest:.1e}, where one f32 is exact to {:.0e}: give each part `max_sum` \
             (`regard attend --max-sum`)",
            path.display(),
            largest * f32::EPSILON / 2.0
        ));
    }
}

/// m + ln l of each row.
fn log_sum_exp(max_sum: &Array) -> Array {
    let shape = max_sum.shape();
    Array::from_fn(&shape[..shape.len() - 1], |row| max_sum.data()[2 * row] + max_sum.data()[2 * row + 1].ln())
}

fn borrowed<T>(partials: &[Partial<T>]) -> Vec<(&Array<T>, &Array<T>)> {
    partials.iter().map(|(output, stats)| (output, stats)).collect()
}

fn on_cpu<T: Float>(by: By, partials: &[Partial<T>]) -> Result<Partial<T>> {
    match by {
        By::LogSumExp => reference::merge(&borrowed(partials)),
        By::MaxSum => reference::merge_max_sum(&borrowed(partials)),
    }
}

fn on_gpu(gpu: &Gpu, by: By, partials: &[Partial<f32>]) -> Result<Partial<f32>> {
    let upload = |(output, stats): &Partial<f32>| -> Result<(Tensor, Tensor)> {
        Ok((Tensor::upload(gpu, "output", output, DType::F32)?, Tensor::upload(gpu, "stats", stats, DType::F32)?))
    };
    let tensors = partials.iter().map(upload).collect::<Result<Vec<_>>>()?;
    let borrowed: Vec<_> = tensors.iter().map(|(output, stats)| (output, stats)).collect();
    let mut run = Run::new(gpu);
    let (output, stats) = match by {
        By::LogSumExp => merge(&mut run, &borrowed)?,
        By::MaxSum => merge_max_sum(&mut run, &borrowed)?,
    };
    run.submit()?;
    Ok((output.download(gpu)?, stats.download(gpu)?))
}

fn judge(by: By, partials: &[Partial<f32>], output: &Array, stats: &Array) -> Result<Verdicts> {
    let widened = |array: &Array| array.map(|&x| f64::from(x));
    let wide: Vec<_> = partials.iter().map(|(output, stats)| (widened(output), widened(stats))).collect();
    let (oracle, baseline) = (on_cpu(by, &wide)?, on_cpu(by, partials)?);
    let name = if by == By::MaxSum { "max_sum" } else { "lse" };
    let outputs = partials.iter().flat_map(|(output, _)| output.data()).filter(|x| x.is_finite());
    let largest = outputs.fold(0.0, |largest: f64, &x| largest.max(f64::from(x).abs()));
    Ok(vec![
        (
            "output",
            compare::judge("output", output, &oracle.0, &baseline.0, DType::F32)?.made_of(
                largest,
                &baseline.0,
                &oracle.0,
            ),
        ),
        (name, compare::judge(name, stats, &oracle.1, &baseline.1, DType::F32)?.made_of(1.0, &baseline.1, &oracle.1)),
    ])
}
