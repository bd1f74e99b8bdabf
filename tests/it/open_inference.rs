//! The Open Inference Protocol over HTTP, with the binary extension; Triton's clients ask the rest in `tests/clients/`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Response;
use serde_json::{Value, json};

use tessera::protocol::generated::inference as wire;
use tessera::protocol::generated::inference::infer_parameter::ParameterChoice;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::grpc::{call, channel, serving};
use crate::harness::{Builder, Server, client, colour, post};

async fn get(server: &Server, path: &str) -> (u16, Value) {
    let response = client().get(server.url(path)).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn infer(server: &Server, model: &str, request: Value) -> Value {
    let (status, answer) = post(server, &format!("/v2/models/{model}/infer"), &request).await;
    assert_eq!(status, 200, "{model} {request}: {answer}");
    answer
}

/// Posts JSON with bytes behind it.
async fn post_binary(server: &Server, path: &str, request: &Value, bytes: &[u8]) -> Response {
    let json = request.to_string();
    let length = json.len().to_string();
    let body = [json.as_bytes(), bytes].concat();
    client().post(server.url(path)).header("Inference-Header-Content-Length", length).body(body).send().await.unwrap()
}

/// The JSON of an answer, and the bytes behind it.
async fn split(response: Response) -> (Value, Vec<u8>) {
    assert_eq!(response.status(), 200);
    let length: usize = response.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let body = response.bytes().await.unwrap();
    (serde_json::from_slice(&body[..length]).unwrap(), body[length..].to_vec())
}

fn input(name: &str, datatype: &str, shape: &[usize], data: Value) -> Value {
    json!({"name": name, "datatype": datatype, "shape": shape, "data": data})
}

#[tokio::test]
async fn who_is_there() {
    let server = Builder::with_models(&["linear", "colour", "zip-map"]).start();
    assert_eq!(get(&server, "/v2").await.1["name"], "tessera");
    assert_eq!(get(&server, "/v2/health/live").await, (200, json!({"live": true})));
    assert_eq!(get(&server, "/v2/health/ready").await, (200, json!({"ready": true})));
    assert_eq!(get(&server, "/v2/models").await.1, json!({"models": ["colour", "linear", "zip-map"]}));
    assert_eq!(
        get(&server, "/v2/models/linear/versions/1/ready").await,
        (200, json!({"name": "linear", "ready": true}))
    );
    assert_eq!(
        get(&server, "/v2/models/linear").await.1,
        json!({
            "name": "linear", "versions": ["1"], "platform": "onnxruntime_onnx",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
        })
    );
    let (_, colour) = get(&server, "/v2/models/colour").await;
    assert_eq!(colour["inputs"], json!([{"name": "image", "datatype": "BYTES", "shape": [-1]}]));
    let (_, maps) = get(&server, "/v2/models/zip-map").await;
    assert_eq!(maps["outputs"][2], json!({"name": "probability.keys", "datatype": "INT64", "shape": [-1, -1]}));
    let (_, config) = get(&server, "/v2/models/linear/config").await;
    assert_eq!(config["input"], json!([{"name": "x", "data_type": "TYPE_FP32", "dims": [4]}]));

    infer(&server, "linear", json!({"inputs": [input("x", "FP32", &[3, 4], json!(vec![1; 12]))]})).await;
    let (_, statistics) = get(&server, "/v2/models/linear/stats").await;
    assert_eq!(statistics["model_stats"][0]["inference_count"], 3);
    assert_eq!(statistics["model_stats"][0]["inference_stats"]["success"]["count"], 1);
    assert_eq!(get(&server, "/v2/models/stats").await.1["model_stats"].as_array().unwrap().len(), 3);

    let (status, index) = post(&server, "/v2/repository/index", &json!({})).await;
    assert_eq!((status, &index[1]), (200, &json!({"name": "linear", "version": "1", "state": "READY", "reason": ""})));
    let (status, answer) = post(&server, "/v2/repository/models/linear/load", &json!({})).await;
    assert!(status == 501 && answer["error"].is_string(), "{answer}");
    for path in ["/v2/models/none", "/v2/models/none/ready", "/v2/models/linear/versions/7"] {
        let (status, answer) = get(&server, path).await;
        assert!(status == 404 && answer["error"].is_string(), "{path}: {answer}");
    }
}

#[tokio::test]
async fn tensors_as_json() {
    let server = Builder::with_models(&["linear", "columns", "classes", "echo-string", "not-finite"]).start();
    for data in [json!([1, 2, 3, 4, 0.5, 0, 0, 0]), json!([[1, 2, 3, 4], [0.5, 0, 0, 0]])] {
        let answer = infer(&server, "linear", json!({"id": "42", "inputs": [input("x", "FP32", &[2, 4], data)]})).await;
        let output = json!({"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [30.5, 1.0]});
        let expected = json!({"model_name": "linear", "model_version": "1", "id": "42", "outputs": [output]});
        assert_eq!(answer, expected);
    }
    let inputs = json!([
        input("city", "BYTES", &[2, 1], json!(["Oslo", "Rome"])),
        input("age", "FP32", &[2, 1], json!([39, 41]))
    ]);
    let answer = infer(&server, "columns", json!({ "inputs": inputs })).await;
    assert_eq!(answer["outputs"][0]["data"], json!([1039.0, 2041.0]));

    let x = || input("x", "FP32", &[2, 2], json!([10, 0, 0, 10]));
    let request = json!({"inputs": [x()], "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}, {"name": "label"}]});
    let answer = infer(&server, "classes", request).await;
    let classes = &answer["outputs"][0];
    assert_eq!((&classes["datatype"], &classes["shape"]), (&json!("BYTES"), &json!([2, 2])));
    assert!(classes["data"][2].as_str().unwrap().ends_with(":1"), "{answer}");
    assert_eq!(answer["outputs"][1]["data"], json!([0, 1]));

    let answer =
        infer(&server, "echo-string", json!({"inputs": [input("x", "BYTES", &[1, 2], json!(["s\u{f8}t", ""]))]})).await;
    assert_eq!(answer["outputs"][0]["data"], json!(["s\u{f8}t", ""]));
    let answer =
        infer(&server, "not-finite", json!({"inputs": [input("x", "FP32", &[3, 1], json!([0, 1, -1]))]})).await;
    assert_eq!(answer["outputs"][0]["data"], json!(["NaN", "Infinity", "-Infinity"]));
}

/// Elements of each type as bytes, two rows of two.
const TYPES: [(&str, &str, usize); 12] = [
    ("echo-float32", "FP32", 4),
    ("echo-float64", "FP64", 8),
    ("echo-float16", "FP16", 2),
    ("echo-int8", "INT8", 1),
    ("echo-int16", "INT16", 2),
    ("echo-int32", "INT32", 4),
    ("echo-int64", "INT64", 8),
    ("echo-uint8", "UINT8", 1),
    ("echo-uint16", "UINT16", 2),
    ("echo-uint32", "UINT32", 4),
    ("echo-uint64", "UINT64", 8),
    ("echo-bool", "BOOL", 1),
];

#[tokio::test]
async fn every_type_in_binary() {
    let mut models: Vec<&str> = TYPES.iter().map(|(model, ..)| *model).collect();
    models.push("echo-string");
    let server = Builder::with_models(&models).start();
    let strings = b"\x03\0\0\0cat\0\0\0\0\x04\0\0\0s\xc3\xb8t\x01\0\0\0x".to_vec();
    let numbers = TYPES.iter().map(|(model, datatype, size)| (*model, *datatype, vec![1u8; 4 * size]));
    for (model, datatype, bytes) in numbers.chain([("echo-string", "BYTES", strings)]) {
        let (_, metadata) = get(&server, &format!("/v2/models/{model}")).await;
        let (input, output) = (&metadata["inputs"][0]["name"], &metadata["outputs"][0]["name"]);
        let request = json!({
            "inputs": [{"name": input, "datatype": datatype, "shape": [2, 2], "parameters": {"binary_data_size": bytes.len()}}],
            "parameters": {"binary_data_output": true},
        });
        let path = format!("/v2/models/{model}/infer");
        let (answer, given) = split(post_binary(&server, &path, &request, &bytes).await).await;
        let wanted = json!({"name": output, "datatype": datatype, "shape": [2, 2], "parameters": {"binary_data_size": bytes.len()}});
        assert_eq!((&answer["outputs"][0], given), (&wanted, bytes), "{model}");
    }
}

#[tokio::test]
async fn pictures() {
    let server = Builder::with_models(&["colour"]).start();
    let (red, blue) = (colour([255, 0, 0]), colour([0, 0, 255]));
    let mut bytes = Vec::new();
    for file in [&red, &blue] {
        bytes.extend_from_slice(&u32::try_from(file.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(file);
    }
    let request = json!({
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": bytes.len()}}],
        "outputs": [{"name": "label"}, {"name": "score", "parameters": {"binary_data": true}}],
        "parameters": {"top_k": 2},
    });
    let (answer, scores) = split(post_binary(&server, "/v2/models/colour/infer", &request, &bytes).await).await;
    let labels = &answer["outputs"][0];
    assert_eq!(
        (&labels["shape"], &labels["data"][0], &labels["data"][2]),
        (&json!([2, 2]), &json!("red"), &json!("blue"))
    );
    assert_eq!(scores.len(), 16);

    let image = json!([STANDARD.encode(&red)]);
    let answer = infer(&server, "colour", json!({"inputs": [input("image", "BYTES", &[1, 1], image.clone())]})).await;
    assert_eq!((&answer["outputs"][0]["data"], &answer["outputs"][0]["shape"]), (&json!(["red"]), &json!([1, 1])));
    let outputs = json!([{"name": "score", "parameters": {"classification": 1}}]);
    let request = json!({"inputs": [input("image", "BYTES", &[1], image)], "outputs": outputs});
    let answer = infer(&server, "colour", request).await;
    assert!(answer["outputs"][0]["data"][0].as_str().unwrap().ends_with(":0:red"), "{answer}");
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = Builder::with_models(&["linear", "colour"]).setting("limits.instances", "4").start();
    let x = |shape: &[usize], data: Value| json!({"inputs": [input("x", "FP32", shape, data)]});
    for (model, request, words) in [
        ("linear", json!({}), "missing field `inputs`"),
        ("linear", x(&[1, 4], json!([1, 2, 3])), "inputs.x.data has 3 elements"),
        ("linear", x(&[1, 4], json!([1, 2, 3, "4"])), "inputs.x.data[3] is the string"),
        ("linear", x(&[1, 3], json!([1, 2, 3])), "inputs.x is float32[1, 3], and the model takes x float32[?,4]"),
        ("linear", x(&[5, 4], json!([])), "a request has 1 to 4"),
        ("linear", json!({"inputs": [input("z", "FP32", &[1, 4], json!([1, 2, 3, 4]))]}), "inputs.z is not an input"),
        ("linear", json!({"inputs": [input("x", "FP8", &[1, 4], json!([1]))]}), "inputs.x.datatype is `FP8`"),
        (
            "linear",
            json!({"inputs": [input("x", "FP32", &[1, 4], json!([1, 2, 3, 4]))], "outputs": [{"name": "z"}]}),
            "it gives `y`",
        ),
        (
            "colour",
            json!({"inputs": [input("image", "BYTES", &[1], json!(["####"]))]}),
            "inputs.image[0] is not base64",
        ),
        ("colour", x(&[1, 4], json!([1, 2, 3, 4])), "takes `image` BYTES[-1]"),
    ] {
        let (status, answer) = post(&server, &format!("/v2/models/{model}/infer"), &request).await;
        assert_eq!(status, 400, "{request}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(words), "{request}: {answer}");
    }
    let request =
        json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}]});
    let response = post_binary(&server, "/v2/models/linear/infer", &request, &[0; 15]).await;
    assert_eq!(response.status(), 400);
    let answer: Value = response.json().await.unwrap();
    assert!(answer["error"].as_str().unwrap().contains("15 bytes left"), "{answer}");
}

#[tokio::test]
async fn tritons_redirect() {
    let server = Builder::with_models(&["linear", "columns"]).start();
    let json = json!({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}],
        "parameters": {"binary_data_output": true},
    });
    let json = json.to_string();
    let ask = async |path: &str, redirect: &str| {
        let body = [json.as_bytes(), &[0; 16]].concat();
        let media_type = format!("application/vnd.vertex-ai-triton.binary+json;json-header-size={}", json.len());
        let request = client().post(server.url(path)).header("X-Vertex-Ai-Triton-Redirect", redirect);
        request.header("content-type", media_type).body(body).send().await.unwrap()
    };
    for path in ["/v1/endpoints/linear:predict", "/v1/projects/p/locations/l/endpoints/linear:rawPredict"] {
        let response = ask(path, "v2/models/linear/infer").await;
        assert_eq!(response.status(), 200, "{path}");
        let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let length: usize = media_type.rsplit_once('=').unwrap().1.parse().unwrap();
        let body = response.bytes().await.unwrap();
        let head: Value = serde_json::from_slice(&body[..length]).unwrap();
        assert_eq!((&head["model_name"], &body[length..]), (&json!("linear"), &0.5f32.to_le_bytes()[..]));
    }
    assert_eq!(ask("/v1/endpoints/linear:rawPredict", "v2/models/linear/ready").await.status(), 200);
    // Nothing but these routes, and no other endpoint's models.
    for (redirect, status) in [
        ("v2/repository/index", 400),
        ("metrics", 400),
        ("v2/models/columns/infer", 404),
        ("v2/models/linear/versions/7/infer", 404),
    ] {
        let response = ask("/v1/endpoints/linear:rawPredict", redirect).await;
        assert_eq!(response.status(), status, "{redirect}");
        assert!(response.json::<Value>().await.unwrap()["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn what_a_request_can_not_ask_for() {
    let server = serving(&["linear"]).start();
    let x = json!({"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]});
    let with = |mut tensor: Value, name: &str, value: Value| {
        tensor["parameters"] = json!({ name: value });
        tensor
    };
    let region = "shared_memory_region";
    for (request, words) in [
        (json!({"inputs": [with(x.clone(), region, json!("r"))]}), "inputs.x.parameters.shared_memory_region"),
        (
            json!({"inputs": [x], "outputs": [with(json!({"name": "y"}), region, json!("r"))]}),
            "outputs.y.parameters.shared_memory_region",
        ),
        (json!({"inputs": [x], "parameters": {"timeout": -1}}), "parameters.timeout"),
        (json!({"inputs": [x], "parameters": {"timeout": "soon"}}), "parameters.timeout"),
    ] {
        let (status, answer) = post(&server, "/v2/models/linear/infer", &request).await;
        assert!(status == 400 && answer["error"].as_str().unwrap().contains(words), "{request}: {status} {answer}");
    }
    let relaxed = json!({"inputs": [x], "parameters": {"timeout": 0}});
    assert_eq!(post(&server, "/v2/models/linear/infer", &relaxed).await.0, 200);

    let channel = channel(&server).await;
    let parameter = |choice| [(region.to_owned(), wire::InferParameter { parameter_choice: Some(choice) })].into();
    let string = || parameter(ParameterChoice::StringParam("r".to_owned()));
    let contents = wire::InferTensorContents { fp32_contents: vec![1.0, 2.0, 3.0, 4.0], ..Default::default() };
    let input = wire::model_infer_request::InferInputTensor {
        name: "x".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 4],
        contents: Some(contents),
        ..Default::default()
    };
    let output = wire::model_infer_request::InferRequestedOutputTensor { name: "y".to_owned(), ..Default::default() };
    let plain = wire::ModelInferRequest {
        model_name: "linear".to_owned(),
        inputs: vec![input.clone()],
        outputs: vec![output.clone()],
        ..Default::default()
    };
    let (mut by_input, mut by_output) = (plain.clone(), plain.clone());
    by_input.inputs[0].parameters = string();
    by_output.outputs[0].parameters = string();
    let method = "inference.GRPCInferenceService/ModelInfer";
    for (request, field) in [(by_input, "inputs.x"), (by_output, "outputs.y")] {
        let refused = call::<_, wire::ModelInferResponse>(&channel, method, Request::new(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        let violation = &refused.get_details_bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, format!("{field}.parameters.{region}"));
    }
    let answer: wire::ModelInferResponse = call(&channel, method, Request::new(plain)).await.unwrap().into_inner();
    assert_eq!(answer.outputs[0].contents.as_ref().unwrap().fp32_contents, [30.5]);
}
