//! Requests that cannot be met: one line that says why, the right exit status, nothing left behind.

use std::process::Stdio;

use regard::tensor::Array;
use safetensors::Dtype;

use super::{Folder, Ran, Tensors, numbers, regard, run, words};

/// query, key and value of one batch, two heads.
fn good() -> Tensors {
    let [q, k, v] = [1, 2, 3].map(|seed| numbers(&[1, 2, 4, 3], seed));
    Tensors::default().f32("query", &q).f32("key", &k).f32("value", &v)
}

/// `good` with one tensor taken out.
fn without(name: &str) -> Tensors {
    Tensors(good().0.into_iter().filter(|(n, ..)| n != name).collect())
}

/// `good` with one tensor replaced.
fn with(name: &str, array: &Array) -> Tensors {
    without(name).f32(name, array)
}

#[test]
fn misshapen_tensors_are_named_with_axis_expected_and_found() {
    let folder = Folder::new();
    let array = |shape: &[usize]| numbers(shape, 5);
    for (tensors, args, error) in [
        (without("key"), "", "`key`: expected [B, Hkv, Nk, D], [B, Nk, Hkv·D] or [Nk, D], found none"),
        (with("query", &array(&[3])), "", "`query` rank: expected 4 [B, Hq, Nq, D], 3 [B, Nq, Hq·D] or 2 [Nq, D]"),
        (with("query", &array(&[1, 1, 1, 1, 3])), "", "`query` rank: expected 4"),
        (with("value", &array(&[4, 3])), "", "`value` rank: expected 4 as `query` has, found 2 [4, 3]"),
        (with("key", &array(&[1, 2, 4, 5])), "", "`key` axis 3 (head dim): expected 3, found 5"),
        (with("key", &array(&[2, 2, 4, 3])), "", "`key` axis 0 (batch): expected 1, found 2"),
        (with("value", &array(&[1, 2, 5, 3])), "", "`value` axis 2 (keys): expected 4, found 5"),
        (with("query", &array(&[1, 3, 4, 3])), "", "`query` axis 1 (heads): expected a multiple of key's 2 heads"),
        (with("query", &array(&[1, 2, 0, 3])), "", "`query` axis 2: expected at least 1, found 0"),
        (with("value", &array(&[1, 2, 4, 0])), "", "`value` axis 3: expected at least 1, found 0"),
        (with("mask", &array(&[3, 4])), "", "`mask` axis 0 (queries): expected 4 or 1, found 3"),
        (with("sinks", &array(&[3])), "", "`sinks` axis 0 (query heads): expected 2, found 3"),
        (with("past_key", &array(&[1, 2, 3, 3])), "", "`past_value`: expected the values that belong to `past_key`"),
        (good().i64("mask", &[1, 1, 1, 1]), "", "`mask` dtype: expected BOOL or U8 (true = attend), or a float type"),
        (good().i64("kv_lengths", &[5]), "", "`kv_lengths` element 0: expected a whole number from 0 to 4, found 5"),
        (
            with("past_key", &array(&[1, 2, 3, 3])).f32("past_value", &array(&[1, 2, 3, 3])).i64("kv_lengths", &[7]),
            "",
            "option `kv_lengths`: cannot stand beside past_key and past_value",
        ),
        (
            with("past_key", &array(&[1, 2, 3, 3])).f32("past_value", &array(&[1, 2, 3, 3])).i64("kv_lengths", &[8]),
            "",
            "`kv_lengths` element 0: expected a whole number from 0 to 7, found 8",
        ),
        (good().i64("kv_lengths", &[4, 4]), "", "`kv_lengths` axis 0 (batch): expected 1, found 2"),
        (
            without("query").add("query", Dtype::I32, &[1, 2, 1, 3], vec![0; 24]),
            "",
            "`query` dtype: expected F32, F16, BF16 or F64, found I32",
        ),
        (good(), "--score general", "`score.weight`: expected [Dq, Dk] for the general score, found none"),
        (with("score.v", &array(&[3])), "", "option `score`: ScaledDot has no parameter `score.v`"),
        (good(), "--q-heads 3", "option `q-heads`: 3, but the tensors have 2"),
        (good(), "--softcap -1", "option `softcap`: must be above 0"),
        (good(), "--scale nan", "option `scale`: must be finite"),
        (good(), "--lse --normalize hardmax", "option `lse`: belongs to softmax and sample only"),
        (good(), "--seed 3", "option `seed`: belongs to `--normalize sample`: add that, or leave it out"),
        (
            good(),
            "--temperature 1e-38",
            "option `temperature`: must be at least 1.1754944e-38, the smallest normal f32, not 1e-38",
        ),
        (good(), "--temperature 0", "option `temperature`: must be above 0, not 0"),
        (good(), "--temperature 2 --normalize hardmax", "option `temperature`: changes nothing of a hard choice"),
        (good(), "--rotary-base 500", "option `rotary-base`: belongs to a rotary embedding: add `--rotary half-split`"),
        (good(), "--rotary-width 2", "option `rotary-width`: belongs to a rotary embedding"),
        (good(), "--rotary-offset 2", "option `rotary-offset`: belongs to a rotary embedding"),
        (good(), "--rotary interleaved", "option `rotary width`: must be even and above 0, not 3"),
        (good(), "--rotary interleaved --rotary-width 4", "option `rotary-width`: 4, but a head has 3 elements"),
        (good(), "--rotary interleaved --rotary-width 2 --rotary-base 0", "option `rotary base`: must be finite"),
        (
            good(),
            "--rotary half-split --rotary-width 2 --rotary-offset 99999999999",
            "option `rotary-offset`: tables of 100000000003 positions would be too large",
        ),
        (
            with("rotary_cos", &array(&[4, 1])).f32("rotary_sin", &array(&[4, 1])),
            "",
            "option `rotary`: tables are given, but no rotary embedding is asked for",
        ),
        (
            with("rotary_cos", &array(&[4, 1])).f32("rotary_sin", &array(&[4, 1])),
            "--rotary half-split --rotary-base 500",
            "option `rotary-base`: the file has tables",
        ),
        (with("rotary_cos", &array(&[4, 1])), "--rotary half-split", "`rotary_sin`: expected [positions, width / 2]"),
        (good(), "--block-size 2,2", "`block_mask`: expected the mask that `block_size` belongs to, found none"),
        (
            good().bool("block_mask", Dtype::U8, &Array::filled(&[1, 1, 2, 2], 1)),
            "",
            "option `block-size`: needed beside",
        ),
        (with("block_mask", &array(&[1, 1, 2, 2])), "--block-size 2,2", "`block_mask` dtype: expected BOOL or U8"),
        (
            good().bool("block_mask", Dtype::BOOL, &Array::filled(&[2, 1], 1)),
            "--block-size 2,2",
            "`block_mask` axis 3 (blocks of keys): expected 2, found 1",
        ),
        (good(), "--window -1,-1,3", "option `window`: sink tokens belong to a window with a left or a right end"),
        (with("previous", &array(&[1, 2, 1, 4])), "", "option `previous`: belongs to a location-sensitive score"),
        (good(), "--score location", "`score.location_filter`: expected [C, W] for the location-sensitive score"),
        (with("score.g", &array(&[2])), "--score additive", "`score.g` elements: expected 1, found 2"),
        (with("score.g", &array(&[1])), "--score additive", "`score.v`: expected [A], which `score.g`"),
        (with("score.v", &array(&[3])), "--score keras-concat", "option `score`: keras-concat has no parameter"),
        // An odd number above 2^24, which f32 has not.
        (
            good().i64("kv_lengths", &[16_777_217]),
            "",
            "`kv_lengths` element 0: expected a whole number from 0 to 4, found 16777217",
        ),
        (good().i64("query_lengths", &[5]), "", "`query_lengths` element 0: expected a whole number from 0 to 4"),
        (good().i64("cu_seqlens_q", &[0, 4]), "", "`cu_seqlens_k`: expected [S + 1] beside `cu_seqlens_q`"),
        (
            good().i64("cu_seqlens_q", &[1, 4]).i64("cu_seqlens_k", &[0, 4]),
            "",
            "`cu_seqlens_q` element 0: expected 0, where the first sequence begins, found 1",
        ),
        (
            good().i64("cu_seqlens_q", &[0, 4, 3]).i64("cu_seqlens_k", &[0, 4, 4]),
            "",
            "`cu_seqlens_q` element 2: expected at least 4, where the sequence begins, found 3",
        ),
        (
            good().i64("cu_seqlens_q", &[0, 4]).i64("cu_seqlens_k", &[0, 5]),
            "",
            "`cu_seqlens_k` element 1: expected a whole number from 0 to 4, found 5",
        ),
        (
            good().i64("cu_seqlens_q", &[0, 4]).i64("cu_seqlens_k", &[0, 4]),
            "--present",
            "option `present`: has nothing to join in a ragged batch",
        ),
        (good().add("block_table", Dtype::I32, &[1, 1], vec![0; 4]), "", "`kv_lengths`: expected [B], how many keys"),
        (
            good().add("block_table", Dtype::I32, &[1, 1], vec![0, 0, 0, 1]).i64("kv_lengths", &[3]),
            "",
            "`block_table` element 0: expected a whole number from 0 to 0, found 16777216",
        ),
        (
            good().add("block_table", Dtype::I32, &[1, 1], vec![0; 4]).i64("kv_lengths", &[3]),
            "--present",
            "option `present`: has nothing to join in a paged cache",
        ),
    ] {
        folder.tensors("in.safetensors", &tensors);
        let ran = folder.run(&format!("attend in.safetensors -o out.safetensors --device cpu {args}"));
        assert_eq!(ran.status, 2, "{error}: {}", ran.stderr);
        assert!(ran.refusal().0.starts_with(error), "expected {error}\n{}", ran.stderr);
        assert!(ran.stdout.is_empty());
        assert_eq!(folder.names(), ["in.safetensors"], "{error}");
    }
    for (args, error) in [
        ("--check --output-dtype f16", "option `output-dtype`: is about the file written: add `-o OUT"),
        ("--heatmap weights.png --lse", "option `lse`: says what else to write: add `-o OUT.safetensors`"),
        ("--heatmap weights.png --weights", "option `weights`: says what else to write"),
    ] {
        folder.tensors("in.safetensors", &good());
        let ran = folder.run(&format!("attend in.safetensors --device cpu {args}"));
        assert!(ran.status == 2 && ran.refusal().0.starts_with(error), "{}", ran.stderr);
        assert_eq!(folder.names(), ["in.safetensors"], "{error}");
    }
    let ragged = ["query", "key", "value"].iter().fold(Tensors::default(), |t, name| t.f32(name, &array(&[4, 2, 3])));
    folder.tensors("in.safetensors", &ragged.i64("cu_seqlens_q", &[0, 4]).i64("cu_seqlens_k", &[0, 4]));
    let ran = folder.run("attend in.safetensors -o out.safetensors --device cpu --q-heads 2");
    assert!(
        ran.refusal().0.starts_with("option `q-heads`: is for [1, T, heads·D], and `query` is [4, 2, 3]: leave it")
    );
    let packed = Tensors::default().f32("query", &array(&[1, 4, 6]));
    let packed = packed.f32("key", &array(&[1, 4, 6])).f32("value", &array(&[1, 4, 6]));
    folder.tensors("in.safetensors", &packed);
    let ran = folder.run("attend in.safetensors -o out.safetensors --device cpu");
    let (error, hint) = ran.refusal();
    assert!(ran.status == 2 && error.starts_with("option `q-heads`: needed"), "{}", ran.stderr);
    assert!(hint.unwrap().contains("`--q-heads 1`"));
    let ran = folder.run("attend in.safetensors -o out.safetensors --device cpu --q-heads 4");
    assert_eq!(ran.refusal().0, "`query` axis 2 (heads · dim): expected a multiple of 4 heads, found 6");
}

