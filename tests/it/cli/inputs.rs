//! What people's files hold and mean: numbers that no one can compute with, layouts that fit by chance or nearly fit,
//! names behind a prefix, files of other kinds.

use regard::tensor::Array;
use safetensors::Dtype;

use super::{Folder, Tensors, numbers};

/// query, key and value [B, 2, N, 8].
fn attention(batch: usize, queries: usize, keys: usize) -> Tensors {
    let array = |n: usize, seed: u32| numbers(&[batch, 2, n, 8], seed);
    Tensors::default().f32("query", &array(queries, 1)).f32("key", &array(keys, 2)).f32("value", &array(keys, 3))
}

fn with(tensors: Tensors, name: &str, array: &Array) -> Tensors {
    Tensors(tensors.0.into_iter().filter(|(n, ..)| n != name).collect()).f32(name, array)
}

/// Standard error of `regard attend` with these options, which succeeds.
fn told(tensors: &Tensors, args: &str) -> String {
    let folder = Folder::new();
    folder.tensors("in.safetensors", tensors);
    folder.run(&format!("attend in.safetensors -o out.safetensors --device cpu {args}")).ok().stderr
}

/// Numbers with these ones first.
fn first(shape: &[usize], values: &[f32]) -> Array {
    let rest = numbers(shape, 7);
    Array::from_fn(shape, |k| values.get(k).copied().unwrap_or(rest.data()[k]))
}

#[test]
fn infinities_are_told_about_where_they_are_no_mask() {
    let inf = f32::INFINITY;
    let value = first(&[1, 2, 4, 8], &[0.5, inf, -inf, f32::NAN]);
    let stderr = told(&with(attention(1, 4, 4), "value", &value), "");
    assert_eq!(
        stderr,
        "warning: `value` holds NaN: 1 of 64 elements, element 3 first\n\
         warning: `value` holds infinity: 2 of 64 elements, element 1 first\n\
         warning: `output` is infinite: 8 of 64 elements, element 1 first\n"
    );
    let hiding = first(&[4], &[-inf, 0.0, 0.0, -inf]);
    assert_eq!(told(&attention(1, 4, 4).f32("mask", &hiding), ""), "");
    assert_eq!(told(&attention(1, 4, 4).f32("sinks", &first(&[2], &[-inf])), ""), "");
    let wrong = first(&[4], &[-inf, inf, 0.0, 0.0]);
    let stderr = told(&attention(1, 4, 4).f32("mask", &wrong), "");
    assert_eq!(stderr, "warning: `mask` holds +infinity: 1 of 4 elements, element 1 first\n");
}

