//! Keys of a location-sensitive score (`shaders/location.wgsl`).

use super::View4;
use super::visibility::{List, Visibility};
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::ElementPlan;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "location",
    sources: &[Source::File(&files::LAYOUT), Source::File(&file!("location.wgsl", ["LANES", "KEY_LENGTHS"]))],
    buffers: &[
        Buffer::read("key", "f32"),
        Buffer::read("filters", "f32"),
        Buffer::read("previous", "f32"),
        Buffer::read("vectors", "u32"),
        Buffer::write("output", "f32"),
    ],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `location.wgsl`.
    struct Params {
        key: View4,
        filters: View4,
        previous: View4,
        output: View4,
        group: u32,
        left: u32,
        quads: u32,
        elements: u32,
        kv_lengths: List,
    }
}

/// `output[b,h,j,a] = key[b,⌊h/group⌋,j,a] + Σ_n filters[a,n] · previous[b,h,0,j + n − ⌊(W − 1) / 2⌋]` for projected keys
/// [B, Hkv, Nk, A], filters [A, W] (the convolution and the projection of its channels in one), the alignment before
/// this query [B, Hq, 1, Nk] and output [B, Hq, Nk, A], all f32. Past the key lengths of `visibility` the alignment is 0.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when the work does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    visibility: &Visibility,
    key: &View,
    [filters, previous]: [&View; 2],
    output: &View,
) -> Result<()> {
    let (&[batch, heads, keys, units], &[_, kv_heads, _, _], &[_, width]) =
        (output.shape(), key.shape(), filters.shape())
    else {
        let found = format!("{:?}, {:?}, {:?}", output.shape(), key.shape(), filters.shape());
        return Err(Error::shape("output, key, filters", "ranks", "4, 4 and 2", found));
    };
    let wanted: [(&str, &View, &[usize]); 3] = [
        ("key", key, &[batch, kv_heads, keys, units]),
        ("filters", filters, &[units, width]),
        ("previous", previous, &[batch, heads, 1, keys]),
    ];
    if let Some((name, view, shape)) = wanted.into_iter().find(|(_, view, shape)| view.shape() != *shape) {
        return Err(Error::shape(name, "shape", format!("{shape:?}"), format!("{:?}", view.shape())));
    }
    let iterations = width as u64 + 6;
    if iterations > caps.max_iterations {
        let what = "loop iterations over the location filter".to_owned();
        return Err(Error::Limit { what, needed: iterations, allowed: caps.max_iterations });
    }
    let quads = units.div_ceil(4);
    let elements = batch * heads * keys * quads;
    let plan = ElementPlan::new("location features", elements, caps)?;
    let params = Params {
        key: View4::new(key)?,
        filters: View4::new(filters)?,
        previous: View4::new(previous)?,
        output: View4::new(output)?,
        group: (heads / kv_heads.max(1)) as u32,
        left: ((width - 1) / 2) as u32,
        quads: quads as u32,
        elements: elements as u32,
        kv_lengths: visibility.positions.kv_lengths,
    };
    recording.push(Dispatch {
        variant: Variant::new(&KERNEL, [], [("LANES", f64::from(plan.lanes)), visibility.key_lengths()]),
        params: params.bytes(),
        bindings: vec![
            Binding::Read(key.slot),
            Binding::Read(filters.slot),
            Binding::Read(previous.slot),
            visibility.vectors,
            Binding::Write(output.slot),
        ],
        grid: plan.grid,
        iterations,
        workgroup_bytes: 0,
        flops: 2 * (batch * heads * keys * units * width) as u64,
        bytes: 4 * (key.layout.elements() + previous.layout.elements() + output.layout.elements()) as u64,
    });
    Ok(())
}
