//! Tensors as bytes: elements in little-endian order, row-major, as the Open Inference Protocol's binary form has them.
//!
//! A bool is one byte. A string follows its length in bytes, which takes four.

use half::f16;
use ndarray::{ArrayD, IxDyn};

use super::Tensor;
use crate::for_each_element_type;

/// An element type with a binary form.
pub trait Binary: Sized + Clone {
    /// Appends the element.
    fn write(&self, bytes: &mut Vec<u8>);

    /// Reads exactly `count` elements.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the name of the tensor.
    fn read(bytes: &[u8], count: usize) -> Result<Vec<Self>, String>;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Binary for $number {
            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8], count: usize) -> Result<Vec<Self>, String> {
                let (elements, rest) = bytes.as_chunks::<{ size_of::<$number>() }>();
                if elements.len() != count || !rest.is_empty() {
                    return Err(wrong_length(bytes.len(), count, size_of::<$number>()));
                }
                Ok(elements.iter().map(|element| Self::from_le_bytes(*element)).collect())
            }
        }
    )*};
}

numbers!(f32 f64 f16 i8 i16 i32 i64 u8 u16 u32 u64);

fn wrong_length(bytes: usize, count: usize, size: usize) -> String {
    format!("has {bytes} bytes; its shape takes {count} elements of {size}")
}

impl Binary for bool {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn read(bytes: &[u8], count: usize) -> Result<Vec<Self>, String> {
        match bytes.len() == count {
            true => Ok(bytes.iter().map(|byte| *byte != 0).collect()),
            false => Err(wrong_length(bytes.len(), count, 1)),
        }
    }
}

impl Binary for String {
    fn write(&self, bytes: &mut Vec<u8>) {
        // A string of 4 GiB is beyond every limit on answers.
        let length = u32::try_from(self.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8], count: usize) -> Result<Vec<Self>, String> {
        let texts = split_strings(bytes, count)?;
        texts.into_iter().map(|range| checked_text(&bytes[range]).map(str::to_owned)).collect()
    }
}

/// The text of bytes, if a model can be given it.
///
/// # Errors
/// The rest of a sentence that begins with the name of the tensor.
pub fn checked_text(bytes: &[u8]) -> Result<&str, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => {
            Err("has an element with a NUL character (U+0000), which the model can't be given".to_owned())
        }
        Ok(text) => Ok(text),
        Err(_) => Err("has an element that is not UTF-8, and ONNX's strings are".to_owned()),
    }
}

/// Where each of exactly `count` strings lies.
///
/// # Errors
/// The rest of a sentence that begins with the name of the tensor.
pub fn split_strings(bytes: &[u8], count: usize) -> Result<Vec<std::ops::Range<usize>>, String> {
    // Each has at least its length, so a shape that promises more than there is allocates nothing.
    let mut found = Vec::with_capacity(count.min(bytes.len() / 4));
    let mut at = 0;
    while at < bytes.len() {
        let index = found.len();
        let broken = || format!("ends within element {index}: each follows its length in four bytes");
        let (length, _) = bytes[at..].split_first_chunk::<4>().ok_or_else(broken)?;
        let begin = at + 4;
        let end = usize::try_from(u32::from_le_bytes(*length)).ok().and_then(|length| begin.checked_add(length));
        at = end.filter(|end| *end <= bytes.len()).ok_or_else(broken)?;
        found.push(begin..at);
    }
    match found.len() == count {
        true => Ok(found),
        false => Err(format!("has {} elements; its shape takes {count}", found.len())),
    }
}

impl Tensor {
    /// Appends the elements.
    pub fn write_bytes(&self, bytes: &mut Vec<u8>) {
        bytes.reserve(self.byte_size());
        for_each_element_type!(self, array => array.iter().for_each(|element| element.write(bytes)));
    }
}

/// Cuts elements into tensors of one row each; `shape` is the whole's, and has as many elements.
pub fn into_rows<T: Clone>(elements: Vec<T>, shape: &[usize]) -> Vec<ArrayD<T>> {
    let (rows, rest) = shape.split_first().map_or((1, shape), |(rows, rest)| (*rows, rest));
    let row_shape: Vec<usize> = std::iter::once(1).chain(rest.iter().copied()).collect();
    let length: usize = rest.iter().product();
    let row = |elements: Vec<T>| ArrayD::from_shape_vec(IxDyn(&row_shape), elements).ok();
    match rows {
        // The usual case, without a copy.
        1 => row(elements).into_iter().collect(),
        rows => (0..rows).filter_map(|index| row(elements[index * length..(index + 1) * length].to_vec())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ElementType;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let texts: ArrayD<String> =
            ArrayD::from_shape_vec(IxDyn(&[2]), vec!["caf\u{e9}".to_owned(), String::new()]).unwrap();
        Tensor::from(texts).write_bytes(&mut bytes);
        assert_eq!(bytes, b"\x05\0\0\0caf\xc3\xa9\0\0\0\0");
        assert_eq!(String::read(&bytes, 2).unwrap(), ["caf\u{e9}", ""]);

        let mut bytes = Vec::new();
        Tensor::from(ArrayD::from_elem(IxDyn(&[1, 2]), f16::from_f32(1.5))).write_bytes(&mut bytes);
        assert_eq!(bytes, [0, 0x3e, 0, 0x3e]);
        assert_eq!(f16::read(&bytes, 2).unwrap(), [f16::from_f32(1.5); 2]);
        assert_eq!(bool::read(&[0, 1, 7], 3).unwrap(), [false, true, true]);
        assert_eq!(i32::read(&[254, 255, 255, 255], 1).unwrap(), [-2]);
    }

    #[test]
    fn lengths_must_be_those_of_the_shape() {
        assert!(f32::read(&[0; 7], 2).unwrap_err().contains("7 bytes"));
        assert!(f32::read(&[0; 12], 2).is_err() && bool::read(&[1], 2).is_err());
        assert!(String::read(b"\x05\0\0\0caf", 1).unwrap_err().contains("ends within element 0"));
        assert!(String::read(b"\x01\0", 1).unwrap_err().contains("ends within element 0"));
        assert!(String::read(b"\xff\xff\xff\xff", 1).is_err());
        assert!(String::read(b"\0\0\0\0", usize::MAX).unwrap_err().contains("has 1 elements"));
        assert!(String::read(b"\x01\0\0\0\xff", 1).unwrap_err().contains("UTF-8"));
        assert!(String::read(b"\x01\0\0\0\0", 1).unwrap_err().contains("NUL"));
    }

    #[test]
    fn rows_are_cut_in_order() {
        let rows = into_rows(vec![1, 2, 3, 4], &[2, 2]);
        assert_eq!((rows[0].shape(), rows[1].iter().copied().collect::<Vec<_>>()), (&[1, 2][..], vec![3, 4]));
        assert_eq!(into_rows::<i64>(Vec::new(), &[3, 0]).len(), 3);
        assert_eq!(into_rows(vec![5], &[1]), [ArrayD::from_elem(IxDyn(&[1]), 5)]);
        assert_eq!(Tensor::zeros(ElementType::Bool, &[1]).byte_size(), 1);
    }
}
