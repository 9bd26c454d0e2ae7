//! What people may have meant otherwise: notes on inputs that fit, hints where they do not.

use regard::attention::{Attention, AttentionInputs, RotaryEmbedding, RotaryLayout};
use regard::problem::{AttentionProblem, Role, Storage};
use regard::tensor::Array;
use regard::{Error, Result};

use super::inputs::positions_of;
use crate::failure::Failure;
use crate::output::note;
use crate::tensors;

/// Tells of numbers that the device's storage cannot hold.
pub(super) fn warn_storage(inputs: &AttentionInputs<Array>, storage: Storage) -> Result<()> {
    inputs.try_map(|name, array| tensors::warn_storage(name, array, Role::of(name).dtype(storage)), |_, _| Ok(()))?;
    Ok(())
}

/// Notes on what is computed where something else is often meant.
pub(super) fn tell(options: &Attention, inputs: &AttentionInputs<Array>, problem: &AttentionProblem) {
    let notes =
        [padded(options, inputs, problem), short_mask(problem), mask_of_rows(inputs, problem), doubled_tables(inputs)];
    notes.iter().flatten().for_each(|text| note(text));
}

/// Lengths of the keys alone: what a cache means, and seldom what a padded batch means.
fn padded(options: &Attention, inputs: &AttentionInputs<Array>, p: &AttentionProblem) -> Option<String> {
    let lengths = inputs.kv_lengths.as_ref().filter(|_| inputs.query_lengths.is_none() && p.page.is_none())?;
    let shifted = lengths.data().iter().filter(|&&length| (length as usize) < p.keys).count();
    let positioned = [
        ("--causal", options.causal.is_some()),
        ("--window", options.window.is_some_and(|window| window.left.is_some() || window.right.is_some())),
        ("--rotary", inputs.rotary.is_some()),
        ("`alibi_slopes`", inputs.alibi_slopes.is_some()),
    ];
    let (what, _) = positioned.into_iter().find(|(_, given)| *given)?;
    (p.queries == p.keys && shifted > 0).then(|| {
        format!(
            "`kv_lengths` without `query_lengths`: for {what} query i stands at key i + length - {}, which is before key i \
             in {shifted} of {} batch rows; for a padded batch give `query_lengths` too",
            p.queries, p.batch
        )
    })
}

fn short_mask(p: &AttentionProblem) -> Option<String> {
    let (reached, keys) = (p.mask_keys, p.keys);
    let past = if p.past > 0 { ", of which the past's come first" } else { "" };
    (reached < keys).then(|| format!("`mask` reaches {reached} of {keys} keys{past}; those behind are hidden"))
}

/// A mask with as many rows as there are batch rows that is read as one of queries or heads.
fn mask_of_rows(inputs: &AttentionInputs<Array>, p: &AttentionProblem) -> Option<String> {
    let shape = inputs.mask.as_ref()?.shape();
    let read = match *shape {
        [rows, _] if rows == p.batch && rows == p.queries => "[Nq, Nk], the same for all batch rows",
        [rows, ..] if shape.len() == 3 && rows == p.batch && rows == p.query_heads => {
            "[Hq, Nq, Nk], the same for all batch rows"
        }
        _ => return None,
    };
    (p.batch > 1)
        .then(|| format!("`mask` {shape:?} is read as {read}; one for each batch row is {:?}", by_batch(shape)))
}

/// The shape of a mask without an axis of heads, and of queries if need be, with them.
fn by_batch(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [batch, keys] => vec![batch, 1, 1, keys],
        [batch, queries, keys] => vec![batch, 1, queries, keys],
        _ => shape.to_vec(),
    }
}

/// Tables that hold each angle twice, one for each element of a pair, where one for each pair is read.
fn doubled_tables(inputs: &AttentionInputs<Array>) -> Option<String> {
    let RotaryEmbedding { options, sin, .. } = inputs.rotary.as_ref()?;
    let layout = options.layout;
    let &[positions, width] = sin.shape() else { return None };
    let is_twice = |row: &[f32]| match layout {
        RotaryLayout::HalfSplit => row[..width / 2] == row[width / 2..],
        RotaryLayout::Interleaved => row.as_chunks::<2>().0.iter().all(|[a, b]| a == b),
    };
    let turns = sin.data().iter().any(|&x| x != 0.0);
    (turns && width >= 2 && width % 2 == 0 && sin.data().chunks_exact(width).all(is_twice)).then(|| {
        format!(
            "`rotary_sin` [{positions}, {width}] holds every number twice, as tables of the full width do, and is read as \
             one of {} elements; if that is not meant, {}",
            2 * width,
            half(layout, positions, width)
        )
    })
}

/// How a table of the full width becomes one that is read.
fn half(layout: RotaryLayout, positions: usize, width: usize) -> String {
    let columns = match layout {
        RotaryLayout::HalfSplit => "the first half of its columns",
        RotaryLayout::Interleaved => "every other column of it",
    };
    format!("give {columns}, [{positions}, {}]", width / 2)
}

/// The failure of a request whose tensors do not fit, with a hint where a usual layout explains it.
pub(super) fn explain(error: Error, options: &Attention, inputs: &AttentionInputs<Array>) -> Failure {
    let hint = match &error {
        Error::Shape { tensor, .. } if tensor == "mask" => mask_hint(inputs),
        Error::Shape { tensor, .. } if tensor == "rotary_cos" || tensor == "rotary_sin" => table_hint(options, inputs),
        _ => None,
    };
    let failure = Failure::from(error);
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

fn mask_hint(inputs: &AttentionInputs<Array>) -> Option<String> {
    let shape = inputs.mask.as_ref()?.shape();
    let batch = inputs.query.shape().first()?;
    ((2..4).contains(&shape.len()) && shape.first() == Some(batch))
        .then(|| format!("axes are counted from the last; one for each batch row is {:?}", by_batch(shape)))
}

fn table_hint(options: &Attention, inputs: &AttentionInputs<Array>) -> Option<String> {
    let RotaryEmbedding { options: rotary, cos, .. } = inputs.rotary.as_ref()?;
    let fits = |table: [usize; 2]| {
        let mut shapes = inputs.map(Array::shape, Array::shape);
        shapes.rotary = Some(RotaryEmbedding::new(*rotary, [&table[..], &table[..]]));
        AttentionProblem::new(options, &shapes).is_ok()
    };
    let shape = cos.shape();
    let &[.., positions, width] = shape else { return None };
    let whole = fits([positions, width]);
    let halved = !whole && width % 2 == 0 && fits([positions, width / 2]);
    match shape.len() {
        3 if shape[0] == 1 && (whole || halved) => {
            let columns = if halved { format!("; {}", half(rotary.layout, positions, width)) } else { String::new() };
            Some(format!("leave out the axis of 1: [{positions}, {width}]{columns}"))
        }
        2 if halved => Some(format!(
            "a table of the full width holds each number twice: {}",
            half(rotary.layout, positions, width)
        )),
        _ => {
            let rows = positions.max(rotary.offset.saturating_add(positions_of(inputs)));
            let dim = [&inputs.query, &inputs.key].iter().filter_map(|array| array.shape().last()).min()?;
            let table = [rows, width.min(dim / 2)];
            fits(table).then(|| {
                format!(
                    "both tables have a row for each position and a column for each pair of elements: {table:?} fits"
                )
            })
        }
    }
}
