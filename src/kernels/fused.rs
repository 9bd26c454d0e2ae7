//! What the fused kernels of attention share (`shaders/common/fused.wgsl`): operands in quads of four elements, splits of
//! the keys and their merge, parameters and bindings.

use super::merge_partials::{self, Merged, Partials, Stats, Terms};
use super::visibility::{self, BlockParams, List, MaskMapParams, MaskParams, PageParams, PositionParams, Visibility};
use super::{TANH_FLOPS, View4, copy, flash, flash_coop, flash_rows, flash_split, switch};
use crate::attention::Attention;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::{Form, FusedPlan, grid};
use crate::problem::AttentionProblem;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::{DType, Layout};
use crate::wgsl::{Buffer, Kernel, Override, Source, Variant, files, params};

/// The files of a fused kernel, beside its own and that of its reductions.
pub(super) static SOURCES: [Source; 8] = [
    Source::Storage { alias: "k_elem", plain: &files::KEY_PLAIN, q8: &files::KEY_Q8 },
    Source::Storage { alias: "v_elem", plain: &files::VALUE_PLAIN, q8: &files::VALUE_Q8 },
    Source::ScoreMod,
    visibility::SOURCES,
    Source::File(&files::TILE_VISIBILITY),
    Source::File(&files::ONLINE_SOFTMAX),
    Source::File(&files::FUSED),
    Source::File(&files::ADDITIVE),
];

/// The buffers of a fused kernel.
pub(super) static BUFFERS: [Buffer; 8] = [
    Buffer::read("query", "vec4<elem>"),
    Buffer::read("key", "vec4<k_elem>"),
    Buffer::read("value", "vec4<v_elem>"),
    Buffer::read("vectors", "u32"),
    Buffer::read("mask", "u32"),
    Buffer::read("block_mask", "u32"),
    Buffer::write("output", "vec4<out_elem>"),
    Buffer::write("stats", "f32"),
];

params! {
    /// `Params` of `common/fused.wgsl`.
    struct Params {
        query: View4,
        key: View4,
        value: View4,
        output: View4,
        stats: View4,
        positions: PositionParams,
        mask: MaskParams,
        blocks: BlockParams,
        pages: PageParams,
        mask_map: MaskMapParams,
        batch: u32,
        heads: u32,
        group: u32,
        row_tiles: u32,
        splits: u32,
        split_keys: u32,
        tiles: u32,
        head_quads: u32,
        scale: f32,
        softcap: f32,
        temperature: f32,
        negative_infinity: f32,
        v: List,
        g: u32,
        value_quads: u32,
        sinks: List,
        units: u32,
        not_a_number: f32,
        weight_unit: f32,
    }
}

/// What a fused kernel reads and writes, after projections.
#[derive(Debug, Clone, Copy)]
pub struct Fused<'a> {
    /// [B, Hq, Nq, D].
    pub query: &'a View,
    /// [B, Hkv, Nk, D], or pages [pages, Hkv, page size, D].
    pub key: &'a View,
    /// [B, Hkv, Nk, Dv], or pages.
    pub value: &'a View,
    /// Whether there are learned sinks.
    pub sinks: bool,
    /// Whether an additive score has a v, and a g beside it.
    pub additive: [bool; 2],
    /// Which keys are visible to which queries.
    pub visibility: &'a Visibility,
    /// [B, Hq, Nq, Dv].
    pub output: &'a View,
    /// [B, Hq, Nq].
    pub lse: Option<&'a View>,
    /// [B, Hq, Nq, 2].
    pub max_sum: Option<&'a View>,
}

