//! `PredictionService`: from Google's messages to questions, from predictions to Google's messages.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use prost_types::Value;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Streaming};

use super::Grpc;
use super::ask::{Head, name_the_model, unwritable};
use super::methods::Methods;
use super::status::to_tonic;
use super::streams::{Streams, in_order};
use crate::protocol::generated::google::api::HttpBody;
use crate::protocol::generated::google::cloud::aiplatform::v1 as wire;
use crate::protocol::generated::google::cloud::aiplatform::v1::prediction_service_server::PredictionService;
use crate::protocol::status::Status;
use crate::protocol::tf_serving::Form;
use crate::protocol::value;
use crate::protocol::vertex::RequestError;
use crate::service::{Chosen, Question, ServiceError, Target, input_sets, read_direct, read_raw, write_direct};
use crate::task::{Instance, Prediction};

/// The methods, for both versions.
pub struct Predictions {
    grpc: Arc<Grpc>,
    streams: Streams,
}

impl Predictions {
    /// On top of a service. Without `methods` those that call a method by its name are not there.
    pub fn new(grpc: Arc<Grpc>, streams: Streams) -> Self {
        Self { grpc, streams }
    }

    /// Answers a call: `read` makes a question of the message for whoever answers, with something that `write` needs.
    async fn answer<C, T>(
        &self,
        head: Head,
        endpoint: &str,
        read: impl FnOnce(&Chosen) -> Result<(Question, C), Status>,
        write: impl FnOnce(&Chosen, &[Prediction], C) -> Result<T, serde_json::Error>,
    ) -> Result<Response<T>, tonic::Status> {
        let outcome = async {
            let chosen = self.grpc.choose_of(&head, endpoint)?;
            let write = |predictions: &[Prediction], context| write(&chosen, predictions, context);
            let message = self.grpc.ask(head.call, &chosen, || read(&chosen), write).await?;
            Ok((message, chosen))
        };
        let (message, chosen) = outcome.await.map_err(|status: Status| to_tonic(&status))?;
        let mut response = Response::new(message);
        name_the_model(response.metadata_mut(), &chosen);
        Ok(response)
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
        let read = move |_: &Chosen| read_raw(&content_type, &data, limit).map_err(refused);
        self.answer(head, endpoint, read, |_, predictions, form| {
            let data = form.write(predictions)?.into();
            Ok(HttpBody { content_type: form.media_type().to_owned(), data, extensions: Vec::new() })
        })
        .await
    }
}

