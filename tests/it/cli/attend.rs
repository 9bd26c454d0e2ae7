//! `regard attend` against the reference.

use regard::attention::{
    Attention, AttentionInputs, Causal, Mask, Normalize, Score, ScoreFn, ScoreMod, ScoreStage, Window,
};
use regard::reference;
use regard::tensor::Array;
use safetensors::Dtype;
use serde_json::json;

use super::{DEVICES, Folder, Tensors, judge, numbers};

/// A call in both forms.
struct Case {
    args: &'static str,
    options: Attention,
    inputs: AttentionInputs<Array>,
}

/// [B, Hq, Nq, D], [B, Hkv, Nk, D], [B, Hkv, Nk, Dv], all axes different.
fn inputs() -> AttentionInputs<Array> {
    AttentionInputs::new(numbers(&[2, 4, 5, 8], 1), numbers(&[2, 2, 7, 8], 2), numbers(&[2, 2, 7, 6], 3))
}

/// The tensors of a case as they stand in a file.
fn file(inputs: &AttentionInputs<Array>) -> Tensors {
    let mut tensors = Tensors::default();
    let is_bool = matches!(inputs.mask, Some(Mask::Bool(_)));
    inputs
        .try_map(|name, array| {
            let so_far = std::mem::take(&mut tensors);
            tensors = match name {
                "mask" if is_bool => so_far.bool(name, Dtype::BOOL, array),
                "kv_lengths" => so_far.i64(name, &array.data().iter().map(|&x| x as i64).collect::<Vec<_>>()),
                _ => so_far.f32(name, array),
            };
            Ok::<_, regard::Error>(())
        })
        .unwrap();
    tensors
}

fn cases() -> Vec<Case> {
    let case = |args, options, change: &dyn Fn(&mut AttentionInputs<Array>)| {
        let mut inputs = inputs();
        change(&mut inputs);
        Case { args, options, inputs }
    };
    let plain = Attention::default;
    let bits = |shape: &[usize]| numbers(shape, 9).map(|&x| if x > -0.3 { 1.0 } else { 0.0 });
    vec![
        case("", plain(), &|_| ()),
        case(
            "--weights --lse --scores capped --scale 0.7 --softcap 0.4",
            Attention {
                scale: Some(0.7),
                softcap: Some(0.4),
                weights: true,
                lse: true,
                scores: Some(ScoreStage::Capped),
                ..plain()
            },
            &|_| (),
        ),
        case(
            "--causal --weights --scores raw",
            Attention { causal: Some(Causal::TopLeft), weights: true, scores: Some(ScoreStage::Raw), ..plain() },
            &|i| i.mask = Some(Mask::Bool(bits(&[2, 1, 5, 7]))),
        ),
        case(
            "--causal bottom-right --window 2,-1 --scores masked --lse",
            Attention {
                causal: Some(Causal::BottomRight),
                window: Some(Window::new(Some(2), None)),
                scores: Some(ScoreStage::Masked),
                lse: true,
                ..plain()
            },
            &|i| i.mask = Some(Mask::Float(numbers(&[4, 5, 7], 5))),
        ),
        case(
            "--window -1,1 --causal=top-left --weights",
            Attention {
                causal: Some(Causal::TopLeft),
                window: Some(Window::new(None, Some(1))),
                weights: true,
                ..plain()
            },
            &|i| i.kv_lengths = Some(Array::new(&[2], vec![7.0, 3.0]).unwrap()),
        ),
        case("--causal --present", Attention { causal: Some(Causal::TopLeft), ..plain() }, &|i| {
            i.past_key = Some(numbers(&[2, 2, 3, 8], 6));
            i.past_value = Some(numbers(&[2, 2, 3, 6], 7));
        }),
        case("--lse", Attention { lse: true, ..plain() }, &|i| {
            i.alibi_slopes = Some(numbers(&[4], 8));
            i.sinks = Some(numbers(&[4], 9));
        }),
        case(
            "--score dot --normalize sparsemax --weights",
            Attention { score: Score::Dot, normalize: Normalize::Sparsemax, weights: true, ..plain() },
            &|_| (),
        ),
        case(
            "--score cosine --scale 5 --normalize hardmax --weights",
            Attention {
                score: Score::Cosine,
                scale: Some(5.0),
                normalize: Normalize::Hardmax,
                weights: true,
                ..plain()
            },
            &|_| (),
        ),
        case(
            "--normalize sample --seed 11 --weights",
            Attention { normalize: Normalize::Sample { seed: 11 }, weights: true, ..plain() },
            &|_| (),
        ),
        case("--score general", Attention { score: Score::General, ..plain() }, &|i| {
            i.score.weight = Some(numbers(&[8, 8], 4));
        }),
        case("--score additive --path staged", Attention { score: Score::Additive, ..plain() }, &|i| {
            i.score.query_weight = Some(numbers(&[9, 8], 10));
            i.score.key_weight = Some(numbers(&[9, 8], 11));
            i.score.v = Some(numbers(&[9], 12));
            i.score.bias = Some(numbers(&[9], 13));
        }),
        case("--score additive", Attention { score: Score::Additive, ..plain() }, &|_| ()),
        case("--score concat", Attention { score: Score::Concat, ..plain() }, &|i| {
            i.score.weight = Some(numbers(&[9, 16], 14));
            i.score.v = Some(numbers(&[9], 15));
        }),
    ]
}

