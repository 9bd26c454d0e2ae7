//! The tensors of `regard attend`: from the axes that a file has to those of the library, and back.

use regard::attention::{AttentionInputs, BlockMask, CuSeqlens, Past, RotaryEmbedding, ScoreWeights};
use regard::tensor::Array;
use regard::{Error, Result};

use super::options::Options;
use crate::failure::{Failure, Outcome};
use crate::tensors::{Input, prefix_options, within};

/// How heads lie in the tensors of the file; the output is written the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// [B, H, N, D].
    Apart,
    /// [B, N, H·D].
    Joined,
    /// [T, H, D]: sequences one behind the other, as `flash_attn_varlen_func` has them.
    Ragged,
    /// [N, D]: one head of one batch row.
    Single,
}

impl Form {
    /// Of a query; `ragged` is whether there are `cu_seqlens_q` or `cu_seqlens_k`.
    fn of(query: &Array, ragged: bool, q_heads: Option<usize>) -> Outcome<Self> {
        let shape = query.shape();
        match (shape.len(), q_heads) {
            (4, _) => Ok(Self::Apart),
            (2, _) => Ok(Self::Single),
            (3, None) if ragged => Ok(Self::Ragged),
            (3, Some(_)) if ragged && shape[0] != 1 => {
                let reason =
                    format!("is for [1, T, heads·D], and `query` is {shape:?}: leave it out for [T, heads, D]");
                Err(Error::option("q-heads", reason).into())
            }
            (3, Some(_)) => Ok(Self::Joined),
            (3, None) => {
                let reason = format!("needed, as `query` {shape:?} has rank 3 [B, N, heads·D]");
                let hint = "add `--q-heads 1` for one head, or give rank 4 [B, heads, N, D]";
                Err(Failure::from(Error::option("q-heads", reason)).with_hint(hint))
            }
            (rank, _) => {
                let expected = "4 [B, Hq, Nq, D], 3 [B, Nq, Hq·D] or 2 [Nq, D]";
                Err(Error::shape("query", "rank", expected, format!("{rank} {shape:?}")).into())
            }
        }
    }

    /// As [B, H, N, D].
    fn split(self, name: &str, array: Array, heads: Option<usize>) -> Result<Array> {
        match *array.shape() {
            [rows, dim] => array.reshape(&[1, 1, rows, dim]),
            [rows, heads, dim] if self == Self::Ragged => array.permute(&[1, 0, 2])?.reshape(&[1, heads, rows, dim]),
            [batch, rows, width] => match heads {
                Some(heads) if heads > 0 && width % heads == 0 => {
                    array.reshape(&[batch, rows, heads, width / heads])?.permute(&[0, 2, 1, 3])
                }
                Some(heads) => {
                    Err(Error::shape(name, "axis 2 (heads · dim)", format!("a multiple of {heads} heads"), width))
                }
                None => Err(Error::shape(name, "rank", "that of `query`", 3)),
            },
            _ => Ok(array),
        }
    }

    /// An output as [B, H, N, Dv] and how it came, by the shape [B, H, N] of its log-sum-exp.
    pub(crate) fn of_output(output: Array, lse: &[usize]) -> Result<(Array, Self)> {
        let &[batch, heads, rows] = lse else {
            return Err(Error::shape("lse", "rank", "3 [B, H, N]", lse.len()));
        };
        let form = match *output.shape() {
            [b, h, n, _] if [b, h, n] == [batch, heads, rows] => Self::Apart,
            [b, n, width] if [b, n] == [batch, rows] && width % heads == 0 => Self::Joined,
            [n, h, _] if [1, h, n] == [batch, heads, rows] => Self::Ragged,
            [n, _] if [1, 1, n] == [batch, heads, rows] => Self::Single,
            _ => {
                let expected = format!("[{batch}, {heads}, {rows}, Dv] beside `lse` {lse:?}");
                return Err(Error::shape("output", "shape", expected, format!("{:?}", output.shape())));
            }
        };
        Ok((form.split("output", output, Some(heads))?, form))
    }

    /// [B, H, N, D] as the query came.
    pub(crate) fn join(self, array: &Array) -> Result<Array> {
        let &[batch, heads, rows, dim] = array.shape() else {
            return Err(Error::shape("output", "rank", 4, array.shape().len()));
        };
        match self {
            Self::Apart => Ok(array.clone()),
            Self::Joined => array.permute(&[0, 2, 1, 3])?.reshape(&[batch, rows, heads * dim]),
            Self::Ragged => array.permute(&[0, 2, 1, 3])?.reshape(&[rows, heads, dim]),
            Self::Single => array.clone().reshape(&[rows, dim]),
        }
    }
}

/// Heads of tensors of rank 3, and what tensors of another rank must have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) query: Option<usize>,
    pub(super) kv: Option<usize>,
}

