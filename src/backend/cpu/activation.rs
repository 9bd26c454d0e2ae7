//! Activation functions of vectors.

use super::math;
use super::simd::{Kernel, Simd};
use crate::reference;
use crate::rnn::Activation;

/// f(x), by the formulas of [`reference::activate`].
#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, f: Activation, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    match f {
        Activation::Sigmoid => math::sigmoid(s, x),
        Activation::Tanh => math::tanh(s, x),
        Activation::Relu => s.select(s.less(x, zero), zero, x),
        Activation::Affine { alpha, beta } => s.mul_add(s.splat(alpha), x, s.splat(beta)),
        Activation::LeakyRelu { alpha } => s.select(s.less(x, zero), s.mul(s.splat(alpha), x), x),
        Activation::ThresholdedRelu { alpha } => s.select(s.less(x, s.splat(alpha)), zero, x),
        Activation::ScaledTanh { alpha, beta } => s.mul(s.splat(alpha), math::tanh(s, s.mul(s.splat(beta), x))),
        Activation::HardSigmoid { alpha, beta } => s.min(one, s.max(zero, s.mul_add(s.splat(alpha), x, s.splat(beta)))),
        Activation::Softsign => s.div(x, s.add(one, math::abs(s, x))),
        Activation::Gelu => math::gelu(s, x),
        Activation::GeluTanh => {
            let cube = s.mul(s.mul(x, x), x);
            let inner = s.mul(s.splat(0.797_884_6), s.mul_add(s.splat(0.044_715), cube, x));
            s.mul(s.mul(s.splat(0.5), x), s.add(one, math::tanh(s, inner)))
        }
        // x·σ(x), which is no ∞ · 0 where e^−x overflows.
        Activation::Silu => s.mul(x, math::sigmoid(s, x)),
        Activation::Elu { .. } | Activation::Softplus => {
            let lanes = s.lanes(x).map(|x| reference::activate(f, x));
            // SAFETY: no vector is longer than 16.
            unsafe { s.load(lanes.as_ptr()) }
        }
    }
}

/// f(x) of each element in place, each into ±`limit` first if there is one; NaN stays NaN.
pub(crate) struct Activate<'a> {
    pub(crate) f: Activation,
    pub(crate) limit: Option<f32>,
    pub(crate) x: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        clip(self.x, self.limit);
        for x in self.x.chunks_mut(S::LANES) {
            // SAFETY: a chunk is a vector long, or as long as it says.
            unsafe {
                if x.len() == S::LANES {
                    s.store(x.as_mut_ptr(), activate(s, self.f, s.load(x.as_ptr())));
                } else {
                    let y = activate(s, self.f, s.load_part(x.as_ptr(), x.len()));
                    s.store_part(x.as_mut_ptr(), y, x.len());
                }
            }
        }
    }
}

/// Each into ±limit, if there is one; NaN stays NaN.
#[inline(always)]
pub(crate) fn clip(x: &mut [f32], limit: Option<f32>) {
    if let Some(limit) = limit {
        x.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
    }
}
