//! From one row of a model's outputs to JSON, in TensorFlow Serving's row shape.

use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::element::{Element, NonFinite, Style};
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
        Styled { row: self, non_finite: NonFinite::default() }.serialize(serializer)
    }
}

/// A row whose NaN and infinities are written in one of two ways.
pub(in super::super) struct Styled<'a> {
    pub row: &'a Row,
    pub non_finite: NonFinite,
}

impl Serialize for Styled<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { row, non_finite } = *self;
        let named = |(output, value)| Named { output, value, non_finite };
        if let ([output], [value]) = (&*row.outputs, &*row.values) {
            return named((output, value)).serialize(serializer);
        }
        let mut object = serializer.serialize_map(Some(row.outputs.len()))?;
        for named in row.outputs.iter().zip(&row.values).map(named) {
            object.serialize_entry(&named.output.name, &named)?;
        }
        object.end()
    }
}

/// The rows of a request by output: TensorFlow Serving's columnar shape.
pub(in super::super) struct StyledColumns<'a> {
    /// All of one task; at least one.
    pub rows: Vec<&'a Row>,
    pub non_finite: NonFinite,
}

impl Serialize for StyledColumns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let outputs = self.rows.first().map(|row| &*row.outputs).unwrap_or_default();
        if outputs.len() == 1 {
            return self.column(0).serialize(serializer);
        }
        let mut object = serializer.serialize_map(Some(outputs.len()))?;
        for (index, output) in outputs.iter().enumerate() {
            object.serialize_entry(&output.name, &self.column(index))?;
        }
        object.end()
    }
}

impl StyledColumns<'_> {
    fn column(&self, index: usize) -> impl Serialize {
        let rows = self.rows.iter();
        let named = rows.filter_map(move |row| {
            Some(Named { output: row.outputs.get(index)?, value: row.values.get(index)?, non_finite: self.non_finite })
        });
        named.collect::<Vec<_>>()
    }
}

/// `[[label, score], ...]` of a row: of its map, or else of its only list of floats, whose labels are their places.
pub(in super::super) struct Classes<'a>(pub &'a Row);

impl Classes<'_> {
    fn scores(&self) -> Option<&Value> {
        let Row { values, .. } = self.0;
        let is_float = |value: &&Value| {
            use crate::tensor::Tensor::{Float16, Float32, Float64};
            matches!(value.tensor, Float16(_) | Float32(_) | Float64(_))
                && matches!(value.tensor.shape(), [_, classes] if *classes > 1)
        };
        values.iter().find(|value| value.keys.is_some()).or_else(|| match values.iter().filter(is_float).count() {
            1 => values.iter().find(is_float),
            _ => None,
        })
    }

    /// Whether the row has what can be taken for classes.
    pub fn exist(&self) -> bool {
        self.scores().is_some()
    }
}

impl Serialize for Classes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(Value { tensor, keys }) = self.scores() else {
            return serializer.serialize_unit();
        };
        let label = |index: usize| match keys {
            None => index.to_string(),
            Some(keys) => for_each_element_type!(keys, keys => {
                keys.iter().nth(index).map(ToString::to_string).unwrap_or_default()
            }),
        };
        for_each_element_type!(tensor, scores => serializer.collect_seq(
            scores.iter().enumerate().map(|(index, score)| (label(index), Nested::one(score, NonFinite::Bytes)))
        ))
    }
}

/// The only number of a row.
pub(in super::super) struct Number<'a>(pub &'a Row);

impl Number<'_> {
    /// Whether the row is one number.
    pub fn exists(&self) -> bool {
        use crate::tensor::Tensor::{Bool, String};
        match &*self.0.values {
            [Value { tensor: Bool(_) | String(_), .. }] => false,
            [Value { tensor, keys: None }] => tensor.shape().iter().product::<usize>() == 1,
            _ => false,
        }
    }
}

impl Serialize for Number<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(Value { tensor, .. }) = self.0.values.first() else {
            return serializer.serialize_unit();
        };
        for_each_element_type!(tensor, array => match array.first() {
            Some(number) => Nested::one(number, NonFinite::Bytes).serialize(serializer),
            None => serializer.serialize_unit(),
        })
    }
}

struct Named<'a> {
    output: &'a Output,
    value: &'a Value,
    non_finite: NonFinite,
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value { tensor, keys } = self.value;
        if let Some(keys) = keys {
            let keys: Vec<String> =
                for_each_element_type!(keys, keys => keys.iter().map(ToString::to_string).collect());
            return for_each_element_type!(tensor, values => map(serializer, &keys, values.iter(), self.non_finite));
        }
        let style = Style { as_bytes: self.output.name.ends_with("_bytes"), non_finite: self.non_finite };
        for_each_element_type!(tensor, array => {
            // Rows are copied out of a batch in row-major order, so this borrows.
            let array = array.as_standard_layout();
            let elements = array.as_slice().unwrap_or_default();
            let shape = match array.shape().get(1..).unwrap_or_default() {
                [1] if self.output.flatten => &[],
                shape => shape,
            };
            Nested { elements, shape, style }.serialize(serializer)
        })
    }
}

fn map<'a, S: Serializer, T: Element + 'a>(
    serializer: S,
    keys: &[String],
    values: impl Iterator<Item = &'a T>,
    non_finite: NonFinite,
) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_map(Some(keys.len()))?;
    for (key, value) in keys.iter().zip(values) {
        object.serialize_entry(key, &Nested::one(value, non_finite))?;
    }
    object.end()
}

/// A part of an array: lists down to its elements.
struct Nested<'a, T> {
    elements: &'a [T],
    shape: &'a [usize],
    style: Style,
}

impl<'a, T> Nested<'a, T> {
    fn one(element: &'a T, non_finite: NonFinite) -> Self {
        let style = Style { non_finite, ..Style::default() };
        Self { elements: std::slice::from_ref(element), shape: &[], style }
    }
}

impl<T: Element> Serialize for Nested<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some((&length, shape)) = self.shape.split_first() else {
            return match self.elements.first() {
                Some(element) => element.write(serializer, self.style),
                None => serializer.serialize_unit(),
            };
        };
        let size: usize = shape.iter().product();
        let mut list = serializer.serialize_seq(Some(length))?;
        for index in 0..length {
            let elements = self.elements.get(index * size..(index + 1) * size).unwrap_or_default();
            list.serialize_element(&Nested { elements, shape, style: self.style })?;
        }
        list.end()
    }
}

/// Writes all elements of a tensor into a list.
pub(in super::super) fn serialize_elements<L: SerializeSeq>(tensor: &Tensor, list: &mut L) -> Result<(), L::Error> {
    for_each_element_type!(tensor, array => {
        array.iter().try_for_each(|element| list.serialize_element(&Nested::one(element, NonFinite::Text)))
    })
}
