//! `regard bench`: what it times is right, and every figure is there.

use serde_json::Value;

use super::Folder;

#[test]
fn a_recurrence_has_a_row_for_each_path() {
    let folder = Folder::new();
    let line = "bench --quick --suite recurrent --json figures.json --filter ^(rnn|lstm\\s.*\\sL2|lstm\\s\\+)";
    let ran = folder.run(line).ok();
    let json: Value = serde_json::from_slice(&std::fs::read(folder.path("figures.json")).unwrap()).unwrap();
    let positive = |value: &Value| value.as_f64().is_some_and(|x| x > 0.0);
    for figure in ["fma_gflops", "copy_gbps"] {
        assert!(positive(&json[figure]), "{figure}");
    }
    for figure in ["dispatch_ns", "barrier_ns_per_lane"] {
        assert!(json[figure].as_f64().is_some_and(|x| x >= 0.0), "{figure}");
    }
    let planner = json["planner"].as_array().unwrap();
    for path in ["steps", "wavefront"] {
        let verdict = planner.iter().find(|verdict| verdict["path"] == path).unwrap();
        assert!(positive(&verdict["rate"]) && verdict["tile_rows"] == 8, "{verdict}");
        let ratios = verdict["planned_over_median"].as_array().unwrap();
        assert!(!ratios.is_empty() && ratios.iter().all(positive), "{verdict}");
        assert!(ran.stdout.contains(&format!("{path}, tile height 8 ")), "{}", ran.stdout);
    }
    let cases = json["cases"].as_array().unwrap();
    let not_run = json["not_run"].as_array().unwrap();
    let names: Vec<&str> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
    for wanted in ["rnn T32 B8 H64", "lstm T32 B8 H64 L2", "lstm + dot attention T32 B8 H64"] {
        for path in ["auto", "steps", "persistent"] {
            let row = format!("{wanted} {path}");
            let left_out = not_run.iter().any(|reason| reason.as_str().unwrap().starts_with(&row));
            assert!(names.contains(&row.as_str()) != left_out, "{row}: {names:?}, {not_run:?}");
            assert!(path == "persistent" || !left_out, "{not_run:?}");
        }
        assert_eq!(names.contains(&format!("{wanted} wavefront").as_str()), wanted.ends_with("L2"));
    }
    for case in cases {
        for figure in
            ["median_ns", "minimum_ns", "ns_per_step", "planned_ns", "dispatches", "gflops", "gbps", "times_floor"]
        {
            assert!(positive(&case[figure]), "{figure} of {case}");
        }
        let per_step = case["median_ns"].as_f64().unwrap() / 32.0;
        assert!((case["ns_per_step"].as_f64().unwrap() - per_step).abs() < 1e-3 * per_step);
        assert!(case["error_ratio"].as_f64().unwrap() <= 1.0, "{case}");
        let (name, path) = (case["name"].as_str().unwrap(), case["path"].as_str().unwrap());
        assert!(name.ends_with(path) || name.ends_with("auto"), "{case}");
        let [work, way] = ["work", "way"].map(|key| case[key].as_str().unwrap());
        let below = ran.stdout.split_once(&format!("\n{work}\n")).unwrap().1;
        assert!(below.contains(&format!("\n  {way} ")) || below.starts_with(&format!("  {way} ")), "{}", ran.stdout);
    }
    assert!(ran.stdout.contains("ns/step") && ran.stdout.contains("one more dispatch"), "{}", ran.stdout);
    assert!(ran.stdout.contains("above 1 the device is faster than assumed"), "{}", ran.stdout);
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 100), "{}", ran.stdout);
}

fn figures(folder: &Folder, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.path(name)).unwrap()).unwrap()
}

