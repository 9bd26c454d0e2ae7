//! `regard tune`: which way to run an attention is fastest on this adapter.

use std::fmt::Write;

use regard::attention::{Algorithm, Attention, AttentionInputs, Score};
use regard::compare::judge;
use regard::device::Rates;
use regard::gpu::{Adapter, Run};
use regard::plan::{self, AttentionPlan, Bucket, FusedPlan};
use regard::problem::AttentionProblem;
use regard::tensor::{Array, DType, Layout};
use regard::workload::numbers;
use regard::{Error, Gpu, Result, Tensor, baseline, reference};
use serde_json::{Value, json};

use crate::attend::ElementType;
use crate::device::{Choice, DeviceArgs, adapter_json};
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::kept;
use crate::output::{self, finite, note};
use crate::progress::Steps;

/// Time the ways to run an attention on this adapter, and keep the fastest
///
/// Each fused kernel and tile that the adapter can run, and `staged`, is checked against the reference, on some rows of
/// the output, and then timed by timestamps on the device. The fastest of them is timed once more beside what would be
/// taken untuned, and the faster of these two is kept in the user's cache folder, for this adapter with this driver and for
/// all problems of about the shape, and taken by every later command; --no-tune ignores it. The device's rates (multiply-adds,
/// copies, one more dispatch, a barrier) are measured and kept as well, in place of what is assumed of its kind; recurrences
/// and products are planned by them. `regard info` says how many shapes are tuned and by which rates it plans; `regard attend
/// --explain` says whether a plan is tuned.
///
/// A row shows that second timing in microseconds: the median untuned, minimum, median and maximum of what is kept, and
/// the ratio of the medians.
///
/// Takes any adapter, hardware first, unless --device or --adapter says otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A shape to tune in place of the built-in ones: batch rows, heads of queries, heads of keys, queries, keys, head dim
    /// and, where it is another, value dim; can be given several times
    #[arg(long = "shape", value_name = "B,HQ,HKV,NQ,NK,D[,DV]", value_parser = shape)]
    shapes: Vec<Shape>,
    /// These shapes have additive (Bahdanau) scores, over D units
    #[arg(long, requires = "shapes")]
    additive: bool,
    /// Only this element type; all that the adapter has when left out
    #[arg(long, value_enum)]
    dtype: Option<ElementType>,
    /// Few and small shapes, fewer runs
    #[arg(long)]
    quick: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Plain attention of one shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    value_dim: usize,
}

impl From<[usize; 7]> for Shape {
    fn from([batch, heads, kv_heads, queries, keys, dim, value_dim]: [usize; 7]) -> Self {
        Self { batch, heads, kv_heads, queries, keys, dim, value_dim }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { batch, heads, kv_heads, queries, keys, dim, value_dim } = self;
        write!(f, "B{batch} H{heads}/{kv_heads} {queries}×{keys} D{dim}")?;
        if value_dim == dim { Ok(()) } else { write!(f, " Dv{value_dim}") }
    }
}

/// Elements of one tensor: 2 GiB of f32, as much as devices bind.
const MOST_ELEMENTS: usize = 1 << 29;

fn shape(text: &str) -> std::result::Result<Shape, String> {
    let number = |text: &str| text.trim().parse().ok().filter(|&n: &usize| n > 0);
    let numbers: Option<Vec<usize>> = text.split(',').map(number).collect();
    let [b, hq, hkv, nq, nk, d, dv] = match numbers.as_deref() {
        Some(&[b, hq, hkv, nq, nk, d]) => [b, hq, hkv, nq, nk, d, d],
        Some(&[b, hq, hkv, nq, nk, d, dv]) => [b, hq, hkv, nq, nk, d, dv],
        _ => return Err("expected six or seven numbers above 0, as in `1,32,8,1,4096,128`".to_owned()),
    };
    for tensor in [[b, hq, nq, d], [b, hkv, nk, d], [b, hq, nq, dv], [b, hkv, nk, dv]] {
        if tensor.into_iter().fold(1, usize::saturating_mul) > MOST_ELEMENTS {
            return Err(format!("a tensor {tensor:?} has more than {MOST_ELEMENTS} elements"));
        }
    }
    Ok([b, hq, hkv, nq, nk, d, dv].into())
}

/// One problem to measure.
struct Work {
    shape: Shape,
    options: Attention,
    dtype: DType,
}

impl Work {
    fn new(shape: Shape, additive: bool, dtype: DType) -> Self {
        let score = if additive { Score::Additive } else { Score::ScaledDot };
        // Sums of so many tanh would leave one key all the weight.
        let scale = additive.then(|| 1.0 / (shape.dim as f32).sqrt());
        Self { shape, options: Attention { score, scale, ..Attention::default() }, dtype }
    }

