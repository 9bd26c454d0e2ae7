//! Tokens and their places as vectors.

use crate::backend::{Backend, IntegersOf, Numbers};
use crate::error::{Error, Result};
use crate::layers::NormWeights;
use crate::norm::Norm;
use crate::tensor::Array;

/// x_n = norm(scale · word\[id_n\] + position\[p_n\]), of what is there of it (Vaswani et al. 2017, sections 3.4 and 3.5).
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding<A> {
    /// [V, E].
    pub word: A,
    /// [1, 1, 1]: √E in "Attention Is All You Need".
    pub scale: Option<A>,
    /// [P, E], learned or [`sinusoidal`]; rotary positions stand in the blocks instead.
    pub position: Option<A>,
    /// Of the sum.
    pub norm: Option<(Norm, NormWeights<A>)>,
}

impl<A> Embedding<A> {
    /// The table of words alone.
    pub fn new(word: A) -> Self {
        Self { word, scale: None, position: None, norm: None }
    }

    /// Each tensor through a fallible function of the tensor and its name.
    ///
    /// # Errors
    /// The first error of `f`.
    pub fn try_map<'a, B, E>(&'a self, mut f: impl FnMut(&str, &'a A) -> Result<B, E>) -> Result<Embedding<B>, E> {
        let word = f("word", &self.word)?;
        let scale = self.scale.as_ref().map(|a| f("scale", a)).transpose()?;
        let position = self.position.as_ref().map(|a| f("position", a)).transpose()?;
        let norm = match &self.norm {
            Some((norm, weights)) => Some((*norm, weights.try_map("norm", &mut f)?)),
            None => None,
        };
        Ok(Embedding { word, scale, position, norm })
    }
}

impl<V: Numbers> Embedding<V> {
    /// x [B, N, E] of tokens [B, N] that stand at `positions` [B, N]. Ids past a table read its last row on a GPU, where nobody
    /// sees them: check them before.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes do not fit, and those of the backend.
    pub fn forward<B: Backend<Value = V>>(
        &self,
        b: &mut B,
        tokens: &IntegersOf<B>,
        positions: &IntegersOf<B>,
    ) -> Result<V> {
        let mut x = b.gather(&self.word, tokens)?;
        if let Some(scale) = &self.scale {
            x = b.multiply(&x, scale)?;
        }
        let places = self.position.as_ref().map(|table| b.gather(table, positions)).transpose()?;
        match (places, &self.norm) {
            (Some(places), Some((norm, weights))) => {
                let [x, _] = b.norm_residual(*norm, &x, &places, weights.weight.as_ref(), weights.bias.as_ref())?;
                Ok(x)
            }
            (Some(places), None) => b.add(&x, &places),
            (None, Some((norm, weights))) => b.norm(*norm, &x, weights.weight.as_ref(), weights.bias.as_ref()),
            (None, None) => Ok(x),
        }
    }
}

/// Where sines and cosines lie in a row of [`sinusoidal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinusoidLayout {
    /// The sine of frequency i at 2·i, its cosine at 2·i + 1 ("Attention Is All You Need").
    Interleaved,
    /// The sines in the first half, the cosines in the second (Marian).
    Halves,
}

/// The table [P, E] of sin(p / 10000^(2·i / E)) and cos(p / 10000^(2·i / E)) (Vaswani et al. 2017, section 3.5), computed in
/// f64.
///
/// # Errors
/// [`Error::Shape`] for an odd number of channels.
pub fn sinusoidal(positions: usize, channels: usize, layout: SinusoidLayout) -> Result<Array> {
    if !channels.is_multiple_of(2) {
        return Err(Error::shape("position", "axis 1 (channels)", "an even number", channels));
    }
    let half = channels / 2;
    Ok(Array::from_fn(&[positions, channels], |k| {
        let (p, channel) = (k / channels, k % channels);
        let (i, cosine) = match layout {
            SinusoidLayout::Interleaved => (channel / 2, channel % 2 == 1),
            SinusoidLayout::Halves => (channel % half, channel >= half),
        };
        let angle = p as f64 / 10_000f64.powf(2.0 * i as f64 / channels as f64);
        (if cosine { angle.cos() } else { angle.sin() }) as f32
    }))
}
