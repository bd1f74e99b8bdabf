//! From outcomes to HTTP responses.

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue};

use super::middleware::catch_panic;
use crate::observe::Metrics;
use crate::protocol::status::Status;

/// Room for the headers of an answer, so that the map need not grow on its way out.
const HEADERS: usize = 12;

/// A failure on its way to the client; also left in the response's extensions, where `errors_as_text` finds it.
#[derive(Debug, Clone)]
pub struct Failure(pub Status);

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

/// Routes that say what went wrong as TensorFlow Serving, KServe and Triton do: `{"error": "text"}`. Headers and status
/// stay. A panic is caught here, or it would pass by what gives it this form.
pub fn errors_as_text<S>(router: Router<S>, metrics: Arc<Metrics>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    let with_text = |response: Response<_>| ready(with_text(response.map(Body::new)));
    router.layer((map_response(with_text), catch_panic(metrics)))
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

    use axum::extract::Request;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_has_the_form_of_its_route() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let boom = || async {
            if std::hint::black_box(true) {
                panic!("secret")
            }
        };
        let router = errors_as_text(Router::new().route("/v2", get(boom)), metrics.clone());
        let request = Request::get("/v2").body(Body::empty()).unwrap();
        let response = router.layer(catch_panic(metrics.clone())).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(body["error"].as_str().is_some_and(|text| text.contains("X-Request-Id")), "{body}");
        assert!(metrics.render().contains("tessera_panics_total 1"));
    }

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