#[test]
#[ignore = "a dozen programs, each timed: by tests/all"]
fn an_attention_has_a_row_for_each_path_with_all_its_figures() {
    let folder = Folder::new();
    let line = "bench --quick --suite attention --json figures.json --plot curve.png \
                --filter ^(prefill\\sB1\\sH4\\sN(64|128)\\s|prefill\\scausal|additive\\sstep|.*f16)";
    let ran = folder.run(line).ok();
    let json = figures(&folder, "figures.json");
    let positive = |value: &Value| value.as_f64().is_some_and(|x| x > 0.0);
    assert!(positive(&json["fma_gflops"]) && positive(&json["copy_gbps"]) && json.get("dispatch_ns").is_none());
    assert!(json["cooperative_gflops"].is_null() || positive(&json["cooperative_gflops"]));
    for text in ["adapter", "driver", "backend", "type"] {
        assert!(json["device"][text].as_str().is_some_and(|text| !text.is_empty()), "{text}");
    }
    assert_eq!(json["regard"], env!("CARGO_PKG_VERSION"));
    let date: Vec<usize> = json["date"].as_str().unwrap().split('-').map(|part| part.parse().unwrap()).collect();
    assert!(date.len() == 3 && date[0] >= 2026 && (1..=12).contains(&date[1]) && (1..=31).contains(&date[2]));
    assert!(json["command"].as_str().unwrap().starts_with("regard bench --quick --suite attention"));

    let cases = json["cases"].as_array().unwrap();
    let not_run: Vec<&str> = json["not_run"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let halves = cases.iter().filter(|case| case["shape"]["dtype"] == "f16").count();
    assert_eq!(halves == 0, not_run.iter().any(|line| line.contains("no f16 in shaders")), "{not_run:?}");
    for work in ["prefill B1 H4 N64 D64 f32", "prefill causal B1 H4 N256 D64 f32", "additive step B4 T64 A128 f32"] {
        for way in ["auto", "fused", "split", "staged", "naive"] {
            let name = format!("{work} {way}");
            let rows = cases.iter().filter(|case| case["name"] == name.as_str()).count();
            let left_out = not_run.iter().any(|line| line.starts_with(&format!("{name}: ")));
            assert!(rows == usize::from(!left_out), "{name}: {cases:?}, {not_run:?}");
            assert!(rows == 1 || ["fused", "split"].contains(&way), "{name}: {not_run:?}");
        }
    }
    for case in cases {
        for figure in ["median_ns", "minimum_ns", "dispatches", "flops", "bytes", "gflops", "gbps", "times_floor"] {
            assert!(positive(&case[figure]), "{figure} of {case}");
        }
        assert!(
            case["minimum_ns"].as_f64() <= case["median_ns"].as_f64() && case["runs"].as_u64() >= Some(3),
            "{case}"
        );
        assert!(case["error_ratio"].as_f64().unwrap() <= 1.0 && case["ns_per_step"].is_null(), "{case}");
        let [name, work, way, path, plan] =
            ["name", "work", "way", "path", "plan"].map(|key| case[key].as_str().unwrap());
        assert_eq!(name, format!("{work} {way}"));
        assert!(path == way || way == "auto" && ["fused", "split", "staged"].contains(&path), "{case}");
        let title = if way == "auto" { format!("  auto ({path}) ") } else { format!("  {way} ") };
        let below = ran.stdout.split_once(&format!("\n{work}\n")).unwrap().1;
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(below.contains(&title) && words(below).contains(&words(plan)) && !plan.is_empty(), "{}", ran.stdout);
        assert!(
            case["series"].as_str().is_some_and(|series| !series.is_empty()) && positive(&case["length"]),
            "{case}"
        );
    }
    // A program that is new to the device is compiled; the first row has three of those, or one.
    assert!(cases[0]["compile_ns"].as_f64().is_some_and(|ns| ns >= 0.0), "{}", cases[0]);
    // A causal mask hides almost half of the pairs.
    let causal = cases.iter().find(|case| case["shape"]["causal"] == true).unwrap();
    assert_eq!(causal["flops"].as_f64().unwrap(), (4 * 256 * 257 / 2 * 2 * 128) as f64);

    let png = std::fs::read(folder.path("curve.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xaeB\x60\x82") && png.len() > 10_000);
    assert_eq!(folder.names(), ["curve.png", "figures.json"]);

    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 100), "{}", ran.stdout);

    // What was stored shows as it was.
    let shown = folder.run("bench --show figures.json --plot curve.svg").ok();
    assert_eq!(shown.stdout, ran.stdout);
    let svg = std::fs::read_to_string(folder.path("curve.svg")).unwrap();
    for text in [">prefill B1 H4 D64 f32<", ">ceiling, measured<", ">staged<", ">naive<", ">GFLOP/s<", ">64<", ">128<"]
    {
        assert!(svg.contains(text), "{text} in {svg}");
    }
    assert!(svg.contains(json["device"]["adapter"].as_str().unwrap()) && svg.ends_with("</svg>\n"));
}

