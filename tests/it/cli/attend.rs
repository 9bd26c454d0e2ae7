//! `regard attend` against the reference.

use std::cell::RefCell;

use regard::attention::{
    Attention, AttentionInputs, BlockMask, Causal, CuSeqlens, Mask, Monotonic, Normalize, Past, Rotary,
    RotaryEmbedding, RotaryLayout, Score, ScoreFn, ScoreMod, ScoreStage, Window,
};
use regard::tensor::{Array, DType};
use regard::{baseline, reference};
use safetensors::Dtype;
use serde_json::json;

use super::{DEVICES, Folder, Tensors, judge, numbers};
use crate::gpu::some;

/// A call in both forms.
struct Case {
    args: &'static str,
    options: Attention,
    inputs: AttentionInputs<Array>,
}

/// [B, Hq, Nq, D], [B, Hkv, Nk, D], [B, Hkv, Nk, Dv], all axes different.
pub(super) fn inputs() -> AttentionInputs<Array> {
    AttentionInputs::new(numbers(&[2, 4, 5, 8], 1), numbers(&[2, 2, 7, 8], 2), numbers(&[2, 2, 7, 6], 3))
}

/// The tensors of a case as they stand in a file.
pub(super) fn file(inputs: &AttentionInputs<Array>) -> Tensors {
    let tensors = RefCell::new(Tensors::default());
    let numbers = |name: &str, array: &Array| {
        tensors.replace_with(|so_far| std::mem::take(so_far).f32(name, array));
        Ok::<_, regard::Error>(())
    };
    let integers = |name: &str, array: &Array<u32>| {
        tensors.replace_with(|so_far| {
            let so_far = std::mem::take(so_far);
            match name {
                "mask" => so_far.bool(name, Dtype::BOOL, array),
                "block_mask" => so_far.bool(name, Dtype::U8, array),
                "block_table" => {
                    let bytes = array.data().iter().flat_map(|&x| (x as i32).to_le_bytes()).collect();
                    so_far.add(name, Dtype::I32, array.shape(), bytes)
                }
                _ => so_far.i64(name, &array.data().iter().map(|&x| x.into()).collect::<Vec<_>>()),
            }
        });
        Ok(())
    };
    inputs.try_map(numbers, integers).unwrap();
    tensors.into_inner()
}

pub(super) fn whole(values: &[u32]) -> Array<u32> {
    Array::new(&[values.len()], values.to_vec()).unwrap()
}

fn bits(shape: &[usize]) -> Array<u32> {
    numbers(shape, 9).map(|&x| u32::from(x > -0.3))
}

/// Non-negative and 1 in every row of keys: an alignment.
fn alignment(shape: [usize; 4]) -> Array {
    let raw = numbers(&shape, 21).map(|x| x.abs());
    let sums: Vec<f32> = raw.data().chunks(shape[3]).map(|row| row.iter().sum()).collect();
    Array::from_fn(&shape, |k| raw.data()[k] / sums[k / shape[3]])
}

