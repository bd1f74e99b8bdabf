//! `directPredict`, `serverStreamingPredict` and `directRawPredict` over HTTP: their messages as proto3 JSON.

use axum::extract::Request;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use prost::{Message, Name};

use super::Api;
use super::exchange::{Exchange, unwritable};
use super::respond::json;
use super::stream::respond;
use crate::protocol::generated::google::cloud::aiplatform::v1 as wire;
use crate::protocol::proto_json;
use crate::protocol::status::{Code, Status};
use crate::service::{Answer, Chosen, InputSet, Service, ServiceError, Target, input_sets, read_direct, write_direct};

/// Tensors in, tensors out.
pub async fn predict(api: &Api, target: Target<'_>, request: Request) -> Response {
    Exchange::run(api, target, request, |exchange| Box::pin(predicted(exchange))).await
}

async fn predicted(exchange: &mut Exchange<'_>) -> Result<Response, Status> {
    let wire::DirectPredictRequest { inputs, parameters, .. } = read(exchange)?;
    let parse = exchange.since_received();
    let Exchange { api, chosen, deadline, .. } = &*exchange;
    let set = Set { inputs: inputs.into(), parameters, limit: api.settings.instances };
    let answer = set.answer(&api.service, chosen, *deadline).await?;
    let outputs = write_direct(&answer.predictions);
    let body = write(&wire::DirectPredictResponse { outputs, parameters: None })?;
    Ok(exchange.timed(json(body), &answer, parse))
}

/// Several sets of tensors in, an answer for each out, one after the other.
pub async fn server_streaming(api: &Api, target: Target<'_>, request: Request) -> Response {
    Exchange::run(api, target, request, |exchange| Box::pin(streamed(exchange))).await
}

async fn streamed(exchange: &mut Exchange<'_>) -> Result<Response, Status> {
    let wire::StreamingPredictRequest { inputs, parameters, .. } = read(exchange)?;
    let parse = exchange.since_received();
    let Exchange { api, chosen, deadline, framing, .. } = &*exchange;
    let (deadline, limit) = (*deadline, api.settings.instances);
    let sets = input_sets(&chosen.deployed.model, inputs).map_err(|error| Status::from(&error))?;
    let mut sets = sets.into_iter().map(move |inputs| Set { inputs, parameters: parameters.clone(), limit });
    let piece = |answer: &Answer| {
        write(&wire::StreamingPredictResponse { outputs: write_direct(&answer.predictions), parameters: None })
    };
    // The first answer is awaited before the head is sent, so that what is wrong with the request has its own status.
    // There is at least one set.
    let first = match sets.next() {
        Some(set) => set.answer(&api.service, chosen, deadline).await?,
        None => return Err(Status::new(Code::Internal, "there is no set of inputs")),
    };
    let (service, metrics, chosen) = (api.service.clone(), api.metrics.clone(), chosen.clone());
    let rest = stream::iter(sets).then(move |set| {
        let (service, metrics, chosen) = (service.clone(), metrics.clone(), chosen.clone());
        async move {
            let begin = std::time::Instant::now();
            let answer = set.answer(&service, &chosen, deadline).await;
            let answer = answer.inspect_err(|status| metrics.error(status.code.name()))?;
            answer.count(&chosen.deployed, &metrics, std::time::Duration::ZERO, begin.elapsed());
            piece(&answer)
        }
    });
    let response = respond(*framing, stream::iter([piece(&first)]).chain(rest));
    Ok(exchange.timed(response, &first, parse))
}

/// The model's inputs, once, and how they are asked.
struct Set {
    inputs: InputSet,
    parameters: Option<wire::Tensor>,
    limit: usize,
}

impl Set {
    async fn answer(
        self,
        service: &Service,
        chosen: &Chosen,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, Status> {
        let answer = async {
            let Self { inputs, parameters, limit } = self;
            let question = read_direct(&chosen.deployed.model, inputs, parameters.as_ref(), limit)?;
            service.evaluator.predict(chosen, question.instances, question.parameters.as_deref(), deadline).await
        };
        answer.await.map_err(|error: ServiceError| {
            error.log(chosen);
            Status::from(&error)
        })
    }
}

/// A method of one of this server's own services, by its name.
pub async fn raw(api: &Api, target: Target<'_>, request: Request) -> Response {
    let headers = request.headers().clone();
    Exchange::run(api, target, request, |exchange| Box::pin(called(exchange, headers))).await
}

async fn called(exchange: &mut Exchange<'_>, headers: HeaderMap) -> Result<Response, Status> {
    let wire::DirectRawPredictRequest { method_name, input, .. } = read(exchange)?;
    let Exchange { api, chosen, deadline, .. } = &*exchange;
    let called = api.methods.call_for_http(&chosen.endpoint.id, &method_name, input, &headers, *deadline).await?;
    Ok(json(write(&wire::DirectRawPredictResponse { output: called.output })?))
}

/// The body as a message.
pub fn read<M: Message + Name + Default>(exchange: &mut Exchange<'_>) -> Result<M, Status> {
    let body = std::mem::take(&mut exchange.body);
    proto_json::read(&body).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))
}

/// A message as a body.
pub fn write<M: Message + Name>(message: &M) -> Result<Vec<u8>, Status> {
    let json = proto_json::write(message).map_err(|error| unwritable(&error))?;
    Ok(json.to_string().into_bytes())
}
