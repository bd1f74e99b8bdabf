//! proto3 JSON: Google's messages from and to the JSON of their REST API.
//!
//! Read by the rules of <https://protobuf.dev/programming-guides/json/>: lowerCamelCase and snake_case, enums by name and
//! by number, 64-bit integers as strings and as numbers, base64 in both alphabets; an unknown field is an error, and so is one that is given twice. Written
//! in lowerCamelCase, without fields that have their default.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use thiserror::Error;

use super::generated::DESCRIPTORS;
use super::unique;

/// Why a message and JSON did not fit together.
#[derive(Debug, Error)]
pub enum ProtoJsonError {
    /// The JSON is not that of the message.
    #[error("the body is not the JSON of a {message}: {reason}")]
    Read {
        /// The message's name without its package.
        message: &'static str,
        /// What is wrong, as far as possible with the field.
        reason: String,
    },
    /// The message can't be written. A defect of ours: a message holds what its descriptor doesn't know.
    #[error("a {message} can't be written as JSON: {reason}")]
    Write {
        /// The message's name without its package.
        message: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Everything in `proto/`. Empty only if the generated file were broken, which a test excludes.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap_or_default());

/// The descriptors of all messages and services here.
pub fn descriptors() -> &'static DescriptorPool {
    &POOL
}

fn descriptor<M: Name>() -> Result<MessageDescriptor, String> {
    let name = M::full_name();
    POOL.get_message_by_name(&name).ok_or_else(|| format!("{name} has no descriptor"))
}

/// Reads a message. An empty body is an empty message.
///
/// # Errors
/// [`ProtoJsonError::Read`].
pub fn read<M: Message + Name + Default>(json: &[u8]) -> Result<M, ProtoJsonError> {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(M::default());
    }
    let descriptor = descriptor::<M>().map_err(|reason| read_error::<M>(&reason))?;
    unique::check_message(&mut serde_json::Deserializer::from_slice(json), &descriptor)
        .map_err(|reason| read_error::<M>(&reason))?;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let message = dynamic::<M, _>(&mut deserializer, true)?;
    deserializer.end().map_err(|reason| read_error::<M>(&reason))?;
    message.transcode_to().map_err(|reason| read_error::<M>(&reason))
}

/// Reads a message from JSON that is parsed already. `strict`: an unknown field is an error, otherwise it is passed over.
///
/// # Errors
/// [`ProtoJsonError::Read`].
pub fn from_value<M: Message + Name + Default>(json: Value, strict: bool) -> Result<M, ProtoJsonError> {
    let descriptor = descriptor::<M>().map_err(|reason| read_error::<M>(&reason))?;
    unique::check_message(&json, &descriptor).map_err(|reason| read_error::<M>(&reason))?;
    dynamic::<M, _>(json, strict)?.transcode_to().map_err(|reason| read_error::<M>(&reason))
}

fn dynamic<'de, M: Name, D: serde::Deserializer<'de>>(json: D, strict: bool) -> Result<DynamicMessage, ProtoJsonError> {
    let options = DeserializeOptions::new().deny_unknown_fields(strict);
    let descriptor = descriptor::<M>().map_err(|reason| read_error::<M>(&reason))?;
    DynamicMessage::deserialize_with_options(descriptor, json, &options).map_err(|reason| read_error::<M>(&reason))
}

fn read_error<M: Name>(reason: &dyn std::fmt::Display) -> ProtoJsonError {
    ProtoJsonError::Read { message: M::NAME, reason: reason.to_string() }
}

/// Writes a message.
///
/// # Errors
/// [`ProtoJsonError::Write`].
pub fn write<M: Message + Name>(message: &M) -> Result<Value, ProtoJsonError> {
    let error = |reason: String| ProtoJsonError::Write { message: M::NAME, reason };
    let mut dynamic = DynamicMessage::new(descriptor::<M>().map_err(error)?);
    dynamic.transcode_from(message).map_err(|reason| error(reason.to_string()))?;
    let options = SerializeOptions::new().skip_default_fields(true);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).map_err(|reason| error(reason.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::generated::google::cloud::aiplatform::v1::{DeployModelRequest, Endpoint, Tensor};

    #[test]
    fn the_rules_of_proto3_json() {
        let request: DeployModelRequest = read(
            br#"{"deployedModel":{"model":"m","dedicated_resources":{"machineSpec":{"acceleratorType":5},
                 "minReplicaCount":1}},"trafficSplit":{"0":100}}"#,
        )
        .unwrap();
        assert_eq!(request.traffic_split["0"], 100);
        let written = write(&request).unwrap();
        assert_eq!(
            written,
            json!({"deployedModel": {"model": "m", "dedicatedResources": {
                "machineSpec": {"acceleratorType": "NVIDIA_TESLA_T4"}, "minReplicaCount": 1}},
                "trafficSplit": {"0": 100}})
        );
        for text in [r#"{"shape":["2",3],"tensorVal":"-_8"}"#, r#"{"shape":[2,"3"],"tensor_val":"+/8="}"#] {
            let tensor: Tensor = read(text.as_bytes()).unwrap();
            assert_eq!((tensor.shape, &tensor.tensor_val[..]), (vec![2, 3], &[0xfb, 0xff][..]), "{text}");
        }
        let endpoint: Endpoint = read(br#"{"createTime":"2026-11-22T05:37:46.190068Z"}"#).unwrap();
        assert_eq!(write(&endpoint).unwrap(), json!({"createTime": "2026-11-22T05:37:46.190068Z"}));
    }

    #[test]
    fn unknown_fields_and_trailing_text_are_errors() {
        let error = read::<Endpoint>(br#"{"displayNam":"x"}"#).unwrap_err().to_string();
        assert!(error.contains("displayNam"), "{error}");
        assert!(read::<Endpoint>(b"{} {}").is_err());
        assert_eq!(read::<Endpoint>(b" ").unwrap(), Endpoint::default());
    }
}