fn cases() -> Vec<Case> {
    let case = |args, options, change: &dyn Fn(&mut AttentionInputs<Array>)| {
        let mut inputs = inputs();
        change(&mut inputs);
        Case { args, options, inputs }
    };
    let plain = Attention::default;
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
            &|i| i.kv_lengths = Some(Array::new(&[2], vec![7, 3]).unwrap()),
        ),
        case("--causal --present", Attention { causal: Some(Causal::TopLeft), ..plain() }, &|i| {
            i.past = Some(Past { key: numbers(&[2, 2, 3, 8], 6), value: numbers(&[2, 2, 3, 6], 7) });
        }),
        case("--lse", Attention { lse: true, ..plain() }, &|i| {
            i.alibi_slopes = Some(numbers(&[4], 8));
            i.sinks = Some(numbers(&[4], 9));
        }),
        case("--causal --lse", Attention { causal: Some(Causal::TopLeft), lse: true, ..plain() }, &|i| {
            i.alibi_slopes = Some(numbers(&[2, 4], 8));
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
        case("--score additive --scale 0.5", Attention { score: Score::Additive, scale: Some(0.5), ..plain() }, &|i| {
            i.score.v = Some(numbers(&[8], 12));
            i.score.g = Some(Array::filled(&[1], 2.0));
        }),
        case("--score location --weights", Attention { score: Score::Location, weights: true, ..plain() }, &|i| {
            i.score.query_weight = Some(numbers(&[9, 8], 10));
            i.score.key_weight = Some(numbers(&[9, 8], 11));
            i.score.v = Some(numbers(&[9], 12));
            i.score.location_filter = Some(numbers(&[2, 3], 13));
            i.score.location_weight = Some(numbers(&[9, 2], 14));
            i.previous = Some(alignment([2, 4, 5, 7]));
        }),
        case(
            "--temperature 0.5 --entropy --lse --window 1,0,2",
            Attention {
                temperature: Some(0.5),
                entropy: true,
                lse: true,
                window: Some(Window { sink_tokens: 2, ..Window::new(Some(1), Some(0)) }),
                ..plain()
            },
            &|i| i.mask = Some(Mask::Bool(bits(&[5, 7]))),
        ),
        case(
            "--causal=bottom-right --weights --entropy",
            Attention { causal: Some(Causal::BottomRight), weights: true, entropy: true, ..plain() },
            &|i| {
                i.query_lengths = Some(whole(&[5, 2]));
                i.kv_lengths = Some(whole(&[3, 7]));
            },
        ),
        case("--block-size 2,3 --weights", Attention { weights: true, ..plain() }, &|i| {
            i.block_mask = Some(BlockMask { mask: bits(&[1, 4, 3, 3]), size: [2, 3] });
        }),
        case(
            "--rotary half-split --rotary-base 500 --rotary-width 4 --rotary-offset 3 --causal --present",
            Attention { causal: Some(Causal::TopLeft), ..plain() },
            &|i| {
                i.past = Some(Past { key: numbers(&[2, 2, 3, 8], 6), value: numbers(&[2, 2, 3, 6], 7) });
                let options = Rotary { layout: RotaryLayout::HalfSplit, offset: 3 };
                i.rotary = Some(RotaryEmbedding::new(options, Rotary::tables(500.0, 4, 13).unwrap()));
            },
        ),
        case("--rotary interleaved --scores raw", Attention { scores: Some(ScoreStage::Raw), ..plain() }, &|i| {
            let options = Rotary { layout: RotaryLayout::Interleaved, offset: 0 };
            i.rotary = Some(RotaryEmbedding::new(options, [numbers(&[9, 4], 30), numbers(&[9, 4], 31)]));
        }),
        case(
            "--normalize monotonic --weights",
            Attention { normalize: Normalize::Monotonic(Monotonic::Parallel), weights: true, ..plain() },
            &|i| i.previous = Some(alignment([2, 4, 1, 7])),
        ),
        case(
            "--normalize monotonic-recursive --weights --entropy",
            Attention {
                normalize: Normalize::Monotonic(Monotonic::Recursive),
                weights: true,
                entropy: true,
                ..plain()
            },
            &|i| i.kv_lengths = Some(whole(&[6, 4])),
        ),
        case(
            "--normalize monotonic-hard --weights",
            Attention { normalize: Normalize::Monotonic(Monotonic::Hard), weights: true, ..plain() },
            &|_| (),
        ),
        // Sequences of 2, 0 and 4 queries and 3, 1 and 5 keys.
        case("--causal --lse", Attention { causal: Some(Causal::TopLeft), lse: true, ..plain() }, &|i| {
            *i = AttentionInputs::new(numbers(&[1, 4, 6, 8], 1), numbers(&[1, 2, 9, 8], 2), numbers(&[1, 2, 9, 6], 3));
            i.cu_seqlens = Some(CuSeqlens { q: whole(&[0, 2, 2, 6]), k: whole(&[0, 3, 4, 9]) });
        }),
        // Pages of 3 keys; unused entries of the table are of any kind.
        case("--causal --weights", Attention { causal: Some(Causal::TopLeft), weights: true, ..plain() }, &|i| {
            i.key = numbers(&[5, 2, 3, 8], 2);
            i.value = numbers(&[5, 2, 3, 6], 3);
            i.block_table = Some(Array::new(&[2, 3], vec![4, 1, 0, 2, 3, 0]).unwrap());
            i.kv_lengths = Some(whole(&[8, 5]));
        }),
    ]
}

/// Every result of a case that is in the file, against the reference.
fn check(case: &Case, folder: &Folder) {
    let oracle = reference::attention(&case.options, &case.inputs.map_numbers(|a| a.map(|&x| f64::from(x)))).unwrap();
    let baseline = reference::attention(&case.options, &case.inputs).unwrap();
    let out = folder.load("out.safetensors");
    for ((name, oracle), (_, baseline)) in oracle.named().zip(baseline.named()) {
        judge(case.args, name, &out, oracle, baseline);
    }
    let names: Vec<_> = out.names().collect();
    assert_eq!(names.len(), oracle.named().count(), "{}: {names:?}", case.args);
}

