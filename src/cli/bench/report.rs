//! What was measured: as it is stored, and as a table.

use std::fmt::Write;
use std::path::Path;

use regard::{Error, Result};
use serde::{Deserialize, Serialize};

use super::workload::Workload;
use crate::stream;

/// Everything that one run of `regard bench` found. `benches/results/README.md` says what each field is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) regard: String,
    pub(super) commit: Option<String>,
    pub(super) date: String,
    pub(super) command: String,
    pub(super) device: Device,
    pub(super) timestamps: bool,
    pub(super) fma_gflops: f64,
    pub(super) copy_gbps: f64,
    pub(super) cooperative_gflops: Option<f64>,
    #[serde(flatten)]
    pub(super) overheads: Option<Launch>,
    pub(super) planner: Vec<Verdict>,
    /// Cases whose answer was wrong, the naive form's left out.
    pub(super) wrong: Vec<String>,
    pub(super) not_run: Vec<String>,
    pub(super) cases: Vec<Row>,
}

/// The adapter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Device {
    /// `gpu`.
    pub(super) kind: String,
    pub(super) adapter: String,
    pub(super) driver: String,
    pub(super) backend: String,
    pub(super) r#type: String,
}

/// What launching and waiting costs in nanoseconds, measured and as the planner of recurrences assumes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) dispatch_ns: f64,
    pub(super) barrier_ns_per_lane: f64,
    pub(super) assumed_dispatch_ns: f64,
    pub(super) assumed_barrier_ns_per_lane: f64,
}

/// How the planner's expectation compares with the medians of one path and tile of recurrences.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) path: String,
    pub(super) tile_rows: Option<u32>,
    /// Multiply-adds a ns and worker that the planner assumes of the recurrent product.
    pub(super) rate: f64,
    /// Expectation ÷ median of each row, ascending; not empty.
    pub(super) planned_over_median: Vec<f64>,
}

impl Verdict {
    fn title(&self) -> String {
        let tile = self.tile_rows.map_or("in registers".to_owned(), |rows| format!("tile height {rows}"));
        format!("{}, {tile}", self.path)
    }
}

/// What one case took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    /// The work, then the way.
    pub(super) name: String,
    pub(super) work: String,
    pub(super) way: String,
    /// Of attention: what the cases of a curve have in common, and where on it this one is.
    pub(super) series: Option<String>,
    pub(super) length: Option<usize>,
    pub(super) shape: Option<Shape>,
    /// Which kernels ran.
    pub(super) path: String,
    pub(super) plan: Option<String>,
    pub(super) median_ns: f64,
    pub(super) minimum_ns: f64,
    pub(super) compile_ns: Option<f64>,
    pub(super) planned_ns: Option<f64>,
    pub(super) ns_per_step: Option<f64>,
    pub(super) runs: usize,
    pub(super) dispatches: usize,
    pub(super) flops: f64,
    pub(super) bytes: f64,
    pub(super) gflops: f64,
    pub(super) gbps: f64,
    pub(super) floor_ns: f64,
    pub(super) times_floor: f64,
    pub(super) error_ratio: f64,
}

/// An attention problem: what `benches/peers/` runs elsewhere. Inputs follow from it (`workload.rs`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Shape {
    pub(super) batch: usize,
    pub(super) query_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) dim: usize,
    pub(super) value_dim: usize,
    pub(super) dtype: String,
    pub(super) causal: bool,
    pub(super) masked: bool,
    pub(super) additive: bool,
}

impl From<&Workload> for Shape {
    fn from(work: &Workload) -> Self {
        let Workload { batch, query_heads, kv_heads, queries, keys, dim, value_dim, dtype, .. } = *work;
        Self {
            batch,
            query_heads,
            kv_heads,
            queries,
            keys,
            dim,
            value_dim,
            dtype: dtype.to_string(),
            causal: work.is_causal(),
            masked: work.is_masked(),
            additive: work.is_additive(),
        }
    }
}

