//! `regard validate`: every kernel variant that an adapter can run, against the reference.

use std::fmt::Write;

use regard::validate::{self, Row, Sample};
use regard::{Cpu, Device};
use serde_json::json;

use crate::device::{Choice, DeviceArgs, device_json};
use crate::failure::{Failure, Outcome};
use crate::output::{self, finite, note};
use crate::progress::Steps;

/// Every kernel variant that the device can run, against the CPU reference
///
/// Each case of a built-in table runs in f32, and in f16 where the adapter has it. A result passes when its error
/// against the reference in f64 is at most twice that of the reference in f32, plus a few units in the last place.
/// One row a kernel: cases (once for each variant that a case runs), variants, worst error as a share of the tolerance,
/// pass or FAIL, and below it the cases that failed; with --all, and as JSON, one row a variant. The last line is the
/// verdict. Exit status 1 if any fails. A case in which f32 arithmetic itself is a thousandth or more from the truth says
/// nothing: it is told with the number, and its kernel has no verdict.
///
/// Takes any adapter, hardware first, unless --device or --adapter says otherwise. With --device cpu the native CPU backend is
/// judged by the same rule, with each set of instructions that the processor has.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Few programs only, which have every kernel with each of its types and switches
    ///
    /// And every case that these programs run. Most of the time is a driver's compiler's: with a software driver a minute
    /// instead of several.
    #[arg(long)]
    quick: bool,
    /// One row a variant
    #[arg(long)]
    all: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    let device = match device.device {
        Choice::Cpu => Device::Cpu(Cpu::new()),
        Choice::Auto | Choice::Gpu => Device::Gpu(device.open_adapter()?),
    };
    let mut steps = Steps::new("cases");
    let sample = if args.quick { Sample::Quick } else { Sample::All };
    let mut progress = |done: usize, all: usize| {
        if done == 0 {
            let (storages, each) = match &device {
                Device::Gpu(gpu) => (gpu.caps().f16, seconds_a_case(gpu.caps().software)),
                Device::Cpu(_) => (true, 0.004),
            };
            let storages = if storages { "f32 and f16" } else { "f32" };
            note(&format!("{all} cases in {storages} on {device}: {} or so", duration(all as f64 * each)));
        }
        steps.set(done as u64, all as u64);
    };
    let rows = match &device {
        Device::Gpu(gpu) => validate::run(gpu, sample, progress)?,
        Device::Cpu(cpu) => validate::run_on_cpu(cpu, sample, &mut progress),
    };
    steps.finish();
    let failed = rows.iter().filter(|row| !row.failures.is_empty()).count();
    if args.json {
        output::print_json(&json!({
            "device": device_json(&device),
            "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
            "variants": rows.len(),
            "failed": failed,
            "without_verdict": rows.iter().filter(|row| row.failures.is_empty() && !row.unsound.is_empty()).count(),
        }))?;
    } else {
        output::print(&table(rows.iter().map(Line::new), &device.to_string(), args.all))?;
    }
    if failed > 0 {
        return Err(Failure::other(format!("{failed} of {} variants failed", rows.len())));
    }
    Ok(())
}

fn row_json(row: &Row) -> serde_json::Value {
    json!({
        "kernel": row.kernel,
        "variant": row.variant,
        "cases": row.cases,
        "worst_ratio": finite(row.worst),
        "worst_case": row.worst_case,
        "passed": match (row.failures.is_empty(), row.unsound.is_empty()) {
            (false, _) => Some(false),
            (true, false) => None,
            (true, true) => Some(true),
        },
        "failures": row.failures,
        "unsound": row.unsound,
    })
}

/// Seconds that a case takes on the average in one type, most of them the driver's compiler's: measured on lavapipe 22.3
/// with two cores, which compiles slowly and keeps little; of cards an assumption.
fn seconds_a_case(software: bool) -> f64 {
    if software { 0.15 } else { 0.02 }
}

/// A time that is not known well, to read.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{:.0} s", (s / 5.0).ceil() * 5.0),
        s => format!("{:.0} min", (s / 60.0).ceil()),
    }
}

/// Failed cases that are printed of each row; all of them as JSON.
const TOLD: usize = 3;

/// The cells of a row of the table.
struct Line<'r> {
    kernel: &'r str,
    cases: usize,
    variants: usize,
    worst: f64,
    failures: Vec<&'r str>,
    /// Cases that say nothing, with the reason.
    unsound: Vec<&'r str>,
    /// With one row a variant: which.
    variant: &'r str,
}

impl<'r> Line<'r> {
    fn new(row: &'r Row) -> Self {
        Self {
            kernel: row.kernel,
            cases: row.cases,
            variants: 1,
            worst: row.worst,
            failures: row.failures.iter().map(String::as_str).collect(),
            unsound: row.unsound.iter().map(String::as_str).collect(),
            variant: &row.variant,
        }
    }

