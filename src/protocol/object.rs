//! JSON objects, and nothing else that serde takes for one: to a derived `Deserialize` a list is as good, with the fields'
//! values in their order.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// What was read from an object.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_no_object() {
        #[derive(serde::Deserialize)]
        struct Named {
            name: String,
        }
        let read = |json: &str| serde_json::from_str::<Object<Named>>(json).map(|Object(Named { name })| name);
        assert_eq!(read(r#"{"name": "x", "other": 1}"#).unwrap(), "x");
        let refused = read(r#"["x"]"#).unwrap_err().to_string();
        assert!(refused.contains("invalid type: sequence, expected an object"), "{refused}");
    }
}
