//! How full a key–value cache is, on the host: the length of each batch row and the pages that it holds.
//!
//! A run that appends drafts how full the cache will be. The draft is that run's own until the run is submitted; then it
//! becomes the cache's, unless the cache has changed since the draft was begun. A run that is submitted again drafts anew
//! from where the cache then is ([`Drafts::again`]): what its shaders know of the lengths lies in device memory, in small
//! tensors of u32, which are written anew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Entry of a block table that names no page.
pub(crate) const NO_PAGE: u32 = u32::MAX;

/// Numbers that shaders read, as u32, of the fill of a cache at one point of a run.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// [2, B]: the lengths before so many rows are appended to each batch row, and after.
    Append(Vec<usize>),
    /// `[B]`.
    Lengths,
    /// [B, n]: the next n positions of each batch row.
    Positions(usize),
}

impl Known {
    /// The numbers, from the fill before; an append grows it.
    pub(crate) fn words(&self, fill: &mut Fill) -> Result<Vec<u32>> {
        let mut words: Vec<u32> = Vec::new();
        match self {
            Self::Append(counts) => {
                words.extend(fill.lengths.iter().map(|&length| length as u32));
                fill.grow(fill.lengths.iter().zip(counts).map(|(length, n)| length + n).collect())?;
                words.extend(fill.lengths.iter().map(|&length| length as u32));
            }
            Self::Lengths => words.extend(fill.lengths.iter().map(|&length| length as u32)),
            Self::Positions(n) => {
                let of_row = |&length: &usize| (0..*n).map(move |k| (length + k) as u32);
                words.extend(fill.lengths.iter().flat_map(of_row));
            }
        }
        Ok(words)
    }
}

/// Words to be written into device memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words {
    /// Number of the run's tensor that they are for.
    pub(crate) tensor: usize,
    /// The first one's index in it.
    pub(crate) at: usize,
    pub(crate) words: Vec<u32>,
}

/// Lengths and pages of all batch rows.
#[derive(Debug, Clone)]
pub(crate) struct Fill {
    /// Keys of each batch row.
    pub(crate) lengths: Vec<usize>,
    /// Most keys of a batch row.
    pub(crate) capacity: usize,
    /// Of a cache in pages.
    pub(crate) pages: Option<Pages>,
}

/// Which pages belong to whom.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    /// Keys of a page.
    pub(crate) size: usize,
    /// The pages that nobody holds; the last is taken next.
    pub(crate) free: Vec<u32>,
    /// The pages of each batch row, in order.
    pub(crate) rows: Vec<Vec<u32>>,
}

impl Fill {
    /// Lengthens the rows, taking pages where they need some.
    fn grow(&mut self, lengths: Vec<usize>) -> Result<()> {
        if let Some((row, &needed)) = lengths.iter().enumerate().find(|(_, length)| **length > self.capacity) {
            let what = format!("keys in batch row {row} of a cache");
            return Err(Error::Limit { what, needed: needed as u64, allowed: self.capacity as u64 });
        }
        if let Some(pages) = &mut self.pages {
            pages.grow(&lengths)?;
        }
        self.lengths = lengths;
        Ok(())
    }

    /// Cuts a row; the pages that it does not need any more are free.
    pub(crate) fn truncate(&mut self, row: usize, length: usize) -> Result<()> {
        let batch = self.lengths.len();
        let Some(own) = self.lengths.get_mut(row) else {
            return Err(Error::shape("cache", "row", format!("below {batch}"), row));
        };
        if length > *own {
            return Err(Error::shape("cache", format!("length of row {row}"), format!("at most {own}"), length));
        }
        *own = length;
        if let Some(pages) = &mut self.pages {
            let row = &mut pages.rows[row];
            let kept = length.div_ceil(pages.size).min(row.len());
            pages.free.extend(row.split_off(kept).into_iter().rev());
        }
        Ok(())
    }
}