#[test]
fn numbers_that_a_type_cannot_hold_are_told_about() {
    let huge = |name: &str, x: f64| {
        let bytes = (0..64).flat_map(|k| if k % 32 == 5 { x } else { 0.25 }.to_le_bytes()).collect();
        let others = Tensors(attention(1, 4, 4).0.into_iter().filter(|(n, ..)| n != name).collect());
        others.add(name, Dtype::F64, &[1, 2, 4, 8], bytes)
    };
    let stderr = told(&huge("query", -1e200), "");
    assert_eq!(
        stderr,
        "warning: `query` has numbers beyond f32, read as infinity: 2 of 64 elements, element 5 first\n"
    );
    // f64's own infinity is one, not an overflow.
    let stderr = told(&huge("query", f64::INFINITY), "");
    assert_eq!(stderr, "warning: `query` holds infinity: 2 of 64 elements, element 5 first\n");

    let large = huge("value", 70_000.0);
    assert_eq!(told(&large, ""), "");
    let stderr = told(&large, "--dtype f16");
    let stored = "warning: `value` has numbers beyond f16, stored as infinity: 2 of 64 elements, element 5 first\n";
    assert!(stderr.starts_with(stored), "{stderr}");
    // Every row of the output is a mean of the values: as f16 only the last dimension but two overflows.
    let one_key = Tensors::default()
        .f32("query", &numbers(&[3, 2], 1))
        .f32("key", &numbers(&[1, 2], 2))
        .f32("value", &first(&[1, 4], &[1.0, 1e5, -3.39e38, 3.4e38]));
    assert_eq!(told(&one_key, ""), "");
    let stderr = told(&one_key, "--output-dtype f16");
    assert_eq!(
        stderr,
        "warning: `output` has numbers beyond F16, written as infinity: 9 of 12 elements, element 1 first\n"
    );
    let stderr = told(&one_key, "--output-dtype bf16");
    assert_eq!(
        stderr,
        "warning: `output` has numbers beyond BF16, written as infinity: 3 of 12 elements, element 3 first\n"
    );

    // A block of q8 with an infinity is NaN throughout.
    let blocks = Tensors::default()
        .f32("query", &numbers(&[3, 32], 1))
        .f32("key", &first(&[2, 32], &[f32::INFINITY]))
        .f32("value", &numbers(&[2, 32], 3));
    let stderr = told(&blocks, "--cache-dtype q8");
    assert!(stderr.contains("`key` has numbers beside NaN or infinity, stored as NaN"), "{stderr}");
    assert!(stderr.ends_with("31 of 64 elements, element 1 first\n"), "{stderr}");
}

#[test]
fn every_command_on_tensors_tells() {
    let folder = Folder::new();
    let recurrent = Tensors::default()
        .f32("input", &first(&[2, 1, 3], &[f32::NEG_INFINITY]))
        .f32("weight_ih_l0", &first(&[6, 3], &[70_000.0, f32::NAN]))
        .f32("weight_hh_l0", &numbers(&[6, 2], 2))
        .f32("bias_ih_l0", &first(&[6], &[80_000.0]));
    folder.tensors("in.safetensors", &recurrent);
    let ran = folder.run("encode in.safetensors -o out.safetensors --cell gru --dtype f16 --device cpu").ok();
    assert_eq!(
        ran.stderr,
        "warning: `weight_ih_l0` holds NaN: 1 of 18 elements, element 1 first\n\
         warning: `input` holds infinity: 1 of 6 elements, element 0 first\n\
         warning: `weight_ih_l0` has numbers beyond f16, stored as infinity: 1 of 18 elements, element 0 first\n"
    );
    // Rows that saw no key have an lse of −∞; which of the files has what is said.
    let part = |output: &[f32], lse: &[f32]| {
        Tensors::default().f32("output", &first(&[1, 1, 2, 2], output)).f32("lse", &first(&[1, 1, 2], lse))
    };
    folder.tensors("a.safetensors", &part(&[1e5], &[f32::NEG_INFINITY, 0.0]));
    folder.tensors("b.safetensors", &part(&[1e5, f32::NAN], &[0.0, f32::INFINITY]));
    let ran = folder.run("merge a.safetensors b.safetensors -o m.safetensors --output-dtype f16 --device cpu").ok();
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            "warning: b.safetensors: `output` holds NaN: 1 of 4 elements, element 1 first",
            "warning: b.safetensors: `lse` holds +infinity: 1 of 2 elements, element 1 first",
            "warning: `output` has numbers beyond F16, written as infinity: 1 of 4 elements, element 0 first",
        ]
    );
}

