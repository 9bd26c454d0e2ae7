//! The one comparator: how far a result may be from the truth, and how far it is.
//!
//! The error of a tensor is its largest absolute difference from the oracle. A NaN beside a number is infinitely
//! wrong, as is an infinity beside anything but itself; two NaNs are equal. A wrong shape is an error of its own.
//!
//! A kernel passes when
//! ```text
//! err(kernel, oracle) ≤ 2 · err(baseline, oracle) + floor
//! ```
//! with the oracle in f64 and, as baseline, the same plain code in f32: FlashAttention's own rule (Dao et al. 2022,
//! `tests/test_flash_attn.py`). The floor is a few units in the last place of the tensor's largest element, for tensors
//! so small that the baseline happens to be exact.
//!
//! The baseline is judged too. Where plain f32 is itself a thousandth of the tensor's size or more from the oracle, twice
//! its error would accept anything, and a pass proves nothing: [`Verdict::is_sound`].

use crate::error::{Error, Result};
use crate::reference::Float;
use crate::tensor::{Array, DType};

/// Units in the last place that the floor allows.
const FLOOR_ULPS: f64 = 8.0;

/// Share of the tensor's size from which on the baseline's error leaves nothing to judge by.
const UNSOUND: f64 = 1e-3;

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// Largest absolute difference between the result and the oracle.
    pub error: f64,
    /// The same of the baseline.
    pub baseline: f64,
    /// How far f32 arithmetic itself is from the oracle: the baseline's error over the oracle's largest element, or over
    /// what its elements are made of where that is larger; ∞ where one of the two is a finite number and the other is not.
    pub baseline_relative: f64,
    /// The largest error that passes.
    pub tolerance: f64,
    /// Row-major index of the worst element.
    pub worst: usize,
}

impl Verdict {
    /// True when the error is within the tolerance.
    pub fn passed(&self) -> bool {
        self.error <= self.tolerance
    }

    /// False where f32 itself is so far off that passing proves nothing.
    pub fn is_sound(&self) -> bool {
        self.baseline_relative < UNSOUND
    }

    /// The same where results may cancel: the baseline is judged by `size` where that is larger than all that is left, the
    /// largest number that the results are made of.
    #[must_use]
    pub fn made_of(self, size: f64, baseline: &Array<f32>, oracle: &Array<f64>) -> Self {
        Self { baseline_relative: relative_error(baseline, oracle, size), ..self }
    }

    /// Error over tolerance: at most 1 for a pass.
    pub fn ratio(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.tolerance }
    }

    /// The ratio, or what failed as an error.
    ///
    /// # Errors
    /// [`Error::Tolerance`] when the error is over the tolerance.
    pub fn check(&self, what: impl Into<String>) -> Result<f64> {
        if self.passed() {
            Ok(self.ratio())
        } else {
            let what = format!("{} at element {}", what.into(), self.worst);
            Err(Error::Tolerance { what, error: self.error, tolerance: self.tolerance })
        }
    }
}

/// `got`, stored as `storage`, against the oracle, allowed twice the error of `baseline` and a floor.
///
/// For f16 storage the baseline is one that rounds its inputs and outputs to f16.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ.
pub fn judge(
    name: &str,
    got: &Array<f32>,
    oracle: &Array<f64>,
    baseline: &Array<f32>,
    storage: DType,
) -> Result<Verdict> {
    same_shape(name, got, oracle)?;
    same_shape(name, baseline, oracle)?;
    let (error, worst) = largest(got, oracle, |difference, _| difference);
    let baseline_relative = relative_error(baseline, oracle, 0.0);
    // Where the baseline itself overflows it grants nothing.
    let (baseline, _) =
        largest(baseline, oracle, |difference, _| if difference.is_finite() { difference } else { 0.0 });
    let ulp = match storage {
        DType::F16 => f64::from(half::f16::EPSILON.to_f32()),
        DType::F32 | DType::U32 | DType::Q8 => f64::from(f32::EPSILON),
    };
    let size = oracle.data().iter().filter(|x| x.is_finite()).fold(1.0, |size: f64, x| size.max(x.abs()));
    Ok(Verdict { error, baseline, baseline_relative, tolerance: 2.0 * baseline + FLOOR_ULPS * ulp * size, worst })
}

/// The largest difference of `baseline` from the oracle over the oracle's largest element, or over `least` if that is
/// larger: results that cancel are judged by the size of what they are made of.
fn relative_error(baseline: &Array<f32>, oracle: &Array<f64>, least: f64) -> f64 {
    let (error, _) = largest(baseline, oracle, |difference, _| difference);
    let size = oracle.data().iter().filter(|x| x.is_finite()).fold(least, |size: f64, x| size.max(x.abs()));
    if error == 0.0 { 0.0 } else { error / size }
}

/// `got` against numbers of another library: each element within `atol + rtol · |want|`.
///
/// The verdict's error is the largest share of that allowance that an element uses, its tolerance is 1.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ.
pub fn close<T: Float, U: Float>(name: &str, got: &Array<T>, want: &Array<U>, rtol: f64, atol: f64) -> Result<Verdict> {
    same_shape(name, got, want)?;
    let share = |difference: f64, want: f64| match difference {
        0.0 => 0.0,
        // an infinite difference must not meet an infinite allowance
        _ if difference.is_infinite() => f64::INFINITY,
        _ => difference / (atol + rtol * want.abs()),
    };
    let (error, worst) = largest(got, want, share);
    Ok(Verdict { error, baseline: 0.0, baseline_relative: 0.0, tolerance: 1.0, worst })
}

fn same_shape<T, U>(name: &str, got: &Array<T>, want: &Array<U>) -> Result<()> {
    if got.shape() == want.shape() {
        Ok(())
    } else {
        Err(Error::shape(name, "shape", format!("{:?}", want.shape()), format!("{:?}", got.shape())))
    }
}

/// The largest `measure(difference, want)` and where it is.
fn largest<T: Float, U: Float>(got: &Array<T>, want: &Array<U>, measure: impl Fn(f64, f64) -> f64) -> (f64, usize) {
    let mut worst = (0.0, 0);
    for (k, (got, want)) in got.data().iter().zip(want.data()).enumerate() {
        let (got, want) = (got.to_f64(), want.to_f64());
        let value = measure(difference(got, want), want);
        if value > worst.0 {
            worst = (value, k);
        }
    }
    worst
}

/// |a − b|; 0 for equal infinities and two NaNs, ∞ for any other pair that is not two finite numbers.
fn difference(a: f64, b: f64) -> f64 {
    if a == b || (a.is_nan() && b.is_nan()) {
        0.0
    } else if a.is_finite() && b.is_finite() {
        (a - b).abs()
    } else {
        f64::INFINITY
    }
}
