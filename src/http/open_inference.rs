//! The Open Inference Protocol over HTTP, with Triton's binary extension.
//!
//! ```text
//! GET  /v2                                          who the server is
//! GET  /v2/models                                   the names
//! GET  /v2/models/{model}[/versions/{n}]            inputs and outputs
//! GET  .../ready, .../config, .../stats
//! POST .../infer
//! GET  /v2/models/stats
//! POST /v2/repository/index
//! ```
//!
//! `/v2/health/live` and `/v2/health/ready` are among the [operations](super::operations). Errors are `{"error": "text"}`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde_json::json;

use super::exchange::{Exchange, session, unwritable};
use super::middleware::{BodyLimits, read_body};
use super::respond::{Failure, errors_as_text, json};
use super::table::Routes;
use super::{Api, Segments, failure, lookup_failure};
use crate::endpoint::Version;
use crate::observe::Metrics;
use crate::protocol::open_inference::{
    self as wire, BINARY_MEDIA_TYPE, BinarySize, EXTENSIONS, HEADER_LENGTH, InferError, InferResponse, OutputTensor,
};
use crate::protocol::status::{Code, Status};
use crate::service::open_inference::{self, metadata};
use crate::service::{ServiceError, Target};
use crate::task::FlatView;

const LENGTH: HeaderName = HeaderName::from_static(HEADER_LENGTH);

/// Names another route for a request to a predict route; see [`redirect`].
pub const REDIRECT: HeaderName = HeaderName::from_static("x-vertex-ai-triton-redirect");

/// The routes, with their own form of errors.
pub fn routes(metrics: &Arc<Metrics>) -> Routes<Arc<Api>> {
    let mut routes = Routes::new()
        .route("/v2", get(server))
        .route("/v2/models", get(list))
        .route("/v2/models/stats", get(all_statistics))
        .route("/v2/repository/index", any(index))
        .route("/v2/repository/models/{model}/load", any(repository))
        .route("/v2/repository/models/{model}/unload", any(repository));
    for version in ["", "/versions/{version}"] {
        let path = |end: &str| format!("/v2/models/{{model}}{version}{end}");
        routes = routes
            .route(&path(""), get(model))
            .route(&path("/ready"), get(ready))
            .route(&path("/config"), get(config))
            .route(&path("/stats"), get(statistics))
            .route(&path("/infer"), any(infer));
    }
    routes.map(|router| errors_as_text(router, metrics.clone()))
}

/// The variable segments of a path.
#[derive(Debug, Deserialize)]
struct ModelPath {
    model: String,
    version: Option<String>,
}

impl ModelPath {
    fn version(&self) -> Version<'_> {
        self.version.as_deref().map_or(Version::Any, Version::Number)
    }
}

async fn server() -> Response {
    let body = json!({ "name": "tessera", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS });
    json(body.to_string().into_bytes())
}

async fn list(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    Ok(json(json!({ "models": catalog.model_names() }).to_string().into_bytes()))
}

async fn model(State(api): State<Arc<Api>>, Segments(path): Segments<ModelPath>) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let model = catalog.model(&path.model).map_err(lookup_failure)?;
    let deployed = model.version(path.version()).map_err(lookup_failure)?;
    Ok(json(json!(metadata(&model, deployed)).to_string().into_bytes()))
}

async fn ready(State(api): State<Arc<Api>>, Segments(path): Segments<ModelPath>) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let model = catalog.model(&path.model).map_err(lookup_failure)?;
    model.version(path.version()).map_err(lookup_failure)?;
    Ok(json(json!({ "name": model.name, "ready": true }).to_string().into_bytes()))
}

async fn config(State(api): State<Arc<Api>>, Segments(path): Segments<ModelPath>) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let model = catalog.model(&path.model).map_err(lookup_failure)?;
    let deployed = model.version(path.version()).map_err(lookup_failure)?;
    let config = open_inference::config(&model, deployed, api.settings.instances);
    let input = config
        .input
        .iter()
        .map(|input| json!({ "name": input.name, "data_type": input.data_type().as_str_name(), "dims": input.dims }));
    let output = config.output.iter().map(
        |output| json!({ "name": output.name, "data_type": output.data_type().as_str_name(), "dims": output.dims }),
    );
    let body = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "max_batch_size": config.max_batch_size,
        "input": input.collect::<Vec<_>>(),
        "output": output.collect::<Vec<_>>(),
    });
    Ok(json(body.to_string().into_bytes()))
}

