//! Explanations of real models, over REST and gRPC: additivity, known values, choices, baselines, refusals.

use prost_types::value::Kind;
use serde_json::{Value, json};
use tessera::protocol::generated::google::cloud::aiplatform::v1::{ExplainRequest, ExplainResponse};
use tessera::protocol::proto_json;
use tonic::{Code, Request, Response, Status};

use crate::grpc::{V1, V1BETA1, call, channel, serving};
use crate::harness::{Server, colour, example, instance, post};

async fn explain(server: &Server, endpoint: &str, body: &Value) -> Value {
    let (status, answer) = post(server, &path(endpoint), body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

fn path(endpoint: &str) -> String {
    format!("/v1/projects/p/locations/l/endpoints/{endpoint}:explain")
}

/// All numbers of an attribution, in their order.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Number(number) => vec![number.as_f64().unwrap()],
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        Value::Object(entries) => entries.values().flat_map(numbers).collect(),
        other => panic!("{other}"),
    }
}

/// Compares contributions with what they are, but for rounding.
fn close(attribution: &Value, name: &str, wanted: &[f64]) {
    let found = numbers(&attribution["featureAttributions"][name]);
    let is_close = found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9);
    assert!(is_close, "{wanted:?}: {attribution}");
}

/// The outputs for the baseline and the instance; the attributions add up to their difference.
fn additive(attribution: &Value) -> (f64, f64) {
    let field = |name: &str| attribution[name].as_f64().unwrap_or_default();
    let (baseline, instance) = (field("baselineOutputValue"), field("instanceOutputValue"));
    let sum: f64 = numbers(&attribution["featureAttributions"]).iter().sum();
    assert!((sum - (instance - baseline)).abs() < 1e-4 * (1.0 + sum.abs()), "{attribution}");
    (baseline, instance)
}

#[tokio::test]
async fn a_linear_model_has_its_weights_times_the_inputs() {
    let server = serving(&["linear", "linear-flat"]).start();
    let answer = explain(&server, "linear", &json!({"instances": [[1, 2, 3, 4], [-1, 0, 0, 10]]})).await;
    assert_eq!(answer["predictions"], json!([[30.5], [39.5]]));
    assert!(answer["deployedModelId"].as_str().unwrap().bytes().all(|byte| byte.is_ascii_digit()));
    let first = &answer["explanations"][0]["attributions"][0];
    close(first, "x", &[1.0, 4.0, 9.0, 16.0]);
    let mut rest = first.clone();
    rest.as_object_mut().unwrap().remove("featureAttributions");
    let wanted =
        json!({"baselineOutputValue": 0.5, "instanceOutputValue": 30.5, "outputIndex": [0], "outputName": "y"});
    assert_eq!(rest, wanted);
    let second = &answer["explanations"][1]["attributions"][0];
    close(second, "x", &[-1.0, 0.0, 0.0, 40.0]);
    // A scalar has no index, and another name may be given to the list.
    let instances = json!({"instances": [{"x": [1, 2, 3, 4]}]});
    let answer = explain(&server, "linear-flat", &instances).await;
    let flat = &answer["explanations"][0]["attributions"][0];
    close(flat, "x", &[1.0, 4.0, 9.0, 16.0]);
    assert!(flat.get("outputIndex").is_none(), "{flat}");
    // w * (x - b), and the mean over several baselines.
    let mut body = json!({"instances": [[1, 2, 3, 4]]});
    body["explanationSpecOverride"] =
        json!({"metadata": {"inputs": {"x": {"inputBaselines": [[1, 1, 1, 1], [3, 1, 1, 1]]}}}});
    let answer = explain(&server, "linear", &body).await;
    let shifted = &answer["explanations"][0]["attributions"][0];
    close(shifted, "x", &[-1.0, 2.0, 6.0, 12.0]);
    assert_eq!(additive(shifted), (11.5, 30.5));
}

