//! Why a plan is not another one.

use super::attention::LONGEST_HEAD;
use super::rnn::MOST_RANGES;

/// Why an attention is staged, with its scores in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfused {
    /// [`Algorithm::Staged`](crate::attention::Algorithm::Staged).
    #[error("`staged` was asked for")]
    Asked,
    /// `regard tune` has measured both.
    #[error("`staged` was measured to be faster here")]
    Measured,
    /// Fused additive scores are slower there.
    #[error("additive scores take less time in memory on a CPU driver")]
    AdditiveOnCpu,
    /// Of the workgroups' size and memory, or the loop iterations.
    #[error("no fused kernel fits this device's limits")]
    Limits,
    /// Parameters would be compiled in.
    #[error("this CPU driver compiles fused kernels anew at each call where storage buffers are short")]
    FewBuffers,
    /// [`Attention::weights`](crate::attention::Attention::weights).
    #[error("the weights are asked for")]
    Weights,
    /// [`Attention::scores`](crate::attention::Attention::scores).
    #[error("the scores are asked for")]
    Scores,
    /// [`Attention::entropy`](crate::attention::Attention::entropy).
    #[error("the entropy is asked for, which needs the weights")]
    Entropy,
    /// [`Attention::normalize`](crate::attention::Attention::normalize).
    #[error("only softmax has a running form here")]
    Normalize,
    /// [`Score::Cosine`](crate::attention::Score::Cosine).
    #[error("a cosine score divides by the norms of whole rows")]
    Cosine,
    /// [`Score::Location`](crate::attention::Score::Location).
    #[error("a location-sensitive score makes keys of its own for each query")]
    Location,
    /// D is longer than [`LONGEST_HEAD`].
    #[error("a head dim of {0} exceeds the {LONGEST_HEAD} of the fused kernels")]
    HeadDim(usize),
    /// Dv is longer than [`LONGEST_HEAD`].
    #[error("a value dim of {0} exceeds the {LONGEST_HEAD} of the fused kernels")]
    ValueDim(usize),
}

/// Why a recurrence cannot be run on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfitPath {
    /// Wavefront: of a bidirectional recurrence.
    #[error("it runs one direction: the second reads each layer from its end")]
    TwoDirections,
    /// Wavefront: so many dispatches a step.
    #[error("a step of this cell takes {0} dispatches")]
    Stages(usize),
    /// Wavefront.
    #[error("there is one layer")]
    OneLayer,
    /// Wavefront: weights are larger than a binding.
    #[error("the recurrent weights of all layers are {bytes} bytes, a binding holds {allowed}")]
    Binding {
        /// Of the recurrent weights of all layers.
        bytes: u64,
        /// Of a binding.
        allowed: u64,
    },
    /// Persistent.
    #[error("layer normalisation needs the sums of all gates between two dispatches")]
    LayerNorm,
    /// Persistent.
    #[error("a projection needs all units between two dispatches")]
    Projection,
    /// Persistent: weights do not fit a workgroup.
    #[error(
        "the recurrent weights of {units} units take {lanes} lanes and {bytes} bytes of workgroup memory; the device has \
         {max_lanes} and {max_bytes}"
    )]
    Workgroup {
        /// H.
        units: usize,
        /// Lanes of the workgroup.
        lanes: usize,
        /// Of workgroup memory.
        bytes: usize,
        /// The device's.
        max_lanes: u32,
        /// The device's.
        max_bytes: u32,
    },
    /// Persistent: weights do not fit the registers of a lane, however the depth is sliced.
    #[error("the recurrent weights of {units} units take {registers} registers of a lane, which has {allowed}")]
    Registers {
        /// H.
        units: usize,
        /// Of a lane, with as many slices of the depth as there can be.
        registers: usize,
        /// The device's.
        allowed: usize,
    },
    /// Persistent: a sequence is too long for the device's loops.
    #[error("{steps} steps take more than {MOST_RANGES} dispatches of {range}")]
    Ranges {
        /// T.
        steps: usize,
        /// Steps of one dispatch.
        range: usize,
    },
}
