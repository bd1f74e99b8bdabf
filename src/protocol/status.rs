//! `google.rpc.Status`: the one form in which Vertex AI's routes say that something went wrong.
//!
//! The pairs of canonical code and HTTP status are those of `google/rpc/code.proto`.

use std::time::Duration;

use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

/// The canonical codes by their numbers, which gRPC sends, with the HTTP status that stands for each. 499 has no name
/// there: "client closed request".
const CANONICAL: [(&str, u16); 17] = [
    ("OK", 200),
    ("CANCELLED", 499),
    ("UNKNOWN", 500),
    ("INVALID_ARGUMENT", 400),
    ("DEADLINE_EXCEEDED", 504),
    ("NOT_FOUND", 404),
    ("ALREADY_EXISTS", 409),
    ("PERMISSION_DENIED", 403),
    ("RESOURCE_EXHAUSTED", 429),
    ("FAILED_PRECONDITION", 400),
    ("ABORTED", 409),
    ("OUT_OF_RANGE", 400),
    ("UNIMPLEMENTED", 501),
    ("INTERNAL", 500),
    ("UNAVAILABLE", 503),
    ("DATA_LOSS", 500),
    ("UNAUTHENTICATED", 401),
];

/// The name and the HTTP status of a canonical code's number; those that aren't one are UNKNOWN.
pub fn canonical(number: i32) -> (&'static str, StatusCode) {
    let (name, http) = usize::try_from(number).ok().and_then(|number| CANONICAL.get(number)).unwrap_or(&CANONICAL[2]);
    (name, StatusCode::from_u16(*http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

/// A canonical code, with its number. Only those that Tessera answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are google.rpc.Code's")]
pub enum Code {
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    /// The number on gRPC's wire.
    pub fn number(self) -> i32 {
        self as i32
    }

    /// The name on the wire, as in `"status": "INVALID_ARGUMENT"`.
    pub fn name(self) -> &'static str {
        canonical(self.number()).0
    }

    /// The HTTP status that stands for it.
    pub fn http(self) -> StatusCode {
        canonical(self.number()).1
    }
}

/// Who gives the reasons: the `domain` of `google.rpc.ErrorInfo`.
pub const ERROR_DOMAIN: &str = "tessera";

/// What a client is told when its request fails. It holds nothing that is meant for the log only.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The canonical code.
    pub code: Code,
    /// One sentence or two: what is wrong, where, and what to do.
    pub message: String,
    /// The part of the request that is at fault, such as `instances[3].b64`.
    pub field: Option<String>,
    /// What is wrong, for programs: an upper-case identifier that stays as it is when the message changes.
    pub reason: Option<&'static str>,
    /// When it is worth trying again.
    pub retry_after: Option<Duration>,
    /// The methods that a path takes, when the request's isn't among them: makes the HTTP status 405.
    pub allow: Option<&'static str>,
}

impl Status {
    /// A status with a message alone.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, reason: None, retry_after: None, allow: None }
    }

    /// Bad input in a field that can be named.
    pub fn bad_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(Code::InvalidArgument, message) }
    }

    /// The same with a reason.
    pub fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// Not now, but perhaps after this time.
    pub fn unavailable(message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(Code::Unavailable, message) }
    }

    /// A method that the path doesn't take. `google.rpc.Code` has no name for it; UNIMPLEMENTED is nearest.
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("this method is not allowed here: use {allow}");
        Self { allow: Some(allow), ..Self::new(Code::Unimplemented, message) }
    }

    /// The HTTP status to answer with.
    pub fn http_status(&self) -> StatusCode {
        match self.allow {
            Some(_) => StatusCode::METHOD_NOT_ALLOWED,
            None => self.code.http(),
        }
    }

    /// The value of `Retry-After`: whole seconds, at least 1.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|wait| (wait.as_secs_f64().ceil() as u64).max(1))
    }

    /// The JSON body: `{"error":{"code","message","status","details"}}`.
    pub fn to_json(&self) -> String {
        // A struct, not a map, so that the fields stand in the usual order.
        #[derive(Serialize)]
        struct Body<'a> {
            error: Fields<'a>,
        }
        #[derive(Serialize)]
        struct Fields<'a> {
            code: u16,
            message: &'a str,
            status: &'static str,
            details: Vec<Value>,
        }
        let error = Fields {
            code: self.http_status().as_u16(),
            message: &self.message,
            status: self.code.name(),
            details: self.details(),
        };
        // Strings and numbers can always be written.
        serde_json::to_string(&Body { error }).unwrap_or_default()
    }

    /// The typed details of `google/rpc/error_details.proto`.
    fn details(&self) -> Vec<Value> {
        let violation = self.field.as_ref().map(|field| {
            json!({
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{"field": field, "description": self.message}],
            })
        });
        let retry = self.retry_after_seconds().map(|seconds| {
            json!({
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retryDelay": format!("{seconds}s"),
            })
        });
        let info = self.reason.map(|reason| {
            json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reason,
                "domain": ERROR_DOMAIN,
            })
        });
        violation.into_iter().chain(info).chain(retry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_field_is_named_twice() {
        let status = Status::bad_field("instances[3].b64", "instances[3].b64 is not base64");
        assert_eq!(
            serde_json::from_str::<Value>(&status.to_json()).unwrap(),
            json!({"error": {
                "code": 400,
                "message": "instances[3].b64 is not base64",
                "status": "INVALID_ARGUMENT",
                "details": [{
                    "@type": "type.googleapis.com/google.rpc.BadRequest",
                    "fieldViolations": [{
                        "field": "instances[3].b64",
                        "description": "instances[3].b64 is not base64",
                    }],
                }],
            }})
        );
    }

    #[test]
    fn codes_have_their_numbers() {
        assert_eq!((Code::InvalidArgument.name(), Code::InvalidArgument.http().as_u16()), ("INVALID_ARGUMENT", 400));
        assert_eq!((Code::Cancelled.name(), Code::Cancelled.http().as_u16()), ("CANCELLED", 499));
        assert_eq!((Code::Unavailable.name(), Code::Unavailable.http().as_u16()), ("UNAVAILABLE", 503));
        assert_eq!((Code::FailedPrecondition.name(), Code::Internal.name()), ("FAILED_PRECONDITION", "INTERNAL"));
        assert_eq!(canonical(0), ("OK", StatusCode::OK));
        assert_eq!(canonical(16).0, "UNAUTHENTICATED");
        for number in [-1, 17, i32::MAX] {
            assert_eq!(canonical(number), ("UNKNOWN", StatusCode::INTERNAL_SERVER_ERROR));
        }
    }

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds() {
        let wait =
            |milliseconds| Status::unavailable("full", Duration::from_millis(milliseconds)).retry_after_seconds();
        assert_eq!(wait(0), Some(1));
        assert_eq!(wait(1001), Some(2));
    }
}