    fn name(&self) -> String {
        let additive = if self.options.score == Score::Additive { "additive " } else { "" };
        format!("{additive}{} {}", self.shape, self.dtype)
    }

    fn inputs(&self) -> AttentionInputs<Array> {
        let Shape { batch, heads, kv_heads, queries, keys, dim, value_dim } = self.shape;
        AttentionInputs::new(
            numbers(&[batch, heads, queries, dim], 1, 1.7),
            numbers(&[batch, kv_heads, keys, dim], 2, 1.7),
            numbers(&[batch, kv_heads, keys, value_dim], 3, 1.7),
        )
    }
}

/// What is tuned where no one says: prompts, steps of a decoder over its cache, additive scores.
fn usual(quick: bool) -> Vec<(Shape, bool)> {
    let dots: Vec<[usize; 7]> = match quick {
        true => vec![[1, 8, 8, 256, 256, 64, 64], [1, 8, 2, 1, 1024, 64, 64]],
        false => vec![
            [1, 8, 8, 256, 256, 64, 64],
            [1, 8, 8, 1024, 1024, 64, 64],
            [1, 16, 16, 2048, 2048, 64, 64],
            [1, 8, 8, 1024, 1024, 128, 128],
            [1, 32, 8, 2048, 2048, 128, 128],
            [4, 16, 16, 2048, 2048, 128, 128],
            [1, 16, 16, 4096, 4096, 128, 128],
            [1, 8, 8, 1, 1024, 64, 64],
            [1, 32, 8, 1, 1024, 128, 128],
            [1, 32, 8, 1, 4096, 128, 128],
            [1, 32, 8, 1, 16_384, 128, 128],
            [1, 32, 8, 4, 4096, 128, 128],
            [16, 32, 8, 1, 2048, 128, 128],
        ],
    };
    let additive: Vec<[usize; 7]> = match quick {
        true => vec![[1, 1, 1, 64, 64, 128, 128]],
        false => vec![
            [1, 1, 1, 128, 128, 512, 256],
            [1, 1, 1, 512, 512, 512, 256],
            [1, 1, 1, 1024, 1024, 512, 256],
            [16, 1, 1, 1, 128, 512, 256],
        ],
    };
    let dots = dots.into_iter().map(|shape| (shape.into(), false));
    dots.chain(additive.into_iter().map(|shape| (shape.into(), true))).collect()
}

/// What was measured of one problem.
struct Row {
    name: String,
    bucket: Bucket,
    /// Nk.
    keys: usize,
    candidates: usize,
    /// What is taken untuned, timed again; no numbers where its answer was wrong.
    table: Spread,
    /// The choice that is stored, timed again.
    best: Spread,
    choice: plan::Choice,
}

/// Nanoseconds of several runs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    minimum: f64,
    median: f64,
    maximum: f64,
}

impl Spread {
    /// Of no run.
    const NONE: Self = Self { minimum: f64::NAN, median: f64::NAN, maximum: f64::NAN };

    fn of(times: &[f64]) -> Self {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        let at = |index: usize| times.get(index).copied().unwrap_or(f64::INFINITY);
        Self { minimum: at(0), median: at(times.len() / 2), maximum: at(times.len().saturating_sub(1)) }
    }

    fn json(&self) -> Value {
        json!({
            "min_ns": finite(self.minimum),
            "median_ns": finite(self.median),
            "max_ns": finite(self.maximum),
        })
    }
}