#[test]
fn lengths_of_keys_alone_are_told_about_where_they_move_a_padded_batch() {
    let lengths = |queries, values: &[i64]| attention(2, queries, 6).i64("kv_lengths", values);
    for args in ["--causal", "--causal bottom-right", "--window 1,1", "--rotary half-split"] {
        let what = args.split(' ').next().unwrap();
        let wanted = format!(
            "note: `kv_lengths` without `query_lengths`: for {what} query i stands at key i + length - 6, which is before key \
             i in 1 of 2 batch rows; for a padded batch give `query_lengths` too\n"
        );
        assert_eq!(told(&lengths(6, &[6, 4]), args), wanted);
        let both = lengths(6, &[6, 4]).i64("query_lengths", &[6, 4]);
        assert_eq!(told(&lengths(6, &[6, 4]), "--window -1,-1"), "", "a window open on both sides hides nothing");
        for quiet in [lengths(6, &[6, 6]), lengths(5, &[6, 4]), both] {
            assert_eq!(told(&quiet, args), "", "{args}");
        }
    }
    assert_eq!(told(&lengths(6, &[6, 4]), ""), "");
    // What is said is what is done: query 3 of the second row is at key 1, and sees keys 0 and 1.
    let folder = Folder::new();
    folder.tensors("in.safetensors", &lengths(6, &[6, 4]));
    folder.run("attend in.safetensors -o out.safetensors --weights --causal --device cpu").ok();
    let weights = folder.load("out.safetensors").get("weights").unwrap();
    let row = &weights.data()[(2 * 6 + 3) * 6..][..6];
    assert!(row[0] > 0.0 && row[1] > 0.0 && row[2..] == [0.0; 4], "{row:?}");
}

#[test]
fn masks_of_batch_rows_are_explained() {
    let mask = |shape: &[usize]| Array::filled(shape, 0.0);
    let folder = Folder::new();
    for (shape, axis, wanted) in [
        (&[3, 7][..], "axis 0 (queries): expected 5 or 1, found 3", "[3, 1, 1, 7]"),
        (&[3, 5, 7], "axis 0 (query heads): expected 2 or 1, found 3", "[3, 1, 5, 7]"),
        (&[3, 1, 7], "axis 0 (query heads): expected 2 or 1, found 3", "[3, 1, 1, 7]"),
    ] {
        folder.tensors("in.safetensors", &attention(3, 5, 7).f32("mask", &mask(shape)));
        let ran = folder.run("attend in.safetensors -o out.safetensors --device cpu");
        let (error, hint) = ran.refusal();
        assert_eq!((ran.status, error), (2, format!("`mask` {axis}").as_str()));
        let hint = hint.unwrap();
        assert!(hint.ends_with(&format!("one for each batch row is {wanted}")), "{hint}");
    }
    // Where it fits by chance: the batch has as many rows as there are queries, or heads.
    let note = told(&attention(5, 5, 7).f32("mask", &mask(&[5, 7])), "");
    let wanted = "note: `mask` [5, 7] is read as [Nq, Nk], the same for all batch rows; one for each batch row is [5, 1, 1, 7]\n";
    assert_eq!(note, wanted);
    let note = told(&attention(2, 5, 7).f32("mask", &mask(&[2, 5, 7])), "");
    assert!(note.contains("is read as [Hq, Nq, Nk]") && note.contains("[2, 1, 5, 7]"), "{note}");
    for (batch, shape) in [(3, &[5, 7][..]), (1, &[1, 7]), (3, &[2, 5, 7]), (5, &[5, 1, 5, 7])] {
        assert_eq!(told(&attention(batch, 5, 7).f32("mask", &mask(shape)), ""), "", "{shape:?}");
    }
    let short = told(&attention(3, 5, 7).f32("mask", &mask(&[5, 4])), "");
    assert_eq!(short, "note: `mask` reaches 4 of 7 keys; those behind are hidden\n");
    let past =
        attention(1, 5, 7).f32("past_key", &numbers(&[1, 2, 2, 8], 4)).f32("past_value", &numbers(&[1, 2, 2, 8], 5));
    let short = told(&past.f32("mask", &mask(&[7])), "");
    assert_eq!(short, "note: `mask` reaches 7 of 9 keys, of which the past's come first; those behind are hidden\n");
}

