//! From nested JSON lists to a tensor of one row.
//!
//! The elements go straight from the text into the tensor's vector; no JSON tree is built. Nesting is bounded by the
//! rank of the input, so hostile nesting ends at the first list too many.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use ndarray::{ArrayD, IxDyn};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::{InputError, base64};
use super::element::{Element, Misfit, Number, clipped};
use crate::engine::TensorSpec;
use crate::tensor::{ElementType, Tensor};

/// Where the reader is inside an instance, and what it found wrong there. The path stays as it was at the first error.
#[derive(Debug, Default)]
pub(super) struct Trace {
    steps: Vec<Step>,
    message: Option<String>,
}

#[derive(Debug)]
enum Step {
    Name(String),
    Index(usize),
}

impl Trace {
    pub(super) fn enter(&mut self, name: &str) {
        self.steps.push(Step::Name(clipped(name)));
    }

    pub(super) fn leave(&mut self) {
        self.steps.pop();
    }

    /// Notes what is wrong here, and gives what ends the parsing.
    pub(super) fn wrong<E: serde::de::Error>(&mut self, message: impl Into<String>) -> E {
        self.message.get_or_insert_with(|| message.into());
        E::custom("")
    }

    /// The error as a client sees it; without a note of ours it is the JSON that is broken.
    pub(super) fn error(self, json: &serde_json::Error) -> InputError {
        let mut path = String::new();
        for step in &self.steps {
            match step {
                Step::Name(name) if path.is_empty() => path.push_str(name),
                Step::Name(name) => path.extend([".", name]),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        InputError::new(path, self.message.unwrap_or_else(|| format!("is not valid JSON: {json}")))
    }
}

/// Reads the value of one input.
pub(super) struct InputSeed<'a> {
    pub(super) spec: &'a TensorSpec,
    pub(super) trace: &'a mut Trace,
}

impl<'de> DeserializeSeed<'de> for InputSeed<'_> {
    type Value = Tensor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tensor, D::Error> {
        macro_rules! collect {
            ($($variant:ident: $element:ty),*) => {
                match self.spec.element_type {
                    $(ElementType::$variant => {
                        let mut collector = Collector::<$element>::new(self.spec, self.trace);
                        Node { collector: &mut collector, depth: 0 }.deserialize(deserializer)?;
                        collector.finish().map(Tensor::$variant).map_err(D::Error::custom)
                    })*
                }
            };
        }
        collect!(
            Float32: f32, Float16: half::f16, Float64: f64, Int8: i8, Int16: i16, Int32: i32, Int64: i64,
            Uint8: u8, Uint16: u16, Uint32: u32, Uint64: u64, Bool: bool, String: String
        )
    }
}

/// The elements so far, and the lengths of the axes as far as they are known.
struct Collector<'a, T> {
    spec: &'a TensorSpec,
    trace: &'a mut Trace,
    /// Without the batch. An axis of variable length takes that of the first list.
    shape: Vec<Option<usize>>,
    elements: Vec<T>,
}

impl<'a, T: Element> Collector<'a, T> {
    fn new(spec: &'a TensorSpec, trace: &'a mut Trace) -> Self {
        let shape = spec.shape.get(1..).unwrap_or_default().to_vec();
        let capacity = shape.iter().map(|length| length.unwrap_or(1)).product();
        Self { spec, trace, shape, elements: Vec::with_capacity(capacity) }
    }

    fn finish(self) -> Result<ArrayD<T>, ndarray::ShapeError> {
        // An axis that no list was seen for is inside an empty one.
        let lengths = self.shape.iter().map(|length| length.unwrap_or(0));
        let shape: Vec<usize> = std::iter::once(1).chain(lengths).collect();
        ArrayD::from_shape_vec(IxDyn(&shape), self.elements)
    }

    /// The input as messages show it: `x: float32[4]`, without the batch.
    fn input(&self) -> String {
        let lengths = self.spec.shape.iter().skip(1);
        let lengths: Vec<String> =
            lengths.map(|length| length.map_or_else(|| "?".to_owned(), |length| length.to_string())).collect();
        format!("input `{}`: {}[{}]", self.spec.name, self.spec.element_type, lengths.join(","))
    }

    /// Something of the wrong kind at this depth.
    fn unfit<E: serde::de::Error>(&mut self, kind: &str, depth: usize) -> E {
        let wanted = match self.shape.get(depth) {
            Some(Some(length)) => format!("a list of {length}"),
            Some(None) => "a list".to_owned(),
            None => T::WANTED.to_owned(),
        };
        let input = self.input();
        self.trace.wrong(format!("is {kind}; it must be {wanted} ({input})"))
    }

