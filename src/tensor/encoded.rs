//! Tensors as they arrive: named, with the shape that they are said to have, and not read yet.

use bytes::Bytes;

use super::{ElementType, Tensor};

/// A tensor of some protocol.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedTensor {
    /// The name of the input that it is for.
    pub name: String,
    /// The type of its elements, as its sender has it.
    pub element_type: ElementType,
    /// The lengths of its axes, as its sender has them. Axis 0 is the batch.
    pub shape: Vec<usize>,
    /// Its elements, perhaps not as many as its shape says.
    pub data: EncodedData,
}

/// The elements of a tensor in one of the forms in which they travel.
#[derive(Debug, Clone, PartialEq)]
pub enum EncodedData {
    /// JSON text: a list of all elements in row-major order, or lists in lists as the shape has them.
    Json(Bytes),
    /// [Little-endian bytes](super::bytes).
    Binary(Bytes),
    /// Byte strings, one for each element.
    Files(Vec<Bytes>),
    /// Read already, in whatever shape.
    Elements(Tensor),
}

impl EncodedTensor {
    /// The number of elements that the shape says; `None` if it is beyond counting.
    pub fn element_count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |count, length| count.checked_mul(*length))
    }

    /// The size of what arrived, in bytes.
    pub fn byte_size(&self) -> usize {
        match &self.data {
            EncodedData::Json(bytes) | EncodedData::Binary(bytes) => bytes.len(),
            EncodedData::Files(files) => files.iter().map(Bytes::len).sum(),
            EncodedData::Elements(tensor) => tensor.byte_size(),
        }
    }
}