/// [positions, width], each angle twice: side by side, or in both halves.
fn doubled(width: usize, interleaved: bool, f: fn(f32) -> f32) -> Array {
    let pair = |column: usize| if interleaved { column / 2 } else { column % (width / 2) };
    Array::from_fn(&[9, width], |k| f((k / width) as f32 * 0.1 * (1 + pair(k % width)) as f32))
}

#[test]
fn rotary_tables_of_the_full_width_are_explained() {
    let folder = Folder::new();
    let tables = |width, interleaved| {
        let [cos, sin] = [f32::cos, f32::sin].map(|f| doubled(width, interleaved, f));
        attention(1, 5, 7).f32("rotary_cos", &cos).f32("rotary_sin", &sin)
    };
    for (layout, interleaved, columns) in
        [("half-split", false, "the first half of its columns"), ("interleaved", true, "every other column of it")]
    {
        folder.tensors("in.safetensors", &tables(8, interleaved));
        let ran = folder.run(&format!("attend in.safetensors -o out.safetensors --rotary {layout} --device cpu"));
        let (error, hint) = ran.refusal();
        assert_eq!((ran.status, error), (2, "`rotary_cos` axis 1 (width / 2): expected at most 4, found 8"));
        let wanted = format!("a table of the full width holds each number twice: give {columns}, [9, 4]");
        assert_eq!(hint, Some(wanted.as_str()));
        // A part of the head has tables of the full width that fit.
        let note = told(&tables(4, interleaved), &format!("--rotary {layout}"));
        assert!(note.starts_with("note: `rotary_sin` [9, 4] holds every number twice"), "{note}");
        assert!(note.ends_with(&format!("give {columns}, [9, 2]\n")), "{note}");
        assert_eq!(told(&tables(4, !interleaved), &format!("--rotary {layout}")), "");
        assert_eq!(told(&attention(1, 5, 7), &format!("--rotary {layout}")), "");
    }
    // A half is offered where it fits; else what would fit is said.
    let sized = |cos: [usize; 2], sin: [usize; 2]| {
        attention(1, 5, 7).f32("rotary_cos", &Array::filled(&cos, 0.5)).f32("rotary_sin", &Array::filled(&sin, 0.5))
    };
    let cases = [
        ([3, 4], [3, 4], "", "`rotary_cos` axis 0 (positions): expected at least 7, found 3", "[7, 4]"),
        ([3, 8], [3, 8], "", "`rotary_cos` axis 1 (width / 2): expected at most 4, found 8", "[7, 4]"),
        ([9, 16], [9, 16], "", "`rotary_cos` axis 1 (width / 2): expected at most 4, found 16", "[9, 4]"),
        ([9, 7], [9, 7], "", "`rotary_cos` axis 1 (width / 2): expected at most 4, found 7", "[9, 4]"),
        ([9, 2], [9, 4], "", "`rotary_sin` axis 1 (width / 2): expected 2, found 4", "[9, 2]"),
        ([9, 2], [9, 2], "--rotary-offset 4", "`rotary_cos` axis 0 (positions): expected at least 11", "[11, 2]"),
    ];
    for (cos, sin, args, wanted, fits) in cases {
        folder.tensors("in.safetensors", &sized(cos, sin));
        let ran =
            folder.run(&format!("attend in.safetensors -o out.safetensors --rotary half-split --device cpu {args}"));
        let (error, hint) = ran.refusal();
        assert!(ran.status == 2 && error.starts_with(wanted), "{}", ran.stderr);
        let shape = "both tables have a row for each position and a column for each pair of elements";
        assert_eq!(hint, Some(format!("{shape}: {fits} fits").as_str()));
    }
    // What is offered is taken.
    told(&sized([7, 4], [7, 4]), "--rotary half-split");
    told(&sized([11, 2], [11, 2]), "--rotary half-split --rotary-offset 4");
    folder.tensors("in.safetensors", &sized([7, 4], [7, 4]));
    let ran = folder.run("attend in.safetensors -o out.safetensors --device cpu");
    assert!(ran.status == 2 && ran.refusal().1.unwrap().contains("`--rotary half-split`"), "{}", ran.stderr);
    let lifted = |f| doubled(8, false, f).reshape(&[1, 9, 8]).unwrap();
    let three = attention(1, 5, 7).f32("rotary_cos", &lifted(f32::cos)).f32("rotary_sin", &lifted(f32::sin));
    folder.tensors("in.safetensors", &three);
    let ran = folder.run("attend in.safetensors -o out.safetensors --rotary half-split --device cpu");
    let hint = ran.refusal().1.unwrap();
    assert_eq!(hint, "leave out the axis of 1: [9, 8]; give the first half of its columns, [9, 4]");
}

