//! Each set of instructions against plain arithmetic.

use half::{bf16, f16};

use super::{Kernel, Level, Simd};

/// Each operation on sixteen numbers, vector by vector.
struct Operations<'a> {
    a: &'a [f32; 16],
    b: &'a [f32; 16],
}

type Operation = fn(f32, f32) -> f32;

/// What each operation has to give for two numbers.
const WANTED: [(&str, Operation); 9] = [
    ("add", |a, b| a + b),
    ("sub", |a, b| a - b),
    ("mul", |a, b| a * b),
    ("div", |a, b| a / b),
    ("max", |a, b| if a > b { a } else { b }),
    ("min", |a, b| if a < b { a } else { b }),
    ("round", |a, _| a.round_ties_even()),
    ("scale", |a, b| (f64::from(a) * f64::from(b.round_ties_even()).exp2()) as f32),
    ("select", |a, b| if a < b { 1.0 } else { a }),
];

impl Kernel for Operations<'_> {
    type Output = Vec<[f32; 16]>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<[f32; 16]> {
        let mut found = vec![[0.0; 16]; WANTED.len() + 1];
        for at in (0..16).step_by(S::LANES) {
            // SAFETY: LANES divides 16.
            unsafe {
                let (a, b) = (s.load(self.a.as_ptr().add(at)), s.load(self.b.as_ptr().add(at)));
                let results = [
                    s.add(a, b),
                    s.sub(a, b),
                    s.mul(a, b),
                    s.div(a, b),
                    s.max(a, b),
                    s.min(a, b),
                    s.round(a),
                    s.scale(a, s.round(b)),
                    s.select(s.less(a, b), s.splat(1.0), a),
                    s.mul_add(a, b, s.splat(0.5)),
                ];
                for (found, result) in found.iter_mut().zip(results) {
                    s.store(found.as_mut_ptr().add(at), result);
                }
            }
        }
        found
    }
}

#[test]
fn operations_are_those_of_ieee() {
    let a = std::array::from_fn(|k| (k as f32 - 7.5) * 1.37);
    let b = std::array::from_fn(|k| [2.0, -3.4, 0.5, 90.0, -120.0, 1e-3, 7.0][k % 7]);
    for level in Level::all() {
        let found = level.run(Operations { a: &a, b: &b });
        for (found, (name, wanted)) in found.iter().zip(WANTED) {
            let wanted: [f32; 16] = std::array::from_fn(|k| wanted(a[k], b[k]));
            assert_eq!(*found, wanted, "{name} with {}", level.name());
        }
        for (k, x) in found[WANTED.len()].iter().enumerate() {
            let exact = f64::from(a[k]) * f64::from(b[k]) + 0.5;
            assert!((f64::from(*x) - exact).abs() <= 1e-6 * exact.abs().max(1.0), "mul_add with {}", level.name());
        }
        // b where one of the two is NaN.
        let nan = level.run(Operations { a: &[f32::NAN; 16], b: &b });
        assert_eq!([nan[4], nan[5]], [b, b], "{}", level.name());
        let nan = level.run(Operations { a: &a, b: &[f32::NAN; 16] });
        assert!(nan[4].iter().chain(&nan[5]).all(|x| x.is_nan()), "{}", level.name());
    }
}

/// Parts of vectors, sums, and elements of other types.
struct Memory;

impl Kernel for Memory {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let x: [f32; 16] = std::array::from_fn(|k| k as f32 + 1.0);
        let halves: [f16; 16] = x.map(f16::from_f32);
        let brains: [bf16; 16] = x.map(bf16::from_f32);
        let bytes: [i8; 16] = std::array::from_fn(|k| k as i8 - 8);
        // SAFETY: the arrays hold any vector, and parts no longer than one.
        unsafe {
            for n in 0..=S::LANES {
                let part = s.lanes(s.load_part(x.as_ptr(), n));
                let wanted: [f32; 16] = std::array::from_fn(|k| if k < n { x[k] } else { 0.0 });
                assert_eq!(part[..S::LANES], wanted[..S::LANES]);
                let mut written = [-1.0; 16];
                s.store_part(written.as_mut_ptr(), s.load(x.as_ptr()), n);
                assert_eq!(written, std::array::from_fn(|k| if k < n { x[k] } else { -1.0 }));
            }
            assert_eq!(s.sum(s.load(x.as_ptr())), x[..S::LANES].iter().sum::<f32>());
            assert_eq!(s.lanes(s.load_f16(halves.as_ptr()))[..S::LANES], x[..S::LANES]);
            assert_eq!(s.lanes(s.load_bf16(brains.as_ptr()))[..S::LANES], x[..S::LANES]);
            let signed = s.lanes(s.load_i8(bytes.as_ptr()));
            assert!(signed[..S::LANES].iter().zip(bytes).all(|(&x, byte)| x == f32::from(byte)));
        }
    }
}

#[test]
fn parts_and_other_types_are_read_and_written() {
    Level::all().into_iter().for_each(|level| level.run(Memory));
}

#[test]
fn the_processor_is_known() {
    let levels = Level::all();
    assert_eq!(levels[0], Level::best());
    assert_eq!(levels.last(), Some(&Level::Portable));
    for level in levels {
        assert!(level.lanes().is_power_of_two() && level.lanes() <= 16 && level.rows() <= 14, "{}", level.name());
    }
    assert!(super::second_level_cache() >= 128 << 10);
}
