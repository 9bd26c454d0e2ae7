//! The program on the native CPU backend.

use serde_json::Value;

use super::{DEVICES, Folder, Ran, Tensors, numbers, regard, words};

fn attention(folder: &Folder) {
    let array = |seed| numbers(&[1, 2, 40, 16], seed);
    let file = Tensors::default().f32("query", &array(1)).f32("key", &array(2)).f32("value", &array(3));
    folder.tensors("in.safetensors", &file);
}

fn recurrence(folder: &Folder) {
    let file = Tensors::default()
        .f32("input", &numbers(&[6, 3, 5], 1))
        .f32("weight_ih_l0", &numbers(&[32, 5], 2))
        .f32("weight_hh_l0", &numbers(&[32, 8], 3));
    folder.tensors("rnn.safetensors", &file);
}

/// The last line of standard output as one object.
fn last_line(ran: &Ran) -> Value {
    serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn time_prints_median_minimum_and_runs() {
    let folder = Folder::new();
    attention(&folder);
    recurrence(&folder);
    for device in DEVICES {
        for command in ["attend in.safetensors", "encode rnn.safetensors --cell lstm"] {
            let ran = folder.run(&format!("{command} --time 4 --device {device}")).ok();
            assert!(ran.stdout.contains("median") && ran.stdout.contains("minimum"), "{}", ran.stdout);
            assert!(ran.stdout.contains("4 runs"), "{}", ran.stdout);

            let ran =
                folder.run(&format!("{command} -o out.safetensors --check --time 3 --json --device {device}")).ok();
            let json = last_line(&ran);
            let [median, minimum] = ["median_ms", "min_ms"].map(|name| json[name].as_f64().unwrap());
            assert!(minimum > 0.0 && median >= minimum && json["runs"] == 3, "{json}");
            // The summary is there as well, the file is written, and the check was done.
            assert!(json["outputs"].is_array() || json["outputs"].is_object(), "{json}");
            assert_eq!(json["check"]["passed"], true);
            assert_eq!(json["device"]["kind"], device);
            folder.load("out.safetensors").get("output").unwrap();
        }
    }
    let ran = folder.run("attend in.safetensors --time 0 --device cpu");
    assert_ne!(ran.status, 0);
    assert!(ran.stderr.contains("--time"), "{}", ran.stderr);
}

#[test]
fn explain_says_what_the_cpu_does() {
    let folder = Folder::new();
    attention(&folder);
    recurrence(&folder);
    for (line, wanted) in [
        ("attend in.safetensors", "queries side by side"),
        ("attend in.safetensors --normalize sparsemax", "the reference in f32: its weights are no softmax"),
        ("attend in.safetensors --score cosine", "the reference in f32: its score is no product"),
        ("encode rnn.safetensors --cell lstm", "weights packed once"),
        ("encode rnn.safetensors --cell lstm --layer-norm gates", "the reference in f32: it has layer normalisation"),
    ] {
        let ran = folder.run(&format!("{line} --explain --check --device cpu")).ok();
        assert!(ran.stderr.contains(wanted) && ran.stderr.contains("the CPU ("), "{line}: {}", ran.stderr);
    }
}

#[test]
fn the_table_is_validated_on_the_cpu() {
    let folder = Folder::new();
    let ran = folder.run("validate --device cpu --quick").ok();
    for wanted in ["the CPU (", "attention", "lstm", "gru", "rnn", "linear", "primitives", "\npass: "] {
        assert!(ran.stdout.contains(wanted), "no {wanted} in\n{}", ran.stdout);
    }
    let json = folder.run("validate --device cpu --quick --json").ok().json();
    assert_eq!((&json["device"]["kind"], &json["failed"]), (&Value::from("cpu"), &Value::from(0)));
    assert!(json["rows"].as_array().unwrap().len() > 10, "{json}");
}

#[test]
fn the_cpu_is_measured_beside_its_own_ceilings() {
    let folder = Folder::new();
    let line = "bench --quick --device cpu --json figures.json --filter ^(prefill|decode|lstm.*B1\\s|lstm\\s\\+)";
    let ran = folder.run(line).ok();
    let json: Value = serde_json::from_slice(&std::fs::read(folder.path("figures.json")).unwrap()).unwrap();
    assert_eq!(json["device"]["kind"], "cpu");
    for ceiling in ["fma_gflops", "copy_gbps"] {
        assert!(json[ceiling].as_f64().unwrap() > 0.0, "{ceiling}");
    }
    let cases = json["cases"].as_array().unwrap();
    assert!(cases.len() >= 4, "{}", ran.stdout);
    for case in cases {
        assert_eq!((&case["way"], &case["path"]), (&Value::from("auto"), &Value::from("cpu")));
        assert!(case["median_ns"].as_f64().unwrap() > 0.0 && case["error_ratio"].as_f64().unwrap() <= 1.0, "{case}");
        assert!(ran.stdout.contains(case["work"].as_str().unwrap()), "{}", ran.stdout);
    }
    // And shown again.
    assert!(folder.run("bench --show figures.json").ok().stdout.contains("the CPU ("));
}

/// 65,536 queries and keys in half a gigabyte: their scores alone would be seventeen.
#[cfg(target_os = "linux")]
#[test]
fn attention_takes_no_memory_for_scores() {
    let folder = Folder::new();
    let array = |seed| numbers(&[1, 1, 65_536, 8], seed);
    let file = Tensors::default().f32("query", &array(1)).f32("key", &array(2)).f32("value", &array(3));
    folder.tensors("in.safetensors", &file);
    let line = "attend in.safetensors -o out.safetensors --device cpu --lse --causal --window 30000,0";
    let mut limited = std::process::Command::new("sh");
    let program = regard();
    limited.args(["-c", "ulimit -v 524288; exec \"$0\" \"$@\""]).arg(program.get_program()).args(words(line));
    let output = limited.current_dir(folder.path("")).env("RAYON_NUM_THREADS", "2").output().unwrap();
    Ran::of(output).ok();
    assert_eq!(folder.load("out.safetensors").get("output").unwrap().shape(), [1, 1, 65_536, 8]);
}
