//! `regard bench`: what it times is right, and every figure is there.

use serde_json::Value;

use super::{Folder, run, words};

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
        assert!(ran.stdout.contains(case["name"].as_str().unwrap()), "{}", ran.stdout);
    }
    assert!(ran.stdout.contains("ns/step") && ran.stdout.contains("one more dispatch"), "{}", ran.stdout);
}

#[test]
fn what_cannot_be_timed_is_refused() {
    for (args, wanted) in [
        ("bench --device cpu", "option `device`: bench times GPU kernels"),
        ("bench --filter no-such-case", "option `filter`: no case has such a name"),
        ("bench --filter (", "option `filter`: "),
        ("bench --suite recurrent --filter attention\\splain", "option `filter`: no case has such a name"),
    ] {
        let ran = run(words(args));
        assert!(ran.status == 2 && ran.refusal().0.starts_with(wanted), "{args}: {}", ran.stderr);
    }
}
