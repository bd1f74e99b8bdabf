//! gRPC: the same predictions as over HTTP, in Google's own messages. No decision about models is taken here.
//!
//! `PredictionService` of Vertex AI in both versions, the Open Inference Protocol's service, the standard health service, which follows readiness, and
//! reflection, as an axum router: what serves HTTP serves this too, on a port of its own and beside HTTP/1.1 on the API's.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use http::Uri;
use thiserror::Error;
use tonic::server::NamedService;
use tower::util::MapRequest;
use tower_http::catch_panic::CatchPanicLayer;

use crate::management::{Management, Version};
use crate::observe::Metrics;
use crate::protocol::generated;
use crate::protocol::generated::google::cloud::aiplatform::v1::endpoint_service_server::EndpointServiceServer;
use crate::protocol::generated::google::cloud::aiplatform::v1::model_service_server::ModelServiceServer;
use crate::protocol::generated::google::cloud::aiplatform::v1::prediction_service_server::PredictionServiceServer;
use crate::protocol::generated::google::longrunning::operations_server::OperationsServer;
use crate::protocol::generated::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use crate::protocol::status::Status;
use crate::server::Drain;
use crate::service::Service;

mod ask;
mod call;
mod health;
mod management;
mod methods;
mod open_inference;
mod prediction;
mod status;
mod streams;

pub use call::is_grpc;
use management::Managed;
pub use methods::Methods;
use open_inference::OpenInference;
use prediction::Predictions;
use streams::Streams;

/// The services under their other version, whose messages are the same.
const V1BETA1: &str = "google.cloud.aiplatform.v1beta1.PredictionService";
const V1BETA1_MODELS: &str = "google.cloud.aiplatform.v1beta1.ModelService";
const V1BETA1_ENDPOINTS: &str = "google.cloud.aiplatform.v1beta1.EndpointService";

/// The path of the health service's probe.
pub const PROBE: &str = "/grpc.health.v1.Health/Check";

/// What requests may cost.
#[derive(Debug, Clone)]
pub struct GrpcSettings {
    /// The largest message, in bytes.
    pub message_limit: usize,
    /// The most instances of one request.
    pub instances: usize,
    /// The deadline of a call that names none.
    pub request_timeout: Duration,
}

/// What the methods share.
pub struct Grpc {
    /// Predicts.
    pub service: Arc<Service>,
    /// Makes and changes endpoints and models.
    pub management: Arc<Management>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Limits.
    pub settings: GrpcSettings,
}

/// The descriptors that reflection is to show are not what it can read, which a test excludes.
#[derive(Debug, Error)]
#[error("gRPC reflection could not be set up: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// The routes of all gRPC services, without a fallback, and the methods among them that can be called by their names.
/// Health follows `drain` and the readiness that it turns.
///
/// # Errors
/// [`ReflectionError`].
pub async fn router(grpc: Arc<Grpc>, drain: &Drain) -> Result<(Router, Arc<Methods>), ReflectionError> {
    let limit = grpc.settings.message_limit;
    let predictions = |methods| {
        let streams = Streams::new(drain.clone(), methods);
        PredictionServiceServer::new(Predictions::new(grpc.clone(), streams)).max_decoding_message_size(limit)
    };
    let inner = predictions(None);
    let health = health::start(drain.clone(), [name_of(&inner), V1BETA1]).await.max_decoding_message_size(limit);
    let inference = OpenInference::new(grpc.clone(), Streams::new(drain.clone(), None), drain.clone());
    let inference = GrpcInferenceServiceServer::new(inference).max_decoding_message_size(limit);
    let callable = |predictions: PredictionServiceServer<Predictions>| {
        Router::new()
            .route_service(&path_of(V1BETA1), MapRequest::new(predictions.clone(), as_v1))
            .route_service(&path_of(name_of(&predictions)), predictions)
            .route_service(&path_of(name_of(&inference)), inference.clone())
            .route_service(&path_of(name_of(&health)), health.clone())
    };
    let methods = Arc::new(Methods::new(grpc.service.clone(), callable(inner), limit));
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(generated::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = descriptors().build_v1()?.max_decoding_message_size(limit);
    let reflection_alpha = descriptors().build_v1alpha()?.max_decoding_message_size(limit);
    let metrics = grpc.metrics.clone();
    let router = callable(predictions(Some(methods.clone())))
        .merge(managed(&grpc))
        .route_service(&path_of(name_of(&reflection)), reflection)
        .route_service(&path_of(name_of(&reflection_alpha)), reflection_alpha)
        .layer(CatchPanicLayer::custom(move |_| call::panicked(&metrics)))
        .layer(from_fn_with_state(grpc.clone(), call::accept));
    Ok((router, methods))
}

/// The services that make and change endpoints and models, and operations.
fn managed(grpc: &Grpc) -> Router {
    let limit = grpc.settings.message_limit;
    let of = |version| Managed { management: grpc.management.clone(), version };
    let models = |version| ModelServiceServer::new(of(version)).max_decoding_message_size(limit);
    let endpoints = |version| EndpointServiceServer::new(of(version)).max_decoding_message_size(limit);
    let operations = OperationsServer::new(of(Version::V1)).max_decoding_message_size(limit);
    let (v1_models, v1_endpoints) = (models(Version::V1), endpoints(Version::V1));
    Router::new()
        .route_service(&path_of(V1BETA1_MODELS), MapRequest::new(models(Version::V1Beta1), as_v1))
        .route_service(&path_of(V1BETA1_ENDPOINTS), MapRequest::new(endpoints(Version::V1Beta1), as_v1))
        .route_service(&path_of(name_of(&v1_models)), v1_models)
        .route_service(&path_of(name_of(&v1_endpoints)), v1_endpoints)
        .route_service(&path_of(name_of(&operations)), operations)
}

/// The answer for a service or a method that doesn't exist.
pub async fn unimplemented(uri: Uri) -> Response {
    call::unimplemented(uri.path())
}

/// The answer to a call that is refused.
pub fn refuse(status: &Status) -> Response {
    call::failed(status)
}

fn name_of<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

fn path_of(service: &str) -> String {
    format!("/{service}/{{*method}}")
}

/// A method of v1beta1 as that of v1.
fn as_v1(mut request: Request) -> Request {
    let path = request.uri().path().replacen(".v1beta1.", ".v1.", 1);
    // What was a path still is one; if not, the service answers that it doesn't know it.
    if let Ok(uri) = Uri::try_from(path) {
        *request.uri_mut() = uri;
    }
    request
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn versions_share_their_methods() {
        let request = |path: &str| Request::builder().uri(path).body(Body::empty()).unwrap();
        let path = "http://host:8500/google.cloud.aiplatform.v1beta1.PredictionService/Predict";
        let rewritten = as_v1(request(path));
        assert_eq!(rewritten.uri().path(), "/google.cloud.aiplatform.v1.PredictionService/Predict");
    }
}
