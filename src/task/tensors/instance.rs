//! An instance: the value of the only input, or an object of values by the inputs' names.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::super::InputError;
use super::read::{CowStr, InputSeed, Trace};
use crate::engine::{Item, TensorSpec};
use crate::tensor::Tensor;

/// Reads the JSON text of an instance: one tensor per input, each with one row.
///
/// # Errors
/// [`InputError`] names the part of the instance that is at fault.
pub(super) fn read(json: &[u8], inputs: &[TensorSpec]) -> Result<Item, InputError> {
    let mut trace = Trace::default();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let is_object = json.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let result = match inputs {
        [input] if !is_object || is_bytes(json, input) => {
            InputSeed { spec: input, trace: &mut trace }.deserialize(&mut deserializer).map(|tensor| vec![tensor])
        }
        _ => deserializer.deserialize_any(Named { inputs, trace: &mut trace }),
    };
    result.and_then(|item| deserializer.end().map(|()| item)).map_err(|error| trace.error(&error))
}

/// Whether an object is the value `{"b64": ...}` of an input, and not one that names the input.
fn is_bytes(json: &[u8], input: &TensorSpec) -> bool {
    struct FirstKey;
    impl<'de> Visitor<'de> for FirstKey {
        type Value = bool;
        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
            let is_bytes = map.next_key_seed(CowStr(PhantomData))?.is_some_and(|key| key == "b64");
            map.next_value::<serde::de::IgnoredAny>()?;
            while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
            Ok(is_bytes)
        }
    }
    let first = serde_json::Deserializer::from_slice(json).deserialize_any(FirstKey);
    input.name != "b64" && first.unwrap_or(false)
}

/// An object of values by name.
struct Named<'a> {
    inputs: &'a [TensorSpec],
    trace: &'a mut Trace,
}

impl Named<'_> {
    fn names(&self) -> String {
        let names: Vec<String> = self.inputs.iter().map(|input| format!("`{}`", input.name)).collect();
        names.join(", ")
    }

    fn not_an_object<E: serde::de::Error>(self, kind: &str) -> E {
        let message = format!("is {kind}; it must be an object with the inputs {}", self.names());
        self.trace.wrong(message)
    }
}

impl<'de> Visitor<'de> for Named<'_> {
    type Value = Item;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Item, E> {
        Err(self.not_an_object("a boolean"))
    }
    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Item, E> {
        Err(self.not_an_object("a number"))
    }
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Item, E> {
        Err(self.not_an_object("a number"))
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Item, E> {
        Err(self.not_an_object("a number"))
    }
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Item, E> {
        Err(self.not_an_object("a string"))
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Item, E> {
        Err(self.not_an_object("null"))
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<Item, A::Error> {
        Err(self.not_an_object("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        let mut found: Vec<Option<Tensor>> = vec![None; self.inputs.len()];
        while let Some(key) = map.next_key_seed(CowStr(PhantomData))? {
            let place = self.inputs.iter().position(|input| input.name == key);
            let names = if place.is_none() { self.names() } else { String::new() };
            self.trace.enter(&key);
            let Some(place) = place else {
                return Err(self.trace.wrong(format!("is not an input of this model; it takes {names}")));
            };
            if found[place].is_some() {
                return Err(self.trace.wrong("is given twice"));
            }
            found[place] = Some(map.next_value_seed(InputSeed { spec: &self.inputs[place], trace: self.trace })?);
            self.trace.leave();
        }
        let missing = self.inputs.iter().zip(&found).find(|(_, tensor)| tensor.is_none());
        if let Some((input, _)) = missing {
            return Err(self.trace.wrong(format!("has no `{}`; this model takes {}", input.name, self.names())));
        }
        Ok(found.into_iter().flatten().collect())
    }
}
