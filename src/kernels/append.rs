//! Rows into a cache, in place (`shaders/append.wgsl`).

use super::visibility::{List, PageParams, Vectors};
use super::{View4, switch};
use crate::error::{Error, Result};
use crate::plan::{Caps, ElementPlan};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "append",
    sources: &[
        Source::Storage { alias: "out_elem", plain: &files::WRITE_PLAIN, q8: &files::WRITE_Q8 },
        Source::File(&files::LAYOUT),
        Source::File(&files::PAGES),
        Source::File(&file!("append.wgsl", ["LANES", "WRAP"])),
    ],
    buffers: &[Buffer::read("rows", "elem"), Buffer::read("vectors", "u32"), Buffer::write("cache", "out_elem")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `append.wgsl`.
    struct Params {
        rows: View4,
        cache: View4,
        pages: PageParams,
        starts: List,
        capacity: u32,
        units: u32,
    }
}

/// Writes `rows` [B, H, N, D] into `cache` [B, H, C, D] from row `starts[b]` on (`[B]`, u32). Rows past the end are dropped
/// or, with `wrap`, begin again at the front.
///
/// A cache of q8 is written in whole blocks, which its layout must not cut; the last axis of the rows has whole ones too.
/// With a block table `table` [B, pages] (u32) the cache is a pool of pages [pages, H, page size, D].
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    rows: &View,
    cache: &View,
    starts: &View,
    table: Option<&View>,
    wrap: bool,
) -> Result<()> {
    let (&[batch, heads, _, dim], &[pool, cache_heads, size, cache_dim]) = (rows.shape(), cache.shape()) else {
        let found = format!("{:?}, {:?}", rows.shape(), cache.shape());
        return Err(Error::shape("rows, cache", "ranks", "4 and 4", found));
    };
    let same = |axis: &str, expected: usize, found: usize| match expected == found {
        true => Ok(()),
        false => Err(Error::shape("rows", axis, expected, found)),
    };
    same("axis 1 (heads)", cache_heads, heads)?;
    same("axis 3 (head dim)", cache_dim, dim)?;
    if starts.shape() != [batch] || starts.dtype != DType::U32 {
        let found = format!("{:?} {}", starts.shape(), starts.dtype);
        return Err(Error::shape("starts", "shape", format!("[{batch}] u32"), found));
    }
    let vectors = Vectors::record(recording, caps, &[Some(starts), table])?;
    let (pages, capacity) = match vectors.view(1) {
        None => {
            same("axis 0 (batch)", pool, batch)?;
            (Default::default(), size)
        }
        Some(table) => {
            let &[table_rows, row_pages] = table.shape() else {
                return Err(Error::shape("block_table", "rank", "2 [B, pages]", table.shape().len()));
            };
            if table_rows != batch || table.dtype != DType::U32 {
                let found = format!("{:?} {}", table.shape(), table.dtype);
                return Err(Error::shape("block_table", "shape", format!("[{batch}, pages] u32"), found));
            }
            (PageParams::new(table, size, pool), row_pages.saturating_mul(size))
        }
    };
    let elements = rows.layout.elements();
    if elements == 0 || capacity == 0 || pool == 0 {
        return Ok(());
    }
    cache.dtype.check_layout("cache", &cache.layout)?;
    let units = elements / cache.dtype.block();
    let plan = ElementPlan::new("an append", units, caps)?;
    let params = Params {
        rows: View4::new(rows)?,
        cache: View4::new(cache)?,
        pages,
        starts: vectors.list(0),
        capacity: capacity.min(u32::MAX as usize) as u32,
        units: units as u32,
    };
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [("elem", rows.dtype), ("out_elem", cache.dtype)],
            [("LANES", f64::from(plan.lanes)), ("WRAP", switch(wrap)), ("PAGED", switch(table.is_some()))],
        ),
        params: params.bytes(),
        bindings: vec![Binding::Read(rows.slot), vectors.binding, Binding::Write(cache.slot)],
        grid: plan.grid,
        // A pass over a block for its scale, and one for its bytes.
        iterations: if cache.dtype.block() > 1 { 3 * cache.dtype.block() as u64 } else { 0 },
        flops: 0,
        bytes: (rows.dtype.bytes_of(elements) + cache.dtype.bytes_of(elements)) as u64,
    });
    Ok(())
}