impl Row {
    fn gain(&self) -> f64 {
        self.table.median / self.best.median
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "bucket": self.bucket,
            "candidates": self.candidates,
            "table_ns": finite(self.table.median),
            "best_ns": finite(self.best.median),
            "table": self.table.json(),
            "best": self.best.json(),
            "gain": finite(self.gain()),
            "plan": self.choice,
        })
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    if device.device == Choice::Cpu {
        return Err(Error::option("device", "tune times GPU kernels: use `gpu` or `auto`").into());
    }
    let gpu = &device.open_adapter()?;
    let types = match args.dtype {
        Some(dtype) => vec![dtype.into()],
        None if gpu.caps().f16 => vec![DType::F32, DType::F16],
        None => vec![DType::F32],
    };
    let shapes = match args.shapes.is_empty() {
        true => usual(args.quick),
        false => args.shapes.iter().map(|&shape| (shape, args.additive)).collect(),
    };
    let works = shapes.iter().flat_map(|&(shape, additive)| types.iter().map(move |&t| Work::new(shape, additive, t)));
    let works: Vec<Work> = works.collect();

    let mut steps = Steps::new("shapes");
    let mut tuning = gpu.tuning().clone();
    let rates = Rates::measure(gpu)?;
    let (mut rows, mut unfit, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for (done, work) in works.iter().enumerate() {
        steps.set(done as u64, works.len() as u64);
        match measure(gpu, work, args.quick, &mut wrong) {
            Ok(row) => {
                tuning.insert(row.bucket, row.choice);
                rows.push(row);
            }
            Err(Unfit::Here(reason)) => unfit.push(format!("{}: {reason}", work.name())),
            Err(Unfit::Failed(error)) => return Err(error.into()),
        }
    }
    steps.finish();
    let file = if rows.is_empty() { None } else { Some(kept::save_tuning(gpu.adapter(), &tuning, rates)?) };
    if args.json {
        output::print_json(&json!({
            "device": adapter_json(gpu.adapter()),
            "timestamps": gpu.caps().timestamps,
            "rates": rates,
            "file": file,
            "shapes": rows.iter().map(Row::json).collect::<Vec<_>>(),
            "not_tuned": unfit,
            "wrong": wrong,
        }))?;
    } else {
        output::print(&table(&rows, gpu.adapter(), &rates))?;
        unfit.iter().for_each(|reason| note(reason));
        if let Some(file) = &file {
            note(&format!("kept in {}, with {} shapes in all", file.display(), tuning.len()));
        }
    }
    match wrong.first() {
        Some(first) => Err(Failure::other(format!("{} of the plans gave wrong answers: {first}", wrong.len()))),
        None => Ok(()),
    }
}

/// Why a problem is not tuned.
enum Unfit {
    /// It cannot be run fused here.
    Here(String),
    /// Something went wrong.
    Failed(Error),
}

impl From<Error> for Unfit {
    fn from(error: Error) -> Self {
        match error {
            Error::Limit { .. } | Error::Unsupported { .. } => Self::Here(error.to_string()),
            error => Self::Failed(error),
        }
    }
}

/// Rows of the output that are checked.
const CHECKED: usize = 16;

/// A candidate that takes so many times the fastest one's first time has lost.
const HOPELESS: f64 = 4.0;

