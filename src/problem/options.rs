//! What options and their tensors ask of each other.

use super::{nonzero, same, temperature, vector};
use crate::attention::{
    Attention, AttentionInputs, BlockMask, CuSeqlens, Monotonic, Normalize, RotaryEmbedding, Score,
};
use crate::error::{Error, Result};

/// Pages per batch row and keys per page of a paged cache.
pub(super) fn paged(
    options: &Attention,
    inputs: &AttentionInputs<&[usize]>,
    batch: usize,
    page: usize,
) -> Result<Option<(usize, usize)>> {
    let Some(table) = inputs.block_table else { return Ok(None) };
    let &[rows, pages] = table else {
        return Err(Error::shape("block_table", "rank", "2 [B, pages]", table.len()));
    };
    nonzero("block_table", table)?;
    same("block_table", "axis 0 (batch)", batch, rows)?;
    if inputs.kv_lengths.is_none() {
        return Err(Error::missing("kv_lengths", "[B], how many keys behind `block_table` are real"));
    }
    if inputs.past.is_some() {
        let reason = "is a cache already: append new keys to its pages, and leave past_key and past_value out";
        return Err(Error::option("block_table", reason));
    }
    if inputs.rotary.is_some() {
        let reason = "keys in pages are taken as turned already: turn query and new keys before they are appended";
        return Err(Error::option("rotary", reason));
    }
    if options.score == Score::Location {
        let reason =
            "a location-sensitive score makes keys of its own, which no page holds: give the keys in one piece";
        return Err(Error::option("block_table", reason));
    }
    let projected = inputs.score.key_weight.is_some() || options.score == Score::Concat;
    if projected {
        let reason = format!(
            "{:?} would project every page at each call: keep projected keys in the cache, and compare them with \
             projected queries by an additive score without weights",
            options.score
        );
        return Err(Error::option("block_table", reason));
    }
    Ok(Some((pages, page)))
}

/// S of a ragged batch.
pub(super) fn ragged(options: &Attention, inputs: &AttentionInputs<&[usize]>, batch: usize) -> Result<Option<usize>> {
    let Some(&CuSeqlens { q: queries, k: keys }) = inputs.cu_seqlens.as_ref() else { return Ok(None) };
    let &[ends] = queries else {
        return Err(Error::shape("cu_seqlens_q", "rank", "1 [S + 1]", queries.len()));
    };
    if ends < 2 {
        return Err(Error::shape("cu_seqlens_q", "axis 0 (sequences + 1)", "at least 2", ends));
    }
    vector("cu_seqlens_k", Some(keys), ends, "sequences + 1")?;
    same("query", "axis 0 (batch), with sequences one behind the other", 1, batch)?;
    let others = [
        ("kv_lengths", inputs.kv_lengths.is_some()),
        ("query_lengths", inputs.query_lengths.is_some()),
        ("past_key", inputs.past.is_some()),
        ("block_table", inputs.block_table.is_some()),
    ];
    if options.score == Score::Location || matches!(options.normalize, Normalize::Monotonic(_)) {
        let reason = "alignments would run from one sequence into the next: give a batch with lengths instead";
        return Err(Error::option("cu_seqlens_q", reason));
    }
    match others.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::option(*name, "cannot stand beside cu_seqlens, which give every length already")),
        None => Ok(Some(ends - 1)),
    }
}

pub(super) fn check_blocks(mask: Option<&BlockMask<&[usize]>>, full: [usize; 4]) -> Result<()> {
    let Some(&BlockMask { mask, size: [queries, keys] }) = mask else { return Ok(()) };
    if queries == 0 || keys == 0 {
        return Err(Error::option("block_size", format!("must be at least 1 by 1, not {queries} by {keys}")));
    }
    let blocks = [full[0], full[1], full[2].div_ceil(queries), full[3].div_ceil(keys)];
    let &[b, h, q, k] = mask else {
        let expected = format!("4 [B, Hq, {}, {}]", blocks[2], blocks[3]);
        return Err(Error::shape("block_mask", "rank", expected, mask.len()));
    };
    for (axis, found, wanted) in [("axis 0 (batch)", b, blocks[0]), ("axis 1 (query heads)", h, blocks[1])] {
        if found != 1 {
            same("block_mask", axis, wanted, found)?;
        }
    }
    same("block_mask", "axis 2 (blocks of queries)", blocks[2], q)?;
    same("block_mask", "axis 3 (blocks of keys)", blocks[3], k)
}

