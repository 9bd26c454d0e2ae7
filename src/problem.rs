//! Every rule about ranks, axes, element types and combinations of options, checked once, before any work.
//!
//! A problem is what remains of a request when the tensors are forgotten: plain numbers that the planner and the
//! reference can rely on.

use crate::attention::{Attention, AttentionInputs, Causal, Mask, Normalize, Score};
use crate::error::{Error, Result};
use crate::rnn::{Cell, Merge, Rnn, RnnInputs, RnnStack};
use crate::tensor::DType;

/// Attention with its numbers checked.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionProblem {
    /// B: batch rows.
    pub batch: usize,
    /// Hq: query heads.
    pub query_heads: usize,
    /// Hkv: key and value heads; divides `query_heads`.
    pub kv_heads: usize,
    /// Nq: queries.
    pub queries: usize,
    /// Nk: keys, the past included.
    pub keys: usize,
    /// P: keys of the past.
    pub past: usize,
    /// D of the query as given.
    pub query_dim: usize,
    /// D of the key as given.
    pub key_dim: usize,
    /// Length over which query and key are compared: D, or A after the projections of an additive score.
    pub score_dim: usize,
    /// Dv.
    pub value_dim: usize,
    /// What the scores are multiplied with.
    pub scale: f32,
    /// Columns of the mask; keys past them are hidden. Nk without a mask.
    pub mask_keys: usize,
}

impl AttentionProblem {
    /// Checks options and shapes against each other.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] with the first rule that is broken.
    pub fn new(options: &Attention, inputs: &AttentionInputs<&[usize]>) -> Result<Self> {
        let [batch, query_heads, queries, query_dim] = rank4("query", "[B, Hq, Nq, D]", inputs.query)?;
        let [key_batch, kv_heads, new_keys, key_dim] = rank4("key", "[B, Hkv, Nk, D]", inputs.key)?;
        let [value_batch, value_heads, value_keys, value_dim] = rank4("value", "[B, Hkv, Nk, Dv]", inputs.value)?;
        same("key", "axis 0 (batch)", batch, key_batch)?;
        same("value", "axis 0 (batch)", batch, value_batch)?;
        same("value", "axis 1 (heads)", kv_heads, value_heads)?;
        same("value", "axis 2 (keys)", new_keys, value_keys)?;
        if query_heads % kv_heads != 0 {
            return Err(Error::shape(
                "query",
                "axis 1 (heads)",
                format!("a multiple of key's {kv_heads} heads"),
                query_heads,
            ));
        }

        let past = match (inputs.past_key, inputs.past_value) {
            (None, None) => 0,
            (Some(key), Some(value)) => {
                past_length("past_key", key, [batch, kv_heads, key_dim])?;
                let length = past_length("past_value", value, [batch, kv_heads, value_dim])?;
                same("past_value", "axis 2 (keys)", key[2], length)?;
                length
            }
            (Some(_), None) => return Err(Error::missing("past_value", "the values that belong to `past_key`")),
            (None, Some(_)) => return Err(Error::missing("past_key", "the keys that belong to `past_value`")),
        };
        if past > 0 && inputs.kv_lengths.is_some() {
            return Err(Error::option(
                "kv_lengths",
                "cannot stand beside past_key and past_value: join the cache first, or leave the lengths out",
            ));
        }
        let keys = past + new_keys;

        let mask_keys = match &inputs.mask {
            None => keys,
            Some(mask) => check_mask(mask.tensor(), [batch, query_heads, queries, keys])?,
        };
        vector("kv_lengths", inputs.kv_lengths, batch, "batch")?;
        vector("alibi_slopes", inputs.alibi_slopes, query_heads, "query heads")?;
        vector("sinks", inputs.sinks, query_heads, "query heads")?;

        let score_dim = check_score(options.score, inputs, query_dim, key_dim)?;
        check_options(options, inputs)?;
        let scale = options.scale.unwrap_or(match options.score {
            Score::ScaledDot => 1.0 / (query_dim as f32).sqrt(),
            _ => 1.0,
        });
        Ok(Self {
            batch,
            query_heads,
            kv_heads,
            queries,
            keys,
            past,
            query_dim,
            key_dim,
            score_dim,
            value_dim,
            scale,
            mask_keys,
        })
    }

