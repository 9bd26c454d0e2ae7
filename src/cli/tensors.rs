//! Input files: named tensors, each asked for by what it is meant to be.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use regard::attention::Mask;
use regard::store::{Kind, Store};
use regard::tensor::{Array, DType};
use regard::{Error, Result, baseline};

use crate::failure::{Failure, Outcome};
use crate::output::{warn, warn_of};
use crate::stream;

/// Names listed in a hint or a warning at most.
const LISTED: usize = 12;

/// Prefixes offered in a hint at most.
const OFFERED: usize = 4;

/// Tensors in which −∞ means a weight of 0 and is not reported.
const LOGARITHMS: [&str; 4] = ["mask", "lse", "max_sum", "sinks"];

/// A tensor file, and which of its tensors have been used.
#[derive(Debug)]
pub(crate) struct Input {
    store: Store,
    /// Stands before every name that is asked for.
    prefix: String,
    /// Whether warnings name the file.
    is_named: bool,
    /// By their names in the file.
    used: RefCell<BTreeSet<String>>,
}

impl Input {
    /// Reads a file, or standard input as `-`.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let store = stream::open(path)?;
        Ok(Self { store, prefix: String::new(), is_named: false, used: RefCell::default() })
    }

    /// The tensors whose names begin like this, by the rest of their names.
    pub(crate) fn behind(self, prefix: &str) -> Self {
        Self { prefix: prefix.to_owned(), ..self }
    }

    /// Named in warnings: one of several files with tensors of the same names.
    pub(crate) fn named(self) -> Self {
        Self { is_named: true, ..self }
    }

    /// Every tensor's name in the file, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.store.names()
    }

    /// The prefix of all of these names, where the file has another one than is asked for.
    pub(crate) fn prefixes(&self, names: &[&str]) -> Vec<&str> {
        let before = self.names().filter_map(|name| name.strip_suffix(names.first()?));
        let has_all = |prefix: &str| names.iter().all(|name| self.store.contains(&format!("{prefix}{name}")));
        before.filter(|prefix| *prefix != self.prefix && has_all(prefix)).collect()
    }

    /// The file and its tensors, some of many.
    pub(crate) fn listing(&self) -> String {
        let there: Vec<&str> = self.names().collect();
        format!("{} has {}", self.store.path().display(), listed(&there))
    }

    /// True when there is a tensor of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.store.contains(&self.full(name))
    }

    /// A name as the file has it.
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name in the file, if it is there; it counts as used.
    fn use_up(&self, name: &str) -> Option<String> {
        let full = self.full(name);
        if !self.store.contains(&full) {
            return None;
        }
        self.used.borrow_mut().insert(full.clone());
        Some(full)
    }

    /// Warns of elements of a tensor.
    fn warn_of(&self, name: &str, what: &str, elements: impl Iterator<Item = bool>) {
        let file = if self.is_named { format!("{}: ", self.store.path().display()) } else { String::new() };
        warn_of(&format!("{file}`{name}` {what}"), elements);
    }

    /// Tells of numbers that are none, and of infinities.
    fn tell(&self, name: &str, values: impl Iterator<Item = f64> + Clone) {
        let is_logarithm = LOGARITHMS.contains(&name);
        self.warn_of(name, "holds NaN", values.clone().map(f64::is_nan));
        let is_told = |x: f64| x == f64::INFINITY || (x == f64::NEG_INFINITY && !is_logarithm);
        self.warn_of(name, if is_logarithm { "holds +infinity" } else { "holds infinity" }, values.map(is_told));
    }

    /// A float tensor, if it is there. Numbers that are none, infinities, and numbers too large for f32 are reported.
    pub(crate) fn float(&self, name: &str) -> Result<Option<Array>> {
        let Some(full) = self.use_up(name) else { return Ok(None) };
        if self.store.kind(&full) != Some(Kind::Float) {
            return Err(self.wrong_type(name, "F32, F16, BF16 or F64"));
        }
        if self.store.dtype(&full).as_deref() == Some("F64") {
            let exact = self.store.get_f64(&full)?;
            self.tell(name, exact.data().iter().copied());
            let is_lost = |x: &f64| x.is_finite() && !(*x as f32).is_finite();
            self.warn_of(name, "has numbers beyond f32, read as infinity", exact.data().iter().map(is_lost));
            return Ok(Some(exact.map(|&x| x as f32)));
        }
        let array = self.store.get(&full)?;
        self.tell(name, array.data().iter().map(|&x| x.into()));
        Ok(Some(array))
    }

    /// A float tensor that has to be there, without an empty axis.
    pub(crate) fn require(&self, name: &str, shape: &str) -> Outcome<Array> {
        let Some(array) = self.float(name)? else {
            return Err(Failure::from(Error::missing(self.full(name), shape)).with_hint(self.listing()));
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
        if self.store.kind(&self.full(name)) == Some(Kind::Float) {
            return Ok(self.float(name)?.map(Mask::Float));
        }
        self.bools(name, "BOOL or U8 (true = attend), or a float type (added)").map(|mask| mask.map(Mask::Bool))
    }

    /// A tensor of true and false, if it is there.
    pub(crate) fn bools(&self, name: &str, expected: &str) -> Result<Option<Array<u32>>> {
        let Some(full) = self.use_up(name) else { return Ok(None) };
        match self.store.dtype(&full).as_deref() {
            Some("BOOL" | "U8") => self.store.get_u32(&full).map(Some),
            _ => Err(self.wrong_type(name, expected)),
        }
    }

    /// Whole numbers, if they are there, as the file has them: [`within`] makes them u32.
    pub(crate) fn integers(&self, name: &str) -> Result<Option<Array<i128>>> {
        let Some(full) = self.use_up(name) else { return Ok(None) };
        match self.store.kind(&full) {
            Some(Kind::Integer) => self.store.get_integers(&full).map(Some),
            _ => Err(self.wrong_type(name, "I32 or I64")),
        }
    }

    /// Lengths `[B]`, if they are there: whole numbers from 0 to `longest`.
    pub(crate) fn lengths(&self, name: &str, longest: usize) -> Result<Option<Array<u32>>> {
        self.integers(name)?.map(|lengths| within(name, &lengths, |_| true, longest)).transpose()
    }

    fn wrong_type(&self, name: &str, expected: &str) -> Error {
        Error::shape(name, "dtype", expected, self.store.dtype(&self.full(name)).unwrap_or_default())
    }

    /// Tells about tensors behind the prefix that nothing has asked for: a misspelt name must not pass in silence. It is no
    /// error, as files often hold more than the input.
    pub(crate) fn warn_unused(&self, command: &str) {
        let used = self.used.borrow();
        let unused: Vec<&str> =
            self.names().filter(|name| name.starts_with(&self.prefix) && !used.contains(*name)).collect();
        if !unused.is_empty() {
            warn(&format!(
                "{} has tensors that `{command}` with these options does not read: {}",
                self.store.path().display(),
                listed(&unused)
            ));
        }
    }
}