/// Every result of a case that is in the file, against the reference.
fn check(case: &Case, folder: &Folder) {
    let oracle = reference::attention(&case.options, &case.inputs.map(|a| a.map(|&x| f64::from(x)))).unwrap();
    let baseline = reference::attention(&case.options, &case.inputs).unwrap();
    let out = folder.load("out.safetensors");
    let mut wanted = 1;
    judge(case.args, "output", &out, &oracle.output, &baseline.output);
    for (name, oracle, baseline) in [
        ("weights", &oracle.weights, &baseline.weights),
        ("lse", &oracle.lse, &baseline.lse),
        ("scores", &oracle.scores, &baseline.scores),
        ("present_key", &oracle.present_key, &baseline.present_key),
        ("present_value", &oracle.present_value, &baseline.present_value),
    ] {
        if let (Some(oracle), Some(baseline)) = (oracle, baseline) {
            judge(case.args, name, &out, oracle, baseline);
            wanted += 1;
        }
    }
    assert_eq!(out.names().count(), wanted, "{}: {:?}", case.args, out.names().collect::<Vec<_>>());
}

#[test]
fn every_option_agrees_with_the_reference_on_both_devices() {
    let folder = Folder::new();
    for case in cases() {
        folder.tensors("in.safetensors", &file(&case.inputs));
        for device in DEVICES {
            let line = format!("attend in.safetensors -o out.safetensors --device {device} {}", case.args);
            let ran = folder.run(&line).ok();
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{line}");
            check(&case, &folder);
            std::fs::remove_file(folder.path("out.safetensors")).unwrap();
        }
    }
}

#[test]
fn check_passes_and_prints_each_result() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &file(&inputs()));
    for device in DEVICES {
        let ran = folder.run(&format!("attend in.safetensors --check --lse --weights --device {device}")).ok();
        let rows: Vec<&str> = ran.stdout.lines().skip(1).collect();
        assert_eq!(rows.len(), 3, "{}", ran.stdout);
        for (row, name) in rows.iter().zip(["output", "weights", "lse"]) {
            assert!(row.starts_with(name) && row.ends_with("pass"), "{row}");
        }
    }
    // Half precision is checked with the tolerance of half precision, on devices that have it.
    let f16 = folder.run("attend in.safetensors --check --json --dtype f16 --device cpu").ok().json();
    assert!(f16["check"]["outputs"]["output"]["max_abs_error"].as_f64().unwrap() > 1e-5);
    let ran = folder.run("attend in.safetensors --check --dtype f16 --device gpu");
    assert!(ran.status == 0 || ran.stderr.contains("lacks f16"), "{}{}", ran.stdout, ran.stderr);
}

#[test]
fn ranks_two_and_three_are_heads_laid_out_otherwise() {
    let folder = Folder::new();
    let four = inputs();
    let packed = |array: &Array| {
        let &[b, h, n, d] = array.shape() else { panic!() };
        array.permute(&[0, 2, 1, 3]).unwrap().reshape(&[b, n, h * d]).unwrap()
    };
    let three = Tensors::default()
        .f32("query", &packed(&four.query))
        .f64("key", &packed(&four.key))
        .f32("value", &packed(&four.value));
    folder.tensors("in.safetensors", &three);
    let options = Attention { causal: Some(Causal::TopLeft), weights: true, ..Attention::default() };
    let want = reference::attention(&options, &four).unwrap();
    for device in DEVICES {
        folder
            .run(&format!(
                "attend in.safetensors -o out.safetensors --q-heads 4 --kv-heads 2 --causal --weights --device {device}"
            ))
            .ok();
        let out = folder.load("out.safetensors");
        assert_eq!(out.shape("output"), Some(&[2, 5, 24][..]));
        assert_eq!(out.shape("weights"), Some(&[2, 4, 5, 7][..]));
        close(&out.get("output").unwrap(), &packed(&want.output));
    }
    let (query, key, value) = (numbers(&[5, 8], 1), numbers(&[7, 8], 2), numbers(&[7, 6], 3));
    let mask = numbers(&[5, 7], 4).map(|&x| if x > 0.0 { 1.0 } else { 0.0 });
    let one = |a: &Array| a.clone().reshape(&[&[1, 1][..], a.shape()].concat()).unwrap();
    let mut lifted = AttentionInputs::new(one(&query), one(&key), one(&value));
    lifted.mask = Some(Mask::Bool(mask.clone()));
    let want = reference::attention(&Attention::default(), &lifted).unwrap().output.reshape(&[5, 6]).unwrap();
    let two = Tensors::default().f32("query", &query).f32("key", &key).f32("value", &value);
    folder.tensors("in.safetensors", &two.bool("mask", Dtype::U8, &mask));
    for device in DEVICES {
        folder.run(&format!("attend in.safetensors -o out.safetensors --device {device}")).ok();
        close(&folder.load("out.safetensors").get("output").unwrap(), &want);
    }
}

