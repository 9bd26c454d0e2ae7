//! `regard bench`: what the adapter does, beside what it can do.

mod attention;
mod cases;
mod cpu;
mod launch;
mod plot;
mod recurrent;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum;
use regard::device::{Caps, Rates};
use regard::plan::{register_rate, tile_rate};
use regard::{Cpu, Error, Gpu};
use regex_lite::Regex;

use crate::device::{Choice, DeviceArgs};
use crate::drawing::Format;
use crate::encode::path_name;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::progress::Steps;
use crate::stream;
use crate::time::median;
use cases::{Case, How, Way};
use launch::Work;
use recurrent::Plan;
use report::{Device, Launch, Report, Row, Verdict};

/// Device times of attention and recurrences, beside the adapter's own measured ceilings
///
/// Each case's answer is checked against the reference before it is timed (of a large problem, some rows, spread over it,
/// first and last among them); one that is wrong is named, and is no row. Times are from the start of the first dispatch
/// to the end of the last, by timestamps on the device, median and minimum of several runs; without timestamps they are
/// from submission to completion. "compile" is by how much the first run took longer than a later one on the host's
/// clock: drivers compile a program when it is made or when it first runs; "-" where earlier cases had all of a case's
/// programs. Rows are printed as they come, below the name of their work, with the plan that was run below the figures. The floor is the larger of operations ÷ the measured rate of multiply-adds and bytes ÷ the measured copy
/// rate; "÷ floor" says how many times the floor the median takes.
///
/// Attention has one row for each path (`regard attend --path`) that the device can take, one for what is chosen,
/// `auto`, and one for `naive`, three dispatches with an invocation for each number, which is no part of the library.
/// Operations and floor count the pairs of a query and a key that are visible: half of them where a mask is causal. f16
/// cases run where the device has f16 in shaders; their floor is by cooperative matrices where those may be used and
/// are faster.
///
/// A recurrence has one row for each way to run it (`regard encode --path`) that the device can take, and one for the way
/// that is chosen, `auto`; "ns/step" is the median ÷ T, "plan µs" the time that the planner expects. What one more
/// dispatch that waits for the one before and a workgroup barrier cost is measured, and stands above the table beside
/// what the planner assumes. Below the table stands, for each path and tile, how that expectation compares with the
/// median, and the rate of multiply-adds that it rests on: near 1 the rate holds here, above 1 the device is faster.
///
/// A launch is one call: attention, a linear layer, a multi-head layer, a decode token of 1 and of 12 layers with a cache in
/// one piece and in pages. "ours" is the time until the call returns, replayed from a prepared run and recorded anew; "bare"
/// is that of the same dispatches in plain wgpu with kept pipelines, bind groups and parameters, in the same minutes.
///
/// The whole attention suite is for graphics cards, which take about a quarter of an hour; a software driver would take
/// hours: give it --quick, which takes less than a minute beside compilation, or a --filter. Takes any adapter, hardware first,
/// unless --device or --adapter says otherwise.
///
/// With --device cpu the same cases run on the native CPU backend, one row each, beside the processor's own rates with all of
/// its threads; times are on the host's clock. The whole attention suite takes some minutes there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which cases
    #[arg(long, value_enum, default_value_t, value_name = "SUITE")]
    suite: Suite,
    /// Only cases whose name matches this regular expression
    #[arg(long, value_name = "RE")]
    filter: Option<String>,
    /// Only these ways to run a case: auto, fused, split, staged, naive; of recurrences auto, steps, wavefront, persistent
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PATH,…", hide_possible_values = true)]
    paths: Vec<Way>,
    /// Also write the figures to this file, whole or not at all
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw throughput against sequence length for each path, with the measured ceiling: attention cases that differ
    /// in the sequence length alone
    #[arg(long, value_name = "FILE.png|FILE.svg")]
    plot: Option<PathBuf>,
    /// Smaller cases, fewer runs
    #[arg(long)]
    quick: bool,
    /// Time nothing: show the table of each of these files that --json wrote, and with --plot the picture of the one file
    #[arg(long, value_name = "FILE.json", num_args = 1.., conflicts_with_all = ["suite", "filter", "paths", "json", "quick"])]
    show: Vec<PathBuf>,
}

