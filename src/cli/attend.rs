//! `regard attend`: attention over the tensors of a file.

mod inputs;
mod notes;
mod options;

use std::path::PathBuf;

use regard::attention::{Algorithm, Attention, AttentionInputs, AttentionOutputs, Past, ScoreMod, ScoreStage};
use regard::backend::{Backend, CpuTensor};
use regard::baseline;
use regard::gpu::Run;
use regard::plan::AttentionPlan;
use regard::problem::{AttentionProblem, Storage};
use regard::tensor::{Array, DType};
use regard::{Cpu, Device, Error, Gpu, Result};
use serde_json::json;

use crate::check::{self, Report};
use crate::device::{DeviceArgs, device_json, refuse_path};
use crate::drawing::Format;
use crate::explain::{self, Explained};
use crate::failure::{Failure, Outcome};
use crate::heatmap::Curve;
use crate::output::{self, Named, OutputType};
use crate::picture;
use crate::progress::Busy;
use crate::stream;
use crate::tensors::Input;
use crate::time::{self, Times};
pub(crate) use inputs::Form;
use inputs::Heads;
pub(crate) use options::{CacheType, ElementType};
use options::{Options, Stage};

/// Attention over the tensors of a file
///
/// Reads `query` [B, Hq, Nq, D], `key` [B, Hkv, Nk, D] and `value` [B, Hkv, Nk, Dv] and writes `output`. Rank 3
/// [B, N, H·D] needs --q-heads and --kv-heads; rank 2 [N, D] is one head of one batch. The output has the query's rank.
///
/// Query and key are turned (--rotary) and compared; scores are scaled, passed through --score-wgsl, capped, biased, masked
/// and normalized, in this order. A query that sees no key gets weights and output 0.
///
/// Every tensor it can read is listed below.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Args {
    /// Tensors to read; `-` is standard input
    #[arg(value_name = "IN.safetensors")]
    input: PathBuf,
    /// File to write the results to; `-` is standard output
    #[arg(short, long, value_name = "OUT.safetensors")]
    #[arg(required_unless_present_any = ["check", "explain", "heatmap", "time"])]
    output: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    /// What stands before the names of the tensors, such as `layers.0.`
    #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
    prefix: String,
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
    /// Also write `max_sum` [B, Hq, Nq, 2], the largest score m of each row and Σ e^(score − m): exact where scores are so
    /// large that one log-sum-exp is not, which `regard merge` then goes by
    #[arg(long)]
    max_sum: bool,
    /// Also write `entropy` [B, Hq, Nq] of each row of weights, in nats
    #[arg(long)]
    entropy: bool,
    /// Also write `scores` [B, Hq, Nq, Nk] at this stage
    #[arg(long, value_enum, value_name = "STAGE")]
    scores: Option<Stage>,
    /// Also write `present_key` and `present_value` [B, Hkv, P + Nk, D]: the past and what is new, joined
    #[arg(long)]
    present: bool,
    /// Element type of query, key, value and output on the device; arithmetic is f32 always
    #[arg(long, value_enum, default_value_t)]
    dtype: ElementType,
    /// Keys and values on the device as a cache has them: q8 rounds each to 8 bits, with a scale for 32 neighbours, so
    /// that D and Dv are multiples of 32; as --dtype when left out. --check then judges attention over what is left of
    /// them, and adds how far that is from attention over all of them
    #[arg(long, value_enum, value_name = "TYPE")]
    cache_dtype: Option<CacheType>,
    /// Element type of the tensors written; f32 when left out
    #[arg(long, value_enum, value_name = "TYPE")]
    output_dtype: Option<OutputType>,
    /// Print what ran, and how long each dispatch took on the device
    #[arg(long)]
    explain: bool,
    /// Also run it N times on the device, after once that is not timed and with the tensors already there, and print median
    /// and minimum: device time where there are timestamps. With --json the summary is one line with `median_ms`, `min_ms` and
    /// `runs`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    time: Option<u32>,
    /// Also run the reference in f64; print the largest error of each result and its ratio to the f32 reference's
    /// error; exit 1 if one is over tolerance
    #[arg(long)]
    check: bool,
    /// Draw the weights of the first batch row, one panel a head: FILE.png, and the same as FILE.svg beside it; or FILE.svg
    /// alone
    #[arg(long, value_name = "FILE.png|FILE.svg")]
    heatmap: Option<PathBuf>,
    /// How the picture's shades follow the weights; linear, when left out
    #[arg(long, value_enum, value_name = "SCALE")]
    shades: Option<Curve>,
    /// What the picture calls the queries: a text file, one label a line
    #[arg(long, value_name = "FILE")]
    query_labels: Option<PathBuf>,
    /// What the picture calls the keys
    #[arg(long, value_name = "FILE")]
    key_labels: Option<PathBuf>,
    /// Print a summary as JSON
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Tensors:
  query, key, value           [B, Hq, Nq, D], [B, Hkv, Nk, D], [B, Hkv, Nk, Dv]; Hkv divides Hq
  past_key, past_value        [B, Hkv, P, D], [B, Hkv, P, Dv]: stand before key and value
  mask                        broadcast to [B, Hq, Nq, Nk], such as [B, 1, 1, Nk]; BOOL or U8:
                              true = attend; floats are added, and −∞ hides. Keys behind a shorter
                              mask are hidden. A query that sees no key has weights and output 0;
                              a score that is −∞ without being hidden weighs 0, and a row that
                              sees nothing else is NaN
  kv_lengths, query_lengths   [B]: how many keys and queries of a batch row are real. kv_lengths
                              alone say that the last query stands at the last real key, as in a
                              cache; a padded batch has both. kv_lengths count the keys of a cache
                              that is joined already: they cannot stand beside past_key
  block_mask                  [B or 1, Hq or 1, Nq / Q, Nk / K] rounded up; BOOL or U8: false =
                              hidden and not computed; with --block-size Q,K
  alibi_slopes                [Hq] or [B, Hq]: slope times distance is taken from a score
  sinks                       [Hq]: one more logit in each row of the softmax, without a value
  rotary_cos, rotary_sin      [positions, width / 2], in place of --rotary-base and --rotary-width
  previous                    the alignment before, for --score location or a monotonic --normalize
  score. ...                  parameters of the score function, see --score
