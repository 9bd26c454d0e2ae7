//! Weights times values (`shaders/weighted_sum.wgsl`).

use super::visibility::{BlockParams, PageParams, PositionParams, Visibility};
use super::{View4, copy, switch};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::TilePlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "weighted_sum",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::POSITIONS),
        Source::File(&files::BLOCKS),
        Source::File(&files::PAGES),
        Source::File(&file!("weighted_sum.wgsl", ["LANES", "ROWS", "ACCUMULATE"])),
    ],
    buffers: &[
        Buffer::read("weights", "f32"),
        Buffer::read("value", "elem"),
        Buffer::read("vectors", "u32"),
        Buffer::read("block_mask", "u32"),
        Buffer::write("output", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `weighted_sum.wgsl`.
    struct Params {
        weights: View4,
        value: View4,
        output: View4,
        positions: PositionParams,
        blocks: BlockParams,
        pages: PageParams,
        group: u32,
        first_key: u32,
        last_key: u32,
        row_tiles: u32,
        column_tiles: u32,
        tiles: u32,
        first_query: u32,
    }
}

/// `output[b,h,i,:] = Σ_j weights[b,h,i,j] · value[b,⌊h/group⌋,j,:]` for weights [B, Hq, Nq', Nk] (f32), value
/// [B, Hkv, Nk, Dv] or pages [pages, Hkv, page size, Dv], and output [B, Hq, Nq', Dv], of the queries from `first_query`
/// on. Keys that `visibility` hides are not read.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the grid does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    visibility: &Visibility,
    first_query: usize,
    weights: &View,
    value: &View,
    output: &View,
) -> Result<()> {
    let (&[batch, heads, queries, keys], &[value_batch, kv_heads, found, dim]) = (weights.shape(), value.shape())
    else {
        let found = format!("{:?}, {:?}", weights.shape(), value.shape());
        return Err(Error::shape("weights, value", "ranks", "4 and 4", found));
    };
    let paged = visibility.pages.size > 0;
    if !paged && value_batch != batch {
        return Err(Error::shape("value", "axis 0 (batch)", batch, value_batch));
    }
    let wanted = if paged { visibility.pages.size as usize } else { keys };
    if found != wanted {
        return Err(Error::shape("value", "axis 2 (keys)", wanted, found));
    }
    if output.shape() != [batch, heads, queries, dim] || kv_heads == 0 || heads % kv_heads != 0 {
        let expected = format!("[{batch}, {heads}, {queries}, {dim}]");
        return Err(Error::shape("output", "shape", expected, format!("{:?}", output.shape())));
    }
    // Besides the keys: finding the sequence of four queries, and the iterations that a block costs, one for each key at worst.
    let iterations_per_key = if visibility.is_blocked() { 6 } else { 1 };
    let within =
        Caps { max_iterations: (caps.max_iterations.saturating_sub(150) / iterations_per_key).max(1), ..caps.clone() };
    let plan = TilePlan::new("the weighted sum", batch * heads, queries, dim, keys, &within)?;
    // f16 outputs would round between the dispatches of a sum.
    if output.dtype != DType::F32 && plan.depth.len() > 1 {
        let sum = recording.scratch("weighted sum", output.shape(), DType::F32);
        record(recording, caps, visibility, first_query, weights, value, &sum)?;
        return copy::record(recording, caps, &sum, output);
    }
    for (range, &(first, last)) in plan.depth.iter().enumerate() {
        let params = Params {
            weights: View4::new(weights)?,
            value: View4::new(value)?,
            output: View4::new(output)?,
            positions: visibility.positions,
            blocks: visibility.blocks,
            pages: visibility.pages,
            group: (heads / kv_heads) as u32,
            first_key: first as u32,
            last_key: last as u32,
            row_tiles: plan.row_tiles,
            column_tiles: plan.column_tiles,
            tiles: plan.workgroups as u32,
            first_query: first_query as u32,
        };
        let span = (last - first) as u64;
        let mut overrides =
            vec![("LANES", f64::from(plan.lanes)), ("ROWS", f64::from(plan.rows)), ("ACCUMULATE", switch(range > 0))];
        overrides.extend(visibility.key_overrides());
        recording.push(Dispatch {
            variant: Variant::new(&KERNEL, [("elem", value.dtype), ("out_elem", output.dtype)], overrides),
            params: params.bytes(),
            bindings: vec![
                Binding::Read(weights.slot),
                Binding::Read(value.slot),
                visibility.vectors,
                visibility.block_mask,
                Binding::Write(output.slot),
            ],
            grid: plan.grid,
            iterations: span * iterations_per_key + 150,
            workgroup_bytes: 0,
            flops: 2 * (batch * heads * queries * dim) as u64 * span,
            bytes: (batch * heads * queries) as u64 * span * 4
                + value.dtype.bytes_of(batch * kv_heads * dim) as u64 * span
                + output.dtype.bytes_of(batch * heads * queries * dim) as u64,
        });
    }
    Ok(())
}
