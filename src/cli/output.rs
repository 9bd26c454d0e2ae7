//! What goes out: standard output, standard error, files.

use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::ValueEnum;
use regard::store::{self, FloatType};
use regard::tensor::Array;

use crate::failure::{Failure, Outcome, one_line};
use crate::stream;

/// A line on standard error that is no failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "note: {}", one_line(text));
}

/// Something that may not be what the user meant.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {}", one_line(text));
}

/// Warns of elements of a tensor, if there are any: `what` says which, then come how many there are and the first.
pub(crate) fn warn_of(what: &str, elements: impl Iterator<Item = bool>) {
    let (mut count, mut found, mut first) = (0, 0, 0);
    for is_one in elements {
        if is_one {
            first = if found == 0 { count } else { first };
            found += 1;
        }
        count += 1;
    }
    if found > 0 {
        warn(&format!("{what}: {found} of {count} elements, element {first} first"));
    }
}

/// Warnings that come with the input: as many as it likes, so only the first are shown.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    count: usize,
}

impl Warnings {
    /// Warnings shown.
    const SHOWN: usize = 20;

    /// Shows one, or counts it.
    pub(crate) fn add(&mut self, text: &str) {
        self.count += 1;
        if self.count <= Self::SHOWN {
            warn(text);
        }
    }

    /// Prints how many were not shown.
    pub(crate) fn finish(&self) {
        if self.count > Self::SHOWN {
            warn(&format!("{} more of the kind", self.count - Self::SHOWN));
        }
    }
}

/// Lines on standard error, as they are.
pub(crate) fn aside(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Lines on standard output, at once.
pub(crate) fn print(text: &str) -> Outcome {
    print_bytes(text.as_bytes())
}

/// Lines on standard output, or on standard error where a file is written to standard output.
pub(crate) fn print_beside(text: &str, stdout_is_taken: bool) -> Outcome {
    if stdout_is_taken {
        aside(text);
        return Ok(());
    }
    print(text)
}

fn print_bytes(bytes: &[u8]) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::other(format!("standard output: {error}")),
    })
}

/// One JSON value on standard output, indented.
pub(crate) fn print_json(value: &serde_json::Value) -> Outcome {
    print(&format!("{value:#}\n"))
}

/// A number as JSON, which has neither infinities nor NaN: null for those.
pub(crate) fn finite(x: f64) -> serde_json::Value {
    serde_json::Number::from_f64(x).map_or(serde_json::Value::Null, serde_json::Value::Number)
}

/// Element type of the tensors written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum OutputType {
    /// Single precision.
    #[default]
    F32,
    /// Half precision, rounded.
    F16,
    /// bfloat16, rounded.
    Bf16,
    /// Double precision, holding what was computed in single.
    F64,
}

impl OutputType {
    fn stored(self) -> FloatType {
        match self {
            Self::F32 => FloatType::F32,
            Self::F16 => FloatType::F16,
            Self::Bf16 => FloatType::BF16,
            Self::F64 => FloatType::F64,
        }
    }

    /// Name in a tensor file.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::F64 => "F64",
        }
    }
}

/// Refuses an element type of files where none is written.
pub(crate) fn refuse_dtype(path: Option<&Path>, dtype: Option<OutputType>) -> regard::Result<()> {
    match (path, dtype) {
        (None, Some(_)) => {
            let reason = "is about the file written: add `-o OUT.safetensors`, or leave it out";
            Err(regard::Error::option("output-dtype", reason))
        }
        _ => Ok(()),
    }
}

/// Refuses `-` for two files of a command on tensors, and beside `--json`, whose summary goes to standard output too.
pub(crate) fn refuse_streams<'a>(
    inputs: impl IntoIterator<Item = (&'a str, Option<&'a Path>)>,
    output: Option<&'a Path>,
    json: bool,
) -> regard::Result<()> {
    stream::refuse_two_inputs(inputs)?;
    stream::refuse_two_outputs([("output", output), ("json", json.then_some(Path::new("-")))])?;
    stream::refuse_terminal("output", output)
}

/// Named results.
pub(crate) type Named = Vec<(&'static str, Array)>;

/// Writes results to a tensor file, whole or not at all. Numbers that its element type cannot hold are reported.
pub(crate) fn save_tensors(path: &Path, tensors: &Named, dtype: OutputType) -> Outcome {
    for (name, array) in tensors {
        let is_lost = |&x: &f32| x.is_finite() && !dtype.stored().rounded(x).is_finite();
        let what = format!("`{name}` has numbers beyond {}, written as infinity", dtype.name());
        warn_of(&what, array.data().iter().map(is_lost));
        // A log-sum-exp, a largest or a masked score of −∞ is that of no key.
        let is_infinite = |&x: &f32| x == f32::INFINITY || (x == f32::NEG_INFINITY && !bears_infinity(name));
        warn_of(&format!("`{name}` is infinite"), array.data().iter().map(is_infinite));
    }
    let tensors = tensors.iter().map(|(name, array)| (*name, array));
    save(path, &store::serialize(path, tensors, dtype.stored())?)
}

/// Whether −∞ has a meaning in a result of that name.
fn bears_infinity(name: &str) -> bool {
    ["lse", "max_sum", "scores"].contains(&name)
}

/// Writes a file, whole or not at all; to standard output at once.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> Outcome {
    if stream::is_standard(path) {
        return print_bytes(bytes);
    }
    store::write_whole(path, bytes).map_err(unwritable)
}

/// The request was in order, the machine could not do it.
fn unwritable(error: regard::Error) -> Failure {
    Failure::other(error).with_hint("nothing was written: the folder must be there, with room and permission to write")
}

/// Shapes of the results for `--json`.
pub(crate) fn describe(tensors: &Named, dtype: OutputType) -> serde_json::Value {
    let each = |(name, array): &(&str, Array)| {
        (name.to_string(), serde_json::json!({ "shape": array.shape(), "dtype": dtype.name() }))
    };
    serde_json::Value::Object(tensors.iter().map(each).collect())
}
