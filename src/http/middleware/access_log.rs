//! One line a request, and its share in the metrics. Neither query nor body is ever logged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::HttpBody;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Uri, Version};

use crate::observe::Metrics;
use crate::protocol::status::canonical;

/// The status that is logged for a client that left before its answer (nginx's number; none is sent).
const CLIENT_CLOSED: u16 = 499;

/// Longer paths and user agents are cut in the log.
const LONGEST: usize = 256;

/// The URI that a client asked for, where the request's own was rewritten before the routes.
#[derive(Debug, Clone)]
pub struct AskedUri(pub Uri);

/// What the layer knows.
#[derive(Debug, Clone)]
pub struct AccessLog {
    metrics: Arc<Metrics>,
    /// Paths that machines ask for every few seconds.
    probes: Arc<[String]>,
}

impl AccessLog {
    /// Logs at level info; what succeeds at one of `probes` (whole paths) at level debug.
    pub fn new<P: Into<String>>(metrics: Arc<Metrics>, probes: impl IntoIterator<Item = P>) -> Self {
        Self { metrics, probes: probes.into_iter().map(Into::into).collect() }
    }
}

/// A layer (by `axum::middleware::from_fn_with_state`) that logs each request once: when its answer is ready to be sent,
/// or when the client has left before.
pub async fn access_log(State(log): State<AccessLog>, request: Request, next: Next) -> Response {
    let mut entry = Entry::new(log, &request);
    let response = next.run(request).await;
    entry.status = status_of(&response);
    entry.sent = response.body().size_hint().exact().unwrap_or(0);
    response
}

/// The status; of a gRPC call that failed at once, which HTTP sees as a success, the one that stands for its code.
fn status_of(response: &Response) -> u16 {
    let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
    code.map_or_else(|| response.status(), |code| canonical(code).1).as_u16()
}

fn cut(text: &str) -> &str {
    text.char_indices().nth(LONGEST).map_or(text, |(end, _)| &text[..end])
}

/// Logged when it is dropped, so that a request that is given up is logged too. Holds what is cheap to hold: words are
/// made of it only if the line is wanted.
struct Entry {
    log: AccessLog,
    start: Instant,
    method: Method,
    uri: Uri,
    protocol: Version,
    user_agent: Option<HeaderValue>,
    remote: Option<SocketAddr>,
    received: u64,
    status: u16,
    sent: u64,
}

impl Entry {
    fn new(log: AccessLog, request: &Request) -> Self {
        let header = |name: HeaderName| request.headers().get(name);
        let length = header(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            start: Instant::now(),
            method: request.method().clone(),
            uri: request.extensions().get::<AskedUri>().map_or(request.uri(), |AskedUri(uri)| uri).clone(),
            protocol: request.version(),
            user_agent: header(USER_AGENT).cloned(),
            remote: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer),
            received: length.unwrap_or(0),
            status: CLIENT_CLOSED,
            sent: 0,
            log,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Self { log, method, status, received, sent, .. } = &*self;
        let seconds = self.start.elapsed().as_secs_f64();
        if *status != CLIENT_CLOSED {
            log.metrics.response(*status, *received, *sent);
        }
        let path = self.uri.path();
        let probe = *status < 400 && log.probes.iter().any(|probe| probe == path);
        let path = cut(path);
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: "tessera::access",
                    $level,
                    httpRequest.requestMethod = method.as_str(),
                    httpRequest.requestUrl = path,
                    httpRequest.status = status,
                    httpRequest.latency = %format_args!("{seconds:.6}s"),
                    httpRequest.requestSize = received,
                    httpRequest.responseSize = sent,
                    httpRequest.remoteIp = self.remote.map(|peer| tracing::field::display(peer.ip())),
                    httpRequest.userAgent = self.user_agent.as_ref().and_then(|agent| agent.to_str().ok()).map(cut),
                    httpRequest.protocol = ?self.protocol,
                    "{method} {path} {status} in {:.1} ms, {received} bytes in, {sent} out",
                    seconds * 1e3,
                )
            };
        }
        match probe {
            true => line!(tracing::Level::DEBUG),
            false => line!(tracing::Level::INFO),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::routing::{get, post};
    use tower::ServiceExt;
    use tracing::field::{Field, Visit};
    use tracing::instrument::WithSubscriber;
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Seen {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            struct Text(String);
            impl Visit for Text {
                fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                    self.0 += &format!(" {field}={value:?}");
                }
            }
            let mut text = Text(event.metadata().level().to_string());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }

    async fn lines(uri: &str, method: &str) -> (Vec<String>, String) {
        let metrics = Arc::new(Metrics::new().unwrap());
        let router = Router::new()
            .route("/health", get(|| async { "ok" }))
            .route("/predict", post(|| async { "four" }))
            .route("/slow", get(|| tokio::time::sleep(Duration::from_secs(60))))
            .layer(axum::middleware::from_fn_with_state(AccessLog::new(metrics.clone(), ["/health"]), access_log));
        let seen = Seen::default();
        let request = Request::builder().uri(uri).method(method).header("content-length", "2");
        let request = request.header("user-agent", "curl/8").body(Body::from("hi")).unwrap();
        // Given up within the subscriber, too.
        let answer = async {
            let _ = tokio::time::timeout(Duration::from_millis(50), router.oneshot(request)).await;
        };
        answer.with_subscriber(tracing_subscriber::registry().with(seen.clone())).await;
        let lines = seen.0.lock().unwrap().clone();
        (lines, metrics.render())
    }

    #[tokio::test]
    async fn a_request_has_one_line_without_its_query() {
        let (lines, metrics) = lines("/predict?key=secret", "POST").await;
        assert_eq!(lines.len(), 1);
        let line = &lines[0];
        assert!(line.starts_with("INFO") && !line.contains("secret"), "{line}");
        for part in [
            r#"requestMethod="POST""#,
            r#"requestUrl="/predict""#,
            "status=200",
            "requestSize=2",
            "responseSize=4",
            r#"userAgent="curl/8""#,
        ] {
            assert!(line.contains(part), "{part} not in {line}");
        }
        assert!(metrics.contains(r#"tessera_http_responses_total{code_class="2xx"} 1"#));
        assert!(metrics.contains("tessera_http_sent_bytes_total 4"));
    }

    #[tokio::test]
    async fn probes_are_quiet_unless_they_fail() {
        assert!(lines("/health", "GET").await.0[0].starts_with("DEBUG"));
        assert!(lines("/health", "POST").await.0[0].starts_with("INFO"));
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_logged() {
        let (lines, metrics) = lines("/slow", "GET").await;
        assert!(lines.len() == 1 && lines[0].contains("status=499"), "{lines:?}");
        assert!(!metrics.contains(r#"code_class="4xx"} 1"#));
    }
}
