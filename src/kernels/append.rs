//! Appends rows to a cache, in place (`shaders/append.wgsl`).

use super::visibility::{List, PageParams, Vectors};
use super::{View4, read, switch};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::ElementPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "append",
    sources: &[
        Source::Storage { alias: "out_elem", plain: &files::WRITE_PLAIN, q8: &files::WRITE_Q8 },
        Source::File(&files::LAYOUT),
        Source::File(&files::PAGES),
        Source::File(&file!("append.wgsl", ["LANES", "WRAP", "PAIR"])),
    ],
    buffers: &[
        Buffer::read("rows", "elem"),
        Buffer::read("value_rows", "elem"),
        Buffer::read("vectors", "u32"),
        Buffer::write("cache", "out_elem"),
        Buffer::write("value_cache", "out_elem"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `append.wgsl`.
    struct Params {
        rows: View4,
        cache: View4,
        value_rows: View4,
        value_cache: View4,
        pages: PageParams,
        starts: List,
        capacity: u32,
        units: u32,
        value_units: u32,
    }
}

/// Rows [B, H, N, D] and the cache [B, H, C, D] that they are written into.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'v> {
    /// f32 or f16.
    pub rows: &'v View,
    /// f32, f16 or q8; a pool of pages [pages, H, page size, D] with a block table.
    pub cache: &'v View,
}

impl Rows<'_> {
    /// Elements, where the shapes fit each other.
    fn check(&self, name: &str, shape: [usize; 3], outer_axes: [usize; 2]) -> Result<()> {
        let (&[batch, heads, rows, dim], &[outer, cache_heads, inner, cache_dim]) =
            (self.rows.shape(), self.cache.shape())
        else {
            let found = format!("{:?}, {:?}", self.rows.shape(), self.cache.shape());
            return Err(Error::shape(format!("{name}, cache"), "ranks", "4 and 4", found));
        };
        let same = |axis: &str, expected: usize, found: usize| match expected == found {
            true => Ok(()),
            false => Err(Error::shape(name, axis, expected, found)),
        };
        same("axis 0 (batch)", shape[0], batch)?;
        same("axis 1 (heads)", cache_heads, heads)?;
        same("axis 2 (rows)", shape[2], rows)?;
        same("axis 3 (head dim)", cache_dim, dim)?;
        same("axis 1 (heads)", shape[1], heads)?;
        if [outer, inner] != outer_axes {
            return Err(Error::shape(
                "cache",
                "axes 0 and 2",
                format!("{outer_axes:?}"),
                format!("{:?}", [outer, inner]),
            ));
        }
        self.cache.dtype.check_layout("cache", &self.cache.layout)
    }

    /// What invocations write, one each.
    fn units(&self) -> usize {
        self.rows.layout.elements() / self.cache.dtype.block()
    }

    fn bytes(&self) -> u64 {
        let elements = self.rows.layout.elements();
        (self.rows.dtype.bytes_of(elements) + self.cache.dtype.bytes_of(elements)) as u64
    }
}

/// Writes rows into their cache from row `starts[b]` on (`[B]`, u32). Rows past the end are dropped or, with `wrap`, begin
/// again at the front. With `values` the same of a second set in the same dispatch, of the same types, as many and as far.
///
/// A cache of q8 is written in whole blocks, which its layout must not cut; the last axis of the rows has whole ones too.
/// With a block table `table` [B, pages] (u32) the cache is a pool of pages [pages, H, page size, D].
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    keys: Rows<'_>,
    values: Option<Rows<'_>>,
    starts: &View,
    table: Option<&View>,
    wrap: bool,
) -> Result<()> {
    let (&[batch, heads, length, _], &[pool, _, size, _]) = (keys.rows.shape(), keys.cache.shape()) else {
        let found = format!("{:?}, {:?}", keys.rows.shape(), keys.cache.shape());
        return Err(Error::shape("rows, cache", "ranks", "4 and 4", found));
    };
    keys.check("rows", [batch, heads, length], [pool, size])?;
    if let Some(values) = values {
        values.check("value rows", [batch, heads, length], [pool, size])?;
        if (values.rows.dtype, values.cache.dtype) != (keys.rows.dtype, keys.cache.dtype) {
            let expected = format!("{} into {}, as the keys", keys.rows.dtype, keys.cache.dtype);
            let found = format!("{} into {}", values.rows.dtype, values.cache.dtype);
            return Err(Error::shape("value rows", "dtype", expected, found));
        }
    }
    if starts.shape() != [batch] || starts.dtype != DType::U32 {
        let found = format!("{:?} {}", starts.shape(), starts.dtype);
        return Err(Error::shape("starts", "shape", format!("[{batch}] u32"), found));
    }
    let vectors = Vectors::record(recording, caps, &[Some(starts), table])?;
    let (pages, capacity) = match vectors.view(1) {
        None if pool != batch => return Err(Error::shape("rows", "axis 0 (batch)", pool, batch)),
        None => (Default::default(), size),
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
    let (units, value_units) = (keys.units(), values.map_or(0, |values| values.units()));
    if units + value_units == 0 || capacity == 0 || pool == 0 {
        return Ok(());
    }
    let plan = ElementPlan::new("an append", units.saturating_add(value_units), caps)?;
    let no_cache = match values {
        Some(values) => values.cache.clone(),
        None => recording.scratch("no values", &[1], DType::F32),
    };
    let no_view = View4::default();
    let params = Params {
        rows: View4::new(keys.rows)?,
        cache: View4::new(keys.cache)?,
        value_rows: values.map_or(Ok(no_view), |values| View4::new(values.rows))?,
        value_cache: values.map_or(Ok(no_view), |values| View4::new(values.cache))?,
        pages,
        starts: vectors.list(0),
        capacity: capacity.min(u32::MAX as usize) as u32,
        units: units as u32,
        value_units: value_units as u32,
    };
    let block = keys.cache.dtype.block();
    recording.push(Dispatch {
        variant: Variant::new(
            &KERNEL,
            [("elem", keys.rows.dtype), ("out_elem", keys.cache.dtype)],
            [
                ("LANES", f64::from(plan.lanes)),
                ("WRAP", switch(wrap)),
                ("PAIR", switch(values.is_some())),
                ("PAGED", switch(table.is_some())),
            ],
        ),
        params: params.bytes(),
        bindings: vec![
            Binding::Read(keys.rows.slot),
            read(values.map(|values| values.rows)),
            vectors.binding,
            Binding::Write(keys.cache.slot),
            Binding::Write(no_cache.slot),
        ],
        grid: plan.grid,
        // A pass over a block for its scale, and one for its bytes.
        iterations: if block > 1 { 3 * block as u64 } else { 0 },
        workgroup_bytes: 0,
        flops: 0,
        bytes: keys.bytes() + values.map_or(0, |values| values.bytes()),
    });
    Ok(())
}
