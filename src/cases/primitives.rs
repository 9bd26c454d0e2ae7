//! Element-wise work, normalisations, reductions: primitives of the backend trait, each written once for all backends.

use super::Random;
use crate::attention::{Rotary, RotaryEmbedding, RotaryLayout};
use crate::backend::{Backend, IntegersOf};
use crate::error::Result;
use crate::norm::Norm;
use crate::rnn::Activation;
use crate::tensor::Array;

/// One call of some primitives.
#[derive(Debug, Clone)]
pub struct PrimitiveCase {
    /// Unique in the table.
    pub name: String,
    /// What is computed.
    pub primitive: Primitive,
    /// The first operand.
    pub x: Array<f32>,
    /// The second, of those that have one.
    pub y: Array<f32>,
}

/// What is computed of a case's operands.
#[derive(Debug, Clone)]
pub enum Primitive {
    /// Sum, product and, of either operand, an activation.
    Elementwise(Activation),
    /// Of x, and of x + y; with weight and bias where the flag says so.
    Norm(Norm, bool),
    /// Sums and means of rows, also of so many entries for each of the first axis.
    Reduce(Vec<u32>),
    /// So many largest entries of rows.
    TopK(usize),
    /// ln Σ e^x of rows.
    LogSumExp,
    /// x [B, H, N, D] as these positions of each batch row.
    Rotary(Rotary, Vec<u32>),
    /// x [B, H, n, D] and y [B, H, n, Dv] into caches of so many rows, or pools of pages of so many; where each batch row
    /// starts, and its pages.
    Append(usize, Vec<u32>, Option<Array<u32>>),
}

/// What a case gives on a backend.
pub struct PrimitiveOutputs<B: Backend> {
    /// Results of numbers.
    pub numbers: Vec<B::Value>,
    /// Results of integers.
    pub integers: Vec<IntegersOf<B>>,
}

impl PrimitiveCase {
    /// The results on a backend.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn run<B: Backend>(&self, b: &mut B) -> Result<PrimitiveOutputs<B>> {
        let (x, y) = (b.constant("x", &self.x)?, b.constant("y", &self.y)?);
        let numbers = match &self.primitive {
            Primitive::Elementwise(f) => {
                let sum = b.add(&x, &y)?;
                vec![b.multiply(&x, &y)?, b.activate(*f, &x)?, b.activate(*f, &sum)?, sum]
            }
            Primitive::Norm(norm, scaled) => {
                let width = self.x.shape().last().copied().unwrap_or(1);
                let mut random = Random::new(&self.name);
                let weight = b.constant("weight", &random.array(&[width]))?;
                let bias = b.constant("bias", &random.array(&[width]))?;
                let (weight, bias) = (scaled.then_some(&weight), scaled.then_some(&bias));
                let mut results = vec![b.norm(*norm, &x, weight, bias)?, b.norm(*norm, &x, None, bias)?];
                results.extend(b.norm_residual(*norm, &x, &y, weight, None)?);
                results
            }
            Primitive::Reduce(lengths) => {
                let lengths = b.integers("lengths", &Array::new(&[lengths.len()], lengths.clone())?)?;
                // Over the first axis as well: rows whose entries lie apart.
                let order: Vec<usize> = (0..self.x.shape().len()).rev().collect();
                let turned = b.permute(&x, &order)?;
                vec![b.sum(&x)?, b.mean(&x, None)?, b.mean(&x, Some(&lengths))?, b.sum(&turned)?]
            }
            Primitive::LogSumExp => {
                let order: Vec<usize> = (0..self.x.shape().len()).rev().collect();
                let turned = b.permute(&x, &order)?;
                vec![b.log_sum_exp(&x)?, b.log_sum_exp(&turned)?]
            }
            Primitive::Rotary(rotary, positions) => {
                let (batch, rows) = (self.x.shape()[0], self.x.shape()[2]);
                let last = positions.iter().max().map_or(0, |&last| last as usize) + rotary.offset;
                let [cos, sin] = Rotary::tables(10_000.0, self.x.shape()[3] / 2, last + 1)?;
                let tables = [b.constant("cos", &cos)?, b.constant("sin", &sin)?];
                let positions = b.integers("positions", &Array::new(&[batch, rows], positions.clone())?)?;
                vec![b.rotary(&x, &RotaryEmbedding::new(*rotary, tables), &positions)?]
            }
            Primitive::Append(rows, starts, table) => {
                let pages = match table {
                    Some(table) => table.data().iter().max().map_or(0, |&last| last as usize),
                    None => self.x.shape()[0],
                };
                let mut cache = |x: &Array<f32>| {
                    let shape = [pages, x.shape()[1], *rows, x.shape()[3]];
                    b.constant("cache", &Random::new("cache").array(&shape))
                };
                let (mut keys, mut values) = (cache(&self.x)?, cache(&self.y)?);
                let starts = b.integers("starts", &Array::new(&[starts.len()], starts.clone())?)?;
                let table = table.as_ref().map(|table| b.integers("table", table)).transpose()?;
                b.append([&mut keys, &mut values], [&x, &y], &starts, table.as_ref())?;
                vec![keys, values]
            }
            Primitive::TopK(k) => {
                let (numbers, integers) = [b.top_k(&x, *k)?, b.top_k(&x, 1)?].into_iter().unzip();
                return Ok(PrimitiveOutputs { numbers, integers });
            }
        };
        Ok(PrimitiveOutputs { numbers, integers: Vec::new() })
    }
}

