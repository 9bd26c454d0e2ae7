//! The program itself, run as its users run it.

mod attend;
mod bench;
mod cpu;
mod embed;
mod encode;
mod files;
mod inputs;
mod killed;
mod refusals;
mod streams;
mod transliterate;
mod tune;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use regard::compare;
use regard::store::Store;
use regard::tensor::{Array, DType};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use tempfile::TempDir;

/// Both devices: the CPU, and whatever adapter there is (the one in `REGARD_ADAPTER` if that is set).
const DEVICES: [&str; 2] = ["cpu", "gpu"];

fn regard() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    command.env_remove("REGARD_DEVICE").env_remove("REGARD_NO_TUNE").stdin(Stdio::null());
    // What it keeps goes to no folder of the user's.
    for name in ["XDG_CACHE_HOME", "LOCALAPPDATA"] {
        command.env(name, env!("CARGO_TARGET_TMPDIR"));
    }
    command
}

/// What came of a run.
struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            status: output.status.code().expect("ended by a signal"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Fails unless the program was content.
    fn ok(self) -> Self {
        assert_eq!(self.status, 0, "{}{}", self.stdout, self.stderr);
        self
    }

    /// The lines of standard error that start with `error:` and with `hint:`; there is one of the first.
    fn refusal(&self) -> (&str, Option<&str>) {
        let of = |start: &str| self.stderr.lines().filter_map(|line| line.strip_prefix(start)).collect::<Vec<_>>();
        let (errors, hints) = (of("error: "), of("hint: "));
        assert!(errors.len() == 1 && hints.len() <= 1, "{}", self.stderr);
        (errors[0], hints.first().copied())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(regard().args(args).output().unwrap())
}

/// Runs with some bytes on standard input.
fn run_with_input<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
    let mut child =
        regard().args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // The program may end without reading all.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Ran::of(output)
}

/// A line of arguments as a list; tests have no argument with a space in it.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// A folder with files for one test.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The names of what is in it, sorted.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Runs the program in this folder.
    fn run(&self, line: &str) -> Ran {
        Ran::of(regard().args(words(line)).current_dir(self.0.path()).output().unwrap())
    }

    fn tensors(&self, name: &str, tensors: &Tensors) -> PathBuf {
        self.write(name, tensors.bytes())
    }

    fn load(&self, name: &str) -> Store {
        Store::open(&self.path(name)).unwrap()
    }
}