#[test]
fn wrong_options_are_one_line_and_a_hint() {
    for (args, error, hint) in [
        ("attend", "the following required arguments were not provided: --output", "`--help`"),
        ("attend x.safetensors -o y --nonsense", "unexpected argument '--nonsense' found", "`--help`"),
        ("attend x.safetensors -o y --scor dot", "unexpected argument '--scor' found", "'--score'"),
        ("attend x.safetensors -o y --score xyz", "invalid value 'xyz' for '--score <KIND>' [possible", "`--help`"),
        ("attend x.safetensors -o y --causal=left", "invalid value 'left' for '--causal", "`--help`"),
        (
            "attend x.safetensors -o y --window 3",
            "invalid value '3' for '--window <L,R[,SINKS]>': expected two",
            "`--help`",
        ),
        ("attend x.safetensors -o y --window 3,-2", "invalid value '3,-2' for '--window <L,R[,SINKS]>'", "`--help`"),
        (
            "attend x.safetensors -o y --window 3,0,-1",
            "invalid value '3,0,-1' for '--window <L,R[,SINKS]>'",
            "`--help`",
        ),
        (
            "attend x.safetensors -o y --block-size 3",
            "invalid value '3' for '--block-size <Q,K>': expected two",
            "`--help`",
        ),
        ("attend x.safetensors -o y --rotary both", "invalid value 'both' for '--rotary <PAIRS>'", "`--help`"),
        ("merge x.safetensors -o y", "2 values required by '<PART.safetensors> <PART.safetensors>...'", "`--help`"),
        ("encode x.safetensors -o y", "the following required arguments were not provided: --cell", "`--help`"),
        ("nonsense", "unrecognized subcommand 'nonsense'", "`--help`"),
        ("info --device tpu", "invalid value 'tpu' for '--device <DEVICE>' [possible values: auto, gpu, cpu]", "'cpu'"),
        (
            "transliterate --set country x",
            "invalid value 'country' for '--set <KEY=VALUE>': expected KEY=VALUE",
            "`--help`",
        ),
        (
            "tune --shape 4294967295,4294967295,1,1,1,1",
            "invalid value '4294967295,4294967295,1,1,1,1' for '--shape <B,HQ,HKV,NQ,NK,D[,DV]>': a tensor",
            "`--help`",
        ),
        ("transliterate --show --json x", "the argument '--show' cannot be used with '--json'", "`--help`"),
    ] {
        let ran = run(words(args));
        assert_eq!(ran.status, 2, "{args}: {}", ran.stderr);
        let found = ran.refusal();
        assert!(found.0.starts_with(error) && found.1.unwrap().contains(hint), "{args}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    }
    let ran = Ran::of(regard().arg("info").env("REGARD_DEVICE", "nonsense").output().unwrap());
    assert!(ran.status == 2 && ran.refusal().0.contains("'nonsense' for '--device"), "{}", ran.stderr);
}

#[test]
fn an_adapter_that_is_not_there() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &good());
    let line = "attend in.safetensors -o out.safetensors --adapter no-such-adapter";
    let ran = folder.run(&format!("{line} --device gpu"));
    let there: Vec<String> = run(["info", "--json"]).ok().json()["adapters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|adapter| adapter["name"].as_str().unwrap().to_owned())
        .collect();
    // A wrong name is a wrong request: there are others.
    for ran in [ran, run(words("info --adapter no-such-adapter")), run(words("info --json --adapter no-such-adapter"))]
    {
        let (error, hint) = ran.refusal();
        assert!(error.starts_with("option `adapter`: none is called `no-such-adapter`; there are: "), "{error}");
        assert!(there.iter().all(|name| error.contains(name)), "{there:?} in {error}");
        assert!(ran.status == 2 && ran.stdout.is_empty() && hint.unwrap().contains("`regard info`"), "{}", ran.stderr);
    }
    // Left to choose, the program takes the CPU and says so.
    let ran = folder.run(line).ok();
    assert!(ran.stderr.contains("no-such-adapter") && ran.stderr.contains("on the CPU"), "{}", ran.stderr);
    assert_eq!(folder.names(), ["in.safetensors", "out.safetensors"]);
    // The environment says the same, the command line goes first.
    let mut command = regard();
    command.args(words("attend in.safetensors --check")).current_dir(folder.0.path());
    command.env("REGARD_DEVICE", "gpu").env("REGARD_ADAPTER", "no-such-adapter");
    let ran = Ran::of(command.output().unwrap());
    assert!(ran.status == 2 && ran.refusal().0.contains("no-such-adapter"), "{}", ran.stderr);
    let ran = Ran::of(command.args(["--device", "cpu"]).output().unwrap()).ok();
    assert_eq!(ran.stderr, "");
}

#[test]
fn no_driver_at_all() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &good());
    // A Vulkan loader that is told to use a driver that is not there; other backends are left out.
    let alone = |line: &str| {
        let mut command = regard();
        command
            .args(words(line))
            .current_dir(folder.0.path())
            .env_remove("REGARD_ADAPTER")
            .env("WGPU_BACKEND", "vulkan");
        for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(variable, folder.path("no-driver.json"));
        }
        Ran::of(command.output().unwrap())
    };
    let ran = alone("attend in.safetensors --check --device gpu");
    let (error, hint) = ran.refusal();
    assert_eq!((ran.status, error), (1, "no GPU adapter: no driver answers"));
    assert!(hint.unwrap().contains("mesa-vulkan-drivers"), "{hint:?}");
    let ran = alone("attend in.safetensors --check").ok();
    assert!(ran.stderr.contains("computing on the CPU"), "{}", ran.stderr);
    let ran = alone("attend in.safetensors --check --device gpu --adapter card");
    assert_eq!((ran.status, ran.refusal().0), (1, "no GPU adapter: no driver answers"));
    let ran = alone("info --adapter card").ok();
    assert!(ran.stderr.contains("mesa-vulkan-drivers"), "{}", ran.stderr);
    let ran = alone("info").ok();
    assert!(ran.stderr.contains("mesa-vulkan-drivers"), "{}", ran.stderr);
}

