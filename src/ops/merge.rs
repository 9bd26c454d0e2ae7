//! Merge of attention over disjoint subsets of the keys, on the GPU.

use crate::error::{Error, Result};
use crate::gpu::{Run, Tensor};
use crate::kernels::merge_partials::{self, Merged, Partials, Stats, Terms};
use crate::recording::View;
use crate::tensor::DType;

/// Attention over all keys from attention over disjoint subsets of them: outputs [B, H, N, Dv] and log-sum-exps [B, H, N],
/// in any order.
/// ```text
/// m = max_p lse_p;  output = Σ_p e^(lse_p − m) · output_p / Σ_p e^(lse_p − m);  lse = m + ln Σ_p e^(lse_p − m)
/// ```
/// (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2023, "Flash-Decoding".) A partial
/// without a visible key, log-sum-exp −∞, counts for nothing. Learned sinks count once: give them to one partial only. The output
/// has the type of the first partial's; sums are f32.
///
/// It is as exact as one f32 is: a log-sum-exp is rounded by up to |lse| · 6·10⁻⁸, and the share of a partial is off by
/// that much, relatively. That is nothing for scores of usual size, 6·10⁻⁵ at 10³ and 6·10⁻² at 10⁶ (masks of −10⁹ make any
/// two partials equal). [`merge_max_sum`] has no such loss.
///
/// # Errors
/// [`Error::Missing`] with fewer than two partials, [`Error::Shape`] when shapes differ, [`Error::Limit`] when the work
/// does not fit.
pub fn merge(run: &mut Run<'_>, partials: &[(&Tensor, &Tensor)]) -> Result<(Tensor, Tensor)> {
    merged(run, partials, "lse", Stats::LogSumExp)
}

/// The same from largest scores and sums [B, H, N, 2], as [`Attention::max_sum`](crate::attention::Attention::max_sum)
/// returns them: m_p and l_p of each row in place of m_p + ln l_p.
/// ```text
/// m = max_p m_p;  l = Σ_p e^(m_p − m) · l_p;  output = Σ_p e^(m_p − m) · l_p · output_p / l
/// ```
/// Exact to the last places whatever the scores. A partial without a visible key has l = 0. Returns the output and [m, l]
/// of all keys.
///
/// # Errors
/// As [`merge`].
pub fn merge_max_sum(run: &mut Run<'_>, partials: &[(&Tensor, &Tensor)]) -> Result<(Tensor, Tensor)> {
    merged(run, partials, "max_sum", Stats::MaxSum)
}

fn merged(
    run: &mut Run<'_>,
    partials: &[(&Tensor, &Tensor)],
    name: &str,
    kind: fn(View) -> Stats,
) -> Result<(Tensor, Tensor)> {
    let &[(first, stats), second, ref others @ ..] = partials else {
        return Err(Error::missing("parts", format!("at least two outputs with their {name}")));
    };
    partials.iter().try_for_each(|(output, _)| output.dtype().check_float("output of a part"))?;
    let caps = run.gpu().caps();
    let (output, output_tensor) = run.output("merged output", first.shape(), first.dtype())?;
    let (whole, whole_tensor) = run.output(format!("merged {name}"), stats.shape(), DType::F32)?;
    let bind = |run: &mut Run<'_>, (output, stats): (&Tensor, &Tensor)| Partials {
        output: run.bind("output of a part", output),
        stats: kind(run.bind(format!("{name} of a part"), stats)),
        count: 1,
    };
    let target = match kind(whole.clone()) {
        Stats::LogSumExp(_) => Merged { output: &output, lse: Some(&whole), max_sum: None },
        Stats::MaxSum(_) => Merged { output: &output, lse: None, max_sum: Some((&whole, false)) },
    };
    let mut sum = bind(run, (first, stats));
    for (k, other) in std::iter::once(second).chain(others.iter().copied()).enumerate() {
        let other = bind(run, other);
        let recording = run.recording_mut();
        if k == others.len() {
            merge_partials::record(recording, caps, &sum, Some(&other), target, Terms::default())?;
            break;
        }
        // On the way the largest score and the sum stay apart.
        let rows = first.shape().get(..3).unwrap_or_default();
        let next = recording.scratch("merged output", first.shape(), DType::F32);
        let max_sum = recording.scratch("merged max and sum", &[rows, &[2]].concat(), DType::F32);
        let so_far = Merged { output: &next, lse: None, max_sum: Some((&max_sum, true)) };
        merge_partials::record(recording, caps, &sum, Some(&other), so_far, Terms::default())?;
        sum = Partials { output: next, stats: Stats::MaxSum(max_sum), count: 1 };
    }
    Ok((output_tensor, whole_tensor))
}