/// Groups of cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[value(rename_all = "lower")]
enum Suite {
    /// Score, softmax, weighted sum.
    Attention,
    /// LSTM, GRU, RNN.
    Recurrent,
    /// What a call costs the thread that makes it.
    Launch,
    /// All of them.
    #[default]
    All,
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    args.plot.as_deref().map(|path| Format::of("plot", path)).transpose()?;
    stream::refuse_two_outputs([("json", args.json.as_deref()), ("plot", args.plot.as_deref())])?;
    stream::refuse_two_inputs(args.show.iter().map(|path| ("show", Some(&**path))))?;
    let taken = stream::any([&args.json, &args.plot].into_iter().filter_map(|path| path.as_deref()));
    if !args.show.is_empty() {
        return show(args, taken);
    }
    let on_cpu = device.device == Choice::Cpu;
    let filter = &name_filter(args)?;
    let mut cases = selected(args, filter)?;
    if on_cpu {
        if args.suite == Suite::Launch {
            return Err(Error::option("suite", "a CPU launches nothing: take another, or `--device gpu`").into());
        }
        // The other ways are ways through the GPU's kernels.
        cases.retain(|case| case.way == Way::Auto);
        if cases.is_empty() && !args.paths.is_empty() {
            return Err(Error::option("paths", "chooses among GPU kernels, which the CPU does not run").into());
        }
    }
    let points: Vec<_> = cases.iter().filter_map(Case::point).collect();
    if args.plot.is_some() && !plot::has_curve(points.iter().map(|(series, length)| (series.as_str(), *length))) {
        return Err(plot::no_curve().into());
    }
    let launches = if on_cpu { Vec::new() } else { selected_launches(args, filter) };
    if cases.is_empty() && launches.is_empty() {
        return Err(Error::option("filter", "no case has such a name").into());
    }
    let report = match on_cpu {
        true => cpu::measure(&Cpu::new(), cases, args.quick, taken)?,
        false => measure(&device.open_adapter()?, cases, &launches, args.quick, taken)?,
    };
    report.not_run.iter().for_each(|refusal| output::note(refusal));
    if let Some(path) = &args.json {
        output::save(path, format!("{}\n", json(&report)?).as_bytes())?;
    }
    // A device that could run but one length of each has nothing to plot.
    args.plot.as_deref().map_or(Ok(()), |path| plot::save(path, &report))?;
    match report.wrong.len() {
        0 => Ok(()),
        n => Err(Failure::other(format!("wrong answers, which were not timed: {n}, {}", report.wrong.join(", ")))),
    }
}

/// What was measured before.
fn show(args: &Args, taken: bool) -> Outcome {
    let reports = args.show.iter().map(|path| Report::open(path)).collect::<regard::Result<Vec<_>>>()?;
    let tables: Vec<String> = reports.iter().map(Report::table).collect();
    output::print_beside(&tables.join("\n"), taken)?;
    match (&args.plot, &reports[..]) {
        (None, _) => Ok(()),
        (Some(path), [report]) => plot::save(path, report),
        (Some(_), _) => Err(Error::option("plot", "shows one file at a time").into()),
    }
}

fn json(report: &Report) -> Outcome<String> {
    serde_json::to_string_pretty(report).map_err(Failure::other)
}

/// The names that were asked for.
fn name_filter(args: &Args) -> regard::Result<Regex> {
    Regex::new(args.filter.as_deref().unwrap_or_default()).map_err(|error| Error::option("filter", error.to_string()))
}

/// The cases that were asked for.
fn selected(args: &Args, filter: &Regex) -> regard::Result<Vec<Case>> {
    let mut cases = Vec::new();
    if matches!(args.suite, Suite::Attention | Suite::All) {
        cases.extend(cases::attentions(args.quick));
    }
    if matches!(args.suite, Suite::Recurrent | Suite::All) {
        cases.extend(cases::recurrences(args.quick));
    }
    cases.retain(|case| filter.is_match(&case.name));
    if cases.is_empty() {
        return Ok(cases);
    }
    cases.retain(|case| args.paths.is_empty() || args.paths.contains(&case.way));
    if cases.is_empty() {
        return Err(Error::option("paths", "none of the cases can be run that way"));
    }
    Ok(cases)
}

