//! The primitives of the backend trait: the GPU's against the reference's, each piece of work written once for both.

use regard::backend::{Backend, Epilogue, Reference};
use regard::compare::judge;
use regard::gpu::Run;
use regard::norm::Norm;
use regard::rnn::Activation;
use regard::tensor::{Array, DType};
use regard::{Error, Gpu, Result, reference};

use crate::gpu::{gpu, minimal_gpu};

fn numbers(shape: &[usize], seed: f32) -> Array<f32> {
    Array::from_fn(shape, |k| ((k as f32 + 1.0) * (seed + 0.37)).sin() * 2.0)
}

/// Work on any backend.
trait Work {
    fn run<B: Backend>(&self, b: &mut B) -> Result<Vec<B::Value>>;
}

/// What work gives, and how far it may be off: as the reference in f32 is, by one in f64.
fn check(what: &str, work: &impl Work) {
    let mut wide = Reference::<f64>::default();
    let oracle = work.run(&mut wide).unwrap();
    let baseline = work.run(&mut Reference::<f32>::default()).unwrap();
    for gpu in [gpu(), minimal_gpu()] {
        let mut run = Run::new(gpu);
        let values = work.run(&mut run).unwrap();
        let got = run.read_blocking(&values.iter().collect::<Vec<_>>()).unwrap();
        for (k, ((got, oracle), baseline)) in got.iter().zip(&oracle).zip(&baseline).enumerate() {
            let name = format!("{what}, value {k}");
            assert_eq!(got.shape(), oracle.shape(), "{name}");
            judge(&name, got, oracle, baseline, DType::F32).and_then(|verdict| verdict.check(&name)).unwrap();
        }
    }
}

/// GELU at its tails and ends: relative errors of a few units in the last place, no NaN where the formula has none.
#[test]
fn gelu_is_exact_far_out() {
    let points: Vec<f32> =
        (-120..=120).map(|k| k as f32 * 0.1).chain([1e-30, -1e-30, 1e20, -20.0, f32::INFINITY]).collect();
    let x = Array::new(&[points.len()], points).unwrap();
    for f in [Activation::Gelu, Activation::GeluTanh, Activation::Silu] {
        let mut run = Run::new(gpu());
        let value = run.constant("x", &x).unwrap();
        let y = run.activate(f, &value).unwrap();
        let got = run.read_blocking(&[&y]).unwrap().remove(0);
        for (&x, &y) in x.data().iter().zip(got.data()) {
            let want = reference::activate(f, f64::from(x));
            // The tanh form cancels below 0: its error is measured against x there.
            let size = if f == Activation::GeluTanh { f64::from(x.abs()).min(1.0) } else { want.abs() };
            let off = (f64::from(y) - want).abs();
            assert!(off <= 1e-6 * size + 1e-37 || f64::from(y) == want, "{f:?}({x}) = {y}, expected {want}");
        }
    }
}

/// NaN and −∞ come last, in the order of their indices.
#[test]
fn the_largest_entries_of_poison() {
    let (nan, least) = (f32::NAN, f32::NEG_INFINITY);
    let x = Array::new(&[2, 5], vec![nan, 2.0, least, f32::INFINITY, -1.0, nan, nan, nan, nan, nan]).unwrap();
    let want = [3, 1, 4, 0, 2, 0, 1, 2, 3, 4];
    let (_, ids) = reference::top_k(&x, 5).unwrap();
    assert_eq!(ids.data(), want);
    let mut run = Run::new(gpu());
    let value = run.constant("x", &x).unwrap();
    let (_, ids) = run.top_k(&value, 5).unwrap();
    assert_eq!(run.read_integers_blocking(&[&ids]).unwrap()[0].data(), want);
}

