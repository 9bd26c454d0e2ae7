//! Shapes, strides and host arrays: what tensors on either side have in common.

mod axes;

pub use axes::Axes;

use crate::error::{Error, Result};
use crate::q8;

/// Element type of a tensor in GPU memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision, 4 bytes.
    F32,
    /// IEEE half precision, 2 bytes. Storage only: all arithmetic is f32.
    F16,
    /// Unsigned integer, 4 bytes: token ids, lengths, and bool masks (0 = false).
    U32,
    /// Signed bytes that share a scale by 32 along the last axis ([`q8`]): 36 bytes for 32 elements. Storage of keys and
    /// values only.
    Q8,
}

impl DType {
    /// Elements that are stored together.
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::U32 => 1,
            Self::Q8 => q8::BLOCK,
        }
    }

    /// Bytes of so many elements, in whole blocks.
    pub fn bytes_of(self, elements: usize) -> usize {
        let block = match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 => 2,
            Self::Q8 => 4 * q8::WORDS,
        };
        elements.div_ceil(self.block()).saturating_mul(block)
    }

    /// Refuses what is not a float; `name` is the tensor's.
    pub(crate) fn check_float(self, name: &str) -> Result<()> {
        match self {
            Self::F32 | Self::F16 => Ok(()),
            Self::U32 | Self::Q8 => Err(Error::shape(name, "dtype", "f32 or f16", self)),
        }
    }

    /// Refuses what keys and values cannot be stored as.
    pub(crate) fn check_cache(self, name: &str) -> Result<()> {
        match self {
            Self::F32 | Self::F16 | Self::Q8 => Ok(()),
            Self::U32 => Err(Error::shape(name, "dtype", "f32, f16 or q8", self)),
        }
    }

    /// Refuses a layout that cuts through blocks.
    pub(crate) fn check_layout(self, name: &str, layout: &Layout) -> Result<()> {
        let block = self.block();
        if block == 1 || layout.shape.contains(&0) {
            return Ok(());
        }
        let last = layout.rank().wrapping_sub(1);
        let (length, step) = (layout.shape.last().copied().unwrap_or(1), layout.strides.last().copied().unwrap_or(1));
        let whole = format!("a multiple of {block} as {self}");
        if !length.is_multiple_of(block) {
            return Err(Error::shape(name, format!("axis {last}"), whole, length));
        }
        if step != 1 {
            return Err(Error::shape(name, format!("stride of axis {last}"), format!("1 as {self}"), step));
        }
        let cut = layout.shape.iter().zip(&layout.strides).take(last).position(|(&n, s)| n > 1 && s % block != 0);
        match cut {
            Some(axis) => Err(Error::shape(name, format!("stride of axis {axis}"), whole, layout.strides[axis])),
            None if !layout.offset.is_multiple_of(block) => Err(Error::shape(name, "offset", whole, layout.offset)),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::U32 => "u32",
            Self::Q8 => "q8",
        })
    }
}

/// Where the elements of a tensor lie in its buffer: shape, strides and offset, all counted in elements.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Length of each axis.
    pub shape: Axes,
    /// Elements between neighbours along each axis; 0 repeats one element (broadcast).
    pub strides: Axes,
    /// Index of the first element.
    pub offset: usize,
}

