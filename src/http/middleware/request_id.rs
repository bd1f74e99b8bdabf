//! A name for each request, in its answer and in every log line about it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Write;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Instrument;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest name that is taken from a client.
const LONGEST: usize = 128;

/// The request's name, found among its extensions. Visible ASCII, at most 128 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default() // Visible ASCII by construction.
    }

    /// The client's `X-Request-Id`, if it is sane: it goes into logs and back out.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(X_REQUEST_ID)?;
        let sane = (1..=LONGEST).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
        sane.then(|| Self(value.clone()))
    }

    /// 128 bits that no other request has: a counter, hashed with two keys that the system drew at random.
    fn new() -> Self {
        static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let [high, low] = [&KEYS[0], &KEYS[1]].map(|key| key.hash_one(count));
        let mut text = [0; 32];
        // Sixteen digits each, which fit.
        let _ = write!(&mut text[..], "{high:016x}{low:016x}");
        Self(HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown")))
    }
}

/// A layer (by `axum::middleware::from_fn`) that takes the client's `X-Request-Id` or makes one, opens the request's
/// span with it and with the trace of a W3C `traceparent`, and returns it with the answer.
pub async fn request_id(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers()).unwrap_or_else(RequestId::new);
    let (trace, parent) = request.headers().get("traceparent").and_then(traceparent).unzip();
    let span = tracing::info_span!("request", request_id = id.as_str(), trace_id = trace, span_id = parent);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(X_REQUEST_ID, id.0);
    response
}

/// The ids of trace and parent span: `00-{32 hex}-{16 hex}-{2 hex}`, lower case, not all zero
/// (<https://www.w3.org/TR/trace-context/#traceparent-header>).
fn traceparent(value: &HeaderValue) -> Option<(&str, &str)> {
    let mut parts = value.to_str().ok()?.split('-');
    let (version, trace, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let id = |text: &str, length| {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        text.len() == length && digits && text.bytes().any(|byte| byte != b'0')
    };
    (version.len() == 2 && version != "ff" && id(trace, 32) && id(parent, 16)).then_some((trace, parent))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn answered(sent: Option<&str>) -> String {
        let seen =
            |request: Request| async move { request.extensions().get::<RequestId>().unwrap().as_str().to_owned() };
        let router = Router::new().route("/", get(seen)).layer(axum::middleware::from_fn(request_id));
        let mut request = Request::new(Body::empty());
        if let Some(sent) = sent {
            request.headers_mut().insert(X_REQUEST_ID, HeaderValue::from_bytes(sent.as_bytes()).unwrap());
        }
        let response = router.oneshot(request).await.unwrap();
        let header = response.headers()[X_REQUEST_ID].to_str().unwrap().to_owned();
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!(header, body);
        header
    }

    #[tokio::test]
    async fn a_sane_id_is_taken() {
        let longest = "x".repeat(128);
        for id in ["a", "7f3c-11:b/c", &longest] {
            assert_eq!(answered(Some(id)).await, id);
        }
    }

    #[tokio::test]
    async fn others_are_replaced() {
        let too_long = "x".repeat(129);
        for id in ["", "two words", "\u{e9}", &too_long] {
            assert_eq!(answered(Some(id)).await.len(), 32, "{id}");
        }
        assert_ne!(answered(None).await, answered(None).await);
    }

    #[test]
    fn traceparents() {
        let parse = |text: &'static str| traceparent(&HeaderValue::from_static(text)).map(|(trace, _)| trace.len());
        assert_eq!(parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), Some(32));
        for wrong in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(traceparent(&HeaderValue::from_static(wrong)), None, "{wrong}");
        }
    }
}