#[test]
fn attention_behind_a_prefix() {
    let folder = Folder::new();
    let renamed = |tensors: Tensors, prefix: &str| {
        Tensors(tensors.0.into_iter().map(|(name, d, s, b)| (format!("{prefix}{name}"), d, s, b)).collect::<Vec<_>>())
    };
    let both = [
        renamed(attention(1, 4, 4), "layers.0."),
        renamed(with(attention(1, 4, 4), "key", &numbers(&[1, 2, 4, 8], 9)), "layers.1."),
    ];
    folder.tensors("in.safetensors", &Tensors(both.into_iter().flat_map(|tensors| tensors.0).collect()));
    let ran = folder.run("attend in.safetensors -o out.safetensors --device cpu");
    let (error, hint) = ran.refusal();
    assert!(ran.status == 2 && error.starts_with("`query`: expected"), "{}", ran.stderr);
    let hint = hint.unwrap();
    let offered = "; `--prefix layers.0.` or `--prefix layers.1.` finds such tensors";
    assert!(hint.starts_with("in.safetensors has `layers.0.key`, ") && hint.ends_with(offered), "{hint}");
    let seven = (0..7).flat_map(|layer| renamed(attention(1, 4, 4), &format!("{layer}.")).0).collect();
    folder.tensors("seven.safetensors", &Tensors(seven));
    let ran = folder.run("attend seven.safetensors -o out.safetensors --device cpu");
    let offered = "; `--prefix 0.`, `--prefix 1.`, `--prefix 2.`, `--prefix 3.` or one of 3 more finds such tensors";
    assert!(ran.refusal().1.unwrap().ends_with(offered), "{}", ran.stderr);
    // Other layers are no tensors that were forgotten.
    let ran = folder.run("attend in.safetensors -o out.safetensors --prefix layers.1. --device cpu").ok();
    assert_eq!(ran.stderr, "");
    folder.tensors("one.safetensors", &with(attention(1, 4, 4), "key", &numbers(&[1, 2, 4, 8], 9)));
    folder.run("attend one.safetensors -o want.safetensors --device cpu").ok();
    let output = |name: &str| folder.load(name).get("output").unwrap();
    assert_eq!(output("out.safetensors"), output("want.safetensors"));
    let ran = folder.run("attend one.safetensors -o out.safetensors --prefix layers. --device cpu");
    let (error, hint) = ran.refusal();
    assert!(
        error.starts_with("`layers.query`: expected") && hint.unwrap().contains("without `--prefix`"),
        "{}",
        ran.stderr
    );
    folder.tensors("in.safetensors", &renamed(attention(1, 4, 4).f32("masq", &numbers(&[4], 1)), "x."));
    let ran = folder.run("attend in.safetensors -o out.safetensors --prefix x. --device cpu").ok();
    assert!(ran.stderr.contains("does not read: `x.masq`"), "{}", ran.stderr);
}

