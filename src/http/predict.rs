//! `predict`, and raw bodies, over HTTP.

use axum::extract::Request;
use axum::response::Response;

use super::Api;
use super::exchange::{Exchange, unwritable};
use super::open_inference::redirect;
use super::respond::{self, json};
use super::stream::{self, Framing};
use super::wrapped::{Wrapped, unwrap};
use crate::protocol::status::Status;
use crate::protocol::vertex::{self, PredictResponse, Surface};
use crate::service::{ServiceError, Target, read_raw};

/// `predict` as Google's clients ask it: instances in, predictions and who made them out.
pub async fn predict(api: &Api, target: Target<'_>, request: Request) -> Response {
    let request = match redirect(api, target, request).await {
        Ok(response) => return response,
        Err(request) => request,
    };
    Exchange::run(api, target, request, |exchange| Box::pin(predicted(exchange))).await
}

async fn predicted(exchange: &mut Exchange<'_>) -> Result<Response, Status> {
    // The instances are slices of the body, and each gives its share up as soon as it is prepared.
    let body = std::mem::take(&mut exchange.body);
    let request = vertex::parse(&body, Surface::Api, exchange.api.settings.instances).map_err(refused)?;
    drop(body);
    let parse = exchange.since_received();
    let Exchange { api, chosen, deadline, .. } = &*exchange;
    let answer = api.service.predict(chosen, request, *deadline).await.map_err(|error| {
        error.log(chosen);
        Status::from(&error)
    })?;
    let fields = Some(&chosen.deployed.fields);
    let body = serde_json::to_vec(&PredictResponse { predictions: &answer.predictions, deployed_model: fields })
        .map_err(|error| unwritable(&error))?;
    Ok(exchange.timed(json(body), &answer, parse))
}

/// How raw bodies travel on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawRoute {
    /// A container's predict route: as they are.
    Container,
    /// `rawPredict`: as they are, or both in Google's wrapper.
    Raw,
    /// `streamRawPredict`: the same, with the answer in pieces where that can be told.
    Stream,
}

/// One body in, one body out, both as the model's container takes and gives them.
pub async fn raw(api: &Api, target: Target<'_>, route: RawRoute, request: Request) -> Response {
    let request = match redirect(api, target, request).await {
        Ok(response) => return response,
        Err(request) => request,
    };
    Exchange::run(api, target, request, move |exchange| Box::pin(answered(exchange, route))).await
}

async fn answered(exchange: &mut Exchange<'_>, route: RawRoute) -> Result<Response, Status> {
    let body = std::mem::take(&mut exchange.body);
    let wrapped = match route {
        RawRoute::Container => None,
        RawRoute::Raw | RawRoute::Stream => unwrap(&body)?,
    };
    let is_wrapped = wrapped.is_some();
    let Wrapped { media_type, data } =
        wrapped.unwrap_or_else(|| Wrapped { media_type: std::mem::take(&mut exchange.media_type), data: body });
    let (question, form) = read_raw(&media_type, &data, exchange.api.settings.instances).map_err(refused)?;
    drop(data);
    let parse = exchange.since_received();
    let Exchange { api, chosen, deadline, .. } = &*exchange;
    let answer = api.service.answer(chosen, question, *deadline).await.map_err(|error| Status::from(&error))?;
    let data = form.write(&answer.predictions).map_err(|error| unwritable(&error))?;
    let data = if is_wrapped { Wrapped::wrap(form.media_type(), &data) } else { data };
    let response = match (route, exchange.framing) {
        // No model here gives its answer piece by piece: it is one piece.
        (RawRoute::Stream, framing) if is_wrapped || framing == Framing::Events => {
            stream::respond(framing, futures_util::stream::iter([Ok(data)]))
        }
        _ if is_wrapped => json(data),
        _ => respond::body(form.media_type(), data),
    };
    Ok(exchange.timed(response, &answer, parse))
}

fn refused(error: vertex::RequestError) -> Status {
    Status::from(&ServiceError::from(error))
}
