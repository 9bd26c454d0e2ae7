//! Input that was made to do harm: tensor files, cards, score functions, shapes and strides, lists in device memory. What
//! the targets of `fuzz/` do for as long as one likes is done here for a moment.

mod any;
mod bounds;
mod lists;
mod problems;

use std::collections::BTreeSet;

use proptest::prelude::*;
use regard::attention::{Attention, AttentionInputs, ScoreMod};
use regard::problem::AttentionProblem;
use regard::wgsl::{ParamsSpace, Variant};
use regard::{Error, reference, tensor::Array, tensor::DType};

use crate::gpu_properties::hold;

const HEAD: &str = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {";

fn check(wgsl: &str) -> Result<(), String> {
    match (ScoreMod::new(wgsl, None)).check() {
        Ok(()) => Ok(()),
        Err(Error::Option { option, reason }) if option == "score_mod" => Err(reason),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_score_function_is_told_its_own_lines() {
    for (wgsl, wanted) in [
        ("\n\n  fn score_mod(score: f32) -> f32 { return scores; }", "line 3, column 44: fn score_mod(score: f32)"),
        ("// é\n/* é */ fn f() -> f32 { return 1u; }", "line 2, column"),
        ("fn score_mod(score: f32", "line 1, column 24: fn score_mod"),
        ("fn f() { f(); }", "line 1, column"),
        ("fn f() { g(); }\nfn g() { f(); }", "is cyclic, line "),
        ("fn f() {} /* never closed", "line 1, column 11: fn f()"),
    ] {
        let error = check(wgsl).unwrap_err();
        assert!(error.contains(wanted), "{wgsl}: {error}");
        assert!(!error.contains('\n'));
    }
    let error = check(&format!("{HEAD}\n    return scor + 1.0;\n}}")).unwrap_err();
    assert_eq!(error, "no definition in scope for identifier: `scor`, line 2, column 12: return scor + 1.0;");
    // Nobody needs a device for that, nor the kernel's own lines.
    let score_mod = Some(ScoreMod::new("fn score_mod", Some(std::sync::Arc::new(|s, _, _, _, _| s))));
    let options = Attention { score_mod, ..Attention::default() };
    let shape = [1, 1, 2, 4];
    let problem = AttentionProblem::new(&options, &AttentionInputs::new(&shape[..], &shape[..], &shape[..]));
    let x = Array::filled(&shape, 1.0f32);
    let on_cpu = reference::attention(&options, &AttentionInputs::new(x.clone(), x.clone(), x));
    assert_eq!(problem.unwrap_err(), on_cpu.unwrap_err());
}

/// A function that asks for anything beside its five numbers is refused for that reason; one that helps itself with
/// functions, constants, structs and aliases is not.
#[test]
fn a_score_function_keeps_to_itself() {
    let body = |more: &str| format!("{more}\n{HEAD} return score; }}");
    let inside = |more: &str| format!("{HEAD} {more} return score; }}");
    for (wgsl, wanted) in [
        (String::new(), "has no `fn score_mod"),
        ("fn other() {}".into(), "has no `fn score_mod"),
        ("fn score_mod(score: f32, b: u32, h: u32, i: u32) -> f32 { return score; }".into(), "expected `fn score_mod"),
        ("fn score_mod(score: f32, b: u32, h: u32, i: u32, j: i32) -> f32 { return score; }".into(), "expected `fn"),
        ("fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) {}".into(), "expected `fn score_mod"),
        ("const score_mod = 1.0;".into(), "has no `fn score_mod"),
        (body("@group(0) @binding(1) var<storage, read_write> x: array<f32>;"), "line 1, column"),
        (body("@group(0) @binding(9) var<uniform> x: vec4<f32>;"), "binding or memory"),
        (body("var<workgroup> x: f32;"), "binding or memory"),
        (body("var<private> x: f32;"), "binding or memory"),
        (body("override x: f32 = 1.0;"), "use `const`"),
        (body("@compute @workgroup_size(1) fn f() {}"), "entry point `f`"),
        (body("enable f16;"), "`enable` belongs to the kernel"),
        (body("diagnostic(off, derivative_uniformity);"), "diagnostic"),
        (body("@diagnostic(off, derivative_uniformity) fn f() {}"), "diagnostic"),
        (body("requires readonly_and_readwrite_storage_textures;"), "belongs to the kernel"),
        (body("fn main() {}"), "`main` is a name of the kernel's own"),
        (body("struct Params { x: f32 }"), "`Params` is a name of the kernel's own"),
        (body("const key = 1;"), "`key` is a name of the kernel's own"),
        (body("alias k_elem = f32;"), "`k_elem` is a name of the kernel's own"),
        (body("const LANES = 1u;"), "`LANES` is a name of the kernel's own"),
        (body("fn min(a: u32, b: u32) -> u32 { return 0u; }"), "`min` is a name of WGSL's own"),
        (body("alias f32 = u32;"), "line 1"),
        (inside("workgroupBarrier();"), "uses a barrier"),
        (inside("storageBarrier();"), "uses a barrier"),
        (body("fn f() { workgroupBarrier(); }"), "`f` uses a barrier"),
        (inside("loop { if score > 1.0 { workgroupBarrier(); } continuing { break if true; } }"), "uses a barrier"),
        (inside("discard;"), "`discard`"),
        (inside("let x = subgroupAdd(score);"), "line 1"),
        (inside("let x = dpdx(score);"), "`score_mod`"),
        (inside("let x = params.scale;"), "`params`"),
        (inside("var x: array<f32, 100000000>; x[j] = 1.0;"), "400000000 bytes"),
        (
            inside("var x: array<f32, 2000>; x[j] = 1.0; var y: array<f32, 2000>; y[j] = 1.0;"),
            "16000 bytes of variables",
        ),
        (format!("{HEAD} return {}score{}; }}", "(".repeat(100_000), ")".repeat(100_000)), "bytes long"),
        (format!("{HEAD} return {}score{}; }}", "(".repeat(300), ")".repeat(300)), "recursion limit"),
        (format!("{HEAD} return score{}; }}", "+score".repeat(1001)), "1001 operators"),
        (format!("{HEAD} {} {} return score; }}", "{".repeat(500), "}".repeat(500)), "nesting limit"),
        // Each function calls the one before it twice.
        (
            (1..20).fold("fn twice0(x: f32) -> f32 { return x; }".to_owned(), |all, n| {
                format!("{all}\nfn twice{n}(x: f32) -> f32 {{ return twice{0}(x) + twice{0}(x); }}", n - 1)
            }) + HEAD
                + " return twice19(score); }",
            "expressions, those of the functions that it calls included",
        ),
    ] {
        let shown = &wgsl[..wgsl.len().min(200)];
        match check(&wgsl) {
            Ok(()) => panic!("taken: {shown}"),
            Err(error) => assert!(error.contains(wanted), "{shown}: {error}"),
        }
    }
    for good in [
        body("const SLOPE = 0.1; alias Number = f32; struct Pair { a: Number, b: Number }"),
        body("fn distance_of(a: u32, b: u32) -> f32 { return abs(f32(a) - f32(b)); } const_assert 1 < 2;"),
        body("const table = array<f32, 4>(1.0, 2.0, 3.0, 4.0); /* a /* nested */ comment */ // and one more"),
        inside("var x = 0.0; for (var n = 0u; n < 4u; n += 1u) { x += f32(n); if x > 3.0 { continue; } }"),
        inside("switch b { case 0u: { return 1.0; } default: {} }"),
        inside("let key = 1; let params = vec2(score, 1.0).yx;"),
        format!("{HEAD} return {}score{}; }}", "(".repeat(150), ")".repeat(150)),
        format!("{HEAD} return score{}; }}", "+score".repeat(990)),
        format!("{HEAD} if b == 1u {{}} {} return score; }}", "else if b == 1u {}".repeat(800)),
        format!("{HEAD} let x = {}true; return {}score; }}", "!".repeat(900), "- ".repeat(900)),
    ] {
        assert!(any::score_mod(&good), "{good}: {:?}", check(&good));
    }
}

/// Whatever a kernel calls something: a user who takes the same name is refused, or the kernel means what it meant.
#[test]
fn no_name_of_a_users_changes_a_kernel() {
    let kernels: Vec<_> = regard::kernels::ALL.into_iter().filter(|kernel| kernel.takes_score_mod()).collect();
    assert_eq!(kernels.len(), 5);
    let mut words = BTreeSet::new();
    for (kernel, subgroups, dtype) in kernels.iter().flat_map(|&k| [(k, false, DType::F32), (k, true, DType::Q8)]) {
        let aliases = vec![("elem", DType::F32), ("k_elem", dtype), ("v_elem", dtype), ("out_elem", DType::F32)];
        let variant = Variant { subgroups, ..Variant::new(kernel, aliases, []) };
        let source = variant.source(ParamsSpace::Uniform);
        let lines = source.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned());
        words.extend(lines.flat_map(|line| {
            let split = line.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned);
            split.filter(|word| word.starts_with(|c: char| c.is_alphabetic())).collect::<Vec<_>>()
        }));
    }
    let declared = |word: &str| format!("const {word}: vec3<f32> = vec3<f32>(1.0);\n");
    let free: Vec<String> =
        words.into_iter().filter(|word| check(&format!("{}{HEAD} return score; }}", declared(word))).is_ok()).collect();
    assert!(free.len() > 100 && !free.iter().any(|word| word == "row_of"), "{}", free.len());
    let all: String = free.iter().map(|word| declared(word)).collect();
    for kernel in kernels {
        any::compiles(kernel, &format!("{all}{HEAD} return score; }}"));
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

#[test]
fn no_bytes_make_a_tensor_file_or_a_card_panic() {
    hold(300, bytes(), |data| {
        any::store(&data);
        let header = String::from_utf8_lossy(&data).replace(char::is_control, "0");
        let forged = format!("{{\"a\":{{\"dtype\":\"F32\",\"shape\":[{header}],\"data_offsets\":[0,4]}}}}");
        any::store(&[&(forged.len() as u64).to_le_bytes(), forged.as_bytes(), &[0; 4]].concat());
        Ok(())
    });
    let folder = crate::seq2seq::folder("khmer");
    let cards = ["khmer", "arabic-names"]
        .map(|name| std::fs::read_to_string(crate::seq2seq::folder(name).join("model.json")).unwrap());
    let weights = std::fs::read(folder.join("weights.safetensors")).unwrap();
    hold(60, bytes(), |mut data| {
        data.truncate(20);
        data.splice(0..0, [1, 0]);
        any::card(&data, &weights, &cards.each_ref().map(String::as_str));
        Ok(())
    });
}

#[test]
fn no_text_makes_a_score_function_panic() {
    let token = prop::sample::select(vec![
        "fn",
        "score_mod",
        "(",
        ")",
        "{",
        "}",
        "->",
        "f32",
        "u32",
        "score",
        ":",
        ",",
        ";",
        "return",
        "let",
        "var",
        "x",
        "=",
        "+",
        "-",
        "*",
        "/",
        "&",
        "<",
        ">",
        "1.0",
        "0",
        "array",
        "vec2",
        "if",
        "loop",
        "for",
        "const",
        "struct",
        "@",
        "[",
        "]",
        ".",
        "/*",
        "*/",
        "//",
        "\n",
        "é",
        "abs",
        "switch",
        "case",
        "default",
        "override",
        "ptr",
        "function",
        "4294967295",
    ]);
    let text = prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.join(" "));
    hold(1500, text, |text| {
        any::score_mod(&text);
        any::score_mod(&format!("{HEAD} {text} return score; }}"));
        any::score_mod(&format!("{text} {HEAD} return score; }}"));
        Ok(())
    });
}

/// Whatever is asked for on whatever device: refused, or recorded as dispatches that stay inside their buffers.
#[test]
fn no_problem_panics_or_reaches_past_its_buffers() {
    let (mut recorded, mut refused) = (0, 0);
    let counts = std::cell::RefCell::new((&mut recorded, &mut refused));
    hold(4000, prop::collection::vec(any::<u8>(), 0..400), |data| {
        let mut counts = counts.borrow_mut();
        match problems::problem(&data) {
            Some(_) => *counts.0 += 1,
            None => *counts.1 += 1,
        }
        Ok(())
    });
    println!("{recorded} recorded, {refused} refused");
    assert!(recorded > 200 && refused > 200, "{recorded} recorded, {refused} refused");
}

/// Three blocks: two consents that wgpu asks for, and an environment variable that is set before there are threads.
#[test]
fn unsafe_code_is_counted_and_proven_and_shaders_are_checked_but_in_one_place() {
    fn files(folder: &std::path::Path, out: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { files(&entry, out) } else { out.push(entry) }
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&root, &mut all);
    let mut found = BTreeSet::new();
    for path in all.iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        let trusts = text.contains("create_shader_module_trusted");
        assert_eq!(trusts, path.ends_with("gpu/pipeline.rs"), "{}", path.display());
        let blocks = text.matches("unsafe {").count() + text.matches("unsafe impl").count();
        let functions = text.matches("unsafe fn").count();
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let told = |what: &str| text.matches(what).count();
        if name.starts_with("backend/cpu/simd/") {
            // Instructions, all of them under one reason; what the functions ask for stands at the trait.
            assert!(blocks == 0 || told("SAFETY") > 0, "{name}");
            continue;
        }
        assert_eq!(blocks, told("// SAFETY: "), "{name}");
        if name.starts_with("backend/cpu/") {
            assert_eq!(functions, told("/// # Safety"), "{name}");
            continue;
        }
        assert_eq!(functions, 0, "{name}");
        if blocks > 0 {
            found.insert((name, blocks));
        }
    }
    let known =
        ["cli/device.rs", "gpu/cooperative.rs", "gpu/kept.rs", "gpu/pipeline.rs"].map(|name| (name.to_owned(), 1));
    assert_eq!(found, BTreeSet::from(known));
}

/// The fuzz targets compile the program's own files by their names, apart from this build.
#[test]
fn the_fuzz_targets_know_every_file_of_the_program() {
    let modules = |path: &str| -> Vec<String> {
        let text = std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let names = text.lines().filter_map(|line| line.trim().trim_start_matches("pub(crate) ").strip_prefix("mod "));
        let mut names: Vec<_> = names.filter_map(|name| Some(name.strip_suffix(';')?.to_owned())).collect();
        names.sort();
        names
    };
    let program = modules("src/cli/main.rs");
    assert!(program.len() > 20);
    assert_eq!(modules("fuzz/fuzz_targets/program.rs"), program);
}
