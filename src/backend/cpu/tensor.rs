//! Tensors of the CPU backend.

use std::sync::{Arc, OnceLock};

use half::{bf16, f16};

use super::elements::Elements;
use super::linear::Packed;
use crate::attention::{AttentionInputs, AttentionOutputs};
use crate::backend::Value;
use crate::error::{Error, Result};
use crate::problem::{Role, Storage};
use crate::q8;
use crate::reference::append_in_place;
use crate::rnn::{RnnInputs, RnnOutputs};
use crate::tensor::{Array, DType, Layout, TensorLike, gather};

/// A dense row-major tensor in host memory: f32, or stored as f16, bf16 or q8 and read as f32. A clone is the same tensor.
#[derive(Debug, Clone)]
pub struct CpuTensor {
    shape: Vec<usize>,
    stored: Stored,
    /// As columns of products, once it was a weight.
    packed: Arc<OnceLock<Arc<Packed>>>,
}

#[derive(Debug, Clone)]
enum Stored {
    F32(Arc<Vec<f32>>),
    F16(Arc<Vec<f16>>),
    Bf16(Arc<Vec<bf16>>),
    Q8(Arc<Vec<u32>>),
}

impl CpuTensor {
    fn of(shape: Vec<usize>, stored: Stored) -> Self {
        Self { shape, stored, packed: Arc::default() }
    }

    /// The numbers of an array, stored as `dtype` stores them: f32, f16, or q8 with a last axis of whole blocks. `name` is the
    /// tensor's in errors.
    ///
    /// # Errors
    /// [`Error::Shape`] where `dtype` cannot hold them.
    pub fn stored(name: &str, array: &Array, dtype: DType) -> Result<Self> {
        dtype.check_layout(name, &Layout::contiguous(array.shape()))?;
        let stored = match dtype {
            DType::F32 => Stored::F32(Arc::new(array.data().to_vec())),
            DType::F16 => Stored::F16(Arc::new(array.data().iter().map(|&x| f16::from_f32(x)).collect())),
            DType::Q8 => Stored::Q8(Arc::new(q8::quantize(array.data()))),
            DType::U32 => return Err(Error::shape(name, "dtype", "f32, f16 or q8", dtype)),
        };
        Ok(Self::of(array.shape().to_vec(), stored))
    }

    /// The numbers as f32; copied unless they are that and belong to nobody else.
    pub fn into_array(self) -> Array {
        match self.stored {
            Stored::F32(data) => {
                let data = Arc::try_unwrap(data).unwrap_or_else(|data| data.to_vec());
                Array::from_parts(self.shape, data)
            }
            _ => self.to_array(),
        }
    }

    /// The numbers as f32.
    pub fn to_array(&self) -> Array {
        let data = match &self.stored {
            Stored::F32(data) => data.to_vec(),
            Stored::F16(data) => data.iter().map(|x| x.to_f32()).collect(),
            Stored::Bf16(data) => data.iter().map(|x| x.to_f32()).collect(),
            Stored::Q8(words) => {
                let mut data = q8::dequantize(words);
                data.truncate(self.shape.iter().product());
                data
            }
        };
        Array::from_parts(self.shape.clone(), data)
    }

    /// Numbers stored as this tensor's are, if those are f16 or bf16, else as f32.
    pub(crate) fn alike(&self, array: Array) -> Self {
        match self.stored {
            Stored::F16(_) => array.cast::<f16>().into(),
            Stored::Bf16(_) => array.cast::<bf16>().into(),
            Stored::F32(_) | Stored::Q8(_) => array.into(),
        }
    }

    /// The same as f32: itself where it is.
    pub(crate) fn wide(&self) -> Self {
        match self.stored {
            Stored::F32(_) => self.clone(),
            _ => self.to_array().into(),
        }
    }

    /// The elements as f32.
    ///
    /// # Panics
    /// Where they are stored otherwise: [`CpuTensor::wide`] comes first.
    pub(crate) fn data(&self) -> &[f32] {
        match &self.stored {
            Stored::F32(data) => data,
            _ => unreachable!("a tensor that is read as f32 is made so first"),
        }
    }

