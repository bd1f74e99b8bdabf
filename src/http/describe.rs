//! What is served here, for people who come by with a browser or curl.

use serde_json::{Value, json};

use super::Api;
use crate::endpoint::{DeployedModel, Endpoint};
use crate::engine::TensorSpec;
use crate::task::Task;

/// An endpoint as `GET /v1/endpoints` shows it.
pub fn endpoint(endpoint: &Endpoint) -> Value {
    let models: Vec<Value> = endpoint.deployed_models().iter().map(|deployed| deployed_model(deployed)).collect();
    let split: serde_json::Map<_, _> = endpoint
        .deployed_models()
        .iter()
        .map(|deployed| (deployed.fields.deployed_model_id.clone(), deployed.traffic.into()))
        .collect();
    json!({
        "name": endpoint.name,
        "id": endpoint.id,
        "displayName": endpoint.display_name,
        "createTime": endpoint.create_time,
        "trafficSplit": split,
        "predict": format!("/v1/endpoints/{}:predict", endpoint.id),
        "deployedModels": models,
    })
}

/// Adds to an endpoint's resource what only this server knows of it, where it is being served: what its models take and
/// give, with an example. Google's clients pass over fields that they don't know.
pub fn add_details(api: &Api, resource: &mut Value) {
    let id = resource["name"].as_str().and_then(|name| name.rsplit('/').next()).unwrap_or_default();
    let Ok(catalog) = api.service.catalog() else { return };
    let Some(served) = catalog.get(id) else { return };
    let mut details = endpoint(served);
    let models = details["deployedModels"].take();
    add_missing(resource, details);
    for model in resource["deployedModels"].as_array_mut().into_iter().flatten() {
        let of_it = models.as_array().into_iter().flatten().find(|details| details["id"] == model["id"]);
        add_missing(model, of_it.cloned().unwrap_or_default());
    }
}

fn add_missing(resource: &mut Value, details: Value) {
    let (Value::Object(resource), Value::Object(details)) = (resource, details) else { return };
    for (field, value) in details {
        // An empty field of a message is not written, so what is missing there is not to be added here.
        if !matches!(field.as_str(), "trafficSplit" | "deployedModels") {
            resource.entry(field).or_insert(value);
        }
    }
}

/// A deployed model with its inputs, labels and an example.
pub fn deployed_model(deployed: &DeployedModel) -> Value {
    let model = &deployed.model;
    let mut described = json!({
        "id": deployed.fields.deployed_model_id,
        "model": deployed.fields.model,
        "displayName": deployed.fields.model_display_name,
        "modelVersionId": deployed.fields.model_version_id,
        "trafficPercent": deployed.traffic,
        "task": model.task.name(),
        "provider": model.provider,
        "inputs": tensors(&model.signature.inputs),
        "outputs": tensors(&model.signature.outputs),
    });
    match &*model.task {
        Task::ImageClassification(task) => {
            described["labels"] = json!({
                "count": task.labels.len(),
                "first": task.labels.iter().take(5).map(|label| &**label).collect::<Vec<_>>(),
            });
            described["example"] = json!({
                "instances": [{"b64": "<base64 of a JPEG, PNG, WebP, GIF, BMP or TIFF file>"}],
                "parameters": {"top_k": 5},
            });
        }
        Task::Tensors(task) => described["example"] = json!({"instances": [task.example_instance()]}),
    }
    described
}

fn tensors(specs: &[TensorSpec]) -> Vec<Value> {
    let kind = |spec: &TensorSpec| match spec.map_keys {
        Some(keys) => format!("map({keys},{})", spec.element_type),
        None => spec.element_type.to_string(),
    };
    specs.iter().map(|spec| json!({"name": spec.name, "type": kind(spec), "shape": spec.shape})).collect()
}
