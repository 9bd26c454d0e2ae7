//! Weights of a recurrent stack by PyTorch's names, out of a file.

use regard::Error;
use regard::rnn::{RnnStack, torch_stack};
use regard::tensor::Array;

use crate::failure::{Failure, Outcome};
use crate::tensors::Input;

/// The weights behind a prefix. Where there are none, points to `--prefix` if the file has some behind another.
pub(super) fn read(input: &Input, prefix: &str) -> Outcome<RnnStack<Array>> {
    let stack = torch_stack(input.names(), prefix, |name| input.float(name));
    stack.map_err(|error| {
        let other = |name| str::strip_suffix(name, "weight_ih_l0").filter(|other| *other != prefix);
        match (&error, input.names().find_map(other)) {
            (Error::Missing { .. }, Some(other)) => {
                Failure::from(error).with_hint(format!("the file has weights behind the prefix `{other}`"))
            }
            _ => error.into(),
        }
    })
}
