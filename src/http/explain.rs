//! `explain` over HTTP.

use axum::extract::Request;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::Api;
use super::exchange::{Exchange, unwritable};
use super::respond::json;
use crate::protocol::explain::{ExplainError, parse};
use crate::protocol::proto_json;
use crate::protocol::status::{Code, Status};
use crate::protocol::tf_serving::Form;
use crate::protocol::vertex::PredictRequest;
use crate::service::{Question, ServiceError, Target};
use crate::task::{Instance, Prediction};

/// What each feature contributes, for a list of instances.
pub async fn explain(api: &Api, target: Target<'_>, request: Request) -> Response {
    Exchange::run(api, target, request, |exchange| Box::pin(explained(exchange))).await
}

async fn explained(exchange: &mut Exchange<'_>) -> Result<Response, Status> {
    let body = std::mem::take(&mut exchange.body);
    let (PredictRequest { instances, parameters }, request) =
        parse(&body, exchange.api.settings.instances).map_err(refused)?;
    drop(body);
    let instances = instances.into_iter().map(Instance::Json).collect();
    let question = Question { instances, parameters, form: Form::Rows };
    let parse = exchange.since_received();
    if !request.deployed_model_id.is_empty() {
        let endpoint = exchange.chosen.endpoint.id.clone();
        let target = Target::DeployedModel { endpoint: &endpoint, id: &request.deployed_model_id };
        exchange.chosen = exchange.api.service.choose(target).map_err(|error| Status::from(&error))?;
    }
    let Exchange { api, chosen, deadline, .. } = &*exchange;
    let overrides = request.explanation_spec_override.as_ref();
    let (explanations, answer) =
        api.service.explain(chosen, question, overrides, *deadline).await.map_err(|error| {
            error.log(chosen);
            Status::from(&error)
        })?;
    let explanations = explanations.iter().map(proto_json::write).collect::<Result<_, _>>();
    let response = ExplainResponse {
        explanations: explanations.map_err(|error| unwritable(&error))?,
        deployed_model_id: &chosen.deployed.fields.deployed_model_id,
        predictions: &answer.predictions,
    };
    let body = serde_json::to_vec(&response).map_err(|error| unwritable(&error))?;
    Ok(exchange.timed(json(body), &answer, parse))
}

/// The message, but for its predictions, which are written as those of `predict` are.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExplainResponse<'a> {
    explanations: Vec<Value>,
    deployed_model_id: &'a str,
    predictions: &'a [Prediction],
}

fn refused(error: ExplainError) -> Status {
    match error {
        ExplainError::Request(error) => Status::from(&ServiceError::from(error)),
        ExplainError::Fields(error) => Status::new(Code::InvalidArgument, error.to_string()),
    }
}
