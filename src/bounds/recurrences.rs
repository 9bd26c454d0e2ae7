//! Recurrences: `recurrent.wgsl`, `recurrent_loop.wgsl` and `common/cell.wgsl`.

use super::{FAR, Seen, holds_that, reach};

/// The stages of `recurrent.wgsl`, by their number.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Lstm,
    Gru,
    GruReset,
    GruUpdate,
    Rnn,
    Product,
    Project,
}

impl Stage {
    const ALL: [Self; 7] =
        [Self::Lstm, Self::Gru, Self::GruReset, Self::GruUpdate, Self::Rnn, Self::Product, Self::Project];

    /// The last of the gates whose weights, biases or inputs it reads.
    fn last_gate(self) -> u64 {
        match self {
            Self::Rnn | Self::Project => 0,
            Self::GruReset => 1,
            Self::Gru | Self::GruUpdate => 2,
            Self::Lstm | Self::Product => 3,
        }
    }
}

/// The numbers of directions, rows and units that both kernels have.
struct Sizes {
    directions: u64,
    batch: u64,
    units: u64,
    gate_count: u64,
    steps: u64,
}

impl Sizes {
    fn new(seen: &Seen<'_>) -> Option<Self> {
        let [directions, batch, units, gate_count, steps] =
            ["directions", "batch", "units", "gate_count", "steps"].map(|name| seen.count(name));
        let sizes =
            Self { directions: directions?, batch: batch?, units: units?, gate_count: gate_count?, steps: steps? };
        // `activations` has five entries for each of two directions.
        (sizes.directions <= 2).then_some(sizes)
    }

    /// The largest row of [directions, rows].
    fn last_row(&self) -> u64 {
        self.directions * self.batch - 1
    }

    /// Lengths are clamped to the steps, so that a time is a step.
    fn lengths(&self, seen: &Seen<'_>) -> Option<()> {
        match seen.is_on("LENGTHS")? {
            true => seen.within("lengths", reach(seen.number("lengths")?, [(self.batch - 1, 1)])),
            false => Some(()),
        }
    }

    fn output(&self, seen: &Seen<'_>) -> Option<()> {
        match seen.is_on("EMIT")? {
            true => {
                let last = [self.steps - 1, self.batch - 1, self.directions - 1, self.units - 1];
                seen.within("output", seen.view("output")?.reach(last))
            }
            false => Some(()),
        }
    }
}

/// One step. `partial_sums` of `split_k_shared.wgsl` has slice K_SPLITS − 1, column LANES / K_SPLITS − 1; a row of a quad (`[row]`,
/// `[r]`) is below 4, as the epilogue takes four of them, or eight in two.
pub(super) fn step(seen: &Seen<'_>) -> Option<()> {
    let (lanes, k_splits) = (seen.constant("LANES")?, seen.constant("K_SPLITS")?);
    holds_that(k_splits > 0 && lanes > 0 && lanes.is_multiple_of(k_splits))?;
    let stage = *Stage::ALL.get(usize::try_from(seen.constant("STAGE")?).ok()?)?;
    let (single, stacked) = (seen.is_on("SINGLE")?, seen.is_on("STACKED")?);
    let s = Sizes::new(seen)?;
    let [depth, quads, row_quads, row_tiles, unit_tiles, tiles] =
        ["depth", "quads", "row_quads", "row_tiles", "unit_tiles", "tiles"].map(|name| seen.count(name));
    let (depth, quads, row_quads, row_tiles) = (depth?, quads?, row_quads?, row_tiles?);
    let tile_quads = 1 + u64::from(seen.is_on("TALL")?);
    holds_that(4 * (quads - 1) < s.units && (row_tiles - 1) * tile_quads < row_quads && (!single || s.batch == 1))?;
    // What the blocks of a dispatch are: directions, or layers, each at a step of its own.
    let blocks = tiles? / row_tiles.checked_mul(unit_tiles?)?;
    holds_that(tiles? == blocks * row_tiles * unit_tiles?)?;
    let step = seen.number("step")?;
    let (layer, direction) = if stacked {
        let first = seen.number("first_layer")?;
        let last = first + blocks.checked_sub(1)?;
        holds_that(last <= step && step - first < s.steps)?;
        (last, 0)
    } else {
        holds_that(blocks == s.directions && step < s.steps)?;
        (0, s.directions - 1)
    };

    // Weights [layers, directions, depth, G, units].
    let row = s.gate_count.checked_mul(quads)?;
    let matrix = layer * s.directions + direction;
    let gate = stage.last_gate();
    let weight = [(matrix, depth.checked_mul(row)?), (depth - 1, row), (gate, quads), (quads - 1, 1)];
    seen.within("weight", reach(seen.number("weight_start")?, weight))?;
    if stacked && layer > 0 {
        let input = seen.count("input_depth")?;
        let below = [(layer - 1, input.checked_mul(row)?), (input - 1, row), (gate, quads), (quads - 1, 1)];
        seen.within("weight_below", reach(seen.number("below_start")?, below))?;
    }

    // State. An operand is [directions, depth, row quads], or with a single row [directions, quads of the depth].
    let layer_start = layer.checked_mul(seen.number("layer_state")?)?;
    let operand = |start: &str, flip: &str, depth: u64, quad: u64| {
        let start = reach(layer_start, [(seen.number(start)?, 1), (seen.number(flip)?, 1)])?;
        match single {
            true => reach(start, [(direction, depth.div_ceil(4)), (quad, 1)]),
            false => {
                let matrix = depth.div_ceil(4).checked_mul(4 * row_quads)?;
                reach(start, [(direction, matrix), (quad, 4 * row_quads), (3, row_quads), (row_quads - 1, 1)])
            }
        }
    };
    seen.within("state", operand("operand", "operand_flip", depth, (depth - 1) / 4))?;
    if stacked && layer > 0 {
        let input = seen.count("input_depth")?;
        seen.within("state", operand("operand", "operand_flip", input, (input - 1) / 4))?;
    }
    if stage == Stage::Product {
        let sums = [(s.last_row(), row), (gate, quads), (quads - 1, 1)];
        return seen.within("state", reach(seen.number("sums")?, sums));
    }
    seen.within("state", operand("result", "result_flip", s.units, quads - 1))?;
    let old_depth = if stage == Stage::Project { s.units } else { depth };
    seen.within("state", operand("old", "old_flip", old_depth, quads - 1))?;
    if matches!(stage, Stage::Lstm | Stage::GruReset | Stage::GruUpdate) {
        let by_row = reach(layer_start, [(seen.number("row_state")?, 1), (s.last_row(), quads), (quads - 1, 1)]);
        seen.within("state", by_row)?;
    }

    // X·W + b [T, B, directions, G, units], and the vectors [layers, directions, rows, units].
    if stage != Stage::Project {
        let rows = s.steps.checked_mul(s.batch)?.checked_mul(s.directions)?;
        holds_that(rows <= FAR)?;
        seen.within("gates", reach(0, [(rows - 1, row), (gate, quads), (quads - 1, 1)]))?;
    }
    let bias = if stacked { s.gate_count + gate } else { gate };
    let last_vector = [("HAS_BIAS", bias), ("PEEPHOLES", 10)];
    for (switch, last) in last_vector {
        if seen.is_on(switch)? {
            let vectors = [(matrix, seen.number("vector_rows")?.checked_mul(quads)?), (last, quads), (quads - 1, 1)];
            seen.within("vectors", reach(seen.number("vectors_start")?, vectors))?;
        }
    }
    s.lengths(seen)?;
    s.output(seen)
}

