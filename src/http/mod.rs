//! HTTP: bytes to requests, outcomes to bytes. No decision about models is taken here.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::{Method, Uri};
use serde_json::json;

use crate::endpoint::LookupError;
use crate::grpc::Methods;
use crate::management::{Management, Version};
use crate::observe::Metrics;
use crate::protocol::status::{Code, Status};
use crate::service::{Service, ServiceError, Target};

mod describe;
mod direct;
mod exchange;
mod explain;
mod invoke;
mod management;
pub mod middleware;
mod models;
mod open_inference;
mod openapi;
pub mod operations;
mod predict;
mod respond;
mod routes;
mod stream;
mod table;
mod wrapped;

use predict::RawRoute;
pub use respond::Failure;
use routes::{Action, ResourceVerb, Verb, action};
use table::Routes;

/// What requests may cost.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// The largest body, unpacked, in bytes.
    pub body_limit: usize,
    /// The most instances of one request.
    pub instances: usize,
    /// The deadline of a request that names none.
    pub request_timeout: Duration,
    /// The longest time that a body may take to arrive.
    pub body_timeout: Duration,
}

/// What the handlers share.
pub struct Api {
    /// Predicts.
    pub service: Arc<Service>,
    /// Makes and changes endpoints and models.
    pub management: Arc<Management>,
    /// Calls methods by their names.
    pub methods: Arc<Methods>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Limits.
    pub settings: ApiSettings,
}

/// The routes of the API. Health and metrics are in [`operations`].
pub fn router(api: Arc<Api>) -> Router {
    let invoke = invoke::router(&api);
    routes(&api.metrics).into_router().with_state(api).merge(invoke)
}

/// The table of these routes.
fn routes(metrics: &Arc<Metrics>) -> Routes<Arc<Api>> {
    let mut routes = Routes::new()
        .route("/", get(index))
        .route("/v1/endpoints", get(index))
        .route("/predict", any(predict_default))
        .route("/v1/endpoints/{target}", any(endpoint))
        .route("/v1/endpoints/{endpoint}/deployedModels/{target}", any(deployed_model));
    for version in ["v1", "v1beta1"] {
        let path = format!("/{version}/projects/{{project}}/locations/{{location}}/endpoints/{{target}}");
        let rest = format!("/{version}/projects/{{project}}/locations/{{location}}/{{*rest}}");
        routes = routes.route(&path, any(resource)).route(&rest, any(managed));
    }
    let named = models::routes(metrics).merge(open_inference::routes(metrics));
    let routes = routes.route("/ui/{*name}", any(managed)).merge(named);
    let described = openapi::routes(&[routes.paths(), operations::routes().paths(), &invoke::paths()]);
    routes.merge(described)
}

/// The answer for a path that doesn't exist.
pub async fn not_found(uri: Uri) -> Response {
    let path: String = uri.path().chars().take(100).collect();
    let status = Status::new(Code::NotFound, format!("there is nothing at {path}; GET / lists what is served here"));
    failed_at(uri.path(), status)
}

/// The answer for a method that a path doesn't take. Those that take anything but reading check it themselves.
pub async fn method_not_allowed(uri: Uri) -> Response {
    failed_at(uri.path(), Status::method_not_allowed("GET, HEAD"))
}

/// A failure in the form that belongs to a path: TensorFlow Serving's, KServe's and Triton's is `{"error": "text"}`.
pub fn failed_at(path: &str, status: Status) -> Response {
    let is_below =
        |face: &str| path.strip_prefix(face).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':']));
    let response = Failure(status).into_response();
    if ["/v1/models", "/v2"].into_iter().any(is_below) { respond::with_text(response) } else { response }
}

async fn index(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let endpoints: Vec<_> = catalog.endpoints().map(|endpoint| describe::endpoint(endpoint)).collect();
    let default = catalog.default_endpoint().ok().map(|endpoint| endpoint.id.clone());
    let body = json!({
        "server": concat!("Tessera ", env!("CARGO_PKG_VERSION")),
        // By which KServe's clients know that a server lives.
        "status": "alive",
        "description": "/openapi.json",
        "documentation": "/docs/",
        "defaultEndpoint": default,
        "endpoints": endpoints,
    });
    Ok(respond::json(body.to_string().into_bytes()))
}

async fn predict_default(State(api): State<Arc<Api>>, request: Request) -> Response {
    match request.method() {
        &Method::POST => predict::raw(&api, Target::Default, RawRoute::Container, request).await,
        _ => Failure(Status::method_not_allowed("POST")).into_response(),
    }
}

/// The variable segments of a path. One that isn't UTF-8 names nothing that could exist.
#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(Failure))]
struct Segments<T>(T);

impl From<PathRejection> for Failure {
    fn from(_: PathRejection) -> Self {
        Self(not_utf8())
    }
}

fn not_utf8() -> Status {
    Status::new(Code::NotFound, "there is nothing at this path: it is not valid UTF-8 once it is decoded")
}

async fn endpoint(State(api): State<Arc<Api>>, Segments(target): Segments<String>, request: Request) -> Response {
    endpoint_action(&api, &target, request).await
}