async fn statistics(State(api): State<Arc<Api>>, Segments(path): Segments<ModelPath>) -> Result<Response, Failure> {
    statistics_of(&api, Some(&path.model), path.version())
}

async fn all_statistics(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    statistics_of(&api, None, Version::Any)
}

fn statistics_of(api: &Api, model: Option<&str>, version: Version<'_>) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let statistics = open_inference::statistics(&catalog, model, version).map_err(lookup_failure)?;
    let of = |model: &crate::protocol::generated::inference::ModelStatistics| {
        let times = model.inference_stats.unwrap_or_default();
        let duration = |part: Option<crate::protocol::generated::inference::StatisticDuration>| {
            let part = part.unwrap_or_default();
            json!({ "count": part.count, "ns": part.ns })
        };
        json!({
            "name": model.name,
            "version": model.version,
            "inference_count": model.inference_count,
            "inference_stats": {
                "success": duration(times.success),
                "fail": duration(times.fail),
                "queue": duration(times.queue),
                "compute_input": duration(times.compute_input),
                "compute_infer": duration(times.compute_infer),
                "compute_output": duration(times.compute_output),
            },
        })
    };
    let models: Vec<_> = statistics.iter().map(of).collect();
    Ok(json(json!({ "model_stats": models }).to_string().into_bytes()))
}

/// All models, as only those that are ready are here; the body may ask for these alone.
async fn index(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Failure> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, rename = "ready")]
        _ready: bool,
    }
    if request.method() != Method::POST {
        return Err(Failure(Status::method_not_allowed("POST")));
    }
    let limits = BodyLimits { bytes: api.settings.body_limit, timeout: api.settings.body_timeout };
    let body = read_body(request, limits).await.map_err(Status::from)?;
    if !body.trim_ascii().is_empty() {
        serde_json::from_slice::<Body>(&body).map_err(|error| {
            let message = format!("the body must be empty or an object, as in {{\"ready\": true}}: {error}");
            Status::new(Code::InvalidArgument, message)
        })?;
    }
    let catalog = api.service.catalog().map_err(failure)?;
    let models: Vec<_> = open_inference::index(&catalog)
        .into_iter()
        .map(|model| json!({ "name": model.name, "version": model.version, "state": model.state, "reason": model.reason }))
        .collect();
    Ok(json(json!(models).to_string().into_bytes()))
}

async fn repository() -> Failure {
    Failure(open_inference::no_repository())
}

async fn infer(State(api): State<Arc<Api>>, Segments(path): Segments<ModelPath>, request: Request) -> Response {
    if request.method() != Method::POST {
        return Failure(Status::method_not_allowed("POST")).into_response();
    }
    let target = Target::Model { name: &path.model, version: path.version() };
    exchanged(&api, target, &path.model, Length::Header, request).await
}

/// Where a binary body's length of JSON stands, in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Header,
    MediaType,
}

async fn exchanged<'a>(api: &'a Api, target: Target<'_>, name: &'a str, place: Length, request: Request) -> Response {
    let length = header_length(request.headers());
    Exchange::run(api, target, request, move |exchange| Box::pin(inferred(exchange, name, length, place))).await
}

/// How many bytes of a body are JSON, by the header of the binary extension or by a media type that says it.
fn header_length(headers: &HeaderMap) -> Result<Option<usize>, InferError> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
    let header = headers.get(LENGTH).map(text);
    let media_type = || {
        let value = text(headers.get(CONTENT_TYPE)?);
        let (media_type, parameters) = value.split_once(';')?;
        let is_it = media_type.trim().eq_ignore_ascii_case(BINARY_MEDIA_TYPE);
        let size = parameters.split(';').find_map(|part| part.trim().strip_prefix("json-header-size="));
        size.filter(|_| is_it).map(str::to_owned)
    };
    header
        .or_else(media_type)
        .map(|length| {
            length.parse().map_err(|_| InferError::field("Inference-Header-Content-Length", "must be a number"))
        })
        .transpose()
}

