//! `regard bench`: what the adapter does, beside what it can do.

mod cases;
mod recurrent;

use std::fmt::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use regard::gpu::{Adapter, Run};
use regard::plan::Costs;
use regard::rates::{Overheads, Rates};
use regard::rnn::RnnPath;
use regard::{Error, Gpu};
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::device::{Choice, DeviceArgs, adapter_json};
use crate::encode::path_name;
use crate::failure::Outcome;
use crate::output::{self, finite};
use crate::progress::Steps;
use cases::Case;
pub(crate) use cases::numbers;
use recurrent::Plan;

/// Device times of attention and recurrences, beside the adapter's own measured ceilings
///
/// Each case's answer is checked against the reference before it is timed (of a large batch, some rows). Times are from
/// the start of the first dispatch to the end of the last, by timestamps on the device, median and minimum of several
/// runs; without timestamps they are from submission to completion. The floor is the larger of operations ÷ the measured
/// rate of multiply-adds and bytes ÷ the measured copy rate; "÷ floor" says how many times the floor the median takes.
///
/// A recurrence has one row for each way to run it (`regard encode --path`) that the device can take, and one for the way
/// that is chosen, `auto`; "ns/step" is the median ÷ T, "plan µs" the time that the planner expects. What one more
/// dispatch that waits for the one before and a workgroup barrier cost is measured, and stands above the table beside
/// what the planner assumes. Below the table stands, for each path and tile, how that expectation compares with the
/// median, and the rate of multiply-adds that it rests on: near 1 the rate holds here, above 1 the device is faster.
///
/// Takes any adapter, hardware first, unless --device or --adapter says otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which cases
    #[arg(long, value_enum, default_value_t, value_name = "SUITE")]
    suite: Suite,
    /// Only cases whose name matches this regular expression
    #[arg(long, value_name = "RE")]
    filter: Option<String>,
    /// Also write the figures to this file, whole or not at all
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Smaller cases, fewer runs
    #[arg(long)]
    quick: bool,
}

/// Groups of cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[value(rename_all = "lower")]
enum Suite {
    /// Score, softmax, weighted sum.
    Attention,
    /// LSTM, GRU, RNN.
    Recurrent,
    /// Both.
    #[default]
    All,
}

/// What one case took.
#[derive(Debug)]
struct Figures {
    name: String,
    /// Of a recurrence.
    recurrence: Option<Plan>,
    /// Nanoseconds.
    median: f64,
    /// Nanoseconds.
    minimum: f64,
    runs: usize,
    dispatches: usize,
    flops: f64,
    bytes: f64,
    /// Nanoseconds that the ceilings allow at best.
    floor: f64,
    /// Largest error as a share of the tolerance.
    error: f64,
}

impl Figures {
    /// Nanoseconds of a step of a recurrence.
    fn per_step(&self) -> Option<f64> {
        self.recurrence.map(|plan| self.median / plan.steps as f64)
    }

