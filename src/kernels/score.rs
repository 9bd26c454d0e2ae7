//! Attention scores (`shaders/score.wgsl`).

use super::{View4, params, switch, vector};
use crate::attention::{Attention, Mask, Score, ScoreStage};
use crate::error::{Error, Result};
use crate::plan::{Caps, TilePlan};
use crate::problem::{AttentionProblem, diagonal};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::Layout;
use crate::wgsl::{Kernel, Variant};

/// Score of a hidden key between score and softmax; `HIDDEN` of `common/hidden.wgsl`.
pub const HIDDEN: f32 = -3.402_823_4e38;

params! {
    /// `Mask` of `common/mask.wgsl`.
    struct MaskParams {
        view: View4,
        mask_keys: u32,
        keys: u32,
        queries: u32,
        diagonal: i32,
        window_left: i32,
        window_right: i32,
        lengths_start: u32,
        lengths_step: u32,
        slopes_start: u32,
        slopes_step: u32,
        pad_0: u32,
        pad_1: u32,
    }
}

params! {
    /// Uniform of `score.wgsl`.
    struct Params {
        query: View4,
        key: View4,
        scores: View4,
        mask: MaskParams,
        group: u32,
        depth: u32,
        row_tiles: u32,
        column_tiles: u32,
        tiles: u32,
        first_query: u32,
        scale: f32,
        softcap: f32,
        hidden: f32,
        v_start: u32,
        v_step: u32,
        pad_0: u32,
    }
}

/// What the score kernel reads, after projections.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// [B, Hq, Nq', A].
    pub query: &'a View,
    /// [B, Hkv, Nk, A].
    pub key: &'a View,
    /// `[A]` for an additive score.
    pub v: Option<&'a View>,
    /// As given by the caller, rank 1 to 4.
    pub mask: Option<&'a Mask<View>>,
    /// `[B]`.
    pub kv_lengths: Option<&'a View>,
    /// `[Hq]`.
    pub alibi_slopes: Option<&'a View>,
}

/// The layout of a mask lifted to four axes and broadcast over [B, Hq, Nq, keys].
fn broadcast_mask(mask: &Layout, problem: &AttentionProblem) -> Result<Layout> {
    mask.broadcast(&[problem.batch, problem.query_heads, problem.queries, problem.mask_keys])
}

/// Scores [B, Hq, Nq', Nk] (f32) of the queries from `first_query` on, at a stage. `hidden` is written for hidden
/// pairs: [`HIDDEN`] for a softmax, −∞ for the caller's eyes.
///
/// # Errors
/// [`Error::Limit`] when the problem does not fit the device.
#[expect(clippy::too_many_arguments, reason = "one call site, and each is its own thing")]
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    options: &Attention,
    problem: &AttentionProblem,
    inputs: Scored<'_>,
    first_query: usize,
    stage: ScoreStage,
    hidden: f32,
    scores: &View,
) -> Result<()> {
    let &[batch, heads, queries, keys] = scores.shape() else {
        return Err(Error::shape("scores", "rank", 4, scores.shape().len()));
    };
    let wanted = [
        ("query", inputs.query, [batch, heads, queries, problem.score_dim]),
        ("key", inputs.key, [batch, problem.kv_heads, keys, problem.score_dim]),
    ];
    if let Some((name, view, shape)) = wanted.into_iter().find(|(_, view, shape)| view.shape() != shape) {
        return Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", view.shape())));
    }
    let depth = problem.score_dim;
    let plan = TilePlan::new("the scores", batch * heads, queries, keys, depth, caps)?;
    if plan.depth.len() > 1 {
        return Err(Error::Limit {
            what: "head dim of the scores".into(),
            needed: depth as u64,
            allowed: caps.max_iterations,
        });
    }
    let mask_view = match inputs.mask {
        Some(mask) => View4::new(&mask.tensor().with(broadcast_mask(&mask.tensor().layout, problem)?))?,
        None => bytemuck::Zeroable::zeroed(),
    };
    let window = options.window.unwrap_or_default();
    let side = |keys: Option<u32>| keys.map_or(-1, |n| n.min(i32::MAX as u32) as i32);
    let [lengths_start, lengths_step] = vector(inputs.kv_lengths);
    let [slopes_start, slopes_step] = vector(inputs.alibi_slopes);
    let [v_start, v_step] = vector(inputs.v);
    let params = Params {
        query: View4::new(inputs.query)?,
        key: View4::new(inputs.key)?,
        scores: View4::new(scores)?,
        mask: MaskParams {
            view: mask_view,
            mask_keys: problem.mask_keys as u32,
            keys: keys as u32,
            queries: problem.queries as u32,
            diagonal: diagonal(options, problem, None) as i32,
            window_left: side(window.left),
            window_right: side(window.right),
            lengths_start,
            lengths_step,
            slopes_start,
            slopes_step,
            pad_0: 0,
            pad_1: 0,
        },
        group: problem.group() as u32,
        depth: depth as u32,
        row_tiles: plan.row_tiles,
        column_tiles: plan.column_tiles,
        tiles: plan.workgroups as u32,
        first_query: first_query as u32,
        scale: problem.scale,
        softcap: options.softcap.unwrap_or(1.0),
        hidden,
        v_start,
        v_step,
        pad_0: 0,
    };
    let kind = match options.score {
        Score::ScaledDot | Score::Dot | Score::General => 0,
        Score::Additive | Score::Concat | Score::Location => 1,
        Score::Cosine => 2,
    };
    let mask_kind = match inputs.mask {
        None => 0,
        Some(Mask::Bool(_)) => 1,
        Some(Mask::Float(_)) => 2,
    };
    let stage = match stage {
        ScoreStage::Raw => 0,
        ScoreStage::Capped => 1,
        ScoreStage::Masked => 2,
    };
    let read = |view: Option<&View>| view.map_or(Binding::Unused, |view| Binding::Read(view.slot));
    let pairs = (batch * heads * queries * keys) as u64;
    recording.push(Dispatch {
        variant: Variant {
            kernel: Kernel::Score,
            aliases: vec![("elem", inputs.query.dtype), ("k_elem", inputs.key.dtype)],
            overrides: vec![
                ("LANES", f64::from(plan.lanes)),
                ("ROWS", f64::from(plan.rows)),
                ("SCORE", f64::from(kind)),
                ("HAS_V", switch(inputs.v.is_some())),
                ("STAGE", f64::from(stage)),
                ("SOFTCAP", switch(options.softcap.is_some())),
                ("MASK", f64::from(mask_kind)),
                ("CAUSAL", switch(options.causal.is_some())),
                ("WINDOW", switch(options.window.is_some())),
                ("LENGTHS", switch(inputs.kv_lengths.is_some())),
                ("ALIBI", switch(inputs.alibi_slopes.is_some())),
            ],
            score_mod: options.score_mod.as_ref().map(|user| user.wgsl.as_str().into()),
        },
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![
            Binding::Read(inputs.query.slot),
            Binding::Read(inputs.key.slot),
            read(inputs.v),
            read(inputs.mask.map(Mask::tensor)),
            read(inputs.kv_lengths),
            read(inputs.alibi_slopes),
            Binding::Write(scores.slot),
        ],
        grid: plan.grid,
        iterations: depth as u64,
        flops: pairs * 2 * depth as u64,
        bytes: ((inputs.query.layout.elements() + inputs.key.layout.elements()) * inputs.query.dtype.bytes()) as u64
            + pairs * 4,
    });
    Ok(())
}
