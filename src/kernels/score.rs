//! Attention scores (`shaders/score.wgsl`).

use super::visibility::{self, BlockParams, List, MaskParams, PageParams, PositionParams, Visibility};
use super::{TANH_FLOPS, View4, switch};
use crate::attention::{Attention, Score, ScoreStage, ScoreWeights};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::{TILE_COLUMNS, TilePlan};
use crate::problem::AttentionProblem;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, files, params};

/// Score of a hidden key between score and softmax; `HIDDEN` of `common/hidden.wgsl`.
pub const HIDDEN: f32 = -3.402_823_4e38;

pub static KERNEL: Kernel = Kernel {
    name: "score",
    sources: &[Source::ScoreMod, visibility::SOURCES, Source::File(&files::SCORE)],
    buffers: &[
        Buffer::read("query", "elem"),
        Buffer::read("key", "k_elem"),
        Buffer::read("vectors", "u32"),
        Buffer::read("mask", "u32"),
        Buffer::read("block_mask", "u32"),
        Buffer::write("scores", "f32"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `score.wgsl`.
    struct Params {
        query: View4,
        key: View4,
        scores: View4,
        positions: PositionParams,
        mask: MaskParams,
        blocks: BlockParams,
        pages: PageParams,
        group: u32,
        depth: u32,
        row_tiles: u32,
        column_tiles: u32,
        tiles: u32,
        first_query: u32,
        scale: f32,
        softcap: f32,
        hidden: f32,
        g: u32,
        v: List,
    }
}

/// What the score kernel reads, after projections.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// [B, Hq, Nq', A].
    pub query: &'a View,
    /// [B, Hkv, Nk, A], or pages [pages, Hkv, page size, A].
    pub key: &'a View,
    /// Parameters of the score function; v and g are among the lists of `visibility`.
    pub weights: &'a ScoreWeights<View>,
    /// Which keys are visible to which queries.
    pub visibility: &'a Visibility,
}

/// Scores [B, Hq, Nq', Nk] (f32) of the queries from `first_query` on, at a stage. `hidden` is written for hidden
/// pairs: [`HIDDEN`] for a softmax, −∞ where the caller gets the scores.
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
    let kv_heads = inputs.key.shape().get(1).copied().unwrap_or(0);
    let key = match problem.page {
        Some(size) => [inputs.key.shape()[0], kv_heads, size, problem.score_dim],
        None => [batch, kv_heads, keys, problem.score_dim],
    };
    let wanted = [("query", inputs.query, [batch, heads, queries, problem.score_dim]), ("key", inputs.key, key)];
    if let Some((name, view, shape)) = wanted.into_iter().find(|(_, view, shape)| view.shape() != shape) {
        return Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", view.shape())));
    }
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(Error::shape("key", "axis 1 (heads)", format!("a divisor of {heads}"), kv_heads));
    }
    let depth = problem.score_dim;
    let tiles = if inputs.visibility.hides_ranges() { TilePlan::sparse } else { TilePlan::new };
    let plan = tiles("the scores", batch * heads, queries, keys, depth, caps)?;
    // Besides the depth: finding the sequence of four queries, and the blocks that a tile touches.
    let blocks = if inputs.visibility.is_blocked() { plan.lanes as usize * TILE_COLUMNS + 1 } else { 0 };
    // Vectors that are divided by their lengths are gone through once more.
    let passes = if options.score == Score::Cosine || inputs.weights.g.is_some() { 2 } else { 1 };
    let iterations = (passes * depth + 4 * 33 + blocks) as u64;
    if iterations > caps.max_iterations {
        return Err(Error::Limit {
            what: "loop iterations of the scores over the head dim".into(),
            needed: iterations,
            allowed: caps.max_iterations,
        });
    }
    let visibility = inputs.visibility;
    let params = Params {
        query: View4::new(inputs.query)?,
        key: View4::new(inputs.key)?,
        scores: View4::new(scores)?,
        positions: visibility.positions,
        mask: visibility.masked,
        blocks: visibility.blocks,
        pages: visibility.pages,
        group: (heads / kv_heads) as u32,
        depth: depth as u32,
        row_tiles: plan.row_tiles,
        column_tiles: plan.column_tiles,
        tiles: plan.workgroups as u32,
        first_query: first_query as u32,
        scale: problem.scale,
        softcap: options.softcap.unwrap_or(1.0),
        hidden,
        g: visibility.g,
        v: visibility.v,
    };
    let kind = match options.score {
        Score::ScaledDot | Score::Dot | Score::General => 0,
        Score::Additive | Score::Concat | Score::Location => 1,
        Score::Cosine => 2,
    };
    let stage = match stage {
        ScoreStage::Raw => 0,
        ScoreStage::Capped => 1,
        ScoreStage::Masked => 2,
    };
    let pairs = (batch * heads * queries * keys) as u64;
    let mut overrides = vec![
        ("LANES", f64::from(plan.lanes)),
        ("ROWS", f64::from(plan.rows)),
        ("SCORE", f64::from(kind)),
        ("HAS_V", switch(inputs.weights.v.is_some())),
        ("NORMED", switch(inputs.weights.g.is_some())),
        ("STAGE", f64::from(stage)),
        ("SOFTCAP", switch(options.softcap.is_some())),
    ];
    overrides.extend(visibility.mask_overrides());
    recording.push(Dispatch {
        variant: Variant {
            score_mod: options.score_mod.as_ref().map(|user| user.wgsl.clone()),
            ..Variant::new(&KERNEL, [("elem", inputs.query.dtype), ("k_elem", inputs.key.dtype)], overrides)
        },
        params: params.bytes(),
        bindings: vec![
            Binding::Read(inputs.query.slot),
            Binding::Read(inputs.key.slot),
            visibility.vectors,
            visibility.mask,
            visibility.block_mask,
            Binding::Write(scores.slot),
        ],
        grid: plan.grid,
        iterations,
        workgroup_bytes: 0,
        flops: pairs * (2 + if kind == 1 { TANH_FLOPS } else { 0 }) * depth as u64,
        bytes: [inputs.query, inputs.key].iter().map(|x| x.dtype.bytes_of(x.layout.elements()) as u64).sum::<u64>()
            + pairs * 4,
    });
    Ok(())
}
