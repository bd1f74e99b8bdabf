//! The headers about time: `X-Server-Timeout` in, `Server-Timing` out.

use std::fmt::Write;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// How long the client is ready to wait, in seconds.
pub const X_SERVER_TIMEOUT: HeaderName = HeaderName::from_static("x-server-timeout");
/// Where the time went (W3C Server Timing).
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Longer waits are taken for this one.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Not a time to wait.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the header X-Server-Timeout must be a number of seconds above 0, as in 2.5; it is `{value}`")]
pub struct ServerTimeoutError {
    /// What the header says.
    pub value: String,
}

/// The time that `X-Server-Timeout` gives; `None` without the header. At most a day.
///
/// # Errors
/// When it is not a positive number.
pub fn server_timeout(headers: &HeaderMap) -> Result<Option<Duration>, ServerTimeoutError> {
    let Some(value) = headers.get(X_SERVER_TIMEOUT) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let plain = text.trim().bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'));
    let seconds = text.trim().parse::<f64>().ok().filter(|seconds| plain && *seconds > 0.0);
    match seconds {
        Some(seconds) => Ok(Some(Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST))),
        None => Err(ServerTimeoutError { value: text.chars().take(64).collect() }),
    }
}

/// The value of `Server-Timing` for stages in their order: `decode;dur=1.234, inference;dur=9.5`, in milliseconds.
/// Names must be tokens (RFC 9110), as those of [`Stage`](crate::observe::Stage) are; others leave the value empty.
pub fn server_timing<'a>(stages: impl IntoIterator<Item = (&'a str, Duration)>) -> HeaderValue {
    let mut text = String::with_capacity(256);
    for (name, duration) in stages {
        let separator = if text.is_empty() { "" } else { ", " };
        // Microseconds, without floats: writing those would take a fortieth of a small request's time. Writing to a String
        // does not fail.
        let micros = (duration.as_nanos() + 500) / 1000;
        let _ = write!(text, "{separator}{name};dur={}.{:03}", micros / 1000, micros % 1000);
    }
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &'static str) -> Result<Option<Duration>, ServerTimeoutError> {
        server_timeout(&HeaderMap::from_iter([(X_SERVER_TIMEOUT, HeaderValue::from_static(value))]))
    }

    #[test]
    fn timeouts() {
        assert_eq!(server_timeout(&HeaderMap::new()), Ok(None));
        assert_eq!(parse("2.5"), Ok(Some(Duration::from_millis(2500))));
        assert_eq!(parse(" 30 "), Ok(Some(Duration::from_secs(30))));
        assert_eq!(parse("99999999999999999999999"), Ok(Some(LONGEST)));
        for wrong in ["", "0", "-1", "NaN", "inf", "1e3", "2s", "."] {
            assert!(parse(wrong).unwrap_err().to_string().contains("X-Server-Timeout"), "{wrong}");
        }
    }

    #[test]
    fn timings() {
        let stages = [("decode", Duration::from_micros(1234)), ("inference", Duration::from_millis(9))];
        assert_eq!(server_timing(stages), "decode;dur=1.234, inference;dur=9.000");
        assert_eq!(server_timing([]), "");
    }
}
