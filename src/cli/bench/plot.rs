//! Throughput against sequence length, a panel for each series of attention cases, with what the device could do.

use std::collections::BTreeMap;
use std::path::Path;

use regard::Error;

use super::report::{Report, Row};
use crate::chart::{Chart, Curve, Look, Panel};
use crate::drawing::Format;
use crate::failure::Outcome;

/// Whether cases of these series and lengths make a curve.
pub(super) fn has_curve<'a>(points: impl IntoIterator<Item = (&'a str, usize)>) -> bool {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    points.into_iter().any(|(series, length)| *first.entry(series).or_insert(length) != length)
}

/// The refusal of a plot without curves.
pub(super) fn no_curve() -> Error {
    Error::option("plot", "needs attention cases that differ in the sequence length alone: there are none among these")
}

/// Writes the picture, whole or not at all.
pub(super) fn save(path: &Path, report: &Report) -> Outcome {
    let format = Format::of("plot", path)?;
    let chart = chart(report);
    if chart.panels.is_empty() {
        return Err(no_curve().into());
    }
    chart.scene().save(&chart.title, path, format)
}

/// The marker of a way in every panel; others get theirs in the order they come.
fn look(way: &str, others: &mut Vec<String>) -> Look {
    match ["fused", "split", "staged", "naive"].iter().position(|known| *known == way) {
        _ if way == "auto" => Look::Band,
        Some(known) => Look::Marked(known),
        None => {
            let at = others.iter().position(|other| other == way).unwrap_or_else(|| {
                others.push(way.to_owned());
                others.len() - 1
            });
            Look::Marked(4 + at)
        }
    }
}

fn chart(report: &Report) -> Chart {
    let mut series: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in &report.cases {
        if let Some(name) = &row.series {
            match series.iter_mut().find(|(known, _)| known == name) {
                Some((_, rows)) => rows.push(row),
                None => series.push((name, vec![row])),
            }
        }
    }
    let mut others = Vec::new();
    let panels = series.into_iter().filter_map(|(name, rows)| {
        let lengths = rows.iter().filter_map(|row| Some((name, row.length?)));
        has_curve(lengths).then(|| panel(name, &rows, &mut others))
    });
    let device = &report.device;
    Chart {
        title: format!("Attention on {}", device.adapter),
        notes: vec![
            format!(
                "{}, {}, {}; regard {}, {}",
                device.r#type, device.backend, device.driver, report.regard, report.date
            ),
            format!(
                "Device time, medians. Measured here: multiply-adds {:.0} GFLOP/s, copies {:.1} GB/s{}. The ceiling is the \
                 lower of both for the work of each case.",
                report.fma_gflops,
                report.copy_gbps,
                report
                    .cooperative_gflops
                    .map_or(String::new(), |rate| format!(", cooperative matrices {rate:.0} GFLOP/s"))
            ),
        ],
        panels: panels.collect(),
        x_axis: "sequence length (keys)".to_owned(),
        y_axis: "GFLOP/s".to_owned(),
    }
}

/// A curve for each way, in the order of the rows, and the ceiling.
fn panel(series: &str, rows: &[&Row], others: &mut Vec<String>) -> Panel {
    let mut curves: Vec<Curve> = Vec::new();
    let mut ceiling: BTreeMap<usize, f64> = BTreeMap::new();
    for row in rows {
        let Some(length) = row.length else { continue };
        ceiling.insert(length, row.flops / row.floor_ns);
        let point = [length as f64, row.gflops];
        match curves.iter_mut().find(|curve| curve.name == title(&row.way)) {
            Some(curve) => curve.points.push(point),
            None => curves.push(Curve { name: title(&row.way), look: look(&row.way, others), points: vec![point] }),
        }
    }
    curves.iter_mut().for_each(|curve| curve.points.sort_by(|a, b| a[0].total_cmp(&b[0])));
    let points = ceiling.into_iter().map(|(length, gflops)| [length as f64, gflops]).collect();
    curves.push(Curve { name: "ceiling, measured".to_owned(), look: Look::Dashed, points });
    Panel { title: series.to_owned(), curves }
}

fn title(way: &str) -> String {
    if way == "auto" { "auto (what is chosen)".to_owned() } else { way.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{report, row};
    use super::*;

    fn at(series: &str, way: &str, length: usize, median_ns: f64) -> Row {
        Row {
            series: Some(series.to_owned()),
            length: Some(length),
            ..row(&format!("{series} {length}"), way, median_ns)
        }
    }

    #[test]
    fn series_with_two_lengths_are_panels() {
        let report = report(vec![
            at("prefill", "auto", 64, 4e3),
            at("prefill", "fused", 64, 4e3),
            at("prefill", "torch flash", 64, 1e3),
            at("once", "auto", 64, 1e3),
            at("prefill", "fused", 32, 8e3),
            row("lstm", "steps", 1e3),
        ]);
        let chart = chart(&report);
        assert_eq!(chart.panels.len(), 1);
        let panel = &chart.panels[0];
        let names: Vec<&str> = panel.curves.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["auto (what is chosen)", "fused", "torch flash", "ceiling, measured"]);
        // 10⁶ operations in 8 and 4 µs, in ascending order of length; at best in 1 µs.
        assert_eq!(panel.curves[1].points, [[32.0, 125.0], [64.0, 250.0]]);
        assert_eq!(panel.curves[3].points, [[32.0, 1000.0], [64.0, 1000.0]]);
        assert_eq!(
            panel.curves.iter().map(|curve| curve.look).collect::<Vec<_>>(),
            [Look::Band, Look::Marked(0), Look::Marked(4), Look::Dashed]
        );
        assert!(chart.title.contains("a card") && chart.notes[0].contains("2026-11-23"), "{chart:?}");
    }
}
