//! `regard attend`: attention over the tensors of a file.

mod options;

use std::path::PathBuf;

use regard::attention::{Attention, AttentionInputs, AttentionOutputs, ScoreWeights};
use regard::gpu::Run;
use regard::plan::AttentionPlan;
use regard::problem::AttentionProblem;
use regard::tensor::{Array, DType};
use regard::{Error, Gpu, Result, reference};
use serde_json::json;

use crate::check::{self, Compared, Report};
use crate::device::{Device, DeviceArgs};
use crate::explain::{self, Explained};
use crate::failure::{Failure, Outcome};
use crate::output::{self, Named, OutputType};
use crate::picture;
use crate::progress::Busy;
use crate::tensors::{Input, join_heads, round, split_heads, widen};
use options::Options;
pub(crate) use options::Storage;

/// Attention over the tensors of a file
///
/// Reads `query` [B, Hq, Nq, D], `key` [B, Hkv, Nk, D] and `value` [B, Hkv, Nk, Dv] and writes `output`. Rank 3
/// [B, N, H·D] needs --q-heads and --kv-heads; rank 2 [N, D] is one head of one batch. The output has the query's rank.
///
/// Optional tensors: `mask` (BOOL or U8: true = attend; float: added; broadcast to [B, Hq, Nq, Nk]), `past_key` and
/// `past_value` [B, Hkv, P, D], `kv_lengths` `[B]` (I32 or I64: how many keys are real), `alibi_slopes` `[Hq]`, `sinks`
/// `[Hq]`, and the parameters of the score function.
///
/// Scores are scaled, passed through --score-wgsl, capped, biased, masked and normalized, in this order. A query that
/// sees no key gets weights and output 0.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Tensors to read
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write the results to
    #[arg(short, long, value_name = "OUT.safetensors")]
    #[arg(required_unless_present_any = ["check", "explain", "heatmap"])]
    output: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// Heads of a rank-3 `query` [B, N, Hq·D]
    #[arg(long, value_name = "N")]
    q_heads: Option<usize>,
    /// Heads of rank-3 `key` and `value`; as many as the query's when left out
    #[arg(long, value_name = "N")]
    kv_heads: Option<usize>,
    /// Also write `weights` [B, Hq, Nq, Nk]
    #[arg(long)]
    weights: bool,
    /// Also write `lse` [B, Hq, Nq], the natural log-sum-exp of each row
    #[arg(long)]
    lse: bool,
    /// Also write `present_key` and `present_value` [B, Hkv, P + Nk, D]: the past and what is new, joined
    #[arg(long)]
    present: bool,
    /// Element type of query, key, value and output on the device; arithmetic is f32 always
    #[arg(long, value_enum, default_value_t)]
    dtype: Storage,
    /// Element type of the tensors written
    #[arg(long, value_enum, default_value_t, value_name = "TYPE")]
    output_dtype: OutputType,
    /// Print what ran, and how long each dispatch took on the device
    #[arg(long)]
    explain: bool,
    /// Also run the reference in f64; print the largest error of each result and its ratio to the f32 reference's
    /// error; exit 1 if one is over tolerance
    #[arg(long)]
    check: bool,
    /// Draw the weights of the first batch row, one panel a head, as PNG and as SVG beside it
    #[arg(long, value_name = "FILE.png")]
    heatmap: Option<PathBuf>,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  regard attend in.safetensors -o out.safetensors
  regard attend in.safetensors -o out.safetensors --causal --window 128,0 --weights
  regard attend in.safetensors -o out.safetensors --causal=bottom-right --q-heads 8 --kv-heads 2
  regard attend in.safetensors -o out.safetensors --score additive --heatmap weights.png
  regard attend in.safetensors --check --explain --device gpu

A score function of your own, in a file for --score-wgsl:
  fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
      return score - 0.1 * abs(f32(i) - f32(j));
  }";

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    let mut options = args.options.attention()?;
    args.heatmap.as_deref().map_or(Ok(()), picture::check_name)?;
    options.lse = args.lse;
    options.weights = args.weights || args.heatmap.is_some();
    let (inputs, rank) = read(args)?;
    let problem = AttentionProblem::new(&options, &inputs.map(Array::shape))?;
    if args.check && options.score_mod.is_some() {
        let reason = "the reference cannot run WGSL, so `--check` has nothing to compare with: leave one of them out";
        return Err(Error::option("score-wgsl", reason).into());
    }
    let device = device.open()?;
    let dtype = args.dtype.into();

    let mut explained = Explained::new(&device);
    let outputs = {
        let _busy = Busy::new("computing");
        match &device {
            Device::Cpu => on_cpu(&options, &inputs, dtype)?,
            Device::Gpu(gpu) => {
                let timed = args.explain.then_some(&mut explained);
                let outputs = on_gpu(gpu, &options, &inputs, dtype, timed).map_err(|e| blame_wgsl(&options, e))?;
                if args.explain {
                    let plan = AttentionPlan::new(&options, &problem, dtype, gpu.caps())?;
                    explain_plan(&mut explained, &problem, &plan, dtype);
                    explained.floor(gpu, plan.flops, plan.bytes)?;
                }
                outputs
            }
        }
    };
    let report = args.check.then(|| check(&options, &inputs, &outputs, dtype)).transpose()?;
    if let Some(path) = &args.heatmap {
        picture::save(path, &picture::heads(&outputs)?)?;
    }
    let named = named(args, &inputs, outputs, rank)?;
    if let Some(path) = &args.output {
        output::save_tensors(path, &named, args.output_dtype)?;
    }

    let summary = json!({
        "command": "attend",
        "device": device.json(),
        "file": args.output,
        "outputs": output::describe(&named, args.output_dtype),
    });
    check::finish(args.json, summary, args.explain.then_some(&explained), report)
}

