//! Linear layers: products with packed weights.

use super::activation::activate;
use super::memory::{LINE, Room, elements};
use super::plan::Cut;
use super::product::{Columns, Strided, Tiles, accumulate, tiles};
use super::simd::{Kernel, Simd};
use super::threads::with_room;
use super::{Cpu, CpuTensor};
use crate::backend::{Epilogue, Value};
use crate::error::{Error, Result};
use crate::rnn::Activation;
use crate::tensor::Array;

/// A matrix [N, K] as columns of products: panels of two vectors of its rows, [⌈N / panel⌉][K][panel], filled up with zeros.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    pub(crate) panel: usize,
    data: Room,
}

impl Packed {
    /// Column n is row `row(n)` of `matrix` [.., `depth`], or 0.
    pub(crate) fn new(
        matrix: &[f32],
        depth: usize,
        columns: usize,
        panel: usize,
        row: impl Fn(usize) -> Option<usize>,
    ) -> Self {
        let count = columns.div_ceil(panel);
        let mut data = Room::zeros(count * depth * panel);
        // Behind the last panel may be what fills up a line.
        for (n, panels) in data.chunks_exact_mut((depth * panel).max(1)).take(count).enumerate() {
            for lane in 0..panel.min(columns - n * panel) {
                let Some(row) = row(n * panel + lane) else { continue };
                for (k, &x) in matrix[row * depth..][..depth].iter().enumerate() {
                    panels[k * panel + lane] = x;
                }
            }
        }
        Self { columns, depth, panel, data }
    }

    /// `count` panels from panel `n` on, each [K][panel].
    pub(crate) fn panels(&self, n: usize, count: usize) -> &[f32] {
        &self.data[n * self.depth * self.panel..][..count * self.depth * self.panel]
    }
}

/// Rows times packed columns, and what follows.
pub(crate) struct Product<'a> {
    /// x [M, K_p] and its columns.
    pub(crate) summands: Vec<(&'a [f32], &'a Packed)>,
    /// [N].
    pub(crate) bias: Option<&'a [f32]>,
    /// [M, N].
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) activation: Option<Activation>,
}

/// Rows `rows` of a product, and panels `panels` of it.
struct Piece<'a> {
    product: &'a Product<'a>,
    rows: [usize; 2],
    panels: [usize; 2],
    columns: usize,
    output: Shared,
    room: &'a mut Room,
}

/// Memory that threads write at places of their own.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);

// SAFETY: whoever writes says which places no other thread touches meanwhile.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Product<'_> {
    /// f(Σ_p x_p · w_pᵀ + b + residual), [M, N].
    pub(crate) fn run(&self, cpu: &Cpu, rows: usize, output: &mut [f32]) {
        let Some((_, first)) = self.summands.first() else { return };
        let (columns, panel) = (first.columns, first.panel);
        assert_eq!(Some(output.len()), rows.checked_mul(columns));
        assert!(self.summands.iter().all(|(_, packed)| (packed.columns, packed.panel) == (columns, panel)));
        let depth: usize = self.summands.iter().map(|(_, packed)| packed.depth).sum();
        let panels = columns.div_ceil(panel);
        let cut = Cut::new(rows, panels, depth, cpu.processor());
        let output = Shared(output.as_mut_ptr());
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(cut.rows) {
            for panel in (0..panels).step_by(cut.panels) {
                pieces.push(([first, (first + cut.rows).min(rows)], [panel, (panel + cut.panels).min(panels)]));
            }
        }
        cpu.threads().each(rows.saturating_mul(columns).saturating_mul(depth), pieces, |(rows, panels)| {
            with_room(|room| {
                cpu.level().run(Piece { product: self, rows, panels, columns, output, room });
            });
        });
    }
}

impl Kernel for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { product, rows, panels, columns, output, room } = self;
        let count = rows[1] - rows[0];
        let depth: usize = product.summands.iter().map(|(_, packed)| packed.depth + LINE).sum();
        // Rows at a distance that is no power of two: their elements would fall upon each other in the cache.
        let [x] = room.split([count * depth]);
        let mut skip = 0;
        for (from, packed) in &product.summands {
            for r in 0..count {
                x[r * depth + skip..][..packed.depth]
                    .copy_from_slice(&from[(rows[0] + r) * packed.depth..][..packed.depth]);
            }
            skip += packed.depth + LINE;
        }
        for panel in panels[0]..panels[1] {
            let mut tile = Tile { product, x, depth, panel, columns, first: rows[0], output };
            tiles(s, count, &mut tile);
        }
    }
}

/// One panel for some rows.
struct Tile<'a> {
    product: &'a Product<'a>,
    /// [rows, depth].
    x: &'a [f32],
    depth: usize,
    panel: usize,
    columns: usize,
    /// The product's row that is the first one of x.
    first: usize,
    output: Shared,
}

