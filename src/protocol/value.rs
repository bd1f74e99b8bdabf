//! `google.protobuf.Value` from and to JSON, so that one code reads instances and makes predictions for every transport.
//!
//! A number of a `Value` is always a double. Whole ones are written without a point, as a client that was given `1`
//! meant it; beyond 2^53, where doubles skip integers, they keep their exponent form.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde::Serialize;
use serde::ser::{Error as _, SerializeMap, Serializer};

/// Up to here every integer is a double.
const LAST_INTEGER: f64 = 9_007_199_254_740_992.0;

/// The JSON text of a value.
///
/// # Errors
/// NaN and infinities, which JSON doesn't have.
pub fn to_json(value: &Value) -> Result<Bytes, serde_json::Error> {
    let mut text = Vec::with_capacity(value.encoded_len());
    serde_json::to_writer(&mut text, &Json(value))?;
    Ok(text.into())
}

/// Whether it is absent in all but name.
pub fn is_null(value: &Value) -> bool {
    matches!(value.kind, None | Some(Kind::NullValue(_)))
}

/// The value of anything that can be written as JSON.
///
/// It goes through the text that HTTP would answer with, so that both transports give the same numbers: 0.1 as f32 is
/// `0.1` there, but 0.10000000149011612 as a double.
///
/// # Errors
/// Whatever its serialisation fails with.
pub fn from_serialize(value: &impl Serialize) -> Result<Value, serde_json::Error> {
    let text = serde_json::to_vec(value)?;
    from_json(serde_json::from_slice(&text)?)
}

fn from_json(json: serde_json::Value) -> Result<Value, serde_json::Error> {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => {
            Kind::NumberValue(number.as_f64().ok_or_else(|| serde_json::Error::custom("a number beyond a double"))?)
        }
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(from_json).collect::<Result<_, _>>()? })
        }
        Json::Object(entries) => {
            let fields = entries.into_iter().map(|(key, value)| Ok((key, from_json(value)?)));
            Kind::StructValue(Struct { fields: fields.collect::<Result<BTreeMap<_, _>, serde_json::Error>>()? })
        }
    };
    Ok(Value { kind: Some(kind) })
}

/// Writes a value as the JSON that it stands for. prost refuses messages that nest deeper than 100 levels, which bounds
/// the recursion.
struct Json<'a>(&'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            None | Some(Kind::NullValue(_)) => serializer.serialize_unit(),
            Some(Kind::BoolValue(value)) => serializer.serialize_bool(*value),
            Some(Kind::NumberValue(number)) if !number.is_finite() => {
                Err(S::Error::custom(format!("{number} is no number that JSON can express")))
            }
            Some(Kind::NumberValue(number)) => match whole(*number) {
                Some(integer) => serializer.serialize_i64(integer),
                None => serializer.serialize_f64(*number),
            },
            Some(Kind::StringValue(text)) => serializer.serialize_str(text),
            Some(Kind::ListValue(list)) => serializer.collect_seq(list.values.iter().map(Json)),
            Some(Kind::StructValue(object)) => {
                let mut map = serializer.serialize_map(Some(object.fields.len()))?;
                for (key, value) in &object.fields {
                    map.serialize_entry(key, &Json(value))?;
                }
                map.end()
            }
        }
    }
}

/// The integer that a double is; -0.0 is none, as its sign would be lost.
fn whole(number: f64) -> Option<i64> {
    let is_whole =
        number.fract() == 0.0 && number.abs() <= LAST_INTEGER && !(number == 0.0 && number.is_sign_negative());
    is_whole.then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(number: f64) -> String {
        let value = Value { kind: Some(Kind::NumberValue(number)) };
        String::from_utf8(to_json(&value).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn json_survives_the_way_there_and_back() {
        let json = json!({"a": [1, 2.5, -3, true, null, "é\"\n"], "b": {"b64": "AAAA", "empty": {}}, "c": []});
        let value = from_serialize(&json).unwrap();
        let back: serde_json::Value = serde_json::from_slice(&to_json(&value).unwrap()).unwrap();
        assert_eq!(back, json);
    }

    #[test]
    fn numbers() {
        assert_eq!(text(1.0), "1");
        assert_eq!(text(-0.0), "-0.0");
        assert_eq!(text(0.1), "0.1");
        assert_eq!(text(9_007_199_254_740_992.0), "9007199254740992");
        assert_eq!(text(1e300).parse(), Ok(1e300));
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let value = Value { kind: Some(Kind::NumberValue(number)) };
            assert!(to_json(&value).unwrap_err().to_string().contains("no number that JSON can express"));
        }
    }

    #[test]
    fn singles_keep_their_digits() {
        let value = from_serialize(&0.1_f32).unwrap();
        assert_eq!(value.kind, Some(Kind::NumberValue(0.1)));
    }

    #[test]
    fn nothing_is_null() {
        assert!(is_null(&Value { kind: None }) && is_null(&from_serialize(&()).unwrap()));
        assert!(!is_null(&from_serialize(&false).unwrap()));
        assert_eq!(&to_json(&Value { kind: None }).unwrap()[..], b"null");
    }
}
