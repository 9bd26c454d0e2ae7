//! Input files: named tensors, each asked for by what it is meant to be.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use half::f16;
use regard::attention::Mask;
use regard::store::{Kind, Store};
use regard::tensor::Array;
use regard::{Error, Result};

use crate::failure::{Failure, Outcome};
use crate::output::warn;

/// Names listed in a hint or a warning at most.
const LISTED: usize = 12;

/// A tensor file, and which of its tensors have been used.
#[derive(Debug)]
pub(crate) struct Input {
    store: Store,
    used: RefCell<BTreeSet<String>>,
}

impl Input {
    /// Reads a file.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        Ok(Self { store: Store::open(path)?, used: RefCell::default() })
    }

    /// Every tensor's name, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.store.names()
    }

    fn use_up(&self, name: &str) -> bool {
        let there = self.store.contains(name);
        if there {
            self.used.borrow_mut().insert(name.to_owned());
        }
        there
    }

    /// A float tensor, if it is there. Numbers that are none are told about.
    pub(crate) fn float(&self, name: &str) -> Result<Option<Array>> {
        if !self.use_up(name) {
            return Ok(None);
        }
        if self.store.kind(name) != Some(Kind::Float) {
            return Err(self.wrong_type(name, "F32, F16, BF16 or F64"));
        }
        let array = self.store.get(name)?;
        let is_nan = array.data().iter().filter(|x| x.is_nan()).count();
        if let Some(first) = array.data().iter().position(|x| x.is_nan()) {
            warn(&format!("`{name}` holds NaN: {is_nan} of {} elements, element {first} first", array.data().len()));
        }
        Ok(Some(array))
    }

    /// A float tensor that has to be there, without an empty axis.
    pub(crate) fn require(&self, name: &str, shape: &str) -> Outcome<Array> {
        let Some(array) = self.float(name)? else {
            let there: Vec<&str> = self.names().collect();
            let hint = format!("{} has {}", self.store.path().display(), listed(&there));
            return Err(Failure::from(Error::missing(name, shape)).with_hint(hint));
        };
        match array.shape().iter().position(|&n| n == 0) {
            Some(axis) => Err(Error::shape(name, format!("axis {axis}"), "at least 1", 0).into()),
            None => Ok(array),
        }
    }

    /// A mask, if it is there: BOOL and U8 say what to attend to, floats are added.
    pub(crate) fn mask(&self, name: &str) -> Result<Option<Mask<Array>>> {
        if self.store.kind(name) == Some(Kind::Float) {
            return Ok(self.float(name)?.map(Mask::Float));
        }
        if !self.use_up(name) {
            return Ok(None);
        }
        match self.store.dtype(name).as_deref() {
            Some("BOOL" | "U8") => Ok(Some(Mask::Bool(self.store.get(name)?))),
            _ => Err(self.wrong_type(name, "BOOL or U8 (true = attend), or a float type (added)")),
        }
    }

    /// Lengths `[B]`, if they are there: whole numbers from 0 to `longest`.
    pub(crate) fn lengths(&self, name: &str, longest: usize) -> Result<Option<Array>> {
        if !self.use_up(name) {
            return Ok(None);
        }
        if self.store.kind(name) != Some(Kind::Integer) {
            return Err(self.wrong_type(name, "I32 or I64"));
        }
        let lengths = self.store.get(name)?;
        let fits = |&x: &f32| (0.0..=longest as f32).contains(&x);
        match lengths.data().iter().position(|x| !fits(x)) {
            Some(row) => {
                let expected = format!("a whole number from 0 to {longest}");
                Err(Error::shape(name, format!("element {row}"), expected, lengths.data()[row]))
            }
            None => Ok(Some(lengths)),
        }
    }

    fn wrong_type(&self, name: &str, expected: &str) -> Error {
        Error::shape(name, "dtype", expected, self.store.dtype(name).unwrap_or_default())
    }

    /// Tells about tensors that nothing has asked for: a misspelt name must not pass in silence. It is no error, as
    /// files often hold more than the input.
    pub(crate) fn warn_unused(&self, command: &str) {
        let used = self.used.borrow();
        let unused: Vec<&str> = self.names().filter(|name| !used.contains(*name)).collect();
        if !unused.is_empty() {
            warn(&format!(
                "{} has tensors that `{command}` with these options does not read: {}",
                self.store.path().display(),
                listed(&unused)
            ));
        }
    }
}

/// Names in quotes, the first few of many.
fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        return "no tensors".to_owned();
    }
    let quoted: Vec<String> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(LISTED);
    if more == 0 { quoted.join(", ") } else { format!("{} and {more} more", quoted.join(", ")) }
}

/// Every element rounded to half precision.
pub(crate) fn round(array: &Array) -> Array {
    array.map(|&x| f16::from_f32(x).to_f32())
}

/// Every element in double precision.
pub(crate) fn widen(array: &Array) -> Array<f64> {
    array.map(|&x| f64::from(x))
}

/// [B, N, H·D] as [B, H, N, D]; [N, D] as [1, 1, N, D]; rank 4 as it is.
pub(crate) fn split_heads(name: &str, array: Array, heads: Option<usize>) -> Result<Array> {
    match *array.shape() {
        [rows, dim] => array.reshape(&[1, 1, rows, dim]),
        [batch, rows, width] => match heads {
            Some(heads) if heads > 0 && width % heads == 0 => {
                array.reshape(&[batch, rows, heads, width / heads])?.permute(&[0, 2, 1, 3])
            }
            heads => {
                let expected = format!("a multiple of {} heads", heads.unwrap_or_default());
                Err(Error::shape(name, "axis 2 (heads · dim)", expected, width))
            }
        },
        _ => Ok(array),
    }
}

/// [B, H, N, D] under the rank that the query came with.
pub(crate) fn join_heads(array: Array, rank: usize) -> Result<Array> {
    match (rank, array.shape()) {
        (2, &[_, _, rows, dim]) => array.reshape(&[rows, dim]),
        (3, &[batch, heads, rows, dim]) => array.permute(&[0, 2, 1, 3])?.reshape(&[batch, rows, heads * dim]),
        _ => Ok(array),
    }
}