#[test]
fn files_that_are_no_tensor_files() {
    let folder = Folder::new();
    let whole = good().bytes();
    let header = |json: &str, data: &[u8]| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    };
    let query = |range: &str| format!(r#""query":{{"dtype":"F32","shape":[2],"data_offsets":{range}}}"#);
    let key = |range: &str| format!(r#""key":{{"dtype":"F32","shape":[2],"data_offsets":{range}}}"#);
    let mut hostile = vec![
        ("empty", Vec::new()),
        ("short", vec![1, 2, 3]),
        ("huge header", [&u64::MAX.to_le_bytes()[..], b"{}"].concat()),
        ("large header", [&99_999_999u64.to_le_bytes()[..], b"{}"].concat()),
        ("no json", header("not json", &[])),
        ("overlap", header(&format!("{{{},{}}}", query("[0,8]"), key("[4,12]")), &[0; 12])),
        ("past the end", header(&format!("{{{}}}", query("[0,4000000000]")), &[0; 8])),
        ("backwards", header(&format!("{{{}}}", query("[8,0]")), &[0; 8])),
        ("gap", header(&format!("{{{}}}", query("[4,12]")), &[0; 12])),
        ("twice", header(&format!("{{{},{}}}", query("[0,8]"), query("[8,16]")), &[0; 16])),
        (
            "overflow",
            header(r#"{"query":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}"#, &[]),
        ),
    ];
    for at in [1, 7, 8, 9, 20, whole.len() / 2, whole.len() - 1] {
        hostile.push(("truncated", whole[..at].to_vec()));
    }
    for (what, bytes) in hostile {
        folder.write("in.safetensors", bytes);
        for command in ["attend", "encode --cell gru"] {
            let ran = folder.run(&format!("{command} in.safetensors -o out.safetensors --device cpu"));
            assert_eq!(ran.status, 2, "{what}: {}", ran.stderr);
            assert!(ran.refusal().0.starts_with("in.safetensors: "), "{what}: {}", ran.stderr);
        }
    }
    // A damaged byte somewhere: whatever comes of it, never a crash.
    for at in (0..whole.len().min(400)).step_by(9) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x51;
        folder.write("in.safetensors", bytes);
        let ran = folder.run("attend in.safetensors --check --device cpu");
        assert!((0..=2).contains(&ran.status) && !ran.stderr.contains("panicked"), "byte {at}: {}", ran.stderr);
    }
    for missing in ["attend nowhere.safetensors -o out.safetensors", "attend . -o out.safetensors"] {
        let ran = folder.run(missing);
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        ran.refusal();
    }
    assert_eq!(folder.names(), ["in.safetensors"]);
}

#[test]
fn nan_is_told_about_and_stays_nan() {
    let folder = Folder::new();
    let mut query = numbers(&[1, 2, 4, 3], 1);
    query.data_mut()[4] = f32::NAN;
    folder.tensors("in.safetensors", &with("query", &query));
    let ran = folder.run("attend in.safetensors -o out.safetensors --device cpu").ok();
    assert_eq!(ran.stderr, "warning: `query` holds NaN: 1 of 24 elements, element 4 first\n");
    let output = folder.load("out.safetensors").get("output").unwrap();
    let nan: Vec<usize> = (0..24).filter(|&i| output.data()[i].is_nan()).collect();
    assert_eq!(nan, [3, 4, 5]);
}

#[test]
fn tensors_that_nothing_reads_are_told_about() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &good().i64("kv_length", &[2]));
    let ran = folder.run("attend in.safetensors -o out.safetensors --device cpu").ok();
    assert!(ran.stderr.starts_with("warning: in.safetensors has tensors that `attend`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`kv_length`"));
}

