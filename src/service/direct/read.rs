//! From Vertex AI's `Tensor` to ours: every type, and every field that values may stand in.

use half::f16;
use ndarray::{ArrayD, Axis, IxDyn};

use crate::for_each_element_type;
use crate::protocol::generated::google::cloud::aiplatform::v1 as wire;
use crate::protocol::generated::google::cloud::aiplatform::v1::tensor::DataType;
use crate::task::InputError;
use crate::tensor::{ElementType, Tensor};

/// Reads a tensor. The wire has no half precision: for an input of float16, FLOAT is rounded.
///
/// # Errors
/// [`InputError`] with the whole path, which begins with `path`.
pub fn tensor(message: &wire::Tensor, wanted: ElementType, path: &str) -> Result<Tensor, InputError> {
    match (any(message, path)?, wanted) {
        (Tensor::Float32(singles), ElementType::Float16) => {
            let halves = singles.mapv(f16::from_f32);
            match singles.iter().zip(&halves).find(|(single, half)| single.is_finite() && !half.is_finite()) {
                Some((single, _)) => {
                    Err(InputError::new(path, format!("has {single:e}, which is beyond the range of float16")))
                }
                None => Ok(halves.into()),
            }
        }
        (tensor, _) => Ok(tensor),
    }
}

/// Reads a tensor of whatever type it says.
pub fn any(message: &wire::Tensor, path: &str) -> Result<Tensor, InputError> {
    let field = value_field(message, path)?;
    match field {
        Some("structVal") => {
            return Err(InputError::new(
                format!("{path}.structVal"),
                "can't be used here: it names the model's inputs where it is the only element of `inputs`",
            ));
        }
        Some("listVal") => return list(message, path),
        _ => {}
    }
    let dtype = DataType::try_from(message.dtype)
        .map_err(|_| InputError::new(format!("{path}.dtype"), format!("is {}, which is no type", message.dtype)))?;
    let reader = Reader { message, field, path };
    match dtype {
        DataType::Bool => reader.read("boolVal", &message.bool_val, Some, |[byte]: [u8; 1]| byte != 0),
        DataType::Float => reader.read("floatVal", &message.float_val, Some, f32::from_le_bytes),
        DataType::Double => reader.read("doubleVal", &message.double_val, Some, f64::from_le_bytes),
        DataType::Int8 => reader.read("intVal", &message.int_val, |v| i8::try_from(v).ok(), i8::from_le_bytes),
        DataType::Int16 => reader.read("intVal", &message.int_val, |v| i16::try_from(v).ok(), i16::from_le_bytes),
        DataType::Int32 => reader.read("intVal", &message.int_val, Some, i32::from_le_bytes),
        DataType::Int64 => reader.read("int64Val", &message.int64_val, Some, i64::from_le_bytes),
        DataType::Uint8 => reader.read("uintVal", &message.uint_val, |v| u8::try_from(v).ok(), u8::from_le_bytes),
        DataType::Uint16 => reader.read("uintVal", &message.uint_val, |v| u16::try_from(v).ok(), u16::from_le_bytes),
        DataType::Uint32 => reader.read("uintVal", &message.uint_val, Some, u32::from_le_bytes),
        DataType::Uint64 => reader.read("uint64Val", &message.uint64_val, Some, u64::from_le_bytes),
        DataType::String => texts(message, path),
        DataType::Unspecified => {
            Err(InputError::new(format!("{path}.dtype"), "is missing: it must say what the values are, such as FLOAT"))
        }
    }
}

/// Whether a STRING tensor has as many strings, or byte strings, as its shape has room for.
pub fn check_string(message: &wire::Tensor, path: &str) -> Result<(), InputError> {
    let field = value_field(message, path)?;
    let reader = Reader { message, field, path };
    match field {
        None | Some("stringVal" | "bytesVal") => {
            reader.shape(message.string_val.len() + message.bytes_val.len()).map(drop)
        }
        Some(other) => Err(reader.unfit(other, "stringVal or bytesVal")),
    }
}

