//! What every call passes on its way in and out: its deadline, and the count of what failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;

use super::Grpc;
use super::management::Host;
use super::status::{from_tonic, to_tonic};
use crate::observe::Metrics;
use crate::protocol::status::{Code, Status, canonical};

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Longer waits are taken for this one.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When a call came and when it has to be answered, found among its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// When its head was complete.
    pub arrived: Instant,
    /// When its answer is of no use any more.
    pub deadline: tokio::time::Instant,
    /// Whether the client has set the deadline.
    named: bool,
}

impl Call {
    /// A call that comes now, with the time that the client gives it or else this one.
    pub fn new(named: Option<Duration>, otherwise: Duration) -> Self {
        let deadline = tokio::time::Instant::now() + named.unwrap_or(otherwise);
        Self { arrived: Instant::now(), deadline, named: named.is_some() }
    }

    /// A call that comes now and has until then.
    pub fn until(deadline: tokio::time::Instant) -> Self {
        Self { arrived: Instant::now(), deadline, named: true }
    }

    /// One message of a stream, which comes now. A stream may last as long as it likes, so that each message has the
    /// time of a call, unless the client has set a deadline for the whole.
    pub fn message(self, timeout: Duration) -> Self {
        let now = Self::new(None, timeout);
        if self.named { Self { arrived: now.arrived, ..self } } else { now }
    }
}

/// A layer (by `axum::middleware::from_fn_with_state`) that gives each call its deadline, by which also its messages must
/// have arrived, and counts the calls that fail at once.
pub async fn accept(State(grpc): State<Arc<Grpc>>, mut request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        // As the protocol has it: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let path = request.uri().path().to_owned();
    let mut response = match timeout(request.headers()) {
        Ok(timeout) => {
            let call = Call::new(timeout, grpc.settings.request_timeout);
            request.extensions_mut().insert(call);
            if let Some(authority) = request.uri().authority().cloned() {
                request.extensions_mut().insert(Host(authority));
            }
            match tokio::time::timeout_at(call.deadline, next.run(request)).await {
                Ok(response) => response,
                Err(_) => failed(&Status::new(Code::DeadlineExceeded, "the request did not arrive in time")),
            }
        }
        Err(status) => failed(&status),
    };
    let limit = grpc.settings.message_limit;
    complete(response.headers_mut(), limit);
    let code = grpc_status(response.headers());
    if code == Code::Unimplemented.number() && !response.headers().contains_key(tonic::Status::GRPC_MESSAGE) {
        // Generated code has no words for a method that it doesn't know.
        response = unimplemented(&path);
    }
    if code != 0 {
        grpc.metrics.error(canonical(code).0);
        return response;
    }
    // What fails later says so in the trailers.
    response.map(|body| {
        Body::new(body.map_frame(move |mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                complete(trailers, limit);
            }
            frame
        }))
    })
}

/// Gives a failure its details, where it is none of ours: a message that can't be read, or what a service says that
/// comes from a library.
fn complete(head: &mut HeaderMap, limit: usize) {
    let has_details = head.contains_key(tonic::Status::GRPC_STATUS_DETAILS);
    if has_details || !head.contains_key(tonic::Status::GRPC_MESSAGE) || grpc_status(head) == 0 {
        return;
    }
    let Some(status) = tonic::Status::from_header_map(head) else { return };
    let status = to_tonic(&of_library(&status, limit));
    // Of a head that says more than the status, the rest stays.
    if status.add_header(head).is_err() {
        tracing::error!(%status, "a status could not be written");
    }
}

/// A status of the library's, as one of ours. Before a method sees its message there is nothing internal that could
/// fail: what the library calls so is a message that isn't one.
fn of_library(status: &tonic::Status, limit: usize) -> Status {
    match status.code() {
        tonic::Code::Internal | tonic::Code::DataLoss => {
            let message = format!("the request can't be read as the method's message: {}", status.message());
            Status::new(Code::InvalidArgument, message).because("INVALID_REQUEST")
        }
        // The words of HTTP's refusal.
        tonic::Code::OutOfRange => {
            Status::new(Code::InvalidArgument, format!("Request payload size exceeds the limit: {limit} bytes."))
        }
        _ => from_tonic(status),
    }
}

/// The answer for a path that is no method.
pub fn unimplemented(path: &str) -> Response {
    let path: String = path.chars().take(100).collect();
    failed(&Status::new(Code::Unimplemented, format!("there is no {path} here; reflection lists what is served")))
}

/// The answer to a panic; what it said is logged by the hook of [`start_logging`](crate::observe::start_logging).
pub fn panicked(metrics: &Metrics) -> Response {
    metrics.panicked();
    let message = "internal error: this call met a defect of the server, which its log describes under the call's \
                   x-request-id";
    failed(&Status::new(Code::Internal, message))
}

/// A call that fails at once.
pub fn failed(status: &Status) -> Response {
    to_tonic(status).into_http()
}

/// Whether a request with these headers is a call.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The code of a call that failed before its first message, which is then in the head of the answer; otherwise 0.
fn grpc_status(headers: &HeaderMap) -> i32 {
    let value = headers.get(tonic::Status::GRPC_STATUS);
    value.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// The time that `grpc-timeout` gives: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    match parse_timeout(&text) {
        Some(timeout) => Ok(Some(timeout.min(LONGEST))),
        None => {
            let text: String = text.chars().take(64).collect();
            let message = format!("{GRPC_TIMEOUT} must be up to eight digits and H, M, S, m, u or n; it is `{text}`");
            Err(Status::bad_field(GRPC_TIMEOUT, message))
        }
    }
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("123456789m", None),
            ("-1S", None),
            ("1.5S", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(parse_timeout(text), expected, "{text}");
        }
    }

    #[test]
    fn a_day_is_the_longest() {
        let mut headers = HeaderMap::new();
        assert_eq!(timeout(&headers), Ok(None));
        headers.insert(GRPC_TIMEOUT, "99999999H".parse().unwrap());
        assert_eq!(timeout(&headers), Ok(Some(LONGEST)));
        headers.insert(GRPC_TIMEOUT, "soon".parse().unwrap());
        assert_eq!(timeout(&headers).unwrap_err().field.as_deref(), Some(GRPC_TIMEOUT));
    }
}