Floats may be F32, F16, BF16 or F64; lengths and indices I32 or I64.

A ragged batch has its sequences one behind the other, B = 1, and tells where they begin and end:
  cu_seqlens_q, cu_seqlens_k  [sequences + 1]: 0, then the end of each sequence
  query, key, value           [T, H, D] as FlashAttention has them, or [1, H, T, D], or, with
                              --q-heads, [1, T, H·D]
A paged cache has its keys and values in pages:
  key, value                  [page count, Hkv, page size, D]
  block_table                 [B, pages]: the pages of each batch row in order; kv_lengths say how
                              far they are filled

Examples:
  regard attend in.safetensors -o out.safetensors
  regard attend in.safetensors -o out.safetensors --causal --window 128,0,4 --weights
  regard attend in.safetensors -o out.safetensors --causal --rotary half-split --rotary-base 500000
  regard attend in.safetensors -o out.safetensors --causal=bottom-right --q-heads 8 --kv-heads 2
  regard attend in.safetensors --heatmap weights.png --query-labels words.txt --key-labels words.txt
  regard attend in.safetensors --check --explain --device gpu
  regard attend model.safetensors --prefix layers.0. -o - > out.safetensors

A score function of your own, in a file for --score-wgsl:
  fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {
      return score - 0.1 * abs(f32(i) - f32(j));
  }";

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    refuse_unused(args)?;
    let options = Attention {
        weights: args.weights || args.heatmap.is_some(),
        lse: args.lse,
        max_sum: args.max_sum,
        entropy: args.entropy,
        scores: args.scores.map(ScoreStage::from),
        ..args.options.attention()?
    };
    let input = Input::open(&args.input)?.behind(&args.prefix);
    let heads = Heads { query: args.q_heads, kv: args.kv_heads };
    let (mut inputs, form) = inputs::read(&input, heads, &args.options)?;
    input.warn_unused("attend");
    if args.present {
        add_past(&mut inputs)?;
    }
    let problem = AttentionProblem::new(&options, &inputs.map(Array::shape, Array::shape)).map_err(|error| {
        blame_wgsl(error, &options).unwrap_or_else(|error| notes::explain(error, &options, &inputs))
    })?;
    notes::tell(&options, &inputs, &problem);
    let labels = picture::Labels::read([args.query_labels.as_deref(), args.key_labels.as_deref()], &problem)?;
    if args.check && options.score_mod.is_some() {
        let reason = "the reference cannot run WGSL, so `--check` has nothing to compare with: leave one of them out";
        return Err(Error::option("score-wgsl", reason).into());
    }
    let device = device.open()?;
    refuse_path(&device, options.path != Algorithm::Auto)?;
    let element = args.dtype.into();
    let storage = Storage { element, cache: args.cache_dtype.map_or(element, DType::from) };
    notes::warn_storage(&inputs, storage)?;

    let mut explained = Explained::new(&device);
    let outputs = {
        let _busy = Busy::new("computing");
        match &device {
            Device::Cpu(_) if options.score_mod.is_some() => {
                let reason = "is a shader, which the CPU cannot run: use `--device gpu`";
                return Err(Error::option("score-wgsl", reason).into());
            }
            Device::Cpu(cpu) => {
                explained.fact("plan", cpu.attention_plan(&options, &problem));
                on_cpu(cpu, &options, &inputs, storage)?
            }
            Device::Gpu(gpu) => {
                let timed = args.explain.then_some(&mut explained);
                let outputs = on_gpu(gpu, &options, &inputs, storage, timed).map_err(other_path)?;
                if args.explain {
                    let plan = AttentionPlan::tuned(&options, &problem, storage, gpu.caps(), gpu.tuning())?;
                    explain_plan(&mut explained, &problem, &plan, storage);
                    explained.floor(gpu, plan.flops, plan.bytes)?;
                }
                outputs
            }
        }
    };
    let times = args.time.map(|runs| timed(&device, &options, &inputs, storage, runs)).transpose()?;
    let report = args.check.then(|| checked(&options, &inputs, &outputs, storage)).transpose()?;
    if let Some(path) = &args.heatmap {
        picture::save(path, &picture::heads(&outputs, &options, &inputs, labels, args.shades.unwrap_or_default())?)?;
    }
    let named = named(args, &outputs, form)?;
    let output_dtype = args.output_dtype.unwrap_or_default();
    if let Some(path) = &args.output {
        output::save_tensors(path, &named, output_dtype)?;
    }

    let summary = json!({
        "command": "attend",
        "device": device_json(&device),
        "file": args.output,
        "outputs": output::describe(&named, output_dtype),
    });
    let taken = stream::any([&args.output, &args.heatmap].into_iter().filter_map(|path| path.as_deref()));
    check::finish(args.json, taken, summary, args.explain.then_some(&explained), times.as_ref(), report)
}