    /// Query heads that share one key head.
    pub fn group(&self) -> usize {
        self.query_heads / self.kv_heads
    }

    /// Checks the element types of GPU tensors and returns the one that query, key, value and output share.
    ///
    /// # Errors
    /// [`Error::Shape`] with axis `dtype`.
    pub fn element_type(inputs: &AttentionInputs<DType>) -> Result<DType> {
        let element = inputs.query;
        if element == DType::U32 {
            return Err(Error::shape("query", "dtype", "f32 or f16", element));
        }
        let check = |name: &str, wanted: DType, found: Option<DType>| match found {
            Some(found) if found != wanted => Err(Error::shape(name, "dtype", wanted, found)),
            _ => Ok(()),
        };
        check("key", element, Some(inputs.key))?;
        check("value", element, Some(inputs.value))?;
        check("past_key", element, inputs.past_key)?;
        check("past_value", element, inputs.past_value)?;
        match inputs.mask {
            Some(Mask::Bool(found)) => check("mask", DType::U32, Some(found))?,
            Some(Mask::Float(found)) => check("mask", DType::F32, Some(found))?,
            None => {}
        }
        check("kv_lengths", DType::U32, inputs.kv_lengths)?;
        check("alibi_slopes", DType::F32, inputs.alibi_slopes)?;
        check("sinks", DType::F32, inputs.sinks)?;
        check("score.weight", DType::F32, inputs.score.weight)?;
        check("score.query_weight", DType::F32, inputs.score.query_weight)?;
        check("score.key_weight", DType::F32, inputs.score.key_weight)?;
        check("score.v", DType::F32, inputs.score.v)?;
        check("score.bias", DType::F32, inputs.score.bias)?;
        Ok(element)
    }
}

/// The offset of the diagonal: key j is at the query's own position when j = i + offset.
///
/// `length` is the batch row's key length, when lengths are given.
pub fn diagonal(options: &Attention, problem: &AttentionProblem, length: Option<usize>) -> i64 {
    match (length, options.causal) {
        (Some(length), _) => length as i64 - problem.queries as i64,
        (None, Some(Causal::BottomRight)) => problem.keys as i64 - problem.queries as i64,
        (None, _) => problem.past as i64,
    }
}

fn rank4(name: &str, expected: &str, shape: &[usize]) -> Result<[usize; 4]> {
    let found: [usize; 4] = shape
        .try_into()
        .map_err(|_| Error::shape(name, "rank", format!("4 {expected}"), format!("{} {shape:?}", shape.len())))?;
    nonzero(name, &found)?;
    Ok(found)
}

fn nonzero(name: &str, shape: &[usize]) -> Result<()> {
    match shape.iter().position(|&n| n == 0) {
        Some(axis) => Err(Error::shape(name, format!("axis {axis}"), "at least 1", 0)),
        None => Ok(()),
    }
}

fn same(name: &str, axis: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::shape(name, axis, expected, found)) }
}

fn vector(name: &str, shape: Option<&[usize]>, expected: usize, of: &str) -> Result<()> {
    match shape {
        Some(&[found]) => same(name, &format!("axis 0 ({of})"), expected, found),
        Some(shape) => Err(Error::shape(name, "rank", 1, shape.len())),
        None => Ok(()),
    }
}

/// A past is [B, Hkv, P, D] with P ≥ 0; returns P.
fn past_length(name: &str, shape: &[usize], [batch, heads, dim]: [usize; 3]) -> Result<usize> {
    let &[b, h, length, d] = shape else {
        return Err(Error::shape(name, "rank", 4, shape.len()));
    };
    same(name, "axis 0 (batch)", batch, b)?;
    same(name, "axis 1 (heads)", heads, h)?;
    same(name, "axis 3 (dim)", dim, d)?;
    Ok(length)
}

/// Broadcast over [B, Hq, Nq, Nk] by the usual rules, except that the last axis may be shorter than Nk (but a last
/// axis of 1 is repeated); returns how many keys the mask reaches.
fn check_mask(shape: &[usize], full: [usize; 4]) -> Result<usize> {
    const AXES: [&str; 4] = ["batch", "query heads", "queries", "keys"];
    if shape.is_empty() || shape.len() > 4 {
        return Err(Error::shape("mask", "rank", "1 to 4", shape.len()));
    }
    nonzero("mask", shape)?;
    let lead = 4 - shape.len();
    for (axis, &found) in shape.iter().enumerate() {
        let (wanted, name) = (full[lead + axis], AXES[lead + axis]);
        let fits = found == wanted || found == 1 || (lead + axis == 3 && found < wanted);
        if !fits {
            return Err(Error::shape("mask", format!("axis {axis} ({name})"), format!("{wanted} or 1"), found));
        }
    }
    let last = shape[shape.len() - 1];
    Ok(if last == 1 { full[3] } else { last })
}