#[test]
fn every_option_agrees_with_the_reference_on_both_devices() {
    let folder = Folder::new();
    for case in some(cases(), 4) {
        let mut tensors = file(&case.inputs);
        if case.args.contains("--rotary-base") {
            tensors.0.retain(|(name, ..)| !name.starts_with("rotary_"));
        }
        folder.tensors("in.safetensors", &tensors);
        for device in DEVICES {
            // The CPU has no paths to choose among.
            let args = if device == "cpu" { case.args.replace("--path staged", "") } else { case.args.to_owned() };
            let line = format!("attend in.safetensors -o out.safetensors --device {device} {args}");
            let ran = folder.run(&line).ok();
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{line}");
            check(&case, &folder);
            std::fs::remove_file(folder.path("out.safetensors")).unwrap();
        }
        let ran = folder.run(&format!("attend in.safetensors --check --device gpu {}", case.args)).ok();
        assert!(ran.stdout.lines().skip(1).all(|line| line.ends_with("pass")), "{}: {}", case.args, ran.stdout);
    }
}

/// A mean of nothing is judged by the size of what it is made of, and sums that leave f32 on the way are none.
#[test]
fn a_check_passes_where_values_cancel_and_where_their_sum_is_large() {
    let folder = Folder::new();
    for (name, value) in [("cancel", [1.0f32, -1.0]), ("large", [3e38, 3.1e38])] {
        let zeros = Array::filled(&[1, 1, 200, 8], 0.0);
        let value = Array::from_fn(&[1, 1, 200, 8], |k| value[k / 8 % 2] * (1.0 + (k % 5) as f32 * 1e-3));
        let query = Array::filled(&[1, 1, 3, 8], 0.0);
        folder.tensors(&format!("{name}.safetensors"), &file(&AttentionInputs::new(query, zeros, value)));
        for (device, path) in [("cpu", ""), ("gpu", ""), ("gpu", "--path fused"), ("gpu", "--path split")] {
            let ran = folder.run(&format!("attend {name}.safetensors --check --device {device} {path}")).ok();
            assert_eq!(ran.stdout.matches("pass").count(), 1, "{name} {device} {path}: {}", ran.stdout);
        }
    }
}

/// Scores of 10^8 and 10^8 + 1 are one in f32: being as exact as that is no pass.
#[test]
fn a_check_says_where_f32_itself_is_far_off() {
    let folder = Folder::new();
    let key = Array::from_fn(&[1, 1, 6, 2], |k| if k % 2 == 0 { 1e4 } else { (k / 2 % 2) as f32 });
    let value = Array::from_fn(&[1, 1, 6, 3], |k| (k / 3 % 2) as f32);
    let inputs = AttentionInputs::new(Array::new(&[1, 1, 1, 2], vec![1e4, 1.0]).unwrap(), key, value);
    folder.tensors("in.safetensors", &file(&inputs));
    for device in DEVICES {
        let line = format!("attend in.safetensors --scale 1 --check --device {device}");
        let ran = folder.run(&line).ok();
        assert!(!ran.stdout.contains("pass"), "{}", ran.stdout);
        // 1/2 in place of e / (1 + e) = 0.731
        assert!(ran.stdout.contains("f32 arithmetic itself is off by 2.3e-1 (relative)"), "{}", ran.stdout);
        let check = folder.run(&format!("{line} --json")).ok().json()["check"].clone();
        assert!(check["passed"].is_null() && check["outputs"]["output"]["passed"].is_null(), "{check}");
        assert!(check["outputs"]["output"]["baseline_relative_error"].as_f64().unwrap() > 0.2, "{check}");
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

pub(super) fn close(got: &Array, want: &Array) {
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
    let score_mod = Some(ScoreMod::new(wgsl, Some(function)));
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
    refused(
        "attend in.safetensors -o out.safetensors --score-wgsl mod.wgsl --device gpu",
        "line 2, column 12: return scor *",
    );
    folder.write("mod.wgsl", "fn other() {}");
    refused("attend in.safetensors -o out.safetensors --score-wgsl mod.wgsl --device cpu", "fn score_mod(score: f32");
}

#[test]
fn explain_tells_plan_and_times_and_json_has_all_of_it() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &file(&inputs()));
    let ran = folder.run("attend in.safetensors --explain --check --device gpu").ok();
    for wanted in ["fused", "lanes", "from the table"] {
        assert!(ran.stderr.contains(wanted), "no {wanted} in\n{}", ran.stderr);
    }
    let ran = folder.run("attend in.safetensors --explain --check --device gpu --path staged").ok();
    for wanted in ["staged", "floor", "bound by", "score elem=f32", "softmax", "weighted_sum", "workgroups", "time"] {
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
        let bound = &json["explain"]["bound"];
        let share = |part: &str| bound["parts"][part]["share"].as_f64().unwrap_or(0.0);
        let shares = ["multiply_adds", "workgroup_memory", "memory", "launches"].map(share);
        assert!((shares.iter().sum::<f64>() - if device == "gpu" { 1.0 } else { 0.0 }).abs() < 1e-9, "{bound}");
        assert_eq!(bound["limit"].is_string(), device == "gpu", "{bound}");
        // Nothing dispatched takes no time, neither 0 nor its negative.
        assert!(device == "gpu" || json["explain"]["nanoseconds"].is_null(), "{}", json["explain"]);
        assert_eq!(folder.load("out.safetensors").dtype("output").as_deref(), Some("BF16"));
    }
}

