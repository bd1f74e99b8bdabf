//! Typed n-dimensional arrays: what tasks make, the scheduler queues and engines run.
//!
//! A [`Tensor`] owns its elements in row-major order. Axis 0 is the batch: a tensor that goes through the
//! scheduler always has it, and one item of a batch is a tensor whose axis 0 is 1 (or, for a model that
//! takes several rows as one item, the number of rows).

use std::fmt;

use half::f16;
use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn, Slice};
use thiserror::Error;

pub mod bytes;
mod encoded;
mod pattern;

pub use encoded::{EncodedData, EncodedTensor};

/// What a tensor holds. The names follow ONNX's `TensorProto.DataType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ElementType {
    Float32,
    Float16,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Bool,
    String,
}

impl ElementType {
    /// The size of one element in memory, in bytes (for strings, of the handle alone).
    pub fn size(self) -> usize {
        match self {
            Self::Int8 | Self::Uint8 | Self::Bool => 1,
            Self::Float16 | Self::Int16 | Self::Uint16 => 2,
            Self::Float32 | Self::Int32 | Self::Uint32 => 4,
            Self::Float64 | Self::Int64 | Self::Uint64 => 8,
            Self::String => size_of::<String>(),
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Float64 => "float64",
            Self::Int8 => "int8",
            Self::Int16 => "int16",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
            Self::Uint64 => "uint64",
            Self::Bool => "bool",
            Self::String => "string",
        })
    }
}

/// Why tensors could not be joined or split.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TensorError {
    /// The parts differ in type, or in an axis other than the first.
    #[error("tensors of different types or shapes can't share a batch")]
    Mismatch,
    /// More rows were asked for than there are.
    #[error("rows {start}..{end} of a tensor with {rows}")]
    OutOfRange {
        /// First row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// Rows that the tensor has.
        rows: usize,
    },
}

/// An n-dimensional array of one of the types that a client can express.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "one variant for each element type")]
pub enum Tensor {
    Float32(ArrayD<f32>),
    Float16(ArrayD<f16>),
    Float64(ArrayD<f64>),
    Int8(ArrayD<i8>),
    Int16(ArrayD<i16>),
    Int32(ArrayD<i32>),
    Int64(ArrayD<i64>),
    Uint8(ArrayD<u8>),
    Uint16(ArrayD<u16>),
    Uint32(ArrayD<u32>),
    Uint64(ArrayD<u64>),
    Bool(ArrayD<bool>),
    String(ArrayD<String>),
}

/// Runs an expression for whichever array a tensor holds, bound to the given name.
#[macro_export]
macro_rules! for_each_element_type {
    ($tensor:expr, $array:ident => $body:expr) => {
        match $tensor {
            $crate::tensor::Tensor::Float32($array) => $body,
            $crate::tensor::Tensor::Float16($array) => $body,
            $crate::tensor::Tensor::Float64($array) => $body,
            $crate::tensor::Tensor::Int8($array) => $body,
            $crate::tensor::Tensor::Int16($array) => $body,
            $crate::tensor::Tensor::Int32($array) => $body,
            $crate::tensor::Tensor::Int64($array) => $body,
            $crate::tensor::Tensor::Uint8($array) => $body,
            $crate::tensor::Tensor::Uint16($array) => $body,
            $crate::tensor::Tensor::Uint32($array) => $body,
            $crate::tensor::Tensor::Uint64($array) => $body,
            $crate::tensor::Tensor::Bool($array) => $body,
            $crate::tensor::Tensor::String($array) => $body,
        }
    };
}

macro_rules! variants {
    ($($variant:ident: $element:ty),* $(,)?) => {
        impl Tensor {
            /// The type of the elements.
            pub fn element_type(&self) -> ElementType {
                match self { $(Self::$variant(_) => ElementType::$variant,)* }
            }

            /// Joins tensors along axis 0, in order.
            ///
            /// # Errors
            /// [`TensorError::Mismatch`] when they differ in type or in a later axis, or when there are none.
            pub fn concatenate(parts: &[&Tensor]) -> Result<Tensor, TensorError> {
                let first = parts.first().ok_or(TensorError::Mismatch)?;
                match first {
                    $(Self::$variant(_) => {
                        let views: Vec<ArrayViewD<'_, $element>> = parts
                            .iter()
                            .map(|part| match part {
                                Self::$variant(array) => Ok(array.view()),
                                _ => Err(TensorError::Mismatch),
                            })
                            .collect::<Result<_, _>>()?;
                        concatenate_rows(&views).map(Self::$variant)
                    })*
                }
            }

            /// A copy of rows `start..end` along axis 0.
            ///
            /// # Errors
            /// [`TensorError::OutOfRange`] when there are fewer rows.
            pub fn rows(&self, start: usize, end: usize) -> Result<Tensor, TensorError> {
                let rows = self.row_count();
                if start > end || end > rows {
                    return Err(TensorError::OutOfRange { start, end, rows });
                }
                Ok(match self {
                    $(Self::$variant(array) => Self::$variant(
                        array.slice_axis(Axis(0), Slice::from(start..end)).to_owned(),
                    ),)*
                })
            }

            /// A tensor of the given type whose elements are all zero, false or empty.
            pub fn zeros(element_type: ElementType, shape: &[usize]) -> Tensor {
                match element_type {
                    $(ElementType::$variant => {
                        Self::$variant(ArrayD::from_elem(IxDyn(shape), <$element>::default()))
                    })*
                }
            }
        }

        $(impl From<ArrayD<$element>> for Tensor {
            fn from(array: ArrayD<$element>) -> Self {
                Self::$variant(array)
            }
        })*
    };
}