impl Row {
    /// The name, and the path where that was left open.
    fn title(&self) -> String {
        if self.way == "auto" { format!("{} ({})", self.name, self.path) } else { self.name.clone() }
    }
}

impl Report {
    /// From a file that `regard bench --json` wrote.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is something else.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = stream::read_whole(path)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::file(path, format!("not what `regard bench --json` writes: {error}")))
    }

    /// Figures as a table, one for each suite.
    pub(super) fn table(&self) -> String {
        let Device { adapter, driver, backend, r#type, .. } = &self.device;
        let commit = self.commit.as_ref().map_or(String::new(), |commit| format!(", commit {commit}"));
        let cooperative =
            self.cooperative_gflops.map_or(String::new(), |rate| format!(", cooperative matrices {rate:.1} GFLOP/s"));
        let mut out = format!(
            "{adapter} ({type}, {backend}, {driver})\nregard {}{commit}, {}\nmultiply-adds {:.1} GFLOP/s, copy {:.1} \
             GB/s{cooperative}, measured here\n",
            self.regard, self.date, self.fma_gflops, self.copy_gbps
        );
        if let Some(launch) = &self.overheads {
            let _ = writeln!(
                out,
                "one more dispatch {:.0} ns (the planner assumes {:.0}), a barrier {:.1} ns a lane ({:.1}), measured here",
                launch.dispatch_ns,
                launch.assumed_dispatch_ns,
                launch.barrier_ns_per_lane,
                launch.assumed_barrier_ns_per_lane
            );
        }
        let (recurrences, attentions): (Vec<&Row>, Vec<&Row>) =
            self.cases.iter().partition(|row| row.ns_per_step.is_some());
        let groups: [(&[&Row], &[Column]); 2] = [(&attentions, &ATTENTION), (&recurrences, &RECURRENCE)];
        for (rows, columns) in groups.into_iter().filter(|(rows, _)| !rows.is_empty()) {
            out.push('\n');
            out.push_str(&aligned(rows, columns));
        }
        if !self.planner.is_empty() {
            let _ =
                writeln!(out, "\nplan ÷ median of recurrences; multiply-adds a ns and worker that the planner assumes");
        }
        for verdict in &self.planner {
            let ratios = &verdict.planned_over_median;
            if let (Some(first), Some(last)) = (ratios.first(), ratios.last()) {
                let _ = writeln!(
                    out,
                    "{:<24} {:>5.2} ({first:.2} to {last:.2}, rows: {})  at {:.1}",
                    verdict.title(),
                    ratios[ratios.len() / 2],
                    ratios.len(),
                    verdict.rate
                );
            }
        }
        out
    }
}

