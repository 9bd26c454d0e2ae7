//! The options of `regard attend` and what they mean to the library.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use regard::attention::{Attention, Causal, Normalize, Path, Score, ScoreMod, ScoreStage, Window};
use regard::tensor::DType;
use regard::{Error, Result};

/// What attention to compute.
#[derive(Debug, Args)]
#[command(next_help_heading = "Attention")]
pub(super) struct Options {
    /// How a query and a key are compared
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    score: ScoreKind,
    /// Multiplies the scores; 1/√D for scaled-dot, 1 otherwise, when left out
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    scale: Option<f32>,
    /// A score function of your own in WGSL, applied after the scale: `fn score_mod(score: f32, b: u32, h: u32,
    /// i: u32, j: u32) -> f32` (batch row, query head, query, key); runs on a GPU only
    #[arg(long, value_name = "FILE")]
    score_wgsl: Option<PathBuf>,
    /// How the scores of a query become weights
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    normalize: NormalizeKind,
    /// Seed of `--normalize sample`; the same seed draws the same keys on every device
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u32,
    /// Hide keys after the query's own position. top-left: key j is seen by query i when j <= i + length of the past;
    /// bottom-right: the last query sees the last key
    #[arg(long, value_enum, value_name = "ALIGNMENT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "top-left")]
    causal: Option<CausalKind>,
    /// Hide keys outside i-L ... i+R around the query's own position i; -1 leaves a side open
    #[arg(long, value_name = "L,R", allow_hyphen_values = true, value_parser = window)]
    window: Option<Window>,
    /// Cap scores softly: X·tanh(s/X), before the mask
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    softcap: Option<f32>,
    /// Also write `scores` [B, Hq, Nq, Nk] at this stage
    #[arg(long, value_enum, value_name = "STAGE")]
    scores: Option<Stage>,
    /// Which kernels run: `staged` is score, softmax and weighted sum one after the other
    #[arg(long, value_enum, default_value_t, value_name = "PATH")]
    path: PathKind,
}

/// Element type on the device.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
#[value(rename_all = "lower")]
pub(crate) enum Storage {
    /// Single precision.
    #[default]
    F32,
    /// Half precision, where the device has it.
    F16,
}

impl From<Storage> for DType {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::F32 => Self::F32,
            Storage::F16 => Self::F16,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum ScoreKind {
    /// q·k / √D (Vaswani et al. 2017).
    #[default]
    ScaledDot,
    /// q·k (Luong et al. 2015).
    Dot,
    /// q·W·k with `score.weight` [D, D] (Luong et al. 2015).
    General,
    /// v·tanh(Wq·q + Wk·k + b) with `score.query_weight` and `score.key_weight` [A, D], `score.v` and `score.bias`
    /// `[A]` (Bahdanau et al. 2015); without weights Σ tanh(q + k), times `score.v` [D] if given (Keras).
    Additive,
    /// v·tanh(W·[q; k]) with `score.weight` [A, 2D] and `score.v` `[A]` (Luong et al. 2015).
    Concat,
    /// q·k / (‖q‖·‖k‖) (Graves et al. 2014).
    Cosine,
}

impl From<ScoreKind> for Score {
    fn from(kind: ScoreKind) -> Self {
        match kind {
            ScoreKind::ScaledDot => Self::ScaledDot,
            ScoreKind::Dot => Self::Dot,
            ScoreKind::General => Self::General,
            ScoreKind::Additive => Self::Additive,
            ScoreKind::Concat => Self::Concat,
            ScoreKind::Cosine => Self::Cosine,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum NormalizeKind {
    /// exp(s) / Σ exp(s).
    #[default]
    Softmax,
    /// 1 at the largest score, the first one on ties.
    Hardmax,
    /// 1 at one key drawn from the softmax.
    Sample,
    /// Projection onto the simplex: sparse weights (Martins and Astudillo 2016).
    Sparsemax,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CausalKind {
    /// PyTorch's and ONNX's alignment.
    TopLeft,
    /// FlashAttention's alignment.
    BottomRight,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stage {
    /// After the scale.
    Raw,
    /// After the soft cap.
    Capped,
    /// After bias and mask; hidden entries are −∞.
    Masked,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum PathKind {
    /// The planner chooses.
    #[default]
    Auto,
    /// Scores in memory.
    Staged,
    /// One kernel, scores never in memory (not there yet).
    Fused,
    /// Few queries, keys split among workgroups (not there yet).
    Split,
}

impl Options {
    /// As the library has them.
    pub(super) fn attention(&self) -> Result<Attention> {
        Ok(Attention {
            score: self.score.into(),
            scale: self.scale,
            score_mod: self.score_mod()?,
            softcap: self.softcap,
            causal: self.causal.map(|causal| match causal {
                CausalKind::TopLeft => Causal::TopLeft,
                CausalKind::BottomRight => Causal::BottomRight,
            }),
            window: self.window,
            normalize: match self.normalize {
                NormalizeKind::Softmax => Normalize::Softmax,
                NormalizeKind::Hardmax => Normalize::Hardmax,
                NormalizeKind::Sample => Normalize::Sample { seed: self.seed },
                NormalizeKind::Sparsemax => Normalize::Sparsemax,
            },
            path: match self.path {
                PathKind::Auto => Path::Auto,
                PathKind::Staged => Path::Staged,
                PathKind::Fused | PathKind::Split => {
                    let name = if matches!(self.path, PathKind::Fused) { "fused" } else { "split" };
                    let reason = format!("this version has no `{name}` kernels: use `auto` or `staged`");
                    return Err(Error::option("path", reason));
                }
            },
            scores: self.scores.map(|stage| match stage {
                Stage::Raw => ScoreStage::Raw,
                Stage::Capped => ScoreStage::Capped,
                Stage::Masked => ScoreStage::Masked,
            }),
            ..Attention::default()
        })
    }

    fn score_mod(&self) -> Result<Option<ScoreMod>> {
        let Some(path) = &self.score_wgsl else { return Ok(None) };
        let wgsl = std::fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
        if !wgsl.contains("score_mod") {
            let expected = "expected `fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32`, found none";
            return Err(Error::file(path, expected));
        }
        Ok(Some(ScoreMod { wgsl, reference: None }))
    }
}

/// As it stands on the command line.
pub(super) fn path_name(path: Path) -> &'static str {
    match path {
        Path::Auto => "auto",
        Path::Staged => "staged",
    }
}

/// `L,R` with −1 for an open side.
fn window(text: &str) -> std::result::Result<Window, String> {
    let side = |text: &str| match text.trim().parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(n) => u32::try_from(n).map(Some).map_err(|_| format!("{n} is neither -1 nor a number of keys")),
        Err(_) => Err(format!("`{text}` is no whole number")),
    };
    match text.split_once(',') {
        Some((left, right)) => Ok(Window::new(side(left)?, side(right)?)),
        None => Err("expected two numbers as in `128,0`".to_owned()),
    }
}