fn close(got: &Array, want: &Array) {
    regard::compare::close("output", got, want, 1e-5, 1e-6).unwrap().check("output").unwrap();
}

#[test]
fn a_score_function_in_wgsl_runs_on_the_gpu_alone() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &file(&inputs()));
    let wgsl = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {\n    \
                return score * f32(b + 1u) - 0.25 * abs(f32(i) - f32(j)) + 0.1 * f32(h);\n}\n";
    folder.write("mod.wgsl", wgsl);
    folder.run("attend in.safetensors -o out.safetensors --score-wgsl mod.wgsl --device gpu").ok();
    let function: ScoreFn =
        std::sync::Arc::new(|s, b, h, i, j| s * (b + 1) as f64 - 0.25 * (i as f64 - j as f64).abs() + 0.1 * h as f64);
    let score_mod = Some(ScoreMod { wgsl: wgsl.to_owned(), reference: Some(function) });
    let want = reference::attention(&Attention { score_mod, ..Attention::default() }, &inputs()).unwrap();
    close(&folder.load("out.safetensors").get("output").unwrap(), &want.output);

    let refused = |line: &str, wanted: &str| {
        let ran = folder.run(line);
        assert_eq!(ran.status, 2, "{line}: {}", ran.stderr);
        assert!(ran.refusal().0.contains(wanted), "{line}: {}", ran.stderr);
    };
    refused("attend in.safetensors -o out.safetensors --score-wgsl mod.wgsl --device cpu", "`--device gpu`");
    refused("attend in.safetensors --check --score-wgsl mod.wgsl --device gpu", "nothing to compare with");
    folder.write("mod.wgsl", wgsl.replace("score *", "scor *"));
    refused("attend in.safetensors -o out.safetensors --score-wgsl mod.wgsl --device gpu", "line 2: return scor *");
    folder.write("mod.wgsl", "fn other() {}");
    refused("attend in.safetensors -o out.safetensors --score-wgsl mod.wgsl --device gpu", "fn score_mod(score: f32");
}

#[test]
fn explain_tells_plan_and_times_and_json_has_all_of_it() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &file(&inputs()));
    let ran = folder.run("attend in.safetensors --explain --check --device gpu").ok();
    for wanted in ["staged", "floor", "score elem=f32", "softmax", "weighted_sum", "workgroups", "time"] {
        assert!(ran.stderr.contains(wanted), "no {wanted} in\n{}", ran.stderr);
    }
    let line = "attend in.safetensors -o out.safetensors --explain --check --json --weights --output-dtype bf16";
    for device in DEVICES {
        let ran = folder.run(&format!("{line} --device {device}")).ok();
        let json = ran.json();
        assert_eq!(json["device"]["kind"], device);
        assert_eq!(json["outputs"]["weights"], json!({ "shape": [2, 4, 5, 7], "dtype": "BF16" }));
        assert_eq!(json["check"]["passed"], true);
        let dispatches = json["explain"]["dispatches"].as_array().unwrap();
        assert_eq!(dispatches.len(), if device == "gpu" { 3 } else { 0 });
        assert_eq!(folder.load("out.safetensors").dtype("output").as_deref(), Some("BF16"));
    }
}

#[test]
fn a_heat_map_is_a_png_and_an_svg() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &file(&inputs()));
    folder.run("attend in.safetensors --heatmap weights.png --device cpu").ok();
    assert_eq!(folder.names(), ["in.safetensors", "weights.png", "weights.svg"]);
    let png = std::fs::read(folder.path("weights.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 1000);
    let svg = std::fs::read_to_string(folder.path("weights.svg")).unwrap();
    assert!((0..4).all(|head| svg.contains(&format!("head {head}"))), "{svg}");
}
