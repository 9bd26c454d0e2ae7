//! Tiles of a mask tensor (`shaders/mask_tiles.wgsl`).

use super::View4;
use super::visibility::MaskMapParams;
use crate::device::Caps;
use crate::error::Result;
use crate::plan::grid;
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "mask_tiles",
    sources: &[Source::File(&files::LAYOUT), Source::File(&file!("mask_tiles.wgsl", ["LANES", "MASK"]))],
    buffers: &[Buffer::read("mask", "u32"), Buffer::write("tiles", "u32")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `mask_tiles.wgsl`.
    struct Params {
        view: View4,
        start: u32,
        columns: u32,
        row_tiles: u32,
        count: u32,
        queries: u32,
        keys: u32,
    }
}

/// Keys side by side in a workgroup.
const LANES: u32 = 32;

/// How a mask is cut into tiles; axes along which it repeats have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Of the mask without repetition.
    shape: [usize; 4],
    /// Queries and keys of a tile.
    tile: [usize; 2],
}

impl Map {
    /// For a mask broadcast to [B, Hq, Nq, Nk].
    pub fn new(mask: &View, tile: [usize; 2]) -> Self {
        let layout = mask.layout.lift(4);
        let alone = |axis: usize| if layout.strides[axis] == 0 { 1 } else { layout.shape[axis] };
        Self { shape: std::array::from_fn(alone), tile: tile.map(|n| n.max(1)) }
    }

    fn row_tiles(&self) -> usize {
        self.shape[2].div_ceil(self.tile[0])
    }

    fn columns(&self) -> usize {
        self.shape[3].div_ceil(self.tile[1])
    }

    /// Tiles in all, a word each.
    pub fn words(&self) -> usize {
        self.shape[0] * self.shape[1] * self.row_tiles() * self.columns()
    }

    /// As the kernels that read the map want to know it.
    pub fn params(&self, map: &View) -> MaskMapParams {
        let step = |repeats: bool, step: usize| if repeats { 0 } else { step as u32 };
        let rows = self.row_tiles() * self.columns();
        MaskMapParams {
            start: map.layout.offset as u32,
            batch_step: step(self.shape[0] == 1, self.shape[1] * rows),
            head_step: step(self.shape[1] == 1, rows),
            query_step: step(self.shape[2] == 1, self.columns()),
            queries: self.tile[0] as u32,
            keys: self.tile[1] as u32,
            columns: self.columns() as u32,
        }
    }
}

/// Fills in the map of a mask [B, Hq, Nq, Nk]; `kind` is 1 for a bool mask and 2 for a float one.
///
/// # Errors
/// [`crate::Error::Limit`] when the work does not fit the device.
pub fn record(recording: &mut Recording, caps: &Caps, map: &Map, mask: &View, kind: f64, target: &View) -> Result<()> {
    let mut layout = mask.layout.lift(4);
    layout.shape = map.shape.into();
    let params = Params {
        view: View4::new(&mask.with(layout))?,
        start: target.layout.offset as u32,
        columns: map.columns() as u32,
        row_tiles: map.row_tiles() as u32,
        count: map.words() as u32,
        queries: map.tile[0] as u32,
        keys: map.tile[1] as u32,
    };
    recording.push(Dispatch {
        variant: Variant::new(&KERNEL, [], [("LANES", f64::from(LANES)), ("MASK", kind)]),
        params: params.bytes(),
        bindings: vec![Binding::Read(mask.slot), Binding::Write(target.slot)],
        grid: grid("the tiles of a mask", map.words() as u64, caps)?,
        iterations: (map.tile[1].div_ceil(LANES as usize) * (map.tile[0] + 1) + 1) as u64,
        workgroup_bytes: 0,
        flops: 0,
        bytes: (map.shape.iter().product::<usize>() * 4 + map.words() * 4) as u64,
    });
    Ok(())
}
