//! e^x, tanh and the logistic function of vectors, within 2 units in the last place; NaN stays NaN.

use super::simd::Simd;

/// e^x.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    exp_halved(s, x, 0.0)
}

/// e^x / 2^h of a whole h from 0 to 40: x = n·ln 2 + r, and e^r = 1 + r + r²·P(r) with P of degree 5 (Moshier, Cephes, `expf`). ln 2 comes in two parts, the
/// first so short that n times it is exact (Cody and Waite 1980).
#[inline(always)]
pub(crate) fn exp_halved<S: Simd>(s: S, x: S::V, halvings: f32) -> S::V {
    // Beyond, e^x is ∞ or 0.
    let x = s.min(s.splat(110.0), s.max(s.splat(-110.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.mul_add(n, s.splat(-355.0 / 512.0), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.987_569e-4);
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let p = s.add(s.mul_add(p, s.mul(r, r), r), s.splat(1.0));
    s.scale(p, s.sub(n, s.splat(halvings)))
}

/// |x|.
#[inline(always)]
pub(crate) fn abs<S: Simd>(s: S, x: S::V) -> S::V {
    s.max(s.sub(s.splat(0.0), x), x)
}

/// tanh x: 1 − 2/(e^2x + 1), and near 0 x + x³·P(x²) (Moshier, Cephes, `tanhf`).
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let a = abs(s, x);
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(exp(s, s.add(a, a)), s.splat(1.0))));
    let far = s.select(s.less(x, s.splat(0.0)), s.sub(s.splat(0.0), far), far);
    let z = s.mul(x, x);
    let mut p = s.splat(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8] {
        p = s.mul_add(p, z, s.splat(c));
    }
    let near = s.mul_add(s.mul(p, z), x, x);
    s.select(s.less(a, s.splat(0.625)), near, far)
}

/// 1 / (1 + e^−x), of e^−|x|, which does not overflow: e^x / (1 + e^x) below 0.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let z = exp(s, s.sub(s.splat(0.0), abs(s, x)));
    let one = s.splat(1.0);
    s.div(s.select(s.less(x, s.splat(0.0)), z, one), s.add(one, z))
}

/// x·Φ(x) = x/2·erfc(−x/√2). erfc(z) = t·e^(P(t) − z²) with t = 1 / (1 + z/2), relative error below 1.2e-7 (Press et al.,
/// "Numerical Recipes", section 6.2).
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    // Beyond, Φ is 0 or 1; NaN goes through x.
    let a = s.min(abs(s, x), s.splat(15.0));
    let half = s.splat(0.5);
    let t = s.div(s.splat(1.0), s.mul_add(a, s.splat(0.353_553_4), s.splat(1.0)));
    let mut p = s.splat(0.170_872_77);
    let coefficients = [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ];
    for c in coefficients {
        p = s.mul_add(p, t, s.splat(c));
    }
    // a² = h² + (a − h)·(a + h), of an h that is so short that its square is exact.
    let steps = s.splat(256.0);
    let high = s.div(s.round(s.mul(a, steps)), steps);
    let rest = s.mul(s.mul(half, s.sub(a, high)), s.add(a, high));
    let square = s.mul(half, s.mul(high, high));
    let tail = s.mul(s.mul(half, t), s.mul(exp(s, s.sub(s.splat(0.0), square)), exp(s, s.sub(p, rest))));
    s.mul(x, s.select(s.less(x, s.splat(0.0)), tail, s.sub(s.splat(1.0), tail)))
}

#[cfg(test)]
mod tests {
    use super::super::activation::Activate;
    use super::super::simd::{Kernel, Level, Simd};
    use crate::rnn::Activation;

    /// e^x of whole vectors, in place.
    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for x in self.0.chunks_exact_mut(S::LANES) {
                // SAFETY: a chunk is a vector long.
                unsafe { s.store(x.as_mut_ptr(), super::exp(s, s.load(x.as_ptr()))) };
            }
        }
    }

    /// Numbers of every size and both signs, and zeros that fill up the last vector.
    fn numbers() -> Vec<f32> {
        let bits = (0..0x4330_0000u32).step_by(40_009);
        let mut x: Vec<f32> = bits.flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]).collect();
        x.resize(x.len().next_multiple_of(16), 0.0);
        x
    }

    /// Units in the last place between two numbers, the second of which is exact.
    fn ulps(found: f32, exact: f64) -> f64 {
        let nearest = (exact as f32).abs();
        if nearest.is_infinite() {
            return if f64::from(found) == f64::from(exact as f32) { 0.0 } else { f64::INFINITY };
        }
        let step = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
        (f64::from(found) - exact).abs() / step
    }

    #[test]
    fn within_two_units_in_the_last_place_with_each_set_of_instructions() {
        type Function = (&'static str, fn(Level, &mut [f32]), fn(f64) -> f64);
        let of = |level: Level, f, x: &mut [f32]| level.run(Activate { f, limit: None, x });
        let functions: [Function; 3] = [
            ("exp", |level, x| level.run(Exp(x)), f64::exp),
            ("tanh", |level, x| level.run(Activate { f: Activation::Tanh, limit: None, x }), f64::tanh),
            (
                "sigmoid",
                |level, x| level.run(Activate { f: Activation::Sigmoid, limit: None, x }),
                |x| 1.0 / (1.0 + (-x).exp()),
            ),
        ];
        for level in Level::all() {
            for (name, function, exact) in functions {
                let x = numbers();
                let mut y = x.clone();
                function(level, &mut y);
                for (&x, y) in x.iter().zip(y) {
                    let error = ulps(y, exact(f64::from(x)));
                    assert!(error <= 2.0, "{name}({x:e}) with {}: {y:e}, {error} units off", level.name());
                }
                let mut nan = [f32::NAN; 16];
                function(level, &mut nan);
                assert!(nan.iter().all(|y| y.is_nan()), "{name} with {}", level.name());
            }
            // Of an end that the others have not.
            let mut x = [f32::INFINITY, f32::NEG_INFINITY, 0.0];
            of(level, Activation::Silu, &mut x);
            assert_eq!(x[..1], [f32::INFINITY]);
            assert!(x[1].is_nan() || x[1] == 0.0, "{x:?}");
        }
    }
}
