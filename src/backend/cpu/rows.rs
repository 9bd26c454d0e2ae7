//! What is done row by row: element by element, normalisation, the largest entries, look-up.

use super::activation::Activate;
use super::simd::{Kernel, Simd};
use super::{Cpu, CpuTensor};
use crate::backend::Value;
use crate::error::{Error, Result};
use crate::norm::{Norm, NormKind};
use crate::rnn::Activation;
use crate::tensor::{Array, Layout};

/// Elements of a piece of work.
const PIECE: usize = 16_384;

/// `f` of pairs of elements. b has a's rank, and its axes of length 1 are repeated.
pub(super) fn pairs(
    cpu: &Cpu,
    a: &CpuTensor,
    b: &CpuTensor,
    f: impl Fn(f32, f32) -> f32 + Sync + Send,
) -> Result<CpuTensor> {
    let (a, b) = (a.wide(), b.wide().gather(&Layout::contiguous(b.shape()).broadcast(a.shape())?)?);
    let mut y = vec![0.0; a.data().len()];
    let pieces = y.chunks_mut(PIECE).zip(a.data().chunks(PIECE)).zip(b.data().chunks(PIECE)).collect();
    cpu.threads().each(a.data().len(), pieces, |((y, a), b): ((&mut [f32], &[f32]), &[f32])| {
        y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = f(a, b));
    });
    Ok(Array::new(a.shape(), y)?.into())
}

/// f(x), element by element.
pub(super) fn activate(cpu: &Cpu, f: Activation, x: &CpuTensor) -> CpuTensor {
    let mut y = x.to_array();
    let work = 16 * y.data().len();
    let pieces = y.data_mut().chunks_mut(PIECE).collect();
    cpu.threads().each(work, pieces, |x: &mut [f32]| cpu.level().run(Activate { f, limit: None, x }));
    y.into()
}

/// Rows of [.., N], normalised.
struct Normalize<'a> {
    norm: Norm,
    width: usize,
    x: &'a [f32],
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    y: &'a mut [f32],
}

/// Σ f(x) in f64, where no square of an f32 overflows or vanishes; eight sums side by side.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut sums = [0.0f64; 8];
    let chunks = x.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|&x| f(f64::from(x))).sum();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f(f64::from(x));
        }
    }
    sums.iter().sum::<f64>() + rest
}

impl Kernel for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let count = self.width as f64;
        for (x, y) in self.x.chunks_exact(self.width).zip(self.y.chunks_exact_mut(self.width)) {
            let mean = match self.norm.kind {
                NormKind::Layer => sum(x, |x| x) / count,
                NormKind::Rms => 0.0,
            };
            let square = sum(x, |x| (x - mean) * (x - mean)) / count;
            // Of an infinity nothing is left to divide.
            let factor = match square.is_finite() {
                true => 1.0 / (square + f64::from(self.norm.epsilon)).sqrt(),
                false => f64::NAN,
            };
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = ((f64::from(x) - mean) * factor) as f32);
            if let Some(weight) = self.weight {
                y.iter_mut().zip(weight).for_each(|(y, w)| *y *= w);
            }
            if let Some(bias) = self.bias {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }
}

/// As [`Backend::norm`](crate::backend::Backend::norm).
pub(super) fn norm(
    cpu: &Cpu,
    norm: Norm,
    x: &CpuTensor,
    weight: Option<&CpuTensor>,
    bias: Option<&CpuTensor>,
) -> Result<CpuTensor> {
    norm.check()?;
    let &width = x.shape().last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    for (name, given) in [("weight", weight), ("bias", bias)] {
        if let Some(given) = given
            && given.shape() != [width]
        {
            return Err(Error::shape(name, "shape", format!("[{width}]"), format!("{:?}", given.shape())));
        }
    }
    let x = x.wide();
    let [weight, bias] = [weight, bias].map(|given| given.map(CpuTensor::wide));
    let mut y = vec![0.0; x.data().len()];
    if width > 0 {
        let piece = PIECE.div_ceil(width) * width;
        let pieces = y.chunks_mut(piece).zip(x.data().chunks(piece)).collect();
        cpu.threads().each(4 * x.data().len(), pieces, |(y, x): (&mut [f32], &[f32])| {
            let [weight, bias] = [&weight, &bias].map(|given| given.as_ref().map(CpuTensor::data));
            cpu.level().run(Normalize { norm, width, x, weight, bias, y });
        });
    }
    Ok(Array::new(x.shape(), y)?.into())
}

