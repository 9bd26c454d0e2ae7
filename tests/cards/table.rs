//! The committed table of a card: what its compiler says of each program.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;

use serde_json::Value;

/// What a compiler says of a program.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Statistics {
    /// Of a lane, in the unit of the card's own compiler.
    registers: u64,
    /// Values that do not fit the registers, and bytes of memory for them.
    spills: u64,
    scratch: u64,
    instructions: u64,
    /// As the compiler counts it.
    occupancy: u64,
}

/// How much more of a thing is no regression.
const ALLOWED: f64 = 1.05;

/// The numbers of a line of the layer's, by the names that Mesa's compilers have for them: ACO, NAK, AGX, ir3.
fn statistics(executable: &Value) -> Statistics {
    let get = |names: &[&str]| names.iter().filter_map(|name| executable["stats"][name].as_u64()).sum();
    Statistics {
        registers: get(&["VGPRs", "Number of GPRs", "GPRs", "Registers used (vec4)", "Registers used"]),
        spills: get(&["Spilled VGPRs", "Spilled SGPRs", "Spills to memory", "Spills", "STP Count"]),
        scratch: get(&["Scratch size", "SLM size", "Scratch"]),
        instructions: get(&["Instructions", "Instruction count", "Instruction Count"]),
        occupancy: get(&["Subgroups per SIMD", "Max warps/SM", "Threads", "Max Waves Per Core"]),
    }
}

/// What the layer has written, by program.
fn read(file: &str) -> Result<BTreeMap<String, Statistics>, Box<dyn Error>> {
    let mut programs = BTreeMap::new();
    let mut unfinished = BTreeMap::new();
    for line in std::fs::read_to_string(file)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let label = line["label"].as_str().unwrap_or_default().to_owned();
        if label.starts_with("(wgpu internal)") {
            continue;
        }
        if line["begin"] == true {
            unfinished.insert(line["id"].as_u64(), label);
            continue;
        }
        unfinished.remove(&line["id"].as_u64());
        if line["result"] != 0 {
            return Err(format!("the compiler refuses {label}: result {}", line["result"]).into());
        }
        let executable = line["executables"].get(0).ok_or_else(|| format!("no statistics of {label}"))?;
        programs.insert(label, statistics(executable));
    }
    match unfinished.into_values().next() {
        Some(label) => Err(format!("the compiler ended in {label}").into()),
        None if programs.is_empty() => Err(format!("{file} has no program").into()),
        None => Ok(programs),
    }
}

/// The lines of a table.
fn rows(programs: &BTreeMap<String, Statistics>) -> String {
    let mut text = "registers\tspills\tscratch\tinstructions\toccupancy\tprogram\n".to_owned();
    for (label, Statistics { registers, spills, scratch, instructions, occupancy }) in programs {
        let _ = writeln!(text, "{registers}\t{spills}\t{scratch}\t{instructions}\t{occupancy}\t{label}");
    }
    text
}

/// Prints what the layer has written.
pub(crate) fn show(statistics: &str) -> Result<(), Box<dyn Error>> {
    print!("{}", rows(&read(statistics)?));
    Ok(())
}

/// Renews a table.
pub(crate) fn write(statistics: &str, version: &str, file: &str) -> Result<(), Box<dyn Error>> {
    let programs = read(statistics)?;
    std::fs::write(file, format!("# {version}\n{}", rows(&programs)))?;
    let spilling = programs.values().filter(|program| program.spills > 0 || program.scratch > 0).count();
    println!("{file}: {} programs, {spilling} with spills", programs.len());
    Ok(())
}

/// A committed table, with the version of the compilers that it was made with.
fn committed(file: &str) -> Result<(String, BTreeMap<String, Statistics>), Box<dyn Error>> {
    let text = std::fs::read_to_string(file)?;
    let mut lines = text.lines();
    let version = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default().to_owned();
    let mut programs = BTreeMap::new();
    for line in lines.skip(1) {
        let cells: Vec<&str> = line.splitn(6, '\t').collect();
        let [registers, spills, scratch, instructions, occupancy, label] = cells[..] else {
            return Err(format!("{file}: not a row: {line}").into());
        };
        let number = |cell: &str| cell.parse::<u64>().map_err(|error| format!("{file}: {cell}: {error}"));
        let row = Statistics {
            registers: number(registers)?,
            spills: number(spills)?,
            scratch: number(scratch)?,
            instructions: number(instructions)?,
            occupancy: number(occupancy)?,
        };
        programs.insert(label.to_owned(), row);
    }
    Ok((version, programs))
}