/// Project and location are whatever the client believes them to be: a self-hosted server has only one of each.
async fn resource(
    State(api): State<Arc<Api>>,
    Segments((_project, _location, target)): Segments<(String, String, String)>,
    request: Request,
) -> Response {
    match management::is_for_endpoint(ResourceVerb::split(&target).verb, request.method()) {
        true => manage(&api, request).await,
        false => endpoint_action(&api, &target, request).await,
    }
}

async fn managed(State(api): State<Arc<Api>>, request: Request) -> Response {
    manage(&api, request).await
}

/// Everything that is about resources rather than predictions.
async fn manage(api: &Api, request: Request) -> Response {
    let path = match percent_encoding::percent_decode_str(request.uri().path()).decode_utf8() {
        Ok(path) => path.into_owned(),
        Err(_) => return Failure(not_utf8()).into_response(),
    };
    let (version, name) = match path.trim_start_matches('/').split_once('/') {
        Some(("v1beta1", name)) => (Version::V1Beta1, name),
        Some((_, name)) => (Version::V1, name),
        None => (Version::V1, ""),
    };
    management::handle(api, version, name, request).await
}

async fn endpoint_action(api: &Api, target: &str, request: Request) -> Response {
    let ResourceVerb { resource, verb } = ResourceVerb::split(target);
    match action(verb, request.method()) {
        Ok(Action::Ask(verb)) => ask(api, Target::Endpoint(resource), verb, request).await,
        Ok(Action::Describe) => describe_endpoint(api, resource).into_response(),
        Err(status) => Failure(status).into_response(),
    }
}

async fn ask(api: &Api, target: Target<'_>, verb: Verb, request: Request) -> Response {
    match verb {
        Verb::Predict => predict::predict(api, target, request).await,
        Verb::RawPredict => predict::raw(api, target, RawRoute::Raw, request).await,
        Verb::StreamRawPredict => predict::raw(api, target, RawRoute::Stream, request).await,
        Verb::DirectPredict => direct::predict(api, target, request).await,
        Verb::DirectRawPredict => direct::raw(api, target, request).await,
        Verb::ServerStreamingPredict => direct::server_streaming(api, target, request).await,
        Verb::Explain => explain::explain(api, target, request).await,
    }
}

fn describe_endpoint(api: &Api, id: &str) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let endpoint = catalog.endpoint(id).map_err(lookup_failure)?;
    Ok(respond::json(describe::endpoint(endpoint).to_string().into_bytes()))
}

/// The container's routes; GET without a verb is the default health route of Vertex, so it answers 503 while loading.
async fn deployed_model(
    State(api): State<Arc<Api>>,
    Segments((endpoint, target)): Segments<(String, String)>,
    request: Request,
) -> Response {
    let ResourceVerb { resource: id, verb } = ResourceVerb::split(&target);
    match action(verb, request.method()) {
        Ok(Action::Ask(verb)) => {
            let target = Target::DeployedModel { endpoint: &endpoint, id };
            match verb {
                // Vertex's own default for a container's predict route.
                Verb::Predict => predict::raw(&api, target, RawRoute::Container, request).await,
                verb => ask(&api, target, verb, request).await,
            }
        }
        Ok(Action::Describe) => describe_deployed_model(&api, &endpoint, id).into_response(),
        Err(status) => Failure(status).into_response(),
    }
}

fn describe_deployed_model(api: &Api, endpoint: &str, id: &str) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let endpoint = catalog.endpoint(endpoint).map_err(lookup_failure)?;
    let deployed = endpoint.deployed_model(id).map_err(lookup_failure)?;
    Ok(respond::json(describe::deployed_model(deployed).to_string().into_bytes()))
}

fn failure(error: ServiceError) -> Failure {
    Failure(Status::from(&error))
}

fn lookup_failure(error: LookupError) -> Failure {
    failure(ServiceError::Lookup(error))
}

/// Paths that Vertex chose for this container's health and predict routes. They may be any path, also one that means
/// something else here, so they are matched whole and before all others.
#[derive(Debug, Clone, Default)]
pub struct RouteAliases {
    /// Answers as `/health`.
    pub health: Option<String>,
    /// Answers as `/predict`.
    pub predict: Option<String>,
}

impl RouteAliases {
    /// Puts the aliases in front of a router.
    pub fn wrap(self, router: Router) -> Router {
        if self.health.is_none() && self.predict.is_none() {
            return router;
        }
        let rewrite = move |mut request: Request| {
            let path = request.uri().path();
            let is = |alias: &Option<String>| alias.as_deref() == Some(path);
            let canonical = match () {
                () if is(&self.predict) => Some("/predict"),
                () if is(&self.health) => Some("/health"),
                () => None,
            };
            if let Some(path) = canonical {
                let asked = std::mem::replace(request.uri_mut(), Uri::from_static(path));
                request.extensions_mut().insert(middleware::AskedUri(asked));
            }
            request
        };
        // A layer on the router itself would run only after the path was matched.
        Router::new().fallback_service(tower::util::MapRequest::new(router, rewrite))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let metrics = Arc::new(Metrics::new().unwrap());
        for path in routes(&metrics).paths().iter().chain(operations::routes().paths()).chain(&invoke::paths()) {
            assert!(openapi::operations(path).is_some(), "{path}: say in src/http/openapi/paths.rs what it is for");
        }
    }
}