fn check_score(score: Score, inputs: &AttentionInputs<&[usize]>, query_dim: usize, key_dim: usize) -> Result<usize> {
    let weights = &inputs.score;
    let matrix = |name: &str, shape: Option<&[usize]>| -> Result<Option<[usize; 2]>> {
        match shape {
            None => Ok(None),
            Some(&[rows, columns]) => {
                nonzero(name, &[rows, columns])?;
                Ok(Some([rows, columns]))
            }
            Some(shape) => Err(Error::shape(name, "rank", 2, shape.len())),
        }
    };
    let unused = |names: &[(&str, bool)]| match names.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::option("score", format!("{score:?} has no parameter `{name}`: leave it out"))),
        None => Ok(()),
    };
    let weight = matrix("score.weight", weights.weight)?;
    let query_weight = matrix("score.query_weight", weights.query_weight)?;
    let key_weight = matrix("score.key_weight", weights.key_weight)?;
    let (v, bias) = (weights.v.is_some(), weights.bias.is_some());
    let same_dims = || same("key", "axis 3 (head dim)", query_dim, key_dim);
    match score {
        Score::ScaledDot | Score::Dot | Score::Cosine => {
            unused(&[
                ("score.weight", weight.is_some()),
                ("score.query_weight", query_weight.is_some()),
                ("score.key_weight", key_weight.is_some()),
                ("score.v", v),
                ("score.bias", bias),
            ])?;
            same_dims()?;
            Ok(query_dim)
        }
        Score::General => {
            unused(&[
                ("score.query_weight", query_weight.is_some()),
                ("score.key_weight", key_weight.is_some()),
                ("score.v", v),
                ("score.bias", bias),
            ])?;
            let [rows, columns] =
                weight.ok_or_else(|| Error::missing("score.weight", "[Dq, Dk] for the general score"))?;
            same("score.weight", "axis 0 (query dim)", query_dim, rows)?;
            same("score.weight", "axis 1 (key dim)", key_dim, columns)?;
            Ok(key_dim)
        }
        Score::Additive => {
            unused(&[("score.weight", weight.is_some())])?;
            let dim = match (query_weight, key_weight) {
                (None, None) => {
                    if bias {
                        return Err(Error::missing("score.query_weight", "[A, Dq] beside score.bias"));
                    }
                    same_dims()?;
                    query_dim
                }
                (Some([units, columns]), Some([key_units, key_columns])) => {
                    same("score.query_weight", "axis 1 (query dim)", query_dim, columns)?;
                    same("score.key_weight", "axis 1 (key dim)", key_dim, key_columns)?;
                    same("score.key_weight", "axis 0 (attention dim)", units, key_units)?;
                    units
                }
                (Some(_), None) => return Err(Error::missing("score.key_weight", "[A, Dk] beside score.query_weight")),
                (None, Some(_)) => {
                    return Err(Error::missing("score.query_weight", "[A, Dq] beside score.key_weight"));
                }
            };
            vector("score.v", weights.v, dim, "attention dim")?;
            vector("score.bias", weights.bias, dim, "attention dim")?;
            Ok(dim)
        }
        Score::Concat => {
            unused(&[("score.query_weight", query_weight.is_some()), ("score.key_weight", key_weight.is_some())])?;
            let [units, columns] =
                weight.ok_or_else(|| Error::missing("score.weight", "[A, Dq + Dk] for the concat score"))?;
            same("score.weight", "axis 1 (query dim + key dim)", query_dim + key_dim, columns)?;
            if !v {
                return Err(Error::missing("score.v", "[A] for the concat score"));
            }
            vector("score.v", weights.v, units, "attention dim")?;
            vector("score.bias", weights.bias, units, "attention dim")?;
            Ok(units)
        }
    }
}