/// The tensors of the file as the library has them, and how the query came.
pub(super) fn read(input: &Input, heads: Heads, options: &Options) -> Outcome<(AttentionInputs<Array>, Form)> {
    let ragged = input.has("cu_seqlens_q") || input.has("cu_seqlens_k");
    let query = require(input, "query", "[B, Hq, Nq, D], [B, Nq, Hq·D] or [Nq, D]")?;
    let form = Form::of(&query, ragged, heads.query)?;
    let rank = query.shape().len();
    let query = form.split("query", query, heads.query)?;
    let table = input.integers("block_table")?;
    let kv_heads = heads.kv.or(heads.query);
    let pair = |name: &str, expected: &str| -> Outcome<Array> {
        let array = require(input, name, expected)?;
        let (wanted, why) = match table {
            Some(_) => (4, "4 [pages, Hkv, page size, dim] beside `block_table`".to_owned()),
            None => (rank, format!("{rank} as `query` has")),
        };
        if array.shape().len() != wanted {
            let found = format!("{} {:?}", array.shape().len(), array.shape());
            return Err(Error::shape(name, "rank", why, found).into());
        }
        Ok(form.split(name, array, kv_heads)?)
    };
    let key = pair("key", "[B, Hkv, Nk, D], [B, Nk, Hkv·D] or [Nk, D]")?;
    let value = pair("value", "[B, Hkv, Nk, Dv], [B, Nk, Hkv·Dv] or [Nk, Dv]")?;
    let mut inputs = AttentionInputs::new(query, key, value);
    for (option, heads, tensor) in [("q-heads", heads.query, &inputs.query), ("kv-heads", heads.kv, &inputs.key)] {
        let found = tensor.shape()[1];
        if let Some(heads) = heads.filter(|&heads| heads != found) {
            return Err(Error::option(option, format!("{heads}, but the tensors have {found}")).into());
        }
    }
    let past = |name: &str| -> Result<Option<Array>> {
        input.float(name)?.map(|array| form.split(name, array, kv_heads)).transpose()
    };
    inputs.past = both(
        ("past_key", past("past_key")?, "the keys that belong to `past_value`"),
        ("past_value", past("past_value")?, "the values that belong to `past_key`"),
    )?
    .map(|(key, value)| Past { key, value });

    inputs.mask = input.mask("mask")?;
    let blocks = input.bools("block_mask", "BOOL or U8 (true = computed)")?.map(lift).transpose()?;
    inputs.block_mask = match (blocks, options.block_size()) {
        (Some(mask), Some(size)) => Some(BlockMask { mask, size }),
        (None, None) => None,
        (None, Some(_)) => return Err(Error::missing("block_mask", "the mask that `block_size` belongs to").into()),
        (Some(_), None) => {
            let reason = "needed beside `block_mask`: the queries and keys of one entry, as in `--block-size 64,64`";
            return Err(Error::option("block-size", reason).into());
        }
    };
    let (queries, rows) = (inputs.query.shape()[2], inputs.key.shape()[2]);
    let row_pages = table.as_ref().and_then(|table| table.shape().get(1)).copied().unwrap_or(1);
    let keys = (past_of(&inputs) + rows).saturating_mul(row_pages);
    inputs.kv_lengths = input.lengths("kv_lengths", keys)?;
    inputs.query_lengths = input.lengths("query_lengths", queries)?;
    inputs.cu_seqlens = both(
        ("cu_seqlens_q", ends(input, "cu_seqlens_q", queries)?, "[S + 1] beside `cu_seqlens_k`"),
        ("cu_seqlens_k", ends(input, "cu_seqlens_k", rows)?, "[S + 1] beside `cu_seqlens_q`"),
    )?
    .map(|(q, k)| CuSeqlens { q, k });
    inputs.block_table = table.map(|table| pages(&inputs, &table)).transpose()?;

    inputs.previous = input.float("previous")?.map(lift).transpose()?;
    inputs.alibi_slopes = input.float("alibi_slopes")?;
    inputs.sinks = input.float("sinks")?;
    inputs.score = ScoreWeights {
        weight: input.float("score.weight")?,
        query_weight: input.float("score.query_weight")?,
        key_weight: input.float("score.key_weight")?,
        v: input.float("score.v")?,
        bias: input.float("score.bias")?,
        g: input.number("score.g")?,
        location_filter: input.float("score.location_filter")?,
        location_weight: input.float("score.location_weight")?,
    };
    if options.is_keras_concat() {
        keras_concat(input, &mut inputs)?;
    }
    inputs.rotary = rotary(input, options, &inputs)?;
    Ok((inputs, form))
}

/// A tensor that has to be there; where it is not, what `--prefix` would find it.
fn require(input: &Input, name: &str, expected: &str) -> Outcome<Array> {
    input.require(name, expected).map_err(|failure| match &input.prefixes(&["query", "key", "value"])[..] {
        _ if input.has(name) => failure,
        [] => failure,
        others if others.contains(&"") => {
            failure.with_hint(format!("{}; without `--prefix` they are found", input.listing()))
        }
        others => failure.with_hint(format!("{}; {} finds such tensors", input.listing(), prefix_options(others))),
    })
}

/// With leading axes of 1, up to rank 4.
fn lift<T>(array: Array<T>) -> Result<Array<T>> {
    let lead = 4_usize.saturating_sub(array.shape().len());
    let shape = [&[1, 1, 1, 1][..lead], array.shape()].concat();
    array.reshape(&shape)
}