/// Shapes of one to four axes, numbers of all sizes.
pub fn primitives() -> Vec<PrimitiveCase> {
    let mut table = Vec::new();
    let mut add = |name: String, primitive, shape: &[usize], other: &[usize], size: f32| {
        let mut random = Random::new(&name);
        let (x, y) = (random.array(shape).map(|x| x * size), random.array(other).map(|x| x * size));
        table.push(PrimitiveCase { name, primitive, x, y });
    };
    let shapes: [(&[usize], &[usize]); 5] = [
        (&[7], &[7]),
        (&[3, 5], &[3, 1]),
        (&[2, 3, 5], &[1, 3, 1]),
        (&[2, 3, 5, 67], &[2, 1, 5, 67]),
        (&[1, 1], &[1, 1]),
    ];
    for f in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Tanh, Activation::Softplus] {
        for (k, (shape, other)) in shapes.into_iter().enumerate() {
            // Far into both tails.
            let size = [1.0, 3.0, 9.0][k % 3];
            add(format!("elementwise {f:?} {shape:?}"), Primitive::Elementwise(f), shape, other, size);
        }
    }
    for norm in [Norm::layer(1e-5), Norm::rms(1e-6), Norm::layer(0.1)] {
        for shape in [&[1][..], &[3, 7], &[2, 5, 64], &[2, 2, 3, 129], &[1, 1000]] {
            for size in [1.0, 1e20, 1e-20, 0.0] {
                let name = format!("{norm:?} of {shape:?}, size {size:e}");
                add(name, Primitive::Norm(norm, size < 2.0), shape, shape, size);
            }
        }
    }
    let reductions: [(&[usize], Vec<u32>, usize); 4] = [
        (&[1], vec![1], 1),
        (&[3, 7], vec![0, 7, 3], 7),
        (&[2, 5, 67], vec![66, 1], 5),
        (&[2, 3, 2, 300], vec![300, 17], 12),
    ];
    for (shape, _, k) in &reductions {
        add(format!("{k} largest of {shape:?}"), Primitive::TopK(*k), shape, &[1], 1.0);
    }
    for (shape, _, _) in &reductions {
        for size in [1.0, 80.0, 1e4] {
            add(format!("log-sum-exp of {shape:?}, size {size:e}"), Primitive::LogSumExp, shape, &[1], size);
        }
    }
    for (layout, offset) in [(RotaryLayout::HalfSplit, 0), (RotaryLayout::Interleaved, 3)] {
        let positions = vec![5, 0, 17, 300, 2, 2];
        let primitive = Primitive::Rotary(Rotary { layout, offset }, positions);
        add(format!("rotary by positions {layout:?}"), primitive, &[2, 3, 3, 16], &[1], 1.0);
    }
    // Past the end, and beyond 32 bits; a page that is not there.
    let starts = vec![2, 6, u32::MAX];
    add("append".to_owned(), Primitive::Append(7, starts, None), &[3, 2, 3, 5], &[3, 2, 3, 4], 1.0);
    for (size, pages) in [(1, [4, 1, 7, 0, 5, 2, 3, 6]), (3, [1, 0, 5, 3, 2, 4, 6, 7])] {
        let table = Array::new(&[2, 4], pages.to_vec()).ok();
        let name = format!("append to pages of {size}");
        add(name, Primitive::Append(size, vec![1, 2], table), &[2, 2, 2, 8], &[2, 2, 2, 8], 1.0);
    }
    for (shape, lengths, _) in reductions {
        // Nothing cancels: what f32 loses is then the same in any order, about.
        let name = format!("reductions of {shape:?}");
        let x = Random::new(&name).array(shape).map(|x| x.abs());
        table.push(PrimitiveCase { name, primitive: Primitive::Reduce(lengths), y: x.clone(), x });
    }
    // Equals: the smaller index first.
    let name = "largest among equals".to_owned();
    let x = Random::new(&name).whole(&[4, 90], 3);
    table.push(PrimitiveCase { name, primitive: Primitive::TopK(20), y: x.clone(), x });
    table
}
