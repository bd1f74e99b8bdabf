//! From one row of a model's outputs to JSON, in TensorFlow Serving's row shape.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::element::Element;
use crate::for_each_element_type;
use crate::tensor::Tensor;

/// How one output is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The model's name for it.
    pub name: String,
    /// Whether a list of one is written as its element.
    pub flatten: bool,
}

/// What an output gave for one instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// The values; axis 0 is 1.
    pub tensor: Tensor,
    /// The keys of as many values, when the output is a map.
    pub keys: Option<Tensor>,
}

/// The outputs for one instance. With one output it is written as its value, with several as an object by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// How each is written.
    pub outputs: Arc<[Output]>,
    /// One for each of them.
    pub values: Vec<Value>,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = |(output, value)| Named { output, value };
        let mut values = self.outputs.iter().zip(&self.values).map(named);
        if let (1, Some(only)) = (self.outputs.len(), values.next()) {
            return only.serialize(serializer);
        }
        let mut object = serializer.serialize_map(Some(self.outputs.len()))?;
        for named in self.outputs.iter().zip(&self.values).map(named) {
            object.serialize_entry(&named.output.name, &named)?;
        }
        object.end()
    }
}

struct Named<'a> {
    output: &'a Output,
    value: &'a Value,
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value { tensor, keys } = self.value;
        if let Some(keys) = keys {
            let keys: Vec<String> =
                for_each_element_type!(keys, keys => keys.iter().map(ToString::to_string).collect());
            return for_each_element_type!(tensor, values => map(serializer, &keys, values.iter()));
        }
        let as_bytes = self.output.name.ends_with("_bytes");
        for_each_element_type!(tensor, array => {
            // Rows are copied out of a batch in row-major order, so this borrows.
            let array = array.as_standard_layout();
            let elements = array.as_slice().unwrap_or_default();
            let shape = match array.shape().get(1..).unwrap_or_default() {
                [1] if self.output.flatten => &[],
                shape => shape,
            };
            Nested { elements, shape, as_bytes }.serialize(serializer)
        })
    }
}

fn map<'a, S: Serializer, T: Element + 'a>(
    serializer: S,
    keys: &[String],
    values: impl Iterator<Item = &'a T>,
) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(Some(keys.len()))?;
    for (key, value) in keys.iter().zip(values) {
        object.serialize_entry(key, &Nested { elements: std::slice::from_ref(value), shape: &[], as_bytes: false })?;
    }
    object.end()
}

/// A part of an array: lists down to its elements.
struct Nested<'a, T> {
    elements: &'a [T],
    shape: &'a [usize],
    as_bytes: bool,
}

impl<T: Element> Serialize for Nested<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some((&length, shape)) = self.shape.split_first() else {
            return match self.elements.first() {
                Some(element) => element.write(serializer, self.as_bytes),
                None => serializer.serialize_unit(),
            };
        };
        let size: usize = shape.iter().product();
        let mut list = serializer.serialize_seq(Some(length))?;
        for index in 0..length {
            let elements = self.elements.get(index * size..(index + 1) * size).unwrap_or_default();
            list.serialize_element(&Nested { elements, shape, as_bytes: self.as_bytes })?;
        }
        list.end()
    }
}
