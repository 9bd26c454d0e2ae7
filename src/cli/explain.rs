//! `--explain`: what ran where, and how long each dispatch took.

use std::fmt::Write;

use regard::device::Rates;
use regard::gpu::Timing;
use regard::plan::{FusedPlan, Limit, Roofline, Work};
use regard::recording::Recording;
use regard::{Device, Gpu};
use serde_json::{Value, json};

use crate::failure::Outcome;
use crate::output::finite;

/// What ran: dispatches of the same program over the same grid, one after the other, are one row.
#[derive(Debug, Default)]
pub(crate) struct Explained {
    /// Headings with their texts, above the table.
    facts: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    scratch_bytes: u64,
    work: Work,
    floor: Option<Floor>,
}

/// The least time that the work can take: its operations at the device's measured rate of multiply-adds, or its bytes
/// at the measured copy rate, whichever is longer.
#[derive(Debug, Clone, Copy)]
struct Floor {
    flops: u64,
    bytes: u64,
    rates: Rates,
    software: bool,
}

/// Rates in words.
pub(crate) fn rates(rates: &Rates) -> String {
    let cooperative =
        rates.coop_gflops.map_or(String::new(), |rate| format!(", cooperative matrices {rate:.0} GFLOP/s"));
    format!(
        "{:.0} GFLOP/s{cooperative}, {:.0} GB/s, one more dispatch {:.1} µs, a barrier {:.1} ns a lane: {}",
        rates.gflops,
        rates.gbps,
        rates.dispatch / 1e3,
        rates.barrier,
        if rates.measured { "measured" } else { "assumed of its kind" }
    )
}

impl Floor {
    fn nanoseconds(self) -> f64 {
        self.rates.floor(self.flops as f64, self.bytes as f64, false)
    }
}

#[derive(Debug)]
struct Row {
    label: String,
    grid: [u32; 2],
    /// Dispatches; a long one is run in chunks of workgroups, each of which counts.
    count: u64,
    flops: u64,
    bytes: u64,
    iterations: u64,
    /// None where one of them was not timed.
    nanoseconds: Option<f64>,
}

impl Explained {
    /// Nothing but the device yet.
    pub(crate) fn new(device: &Device) -> Self {
        Self { facts: vec![("device", device.to_string())], ..Self::default() }
    }

    /// Adds a line above the table.
    pub(crate) fn fact(&mut self, heading: &'static str, text: impl Into<String>) {
        self.facts.push((heading, text.into()));
    }

    /// Notes what a recording takes, before it is run.
    pub(crate) fn recording(&mut self, recording: &Recording, gpu: &Gpu) {
        self.scratch_bytes = recording.scratch_bytes();
        self.work = Work::of(recording, gpu.caps());
    }

    /// Adds what was run.
    pub(crate) fn timings(&mut self, timings: &[Timing]) {
        // A recurrence alternates between few programs; their order is that of their first dispatches.
        for Timing { dispatch, chunks, nanoseconds, .. } in timings {
            let chunks = *chunks as u64;
            let label = dispatch.variant.label();
            let known = self.rows.iter_mut().find(|row| row.label == label && row.grid == dispatch.grid);
            match known {
                Some(row) => {
                    row.count += chunks;
                    row.flops += dispatch.flops;
                    row.bytes += dispatch.bytes;
                    row.iterations = row.iterations.max(dispatch.iterations);
                    row.nanoseconds = row.nanoseconds.zip(*nanoseconds).map(|(a, b)| a + b);
                }
                None => self.rows.push(Row {
                    label,
                    grid: dispatch.grid,
                    count: chunks,
                    flops: dispatch.flops,
                    bytes: dispatch.bytes,
                    iterations: dispatch.iterations,
                    nanoseconds: *nanoseconds,
                }),
            }
        }
    }

    /// What the device can do, measured now if `regard tune` has not, for work that cannot do with less than this.
    pub(crate) fn floor(&mut self, gpu: &Gpu, flops: u64, bytes: u64) -> Outcome {
        let known = gpu.caps().rates;
        let rates = if known.measured { known } else { Rates::measure(gpu)? };
        self.floor = Some(Floor { flops, bytes, rates, software: gpu.caps().software });
        Ok(())
    }

    /// What bounds the dispatches, by the rates that the floor goes by.
    fn roofline(&self) -> Option<Roofline> {
        self.floor.map(|floor| Roofline::new(&self.work, &floor.rates, floor.software))
    }

    /// None where nothing was dispatched, or one was not timed.
    fn total(&self) -> Option<f64> {
        self.rows.iter().map(|row| row.nanoseconds).reduce(|a, b| a.zip(b).map(|(a, b)| a + b)).flatten()
    }