    fn scalar<E: serde::de::Error>(&mut self, kind: &str, depth: usize, made: Result<T, Misfit>) -> Result<(), E> {
        // One number may stand for the list of one that a column of a table is.
        let stands_alone = depth == 0 && self.shape.iter().all(|length| *length == Some(1));
        if depth < self.shape.len() && !stands_alone {
            return Err(self.unfit(kind, depth));
        }
        match made {
            Ok(element) => {
                self.elements.push(element);
                Ok(())
            }
            Err(Misfit::Kind) => Err(self.unfit(kind, self.shape.len())),
            Err(Misfit::Value(message)) => {
                let input = self.input();
                Err(self.trace.wrong(format!("{message} ({input})")))
            }
        }
    }

    /// The decoded bytes of a `{"b64": ...}`: a string, or all elements of a list of uint8.
    fn bytes<E: serde::de::Error>(&mut self, text: &str, depth: usize) -> Result<(), E> {
        let mut buffer = Vec::new();
        let bytes = match text {
            // No bytes are bytes too, though they are no picture.
            "" => &[],
            text => base64::decode(text, &mut buffer).map_err(|message| self.trace.wrong(message))?,
        };
        if T::IS_BYTE && depth + 1 == self.shape.len() {
            self.elements.extend(bytes.iter().filter_map(|&byte| T::from_byte(byte)));
            return self.length(depth, bytes.len());
        }
        self.scalar("an object", depth, T::from_bytes(bytes))
    }

    /// A list at this depth has ended.
    fn length<E: serde::de::Error>(&mut self, depth: usize, count: usize) -> Result<(), E> {
        let fixed = self.spec.shape.get(depth + 1).copied().flatten();
        match self.shape[depth] {
            Some(length) if length == count => Ok(()),
            Some(length) if fixed.is_some() => {
                let input = self.input();
                Err(self.trace.wrong(format!("has {count} elements; it must have {length} ({input})")))
            }
            Some(length) => Err(self.trace.wrong(format!(
                "has {count} elements, and the lists before it {length}: lists side by side must be equally long"
            ))),
            None => {
                self.shape[depth] = Some(count);
                Ok(())
            }
        }
    }
}

/// A JSON value at some depth of the lists.
struct Node<'c, 'a, T> {
    collector: &'c mut Collector<'a, T>,
    depth: usize,
}

impl<'de, T: Element> DeserializeSeed<'de> for Node<'_, '_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Element> Visitor<'de> for Node<'_, '_, T> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.collector.scalar("a number", self.depth, T::from_number(Number::Whole(value)))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.collector.scalar("a number", self.depth, T::from_number(Number::Negative(value)))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.collector.scalar("a number", self.depth, T::from_number(Number::Real(value)))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.collector.scalar("a boolean", self.depth, T::from_bool(value))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        self.collector.scalar("a string", self.depth, T::from_text(text))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Err(self.collector.unfit("null", self.depth))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let Self { collector, depth } = self;
        let Some(&expected) = collector.shape.get(depth) else {
            return Err(collector.unfit("a list", depth));
        };
        let mut count = 0;
        // Elements too many are counted, not kept.
        while expected.is_none_or(|expected| count < expected) {
            collector.trace.steps.push(Step::Index(count));
            let more = sequence.next_element_seed(Node { collector: &mut *collector, depth: depth + 1 })?;
            collector.trace.steps.pop();
            if more.is_none() {
                return collector.length(depth, count);
            }
            count += 1;
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        collector.length(depth, count)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { collector, depth } = self;
        let is_bytes = map.next_key_seed(CowStr(PhantomData))?.is_some_and(|key| key == "b64");
        if !is_bytes {
            return Err(collector.unfit("an object", depth));
        }
        collector.trace.enter("b64");
        let text = map.next_value_seed(Base64Text(collector.trace))?;
        collector.bytes(&text, depth)?;
        collector.trace.leave();
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(collector.trace.wrong("has more keys than `b64`"));
        }
        Ok(())
    }
}

/// A string, borrowed where JSON's escapes allow it.
pub(super) struct CowStr<'de>(pub(super) PhantomData<&'de ()>);

impl<'de> DeserializeSeed<'de> for CowStr<'de> {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for CowStr<'de> {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// The value of `b64`.
struct Base64Text<'a>(&'a mut Trace);

impl<'de> DeserializeSeed<'de> for Base64Text<'_> {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        CowStr(PhantomData).deserialize(deserializer).map_err(|error| match error.to_string() {
            // serde's own words for another kind of value; broken JSON keeps its position.
            text if text.starts_with("invalid type") => self.0.wrong("must be a base64 string"),
            _ => error,
        })
    }
}
