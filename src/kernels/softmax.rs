//! Scores to weights (`shaders/softmax.wgsl`).

use super::{View4, read, switch, vector};
use crate::attention::{Attention, Normalize};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::{RowPlan, SPARSEMAX_STEPS};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "softmax",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::MATH),
        Source::File(&files::HIDDEN),
        Source::File(&files::REDUCE_SHARED),
        Source::File(&files::ONLINE_SOFTMAX),
        Source::File(&file!("softmax.wgsl", ["NORMALIZE", "LSE", "MAX_SUM", "SPARSEMAX_STEPS"])),
    ],
    buffers: &[
        Buffer::write("scores", "f32"),
        Buffer::write("lse", "f32"),
        Buffer::write("max_sum", "f32"),
        Buffer::read("sinks", "f32"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `softmax.wgsl`.
    struct Params {
        scores: View4,
        lse: View4,
        max_sum: View4,
        rows: u32,
        seed: u32,
        queries: u32,
        first_query: u32,
        negative_infinity: f32,
        not_a_number: f32,
        sinks_start: u32,
        sinks_step: u32,
        temperature: f32,
    }
}

/// Statistics of the rows of a softmax, f32.
#[derive(Debug, Clone, Copy)]
pub struct Stats<'a> {
    /// Log-sum-exp [B, Hq, Nq'].
    pub lse: Option<&'a View>,
    /// Largest score and sum [B, Hq, Nq', 2].
    pub max_sum: Option<&'a View>,
}

/// Turns scores [B, Hq, Nq', Nk] (f32, [`HIDDEN`](super::score::HIDDEN) where masked) into weights, in place, with learned
/// sinks `[Hq]`. `queries` is Nq of the whole problem, `first_query` the number in it of the first query of `scores`: the
/// random draw of a row depends on its number alone, not on the range of queries of a dispatch.
///
/// # Errors
/// [`crate::Error::Limit`] when a row or the grid does not fit the device.
#[expect(clippy::too_many_arguments, reason = "one call site, and each is its own thing")]
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    options: &Attention,
    queries: usize,
    first_query: usize,
    scores: &View,
    stats: Stats<'_>,
    sinks: Option<&View>,
) -> Result<()> {
    let &[batch, heads, ranged, keys] = scores.shape() else {
        return Err(Error::shape("scores", "rank", 4, scores.shape().len()));
    };
    let rows = batch * heads * ranged;
    let Stats { lse, max_sum } = stats;
    for (name, stat, shape) in
        [("lse", lse, &[batch, heads, ranged][..]), ("max_sum", max_sum, &[batch, heads, ranged, 2])]
    {
        if let Some(stat) = stat
            && stat.shape() != shape
        {
            return Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", stat.shape())));
        }
    }
    let (mode, seed, passes) = match options.normalize {
        Normalize::Softmax => (0, 0, 3),
        Normalize::Hardmax => (1, 0, 3),
        Normalize::Sample { seed } => (2, seed, 6),
        Normalize::Sparsemax => (3, 0, u64::from(SPARSEMAX_STEPS) + 4),
        Normalize::Monotonic(_) => {
            return Err(Error::option("normalize", "monotonic alignments have a kernel of their own"));
        }
    };
    let plan = RowPlan::new("a softmax", rows, keys, passes, caps)?;
    // The bindings must exist: scratch takes their place where the statistics are not asked for.
    let asked = [lse.is_some(), max_sum.is_some()];
    let lse = match lse {
        Some(lse) => lse.with(lse.layout.split(2, ranged, 1)?),
        None => recording.scratch("no lse", &[1, 1, 1, 1], DType::F32),
    };
    let max_sum = max_sum.cloned().unwrap_or_else(|| recording.scratch("no max and sum", &[1, 1, 1, 2], DType::F32));
    let [sinks_start, sinks_step] = vector(sinks);
    let params = Params {
        scores: View4::new(scores)?,
        lse: View4::new(&lse)?,
        max_sum: View4::new(&max_sum)?,
        rows: rows as u32,
        seed,
        queries: queries as u32,
        first_query: first_query as u32,
        negative_infinity: f32::NEG_INFINITY,
        not_a_number: f32::NAN,
        sinks_start,
        sinks_step,
        temperature: options.temperature.unwrap_or(1.0),
    };
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [],
            [
                ("LANES", f64::from(plan.lanes)),
                ("NORMALIZE", f64::from(mode)),
                ("SINKS", switch(sinks.is_some())),
                ("LSE", switch(asked[0])),
                ("MAX_SUM", switch(asked[1])),
                ("TEMPERATURE", switch(options.temperature.is_some())),
                ("SPARSEMAX_STEPS", f64::from(SPARSEMAX_STEPS)),
            ],
        ),
        params: params.bytes(),
        bindings: vec![
            Binding::Write(scores.slot),
            Binding::Write(lse.slot),
            Binding::Write(max_sum.slot),
            read(sinks),
        ],
        grid: plan.grid,
        iterations: plan.iterations,
        workgroup_bytes: 0,
        flops: 4 * (rows * keys) as u64,
        bytes: 8 * (rows * keys) as u64,
    });
    Ok(())
}
