//! A stack from the state dict of PyTorch's `LSTM`, `GRU` or `RNN`.

use super::{RnnStack, RnnWeights};
use crate::error::{Error, Result};

/// More layers than anyone has: a guard against a name like `weight_ih_l4000000000`.
const MOST_LAYERS: usize = 1024;

/// What a name begins with.
const STEMS: [&str; 9] =
    ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "peephole", "norm_ih", "norm_hh", "norm_c"];

/// Every layer and direction that the names of a state dict speak of; there is at least one of each.
///
/// The names are those of PyTorch's `LSTM`, `GRU` and `RNN`: `weight_ih_l0` [G·H, I], `weight_hh_l0` [G·H, P],
/// `bias_ih_l0` and `bias_hh_l0` [G·H], `weight_hr_l0` [P, H], `…_l1` for the next layer, `…_l0_reverse` for the second
/// direction; and, for what PyTorch does not have, `peephole_l0` [3, H], `norm_ih_l0` and `norm_hh_l0` [2, G·H],
/// `norm_c_l0` [2, H]. The two `weight_ih` and `weight_hh` have to be there, the rest may be. Gates lie in PyTorch's
/// order already. `prefix` precedes each name (`encoder.`); names without it are skipped.
///
/// ```
/// use regard::rnn::torch_stack;
/// use regard::tensor::Array;
///
/// # fn main() -> regard::Result<()> {
/// let file = [
///     ("encoder.weight_ih_l0", Array::filled(&[12, 5], 0.1)), // a GRU of 4 units over 5 inputs
///     ("encoder.weight_hh_l0", Array::filled(&[12, 4], 0.1)),
///     ("encoder.bias_hh_l0", Array::filled(&[12], 0.0)),
///     ("embedding.weight", Array::filled(&[100, 5], 0.1)),
/// ];
/// let find = |wanted: &str| Ok(file.iter().find(|(name, _)| *name == wanted).map(|(_, array)| array.clone()));
/// let stack = torch_stack(file.iter().map(|(name, _)| *name), "encoder.", find)?;
/// assert_eq!((stack.len(), stack[0].len()), (1, 1));
/// assert!(stack[0][0].bias_hh.is_some() && stack[0][0].bias_ih.is_none());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Missing`] by its full name where a layer or direction lacks a matrix, [`Error::Shape`] for a layer beyond
/// any number that a network has, and the errors of `find`. Shapes are checked when the stack is used.
pub fn torch_stack<'n, A>(
    names: impl IntoIterator<Item = &'n str>,
    prefix: &str,
    mut find: impl FnMut(&str) -> Result<Option<A>>,
) -> Result<RnnStack<A>> {
    let (mut layers, mut directions) = (1, 1);
    for name in names {
        let Some((layer, reverse)) = name.strip_prefix(prefix).and_then(position) else { continue };
        if layer >= MOST_LAYERS {
            return Err(Error::shape(name, "layer", format!("a layer below {MOST_LAYERS}"), layer));
        }
        layers = layers.max(layer + 1);
        directions = directions.max(1 + usize::from(reverse));
    }
    (0..layers)
        .map(|layer| (0..directions).map(|direction| one(prefix, layer, direction == 1, &mut find)).collect())
        .collect()
}

