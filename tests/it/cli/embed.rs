//! `regard embed`: vectors of texts, in every form of output.

use serde_json::Value;

use super::{DEVICES, Folder, run_with_input, words};

/// A tiny model that comes with the tests.
fn model() -> String {
    format!("{}/tests/vectors/bert/bert", env!("CARGO_MANIFEST_DIR"))
}

/// The arguments of a command on that model, and texts with spaces in them.
fn line(options: &str, texts: &[&str]) -> Vec<String> {
    let mut all = words("embed --model");
    all.push(model());
    all.extend(words(options));
    all.extend(texts.iter().map(|&text| text.to_owned()));
    all
}

fn vector(object: &Value) -> Vec<f64> {
    object["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn vectors_are_written_printed_and_compared() {
    for device in DEVICES {
        let folder = Folder::new();
        let texts = ["the cat", "a much longer text than the others", "the cat"];
        let run = |options: &str| {
            let options = format!("{options} --device {device}");
            let mut command = super::regard();
            super::Ran::of(command.args(line(&options, &texts)).current_dir(folder.path("")).output().unwrap()).ok()
        };
        run("-o out.safetensors");
        let written = folder.load("out.safetensors").get("embedding").unwrap();
        assert_eq!(written.shape(), [3, 24]);
        for row in written.data().chunks_exact(24) {
            assert!((row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        let printed: Vec<Value> =
            run("--json").stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(printed.len(), 3);
        for ((object, text), row) in printed.iter().zip(texts).zip(written.data().chunks_exact(24)) {
            assert_eq!((&object["text"], &object["cut"]), (&Value::from(text), &Value::from(false)));
            assert!(vector(object).iter().zip(row).all(|(a, &b)| (a - f64::from(b)).abs() < 1e-6));
        }
        let long = run("--json --no-normalize --pooling cls").stdout;
        let first: Value = serde_json::from_str(long.lines().next().unwrap()).unwrap();
        assert!((vector(&first).iter().map(|x| x * x).sum::<f64>() - 1.0).abs() > 1e-3);

        let ran = run("--similarity --heatmap pairs.png");
        let last: Vec<&str> = ran.stdout.lines().last().unwrap().split_whitespace().collect();
        assert!(last.contains(&"1.00") && last.first() == Some(&"3"), "{}", ran.stdout);
        run("--attention heads.svg --layer 1");
        assert_eq!(folder.names(), ["heads.svg", "out.safetensors", "pairs.png", "pairs.svg"]);
    }
}

#[test]
fn lines_are_streamed_in_their_order() {
    let texts: Vec<String> =
        (0..600).map(|n| vec!["cat"; n * 7 % 9 + 1].join(" ") + if n % 2 == 0 { "." } else { "" }).collect();
    let ran = run_with_input(line("--json --device cpu", &[]), texts.join("\n").as_bytes()).ok();
    let answered: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answered.len(), texts.len());
    assert!(answered.iter().zip(&texts).all(|(object, text)| object["text"] == text.as_str()));
    // A text has its vector whatever the others are.
    let alone = super::run(line("--json --device cpu", &[&texts[5]])).ok();
    let alone: Value = serde_json::from_str(&alone.stdout).unwrap();
    assert!(vector(&alone).iter().zip(vector(&answered[5])).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    for (options, texts, wanted) in [
        ("", &["cat"][..], "option `output`: is not said"),
        ("--json --similarity", &["cat"], "option `similarity`: prints a table"),
        ("--attention heads.jpg", &["cat"], "option `attention`"),
        ("--attention heads.svg --layer 9", &["cat"], "option `layer`: there are 2 layers"),
    ] {
        let ran = super::run(line(&format!("{options} --device cpu"), texts));
        assert!(ran.status == 2 && ran.stderr.contains(wanted), "{options}: {}", ran.stderr);
    }
    let ran = super::run(words("embed --model no/such/folder --json --device cpu cat"));
    assert!(ran.status != 0 && ran.stderr.contains("config.json"), "{}", ran.stderr);
}