variants! {
    Float32: f32, Float16: f16, Float64: f64,
    Int8: i8, Int16: i16, Int32: i32, Int64: i64,
    Uint8: u8, Uint16: u16, Uint32: u32, Uint64: u64,
    Bool: bool, String: String,
}

/// Joins along axis 0 by extending one vector, which is a plain copy for arrays in row-major order.
fn concatenate_rows<T: Clone>(parts: &[ArrayViewD<'_, T>]) -> Result<ArrayD<T>, TensorError> {
    let first = parts.first().ok_or(TensorError::Mismatch)?;
    let mut shape = first.shape().to_vec();
    if shape.is_empty() || parts.iter().any(|part| part.shape().get(1..) != shape.get(1..)) {
        return Err(TensorError::Mismatch);
    }
    shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
    let mut elements = Vec::with_capacity(shape.iter().product());
    for part in parts {
        match part.as_slice() {
            Some(slice) => elements.extend_from_slice(slice),
            None => elements.extend(part.iter().cloned()),
        }
    }
    ArrayD::from_shape_vec(IxDyn(&shape), elements).map_err(|_| TensorError::Mismatch)
}

impl Tensor {
    /// The lengths of the axes; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        for_each_element_type!(self, array => array.shape())
    }

    /// The length of axis 0, or 1 for a scalar.
    pub fn row_count(&self) -> usize {
        self.shape().first().copied().unwrap_or(1)
    }

    /// The memory that the elements take, in bytes. Strings count with their text.
    pub fn byte_size(&self) -> usize {
        match self {
            Self::String(array) => array.iter().map(|text| text.len() + size_of::<String>()).sum(),
            other => other.shape().iter().product::<usize>() * other.element_type().size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize, start: f32) -> Tensor {
        let elements = (0..rows * columns).map(|index| start + index as f32).collect();
        ArrayD::from_shape_vec(IxDyn(&[rows, columns]), elements).unwrap().into()
    }

    #[test]
    fn what_is_joined_can_be_taken_apart() {
        let (first, second) = (matrix(1, 3, 0.0), matrix(2, 3, 10.0));
        let both = Tensor::concatenate(&[&first, &second]).unwrap();
        assert_eq!(both.shape(), [3, 3]);
        assert_eq!(both.rows(0, 1).unwrap(), first);
        assert_eq!(both.rows(1, 3).unwrap(), second);
    }

    #[test]
    fn different_types_and_shapes_do_not_mix() {
        let other_type = Tensor::zeros(ElementType::Int64, &[1, 3]);
        assert_eq!(Tensor::concatenate(&[&matrix(1, 3, 0.0), &other_type]), Err(TensorError::Mismatch));
        assert_eq!(Tensor::concatenate(&[&matrix(1, 3, 0.0), &matrix(1, 2, 0.0)]), Err(TensorError::Mismatch));
        assert_eq!(Tensor::concatenate(&[]), Err(TensorError::Mismatch));
    }

    #[test]
    fn rows_beyond_the_end_are_an_error() {
        assert_eq!(matrix(2, 2, 0.0).rows(1, 3), Err(TensorError::OutOfRange { start: 1, end: 3, rows: 2 }));
    }

    #[test]
    fn sizes_are_in_bytes() {
        assert_eq!(Tensor::zeros(ElementType::Float16, &[2, 5]).byte_size(), 20);
        let text = Tensor::from(ArrayD::from_elem(IxDyn(&[2]), "four".to_owned()));
        assert_eq!(text.byte_size(), 2 * (4 + size_of::<String>()));
    }
}