    /// As lines.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for (heading, text) in &self.facts {
            let _ = writeln!(out, "{heading:<10} {text}");
        }
        if self.rows.is_empty() {
            return out;
        }
        let _ = writeln!(out, "{:<10} {}", "scratch", bytes(self.scratch_bytes));
        if let Some(floor) = self.floor {
            let times =
                self.total().map_or(String::new(), |ns| format!("; took {:.1} x that", ns / floor.nanoseconds()));
            let _ = writeln!(
                out,
                "{:<10} {}: {:.3} MFLOP at {:.1} GFLOP/s, {} in and out at {:.1} GB/s (both measured){times}",
                "floor",
                time(Some(floor.nanoseconds())),
                floor.flops as f64 / 1e6,
                floor.rates.gflops,
                bytes(floor.bytes),
                floor.rates.gbps
            );
        }
        if let Some(roofline) = self.roofline() {
            let part = |&(limit, ns)| format!("{limit} {} ({:.0} %)", time(Some(ns)), 100.0 * roofline.share(limit));
            let parts: Vec<_> = roofline.times.iter().map(part).collect();
            let _ = writeln!(out, "{:<10} {}: {}", "bound by", roofline.limit(), parts.join(", "));
        }
        let _ = writeln!(
            out,
            "\n{:>5} {:>11} {:>9} {:>10} {:>9} {:>9} {:>9}  program",
            "times", "workgroups", "MFLOP", "bytes", "time", "GFLOP/s", "GB/s"
        );
        for row in &self.rows {
            let rate = |amount: u64| row.nanoseconds.filter(|&ns| ns > 0.0).map(|ns| amount as f64 / ns);
            let number = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.2}"));
            let _ = writeln!(
                out,
                "{:>5} {:>11} {:>9.3} {:>10} {:>9} {:>9} {:>9}  {}",
                row.count,
                u64::from(row.grid[0]) * u64::from(row.grid[1]),
                row.flops as f64 / 1e6,
                bytes(row.bytes),
                time(row.nanoseconds),
                number(rate(row.flops)),
                number(rate(row.bytes)),
                row.label
            );
        }
        let flops: u64 = self.rows.iter().map(|row| row.flops).sum();
        let moved: u64 = self.rows.iter().map(|row| row.bytes).sum();
        let count: u64 = self.rows.iter().map(|row| row.count).sum();
        let _ = writeln!(
            out,
            "{count:>5} {:>11} {:>9.3} {:>10} {:>9}  in all",
            "",
            flops as f64 / 1e6,
            bytes(moved),
            time(self.total())
        );
        out
    }

    /// The same for `--json`.
    pub(crate) fn json(&self) -> Value {
        let nanoseconds = |ns: Option<f64>| ns.map_or(Value::Null, finite);
        let row = |row: &Row| {
            json!({
                "program": row.label,
                "count": row.count,
                "grid": row.grid,
                "flops": row.flops,
                "bytes": row.bytes,
                "iterations": row.iterations,
                "nanoseconds": nanoseconds(row.nanoseconds),
            })
        };
        let facts = self.facts.iter().map(|(heading, text)| ((*heading).to_owned(), json!(text))).collect();
        let floor = |floor: Floor| {
            json!({
                "flops": floor.flops,
                "bytes": floor.bytes,
                "gflops": finite(floor.rates.gflops),
                "gbps": finite(floor.rates.gbps),
                "nanoseconds": finite(floor.nanoseconds()),
            })
        };
        let bound = |roofline: Roofline| {
            let part =
                |limit: Limit, ns: f64| json!({ "nanoseconds": finite(ns), "share": finite(roofline.share(limit)) });
            let parts =
                roofline.times.iter().map(|&(limit, ns)| (limit.to_string().replace([' ', '-'], "_"), part(limit, ns)));
            json!({ "limit": roofline.limit().to_string(), "parts": Value::Object(parts.collect()) })
        };
        json!({
            "facts": Value::Object(facts),
            "scratch_bytes": self.scratch_bytes,
            "dispatches": self.rows.iter().map(row).collect::<Vec<_>>(),
            "nanoseconds": nanoseconds(self.total()),
            "floor": self.floor.map_or(Value::Null, floor),
            "bound": self.roofline().map_or(Value::Null, bound),
        })
    }
}

/// A number of bytes to read.
pub(crate) fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// A time to read.
pub(crate) fn time(nanoseconds: Option<f64>) -> String {
    match nanoseconds {
        None => "not timed".to_owned(),
        Some(ns) if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        Some(ns) if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        Some(ns) => format!("{:.3} s", ns / 1e9),
    }
}

/// A fused plan in words.
pub(crate) fn fused(plan: &FusedPlan, keys: usize) -> String {
    let tile = plan.tile;
    let mut text = format!("{}, {} lanes, {} queries × {} keys", tile.form, tile.lanes, tile.queries, tile.keys);
    if tile.k_splits > 1 {
        let _ = write!(text, ", depth in {} parts", tile.k_splits);
    }
    if tile.subgroups {
        text.push_str(", subgroups");
    }
    match plan.splits(keys) {
        1 => text,
        n => text + &format!(", {n} ranges of {} keys", plan.split_keys),
    }
}
