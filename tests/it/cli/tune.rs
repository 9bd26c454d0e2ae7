//! `regard tune`, and what later commands make of what it keeps.

use std::path::PathBuf;

use regard::attention::{Attention, AttentionInputs};
use regard::plan::{AttentionPlan, FusedPlan};
use regard::problem::AttentionProblem;
use regard::tensor::DType;
use serde_json::{Value, json};

use super::attend::file;
use super::{Folder, Ran, numbers, regard, words};
use crate::gpu::gpu;

/// A folder that is the user's cache folder as well.
struct Home(Folder);

impl Home {
    fn new() -> Self {
        let folder = Folder::new();
        let inputs = AttentionInputs::new(
            numbers(&[1, 4, 3, 32], 1),
            numbers(&[1, 2, 300, 32], 2),
            numbers(&[1, 2, 300, 32], 3),
        );
        folder.tensors("in.safetensors", &file(&inputs));
        Self(folder)
    }

    fn run(&self, line: &str, env: &[(&str, &str)]) -> Ran {
        let home = self.0.path("");
        let mut command = regard();
        for name in ["XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"] {
            command.env(name, &home);
        }
        // Mesa's own cache, for all homes.
        command.env("MESA_SHADER_CACHE_DIR", env!("CARGO_TARGET_TMPDIR"));
        Ran::of(command.args(words(line)).envs(env.iter().copied()).current_dir(&home).output().unwrap())
    }

    fn tune(&self) -> Value {
        self.run("tune --shape 1,4,2,3,300,32 --dtype f32 --quick --json", &[]).ok().json()
    }

    /// What `--explain` says of the plan, and standard error.
    fn explained(&self, options: &str, env: &[(&str, &str)]) -> (Value, String) {
        let ran = self.run(&format!("attend in.safetensors --explain --json --check --device gpu {options}"), env).ok();
        (ran.json()["explain"]["facts"].clone(), ran.stderr)
    }

    fn tuned_shapes(&self, options: &str) -> u64 {
        let ran = self.run(&format!("info --json --device gpu {options}"), &[]).ok();
        ran.json()["adapters"][0]["tuned_shapes"].as_u64().unwrap()
    }
}

/// What could be chosen for the tensors of the file on the adapter that tests share.
fn candidates() -> Vec<FusedPlan> {
    let options = Attention::default();
    let shapes = AttentionInputs::new(&[1, 4, 3, 32][..], &[1, 2, 300, 32][..], &[1, 2, 300, 32][..]);
    let problem = AttentionProblem::new(&options, &shapes).unwrap();
    AttentionPlan::candidates(&options, &problem, DType::F32, gpu().caps()).unwrap()
}

const TABLE: &str = "from the table";
const TUNED: &str = "tuned on this device";

#[test]
fn what_is_tuned_is_kept_and_taken_unless_told_otherwise() {
    let home = Home::new();
    assert_eq!((home.explained("", &[]).0["plan"].clone(), home.tuned_shapes("")), (json!(TABLE), 0));
    let tuned = home.tune();
    let row = &tuned["shapes"][0];
    assert!(row["table_ns"].as_f64().unwrap() >= row["best_ns"].as_f64().unwrap() && row["candidates"] != 0, "{row}");
    for spread in [&row["table"], &row["best"]] {
        let [least, middle, most] = ["min_ns", "median_ns", "max_ns"].map(|name| spread[name].as_f64().unwrap());
        assert!(0.0 < least && least <= middle && middle <= most, "{row}");
    }
    // Every fused plan, and staged.
    assert_eq!(row["candidates"], candidates().len() + 1);
    assert_eq!((&tuned["wrong"], &tuned["not_tuned"]), (&json!([]), &json!([])));
    assert_eq!(row["bucket"]["keys"], 512);

    assert_eq!((home.tuned_shapes(""), home.tuned_shapes("--no-tune")), (1, 0));
    // The rates of the whole device are kept with it.
    let rates = |options: &str| {
        let info = home.run(&format!("info --json --device gpu {options}"), &[]).ok().json();
        info["adapters"][0]["rates"].clone()
    };
    assert_eq!((&rates(""), &rates("")["measured"]), (&tuned["rates"], &json!(true)));
    assert_eq!(rates("--no-tune")["measured"], json!(false));
    assert_eq!(home.explained("", &[]).0["plan"], TUNED);
    assert_eq!(home.explained("--no-tune", &[]).0["plan"], TABLE);
    assert_eq!(home.explained("", &[("REGARD_NO_TUNE", "1")]).0["plan"], TABLE);
    // Another bucket, and another path.
    assert_eq!(home.explained("--path staged", &[]).0["plan"], Value::Null);
    assert_eq!(home.explained("--dtype f32 --score additive --path split", &[]).0["plan"], TABLE);

    // A second shape stands beside the first.
    let ran = home.run("tune --shape 1,2,2,1,64,32 --additive --dtype f32 --quick", &[]).ok();
    assert!(ran.stdout.contains("additive B1 H2/2 1×64 D32 f32"), "{}", ran.stdout);
    assert_eq!(home.tuned_shapes(""), 2);
}

