//! Models by name: KServe's first protocol and TensorFlow Serving's REST API.

use serde_json::{Value, json};

use tessera::protocol::generated::inference as wire;
use tonic::Request;

use crate::grpc::{call, channel, serving};
use crate::harness::{Builder, Server, client, colour, instance, post};
use crate::management::{PARENT, artifact};

async fn get(server: &Server, path: &str) -> (u16, Value) {
    let response = client().get(server.url(path)).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn ask(server: &Server, path: &str, body: Value) -> Value {
    let (status, answer) = post(server, &format!("/v1/models/{path}"), &body).await;
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer
}

/// The text of an error, whose form is checked.
async fn refused(server: &Server, path: &str, body: Value, code: u16) -> String {
    let (status, answer) = post(server, &format!("/v1/models/{path}"), &body).await;
    assert_eq!(status, code, "{path} {body}: {answer}");
    assert_eq!(answer.as_object().unwrap().len(), 1, "{answer}");
    answer["error"].as_str().unwrap().to_owned()
}

/// The body of an answer as it is, to a body as it is.
async fn text(server: &Server, path: &str, body: &'static str) -> String {
    let response = client().post(server.url(&format!("/v1/models/{path}"))).body(body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.text().await.unwrap()
}

#[tokio::test]
async fn rows_and_columns() {
    let server = Builder::with_models(&["linear", "linear-flat", "columns", "classes", "zip-map", "colour"]).start();
    let rows = json!({"instances": [[1, 2, 3, 4], {"x": [0.5, 0, 0, 0]}], "signature_name": "serving_default"});
    assert_eq!(ask(&server, "linear:predict", rows).await, json!({"predictions": [[30.5], [1.0]]}));
    for columns in [json!([[1, 2, 3, 4], [0.5, 0, 0, 0]]), json!({"x": [[1, 2, 3, 4], [0.5, 0, 0, 0]]})] {
        let columns = json!({ "inputs": columns });
        assert_eq!(ask(&server, "linear:predict", columns.clone()).await, json!({"outputs": [[30.5], [1.0]]}));
        assert_eq!(ask(&server, "linear-flat:predict", columns).await, json!({"outputs": [30.5, 1.0]}));
    }
    let columns = json!({"inputs": {"age": [[39], [41]], "city": [["Oslo"], [{"b64": "Um9tZQ=="}]]}});
    assert_eq!(ask(&server, "columns:predict", columns).await, json!({"outputs": [[1039.0], [2041.0]]}));
    let answer = ask(&server, "classes:predict", json!({"inputs": [[10, 0], [0, 10]]})).await;
    assert_eq!(answer["outputs"]["label"], json!([0, 1]));
    assert_eq!(answer["outputs"]["probabilities"].as_array().unwrap().len(), 2);
    let answer = ask(&server, "zip-map:predict", json!({"inputs": [[10, 0], [0, 10]]})).await;
    assert!(answer["outputs"]["probability"][1]["1"].as_f64().unwrap() > 0.99, "{answer}");

    let (red, blue) = (instance(&colour([255, 0, 0])), instance(&colour([0, 0, 255])));
    let answer = ask(&server, "colour:predict", json!({"instances": [red, {"image": blue}]})).await;
    assert_eq!(answer["predictions"][1]["label"], "blue");
    let columns = json!({"inputs": {"image": [red, blue]}});
    let answer = ask(&server, "colour:predict", columns.clone()).await;
    assert_eq!(answer["outputs"]["label"], json!(["red", "blue"]));
    for (parameters, names) in
        [(json!({"top_k": 2}), "labels"), (json!({"maxPredictions": 2, "confidenceThreshold": 0}), "displayNames")]
    {
        let mut columns = columns.clone();
        columns["parameters"] = parameters;
        let answer = ask(&server, "colour:predict", columns).await;
        assert_eq!((&answer["outputs"][names][1][0], &answer["outputs"][names][0][0]), (&json!("blue"), &json!("red")));
        assert_eq!(answer["outputs"]["confidences"][1].as_array().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn numbers_that_json_does_not_have() {
    let server = Builder::with_models(&["not-finite", "echo-float32", "text-bytes"]).start();
    let answer = text(&server, "not-finite:predict", r#"{"instances":[0,1,-1]}"#).await;
    assert_eq!(answer, r#"{"predictions":[[NaN],[Infinity],[-Infinity]]}"#);
    let answer = text(&server, "echo-float32:predict", r#"{"inputs":[[NaN,"NaN"],[-Infinity,1]]}"#).await;
    assert_eq!(answer, r#"{"outputs":[[NaN,NaN],[-Infinity,1.0]]}"#);
    let answer = text(&server, "text-bytes:predict", r#"{"inputs":["cat"]}"#).await;
    assert_eq!(answer, r#"{"outputs":{"copy_bytes":[{"b64":"Y2F0"}],"copy":["cat"]}}"#);
}

#[tokio::test]
async fn the_same_bodies_by_the_raw_routes() {
    let server = Builder::with_models(&["columns", "not-finite"]).start();
    let raw = "/v1/projects/p/locations/l/endpoints/columns:rawPredict";
    let columns = json!({"inputs": {"age": [39, 41], "city": ["Oslo", "Rome"]}, "signature_name": "serving_default"});
    for path in [raw, "/v1/endpoints/columns:rawPredict"] {
        assert_eq!(post(&server, path, &columns).await, (200, json!({"outputs": [[1039.0], [2041.0]]})), "{path}");
    }
    let (status, answer) = post(&server, raw, &json!({"inputs": {"age": [39, "x"], "city": ["Oslo", "Rome"]}})).await;
    assert_eq!((status, &answer["error"]["status"]), (400, &json!("INVALID_ARGUMENT")));
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("inputs.age[1] is the string"), "{answer}");
    // Vertex AI's clients read strict JSON.
    let (_, answer) = post(&server, "/v1/endpoints/not-finite:rawPredict", &json!({"inputs": [0, 1]})).await;
    assert_eq!(answer, json!({"outputs": [["NaN"], ["Infinity"]]}));
}

#[tokio::test]
async fn classes_and_numbers() {
    let server = Builder::with_models(&["colour", "classes", "zip-map-text", "linear", "columns"]).start();
    let red = instance(&colour([255, 0, 0]));
    let answer = ask(&server, "colour:classify", json!({"examples": [{"image": red}]})).await;
    let classes = answer["result"][0].as_array().unwrap();
    assert!(classes.len() > 2 && classes[0][0] == "red" && classes[0][1].as_f64().unwrap() > 0.5, "{answer}");
    let answer = ask(&server, "zip-map-text:classify", json!({"examples": [{"x": [0, 10]}]})).await;
    assert_eq!(answer["result"][0][1][0], "dog");
    let answer = ask(&server, "classes:classify", json!({"examples": [{"x": [0, 10]}]})).await;
    assert!(answer["result"][0][1][0] == "1" && answer["result"][0][1][1].as_f64().unwrap() > 0.99, "{answer}");

    let examples = json!({"context": {"city": "Oslo"}, "examples": [{"age": 39}, {"age": 2, "city": "Rome"}]});
    assert_eq!(ask(&server, "columns:regress", examples).await, json!({"result": [1039.0, 2002.0]}));
    assert_eq!(
        ask(&server, "linear:regress", json!({"examples": [{"x": [0, 0, 0, 1]}]})).await,
        json!({"result": [4.5]})
    );

    let message = refused(&server, "columns:classify", json!({"examples": [{"age": 1, "city": "Oslo"}]}), 400).await;
    assert!(message.contains("gives no classes"), "{message}");
    let message = refused(&server, "colour:regress", json!({"examples": [{"image": red}]}), 400).await;
    assert!(message.contains("no single number"), "{message}");
}

#[tokio::test]
async fn what_is_wrong_is_said_in_a_text() {
    let server = Builder::with_models(&["linear", "columns"]).start();
    for (path, body, code, words) in [
        (
            "none:predict",
            json!({"instances": [[1]]}),
            404,
            "model `none` is not served here; there are: columns, linear",
        ),
        ("linear/versions/7:predict", json!({"instances": [[1]]}), 404, "no version 7 here; there are: version 1"),
        ("linear/labels/canary:predict", json!({"instances": [[1]]}), 404, "label `canary`"),
        ("linear:explain", json!({}), 404, "`explain` is not known"),
        ("linear:predict", json!({"instances": 5}), 400, "must be a list"),
        ("linear:predict", json!({"instances": [[1, 2]]}), 400, "instances[0] has 2 elements"),
        ("linear:predict", json!({"inputs": [[1, 2, 3, 4], [1, 2, 3]]}), 400, "inputs[1] has 3 elements"),
        (
            "linear:predict",
            json!({"inputs": {"x": [[1, 2, 3, 4], [1, 2, "3", 4]]}}),
            400,
            "inputs.x[1][2] is the string",
        ),
        ("columns:predict", json!({"inputs": {"age": [[1]]}}), 400, "inputs[0] has no `city`"),
        ("linear:predict", json!({"instances": [[1, 2, 3, 4]], "signature_name": "x"}), 400, "signature_name"),
    ] {
        let message = refused(&server, path, body.clone(), code).await;
        assert!(message.contains(words), "{path} {body}: {message}");
    }
    let response = client().get(server.url("/v1/models/linear:predict")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["allow"].as_bytes()), (405, &b"POST"[..]));
    assert!(response.json::<Value>().await.unwrap()["error"].is_string());
    let (status, answer) = get(&server, "/v1/models/none").await;
    assert!(status == 404 && answer["error"].is_string(), "{answer}");
}

#[tokio::test]
async fn models_and_their_versions() {
    let config = r#"
        [[endpoint]]
        id = "tables"
        deployed_models = [
            { model = "table", version = "1", traffic = 75 },
            { id = "77", model = "table", version = "2", traffic = 25 },
        ]"#;
    let server = Builder::with_models(&["colour"])
        .with_versions("table", &["linear", "linear-flat"])
        .with_config(config)
        .start();
    assert_eq!(get(&server, "/v1/models").await.1, json!({"models": ["colour", "table", "tables"]}));
    assert_eq!(get(&server, "/").await.1["status"], "alive");
    let version = |version| json!({"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}});
    let both = json!({"name": "tables", "ready": true, "model_version_status": [version("2"), version("1")]});
    assert_eq!(get(&server, "/v1/models/tables").await, (200, both));
    let one = json!({"name": "tables", "ready": true, "model_version_status": [version("1")]});
    for path in ["/v1/models/tables/versions/1", "/v1/models/tables/labels/stable"] {
        assert_eq!(get(&server, path).await, (200, one.clone()), "{path}");
    }

    let body = json!({"instances": [[0, 0, 0, 1]]});
    let (first, second) = (json!([[4.5]]), json!([4.5]));
    for (path, expected) in [
        ("tables/versions/1", &first),
        ("tables/versions/2", &second),
        ("tables/labels/latest", &second),
        ("tables/labels/stable", &first),
        ("table", &second),
        ("table/versions/1", &first),
        ("77", &second),
    ] {
        let answer = ask(&server, &format!("{path}:predict"), body.clone()).await;
        assert_eq!(&answer["predictions"], expected, "{path}");
    }
    let mut of_first = 0;
    for _ in 0..100 {
        of_first += usize::from(ask(&server, "tables:predict", body.clone()).await["predictions"] == first);
    }
    assert_eq!(of_first, 75, "the endpoint's traffic split decides");
}

#[tokio::test]
async fn signatures() {
    let server = Builder::with_models(&["linear", "colour", "zip-map"]).start();
    let (status, answer) = get(&server, "/v1/models/linear/metadata").await;
    assert_eq!(
        (status, &answer["model_spec"]),
        (200, &json!({"name": "linear", "signature_name": "", "version": "1"}))
    );
    let signature = |answer: &Value| answer["metadata"]["signature_def"]["signature_def"]["serving_default"].clone();
    let dimensions = json!([{"size": "-1", "name": ""}, {"size": "4", "name": ""}]);
    assert_eq!(
        signature(&answer)["inputs"],
        json!({"x": {"name": "x", "dtype": "DT_FLOAT", "tensor_shape": {"dim": dimensions, "unknown_rank": false}}})
    );
    let (_, answer) = get(&server, "/v1/models/colour/versions/1/metadata").await;
    assert_eq!(signature(&answer)["inputs"]["image"]["dtype"], "DT_STRING");
    assert_eq!(signature(&answer)["outputs"]["confidence"]["dtype"], "DT_FLOAT");
    assert_eq!(get(&server, "/v1/models/colour/versions/9/metadata").await.0, 404);
}

#[tokio::test]
async fn while_models_load_they_are_not_ready() {
    let server = Builder::with_models(&["slow"]).spawn();
    let (status, answer) = get(&server, "/v1/models/slow").await;
    assert!(status == 503 || answer["ready"] == true, "{answer}");
    if status == 503 {
        assert!(answer["error"].as_str().unwrap().contains("loaded"), "{answer}");
    }
}

/// Uploads a version of the model `toy`, and gives the answer to a deployment of it at the endpoint `toys`.
async fn deployed(server: &Server, upload: Value, share: Value) -> String {
    let (status, uploaded) = post(server, &format!("/v1/{PARENT}/models:upload"), &upload).await;
    assert_eq!(status, 200, "{uploaded}");
    let version = uploaded["response"]["modelVersionId"].as_str().unwrap();
    let body = json!({"deployedModel": {"model": format!("{PARENT}/models/toy@{version}")}, "trafficSplit": share});
    let (_, operation) = post(server, &format!("/v1/{PARENT}/endpoints/toys:deployModel"), &body).await;
    operation["response"]["deployedModel"]["id"].as_str().unwrap_or_else(|| panic!("{operation}")).to_owned()
}

/// A server with two versions of `toy`, `golden` and `canary`, which share the endpoint `toys`.
async fn with_toys() -> Server {
    let server = serving(&["linear"]).start();
    let (status, _) =
        post(&server, &format!("/v1/{PARENT}/endpoints?endpointId=toys"), &json!({"displayName": "Toys"})).await;
    assert_eq!(status, 200);
    let model = |alias: &str| json!({"displayName": "Toy", "artifactUri": artifact("tests/models/linear/1"), "versionAliases": [alias]});
    let first = deployed(&server, json!({"modelId": "toy", "model": model("golden")}), json!({"0": 100})).await;
    let second = json!({"parentModel": format!("{PARENT}/models/toy"), "model": model("canary")});
    deployed(&server, second, json!({"0": 50, first: 50})).await;
    server
}

/// The version that answers.
async fn version(server: &Server, path: &str, session: Option<&str>, body: &Value) -> String {
    let mut request = client().post(server.url(path)).json(body);
    if let Some(session) = session {
        request = request.header("X-Tessera-Session", session);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    response.headers()["x-vertex-ai-model-version-id"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn versions_by_their_aliases() {
    let server = with_toys().await;
    let rows = json!({"instances": [[1, 2, 3, 4]]});
    let tensors = json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]});
    for (path, wanted) in [
        ("toy/labels/golden", "1"),
        ("toy/labels/canary", "2"),
        ("toy/labels/default", "1"),
        ("toy/labels/latest", "2"),
        ("toy/versions/golden", "1"),
        ("toy/versions/2", "2"),
        ("toys/labels/golden", "1"),
    ] {
        assert_eq!(version(&server, &format!("/v1/models/{path}:predict"), None, &rows).await, wanted, "{path}");
        let (status, answer) = get(&server, &format!("/v1/models/{path}")).await;
        assert_eq!((status, &answer["model_version_status"][0]["version"]), (200, &json!(wanted)), "{path}: {answer}");
    }
    assert_eq!(version(&server, "/v2/models/toy/versions/golden/infer", None, &tensors).await, "1");
    assert_eq!(get(&server, "/v1/models/toy/labels/none").await.0, 404);
    // An alias that moves is followed at once.
    let moved = post(
        &server,
        &format!("/v1/{PARENT}/models/toy@2:mergeVersionAliases"),
        &json!({"versionAliases": ["golden", "latest"]}),
    )
    .await;
    assert_eq!(moved.0, 200, "{}", moved.1);
    assert_eq!(version(&server, "/v1/models/toy/labels/golden:predict", None, &rows).await, "2");
}

#[tokio::test]
async fn sessions_stay_with_a_version_on_every_face() {
    let server = with_toys().await;
    let rows = json!({"instances": [[1, 2, 3, 4]]});
    let tensors = json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]});
    let channel = channel(&server).await;
    let over_grpc = async |session: &str| {
        let input = wire::model_infer_request::InferInputTensor {
            name: "x".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 4],
            contents: Some(wire::InferTensorContents { fp32_contents: vec![1.0; 4], ..Default::default() }),
            ..Default::default()
        };
        let message =
            wire::ModelInferRequest { model_name: "toys".to_owned(), inputs: vec![input], ..Default::default() };
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-tessera-session", session.parse().unwrap());
        let answer = call(&channel, "inference.GRPCInferenceService/ModelInfer", request).await.unwrap();
        let answer: wire::ModelInferResponse = answer.into_inner();
        answer.model_version
    };
    let mut homes = std::collections::BTreeSet::new();
    for user in 0..12 {
        let user = format!("user-{user}");
        let session = Some(user.as_str());
        let vertex = format!("/v1/{PARENT}/endpoints/toys:predict");
        let home = version(&server, &vertex, session, &rows).await;
        for _ in 0..2 {
            assert_eq!(version(&server, "/v1/models/toys:predict", session, &rows).await, home, "{user}");
            assert_eq!(version(&server, "/v2/models/toys/infer", session, &tensors).await, home, "{user}");
            assert_eq!(over_grpc(&user).await, home, "{user}");
        }
        homes.insert(home);
    }
    assert_eq!(homes.len(), 2);
}
