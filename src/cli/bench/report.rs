//! What was measured: as it is stored, and as a table.

use std::fmt::Write;
use std::path::Path;

use regard::error::Cause;
use regard::workload::Workload;
use regard::{Error, Result};
use serde::{Deserialize, Serialize};

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
    /// What calls cost the thread that makes them.
    #[serde(default)]
    pub(super) launch: Vec<LaunchRow>,
}

impl Report {
    /// Of this build and command, with nothing measured yet but the device's two ceilings, in GFLOP/s and GB/s.
    pub(super) fn new(device: Device, fma_gflops: f64, copy_gbps: f64) -> Self {
        Self {
            regard: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("REGARD_COMMIT").map(str::to_owned),
            date: crate::date::today(),
            command: command(),
            device,
            timestamps: false,
            fma_gflops,
            copy_gbps,
            cooperative_gflops: None,
            overheads: None,
            planner: Vec::new(),
            wrong: Vec::new(),
            not_run: Vec::new(),
            cases: Vec::new(),
            launch: Vec::new(),
        }
    }

    /// Says why a case has no row; where it is `judged`, a wrong answer fails the run.
    pub(super) fn leave_out(&mut self, name: &str, reason: &Error, judged: bool) {
        if judged && matches!(reason, Error::Tolerance { .. }) {
            self.wrong.push(name.to_owned());
        }
        self.not_run.push(format!("{name}: {reason}"));
    }
}

/// The command line, the program by its name alone.
fn command() -> String {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once("regard".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// What a call costs the calling thread, and what the same dispatches cost it in bare wgpu with kept bind groups.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LaunchRow {
    pub(super) name: String,
    pub(super) dispatches: usize,
    /// Medians in microseconds.
    pub(super) ours_us: f64,
    pub(super) bare_us: f64,
    pub(super) ratio: f64,
}

impl LaunchRow {
    /// The row of the table, with the heading where it is the first.
    pub(super) fn lines(&self, first: bool) -> String {
        let heading = match first {
            true => format!(
                "\n{:<48} {:>10} {:>10} {:>10} {:>7}\n",
                "calling thread", "dispatches", "ours µs", "bare µs", "ratio"
            ),
            false => String::new(),
        };
        let Self { name, dispatches, ours_us, bare_us, ratio } = self;
        format!("{heading}{name:<48} {dispatches:>10} {ours_us:>10.1} {bare_us:>10.1} {ratio:>7.2}\n")
    }
}

/// The adapter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Device {
    /// `gpu` or `cpu`.
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

/// An attention problem: what `benches/peers/` runs elsewhere. Inputs follow from it (`regard::workload`).
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
    /// The way, and the path where that was left open.
    fn title(&self) -> String {
        if self.way == "auto" { format!("auto ({})", self.path) } else { self.way.clone() }
    }

    fn is_recurrence(&self) -> bool {
        self.ns_per_step.is_some()
    }

    /// The lines below `previous`: a heading where the columns change, the work where that does, the figures, and
    /// the plan.
    pub(super) fn lines(&self, previous: Option<&Self>) -> String {
        let columns: &[Column] = if self.is_recurrence() { &RECURRENCE } else { &ATTENTION };
        let line = |first: &str, cell: &dyn Fn(&Column) -> String| {
            let cells = columns.iter().map(|column| format!(" {:>1$}", cell(column), column.width - 1));
            let line = std::iter::once(format!("{first:<TITLE$}")).chain(cells).collect::<String>();
            format!("{}\n", line.trim_end())
        };
        let mut out = String::new();
        if previous.is_none_or(|row| row.is_recurrence() != self.is_recurrence()) {
            out.push('\n');
            out.push_str(&line("case", &|column| column.name.to_owned()));
        }
        if previous.is_none_or(|row| row.work != self.work) {
            let _ = writeln!(out, "{}", self.work);
        }
        out.push_str(&line(&format!("  {}", self.title()), &|column| (column.cell)(self)));
        out.push_str(&wrapped(self.plan.as_deref().unwrap_or_default(), 6));
        out
    }
}