/// Whatever stands in the file, commands work, and say that they do without it.
#[test]
#[ignore = "tunes again and again: by tests/all"]
fn a_file_of_no_use_is_passed_over() {
    let home = Home::new();
    let path = PathBuf::from(home.tune()["file"].as_str().unwrap());
    let good = std::fs::read_to_string(&path).unwrap();
    let folder = path.parent().unwrap();
    let leftovers = std::fs::read_dir(folder).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        !name.ends_with(".tuning.json") && !name.ends_with(".pipelines")
    });
    assert_eq!(leftovers.count(), 0);

    // Another of the plans, written by hand: it is taken.
    let mut edited: Value = serde_json::from_str(&good).unwrap();
    let measured = home.explained("", &[]).0["path"].clone();
    let own = edited["choices"][0]["plan"]["tile"].clone();
    let other = candidates().into_iter().map(|plan| json!(plan)).find(|plan| plan["tile"] != own).unwrap();
    edited["choices"][0]["plan"] = other;
    let good = serde_json::to_string_pretty(&edited).unwrap();
    std::fs::write(&path, &good).unwrap();
    let (facts, stderr) = home.explained("", &[]);
    assert!(facts["plan"] == TUNED && facts["path"] != measured && !stderr.contains("not used"), "{facts} {stderr}");

    // No fused kernel at all.
    let fused = std::mem::replace(&mut edited["choices"][0]["plan"], json!("staged"));
    std::fs::write(&path, edited.to_string()).unwrap();
    let (facts, _) = home.explained("", &[]);
    assert!(facts["plan"] == TUNED && facts["path"].as_str().unwrap().starts_with("staged"), "{facts}");
    edited["choices"][0]["plan"] = fused;

    // A tile that this device has not: the table's.
    edited["choices"][0]["plan"]["tile"]["lanes"] = json!(31);
    std::fs::write(&path, edited.to_string()).unwrap();
    assert_eq!(home.explained("", &[]).0["plan"], TABLE);

    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{good}");
        good.replacen(from, to, 1)
    };
    let form = edited["choices"][0]["plan"]["tile"]["form"].to_string();
    let damaged = [
        (String::new(), "cannot be read"),
        ("{}".to_owned(), "cannot be read"),
        (good[..good.len() / 2].to_owned(), "cannot be read"),
        (with(&form, "\"magic\""), "cannot be read"),
        (with("\"keys\": 512", "\"keys\": -1"), "cannot be read"),
        (with("\"gbps\": ", "\"gbps\": -"), "no positive numbers"),
        (with("\"version\": 1", "\"version\": 2"), "version 2"),
    ];
    for (text, reason) in damaged {
        std::fs::write(&path, &text).unwrap();
        let stderr = home.run("info", &[]).ok().stderr;
        assert!(stderr.contains("note: ") && stderr.contains("not used") && stderr.contains(reason), "{text} {stderr}");
        assert!(!home.run("info --no-tune", &[]).ok().stderr.contains("not used"));
        assert_eq!(home.tuned_shapes(""), 0);
    }
    std::fs::write(&path, [0xff, 0xfe, 0]).unwrap();
    let (facts, stderr) = home.explained("", &[]);
    assert!(facts["plan"] == TABLE && stderr.contains("cannot be read"), "{facts} {stderr}");
    // Made anew.
    home.tune();
    assert_eq!(home.tuned_shapes(""), 1);
}

#[test]
fn pipelines_are_kept_where_the_backend_can_and_damage_is_no_failure() {
    let home = Home::new();
    let line = "attend in.safetensors -o out.safetensors --device gpu";
    home.run(line, &[]).ok();
    let info = home.run("info --json --device gpu", &[]).ok().json();
    let kept = || {
        let folders = ["regard", "Library/Caches/regard"].map(|folder| home.0.path(folder));
        let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
        entries.map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|end| end == "pipelines"))
    };
    assert_eq!(json!(kept().is_some()), info["adapters"][0]["features"]["pipeline_cache"]);
    let Some(path) = kept() else { return };
    let whole = std::fs::read(&path).unwrap();
    for damaged in [whole[..whole.len() - 1].to_vec(), vec![0; whole.len()], Vec::new()] {
        std::fs::write(&path, &damaged).unwrap();
        home.run(line, &[]).ok();
        let again = std::fs::read(&path).unwrap();
        assert!(again != damaged && again.starts_with(b"regard pipes"), "{} bytes", again.len());
    }
    // A folder that cannot be written, and no folder at all.
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path.parent().unwrap(), b"a file").unwrap();
    home.run(line, &[]).ok();
    let refused = home.run("tune --shape 1,2,2,1,64,32 --dtype f32 --quick", &[]);
    assert!(refused.status == 1 && refused.refusal().0.contains("regard"), "{}", refused.stderr);
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let home = Home::new();
    for (line, wanted) in [
        ("tune --device cpu", "tune times GPU kernels"),
        ("tune --shape 1,2,3", "six or seven numbers"),
        ("tune --shape 1,2,2,1,0,32", "six or seven numbers"),
        ("tune --additive", "--shape"),
        ("tune --shape 1,3,2,1,64,32 --dtype f32", "a multiple of key's 2 heads"),
    ] {
        let ran = home.run(line, &[]);
        assert!(ran.status == 2 && ran.refusal().0.contains(wanted), "{line}: {}", ran.stderr);
    }
    // Too long for a fused kernel: a note, and nothing kept.
    let ran = home.run("tune --shape 1,1,1,1,8,300 --dtype f32 --quick", &[]).ok();
    assert!(ran.stderr.contains("exceeds the 256"), "{}", ran.stderr);
    assert_eq!(home.tuned_shapes(""), 0);
}
