//! `regard info`: every adapter and what the engine makes of it.

mod ways;

use std::fmt::Write;
use std::time::Duration;

use regard::device::{Caps, DeviceKind, Features};
use regard::gpu::Adapter;
use regard::plan::Tuning;
use regard::{Cpu, Gpu};
use serde_json::{Value, json};

use crate::device::{Choice, DeviceArgs, unknown_name};
use crate::explain::{bytes, rates};
use crate::failure::Outcome;
use crate::kept;
use crate::output;
use ways::Ways;

/// Columns of a line.
const WIDTH: usize = 100;
/// Columns before its text.
const INDENT: usize = 17;

/// Every adapter: driver, features, limits, and what they enable
///
/// Hardware comes first. --adapter shows only those whose name, driver or backend has it. The ways to compute attention
/// and recurrences are the planner's: those that run in each element type, how many hidden units a recurrence may have
/// on each path, and what `auto` takes for a few typical problems. --without, --cooperative, --longest-dispatch and what
/// `regard tune` has measured count, as for every other command.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &Args, device: &DeviceArgs) -> Outcome {
    let mut adapters = Gpu::adapters();
    if let Some(wanted) = device.adapter() {
        let failure = unknown_name(wanted, &adapters);
        adapters.retain(|adapter| adapter.matches(wanted));
        if let Some(failure) = failure.filter(|_| adapters.is_empty()) {
            return Err(failure);
        }
    }
    let taken = taken(device, &adapters);
    let cpu = Cpu::new();
    let mut told = Vec::with_capacity(adapters.len());
    for adapter in &adapters {
        let mut has = adapter.clone();
        let tuning;
        (has.caps, tuning) = planned_by(adapter, device);
        let unasked = Features { cooperative: !device.cooperative, ..Features::default() };
        let ways = Ways::of(&has.caps, &has.caps.without(unasked), &tuning)?;
        told.push((has, tuning, ways));
    }
    if args.json {
        return output::print_json(&json!({
            "adapters": told.iter().map(|(adapter, tuning, ways)| adapter_json(adapter, tuning, ways)).collect::<Vec<_>>(),
            "cpu": {
                "instructions": cpu.instructions(),
                "available": cpu.levels().iter().map(Cpu::instructions).collect::<Vec<_>>(),
                "threads": cpu.thread_count(),
                "second_level_cache": cpu.second_level_cache(),
            },
            "device": device.device.name(),
            "takes": taken.map_or(json!("cpu"), |a| json!(a.name)),
        }));
    }
    let mut out = String::new();
    for (adapter, tuning, ways) in &told {
        out.push_str(&adapter_text(adapter, tuning, ways));
        out.push('\n');
    }
    out.push_str(&cpu_text(&cpu));
    let name = taken.map_or("the CPU".to_owned(), |a| a.name.clone());
    let _ = writeln!(out, "`--device {}` takes {name}", device.device.name());
    output::print(&out)?;
    if adapters.is_empty() {
        output::note("no adapter answers; Debian's and Ubuntu's `mesa-vulkan-drivers` has a software one");
    }
    Ok(())
}

fn cpu_text(cpu: &Cpu) -> String {
    let others: Vec<_> = cpu.levels().iter().skip(1).map(Cpu::instructions).collect();
    let rows = [
        ("instructions", format!("{}; also {}", cpu.instructions(), others.join(", "))),
        ("threads", cpu.thread_count().to_string()),
        ("cache", format!("{} of the second level for each core", bytes(cpu.second_level_cache() as u64))),
        ("storage", "f32, f16; keys and values q8".to_owned()),
        ("reference", "f32, and f64 for --check".to_owned()),
    ];
    let mut out = "CPU\n".to_owned();
    for (name, text) in rows {
        let _ = writeln!(out, "  {name:<width$}{text}", width = INDENT - 2);
    }
    out + "\n"
}

/// The adapter that other commands would open.
fn taken<'a>(device: &DeviceArgs, adapters: &'a [Adapter]) -> Option<&'a Adapter> {
    let software_too = device.device == Choice::Gpu || device.adapter().is_some();
    let fits = |adapter: &&Adapter| software_too || adapter.kind != DeviceKind::Software;
    adapters.first().filter(|_| device.device != Choice::Cpu).filter(fits)
}

/// What the planner goes by on an adapter, by the options of every command; cooperative matrices if there are any.
fn planned_by(adapter: &Adapter, device: &DeviceArgs) -> (Caps, Tuning) {
    let kept = kept::load(adapter, !device.no_tune);
    let caps = adapter.caps.without(device.without()).with(|caps| {
        caps.longest_dispatch = Duration::from_millis(device.longest_dispatch.into());
        caps.rates = kept.rates.unwrap_or(caps.rates);
    });
    (caps, kept.tuning)
}

