//! Models by name: KServe's first protocol and TensorFlow Serving's REST API, which share their paths.
//!
//! ```text
//! GET  /v1/models                                            the names
//! GET  /v1/models/{model}[/versions/{n}|/labels/{label}]     whether it is ready, and its versions
//! GET  .../metadata                                          its inputs and outputs
//! POST ...:predict, :classify, :regress
//! ```
//!
//! Errors are `{"error": "text"}`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::exchange::{Exchange, unwritable};
use super::respond::{Failure, errors_as_text, json};
use super::routes::ResourceVerb;
use super::table::Routes;
use super::{Api, Segments, failure, lookup_failure};
use crate::endpoint::{DeployedModel, Version};
use crate::engine::TensorSpec;
use crate::observe::Metrics;
use crate::protocol::status::{Code, Status};
use crate::protocol::tf_serving::{self, Form, Results};
use crate::protocol::vertex::RequestError;
use crate::service::{Question, ServiceError, Target, read_rows};
use crate::task::tensors::NonFinite;
use crate::task::{ClassesView, Instance, NumberView, Prediction, Task, ViewError};
use crate::tensor::ElementType;

/// The routes, with their own form of errors.
pub fn routes(metrics: &Arc<Metrics>) -> Routes<Arc<Api>> {
    let mut routes = Routes::new().route("/v1/models", get(list));
    for version in ["", "/versions/{version}", "/labels/{label}"] {
        routes = routes
            .route(&format!("/v1/models/{{model}}{version}"), any(model))
            .route(&format!("/v1/models/{{model}}{version}/metadata"), get(metadata));
    }
    routes.map(|router| errors_as_text(router, metrics.clone()))
}

/// The variable segments of a path.
#[derive(Debug, Deserialize)]
struct ModelPath {
    model: String,
    version: Option<String>,
    label: Option<String>,
}

impl ModelPath {
    /// Takes the verb off the last segment.
    fn take_verb(&mut self) -> Option<String> {
        let last = self.version.as_mut().or(self.label.as_mut()).unwrap_or(&mut self.model);
        let ResourceVerb { resource, verb } = ResourceVerb::split(last);
        let (resource, verb) = (resource.to_owned(), verb.map(str::to_owned));
        *last = resource;
        verb
    }

    fn version(&self) -> Version<'_> {
        match (&self.version, &self.label) {
            (Some(version), _) => Version::Number(version),
            (None, Some(label)) => Version::Label(label),
            (None, None) => Version::Any,
        }
    }

    fn target(&self) -> Target<'_> {
        Target::Model { name: &self.model, version: self.version() }
    }
}

async fn list(State(api): State<Arc<Api>>) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    Ok(json(json!({ "models": catalog.model_names() }).to_string().into_bytes()))
}

async fn model(State(api): State<Arc<Api>>, Segments(mut path): Segments<ModelPath>, request: Request) -> Response {
    let verb = path.take_verb();
    let method = match (verb.as_deref(), request.method()) {
        (None, &Method::GET | &Method::HEAD) => return status(&api, &path).into_response(),
        (None, _) => return Failure(Status::method_not_allowed("GET, HEAD")).into_response(),
        (Some("predict"), _) => Ask::Predict,
        (Some("classify"), _) => Ask::Classify,
        (Some("regress"), _) => Ask::Regress,
        (Some(other), _) => {
            let other: String = other.chars().take(40).collect();
            let known = "`predict`, `classify` and `regress`";
            let message = format!("the method `{other}` is not known here; there are {known}");
            return Failure(Status::new(Code::NotFound, message)).into_response();
        }
    };
    if request.method() != Method::POST {
        return Failure(Status::method_not_allowed("POST")).into_response();
    }
    Exchange::run(&api, path.target(), request, move |exchange| match method {
        Ask::Predict => Box::pin(predict(exchange)),
        Ask::Classify | Ask::Regress => Box::pin(examples(exchange, method)),
    })
    .await
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Predict,
    Classify,
    Regress,
}

async fn predict(exchange: &mut Exchange<'_>) -> Result<Response, Status> {
    // The rows are slices of the body, and each gives its share up as soon as it is prepared.
    let body = std::mem::take(&mut exchange.body);
    let (question, form) = read_rows(&body, exchange.api.settings.instances, NonFinite::Bytes).map_err(refused)?;
    drop(body);
    answered(exchange, question, |predictions| Ok(form.write(predictions))).await
}