fn check_options(options: &Attention, inputs: &AttentionInputs<&[usize]>) -> Result<()> {
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
    if inputs.sinks.is_some() && options.normalize != Normalize::Softmax {
        return Err(Error::option("sinks", "take part in a softmax only: use `normalize = softmax`"));
    }
    if options.lse && matches!(options.normalize, Normalize::Hardmax | Normalize::Sparsemax) {
        return Err(Error::option("lse", "belongs to softmax and sample only"));
    }
    Ok(())
}

/// A recurrence with its numbers checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RnnProblem {
    /// T: steps.
    pub steps: usize,
    /// B: batch rows.
    pub batch: usize,
    /// I of each layer: the input's width, then the output width of the layer below.
    pub inputs: Vec<usize>,
    /// H: hidden units, the same in every layer.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
    /// Directions: 1 or 2.
    pub directions: usize,
    /// Width of the output: directions · H when concatenated, else H.
    pub width: usize,
}

impl RnnProblem {
    /// Checks options, weights and shapes against each other.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Option`] with the first rule that is broken.
    pub fn new(options: &Rnn, stack: &RnnStack<&[usize]>, inputs: &RnnInputs<&[usize]>) -> Result<Self> {
        let &[steps, batch, input] = inputs.input else {
            return Err(Error::shape("input", "rank", "3 [T, B, I]", inputs.input.len()));
        };
        nonzero("input", inputs.input)?;
        let (hidden, widths) = Self::check_weights(options, stack, input)?;
        let directions = options.direction.count();
        let layers = stack.len();
        for (name, state) in [("initial_h", inputs.initial_h), ("initial_c", inputs.initial_c)] {
            let Some(shape) = state else { continue };
            let &[states, rows, units] = shape else {
                return Err(Error::shape(name, "rank", "3 [layers · directions, B, H]", shape.len()));
            };
            same(name, "axis 0 (layers · directions)", layers * directions, states)?;
            same(name, "axis 1 (batch)", batch, rows)?;
            same(name, "axis 2 (hidden)", hidden, units)?;
        }
        if inputs.initial_c.is_some() && options.cell != Cell::Lstm {
            return Err(Error::option("initial_c", "only an LSTM has a cell state"));
        }
        vector("lengths", inputs.lengths, batch, "batch")?;
        Ok(Self { steps, batch, inputs: widths, hidden, layers, directions, width: options.output_width(hidden) })
    }

