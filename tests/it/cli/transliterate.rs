//! `regard transliterate`, and `regard` alone.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DEVICES, Folder, Ran, regard, run, run_with_input, text, words};

const NAMES: &str = "محمد\nعبد الرحمن\nالقحطاني\n";

#[test]
fn names_come_out_in_order_on_both_devices() {
    for device in DEVICES {
        let ran = run_with_input(["transliterate", "--device", device], NAMES.as_bytes()).ok();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("Mohamed\nAbderrahmane\nAl-Qahtani\n", ""));
        let ran = run(["transliterate", "--model", "khmer", "--device", device, "srolanh", "", "srolanh"]).ok();
        assert_eq!(ran.stdout, "ស្រឡាញ់\n\nស្រឡាញ់\n");
    }
    // With no device named: the hardware, or the CPU and a note that says so.
    let ran = run_with_input(["transliterate"], NAMES.as_bytes()).ok();
    assert_eq!(ran.stdout, "Mohamed\nAbderrahmane\nAl-Qahtani\n");
    assert!(ran.stderr.is_empty() || ran.stderr.starts_with("note: "), "{}", ran.stderr);
}

#[test]
fn blank_lines_stay_and_batches_keep_the_order() {
    let names = ["محمد", "فاطمة", "", "يوسف", "  "];
    let input: String = (0..150).map(|i| format!("{}\r\n", names[i % names.len()])).collect();
    let ran = run_with_input(["transliterate", "--device", "cpu"], input.as_bytes()).ok();
    let want = ["Mohamed", "Fatma", "", "Youssef", ""];
    let got: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(got.len(), 150);
    assert!(got.iter().enumerate().all(|(i, &line)| line == want[i % want.len()]), "{got:?}");
    assert_eq!(run_with_input(["transliterate", "--device", "cpu"], b"").ok().stdout, "");
    assert_eq!(run_with_input(["transliterate", "--device", "cpu"], "محمد".as_bytes()).ok().stdout, "Mohamed\n");
}