/// The content of a tensor file.
#[derive(Clone, Default)]
struct Tensors(Vec<(String, Dtype, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn add(mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.0.push((name.to_owned(), dtype, shape.to_vec(), bytes));
        self
    }

    fn f32(self, name: &str, array: &Array) -> Self {
        self.add(name, Dtype::F32, array.shape(), array.data().iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn f64(self, name: &str, array: &Array) -> Self {
        let bytes = array.data().iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect();
        self.add(name, Dtype::F64, array.shape(), bytes)
    }

    fn i64(self, name: &str, values: &[i64]) -> Self {
        self.add(name, Dtype::I64, &[values.len()], values.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn bool(self, name: &str, dtype: Dtype, array: &Array<u32>) -> Self {
        self.add(name, dtype, array.shape(), array.data().iter().map(|&x| u8::from(x != 0)).collect())
    }

    fn bytes(&self) -> Vec<u8> {
        let view = |(name, dtype, shape, bytes): &'_ (String, Dtype, Vec<usize>, Vec<u8>)| {
            (name.clone(), *dtype, shape.clone(), bytes.clone())
        };
        let owned: Vec<_> = self.0.iter().map(view).collect();
        let views = owned
            .iter()
            .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }
}

/// Numbers between −1 and 1 that are the same every time and differ from one tensor to the next.
fn numbers(shape: &[usize], seed: u32) -> Array {
    let mut state = seed.wrapping_mul(2_654_435_761) ^ 0x9e37_79b9;
    Array::from_fn(shape, |_| {
        // xorshift32 (Marsaglia 2003)
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
    })
}

/// A result in a file against the reference in f64 and f32.
fn judge(case: &str, name: &str, file: &Store, oracle: &Array<f64>, baseline: &Array) {
    let got = file.get(name).unwrap_or_else(|error| panic!("{case}: {error}"));
    let verdict = compare::judge(name, &got, oracle, baseline, DType::F32).unwrap_or_else(|e| panic!("{case}: {e}"));
    verdict.check(name).unwrap_or_else(|error| panic!("{case}: {error}"));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn help_says_what_there_is() {
    for (args, wanted) in [
        ("--help", ["attend", "merge", "encode", "transliterate", "info", "--device"].as_slice()),
        (
            "attend --help",
            &["`query` [B, Hq, Nq, D]", "block_table ", "--score-wgsl", "--softcap", "bottom-right", "Examples:"],
        ),
        ("merge --help", &["PART.safetensors", "`max_sum`", "`lse` (`--lse`)", "--max-sum", "Example:"]),
        ("encode --help", &["`weight_ih_l0` [G·H, I]", "--batch-first", "--prefix", "Examples:"]),
        ("transliterate --help", &["--beam", "--set", "--heatmap", "Examples:"]),
        ("info --help", &["--json"]),
    ] {
        let ran = run(words(args)).ok();
        for text in wanted {
            assert!(ran.stdout.contains(text), "{args}: no {text} in\n{}", ran.stdout);
        }
    }
}

/// What is broken into lines by hand is not broken again at 100 columns.
#[test]
fn help_fits_a_hundred_columns() {
    let help = |command: &str, columns: &str| {
        let mut line = regard();
        line.args(words(command)).arg("--help").env("COLUMNS", columns);
        Ran::of(line.output().unwrap()).ok().stdout
    };
    for command in ["", "attend", "encode", "merge", "info", "transliterate", "validate", "bench", "tune"] {
        let [narrow, wide] = ["100", "110"].map(|columns| help(command, columns));
        let last =
            |text: &str| text.rsplit_once("REGARD_NO_TUNE").unwrap().1.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(last(&narrow), last(&wide), "{command}");
        let long: Vec<&str> = narrow.lines().filter(|line| line.chars().count() > 100).collect();
        assert!(long.is_empty(), "{command}: {long:?}");
    }
}

#[test]
fn info_lists_adapters_and_what_they_enable() {
    let ran = run(["info", "--json"]).ok();
    let json = ran.json();
    let adapters = json["adapters"].as_array().unwrap();
    assert!(!adapters.is_empty(), "no adapter: install one (apt-get install mesa-vulkan-drivers)");
    for adapter in adapters {
        for key in ["name", "driver", "backend", "type"] {
            assert!(!adapter[key].as_str().unwrap().is_empty(), "{key}");
        }
        assert!(adapter["paths"].as_array().unwrap().iter().any(|path| path == "staged attention f32"));
        let ways = adapter["attention"]["ways"].as_array().unwrap();
        assert_eq!(ways.len(), 6, "staged and five forms");
        for recurrence in ["lstm", "gru", "rnn"] {
            let steps = format!("steps {recurrence}");
            assert!(adapter["paths"].as_array().unwrap().iter().any(|path| *path == steps), "{}", adapter["paths"]);
        }
        for taken in adapter["attention"]["auto"].as_array().unwrap() {
            assert!(["staged", "fused", "split"].contains(&taken["path"].as_str().unwrap()), "{taken}");
        }
        assert!(adapter["recurrent"]["auto"].as_array().unwrap().iter().all(|taken| taken["path"].is_string()));
        assert!(adapter["limits"]["binding_bytes"].as_u64().unwrap() >= 128 << 20);
        assert!(adapter["features"]["f16"].is_boolean());
        // Matrices of one side can be used; what is listed is shown whether it can be or not.
        let (side, listed) = (&adapter["features"]["cooperative"], &adapter["features"]["cooperative_listed"]);
        let shape = |n: &Value| format!("{n}×{n}×{n} f16→f32");
        assert!(side.is_null() || listed.as_array().unwrap().iter().any(|s| *s == shape(side)), "{side} {listed}");
    }
    let name = adapters[0]["name"].as_str().unwrap();
    let cpu = &run(["info", "--json"]).ok().json()["cpu"];
    assert!(cpu["threads"].as_u64().unwrap() > 0 && cpu["second_level_cache"].as_u64().unwrap() > 0, "{cpu}");
    assert_eq!(
        (&cpu["available"][0], cpu["available"].as_array().unwrap().last().unwrap()),
        (&cpu["instructions"], &"portable".into())
    );
    let text = run(["info"]).ok();
    assert!(text.stdout.contains("\nCPU\n  instructions   "), "{}", text.stdout);
    assert!(text.stdout.contains(name) && text.stderr.is_empty(), "{}{}", text.stdout, text.stderr);
    let wide: Vec<&str> = text.stdout.lines().filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{wide:?}");
    let taken = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let typical = "auto takes decode, causal (batch 1, heads 32 on 8, 1 × 4096, D 128), f32";
    assert!(taken(&text.stdout).contains(typical), "{}", text.stdout);
}

/// What runs is the planner's word on the features that are left.
#[test]
fn info_tells_what_is_left_without_features() {
    let [all, less] = ["info --json --no-tune", "info --json --no-tune --without subgroups,f16"]
        .map(|args| run(words(args)).ok().json());
    let (all, less) = (&all["adapters"][0], &less["adapters"][0]);
    let f16 = |adapter: &Value| {
        adapter["paths"].as_array().unwrap().iter().any(|path| path.as_str().unwrap().contains("f16"))
    };
    let features = |adapter: &Value| ["f16", "subgroups"].map(|name| adapter["features"][name].as_bool().unwrap());
    assert_eq!((f16(less), features(less)), (false, [false; 2]));
    assert_eq!(f16(all), features(all)[0]);
    let by_subgroups = |adapter: &Value| {
        let ways = adapter["attention"]["ways"].as_array().unwrap();
        let cuts = ways.iter().flat_map(|way| way["cuts"].as_array().unwrap());
        cuts.filter(|cut| cut.as_str().unwrap().contains("subgroups")).count()
    };
    assert_eq!(by_subgroups(less), 0);
    assert_eq!(by_subgroups(all) > 0, features(all)[1], "{}", all["attention"]);
    let text = run(words("info --no-tune --without subgroups,f16")).ok().stdout;
    assert!(text.contains("staged (f32)") && !text.contains("staged (f32, f16)"), "{text}");
    assert!(text.contains("auto takes") && text.contains("recurrent lstm"), "{text}");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    use std::io::{BufRead, BufReader, Read};
    let mut child = regard()
        .args(["transliterate", "--device", "cpu"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || while stdin.write_all("محمد\n".as_bytes()).is_ok() {});
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "Mohamed\n");
    drop(reader);
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    writer.join().unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));
}
