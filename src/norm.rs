//! Normalisation of rows.

/// Normalisation over the last axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Which.
    pub kind: NormKind,
    /// ε, above 0, added to the variance or the mean square.
    pub epsilon: f32,
}

/// What rows are normalised by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NormKind {
    /// (x − μ) / √(σ² + ε), with mean and population variance (Ba et al. 2016, "Layer Normalization").
    Layer,
    /// x / √(mean x² + ε) (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization").
    Rms,
}

impl Norm {
    /// Layer normalisation.
    pub fn layer(epsilon: f32) -> Self {
        Self { kind: NormKind::Layer, epsilon }
    }

    /// RMS normalisation.
    pub fn rms(epsilon: f32) -> Self {
        Self { kind: NormKind::Rms, epsilon }
    }

    /// Refuses an ε that is not above 0.
    pub(crate) fn check(self) -> crate::Result<()> {
        if self.epsilon > 0.0 && self.epsilon.is_finite() {
            return Ok(());
        }
        Err(crate::Error::option("epsilon", format!("must be above 0 and finite, not {}", self.epsilon)))
    }
}
