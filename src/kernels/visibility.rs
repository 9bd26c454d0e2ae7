//! What the kernels of attention share: which keys are visible to which queries
//! (`shaders/common/{positions,mask,blocks,pages}.wgsl`), and the short lists that come with it.

use super::{View4, copy, mask_tiles, read, switch};
use crate::attention::{Attention, AttentionInputs, BlockMask, Causal, Mask};
use crate::device::Caps;
use crate::error::Result;
use crate::problem::{AttentionProblem, diagonal};
use crate::recording::{Binding, Recording, View};
use crate::tensor::DType;
use crate::wgsl::{Override, Source, files, params};

params! {
    /// `Positions` of `common/positions.wgsl`.
    struct PositionParams {
        queries: u32,
        keys: u32,
        offset: i32,
        bottom_right: u32,
        window_left: i32,
        window_right: i32,
        sink_tokens: u32,
        sequences: u32,
        kv_lengths: [u32; 2],
        query_lengths: [u32; 2],
        cu_seqlens_q: [u32; 2],
        cu_seqlens_k: [u32; 2],
    }
}

params! {
    /// `Mask` of `common/mask.wgsl`.
    struct MaskParams {
        view: View4,
        mask_keys: u32,
        slope_step: u32,
        slopes: [u32; 2],
    }
}

params! {
    /// `Blocks` of `common/blocks.wgsl`.
    struct BlockParams {
        view: View4,
        queries: u32,
        keys: u32,
    }
}

params! {
    /// `Pages` of `common/pages.wgsl`.
    struct PageParams {
        start: u32,
        row_step: u32,
        page_step: u32,
        size: u32,
        count: u32,
    }
}

params! {
    /// `MaskMap` of `common/tile_visibility.wgsl`.
    struct MaskMapParams {
        start: u32,
        batch_step: u32,
        head_step: u32,
        query_step: u32,
        queries: u32,
        keys: u32,
        columns: u32,
    }
}

impl PageParams {
    /// A block table [B, pages] in `vectors` over a pool of `count` pages of `size` keys.
    pub fn new(table: &View, size: usize, count: usize) -> Self {
        Self {
            start: table.layout.offset as u32,
            row_step: table.layout.strides[0] as u32,
            page_step: table.layout.strides[1] as u32,
            size: size as u32,
            count: count as u32,
        }
    }
}

/// The files that decide which keys are visible to which queries, and what the score of a pair is.
pub(super) const SOURCES: Source = Source::All(&[
    Source::File(&files::LAYOUT),
    Source::File(&files::MATH),
    Source::File(&files::HIDDEN),
    Source::File(&files::POSITIONS),
    Source::File(&files::BLOCKS),
    Source::File(&files::PAGES),
    Source::File(&files::MASK),
    Source::File(&files::PAIR),
]);

/// A list inside the binding `vectors`: index of its first word, words between neighbours.
pub type List = [u32; 2];

/// The switches of `positions.wgsl` (five), `blocks.wgsl`, `pages.wgsl` and `mask.wgsl` (two), in this order.
const SWITCHES: [&str; 9] =
    ["CAUSAL", "WINDOW", "KEY_LENGTHS", "QUERY_LENGTHS", "SEQUENCES", "BLOCKS", "PAGED", "MASK", "ALIBI"];

/// The largest extent of a window: adding a position to it does not overflow.
const FARTHEST: u32 = 1 << 30;

/// Short vectors in one binding, so that a kernel needs one storage buffer for all of them.
#[derive(Debug, Clone)]
pub struct Vectors {
    /// What to bind as `vectors`.
    pub binding: Binding,
    views: Vec<Option<View>>,
}

impl Vectors {
    /// One vector alone is bound where it lies; several are copied into one scratch buffer first.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] when the copies do not fit the device.
    pub fn record(recording: &mut Recording, caps: &Caps, vectors: &[Option<&View>]) -> Result<Self> {
        Self::with_room(recording, caps, vectors, 0)
    }

