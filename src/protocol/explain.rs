//! The body of Vertex AI's `explain`: that of `predict`, with a few fields beside.
//!
//! Instances and parameters are slices of the body, so that an explanation is about the very numbers that a prediction
//! would be made for: a `google.protobuf.Value` has doubles only. The other fields are those of the message.

use bytes::Bytes;

use super::generated::google::cloud::aiplatform::v1::ExplainRequest;
use super::proto_json::{self, ProtoJsonError};
use super::vertex::{PredictRequest, RequestError, parse_with_others};
use thiserror::Error;

/// What is wrong with a body.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// Of what it has in common with `predict`.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Of the other fields.
    #[error(transparent)]
    Fields(#[from] ProtoJsonError),
}

/// Parses a body of at most `limit` instances: what is asked, and the message with its other fields.
///
/// # Errors
/// [`ExplainError`].
pub fn parse(body: &Bytes, limit: usize) -> Result<(PredictRequest, ExplainRequest), ExplainError> {
    let (request, others) = parse_with_others(body, limit)?;
    Ok((request, proto_json::read(&others)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_as_they_are_written() {
        let body = Bytes::from_static(
            br#"{"deployedModelId":"7","instances":[[9007199254740993, 1e0]],"explanation_spec_override":{"parameters":{"topK":2}}}"#,
        );
        let (request, message) = parse(&body, 1).unwrap();
        assert_eq!(request.instances, [&b"[9007199254740993, 1e0]"[..]]);
        assert_eq!((message.deployed_model_id.as_str(), message.instances.len()), ("7", 0));
        assert_eq!(message.explanation_spec_override.unwrap().parameters.unwrap().top_k, 2);
    }

    #[test]
    fn what_is_wrong_has_its_own_words() {
        let error = |text: &'static str| parse(&Bytes::from_static(text.as_bytes()), 1).unwrap_err().to_string();
        assert!(error("{}").contains("`instances` is missing"));
        assert!(error("[[1]]").contains("a list"));
        assert!(error(r#"{"instances":[1],"nope":1}"#).contains("nope"));
        assert!(error(r#"{"instances":[1],"deployedModelId":"1","deployedModelId":"2"}"#).contains("deployedModelId"));
    }
}
