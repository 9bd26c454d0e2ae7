//! Merge of partial attention over disjoint keys (`shaders/merge_partials.wgsl`).

use super::visibility::List;
use super::{View4, read, switch};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::ElementPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "merge_partials",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::MATH),
        Source::File(&files::HIDDEN),
        Source::File(&files::ONLINE_SOFTMAX),
        Source::File(&file!(
            "merge_partials.wgsl",
            ["LANES", "OTHER", "PARTIALS_HAVE_SUMS", "OTHER_HAS_SUM", "LSE", "MAX_SUM"]
        )),
    ],
    buffers: &[
        Buffer::read("partials", "elem"),
        Buffer::read("other", "k_elem"),
        Buffer::read("partial_stats", "f32"),
        Buffer::read("other_stats", "f32"),
        Buffer::write("output", "out_elem"),
        Buffer::write("lse", "f32"),
        Buffer::write("max_sum", "f32"),
        Buffer::read("vectors", "u32"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `merge_partials.wgsl`.
    struct Params {
        partials: View4,
        other: View4,
        output: View4,
        partial_stats: View4,
        other_stats: View4,
        lse: View4,
        max_sum: View4,
        count: u32,
        elements: u32,
        negative_infinity: f32,
        not_a_number: f32,
        sinks: List,
        temperature: f32,
    }
}

/// What is known of the softmax of each row of some partials, f32.
#[derive(Debug, Clone)]
pub enum Stats {
    /// Log-sum-exp [partials · B, H, N].
    LogSumExp(View),
    /// Largest score and sum [partials · B, H, N, 2].
    MaxSum(View),
}

impl Stats {
    /// The tensor.
    pub fn view(&self) -> &View {
        match self {
            Self::LogSumExp(view) | Self::MaxSum(view) => view,
        }
    }

    /// With one or two numbers a row on its last axis.
    fn columns(&self, rows: usize) -> Result<View4> {
        match self {
            Self::LogSumExp(lse) => View4::new(&lse.with(lse.layout.split(2, rows, 1)?)),
            Self::MaxSum(max_sum) => View4::new(max_sum),
        }
    }
}

/// Outputs of some partials with what is known of their softmaxes, one after the other along the first axis.
#[derive(Debug, Clone)]
pub struct Partials {
    /// [partials · B, H, N, Dv].
    pub output: View,
    /// Of each row.
    pub stats: Stats,
    /// How many partials.
    pub count: usize,
}

/// Where the merged result goes.
#[derive(Debug, Clone, Copy)]
pub struct Merged<'a> {
    /// [B, H, N, Dv].
    pub output: &'a View,
    /// [B, H, N], if asked for.
    pub lse: Option<&'a View>,
    /// [B, H, N, 2], if asked for; and whether it is to be merged with further partials, not for the caller.
    pub max_sum: Option<(&'a View, bool)>,
}

/// Terms of the softmax over all keys that the partials do not contain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// Divides the scores, of which row_max and row_sum are before the division.
    pub temperature: Option<f32>,
    /// `[H]`: a binding, and the list in it.
    pub sinks: Option<(Binding, List)>,
}

