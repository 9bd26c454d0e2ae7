//! A number for each axis of a tensor.

use std::ops::{Deref, DerefMut};

/// Axes that lie in place: as many as kernels take.
const FEW: usize = 4;

/// A number for each axis: a list that takes no memory of its own up to four axes, so that a layout is copied without an
/// allocation. Reads as a slice.
#[derive(Clone)]
pub struct Axes(List);

#[derive(Clone)]
enum List {
    /// Whole words alone, which are copied as such.
    Few {
        length: usize,
        axes: [usize; FEW],
    },
    Many(Vec<usize>),
}

impl Axes {
    /// The same number for so many axes.
    pub fn filled(value: usize, length: usize) -> Self {
        match length {
            0..=FEW => Self(List::Few { length, axes: [value; FEW] }),
            _ => Self(List::Many(vec![value; length])),
        }
    }

    /// One more axis, before axis `at`, or at most behind the last.
    pub fn insert(&mut self, at: usize, value: usize) {
        let (before, after) = self.split_at(at.min(self.len()));
        *self = before.iter().chain(&[value]).chain(after).copied().collect();
    }
}

impl Deref for Axes {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        match &self.0 {
            List::Few { length, axes } => &axes[..*length],
            List::Many(axes) => axes,
        }
    }
}

impl DerefMut for Axes {
    fn deref_mut(&mut self) -> &mut [usize] {
        match &mut self.0 {
            List::Few { length, axes } => &mut axes[..*length],
            List::Many(axes) => axes,
        }
    }
}

impl From<&[usize]> for Axes {
    fn from(axes: &[usize]) -> Self {
        let mut own = Self::filled(0, axes.len());
        own.copy_from_slice(axes);
        own
    }
}

impl From<Vec<usize>> for Axes {
    fn from(axes: Vec<usize>) -> Self {
        Self::from(&axes[..])
    }
}

impl<const N: usize> From<[usize; N]> for Axes {
    fn from(axes: [usize; N]) -> Self {
        Self::from(&axes[..])
    }
}

impl FromIterator<usize> for Axes {
    fn from_iter<I: IntoIterator<Item = usize>>(axes: I) -> Self {
        let mut axes = axes.into_iter();
        let mut few = [0; FEW];
        for length in 0..=FEW {
            match axes.next() {
                Some(next) if length == FEW => {
                    return Self(List::Many(few.into_iter().chain([next]).chain(axes).collect()));
                }
                Some(next) => few[length] = next,
                None => return Self::from(&few[..length]),
            }
        }
        Self::from(few)
    }
}

impl<'a> IntoIterator for &'a Axes {
    type Item = &'a usize;
    type IntoIter = std::slice::Iter<'a, usize>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Axes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Axes {}

impl PartialEq<[usize]> for Axes {
    fn eq(&self, other: &[usize]) -> bool {
        **self == *other
    }
}

impl<const N: usize> PartialEq<[usize; N]> for Axes {
    fn eq(&self, other: &[usize; N]) -> bool {
        **self == *other
    }
}

impl std::hash::Hash for Axes {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl std::fmt::Debug for Axes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_any_length() {
        for length in 0..8 {
            let list: Vec<usize> = (1..=length).collect();
            let axes = Axes::from(list.clone());
            assert_eq!(*axes, list);
            assert_eq!(list.iter().copied().collect::<Axes>(), axes);
            assert_eq!(*Axes::filled(7, length), vec![7; length]);
            for at in 0..=length {
                let (mut axes, mut list) = (axes.clone(), list.clone());
                axes.insert(at, 9);
                list.insert(at, 9);
                assert_eq!(*axes, list);
            }
        }
    }
}