async fn examples(exchange: &mut Exchange<'_>, ask: Ask) -> Result<Response, Status> {
    let body = std::mem::take(&mut exchange.body);
    let tf_serving::ExamplesRequest { examples, parameters } =
        tf_serving::parse_examples(&body, exchange.api.settings.instances).map_err(refused)?;
    drop(body);
    // All classes, as TensorFlow Serving gives them, unless fewer are asked for.
    let parameters = match (&*exchange.chosen.deployed.model.task, parameters) {
        (Task::ImageClassification(task), None) => Some(format!(r#"{{"top_k":{}}}"#, task.labels.len()).into()),
        (_, parameters) => parameters,
    };
    let instances = examples.into_iter().map(Instance::Json).collect();
    let question = Question { instances, parameters, form: Form::Rows };
    answered(exchange, question, |predictions| {
        let predictions = predictions.iter();
        Ok(match ask {
            Ask::Regress => {
                let result = predictions.map(NumberView::new).collect::<Result<Vec<_>, _>>()?;
                tf_serving::to_json(&Results { result })
            }
            Ask::Predict | Ask::Classify => {
                let result = predictions.map(ClassesView::new).collect::<Result<Vec<_>, _>>()?;
                tf_serving::to_json(&Results { result })
            }
        })
    })
    .await
}

/// Predicts, and writes the answer.
async fn answered(
    exchange: &Exchange<'_>,
    question: Question,
    write: impl Fn(&[Prediction]) -> Result<Result<Vec<u8>, serde_json::Error>, ViewError>,
) -> Result<Response, Status> {
    let parse = exchange.since_received();
    let Exchange { api, chosen, deadline, .. } = exchange;
    let answer = api.service.answer(chosen, question, *deadline).await.map_err(|error| Status::from(&error))?;
    let body = write(&answer.predictions).map_err(|error| Status::from(&ServiceError::from(error)))?;
    Ok(exchange.timed(json(body.map_err(|error| unwritable(&error))?), &answer, parse))
}

fn refused(error: RequestError) -> Status {
    Status::from(&ServiceError::from(error))
}

/// The union of what KServe and TensorFlow Serving say of a model.
fn status(api: &Api, path: &ModelPath) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let model = catalog.model(&path.model).map_err(lookup_failure)?;
    let described: Vec<&DeployedModel> = match path.version() {
        Version::Any => model.versions().map(|deployed| &**deployed).collect(),
        version => vec![model.version(version).map_err(lookup_failure)?],
    };
    let versions: Vec<Value> = described
        .into_iter()
        .map(|deployed| {
            let status = json!({ "error_code": "OK", "error_message": "" });
            json!({ "version": deployed.version(), "state": "AVAILABLE", "status": status })
        })
        .collect();
    let body = json!({ "name": model.name, "ready": true, "model_version_status": versions });
    Ok(json(body.to_string().into_bytes()))
}

/// A model's signature as TensorFlow Serving describes one.
async fn metadata(State(api): State<Arc<Api>>, Segments(path): Segments<ModelPath>) -> Result<Response, Failure> {
    let catalog = api.service.catalog().map_err(failure)?;
    let model = catalog.model(&path.model).map_err(lookup_failure)?;
    let deployed = model.version(path.version()).map_err(lookup_failure)?;
    let (inputs, outputs) = interface(deployed);
    let signature = json!({
        "inputs": tensors(&inputs),
        "outputs": tensors(&outputs),
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    });
    let body = json!({
        "model_spec": { "name": model.name, "signature_name": "", "version": deployed.version() },
        "metadata": { "signature_def": { "signature_def": { "serving_default": signature } } },
    });
    Ok(json(body.to_string().into_bytes()))
}

/// What a client sends and gets, which for pictures is not what the model takes and gives.
fn interface(deployed: &DeployedModel) -> (Vec<TensorSpec>, Vec<TensorSpec>) {
    let column = |name: &str, element_type| TensorSpec {
        name: name.to_owned(),
        element_type,
        shape: vec![None],
        map_keys: None,
    };
    match &*deployed.model.task {
        Task::ImageClassification(_) => (
            vec![column("image", ElementType::String)],
            vec![column("label", ElementType::String), column("confidence", ElementType::Float32)],
        ),
        Task::Tensors(task) => {
            let signature = &deployed.model.signature;
            (signature.inputs.clone(), task.given(signature).cloned().collect())
        }
    }
}

fn tensors(specs: &[TensorSpec]) -> Map<String, Value> {
    let dimension = |length: &Option<usize>| {
        let size = length.map_or_else(|| "-1".to_owned(), |length| length.to_string());
        json!({ "size": size, "name": "" })
    };
    specs
        .iter()
        .map(|spec| {
            let dimensions: Vec<Value> = spec.shape.iter().map(dimension).collect();
            let shape = json!({ "dim": dimensions, "unknown_rank": false });
            let described = json!({ "name": spec.name, "dtype": data_type(spec.element_type), "tensor_shape": shape });
            (spec.name.clone(), described)
        })
        .collect()
}

/// TensorFlow's name of a type.
fn data_type(element_type: ElementType) -> &'static str {
    match element_type {
        ElementType::Float32 => "DT_FLOAT",
        ElementType::Float16 => "DT_HALF",
        ElementType::Float64 => "DT_DOUBLE",
        ElementType::Int8 => "DT_INT8",
        ElementType::Int16 => "DT_INT16",
        ElementType::Int32 => "DT_INT32",
        ElementType::Int64 => "DT_INT64",
        ElementType::Uint8 => "DT_UINT8",
        ElementType::Uint16 => "DT_UINT16",
        ElementType::Uint32 => "DT_UINT32",
        ElementType::Uint64 => "DT_UINT64",
        ElementType::Bool => "DT_BOOL",
        ElementType::String => "DT_STRING",
    }
}
