//! `regard merge`: attention over all keys from attention over parts of them.

use std::path::PathBuf;

use regard::baseline::Verdicts;
use regard::gpu::Run;
use regard::ops::merge::merge;
use regard::tensor::{Array, DType};
use regard::{Error, Gpu, Result, Tensor, compare, reference};
use serde_json::json;

use crate::attend::Form;
use crate::check::{self, Report};
use crate::device::{Device, DeviceArgs};
use crate::failure::Outcome;
use crate::output::{self, OutputType};
use crate::progress::Busy;
use crate::stream;
use crate::tensors::Input;

/// Attention over all keys, from attention over parts of them
///
/// Each file holds `output` and `lse` as `regard attend --lse` writes them for one part of the keys, all for the same
/// queries. Writes `output` and `lse` of all keys together: parts are weighted by e^lse, one that saw no key counts for
/// nothing. The order of the files is of no importance.
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
  regard attend first.safetensors -o a.safetensors --lse
  regard attend second.safetensors -o b.safetensors --lse
  regard merge a.safetensors b.safetensors -o all.safetensors
  regard attend second.safetensors --lse -o - | regard merge a.safetensors - -o all.safetensors";

/// An output [B, H, N, Dv] and its log-sum-exp [B, H, N].
type Part<T> = (Array<T>, Array<T>);

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    output::refuse_dtype(args.output.as_deref(), args.output_dtype)?;
    output::refuse_streams(args.parts.iter().map(|path| ("PART", Some(&**path))), args.output.as_deref(), args.json)?;
    let (parts, form) = read(&args.parts)?;
    let device = device.open()?;
    let (merged, lse) = {
        let _busy = Busy::new("computing");
        match &device {
            Device::Cpu => reference::merge(&borrowed(&parts))?,
            Device::Gpu(gpu) => on_gpu(gpu, &parts)?,
        }
    };
    let report = args.check.then(|| Report::new(|| judge(&parts, &merged, &lse))).transpose()?;
    let named = vec![("output", form.join(&merged)?), ("lse", lse)];
    let output_dtype = args.output_dtype.unwrap_or_default();
    if let Some(path) = &args.output {
        output::save_tensors(path, &named, output_dtype)?;
    }
    let summary = json!({
        "command": "merge",
        "device": device.json(),
        "file": args.output,
        "outputs": output::describe(&named, output_dtype),
    });
    check::finish(args.json, stream::any(args.output.as_deref()), summary, None, report)
}

/// The parts, and how the output of the first came.
fn read(paths: &[PathBuf]) -> Outcome<(Vec<Part<f32>>, Form)> {
    let mut forms = Vec::new();
    let mut parts: Vec<Part<f32>> = Vec::new();
    for path in paths {
        let input = Input::open(path)?.named();
        let output = input.require("output", "[B, H, N, Dv], as `regard attend` writes it")?;
        let lse = input.require("lse", "[B, H, N], as `regard attend --lse` writes it")?;
        let (output, form) = Form::of_output(output, lse.shape())?;
        if let Some((first, _)) = parts.first()
            && first.shape() != output.shape()
        {
            let expected = format!("{:?} as in {}", first.shape(), paths[0].display());
            let found = format!("{:?} in {}", output.shape(), path.display());
            return Err(Error::shape("output", "shape", expected, found).into());
        }
        forms.push(form);
        parts.push((output, lse));
    }
    match forms.first() {
        Some(&form) => Ok((parts, form)),
        None => Err(Error::missing("PART.safetensors", "two files at least").into()),
    }
}

fn borrowed<T>(parts: &[Part<T>]) -> Vec<(&Array<T>, &Array<T>)> {
    parts.iter().map(|(output, lse)| (output, lse)).collect()
}

fn on_gpu(gpu: &Gpu, parts: &[Part<f32>]) -> Result<Part<f32>> {
    let upload = |(output, lse): &Part<f32>| -> Result<(Tensor, Tensor)> {
        Ok((Tensor::upload(gpu, "output", output, DType::F32)?, Tensor::upload(gpu, "lse", lse, DType::F32)?))
    };
    let tensors = parts.iter().map(upload).collect::<Result<Vec<_>>>()?;
    let borrowed: Vec<_> = tensors.iter().map(|(output, lse)| (output, lse)).collect();
    let mut run = Run::new(gpu);
    let (output, lse) = merge(&mut run, &borrowed)?;
    run.submit()?;
    Ok((output.download(gpu)?, lse.download(gpu)?))
}

fn judge(parts: &[Part<f32>], output: &Array, lse: &Array) -> Result<Verdicts> {
    let widened = |array: &Array| array.map(|&x| f64::from(x));
    let wide: Vec<_> = parts.iter().map(|(output, lse)| (widened(output), widened(lse))).collect();
    let (oracle, baseline) = (reference::merge(&borrowed(&wide))?, reference::merge(&borrowed(parts))?);
    Ok(vec![
        ("output", compare::judge("output", output, &oracle.0, &baseline.0, DType::F32)?),
        ("lse", compare::judge("lse", lse, &oracle.1, &baseline.1, DType::F32)?),
    ])
}