/// Keys and values in 8 bits: what is written is attention over what they hold, and the check says what they cost.
#[test]
fn an_8_bit_cache_is_judged_by_what_it_holds() {
    let folder = Folder::new();
    let blocks =
        AttentionInputs::new(numbers(&[2, 4, 5, 64], 1), numbers(&[2, 2, 40, 64], 2), numbers(&[2, 2, 40, 32], 3));
    folder.tensors("in.safetensors", &file(&blocks));
    let held = |array: &Array| baseline::stored("test", array, DType::Q8).unwrap();
    let rounded = AttentionInputs { key: held(&blocks.key), value: held(&blocks.value), ..blocks.clone() };
    let output = |inputs| reference::attention(&Attention::default(), inputs).unwrap().output;
    let (want, exact) = (output(&rounded), output(&blocks));
    for device in DEVICES {
        let line = format!("attend in.safetensors -o out.safetensors --cache-dtype q8 --check --device {device}");
        let json = folder.run(&format!("{line} --json --explain")).ok().json();
        assert_eq!(json["check"]["passed"], true);
        let error = json["check"]["cache_error"].as_f64().unwrap();
        let found = want.data().iter().zip(exact.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!((error / f64::from(found) - 1.0).abs() < 1e-3 && 1e-5 < error && error < 1e-2, "{error} {found}");
        close(&folder.load("out.safetensors").get("output").unwrap(), &want);
        let ran = folder.run(&line).ok();
        assert!(ran.stdout.contains("q8 cache"), "{}", ran.stdout);
        assert!(!folder.run(&line.replace("--cache-dtype q8", "")).ok().stdout.contains("q8"));
    }
    folder.tensors("in.safetensors", &file(&inputs()));
    for device in DEVICES {
        let ran = folder.run(&format!("attend in.safetensors -o out.safetensors --cache-dtype q8 --device {device}"));
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert_eq!(ran.refusal().0, "`key` axis 3: expected a multiple of 32 as q8, found 8");
    }
}

#[test]
fn features_are_left_alone_or_taken_as_asked() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &file(&inputs()));
    let run = |options: &str| folder.run(&format!("attend in.safetensors --check --device gpu {options}"));
    for options in
        ["--cooperative", "--without subgroups", "--without f16,subgroups", "--cooperative --without cooperative"]
    {
        run(options).ok();
    }
    // Half precision is there unless it is switched off; matrices of it may be asked for anywhere.
    if run("--dtype f16").status == 0 {
        run("--dtype f16 --cooperative").ok();
        run("--dtype f16 --without subgroups").ok();
        let ran = run("--dtype f16 --without f16");
        assert!(ran.status == 1 && ran.stderr.contains("f16"), "{} {}", ran.status, ran.stderr);
    }
    assert_eq!(run("--without nothing").status, 2);
}

#[test]
fn every_path_gives_the_answer_or_says_why_it_cannot() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &file(&inputs()));
    let run = |options: &str| folder.run(&format!("attend in.safetensors --check --device gpu {options}"));
    for path in ["auto", "staged", "fused", "split"] {
        run(&format!("--path {path} --causal --lse")).ok();
    }
    for path in ["fused", "split"] {
        for (options, reason) in [("--weights", "the weights"), ("--normalize sparsemax", "only softmax")] {
            let ran = run(&format!("--path {path} {options}"));
            let (error, hint) = ran.refusal();
            let wanted = format!("option `path`: `{path}` cannot run this: {reason}");
            assert!(ran.status == 2 && error.starts_with(&wanted), "{}", ran.stderr);
            assert!(hint.unwrap().contains("`--path staged`"), "{}", ran.stderr);
        }
    }
    // Left to itself the planner takes the staged path, and says so.
    let ran = run("--explain --weights").ok();
    assert!(ran.stderr.contains("staged") && ran.stderr.contains("the weights are asked for"), "{}", ran.stderr);
}