#[test]
fn a_line_is_answered_before_the_next_is_there() {
    let mut child = regard()
        .args(["transliterate", "--device", "cpu"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for (name, want) in [("محمد", "Mohamed"), ("القحطاني", "Al-Qahtani")] {
        writeln!(stdin, "{name}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), want);
    }
    drop(stdin);
    assert!(lines.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn json_is_one_object_a_line() {
    for device in DEVICES {
        let args = format!("transliterate --json --beam 3 --top 2 --device {device}");
        let ran = run_with_input(words(&args), "محمد\n\nعبد الرحمن\n".as_bytes()).ok();
        let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        let first = &lines[0];
        assert_eq!((first["input"].as_str(), first["output"].as_str()), (Some("محمد"), Some("Mohamed")));
        assert!(first["score"].as_f64().unwrap() < 0.0);
        let candidates = first["candidates"].as_array().unwrap();
        assert_eq!((candidates.len(), &candidates[0]["text"]), (2, &first["output"]));
        assert!(candidates[0]["score"].as_f64() >= candidates[1]["score"].as_f64());
        let rows = first["weights"].as_array().unwrap();
        assert_eq!(rows.len(), first["target_labels"].as_array().unwrap().len());
        for row in rows {
            let row: Vec<f64> = row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(row.len(), first["source_labels"].as_array().unwrap().len());
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-4, "{row:?}");
        }
        assert_eq!((lines[1]["input"].as_str(), lines[1]["output"].as_str()), (Some(""), Some("")));
    }
}

#[test]
fn candidates_options_and_checks() {
    let ran = run(words("transliterate --device cpu --beam 3 --top 3 محمد")).ok();
    assert_eq!(ran.stdout, "Mohamed\tMohammed\tMuhammad\n");
    let ran = run(words("transliterate --device cpu --set country=DZ --set role=surname بوتفليقة")).ok();
    assert_eq!(ran.stdout.lines().count(), 1);
    let ran = run(words("transliterate --device cpu --top 2 محمد")).ok();
    assert!(ran.stderr.starts_with("note: --beam 1 finds at most 1 candidates"), "{}", ran.stderr);
    for device in DEVICES {
        let args = format!("transliterate --check --beam 2 --device {device}");
        let ran = run_with_input(words(&args), NAMES.as_bytes()).ok();
        assert!(ran.stderr.starts_with("check: 3 of 3 texts as on the CPU alone"), "{}", ran.stderr);
    }
}

#[test]
fn pictures_and_alignments() {
    let folder = Folder::new();
    let picture = folder.path("alignment.png");
    let ran = run(["transliterate", "--device", "cpu", "--heatmap", text(&picture), "القحطاني", "محمد"]).ok();
    assert_eq!(ran.stdout, "Al-Qahtani\nMohamed\n");
    assert_eq!(folder.names(), ["alignment.png", "alignment.svg"]);
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
    let svg = std::fs::read_to_string(folder.path("alignment.svg")).unwrap();
    assert!(svg.contains('ق') && svg.contains('Q'), "{svg}");
    let ran = run(words("transliterate --device cpu --show --model khmer srolanh")).ok();
    assert!(ran.stdout.starts_with("ស្រឡាញ់\n") && ran.stdout.contains('█'), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}'), "colours in a pipe");
}

#[test]
fn what_the_model_cannot_read_is_told_about() {
    let ran = run(words("transliterate --device cpu --model khmer bay7 9")).ok();
    assert_eq!(ran.stdout, "បាយ\n\n");
    assert!(ran.stderr.contains("text 1: `7` (U+0037) is not among the model's symbols: skipped"), "{}", ran.stderr);
    assert!(ran.stderr.contains("text 2: nothing in it that the model reads"), "{}", ran.stderr);
    // Quotes and backslashes stand for themselves, what cannot be seen is escaped.
    let ran = run(["transliterate", "--device", "cpu", "--model", "khmer", "b'a\\y\"\u{1}"]).ok();
    let skipped = r#"text 1: `'` (U+0027), `\` (U+005C), `"` (U+0022), `\u{1}` (U+0001) are not among"#;
    assert!(ran.stdout == "បាយ\n" && ran.stderr.contains(skipped), "{}", ran.stderr);
    // Warnings are bounded, lines that are no UTF-8 are read as far as they go.
    let ran = run_with_input(words("transliterate --device cpu --model khmer"), "b1\n".repeat(200).as_bytes()).ok();
    assert_eq!((ran.stdout.lines().count(), ran.stderr.lines().count()), (200, 21));
    assert!(ran.stderr.ends_with("warning: 180 more of the kind\n"), "{}", ran.stderr);
    let ran = run_with_input(words("transliterate --device cpu --model khmer"), b"ba\xffy\n").ok();
    assert_eq!(ran.stdout, "បាយ\n");
    assert!(ran.stderr.starts_with("warning: line 1: bytes that are no UTF-8 were replaced\n"), "{}", ran.stderr);
}

/// Nothing is made up, nothing is lost without a word, and what comes after it is answered.
#[test]
fn lines_that_cannot_be_read_do_not_stop_the_stream() {
    let input = "محمد أحمد\nJohn Smith\n\u{202b}محمد\u{202c}\n\u{1f600}\n\n \n\0\nمحمد 2\n";
    for device in DEVICES {
        let ran = run_with_input(["transliterate", "--device", device], input.as_bytes()).ok();
        assert_eq!(ran.stdout, "Mohamed Ahmed\n\nMohamed\n\n\n\n\nMohamed\n");
        let warnings: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(warnings.len(), 7, "{}", ran.stderr);
        assert!(warnings[0].starts_with("warning: line 2: `J` (U+004A), `o` (U+006F), "), "{}", ran.stderr);
        assert_eq!(warnings[1], "warning: line 2: nothing in it that the model reads");
        assert_eq!(warnings[6], "warning: line 8: `2` (U+0032) is not among the model's symbols: skipped");
    }
    let ran = run_with_input(["transliterate", "--device", "cpu", "--json"], input.as_bytes()).ok();
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), lines[1]["output"].as_str(), &lines[1]["error"]), (8, Some(""), &Value::Null));
    assert_eq!(lines[1]["candidates"], serde_json::json!([]));
    assert_eq!(lines[1]["warnings"][1], "nothing in it that the model reads");

    // Refused are texts too long for any model, and lines too long for memory: an empty line each, the rest answered.
    let long = "م".repeat(70_000);
    let input = [b"bay\n", long.as_bytes(), b"\n", &[b'a'; 2 << 20], b"\nbay\n"].concat();
    let ran = run_with_input(words("transliterate --device cpu --model khmer"), &input);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, "បាយ\n\n\nបាយ\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning: line 2: not answered: 70000 characters, at most 65536"), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning: line 3: not answered: the line is longer than 1048576 bytes\n"));
    assert!(ran.refusal().0.starts_with("2 texts were refused, the first of them: text `ممم"), "{}", ran.stderr);
    let ran = run_with_input(words("transliterate --device cpu --model khmer --json"), &input);
    let lines: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((ran.status, lines.len(), lines[3]["output"].as_str()), (2, 4, Some("បាយ")));
    assert_eq!(lines[2]["error"], "the line is longer than 1048576 bytes");
    assert!(lines[2]["input"].as_str().unwrap().len() < 200);
    // Without an end, too.
    let ran =
        run_with_input(words("transliterate --device cpu --model khmer"), &[&b"bay\n"[..], &[b'a'; 2 << 20]].concat());
    assert_eq!((ran.status, ran.stdout.as_str()), (2, "បាយ\n\n"), "{}", ran.stderr);
    assert!(ran.refusal().0.starts_with("text `aaaa"), "{}", ran.stderr);
}