    /// Adds another variant of the same kernel.
    fn join(&mut self, other: Self) {
        self.cases += other.cases;
        self.variants += other.variants;
        self.worst = self.worst.max(other.worst);
        // A case that failed did so for each variant that it ran.
        for (own, others) in [(&mut self.failures, other.failures), (&mut self.unsound, other.unsound)] {
            for case in others {
                if !own.contains(&case) {
                    own.push(case);
                }
            }
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.failures.is_empty(), self.unsound.is_empty()) {
            (false, _) => "FAIL",
            (true, false) => "no verdict",
            (true, true) => "pass",
        }
    }
}

/// A line a kernel, or with `all` a variant, and the verdict.
fn table<'r>(rows: impl Iterator<Item = Line<'r>>, device: &str, all: bool) -> String {
    let (mut variants, mut failed, mut unsound) = (0, 0, 0);
    let mut lines: Vec<Line<'_>> = Vec::new();
    for row in rows {
        variants += 1;
        failed += usize::from(!row.failures.is_empty());
        match lines.iter_mut().find(|line| !all && line.kernel == row.kernel) {
            Some(line) => line.join(row),
            None => lines.push(row),
        }
    }
    let all_worst = lines.iter().map(|line| line.worst).fold(0.0, f64::max);
    let mut out = format!("{device}\n\n{:<16} {:>6} {:>8}  {:>5}\n", "kernel", "cases", "variants", "worst");
    for line in lines {
        let verdict = line.verdict();
        unsound += line.unsound.len();
        let Line { kernel, cases, variants, worst, .. } = line;
        let variant = if all { line.variant } else { "" };
        let text = format!("{kernel:<16} {cases:>6} {variants:>8}  {worst:>5.2}  {verdict}  {variant}");
        let _ = writeln!(out, "{}", text.trim_end());
        for cases in [&line.failures, &line.unsound] {
            for case in cases.iter().take(TOLD) {
                let _ = writeln!(out, "    {case}");
            }
            if cases.len() > TOLD {
                let _ = writeln!(out, "    … and {} more", cases.len() - TOLD);
            }
        }
    }
    let verdict = match (failed, unsound) {
        (0, 0) => "pass",
        (0, _) => "no verdict",
        _ => "FAIL",
    };
    let _ =
        writeln!(out, "\n{verdict}: {variants} variants, {failed} failed; worst error {all_worst:.2} of the tolerance");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up() {
        assert_eq!([0.1, 4.0, 61.0, 100.0, 600.0].map(duration), ["5 s", "5 s", "65 s", "2 min", "10 min"]);
    }

    #[test]
    fn a_kernel_is_a_row_and_its_failures_stand_below_it() {
        let line = |kernel, variant, worst, failures: &[&'static str]| Line {
            kernel,
            cases: 3,
            variants: 1,
            worst,
            failures: failures.to_vec(),
            unsound: Vec::new(),
            variant,
        };
        let rows = || {
            [
                line("copy", "f32", 0.0, &[]),
                line("score", "f32 LANES=8", 0.5, &["one: 2.00 times", "two: 9.00 times"]),
                line("score", "f16 LANES=8", 9.0, &["two: 9.00 times", "three", "four", "five"]),
            ]
            .into_iter()
        };
        let text = table(rows(), "a card", false);
        let lines: Vec<&str> = text.lines().skip(3).collect();
        assert_eq!(lines.len(), 8, "{text}");
        assert!(lines[0].starts_with("copy ") && lines[0].ends_with("3        1   0.00  pass"), "{text}");
        assert!(lines[1].starts_with("score ") && lines[1].ends_with("6        2   9.00  FAIL"), "{text}");
        assert_eq!(lines[2..6], ["    one: 2.00 times", "    two: 9.00 times", "    three", "    … and 2 more"]);
        assert_eq!(lines[7], "FAIL: 3 variants, 2 failed; worst error 9.00 of the tolerance");
        let text = table(rows(), "a card", true);
        assert!(
            text.contains("0.50  FAIL  f32 LANES=8\n    one") && text.lines().count() == 3 + 3 + 2 + 4 + 2,
            "{text}"
        );
        assert!(
            table(rows().take(1), "a card", false)
                .ends_with("pass: 1 variants, 0 failed; worst error 0.00 of the tolerance\n")
        );
    }

    /// Beside f32 that is as wrong, being right within its error is no pass.
    #[test]
    fn a_case_that_says_nothing_is_no_pass() {
        let unsound = vec!["three, output: f32 arithmetic itself is off by 2.0e-1"];
        let line = Line { kernel: "score", cases: 3, variants: 1, worst: 0.1, failures: vec![], unsound, variant: "" };
        let text = table(std::iter::once(line), "a card", false);
        assert!(!text.contains("pass") && text.contains("off by 2.0e-1"), "{text}");
        assert!(text.lines().last().is_some_and(|line| line.starts_with("no verdict: 1 variants, 0 failed")), "{text}");
    }
}