/// The launches that were asked for: none where ways to run a case are.
fn selected_launches(args: &Args, filter: &Regex) -> Vec<Work> {
    let asked = matches!(args.suite, Suite::Launch | Suite::All) && args.paths.is_empty();
    Work::ALL.into_iter().filter(|work| asked && filter.is_match(&work.name())).collect()
}

/// Checks and times every case, and prints each as it is done, `taken` saying that a file goes to standard output.
fn measure(gpu: &Gpu, cases: Vec<Case>, launches: &[Work], quick: bool, taken: bool) -> Outcome<Report> {
    let mut steps = Steps::new("cases");
    let rates = Rates::measure(gpu)?;
    let assumed = gpu.caps().rates;
    let overheads = cases.iter().any(Case::is_recurrent).then_some(Launch {
        dispatch_ns: rates.dispatch,
        barrier_ns_per_lane: rates.barrier,
        assumed_dispatch_ns: assumed.dispatch,
        assumed_barrier_ns_per_lane: assumed.barrier,
    });
    let adapter = gpu.adapter();
    let device = Device {
        kind: "gpu".to_owned(),
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        backend: adapter.backend.clone(),
        r#type: adapter.kind.to_string(),
    };
    let mut report = Report {
        timestamps: gpu.caps().timestamps,
        cooperative_gflops: rates.coop_gflops,
        overheads,
        ..Report::new(device, rates.gflops, rates.gbps)
    };
    output::print_beside(&report.head(), taken)?;
    let mut plans = Vec::new();
    let (cases, half): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|case| gpu.caps().f16 || !case.is_half());
    if !half.is_empty() {
        report.not_run.push(format!("{} cases of f16: this device has no f16 in shaders", half.len()));
    }
    let count = cases.len() as u64;
    // Each case is dropped when it is done, and with the last of its ways its inputs.
    for (case, done) in cases.into_iter().zip(0..) {
        steps.set(done, count);
        match time(gpu, &case, &rates, quick)? {
            Ok((row, how)) => {
                steps.pause(|| output::print_beside(&row.lines(report.cases.last()), taken))?;
                report.cases.push(row);
                plans.push(how);
            }
            // The naive form takes the driver's own `exp` and `tanh`, which are no better on some.
            Err(reason) => report.leave_out(&case.name, &reason, case.way != Way::Naive),
        }
    }
    for &work in launches {
        match launch::measure(gpu, work, quick) {
            Ok(rows) => {
                for row in rows {
                    let first = report.launch.is_empty();
                    steps.pause(|| output::print_beside(&row.lines(first), taken))?;
                    report.launch.push(row);
                }
            }
            Err(reason @ (Error::Tolerance { .. } | Error::Limit { .. } | Error::Unsupported { .. })) => {
                report.leave_out(&work.name(), &reason, true);
            }
            Err(error) => return Err(error.into()),
        }
    }
    steps.finish();
    report.planner = verdicts(&report.cases, &plans, gpu.caps());
    output::print_beside(&report.tail(), taken)?;
    Ok(report)
}

