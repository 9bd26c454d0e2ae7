//! The examples, run as a reader would run them.

use std::process::Command;

/// What an example prints.
fn run(name: &str) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "run",
        "--quiet",
        "--offline",
        "--locked",
        "--example",
        name,
    ]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {out}{err}");
    println!("{out}");
    out.into_owned()
}

/// The number that stands behind `before`.
fn number(text: &str, before: &str) -> f64 {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("no '{before}' in {text}")).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// Three clumps of points end in three places: what the render pass drew is what attention moved.
#[test]
fn attention_between_the_passes_of_a_program() {
    let out = run("embed");
    assert!(out.contains("the points lie in 3 places"), "{out}");
    assert!(out.matches('·').count() > 10, "{out}");
}

#[test]
fn the_step_of_the_article() {
    let out = run("article");
    assert_eq!(out.matches("together 1.000").count(), 2, "{out}");
    assert!(out.contains("0.000, 0.000, 0.000], together"), "the second sequence ends after 4 of 7 steps: {out}");
    assert!(number(&out, "from the reference: ") < 1e-5);
}

#[test]
fn a_score_function() {
    assert!(run("score_function").contains("the reference says the same"));
}

/// Three continuations and four beams, the best first.
#[test]
fn what_a_language_model_goes_on_with() {
    let out = run("generation");
    let scores: Vec<f64> =
        out.lines().filter(|line| line.starts_with("log-")).map(|l| number(l, "probability ").to_owned()).collect();
    assert_eq!((out.lines().count(), scores.len()), (7, 4), "{out}");
    assert!(scores.is_sorted_by(|a, b| a >= b), "{out}");
}

/// The mistake shows with small inputs only.
#[test]
fn a_kernel_of_ones_own() {
    let out = run("own_kernel");
    assert!(out.contains("kernel `normalize`: no definition in scope for identifier: `squart`, line 12"), "{out}");
    assert_eq!((out.matches("passed").count(), out.matches("failed").count()), (3, 1), "{out}");
}
