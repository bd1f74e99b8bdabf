//! Bodies that reach the model as they are: what they hold, and the form of their answer.
//!
//! The one place where a raw body becomes instances and where their predictions become a body again. Another protocol's
//! body that may come by the same routes is another [`RawForm`].

use bytes::Bytes;

use super::Question;
use crate::protocol::tf_serving::{self, Form, Outputs, Predictions};
use crate::protocol::vertex::RequestError;
use crate::task::tensors::NonFinite;
use crate::task::{ColumnsView, Instance, Prediction, RowView, is_picture};

/// The form of a raw answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawForm {
    form: Form,
    non_finite: NonFinite,
}

impl RawForm {
    /// The media type of the answer.
    pub fn media_type(self) -> &'static str {
        "application/json"
    }

    /// The body of the answer: `{"predictions": [...]}` to rows, `{"outputs": ...}` to columns.
    ///
    /// # Errors
    /// Whatever the serialisation of a prediction fails with.
    pub fn write(self, predictions: &[Prediction]) -> Result<Vec<u8>, serde_json::Error> {
        let Self { form, non_finite } = self;
        match form {
            Form::Rows => {
                let predictions = predictions.iter().map(|prediction| RowView { prediction, non_finite });
                tf_serving::to_json(&Predictions { predictions: predictions.collect::<Vec<_>>() })
            }
            Form::Columns { .. } => tf_serving::to_json(&Outputs { outputs: ColumnsView { predictions, non_finite } }),
        }
    }
}

/// Reads a raw body, and says what form its answer has. It is one picture's file when its media type is `image/...` or
/// when it begins like one; many clients send no media type or the wrong one. Anything else is taken for the JSON of a
/// container's predict route or of TensorFlow Serving, which may have `limit` instances.
///
/// # Errors
/// [`RequestError`] when the body is empty, or neither a picture nor a request.
pub fn read_raw(media_type: &str, body: &Bytes, limit: usize) -> Result<(Question, RawForm), RequestError> {
    let is_image = media_type.trim_start().get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("image/"));
    if is_image && body.is_empty() {
        return Err(RequestError::Empty);
    }
    if is_image || is_picture(body) {
        let (instances, form) = (vec![Instance::Encoded(body.clone())], Form::Rows);
        let answer = RawForm { form, non_finite: NonFinite::Text };
        return Ok((Question { instances, parameters: None, form }, answer));
    }
    read_rows(body, limit, NonFinite::Text)
}

/// Reads rows or columns, whose answer has NaN and infinities in the form that is given.
///
/// # Errors
/// [`RequestError`].
pub fn read_rows(body: &Bytes, limit: usize, non_finite: NonFinite) -> Result<(Question, RawForm), RequestError> {
    let tf_serving::PredictRequest { rows, parameters, form } = tf_serving::parse(body, limit)?;
    let instances = rows.into_iter().map(Instance::Json).collect();
    Ok((Question { instances, parameters, form }, RawForm { form, non_finite }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(media_type: &str, body: &'static [u8]) -> Result<Question, RequestError> {
        read_raw(media_type, &Bytes::from_static(body), 2).map(|(question, _)| question)
    }

    #[test]
    fn a_picture_is_one_instance() {
        for media_type in ["image/jpeg", "Image/PNG; x=y", " image/x"] {
            let request = read(media_type, b"bytes").unwrap();
            assert!(matches!(&request.instances[..], [Instance::Encoded(bytes)] if bytes == "bytes"), "{media_type}");
        }
        assert_eq!(read("image/jpeg", b"").unwrap_err(), RequestError::Empty);
    }

    #[test]
    fn a_picture_is_known_by_its_first_bytes_too() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        for media_type in ["", "application/octet-stream", "application/x-www-form-urlencoded"] {
            let request = read(media_type, png).unwrap();
            assert!(matches!(&request.instances[..], [Instance::Encoded(bytes)] if *bytes == png[..]), "{media_type}");
        }
    }

    #[test]
    fn everything_else_is_a_request() {
        for media_type in ["application/json", "", "text/plain", "im", "\u{e9}\u{e9}\u{e9}\u{e9}"] {
            let request = read(media_type, br#"{"instances":[1,2],"parameters":{},"x":0}"#).unwrap();
            assert!(matches!(&request.instances[..], [Instance::Json(_), Instance::Json(_)]), "{media_type}");
            assert_eq!(request.parameters.as_deref(), Some(&b"{}"[..]));
        }
        assert_eq!(read("", br#"{"instances":[1,2,3]}"#).unwrap_err(), RequestError::TooMany(2));
        assert!(matches!(read("application/json", b"bytes").unwrap_err(), RequestError::NotJson(_)));
    }
}