/// As [`Backend::log_sum_exp`](crate::backend::Backend::log_sum_exp).
pub(super) fn log_sum_exp(cpu: &Cpu, x: &CpuTensor) -> Result<CpuTensor> {
    let (&width, lead) = x.shape().split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    let x = x.wide();
    let mut y = vec![f32::NEG_INFINITY; lead.iter().product()];
    if width > 0 {
        let rows = x.data().chunks_exact(width).zip(&mut y).collect();
        let row = |(row, y): (&[f32], &mut f32)| *y = cpu.level().run(LogSumExp(row));
        cpu.threads().each(16 * x.data().len(), rows, row);
    }
    Ok(Array::new(lead, y)?.into())
}

struct LogSumExp<'a>(&'a [f32]);

impl Kernel for LogSumExp<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let Self(x) = self;
        let largest = x.iter().copied().fold(f32::NEG_INFINITY, |a, b| if a >= b { a } else { b });
        if largest == f32::NEG_INFINITY {
            return largest;
        }
        let mut sum = 0.0f64;
        for chunk in x.chunks(S::LANES) {
            // SAFETY: a chunk is at most a vector long.
            let x = unsafe { s.load_part(chunk.as_ptr(), chunk.len()) };
            let powers = s.lanes(super::math::exp(s, s.sub(x, s.splat(largest))));
            sum += powers[..chunk.len()].iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        (f64::from(largest) + sum.ln()) as f32
    }
}

/// As [`Backend::top_k`](crate::backend::Backend::top_k).
pub(super) fn top_k(cpu: &Cpu, x: &CpuTensor, k: usize) -> Result<(CpuTensor, Array<u32>)> {
    let (&width, lead) = x.shape().split_last().ok_or_else(|| Error::shape("x", "rank", "at least 1", 0))?;
    if k > width {
        return Err(Error::shape("x", "last axis", format!("at least the {k} entries asked for"), width));
    }
    let x = x.wide();
    let rows = lead.iter().product::<usize>();
    let (mut values, mut ids) = (vec![0.0; rows * k], vec![0; rows * k]);
    if k > 0 {
        let rows = x.data().chunks_exact(width).zip(values.chunks_exact_mut(k).zip(ids.chunks_exact_mut(k))).collect();
        let row = |(row, (values, ids)): (&[f32], (&mut [f32], &mut [u32]))| largest(row, values, ids);
        cpu.threads().each(x.data().len() * k.ilog2().max(1) as usize, rows, row);
    }
    let shape = [lead, &[k]].concat();
    Ok((Array::new(&shape, values)?.into(), Array::new(&shape, ids)?))
}

/// The largest entries of a row, kept in order while it is gone through.
fn largest(row: &[f32], values: &mut [f32], ids: &mut [u32]) {
    let key = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
    let mut count = 0;
    for (n, &x) in row.iter().enumerate() {
        if count == ids.len() && key(x) <= key(values[count - 1]) {
            continue;
        }
        let before = &values[..count];
        let at = before.partition_point(|&other| key(other) >= key(x));
        count = (count + 1).min(ids.len());
        values[at..count].rotate_right(1);
        ids[at..count].rotate_right(1);
        (values[at], ids[at]) = (x, n as u32);
    }
}

/// Rows of a table by ids.
pub(super) fn embed(cpu: &Cpu, table: &CpuTensor, ids: &Array<u32>) -> Result<CpuTensor> {
    let &[entries, width] = table.shape() else {
        return Err(Error::shape("table", "rank", "2 [V, D]", table.shape().len()));
    };
    if let Some((k, id)) = ids.data().iter().enumerate().find(|&(_, &id)| id as usize >= entries) {
        return Err(Error::shape("ids", format!("id {k}"), format!("below {entries}"), id));
    }
    let mut rows = vec![0.0; ids.data().len() * width];
    if width > 0 {
        let each = rows.chunks_exact_mut(width).zip(ids.data());
        each.for_each(|(row, &id)| cpu.level().run(Read { table, first: id as usize * width, row }));
    }
    Ok(Array::new(&[ids.shape(), &[width]].concat(), rows)?.into())
}

struct Read<'a> {
    table: &'a CpuTensor,
    first: usize,
    row: &'a mut [f32],
}

impl Kernel for Read<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.table.elements().read(s, self.first, self.row);
    }
}