/// Holds the statistics against the table: programs that are not in it or are there no more, new spills, registers and
/// instructions that are more than a twentieth above. With compilers of another version, spills alone.
pub(crate) fn compare(statistics: &str, version: &str, file: &str) -> Result<(), Box<dyn Error>> {
    let programs = read(statistics)?;
    let (made_with, table) = committed(file)?;
    let mut wrong = Vec::new();
    let same = made_with == version;
    if !same {
        println!("note: the table is of {made_with}, the compilers are {version}: only failures and spills count");
    }
    for (label, found) in &programs {
        let known = table.get(label).copied();
        let before = known.unwrap_or_default();
        for (name, found, before) in
            [("spills", found.spills, before.spills), ("scratch", found.scratch, before.scratch)]
        {
            if found > before {
                wrong.push(format!("{name} {before} → {found}: {label}"));
            }
        }
        match known {
            None if same => wrong.push(format!("not in the table: {label}")),
            Some(before) if same => {
                let counts = [
                    ("registers", found.registers, before.registers),
                    ("instructions", found.instructions, before.instructions),
                ];
                for (name, found, before) in counts {
                    if found as f64 > ALLOWED * before as f64 {
                        wrong.push(format!("{name} {before} → {found}: {label}"));
                    }
                }
            }
            _ => {}
        }
    }
    if same {
        let gone = table.keys().filter(|label| !programs.contains_key(*label));
        wrong.extend(gone.map(|label| format!("in the table, not built: {label}")));
    }
    if wrong.is_empty() {
        println!("{file}: {} programs as in the table", programs.len());
        return Ok(());
    }
    let lines = wrong.join("\n  ");
    Err(format!("{file}:\n  {lines}\n{} in all; `tests/cards/run --write` renews the table", wrong.len()).into())
}

const BEGIN: &str = "<!-- table -->\n";
const END: &str = "<!-- end -->";

/// Writes what the tables have of each kernel, in short, between the marks of a page.
pub(crate) fn summary(page: &str, files: &[&str]) -> Result<(), Box<dyn Error>> {
    let mut kernels: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut heads = Vec::new();
    for (card, file) in files.iter().enumerate() {
        let name = std::path::Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        heads.push(name);
        let mut of_kernel: BTreeMap<String, Vec<Statistics>> = BTreeMap::new();
        for (label, row) in committed(file)?.1 {
            let kernel = label.split(' ').next().unwrap_or_default().to_owned();
            of_kernel.entry(kernel).or_default().push(row);
        }
        for (kernel, rows) in of_kernel {
            let registers = rows.iter().map(|row| row.registers).max().unwrap_or(0);
            let occupancy = rows.iter().map(|row| row.occupancy).min().unwrap_or(0);
            let spilling = rows.iter().filter(|row| row.spills > 0 || row.scratch > 0).count();
            let spills = if spilling > 0 { format!(" **S{spilling}**") } else { String::new() };
            let cells = kernels.entry(kernel).or_default();
            cells.resize(card, "–".to_owned());
            cells.push(format!("{registers}r o{occupancy}{spills}"));
        }
    }
    let mut table = format!("| kernel | {} |\n|---|{}\n", heads.join(" | "), "---|".repeat(heads.len()));
    for (kernel, mut cells) in kernels {
        cells.resize(heads.len(), "–".to_owned());
        let _ = writeln!(table, "| {kernel} | {} |", cells.join(" | "));
    }
    let text = std::fs::read_to_string(page)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the page has no mark where the table begins")?;
    let (_, after) = rest.split_once(END).ok_or("the page has no mark where the table ends")?;
    std::fs::write(page, format!("{before}{BEGIN}\n{table}\n{END}{after}"))?;
    Ok(())
}