fn on_cpu(
    cpu: &Cpu,
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    storage: Storage,
) -> Result<AttentionOutputs<Array>> {
    let tensors = AttentionInputs::<CpuTensor>::stored(inputs, storage)?;
    Ok(cpu.clone().attention(options, &tensors)?.to_arrays())
}

/// How long it takes with the tensors on the device.
fn timed(
    device: &Device,
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    storage: Storage,
    runs: u32,
) -> Result<Times> {
    match device {
        Device::Cpu(cpu) => {
            let (mut cpu, tensors) = (cpu.clone(), AttentionInputs::<CpuTensor>::stored(inputs, storage)?);
            Times::of(runs, || time::on_host(|| cpu.attention(options, &tensors)))
        }
        Device::Gpu(gpu) => {
            let tensors = inputs.upload(gpu, storage)?;
            Times::of(runs, || {
                let mut run = Run::new(gpu);
                options.record(&mut run, &tensors)?;
                run.submit_and_time()
            })
        }
    }
}

fn checked(
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    outputs: &AttentionOutputs<Array>,
    storage: Storage,
) -> Result<Report> {
    let report = Report::new(|| baseline::judge_attention(options, inputs, outputs, storage))?;
    match storage.cache {
        DType::Q8 => Ok(report.with_cache_error(baseline::cache_error(options, inputs, storage)?)),
        _ => Ok(report),
    }
}

/// Refuses options that would change nothing.
fn refuse_unused(args: &Args) -> Result<()> {
    output::refuse_dtype(args.output.as_deref(), args.output_dtype)?;
    refuse_streams(args)?;
    let pictured = [
        ("query-labels", args.query_labels.is_some()),
        ("key-labels", args.key_labels.is_some()),
        ("shades", args.shades.is_some()),
    ];
    if let Some((name, _)) = pictured.iter().find(|(_, given)| *given)
        && args.heatmap.is_none()
    {
        return Err(Error::option(*name, "belongs to a picture: add `--heatmap FILE.png`"));
    }
    let results = [
        ("weights", args.weights),
        ("lse", args.lse),
        ("max-sum", args.max_sum),
        ("entropy", args.entropy),
        ("present", args.present),
        ("scores", args.scores.is_some()),
    ];
    match results.iter().find(|(_, wanted)| *wanted) {
        Some((name, _))
            if args.output.is_none() && !args.check && !args.explain && !args.json && args.time.is_none() =>
        {
            Err(Error::option(*name, "says what else to write: add `-o OUT.safetensors`, or leave it out"))
        }
        _ => Ok(()),
    }
}

