//! Weights of a recurrent stack by PyTorch's names, out of a file.

use regard::Error;
use regard::rnn::{RnnStack, torch_stack};
use regard::tensor::Array;

use crate::failure::{Failure, Outcome};
use crate::tensors::{Input, prefix_options};

/// The weights behind a prefix. Where there are none, says what the file has, and what would find them.
pub(super) fn read(input: &Input, prefix: &str) -> Outcome<RnnStack<Array>> {
    let stack = torch_stack(input.names(), prefix, |name| input.float(name));
    stack.map_err(|error| match error {
        Error::Missing { .. } => {
            let way = way_out(input, prefix).map_or(String::new(), |way| format!("; {way}"));
            Failure::from(error).with_hint(format!("{}{way}", input.listing()))
        }
        _ => error.into(),
    })
}

/// How the weights of the file would be found.
fn way_out(input: &Input, prefix: &str) -> Option<String> {
    let is_stack = |prefix: &&str| torch_stack(input.names(), prefix, |name| Ok(input.has(name).then_some(()))).is_ok();
    let prefixes = input.names().filter_map(|name| name.strip_suffix("weight_ih_l0"));
    match &prefixes.filter(|other| *other != prefix).filter(is_stack).collect::<Vec<_>>()[..] {
        [] => {}
        several if several.contains(&"") => return Some("without `--prefix` its weights are found".to_owned()),
        [only] => return Some(format!("`--prefix {only}` finds its weights")),
        several => return Some(format!("{} finds weights", prefix_options(several))),
    }
    // A cell of PyTorch's has no layers.
    let cell = input.names().find_map(|name| name.strip_suffix("weight_ih"))?;
    input.has(&format!("{cell}weight_hh")).then(|| {
        format!("rename `{cell}weight_ih` to `{cell}weight_ih_l0` and so on: a cell's weights are those of layer 0")
    })
}