/// Tells of finite numbers that storage as `dtype` makes infinite or NaN.
///
/// # Errors
/// Those of [`baseline::stored`].
pub(crate) fn warn_storage(name: &str, array: &Array, dtype: DType) -> Result<()> {
    let fate = match dtype {
        DType::F16 => "has numbers beyond f16, stored as infinity",
        // A block shares a scale.
        DType::Q8 => "has numbers beside NaN or infinity, stored as NaN with their block of q8",
        _ => return Ok(()),
    };
    let stored = baseline::stored(name, array, dtype)?;
    let is_lost = |(x, stored): (&f32, &f32)| x.is_finite() && !stored.is_finite();
    warn_of(&format!("`{name}` {fate}"), array.data().iter().zip(stored.data()).map(is_lost));
    Ok(())
}

/// The options that would find tensors behind one of these, the first few of many.
pub(crate) fn prefix_options(prefixes: &[&str]) -> String {
    let options: Vec<String> = prefixes.iter().take(OFFERED).map(|prefix| format!("`--prefix {prefix}`")).collect();
    match (prefixes.len().saturating_sub(OFFERED), &options[..]) {
        (0, [first @ .., last]) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        (0, _) => options.concat(),
        (more, _) => format!("{} or one of {more} more", options.join(", ")),
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

/// Whole numbers as u32. One that is asked for by its index and is not from 0 to `largest` is refused; one that is not asked
/// for may be anything, and is 0 where it is no u32.
pub(crate) fn within(
    name: &str,
    array: &Array<i128>,
    asked: impl Fn(usize) -> bool,
    largest: usize,
) -> Result<Array<u32>> {
    let convert = |(at, &n): (usize, &i128)| match u32::try_from(n) {
        Ok(n) if n as usize <= largest || !asked(at) => Ok(n),
        Err(_) if !asked(at) => Ok(0),
        _ => Err(Error::shape(name, format!("element {at}"), format!("a whole number from 0 to {largest}"), n)),
    };
    Array::new(array.shape(), array.data().iter().enumerate().map(convert).collect::<Result<_>>()?)
}