/// Many steps. A row of `hidden` has 36 entries: `lane % slice`, slice = 4 · SPLIT_BLOCKS ≤ 32; its rows are `lane / slice` of lanes below
/// UNITS, a slice of the K_SPLITS, or of a single one the first or second. `partial_sums` has LANES: `lane + split · UNITS` of
/// lanes below UNITS.
pub(super) fn steps(seen: &Seen<'_>) -> Option<()> {
    let [lanes, width, k_splits, blocks, rows] =
        ["LANES", "UNITS", "K_SPLITS", "SPLIT_BLOCKS", "HIDDEN_ROWS"].map(|name| seen.constant(name));
    let (width, k_splits, blocks) = (width?, k_splits?, blocks?);
    holds_that(width > 0 && k_splits > 0 && lanes? == width * k_splits)?;
    holds_that((1..=8).contains(&blocks) && width <= 4 * blocks * k_splits && k_splits.max(2) <= rows?)?;
    let gate = match seen.constant("CELL")? {
        0 => 3,
        1 | 2 => 2,
        4 => 0,
        _ => return None,
    };
    let s = Sizes::new(seen)?;
    let (direction, unit) = (s.directions - 1, s.units - 1);
    let (first, last) = (seen.number("first")?, seen.number("last")?);
    holds_that(s.units <= width && first < last && last <= s.steps)?;
    let row = s.gate_count.checked_mul(width)?;
    let weight = [(direction * s.units + unit, row), (gate, width), (unit, 1)];
    // A lane past the last unit loads what stands there: padding, or the next gate.
    let weight = reach(seen.number("weight_start")?, weight)?.checked_add(width - 1 - unit);
    seen.within("weight", weight)?;
    let rows = s.steps.checked_mul(s.batch)?.checked_mul(s.directions).filter(|rows| *rows <= FAR)?;
    seen.within("gates", reach(0, [(rows - 1, row), (gate, width), (unit, 1)]))?;
    let stride = seen.number("row_stride")?;
    let h = [(direction, width.checked_mul(stride)?), (unit, stride), (s.batch - 1, 1)];
    seen.within("state", reach(seen.number("hidden")?, h))?;
    if gate == 3 {
        seen.within("state", reach(seen.number("row_state")?, [(s.last_row(), width), (unit, 1)]))?;
    }
    for (switch, last) in [("HAS_BIAS", gate), ("PEEPHOLES", 10)] {
        if seen.is_on(switch)? {
            let vectors = [(direction, seen.number("vector_rows")?.checked_mul(width)?), (last, width), (unit, 1)];
            seen.within("vectors", reach(seen.number("vectors_start")?, vectors))?;
        }
    }
    s.lengths(seen)?;
    s.output(seen)
}
