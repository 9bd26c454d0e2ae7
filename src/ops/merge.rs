//! Partial results over disjoint keys, put together on the GPU.

use crate::error::{Error, Result};
use crate::gpu::{Run, Tensor};
use crate::kernels::merge_partials::{self, Parts};
use crate::tensor::DType;

/// Attention over all keys from attention over parts of them: outputs [B, H, N, Dv] and log-sum-exps [B, H, N] of disjoint
/// sets of keys, in any order.
/// ```text
/// m = max_p lse_p;  output = Σ_p e^(lse_p − m) · output_p / Σ_p e^(lse_p − m);  lse = m + ln Σ_p e^(lse_p − m)
/// ```
/// (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2023, "Flash-Decoding".) A part
/// that saw no key, log-sum-exp −∞, counts for nothing. Learned sinks count once: give them to one part only. The output has the type of the first part's; sums are f32.
///
/// # Errors
/// [`Error::Missing`] with fewer than two parts, [`Error::Shape`] when shapes differ, [`Error::Limit`] when the work does not fit.
pub fn merge(run: &mut Run<'_>, parts: &[(&Tensor, &Tensor)]) -> Result<(Tensor, Tensor)> {
    let &[(first, lse), second, ref others @ ..] = parts else {
        return Err(Error::missing("parts", "at least two outputs with their log-sum-exp"));
    };
    parts.iter().try_for_each(|(output, _)| output.dtype().check_float("output of a part"))?;
    let caps = run.gpu().caps();
    let (output, output_tensor) = run.output("merged output", first.shape(), first.dtype())?;
    let (whole, whole_tensor) = run.output("merged lse", lse.shape(), DType::F32)?;
    let bind = |run: &mut Run<'_>, (output, lse): (&Tensor, &Tensor)| Parts {
        output: run.bind("output of a part", output),
        lse: run.bind("lse of a part", lse),
        count: 1,
    };
    let mut sum = bind(run, (first, lse));
    let target = Parts { output, lse: whole, count: 1 };
    for (k, other) in std::iter::once(second).chain(others.iter().copied()).enumerate() {
        let other = bind(run, other);
        let recording = run.recording_mut();
        let next = match k == others.len() {
            true => target.clone(),
            false => Parts {
                output: recording.scratch("merged output", first.shape(), DType::F32),
                lse: recording.scratch("merged lse", lse.shape(), DType::F32),
                count: 1,
            },
        };
        merge_partials::record(recording, caps, &sum, Some(&other), &next.output, Some(&next.lse))?;
        sum = next;
    }
    Ok((output_tensor, whole_tensor))
}