/// What never ends is no text: it is not read to its end.
#[cfg(unix)]
#[test]
fn texts_without_end_are_refused() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &good());
    std::fs::create_dir(folder.path("model")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path("model/model.json")).unwrap();
    for (line, path) in [
        ("attend in.safetensors --device cpu --heatmap a.png --query-labels /dev/zero", "/dev/zero"),
        ("attend in.safetensors --device gpu -o a.safetensors --score-wgsl /dev/zero", "/dev/zero"),
        ("bench --show /dev/zero", "/dev/zero"),
        ("transliterate --model model --device cpu x", "model"),
    ] {
        let ran = folder.run(line);
        assert_eq!(ran.status, 2, "{line}: {}", ran.stderr);
        let error = ran.refusal().0;
        assert!(error.starts_with(path) && error.contains(": more than "), "{line}: {}", ran.stderr);
    }
    assert_eq!(folder.names(), ["in.safetensors", "model"]);
}

#[test]
fn an_output_that_cannot_be_written_leaves_nothing() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &good());
    std::fs::create_dir(folder.path("folder")).unwrap();
    for out in ["missing/out.safetensors", "folder", "in.safetensors/out.safetensors"] {
        let ran = folder.run(&format!("attend in.safetensors -o {out} --device cpu"));
        assert_eq!(ran.status, 1, "{out}: {}", ran.stderr);
        assert!(ran.refusal().0.starts_with(out), "{}", ran.stderr);
        assert!(!ran.stderr.contains(".regard-"), "{}", ran.stderr);
        assert_eq!(folder.names(), ["folder", "in.safetensors"]);
    }
    let before = std::fs::read(folder.path("in.safetensors")).unwrap();
    let ran = folder.run("attend in.safetensors --device cpu --heatmap missing/weights.png");
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert_eq!(std::fs::read(folder.path("in.safetensors")).unwrap(), before);
    let ran = folder.run("attend in.safetensors --device cpu --heatmap weights.jpg");
    assert!(ran.status == 2 && ran.refusal().0.starts_with("option `heatmap`"), "{}", ran.stderr);
    if cfg!(target_os = "linux") {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = regard();
        command.args(["info", "--json"]).stdout(Stdio::from(full));
        let ran = Ran::of(command.output().unwrap());
        assert!(ran.status == 1 && ran.refusal().0.starts_with("standard output: "), "{}", ran.stderr);
    }
}
