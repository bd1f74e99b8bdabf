//! `PredictionService`: from Google's messages to instances, from predictions to Google's messages.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream;
use prost_types::Value;
use tonic::codegen::BoxStream;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Response};

use super::Grpc;
use super::call::Call;
use super::status::to_tonic;
use super::value;

use crate::protocol::generated::google::api::HttpBody;
use crate::protocol::generated::google::cloud::aiplatform::v1::prediction_service_server::PredictionService;
use crate::protocol::generated::google::cloud::aiplatform::v1::{
    PredictRequest, PredictResponse, RawPredictRequest, StreamRawPredictRequest,
};
use crate::protocol::status::{Code, Status};
use crate::protocol::vertex::{self, RequestError};
use crate::service::{Chosen, RawRequest, ServiceError, Target, read_raw};
use crate::task::{Instance, Prediction};

/// Names the endpoint where a request's own field doesn't.
const ENDPOINT: &str = "x-vertex-ai-endpoint-id";
const DEPLOYED_MODEL: &str = "x-vertex-ai-deployed-model-id";

/// The methods, for both versions.
pub struct Predictions {
    grpc: Arc<Grpc>,
}

impl Predictions {
    /// On top of a service.
    pub fn new(grpc: Arc<Grpc>) -> Self {
        Self { grpc }
    }

    /// Answers a call and counts it: `read` makes instances of the message, `write` a message of the predictions.
    async fn answer<T>(
        &self,
        head: Head,
        endpoint: &str,
        read: impl FnOnce() -> Result<RawRequest, Status>,
        write: impl FnOnce(&Chosen, &[Prediction]) -> Result<T, serde_json::Error>,
    ) -> Result<Response<T>, tonic::Status> {
        let Grpc { service, metrics, .. } = &*self.grpc;
        let endpoint = head.endpoint(endpoint).map_err(|status| to_tonic(&status))?;
        let chosen = service.choose(Target::Endpoint(endpoint)).map_err(|error| {
            let status = Status::from(&error);
            metrics.answered_unknown(status.http_status().as_u16());
            to_tonic(&status)
        })?;
        let answered = self.predict_with(&head.call, &chosen, read, write).await;
        let http = answered.as_ref().map_or_else(|status| status.http_status().as_u16(), |_| 200);
        chosen.deployed.metrics.answered(http);
        let mut response = Response::new(answered.map_err(|status| to_tonic(&status))?);
        name_the_model(response.metadata_mut(), &chosen);
        Ok(response)
    }

    async fn predict_with<T>(
        &self,
        call: &Call,
        chosen: &Chosen,
        read: impl FnOnce() -> Result<RawRequest, Status>,
        write: impl FnOnce(&Chosen, &[Prediction]) -> Result<T, serde_json::Error>,
    ) -> Result<T, Status> {
        let Grpc { service, metrics, .. } = &*self.grpc;
        let received = Instant::now();
        let RawRequest { instances, parameters } = read()?;
        let parse = received.elapsed();
        let answer = service
            .predict_instances(chosen, instances, parameters.as_deref(), call.deadline)
            .await
            .inspect_err(|error| error.log(chosen))
            .map_err(|error| Status::from(&error))?;
        let message = write(chosen, &answer.predictions).map_err(|error| {
            tracing::error!(%error, "an answer could not be written as a message");
            Status::new(Code::Internal, "the answer could not be written as a message")
        })?;
        answer.count(&chosen.deployed, metrics, parse, call.arrived.elapsed());
        Ok(message)
    }

    /// What both raw methods do.
    async fn raw(
        &self,
        head: Head,
        endpoint: &str,
        body: Option<HttpBody>,
    ) -> Result<Response<HttpBody>, tonic::Status> {
        let HttpBody { content_type, data, .. } = body.unwrap_or_default();
        let limit = self.grpc.settings.instances;
        let read = move || read_raw(&content_type, &data, limit).map_err(refused);
        self.answer(head, endpoint, read, |_, predictions| {
            let body = serde_json::to_vec(&vertex::PredictResponse { predictions, deployed_model: None })?;
            Ok(HttpBody { content_type: "application/json".to_owned(), data: body.into(), extensions: Vec::new() })
        })
        .await
    }
}