async fn inferred(
    exchange: &mut Exchange<'_>,
    name: &str,
    length: Result<Option<usize>, InferError>,
    place: Length,
) -> Result<Response, Status> {
    let told = |error: ServiceError| Status::from(&error);
    let body = std::mem::take(&mut exchange.body);
    let request = length.and_then(|length| wire::parse(&body, length));
    let mut request = request.map_err(|error| told(error.into()))?;
    drop(body);
    let parse = exchange.since_received();
    let Exchange { api, chosen, deadline, .. } = &*exchange;
    let answer = api.service.infer(chosen, &mut request, api.settings.instances, *deadline).await.map_err(told)?;
    let outputs = open_inference::outputs(&request, &answer.predictions).map_err(told)?;
    let mut binary = Vec::new();
    let tensors = outputs.iter().map(|output| {
        let is_binary = request.is_binary(&output.name);
        let begin = binary.len();
        if is_binary {
            output.rows.iter().for_each(|row| row.write_bytes(&mut binary));
        }
        OutputTensor {
            name: &output.name,
            datatype: wire::datatype(output.element_type),
            shape: &output.shape,
            parameters: is_binary.then(|| BinarySize { binary_data_size: binary.len() - begin }),
            data: (!is_binary).then(|| FlatView(&output.rows)),
        }
    });
    let outputs = tensors.collect::<Vec<_>>();
    let has_binary = outputs.iter().any(|output| output.parameters.is_some());
    let model_version = chosen.deployed.version();
    let head = InferResponse { model_name: name, model_version, id: request.id.as_deref(), outputs };
    let mut body = serde_json::to_vec(&head).map_err(|error| unwritable(&error))?;
    let json_length = body.len();
    body.append(&mut binary);
    let mut response = json(body);
    if has_binary {
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            match place {
                Length::Header => HeaderValue::from_static("application/octet-stream"),
                Length::MediaType => {
                    HeaderValue::from_str(&format!("{BINARY_MEDIA_TYPE};json-header-size={json_length}"))
                        .unwrap_or(HeaderValue::from_static(BINARY_MEDIA_TYPE))
                }
            },
        );
        if place == Length::Header {
            headers.insert(LENGTH, HeaderValue::from(json_length));
        }
    }
    Ok(exchange.timed(response, &answer, parse))
}

/// Answers a request to a predict route that names another one by `X-Vertex-Ai-Triton-Redirect`, as Triton does behind
/// Vertex AI: `v2/models/{model}[/versions/{n}]/infer` or `/ready`, of a model of the endpoint that was asked. A request
/// without that header is given back.
///
/// # Errors
/// The request itself.
pub async fn redirect(api: &Api, target: Target<'_>, request: Request) -> Result<Response, Request> {
    let Some(path) = request.headers().get(REDIRECT) else { return Err(request) };
    let path = String::from_utf8_lossy(path.as_bytes()).into_owned();
    let segments: Vec<&str> = path.trim().trim_matches('/').split('/').collect();
    let (name, version, last) = match *segments {
        ["v2", "models", name, last @ ("infer" | "ready")] => (name, None, last),
        ["v2", "models", name, "versions", version, last @ ("infer" | "ready")] => (name, Some(version), last),
        _ => {
            let message = "X-Vertex-Ai-Triton-Redirect must be v2/models/MODEL[/versions/VERSION]/infer or .../ready";
            return Ok(Failure(Status::bad_field("X-Vertex-Ai-Triton-Redirect", message)).into_response());
        }
    };
    let session = session(request.headers());
    Ok(match api.service.within(target, name, version.map_or(Version::Any, Version::Number), session) {
        Ok((endpoint, id)) if last == "infer" => {
            let target = Target::DeployedModel { endpoint: &endpoint, id: &id };
            exchanged(api, target, name, Length::MediaType, request).await
        }
        Ok(_) => json(json!({ "name": name, "ready": true }).to_string().into_bytes()),
        Err(error) => {
            let status = Status::from(&error);
            api.metrics.error(status.code.name());
            Failure(status).into_response()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_the_json() {
        let length = |name: HeaderName, value: &'static str| {
            header_length(&HeaderMap::from_iter([(name, HeaderValue::from_static(value))]))
        };
        assert_eq!(length(LENGTH, "17"), Ok(Some(17)));
        assert!(length(LENGTH, "-1").is_err() && length(LENGTH, "x").is_err());
        assert_eq!(
            length(CONTENT_TYPE, "application/vnd.vertex-ai-triton.binary+json; json-header-size=5"),
            Ok(Some(5))
        );
        assert_eq!(length(CONTENT_TYPE, "application/json;json-header-size=5"), Ok(None));
        assert_eq!(header_length(&HeaderMap::new()), Ok(None));
    }
}
