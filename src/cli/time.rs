//! `--time`: how long a device takes, inputs and weights already there.

use std::time::Instant;

use regard::Result;
use serde_json::{Value, json};

use crate::explain;
use crate::output::finite;
use crate::progress::Busy;

/// Times of several runs, in nanoseconds, shortest first.
#[derive(Debug)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// Of `runs` runs after one that is not timed; each tells how long it took.
    pub(crate) fn of(runs: u32, mut one: impl FnMut() -> Result<f64>) -> Result<Self> {
        let _busy = Busy::new("timing");
        one()?;
        let mut times = (0..runs).map(|_| one()).collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(Self(times))
    }

    fn median(&self) -> f64 {
        median(&self.0)
    }

    /// As a line.
    pub(crate) fn text(&self) -> String {
        let [median, minimum] = [self.median(), self.0[0]].map(|ns| explain::time(Some(ns)));
        let runs = self.0.len();
        let plural = if runs == 1 { "run" } else { "runs" };
        format!("time       median {median}, minimum {minimum}, {runs} {plural}\n")
    }

    /// Puts them into a summary.
    pub(crate) fn add_to(&self, summary: &mut Value) {
        summary["median_ms"] = finite(self.median() / 1e6);
        summary["min_ms"] = finite(self.0[0] / 1e6);
        summary["runs"] = json!(self.0.len());
    }
}

/// The middle one of times that are sorted, the longer of two.
pub(crate) fn median(times: &[f64]) -> f64 {
    times[times.len() / 2]
}

/// The time of something on the host's clock.
pub(crate) fn on_host<R>(f: impl FnOnce() -> Result<R>) -> Result<f64> {
    let start = Instant::now();
    f()?;
    Ok(start.elapsed().as_nanos() as f64)
}
