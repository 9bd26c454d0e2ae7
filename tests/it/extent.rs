//! Nothing is run by neither of the two commands: `tests/run`, which is quick, and `tests/all`, which runs the rest.

use std::path::{Path, PathBuf};

/// The text of a file of this repository.
fn text(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a folder, from the root of the repository.
fn sources(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut folders, mut files) = (vec![root.join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|ending| ending == "rs") => {
                    files.push(path.strip_prefix(root).unwrap().to_owned());
                }
                false => {}
            }
        }
    }
    files
}

#[test]
fn what_the_quick_command_leaves_out_the_other_runs() {
    let (run, all, ci) = (text("tests/run"), text("tests/all"), text(".ci/run"));
    // Everything but what is ignored and what `gpu::whole` tells apart; and that.
    assert!(run.contains("\n    cargo test -- --skip table::\n    cargo test --test it table::\n"));
    assert!(!run.contains("REGARD_TESTS"));
    let line = |wanted: &str| all.lines().any(|line| line.trim() == wanted);
    let tests = all.lines().find(|line| line.starts_with("tests() { REGARD_TESTS=all ")).unwrap();
    assert!(tests.contains(" cargo test --test it -- --include-ignored "), "{tests}");
    assert!(line("tests --skip table::") && line("xargs -P 2 -I {} bash -c 'tests --exact {}'"), "{all}");
    assert!(all.contains(" --list --format terse table:: "));
    assert!(["step tests/run", "step tests/all"].iter().all(|line| ci.lines().any(|found| found == *line)));
}

/// Only the tests of this program may be ignored: `tests/all` runs those, and says so.
#[test]
fn ignored_tests_say_who_runs_them() {
    // In two parts, or this would be one.
    let ignored = ["#[", "ignore"].concat();
    for file in ["src", "tests/it", "examples"].into_iter().flat_map(sources) {
        for line in text(&file).lines().filter(|line| line.trim_start().starts_with(&ignored)) {
            let here = file.starts_with("tests/it") && line.ends_with("by tests/all\"]");
            assert!(here, "{}: {line}", file.display());
        }
    }
}

/// A file that no module declares would be compiled by no one.
#[test]
fn every_file_is_a_module() {
    for file in sources("tests/it") {
        let (folder, stem) = (file.parent().unwrap(), file.file_stem().unwrap().to_str().unwrap());
        // The file that declares it, and its name there.
        let (parents, name) = match stem {
            "main" => continue,
            "mod" => (vec![folder.parent().unwrap().join("main.rs")], folder.file_name().unwrap().to_str().unwrap()),
            name if folder.ends_with("tests/it") => (vec![folder.join("main.rs")], name),
            name => (vec![folder.join("mod.rs"), folder.with_extension("rs")], name),
        };
        let declares = |parent: &PathBuf| parent.exists() && text(parent).contains(&format!("mod {name};"));
        assert!(parents.iter().any(declares), "{} is in no module", file.display());
    }
}
