//! Partial results over disjoint keys, put together (`shaders/merge_partials.wgsl`).

use super::{View4, params};
use crate::error::{Error, Result};
use crate::plan::{Caps, ElementPlan};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Kernel, Variant};

params! {
    /// Uniform of `merge_partials.wgsl`.
    struct Params {
        a: View4,
        b: View4,
        output: View4,
        a_lse: View4,
        b_lse: View4,
        lse: View4,
        elements: u32,
        negative_infinity: f32,
        pad_0: u32,
        pad_1: u32,
    }
}

/// An output [B, H, N, Dv] and the log-sum-exp [B, H, N] (f32) of its rows.
#[derive(Debug, Clone)]
pub struct Partial {
    /// [B, H, N, Dv].
    pub output: View,
    /// [B, H, N].
    pub lse: View,
}

/// Two partial results, over disjoint keys, as one.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ, [`Error::Limit`] when the work does not fit.
pub fn record(recording: &mut Recording, caps: &Caps, a: &Partial, b: &Partial, whole: &Partial) -> Result<()> {
    let &[batch, heads, rows, width] = whole.output.shape() else {
        return Err(Error::shape("output", "rank", "4 [B, H, N, Dv]", whole.output.shape().len()));
    };
    for part in [a, b, whole] {
        if part.output.shape() != whole.output.shape() {
            let (expected, found) = (format!("{:?}", whole.output.shape()), format!("{:?}", part.output.shape()));
            return Err(Error::shape("output of a part", "shape", expected, found));
        }
        if part.lse.shape() != [batch, heads, rows] || part.lse.dtype != DType::F32 {
            let found = format!("{:?} {}", part.lse.shape(), part.lse.dtype);
            return Err(Error::shape("lse of a part", "shape", format!("[{batch}, {heads}, {rows}] f32"), found));
        }
    }
    let elements = batch * heads * rows * width;
    if elements == 0 {
        return Ok(());
    }
    let plan = ElementPlan::new("a merge", elements, caps)?;
    let column = |lse: &View| View4::new(&lse.with(lse.layout.split(2, rows, 1)?));
    let params = Params {
        a: View4::new(&a.output)?,
        b: View4::new(&b.output)?,
        output: View4::new(&whole.output)?,
        a_lse: column(&a.lse)?,
        b_lse: column(&b.lse)?,
        lse: column(&whole.lse)?,
        elements: elements as u32,
        negative_infinity: f32::NEG_INFINITY,
        pad_0: 0,
        pad_1: 0,
    };
    recording.push(Dispatch {
        variant: Variant {
            kernel: Kernel::MergePartials,
            aliases: vec![("elem", a.output.dtype), ("k_elem", b.output.dtype), ("out_elem", whole.output.dtype)],
            overrides: vec![("LANES", f64::from(plan.lanes))],
            score_mod: None,
            subgroups: false,
        },
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![
            Binding::Read(a.output.slot),
            Binding::Read(b.output.slot),
            Binding::Read(a.lse.slot),
            Binding::Read(b.lse.slot),
            Binding::Write(whole.output.slot),
            Binding::Write(whole.lse.slot),
        ],
        grid: plan.grid,
        iterations: 0,
        flops: 4 * elements as u64,
        bytes: [a, b, whole].iter().map(|part| part.output.dtype.bytes_of(elements) as u64).sum(),
    });
    Ok(())
}
