//! `explain` over HTTP.

use axum::extract::Request;
use axum::response::Response;

use super::Api;
use super::direct::{read, write};
use super::exchange::Exchange;
use super::respond::json;
use crate::protocol::generated::google::cloud::aiplatform::v1::ExplainRequest;
use crate::protocol::status::Status;
use crate::service::Target;

/// What each feature contributes, for a list of instances.
pub async fn explain(api: &Api, target: Target<'_>, request: Request) -> Response {
    Exchange::run(api, target, request, |exchange| Box::pin(explained(exchange))).await
}

async fn explained(exchange: &mut Exchange<'_>) -> Result<Response, Status> {
    let request: ExplainRequest = read(exchange)?;
    let parse = exchange.since_received();
    if !request.deployed_model_id.is_empty() {
        let endpoint = exchange.chosen.endpoint.id.clone();
        let target = Target::DeployedModel { endpoint: &endpoint, id: &request.deployed_model_id };
        exchange.chosen = exchange.api.service.choose(target).map_err(|error| Status::from(&error))?;
    }
    let Exchange { api, chosen, deadline, .. } = &*exchange;
    let explained = api.service.explain(chosen, request, api.settings.instances, *deadline).await;
    let (response, answer) = explained.map_err(|error| {
        error.log(chosen);
        Status::from(&error)
    })?;
    Ok(exchange.timed(json(write(&response)?), &answer, parse))
}
