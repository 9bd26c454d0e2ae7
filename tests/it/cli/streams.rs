//! `-` in place of a file: standard input and standard output.

use std::process::{Output, Stdio};

use regard::store::Store;
use serde_json::Value;

use super::{Folder, Ran, Tensors, numbers, regard, run_with_input, text, words};

fn attention() -> Tensors {
    let [q, k, v] = [1, 2, 3].map(|seed| numbers(&[1, 2, 4, 8], seed));
    Tensors::default().f32("query", &q).f32("key", &k).f32("value", &v)
}

/// Runs in a folder with a file of it on standard input.
fn fed(folder: &Folder, line: &str, file: &str) -> Output {
    let input = std::fs::File::open(folder.path(file)).unwrap();
    regard().args(words(line)).current_dir(folder.0.path()).stdin(Stdio::from(input)).output().unwrap()
}

fn bytes(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

#[test]
fn tensors_go_through_pipes_as_through_files() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &attention());
    let recurrent = Tensors::default().f32("input", &numbers(&[3, 2, 4], 1));
    let weights =
        Tensors::default().f32("weight_ih_l0", &numbers(&[15, 4], 2)).f32("weight_hh_l0", &numbers(&[15, 5], 3));
    folder.tensors("rnn.safetensors", &recurrent);
    folder.tensors("weights.safetensors", &weights);
    folder.run("attend in.safetensors -o a.safetensors --lse --device cpu").ok();
    for (line, file) in [
        ("attend IN -o OUT --lse --device cpu", "in.safetensors"),
        ("merge a.safetensors IN -o OUT --device cpu", "a.safetensors"),
        ("encode IN -o OUT --cell gru --weights weights.safetensors --device cpu", "rnn.safetensors"),
        ("encode rnn.safetensors -o OUT --cell gru --weights IN --device cpu", "weights.safetensors"),
    ] {
        folder.run(&line.replace("IN", file).replace("OUT", "want.safetensors")).ok();
        let ran = fed(&folder, &line.replace("IN", "-").replace("OUT", "-"), file);
        assert_eq!(ran.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
        assert!(ran.stdout == bytes(&folder, "want.safetensors"), "{line}");
        assert!(ran.stderr.is_empty(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    }
}

/// A report that would be printed to standard output stands on standard error where a file goes there.
#[test]
fn what_goes_to_standard_output_is_alone_there() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &attention());
    let ran = fed(&folder, "attend - -o - --check --explain --device cpu", "in.safetensors");
    assert_eq!(ran.status.code(), Some(0));
    assert!(Store::from_bytes("stdout", ran.stdout).unwrap().contains("output"));
    assert!(String::from_utf8(ran.stderr).unwrap().contains("max abs error"));
    for (line, error) in [
        ("attend in.safetensors -o - --json", "option `json`: standard output is one file, and `output` goes there"),
        ("attend in.safetensors --heatmap - --json", "option `json`: standard output is one file"),
        ("attend in.safetensors -o - --heatmap -", "option `heatmap`: standard output is one file, and `output`"),
        ("merge a b -o - --json", "option `json`: standard output is one file"),
        ("encode in.safetensors -o - --cell gru --json", "option `json`: standard output is one file"),
        ("bench --json - --plot -", "option `plot`: standard output is one file, and `json` goes there already"),
        ("transliterate --heatmap - x", "option `heatmap`: standard output has the answers: name a file"),
        ("merge - - -o out", "option `PART`: standard input is read once, and `PART` reads it already"),
        ("attend - -o out --score-wgsl -", "option `score-wgsl`: standard input is read once, and `IN` reads it"),
        ("attend - --heatmap a.png --key-labels -", "option `key-labels`: standard input is read once, and `IN`"),
        ("encode - --weights - -o out --cell gru", "option `weights`: standard input is read once, and `IN` reads it"),
        ("bench --show - -", "option `show`: standard input is read once, and `show` reads it already"),
    ] {
        let ran = Ran::of(regard().args(words(line)).current_dir(folder.0.path()).output().unwrap());
        assert!(ran.status == 2 && ran.refusal().0.starts_with(error), "{line}: {}", ran.stderr);
        assert!(ran.stdout.is_empty());
    }
    assert_eq!(folder.names(), ["in.safetensors"]);
}

#[test]
fn what_comes_from_standard_input_is_named_so() {
    let folder = Folder::new();
    let whole = attention().bytes();
    for (input, error) in [
        (&whole[..100], "standard input: truncated"),
        (&b""[..], "standard input: no safetensors file: 0 bytes"),
        (b"PK\x03\x04 archive/data.pkl", "standard input: no safetensors file but a PyTorch file"),
    ] {
        let out = folder.path("out.safetensors");
        let ran = run_with_input(["attend", "-", "-o", text(&out), "--device", "cpu"], input);
        assert!(ran.status == 2 && ran.refusal().0.starts_with(error), "{}", ran.stderr);
        assert!(!out.exists());
    }
    let ran = run_with_input(["transliterate", "--device", "cpu", "-"], "محمد\n".as_bytes()).ok();
    assert_eq!(ran.stdout, "Mohamed\n");
}

#[test]
fn texts_and_pictures_go_through_pipes() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &attention());
    folder.write("labels.txt", "a\nb\nc\nd\n");
    let line = "attend in.safetensors --heatmap OUT --query-labels labels.txt --device cpu";
    folder.run(&line.replace("OUT", "want.png")).ok();
    let ran = fed(&folder, &line.replace("OUT", "-").replace("labels.txt", "-"), "labels.txt");
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.stdout == bytes(&folder, "want.png"));
    assert_eq!(folder.names(), ["in.safetensors", "labels.txt", "want.png", "want.svg"]);
    // An SVG alone is the one beside the PNG.
    folder.run(&line.replace("OUT", "alone.svg")).ok();
    assert_eq!(bytes(&folder, "alone.svg"), bytes(&folder, "want.svg"));
    assert!(!folder.path("alone.png").exists());
    for line in ["attend in.safetensors --heatmap a.jpg --device cpu", "transliterate --heatmap a.jpg --device cpu x"] {
        let ran = folder.run(line);
        let error = "option `heatmap`: a picture's file is called `.png` or `.svg`";
        assert!(ran.status == 2 && ran.refusal().0 == error, "{}", ran.stderr);
    }
}

#[test]
fn figures_go_through_pipes() {
    let folder = Folder::new();
    let line = "bench --quick --suite attention --filter ^decode --paths fused,split --json OUT";
    let ran = folder.run(&line.replace("OUT", "-")).ok();
    let figures: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(!figures["cases"].as_array().unwrap().is_empty());
    assert!(ran.stderr.contains("GFLOP/s"), "{}", ran.stderr);
    folder.write("figures.json", &ran.stdout);
    let table = folder.run("bench --show figures.json").ok().stdout;
    let shown = fed(&folder, "bench --show -", "figures.json");
    assert_eq!(String::from_utf8(shown.stdout).unwrap(), table);
}