fn texts(message: &wire::Tensor, path: &str) -> Result<Tensor, InputError> {
    check_string(message, path)?;
    let from_bytes = message.bytes_val.iter().enumerate().map(|(index, bytes)| {
        String::from_utf8(bytes.to_vec()).map_err(|_| {
            InputError::new(format!("{path}.bytesVal[{index}]"), "is not UTF-8, and the model's strings are")
        })
    });
    let values = message.string_val.iter().cloned().map(Ok).chain(from_bytes).collect::<Result<Vec<_>, _>>()?;
    Reader { message, field: None, path }.array(values)
}

/// The tensors of `listVal`, one after the other along a new first axis.
fn list(message: &wire::Tensor, path: &str) -> Result<Tensor, InputError> {
    let parts = message.list_val.iter().enumerate().map(|(index, part)| {
        let tensor = any(part, &format!("{path}.listVal[{index}]"))?;
        Ok(for_each_element_type!(tensor, array => Tensor::from(array.insert_axis(Axis(0)))))
    });
    let parts = parts.collect::<Result<Vec<Tensor>, InputError>>()?;
    let whole = Tensor::concatenate(&parts.iter().collect::<Vec<_>>());
    let whole = whole.map_err(|error| InputError::new(format!("{path}.listVal"), error.to_string()))?;
    let says = |length: &usize| i64::try_from(*length).unwrap_or(i64::MAX);
    if !message.shape.is_empty() && !whole.shape().iter().map(says).eq(message.shape.iter().copied()) {
        let message = format!("is {:?}, and its listVal makes {:?}", message.shape, whole.shape());
        return Err(InputError::new(format!("{path}.shape"), message));
    }
    Ok(whole)
}

/// The one field that has values; `None` when none has.
fn value_field(message: &wire::Tensor, path: &str) -> Result<Option<&'static str>, InputError> {
    let filled = [
        ("boolVal", !message.bool_val.is_empty()),
        ("stringVal", !message.string_val.is_empty()),
        ("bytesVal", !message.bytes_val.is_empty()),
        ("floatVal", !message.float_val.is_empty()),
        ("doubleVal", !message.double_val.is_empty()),
        ("intVal", !message.int_val.is_empty()),
        ("int64Val", !message.int64_val.is_empty()),
        ("uintVal", !message.uint_val.is_empty()),
        ("uint64Val", !message.uint64_val.is_empty()),
        ("listVal", !message.list_val.is_empty()),
        ("structVal", !message.struct_val.is_empty()),
        ("tensorVal", !message.tensor_val.is_empty()),
    ];
    let mut filled = filled.into_iter().filter_map(|(name, filled)| filled.then_some(name));
    match (filled.next(), filled.next()) {
        (Some(first), Some(second)) => {
            Err(InputError::new(path, format!("has values in both {first} and {second}; exactly one may have them")))
        }
        (first, _) => Ok(first),
    }
}

struct Reader<'a> {
    message: &'a wire::Tensor,
    field: Option<&'static str>,
    path: &'a str,
}

