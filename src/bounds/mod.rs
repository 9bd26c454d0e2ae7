//! Which dispatches are proved to stay within their buffers, their workgroup's arrays and their loops, so that their modules
//! need no checks at run time ([`Open::trusted`](crate::gpu::Open::trusted)).
//!
//! A proof has two halves, and a dispatch without either is built with checks:
//!
//! 1. **The dispatch.** What a shader's indices are made of are parameters (views, lengths, numbers of tiles) and constants. The
//!    file of each family of kernels (`attention`, `products`, `recurrences`) says of every array the largest index that
//!    its shader forms from them, and compares it with the array's length: of a buffer, the bytes that are bound. That is done
//!    for each dispatch when it is prepared, on the very bytes that the shader will read, so it does not matter who recorded it.
//! 2. **The shader.** That no other index is formed follows from its source, which was read for it line by line. `read` has
//!    the fingerprint of every file that was; a program that has another file, or one that has changed since, is built with
//!    checks, and a test asks for the file to be read again.
//!
//! What lies in tensors is not known here. Lengths, starts of sequences and pages are clamped by the shaders themselves
//! (`min(length, keys)`, `min(page, count − 1)`), which is then the proof; tensors that only decide what is computed (masks) are
//! no index. Score functions of users and their kernels always have checks.
//!
//! Sums of products of `u32` that stay below an array's length have not wrapped, as every term is at least 0. Other arithmetic
//! is kept below 2³⁰ (`FAR`): numbers of queries, keys, rows, steps. Loops count up by at least 1 to such a number.
//! Lanes: a built-in's `local_invocation_index` is below LANES; a lane's number that is made of subgroups is taken modulo LANES
//! (`lane_index`), as nothing says that subgroups are whole, and there are never more subgroups than lanes. Divisions are checked in all modules.

mod attention;
mod products;
mod read;
mod recurrences;

use crate::recording::{Binding, Dispatch, Slot};
use crate::tensor::DType;
use crate::wgsl::{Kernel, ParamsSpace, UniformType, Variant};

/// Below this are numbers of queries, keys, rows and steps, so that twice as much is no negative `i32`.
const FAR: u64 = 1 << 30;

/// Whether every index of a dispatch is within its array, and every loop ends, if its program's files have been
/// read (`has_been_read`). `bytes` is what a slot binds.
pub fn holds(dispatch: &Dispatch, bytes: &dyn Fn(Slot) -> Option<u64>) -> bool {
    let Some(kernel) = dispatch.variant.kernel.built_in() else { return false };
    let seen = Seen { kernel, dispatch, bytes };
    let plain = dispatch.variant.score_mod.is_none() && dispatch.params.len() == kernel.params.size;
    plain && PROOFS.iter().any(|(name, proof)| *name == kernel.name && proof(&seen).is_some())
}

/// The proof of a dispatch of a kernel.
pub type Proof = fn(&Seen<'_>) -> Option<()>;

/// Kernels for which there is one; all others have checks.
pub const PROOFS: [(&str, Proof); 8] = [
    ("flash", attention::tiled),
    ("flash_rows", attention::rows),
    ("flash_split", attention::split),
    ("matmul", products::registers),
    ("matmul_tiled", products::tiled),
    ("matmul_sum", products::sum),
    ("recurrent", recurrences::step),
    ("recurrent_loop", recurrences::steps),
];

/// Whether the proofs of this folder have been made for a program's files as they are.
pub(crate) fn has_been_read(variant: &Variant, params: ParamsSpace) -> bool {
    variant.files(params).iter().all(|file| read::FILES.contains(&(file.path, read::fingerprint(file.text))))
}

/// A dispatch as its shader sees it. What is not there is `None`, and nothing is proved of it.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    kernel: &'static Kernel,
    dispatch: &'a Dispatch,
    bytes: &'a dyn Fn(Slot) -> Option<u64>,
}

/// `View` of `common/layout.wgsl`.
struct View {
    shape: [u64; 4],
    strides: [u64; 4],
    offset: u64,
}

