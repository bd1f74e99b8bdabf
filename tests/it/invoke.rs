//! `/invoke/...`: the paths of a model that asks for them, and no others.

use reqwest::Method;
use serde_json::{Value, json};
use tessera::protocol::generated::google::cloud::aiplatform::v1 as wire;
use tonic::{Code, Request};

use crate::grpc::{V1, call, channel, serving};
use crate::harness::{Server, client, post, root};

fn endpoint(id: &str) -> String {
    format!("/v1/projects/p/locations/l/endpoints/{id}")
}

async fn ask(server: &Server, method: Method, path: &str, body: &str) -> (u16, Value) {
    let response = client().request(method, server.url(path)).body(body.to_owned()).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_models_own_paths() {
    let server = serving(&["linear-invoke", "linear"]).start();
    let invoke = endpoint("linear-invoke");
    let body = r#"{"instances":[[1,2,3,4]]}"#;
    let answer = json!({"predictions": [[30.5]]});
    let described: Value =
        client().get(server.url("/v1/endpoints/linear-invoke")).send().await.unwrap().json().await.unwrap();
    let id = described["deployedModels"][0]["id"].as_str().unwrap();
    for base in [invoke.clone(), invoke.replace("/v1/", "/v1beta1/"), format!("{invoke}/deployedModels/{id}")] {
        assert_eq!(ask(&server, Method::POST, &format!("{base}/invoke/predict"), body).await, (200, answer.clone()));
        let path = format!("{base}/invoke/v1/models/linear-invoke:predict");
        assert_eq!(ask(&server, Method::POST, &path, body).await, (200, answer.clone()), "{path}");
        assert_eq!(ask(&server, Method::GET, &format!("{base}/invoke/health"), "").await.0, 200);
        assert_eq!(ask(&server, Method::GET, &format!("{base}/invoke/v2/models/linear-invoke/ready"), "").await.0, 200);
    }
    for (path, status) in [
        ("v1/models/linear:predict", 404),
        ("v2/models/linear/infer", 404),
        ("v1/models/linear-invoke/../linear:predict", 404),
        ("v1/models", 404),
        ("metrics", 404),
        ("v1/endpoints", 404),
        ("v2/repository/index", 404),
    ] {
        let (found, answer) = ask(&server, Method::POST, &format!("{invoke}/invoke/{path}"), body).await;
        assert_eq!(found, status, "{path}: {answer}");
    }
    assert_eq!(ask(&server, Method::GET, &format!("{invoke}/invoke/predict"), "").await.0, 405);
    // A model that doesn't ask for it.
    let (status, refused) = ask(&server, Method::POST, &format!("{}/invoke/predict", endpoint("linear")), body).await;
    assert_eq!((status, &refused["error"]["status"]), (400, &json!("FAILED_PRECONDITION")));
    assert_eq!(ask(&server, Method::POST, &format!("{}/invoke/predict", endpoint("none")), body).await.0, 404);
}

#[tokio::test]
async fn an_upload_may_ask_for_its_own_paths() {
    let server = serving(&["linear"]).start();
    let parent = "/v1/projects/p/locations/l";
    let upload = |prefix: &str, predict: &str| {
        let artifact = root().join("tests/models/linear");
        let container = json!({"imageUri": "any", "invokeRoutePrefix": prefix, "predictRoute": predict});
        json!({"modelId": "own", "model": {"displayName": "own", "artifactUri": artifact, "containerSpec": container}})
    };
    for (prefix, predict) in [("/v3/*", ""), ("/*", "/predict")] {
        let (status, refused) = post(&server, &format!("{parent}/models:upload"), &upload(prefix, predict)).await;
        assert_eq!(status, 400, "{refused}");
        assert!(refused.to_string().contains("invoke_route_prefix"), "{refused}");
    }
    let deployed = json!({
        "deployedModel": {"model": format!("{}/models/own", &parent[4..])}, "trafficSplit": {"0": 100}});
    for (path, body) in [
        ("models:upload", upload("/*", "")),
        ("endpoints?endpointId=own", json!({"displayName": "own"})),
        ("endpoints/own:deployModel", deployed),
    ] {
        let (status, answer) = post(&server, &format!("{parent}/{path}"), &body).await;
        assert!(status == 200 && answer["done"] == true && answer["error"].is_null(), "{path}: {answer}");
    }
    let body = r#"{"instances":[[1,2,3,4]]}"#;
    let (status, answer) = ask(&server, Method::POST, &format!("{}/invoke/predict", endpoint("own")), body).await;
    assert_eq!((status, answer), (200, json!({"predictions": [[30.5]]})));
    let (status, refused) = ask(&server, Method::POST, &format!("{}:predict", endpoint("own")), body).await;
    assert_eq!((status, &refused["error"]["status"]), (400, &json!("FAILED_PRECONDITION")));
}

#[tokio::test]
async fn such_a_model_has_no_verbs() {
    let server = serving(&["linear-invoke"]).start();
    let instances = json!({"instances": [[1, 2, 3, 4]]});
    for verb in ["predict", "rawPredict", "streamRawPredict", "explain", "directPredict", "serverStreamingPredict"] {
        let (status, answer) = post(&server, &format!("{}:{verb}", endpoint("linear-invoke")), &instances).await;
        assert_eq!((status, &answer["error"]["status"]), (400, &json!("FAILED_PRECONDITION")), "{verb}: {answer}");
    }
    // The container's own route stays.
    assert_eq!(post(&server, "/predict", &instances).await.0, 200);
    let channel = channel(&server).await;
    let name = "projects/p/locations/l/endpoints/linear-invoke".to_owned();
    let request = wire::PredictRequest {
        endpoint: name.clone(),
        instances: vec![prost_types::Value { kind: None }],
        ..Default::default()
    };
    let refused = call::<_, wire::PredictResponse>(&channel, &format!("{V1}/Predict"), Request::new(request)).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
    let request = wire::ExplainRequest { endpoint: name, ..Default::default() };
    let refused = call::<_, wire::ExplainResponse>(&channel, &format!("{V1}/Explain"), Request::new(request)).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
}
