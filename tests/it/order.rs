//! Modules use only what stands before them: the order of `docs/design.md`, held against the sources.

use std::path::{Path, PathBuf};

/// The modules of the library, each naming only those before it. Those of one entry are one step and may name each other.
const ORDER: [&[&str]; 25] = [
    &["error"],
    &["q8", "tensor"],
    &["device"],
    &["clock", "fill", "hash"],
    &["attention", "coverage", "rnn", "norm", "epilogue", "wgsl"],
    &["problem"],
    &["recording"],
    &["plan"],
    &["kernels"],
    &["bounds"],
    &["gpu"],
    &["rates"],
    &["ops"],
    &["reference"],
    &["backend"],
    &["layers"],
    &["compare"],
    &["baseline"],
    &["cases"],
    &["workload"],
    &["validate"],
    &["store"],
    &["search"],
    &["seq2seq"],
    &["models"],
];

/// Files of a module, and those of its folder.
fn files(module: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![root.join(format!("{module}.rs"))];
    let mut folders = vec![root.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.retain(|path| path.extension().is_some_and(|end| end == "rs") && path.exists());
    found
}

/// Code alone: neither comments nor what is compiled for tests, which stands last in a file.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Modules that some code names by `crate::`.
fn named(code: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(list.split('}').next().unwrap_or_default().split(',').map(|n| word(n.trim()))),
            None => names.push(word(rest)),
        }
    }
    names
}

#[test]
fn modules_name_only_what_stands_before_them() {
    let place = |module: &str| ORDER.iter().position(|step| step.contains(&module));
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared = lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
    for module in declared.filter_map(|line| line.strip_suffix(';')) {
        let own = place(module).unwrap_or_else(|| panic!("`{module}` has no place in the order"));
        for path in files(module) {
            let text = std::fs::read_to_string(&path).unwrap();
            for name in named(&code(&text)) {
                let Some(other) = place(&name) else { continue };
                assert!(other <= own, "{} names `{name}`, which stands after `{module}`", path.display());
            }
        }
    }
}

#[test]
fn names_are_found_in_code_alone() {
    let text = "use crate::gpu::Run; // crate::ops\nuse crate::{error, tensor::Array};\n#[cfg(test)]\nmod tests { use crate::cli; }";
    assert_eq!(named(&code(text)), ["gpu", "error", "tensor"]);
}