    /// The same with so many more words after the vectors, which are the last view, for a kernel to fill in.
    fn with_room(recording: &mut Recording, caps: &Caps, vectors: &[Option<&View>], room: usize) -> Result<Self> {
        let mut given = vectors.iter().flatten();
        let binding = match (given.next(), given.next()) {
            (None, _) if room == 0 => Binding::Unused,
            (Some(alone), None) if room == 0 => Binding::Read(alone.slot),
            _ => {
                // The layers of a model attend by the same lists: copied once for all of them.
                let known = if room == 0 { recording.packed(vectors) } else { None };
                if let Some(views) = known
                    && let Some(slot) = views.iter().flatten().map(|view| view.slot).next()
                {
                    return Ok(Self { binding: Binding::Read(slot), views });
                }
                let elements = vectors.iter().flatten().map(|view| view.layout.elements());
                let words = elements.fold(room, usize::saturating_add);
                let all = recording.scratch("vectors", &[words], DType::U32);
                let mut start = 0;
                let mut views = Vec::with_capacity(vectors.len());
                for vector in vectors {
                    let Some(vector) = vector else {
                        views.push(None);
                        continue;
                    };
                    let part = all.layout.narrow(0, start, vector.layout.elements())?;
                    let target = all.with(crate::tensor::Layout {
                        offset: part.offset,
                        ..crate::tensor::Layout::contiguous(vector.shape())
                    });
                    start += vector.layout.elements();
                    // Words are moved as they are, floats too.
                    copy::record(recording, caps, &View { dtype: DType::U32, ..(*vector).clone() }, &target)?;
                    views.push(Some(target));
                }
                if room == 0 {
                    recording.note_packed(vectors, views.clone());
                } else {
                    views.push(Some(all.with(all.layout.narrow(0, start, room)?)));
                }
                return Ok(Self { binding: Binding::Read(all.slot), views });
            }
        };
        Ok(Self { binding, views: vectors.iter().map(|vector| vector.cloned()).collect() })
    }

    /// Where the words of a vector lie; zeros without one.
    pub fn list(&self, index: usize) -> List {
        super::vector(self.view(index))
    }

    /// The view of a vector of any rank, as it is bound.
    pub fn view(&self, index: usize) -> Option<&View> {
        self.views.get(index).and_then(Option::as_ref)
    }
}

/// Which keys are visible to which queries in one call of attention, as parameters of the shaders.
#[derive(Debug, Clone)]
pub struct Visibility {
    /// What to bind as `vectors`.
    pub vectors: Binding,
    /// What to bind as `mask`.
    pub mask: Binding,
    /// What to bind as `block_mask`.
    pub block_mask: Binding,
    /// Sequences, lengths, causal, window.
    pub positions: PositionParams,
    /// Mask tensor and ALiBi.
    pub masked: MaskParams,
    /// Block mask.
    pub blocks: BlockParams,
    /// Block table.
    pub pages: PageParams,
    /// The parameter v of an additive score.
    pub v: List,
    /// The index of its length g.
    pub g: u32,
    /// Learned sinks, for fused kernels.
    pub sinks: List,
    /// The map of the mask's tiles, for fused kernels.
    pub mask_map: MaskMapParams,
    overrides: [Override; 9],
}

impl Visibility {
    /// Every one of `keys` is visible to every one of `queries`.
    pub fn full(queries: usize, keys: usize) -> Self {
        let positions = PositionParams {
            queries: queries as u32,
            keys: keys as u32,
            window_left: -1,
            window_right: -1,
            ..Default::default()
        };
        let overrides = SWITCHES.map(|name| (name, 0.0));
        Self {
            vectors: Binding::Unused,
            mask: Binding::Unused,
            block_mask: Binding::Unused,
            positions,
            masked: MaskParams { mask_keys: keys as u32, ..Default::default() },
            blocks: BlockParams { queries: 1, keys: 1, ..Default::default() },
            pages: Default::default(),
            v: [0; 2],
            g: 0,
            sinks: [0; 2],
            mask_map: Default::default(),
            overrides,
        }
    }