/// The cooperative matrices that an adapter lists, and those that `--cooperative` would use.
fn cooperative(adapter: &Adapter) -> String {
    let listed: Vec<_> = adapter.cooperative.iter().map(ToString::to_string).collect();
    match (listed.is_empty(), adapter.caps.cooperative) {
        (true, _) => "no".to_owned(),
        (false, None) => format!("{}; none that can be used", listed.join(", ")),
        (false, Some(side)) => format!("{}; --cooperative uses {side}×{side}×{side} f16→f32", listed.join(", ")),
    }
}

fn adapter_text(adapter: &Adapter, tuning: &Tuning, ways: &Ways) -> String {
    let caps = &adapter.caps;
    let has = |there: bool, text: String| if there { text } else { "no".to_owned() };
    let (least, most) = (caps.min_subgroup, caps.max_subgroup);
    let rows = [
        ("type", adapter.kind.to_string()),
        ("backend", adapter.backend.clone()),
        ("driver", adapter.driver.clone()),
        ("f16", has(caps.f16, "yes".to_owned())),
        ("subgroups", has(caps.subgroups, format!("{least} to {most} lanes"))),
        ("cooperative", cooperative(adapter)),
        ("timestamps", has(caps.timestamps, "yes: --explain and bench give device times".to_owned())),
        ("immediates", has(adapter.immediate_bytes > 0, format!("{} bytes", adapter.immediate_bytes))),
        ("tuning", has(!tuning.is_empty(), format!("{} shapes measured by `regard tune`", tuning.len()))),
        ("rates", rates(&caps.rates)),
        ("caching", has(adapter.pipeline_cache, "compiled pipelines can be kept".to_owned())),
        (
            "buffers",
            format!(
                "{} at most, {} bound, {} per shader",
                bytes(caps.max_buffer_bytes),
                bytes(caps.max_binding_bytes),
                caps.max_storage_buffers
            ),
        ),
        (
            "workgroups",
            format!(
                "{} invocations, {} of memory, {} per dimension",
                caps.max_invocations,
                bytes(u64::from(caps.max_workgroup_bytes)),
                caps.max_workgroups
            ),
        ),
        (
            "registers",
            has(
                !caps.software,
                format!("taken to be {} a lane, {} a workgroup", caps.registers.lane, caps.registers.workgroup),
            ),
        ),
    ];
    let mut out = format!("{}\n", adapter.name);
    let rows = rows.into_iter().map(|(heading, text)| (heading.to_owned(), text));
    for (heading, text) in rows.chain(ways.rows()) {
        let mut heading = heading.as_str();
        for line in wrapped(&text, WIDTH - INDENT) {
            let _ = writeln!(out, "  {heading:<14} {line}");
            heading = "";
        }
    }
    out
}

/// Lines of whole words, as many of them in each as fit into `width`.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map(|line| (line.chars().count(), line));
        match line {
            Some((0, line)) => line.push_str(word),
            Some((taken, line)) if taken + 1 + word.chars().count() <= width => *line += &format!(" {word}"),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn adapter_json(adapter: &Adapter, tuning: &Tuning, ways: &Ways) -> Value {
    let caps = &adapter.caps;
    let [attention, recurrent] = ways.json();
    json!({
        "name": adapter.name,
        "driver": adapter.driver,
        "backend": adapter.backend,
        "type": adapter.kind.to_string(),
        "paths": ways.paths(),
        "attention": attention,
        "recurrent": recurrent,
        "tuned_shapes": tuning.len(),
        "rates": caps.rates,
        "features": {
            "f16": caps.f16,
            "subgroups": caps.subgroups,
            "cooperative": caps.cooperative,
            "cooperative_listed": adapter.cooperative.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "timestamps": caps.timestamps,
            "immediates": adapter.immediate_bytes > 0,
            "pipeline_cache": adapter.pipeline_cache,
        },
        "limits": {
            "subgroup_size": [adapter.caps.min_subgroup, adapter.caps.max_subgroup],
            "immediate_bytes": adapter.immediate_bytes,
            "binding_bytes": caps.max_binding_bytes,
            "buffer_bytes": caps.max_buffer_bytes,
            "workgroup_bytes": caps.max_workgroup_bytes,
            "invocations_per_workgroup": caps.max_invocations,
            "workgroups_per_dimension": caps.max_workgroups,
            "storage_buffers_per_shader": caps.max_storage_buffers,
            "registers_per_lane": caps.registers.lane,
            "registers_per_workgroup": caps.registers.workgroup,
        },
    })
}
