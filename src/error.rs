//! The one error type: what was wrong, where, what was expected and what was found.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, each with the numbers a caller needs to put it right.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A tensor's rank, axis or element type does not fit.
    Shape {
        /// Name of the tensor as the documentation has it (`query`, `weight_ih_l0` …).
        tensor: String,
        /// Which axis, by name and number, or `rank`, `dtype`, `elements`.
        axis: String,
        /// What would have been right.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A tensor that the options call for is not there.
    Missing {
        /// Name of the tensor.
        tensor: String,
        /// What it should be and why it is needed.
        expected: String,
    },
    /// An option has a value it cannot have, alone or beside another.
    Option {
        /// Name of the option.
        option: String,
        /// Why it is refused and what would be accepted.
        reason: String,
    },
    /// A user's kernel is not one, or is not given what it declares.
    Kernel {
        /// Its name.
        kernel: String,
        /// Why it is refused, with the line of the user's text where there is one to blame.
        reason: String,
    },
    /// The work does not fit the device.
    Limit {
        /// What is too large.
        what: String,
        /// How much it needs.
        needed: u64,
        /// How much there may be.
        allowed: u64,
    },
    /// No adapter answers, or none that was asked for.
    NoAdapter(String),
    /// The device cannot do what was asked (a missing feature).
    Unsupported {
        /// The missing feature.
        feature: String,
        /// What it was needed for.
        what: String,
    },
    /// wgpu or the driver refused or failed.
    Gpu(Cause),
    /// The GPU's memory, or the driver's on the host, has run out; nothing was submitted, and less may fit.
    OutOfMemory(Cause),
    /// The device is gone (driver reset, unplugged, destroyed).
    DeviceLost(Cause),
    /// A file cannot be read, written or understood.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: Cause,
    },
    /// A file is of a kind that is not read, but known.
    Format {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// How to make it one that is read; [`Error::hint`].
        advice: &'static str,
    },
    /// A model card lacks a field, or contradicts itself or its tensors.
    Card {
        /// Name of the model.
        model: String,
        /// Path of the field (`decoder.rnn.hidden`).
        field: String,
        /// What is wrong with it.
        reason: Cause,
    },
    /// A text cannot be turned into the model's symbols.
    Text {
        /// The text as given.
        text: String,
        /// Why it is refused.
        reason: String,
    },
    /// A result is further from the reference than the tolerance allows.
    Tolerance {
        /// What was compared.
        what: String,
        /// Largest absolute difference.
        error: f64,
        /// Largest difference allowed.
        tolerance: f64,
    },
}

/// What has gone wrong, in words, and the error behind it where there is one. Two are equal where their words are.
#[derive(Debug, Clone)]
pub struct Cause {
    words: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Cause {
    /// An error in its own words.
    pub fn of(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::new(error.to_string(), error)
    }

    /// Words about an error.
    pub fn new(words: impl Into<String>, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { words: words.into(), source: Some(Arc::new(error)) }
    }

    /// What it says.
    pub fn words(&self) -> &str {
        &self.words
    }
}

impl<S: Into<String>> From<S> for Cause {
    fn from(words: S) -> Self {
        Self { words: words.into(), source: None }
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { tensor, axis, expected, found } => {
                write!(f, "`{tensor}` {axis}: expected {expected}, found {found}")
            }
            Self::Missing { tensor, expected } => write!(f, "`{tensor}`: expected {expected}, found none"),
            Self::Option { option, reason } => write!(f, "option `{option}`: {reason}"),
            Self::Kernel { kernel, reason } => write!(f, "kernel `{kernel}`: {reason}"),
            Self::Limit { what, needed, allowed } => write!(f, "{what}: needs {needed}, the device allows {allowed}"),
            Self::NoAdapter(reason) => write!(f, "no GPU adapter: {reason}"),
            Self::Unsupported { feature, what } => write!(f, "the device lacks {feature}, needed for {what}"),
            Self::Gpu(reason) => write!(f, "GPU: {reason}"),
            Self::OutOfMemory(reason) => write!(f, "the GPU's memory has run out: {reason}"),
            Self::DeviceLost(reason) => write!(f, "the GPU device was lost: {reason}"),
            Self::File { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Format { path, found, .. } => write!(f, "{}: no safetensors file but {found}", path.display()),
            Self::Card { model, field, reason } => write!(f, "model card `{model}`, field `{field}`: {reason}"),
            Self::Text { text, reason } => write!(f, "text `{text}`: {reason}"),
            Self::Tolerance { what, error, tolerance } => {
                write!(f, "{what}: error {error:.3e} is over the tolerance {tolerance:.3e}")
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let cause = match self {
            Self::Gpu(cause) | Self::OutOfMemory(cause) | Self::DeviceLost(cause) => cause,
            Self::File { reason, .. } | Self::Card { reason, .. } => reason,
            _ => return None,
        };
        cause.source.as_deref().map(|error| error as _)
    }
}

impl Error {
    /// A [`Error::Shape`] from displayable parts.
    pub fn shape(
        tensor: impl Into<String>,
        axis: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        Self::Shape {
            tensor: tensor.into(),
            axis: axis.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    /// A [`Error::Option`] from its parts.
    pub fn option(option: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Option { option: option.into(), reason: reason.into() }
    }

    /// A [`Error::Missing`] from its parts.
    pub fn missing(tensor: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Missing { tensor: tensor.into(), expected: expected.into() }
    }

    /// A [`Error::File`] from its parts.
    pub fn file(path: &Path, reason: impl Into<Cause>) -> Self {
        Self::File { path: path.to_owned(), reason: reason.into() }
    }

    /// A [`Error::File`] in the words of the error behind it.
    pub fn file_from(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::file(path, Cause::of(error))
    }

    /// True when the caller's request was at fault (options, tensors, files, text) rather than the machine.
    pub fn is_request(&self) -> bool {
        match self {
            Self::Shape { .. }
            | Self::Missing { .. }
            | Self::Option { .. }
            | Self::Kernel { .. }
            | Self::File { .. }
            | Self::Format { .. }
            | Self::Card { .. }
            | Self::Text { .. } => true,
            Self::Limit { .. }
            | Self::NoAdapter(_)
            | Self::Unsupported { .. }
            | Self::Gpu(_)
            | Self::OutOfMemory(_)
            | Self::DeviceLost(_)
            | Self::Tolerance { .. } => false,
        }
    }

    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Format { advice, .. } => Some(advice),
            Self::NoAdapter(_) => Some(
                "install a Vulkan driver (Debian and Ubuntu: `apt-get install mesa-vulkan-drivers` has a software one), \
                 or run on the CPU with `--device cpu`",
            ),
            Self::Unsupported { feature, .. } if feature.contains("f16") => Some("store the tensors as f32"),
            Self::Limit { .. } | Self::OutOfMemory(_) => Some("use a smaller batch or a shorter sequence"),
            _ => None,
        }
    }
}