/// The tensors of the file, all of rank 4, and the query's own rank.
fn read(args: &Args) -> Outcome<(AttentionInputs<Array>, usize)> {
    let input = Input::open(&args.input)?;
    let query = input.require("query", "[B, Hq, Nq, D], [B, Nq, Hq·D] or [Nq, D]")?;
    let key = input.require("key", "[B, Hkv, Nk, D], [B, Nk, Hkv·D] or [Nk, D]")?;
    let value = input.require("value", "[B, Hkv, Nk, Dv], [B, Nk, Hkv·Dv] or [Nk, Dv]")?;
    let rank = query.shape().len();
    if !(2..=4).contains(&rank) {
        let expected = "4 [B, Hq, Nq, D], 3 [B, Nq, Hq·D] or 2 [Nq, D]";
        return Err(Error::shape("query", "rank", expected, format!("{rank} {:?}", query.shape())).into());
    }
    for (name, array) in [("key", &key), ("value", &value)] {
        if array.shape().len() != rank {
            let found = format!("{} {:?}", array.shape().len(), array.shape());
            return Err(Error::shape(name, "rank", format!("{rank} as `query` has"), found).into());
        }
    }
    if rank == 3 && args.q_heads.is_none() {
        let reason = format!("needed, as `query` {:?} has rank 3 [B, N, heads·D]", query.shape());
        let hint = "add `--q-heads 1` for one head, or give rank 4 [B, heads, N, D]";
        return Err(Failure::from(Error::option("q-heads", reason)).with_hint(hint));
    }
    let kv_heads = args.kv_heads.or(args.q_heads);
    let query = split_heads("query", query, args.q_heads)?;
    let key = split_heads("key", key, kv_heads)?;
    let mut inputs = AttentionInputs::new(query, key, split_heads("value", value, kv_heads)?);
    for (option, heads, tensor) in [("q-heads", args.q_heads, &inputs.query), ("kv-heads", args.kv_heads, &inputs.key)]
    {
        let found = tensor.shape()[1];
        if let Some(heads) = heads.filter(|&heads| heads != found) {
            return Err(Error::option(option, format!("{heads}, but the tensors have {found}")).into());
        }
    }
    let past = |name: &str| -> Result<Option<Array>> {
        input.float(name)?.map(|array| split_heads(name, array, kv_heads)).transpose()
    };
    inputs.past_key = past("past_key")?;
    inputs.past_value = past("past_value")?;
    inputs.mask = input.mask("mask")?;
    inputs.kv_lengths = input.lengths("kv_lengths", inputs.key.shape()[2])?;
    inputs.alibi_slopes = input.float("alibi_slopes")?;
    inputs.sinks = input.float("sinks")?;
    inputs.score = ScoreWeights {
        weight: input.float("score.weight")?,
        query_weight: input.float("score.query_weight")?,
        key_weight: input.float("score.key_weight")?,
        v: input.float("score.v")?,
        bias: input.float("score.bias")?,
        ..ScoreWeights::default()
    };
    input.warn_unused("attend");
    Ok((inputs, rank))
}

/// On the CPU in f32; f16 storage rounds what would be stored, on the way in and on the way out.
fn on_cpu(options: &Attention, inputs: &AttentionInputs<Array>, dtype: DType) -> Result<AttentionOutputs<Array>> {
    if options.score_mod.is_some() {
        return Err(Error::option("score-wgsl", "is a shader, which the CPU cannot run: use `--device gpu`"));
    }
    if dtype != DType::F16 {
        return reference::attention(options, inputs);
    }
    let stored = inputs.try_map(|name, array| {
        let is_stored = matches!(name, "query" | "key" | "value" | "past_key" | "past_value");
        Ok::<_, Error>(if is_stored { round(array) } else { array.clone() })
    })?;
    let outputs = reference::attention(options, &stored)?;
    Ok(AttentionOutputs {
        output: round(&outputs.output),
        present_key: outputs.present_key.as_ref().map(round),
        present_value: outputs.present_value.as_ref().map(round),
        ..outputs
    })
}