impl Layout {
    /// Row-major and dense.
    pub fn contiguous(shape: &[usize]) -> Self {
        let mut strides = Axes::filled(1, shape.len());
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            strides[axis] = strides[axis + 1].saturating_mul(shape[axis + 1].max(1));
        }
        Self { shape: shape.into(), strides, offset: 0 }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().fold(1, |all, &n| all.saturating_mul(n))
    }

    /// One past the largest index used; 0 for an empty tensor.
    pub fn span(&self) -> usize {
        let step = |last: usize, (&n, &s): (&usize, &usize)| Some(last + n.checked_sub(1)? * s);
        let last = self.shape.iter().zip(&self.strides).try_fold(self.offset, step);
        last.map_or(0, |last| last + 1)
    }

    /// As [`Layout::span`], with layouts that make no sense told apart.
    ///
    /// # Errors
    /// [`Error::Shape`] when shape and strides differ in rank, or an index does not fit in a `usize`.
    pub fn checked_span(&self) -> Result<usize> {
        if self.strides.len() != self.rank() {
            return Err(Error::shape("layout", "strides", self.rank(), self.strides.len()));
        }
        if self.shape.contains(&0) {
            return Ok(0);
        }
        let step = |index: Option<usize>, (&n, &s): (&usize, &usize)| index?.checked_add((n - 1).checked_mul(s)?);
        let last = self.shape.iter().zip(&self.strides).fold(Some(self.offset), step);
        let elements = self.shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
        match (last.and_then(|last| last.checked_add(1)), elements) {
            (Some(span), Some(_)) => Ok(span),
            _ => Err(Error::shape("layout", "elements", "an index that fits in a usize", format!("{:?}", self.shape))),
        }
    }

    /// True when the elements lie densely in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1usize;
        for (&n, &s) in self.shape.iter().zip(&self.strides).rev() {
            if n != 1 && s != expected {
                return false;
            }
            expected = expected.saturating_mul(n);
        }
        true
    }

    /// The axes in another order: axis `k` of the result is axis `order[k]` of this layout.
    ///
    /// # Errors
    /// When `order` is not a permutation of the axes.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        for (number, axis) in order.iter().enumerate() {
            if *axis >= self.rank() || order[..number].contains(axis) {
                return Err(Error::shape(
                    "tensor",
                    "axis order",
                    format!("a permutation of 0..{}", self.rank()),
                    format!("{order:?}"),
                ));
            }
        }
        if order.len() != self.rank() {
            return Err(Error::shape("tensor", "axis order", format!("{} axes", self.rank()), format!("{order:?}")));
        }
        Ok(Self {
            shape: order.iter().map(|&a| self.shape[a]).collect(),
            strides: order.iter().map(|&a| self.strides[a]).collect(),
            offset: self.offset,
        })
    }

    /// `length` entries of one axis, from `start` on.
    ///
    /// # Errors
    /// When the range leaves the axis.
    pub fn narrow(&self, axis: usize, start: usize, length: usize) -> Result<Self> {
        let found = self.shape.get(axis).copied().unwrap_or(0);
        let end = start.checked_add(length);
        if axis >= self.rank() || end.is_none_or(|end| end > found) {
            return Err(Error::shape("tensor", format!("axis {axis}"), format!("at least {start} + {length}"), found));
        }
        let mut out = self.clone();
        out.shape[axis] = length;
        out.offset = out.offset.saturating_add(start.saturating_mul(self.strides[axis]));
        Ok(out)
    }

    /// One axis as two: its length must be `outer` · `inner`.
    ///
    /// # Errors
    /// When the product does not match.
    pub fn split(&self, axis: usize, outer: usize, inner: usize) -> Result<Self> {
        let found = self.shape.get(axis).copied().unwrap_or(0);
        if axis >= self.rank() || outer.checked_mul(inner) != Some(found) {
            return Err(Error::shape("tensor", format!("axis {axis}"), format!("{outer} · {inner}"), found));
        }
        let mut out = self.clone();
        out.shape[axis] = inner;
        out.shape.insert(axis, outer);
        out.strides.insert(axis, inner.saturating_mul(self.strides[axis]));
        Ok(out)
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the layout is not contiguous or the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let wanted = shape.iter().fold(1usize, |all, &n| all.saturating_mul(n));
        if wanted != self.elements() {
            return Err(Error::shape("tensor", "elements", wanted, self.elements()));
        }
        if !self.is_contiguous() {
            return Err(Error::shape("tensor", "strides", "contiguous", format!("{:?}", self.strides)));
        }
        Ok(Self { offset: self.offset, ..Self::contiguous(shape) })
    }

    /// Broadcast by the usual rules: axes are aligned at the end, an axis of length 1 is repeated.
    ///
    /// # Errors
    /// When an axis has neither the wanted length nor 1.
    pub fn broadcast(&self, shape: &[usize]) -> Result<Self> {
        if self.rank() > shape.len() {
            return Err(Error::shape("tensor", "rank", format!("at most {}", shape.len()), self.rank()));
        }
        let lead = shape.len() - self.rank();
        let mut strides = Axes::filled(0, shape.len());
        for (axis, (&n, &s)) in self.shape.iter().zip(&self.strides).enumerate() {
            let wanted = shape[lead + axis];
            if n != wanted && n != 1 {
                return Err(Error::shape("tensor", format!("axis {axis}"), format!("{wanted} or 1"), n));
            }
            strides[lead + axis] = if n == 1 { 0 } else { s };
        }
        Ok(Self { shape: shape.into(), strides, offset: self.offset })
    }

    /// Axes of length 1 put in front until there are `rank` of them.
    pub fn lift(&self, rank: usize) -> Self {
        let mut out = self.clone();
        while out.rank() < rank {
            out.shape.insert(0, 1);
            out.strides.insert(0, 0);
        }
        out
    }
}

