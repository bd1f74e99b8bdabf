//! Bodies that reach the model as they are: what their media type says they hold.

use bytes::Bytes;

use crate::protocol::vertex::{self, RequestError, Surface};
use crate::task::Instance;

/// What a raw body asks for.
#[derive(Debug, Clone)]
pub struct RawRequest {
    /// At least one.
    pub instances: Vec<Instance>,
    /// The JSON text of the parameters.
    pub parameters: Option<Bytes>,
}

/// Reads a raw body. With a media type of `image/...` it is one picture's file. Anything else is taken for the JSON of a
/// container's predict route, as many clients send none or the wrong type; it may have `limit` instances.
///
/// # Errors
/// [`RequestError`] when the body is empty, or neither a picture nor a request.
pub fn read_raw(media_type: &str, body: &Bytes, limit: usize) -> Result<RawRequest, RequestError> {
    if media_type.trim_start().get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("image/")) {
        return match body.is_empty() {
            true => Err(RequestError::Empty),
            false => Ok(RawRequest { instances: vec![Instance::Encoded(body.clone())], parameters: None }),
        };
    }
    let request = vertex::parse(body, Surface::Container, limit)?;
    let instances = request.instances.into_iter().map(Instance::Json).collect();
    Ok(RawRequest { instances, parameters: request.parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(media_type: &str, body: &'static str) -> Result<RawRequest, RequestError> {
        read_raw(media_type, &Bytes::from_static(body.as_bytes()), 2)
    }

    #[test]
    fn a_picture_is_one_instance() {
        for media_type in ["image/jpeg", "Image/PNG; x=y", " image/x"] {
            let request = read(media_type, "bytes").unwrap();
            assert!(matches!(&request.instances[..], [Instance::Encoded(bytes)] if bytes == "bytes"), "{media_type}");
        }
        assert_eq!(read("image/jpeg", "").unwrap_err(), RequestError::Empty);
    }

    #[test]
    fn everything_else_is_a_request() {
        for media_type in ["application/json", "", "text/plain", "im", "\u{e9}\u{e9}\u{e9}\u{e9}"] {
            let request = read(media_type, r#"{"instances":[1,2],"parameters":{},"x":0}"#).unwrap();
            assert!(matches!(&request.instances[..], [Instance::Json(_), Instance::Json(_)]), "{media_type}");
            assert_eq!(request.parameters.as_deref(), Some(&b"{}"[..]));
        }
        assert_eq!(read("", r#"{"instances":[1,2,3]}"#).unwrap_err(), RequestError::TooMany(2));
        assert!(matches!(read("application/json", "bytes").unwrap_err(), RequestError::NotJson(_)));
    }
}
