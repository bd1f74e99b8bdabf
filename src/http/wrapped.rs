//! Google's wrapper around a raw body: `{"httpBody": {"contentType": "...", "data": "<base64>"}}`.
//!
//! Its generated REST clients send raw bodies like that and expect the answer as `{"contentType", "data"}`, where curl,
//! gcloud and the high-level SDK send the bytes themselves. Which of the two it is, the body shows.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::protocol::generated::google::api::HttpBody;
use crate::protocol::proto_json;
use crate::protocol::status::Status;

/// A body and its media type.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// Empty when it is not said.
    pub media_type: String,
    /// The bytes.
    pub data: Bytes,
}

impl Wrapped {
    /// The answer to a wrapped body.
    pub fn wrap(media_type: &str, data: &[u8]) -> Vec<u8> {
        json!({"contentType": media_type, "data": STANDARD.encode(data)}).to_string().into_bytes()
    }
}

/// Takes a body out of its wrapper: an object whose only key is `httpBody` or `http_body`. Anything else isn't wrapped.
///
/// # Errors
/// When what is under that key is no `google.api.HttpBody`.
pub fn unwrap(body: &[u8]) -> Result<Option<Wrapped>, Status> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Only<'a> {
        #[serde(borrow, rename = "httpBody", alias = "http_body")]
        http_body: &'a RawValue,
    }
    if !may_be_wrapped(body) {
        return Ok(None);
    }
    let Ok(only) = serde_json::from_slice::<Only<'_>>(body) else {
        return Ok(None);
    };
    let HttpBody { content_type, data, .. } = proto_json::read(only.http_body.get().as_bytes())
        .map_err(|error| Status::bad_field("httpBody", format!("httpBody can't be read: {error}")))?;
    Ok(Some(Wrapped { media_type: content_type, data }))
}

/// Whether the first key is the wrapper's. Spares all others a second reading of the whole body.
fn may_be_wrapped(body: &[u8]) -> bool {
    let object = body.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    object.is_some_and(|rest| rest.starts_with(b"\"httpBody\"") || rest.starts_with(b"\"http_body\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrapper_in_both_spellings() {
        for key in ["httpBody", "http_body"] {
            let text = format!(r#" {{ "{key}": {{"contentType":"image/png","data":"-_8"}} }}"#);
            let wrapped = unwrap(text.as_bytes()).unwrap().unwrap();
            assert_eq!((&*wrapped.media_type, &wrapped.data[..]), ("image/png", &[0xfb, 0xff][..]));
        }
        let empty = unwrap(br#"{"httpBody":{}}"#).unwrap().unwrap();
        assert!(empty.media_type.is_empty() && empty.data.is_empty());
    }

    #[test]
    fn everything_else_is_as_it_is() {
        for body in [
            r#"{"instances":[1]}"#,
            r#"{"httpBody":{},"x":1}"#,
            "[1]",
            "",
            r#"{"httpBody":"#,
            r#"{"x":1,"httpBody":{}}"#,
        ] {
            assert_eq!(unwrap(body.as_bytes()), Ok(None), "{body}");
        }
    }

    #[test]
    fn a_broken_wrapper_is_named() {
        for body in [r#"{"httpBody":1}"#, r#"{"httpBody":{"data":"%"}}"#, r#"{"httpBody":{"nope":1}}"#] {
            assert_eq!(unwrap(body.as_bytes()).unwrap_err().field.as_deref(), Some("httpBody"), "{body}");
        }
    }

    #[test]
    fn answers_are_wrapped_without_the_outer_key() {
        let answer: serde_json::Value = serde_json::from_slice(&Wrapped::wrap("a/b", b"{}")).unwrap();
        assert_eq!(answer, json!({"contentType": "a/b", "data": "e30="}));
    }
}
