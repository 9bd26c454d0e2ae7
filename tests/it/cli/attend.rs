//! `regard attend` against the reference.

use regard::attention::{
    Attention, AttentionInputs, Causal, Mask, Monotonic, Normalize, Rotary, RotaryLayout, Score, ScoreFn, ScoreMod,
    ScoreStage, Window,
};
use regard::problem::Role;
use regard::reference;
use regard::tensor::{Array, Layout};
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
            tensors = match (Role::of(name, is_bool), name) {
                (Role::Integer, "mask") => so_far.bool(name, Dtype::BOOL, array),
                (Role::Integer, "block_mask") => so_far.bool(name, Dtype::U8, array),
                (Role::Integer, "block_table") => {
                    let bytes = array.data().iter().flat_map(|&x| (x as i32).to_le_bytes()).collect();
                    so_far.add(name, Dtype::I32, array.shape(), bytes)
                }
                (Role::Integer, _) => so_far.i64(name, &array.data().iter().map(|&x| x as i64).collect::<Vec<_>>()),
                _ => so_far.f32(name, array),
            };
            Ok::<_, regard::Error>(())
        })
        .unwrap();
    tensors
}

fn whole(values: &[u32]) -> Array {
    Array::new(&[values.len()], values.iter().map(|&x| x as f32).collect()).unwrap()
}

fn bits(shape: &[usize]) -> Array {
    numbers(shape, 9).map(|&x| if x > -0.3 { 1.0 } else { 0.0 })
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
        case("--score additive --scale 0.5", Attention { score: Score::Additive, scale: Some(0.5), ..plain() }, &|i| {
            i.score.v = Some(numbers(&[8], 12));
            i.score.g = Some(whole(&[2]));
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
        case("--block-size 2,3 --weights", Attention { block_size: Some([2, 3]), weights: true, ..plain() }, &|i| {
            i.block_mask = Some(bits(&[1, 4, 3, 3]));
        }),
        case(
            "--rotary half-split --rotary-base 500 --rotary-width 4 --rotary-offset 3 --causal --present",
            Attention {
                rotary: Some(Rotary { layout: RotaryLayout::HalfSplit, offset: 3 }),
                causal: Some(Causal::TopLeft),
                ..plain()
            },
            &|i| {
                i.past_key = Some(numbers(&[2, 2, 3, 8], 6));
                i.past_value = Some(numbers(&[2, 2, 3, 6], 7));
                let [cos, sin] = Rotary::tables(500.0, 4, 13).unwrap();
                (i.rotary_cos, i.rotary_sin) = (Some(cos), Some(sin));
            },
        ),
        case(
            "--rotary interleaved --scores raw",
            Attention {
                rotary: Some(Rotary { layout: RotaryLayout::Interleaved, offset: 0 }),
                scores: Some(ScoreStage::Raw),
                ..plain()
            },
            &|i| {
                (i.rotary_cos, i.rotary_sin) = (Some(numbers(&[9, 4], 30)), Some(numbers(&[9, 4], 31)));
            },
        ),
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
            i.cu_seqlens_q = Some(whole(&[0, 2, 2, 6]));
            i.cu_seqlens_k = Some(whole(&[0, 3, 4, 9]));
        }),
        // Pages of 3 keys; unused entries of the table are of any kind.
        case("--causal --weights", Attention { causal: Some(Causal::TopLeft), weights: true, ..plain() }, &|i| {
            i.key = numbers(&[5, 2, 3, 8], 2);
            i.value = numbers(&[5, 2, 3, 6], 3);
            i.block_table = Some(Array::new(&[2, 3], vec![4.0, 1.0, 0.0, 2.0, 3.0, 0.0]).unwrap());
            i.kv_lengths = Some(whole(&[8, 5]));
        }),
    ]
}