#[tokio::test]
async fn keys_are_features() {
    let server = serving(&["columns"]).start();
    let body = json!({"instances": [{"age": 39, "city": "Oslo"}, {"city": "Rome", "age": [7]}]});
    let answer = explain(&server, "columns", &body).await;
    let attribution = |index: usize| &answer["explanations"][index]["attributions"][0];
    assert_eq!(attribution(0)["featureAttributions"], json!({"age": 39.0, "city": 1000.0}));
    assert_eq!(attribution(1)["featureAttributions"], json!({"age": 7.0, "city": 2000.0}));
    let mut body = json!({"instances": [{"age": 39, "city": "Oslo"}]});
    body["explanationSpecOverride"] =
        json!({"metadata": {"inputs": {"city": {"inputBaselines": ["Rome"]}, "age": {"inputBaselines": [30, 40]}}}});
    let answer = explain(&server, "columns", &body).await;
    assert_eq!(
        answer["explanations"][0]["attributions"][0]["featureAttributions"],
        json!({"age": 4.0, "city": -1000.0})
    );
}

#[tokio::test]
async fn classes_of_a_table() {
    let server = serving(&["zip-map-text", "classes"]).start();
    let body =
        |parameters: Value| json!({"instances": [[1, 2]], "explanationSpecOverride": {"parameters": parameters}});
    let all = explain(&server, "zip-map-text", &body(json!({"topK": -1}))).await;
    let attributions = all["explanations"][0]["attributions"].as_array().unwrap().clone();
    assert!(attributions.len() >= 2);
    let values: Vec<f64> = attributions.iter().map(|attribution| additive(attribution).1).collect();
    assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
    assert!(attributions.iter().all(|attribution| attribution["outputDisplayName"].is_string()), "{all}");
    // Given indices keep their order.
    let two = explain(&server, "zip-map-text", &body(json!({"outputIndices": [1, 0]}))).await;
    let indices: Vec<&Value> =
        two["explanations"][0]["attributions"].as_array().unwrap().iter().map(|a| &a["outputIndex"]).collect();
    assert_eq!(indices, [&json!([1]), &json!([0])]);
    let (status, answer) = post(&server, &path("zip-map-text"), &body(json!({"outputIndices": [99]}))).await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn pictures_are_grids() {
    let server = serving(&["colour", "imagenet", "nhwc"]).setting("explain.image_grid", "3").start();
    for model in ["colour", "nhwc"] {
        // Red on the left, black on the right: only the left speaks for red.
        let mut picture = image::RgbImage::new(33, 33);
        for (x, _, pixel) in picture.enumerate_pixels_mut() {
            *pixel = if x < 11 { image::Rgb([255, 0, 0]) } else { image::Rgb([128, 128, 128]) };
        }
        let mut png = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let answer = explain(&server, model, &json!({"instances": [instance(png.get_ref())]})).await;
        let attribution = &answer["explanations"][0]["attributions"][0];
        assert_eq!(attribution["outputDisplayName"], "red");
        additive(attribution);
        let rows = attribution["featureAttributions"]["pixel_values"].as_array().unwrap();
        assert_eq!(rows.len(), 3, "{attribution}");
        for row in rows {
            let row = numbers(row);
            assert!(row[0] > 0.05 && row[1].abs() < 0.05 && row[2].abs() < 0.05, "{attribution}");
        }
    }
    // A picture as the baseline: nothing differs, so nothing contributes.
    let red = instance(&colour([255, 0, 0]));
    let mut body = json!({"instances": [red]});
    for (baseline, changes) in [(red.clone(), false), (json!(0.25), true), (json!([1.0, -1.0, -1.0]), false)] {
        body["explanationSpecOverride"] =
            json!({"metadata": {"inputs": {"pixel_values": {"inputBaselines": [baseline]}}}});
        let answer = explain(&server, "colour", &body).await;
        let attribution = &answer["explanations"][0]["attributions"][0];
        let (before, after) = additive(attribution);
        assert_eq!((after - before).abs() > 1e-3, changes, "{attribution}");
    }
    let mut body = json!({"instances": [instance(&example("cat.jpg"))]});
    body["explanationSpecOverride"] = json!({"parameters": {"sampledShapleyAttribution": {"pathCount": 3}, "topK": 2}});
    let first = explain(&server, "imagenet", &body).await;
    let attributions = first["explanations"][0]["attributions"].as_array().unwrap().clone();
    assert_eq!((attributions.len(), &attributions[0]["outputDisplayName"]), (2, &json!("Egyptian cat")));
    for attribution in &attributions {
        additive(attribution);
    }
    assert!(attributions[0]["approximationError"].as_f64().unwrap() > 0.0);
    assert_eq!(explain(&server, "imagenet", &body).await, first, "the same question has the same answer");
}

#[tokio::test]
async fn what_can_not_be_explained() {
    let server = serving(&["linear", "echo-string"]).start();
    let with = |spec: Value| json!({"instances": [[1, 2, 3, 4]], "explanationSpecOverride": spec});
    for (body, field) in [
        (json!({"instances": []}), "instances"),
        (json!({}), "instances"),
        (json!({"instances": [[1, 2, 3]]}), "instances[0]"),
        (json!({"instances": [[1, 2, 3, 4]], "parameters": {"x": 1}}), "parameters.x"),
        (
            with(json!({"parameters": {"sampledShapleyAttribution": {"pathCount": 51}}})),
            "explanationSpecOverride.parameters.sampledShapleyAttribution.pathCount",
        ),
        (
            with(json!({"parameters": {"integratedGradientsAttribution": {"stepCount": 5}}})),
            "explanationSpecOverride.parameters.integratedGradientsAttribution",
        ),
        (with(json!({"parameters": {"topK": -2}})), "explanationSpecOverride.parameters.topK"),
        (
            with(json!({"metadata": {"inputs": {"x": {"inputBaselines": [[1, 2]]}}}})),
            "explanationSpecOverride.metadata.inputs.x.inputBaselines",
        ),
        (with(json!({"metadata": {"inputs": {"x": {"inputBaselines": [["a", 1, 1, 1]]}}}})), "instances[0][0]"),
    ] {
        let (status, answer) = post(&server, &path("linear"), &body).await;
        assert_eq!(status, 400, "{body}: {answer}");
        assert_eq!(answer["error"]["details"][0]["fieldViolations"][0]["field"], field, "{answer}");
    }
    let (status, _) = post(&server, &path("linear"), &json!({"instances": [[1, 2, 3, 4]], "nope": 1})).await;
    assert_eq!(status, 400);
    let body = json!({"instances": [[1, 2, 3, 4]], "deployedModelId": "1"});
    assert_eq!(post(&server, &path("linear"), &body).await.0, 404);
    let (status, answer) = post(&server, &path("echo-string"), &json!({"instances": [["a", "b"]]})).await;
    assert_eq!(status, 400, "{answer}");
    assert_eq!(answer["error"]["status"], "FAILED_PRECONDITION");
}

/// The memory that a plan takes grows with the square of the features, so they are bounded before there is one.
#[tokio::test]
async fn what_would_take_too_much() {
    let server = serving(&["variable"]).start();
    let spec =
        |paths: u32, top: i32| json!({"parameters": {"sampledShapleyAttribution": {"pathCount": paths}, "topK": top}});
    for (features, spec, field) in [
        (400_000, spec(50, 1), "instances[0]"),
        (4000, spec(50, 1), "explanationSpecOverride.parameters.sampledShapleyAttribution.pathCount"),
    ] {
        let begin = std::time::Instant::now();
        let body = json!({"instances": [vec![1; features]], "explanationSpecOverride": spec});
        let (status, answer) = post(&server, &path("variable"), &body).await;
        assert_eq!(status, 400, "{answer}");
        assert_eq!(answer["error"]["details"][0]["fieldViolations"][0]["field"], field, "{answer}");
        assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}

async fn over_grpc(server: &Server, service: &str, body: &Value, endpoint: &str) -> Result<ExplainResponse, Status> {
    let channel = channel(server).await;
    let mut request: ExplainRequest = proto_json::read(body.to_string().as_bytes()).unwrap();
    request.endpoint = format!("projects/p/locations/l/endpoints/{endpoint}");
    call(&channel, &format!("{service}/Explain"), Request::new(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn grpc_says_the_same() {
    let server = serving(&["linear", "colour"]).start();
    let described = post(&server, &path("linear"), &json!({"instances": [[1, 2, 3, 4]]})).await.1;
    let body = json!({"instances": [[1, 2, 3, 4]], "deployedModelId": described["deployedModelId"]});
    for service in [V1, V1BETA1] {
        let answer = over_grpc(&server, service, &body, "linear").await.unwrap();
        assert_eq!(proto_json::write(&answer).unwrap(), described);
        let attributions = &answer.explanations[0].attributions[0];
        assert!(matches!(attributions.feature_attributions.as_ref().unwrap().kind, Some(Kind::StructValue(_))));
    }
    let body = json!({"instances": [instance(&colour([1, 2, 3]))]});
    let answer = over_grpc(&server, V1, &body, "colour").await.unwrap();
    assert_eq!(proto_json::write(&answer).unwrap(), explain(&server, "colour", &body).await);
    let refused = over_grpc(&server, V1, &json!({"instances": [[1]]}), "linear").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = over_grpc(&server, V1, &json!({"instances": [[1]], "deployedModelId": "1"}), "linear").await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn numbers_are_those_of_predict() {
    let server = serving(&["echo-int64", "linear"]).start();
    let body = json!({"instances": [[9_007_199_254_740_993_i64, -9_007_199_254_740_993_i64]]});
    let (_, predicted) = post(&server, &path("echo-int64").replace("explain", "predict"), &body).await;
    assert_eq!(predicted["predictions"], body["instances"]);
    assert_eq!(explain(&server, "echo-int64", &body).await["predictions"], predicted["predictions"]);
    let body = json!({"instances": [[1e0, 2, 3, 4]], "parameters": null, "deployed_model_id": ""});
    assert_eq!(explain(&server, "linear", &body).await["predictions"], json!([[30.5]]));
}

/// What a client's own numbers lead to is no failure of the server's.
#[tokio::test]
async fn outputs_that_are_not_finite() {
    let server = serving(&["linear", "echo-float64", "not-finite", "colour"]).start();
    let baseline = |name: &str, value: Value| json!({"metadata": {"inputs": {name: {"inputBaselines": [value]}}}});
    for (model, instances, spec, field, words) in [
        ("linear", json!([[1, 2, 3, 4], [3e38, 3e38, 3e38, 3e38]]), json!({}), "instances[1]", "inf"),
        ("echo-float64", json!([["NaN", 1]]), json!({}), "instances[0]", "NaN"),
        ("echo-float64", json!([[1, "-Infinity"]]), json!({}), "instances[0]", "-inf"),
        ("not-finite", json!([0]), json!({}), "instances[0]", "NaN"),
        ("linear", json!([[1, 2, 3, 4]]), baseline("x", json!([3e38, 3e38, 3e38, 3e38])), "instances[0]", "baseline"),
        (
            "colour",
            json!([instance(&colour([255, 0, 0]))]),
            baseline("pixel_values", json!(1e300)),
            "explanationSpecOverride.metadata.inputs.pixel_values.inputBaselines",
            "float32",
        ),
    ] {
        let body = json!({"instances": instances, "explanationSpecOverride": spec});
        let (status, answer) = post(&server, &path(model), &body).await;
        assert_eq!((status, &answer["error"]["status"]), (400, &json!("INVALID_ARGUMENT")), "{body}: {answer}");
        assert_eq!(answer["error"]["details"][0]["fieldViolations"][0]["field"], field, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        assert!(field.starts_with("explanation") || message.contains("send values for which"), "{message}");
    }
    let refused = over_grpc(&server, V1, &json!({"instances": [["NaN", 1]]}), "echo-float64").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(!server.log().iter().any(|line| line.contains(r#""severity":"ERROR""#)), "{:#?}", server.log());
}
