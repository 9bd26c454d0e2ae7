//! `--check`: results against the reference in f64, beside what the reference in f32 gets wrong.

use std::fmt::Write;

use regard::baseline::Verdicts;
use regard::compare::Verdict;
use regard::{Error, Result};
use serde_json::{Map, Value, json};

use crate::explain::Explained;
use crate::failure::{Failure, Outcome};
use crate::output::{self, finite};
use crate::progress::Busy;
use crate::time::Times;

/// What the comparison found, result by result.
#[derive(Debug)]
pub(crate) struct Report {
    verdicts: Verdicts,
    /// How far what an 8-bit cache loses puts the output from the exact one.
    cache_error: Option<f64>,
}

impl Report {
    /// Runs a comparison, and shows that it takes its time.
    pub(crate) fn new(compare: impl FnOnce() -> Result<Verdicts>) -> Result<Self> {
        let _busy = Busy::new("checking against the reference");
        Ok(Self { verdicts: compare()?, cache_error: None })
    }

    /// Adds what an 8-bit cache costs.
    pub(crate) fn with_cache_error(mut self, error: f64) -> Self {
        self.cache_error = Some(error);
        self
    }

    /// One row a result.
    pub(crate) fn text(&self) -> String {
        let mut out = format!(
            "{:<14} {:>13} {:>13} {:>8} {:>13}\n",
            "check", "max abs error", "f32 baseline", "ratio", "tolerance"
        );
        for (name, v) in &self.verdicts {
            let ratio = ratio(v).map_or("-".to_owned(), |r| format!("{r:.2}"));
            let state = match (v.passed(), v.is_sound()) {
                (false, _) => "FAIL",
                (true, true) => "pass",
                (true, false) => "no verdict",
            };
            let _ = writeln!(
                out,
                "{name:<14} {:>13.3e} {:>13.3e} {ratio:>8} {:>13.3e}  {state}",
                v.error,
                baseline(v),
                v.tolerance
            );
        }
        for (name, v) in self.verdicts.iter().filter(|(_, v)| !v.is_sound()) {
            let _ = writeln!(
                out,
                "`{name}`: f32 arithmetic itself is off by {:.1e} (relative) here, so being as exact says nothing",
                v.baseline_relative
            );
        }
        if let Some(error) = self.cache_error {
            let _ = writeln!(
                out,
                "{:<14} {error:>13.3e}  `output` over keys and values of q8 from that over exact ones",
                "q8 cache"
            );
        }
        out
    }

    /// The same for `--json`.
    pub(crate) fn json(&self) -> Value {
        let each = |(name, v): &(&str, Verdict)| {
            let value = json!({
                "max_abs_error": finite(v.error),
                "baseline_error": finite(baseline(v)),
                "ratio": ratio(v).map_or(Value::Null, finite),
                "tolerance": finite(v.tolerance),
                "baseline_relative_error": finite(v.baseline_relative),
                "worst_element": v.worst,
                "passed": passed(v),
            });
            ((*name).to_owned(), value)
        };
        let mut report = json!({
            "passed": match self.verdicts.iter().map(|(_, v)| passed(v)).collect::<Vec<_>>() {
                each if each.contains(&Some(false)) => Some(false),
                each if each.contains(&None) => None,
                _ => Some(true),
            },
            "outputs": Value::Object(self.verdicts.iter().map(each).collect::<Map<_, _>>()),
        });
        if let Some(error) = self.cache_error {
            report["cache_error"] = finite(error);
        }
        report
    }

    /// Fails with the first result that is over its tolerance.
    pub(crate) fn verdict(&self) -> Outcome {
        match self.verdicts.iter().find(|(_, v)| !v.passed()) {
            Some((name, v)) => {
                let what = format!("`{name}` at element {}", v.worst);
                Err(Failure::from(Error::Tolerance { what, error: v.error, tolerance: v.tolerance }))
            }
            None => Ok(()),
        }
    }
}

/// Whether it is within the tolerance; nothing where that would say nothing.
fn passed(v: &Verdict) -> Option<bool> {
    (!v.passed() || v.is_sound()).then_some(v.passed())
}

/// The error of the baseline; ∞ where it is no number and the truth is one.
fn baseline(v: &Verdict) -> f64 {
    if v.baseline_relative.is_infinite() { f64::INFINITY } else { v.baseline }
}

/// The error over the baseline's; none where both are exact.
fn ratio(v: &Verdict) -> Option<f64> {
    if v.error == 0.0 { (v.baseline > 0.0).then_some(0.0) } else { Some(v.error / v.baseline) }
}

/// The end of a command on tensors: its summary, with what was explained and checked, as JSON or as text, and the
/// verdict of the check as the command's own. Where a file was written to standard output, the text goes to standard error.
pub(crate) fn finish(
    as_json: bool,
    stdout_is_taken: bool,
    mut summary: Value,
    explained: Option<&Explained>,
    times: Option<&Times>,
    report: Option<Report>,
) -> Outcome {
    if as_json {
        if let Some(explained) = explained {
            summary["explain"] = explained.json();
        }
        if let Some(report) = &report {
            summary["check"] = report.json();
        }
        match times {
            Some(times) => {
                times.add_to(&mut summary);
                output::print(&format!("{summary}\n"))?;
            }
            None => output::print_json(&summary)?,
        }
    } else {
        if let Some(explained) = explained {
            output::aside(&explained.text());
        }
        if let Some(times) = times {
            output::print_beside(&times.text(), stdout_is_taken)?;
        }
        if let Some(report) = &report {
            output::print_beside(&report.text(), stdout_is_taken)?;
        }
    }
    report.map_or(Ok(()), |report| report.verdict())
}
