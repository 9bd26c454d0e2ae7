//! What goes out: standard output, standard error, files.

use std::io::{ErrorKind, Write};
use std::path::Path;

use clap::ValueEnum;
use regard::store::{self, FloatType};
use regard::tensor::Array;

use crate::failure::{Failure, Outcome, one_line};

/// A line on standard error that is no failure.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "note: {}", one_line(text));
}

/// Something that may not be what the user meant.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "warning: {}", one_line(text));
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

    /// Tells how many were not shown.
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
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
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

/// Named results.
pub(crate) type Named = Vec<(&'static str, Array)>;

/// Writes results to a tensor file, whole or not at all.
pub(crate) fn save_tensors(path: &Path, tensors: &Named, dtype: OutputType) -> Outcome {
    let tensors = tensors.iter().map(|(name, array)| (*name, array));
    store::save(path, tensors, dtype.stored()).map_err(unwritable)
}

/// Writes a file, whole or not at all.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> Outcome {
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
