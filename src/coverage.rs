//! What a running sum of alignments costs.

/// What a row of coverage, the running sum of alignments, costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CoverageCost {
    /// Σ_j min(alignment_j, before_j) (See et al. 2017, "Get To The Point", eq. 12).
    Overlap,
    /// λ · Σ_j (1 − after_j)² (Xu et al. 2015, "Show, Attend and Tell", eq. 14).
    DoublyStochastic {
        /// λ.
        factor: f32,
    },
}