#[test]
fn weights_that_are_called_otherwise_are_listed_with_a_way_out() {
    let folder = Folder::new();
    let weights = |tensors: Tensors, prefix: &str, suffix: &str| {
        let name = |stem: &str| format!("{prefix}{stem}{suffix}");
        tensors.f32(&name("weight_ih"), &numbers(&[6, 3], 1)).f32(&name("weight_hh"), &numbers(&[6, 2], 2))
    };
    let input = || Tensors::default().f32("input", &numbers(&[2, 1, 3], 1));
    let many = (0..20).fold(weights(input(), "a.", "_l0"), |t, n| t.f32(&format!("x{n}"), &numbers(&[1], 1)));
    let half = weights(input(), "whole.", "_l0").f32("half.weight_ih_l0", &numbers(&[6, 3], 1));
    for (tensors, args, wanted) in [
        (input(), "", &["in.safetensors has `input`"][..]),
        (weights(input(), "", ""), "", &["`weight_ih`; rename `weight_ih` to `weight_ih_l0` and so on"]),
        (weights(input(), "cell.", ""), "", &["; rename `cell.weight_ih` to `cell.weight_ih_l0`"]),
        (
            weights(input(), "encoder.", "_l0"),
            "",
            &["`encoder.weight_hh_l0`", "; `--prefix encoder.` finds its weights"],
        ),
        (weights(input(), "", "_l0"), "--prefix x.", &["; without `--prefix` its weights are found"]),
        (weights(weights(input(), "a.", "_l0"), "b.", "_l0"), "", &["`--prefix a.` or `--prefix b.` finds weights"]),
        (
            ["a.", "b.", "c."].iter().fold(input(), |tensors, prefix| weights(tensors, prefix, "_l0")),
            "",
            &["; `--prefix a.`, `--prefix b.` or `--prefix c.` finds weights"],
        ),
        (many, "", &["`input`, `x0`, ", " and 11 more; `--prefix a.`"]),
        // A prefix that would not do is not offered.
        (half, "", &["; `--prefix whole.` finds its weights"]),
    ] {
        folder.tensors("in.safetensors", &tensors);
        let ran = folder.run(&format!("encode in.safetensors -o out.safetensors --cell gru --device cpu {args}"));
        let (error, hint) = ran.refusal();
        assert!(
            ran.status == 2 && error.ends_with("weight_ih_l0`: expected [gates · H, I], found none"),
            "{}",
            ran.stderr
        );
        let hint = hint.unwrap();
        assert!(wanted.iter().all(|text| hint.contains(text)), "{wanted:?} in {hint}");
    }
}