/// Where the sequences of a ragged batch begin and end: from 0, never falling, at most the tokens there are.
fn ends(input: &Input, name: &str, tokens: usize) -> Result<Option<Array<u32>>> {
    let Some(ends) = input.integers(name)? else { return Ok(None) };
    let ends = within(name, &ends, |_| true, tokens)?;
    if let Some(&first) = ends.data().first().filter(|&&first| first != 0) {
        return Err(Error::shape(name, "element 0", "0, where the first sequence begins", first));
    }
    match ends.data().windows(2).position(|pair| pair[1] < pair[0]) {
        Some(at) => {
            let expected = format!("at least {}, where the sequence begins", ends.data()[at]);
            Err(Error::shape(name, format!("element {}", at + 1), expected, ends.data()[at + 1]))
        }
        None => Ok(Some(ends)),
    }
}

/// A block table, whose entries must be pages as far as `kv_lengths` reach; what comes after is padding.
fn pages(inputs: &AttentionInputs<Array>, table: &Array<i128>) -> Result<Array<u32>> {
    match (inputs.key.shape(), table.shape()) {
        (&[count, _, _, _], &[_, columns]) => {
            within("block_table", table, |at| inputs.is_real_page(at, columns), count - 1)
        }
        // Refused later, by its shape.
        _ => within("block_table", table, |_| false, 0),
    }
}

/// w·Σ tanh(c·(q + k)) as an additive score: v is w everywhere, both matrices are c·1.
fn keras_concat(input: &Input, inputs: &mut AttentionInputs<Array>) -> Result<()> {
    let weights = &inputs.score;
    let other = [
        ("score.query_weight", weights.query_weight.is_some()),
        ("score.key_weight", weights.key_weight.is_some()),
        ("score.v", weights.v.is_some()),
        ("score.g", weights.g.is_some()),
        ("score.bias", weights.bias.is_some()),
    ];
    if let Some((name, _)) = other.iter().find(|(_, given)| *given) {
        let reason = format!("keras-concat has no parameter `{name}`: leave it out, or use `--score additive`");
        return Err(Error::option("score", reason));
    }
    let dim = inputs.query.shape()[3];
    let first = |array: Array| array.data().first().copied();
    if let Some(scale) = input.number("score.scale")?.and_then(first) {
        let diagonal = Array::from_fn(&[dim, dim], |at| if at % (dim + 1) == 0 { scale } else { 0.0 });
        inputs.score.query_weight = Some(diagonal.clone());
        inputs.score.key_weight = Some(diagonal);
    }
    inputs.score.v = input.number("score.concat_score_weight")?.and_then(first).map(|w| Array::filled(&[dim], w));
    Ok(())
}

/// Positions of queries and keys [B, H, N, D], the past with them.
pub(super) fn positions_of(inputs: &AttentionInputs<Array>) -> usize {
    past_of(inputs) + inputs.query.shape()[2].max(inputs.key.shape()[2])
}

/// Keys of a past [B, Hkv, P, D]; of other ranks none, as they are refused later.
fn past_of(inputs: &AttentionInputs<Array>) -> usize {
    inputs.past.as_ref().and_then(|past| past.key.shape().get(2)).copied().unwrap_or(0)
}

/// Two tensors that belong together, each with its name and what it is: both, or none.
fn both<T>(
    (first, one, first_is): (&str, Option<T>, &str),
    (second, other, second_is): (&str, Option<T>, &str),
) -> Result<Option<(T, T)>> {
    match (one, other) {
        (Some(one), Some(other)) => Ok(Some((one, other))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::missing(second, second_is)),
        (None, Some(_)) => Err(Error::missing(first, first_is)),
    }
}

/// The rotary embedding with its tables: the file's, or those that the options say.
fn rotary(
    input: &Input,
    options: &Options,
    inputs: &AttentionInputs<Array>,
) -> Outcome<Option<RotaryEmbedding<Array>>> {
    let (cos, sin) = (input.float("rotary_cos")?, input.float("rotary_sin")?);
    let are_given = cos.is_some() || sin.is_some();
    if are_given {
        options.refuse_rotary_tables()?;
    }
    let Some(rotary) = options.rotary()? else {
        if are_given {
            let reason = "tables are given, but no rotary embedding is asked for";
            let hint =
                "add `--rotary half-split` or `--rotary interleaved`, or leave `rotary_cos` and `rotary_sin` out";
            return Err(Failure::from(Error::option("rotary", reason)).with_hint(hint));
        }
        return Ok(None);
    };
    let expected = "[positions, width / 2] for the rotary embedding";
    let tables = match both(("rotary_cos", cos, expected), ("rotary_sin", sin, expected))? {
        Some((cos, sin)) => [cos, sin],
        None => options.rotary_tables(inputs.query.shape()[3].min(inputs.key.shape()[3]), positions_of(inputs))?,
    };
    Ok(Some(RotaryEmbedding::new(rotary, tables)))
}