    pub(crate) fn elements(&self) -> Elements<'_> {
        match &self.stored {
            Stored::F32(data) => Elements::F32(data),
            Stored::F16(data) => Elements::F16(data),
            Stored::Bf16(data) => Elements::Bf16(data),
            Stored::Q8(words) => Elements::Q8(words),
        }
    }

    /// A matrix [N, K] as columns of products, in panels of so many. The first form is kept, so that a weight is packed once.
    pub(crate) fn packed(&self, panel: usize) -> Arc<Packed> {
        let pack = || {
            let (columns, depth) = (self.shape[0], self.shape[1]);
            Arc::new(Packed::new(self.wide().data(), depth, columns, panel, Some))
        };
        let kept = self.packed.get_or_init(pack);
        if kept.panel == panel { kept.clone() } else { pack() }
    }

    /// Rows [B, H, n, D] into a cache, as [`Backend::append`](crate::backend::Backend::append) has them. A cache in f32 that
    /// nobody else holds is written in place.
    pub(crate) fn append(&mut self, rows: &Self, starts: &Array<u32>, table: Option<&Array<u32>>) -> Result<()> {
        let Stored::F32(data) = &mut self.stored else {
            let mut wide = self.wide();
            wide.append(rows, starts, table)?;
            *self = self.alike(wide.into_array());
            return Ok(());
        };
        let rows = rows.wide();
        append_in_place((Arc::make_mut(data).as_mut_slice(), &self.shape), (rows.data(), &rows.shape), starts, table)?;
        self.packed = Arc::default();
        Ok(())
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when they are not as many.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        Layout::contiguous(&self.shape).reshape(shape)?;
        // Rows that begin within a block cannot be read as they are stored.
        if matches!(self.stored, Stored::Q8(_)) && !shape.last().is_some_and(|n| n.is_multiple_of(q8::BLOCK)) {
            return Ok(self.to_array().reshape(shape)?.into());
        }
        Ok(Self { packed: Arc::default(), shape: shape.to_vec(), ..self.clone() })
    }

    /// The elements that a layout over this tensor's selects, as f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when it reaches past them.
    pub(crate) fn gather(&self, layout: &Layout) -> Result<Self> {
        match &self.stored {
            Stored::F32(data) if layout.is_contiguous() && layout.offset == 0 && layout.elements() == data.len() => {
                self.reshape(&layout.shape)
            }
            Stored::F32(data) => Ok(gather(data, layout)?.into()),
            _ => Ok(self.to_array().gather(layout)?.into()),
        }
    }
}

impl From<Array<f32>> for CpuTensor {
    fn from(array: Array<f32>) -> Self {
        Self::of(array.shape().to_vec(), Stored::F32(Arc::new(array.into_data())))
    }
}

impl From<Array<f16>> for CpuTensor {
    fn from(array: Array<f16>) -> Self {
        Self::of(array.shape().to_vec(), Stored::F16(Arc::new(array.into_data())))
    }
}

impl From<Array<bf16>> for CpuTensor {
    fn from(array: Array<bf16>) -> Self {
        Self::of(array.shape().to_vec(), Stored::Bf16(Arc::new(array.into_data())))
    }
}

impl AttentionInputs<CpuTensor> {
    /// Host arrays as the CPU is to store them.
    ///
    /// # Errors
    /// As [`CpuTensor::stored`].
    pub fn stored(inputs: &AttentionInputs<Array>, storage: impl Into<Storage>) -> Result<Self> {
        let storage = storage.into();
        inputs.try_map(
            |name, array| CpuTensor::stored(name, array, Role::of(name).dtype(storage)),
            |_, array| Ok(array.clone()),
        )
    }
}

impl AttentionOutputs<CpuTensor> {
    /// Every result as a host array.
    pub fn to_arrays(&self) -> AttentionOutputs<Array> {
        let Ok(arrays) = self.try_map(|_, tensor| Ok::<_, std::convert::Infallible>(tensor.to_array()));
        arrays
    }
}

impl RnnInputs<CpuTensor> {
    /// Host arrays as the CPU is to store them: f32 or f16.
    ///
    /// # Errors
    /// As [`CpuTensor::stored`].
    pub fn stored(inputs: &RnnInputs<Array>, dtype: DType) -> Result<Self> {
        inputs.try_map(
            |name, array| CpuTensor::stored(name, array, Role::of_rnn(name).dtype(dtype)),
            |_, array| Ok(array.clone()),
        )
    }
}

impl RnnOutputs<CpuTensor> {
    /// Every result as a host array.
    pub fn to_arrays(&self) -> RnnOutputs<Array> {
        RnnOutputs {
            output: self.output.to_array(),
            final_h: self.final_h.to_array(),
            final_c: self.final_c.as_ref().map(CpuTensor::to_array),
        }
    }
}

impl Value for CpuTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }
}

impl TensorLike for CpuTensor {
    type Integers = Array<u32>;
}