/// The first bytes of what people have.
fn foreign() -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let zip = |name: &str| {
        [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", &[name.len() as u8, 0, 0, 0][..], name.as_bytes()]
            .concat()
    };
    let npy = b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n";
    vec![
        ("a.pt", zip("model/data.pkl"), "a PyTorch file", "torch.load"),
        ("a.npz", zip("query.npy"), "NumPy arrays (.npz)", "dict(numpy.load("),
        ("a.keras", zip("metadata.json"), "a zip archive", "save_file"),
        ("old.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec(), "a pickle", "torch.load"),
        // A frame of some bytes: read as a header's length it would be one that may be.
        ("four.pkl", b"\x80\x04\x95\x05\0\0\0\0\0\0\0}\x94.".to_vec(), "a pickle", "torch.load"),
        ("a.npy", npy.to_vec(), "a NumPy array", "numpy.load"),
        ("a.gguf", b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0".to_vec(), "a GGUF model", "GGUFReader"),
        ("a.h5", b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0".to_vec(), "an HDF5 file", "h5py.File"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch\x1a\x052.0.0:\x9c\x01".to_vec(), "an ONNX model", "numpy_helper"),
        ("a.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), "a gzip archive", "gunzip"),
        ("pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "Git LFS", "git lfs pull"),
        ("page", b"<!DOCTYPE html><html><title>404</title>".to_vec(), "a page of HTML", "fetch"),
        ("index.json", b"{\"metadata\": {\"total_size\": 1}}".to_vec(), "JSON text", "names the files"),
    ]
}

#[test]
fn files_of_other_kinds_are_told_by_name_with_a_way_to_convert() {
    let folder = Folder::new();
    for (name, bytes, kind, way) in foreign() {
        folder.write(name, &bytes);
        for command in ["attend", "merge in.safetensors", "encode --cell gru"] {
            folder.tensors(
                "in.safetensors",
                &Tensors::default().f32("output", &numbers(&[1, 1, 1, 1], 1)).f32("lse", &numbers(&[1, 1, 1], 1)),
            );
            let ran = folder.run(&format!("{command} {name} -o out.safetensors --device cpu"));
            let (error, hint) = ran.refusal();
            assert_eq!(ran.status, 2, "{}", ran.stderr);
            assert!(error.starts_with(&format!("{name}: no safetensors file but ")) && error.contains(kind), "{error}");
            assert!(hint.unwrap().contains(way), "{hint:?}");
        }
    }
    assert!(!folder.path("out.safetensors").exists());
}

#[test]
fn a_path_is_refused_where_the_cpu_computes() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &attention(1, 4, 4));
    for path in ["staged", "fused", "split"] {
        let ran = folder.run(&format!("attend in.safetensors -o out.safetensors --device cpu --path {path}"));
        let (error, hint) = ran.refusal();
        assert!(ran.status == 2 && error.starts_with("option `path`: chooses among GPU kernels"), "{}", ran.stderr);
        assert!(hint.unwrap().contains("`--device gpu`"), "{}", ran.stderr);
    }
    // Left to choose, the program takes the CPU where there is no such adapter, and a path is still none of its.
    let line = "attend in.safetensors -o out.safetensors --adapter no-such-adapter";
    assert_eq!(folder.run(&format!("{line} --path fused")).status, 2);
    assert_eq!(folder.names(), ["in.safetensors"]);
    folder.run(&format!("{line} --path auto")).ok();
}

#[test]
fn an_error_in_a_score_function_shows_its_line() {
    let folder = Folder::new();
    folder.tensors("in.safetensors", &attention(1, 4, 4));
    let long = format!("return score{};", " + 0.125".repeat(40));
    for (body, error, marked) in [
        ("return score * i;", "`score` is f32 and `i` is u32, which do not go together", "score * i"),
        ("return i;", "returns `i` where the function's result is f32", "return i;"),
        ("var k = 1u; let x = k + score; return x;", "`k` is u32 and `score` is f32", "k + score"),
        ("if (i) { return 1.0; } return score;", "the condition `i` is no bool", "if (i) { return 1.0; }"),
        ("return g(score) + g(i); } fn g(x: f32) -> f32 { return x;", "argument 1 `i` of the call is not f32", "g(i)"),
        ("return select(score, 1.0, i);", "the condition of `select` is u32, not bool", "select"),
        ("return -i;", "Negate is not for what `i` is", "-i"),
        ("return scor;", "no definition in scope for identifier: `scor`", "scor"),
        (&long.replace("0.125;", "i;"), "is f32 and `i` is u32", long[7..].replace("0.125;", "i").as_str()),
    ] {
        folder.write(
            "mod.wgsl",
            format!("fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {{\n    {body}\n}}\n"),
        );
        let ran = folder.run("attend in.safetensors -o out.safetensors --score-wgsl mod.wgsl --device cpu");
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        let found = ran.refusal().0;
        assert!(
            found.starts_with("option `score-wgsl`: ") && found.contains(error) && found.contains(", line 2, "),
            "{found}"
        );
        let lines: Vec<&str> = ran.stderr.lines().collect();
        // The line as it stands, however long.
        assert_eq!(lines[1], format!("  2 |     {body}"));
        let marks = lines[2].strip_prefix("    | ").unwrap();
        let at = marks.len() - marks.trim_start().len();
        assert_eq!(&format!("    {body}")[at..marks.len()], marked);
        assert!(marks.trim_start().chars().all(|c| c == '^') && lines.len() == 3, "{}", ran.stderr);
    }
}
