//! `regard validate`: what it says, and where.

use super::regard;
use super::{Ran, words};

fn run(line: &str) -> Ran {
    Ran::of(regard().args(words(line)).env("MESA_SHADER_CACHE_DIR", env!("CARGO_TARGET_TMPDIR")).output().unwrap())
}

#[test]
fn rows_are_kernels_and_the_verdict_comes_last() {
    let ran = run("validate --quick --device gpu").ok();
    let notes: Vec<&str> = ran.stderr.lines().filter(|line| line.contains(" cases in f32")).collect();
    assert!(notes.len() == 1 && notes[0].starts_with("note: ") && notes[0].ends_with(" or so"), "{}", ran.stderr);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let rows: Vec<Vec<&str>> = lines[3..lines.len() - 2].iter().map(|line| line.split_whitespace().collect()).collect();
    let kernels: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let mut once = kernels.clone();
    once.dedup();
    assert!(once == kernels && kernels.contains(&"score") && kernels.contains(&"recurrent"), "{}", ran.stdout);
    let number = |row: &Vec<&str>, at: usize| row[at].parse::<usize>().unwrap();
    assert!(rows.iter().all(|row| row.len() == 5 && number(row, 1) >= number(row, 2) && row[4] == "pass"));
    let variants: usize = rows.iter().map(|row| number(row, 2)).sum();
    let verdict = format!("pass: {variants} variants, 0 failed; worst error ");
    assert!(lines[lines.len() - 1].starts_with(&verdict), "{}", ran.stdout);
}
