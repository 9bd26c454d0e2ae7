//! Input files: named tensors, each asked for by what it is meant to be.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

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

    /// True when there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.store.contains(name)
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

    /// A float tensor of one number, if it is there, as `[1]`.
    pub(crate) fn number(&self, name: &str) -> Result<Option<Array>> {
        match self.float(name)? {
            Some(array) if array.data().len() == 1 => array.reshape(&[1]).map(Some),
            Some(array) => Err(Error::shape(name, "elements", 1, array.data().len())),
            None => Ok(None),
        }
    }

    /// A mask, if it is there: BOOL and U8 say what to attend to, floats are added.
    pub(crate) fn mask(&self, name: &str) -> Result<Option<Mask<Array>>> {
        if self.store.kind(name) == Some(Kind::Float) {
            return Ok(self.float(name)?.map(Mask::Float));
        }
        self.bools(name, "BOOL or U8 (true = attend), or a float type (added)").map(|mask| mask.map(Mask::Bool))
    }

    /// A tensor of true and false, if it is there.
    pub(crate) fn bools(&self, name: &str, expected: &str) -> Result<Option<Array>> {
        if !self.use_up(name) {
            return Ok(None);
        }
        match self.store.dtype(name).as_deref() {
            Some("BOOL" | "U8") => self.store.get(name).map(Some),
            _ => Err(self.wrong_type(name, expected)),
        }
    }

    /// Whole numbers, if they are there.
    pub(crate) fn integers(&self, name: &str) -> Result<Option<Array>> {
        if !self.use_up(name) {
            return Ok(None);
        }
        match self.store.kind(name) {
            Some(Kind::Integer) => {
                let array = self.store.get(name)?;
                // Whole numbers travel as f32, which holds them up to here.
                match array.data().iter().position(|x| x.abs() > 16_777_216.0) {
                    Some(at) => {
                        let found = array.data()[at];
                        Err(Error::shape(name, format!("element {at}"), "a whole number up to 2^24", found))
                    }
                    None => Ok(Some(array)),
                }
            }
            _ => Err(self.wrong_type(name, "I32 or I64")),
        }
    }

    /// Lengths `[B]`, if they are there: whole numbers from 0 to `longest`.
    pub(crate) fn lengths(&self, name: &str, longest: usize) -> Result<Option<Array>> {
        let Some(lengths) = self.integers(name)? else { return Ok(None) };
        within(name, &lengths, |_| true, longest)?;
        Ok(Some(lengths))
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

/// Refuses an element that is asked for by its index and is not from 0 to `largest`.
pub(crate) fn within(name: &str, array: &Array, asked: impl Fn(usize) -> bool, largest: usize) -> Result<()> {
    let fits = |x: f32| (0.0..=largest as f32).contains(&x);
    match array.data().iter().enumerate().find(|&(at, &x)| asked(at) && !fits(x)) {
        Some((at, x)) => {
            let expected = format!("a whole number from 0 to {largest}");
            Err(Error::shape(name, format!("element {at}"), expected, x))
        }
        None => Ok(()),
    }
}
