//! JSON in which nothing is said twice.
//!
//! proto3 JSON forbids it (<https://protobuf.dev/programming-guides/json/>), and most readers of JSON take the last of two
//! without a word. A field of a message has two names, `displayName` and `display_name`, which are one.

use std::collections::HashSet;
use std::fmt;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::vertex::{ECHO, other_kinds};

/// What is looked at.
#[derive(Clone)]
enum Shape {
    /// The JSON of a message: each field once, under whichever of its names.
    Message(MessageDescriptor),
    /// The JSON of a map: each key once.
    Map(Box<Self>),
    /// Any JSON: each key of each object once.
    Any,
    /// Nothing.
    Skip,
}

/// Checks the JSON of a message. What stands in a `google.protobuf.Value` and its like is the client's own.
///
/// # Errors
/// With the name of what is there twice; or where it is no JSON.
pub fn check_message<'de, D: Deserializer<'de>>(json: D, message: &MessageDescriptor) -> Result<(), D::Error> {
    Shape::of_message(message).deserialize(json).map(|_| ())
}

/// Checks any JSON.
///
/// # Errors
/// As [`check_message`].
pub fn check<'de, D: Deserializer<'de>>(json: D) -> Result<(), D::Error> {
    Shape::Any.deserialize(json).map(|_| ())
}

impl Shape {
    fn of_message(message: &MessageDescriptor) -> Self {
        match message.full_name().starts_with("google.protobuf.") {
            true => Self::Skip,
            false => Self::Message(message.clone()),
        }
    }

    fn of_field(field: &FieldDescriptor) -> Self {
        match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                Self::Map(Box::new(Self::of_field(&entry.map_entry_value_field())))
            }
            Kind::Message(message) => Self::of_message(&message),
            _ => Self::Skip,
        }
    }
}

fn scalar(_: &str) -> IgnoredAny {
    IgnoredAny
}

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = IgnoredAny;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<IgnoredAny, D::Error> {
        match self {
            Self::Skip => deserializer.deserialize_ignored_any(IgnoredAny),
            shape => deserializer.deserialize_any(shape),
        }
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = IgnoredAny;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    other_kinds!(scalar);

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<IgnoredAny, A::Error> {
        while sequence.next_element_seed(self.clone())?.is_some() {}
        Ok(IgnoredAny)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IgnoredAny, A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let (name, inner) = match &self {
                Self::Message(message) => {
                    let field = message.get_field_by_json_name(&key).or_else(|| message.get_field_by_name(&key));
                    let inner = field.as_ref().map_or(Self::Skip, Self::of_field);
                    (field.map_or(key, |field| field.json_name().to_owned()), inner)
                }
                Self::Map(value) => (key, (**value).clone()),
                Self::Any => (key, Self::Any),
                Self::Skip => (key, Self::Skip),
            };
            if seen.contains(&name) {
                let name: String = name.chars().take(ECHO).collect();
                return Err(A::Error::custom(format!("`{name}` is given twice")));
            }
            seen.insert(name);
            map.next_value_seed(inner)?;
        }
        Ok(IgnoredAny)
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto_json::descriptors;
    use super::*;

    fn twice(message: &str, json: &str) -> Option<String> {
        let message = descriptors().get_message_by_name(&format!("google.cloud.aiplatform.v1.{message}")).unwrap();
        let mut text = serde_json::Deserializer::from_str(json);
        check_message(&mut text, &message).err().map(|error| error.to_string())
    }

    #[test]
    fn one_field_has_two_names() {
        for (message, json, name) in [
            ("Endpoint", r#"{"displayName":"a","display_name":"b"}"#, "displayName"),
            ("Endpoint", r#"{"displayName":"a","displayName":"a"}"#, "displayName"),
            ("Endpoint", r#"{"labels":{"a":"b","a":"c"}}"#, "a"),
            ("Endpoint", r#"{"deployedModels":[{},{"id":"1","id":"2"}]}"#, "id"),
            ("DeployModelRequest", r#"{"deployed_model":{"model":"m","model":"m"}}"#, "model"),
        ] {
            let error = twice(message, json).unwrap();
            assert!(error.contains(&format!("`{name}` is given twice")), "{json}: {error}");
        }
        for (message, json) in [
            (
                "Endpoint",
                r#"{"displayName":"a","labels":{"display_name":"b","displayName":"c"},"deployedModels":[{"id":"1"},{"id":"1"}]}"#,
            ),
            ("PredictRequest", r#"{"instances":[{"a":1,"a":2}]}"#),
            ("Endpoint", r#"{"nope":1,"etag":null}"#),
        ] {
            assert_eq!(twice(message, json), None, "{json}");
        }
    }

    #[test]
    fn any_json() {
        let checked = |json: &str| check(&mut serde_json::Deserializer::from_str(json)).is_ok();
        assert!(checked(r#"[{"a":1,"b":[{"a":2}]},true,null,1.5,"x"]"#));
        assert!(!checked(r#"{"x":[{"a":1,"a":1}]}"#) && !checked(r#"{"a":"#));
    }
}
