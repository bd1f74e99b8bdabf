//! `predict` over HTTP, on both surfaces.

use std::time::Instant;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Api;
use super::middleware::{
    BodyError, BodyLimits, SERVER_TIMING, ServerTimeoutError, read_body, server_timeout, server_timing,
};
use super::respond::{Failure, json};
use crate::protocol::status::{Code, Status};
use crate::protocol::vertex::{self, PredictResponse, Surface};
use crate::service::{Chosen, Target};

/// Answers a request to predict, and counts it.
pub async fn predict(api: &Api, target: Target<'_>, surface: Surface, request: Request) -> Response {
    let begin = Instant::now();
    let chosen = match api.service.choose(target) {
        Ok(chosen) => chosen,
        Err(error) => {
            let status = Status::from(&error);
            api.metrics.answered_unknown(status.http_status().as_u16());
            return fail(api, status);
        }
    };
    let response = match answer(api, &chosen, surface, request, begin).await {
        Ok(response) => response,
        Err(status) => fail(api, status),
    };
    chosen.deployed.metrics.answered(response.status().as_u16());
    response
}

fn fail(api: &Api, status: Status) -> Response {
    api.metrics.error(status.code.name());
    Failure(status).into_response()
}

async fn answer(
    api: &Api,
    chosen: &Chosen,
    surface: Surface,
    request: Request,
    begin: Instant,
) -> Result<Response, Status> {
    let timeout = server_timeout(request.headers())?.unwrap_or(api.settings.request_timeout);
    let deadline = tokio::time::Instant::now() + timeout;
    let limits = BodyLimits { bytes: api.settings.body_limit, timeout: api.settings.body_timeout.min(timeout) };
    let body = read_body(request, limits).await?;

    let received = Instant::now();
    let request = vertex::parse(&body, surface, api.settings.instances)
        .map_err(|error| Status::from(&crate::service::ServiceError::from(error)))?;
    // The instances are slices of it, and each gives its share up as soon as it is prepared.
    drop(body);
    let parse = received.elapsed();

    let answer = api.service.predict(chosen, request, deadline).await.map_err(|error| {
        error.log(chosen);
        Status::from(&error)
    })?;
    let fields = (surface == Surface::Api).then_some(&chosen.deployed.fields);
    let body = serde_json::to_vec(&PredictResponse { predictions: &answer.predictions, deployed_model: fields })
        .map_err(|error| {
            tracing::error!(%error, "an answer could not be written as JSON");
            Status::new(Code::Internal, "the answer could not be written as JSON")
        })?;
    let stages = answer.count(&chosen.deployed, &api.metrics, parse, begin.elapsed());
    let mut response = json(body);
    let headers = response.headers_mut();
    headers.insert(SERVER_TIMING, server_timing(stages));
    name_the_model(headers, chosen);
    Ok(response)
}

/// The headers by which Vertex says who answered.
fn name_the_model(headers: &mut HeaderMap, chosen: &Chosen) {
    const ENDPOINT: HeaderName = HeaderName::from_static("x-vertex-ai-endpoint-id");
    const DEPLOYED_MODEL: HeaderName = HeaderName::from_static("x-vertex-ai-deployed-model-id");
    const MODEL: HeaderName = HeaderName::from_static("x-vertex-ai-model");
    const VERSION: HeaderName = HeaderName::from_static("x-vertex-ai-model-version-id");
    let fields = &chosen.deployed.fields;
    for (name, value) in [
        (ENDPOINT, &chosen.endpoint.id),
        (DEPLOYED_MODEL, &fields.deployed_model_id),
        (MODEL, &fields.model),
        (VERSION, &fields.model_version_id),
    ] {
        // Ids are checked when they are configured; a folder's name may hold what a header can't.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
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