impl Pages {
    /// The stretch of the block table [B, columns] that has changed since `before`: index of its first entry, entries.
    fn table_since(&self, before: &[Vec<u32>], columns: usize) -> Option<(usize, Vec<u32>)> {
        let differs = |(row, (now, then)): (usize, (&Vec<u32>, &Vec<u32>))| {
            let same = now.iter().zip(then).take_while(|(a, b)| a == b).count();
            let longest = now.len().max(then.len());
            (same < longest).then_some([row * columns + same, row * columns + longest])
        };
        let [first, last] = self
            .rows
            .iter()
            .zip(before)
            .enumerate()
            .filter_map(differs)
            .reduce(|[first, last], [start, end]| [first.min(start), last.max(end)])?;
        let entry = |at: usize| self.rows[at / columns].get(at % columns).copied().unwrap_or(NO_PAGE);
        Some((first, (first..last).map(entry).collect()))
    }

    /// Takes pages until each row can hold its length.
    fn grow(&mut self, lengths: &[usize]) -> Result<()> {
        let missing = |(row, length): (&Vec<u32>, &usize)| length.div_ceil(self.size).saturating_sub(row.len());
        let needed: usize = self.rows.iter().zip(lengths).map(missing).sum();
        if needed > self.free.len() {
            let allowed = self.free.len() as u64;
            return Err(Error::Limit { what: "free pages of a cache".into(), needed: needed as u64, allowed });
        }
        for (row, length) in self.rows.iter_mut().zip(lengths) {
            let count = length.div_ceil(self.size).saturating_sub(row.len());
            row.extend(self.free.split_off(self.free.len() - count).into_iter().rev());
        }
        Ok(())
    }
}

/// The fill of one cache, and what tells its drafts whether it has changed.
#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    fill: Fill,
    /// Number of the draft or cut that made it what it is.
    version: u64,
    /// The last number given.
    numbers: u64,
    /// A run with a draft of it is being submitted.
    submitting: bool,
    /// The pages of each batch row that the block table in device memory has.
    in_table: Vec<Vec<u32>>,
}

impl Shared {
    pub(crate) fn new(fill: Fill) -> Self {
        let in_table = vec![Vec::new(); fill.lengths.len()];
        Self(Arc::new(Mutex::new(State { fill, version: 0, numbers: 0, submitting: false, in_table })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `f` sees in it.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&Fill) -> T) -> T {
        f(&self.lock().fill)
    }

    /// Cuts a row at once.
    pub(crate) fn truncate(&self, row: usize, length: usize) -> Result<()> {
        let mut state = self.lock();
        if state.submitting {
            return Err(state.refused("no run on its way that appends to it"));
        }
        state.fill.truncate(row, length)?;
        state.numbers += 1;
        state.version = state.numbers;
        Ok(())
    }
}

impl State {
    fn refused(&self, expected: &str) -> Error {
        let found = format!("{:?}, changed since or about to be", self.fill.lengths);
        Error::shape("cache", "lengths", expected, found)
    }
}

/// How full a cache will be once a run is submitted.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    of: Shared,
    /// The version that it was begun on.
    base: u64,
    /// The version that it will be.
    number: u64,
    /// The lengths that it was begun on.
    from: Vec<usize>,
    pub(crate) fill: Fill,
    /// What shaders know of it, in order, and the number of the run's tensor that it lies in.
    known: Vec<(Known, usize)>,
    /// Number of the run's tensor with the block table, and its columns.
    table: Option<(usize, usize)>,
}

impl Draft {
    /// Notes that a tensor of the run holds what is known here.
    pub(crate) fn note(&mut self, known: Known, tensor: usize) {
        self.known.push((known, tensor));
    }

    /// Notes which tensor of the run is the block table, of so many columns.
    pub(crate) fn note_table(&mut self, tensor: usize, columns: usize) {
        self.table = Some((tensor, columns));
    }

    /// The tensor of the last append, if there is one.
    pub(crate) fn last_append(&self) -> Option<usize> {
        self.known.iter().rev().find(|(known, _)| matches!(known, Known::Append(_))).map(|(_, tensor)| *tensor)
    }

    /// A run that only reads a cache claims nothing of it.
    fn appends(&self) -> bool {
        self.last_append().is_some()
    }

    /// The same from where the cache is now, with the words that differ.
    fn again(&self, written: &mut Vec<Words>) -> Result<Self> {
        let mut draft = {
            let mut state = self.of.lock();
            state.numbers += 1;
            let (from, fill) = (state.fill.lengths.clone(), state.fill.clone());
            Self { base: state.version, number: state.numbers, from, fill, ..self.clone() }
        };
        for (known, tensor) in &self.known {
            let words = known.words(&mut draft.fill)?;
            written.push(Words { tensor: *tensor, at: 0, words });
        }
        Ok(draft)
    }