#[test]
fn a_dash_is_standard_input_and_stands_alone() {
    let ran = run_with_input(words("transliterate --device cpu -"), "محمد\n".as_bytes()).ok();
    assert_eq!(ran.stdout, "Mohamed\n");
    for line in ["- محمد", "محمد -", "- -"] {
        let ran = run_with_input(words(&format!("transliterate --device cpu {line}")), "محمد\n".as_bytes());
        let error = "option `TEXT`: `-` is standard input and stands alone: leave it out beside other texts";
        assert_eq!((ran.status, ran.refusal().0, ran.stdout.as_str()), (2, error, ""));
    }
}

#[test]
fn models_that_are_not_there_or_broken() {
    let folder = Folder::new();
    let model = |name: &str| run(["transliterate", "--device", "cpu", "--model", name, "x"]);
    let refused = |ran: Ran, wanted: &str| {
        assert_eq!(ran.status, 2, "{wanted}: {}", ran.stderr);
        assert!(ran.refusal().0.contains(wanted), "{wanted}: {}", ran.stderr);
    };
    refused(model("nowhere"), "`nowhere` is neither a folder nor a built-in model; those are arabic-names, khmer");
    refused(model(text(folder.0.path())), "model.json");
    let built_in = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/khmer");
    let card = std::fs::read_to_string(built_in.join("model.json")).unwrap();
    folder.write("model.json", &card[..card.len() / 2]);
    refused(model(text(folder.0.path())), "model card");
    folder.write("model.json", &card);
    refused(model(text(folder.0.path())), "weights.safetensors");
    let weights = std::fs::read(built_in.join("weights.safetensors")).unwrap();
    folder.write("weights.safetensors", &weights[..weights.len() / 2]);
    refused(model(text(folder.0.path())), "weights.safetensors");
    folder.write("weights.safetensors", &weights);
    assert_eq!(run(["transliterate", "--device", "cpu", "--model", text(folder.0.path()), "bay"]).ok().stdout, "បាយ\n");
    refused(run(words("transliterate --device cpu --set city=Oran محمد")), "option `city`");
    refused(run(words("transliterate --device cpu --beam 0 محمد")), "option `beam`: expected 1 to");
    refused(run(words("transliterate --device cpu --top 0 محمد")), "option `top`: expected at least 1");
}

#[test]
fn alone_it_shows_an_example_and_never_waits_for_input() {
    // Standard input stays open and silent.
    let mut child = regard().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("still running");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ran = Ran::of(child.wait_with_output().unwrap()).ok();
    drop(stdin);
    for wanted in ["Mohamed", "Abderrahmane", "ស្រឡាញ់", "█", "Go on:", " on "] {
        assert!(ran.stdout.contains(wanted), "no {wanted} in\n{}", ran.stdout);
    }
    for device in DEVICES {
        let ran = run(["--device", device]).ok();
        assert!(ran.stdout.contains("Al-Qahtani") && ran.stderr.is_empty(), "{}{}", ran.stdout, ran.stderr);
    }
}

/// Memory that a process holds, in KiB.
#[cfg(target_os = "linux")]
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn memory_stays_steady_over_a_thousand_lines() {
    const BATCH: usize = 64;
    for device in DEVICES {
        let mut child = regard()
            .args(["transliterate", "--model", "khmer", "--device", device])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut held = Vec::new();
        for batch in 0..16 {
            // Words of 1 to 12 letters, different in each batch.
            let word = |i: usize| -> String {
                (0..=i % 12).map(|k| char::from(b'a' + ((i * 7 + k * 11 + batch * 5) % 26) as u8)).collect()
            };
            let words: String = (0..BATCH).map(|i| word(i) + "\n").collect();
            stdin.write_all(words.as_bytes()).unwrap();
            assert_eq!(lines.by_ref().take(BATCH).filter(|line| line.is_ok()).count(), BATCH);
            held.push(resident(child.id()));
        }
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert!(held[15] < held[3] + (24 << 10), "{device}: {held:?} KiB");
    }
}
