//! How full a key–value cache is, on the host: the length of each batch row and the pages that it holds.
//!
//! A run that appends drafts how full the cache will be. The draft is that run's own until the run is submitted; then it
//! becomes the cache's, unless the cache has changed since the draft was begun.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Lengths and pages of all batch rows.
#[derive(Debug, Clone)]
pub(crate) struct Fill {
    /// Keys of each batch row.
    pub(crate) lengths: Vec<usize>,
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
    pub(crate) fn grow(&mut self, lengths: Vec<usize>) -> Result<()> {
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
}

impl Shared {
    pub(crate) fn new(fill: Fill) -> Self {
        Self(Arc::new(Mutex::new(State { fill, version: 0, numbers: 0, submitting: false })))
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
}

impl Draft {
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
            Some(draft) if state.version == draft.base || state.version == draft.number => {
                // What a clone has submitted is what comes next is built on.
                Ok(Draft { base: state.version, ..draft.clone() })
            }
            Some(draft) => Err(state.refused(&draft.expected())),
            None => {
                let (from, fill) = (state.fill.lengths.clone(), state.fill.clone());
                Ok(Draft { of: cache.clone(), base: state.version, number: state.version, from, fill })
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

    /// Makes the drafts what their caches are, if `submit` goes well.
    ///
    /// # Errors
    /// [`Error::Shape`] where a cache has changed since its draft was begun: nothing is submitted then. Those of `submit`.
    pub(crate) fn submit<T>(&self, submit: impl FnOnce() -> Result<T>) -> Result<T> {
        // In one order for all runs, so that of two that append to the same caches one has them all.
        let mut drafts: Vec<&Draft> = self.0.iter().collect();
        drafts.sort_by_key(|draft| Arc::as_ptr(&draft.of.0));
        let claims = drafts.into_iter().map(Draft::claim).collect::<Result<Vec<_>>>()?;
        let done = submit()?;
        claims.into_iter().for_each(Claim::settle);
        Ok(done)
    }
}
