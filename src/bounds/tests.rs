use super::read::{FILES, fingerprint};
use super::*;
use crate::kernels;

/// A proof is one of a source. Who changes a file reads its indices and loops again, by the proofs that it takes part in,
/// changes those where need be, and puts the new fingerprint into [`FILES`].
#[test]
fn every_file_is_as_it_was_read() {
    let proved = kernels::ALL.iter().filter(|kernel| PROOFS.iter().any(|(name, _)| *name == kernel.name));
    let mut files: Vec<_> = proved.flat_map(|kernel| kernel.every_file()).collect();
    files.sort_by_key(|file| file.path);
    files.dedup_by_key(|file| file.path);
    let wanted: Vec<_> = files.iter().map(|file| (file.path, fingerprint(file.text))).collect();
    let table: String = wanted.iter().map(|(path, hash)| format!("    (\"{path}\", {hash:#018x}),\n")).collect();
    let changed: Vec<_> = wanted.iter().filter(|read| !FILES.contains(read)).map(|(path, _)| path).collect();
    assert!(changed.is_empty() && FILES.len() == wanted.len(), "to be read again: {changed:?}; then FILES is\n{table}");
}
