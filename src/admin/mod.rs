//! The admin port: metrics, health and the level of the log, where clients of the API do not come.

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::http::operations::{self, Operations};
use crate::observe::LogControl;

/// The routes of [`operations`], `GET /` that lists them, and `GET` and `PUT /log-level`.
pub fn router(operations: Operations, log: LogControl) -> Router {
    let routes = ["/metrics", "/health", "/readyz", "/livez", "/log-level"];
    Router::new()
        .route("/", get(move || async move { answer(StatusCode::OK, &json!({"routes": routes})) }))
        .route("/log-level", get(log_level).put(set_log_level))
        .layer(DefaultBodyLimit::max(4096))
        .with_state(log)
        .merge(operations::router(operations))
}

async fn log_level(State(log): State<LogControl>) -> Response {
    answer(StatusCode::OK, &json!({"level": log.level()}))
}

/// Takes `debug` or `info,tessera=debug`, as it is or as `{"level": "debug"}`; answers with the level now in force.
async fn set_log_level(State(log): State<LogControl>, body: String) -> Response {
    let level = match serde_json::from_str::<Value>(&body) {
        Ok(Value::Object(object)) => object.get("level").and_then(Value::as_str).unwrap_or_default().to_owned(),
        Ok(Value::String(level)) => level,
        _ => body.trim().to_owned(),
    };
    if level.is_empty() {
        return invalid("the body must name a level, as in `debug` or `info,tessera=debug`");
    }
    match log.set_level(&level) {
        Ok(()) => {
            tracing::info!("the level of the log is now {}", log.level());
            log_level(State(log)).await
        }
        Err(error) => invalid(&error.to_string()),
    }
}

fn invalid(message: &str) -> Response {
    let error = json!({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}});
    answer(StatusCode::BAD_REQUEST, &error)
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::observe::Metrics;
    use crate::server::Readiness;

    #[tokio::test]
    async fn the_log_level_is_shown_and_changed() {
        // The filter must live: its layer is what the control changes.
        let (_layer, log) = LogControl::detached("info");
        let operations =
            Operations { readiness: Arc::new(Readiness::new()), metrics: Arc::new(Metrics::new().unwrap()) };
        let router = router(operations, log);
        let ask = async |method: &str, path: &str, body: &'static str| {
            let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            (status, serde_json::from_slice::<Value>(&body).unwrap_or_default())
        };
        assert_eq!(ask("GET", "/log-level", "").await, (200, json!({"level": "info"})));
        assert_eq!(ask("PUT", "/log-level", "debug\n").await, (200, json!({"level": "debug"})));
        assert_eq!(ask("PUT", "/log-level", r#"{"level":"warn"}"#).await, (200, json!({"level": "warn"})));
        for wrong in ["", "loud", "{}", r#"{"level":3}"#] {
            let (status, body) = ask("PUT", "/log-level", wrong).await;
            assert_eq!((status, &body["error"]["status"]), (400, &json!("INVALID_ARGUMENT")), "{wrong}");
        }
        assert_eq!(ask("GET", "/log-level", "").await.1, json!({"level": "warn"}));
        assert_eq!(ask("GET", "/health", "").await.0, 503);
        assert_eq!(ask("GET", "/metrics", "").await.0, 200);
    }
}
