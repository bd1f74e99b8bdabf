//! Explanations of what was deployed over the API: by the model's specification, by the deployment's, or not at all.

use serde_json::{Value, json};

use super::{LINEAR, PARENT, artifact, create, done, predict, refused};
use crate::harness::{Builder, Server};

/// A specification with a baseline for the model's only input.
fn spec(baseline: [i32; 4]) -> Value {
    json!({"parameters": {"sampledShapleyAttribution": {"pathCount": 10}},
           "metadata": {"inputs": {"x": {"inputBaselines": [baseline]}}, "outputs": {}}})
}

/// Deploys with further fields of the deployed model, and gives its id and what is shown of it.
async fn deploy_with(server: &Server, endpoint: &str, model: &str, fields: Value, split: Value) -> (String, Value) {
    let mut deployed = json!({"model": model});
    deployed.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let body = json!({"deployedModel": deployed, "trafficSplit": split});
    let operation = done(server, "POST", &format!("/v1/{endpoint}:deployModel"), body).await;
    let shown = operation["response"]["deployedModel"].clone();
    (shown["id"].as_str().unwrap_or_else(|| panic!("{operation}")).to_owned(), shown)
}

#[tokio::test]
async fn the_deployment_says_whether_and_how_it_is_explained() {
    let server = Builder::with_models(&["linear"]).start();
    let body = json!({"model": {
        "displayName": "Explained", "artifactUri": artifact(LINEAR), "explanationSpec": spec([1, 1, 1, 1])}});
    let uploaded = done(&server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
    let model = uploaded["response"]["model"].as_str().unwrap();
    assert_eq!(
        done(&server, "GET", &format!("/v1/{model}"), Value::Null).await["explanationSpec"]["parameters"],
        spec([0; 4])["parameters"]
    );
    let endpoint = create(&server, "explained").await;
    let (inherits, _) = deploy_with(&server, &endpoint, model, json!({}), json!({"0": 100})).await;
    let own = json!({"explanationSpec": spec([3, 1, 1, 1])});
    let (overrides, shown) = deploy_with(&server, &endpoint, model, own, json!({})).await;
    assert_eq!(shown["explanationSpec"]["metadata"]["inputs"]["x"]["inputBaselines"], json!([[3.0, 1.0, 1.0, 1.0]]));
    let off = json!({"disableExplanations": true});
    let (disabled, shown) = deploy_with(&server, &endpoint, model, off, json!({})).await;
    assert_eq!(shown["disableExplanations"], true);

    let path = format!("/v1/{endpoint}:explain");
    // The weights are 1 to 4: each contribution is weight times the distance from the baseline.
    for (id, wanted) in [(&inherits, [0.0, 2.0, 6.0, 12.0]), (&overrides, [-2.0, 2.0, 6.0, 12.0])] {
        let body = json!({"instances": [[1, 2, 3, 4]], "deployedModelId": id});
        let answer = done(&server, "POST", &path, body).await;
        let found = &answer["explanations"][0]["attributions"][0]["featureAttributions"]["x"];
        assert_eq!((found, &answer["deployedModelId"]), (&json!(wanted), &json!(id)));
    }
    let body = json!({"instances": [[1, 2, 3, 4]], "deployedModelId": disabled});
    let (code, message) = refused(&server, "POST", &path, body).await;
    assert!(code == "FAILED_PRECONDITION" && message.contains("explanations"), "{code} {message}");
    // Predictions are not concerned.
    let undeployed = json!({"deployedModelId": inherits, "trafficSplit": {disabled.clone(): 100}});
    done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), undeployed).await;
    assert_eq!(predict(&server, &endpoint).await["deployedModelId"], json!(disabled));
    let (code, _) = refused(&server, "POST", &path, json!({"instances": [[1, 2, 3, 4]]})).await;
    assert_eq!(code, "FAILED_PRECONDITION");
}
