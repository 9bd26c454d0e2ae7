//! Matrix products: linear layers, X·W of a whole sequence before a recurrence (`shaders/matmul.wgsl`,
//! `shaders/matmul_tiled.wgsl`, and `shaders/matmul_sum.wgsl` where the depth is split).

use std::borrow::Borrow;

use super::{ActivationParams, View4, copy, read, switch};
use crate::device::Caps;
use crate::epilogue::Epilogue;
use crate::error::{Error, Result};
use crate::plan::{ElementPlan, MatmulPlan, ProductForm, ProductShape};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::{DType, Layout};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

/// How x lies, by X_LAYOUT.
const X: Source = Source::Choice {
    constant: "X_LAYOUT",
    sources: &[Source::File(&files::PRODUCT_X_ANY), Source::File(&files::PRODUCT_X_DEPTH)],
};

/// How w lies, by W_LAYOUT.
const W: Source = Source::Choice {
    constant: "W_LAYOUT",
    sources: &[
        Source::File(&files::PRODUCT_W_ANY),
        Source::File(&files::PRODUCT_W_DEPTH),
        Source::File(&files::PRODUCT_W_COLUMNS),
    ],
};

/// How y and the residual lie, by Y_LAYOUT.
const Y: Source = Source::Choice {
    constant: "Y_LAYOUT",
    sources: &[Source::File(&files::PRODUCT_Y_ANY), Source::File(&files::PRODUCT_Y_COLUMNS)],
};

/// What all three share.
const SHARED: Source = Source::All(&[
    Source::File(&files::LAYOUT),
    Source::File(&files::MATH),
    Source::File(&files::ACTIVATION),
    Source::File(&files::PRODUCT),
]);

const BUFFERS: [Buffer; 5] = [
    Buffer::read("x", "elem"),
    Buffer::read("w", "w_elem"),
    Buffer::read("bias", "f32"),
    Buffer::read("residual", "r_elem"),
    Buffer::write("y", "out_elem"),
];

/// Constants of a product at most.
const MOST_OVERRIDES: usize = 13;

