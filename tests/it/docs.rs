//! The pages for people: README, CONTRIBUTING, CHANGELOG and docs/. Links lead somewhere, and what they name exists. Their Rust
//! is compiled by `src/lib.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(page: &Path) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// The pages of docs/, from the root of the repository.
fn guides() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("docs")).unwrap();
    let mut guides: Vec<_> = entries.map(|entry| Path::new("docs").join(entry.unwrap().file_name())).collect();
    guides.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    guides.sort();
    assert!(guides.len() >= 7, "{guides:?}");
    guides
}

fn pages() -> Vec<PathBuf> {
    let own = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    own.into_iter().map(PathBuf::from).chain(guides()).collect()
}

/// Lines of a page with the language of the block that they stand in; none outside of blocks.
fn lines(page: &str) -> Vec<(Option<&str>, &str)> {
    let mut block = None;
    let mut lines = Vec::new();
    for line in page.lines() {
        match (line.trim_start().strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language),
            (Some(_), Some(_)) => block = None,
            (None, _) => lines.push((block, line)),
        }
    }
    assert!(block.is_none(), "a block that does not end");
    lines
}

/// What stands in a text between `open` and the next `close`.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inside, _)| inside).collect()
}

/// Code within the lines of a text: what stands between two backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Links that are not to another site: file and heading, either of which may be missing.
fn links(page: &str) -> Vec<(&str, &str)> {
    let prose = lines(page).into_iter().filter(|(block, _)| block.is_none());
    let all = prose.flat_map(|(_, line)| between(line, "](", ')'));
    all.filter(|link| !link.contains("://")).map(|link| link.split_once('#').unwrap_or((link, ""))).collect()
}

/// The names by which the headings of a page are linked to.
fn headings(page: &str) -> BTreeSet<String> {
    let name = |line: &str| -> Option<String> {
        let heading = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
    };
    lines(page).into_iter().filter(|(block, _)| block.is_none()).filter_map(|(_, line)| name(line)).collect()
}

#[test]
fn the_readme_is_short_and_a_map_of_all_pages() {
    let readme = text(Path::new("README.md"));
    let length = readme.lines().count();
    assert!(length <= 150, "{length} lines");
    let linked: BTreeSet<&str> = links(&readme).into_iter().map(|(file, _)| file).collect();
    let compiled = text(Path::new("src/lib.rs"));
    for guide in guides() {
        let guide = guide.to_str().unwrap();
        assert!(linked.contains(guide), "README.md does not link to {guide}");
        assert!(compiled.contains(&format!("\"../{guide}\"")), "src/lib.rs does not compile the code of {guide}");
    }
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for page in pages() {
        for (file, heading) in links(&text(&page)) {
            count += 1;
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let told = format!("{}: {file}#{heading}", page.display());
            assert!(root().join(&target).exists(), "{told}: no such file");
            assert!(heading.is_empty() || headings(&text(&target)).contains(heading), "{told}: no such heading");
        }
    }
    assert!(count > 60, "{count} links");
}

/// What stands behind `flag` in the pages, such as the names of examples.
fn named_by(flag: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for page in pages() {
        let page = text(&page);
        let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        names.extend(page.split(&format!("{flag} ")).skip(1).map(name));
    }
    names.retain(|name| name != "NAME");
    names
}

