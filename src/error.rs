//! The one error type: what was wrong, where, what was expected and what was found.

use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, each with the numbers a caller needs to put it right.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor's rank, axis or element type does not fit.
    #[error("`{tensor}` {axis}: expected {expected}, found {found}")]
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
    #[error("`{tensor}`: expected {expected}, found none")]
    Missing {
        /// Name of the tensor.
        tensor: String,
        /// What it should be and why it is needed.
        expected: String,
    },
    /// An option has a value it cannot have, alone or beside another.
    #[error("option `{option}`: {reason}")]
    Option {
        /// Name of the option.
        option: String,
        /// Why it is refused and what would be accepted.
        reason: String,
    },
    /// A user's kernel is not one, or is not given what it declares.
    #[error("kernel `{kernel}`: {reason}")]
    Kernel {
        /// Its name.
        kernel: String,
        /// Why it is refused, with the line of the user's text where there is one to blame.
        reason: String,
    },
    /// The work does not fit the device.
    #[error("{what}: needs {needed}, the device allows {allowed}")]
    Limit {
        /// What is too large.
        what: String,
        /// How much it needs.
        needed: u64,
        /// How much there may be.
        allowed: u64,
    },
    /// No adapter answers, or none that was asked for.
    #[error("no GPU adapter: {0}")]
    NoAdapter(String),
    /// The device cannot do what was asked (a missing feature).
    #[error("the device lacks {feature}, needed for {what}")]
    Unsupported {
        /// The missing feature.
        feature: String,
        /// What it was needed for.
        what: String,
    },
    /// wgpu or the driver refused or failed.
    #[error("GPU: {0}")]
    Gpu(String),
    /// The GPU's memory, or the driver's on the host, has run out; nothing was submitted, and less may fit.
    #[error("the GPU's memory has run out: {0}")]
    OutOfMemory(String),
    /// The device is gone (driver reset, unplugged, destroyed).
    #[error("the GPU device was lost: {0}")]
    DeviceLost(String),
    /// A file cannot be read, written or understood.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is of a kind that is not read, but known.
    #[error("{}: no safetensors file but {found}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// How to make it one that is read; [`Error::hint`].
        advice: &'static str,
    },
    /// A model card lacks a field, or contradicts itself or its tensors.
    #[error("model card `{model}`, field `{field}`: {reason}")]
    Card {
        /// Name of the model.
        model: String,
        /// Path of the field (`decoder.rnn.hidden`).
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A text cannot be turned into the model's symbols.
    #[error("text `{text}`: {reason}")]
    Text {
        /// The text as given.
        text: String,
        /// Why it is refused.
        reason: String,
    },
    /// A result is further from the reference than the tolerance allows.
    #[error("{what}: error {error:.3e} is over the tolerance {tolerance:.3e}")]
    Tolerance {
        /// What was compared.
        what: String,
        /// Largest absolute difference.
        error: f64,
        /// Largest difference allowed.
        tolerance: f64,
    },
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
    pub fn file(path: &Path, reason: impl ToString) -> Self {
        Self::File { path: path.to_owned(), reason: reason.to_string() }
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
