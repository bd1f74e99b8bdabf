//! A panic in a handler is an answer, not the end of the process.

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::response::IntoResponse;
use http::Response;
use tower_http::catch_panic::{CatchPanicLayer, ResponseForPanic};

use crate::http::Failure;
use crate::observe::Metrics;
use crate::protocol::status::{Code, Status};

/// What the client is told; the cause is in the log only.
const MESSAGE: &str = "internal error: this request met a defect of the server, which its log describes under the \
                       request's X-Request-Id";

/// A layer that answers a panic with 500. What the panic said is logged by the hook that
/// [`start_logging`](crate::observe::start_logging) sets.
pub fn catch_panic(metrics: Arc<Metrics>) -> CatchPanicLayer<PanicResponse> {
    CatchPanicLayer::custom(PanicResponse { metrics })
}

/// Makes the answer to a panic.
#[derive(Debug, Clone)]
pub struct PanicResponse {
    metrics: Arc<Metrics>,
}

impl ResponseForPanic for PanicResponse {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, _: Box<dyn Any + Send + 'static>) -> Response<Body> {
        self.metrics.panicked();
        self.metrics.error(Code::Internal.name());
        Failure(Status::new(Code::Internal, MESSAGE)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use http::Request;
    use http::header::CONTENT_TYPE;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let boom = || async {
            if std::hint::black_box(true) {
                panic!("secret")
            }
        };
        let router = Router::new().route("/", get(boom)).layer(catch_panic(metrics.clone()));
        for _ in 0..2 {
            let response = router.clone().oneshot(Request::new(Body::empty())).await.unwrap();
            assert_eq!(response.status(), 500);
            assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
            let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["error"]["status"], "INTERNAL");
            assert!(!body.to_string().contains("secret"));
        }
        assert!(metrics.render().contains("tessera_panics_total 2"));
    }
}
