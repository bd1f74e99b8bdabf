//! A tensor at a fixed place that batches are written into, or read from.

use ort::value::{DynTensor, PrimitiveTensorElementType, TensorElementType};

use super::provider::Memory;
use crate::engine::TensorSpec;
use crate::tensor::{ElementType, Tensor};
use ndarray::{ArrayD, IxDyn};

/// One input or output of a session, for a fixed number of rows.
pub(super) struct Slot {
    pub(super) name: String,
    element_type: ElementType,
    rows: usize,
    /// The lengths of all axes but the first.
    row_shape: Vec<usize>,
    host: DynTensor,
    device: Option<DynTensor>,
}

/// The lengths of all axes but the first, if a slot can hold this input or output: the model fixes them, axis 0 is the
/// batch, and the elements have a fixed size.
pub(super) fn row_shape(spec: &TensorSpec, fixed_batch: Option<usize>) -> Option<Vec<usize>> {
    let (rows, rest) = spec.shape.split_first()?;
    let is_plain = spec.map_keys.is_none() && spec.element_type != ElementType::String;
    (is_plain && *rows == fixed_batch).then_some(())?;
    rest.iter().copied().collect()
}

impl Slot {
    /// Allocates it, once. `row_shape` is what [`row_shape`] says.
    ///
    /// # Errors
    /// What the runtime says, as when there is no such memory left.
    pub(super) fn new(spec: &TensorSpec, rows: usize, row_shape: Vec<usize>, memory: &Memory) -> ort::Result<Self> {
        let element_type = number_type(spec.element_type).ok_or_else(|| ort::Error::new("strings have no slot"))?;
        let shape: Vec<usize> = std::iter::once(rows).chain(row_shape.iter().copied()).collect();
        let tensor = |allocator| DynTensor::new(allocator, element_type, shape.clone());
        Ok(Self {
            name: spec.name.clone(),
            element_type: spec.element_type,
            rows,
            host: tensor(&memory.host)?,
            device: memory.device.as_ref().map(tensor).transpose()?,
            row_shape,
        })
    }

    /// Whether rows of this tensor can be written here.
    pub(super) fn takes(&self, tensor: &Tensor) -> bool {
        tensor.element_type() == self.element_type && tensor.shape().get(1..) == Some(&*self.row_shape)
    }

    /// What the session is to see: the tensor on the device where there is one.
    pub(super) fn tensor(&mut self) -> &mut DynTensor {
        self.device.as_mut().unwrap_or(&mut self.host)
    }

    /// Writes tensors one after the other, and repeats the last row until it is full.
    ///
    /// The last row, not zeros: a model must not meet values that no client would send.
    ///
    /// # Errors
    /// When they don't fit.
    pub(super) fn write<'a>(&mut self, tensors: impl Iterator<Item = &'a Tensor>) -> ort::Result<()> {
        let mut filled = 0;
        for tensor in tensors {
            macro_rules! copy {
                ($($variant:ident),*) => {
                    match tensor {
                        $(Tensor::$variant(array) => copy_in(&mut self.host, filled, array)?,)*
                        Tensor::String(_) => return Err(ort::Error::new("strings have no slot")),
                    }
                };
            }
            filled += copy!(Float32, Float16, Float64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool);
        }
        let row: usize = self.row_shape.iter().product();
        macro_rules! pad {
            ($($variant:ident: $element:ty),*) => {
                match self.element_type {
                    $(ElementType::$variant => repeat_last::<$element>(&mut self.host, filled, row)?,)*
                    ElementType::String => {}
                }
            };
        }
        pad!(
            Float32: f32, Float16: half::f16, Float64: f64, Int8: i8, Int16: i16, Int32: i32, Int64: i64,
            Uint8: u8, Uint16: u16, Uint32: u32, Uint64: u64, Bool: bool
        );
        match &mut self.device {
            Some(device) => self.host.copy_into(device),
            None => Ok(()),
        }
    }

    /// Copies of the first rows: one tensor for each count.
    ///
    /// # Errors
    /// When there are not so many.
    pub(super) fn read(&mut self, counts: &[usize]) -> ort::Result<Vec<Tensor>> {
        if counts.iter().sum::<usize>() > self.rows {
            return Err(ort::Error::new("more rows than the slot has"));
        }
        if let Some(device) = &self.device {
            device.copy_into(&mut self.host)?;
        }
        macro_rules! copy {
            ($($variant:ident),*) => {
                match self.element_type {
                    $(ElementType::$variant => {
                        copy_out(&self.host, counts, &self.row_shape)?.into_iter().map(Tensor::$variant).collect()
                    })*
                    ElementType::String => return Err(ort::Error::new("strings have no slot")),
                }
            };
        }
        Ok(copy!(Float32, Float16, Float64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool))
    }
}

/// Copies an array's elements behind those that are there, and gives their number.
fn copy_in<T: PrimitiveTensorElementType + Copy>(
    host: &mut DynTensor,
    filled: usize,
    array: &ArrayD<T>,
) -> ort::Result<usize> {
    let (_, elements) = host.try_extract_tensor_mut::<T>()?;
    let room =
        elements.get_mut(filled..filled + array.len()).ok_or_else(|| ort::Error::new("more rows than the slot has"))?;
    match array.as_slice() {
        Some(slice) => room.copy_from_slice(slice),
        None => room.iter_mut().zip(array).for_each(|(to, from)| *to = *from),
    }
    Ok(array.len())
}

fn repeat_last<T: PrimitiveTensorElementType + Copy>(
    host: &mut DynTensor,
    mut filled: usize,
    row: usize,
) -> ort::Result<()> {
    let (_, elements) = host.try_extract_tensor_mut::<T>()?;
    while filled < elements.len() && row > 0 {
        let last = filled.checked_sub(row).ok_or_else(|| ort::Error::new("no row to repeat"))?;
        elements.copy_within(last..filled, filled);
        filled += row;
    }
    Ok(())
}

fn copy_out<T: PrimitiveTensorElementType + Clone>(
    host: &DynTensor,
    counts: &[usize],
    row_shape: &[usize],
) -> ort::Result<Vec<ArrayD<T>>> {
    let (_, mut elements) = host.try_extract_tensor::<T>()?;
    let row: usize = row_shape.iter().product();
    let mut arrays = Vec::with_capacity(counts.len());
    for &count in counts {
        let (these, rest) = elements.split_at(count * row);
        let shape: Vec<usize> = std::iter::once(count).chain(row_shape.iter().copied()).collect();
        let array = ArrayD::from_shape_vec(IxDyn(&shape), these.to_vec());
        arrays.push(array.map_err(|error| ort::Error::new(error.to_string()))?);
        elements = rest;
    }
    Ok(arrays)
}

/// The runtime's name of an element type of a fixed size.
fn number_type(element_type: ElementType) -> Option<TensorElementType> {
    Some(match element_type {
        ElementType::Float32 => TensorElementType::Float32,
        ElementType::Float16 => TensorElementType::Float16,
        ElementType::Float64 => TensorElementType::Float64,
        ElementType::Int8 => TensorElementType::Int8,
        ElementType::Int16 => TensorElementType::Int16,
        ElementType::Int32 => TensorElementType::Int32,
        ElementType::Int64 => TensorElementType::Int64,
        ElementType::Uint8 => TensorElementType::Uint8,
        ElementType::Uint16 => TensorElementType::Uint16,
        ElementType::Uint32 => TensorElementType::Uint32,
        ElementType::Uint64 => TensorElementType::Uint64,
        ElementType::Bool => TensorElementType::Bool,
        ElementType::String => return None,
    })
}
