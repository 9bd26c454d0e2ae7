//! Rotary position embedding (`shaders/rotary.wgsl`).

use super::visibility::{List, PositionParams, Visibility};
use super::{View4, switch};
use crate::attention::{Rotary, RotaryLayout};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::ElementPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "rotary",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::POSITIONS),
        Source::File(&file!("rotary.wgsl", ["LANES", "INTERLEAVED", "POSITION"])),
    ],
    buffers: &[
        Buffer::read("x", "elem"),
        Buffer::read("cosines", "f32"),
        Buffer::read("sines", "f32"),
        Buffer::read("vectors", "u32"),
        Buffer::write("output", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `rotary.wgsl`.
    struct Params {
        x: View4,
        output: View4,
        cos: View4,
        sin: View4,
        positions: PositionParams,
        list: List,
        list_step: u32,
        first_row: u32,
        offset: u32,
        elements: u32,
    }
}

/// The positions of the rows of a tensor.
#[derive(Debug, Clone, Copy)]
pub enum RowPositions<'a> {
    /// Queries: by their positions among the keys.
    Query(&'a Visibility),
    /// Keys: at their number, from `first` on; in a ragged batch at their number in the sequence.
    Key {
        /// For the sequences of a ragged batch.
        visibility: Option<&'a Visibility>,
        /// Position of the first key: the length of the past.
        first: usize,
    },
    /// Where a list [B, N] (u32) says.
    List(&'a View),
}

/// `x` [B, H, N, D] turned by the tables `cos` and `sin` [positions, pairs] (f32) into `output` of the same shape.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    rotary: Rotary,
    x: &View,
    [cos, sin]: [&View; 2],
    row_positions: RowPositions<'_>,
    output: &View,
) -> Result<()> {
    let &[batch, _, rows, dim] = x.shape() else {
        return Err(Error::shape("x", "rank", "4 [B, H, N, D]", x.shape().len()));
    };
    x.dtype.check_float("x")?;
    if output.shape() != x.shape() {
        let (expected, found) = (format!("{:?}", x.shape()), format!("{:?}", output.shape()));
        return Err(Error::shape("output", "shape", expected, found));
    }
    let &[positions, pairs] = cos.shape() else {
        return Err(Error::shape("cos", "rank", "2 [positions, width / 2]", cos.shape().len()));
    };
    if sin.shape() != cos.shape() {
        return Err(Error::shape("sin", "shape", format!("{:?}", cos.shape()), format!("{:?}", sin.shape())));
    }
    if positions == 0 || pairs == 0 || 2 * pairs > dim {
        let expected = format!("at least 1 position, 1 to {} pairs", dim / 2);
        return Err(Error::shape("cos", "shape", expected, format!("{:?}", cos.shape())));
    }
    let none: PositionParams = Default::default();
    let read = |view: &View| Binding::Read(view.slot);
    let (kind, visibility, first_row, vectors, list) = match row_positions {
        RowPositions::Query(visibility) => (0, Some(visibility), 0, visibility.vectors, [0; 3]),
        RowPositions::Key { visibility, first } => {
            (1, visibility, first, visibility.map_or(Binding::Unused, |v| v.vectors), [0; 3])
        }
        RowPositions::List(list) => {
            if list.shape() != [batch, rows] || list.dtype != DType::U32 {
                let found = format!("{:?} {}", list.shape(), list.dtype);
                return Err(Error::shape("positions", "shape", format!("[{batch}, {rows}] u32"), found));
            }
            let steps = [list.layout.offset, list.layout.strides[0], list.layout.strides[1]].map(|n| n as u32);
            (2, None, 0, read(list), steps)
        }
    };
    let elements = x.layout.elements();
    if elements == 0 {
        return Ok(());
    }
    let plan = ElementPlan::new("a rotary embedding", elements, caps)?;
    let params = Params {
        x: View4::new(x)?,
        output: View4::new(output)?,
        cos: View4::new(cos)?,
        sin: View4::new(sin)?,
        positions: visibility.map_or(none, |v| v.positions),
        list: [list[0], list[1]],
        list_step: list[2],
        first_row: first_row as u32,
        offset: rotary.offset.min(u32::MAX as usize) as u32,
        elements: elements as u32,
    };
    let mut overrides = vec![
        ("LANES", f64::from(plan.lanes)),
        ("INTERLEAVED", switch(rotary.layout == RotaryLayout::Interleaved)),
        ("POSITION", f64::from(kind)),
    ];
    overrides.extend(visibility.map_or(&[][..], Visibility::position_overrides));
    recording.push(Dispatch {
        variant: Variant::new(&KERNEL, [("elem", x.dtype), ("out_elem", output.dtype)], overrides),
        params: params.bytes(),
        bindings: vec![read(x), read(cos), read(sin), vectors, Binding::Write(output.slot)],
        grid: plan.grid,
        iterations: 40,
        workgroup_bytes: 0,
        flops: 3 * elements as u64,
        bytes: (x.dtype.bytes_of(elements) + output.dtype.bytes_of(elements)) as u64,
    });
    Ok(())
}