/// Merges the partials, and one more that is a tensor of its own, into one.
///
/// # Errors
/// [`Error::Shape`] when the shapes differ, [`Error::Limit`] when the work does not fit.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    partials: &Partials,
    other: Option<&Partials>,
    merged: Merged<'_>,
    terms: Terms,
) -> Result<()> {
    let Merged { output, lse, max_sum } = merged;
    let &[batch, heads, rows, width] = output.shape() else {
        return Err(Error::shape("output", "rank", "4 [B, H, N, Dv]", output.shape().len()));
    };
    let check = |name: &str, view: &View, shape: &[usize]| {
        if view.shape() == shape {
            return Ok(());
        }
        Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", view.shape())))
    };
    for partial in [Some(partials), other].into_iter().flatten() {
        let all = partial.count * batch;
        check("output of a part", &partial.output, &[all, heads, rows, width])?;
        let (name, shape) = match partial.stats {
            Stats::LogSumExp(_) => ("lse of a part", &[all, heads, rows][..]),
            Stats::MaxSum(_) => ("max_sum of a part", &[all, heads, rows, 2][..]),
        };
        check(name, partial.stats.view(), shape)?;
        if partial.stats.view().dtype != DType::F32 {
            return Err(Error::shape(name, "dtype", DType::F32, partial.stats.view().dtype));
        }
    }
    if let Some(lse) = lse {
        check("lse", lse, &[batch, heads, rows])?;
    }
    if let Some((max_sum, _)) = max_sum {
        check("max_sum", max_sum, &[batch, heads, rows, 2])?;
    }
    let elements = batch * heads * rows * width;
    if elements == 0 {
        return Ok(());
    }
    let plan = ElementPlan::new("a merge", elements, caps)?;
    let asked = [lse.is_some() as u32, max_sum.map_or(0, |(_, further)| 1 + u32::from(further))];
    // The bindings must exist: scratch takes their place where the statistics are not asked for.
    let lse = match lse {
        Some(lse) => lse.with(lse.layout.split(2, rows, 1)?),
        None => recording.scratch("no lse", &[1, 1, 1, 1], DType::F32),
    };
    let max_sum = match max_sum {
        Some((max_sum, _)) => max_sum.clone(),
        None => recording.scratch("no max and sum", &[1, 1, 1, 2], DType::F32),
    };
    let none = Ok(Default::default());
    let params = Params {
        partials: View4::new(&partials.output)?,
        other: other.map_or(none, |other| View4::new(&other.output))?,
        output: View4::new(output)?,
        partial_stats: partials.stats.columns(rows)?,
        other_stats: match other {
            Some(other) => other.stats.columns(rows)?,
            None => Default::default(),
        },
        lse: View4::new(&lse)?,
        max_sum: View4::new(&max_sum)?,
        count: partials.count as u32,
        elements: elements as u32,
        negative_infinity: f32::NEG_INFINITY,
        not_a_number: f32::NAN,
        sinks: terms.sinks.map_or([0; 2], |(_, list)| list),
        temperature: terms.temperature.unwrap_or(1.0),
    };
    let are_pairs = |partials: &Partials| switch(matches!(partials.stats, Stats::MaxSum(_)));
    let other_dtype = other.map_or(DType::F32, |other| other.output.dtype);
    let read_bytes =
        partials.output.dtype.bytes_of(partials.count * elements) + other.map_or(0, |_| other_dtype.bytes_of(elements));
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [("elem", partials.output.dtype), ("k_elem", other_dtype), ("out_elem", output.dtype)],
            [
                ("LANES", f64::from(plan.lanes)),
                ("OTHER", switch(other.is_some())),
                ("PARTIALS_HAVE_SUMS", are_pairs(partials)),
                ("OTHER_HAS_SUM", other.map_or(0.0, are_pairs)),
                ("LSE", f64::from(asked[0])),
                ("MAX_SUM", f64::from(asked[1])),
                ("SINKS", switch(terms.sinks.is_some())),
                ("TEMPERATURE", switch(terms.temperature.is_some())),
            ],
        ),
        params: params.bytes(),
        bindings: vec![
            Binding::Read(partials.output.slot),
            read(other.map(|other| &other.output)),
            Binding::Read(partials.stats.view().slot),
            read(other.map(|other| other.stats.view())),
            Binding::Write(output.slot),
            Binding::Write(lse.slot),
            Binding::Write(max_sum.slot),
            terms.sinks.map_or(Binding::Unused, |(vectors, _)| vectors),
        ],
        grid: plan.grid,
        iterations: partials.count as u64 + 1,
        workgroup_bytes: 0,
        flops: (4 * partials.count * elements) as u64,
        bytes: (read_bytes + output.dtype.bytes_of(elements)) as u64,
    });
    Ok(())
}