/// What a form adds to the common parameters: its program, grid and padding.
pub(super) struct Launch {
    pub(super) kernel: &'static Kernel,
    pub(super) sizes: Vec<(&'static str, u32)>,
    pub(super) overrides: Vec<Override>,
    /// Tiles of rows of one batch row and head.
    pub(super) row_tiles: usize,
    /// Heads of a batch row that have workgroups of their own.
    pub(super) heads: usize,
    /// Loop iterations of one invocation.
    pub(super) iterations: u64,
    /// Bytes read and written in workgroup memory for a pair of query and key.
    pub(super) workgroup_bytes: f64,
    /// Dimensions that query and key rows, and value rows, are padded to a multiple of.
    pub(super) padding: [usize; 2],
}

/// Attention as planned.
///
/// # Errors
/// [`Error::Limit`] when the problem does not fit the device.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    options: &Attention,
    problem: &AttentionProblem,
    plan: &FusedPlan,
    fused: Fused<'_>,
) -> Result<()> {
    let p = problem;
    let launch = match plan.tile.form {
        Form::Rows => flash_rows::launch(p, plan),
        Form::Cooperative | Form::Carried => flash_coop::launch(caps, p, plan)?,
        Form::Split => flash_split::launch(caps, options, p, plan, &fused),
        Form::Tiled => flash::launch(options, p, plan, &fused),
    };
    if launch.iterations > caps.max_iterations {
        let what = "loop iterations of a fused attention".to_owned();
        return Err(Error::Limit { what, needed: launch.iterations, allowed: caps.max_iterations });
    }
    let query = packed(recording, caps, "query in quads", fused.query, launch.padding[0])?;
    let key = packed(recording, caps, "key in quads", fused.key, launch.padding[0])?;
    let value = packed(recording, caps, "value in quads", fused.value, launch.padding[1])?;
    let width = value.shape()[3];
    let rows = [p.batch, p.query_heads, p.queries];
    let splits = plan.splits(p.keys);

    // A kernel stores one or the other of a row; where splits are merged, `merge_partials` gives both.
    let merged = splits > 1 || (fused.lse.is_some() && fused.max_sum.is_some());
    let partials = merged.then(|| {
        let all = [splits * p.batch, p.query_heads, p.queries];
        let output = recording.scratch("outputs of splits", &[all[0], all[1], all[2], width], DType::F32);
        let max_sum = recording.scratch("max and sum of splits", &[all[0], all[1], all[2], 2], DType::F32);
        Partials { output, stats: Stats::MaxSum(max_sum), count: splits }
    });
    let output = match &partials {
        Some(partials) => partials.output.clone(),
        None if is_packed(fused.output, launch.padding[1]) => fused.output.clone(),
        None => recording.scratch("output in quads", &[rows[0], rows[1], rows[2], width], fused.output.dtype),
    };
    // The binding must exist: scratch takes its place where the statistics are not asked for.
    let (stats, max_sum) = match (&partials, fused.max_sum, fused.lse) {
        (Some(partials), ..) => (partials.stats.view().clone(), 2),
        (None, Some(max_sum), _) => (max_sum.clone(), 1),
        (None, None, Some(lse)) => (lse.with(lse.layout.split(2, p.queries, 1)?), 0),
        (None, None, None) => (recording.scratch("no stats", &[1, 1, 1, 1], DType::F32), 0),
    };
    let visibility = fused.visibility;
    let tiles = splits * p.batch * launch.heads * launch.row_tiles;
    let params = Params {
        query: quads(&query)?,
        key: quads(&key)?,
        value: quads(&value)?,
        output: quads(&output)?,
        stats: View4::new(&stats)?,
        positions: visibility.positions,
        mask: visibility.masked,
        blocks: visibility.blocks,
        pages: visibility.pages,
        mask_map: visibility.mask_map,
        batch: p.batch as u32,
        heads: launch.heads as u32,
        group: p.group() as u32,
        row_tiles: launch.row_tiles as u32,
        splits: splits as u32,
        split_keys: plan.split_keys.min(p.keys) as u32,
        tiles: tiles as u32,
        head_quads: (query.shape()[3] / 4) as u32,
        scale: p.scale,
        softcap: options.softcap.unwrap_or(1.0),
        temperature: options.temperature.unwrap_or(1.0),
        negative_infinity: f32::NEG_INFINITY,
        v: visibility.v,
        g: visibility.g,
        value_quads: (width / 4) as u32,
        sinks: visibility.sinks,
        units: p.score_dim as u32,
        not_a_number: f32::NAN,
        weight_unit: match plan.tile.form {
            // f16 weights would underflow, and sums of f16 values cannot overflow f32.
            Form::Cooperative | Form::Carried => 1.0,
            _ => (plan.split_keys.clamp(1, p.keys.max(1)).next_power_of_two() as f32).recip(),
        },
    };
    let mut overrides = launch.overrides;
    if plan.tile.subgroups && matches!(plan.tile.form, Form::Rows | Form::Split) {
        overrides.push(("ONE_SUBGROUP", switch(plan.tile.lanes <= caps.min_subgroup)));
    }
    overrides.extend([
        ("SOFTCAP", switch(options.softcap.is_some())),
        ("SCORE_MOD", switch(options.score_mod.is_some())),
        ("TEMPERATURE", switch(options.temperature.is_some())),
        ("SINKS", switch(fused.sinks)),
        ("LSE", switch(!merged && fused.lse.is_some())),
        ("MAX_SUM", f64::from(max_sum)),
        ("HAS_MASK_MAP", switch(visibility.mask_map.columns > 0)),
    ]);
    overrides.extend(visibility.mask_overrides());
    let tanhs = if options.score.is_additive() { p.score_dim as u64 } else { 0 };
    let pairs = (p.batch * p.query_heads * p.queries * p.keys) as u64;
    let bytes = |view: &View| view.dtype.bytes_of(view.layout.elements()) as u64;
    recording.push(Dispatch {
        variant: Variant {
            score_mod: options.score_mod.as_ref().map(|user| user.wgsl.clone()),
            subgroups: plan.tile.subgroups,
            sizes: launch.sizes,
            ..Variant::new(
                launch.kernel,
                [("elem", query.dtype), ("k_elem", key.dtype), ("v_elem", value.dtype), ("out_elem", output.dtype)],
                overrides,
            )
        },
        params: params.bytes(),
        bindings: vec![
            Binding::Read(query.slot),
            Binding::Read(key.slot),
            Binding::Read(value.slot),
            visibility.vectors,
            visibility.mask,
            visibility.block_mask,
            Binding::Write(output.slot),
            Binding::Write(stats.slot),
        ],
        grid: grid("a fused attention", tiles as u64, caps)?,
        iterations: launch.iterations,
        workgroup_bytes: (pairs as f64 * launch.workgroup_bytes) as u64,
        flops: pairs * (2 * (p.score_dim + p.value_dim) as u64 + tanhs * TANH_FLOPS),
        bytes: bytes(&query) + bytes(&key) + bytes(&value) + bytes(&output),
    });
    let narrow = |view: &View| -> Result<View> { Ok(view.with(view.layout.narrow(3, 0, p.value_dim)?)) };
    match partials {
        Some(partials) => {
            let partials = Partials { output: narrow(&partials.output)?, ..partials };
            let terms = Terms {
                temperature: options.temperature,
                sinks: fused.sinks.then_some((visibility.vectors, visibility.sinks)),
            };
            let target =
                Merged { output: fused.output, lse: fused.lse, max_sum: fused.max_sum.map(|view| (view, false)) };
            merge_partials::record(recording, caps, &partials, None, target, terms)
        }
        None if output.slot != fused.output.slot => copy::record(recording, caps, &narrow(&output)?, fused.output),
        None => Ok(()),
    }
}

