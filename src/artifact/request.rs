//! One request to an object store, as often as it takes.

use std::time::Duration;

use http::StatusCode;
use http::header::RETRY_AFTER;
use reqwest::{Client, RequestBuilder, Response};

use super::{ArtifactError, ObjectUri};
use crate::cryptography;

/// How often a request is made that fails in a way that may pass.
pub(super) const ATTEMPTS: u32 = 6;

const CONNECT: Duration = Duration::from_secs(10);
/// The longest silence in an answer.
const SILENCE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// The client of all stores.
pub(super) fn client() -> Result<Client, ArtifactError> {
    cryptography::install();
    Client::builder()
        .user_agent(concat!("tessera/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .build()
        .map_err(|error| ArtifactError::Client { reason: error.to_string() })
}

/// Before the next attempt, counted from 1: twice as long each time, and never the same for all replicas.
pub(super) fn pause(attempt: u32, asked: Option<Duration>) -> Duration {
    let longest = Duration::from_millis(250 << attempt.min(7)).min(LONGEST_PAUSE);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let jitter = f64::from(clock.map_or(0, |now| now.subsec_nanos() % 1000)) / 1000.0;
    asked.unwrap_or_default().min(LONGEST_PAUSE).max(longest.mul_f64(0.5 + jitter / 2.0))
}

/// Sends what `make` makes until it succeeds.
///
/// # Errors
/// What the store says, or that it can't be reached.
pub(super) async fn send(
    uri: &ObjectUri,
    make: impl AsyncFn() -> Result<RequestBuilder, ArtifactError>,
) -> Result<Response, ArtifactError> {
    let mut attempt = 1;
    loop {
        let (reason, asked) = match make().await?.send().await {
            Ok(response) if response.status().is_success() => return Ok(response),
            Ok(response) if is_passing(response.status()) => {
                (format!("the store answered {}", response.status()), retry_after(&response))
            }
            Ok(response) => return Err(refused(uri, response.status())),
            Err(error) => (plain(error), None),
        };
        if attempt == ATTEMPTS {
            let reason = format!("{reason}, {attempt} times");
            return Err(ArtifactError::Unavailable { uri: uri.to_string(), reason });
        }
        let pause = pause(attempt, asked);
        tracing::warn!(%uri, reason, "asking again in {pause:.1?}");
        tokio::time::sleep(pause).await;
        attempt += 1;
    }
}

/// Whether a status may be another one next time.
pub(super) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// An error of the connection in words that hold no URL: a signed one is a secret.
pub(super) fn plain(error: reqwest::Error) -> String {
    let kind = match () {
        () if error.is_timeout() => "the store did not answer in time",
        () if error.is_connect() => "the store can't be reached",
        () => "the connection to the store broke",
    };
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.to_string() {
        // The error itself, whose text has the URL.
        _ if std::ptr::addr_eq(cause, &error) => kind.to_owned(),
        cause => format!("{kind}: {cause}"),
    }
}

/// What a status that stays means.
pub(super) fn refused(uri: &ObjectUri, status: StatusCode) -> ArtifactError {
    let uri_text = uri.to_string();
    match status {
        StatusCode::UNAUTHORIZED => ArtifactError::Denied {
            uri: uri_text,
            reason: "the store asks for credentials (401), and those at hand are missing, wrong or expired".to_owned(),
        },
        StatusCode::FORBIDDEN => ArtifactError::Denied {
            uri: uri_text,
            reason: "these credentials may not list and read it (403); on Google Cloud the role \
                     roles/storage.objectViewer of the bucket allows it"
                .to_owned(),
        },
        StatusCode::NOT_FOUND => {
            ArtifactError::NotFound { uri: uri_text, reason: format!("there is no bucket {:?} (404)", uri.bucket) }
        }
        status => ArtifactError::Unavailable { uri: uri_text, reason: format!("the store answered {status}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_obey() {
        for attempt in 1..ATTEMPTS {
            let pause = pause(attempt, None);
            let longest = Duration::from_millis(250 << attempt);
            assert!(pause >= longest / 2 && pause <= longest, "{attempt}: {pause:?}");
        }
        assert_eq!(pause(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(3600))), LONGEST_PAUSE);
    }
}