impl Report {
    /// From a file that `regard bench --json` wrote.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is something else.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let bytes = stream::read_whole(path)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::file(path, Cause::new(format!("not what `regard bench --json` writes: {error}"), error))
        })
    }

    /// The whole as it was printed: device, figures, and what they say of the planner.
    pub(super) fn table(&self) -> String {
        let previous = std::iter::once(None).chain(self.cases.iter().map(Some));
        let rows: String = self.cases.iter().zip(previous).map(|(row, previous)| row.lines(previous)).collect();
        let launch: String = self.launch.iter().enumerate().map(|(number, row)| row.lines(number == 0)).collect();
        self.head() + &rows + &launch + &self.tail()
    }

    /// The device and what it can do.
    pub(super) fn head(&self) -> String {
        let Device { adapter, driver, backend, r#type, .. } = &self.device;
        let commit = self.commit.as_ref().map_or(String::new(), |commit| format!(", commit {commit}"));
        let cooperative =
            self.cooperative_gflops.map_or(String::new(), |rate| format!(", cooperative matrices {rate:.1} GFLOP/s"));
        let mut out = wrapped(&format!("{adapter} ({type}, {backend}, {driver})"), 0);
        let _ = writeln!(out, "regard {}{commit}, {}", self.regard, self.date);
        let (fma, copy) = (self.fma_gflops, self.copy_gbps);
        out += &wrapped(&format!("measured here: multiply-adds {fma:.1} GFLOP/s, copy {copy:.1} GB/s{cooperative}"), 0);
        if let Some(launch) = &self.overheads {
            let text = format!(
                "measured here: one more dispatch {:.0} ns (the planner assumes {:.0}), a barrier {:.1} ns a lane ({:.1})",
                launch.dispatch_ns,
                launch.assumed_dispatch_ns,
                launch.barrier_ns_per_lane,
                launch.assumed_barrier_ns_per_lane
            );
            out += &wrapped(&text, 0);
        }
        out
    }

    /// What the figures say of the planner of recurrences.
    pub(super) fn tail(&self) -> String {
        let mut out = String::new();
        if self.planner.is_empty() {
            return out;
        }
        out.push('\n');
        out += &wrapped(
            "The planner of recurrences expects a time for each way to run one. Expected ÷ median of the rows above, by way and \
             tile: 1 is as expected, above 1 the device is faster than assumed, below 1 slower. The last column is what the \
             expectation rests on, multiply-adds a ns and worker.",
            0,
        );
        let _ = writeln!(
            out,
            "{:<26} {:>7} {:>7} {:>7} {:>6} {:>8}",
            "way, tile", "middle", "least", "most", "rows", "assumed"
        );
        for verdict in &self.planner {
            let ratios = &verdict.planned_over_median;
            if let (Some(first), Some(last)) = (ratios.first(), ratios.last()) {
                let (title, middle, rows) = (verdict.title(), ratios[ratios.len() / 2], ratios.len());
                let rate = verdict.rate;
                let _ = writeln!(out, "{title:<26} {middle:>7.2} {first:>7.2} {last:>7.2} {rows:>6} {rate:>8.1}");
            }
        }
        out
    }
}

/// Columns of a terminal that all lines keep to.
const LINE: usize = 100;

/// Text in lines, all indented; nothing of nothing.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= LINE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{:indent$}{word}", "")),
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Width of the first column.
const TITLE: usize = 19;

/// A heading, the cells below it, and how much room both have with the blank before them.
struct Column {
    name: &'static str,
    width: usize,
    cell: fn(&Row) -> String,
}

const fn column(name: &'static str, width: usize, cell: fn(&Row) -> String) -> Column {
    Column { name, width, cell }
}

fn optional(number: Option<f64>, decimals: usize) -> String {
    number.map_or("-".to_owned(), |number| format!("{number:.decimals$}"))
}

const MEDIAN: Column = column("median µs", 11, |row| format!("{:.1}", row.median_ns / 1e3));
const MINIMUM: Column = column("min µs", 10, |row| format!("{:.1}", row.minimum_ns / 1e3));
const COMPILE: Column = column("compile ms", 11, |row| optional(row.compile_ns.map(|ns| ns / 1e6), 0));
const GFLOPS: Column = column("GFLOP/s", 9, |row| format!("{:.2}", row.gflops));
const GBPS: Column = column("GB/s", 7, |row| format!("{:.2}", row.gbps));
const FLOOR: Column = column("÷ floor", 9, |row| format!("{:.1}", row.times_floor));
const ERROR: Column = column("error", 6, |row| format!("{:.2}", row.error_ratio));

const ATTENTION: [Column; 7] = [MEDIAN, MINIMUM, COMPILE, GFLOPS, GBPS, FLOOR, ERROR];

const RECURRENCE: [Column; 9] = [
    MEDIAN,
    MINIMUM,
    COMPILE,
    column("plan µs", 9, |row| optional(row.planned_ns.map(|ns| ns / 1e3), 0)),
    column("ns/step", 9, |row| optional(row.ns_per_step, 0)),
    GFLOPS,
    GBPS,
    FLOOR,
    ERROR,
];

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
            launch: Vec::new(),
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
    fn columns_are_aligned_within_the_line() {
        let with_step = Row { ns_per_step: Some(9.0), ..row("lstm T3", "steps", 9e8) };
        let why = "scores in memory: ".to_owned() + &"a reason of some length ".repeat(9);
        let long = Row { plan: Some(why), ..row("prefill", "staged", 1.5e3) };
        let verdict = Verdict { path: "steps".into(), tile_rows: None, rate: 1.5, planned_over_median: vec![0.5, 2.0] };
        let stored = Report {
            planner: vec![verdict],
            ..report(vec![row("prefill", "auto", 1.5e3), long, row("p", "naive", 9.9e8), with_step])
        };
        let text = stored.table();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= LINE), "{text}");
        assert!(text.contains("\nprefill\n  auto (staged) ") && text.matches("\nprefill\n").count() == 1, "{text}");
        let ends: Vec<_> =
            lines.iter().filter(|line| line.ends_with("0.25")).map(|line| line.chars().count()).collect();
        assert!(ends.len() == 4 && ends[0] == ends[1] && ends[1] == ends[2], "{text}");
        assert!(text.contains("\n      scores in memory\n") && text.contains("above 1 the device is faster"), "{text}");
        // Row by row it is the same.
        let mut printed = stored.head();
        for (number, row) in stored.cases.iter().enumerate() {
            printed += &row.lines(number.checked_sub(1).map(|before| &stored.cases[before]));
        }
        assert_eq!(printed + &stored.tail(), text);
    }
}