impl<S: Simd> Tiles<S> for Tile<'_> {
    #[inline(always)]
    fn tile<const R: usize>(&mut self, s: S, row: usize) {
        let column = self.panel * 2 * S::LANES;
        assert!(self.product.summands.iter().all(|(_, packed)| packed.panel == 2 * S::LANES));
        // How much of each vector there is.
        let part = [0, 1].map(|w| (self.columns - column).saturating_sub(w * S::LANES).min(S::LANES));
        let start = match self.product.bias {
            Some(bias) => [vector(s, bias, column, part[0]), vector(s, bias, column + S::LANES, part[1])],
            None => [s.splat(0.0); 2],
        };
        let mut sums = [start; R];
        let mut skip = 0;
        for (_, packed) in &self.product.summands {
            let a = &self.x[row * self.depth + skip..];
            assert!(a.len() >= (R - 1) * self.depth + packed.depth);
            let a = Strided { at: a.as_ptr(), row: self.depth, column: 1 };
            let b = Columns { at: packed.panels(self.panel, 1).as_ptr(), row: 2 * S::LANES };
            // SAFETY: x has R rows from there on, and the panel is as deep.
            sums = unsafe { accumulate(s, packed.depth, a, b, sums) };
            skip += packed.depth + LINE;
        }
        for (r, sums) in sums.iter().enumerate() {
            let at = (self.first + row + r) * self.columns + column;
            for (w, &sum) in sums.iter().enumerate() {
                let mut y = sum;
                if let Some(residual) = self.product.residual {
                    y = s.add(y, vector(s, residual, at + w * S::LANES, part[w]));
                }
                if let Some(f) = self.product.activation {
                    y = activate(s, f, y);
                }
                // SAFETY: `part` elements are within the output's row, and no other piece has this row and panel.
                unsafe {
                    let at = self.output.0.add(at + w * S::LANES);
                    match part[w] {
                        n if n == S::LANES => s.store(at, y),
                        0 => {}
                        n => s.store_part(at, y, n),
                    }
                }
            }
        }
    }
}

/// The `n` elements from `at` on, at most a vector, and 0 behind them.
#[inline(always)]
fn vector<S: Simd>(s: S, from: &[f32], at: usize, n: usize) -> S::V {
    if n == 0 {
        return s.splat(0.0);
    }
    let from = &from[at..at + n];
    // SAFETY: the slice has n elements.
    unsafe { if n == S::LANES { s.load(from.as_ptr()) } else { s.load_part(from.as_ptr(), n) } }
}

/// As [`Backend::linear`](crate::backend::Backend::linear).
pub(super) fn linear(
    cpu: &Cpu,
    summands: &[(&CpuTensor, &CpuTensor)],
    epilogue: Epilogue<'_, CpuTensor>,
) -> Result<CpuTensor> {
    let Some(&(first, first_weight)) = summands.first() else {
        return Err(Error::missing("summands", "at least one value and its weights"));
    };
    let several = summands.len() > 1;
    let name = |what: &str, k: usize| if several { format!("{what} {k}") } else { what.to_owned() };
    let Some((_, lead)) = first.shape().split_last() else {
        return Err(Error::shape(name("x", 0), "rank", "at least 1", 0));
    };
    let &[units, _] = first_weight.shape() else {
        return Err(Error::shape(name("weight", 0), "rank", "2 [N, K]", first_weight.shape().len()));
    };
    for (k, (x, weight)) in summands.iter().enumerate() {
        let &[rows, columns] = weight.shape() else {
            return Err(Error::shape(name("weight", k), "rank", "2 [N, K]", weight.shape().len()));
        };
        if rows != units {
            return Err(Error::shape(name("weight", k), "axis 0 (units)", units, rows));
        }
        if columns == 0 || units == 0 {
            let found = format!("{:?}", weight.shape());
            return Err(Error::shape(name("weight", k), "shape", "at least 1 on each axis", found));
        }
        match x.shape().split_last() {
            Some((&width, others)) if others == lead && width == columns => {}
            Some((&width, others)) if others == lead => {
                return Err(Error::shape(name("x", k), format!("axis {} (features)", lead.len()), columns, width));
            }
            _ => {
                let expected = format!("{lead:?} and a last axis");
                return Err(Error::shape(name("x", k), "shape", expected, format!("{:?}", x.shape())));
            }
        }
    }
    let shape = [lead, &[units]].concat();
    let check = |name: &str, x: Option<&CpuTensor>, wanted: &[usize]| match x {
        Some(x) if x.shape() != wanted => {
            Err(Error::shape(name, "shape", format!("{wanted:?}"), format!("{:?}", x.shape())))
        }
        _ => Ok(()),
    };
    check("bias", epilogue.bias, &[units])?;
    check("residual", epilogue.residual, &shape)?;
    let x: Vec<CpuTensor> = summands.iter().map(|(x, _)| x.wide()).collect();
    let panel = cpu.panel();
    let packed: Vec<_> = summands.iter().map(|(_, weight)| weight.packed(panel)).collect();
    let [bias, residual] = [epilogue.bias, epilogue.residual].map(|x| x.map(CpuTensor::wide));
    let product = Product {
        summands: x.iter().map(CpuTensor::data).zip(packed.iter().map(|packed| &**packed)).collect(),
        bias: bias.as_ref().map(CpuTensor::data),
        residual: residual.as_ref().map(CpuTensor::data),
        activation: epilogue.activation,
    };
    let rows = elements("x", lead)?;
    let mut output = vec![0.0; elements("a linear layer", &[rows, units])?];
    product.run(cpu, rows, &mut output);
    Ok(Array::new(&shape, output)?.into())
}
