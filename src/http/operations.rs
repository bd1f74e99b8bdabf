//! The routes for those who run the server: metrics, liveness, readiness. None of them waits for inference; HEAD is answered
//! like GET. Where tokens are asked for, `/metrics` asks for one too, unless it is the admin port's; health never does.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::json;

use super::table::Routes;
use crate::observe::Metrics;
use crate::server::{self, Readiness};

/// What the routes show.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Whether predictions can be answered.
    pub readiness: Arc<Readiness>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
}

/// `GET /metrics`, `/livez`, `/readyz` and `/health`; of the Open Inference Protocol `/v2/health/live` and
/// `/v2/health/ready`.
pub fn router(operations: Operations) -> Router {
    routes().into_router().with_state(operations)
}

/// The same as a table.
pub(super) fn routes() -> Routes<Operations> {
    Routes::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(health))
        .route("/health", get(health))
        .route("/v2/health/live", get(alive))
        .route("/v2/health/ready", get(ready))
}

/// 200 when predictions can be answered, else 503 with the reason: `{"status":"LOADING","reason":"..."}`. Also for
/// routes whose path is a setting.
pub async fn health(State(operations): State<Operations>) -> Response {
    let state = operations.readiness.state();
    let (code, mut body) = match *state {
        server::State::Ready => (StatusCode::OK, json!({"status": state.name()})),
        _ => (StatusCode::SERVICE_UNAVAILABLE, json!({"status": state.name(), "reason": state.to_string()})),
    };
    if let server::State::Loading { models } = &*state {
        body["models"] = json!(models);
    }
    (code, [(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// 200 as long as the process can answer at all, also while it loads or ends.
async fn live() -> Response {
    ([(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/json")], r#"{"status":"ALIVE"}"#).into_response()
}

async fn alive() -> Response {
    ([(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/json")], r#"{"live":true}"#).into_response()
}

async fn ready(State(operations): State<Operations>) -> Response {
    let ready = operations.readiness.is_ready();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": ready }).to_string();
    (code, [(CACHE_CONTROL, "no-store"), (CONTENT_TYPE, "application/json")], body).into_response()
}

async fn metrics(State(operations): State<Operations>) -> Response {
    operations.metrics.set_ready(operations.readiness.is_ready());
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], operations.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn ask(operations: &Operations, method: &str, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = router(operations.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn health_follows_readiness_and_liveness_does_not() {
        let readiness = Arc::new(Readiness::new());
        let operations = Operations { readiness: readiness.clone(), metrics: Arc::new(Metrics::new().unwrap()) };
        readiness.set_progress("vit", "warming up");
        let (status, body) = ask(&operations, "GET", "/health").await;
        assert_eq!(status, 503);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).unwrap(),
            json!({"status": "LOADING", "reason": "loading models: vit: warming up", "models": {"vit": "warming up"}})
        );
        assert_eq!(ask(&operations, "HEAD", "/readyz").await, (503, String::new()));
        assert_eq!(ask(&operations, "GET", "/livez").await.0, 200);
        assert!(ask(&operations, "GET", "/metrics").await.1.contains("tessera_ready 0"));

        readiness.set_ready();
        for path in ["/health", "/readyz"] {
            assert_eq!(ask(&operations, "GET", path).await, (200, r#"{"status":"READY"}"#.to_owned()));
            assert_eq!(ask(&operations, "HEAD", path).await, (200, String::new()));
        }
        assert!(ask(&operations, "GET", "/metrics").await.1.contains("tessera_ready 1"));
        assert_eq!(ask(&operations, "POST", "/health").await.0, 405);

        readiness.set_draining();
        assert_eq!(ask(&operations, "GET", "/health").await.0, 503);
        assert_eq!(ask(&operations, "GET", "/livez").await.0, 200);
    }
}