#[test]
fn paths_choose_the_rows() {
    let folder = Folder::new();
    let line = "bench --quick --filter ^(rnn|ggml.*D72) --paths staged,naive,steps --json figures.json";
    folder.run(line).ok();
    let json = figures(&folder, "figures.json");
    let mut ways: Vec<&str> =
        json["cases"].as_array().unwrap().iter().map(|case| case["way"].as_str().unwrap()).collect();
    ways.sort_unstable();
    assert_eq!(ways, ["naive", "staged", "steps"]);
    assert!(json["dispatch_ns"].as_f64().is_some_and(|x| x >= 0.0) && json["not_run"].as_array().unwrap().is_empty());
}

/// A call replayed and recorded anew, each beside bare wgpu.
#[test]
fn launches_stand_beside_bare_dispatches() {
    let folder = Folder::new();
    let line = "bench --quick --suite launch --json figures.json --filter ^(linear|decode.token,.1.layer,.paged)";
    let ran = folder.run(line).ok();
    let json: Value = serde_json::from_slice(&std::fs::read(folder.path("figures.json")).unwrap()).unwrap();
    let rows = json["launch"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    let works = ["linear", "decode token, 1 layer, paged"];
    let wanted: Vec<String> =
        works.iter().flat_map(|w| ["replayed", "recorded anew"].map(|how| format!("{w}, {how}"))).collect();
    assert_eq!(names, wanted);
    for row in rows {
        let [ours, bare, ratio] = ["ours_us", "bare_us", "ratio"].map(|figure| row[figure].as_f64().unwrap());
        assert!(ours > 0.0 && bare > 0.0 && (ratio - ours / bare).abs() < 1e-6 * ratio, "{row}");
        assert!(row["dispatches"].as_u64().unwrap() > 0 && ran.stdout.contains(row["name"].as_str().unwrap()));
    }
    assert!(json["cases"].as_array().unwrap().is_empty() && json["wrong"].as_array().unwrap().is_empty());
    // What was stored is shown again.
    let shown = folder.run("bench --show figures.json").ok();
    assert!(shown.stdout.contains("calling thread") && shown.stdout.contains(names[3]), "{}", shown.stdout);
}

#[test]
fn what_cannot_be_timed_is_refused() {
    let folder = Folder::new();
    folder.write("empty.json", "{}");
    folder.write("cut.json", "{\"regard\": \"0.1.0\", \"cases\": [");
    for (args, wanted) in [
        ("bench --device cpu --suite launch", "option `suite`: a CPU launches nothing"),
        ("bench --device cpu --paths fused", "option `paths`: chooses among GPU kernels"),
        ("bench --filter no-such-case", "option `filter`: no case has such a name"),
        ("bench --filter (", "option `filter`: "),
        ("bench --suite recurrent --filter ^prefill", "option `filter`: no case has such a name"),
        ("bench --suite launch --filter ^lstm", "option `filter`: no case has such a name"),
        ("bench --suite attention --filter ^lstm", "option `filter`: no case has such a name"),
        ("bench --suite recurrent --paths fused,naive", "option `paths`: none of the cases can be run that way"),
        ("bench --paths quickest", "invalid value 'quickest' for '--paths"),
        ("bench --quick --plot curve.jpg", "option `plot`: a picture's file is called `.png` or `.svg`"),
        ("bench --quick --plot curve", "option `plot`: a picture's file is called `.png` or `.svg`"),
        ("bench --quick --suite recurrent --plot curve.png", "option `plot`: needs attention cases that differ in"),
        ("bench --quick --filter ^additive --plot curve.png", "option `plot`: needs attention cases that differ in"),
        ("bench --show missing.json", "missing.json: "),
        ("bench --show empty.json", "empty.json: not what `regard bench --json` writes: missing field"),
        ("bench --show cut.json", "cut.json: not what `regard bench --json` writes: EOF"),
        ("bench --show empty.json --quick", "the argument '--show <FILE.json>...' cannot be used with '--quick'"),
    ] {
        let ran = folder.run(args);
        assert!(ran.status == 2 && ran.refusal().0.starts_with(wanted), "{args}: {}", ran.stderr);
    }
    assert_eq!(folder.names(), ["cut.json", "empty.json"]);
}
