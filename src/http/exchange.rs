//! What every verb does around its own work: it finds who answers, reads the body in time, counts, and says who answered.

use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Api;
use super::middleware::{
    BodyError, BodyLimits, SERVER_TIMING, ServerTimeoutError, read_body, server_timeout, server_timing,
};
use super::respond::Failure;
use super::stream::Framing;
use crate::endpoint::Version;
use crate::protocol::status::{Code, Status};
use crate::service::{Answer, Chosen, SESSION, Target};

/// A request whose model is known and whose body has arrived.
pub struct Exchange<'a> {
    /// Limits and counts.
    pub api: &'a Api,
    /// Who answers.
    pub chosen: Chosen,
    /// The body as it came, without its gzip encoding.
    pub body: Bytes,
    /// What `Content-Type` says; empty without one.
    pub media_type: String,
    /// How an answer in pieces is to be framed.
    pub framing: Framing,
    /// When the answer is of no use any more.
    pub deadline: tokio::time::Instant,
    begin: Instant,
    received: Instant,
}

impl<'a> Exchange<'a> {
    /// Finds who answers, reads the body, works, and gives the response for what came of it. All outcomes are counted.
    pub async fn run(
        api: &'a Api,
        target: Target<'_>,
        request: Request,
        work: impl for<'e> FnOnce(&'e mut Self) -> BoxFuture<'e, Result<Response, Status>>,
    ) -> Response {
        let mut exchange = match Self::open(api, target, request).await {
            Ok(exchange) => exchange,
            Err(response) => return response,
        };
        let outcome = work(&mut exchange).await;
        closed(api, &exchange.chosen, outcome)
    }

    /// Finds who answers, unless that is among the request's extensions, then reads the body.
    ///
    /// # Errors
    /// The response that says what is wrong; it has been counted.
    async fn open(api: &'a Api, target: Target<'_>, request: Request) -> Result<Self, Response> {
        let begin = Instant::now();
        let already = request
            .extensions()
            .get::<Chosen>()
            .filter(|_| matches!(target, Target::Model { version: Version::Any, .. }));
        let chosen = match already {
            Some(chosen) => Ok(chosen.clone()),
            None => api.service.choose_for(target, session(request.headers())),
        };
        let chosen = match chosen {
            Ok(chosen) => chosen,
            Err(error) => {
                let status = Status::from(&error);
                api.metrics.answered_unknown(status.http_status().as_u16());
                return Err(fail(api, status));
            }
        };
        let read = async {
            if matches!(target, Target::Endpoint(_)) {
                chosen.check_verbs().map_err(|error| Status::from(&error))?;
            }
            let timeout = server_timeout(request.headers())?.unwrap_or(api.settings.request_timeout);
            let deadline = tokio::time::Instant::now() + timeout;
            let limits = BodyLimits { bytes: api.settings.body_limit, timeout: api.settings.body_timeout.min(timeout) };
            let framing = Framing::asked_by(&request);
            let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let media_type = media_type.unwrap_or_default().to_owned();
            let body = read_body(request, limits).await?;
            Ok::<_, Status>((body, media_type, framing, deadline))
        };
        match read.await {
            Ok((body, media_type, framing, deadline)) => {
                Ok(Self { api, chosen, body, media_type, framing, deadline, begin, received: Instant::now() })
            }
            Err(status) => Err(closed(api, &chosen, Err(status))),
        }
    }

    /// The time since the body had arrived: what it took to read it, when asked right after that.
    pub fn since_received(&self) -> Duration {
        self.received.elapsed()
    }

    /// Counts an answer's stages, and shows them in the response.
    pub fn timed(&self, mut response: Response, answer: &Answer, parse: Duration) -> Response {
        let stages = answer.count(&self.chosen.deployed, &self.api.metrics, parse, self.begin.elapsed());
        response.headers_mut().insert(SERVER_TIMING, server_timing(stages));
        response
    }
}

/// What names the session of a request.
pub fn session(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(SESSION).map(HeaderValue::as_bytes).filter(|session| !session.is_empty())
}

fn closed(api: &Api, chosen: &Chosen, outcome: Result<Response, Status>) -> Response {
    let response = match outcome {
        Ok(mut response) => {
            name_the_model(response.headers_mut(), chosen);
            response
        }
        Err(status) => fail(api, status),
    };
    chosen.deployed.metrics.answered(response.status().as_u16());
    response
}

fn fail(api: &Api, status: Status) -> Response {
    api.metrics.error(status.code.name());
    Failure(status).into_response()
}

/// The failure of writing an answer, which is a defect of ours.
pub fn unwritable(error: &dyn std::fmt::Display) -> Status {
    tracing::error!(%error, "an answer could not be written as JSON");
    Status::new(Code::Internal, "the answer could not be written as JSON")
}

/// The headers by which Vertex says who answered.
fn name_the_model(headers: &mut HeaderMap, chosen: &Chosen) {
    for (name, value) in chosen.names() {
        // Ids are checked when they are configured; a folder's name may hold what a header can't.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

impl From<BodyError> for Status {
    fn from(error: BodyError) -> Self {
        let code = match &error {
            BodyError::Timeout { .. } => Code::DeadlineExceeded,
            _ => Code::InvalidArgument,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ServerTimeoutError> for Status {
    fn from(error: ServerTimeoutError) -> Self {
        Self::bad_field("X-Server-Timeout", error.to_string())
    }
}
