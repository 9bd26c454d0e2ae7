//! Merge of attention over disjoint subsets of the keys.

use super::linear::add_scaled;
use super::normalize::LogSumExp;
use super::{Float, parallel};
use crate::error::{Error, Result};
use crate::tensor::Array;

/// Attention over all keys from partial results over disjoint subsets of them, each an output [B, H, N, Dv] and its
/// log-sum-exp [B, H, N]:
/// ```text
/// m = max lse_p,  w_p = exp(lse_p − m),  output = Σ_p w_p · output_p / Σ_p w_p,  lse = m + ln Σ_p w_p
/// ```
/// A partial whose log-sum-exp is −∞ has no visible key for that row and counts for nothing, whatever its output holds;
/// where all are, the output is 0 and the log-sum-exp −∞. (Milakov and Gimelshein 2018, "Online normalizer calculation for
/// softmax"; Dao et al. 2023, "Flash-Decoding for long-context inference".)
///
/// # Errors
/// [`Error::Missing`] without a partial, [`Error::Shape`] when the partials differ in shape.
pub fn merge<T: Float>(partials: &[(&Array<T>, &Array<T>)]) -> Result<(Array<T>, Array<T>)> {
    let alone = |lse: &[T]| LogSumExp { max: lse[0], sum: if lse[0] == T::NEG_INFINITY { T::ZERO } else { T::ONE } };
    let (output, sums) = joined(partials, "log-sum-exp", &[], alone)?;
    let lse = sums.iter().map(|sum| sum.value()).collect();
    Ok((output, Array::new(partials[0].1.shape(), lse)?))
}

/// The same from largest scores m and sums l [B, H, N, 2]; a partial of sum 0 has no visible key.
/// ```text
/// m = max m_p,  w_p = l_p · exp(m_p − m),  output = Σ_p w_p · output_p / Σ_p w_p,  l = Σ_p w_p
/// ```
///
/// # Errors
/// As [`merge`].
pub fn merge_max_sum<T: Float>(partials: &[(&Array<T>, &Array<T>)]) -> Result<(Array<T>, Array<T>)> {
    let (output, sums) = joined(partials, "max_sum", &[2], |pair| LogSumExp { max: pair[0], sum: pair[1] })?;
    let pairs = sums.iter().flat_map(|sum| sum.pair()).collect();
    Ok((output, Array::new(partials[0].1.shape(), pairs)?))
}

/// The output, and the largest score and sum of each row; `stats` reads those of a partial from its second tensor, which
/// has the rows and `columns` for its shape.
fn joined<T: Float>(
    partials: &[(&Array<T>, &Array<T>)],
    name: &str,
    columns: &[usize],
    stats: impl Fn(&[T]) -> LogSumExp<T> + Sync,
) -> Result<(Array<T>, Vec<LogSumExp<T>>)> {
    let &[(first, _), ..] = partials else {
        return Err(Error::missing("parts", format!("at least one output and its {name}")));
    };
    let &[batch, heads, n, dim] = first.shape() else {
        return Err(Error::shape("parts[0] output", "rank", "4 [B, H, N, Dv]", first.shape().len()));
    };
    let (shape, rows) = ([batch, heads, n, dim], [&[batch, heads, n], columns].concat());
    for (k, (output, stats)) in partials.iter().enumerate() {
        let pairs = [("output", output.shape(), &shape[..]), (name, stats.shape(), &rows[..])];
        if let Some((name, found, wanted)) = pairs.into_iter().find(|(_, found, wanted)| found != wanted) {
            let name = format!("parts[{k}] {name}");
            return Err(Error::shape(name, "shape", format!("{wanted:?}"), format!("{found:?}")));
        }
    }
    let width = columns.iter().product::<usize>();
    let merged = parallel::map(batch * heads * n, |row| {
        let partials = || {
            let all = partials.iter().copied();
            all.map(|(output, of)| (&output.data()[row * dim..][..dim], stats(&of.data()[row * width..][..width])))
                .filter(|(_, partial)| partial.sum != T::ZERO)
        };
        let max = partials().map(|(_, partial)| partial.max).fold(T::NEG_INFINITY, T::max);
        let weight = |partial: LogSumExp<T>| partial.sum * (partial.max - max).exp();
        let sum: T = partials().map(|(_, partial)| weight(partial)).sum();
        let mut out = vec![T::ZERO; dim];
        for (output, partial) in partials() {
            add_scaled(&mut out, weight(partial) / sum, output);
        }
        (out, LogSumExp { max, sum })
    });
    let (outputs, sums): (Vec<_>, Vec<_>) = merged.into_iter().unzip();
    Ok((Array::new(&shape, outputs.concat())?, sums))
}
