//! What is served here, for people who come by with a browser or curl.

use serde_json::{Value, json};

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
