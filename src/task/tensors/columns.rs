//! Items of tensors that arrive whole, by the inputs' names: the rows of each are its first axis.

use bytes::Bytes;
use ndarray::{Array1, ArrayD};
use serde::de::DeserializeSeed;

use super::super::InputError;
use super::Tensors;
use super::read::{InputSeed, Trace};
use crate::engine::{Item, TensorSpec};
use crate::tensor::bytes::{Binary, checked_text, into_rows};
use crate::tensor::{ElementType, EncodedData, EncodedTensor, Tensor};

impl Tensors {
    /// One item for each row of the columns, which are in any order.
    ///
    /// # Errors
    /// [`InputError`] names the input.
    pub fn items(&self, mut columns: Vec<EncodedTensor>) -> Result<Vec<Item>, InputError> {
        let names = || self.inputs.iter().map(|input| format!("`{}`", input.name)).collect::<Vec<_>>().join(", ");
        let known = |column: &&EncodedTensor| self.inputs.iter().any(|input| input.name == column.name);
        if let Some(column) = columns.iter().find(|column| !known(column)) {
            let message = format!("is not an input of this model; it takes {}", names());
            return Err(InputError::new(super::element::clipped(&column.name), message));
        }
        let mut items: Vec<Item> = Vec::new();
        for (index, input) in self.inputs.iter().enumerate() {
            let place = columns.iter().position(|column| column.name == input.name);
            let place = place.ok_or_else(|| InputError::new(&*input.name, "is missing"))?;
            let column = columns.swap_remove(place);
            let wrong = |message: String| InputError::new(&*input.name, message);
            check(&column, input).map_err(wrong)?;
            let rows = rows(column, input)?;
            if index == 0 {
                items = rows.into_iter().map(|row| vec![row]).collect();
            } else if rows.len() == items.len() {
                items.iter_mut().zip(rows).for_each(|(item, row)| item.push(row));
            } else {
                let first = &self.inputs[0].name;
                return Err(wrong(format!(
                    "has {} rows, and `{first}` {}: all inputs share the first axis",
                    rows.len(),
                    items.len()
                )));
            }
        }
        match columns.first() {
            Some(column) => Err(InputError::new(&*column.name, "is given twice")),
            None => Ok(items),
        }
    }
}

/// Whether a tensor says to be what the input takes, in any number of rows.
fn check(column: &EncodedTensor, input: &TensorSpec) -> Result<(), String> {
    input.check(column.element_type, &column.shape)?;
    if column.shape.first() == Some(&0) {
        return Err("has no rows".to_owned());
    }
    Ok(())
}

fn rows(column: EncodedTensor, input: &TensorSpec) -> Result<Vec<Tensor>, InputError> {
    macro_rules! rows_of {
        ($($variant:ident: $element:ty),*) => {
            match input.element_type {
                $(ElementType::$variant => {
                    let take = |tensor| match tensor {
                        Tensor::$variant(array) => Some(array),
                        _ => None,
                    };
                    let elements: Vec<$element> = elements(&column, input, take)?;
                    Ok(into_rows(elements, &column.shape).into_iter().map(Tensor::$variant).collect())
                })*
            }
        };
    }
    rows_of!(
        Float32: f32, Float16: half::f16, Float64: f64, Int8: i8, Int16: i16, Int32: i32, Int64: i64,
        Uint8: u8, Uint16: u16, Uint32: u32, Uint64: u64, Bool: bool, String: String
    )
}

/// As many elements as the shape has; `take` gives the array of a tensor of the type.
fn elements<T: Binary>(
    column: &EncodedTensor,
    input: &TensorSpec,
    take: impl Fn(Tensor) -> Option<ArrayD<T>>,
) -> Result<Vec<T>, InputError> {
    let wrong = |message: String| InputError::new(&*input.name, message);
    let count = column.element_count().ok_or_else(|| wrong("has a shape beyond counting".to_owned()))?;
    let tensor = match &column.data {
        EncodedData::Binary(bytes) => return T::read(bytes, count).map_err(wrong),
        EncodedData::Json(text) => read_json(text, column, count)?,
        EncodedData::Files(texts) => strings(texts).map_err(wrong)?,
        EncodedData::Elements(tensor) => tensor.clone(),
    };
    let array = take(tensor).ok_or_else(|| wrong("has elements of another type than it says".to_owned()))?;
    let elements = array.into_raw_vec_and_offset().0;
    match elements.len() == count {
        true => Ok(elements),
        false => Err(wrong(format!("has {} elements; its shape takes {count}", elements.len()))),
    }
}

fn strings(texts: &[Bytes]) -> Result<Tensor, String> {
    let text = |bytes: &Bytes| checked_text(bytes).map(str::to_owned);
    let texts = texts.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(Array1::from_vec(texts).into_dyn().into())
}

