//! Partial results over disjoint keys, put together (`shaders/merge_partials.wgsl`).

use super::{View4, params, read, switch};
use crate::error::{Error, Result};
use crate::plan::{Caps, ElementPlan};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Kernel, Variant};

params! {
    /// Uniform of `merge_partials.wgsl`.
    struct Params {
        parts: View4,
        other: View4,
        output: View4,
        parts_lse: View4,
        other_lse: View4,
        lse: View4,
        count: u32,
        elements: u32,
        negative_infinity: f32,
        pad_0: u32,
    }
}

/// Outputs of some parts with the log-sum-exp (f32) of their rows, part by part along the first axis.
#[derive(Debug, Clone)]
pub struct Parts {
    /// [parts · B, H, N, Dv].
    pub output: View,
    /// [parts · B, H, N].
    pub lse: View,
    /// How many parts.
    pub count: usize,
}

/// The parts, and one more that is a tensor of its own, as one: `output` [B, H, N, Dv] and, if asked for, `lse` [B, H, N].
///
/// # Errors
/// [`Error::Shape`] when the shapes differ, [`Error::Limit`] when the work does not fit.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    parts: &Parts,
    other: Option<&Parts>,
    output: &View,
    lse: Option<&View>,
) -> Result<()> {
    let &[batch, heads, rows, width] = output.shape() else {
        return Err(Error::shape("output", "rank", "4 [B, H, N, Dv]", output.shape().len()));
    };
    let check = |name: &str, view: &View, shape: &[usize]| {
        if view.shape() == shape {
            return Ok(());
        }
        Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", view.shape())))
    };
    for part in [Some(parts), other].into_iter().flatten() {
        check("output of a part", &part.output, &[part.count * batch, heads, rows, width])?;
        check("lse of a part", &part.lse, &[part.count * batch, heads, rows])?;
        if part.lse.dtype != DType::F32 {
            return Err(Error::shape("lse of a part", "dtype", DType::F32, part.lse.dtype));
        }
    }
    if let Some(lse) = lse {
        check("lse", lse, &[batch, heads, rows])?;
    }
    let elements = batch * heads * rows * width;
    if elements == 0 {
        return Ok(());
    }
    let plan = ElementPlan::new("a merge", elements, caps)?;
    let asked = lse.is_some();
    // The binding is always there; a word of scratch stands in where no one asked.
    let lse = lse.map_or_else(|| recording.scratch("no lse", &[1, 1, 1], DType::F32), View::clone);
    let column = |lse: Option<&View>| match lse {
        Some(lse) => View4::new(&lse.with(lse.layout.split(2, rows, 1)?)),
        None => Ok(bytemuck::Zeroable::zeroed()),
    };
    let whole = |view: Option<&View>| view.map_or(Ok(bytemuck::Zeroable::zeroed()), View4::new);
    let params = Params {
        parts: View4::new(&parts.output)?,
        other: whole(other.map(|other| &other.output))?,
        output: View4::new(output)?,
        parts_lse: column(Some(&parts.lse))?,
        other_lse: column(other.map(|other| &other.lse))?,
        lse: if asked { column(Some(&lse))? } else { bytemuck::Zeroable::zeroed() },
        count: parts.count as u32,
        elements: elements as u32,
        negative_infinity: f32::NEG_INFINITY,
        pad_0: 0,
    };
    let other_dtype = other.map_or(DType::F32, |other| other.output.dtype);
    let read_bytes = parts.count * parts.output.dtype.bytes() + other.map_or(0, |_| other_dtype.bytes());
    recording.push(Dispatch {
        variant: Variant {
            kernel: Kernel::MergePartials,
            aliases: vec![("elem", parts.output.dtype), ("k_elem", other_dtype), ("out_elem", output.dtype)],
            overrides: vec![
                ("LANES", f64::from(plan.lanes)),
                ("OTHER", switch(other.is_some())),
                ("LSE", switch(asked)),
            ],
            score_mod: None,
            subgroups: false,
        },
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![
            Binding::Read(parts.output.slot),
            read(other.map(|other| &other.output)),
            Binding::Read(parts.lse.slot),
            read(other.map(|other| &other.lse)),
            Binding::Write(output.slot),
            Binding::Write(lse.slot),
        ],
        grid: plan.grid,
        iterations: parts.count as u64 + 1,
        flops: (4 * parts.count * elements) as u64,
        bytes: (elements * (read_bytes + output.dtype.bytes())) as u64,
    });
    Ok(())
}
