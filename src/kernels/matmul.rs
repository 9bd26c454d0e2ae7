//! Products of dense tensors whose rows are the depth (`shaders/matmul.wgsl`).

use super::{place, read, switch};
use crate::error::{Error, Result};
use crate::plan::{Caps, ProductPlan, grid};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "matmul",
    sources: &[
        Source::Lanes { shared: &files::SPLIT_SHARED, subgroup: &files::SPLIT_SUBGROUP },
        Source::File(&files::LAYOUT),
        Source::File(&files::TILE),
        Source::File(&file!("matmul.wgsl", ["TALL", "SINGLE", "HAS_BIAS", "ACCUMULATE"])),
    ],
    buffers: &[
        Buffer::read("x", "vec4<f32>"),
        Buffer::read("w", "vec4<w_elem>"),
        Buffer::read("bias", "vec4<f32>"),
        Buffer::write("y", "vec4<f32>"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `matmul.wgsl`.
    struct Params {
        rows: u32,
        row_quads: u32,
        first: u32,
        last: u32,
        quads: u32,
        row_tiles: u32,
        column_tiles: u32,
        tiles: u32,
        x: u32,
        w: u32,
        bias: u32,
        y: u32,
    }
}

/// Quads of columns that a lane computes.
pub const QUADS_PER_LANE: usize = 4;

/// `y = xᵀ·w + b`: x [K, rows up to a multiple of 4 or more] f32 ([K, 1] for a single row), w [K, N], b `[N]` f32, y [rows, N] f32;
/// N a multiple of 4, all dense.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the grid does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    plan: ProductPlan,
    [x, w, y]: [&View; 3],
    bias: Option<&View>,
) -> Result<()> {
    let (&[depth, columns], &[rows, width]) = (w.shape(), y.shape()) else {
        return Err(Error::shape("operands of a product", "rank", 2, w.shape().len()));
    };
    // Neighbouring k of x are so far apart; at least the rows, up to a multiple of 4.
    let padded = x.shape().last().copied().unwrap_or(0);
    let row_quads = padded.div_ceil(4);
    let dense = [("x", x), ("w", w), ("y", y)].into_iter().chain(bias.map(|b| ("bias", b)));
    for (name, view) in dense {
        if !view.layout.is_contiguous() {
            return Err(Error::shape(name, "strides", "contiguous", format!("{:?}", view.layout.strides)));
        }
    }
    let fits = x.shape().first() == Some(&depth) && padded >= rows && (rows == 1 || padded % 4 == 0);
    if !fits || width != columns || columns % 4 != 0 {
        let expected = format!("{depth} × {rows} up to a multiple of 4, {columns} columns");
        return Err(Error::shape("x of a product", "elements", expected, format!("{:?}, {width} columns", x.shape())));
    }
    let column_tiles = (columns / 4).div_ceil(QUADS_PER_LANE * plan.columns());
    let tiles = plan.row_tiles as usize * column_tiles;
    let chunk = caps.max_iterations.saturating_sub(128).max(1) as usize;
    let ranges: Vec<_> = (0..depth.max(1)).step_by(chunk).map(|k| (k, (k + chunk).min(depth))).collect();
    for (number, &(first, last)) in ranges.iter().enumerate() {
        let bias = bias.filter(|_| number == 0);
        let params = Params {
            rows: rows as u32,
            row_quads: row_quads as u32,
            first: first as u32,
            last: last as u32,
            quads: (columns / 4) as u32,
            row_tiles: plan.row_tiles,
            column_tiles: column_tiles as u32,
            tiles: tiles as u32,
            x: place("x of a product", x)?,
            w: place("w of a product", w)?,
            bias: bias.map_or(Ok(0), |b| place("bias of a product", b))?,
            y: place("y of a product", y)?,
        };
        recording.push(Dispatch {
            variant: Variant {
                subgroups: plan.subgroups,
                ..Variant::new(
                    &KERNEL,
                    [("w_elem", w.dtype)],
                    [
                        ("LANES", f64::from(plan.lanes)),
                        ("PARTS", f64::from(plan.parts)),
                        ("TALL", switch(plan.rows == 8)),
                        ("SINGLE", switch(plan.rows == 1)),
                        ("HAS_BIAS", switch(bias.is_some())),
                        ("ACCUMULATE", switch(number > 0)),
                    ],
                )
            },
            params: params.bytes(),
            bindings: vec![Binding::Read(x.slot), Binding::Read(w.slot), read(bias), Binding::Write(y.slot)],
            grid: grid("a product", tiles as u64, caps)?,
            // The rows of a tile and the joins of its parts turn too.
            iterations: (last - first) as u64 + 128,
            flops: 2 * (rows * columns * (last - first)) as u64,
            bytes: (w.dtype.bytes_of((last - first) * columns)
                + DType::F32.bytes_of((last - first) * rows + rows * columns)) as u64,
        });
    }
    Ok(())
}
