//! Sums, products and activations, element by element (`shaders/elementwise.wgsl`).

use super::{ActivationParams, View4, read};
use crate::device::Caps;
use crate::error::Result;
use crate::plan::ElementPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::rnn::Activation;
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "elementwise",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::MATH),
        Source::File(&files::ACTIVATION),
        Source::File(&file!("elementwise.wgsl", ["LANES", "OP"])),
    ],
    buffers: &[Buffer::read("a", "elem"), Buffer::read("b", "b_elem"), Buffer::write("y", "out_elem")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `elementwise.wgsl`.
    struct Params {
        a: View4,
        b: View4,
        y: View4,
        activation: ActivationParams,
        elements: u32,
    }
}

/// What is done with two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// a + b.
    Add,
    /// a · b.
    Multiply,
}

/// `y = f(a)` or `y = f(a op b)` for y of up to four axes in any layout, a of its shape, and b that broadcasts to it.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when the shapes do not fit, [`Error::Limit`](crate::Error::Limit) when the grid does
/// not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    a: &View,
    other: Option<(Op, &View)>,
    activation: Option<Activation>,
    y: &View,
) -> Result<()> {
    let elements = y.layout.elements();
    if elements == 0 {
        return Ok(());
    }
    let as_y = |view: &View| -> Result<View4> { View4::new(&view.with(view.layout.broadcast(y.shape())?)) };
    let plan = ElementPlan::new("element-wise work", elements, caps)?;
    let params = Params {
        a: as_y(a)?,
        b: other.map_or(Ok(View4::default()), |(_, b)| as_y(b))?,
        y: View4::new(y)?,
        activation: ActivationParams::new(activation),
        elements: elements as u32,
    };
    let op = match other {
        None => 0.0,
        Some((Op::Add, _)) => 1.0,
        Some((Op::Multiply, _)) => 2.0,
    };
    let b = other.map(|(_, b)| b);
    let b_dtype = b.map_or(DType::F32, |b| b.dtype);
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [("elem", a.dtype), ("b_elem", b_dtype), ("out_elem", y.dtype)],
            [("LANES", f64::from(plan.lanes)), ("OP", op)],
        ),
        params: params.bytes(),
        bindings: vec![Binding::Read(a.slot), read(b), Binding::Write(y.slot)],
        grid: plan.grid,
        iterations: 0,
        workgroup_bytes: 0,
        flops: elements as u64,
        bytes: (a.dtype.bytes_of(elements) + y.dtype.bytes_of(elements)) as u64,
    });
    Ok(())
}
