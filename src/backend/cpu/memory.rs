//! Memory whose first element begins a line of the cache.

use std::ops::{Deref, DerefMut};

use crate::error::{Error, Result};

/// f32 in a line.
pub(crate) const LINE: usize = 16;

/// How many elements a shape has, where memory can hold so many f32.
///
/// # Errors
/// [`Error::Limit`] where it cannot.
pub(crate) fn elements(what: &str, shape: &[usize]) -> Result<usize> {
    const MOST: usize = isize::MAX as usize / 4;
    let count = shape.iter().fold(1u128, |all, &n| all.saturating_mul(n as u128));
    match usize::try_from(count) {
        Ok(count) if count <= MOST => Ok(count),
        _ => Err(Error::Limit {
            what: format!("elements of {what}"),
            needed: u64::try_from(count).unwrap_or(u64::MAX),
            allowed: MOST as u64,
        }),
    }
}

#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// A growing piece of memory, aligned; reads as a slice of whole lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room(Vec<Line>);

impl Room {
    /// So many zeros, and what fills up the last line.
    pub(crate) fn zeros(elements: usize) -> Self {
        Self(vec![Line([0.0; LINE]); elements.div_ceil(LINE)])
    }

    /// Pieces of so many elements, each aligned; what is in them is left from before.
    pub(crate) fn split<const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [f32]; N] {
        let round = |n: usize| n.next_multiple_of(LINE);
        let lines = sizes.iter().map(|&n| round(n) / LINE).sum();
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LINE]));
        }
        let mut rest = &mut self[..];
        sizes.map(|n| {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(round(n));
            rest = others;
            &mut own[..n]
        })
    }
}

impl Deref for Room {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
