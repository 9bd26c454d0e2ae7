//! The same cases on the native CPU backend.

use regard::{Cpu, Result};

use super::cases::{Case, OnCpu};
use super::report::{Device, Report, Row};
use super::{median_and_minimum, repeat};
use crate::failure::Outcome;
use crate::output;
use crate::progress::Steps;
use crate::time::on_host;

/// Checks and times every case, and prints each as it is done.
pub(super) fn measure(cpu: &Cpu, cases: Vec<Case>, quick: bool, taken: bool) -> Outcome<Report> {
    let mut steps = Steps::new("cases");
    let rates = cpu.rates();
    let device = Device {
        kind: "cpu".to_owned(),
        adapter: cpu.to_string(),
        driver: "native".to_owned(),
        backend: "host".to_owned(),
        r#type: "CPU".to_owned(),
    };
    let mut report = Report::new(device, rates.gflops, rates.gbps);
    output::print_beside(&report.head(), taken)?;
    let count = cases.len() as u64;
    for (case, done) in cases.into_iter().zip(0..) {
        steps.set(done, count);
        match time(cpu, &case, quick, &report) {
            Ok(row) => {
                steps.pause(|| output::print_beside(&row.lines(report.cases.last()), taken))?;
                report.cases.push(row);
            }
            Err(reason) => report.leave_out(&case.name, &reason, true),
        }
    }
    steps.finish();
    Ok(report)
}

fn time(cpu: &Cpu, case: &Case, quick: bool, report: &Report) -> Result<Row> {
    let mut on_cpu = case.on_cpu(cpu)?;
    let got: Vec<_> = on_cpu.run()?.into_iter().map(|(name, tensor)| (name, tensor.into_array())).collect();
    let error_ratio = case.check_on_cpu(&got)?;
    let times = repeat(quick, || on_host(|| on_cpu.run()))?;
    let (median_ns, minimum_ns) = median_and_minimum(&times);
    let (flops, bytes) = case.work()?;
    let floor_ns = (flops / report.fma_gflops).max(bytes / report.copy_gbps);
    let (series, length) = case.point().unzip();
    let OnCpu { plan, steps, .. } = on_cpu;
    Ok(Row {
        name: case.name.clone(),
        work: case.work_name().to_owned(),
        way: case.way.name().to_owned(),
        series,
        length,
        shape: case.shape(),
        path: "cpu".to_owned(),
        plan: Some(plan),
        median_ns,
        minimum_ns,
        compile_ns: None,
        planned_ns: None,
        ns_per_step: steps.map(|steps| median_ns / steps as f64),
        runs: times.len(),
        dispatches: 0,
        flops,
        bytes,
        gflops: flops / median_ns,
        gbps: bytes / median_ns,
        floor_ns,
        times_floor: median_ns / floor_ns,
        error_ratio,
    })
}
