//! What matters here of an ONNX file, and the file without its weights.
//!
//! The fields have the numbers of <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>; all others are passed over.

use bytes::Bytes;
use prost::encoding::{self, DecodeContext, decode_key, encode_key, encode_varint, skip_field};
use prost::{DecodeError, Message};

#[derive(Clone, PartialEq, Message)]
pub(super) struct Model {
    #[prost(message, optional, tag = "7")]
    pub(super) graph: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(super) nodes: Vec<Node>,
    #[prost(message, repeated, tag = "5")]
    pub(super) initializers: Vec<Initializer>,
    #[prost(message, repeated, tag = "11")]
    pub(super) inputs: Vec<Input>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) inputs: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) operator: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Input {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Initializer {
    #[prost(int64, repeated, tag = "1")]
    pub(super) shape: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    #[prost(string, tag = "8")]
    pub(super) name: String,
    #[prost(bytes = "bytes", tag = "9")]
    pub(super) raw_data: Bytes,
    #[prost(message, repeated, tag = "13")]
    pub(super) external_data: Vec<Entry>,
    /// 1: the bytes are where `external_data` says.
    #[prost(int32, tag = "14")]
    pub(super) data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// The number of `ModelProto.graph` and of `GraphProto.initializer`.
const GRAPH: u32 = 7;
const INITIALIZER: u32 = 5;

/// A model's bytes without those of some weights, which refer to their place in the file `name` instead. What is left is
/// parsed in a moment, while a whole model is held several times over until it is.
pub(super) fn without_weights(
    model: &Bytes,
    name: &str,
    is_left_out: impl Fn(&str) -> bool,
) -> Result<Vec<u8>, DecodeError> {
    rewrite(model.clone(), GRAPH, &mut |graph| {
        let graph = rewrite(graph, INITIALIZER, &mut |bytes| {
            let initializer = Initializer::decode(bytes)?;
            let is_inside = initializer.external_data.is_empty() && is_left_out(&initializer.name);
            Ok(is_inside.then(|| initializer.outside(model, name).encode_to_vec()))
        })?;
        Ok(Some(graph))
    })
}

impl Initializer {
    /// The same weight, as one whose bytes lie in the file that `model` is.
    fn outside(self, model: &Bytes, name: &str) -> Self {
        let offset = self.raw_data.as_ptr() as usize - model.as_ptr() as usize;
        let entry = |key: &str, value: String| Entry { key: key.to_owned(), value };
        let external_data = vec![
            entry("location", name.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", self.raw_data.len().to_string()),
        ];
        Self { raw_data: Bytes::new(), external_data, data_location: 1, ..self }
    }
}

/// A message with some of the values of one of its fields replaced; all else stays as it is, byte for byte.
fn rewrite(
    mut message: Bytes,
    field: u32,
    replace: &mut dyn FnMut(Bytes) -> Result<Option<Vec<u8>>, DecodeError>,
) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    while !message.is_empty() {
        let begin = message.clone();
        let (number, wire_type) = decode_key(&mut message)?;
        if number == field {
            let mut value = Bytes::new();
            encoding::bytes::merge(wire_type, &mut value, &mut message, DecodeContext::default())?;
            if let Some(value) = replace(value)? {
                encode_key(number, wire_type, &mut out);
                encode_varint(value.len() as u64, &mut out);
                out.extend_from_slice(&value);
                continue;
            }
        } else {
            skip_field(wire_type, number, &mut message, DecodeContext::default())?;
        }
        out.extend_from_slice(&begin[..begin.len() - message.len()]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(name: &str, byte: u8) -> Initializer {
        Initializer {
            shape: vec![2],
            data_type: 1,
            name: name.to_owned(),
            raw_data: vec![byte; 8].into(),
            external_data: Vec::new(),
            data_location: 0,
        }
    }

    #[test]
    fn weights_that_are_left_out_are_found_in_the_file() {
        let graph = Graph { initializers: vec![weight("kept", 1), weight("left", 2)], ..Graph::default() };
        let mut bytes = Model { graph: Some(graph) }.encode_to_vec();
        // A field that isn't known here: the producer's name.
        bytes.extend_from_slice(&[0x12, 3, b'a', b'b', b'c']);
        let bytes = Bytes::from(bytes);
        let rest = without_weights(&bytes, "model.onnx", |name| name == "left").unwrap();
        assert!(rest.ends_with(&[0x12, 3, b'a', b'b', b'c']));
        let initializers = Model::decode(&rest[..]).unwrap().graph.unwrap().initializers;
        assert_eq!(initializers[0], weight("kept", 1));
        let left = &initializers[1];
        assert_eq!((left.data_location, &left.raw_data[..]), (1, &[][..]));
        let place = |key: &str| left.external_data.iter().find(|entry| entry.key == key).unwrap().value.clone();
        let (offset, length): (usize, usize) = (place("offset").parse().unwrap(), place("length").parse().unwrap());
        assert_eq!((&*place("location"), &bytes[offset..offset + length]), ("model.onnx", &[2; 8][..]));
        assert!(without_weights(&bytes.slice(..bytes.len() - 1), "model.onnx", |_| true).is_err());
    }
}