    /// Gathers the lists of a call and fills in the parameters. For a fused kernel, with tiles of so many queries and
    /// keys, the sinks are among the lists, and the mask tensor is looked through tile by tile.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] when the work does not fit the device.
    pub fn record(
        recording: &mut Recording,
        caps: &Caps,
        options: &Attention,
        problem: &AttentionProblem,
        inputs: &AttentionInputs<View>,
        fused: Option<[usize; 2]>,
    ) -> Result<Self> {
        let p = problem;
        let masked = match &inputs.mask {
            Some(mask) => {
                let view = mask.tensor();
                Some(view.with(view.layout.broadcast(&[p.batch, p.query_heads, p.queries, p.mask_keys])?))
            }
            None => None,
        };
        let map = masked.as_ref().zip(fused).map(|(mask, tile)| mask_tiles::Map::new(mask, tile));
        let lists = [
            inputs.kv_lengths.as_ref(),
            inputs.query_lengths.as_ref(),
            inputs.cu_seqlens.as_ref().map(|lists| &lists.q),
            inputs.cu_seqlens.as_ref().map(|lists| &lists.k),
            inputs.alibi_slopes.as_ref(),
            inputs.score.v.as_ref(),
            inputs.score.g.as_ref(),
            inputs.block_table.as_ref(),
            inputs.sinks.as_ref().filter(|_| fused.is_some()),
        ];
        let vectors = Vectors::with_room(recording, caps, &lists, map.as_ref().map_or(0, mask_tiles::Map::words))?;
        let window = options.window.unwrap_or_default();
        let side = |keys: Option<u32>| keys.map_or(-1, |n| n.min(FARTHEST) as i32);
        let broadcast = |view: &View, shape: &[usize]| View4::new(&view.with(view.layout.broadcast(shape)?));
        let [block_queries, block_keys] = problem.block.unwrap_or([1, 1]).map(|n| n.min(u32::MAX as usize) as u32);
        let no_view: View4 = Default::default();
        let mask_kind = match inputs.mask {
            None => 0.0,
            Some(Mask::Bool(_)) => 1.0,
            Some(Mask::Float(_)) => 2.0,
        };
        let mut mask_map: MaskMapParams = Default::default();
        if let (Some(map), Some(mask), Some(target)) = (&map, &masked, vectors.view(lists.len())) {
            mask_tiles::record(recording, caps, map, mask, mask_kind, target)?;
            mask_map = map.params(target);
        }
        let [slopes, slope_step, head_step] = slopes(vectors.view(4));
        Ok(Self {
            vectors: vectors.binding,
            mask: read(inputs.mask.as_ref().map(Mask::tensor)),
            block_mask: read(inputs.block_mask.as_ref().map(|blocks| &blocks.mask)),
            positions: PositionParams {
                queries: p.queries as u32,
                keys: p.keys as u32,
                offset: diagonal(options, p) as i32,
                bottom_right: u32::from(options.causal == Some(Causal::BottomRight)),
                window_left: side(window.left),
                window_right: side(window.right),
                sink_tokens: window.sink_tokens.min(FARTHEST),
                sequences: p.sequences.unwrap_or(0) as u32,
                kv_lengths: vectors.list(0),
                query_lengths: vectors.list(1),
                cu_seqlens_q: vectors.list(2),
                cu_seqlens_k: vectors.list(3),
            },
            masked: MaskParams {
                view: masked.as_ref().map_or(Ok(no_view), View4::new)?,
                mask_keys: p.mask_keys as u32,
                slope_step,
                slopes: [slopes, head_step],
            },
            blocks: BlockParams {
                view: match &inputs.block_mask {
                    Some(BlockMask { mask, .. }) => {
                        let (q, k) = (mask.shape()[2], mask.shape()[3]);
                        broadcast(mask, &[p.batch, p.query_heads, q, k])?
                    }
                    None => no_view,
                },
                queries: block_queries,
                keys: block_keys,
            },
            pages: match (vectors.view(7), p.page) {
                (Some(table), Some(size)) => PageParams::new(table, size, inputs.key.shape()[0]),
                _ => Default::default(),
            },
            v: vectors.list(5),
            g: vectors.list(6)[0],
            sinks: vectors.list(8),
            mask_map,
            overrides: {
                let values = [
                    switch(options.causal.is_some()),
                    switch(options.window.is_some()),
                    switch(inputs.kv_lengths.is_some()),
                    switch(inputs.query_lengths.is_some()),
                    switch(p.sequences.is_some()),
                    switch(inputs.block_mask.is_some()),
                    switch(p.page.is_some()),
                    mask_kind,
                    switch(inputs.alibi_slopes.is_some()),
                ];
                std::array::from_fn(|k| (SWITCHES[k], values[k]))
            },
        })
    }

    /// True when whole stretches of keys may be hidden from a query, other than by a mask tensor.
    pub fn hides_ranges(&self) -> bool {
        self.overrides[..6].iter().any(|(_, value)| *value != 0.0)
    }

    /// True with a block mask.
    pub fn is_blocked(&self) -> bool {
        self.block_mask != Binding::Unused
    }

    /// The switch of `positions.wgsl` that says whether there are key lengths.
    pub fn key_lengths(&self) -> Override {
        self.overrides[2]
    }

    /// The switches of `positions.wgsl`.
    pub fn position_overrides(&self) -> &[Override] {
        &self.overrides[..5]
    }

    /// The switches of `positions.wgsl`, `blocks.wgsl` and `pages.wgsl`.
    pub fn key_overrides(&self) -> &[Override] {
        &self.overrides[..7]
    }

    /// The switches of all four files.
    pub fn mask_overrides(&self) -> &[Override] {
        &self.overrides
    }
}

/// Where slopes [rows, Hq] lie in `vectors`: index of the first, words between rows and between heads; slopes [Hq] are
/// the same for every row.
fn slopes(view: Option<&View>) -> [u32; 3] {
    let Some(layout) = view.map(|view| &view.layout) else { return [0; 3] };
    let [row, head] = match layout.strides[..] {
        [row, head] => [row, head],
        _ => [0, layout.strides.first().copied().unwrap_or(0)],
    };
    [layout.offset, row, head].map(|n| n as u32)
}
