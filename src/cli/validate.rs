//! `regard validate`: every kernel variant that an adapter can run, against the reference.

use std::fmt::Write;

use regard::gpu::Adapter;
use regard::validate::{self, Row, Sample};
use serde_json::json;

use crate::device::{Choice, DeviceArgs, adapter_json};
use crate::failure::{Failure, Outcome};
use crate::output::{self, finite};
use crate::progress::Steps;

/// Every kernel variant that the adapter can run, against the CPU reference
///
/// Each case of a built-in table runs in f32, and in f16 where the adapter has it. A result passes when its error
/// against the reference in f64 is at most twice that of the reference in f32, plus a few units in the last place.
/// One row a variant: cases, worst error as a share of the tolerance, pass or fail. Exit status 1 if any fails.
///
/// Takes any adapter, hardware first, unless --device or --adapter says otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every fifth case only
    #[arg(long)]
    quick: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    if device.device == Choice::Cpu {
        return Err(
            regard::Error::option("device", "the CPU is what validate compares with: use `gpu` or `auto`").into()
        );
    }
    let gpu = &device.open_adapter()?;
    let mut steps = Steps::new("cases");
    let sample = if args.quick { Sample::QUICK } else { Sample::ALL };
    let rows = validate::run(gpu, sample, |done, all| steps.set(done as u64, all as u64))?;
    steps.finish();
    let failed = rows.iter().filter(|row| !row.failures.is_empty()).count();
    if args.json {
        output::print_json(&json!({
            "device": adapter_json(gpu.adapter()),
            "rows": rows.iter().map(row_json).collect::<Vec<_>>(),
            "variants": rows.len(),
            "failed": failed,
        }))?;
    } else {
        output::print(&table(&rows, gpu.adapter(), failed))?;
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
        "passed": row.failures.is_empty(),
        "failures": row.failures,
    })
}

fn table(rows: &[Row], device: &Adapter, failed: usize) -> String {
    let mut out = format!("{device}\n\n{:<13} {:>5}  {:>5}  {:<4}  variant\n", "kernel", "cases", "worst", "");
    for row in rows {
        let verdict = if row.failures.is_empty() { "pass" } else { "FAIL" };
        let _ = writeln!(out, "{:<13} {:>5}  {:>5.2}  {verdict}  {}", row.kernel, row.cases, row.worst, row.variant);
        for failure in row.failures.iter().take(3) {
            let _ = writeln!(out, "    {failure}");
        }
        if row.failures.len() > 3 {
            let _ = writeln!(out, "    … and {} more", row.failures.len() - 3);
        }
    }
    let worst = rows.iter().map(|row| row.worst).fold(0.0, f64::max);
    let _ = writeln!(out, "\n{} variants, {failed} failed; worst error {worst:.2} of the tolerance", rows.len());
    out
}