#[test]
fn examples_benchmarks_and_files_exist() {
    for (flag, folder) in [("--example", "examples"), ("--bench", "benches")] {
        let names = named_by(flag);
        assert!(names.len() > 2, "{flag}: {names:?}");
        for name in names {
            let there = [format!("{folder}/{name}.rs"), format!("{folder}/{name}/main.rs")];
            assert!(there.iter().any(|file| root().join(file).exists()), "{flag} {name}");
        }
    }
    let folders = ["assets/", "benches/", "examples/", "fuzz/", "models/", "shaders/", "src/", "tests/"];
    for page in pages() {
        for (block, line) in lines(&text(&page)) {
            let words: Vec<&str> = match block {
                None => spans(line).flat_map(str::split_whitespace).collect(),
                Some("sh") => line.split_whitespace().collect(),
                Some(_) => continue,
            };
            // Files whose names are said by example, and those that a command makes.
            let given = |word: &&str| !word.contains(|c: char| c.is_uppercase() || "*{".contains(c));
            let words = words.into_iter().map(|word| word.trim_end_matches(['"', ']', ',', ';', ')']));
            for word in words.filter(given).filter(|word| folders.iter().any(|f| word.starts_with(f))) {
                assert!(root().join(word).exists(), "{}: {word}", page.display());
            }
        }
    }
}

/// The program's help, of a command if one is given.
fn help(command: Option<&str>) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_regard")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The options that stand in a text.
fn options(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>();
    text.split("--").skip(1).map(name).filter(|name| !name.is_empty()).collect()
}

/// The arguments of each call of the program in a line of shell.
fn calls<'a>(line: &'a str) -> Vec<&'a str> {
    let line = line.split(" #").next().unwrap_or_default();
    let commands = line.split(['|', ';', '&']).map(|part| part.trim().trim_start_matches("$ "));
    let arguments = |command: &'a str| {
        let by_cargo = command.split_once("cargo run --release -- ").map(|(_, arguments)| arguments);
        command.strip_prefix("regard ").or(by_cargo)
    };
    commands.filter_map(arguments).collect()
}

#[test]
fn commands_and_options_exist() {
    let whole = help(None);
    let list = whole.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let commands: BTreeMap<&str, BTreeSet<String>> = list
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .map(|command| (command, options(&help(Some(command)))))
        .collect();
    let anywhere = options(&whole);
    let mut shown = BTreeSet::new();
    for page in pages() {
        for (block, line) in lines(&text(&page)) {
            let calls: Vec<&str> = match block {
                None => spans(line).flat_map(calls).collect(),
                Some("sh" | "console") => calls(line),
                Some(_) => continue,
            };
            for call in calls {
                let told = format!("{}: regard {call}", page.display());
                let first = call.split_whitespace().next().unwrap_or_default();
                let known = match commands.get_key_value(first) {
                    Some((command, known)) => {
                        shown.insert(*command);
                        known
                    }
                    None if first.starts_with('-') || first == "COMMAND" => &anywhere,
                    None => panic!("{told}: no such command"),
                };
                for option in options(call) {
                    assert!(known.contains(&option), "{told}: no such option: --{option}");
                }
            }
        }
    }
    assert_eq!(shown, commands.keys().copied().collect(), "each command is shown");
}

/// What the command line's examples say, done on the CPU: those that need no GPU and take no time.
#[cfg(unix)]
#[test]
fn shell_examples_run() {
    let folder = tempfile::tempdir().unwrap();
    for given in ["assets", "benches"] {
        std::os::unix::fs::symlink(root().join(given), folder.path().join(given)).unwrap();
    }
    let programs = Path::new(env!("CARGO_BIN_EXE_regard")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let long = ["--device gpu", "--suite", "info", "tune", "validate"];
    let mut count = 0;
    for page in ["README.md", "docs/command-line.md"] {
        let page = text(Path::new(page));
        let shell = lines(&page).into_iter().filter(|(block, _)| *block == Some("sh")).map(|(_, line)| line);
        let ours = shell.filter(|line| !calls(line).is_empty() && !line.starts_with("cargo "));
        for line in ours.filter(|line| !long.iter().any(|word| line.contains(word))) {
            count += 1;
            let mut shell = Command::new("sh");
            shell.current_dir(folder.path()).env("PATH", &path).env("REGARD_DEVICE", "cpu");
            let output = shell.args(["-c", line]).stdin(std::process::Stdio::null()).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(count > 10, "{count}");
}