fn round_trip<B: Backend>(b: &mut B) {
    let numbers = Array::new(&[1, 3], vec![16_777_217, 5, u32::MAX]).unwrap();
    let one = b.integers("one", &numbers).unwrap();
    let wide = b.broadcast_integers(&one, &[2, 3]).unwrap();
    let all = b.join_integers(0, &[one, wide]).unwrap();
    let read = b.read_integers_blocking(&[&all]).unwrap();
    assert_eq!(read, [Array::new(&[3, 3], numbers.data().repeat(3)).unwrap()]);
}

/// Integers pass through every backend as they are; f32 has no odd numbers above 2^24.
#[test]
fn integers_are_exact() {
    round_trip(&mut Run::new(gpu()));
    round_trip(&mut Reference::<f32>::default());
}

struct Views {
    x: Array<f32>,
}

impl Work for Views {
    fn run<B: Backend>(&self, b: &mut B) -> Result<Vec<B::Value>> {
        let x = b.constant("x", &self.x)?; // [2, 3, 4]
        let turned = b.permute(&x, &[2, 0, 1])?;
        let part = b.slice(&turned, 0, 1, 2)?;
        let flat = b.reshape(&part, &[2, 6])?;
        let row = b.slice(&flat, 0, 0, 1)?;
        let repeated = b.broadcast(&row, &[3, 6])?;
        let joined = b.join(0, &[flat.clone(), repeated.clone(), flat.clone()])?;
        let beside = b.join(1, &[flat.clone(), flat.clone()])?;
        let ids = Array::new(&[2, 2], vec![5, 0, 1, 1])?;
        let table = b.reshape(&x, &[6, 4])?;
        let found = b.embed(&table, &ids)?;
        // [4, 2, 3] times [5, 3].
        let weight = b.constant("weight", &numbers(&[5, 3], 0.8))?;
        let of_view = b.linear(&[(&turned, &weight)], Epilogue::default())?;
        Ok(vec![turned, part, flat, repeated, joined, beside, found, of_view])
    }
}

#[test]
fn views_joins_and_look_ups() {
    check("views", &Views { x: numbers(&[2, 3, 4], 0.3) });
}

fn refusals<B: Backend>(b: &mut B) -> Vec<Error> {
    let x = b.constant("x", &numbers(&[2, 3], 0.0)).unwrap();
    let wide = b.constant("y", &numbers(&[2, 4], 0.0)).unwrap();
    let integers = b.integers("lengths", &Array::filled(&[2, 3], 0)).unwrap();
    let results = [
        b.add(&x, &wide).map(drop),
        b.multiply(&x, &wide).map(drop),
        b.norm(Norm::layer(0.0), &x, None, None).map(drop),
        b.norm(Norm::layer(f32::NAN), &x, None, None).map(drop),
        b.norm(Norm::rms(1e-5), &x, Some(&wide), None).map(drop),
        b.mean(&x, Some(&integers)).map(drop),
        b.top_k(&x, 4).map(drop),
        b.embed(&x, &Array::filled(&[1], 2)).map(drop),
        b.reshape(&x, &[5]).map(drop),
        b.permute(&x, &[0, 0]).map(drop),
        b.slice(&x, 1, 2, 2).map(drop),
        b.broadcast(&x, &[3, 3]).map(drop),
        b.join(0, &[]).map(drop),
        b.join(2, std::slice::from_ref(&x)).map(drop),
        b.join(0, &[x.clone(), wide.clone()]).map(drop),
    ];
    results.into_iter().enumerate().map(|(k, result)| result.expect_err(&format!("refusal {k}"))).collect()
}

/// What does not fit is refused on every backend.
#[test]
fn what_does_not_fit_is_refused() {
    let gpu: &Gpu = gpu();
    let of_gpu = refusals(&mut Run::new(gpu));
    let of_reference = refusals(&mut Reference::<f32>::default());
    for (k, (a, b)) in of_gpu.iter().zip(&of_reference).enumerate() {
        assert_eq!(std::mem::discriminant(a), std::mem::discriminant(b), "{k}: {a} / {b}");
    }
}
