//! What `regard attend` reads and writes: ranks, ragged batches, element types, parts, pictures; and what it never reads.

use regard::attention::{Attention, AttentionInputs, Causal, CuSeqlens, Mask};
use regard::tensor::{Array, Layout};
use regard::{compare, reference};
use safetensors::Dtype;
use serde_json::json;

use super::attend::{close, file, inputs, whole};
use super::{DEVICES, Folder, Tensors, numbers};

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
    let mask = numbers(&[5, 7], 4).map(|&x| u32::from(x > 0.0));
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
    let ends = |ends: [i64; 3]| whole(&ends.map(|x| x as u32));
    inputs.cu_seqlens = Some(CuSeqlens { q: ends(ends_q), k: ends(ends_k) });
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

/// By largest score and sum, which scores of any size leave exact; by log-sum-exp there is a note.
#[test]
fn parts_with_large_scores_merge_by_largest_score_and_sum() {
    let folder = Folder::new();
    let mut all = inputs();
    all.query.data_mut().fill(0.0);
    let part = |first: usize, count: usize| {
        let keys = |a: &Array| a.gather(&Layout::contiguous(a.shape()).narrow(2, first, count).unwrap()).unwrap();
        let mut part = AttentionInputs::new(all.query.clone(), keys(&all.key), keys(&all.value));
        part.mask = Some(Mask::Float(Array::filled(&[1], -1e9)));
        part
    };
    for (name, first, count) in [("a", 0, 6), ("b", 6, 1)] {
        folder.tensors(&format!("{name}.safetensors"), &file(&part(first, count)));
        let line = format!("attend {name}.safetensors -o {name}.out.safetensors --device cpu");
        folder.run(&format!("{line} --max-sum")).ok();
        folder.run(&format!("attend {name}.safetensors -o {name}.lse.safetensors --lse --device cpu")).ok();
    }
    // All scores are the same.
    let want = reference::attention(&Attention::default(), &all).unwrap().output;
    for device in DEVICES {
        let line = format!("merge a.out.safetensors b.out.safetensors -o out.safetensors --check --device {device}");
        let ran = folder.run(&line).ok();
        assert!(
            ran.stdout.matches("pass").count() == 2 && !ran.stderr.contains("note:"),
            "{}{}",
            ran.stdout,
            ran.stderr
        );
        let out = folder.load("out.safetensors");
        close(&out.get("output").unwrap(), &want);
        let pairs = out.get("max_sum").unwrap();
        assert_eq!(pairs.shape(), [2, 4, 5, 2]);
        assert!(pairs.data().chunks(2).all(|pair| pair == [-1e9, 7.0]), "{pairs:?}");
        let line = format!("merge a.lse.safetensors b.lse.safetensors -o out.safetensors --device {device}");
        let ran = folder.run(&line).ok();
        let notes: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("note: `lse` in ")).collect();
        assert!(notes.len() == 2 && notes[0].contains("a.lse.safetensors"), "{}", ran.stderr);
        let output = folder.load("out.safetensors").get("output").unwrap();
        assert!(compare::close("output", &output, &want, 1e-2, 1e-2).unwrap().error > 1.0);
    }
    // One of each: b's log-sum-exp is that of a single key, exact.
    folder.run("merge a.out.safetensors b.lse.safetensors -o out.safetensors --device cpu").ok();
    let out = folder.load("out.safetensors");
    close(&out.get("output").unwrap(), &want);
    assert!(out.get("max_sum").unwrap().data().chunks(2).all(|pair| pair == [-1e9, 7.0]));
    // A sum is never below 0.
    let mut bad = folder.load("a.out.safetensors").get("max_sum").unwrap();
    bad.data_mut()[1] = -1.0;
    let output = folder.load("a.out.safetensors").get("output").unwrap();
    folder.tensors("bad.safetensors", &Tensors::default().f32("output", &output).f32("max_sum", &bad));
    let ran = folder.run("merge bad.safetensors b.out.safetensors -o out.safetensors --device cpu");
    assert!(
        ran.status == 2 && ran.refusal().0.starts_with("`max_sum` element 1 (a sum): expected 0 or more"),
        "{}",
        ran.stderr
    );
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
    masked.mask = Some(Mask::Bool(Array::from_fn(&[7], |j| if j == 2 { 0 } else { 1 })));
    let lengths = |mut i: AttentionInputs<Array>| {
        i.kv_lengths = Some(whole(&[5, 7]));
        i
    };
    let mut pages =
        AttentionInputs::new(numbers(&[2, 4, 5, 8], 1), numbers(&[4, 2, 3, 8], 2), numbers(&[4, 2, 3, 6], 3));
    pages.block_table = Some(Array::new(&[2, 2], vec![0, 1, 3, u32::MAX]).unwrap());
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
    let four = inputs().map_numbers(|a| a.map(|&x| half::bf16::from_f32(x).to_f32()));
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