#[tonic::async_trait]
impl PredictionService for Predictions {
    async fn predict(&self, request: Request<PredictRequest>) -> Result<Response<PredictResponse>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let PredictRequest { endpoint, instances, parameters, .. } = request.into_inner();
        let limit = self.grpc.settings.instances;
        self.answer(head, &endpoint, move || read_values(instances, parameters, limit), write_values).await
    }

    async fn raw_predict(&self, request: Request<RawPredictRequest>) -> Result<Response<HttpBody>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let RawPredictRequest { endpoint, http_body } = request.into_inner();
        self.raw(head, &endpoint, http_body).await
    }

    /// One body: no model here gives its answer piece by piece.
    async fn stream_raw_predict(
        &self,
        request: Request<StreamRawPredictRequest>,
    ) -> Result<Response<BoxStream<HttpBody>>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let StreamRawPredictRequest { endpoint, http_body } = request.into_inner();
        let response = self.raw(head, &endpoint, http_body).await?;
        Ok(response.map(|body| -> BoxStream<HttpBody> { Box::pin(stream::iter(Some(Ok(body)))) }))
    }
}

/// What a call says beside its message.
struct Head {
    call: Call,
    endpoint: Option<MetadataValue<Ascii>>,
}

impl Head {
    fn of<T>(request: &Request<T>, grpc: &Grpc) -> Self {
        let call = request.extensions().get::<Call>().copied();
        Self {
            call: call.unwrap_or_else(|| Call::new(grpc.settings.request_timeout)),
            endpoint: request.metadata().get(ENDPOINT).cloned(),
        }
    }

    /// The id of the endpoint: the last segment of the message's own name, or what the metadata says. Project and
    /// location are whatever the client believes them to be.
    fn endpoint<'a>(&'a self, name: &'a str) -> Result<&'a str, Status> {
        let metadata = || self.endpoint.as_ref().and_then(|value| value.to_str().ok());
        let named = Some(name).filter(|name| !name.is_empty()).or_else(metadata);
        named.map(|name| name.rsplit('/').next().unwrap_or(name)).filter(|id| !id.is_empty()).ok_or_else(|| {
            let message = "endpoint is missing: it must be projects/PROJECT/locations/LOCATION/endpoints/ENDPOINT";
            Status::bad_field("endpoint", message)
        })
    }
}

fn refused(error: RequestError) -> Status {
    Status::from(&ServiceError::from(error))
}

fn read_values(instances: Vec<Value>, parameters: Option<Value>, limit: usize) -> Result<RawRequest, Status> {
    match instances.len() {
        0 => return Err(refused(RequestError::EmptyInstances)),
        count if count > limit => return Err(refused(RequestError::TooMany(limit))),
        _ => {}
    }
    let json = |value: &Value, field: &dyn Fn() -> String| -> Result<Bytes, Status> {
        value::to_json(value).map_err(|error| {
            let field = field();
            let message = format!("{field} can't be read: {error}");
            Status::bad_field(field, message)
        })
    };
    let parameters = parameters
        .filter(|value| !value::is_null(value))
        .map(|value| json(&value, &|| "parameters".to_owned()))
        .transpose()?;
    let instances = instances
        .into_iter()
        .enumerate()
        .map(|(index, value)| Ok(Instance::Json(json(&value, &|| format!("instances[{index}]"))?)))
        .collect::<Result<_, Status>>()?;
    Ok(RawRequest { instances, parameters })
}

fn write_values(chosen: &Chosen, predictions: &[Prediction]) -> Result<PredictResponse, serde_json::Error> {
    let fields = &chosen.deployed.fields;
    Ok(PredictResponse {
        predictions: predictions.iter().map(value::from_serialize).collect::<Result<_, _>>()?,
        deployed_model_id: fields.deployed_model_id.clone(),
        model: fields.model.clone(),
        model_display_name: fields.model_display_name.clone(),
        model_version_id: fields.model_version_id.clone(),
        metadata: None,
    })
}

/// The metadata by which Vertex says who answered.
fn name_the_model(metadata: &mut MetadataMap, chosen: &Chosen) {
    for (name, value) in [(ENDPOINT, &chosen.endpoint.id), (DEPLOYED_MODEL, &chosen.deployed.fields.deployed_model_id)]
    {
        // Ids are checked when they are configured.
        if let Ok(value) = value.parse() {
            metadata.insert(name, value);
        }
    }
}