/// A number type of host arrays: f32, f64, f16, bf16.
pub trait Element: Copy {
    /// The same value; exact.
    fn widen(self) -> f64;
    /// The nearest value.
    fn narrow(x: f64) -> Self;
}

impl Element for f64 {
    fn widen(self) -> f64 {
        self
    }
    fn narrow(x: f64) -> Self {
        x
    }
}

impl Element for f32 {
    fn widen(self) -> f64 {
        f64::from(self)
    }
    fn narrow(x: f64) -> Self {
        x as Self
    }
}

impl Element for half::f16 {
    fn widen(self) -> f64 {
        self.to_f64()
    }
    fn narrow(x: f64) -> Self {
        Self::from_f64(x)
    }
}

impl Element for half::bf16 {
    fn widen(self) -> f64 {
        self.to_f64()
    }
    fn narrow(x: f64) -> Self {
        Self::from_f64(x)
    }
}

/// A tensor of numbers in some form: on the GPU, as a view in a recording, as a host array, or its shape or element type alone.
pub trait TensorLike {
    /// A tensor of integers (lengths, ids, boolean masks) in the same form: [`Array<u32>`] with host arrays of any element
    /// type, else the same type.
    type Integers: Clone + std::fmt::Debug;
}

impl<T> TensorLike for Array<T> {
    type Integers = Array<u32>;
}

/// The form of a tensor that is only inspected.
impl TensorLike for () {
    type Integers = Self;
}

impl TensorLike for DType {
    type Integers = Self;
}

impl TensorLike for &[usize] {
    type Integers = Self;
}

impl TensorLike for Vec<usize> {
    type Integers = Self;
}

/// A dense row-major array in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<T = f32> {
    shape: Vec<usize>,
    data: Vec<T>,
}

impl<T> Array<T> {
    /// Elements in row-major order under a shape.
    ///
    /// # Errors
    /// When the number of elements is not the product of the shape.
    pub fn new(shape: &[usize], data: Vec<T>) -> Result<Self> {
        let wanted = shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis));
        match wanted {
            Some(wanted) if wanted == data.len() => Ok(Self { shape: shape.to_vec(), data }),
            _ => Err(Error::shape("array", "elements", format!("the product of {shape:?}"), data.len())),
        }
    }

    /// As [`Array::new`], of as many elements as the shape has.
    #[cfg(feature = "cpu")]
    pub(crate) fn from_parts(shape: Vec<usize>, data: Vec<T>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data }
    }

    /// Every element from its row-major index.
    pub fn from_fn(shape: &[usize], f: impl FnMut(usize) -> T) -> Self {
        Self { shape: shape.to_vec(), data: (0..shape.iter().product()).map(f).collect() }
    }

    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in row-major order.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// The elements in row-major order, to change.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// The elements in row-major order, taken out.
    pub fn into_data(self) -> Vec<T> {
        self.data
    }

    /// Each element through a function.
    pub fn map<U>(&self, f: impl FnMut(&T) -> U) -> Array<U> {
        Array { shape: self.shape.clone(), data: self.data.iter().map(f).collect() }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(self, shape: &[usize]) -> Result<Self> {
        Self::new(shape, self.data)
    }
}

impl<T: Element> Array<T> {
    /// Each element as the nearest one of another type: bf16 and f16 in, and out again, of computations in f32.
    ///
    /// ```
    /// use half::bf16;
    /// use regard::attention::{Attention, AttentionInputs};
    /// use regard::{reference, tensor::Array};
    ///
    /// # fn main() -> regard::Result<()> {
    /// let x = Array::from_fn(&[1, 2, 5, 8], |i| bf16::from_f32((i as f32).sin()));
    /// let inputs = AttentionInputs::new(x.clone(), x.clone(), x).map_numbers(Array::cast::<f32>);
    /// let output: Array<bf16> = reference::attention(&Attention::default(), &inputs)?.output.cast();
    /// # assert_eq!(output.shape(), [1, 2, 5, 8]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cast<U: Element>(&self) -> Array<U> {
        self.map(|&x| U::narrow(x.widen()))
    }
}

impl<T: Clone> Array<T> {
    /// Every element the same.
    pub fn filled(shape: &[usize], value: T) -> Self {
        Self { shape: shape.to_vec(), data: vec![value; shape.iter().product()] }
    }

    /// The elements that a layout over this array's data selects, made dense.
    ///
    /// # Errors
    /// When the layout reaches past the data.
    pub fn gather(&self, layout: &Layout) -> Result<Self> {
        gather(&self.data, layout)
    }

