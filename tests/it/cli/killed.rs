//! The program killed at any moment leaves of each output the old file or the whole new one.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::{Folder, Tensors, numbers, regard, words};

/// What a kill left of one output.
#[derive(Debug, Default, PartialEq)]
struct Left {
    old: usize,
    new: usize,
    torn: usize,
}

impl Left {
    fn count(&mut self, got: &[u8], old: &[u8], new: &[u8]) {
        match got {
            got if got == old => self.old += 1,
            got if got == new => self.new += 1,
            _ => self.torn += 1,
        }
    }
}

/// Size of the temporary file beside the outputs, if there is one.
fn temporary(folder: &Path) -> Option<u64> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut temporary = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".regard-"));
    temporary.find_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len())
}

/// Waits until it is time, or the program has ended.
fn until(child: &mut Child, mut time: impl FnMut() -> bool) {
    let start = Instant::now();
    while !time() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "neither written nor ended");
        std::thread::sleep(Duration::from_micros(50));
    }
}

#[test]
fn a_killed_program_leaves_old_files_or_whole_new_ones() {
    let folder = Folder::new();
    let tensors = Tensors::default()
        .f32("query", &numbers(&[1, 2, 400, 1], 1))
        .f32("key", &numbers(&[1, 2, 600, 1], 2))
        .f32("value", &numbers(&[1, 2, 600, 1], 3));
    folder.tensors("in.safetensors", &tensors);
    // 4 MiB of tensors, then a picture as PNG and as SVG.
    let line = "attend in.safetensors -o out.safetensors --weights --output-dtype f64 --heatmap out.png --device cpu";
    folder.run(line).ok();
    let outputs: Vec<_> = folder.names().into_iter().filter(|name| name.starts_with("out.")).collect();
    assert_eq!(outputs, ["out.png", "out.safetensors", "out.svg"]);
    let read = |name: &String| std::fs::read(folder.path(name)).unwrap();
    let new: Vec<_> = outputs.iter().map(read).collect();
    let whole = new[1].len() as u64;
    let old = b"what was there before";

    let (mut left, mut during) = ([const { Left { old: 0, new: 0, torn: 0 } }; 3], 0);
    // Before anything is written; with this share of the tensors written; so long after they are whole.
    let before = [0, 10].map(|ms| (None, ms));
    let shares = [0.0, 0.1, 0.5, 0.9, 1.0].map(|share| (Some((share * whole as f64) as u64), 0));
    let after = [1, 10, 50].map(|ms| (Some(whole), ms));
    for (size, ms) in before.into_iter().chain(shares).chain(after) {
        for name in &outputs {
            folder.write(name, old);
        }
        let mut child = regard()
            .args(words(line))
            .current_dir(folder.0.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if let Some(size) = size {
            until(&mut child, || temporary(folder.0.path()).is_some_and(|written| written >= size));
        }
        std::thread::sleep(Duration::from_millis(ms));
        child.kill().unwrap();
        child.wait().unwrap();
        // What is left of the work has a name of its own, is hidden, and is in nobody's way.
        during += usize::from(temporary(folder.0.path()).is_some());
        for name in folder.names() {
            assert!(name == "in.safetensors" || outputs.contains(&name) || name.starts_with(".regard-"), "{name}");
            if name.starts_with(".regard-") {
                std::fs::remove_file(folder.path(&name)).unwrap();
            }
        }
        for ((left, name), new) in left.iter_mut().zip(&outputs).zip(&new) {
            left.count(&read(name), old, new);
        }
    }
    println!("10 kills, {during} while a file was written: {outputs:?} {left:?}");
    assert!(left.iter().all(|left| left.torn == 0), "{left:?}");
    assert!(during > 0, "no kill came while a file was written");
    assert!(left.iter().any(|left| left.old > 0));
    // Nothing that is left over hinders the next run.
    folder.run(line).ok();
    assert!(outputs.iter().zip(&new).all(|(name, new)| read(name) == *new));
}

/// Every file that the program writes goes one way, which the test above holds for all of them.
#[test]
fn files_are_written_in_one_place() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let text = std::fs::read_to_string(&entry).unwrap_or_default();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for way in ["fs::write(", "File::create", "OpenOptions", ".persist("] {
                assert!(entry.ends_with("store.rs") || !code.contains(way), "{}: {way}", entry.display());
            }
        }
    }
}