/// Checks and times every candidate; what is `wrong` is reported and not used.
fn measure(gpu: &Gpu, work: &Work, quick: bool, wrong: &mut Vec<String>) -> std::result::Result<Row, Unfit> {
    let Work { options, dtype, .. } = work;
    let inputs = work.inputs();
    let problem = AttentionProblem::new(options, &inputs.map(Array::shape, Array::shape))?;
    let candidates = AttentionPlan::candidates(options, &problem, *dtype, gpu.caps())
        .map_err(|reason| Unfit::Here(reason.to_string()))?;
    let planned = AttentionPlan::new(options, &problem, *dtype, gpu.caps())?;
    let staged = Attention { path: Algorithm::Staged, ..options.clone() };
    let staged = AttentionPlan::new(&staged, &problem, *dtype, gpu.caps()).ok();
    let fused = candidates.iter().map(|&plan| planned.clone().with_fused(plan));
    let tensors = inputs.upload(gpu, *dtype)?;
    // Without masks the rows know nothing of one another.
    let some = AttentionInputs { query: rows_of(&inputs.query)?, ..inputs };
    let oracle = reference::attention(options, &some.map_numbers(Array::cast::<f64>))?.output;
    let rounded = baseline::attention(options, &some, *dtype)?.output;

    let mut runs: Vec<Timed<'_>> = Vec::new();
    for plan in fused.chain(staged) {
        let choice = choice(&plan);
        let mut run = Run::new(gpu);
        let checked = record(&mut run, options, &tensors, &plan)
            .and_then(|output| run.clone().submit_and_read(&[&output]))
            .and_then(|read| read.first().map_or_else(|| Err(Error::missing("output", "what was read back")), rows_of))
            .and_then(|got| judge("output", &got, &oracle, &rounded, *dtype)?.check("`output`"));
        match checked {
            Ok(_) => runs.push(Timed { choice, run, times: Vec::new() }),
            Err(error @ Error::Tolerance { .. }) => {
                wrong.push(format!("{}, {}: {error}", work.name(), in_words(&choice, problem.keys)))
            }
            Err(Error::Limit { .. } | Error::Unsupported { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let count = runs.len();
    let (least, budget) = if quick { (3, 0.1e9) } else { (5, 0.5e9) };
    let table = choice(&planned);
    // Compilation is over after the check; what is far slower in one round is not timed again.
    repeat(&mut runs, 1, 0.0)?;
    let first = runs.iter().map(|timed| timed.spread().median).fold(f64::INFINITY, f64::min);
    runs.retain(|timed| timed.choice == table || timed.spread().median <= HOPELESS * first);
    repeat(&mut runs, least, budget)?;
    let best = runs.iter().min_by(|a, b| a.spread().median.total_cmp(&b.spread().median)).map(|timed| timed.choice);
    let Some(best) = best else { return Err(Unfit::Here("no plan for it works on this device".to_owned())) };
    // The fastest of many may be the luckiest: it has to win again, in times of their own.
    runs.retain(|timed| timed.choice == best || timed.choice == table);
    runs.iter_mut().for_each(|timed| timed.times.clear());
    repeat(&mut runs, least, budget)?;
    let again = |choice: plan::Choice| runs.iter().find(|timed| timed.choice == choice).map(Timed::spread);
    let (Some(winner), bucket) = (again(best), Bucket::new(options.score, &problem, *dtype)) else {
        return Err(Unfit::Here("no plan for it works on this device".to_owned()));
    };
    let (kept, spread, table) = match again(table) {
        Some(spread) if spread.median <= winner.median => (table, spread, spread),
        Some(spread) => (best, winner, spread),
        // What the table says gave a wrong answer.
        None => (best, winner, Spread::NONE),
    };
    let kept = match kept {
        // All keys of this problem are all keys of any other.
        plan::Choice::Fused(plan) if plan.splits(problem.keys) == 1 => {
            FusedPlan { split_keys: bucket.keys, ..plan }.into()
        }
        kept => kept,
    };
    Ok(Row { name: work.name(), bucket, keys: problem.keys, candidates: count, table, best: spread, choice: kept })
}

/// Times all of them in rounds, so that other load on the machine affects all alike: `least` times each, then on until each
/// has had `budget` nanoseconds, on the average.
fn repeat(runs: &mut [Timed<'_>], least: usize, budget: f64) -> Result<()> {
    let mut spent = 0.0;
    for turn in 0..100 {
        if turn >= least && spent >= budget * runs.len() as f64 {
            break;
        }
        for timed in runs.iter_mut() {
            let took = timed.run.clone().submit_and_time()?;
            spent += took;
            timed.times.push(took);
        }
    }
    Ok(())
}

/// A way to run it, ready.
struct Timed<'g> {
    choice: plan::Choice,
    run: Run<'g>,
    /// Nanoseconds.
    times: Vec<f64>,
}

impl Timed<'_> {
    fn spread(&self) -> Spread {
        Spread::of(&self.times)
    }
}

fn choice(plan: &AttentionPlan) -> plan::Choice {
    plan.fused.as_ref().map_or(plan::Choice::Staged, |&fused| fused.into())
}

fn in_words(choice: &plan::Choice, keys: usize) -> String {
    match choice {
        plan::Choice::Staged => "staged".to_owned(),
        plan::Choice::Fused(plan) => explain::fused(plan, keys),
    }
}

fn record(
    run: &mut Run<'_>,
    options: &Attention,
    inputs: &AttentionInputs<Tensor>,
    plan: &AttentionPlan,
) -> Result<Tensor> {
    Ok(options.record_planned(run, inputs, plan)?.output)
}

/// Some of the rows of an array [B, H, N, D], as far apart as there are, the last one with them.
fn rows_of(array: &Array) -> Result<Array> {
    let mut layout = Layout::contiguous(array.shape());
    let rows = layout.shape[2];
    let count = rows.min(CHECKED);
    let step = rows / count;
    layout.offset = (rows - 1 - (count - 1) * step) * layout.strides[2];
    layout.shape[2] = count;
    layout.strides[2] *= step;
    array.gather(&layout)
}

fn table(rows: &[Row], device: &Adapter, rates: &Rates) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(5);
    let mut out = format!("{device}\n{}\n\n", explain::rates(rates));
    let _ = writeln!(
        out,
        "{:<width$} {:>5} {:>10} {:>10} {:>10} {:>10} {:>5}  kept",
        "shape, µs", "plans", "untuned", "min", "median", "max", "gain"
    );
    for row in rows {
        let Spread { minimum, median, maximum } = row.best;
        let [untuned, minimum, median, maximum] = [row.table.median, minimum, median, maximum].map(|ns| ns / 1e3);
        let shown = |x: f64, digits: usize| if x.is_finite() { format!("{x:.digits$}") } else { "-".to_owned() };
        let (count, untuned, gain) = (row.candidates, shown(untuned, 1), shown(row.gain(), 2));
        let _ = writeln!(
            out,
            "{:<width$} {count:>5} {untuned:>10} {minimum:>10.1} {median:>10.1} {maximum:>10.1} {gain:>5}  {}",
            row.name,
            in_words(&row.choice, row.keys),
        );
    }
    out
}