    fn expected(&self) -> String {
        format!("{:?}, as where this run began", self.from)
    }

    /// Nobody else changes the cache until the claim is dropped.
    fn claim(&self) -> Result<Claim<'_>> {
        let mut state = self.of.lock();
        // Submitted again, a clone writes the same rows to the same places.
        let fresh = state.version == self.base || state.version == self.number;
        if state.submitting || !fresh {
            return Err(state.refused(&self.expected()));
        }
        state.submitting = true;
        Ok(Claim(self))
    }
}

struct Claim<'d>(&'d Draft);

impl Claim<'_> {
    /// What the block table lacks. Pages that rows have lost since go as well: rows of an append that are not real would be
    /// written there.
    fn table(&self) -> Option<Words> {
        let (tensor, columns) = self.0.table?;
        let mut state = self.0.of.lock();
        let pages = self.0.fill.pages.as_ref()?;
        let (at, words) = pages.table_since(&state.in_table, columns)?;
        state.in_table.clone_from(&pages.rows);
        Some(Words { tensor, at, words })
    }

    fn settle(self) {
        let mut state = self.0.of.lock();
        state.fill = self.0.fill.clone();
        state.version = self.0.number;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.of.lock().submitting = false;
    }
}

/// The drafts of one run, one for each cache that it appends to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drafts(Vec<Draft>);

impl Drafts {
    /// How full this run sees a cache: with what it appends itself.
    pub(crate) fn of(&self, cache: &Shared) -> Result<Draft> {
        let state = cache.lock();
        let own = self.0.iter().find(|draft| Arc::ptr_eq(&draft.of.0, &cache.0));
        match own {
            Some(draft) if !draft.appends() => {
                let (from, fill) = (state.fill.lengths.clone(), state.fill.clone());
                Ok(Draft { base: state.version, from, fill, ..draft.clone() })
            }
            Some(draft) if state.version == draft.base || state.version == draft.number => {
                // What a clone has submitted is what comes next is built on.
                Ok(Draft { base: state.version, ..draft.clone() })
            }
            Some(draft) => Err(state.refused(&draft.expected())),
            None => {
                let (from, fill) = (state.fill.lengths.clone(), state.fill.clone());
                let (base, number) = (state.version, state.version);
                Ok(Draft { of: cache.clone(), base, number, from, fill, known: Vec::new(), table: None })
            }
        }
    }

    /// Keeps a draft, in the place of the run's older one of the same cache.
    pub(crate) fn keep(&mut self, mut draft: Draft) {
        draft.number = {
            let mut state = draft.of.lock();
            state.numbers += 1;
            state.numbers
        };
        self.0.retain(|other| !Arc::ptr_eq(&other.of.0, &draft.of.0));
        self.0.push(draft);
    }

    /// The drafts of a run that is submitted again, from where the caches are, and what is to be written before.
    ///
    /// # Errors
    /// [`Error::Limit`] where a cache is full.
    pub(crate) fn again(&self) -> Result<(Self, Vec<Words>)> {
        let mut words = Vec::new();
        let drafts = self.0.iter().map(|draft| draft.again(&mut words)).collect::<Result<_>>()?;
        Ok((Self(drafts), words))
    }

    /// Makes the drafts what their caches are, if `submit` goes well; it is told what block tables lack.
    ///
    /// # Errors
    /// [`Error::Shape`] where a cache has changed since its draft was begun: nothing is submitted then. Those of `submit`.
    pub(crate) fn submit<T>(&self, submit: impl FnOnce(Vec<Words>) -> Result<T>) -> Result<T> {
        // In one order for all runs, so that of two that append to the same caches one has them all.
        let mut drafts: Vec<&Draft> = self.0.iter().filter(|draft| draft.appends()).collect();
        drafts.sort_by_key(|draft| Arc::as_ptr(&draft.of.0));
        let claims = drafts.into_iter().map(Draft::claim).collect::<Result<Vec<_>>>()?;
        let done = submit(claims.iter().filter_map(Claim::table).collect())?;
        claims.into_iter().for_each(Claim::settle);
        Ok(done)
    }
}
