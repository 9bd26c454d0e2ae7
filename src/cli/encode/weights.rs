//! Weights of a recurrent stack by PyTorch's names: `weight_ih_l0`, `bias_hh_l1_reverse`, `peephole_l0` …

use regard::Error;
use regard::rnn::{RnnStack, RnnWeights};
use regard::tensor::Array;

use crate::failure::{Failure, Outcome};
use crate::tensors::Input;

/// More layers than anyone has: a guard against a name like `weight_ih_l4000000000`.
const MOST_LAYERS: usize = 1024;

const STEMS: [&str; 5] = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole"];

/// Reads every layer and direction that the names speak of; there is at least one of each.
pub(super) fn read(input: &Input, prefix: &str) -> Outcome<RnnStack<Array>> {
    let (mut layers, mut directions) = (0, 1);
    for name in input.names() {
        let Some((layer, reverse)) = name.strip_prefix(prefix).and_then(position) else { continue };
        if layer >= MOST_LAYERS {
            let expected = format!("a layer below {MOST_LAYERS}");
            return Err(Error::shape(name, "layer", expected, layer).into());
        }
        layers = layers.max(layer + 1);
        directions = if reverse { 2 } else { directions };
    }
    let stack: RnnStack<Array> = (0..layers.max(1))
        .map(|layer| (0..directions).map(|direction| one(input, prefix, layer, direction == 1)).collect())
        .collect::<Outcome<_>>()?;
    Ok(stack)
}

fn one(input: &Input, prefix: &str, layer: usize, reverse: bool) -> Outcome<RnnWeights<Array>> {
    let suffix = if reverse { "_reverse" } else { "" };
    let name = |stem: &str| format!("{prefix}{stem}_l{layer}{suffix}");
    let matrix = |stem: &str, shape: &str| {
        input.float(&name(stem))?.ok_or_else(|| {
            let expected = match (layer, reverse) {
                (0, false) => shape.to_owned(),
                (_, false) => format!("{shape}, as the names go up to a layer {layer} or higher"),
                (_, true) => format!("{shape}, as other names end in `_reverse`"),
            };
            missing(input, prefix, Error::missing(name(stem), expected))
        })
    };
    Ok(RnnWeights {
        bias_ih: input.float(&name("bias_ih"))?,
        bias_hh: input.float(&name("bias_hh"))?,
        peephole: input.float(&name("peephole"))?,
        ..RnnWeights::new(matrix("weight_ih", "[gates · H, I]")?, matrix("weight_hh", "[gates · H, H]")?)
    })
}

/// Points to `--prefix` when the file has such names behind another prefix.
fn missing(input: &Input, prefix: &str, error: Error) -> Failure {
    let elsewhere = input.names().find_map(|name| {
        let (other, rest) = name.split_at(name.rfind("weight_ih_l")?);
        (other != prefix && position(rest).is_some()).then_some(other)
    });
    match elsewhere {
        Some(other) => Failure::from(error).with_hint(format!("the file has weights behind the prefix `{other}`")),
        None => error.into(),
    }
}

/// Layer and direction of a weight's name.
fn position(name: &str) -> Option<(usize, bool)> {
    let rest = STEMS.iter().find_map(|stem| name.strip_prefix(stem))?.strip_prefix("_l")?;
    let (layer, reverse) = match rest.strip_suffix("_reverse") {
        Some(layer) => (layer, true),
        None => (rest, false),
    };
    let canonical = layer == "0" || !layer.starts_with('0');
    (canonical && layer.bytes().all(|b| b.is_ascii_digit())).then(|| layer.parse().ok()).flatten().map(|l| (l, reverse))
}
