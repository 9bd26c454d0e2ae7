//! Results over parts of the keys, put together.

use super::linear::add_scaled;
use super::{Float, parallel};
use crate::error::{Error, Result};
use crate::tensor::Array;

/// Attention over all keys from partial results over disjoint parts of them, each an output [B, H, N, Dv] and its
/// log-sum-exp [B, H, N]:
/// ```text
/// m = max lse_p,  w_p = exp(lse_p − m),  output = Σ_p w_p · output_p / Σ_p w_p,  lse = m + ln Σ_p w_p
/// ```
/// A part whose log-sum-exp is −∞ saw no key of that row and counts for nothing, whatever its output holds; where all
/// are, the output is 0 and the log-sum-exp −∞. (Milakov and Gimelshein 2018, "Online normalizer calculation for
/// softmax"; Dao et al. 2023, "Flash-Decoding for long-context inference".)
///
/// # Errors
/// [`Error::Missing`] without a part, [`Error::Shape`] when the parts differ in shape.
pub fn merge<T: Float>(partials: &[(&Array<T>, &Array<T>)]) -> Result<(Array<T>, Array<T>)> {
    let &[(first, _), ..] = partials else {
        return Err(Error::missing("partials", "at least one output and its log-sum-exp"));
    };
    let &[batch, heads, n, dim] = first.shape() else {
        return Err(Error::shape("partials[0] output", "rank", "4 [B, H, N, Dv]", first.shape().len()));
    };
    let (shape, rows) = ([batch, heads, n, dim], [batch, heads, n]);
    for (k, (output, lse)) in partials.iter().enumerate() {
        let pairs = [("output", output.shape(), &shape[..]), ("log-sum-exp", lse.shape(), &rows[..])];
        if let Some((name, found, wanted)) = pairs.into_iter().find(|(_, found, wanted)| found != wanted) {
            let name = format!("partials[{k}] {name}");
            return Err(Error::shape(name, "shape", format!("{wanted:?}"), format!("{found:?}")));
        }
    }
    let merged = parallel::map(batch * heads * n, |row| {
        let parts = || {
            let all = partials.iter().copied();
            all.map(|(output, lse)| (&output.data()[row * dim..][..dim], lse.data()[row]))
                .filter(|&(_, lse)| lse != T::NEG_INFINITY)
        };
        let m = parts().map(|(_, lse)| lse).fold(T::NEG_INFINITY, T::max);
        let sum: T = parts().map(|(_, lse)| (lse - m).exp()).sum();
        let mut out = vec![T::ZERO; dim];
        for (output, lse) in parts() {
            let weight = (lse - m).exp() / sum;
            add_scaled(&mut out, weight, output);
        }
        (out, m + sum.ln())
    });
    let (outputs, lse): (Vec<_>, Vec<_>) = merged.into_iter().unzip();
    Ok((Array::new(&shape, outputs.concat())?, Array::new(&rows, lse)?))
}
