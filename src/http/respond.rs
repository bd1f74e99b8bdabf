//! From outcomes to HTTP responses.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};

use crate::protocol::status::Status;

/// Room for the headers of an answer, so that the map need not grow on its way out.
const HEADERS: usize = 12;

/// A failure on its way to the client; also left in the response's extensions, where the access log finds it.
#[derive(Debug, Clone)]
pub struct Failure(pub Status);

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

/// A layer (by `axum::middleware::map_response`) that says what went wrong as TensorFlow Serving, KServe and Triton do:
/// `{"error": "text"}`. Headers and status stay.
pub async fn error_as_text(response: Response) -> Response {
    with_text(response)
}

/// The same for one response.
pub(super) fn with_text(mut response: Response) -> Response {
    if let Some(Failure(status)) = response.extensions().get() {
        let text = serde_json::json!({ "error": status.message }).to_string();
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = text.into();
    }
    response
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status) = &self;
        let mut response = json(status.to_json().into_bytes());
        *response.status_mut() = status.http_status();
        if let Some(seconds) = status.retry_after_seconds() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = status.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A 200 with a JSON body.
pub fn json(json: Vec<u8>) -> Response {
    body("application/json", json)
}

/// A 200 with a body of some media type.
pub fn body(media_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.headers_mut() = HeaderMap::with_capacity(HEADERS);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn headers_follow_the_status() {
        let response = Failure(Status::method_not_allowed("POST")).into_response();
        assert_eq!((response.status().as_u16(), &response.headers()[ALLOW]), (405, &HeaderValue::from_static("POST")));
        let response = Failure(Status::unavailable("busy", Duration::from_secs(3))).into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()[RETRY_AFTER]),
            (503, &HeaderValue::from_static("3"))
        );
    }
}