/// A heading and what stands below it.
type Column = (&'static str, fn(&Row) -> String);

fn optional(number: Option<f64>, decimals: usize) -> String {
    number.map_or("-".to_owned(), |number| format!("{number:.decimals$}"))
}

const CASE: Column = ("case", Row::title);
const MEDIAN: Column = ("median µs", |row| format!("{:.1}", row.median_ns / 1e3));
const MINIMUM: Column = ("min µs", |row| format!("{:.1}", row.minimum_ns / 1e3));
const COMPILE: Column = ("compile ms", |row| optional(row.compile_ns.map(|ns| ns / 1e6), 0));
const GFLOPS: Column = ("GFLOP/s", |row| format!("{:.2}", row.gflops));
const GBPS: Column = ("GB/s", |row| format!("{:.2}", row.gbps));
const FLOOR: Column = ("÷ floor", |row| format!("{:.1}", row.times_floor));
const ERROR: Column = ("error", |row| format!("{:.2}", row.error_ratio));
const PLAN: Column = ("plan", |row| row.plan.clone().unwrap_or_default());

const ATTENTION: [Column; 9] = [CASE, MEDIAN, MINIMUM, COMPILE, GFLOPS, GBPS, FLOOR, ERROR, PLAN];

const RECURRENCE: [Column; 11] = [
    CASE,
    MEDIAN,
    MINIMUM,
    COMPILE,
    ("plan µs", |row| optional(row.planned_ns.map(|ns| ns / 1e3), 0)),
    ("ns/step", |row| optional(row.ns_per_step, 0)),
    ("dispatches", |row| row.dispatches.to_string()),
    GFLOPS,
    GBPS,
    FLOOR,
    ERROR,
];

/// Lines of cells as wide as their columns; the first column and the plan to the left, numbers to the right.
fn aligned(rows: &[&Row], columns: &[Column]) -> String {
    let heading = columns.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = std::iter::once(heading)
        .chain(rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect()))
        .collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for ((cell, (name, _)), &width) in line.iter().zip(columns).zip(&widths) {
            let _ = match *name {
                "case" => write!(text, "{cell:<width$}"),
                "plan" => write!(text, "  {cell}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bench) fn row(work: &str, way: &str, median_ns: f64) -> Row {
        Row {
            name: format!("{work} {way}"),
            work: work.to_owned(),
            way: way.to_owned(),
            series: None,
            length: None,
            shape: None,
            path: "staged".to_owned(),
            plan: Some("scores in memory".to_owned()),
            median_ns,
            minimum_ns: median_ns,
            compile_ns: None,
            planned_ns: None,
            ns_per_step: None,
            runs: 3,
            dispatches: 3,
            flops: 1e6,
            bytes: 1e3,
            gflops: 1e6 / median_ns,
            gbps: 1e3 / median_ns,
            floor_ns: 1e3,
            times_floor: median_ns / 1e3,
            error_ratio: 0.25,
        }
    }

    pub(in crate::bench) fn report(cases: Vec<Row>) -> Report {
        let text = str::to_owned;
        Report {
            regard: text("0.1.0"),
            commit: Some(text("abc1234")),
            date: text("2026-11-23"),
            command: text("regard bench"),
            device: Device {
                kind: text("gpu"),
                adapter: text("a card"),
                driver: text("a driver 1.2"),
                backend: text("Vulkan"),
                r#type: text("discrete GPU"),
            },
            timestamps: true,
            fma_gflops: 1000.0,
            copy_gbps: 100.0,
            cooperative_gflops: None,
            overheads: None,
            planner: Vec::new(),
            wrong: Vec::new(),
            not_run: Vec::new(),
            cases,
        }
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let launch = Launch {
            dispatch_ns: 5.0,
            barrier_ns_per_lane: 0.5,
            assumed_dispatch_ns: 6.0,
            assumed_barrier_ns_per_lane: 0.25,
        };
        let verdict =
            Verdict { path: "steps".to_owned(), tile_rows: Some(8), rate: 1.5, planned_over_median: vec![0.5, 2.0] };
        for overheads in [None, Some(launch)] {
            let stored = Report { overheads, planner: vec![verdict.clone()], ..report(vec![row("w", "auto", 2e3)]) };
            let text = serde_json::to_string(&stored).unwrap();
            let read: Report = serde_json::from_str(&text).unwrap();
            assert_eq!(read.table(), stored.table());
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
            assert_eq!(read.table().contains("one more dispatch 5 ns"), stored.overheads.is_some());
        }
    }

    #[test]
    fn columns_are_aligned() {
        let with_step = Row { ns_per_step: Some(9.0), ..row("lstm T3", "steps", 1e9) };
        let text = report(vec![row("prefill", "auto", 1.5e3), row("p", "naive", 1e9), with_step]).table();
        let lines: Vec<&str> = text.lines().collect();
        assert!(text.contains("prefill auto (staged)"), "{text}");
        let end = |line: &str| line.find("0.25").map(|at| line[..at].chars().count());
        assert!(lines.iter().filter(|line| line.contains("0.25")).count() == 3, "{text}");
        assert_eq!(end(lines[5]), end(lines[6]), "{text}");
        assert!(lines[5].ends_with("scores in memory") && lines[9].ends_with("0.25"), "{text}");
    }
}