impl Reader<'_> {
    /// The values of the type's own field, or the raw bytes of `tensorVal`, little-endian.
    fn read<V: Copy + std::fmt::Display, T, const N: usize>(
        &self,
        own: &'static str,
        values: &[V],
        narrow: impl Fn(V) -> Option<T>,
        from_bytes: impl Fn([u8; N]) -> T,
    ) -> Result<Tensor, InputError>
    where
        Tensor: From<ArrayD<T>>,
    {
        match self.field {
            Some("tensorVal") => {
                let (chunks, rest) = self.message.tensor_val.as_chunks::<N>();
                if !rest.is_empty() {
                    let message = format!(
                        "has {} bytes, which is no multiple of {N}, the size of one value",
                        self.message.tensor_val.len()
                    );
                    return Err(InputError::new(format!("{}.tensorVal", self.path), message));
                }
                self.array(chunks.iter().map(|chunk| from_bytes(*chunk)).collect())
            }
            Some(field) if field != own => Err(self.unfit(field, own)),
            _ => {
                let narrowed = values.iter().enumerate().map(|(index, &value)| {
                    let dtype = self.message.dtype().as_str_name();
                    narrow(value).ok_or_else(|| {
                        InputError::new(
                            format!("{}.{own}[{index}]", self.path),
                            format!("is {value}, beyond the range of {dtype}"),
                        )
                    })
                });
                self.array(narrowed.collect::<Result<_, _>>()?)
            }
        }
    }

    fn unfit(&self, field: &str, own: &str) -> InputError {
        let dtype = self.message.dtype().as_str_name();
        let or_raw = if self.message.dtype() == DataType::String { "" } else { " or tensorVal" };
        InputError::new(format!("{}.{field}", self.path), format!("is not for {dtype}; use {own}{or_raw}"))
    }

    fn array<T>(&self, values: Vec<T>) -> Result<Tensor, InputError>
    where
        Tensor: From<ArrayD<T>>,
    {
        let shape = self.shape(values.len())?;
        let array = ArrayD::from_shape_vec(IxDyn(&shape), values);
        array.map(Tensor::from).map_err(|error| InputError::new(format!("{}.shape", self.path), error.to_string()))
    }

    /// The shape, if it has room for exactly so many values.
    fn shape(&self, values: usize) -> Result<Vec<usize>, InputError> {
        let wrong = |message: String| InputError::new(format!("{}.shape", self.path), message);
        let says = &self.message.shape;
        let lengths = says.iter().map(|&length| usize::try_from(length).ok()).collect::<Option<Vec<_>>>();
        let lengths = lengths.ok_or_else(|| wrong(format!("is {says:?}; lengths can't be negative")))?;
        match lengths.iter().try_fold(1usize, |product, &length| product.checked_mul(length)) {
            Some(room) if room == values => Ok(lengths),
            _ => Err(wrong(format!("is {says:?}, and there are {values} values"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(dtype: DataType, shape: &[i64]) -> wire::Tensor {
        wire::Tensor { dtype: dtype.into(), shape: shape.to_vec(), ..Default::default() }
    }

    fn refused(message: &wire::Tensor) -> String {
        any(message, "t").unwrap_err().to_string()
    }

    #[test]
    fn every_type_in_its_field_and_as_raw_bytes() {
        macro_rules! check {
            ($dtype:ident, $field:ident: [$($value:expr),*], $variant:ident: $element:ty, $bytes:expr) => {{
                let wanted = Tensor::$variant(ArrayD::from_shape_vec(IxDyn(&[2]), vec![$($value as $element),*]).unwrap());
                let typed = wire::Tensor { $field: vec![$($value),*], ..message(DataType::$dtype, &[2]) };
                assert_eq!(any(&typed, "t").unwrap(), wanted);
                let raw = wire::Tensor { tensor_val: Bytes::from($bytes), ..message(DataType::$dtype, &[2]) };
                assert_eq!(any(&raw, "t").unwrap(), wanted);
            }};
        }
        check!(Float, float_val: [1.5, -2.0], Float32: f32, [1.5f32.to_le_bytes(), (-2f32).to_le_bytes()].concat());
        check!(Double, double_val: [1.5, -2.0], Float64: f64, [1.5f64.to_le_bytes(), (-2f64).to_le_bytes()].concat());
        check!(Int8, int_val: [-1, 2], Int8: i8, vec![0xff, 2]);
        check!(Int16, int_val: [-2, 258], Int16: i16, vec![0xfe, 0xff, 2, 1]);
        check!(Int32, int_val: [-2, 258], Int32: i32, vec![0xfe, 0xff, 0xff, 0xff, 2, 1, 0, 0]);
        check!(Int64, int64_val: [-1, i64::MAX], Int64: i64, [(-1i64).to_le_bytes(), i64::MAX.to_le_bytes()].concat());
        check!(Uint8, uint_val: [0, 255], Uint8: u8, vec![0, 255]);
        check!(Uint16, uint_val: [1, 258], Uint16: u16, vec![1, 0, 2, 1]);
        check!(Uint32, uint_val: [1, u32::MAX], Uint32: u32, vec![1, 0, 0, 0, 255, 255, 255, 255]);
        check!(Uint64, uint64_val: [1, u64::MAX], Uint64: u64, [1u64.to_le_bytes(), u64::MAX.to_le_bytes()].concat());
        let flags = Tensor::Bool(ArrayD::from_shape_vec(IxDyn(&[2]), vec![true, false]).unwrap());
        let typed = wire::Tensor { bool_val: vec![true, false], ..message(DataType::Bool, &[2]) };
        let raw = wire::Tensor { tensor_val: Bytes::from_static(&[1, 0]), ..message(DataType::Bool, &[2]) };
        assert_eq!((any(&typed, "t").unwrap(), any(&raw, "t").unwrap()), (flags.clone(), flags));
    }

    #[test]
    fn strings_are_text_or_bytes() {
        let wanted = Tensor::String(ArrayD::from_shape_vec(IxDyn(&[1, 1]), vec!["caf\u{e9}".to_owned()]).unwrap());
        let text = wire::Tensor { string_val: vec!["caf\u{e9}".into()], ..message(DataType::String, &[1, 1]) };
        let bytes = wire::Tensor { bytes_val: vec!["caf\u{e9}".into()], ..message(DataType::String, &[1, 1]) };
        assert_eq!((any(&text, "t").unwrap(), any(&bytes, "t").unwrap()), (wanted.clone(), wanted));
        let bytes = wire::Tensor { bytes_val: vec![Bytes::from_static(&[0xff])], ..message(DataType::String, &[1]) };
        assert!(refused(&bytes).starts_with("t.bytesVal[0] is not UTF-8"));
        let raw = wire::Tensor { tensor_val: Bytes::from_static(b"x"), ..message(DataType::String, &[1]) };
        assert_eq!(refused(&raw), "t.tensorVal is not for STRING; use stringVal or bytesVal");
    }

    #[test]
    fn lists_are_stacked() {
        let part = |values: Vec<f32>| wire::Tensor { float_val: values, ..message(DataType::Float, &[2]) };
        let list = wire::Tensor { list_val: vec![part(vec![1.0, 2.0]), part(vec![3.0, 4.0])], ..Default::default() };
        assert_eq!(any(&list, "t").unwrap().shape(), [2, 2]);
        assert!(any(&wire::Tensor { shape: vec![2, 2], ..list.clone() }, "t").is_ok());
        assert!(refused(&wire::Tensor { shape: vec![4], ..list.clone() }).contains("makes [2, 2]"));
        let ragged = wire::Tensor { list_val: vec![part(vec![1.0, 2.0]), part(vec![3.0])], ..Default::default() };
        assert!(refused(&ragged).starts_with("t.listVal[1].shape is [2], and there are 1 values"));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let float = |shape: &[i64]| wire::Tensor { float_val: vec![1.0, 2.0], ..message(DataType::Float, shape) };
        assert_eq!(refused(&float(&[3])), "t.shape is [3], and there are 2 values");
        assert!(refused(&float(&[])).contains("and there are 2 values"));
        assert!(refused(&float(&[-2])).contains("negative"));
        assert!(refused(&float(&[i64::MAX, i64::MAX])).contains("there are 2 values"));
        let other = wire::Tensor { dtype: DataType::Int64.into(), ..float(&[2]) };
        assert_eq!(refused(&other), "t.floatVal is not for INT64; use int64Val or tensorVal");
        assert!(refused(&wire::Tensor { dtype: 0, ..float(&[2]) }).starts_with("t.dtype is missing"));
        assert!(refused(&wire::Tensor { dtype: 99, ..float(&[2]) }).starts_with("t.dtype is 99"));
        let both = wire::Tensor { double_val: vec![1.0], ..float(&[2]) };
        assert!(refused(&both).contains("both floatVal and doubleVal"));
        let large = wire::Tensor { int_val: vec![128], ..message(DataType::Int8, &[1]) };
        assert_eq!(refused(&large), "t.intVal[0] is 128, beyond the range of INT8");
        let raw = wire::Tensor { tensor_val: Bytes::from_static(b"abc"), ..message(DataType::Float, &[1]) };
        assert!(refused(&raw).contains("no multiple of 4"));
    }

    #[test]
    fn half_precision_is_rounded_but_does_not_overflow() {
        let single = |value| wire::Tensor { float_val: vec![value], ..message(DataType::Float, &[1]) };
        assert!(matches!(tensor(&single(1.0), ElementType::Float16, "t"), Ok(Tensor::Float16(_))));
        assert!(tensor(&single(f32::INFINITY), ElementType::Float16, "t").is_ok());
        assert!(tensor(&single(1e9), ElementType::Float16, "t").unwrap_err().to_string().contains("float16"));
    }
}