    /// Checks the weights alone; returns H and the input width of each layer.
    ///
    /// # Errors
    /// As [`RnnProblem::new`].
    pub fn check_weights(options: &Rnn, stack: &RnnStack<&[usize]>, input: usize) -> Result<(usize, Vec<usize>)> {
        let gates = options.cell.gates();
        let directions = options.direction.count();
        if let Some(clip) = options.clip
            && !(clip > 0.0 && clip.is_finite())
        {
            return Err(Error::option("clip", format!("must be above 0 and finite, not {clip}")));
        }
        if !options.forget_bias.is_finite() {
            return Err(Error::option("forget_bias", format!("must be finite, not {}", options.forget_bias)));
        }
        if options.cell != Cell::Lstm && (options.input_forget || options.forget_bias != 0.0) {
            return Err(Error::option("input_forget, forget_bias", "only an LSTM has a forget gate"));
        }
        if options.merge != Merge::Concat && directions == 1 {
            return Err(Error::option("merge", "needs two directions"));
        }
        let Some(first) = stack.first().and_then(|layer| layer.first()) else {
            return Err(Error::missing("weight_ih_l0", "[G·H, I] of the first layer"));
        };
        let &[_, hidden] = first.weight_hh else {
            return Err(Error::shape("weight_hh_l0", "rank", "2 [G·H, H]", first.weight_hh.len()));
        };
        nonzero("weight_hh_l0", first.weight_hh)?;
        let mut widths = Vec::with_capacity(stack.len());
        let mut width = input;
        for (l, layer) in stack.iter().enumerate() {
            if layer.len() != directions {
                return Err(Error::shape(format!("weights of layer {l}"), "directions", directions, layer.len()));
            }
            for (d, weights) in layer.iter().enumerate() {
                let suffix = if d == 1 { "_reverse" } else { "" };
                let name = |stem: &str| format!("{stem}_l{l}{suffix}");
                let matrix = |stem: &str, shape: &[usize], columns: usize, of: &str| -> Result<()> {
                    let &[rows, found] = shape else {
                        return Err(Error::shape(name(stem), "rank", 2, shape.len()));
                    };
                    same(&name(stem), "axis 0 (gates · hidden)", gates * hidden, rows)?;
                    same(&name(stem), of, columns, found)
                };
                matrix("weight_ih", weights.weight_ih, width, "axis 1 (input)")?;
                matrix("weight_hh", weights.weight_hh, hidden, "axis 1 (hidden)")?;
                vector(&name("bias_ih"), weights.bias_ih, gates * hidden, "gates · hidden")?;
                vector(&name("bias_hh"), weights.bias_hh, gates * hidden, "gates · hidden")?;
                if let Some(shape) = weights.peephole {
                    if options.cell != Cell::Lstm {
                        return Err(Error::option("peephole", "only an LSTM has peepholes"));
                    }
                    if shape != [3, hidden] {
                        let found = format!("{shape:?}");
                        return Err(Error::shape(name("peephole"), "shape", format!("[3, {hidden}]"), found));
                    }
                }
            }
            widths.push(width);
            width = options.output_width(hidden);
        }
        Ok((hidden, widths))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::AttentionInputs;
    use crate::rnn::RnnWeights;

    fn attention(query: &[usize], key: &[usize], value: &[usize]) -> Result<AttentionProblem> {
        AttentionProblem::new(&Attention::default(), &AttentionInputs::new(query, key, value))
    }

    #[test]
    fn the_door_names_tensor_axis_expected_and_found() {
        let error = attention(&[2, 4, 5, 8], &[2, 4, 6, 7], &[2, 4, 6, 8]).unwrap_err();
        assert_eq!(error.to_string(), "`key` axis 3 (head dim): expected 8, found 7");
        let error = attention(&[2, 4, 8], &[2, 4, 6, 8], &[2, 4, 6, 8]).unwrap_err();
        assert_eq!(error.to_string(), "`query` rank: expected 4 [B, Hq, Nq, D], found 3 [2, 4, 8]");
        let error = attention(&[2, 4, 5, 8], &[2, 3, 6, 8], &[2, 3, 6, 8]).unwrap_err();
        assert_eq!(error.to_string(), "`query` axis 1 (heads): expected a multiple of key's 3 heads, found 4");
        let error = attention(&[2, 4, 0, 8], &[2, 4, 6, 8], &[2, 4, 6, 8]).unwrap_err();
        assert_eq!(error.to_string(), "`query` axis 2: expected at least 1, found 0");
    }

    #[test]
    fn masks_broadcast_and_may_be_short() {
        let full = [2, 3, 4, 5];
        assert_eq!(check_mask(&[5], full).unwrap(), 5);
        assert_eq!(check_mask(&[4, 3], full).unwrap(), 3);
        assert_eq!(check_mask(&[2, 1, 4, 1], full).unwrap(), 5);
        assert!(check_mask(&[2, 2, 4, 5], full).is_err());
        assert!(check_mask(&[6], full).is_err());
        assert!(check_mask(&[1, 2, 3, 4, 5], full).is_err());
    }

    #[test]
    fn recurrent_weights_are_checked_layer_by_layer() {
        let weights = |ih: &'static [usize], hh: &'static [usize]| RnnWeights {
            weight_ih: ih,
            weight_hh: hh,
            bias_ih: None,
            bias_hh: None,
            peephole: None,
        };
        let options = Rnn::new(Cell::Lstm);
        let inputs = RnnInputs::new(&[7, 2, 3][..]);
        let good = vec![vec![weights(&[16, 3], &[16, 4])], vec![weights(&[16, 4], &[16, 4])]];
        let problem = RnnProblem::new(&options, &good, &inputs).unwrap();
        assert_eq!((problem.hidden, problem.layers, problem.inputs), (4, 2, vec![3, 4]));
        let bad = vec![vec![weights(&[16, 3], &[16, 4])], vec![weights(&[16, 3], &[16, 4])]];
        let error = RnnProblem::new(&options, &bad, &inputs).unwrap_err();
        assert_eq!(error.to_string(), "`weight_ih_l1` axis 1 (input): expected 4, found 3");
        assert!(RnnProblem::new(&options, &vec![], &inputs).is_err());
    }
}