/// Every result of a case that is in the file, against the reference.
fn check(case: &Case, folder: &Folder) {
    let oracle = reference::attention(&case.options, &case.inputs.map(|a| a.map(|&x| f64::from(x)))).unwrap();
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
    for case in cases() {
        let mut tensors = file(&case.inputs);
        if case.args.contains("--rotary-base") {
            tensors.0.retain(|(name, ..)| !name.starts_with("rotary_"));
        }
        folder.tensors("in.safetensors", &tensors);
        for device in DEVICES {
            let line = format!("attend in.safetensors -o out.safetensors --device {device} {}", case.args);
            let ran = folder.run(&line).ok();
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{line}");
            check(&case, &folder);
            std::fs::remove_file(folder.path("out.safetensors")).unwrap();
        }
        let ran = folder.run(&format!("attend in.safetensors --check --device gpu {}", case.args)).ok();
        assert!(ran.stdout.lines().skip(1).all(|line| line.ends_with("pass")), "{}: {}", case.args, ran.stdout);
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

/// flash_attn_varlen_func's shapes, one head's, and one row of heads: the same numbers.
#[test]
fn ragged_sequences_come_in_every_rank() {
    let folder = Folder::new();
    let [q, k, v] = [(6, 4, 8, 1), (9, 2, 8, 2), (9, 2, 6, 3)].map(|(t, h, d, seed)| numbers(&[t, h, d], seed));
    let apart = |x: &Array| {
        let &[t, h, d] = x.shape() else { panic!() };
        x.permute(&[1, 0, 2]).unwrap().reshape(&[1, h, t, d]).unwrap()
    };
    let mut inputs = AttentionInputs::new(apart(&q), apart(&k), apart(&v));
    let (ends_q, ends_k) = ([0, 2, 6], [0, 5, 9]);
    inputs.cu_seqlens_q = Some(whole(&ends_q.map(|x| x as u32)));
    inputs.cu_seqlens_k = Some(whole(&ends_k.map(|x| x as u32)));
    let options = Attention { causal: Some(Causal::BottomRight), ..Attention::default() };
    let want = reference::attention(&options, &inputs).unwrap().output;
    let joined = |x: &Array| {
        let &[t, h, d] = x.shape() else { panic!() };
        x.clone().reshape(&[1, t, h * d]).unwrap()
    };
    let packed: fn(&Array) -> Array = Array::clone;
    for (args, form, shape) in [
        ("", packed, &[6, 4, 6][..]),
        ("--kv-heads 2", packed, &[6, 4, 6]),
        ("--q-heads 4 --kv-heads 2", joined, &[1, 6, 24]),
        ("", apart, &[1, 4, 6, 6]),
    ] {
        let tensors = Tensors::default().f32("query", &form(&q)).f32("key", &form(&k)).f32("value", &form(&v));
        folder.tensors("in.safetensors", &tensors.i64("cu_seqlens_q", &ends_q).i64("cu_seqlens_k", &ends_k));
        for device in DEVICES {
            let line = "attend in.safetensors -o out.safetensors --causal bottom-right";
            folder.run(&format!("{line} --device {device} {args}")).ok();
            let got = folder.load("out.safetensors").get("output").unwrap();
            assert_eq!(got.shape(), shape);
            let got = match shape {
                [_, _, _, _] => got,
                [t, _, _] if *t > 1 => apart(&got),
                _ => apart(&got.reshape(&[6, 4, 6]).unwrap()),
            };
            close(&got, &want);
        }
    }
}

/// w · Σ tanh(c · (q + k)) by hand.
#[test]
fn keras_concat_is_two_numbers() {
    let folder = Folder::new();
    let (q, k, v) = (numbers(&[3, 4], 1), numbers(&[5, 4], 2), numbers(&[5, 2], 3));
    let (c, w) = (0.7_f32, 1.5_f32);
    let mut want = Vec::new();
    for i in 0..3 {
        let score =
            |j: usize| w * (0..4).map(|d| (c * (q.data()[i * 4 + d] + k.data()[j * 4 + d])).tanh()).sum::<f32>();
        let e: Vec<f32> = (0..5).map(|j| score(j).exp()).collect();
        let sum: f32 = e.iter().sum();
        want.extend((0..2).map(|d| (0..5).map(|j| e[j] / sum * v.data()[j * 2 + d]).sum::<f32>()));
    }
    let want = Array::new(&[3, 2], want).unwrap();
    let scalar = |x: f32| Array::new(&[], vec![x]).unwrap();
    let tensors = Tensors::default().f32("query", &q).f32("key", &k).f32("value", &v);
    let tensors = tensors.f32("score.scale", &scalar(c)).f32("score.concat_score_weight", &scalar(w));
    folder.tensors("in.safetensors", &tensors);
    for device in DEVICES {
        folder.run(&format!("attend in.safetensors -o out.safetensors --score keras-concat --device {device}")).ok();
        close(&folder.load("out.safetensors").get("output").unwrap(), &want);
    }
}

#[test]
fn parts_of_the_keys_merge_to_all_of_them() {
    let folder = Folder::new();
    let all = inputs();
    let part = |first: usize, count: usize| {
        let keys = |a: &Array| a.gather(&Layout::contiguous(a.shape()).narrow(2, first, count).unwrap()).unwrap();
        AttentionInputs::new(all.query.clone(), keys(&all.key), keys(&all.value))
    };
    folder.tensors("all.safetensors", &file(&all));
    for (name, first, count) in [("a", 0, 3), ("b", 3, 1), ("c", 4, 3)] {
        folder.tensors(&format!("{name}.safetensors"), &file(&part(first, count)));
        folder.run(&format!("attend {name}.safetensors -o {name}.out.safetensors --lse --device cpu")).ok();
    }
    // A part that sees nothing.
    let mut none = part(0, 2);
    none.kv_lengths = Some(whole(&[0, 0]));
    folder.tensors("d.safetensors", &file(&none));
    folder.run("attend d.safetensors -o d.out.safetensors --lse --device cpu").ok();
    let want = reference::attention(&Attention { lse: true, ..Attention::default() }, &all).unwrap();
    let parts = "a.out.safetensors c.out.safetensors d.out.safetensors b.out.safetensors";
    for device in DEVICES {
        let ran = folder.run(&format!("merge {parts} -o out.safetensors --check --device {device}")).ok();
        assert_eq!(ran.stdout.matches("pass").count(), 2, "{}", ran.stdout);
        let out = folder.load("out.safetensors");
        close(&out.get("output").unwrap(), &want.output);
        close(&out.get("lse").unwrap(), want.lse.as_ref().unwrap());
        let ran = folder.run(&format!("merge {parts} -o out.safetensors --json --output-dtype f16 --device {device}"));
        assert_eq!(ran.ok().json()["outputs"]["lse"], json!({ "shape": [2, 4, 5], "dtype": "F16" }));
    }
    let ran = folder.run("merge a.out.safetensors -o out.safetensors --device cpu");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    let ran = folder.run("merge a.out.safetensors all.safetensors -o out.safetensors --device cpu");
    assert!(ran.status == 2 && ran.refusal().0.starts_with("`output`: expected"), "{}", ran.stderr);
}

/// NaN, infinities and huge numbers where nothing may look: hidden keys and values, padding, other pages.
#[test]
fn poison_never_reaches_an_output() {
    let folder = Folder::new();
    let poison = |mut array: Array, at: &dyn Fn(usize) -> bool| {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30];
        (0..array.data().len()).filter(|&k| at(k)).for_each(|k| array.data_mut()[k] = bad[k % 4]);
        array
    };
    let clean = inputs();
    let row = |k: usize, dim: usize| (k / dim % 7, k / dim / 14);
    let mut masked = clean.clone();
    masked.mask = Some(Mask::Bool(Array::from_fn(&[7], |j| if j == 2 { 0.0 } else { 1.0 })));
    let lengths = |mut i: AttentionInputs<Array>| {
        i.kv_lengths = Some(whole(&[5, 7]));
        i
    };
    let mut pages =
        AttentionInputs::new(numbers(&[2, 4, 5, 8], 1), numbers(&[4, 2, 3, 8], 2), numbers(&[4, 2, 3, 6], 3));
    pages.block_table = Some(Array::new(&[2, 2], vec![0.0, 1.0, 3.0, -1.0]).unwrap());
    let pages = AttentionInputs { kv_lengths: Some(whole(&[6, 2])), ..pages };
    let of_pages = |k: usize, dim: usize| k / (6 * dim) == 2 || (k / (6 * dim) == 3 && k / dim % 3 == 2);
    for (what, inputs, hidden) in [
        ("mask", masked, &(|k: usize, dim: usize| row(k, dim).0 == 2) as &dyn Fn(usize, usize) -> bool),
        ("lengths", lengths(clean.clone()), &|k, dim| row(k, dim).0 >= 5 && row(k, dim).1 == 0),
        ("pages", pages, &of_pages),
    ] {
        let with = AttentionInputs {
            key: poison(inputs.key.clone(), &|k| hidden(k, 8)),
            value: poison(inputs.value.clone(), &|k| hidden(k, 6)),
            ..inputs.clone()
        };
        folder.tensors("clean.safetensors", &file(&inputs));
        folder.tensors("in.safetensors", &file(&with));
        for device in DEVICES {
            let args = format!("-o out.safetensors --weights --lse --entropy --scores masked --device {device}");
            let results = |name: &str| -> Vec<Array> {
                folder.run(&format!("attend {name} {args}")).ok();
                let out = folder.load("out.safetensors");
                out.names().map(|name| out.get(name).unwrap()).collect()
            };
            assert_eq!(results("in.safetensors"), results("clean.safetensors"), "{what} on {device}");
        }
    }
}

#[test]
fn half_and_bfloat_files_are_read_and_written() {
    let folder = Folder::new();
    let four = inputs().map(|a| a.map(|&x| half::bf16::from_f32(x).to_f32()));
    let bf16 = |a: &Array| a.data().iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect::<Vec<_>>();
    let tensors = Tensors::default()
        .add("query", Dtype::BF16, four.query.shape(), bf16(&four.query))
        .add("key", Dtype::BF16, four.key.shape(), bf16(&four.key))
        .f64("value", &four.value);
    folder.tensors("in.safetensors", &tensors);
    let want = reference::attention(&Attention::default(), &four).unwrap().output;
    for (dtype, rounding) in [("f32", 0.0), ("f64", 0.0), ("f16", 1e-3), ("bf16", 8e-3)] {
        folder.run(&format!("attend in.safetensors -o out.safetensors --output-dtype {dtype} --device cpu")).ok();
        let out = folder.load("out.safetensors");
        assert_eq!(out.dtype("output").unwrap(), dtype.to_uppercase());
        let got = out.get("output").unwrap();
        regard::compare::close("output", &got, &want, rounding + 1e-6, 1e-6).unwrap().check(dtype).unwrap();
    }
}

/// Without a past, what is new is present, turned where keys are turned.
#[test]
fn present_is_there_without_a_past() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &file(&inputs()));
    for device in DEVICES {
        folder.run(&format!("attend in.safetensors -o out.safetensors --present --device {device}")).ok();
        let out = folder.load("out.safetensors");
        assert_eq!(out.get("present_key").unwrap(), inputs().key);
        assert_eq!(out.get("present_value").unwrap(), inputs().value);
        let line = "attend in.safetensors -o out.safetensors --present --rotary half-split --check";
        let ran = folder.run(&format!("{line} --device {device}")).ok();
        assert!(ran.stdout.contains("present_key"), "{}", ran.stdout);
        let turned = folder.load("out.safetensors").get("present_key").unwrap();
        assert_eq!(turned.data()[..8], inputs().key.data()[..8], "position 0 stays");
        assert_ne!(turned.data()[8..16], inputs().key.data()[8..16]);
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
    assert!(!svg.contains(">hidden<") && svg.contains(">attention weight<"), "{svg}");

    // Causal rows hide keys; labels stand at the first panels alone; a key that is seen and gets nothing is not hidden.
    folder.write("queries.txt", "zero\none\r\ntwo\nthree\nfour\n");
    let labels = "--query-labels queries.txt --shades sqrt";
    folder.run(&format!("attend in.safetensors --heatmap weights.png --causal {labels} --device cpu")).ok();
    let svg = std::fs::read_to_string(folder.path("weights.svg")).unwrap();
    assert!(svg.contains(">hidden<") && svg.contains("url(#hidden)") && svg.contains("square-root"), "{svg}");
    assert_eq!(svg.matches(">three<").count(), 2, "two rows of panels: {svg}");
    folder.run("attend in.safetensors --heatmap weights.png --normalize hardmax --device cpu").ok();
    assert!(!std::fs::read_to_string(folder.path("weights.svg")).unwrap().contains("url(#hidden)"));
    for (args, error) in [
        ("--heatmap weights.png --key-labels queries.txt", "queries.txt: expected 7 labels, one a line, found 5"),
        ("--check --key-labels queries.txt", "option `key-labels`: belongs to a picture: add `--heatmap FILE.png`"),
        ("--check --shades sqrt", "option `shades`: belongs to a picture"),
    ] {
        let ran = folder.run(&format!("attend in.safetensors {args} --device cpu"));
        assert!(ran.status == 2 && ran.refusal().0.starts_with(error), "{}", ran.stderr);
    }
}