/// In registers.
pub static KERNEL: Kernel = Kernel {
    name: "matmul",
    sources: &[
        X,
        W,
        Y,
        // How the lanes of a workgroup load the rows of x that they share.
        Source::Choice {
            constant: "BROADCAST",
            sources: &[
                Source::All(&[
                    Source::Lanes { shared: &files::SPLIT_K_SHARED, subgroup: &files::SPLIT_K_SUBGROUP },
                    Source::File(&files::X_ROWS_DIRECT),
                ]),
                Source::File(&files::X_ROWS_BROADCAST),
            ],
        },
        SHARED,
        Source::File(&file!("matmul.wgsl", ["TILE_M"])),
    ],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

/// With tiles of both operands staged in workgroup memory.
pub static TILED: Kernel = Kernel {
    name: "matmul_tiled",
    sources: &[X, W, Y, SHARED, Source::File(&file!("matmul_tiled.wgsl", ["TILE_QUADS"]))],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

/// By cooperative matrices.
pub static COOPERATIVE: Kernel = Kernel {
    name: "matmul_coop",
    sources: &[
        Source::Cooperative,
        X,
        W,
        Y,
        SHARED,
        Source::File(&file!("matmul_coop.wgsl", ["LANES", "MATRICES", "K_QUADS"])),
    ],
    buffers: &BUFFERS,
    params: &Params::TYPE,
};

/// Split-K reduction.
pub static SUM: Kernel = Kernel {
    name: "matmul_sum",
    sources: &[Y, SHARED, Source::File(&file!("matmul_sum.wgsl", ["LANES"]))],
    buffers: &[
        Buffer::read("x", "f32"),
        Buffer::read("w", "f32"),
        Buffer::read("bias", "f32"),
        Buffer::read("residual", "r_elem"),
        Buffer::write("y", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `common/product.wgsl`.
    struct Params {
        x: View4,
        w: View4,
        y: View4,
        residual: View4,
        activation: ActivationParams,
        rows: u32,
        batches: u32,
        row_tiles: u32,
        column_tiles: u32,
        tiles: u32,
        rows_inner: u32,
        splits: u32,
        split_quads: u32,
        bias: u32,
        bias_stride: u32,
    }
}

/// `y = f(Σ_p x_p · w_pᵀ + bias + residual)` over one or more summands, of any strides: x_p [.., M, K_p] (up to four axes),
/// w_p [N, K_p], or [.., N, K_p] with x's leading axes where each batch has weights of its own, y [.., M, N]. Several
/// summands are the product with a concatenation that is never built. Operands are f32 or f16 each, sums f32.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the grid does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    summands: &[(impl Borrow<View>, impl Borrow<View>)],
    epilogue: &Epilogue<'_, View>,
    y: &View,
) -> Result<()> {
    let shape = |(x, w): &(_, _)| product(Borrow::borrow(x), Borrow::borrow(w), y);
    summands.iter().try_for_each(|summand| shape(summand).map(drop))?;
    check(epilogue, y)?;
    // f16 outputs would round between the summands.
    if y.dtype != DType::F32 && summands.len() > 1 {
        let sum = recording.scratch("sum of products", y.shape(), DType::F32);
        record(recording, caps, summands, epilogue, &sum)?;
        return copy::record(recording, caps, &sum, y);
    }
    if y.layout.elements() == 0 {
        return Ok(());
    }
    for (p, (x, w)) in summands.iter().enumerate() {
        let (x, w) = (x.borrow(), w.borrow());
        let last = p + 1 == summands.len();
        let epilogue = if last { *epilogue } else { Epilogue::default() };
        Summand { x, w, y, shape: product(x, w, y)?, epilogue, accumulate: p > 0 }.record(recording, caps)?;
    }
    Ok(())
}

/// The shape of a summand, checked. Without batches all leading axes of x are rows.
fn product(x: &View, w: &View, y: &View) -> Result<ProductShape> {
    let Some((&columns, leading)) = y.shape().split_last() else {
        return Err(Error::shape("output of a product", "rank", "1 to 4", 0));
    };
    let (&[.., found, depth], Some((&width, lead))) = (w.shape(), x.shape().split_last()) else {
        return Err(Error::shape("weight", "rank", "2 to 4", w.shape().len()));
    };
    if found != columns {
        return Err(Error::shape("weight", "axis of outputs", columns, found));
    }
    let all: usize = leading.iter().product();
    if width != depth || lead.iter().product::<usize>() != all {
        let expected = format!("{all} rows of {depth}");
        return Err(Error::shape("input of a product", "shape", expected, format!("{:?}", x.shape())));
    }
    let batch_axes = &w.shape()[..w.shape().len() - 2];
    if !batch_axes.is_empty() {
        let fits = |shape: &[usize]| shape.len() == w.shape().len() && shape.starts_with(batch_axes);
        if !fits(x.shape()) || !fits(y.shape()) {
            let found = format!("{:?}, {:?}", x.shape(), y.shape());
            return Err(Error::shape("input, output of a product", "batch axes", format!("{batch_axes:?}"), found));
        }
    }
    for (name, dtype) in [("input", x.dtype), ("weight", w.dtype), ("output", y.dtype)] {
        dtype.check_float(name)?;
    }
    let batches: usize = batch_axes.iter().product();
    Ok(ProductShape { batches, rows: all / batches.max(1), columns, depth })
}

fn check(epilogue: &Epilogue<'_, View>, y: &View) -> Result<()> {
    let columns = y.shape().last().copied().unwrap_or(0);
    if let Some(bias) = epilogue.bias
        && (bias.shape() != [columns] || bias.dtype != DType::F32)
    {
        let found = format!("{:?} {}", bias.shape(), bias.dtype);
        return Err(Error::shape("bias", "shape", format!("[{columns}] f32"), found));
    }
    if let Some(residual) = epilogue.residual {
        residual.dtype.check_float("residual")?;
        if residual.shape() != y.shape() {
            return Err(Error::shape(
                "residual",
                "shape",
                format!("{:?}", y.shape()),
                format!("{:?}", residual.shape()),
            ));
        }
    }
    Ok(())
}

/// The layout with all axes but the last as one, where their elements are evenly spaced.
fn flat(layout: &Layout) -> Option<Layout> {
    let (&columns, leading) = layout.shape.split_last()?;
    let (&step, strides) = layout.strides.split_last()?;
    let mut apart = None;
    let mut rows = 1;
    for (&length, &stride) in leading.iter().zip(strides).rev().filter(|(length, _)| **length != 1) {
        if apart.is_some_and(|apart| stride != rows * apart) {
            return None;
        }
        apart = apart.or(Some(stride));
        rows *= length;
    }
    let (shape, strides) = ([rows, columns].into(), [apart.unwrap_or(0), step].into());
    Some(Layout { shape, strides, offset: layout.offset })
}

/// Which axis of an operand has its neighbours beside each other in memory, four of which are one load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vectors {
    /// None.
    Any = 0,
    /// The last: the depth of x and w, the columns of y.
    Last = 1,
    /// The one before the last: the columns of y in w.
    BeforeLast = 2,
}

/// Whether vec4 along `axis` can be read: they begin at multiples of 4 elements, and the last of them lies within the
/// buffer even where the axis ends before it does.
fn in_vectors(recording: &Recording, view: &View, axis: usize) -> bool {
    let layout = &view.layout;
    let lies = |(n, (&length, &stride)): (usize, (&usize, &usize))| {
        if n == axis { stride == 1 || length == 1 } else { stride.is_multiple_of(4) || length == 1 }
    };
    let fits = |info: &crate::recording::SlotInfo| {
        let end = layout.span().next_multiple_of(4);
        view.dtype.bytes_of(end) as u64 <= info.bytes
    };
    !layout.shape.contains(&0)
        && layout.offset.is_multiple_of(4)
        && layout.shape.iter().zip(&layout.strides).enumerate().all(lies)
        && recording.info(view.slot).is_some_and(fits)
}

impl Vectors {
    fn of_x(recording: &Recording, x: &View) -> Self {
        let depth = x.shape().len().saturating_sub(1);
        if in_vectors(recording, x, depth) { Self::Last } else { Self::Any }
    }

    fn of_w(recording: &Recording, w: &View) -> Self {
        let depth = w.shape().len().saturating_sub(1);
        if in_vectors(recording, w, depth) {
            Self::Last
        } else if in_vectors(recording, w, depth.saturating_sub(1)) {
            Self::BeforeLast
        } else {
            Self::Any
        }
    }

    /// Of y, and of the residual with it; whole quads alone, as a store past the end would be someone else's.
    fn of_y(recording: &Recording, y: &View, residual: Option<&View>) -> Self {
        let columns = y.shape().len().saturating_sub(1);
        let whole = y.shape().last().is_some_and(|n| n.is_multiple_of(4));
        let lies = |view: &View| in_vectors(recording, view, columns);
        if whole && lies(y) && residual.is_none_or(lies) { Self::Last } else { Self::Any }
    }
}

/// One product of a sum.
struct Summand<'a> {
    x: &'a View,
    w: &'a View,
    y: &'a View,
    shape: ProductShape,
    epilogue: Epilogue<'a, View>,
    /// Adds to what y holds.
    accumulate: bool,
}

impl Summand<'_> {
    fn record(&self, recording: &mut Recording, caps: &Caps) -> Result<()> {
        let half = [self.x, self.w].iter().all(|view| view.dtype == DType::F16);
        let plan = MatmulPlan::of_operands("a product", &self.shape, half, caps)?;
        if plan.splits == 1 {
            return self.dispatch(recording, &plan, self.y, true);
        }
        let ProductShape { batches, rows, columns, .. } = self.shape;
        let sums = [plan.splits as usize * batches * rows, columns.next_multiple_of(4)];
        let sums = recording.scratch("partial sums", &sums, DType::F32);
        self.dispatch(recording, &plan, &sums, false)?;
        self.reduce(recording, caps, &plan, &sums)
    }

    /// Parameters with y at `y`, and whether all rows are evenly spaced.
    fn params(&self, plan: &MatmulPlan, y: &View) -> Result<(Params, bool)> {
        let residual = self.epilogue.residual.unwrap_or(y);
        let bias = self.epilogue.bias;
        let layouts = [self.x, y, residual].map(|view| &view.layout);
        let flat = layouts.map(flat);
        let evenly = flat.iter().all(Option::is_some);
        let [x, y, residual] = match &flat {
            [Some(x), Some(y), Some(residual)] => [x, y, residual].map(View4::of),
            _ => layouts.map(View4::of),
        };
        let params = Params {
            x: x?,
            w: View4::new(self.w)?,
            y: y?,
            residual: residual?,
            activation: ActivationParams::new(self.epilogue.activation),
            rows: self.shape.rows as u32,
            batches: self.shape.batches as u32,
            row_tiles: plan.row_tiles,
            column_tiles: plan.column_tiles,
            tiles: plan.workgroups as u32,
            rows_inner: u32::from(plan.rows_inner),
            splits: plan.splits,
            split_quads: plan.split_quads,
            bias: bias.map_or(0, |b| b.layout.offset as u32),
            bias_stride: bias.map_or(0, |b| b.layout.strides[0] as u32),
        };
        Ok((params, evenly))
    }

    /// Constants of the epilogue, and the layout of y and the residual.
    fn epilogue_overrides(&self, vectors: Vectors) -> Vec<(&'static str, f64)> {
        let activation = ActivationParams::new(self.epilogue.activation);
        let mut overrides = Vec::with_capacity(MOST_OVERRIDES);
        overrides.extend([
            ("Y_LAYOUT", vectors as u32 as f64),
            ("HAS_BIAS", switch(self.epilogue.bias.is_some())),
            ("HAS_RESIDUAL", switch(self.epilogue.residual.is_some())),
            ("ACCUMULATE", switch(self.accumulate)),
            ("ACTIVATION", f64::from(activation.kind)),
        ]);
        overrides
    }

    /// The product into `y`, with the epilogue if `whole`.
    fn dispatch(&self, recording: &mut Recording, plan: &MatmulPlan, y: &View, whole: bool) -> Result<()> {
        let summand = Summand {
            epilogue: if whole { self.epilogue } else { Epilogue::default() },
            accumulate: whole && self.accumulate,
            ..*self
        };
        let (x, w, residual) = (self.x, self.w, summand.epilogue.residual);
        let (params, evenly) = summand.params(plan, y)?;
        let mut overrides = summand.epilogue_overrides(Vectors::of_y(recording, y, residual));
        overrides.extend([
            ("FLAT", switch(evenly)),
            ("X_LAYOUT", f64::from(Vectors::of_x(recording, x) as u8)),
            ("W_LAYOUT", f64::from(Vectors::of_w(recording, w) as u8)),
            ("TAIL", switch(plan.tail)),
        ]);
        let kernel: &'static Kernel = match plan.form {
            ProductForm::Registers => {
                let lanes = [("LANES", plan.lanes), ("K_SPLITS", plan.k_splits), ("TILE_M", plan.tile_m)];
                overrides.extend(lanes.map(|(name, value)| (name, f64::from(value))));
                overrides.push(("BROADCAST", switch(plan.subgroups && plan.k_splits == 1)));
                &KERNEL
            }
            ProductForm::Tiled => {
                overrides.push(("TILE_QUADS", f64::from(plan.tile_m / 4)));
                &TILED
            }
            ProductForm::Cooperative { side, k_quads } => {
                let tile = [
                    ("SIDE", side),
                    ("LANES", plan.lanes),
                    ("MATRICES", plan.tile_m / (2 * side)),
                    ("K_QUADS", k_quads),
                ];
                overrides.extend(tile.map(|(name, value)| (name, f64::from(value))));
                &COOPERATIVE
            }
        };
        let ProductShape { batches, rows, columns, depth } = self.shape;
        let elements = |view: &View, n: usize| view.dtype.bytes_of(n);
        let bytes = elements(x, batches * rows * depth) + elements(w, batches * columns * depth);
        recording.push(Dispatch {
            variant: Variant {
                subgroups: plan.subgroups,
                ..Variant::new(
                    kernel,
                    [
                        ("elem", x.dtype),
                        ("w_elem", w.dtype),
                        ("r_elem", residual.map_or(DType::F32, |r| r.dtype)),
                        ("out_elem", y.dtype),
                    ],
                    overrides,
                )
            },
            params: params.bytes(),
            bindings: vec![
                Binding::Read(x.slot),
                Binding::Read(w.slot),
                read(summand.epilogue.bias),
                read(residual),
                Binding::Write(y.slot),
            ],
            grid: plan.grid,
            iterations: plan.iterations,
            flops: 2 * (batches * rows * columns * depth) as u64,
            bytes: (bytes + elements(y, y.layout.elements())) as u64,
        });
        Ok(())
    }

    /// Split-K reduction: adds up the partial sums of all slices, then the epilogue.
    fn reduce(&self, recording: &mut Recording, caps: &Caps, plan: &MatmulPlan, sums: &View) -> Result<()> {
        let ProductShape { batches, rows, columns, .. } = self.shape;
        let each = ElementPlan::new("sums of a product", batches * rows * columns.div_ceil(4), caps)?;
        let residual = self.epilogue.residual;
        let mut overrides = self.epilogue_overrides(Vectors::of_y(recording, self.y, residual));
        let x = sums.with(Layout::contiguous(&[1, sums.layout.elements()]));
        let (params, evenly) = Summand { x: &x, ..*self }.params(plan, self.y)?;
        overrides.extend([("LANES", f64::from(each.lanes)), ("FLAT", switch(evenly))]);
        recording.push(Dispatch {
            variant: Variant::new(
                &SUM,
                [("r_elem", residual.map_or(DType::F32, |r| r.dtype)), ("out_elem", self.y.dtype)],
                overrides,
            ),
            params: params.bytes(),
            bindings: vec![
                Binding::Read(sums.slot),
                Binding::Unused,
                read(self.epilogue.bias),
                read(residual),
                Binding::Write(self.y.slot),
            ],
            grid: each.grid,
            iterations: u64::from(plan.splits) + 1,
            flops: sums.layout.elements() as u64,
            bytes: (DType::F32.bytes_of(sums.layout.elements()) + self.y.dtype.bytes_of(self.y.layout.elements()))
                as u64,
        });
        Ok(())
    }
}