#[tonic::async_trait]
impl PredictionService for Predictions {
    async fn predict(
        &self,
        request: Request<wire::PredictRequest>,
    ) -> Result<Response<wire::PredictResponse>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let wire::PredictRequest { endpoint, instances, parameters, .. } = request.into_inner();
        let limit = self.grpc.settings.instances;
        let read = move |_: &Chosen| Ok((read_values(instances, parameters, limit)?, ()));
        self.answer(head, &endpoint, read, |chosen, predictions, ()| write_values(chosen, predictions)).await
    }

    async fn raw_predict(
        &self,
        request: Request<wire::RawPredictRequest>,
    ) -> Result<Response<HttpBody>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let wire::RawPredictRequest { endpoint, http_body } = request.into_inner();
        self.raw(head, &endpoint, http_body).await
    }

    /// One body: no model here gives its answer piece by piece.
    async fn stream_raw_predict(
        &self,
        request: Request<wire::StreamRawPredictRequest>,
    ) -> Result<Response<BoxStream<HttpBody>>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let wire::StreamRawPredictRequest { endpoint, http_body } = request.into_inner();
        let response = self.raw(head, &endpoint, http_body).await?;
        Ok(response.map(|body| -> BoxStream<HttpBody> { Box::pin(stream::iter(Some(Ok(body)))) }))
    }

    async fn direct_predict(
        &self,
        request: Request<wire::DirectPredictRequest>,
    ) -> Result<Response<wire::DirectPredictResponse>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let wire::DirectPredictRequest { endpoint, inputs, parameters } = request.into_inner();
        let limit = self.grpc.settings.instances;
        let read = move |chosen: &Chosen| {
            let question = read_direct(&chosen.deployed.model, inputs, parameters.as_ref(), limit);
            Ok((question.map_err(|error| Status::from(&error))?, ()))
        };
        self.answer(head, &endpoint, read, |_, predictions, ()| {
            Ok(wire::DirectPredictResponse { outputs: write_direct(predictions), parameters: None })
        })
        .await
    }

    /// An answer for each set of inputs, in their order.
    async fn server_streaming_predict(
        &self,
        request: Request<wire::StreamingPredictRequest>,
    ) -> Result<Response<BoxStream<wire::StreamingPredictResponse>>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let wire::StreamingPredictRequest { endpoint, inputs, parameters } = request.into_inner();
        let opened = (|| {
            let chosen = self.grpc.choose_of(&head, &endpoint)?;
            let sets = input_sets(&chosen.deployed.model, inputs).map_err(|error| Status::from(&error));
            match sets {
                Ok(sets) => Ok((chosen, sets)),
                Err(status) => self.grpc.counted(&chosen, Err(status)),
            }
        })();
        let (chosen, sets) = opened.map_err(|status| to_tonic(&status))?;
        let names = chosen.clone();
        let (grpc, call) = (self.grpc.clone(), head.call);
        let answers = in_order(stream::iter(sets).map(Ok), move |inputs| {
            let (grpc, chosen, parameters) = (grpc.clone(), chosen.clone(), parameters.clone());
            async move {
                let answer = grpc.direct(call, &chosen, inputs, parameters).await;
                answer.map(|outputs| wire::StreamingPredictResponse { outputs, parameters: None })
            }
        });
        let mut response = Response::new(answers);
        name_the_model(response.metadata_mut(), &names);
        Ok(response)
    }

    async fn streaming_predict(
        &self,
        request: Request<Streaming<wire::StreamingPredictRequest>>,
    ) -> Result<Response<BoxStream<wire::StreamingPredictResponse>>, tonic::Status> {
        self.streams.direct(&self.grpc, request)
    }

    async fn stream_direct_predict(
        &self,
        request: Request<Streaming<wire::StreamDirectPredictRequest>>,
    ) -> Result<Response<BoxStream<wire::StreamDirectPredictResponse>>, tonic::Status> {
        self.streams.direct(&self.grpc, request)
    }

    async fn direct_raw_predict(
        &self,
        request: Request<wire::DirectRawPredictRequest>,
    ) -> Result<Response<wire::DirectRawPredictResponse>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let methods = self.streams.methods()?;
        let passed = Methods::passed(request.metadata().as_ref());
        let wire::DirectRawPredictRequest { endpoint, method_name, input } = request.into_inner();
        let endpoint = head.endpoint(&endpoint).map_err(|status| to_tonic(&status))?;
        let answer = methods.call(endpoint, &method_name, input, passed, head.call).await?;
        Ok(answer.map(|output| wire::DirectRawPredictResponse { output }))
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let wire::ExplainRequest {
            endpoint, instances, parameters, explanation_spec_override, deployed_model_id, ..
        } = request.into_inner();
        let limit = self.grpc.settings.instances;
        let outcome = async {
            let endpoint = head.endpoint(&endpoint)?;
            let chosen = match deployed_model_id.as_str() {
                "" => self.grpc.choose_of(&head, endpoint)?,
                id => self.grpc.choose(&head, Target::DeployedModel { endpoint, id })?,
            };
            let read = || read_values(instances, parameters, limit);
            let explained = self.grpc.explain(head.call, &chosen, read, explanation_spec_override.as_ref()).await?;
            Ok((write_explained(&chosen, explained)?, chosen))
        };
        let (message, chosen) = outcome.await.map_err(|status: Status| to_tonic(&status))?;
        let mut response = Response::new(message);
        name_the_model(response.metadata_mut(), &chosen);
        Ok(response)
    }

    async fn streaming_raw_predict(
        &self,
        request: Request<Streaming<wire::StreamingRawPredictRequest>>,
    ) -> Result<Response<BoxStream<wire::StreamingRawPredictResponse>>, tonic::Status> {
        self.streams.direct_raw(&self.grpc, request)
    }

    async fn stream_direct_raw_predict(
        &self,
        request: Request<Streaming<wire::StreamDirectRawPredictRequest>>,
    ) -> Result<Response<BoxStream<wire::StreamDirectRawPredictResponse>>, tonic::Status> {
        self.streams.direct_raw(&self.grpc, request)
    }
}

fn refused(error: RequestError) -> Status {
    Status::from(&ServiceError::from(error))
}

fn read_values(instances: Vec<Value>, parameters: Option<Value>, limit: usize) -> Result<Question, Status> {
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
    Ok(Question { instances, parameters, form: Form::Rows })
}

fn write_explained(
    chosen: &Chosen,
    (explanations, predictions): (Vec<wire::Explanation>, Vec<Prediction>),
) -> Result<wire::ExplainResponse, Status> {
    Ok(wire::ExplainResponse {
        explanations,
        deployed_model_id: chosen.deployed.fields.deployed_model_id.clone(),
        predictions: predictions
            .iter()
            .map(value::from_serialize)
            .collect::<Result<_, _>>()
            .map_err(|error| unwritable(&error))?,
    })
}

fn write_values(chosen: &Chosen, predictions: &[Prediction]) -> Result<wire::PredictResponse, serde_json::Error> {
    let fields = &chosen.deployed.fields;
    Ok(wire::PredictResponse {
        predictions: predictions.iter().map(value::from_serialize).collect::<Result<_, _>>()?,
        deployed_model_id: fields.deployed_model_id.clone(),
        model: fields.model.clone(),
        model_display_name: fields.model_display_name.clone(),
        model_version_id: fields.model_version_id.clone(),
        metadata: None,
    })
}