/// Checks a case, then times it; or why the device cannot run it that way.
fn time(gpu: &Gpu, case: &Case, rates: &Rates, quick: bool) -> Outcome<Result<(Row, How), Error>> {
    let began = || -> regard::Result<_> {
        let prepared = case.prepare(gpu)?;
        let how = prepared.plan(gpu)?;
        let built = gpu.counts().pipelines;
        let start = Instant::now();
        let ready = prepared.record(gpu)?;
        ready.time(gpu)?;
        let first = start.elapsed().as_nanos() as f64;
        let compiled = gpu.counts().pipelines > built || case.way == Way::Naive;
        Ok((prepared, how, ready, compiled.then_some(first)))
    };
    let (prepared, how, ready, first) = match began() {
        Ok(begun) => begun,
        Err(error @ (Error::Limit { .. } | Error::Unsupported { .. })) => return Ok(Err(error)),
        Err(error @ Error::Option { .. }) if case.way != Way::Auto => return Ok(Err(error)),
        Err(error) => return Err(error.into()),
    };
    let error_ratio = match prepared.check(gpu, &ready, &case.name) {
        Ok(ratio) => ratio,
        Err(error @ Error::Tolerance { .. }) => return Ok(Err(error)),
        Err(error) => return Err(error.into()),
    };

    let mut later = f64::INFINITY;
    let times = repeat(quick, || {
        let start = Instant::now();
        let took = ready.time(gpu)?;
        later = later.min(start.elapsed().as_nanos() as f64);
        Ok(took)
    })?;
    let (median, minimum) = median_and_minimum(&times);
    let (flops, bytes) = case.work()?;
    let floor = rates.floor(flops, bytes, case.is_half());
    let (series, length) = case.point().unzip();
    let (path, plan, recurrence) = match &how {
        How::Attention(planned) => (planned.path, Some(planned.text.clone()), None),
        How::Recurrent(plan) => (path_name(plan.path), None, Some(plan)),
    };
    let row = Row {
        name: case.name.clone(),
        work: case.work_name().to_owned(),
        way: case.way.name().to_owned(),
        series,
        length,
        shape: case.shape(),
        path: path.to_owned(),
        plan,
        median_ns: median,
        minimum_ns: minimum,
        compile_ns: first.map(|first| (first - later).max(0.0)),
        planned_ns: recurrence.map(|plan| plan.nanoseconds).filter(|ns| ns.is_finite()),
        ns_per_step: recurrence.map(|plan| median / plan.steps as f64),
        runs: times.len(),
        dispatches: ready.dispatches(),
        flops,
        bytes,
        gflops: flops / median,
        gbps: bytes / median,
        floor_ns: floor,
        times_floor: median / floor,
        error_ratio,
    };
    Ok(Ok((row, how)))
}

/// The times of several runs, in nanoseconds, shortest first.
fn repeat(quick: bool, mut one: impl FnMut() -> regard::Result<f64>) -> regard::Result<Vec<f64>> {
    let (least, budget) = if quick { (3, 0.1e9) } else { (7, 0.5e9) };
    let (mut times, mut spent) = (Vec::new(), 0.0);
    // What takes seconds takes the same ones every time.
    while (times.len() < least && (times.len() < 3 || spent < 10.0 * budget)) || (spent < budget && times.len() < 100) {
        let took = one()?;
        spent += took;
        times.push(took);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn median_and_minimum(times: &[f64]) -> (f64, f64) {
    (median(times), times[0])
}

/// One for each path and tile among recurrences that time nothing but what is planned.
fn verdicts(rows: &[Row], plans: &[How], caps: &Caps) -> Vec<Verdict> {
    let recurrent = |how: &How| match how {
        How::Recurrent(plan) if plan.alone => Some(*plan),
        _ => None,
    };
    let mut verdicts: Vec<Verdict> = Vec::new();
    for (plan, row) in plans.iter().map(recurrent).zip(rows) {
        let Some(Plan { path, tile, nanoseconds, .. }) = plan else { continue };
        let rate = match tile {
            None => register_rate(caps),
            Some(rows) => tile_rate(rows as usize, caps),
        };
        let ratio = nanoseconds / row.median_ns;
        let path = path_name(path);
        match verdicts.iter_mut().find(|v| (v.path.as_str(), v.tile_rows) == (path, tile)) {
            Some(verdict) => verdict.planned_over_median.push(ratio),
            None => {
                let path = path.to_owned();
                verdicts.push(Verdict { path, tile_rows: tile, rate, planned_over_median: vec![ratio] });
            }
        }
    }
    verdicts.sort_by(|a, b| (&a.path, a.tile_rows).cmp(&(&b.path, b.tile_rows)));
    verdicts.iter_mut().for_each(|v| v.planned_over_median.sort_by(f64::total_cmp));
    verdicts
}