/// Slopes [Hq], or [B, Hq] where batch rows differ; in a ragged batch [S, Hq] for its S sequences.
pub(super) fn check_slopes(
    slopes: Option<&[usize]>,
    batch: usize,
    sequences: Option<usize>,
    heads: usize,
) -> Result<()> {
    const NAME: &str = "alibi_slopes";
    let (rows, of) = sequences.map_or((batch, "batch"), |sequences| (sequences, "sequences"));
    match slopes {
        None => Ok(()),
        Some(&[found]) => same(NAME, "axis 0 (query heads)", heads, found),
        Some(&[found_rows, found]) => {
            same(NAME, &format!("axis 0 ({of})"), rows, found_rows)?;
            same(NAME, "axis 1 (query heads)", heads, found)
        }
        Some(shape) => {
            let expected = format!("1 [{heads}] (query heads), or 2 [{rows}, {heads}] ({of}, query heads)");
            Err(Error::shape(NAME, "rank", expected, format!("{} {shape:?}", shape.len())))
        }
    }
}

pub(super) fn check_previous(options: &Attention, previous: Option<&[usize]>, full: [usize; 4]) -> Result<()> {
    let [batch, heads, queries, keys] = full;
    let location = options.score == Score::Location;
    let monotonic = matches!(options.normalize, Normalize::Monotonic(_));
    if location && monotonic && queries > 1 {
        let reason = "a location-sensitive score under a monotonic alignment takes one query at a time: give Nq = 1";
        return Err(Error::option("score", reason));
    }
    match previous {
        None if location => Err(Error::missing("previous", "[B, Hq, Nq, Nk], the alignment before each query")),
        None => Ok(()),
        Some(_) if !location && !monotonic => {
            let reason = "belongs to a location-sensitive score or a monotonic alignment: leave it out";
            Err(Error::option("previous", reason))
        }
        Some(shape) => {
            let wanted = [batch, heads, if location { queries } else { 1 }, keys];
            if shape.len() != 4 {
                return Err(Error::shape("previous", "rank", format!("4 {wanted:?}"), shape.len()));
            }
            let names = ["axis 0 (batch)", "axis 1 (query heads)", "axis 2 (queries)", "axis 3 (keys)"];
            (0..4).try_for_each(|axis| same("previous", names[axis], wanted[axis], shape[axis]))
        }
    }
}

/// `longest`: how many positions are read at least.
pub(super) fn check_rotary(rotary: Option<&RotaryEmbedding<&[usize]>>, head_dim: usize, longest: usize) -> Result<()> {
    let Some(RotaryEmbedding { options, cos, sin }) = rotary else { return Ok(()) };
    let table = |name: &str, shape: &[usize]| -> Result<[usize; 2]> {
        nonzero(name, shape)?;
        shape.try_into().map_err(|_| Error::shape(name, "rank", "2 [positions, width / 2]", shape.len()))
    };
    let [positions, pairs] = table("rotary_cos", cos)?;
    let sin = table("rotary_sin", sin)?;
    same("rotary_sin", "axis 0 (positions)", positions, sin[0])?;
    same("rotary_sin", "axis 1 (width / 2)", pairs, sin[1])?;
    if 2 * pairs > head_dim {
        return Err(Error::shape("rotary_cos", "axis 1 (width / 2)", format!("at most {}", head_dim / 2), pairs));
    }
    let needed = options.offset.saturating_add(longest);
    if positions < needed {
        return Err(Error::shape("rotary_cos", "axis 0 (positions)", format!("at least {needed}"), positions));
    }
    Ok(())
}

pub(super) fn check_options(options: &Attention, inputs: &AttentionInputs<&[usize]>) -> Result<()> {
    let finite = |name: &str, value: Option<f32>| match value {
        Some(x) if !x.is_finite() => Err(Error::option(name, format!("must be finite, not {x}"))),
        _ => Ok(()),
    };
    finite("scale", options.scale)?;
    finite("softcap", options.softcap)?;
    if let Some(cap) = options.softcap
        && cap <= 0.0
    {
        return Err(Error::option("softcap", format!("must be above 0, not {cap}; leave it out for none")));
    }
    if let Some(given) = options.temperature {
        temperature(given)?;
        if matches!(options.normalize, Normalize::Hardmax | Normalize::Monotonic(Monotonic::Hard)) {
            return Err(Error::option("temperature", "changes nothing of a hard choice: leave it out"));
        }
    }
    if let Some(window) = options.window
        && window.sink_tokens > 0
        && window.left.is_none()
        && window.right.is_none()
    {
        return Err(Error::option("window", "sink tokens belong to a window with a left or a right end"));
    }
    if inputs.sinks.is_some() && options.normalize != Normalize::Softmax {
        return Err(Error::option("sinks", "take part in a softmax only: use `normalize = softmax`"));
    }
    let stats = [("lse", options.lse), ("max_sum", options.max_sum)];
    if let Some((name, _)) = stats.into_iter().find(|(_, asked)| *asked)
        && !matches!(options.normalize, Normalize::Softmax | Normalize::Sample { .. })
    {
        return Err(Error::option(name, "belongs to softmax and sample only"));
    }
    Ok(())
}