/// Reads a flat list, or lists in lists, as one instance of an input that has the batch as an axis more.
fn read_json(text: &[u8], column: &EncodedTensor, count: usize) -> Result<Tensor, InputError> {
    let first = text.iter().filter(|byte| !byte.is_ascii_whitespace()).nth(1);
    let lengths = match first {
        Some(b'[') => column.shape.clone(),
        _ => vec![count],
    };
    let shape = std::iter::once(None).chain(lengths.into_iter().map(Some)).collect();
    // What is only promised is not allocated: each element takes a character at least.
    if count > text.len() {
        return Err(InputError::new(&*column.name, format!("has fewer elements than the {count} of its shape")));
    }
    let spec = TensorSpec { name: column.name.clone(), element_type: column.element_type, shape, map_keys: None };
    let mut trace = Trace::default();
    trace.enter(&column.name);
    trace.enter("data");
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let read = InputSeed { spec: &spec, trace: &mut trace }.deserialize(&mut deserializer);
    read.and_then(|tensor| deserializer.end().map(|()| tensor)).map_err(|error| trace.error(&error))
}

#[cfg(test)]
mod tests {
    use ndarray::IxDyn;

    use super::super::OutputOptions;
    use super::*;
    use crate::engine::Signature;

    fn task() -> Tensors {
        let spec = |name: &str, element_type, shape: &[Option<usize>]| TensorSpec {
            name: name.to_owned(),
            element_type,
            shape: shape.to_vec(),
            map_keys: None,
        };
        let inputs =
            vec![spec("x", ElementType::Float32, &[None, Some(2)]), spec("text", ElementType::String, &[None])];
        Tensors::new(&Signature { outputs: inputs.clone(), inputs }, &OutputOptions::default()).unwrap()
    }

    fn x(shape: &[usize], data: EncodedData) -> EncodedTensor {
        EncodedTensor { name: "x".to_owned(), element_type: ElementType::Float32, shape: shape.to_vec(), data }
    }

    fn json(text: &'static str) -> EncodedData {
        EncodedData::Json(Bytes::from_static(text.as_bytes()))
    }

    fn text(rows: usize, data: EncodedData) -> EncodedTensor {
        EncodedTensor { name: "text".to_owned(), element_type: ElementType::String, shape: vec![rows], data }
    }

    #[test]
    fn every_form_gives_the_same_items() {
        let floats: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let array = ArrayD::from_shape_vec(IxDyn(&[4]), vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        let strings = EncodedData::Binary(Bytes::from_static(b"\x01\0\0\0a\x01\0\0\0b"));
        let expected = task().items(vec![text(2, strings.clone()), x(&[2, 2], EncodedData::Binary(floats.into()))]);
        let expected = expected.unwrap();
        assert_eq!((expected.len(), expected[1][0].shape()), (2, &[1, 2][..]));
        assert_eq!(expected[1][1], Tensor::from(ArrayD::from_elem(IxDyn(&[1]), "b".to_owned())));
        for (numbers, texts) in [
            (json("[1,2,3,4]"), json(r#"["a","b"]"#)),
            (json(" [ [1,2],[3,4.0]]"), strings),
            (EncodedData::Elements(array.into()), json(r#"["a",{"b64":"Yg=="}]"#)),
        ] {
            assert_eq!(task().items(vec![x(&[2, 2], numbers), text(2, texts)]).unwrap(), expected);
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let good = || text(1, json(r#"["a"]"#));
        for (columns, path, words) in [
            (vec![x(&[1, 2], json("[1,2]"))], "text", "missing"),
            (vec![x(&[1, 2], json("[1,2]")), good(), good()], "text", "twice"),
            (vec![x(&[1, 3], json("[1,2,3]")), good()], "x", "is float32[1, 3], and the model takes x float32[?,2]"),
            (vec![x(&[2], json("[1,2]")), good()], "x", "float32[2]"),
            (vec![x(&[0, 2], json("[]")), good()], "x", "no rows"),
            (vec![x(&[2, 2], json("[1,2,3,4]")), good()], "text", "has 1 rows, and `x` 2"),
            (vec![x(&[1, 2], json("[1]")), good()], "x.data", "has 1 elements; it must have 2"),
            (vec![x(&[1, 2], json("[[1],[2]]")), good()], "x.data[0]", "has 1 elements"),
            (vec![x(&[1, 2], json(r#"[1,"2"]"#)), good()], "x.data[1]", "the string \"2\""),
            (vec![x(&[1, 2], json("[1,2")), good()], "x.data", "not valid JSON"),
            (vec![x(&[1 << 40, 2], json("[1,2]")), good()], "x", "fewer elements"),
            (vec![x(&[usize::MAX, 2], json("[1,2]")), good()], "x", "beyond counting"),
            (vec![x(&[1, 2], EncodedData::Binary(Bytes::from_static(&[0; 7]))), good()], "x", "has 7 bytes"),
            (vec![x(&[1, 2], EncodedData::Elements(Tensor::zeros(ElementType::Int8, &[2]))), good()], "x", "type"),
            (vec![x(&[1, 2], EncodedData::Elements(Tensor::zeros(ElementType::Float32, &[3]))), good()], "x", "has 3"),
        ] {
            let error = task().items(columns).unwrap_err();
            assert_eq!(error.path, path, "{error}");
            assert!(error.message.contains(words), "{error}");
        }
        let other = EncodedTensor { name: "other".to_owned(), ..good() };
        assert!(task().items(vec![other]).unwrap_err().message.contains("it takes `x`, `text`"));
    }
}
