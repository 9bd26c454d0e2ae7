//! `-` instead of a file: standard input and standard output, each for one thing at most.

use std::io::IsTerminal;
use std::path::Path;

use regard::store::{self, Store};
use regard::{Error, Result};

/// The name in errors, where a file would have its path.
const STDIN: &str = "standard input";

/// Whether the path is `-`.
pub(crate) fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether one of some files is `-`.
pub(crate) fn any<'a>(paths: impl IntoIterator<Item = &'a Path>) -> bool {
    paths.into_iter().any(is_standard)
}

/// Refuses to read standard input twice; each file by the name of its option.
pub(crate) fn refuse_two_inputs<'a>(files: impl IntoIterator<Item = (&'a str, Option<&'a Path>)>) -> Result<()> {
    refuse_two(files, "standard input is read once", "reads it already: give a file")
}

/// Refuses to write two things to standard output.
pub(crate) fn refuse_two_outputs<'a>(files: impl IntoIterator<Item = (&'a str, Option<&'a Path>)>) -> Result<()> {
    refuse_two(files, "standard output is one file", "goes there already: name another file, or leave it out")
}

fn refuse_two<'a>(
    files: impl IntoIterator<Item = (&'a str, Option<&'a Path>)>,
    rule: &str,
    reason: &str,
) -> Result<()> {
    let mut standard = files.into_iter().filter(|(_, path)| path.is_some_and(is_standard)).map(|(option, _)| option);
    match (standard.next(), standard.next()) {
        (Some(first), Some(second)) => Err(Error::option(second, format!("{rule}, and `{first}` {reason}"))),
        _ => Ok(()),
    }
}

/// Refuses to write what is no text to a terminal.
pub(crate) fn refuse_terminal(option: &str, path: Option<&Path>) -> Result<()> {
    if path.is_some_and(is_standard) && std::io::stdout().is_terminal() {
        let reason = "is no text, and standard output is a terminal: redirect it, or name a file";
        return Err(Error::option(option, reason));
    }
    Ok(())
}

/// As [`Store::open`].
pub(crate) fn open(path: &Path) -> Result<Store> {
    match is_standard(path) {
        true => Store::read(Path::new(STDIN), std::io::stdin().lock()),
        false => Store::open(path),
    }
}

/// As [`store::read_whole`], of texts and figures.
pub(crate) fn read_whole(path: &Path) -> Result<Vec<u8>> {
    match is_standard(path) {
        true => store::read_stream(Path::new(STDIN), std::io::stdin().lock(), store::LONGEST_TEXT),
        false => store::read_whole(path, store::LONGEST_TEXT),
    }
}

/// As [`read_whole`], of a text.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read_whole(path)?).map_err(|e| Error::file_from(path, e.utf8_error()))
}