    /// The name, and the path where that was left open.
    fn title(&self) -> String {
        match self.recurrence {
            Some(plan) if self.name.ends_with(path_name(RnnPath::Auto)) => {
                format!("{} ({})", self.name, path_name(plan.path))
            }
            _ => self.name.clone(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    if device.device == Choice::Cpu {
        return Err(Error::option("device", "bench times GPU kernels: use `gpu` or `auto`").into());
    }
    let filter = Regex::new(args.filter.as_deref().unwrap_or_default())
        .map_err(|error| Error::option("filter", error.to_string()))?;
    let cases: Vec<Case> = cases::all(args.quick)
        .into_iter()
        .filter(|case| match args.suite {
            Suite::All => true,
            Suite::Attention => !case.is_recurrent(),
            Suite::Recurrent => case.is_recurrent(),
        })
        .filter(|case| filter.is_match(&case.name))
        .collect();
    if cases.is_empty() {
        return Err(Error::option("filter", "no case has such a name").into());
    }
    let gpu = &device.open_adapter()?;
    let mut steps = Steps::new("cases");
    let rates = Rates::measure(gpu)?;
    let overheads = Overheads::measure(gpu)?;
    let (mut figures, mut refused) = (Vec::new(), Vec::new());
    for (done, case) in cases.iter().enumerate() {
        steps.set(done as u64, cases.len() as u64);
        match time(gpu, case, &rates, args.quick)? {
            Ok(times) => figures.push(times),
            Err(reason) => refused.push(format!("{}: {reason}", case.name)),
        }
    }
    steps.finish();
    output::print(&table(&figures, gpu.adapter(), &rates, &overheads))?;
    refused.iter().for_each(|refusal| output::note(refusal));
    if let Some(path) = &args.json {
        let planner: Vec<Value> = verdicts(&figures, gpu.adapter()).iter().map(Verdict::json).collect();
        let figures: Vec<Value> = figures.iter().map(figures_json).collect();
        let whole = json!({
            "device": adapter_json(gpu.adapter()),
            "timestamps": gpu.caps().timestamps,
            "fma_gflops": finite(rates.gflops),
            "copy_gbps": finite(rates.gbps),
            "dispatch_ns": finite(overheads.dispatch),
            "barrier_ns_per_lane": finite(overheads.barrier),
            "planner": planner,
            "not_run": refused,
            "cases": figures,
        });
        output::save(path, format!("{whole:#}\n").as_bytes())?;
    }
    Ok(())
}

/// Checks a case, then times it; or why the device cannot run it that way.
fn time(gpu: &Gpu, case: &Case, rates: &Rates, quick: bool) -> Outcome<Result<Figures, Error>> {
    let prepared = case.prepare(gpu)?;
    let mut run = Run::new(gpu);
    match prepared.record(&mut run) {
        Ok(()) => {}
        Err(error @ (Error::Limit { .. } | Error::Unsupported { .. })) => return Ok(Err(error)),
        Err(error @ Error::Option { .. }) if case.is_recurrent() => return Ok(Err(error)),
        Err(error) => return Err(error.into()),
    }
    let error = prepared.check(gpu, &case.name)?;
    let (least, budget) = if quick { (3, 0.1e9) } else { (7, 1e9) };
    let (mut times, mut spent) = (Vec::new(), 0.0);
    let dispatches = run.recording().dispatches().count();
    let (flops, bytes) = case.work()?;
    // What takes seconds takes the same ones every time.
    while (times.len() < least && (times.len() < 3 || spent < 10.0 * budget)) || (spent < budget && times.len() < 100) {
        let took = run.clone().submit_and_time()?;
        spent += took;
        times.push(took);
    }
    times.sort_by(f64::total_cmp);
    let floor = (flops / rates.gflops).max(bytes / rates.gbps);
    let (name, recurrence) = (case.name.clone(), prepared.plan(gpu)?);
    let (median, minimum, runs) = (times[times.len() / 2], times[0], times.len());
    Ok(Ok(Figures { name, recurrence, median, minimum, runs, dispatches, flops, bytes, floor, error }))
}

fn table(figures: &[Figures], device: &Adapter, rates: &Rates, overheads: &Overheads) -> String {
    let assumed = Costs::of(&device.caps);
    let width = figures.iter().map(|f| f.title().chars().count()).max().unwrap_or(0);
    let mut out = format!(
        "{device}\nmultiply-adds {:.1} GFLOP/s, copy {:.1} GB/s, measured here\none more dispatch {:.0} ns (the planner \
         assumes {:.0}), a barrier {:.1} ns a lane ({:.1}), measured here\n\n",
        rates.gflops, rates.gbps, overheads.dispatch, assumed.dispatch, overheads.barrier, assumed.barrier
    );
    let _ = writeln!(
        out,
        "{:<width$} {:>11} {:>11} {:>9} {:>9} {:>10} {:>9} {:>8} {:>8} {:>6}",
        "case", "median µs", "min µs", "plan µs", "ns/step", "dispatches", "GFLOP/s", "GB/s", "÷ floor", "error",
    );
    let whole = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.0}"));
    for f in figures {
        let _ = writeln!(
            out,
            "{:<width$} {:>11.1} {:>11.1} {:>9} {:>9} {:>10} {:>9.2} {:>8.2} {:>8.1} {:>6.2}",
            f.title(),
            f.median / 1e3,
            f.minimum / 1e3,
            whole(f.recurrence.map(|plan| plan.nanoseconds / 1e3)),
            whole(f.per_step()),
            f.dispatches,
            f.flops / f.median,
            f.bytes / f.median,
            f.median / f.floor,
            f.error,
        );
    }
    let verdicts = verdicts(figures, device);
    if !verdicts.is_empty() {
        let _ = writeln!(out, "\nplan ÷ median of recurrences; multiply-adds a ns and worker that the planner assumes");
    }
    for v in verdicts {
        let _ = writeln!(
            out,
            "{:<24} {:>5.2} ({:.2} to {:.2}, rows: {})  at {:.1}",
            v.title(),
            v.median(),
            v.ratios[0],
            v.ratios[v.ratios.len() - 1],
            v.ratios.len(),
            v.rate
        );
    }
    out
}

/// How the planner's expectation compares with the medians of one path and tile.
struct Verdict {
    path: RnnPath,
    tile: Option<u32>,
    /// Multiply-adds a ns and worker that the planner assumes of the recurrent product.
    rate: f64,
    /// Expectation ÷ median of each row, ascending; not empty.
    ratios: Vec<f64>,
}

impl Verdict {
    fn title(&self) -> String {
        let tile = self.tile.map_or("in registers".to_owned(), |rows| format!("tile height {rows}"));
        format!("{}, {tile}", path_name(self.path))
    }

    fn median(&self) -> f64 {
        self.ratios[self.ratios.len() / 2]
    }

    fn json(&self) -> Value {
        json!({
            "path": path_name(self.path),
            "tile_rows": self.tile,
            "rate": finite(self.rate),
            "planned_over_median": self.ratios.iter().map(|&ratio| finite(ratio)).collect::<Vec<_>>(),
        })
    }
}

/// One for each path and tile among rows that time nothing but what is planned.
fn verdicts(figures: &[Figures], device: &Adapter) -> Vec<Verdict> {
    let costs = Costs::of(&device.caps);
    let mut verdicts: Vec<Verdict> = Vec::new();
    for (plan, median) in figures.iter().filter_map(|f| Some((f.recurrence.filter(|plan| plan.alone)?, f.median))) {
        let rate = match plan.tile {
            None => costs.register_rate,
            Some(1) => costs.tile_rate[0],
            Some(4) => costs.tile_rate[1],
            Some(_) => costs.tile_rate[2],
        };
        let ratio = plan.nanoseconds / median;
        match verdicts.iter_mut().find(|v| (v.path, v.tile) == (plan.path, plan.tile)) {
            Some(verdict) => verdict.ratios.push(ratio),
            None => verdicts.push(Verdict { path: plan.path, tile: plan.tile, rate, ratios: vec![ratio] }),
        }
    }
    verdicts.sort_by_key(|v| (path_name(v.path), v.tile));
    verdicts.iter_mut().for_each(|v| v.ratios.sort_by(f64::total_cmp));
    verdicts
}

fn figures_json(f: &Figures) -> Value {
    json!({
        "name": f.name,
        "median_ns": finite(f.median),
        "minimum_ns": finite(f.minimum),
        "path": f.recurrence.map(|plan| path_name(plan.path)),
        "planned_ns": f.recurrence.map_or(Value::Null, |plan| finite(plan.nanoseconds)),
        "ns_per_step": f.per_step().map_or(Value::Null, finite),
        "runs": f.runs,
        "dispatches": f.dispatches,
        "flops": finite(f.flops),
        "bytes": finite(f.bytes),
        "gflops": finite(f.flops / f.median),
        "gbps": finite(f.bytes / f.median),
        "floor_ns": finite(f.floor),
        "times_floor": finite(f.median / f.floor),
        "error_ratio": finite(f.error),
    })
}
