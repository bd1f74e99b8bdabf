//! `/invoke/...`: paths of a model's own, below the endpoint under which it is deployed.
//!
//! For models that ask for it by `invoke = true` in `model.toml`. On Vertex AI these are whatever paths the model's
//! container serves; here they are those by which a container of Tessera's is asked for one model:
//!
//! ```text
//! POST predict                      as a container's predict route
//! GET  health                       200
//! any  v1/models/{model}...         KServe's first protocol and TensorFlow Serving's
//! any  v2/models/{model}..., v2     the Open Inference Protocol
//! ```
//!
//! `{model}` is the deployed model's own name. Nothing else is within reach: no metrics, no management, no other model.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{Method, Uri};
use serde::Deserialize;
use tower::ServiceExt;

use super::exchange::session;
use super::predict::{RawRoute, raw};
use super::respond::{Failure, json};
use super::{Api, Segments, failure, method_not_allowed, models, not_found, open_inference};
use crate::protocol::status::{Code, Status};
use crate::service::{Chosen, Target};

/// What the handler needs.
struct Invoke {
    api: Arc<Api>,
    /// The routes that know models by their names.
    by_name: Router,
}

/// The paths of the routes, in both versions.
pub fn paths() -> Vec<String> {
    let paths = |version: &str| {
        let endpoint = format!("/{version}/projects/{{project}}/locations/{{location}}/endpoints/{{endpoint}}");
        ["", "/deployedModels/{deployed_model}"].map(|deployed| format!("{endpoint}{deployed}/invoke/{{*path}}"))
    };
    ["v1", "v1beta1"].into_iter().flat_map(paths).collect()
}

/// The routes.
pub fn router(api: &Arc<Api>) -> Router {
    let by_name =
        models::routes(&api.metrics).merge(open_inference::routes(&api.metrics)).into_router().with_state(api.clone());
    let by_name = by_name.fallback(not_found).method_not_allowed_fallback(method_not_allowed);
    let router = paths().iter().fold(Router::new(), |router, path| router.route(path, any(invoke)));
    router.with_state(Arc::new(Invoke { api: api.clone(), by_name }))
}

/// The variable segments of a path.
#[derive(Deserialize)]
struct InvokePath {
    endpoint: String,
    deployed_model: Option<String>,
    path: String,
}

async fn invoke(
    State(invoke): State<Arc<Invoke>>,
    Segments(asked): Segments<InvokePath>,
    request: Request,
) -> Response {
    let target = match &asked.deployed_model {
        Some(id) => Target::DeployedModel { endpoint: &asked.endpoint, id },
        None => Target::Endpoint(&asked.endpoint),
    };
    let chosen = match invoke.api.service.choose_for(target, session(request.headers())) {
        Ok(chosen) => chosen,
        Err(error) => return failure(error).into_response(),
    };
    if !chosen.deployed.invoke {
        let message = format!(
            "the model `{}` does not ask for /invoke: set `invoke = true` in its model.toml, or `invokeRoutePrefix` when it \
             is uploaded, or use predict",
            chosen.deployed.model.name
        );
        return Failure(Status::new(Code::FailedPrecondition, message)).into_response();
    }
    match (asked.path.as_str(), request.method()) {
        ("predict", &Method::POST) => {
            let id = &chosen.deployed.fields.deployed_model_id;
            let target = Target::DeployedModel { endpoint: &chosen.endpoint.id, id };
            raw(&invoke.api, target, RawRoute::Container, request).await
        }
        ("predict", _) => Failure(Status::method_not_allowed("POST")).into_response(),
        // Whoever is chosen is loaded.
        ("health", &Method::GET | &Method::HEAD) => json(br#"{"status":"READY"}"#.to_vec()),
        (path, _) if names(path, &chosen) => forward(invoke.by_name.clone(), path, chosen, request).await,
        _ => Failure(unknown(&chosen)).into_response(),
    }
}

/// Whether a path is one of the model's by its name.
fn names(path: &str, chosen: &Chosen) -> bool {
    let named = path.strip_prefix("v1/models/").or_else(|| path.strip_prefix("v2/models/"));
    let is_end = |rest: &str| rest.is_empty() || rest.starts_with(['/', ':']);
    let is_own = |named: &str| named.strip_prefix(chosen.deployed.model.name.as_str()).is_some_and(is_end);
    named.is_some_and(is_own) || matches!(path, "v2" | "v2/health/live" | "v2/health/ready")
}

async fn forward(routes: Router, path: &str, chosen: Chosen, mut request: Request) -> Response {
    // So that nobody chooses again by the model's name.
    request.extensions_mut().insert(chosen);
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(uri) = Uri::try_from(format!("/{path}{query}")) else {
        return Failure(Status::new(Code::NotFound, "the path can't be read")).into_response();
    };
    *request.uri_mut() = uri;
    routes.oneshot(request).await.unwrap_or_else(|never| match never {})
}

fn unknown(chosen: &Chosen) -> Status {
    let name = &chosen.deployed.model.name;
    let message = format!(
        "the model has no such path; it has predict, health, v1/models/{name}:predict, v2/models/{name}/infer and what \
         else belongs to these"
    );
    Status::new(Code::NotFound, message)
}