fn on_gpu(
    gpu: &Gpu,
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    dtype: DType,
    explained: Option<&mut Explained>,
) -> Result<AttentionOutputs<Array>> {
    let tensors = inputs.upload(gpu, dtype)?;
    if explained.is_some() {
        // Drivers compile on first use: once unmeasured.
        options.run(gpu, &tensors)?;
        gpu.wait()?;
    }
    let mut run = Run::new(gpu);
    let outputs = options.record(&mut run, &tensors)?;
    match explained {
        None => run.submit()?,
        Some(explained) => {
            explained.recording(run.recording());
            explained.timings(&run.submit_timed()?);
        }
    }
    outputs.download(gpu)
}

fn explain_plan(explained: &mut Explained, p: &AttentionProblem, plan: &AttentionPlan, dtype: DType) {
    let shape = format!(
        "B {} · Hq {} · Hkv {} · Nq {} · Nk {} · D {} · Dv {}, {dtype}",
        p.batch, p.query_heads, p.kv_heads, p.queries, p.keys, p.score_dim, p.value_dim
    );
    explained.fact("problem", shape);
    let ranges = match plan.query_ranges.len() {
        1 => "all queries at once".to_owned(),
        n => format!("queries in {n} ranges"),
    };
    let scores = explain::bytes(plan.score_bytes);
    explained.fact("path", format!("{}, {ranges}, {scores} of scores in memory", options::path_name(plan.path)));
}

/// The compiler's own words on a user's function, without the name and the rest of the shader that it stands in.
fn blame_wgsl(options: &Attention, error: Error) -> Error {
    let (Some(score_mod), Error::Option { option, reason }) = (&options.score_mod, &error) else {
        return error;
    };
    let Some((_, message)) = reason.split_once("error: ").filter(|_| option == "score_mod") else {
        return error;
    };
    let what = message.lines().next().unwrap_or_default().trim();
    // The compiler quotes lines of the whole shader; the one that is the user's says where.
    let quoted = |line: &&str| !line.trim().is_empty() && message.contains(line.trim_end());
    let place = score_mod.wgsl.lines().zip(1..).find(|(line, _)| quoted(line)).map(|(line, n)| (n, line.trim()));
    let at = match place {
        Some((n, line)) => format!(", line {n}: {line}"),
        None => ", where `fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32` is called".to_owned(),
    };
    Error::option("score-wgsl", format!("{what}{at}"))
}

/// Every result against the f64 reference over the inputs as given; the f32 baseline has the device's storage.
fn check(
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    got: &AttentionOutputs<Array>,
    dtype: DType,
) -> Result<Report> {
    let _busy = Busy::new("checking against the reference");
    let oracle = reference::attention(options, &inputs.map(widen))?;
    let baseline = on_cpu(options, inputs, dtype)?;
    let all = [
        ("output", Some(&got.output), Some(&oracle.output), Some(&baseline.output), dtype),
        ("weights", got.weights.as_ref(), oracle.weights.as_ref(), baseline.weights.as_ref(), DType::F32),
        ("lse", got.lse.as_ref(), oracle.lse.as_ref(), baseline.lse.as_ref(), DType::F32),
        ("scores", got.scores.as_ref(), oracle.scores.as_ref(), baseline.scores.as_ref(), DType::F32),
        ("present_key", got.present_key.as_ref(), oracle.present_key.as_ref(), baseline.present_key.as_ref(), dtype),
        (
            "present_value",
            got.present_value.as_ref(),
            oracle.present_value.as_ref(),
            baseline.present_value.as_ref(),
            dtype,
        ),
    ];
    Report::new(all.into_iter().filter_map(|(name, got, oracle, baseline, storage)| {
        Some(Compared { name, got: got?, oracle: oracle?, baseline: baseline?, storage })
    }))
}

/// The results that were asked for, by name.
fn named(args: &Args, inputs: &AttentionInputs<Array>, outputs: AttentionOutputs<Array>, rank: usize) -> Result<Named> {
    let mut named = vec![("output", join_heads(outputs.output, rank)?)];
    let mut add = |wanted: bool, name: &'static str, array: Option<Array>| {
        named.extend(array.filter(|_| wanted).map(|array| (name, array)));
    };
    add(args.weights, "weights", outputs.weights);
    add(args.lse, "lse", outputs.lse);
    add(true, "scores", outputs.scores);
    // Without a past, what is present is what is new.
    add(args.present, "present_key", Some(outputs.present_key.unwrap_or_else(|| inputs.key.clone())));
    add(args.present, "present_value", Some(outputs.present_value.unwrap_or_else(|| inputs.value.clone())));
    Ok(named)
}