impl Seen<'_> {
    /// Words of a parameter: `positions.keys` is a member of a member.
    fn words<const N: usize>(&self, path: &str) -> Option<[u64; N]> {
        let mut place: (usize, &UniformType) = (0, self.kernel.params);
        for name in path.split('.') {
            let member = place.1.members.iter().find(|member| member.name == name)?;
            place = (place.0 + member.offset, member.ty);
        }
        let bytes = self.dispatch.params.get(place.0..place.0 + 4 * N)?;
        let word = |n: usize| Some(u64::from(u32::from_le_bytes(bytes.get(4 * n..4 * n + 4)?.try_into().ok()?)));
        let mut words = [0; N];
        for (n, to) in words.iter_mut().enumerate() {
            *to = word(n)?;
        }
        Some(words)
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.words::<1>(path).map(|[number]| number)
    }

    /// A number from 1 to [`FAR`].
    fn count(&self, path: &str) -> Option<u64> {
        self.number(path).filter(|number| (1..=FAR).contains(number))
    }

    fn view(&self, path: &str) -> Option<View> {
        let [a, b, c, d, e, f, g, h, offset] = self.words(path)?;
        Some(View { shape: [a, b, c, d], strides: [e, f, g, h], offset })
    }

    /// The largest index into a list of `common/positions.wgsl` at its entry `last`.
    fn list(&self, path: &str, last: u64) -> Option<u64> {
        let [start, step] = self.words(path)?;
        reach(start, [(last, step)])
    }

    /// A constant that the dispatch sets: an `override`, or a size in the header.
    fn constant(&self, name: &str) -> Option<u64> {
        if let Some((_, size)) = self.dispatch.variant.sizes.iter().find(|(found, _)| *found == name) {
            return Some(u64::from(*size));
        }
        let (_, value) = self.dispatch.variant.overrides.iter().find(|(found, _)| *found == name)?;
        (value.fract() == 0.0 && (0.0..=FAR as f64).contains(value)).then_some(*value as u64)
    }

    /// A switch among them.
    fn is_on(&self, name: &str) -> Option<bool> {
        self.constant(name).map(|value| value != 0)
    }

    /// Elements of a storage buffer, as the shader declares them.
    fn length(&self, buffer: &str) -> Option<u64> {
        let at = self.kernel.buffers.iter().position(|found| found.name == buffer)?;
        let (Binding::Read(slot) | Binding::Write(slot)) = *self.dispatch.bindings.get(at)? else { return None };
        let element = self.kernel.buffers[at].element;
        let (scalar, wide) = match element.strip_prefix("vec4<").and_then(|inner| inner.strip_suffix('>')) {
            Some(scalar) => (scalar, 4),
            None => (element, 1),
        };
        let aliases = &self.dispatch.variant.aliases;
        let bytes = match aliases.iter().find(|(alias, _)| *alias == scalar) {
            // Bound as words.
            Some((_, DType::Q8)) => 4,
            Some((_, dtype)) => wide * dtype.bytes_of(1) as u64,
            None => matches!(scalar, "f32" | "u32").then_some(4 * wide)?,
        };
        Some((self.bytes)(slot)? / bytes)
    }

    /// That the largest index into a buffer is within it.
    fn within(&self, buffer: &str, largest: Option<u64>) -> Option<()> {
        let length = self.length(buffer)?;
        holds_that(largest? < length)
    }
}

impl View {
    /// The index of the element at the largest index on each axis.
    fn reach(&self, last: [u64; 4]) -> Option<u64> {
        let [a, b, c, d] = self.strides;
        reach(self.offset, [(last[0], a), (last[1], b), (last[2], c), (last[3], d)])
    }

    /// The largest of `row_start` of the first `rows` rows.
    fn row_reach(&self, rows: u64) -> Option<u64> {
        let [_, y, z, _] = self.shape;
        let last = rows.checked_sub(1)?;
        let outer = last.checked_div(z)?.checked_div(y)?;
        self.reach([outer, (last / z).min(y - 1), last.min(z - 1), 0])
    }
}

/// `start` + Σ of factors, each the largest that a shader forms.
fn reach<const N: usize>(start: u64, terms: [(u64, u64); N]) -> Option<u64> {
    terms.into_iter().try_fold(start, |sum, (factor, step)| sum.checked_add(factor.checked_mul(step)?))
}

/// `None` of what does not hold, for `?`.
fn holds_that(condition: bool) -> Option<()> {
    condition.then_some(())
}

#[cfg(test)]
mod tests;