    /// The axes in another order, made dense: axis `k` of the result is axis `order[k]` of this array.
    ///
    /// # Errors
    /// When `order` is not a permutation of the axes.
    pub fn permute(&self, order: &[usize]) -> Result<Self> {
        self.gather(&Layout::contiguous(&self.shape).permute(order)?)
    }
}

/// The elements of `from` that a layout selects, made dense.
///
/// # Errors
/// When the layout reaches past them.
pub(crate) fn gather<T: Clone>(from: &[T], layout: &Layout) -> Result<Array<T>> {
    let span = layout.checked_span()?;
    if span > from.len() {
        return Err(Error::shape("array", "elements", format!("at least {span}"), from.len()));
    }
    let mut data = Vec::with_capacity(layout.elements());
    // The last axis at once.
    let Some((&run, lead)) = layout.shape.split_last() else {
        return Array::new(&layout.shape, from[layout.offset..=layout.offset].to_vec());
    };
    let step = layout.strides[lead.len()];
    let mut index = vec![0usize; lead.len()];
    for _ in 0..if run == 0 { 0 } else { lead.iter().product() } {
        let at = layout.offset + index.iter().zip(&layout.strides).map(|(i, s)| i * s).sum::<usize>();
        match step {
            1 => data.extend_from_slice(&from[at..at + run]),
            _ => data.extend((0..run).map(|k| from[at + k * step].clone())),
        }
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < lead[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Array::new(&layout.shape, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_of_packed_heads_share_the_buffer() {
        // [B=2, N=3, H·D=8] seen as [B, H=2, N, D=4]
        let packed = Layout::contiguous(&[2, 3, 8]);
        let heads = packed.split(2, 2, 4).unwrap().permute(&[0, 2, 1, 3]).unwrap();
        assert_eq!(heads.shape, [2, 2, 3, 4]);
        assert_eq!(heads.strides, [24, 4, 8, 1]);
        assert_eq!(heads.span(), 48);
        assert!(!heads.is_contiguous());
        let array = Array::from_fn(&[2, 3, 8], |i| i);
        assert_eq!(array.gather(&heads).unwrap().data()[12..16], [4, 5, 6, 7]);
    }

    #[test]
    fn broadcasting_repeats_and_refuses() {
        let mask = Layout::contiguous(&[3, 1, 5]);
        assert_eq!(mask.broadcast(&[2, 3, 4, 5]).unwrap().strides, [0, 5, 0, 1]);
        assert!(mask.broadcast(&[2, 3, 4, 6]).is_err());
        assert!(mask.broadcast(&[3, 4]).is_err());
    }

    #[test]
    fn casts_round_to_the_nearest() {
        use half::{bf16, f16};
        let x = Array::new(&[4], vec![1.0f64, 0.1, 65_504.0, -1e-8]).unwrap();
        assert_eq!(x.cast::<f16>().data(), [1.0, 0.1, 65_504.0, -1e-8].map(f16::from_f64));
        // 65,504 and 1e-8 lie between the steps of 8 bits: 65,536 and 1.34375 · 2^-27
        let steps = [1.0, 0.100_097_656, 65_536.0, -1.343_75 / 134_217_728.0];
        assert_eq!(x.cast::<bf16>().cast::<f32>().data(), steps);
        assert_eq!(x.cast::<f32>().cast::<f64>().data()[1], f64::from(0.1f32));
    }

    #[test]
    fn bad_views_are_errors() {
        let layout = Layout::contiguous(&[4, 6]);
        assert!(layout.permute(&[0, 0]).is_err());
        assert!(layout.permute(&[0]).is_err());
        assert!(layout.narrow(1, 4, 3).is_err());
        assert!(layout.narrow(2, 0, 1).is_err());
        assert!(layout.split(1, 4, 2).is_err());
        assert!(layout.permute(&[1, 0]).unwrap().reshape(&[24]).is_err());
        assert!(Array::new(&[2, 3], vec![0.0f32; 5]).is_err());
        assert!(layout.narrow(0, usize::MAX, 1).is_err());
        assert!(layout.split(0, usize::MAX, 2).is_err());
        let odd = |shape: &[usize], strides: &[usize], offset| {
            Layout { shape: shape.into(), strides: strides.into(), offset }.checked_span()
        };
        assert!(odd(&[2, 2], &[1], 0).is_err());
        assert!(odd(&[usize::MAX, 2], &[2, 1], 0).is_err());
        assert!(odd(&[2], &[1], usize::MAX).is_err());
        assert_eq!(odd(&[2, 3], &[0, 2], 5), Ok(10));
        assert!(Array::new(&[usize::MAX, 2], vec![0.0f32; 2]).is_err());
        assert_eq!(Layout::contiguous(&[0, 3]).span(), 0);
    }
}