fn one<A>(
    prefix: &str,
    layer: usize,
    reverse: bool,
    find: &mut impl FnMut(&str) -> Result<Option<A>>,
) -> Result<RnnWeights<A>> {
    let suffix = if reverse { "_reverse" } else { "" };
    let name = |stem: &str| format!("{prefix}{stem}_l{layer}{suffix}");
    let mut matrix = |stem: &str, shape: &str| {
        find(&name(stem))?.ok_or_else(|| {
            let expected = match (layer, reverse) {
                (0, false) => shape.to_owned(),
                (_, false) => format!("{shape}, as the names go up to a layer {layer} or higher"),
                (_, true) => format!("{shape}, as other names end in `_reverse`"),
            };
            Error::missing(name(stem), expected)
        })
    };
    let matrices = RnnWeights::new(matrix("weight_ih", "[gates · H, I]")?, matrix("weight_hh", "[gates · H, H]")?);
    let mut optional = |stem: &str| find(&name(stem));
    Ok(RnnWeights {
        bias_ih: optional("bias_ih")?,
        bias_hh: optional("bias_hh")?,
        weight_hr: optional("weight_hr")?,
        peephole: optional("peephole")?,
        norm_ih: optional("norm_ih")?,
        norm_hh: optional("norm_hh")?,
        norm_c: optional("norm_c")?,
        ..matrices
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The stack of a file with these names; each tensor is its own name.
    fn stack(names: &[&str], prefix: &str) -> Result<RnnStack<String>> {
        torch_stack(names.iter().copied(), prefix, |wanted| {
            Ok(names.iter().find(|name| **name == wanted).map(|name| (*name).to_owned()))
        })
    }

    #[test]
    fn every_name_finds_its_place() {
        let stems = STEMS.map(|stem| [format!("e.{stem}_l0"), format!("e.{stem}_l0_reverse")]);
        let upper = ["e.weight_ih_l1", "e.weight_hh_l1", "e.weight_ih_l1_reverse", "e.weight_hh_l1_reverse"];
        let names: Vec<&str> = stems.iter().flatten().map(String::as_str).chain(upper).collect();
        let stack = stack(&names, "e.").unwrap();
        assert_eq!((stack.len(), stack[0].len(), stack[1].len()), (2, 2, 2));
        let mut found = Vec::new();
        for (l, layer) in stack.iter().enumerate() {
            for (weights, suffix) in layer.iter().zip(["", "_reverse"]) {
                weights
                    .try_map(|stem, name| {
                        assert_eq!(*name, format!("e.{stem}_l{l}{suffix}"));
                        found.push(name.clone());
                        Ok::<_, Error>(())
                    })
                    .unwrap();
            }
        }
        found.sort();
        let mut names = names;
        names.sort();
        assert_eq!(found, names);
    }

    #[test]
    fn other_names_are_passed_over() {
        let names = ["weight_ih_l0", "weight_hh_l0", "x.weight_ih_l7", "weight_ih_l01", "weight_ih_l", "norm_c_lx"];
        let stack = stack(&names, "").unwrap();
        assert_eq!((stack.len(), stack[0].len()), (1, 1));
        assert!(stack[0][0].norm_c.is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        let refused = |names: &[&str], prefix| stack(names, prefix).unwrap_err().to_string();
        let both = ["weight_ih_l0", "weight_hh_l0"];
        for (more, wanted) in [
            ("bias_hh_l2", "`weight_ih_l1`: expected [gates · H, I], as the names go up to a layer 1 or higher"),
            ("norm_c_l0_reverse", "`weight_ih_l0_reverse`: expected [gates · H, I], as other names end in"),
            ("peephole_l1024", "`peephole_l1024` layer: expected a layer below 1024, found 1024"),
        ] {
            let found = refused(&[both[0], both[1], more], "");
            assert!(found.starts_with(wanted), "{found}");
        }
        assert!(refused(&[], "").starts_with("`weight_ih_l0`: expected [gates · H, I], found none"));
        assert!(refused(&both[..1], "").starts_with("`weight_hh_l0`: expected [gates · H, H], found none"));
        assert!(refused(&both, "e.").starts_with("`e.weight_ih_l0`"));
    }

    #[test]
    fn an_error_on_the_way_is_handed_on() {
        let failed = torch_stack::<()>(["weight_ih_l0"], "", |name| Err(Error::shape(name, "dtype", "F32", "I8")));
        assert_eq!(failed, Err(Error::shape("weight_ih_l0", "dtype", "F32", "I8")));
    }
}