/// Switches of `common/additive.wgsl`.
pub(super) fn additive_overrides(options: &Attention, fused: &Fused<'_>) -> [Override; 3] {
    let [has_v, normed] = fused.additive;
    [("SCORE", switch(options.score.is_additive())), ("HAS_V", switch(has_v)), ("NORMED", switch(normed))]
}

/// Whether rows can be read in quads, and are of whole blocks of `multiple` dimensions.
fn is_packed(view: &View, multiple: usize) -> bool {
    let Layout { shape, strides, offset } = &view.layout;
    let last = shape.len() - 1;
    let aligned = |axis: usize| shape[axis] == 1 || strides[axis] % 4 == 0;
    shape[last] % multiple == 0 && strides[last] == 1 && offset % 4 == 0 && (0..last).all(aligned)
}

/// The view as it is, or a dense copy of it with rows padded with zeros to a multiple of `multiple` dimensions.
fn packed(recording: &mut Recording, caps: &Caps, name: &'static str, view: &View, multiple: usize) -> Result<View> {
    if is_packed(view, multiple) {
        return Ok(view.clone());
    }
    let mut shape = view.shape().to_vec();
    let width = shape[3];
    shape[3] = width.next_multiple_of(multiple);
    let whole = recording.scratch(name, &shape, view.dtype);
    if shape[3] != width {
        recording.clear(whole.slot);
    }
    copy::record(recording, caps, view, &whole.with(whole.layout.narrow(3, 0, width)?))?;
    Ok(whole)
}

/// A view whose last axis, strides and offset count quads of four elements.
fn quads(view: &View) -> Result<View4> {
    let mut quads = View4::new(view)?;
    quads.shape[3] /= 4;
    for axis in 0..3 {
        quads.strides[axis] /= 4;
    }
    quads.offset /= 4;
    Ok(quads)
}
