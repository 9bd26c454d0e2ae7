//! Scores to weights (`shaders/softmax.wgsl`).

use super::{View4, params, read, switch, vector};
use crate::attention::{Attention, Normalize};
use crate::error::{Error, Result};
use crate::plan::{Caps, RowPlan, SPARSEMAX_STEPS};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Kernel, Variant};

params! {
    /// Uniform of `softmax.wgsl`.
    struct Params {
        scores: View4,
        lse: View4,
        rows: u32,
        seed: u32,
        queries: u32,
        first_query: u32,
        negative_infinity: f32,
        not_a_number: f32,
        sinks_start: u32,
        sinks_step: u32,
        temperature: f32,
        pad_0: u32,
        pad_1: u32,
        pad_2: u32,
    }
}

/// Turns scores [B, Hq, Nq', Nk] (f32, hidden ones marked) into weights, in place; `lse` [B, Hq, Nq'] (f32) gets the
/// log-sum-exp, `sinks` `[Hq]` take part. `queries` is Nq of the whole problem, `first_query` the number in it of the
/// first query here: the random draw of a row depends on its number, not on how the work was cut.
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
    lse: Option<&View>,
    sinks: Option<&View>,
) -> Result<()> {
    let &[batch, heads, ranged, keys] = scores.shape() else {
        return Err(Error::shape("scores", "rank", 4, scores.shape().len()));
    };
    let rows = batch * heads * ranged;
    if let Some(lse) = lse
        && lse.shape() != [batch, heads, ranged]
    {
        let expected = format!("[{batch}, {heads}, {ranged}]");
        return Err(Error::shape("lse", "shape", expected, format!("{:?}", lse.shape())));
    }
    let (mode, seed, passes) = match options.normalize {
        Normalize::Softmax => (0, 0, 3),
        Normalize::Hardmax => (1, 0, 3),
        Normalize::Sample { seed } => (2, seed, 6),
        Normalize::Sparsemax => (3, 0, u64::from(SPARSEMAX_STEPS) + 3),
        Normalize::Monotonic(_) => {
            return Err(Error::option("normalize", "monotonic alignments have a kernel of their own"));
        }
    };
    let plan = RowPlan::new("a softmax", rows, keys, passes, caps)?;
    // The binding is always there; a word of scratch stands in where no one asked.
    let lse_view = match lse {
        Some(lse) => lse.with(lse.layout.split(2, ranged, 1)?),
        None => recording.scratch("no lse", &[1, 1, 1, 1], DType::F32),
    };
    let [sinks_start, sinks_step] = vector(sinks);
    let params = Params {
        scores: View4::new(scores)?,
        lse: View4::new(&lse_view)?,
        rows: rows as u32,
        seed,
        queries: queries as u32,
        first_query: first_query as u32,
        negative_infinity: f32::NEG_INFINITY,
        not_a_number: f32::NAN,
        sinks_start,
        sinks_step,
        temperature: options.temperature.unwrap_or(1.0),
        pad_0: 0,
        pad_1: 0,
        pad_2: 0,
    };
    recording.push(Dispatch {
        variant: Variant {
            kernel: Kernel::Softmax,
            aliases: vec![],
            overrides: vec![
                ("LANES", f64::from(plan.lanes)),
                ("NORMALIZE", f64::from(mode)),
                ("SINKS", switch(sinks.is_some())),
                ("LSE", switch(lse.is_some())),
                ("TEMPERATURE", switch(options.temperature.is_some())),
                ("SPARSEMAX_STEPS", f64::from(SPARSEMAX_STEPS)),
            ],
            score_mod: None,
            subgroups: false,
        },
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![Binding::Write(scores.slot), Binding::Write(lse_view.slot), read(sinks)],
        grid: plan.grid,
        iterations: plan.iterations,
        flops: 4 * (rows * keys) as u64,
        bytes: 8 * (rows * keys) as u64,
    });
    Ok(())
}