/// Refuses `-` for two files, and what cannot go there; a picture of a kind that is not drawn.
fn refuse_streams(args: &Args) -> Result<()> {
    let inputs = [
        ("IN", Some(&*args.input)),
        ("score-wgsl", args.options.score_file()),
        ("query-labels", args.query_labels.as_deref()),
        ("key-labels", args.key_labels.as_deref()),
    ];
    output::refuse_streams(inputs, args.output.as_deref(), args.json)?;
    let summary = args.json.then_some(std::path::Path::new("-"));
    let outputs = [("output", args.output.as_deref()), ("heatmap", args.heatmap.as_deref()), ("json", summary)];
    stream::refuse_two_outputs(outputs)?;
    args.heatmap.as_deref().map(|path| Format::of("heatmap", path)).transpose()?;
    Ok(())
}

/// An empty past where there is none, so that what is new is present.
fn add_past(inputs: &mut AttentionInputs<Array>) -> Result<()> {
    let reason = if inputs.block_table.is_some() {
        "has nothing to join in a paged cache: append new keys to its pages, and leave it out"
    } else if inputs.cu_seqlens.is_some() {
        "has nothing to join in a ragged batch: leave it out"
    } else {
        let none = |array: &Array| {
            let mut shape = array.shape().to_vec();
            shape[2] = 0;
            Array::new(&shape, Vec::new())
        };
        if inputs.past.is_none() {
            inputs.past = Some(Past { key: none(&inputs.key)?, value: none(&inputs.value)? });
        }
        return Ok(());
    };
    Err(Error::option("present", reason))
}

fn on_gpu(
    gpu: &Gpu,
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    storage: Storage,
    explained: Option<&mut Explained>,
) -> Result<AttentionOutputs<Array>> {
    let tensors = inputs.upload(gpu, storage)?;
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
            explained.recording(run.recording(), gpu);
            explained.timings(&run.submit_timed()?);
        }
    }
    outputs.download(gpu)
}

fn explain_plan(explained: &mut Explained, p: &AttentionProblem, plan: &AttentionPlan, storage: Storage) {
    let shape = format!(
        "B {} · Hq {} · Hkv {} · Nq {} · Nk {} · D {} · Dv {}, {storage}",
        p.batch, p.query_heads, p.kv_heads, p.queries, p.keys, p.score_dim, p.value_dim
    );
    explained.fact("problem", shape);
    let path = options::path_name(plan.path);
    match (plan.path, &plan.fused) {
        (Algorithm::Staged, reason) => {
            let ranges = match plan.query_ranges.len() {
                1 => "all queries at once".to_owned(),
                n => format!("queries in {n} ranges"),
            };
            let scores = explain::bytes(plan.score_bytes);
            explained.fact("path", format!("{path}, {ranges}, {scores} of scores in memory"));
            if let Err(reason) = reason {
                explained.fact("not fused", reason.to_string());
            }
            if plan.tuned {
                explained.fact("plan", "tuned on this device");
            }
        }
        (_, Ok(fused)) => {
            explained.fact("path", format!("{path}, {}", explain::fused(fused, p.keys)));
            explained.fact("plan", if plan.tuned { "tuned on this device" } else { "from the table" });
        }
        (_, Err(_)) => {}
    }
}

/// A path that cannot run the problem leaves others.
fn other_path(error: Error) -> Failure {
    let is_path = matches!(&error, Error::Option { option, .. } if option == "path");
    let failure = Failure::from(error);
    if is_path { failure.with_hint("use `--path staged`, or `--path auto`, which takes what can run") } else { failure }
}

/// The failure of a user's function under the name that the option has here, with the line; any other error as it is.
fn blame_wgsl(error: Error, options: &Attention) -> Result<Failure> {
    match error {
        Error::Option { option, reason } if option == "score_mod" => {
            let failure = Failure::from(Error::option("score-wgsl", reason));
            let line = options.score_mod.as_ref().and_then(ScoreMod::excerpt);
            Ok(failure.with_excerpt(line))
        }
        other => Err(other),
    }
}

/// The results that were asked for, by name.
fn named(args: &Args, outputs: &AttentionOutputs<Array>, form: Form) -> Result<Named> {
    let wanted = |name: &str| match name {
        "weights" => args.weights,
        "present_key" | "present_value" => args.present,
        _ => true,
    };
    let as_asked = |(name, array): (&'static str, &Array)| {
        Ok((name, if name == "output" { form.join(array)? } else { array.clone() }))
    };
    outputs.named().filter(|(name, _)| wanted(name)).map(as_asked).collect()
}
