//! Models of plain tensors: tables, text, and every type that a client can express.

use serde_json::{Value, json};

use crate::harness::{Builder, Server, client, post, tessera};

async fn predict(server: &Server, model: &str, instances: Value) -> Value {
    let (status, answer) =
        post(server, &format!("/v1/endpoints/{model}:predict"), &json!({"instances": instances})).await;
    assert_eq!(status, 200, "{model}: {answer}");
    answer["predictions"].clone()
}

/// The message of a request that is refused, and the field that it names.
async fn refused(server: &Server, model: &str, instances: Value) -> (String, String) {
    let (status, answer) =
        post(server, &format!("/v1/endpoints/{model}:predict"), &json!({"instances": instances})).await;
    assert_eq!(status, 400, "{model}: {answer}");
    let error = &answer["error"];
    assert_eq!(error["status"], "INVALID_ARGUMENT");
    let field = error["details"][0]["fieldViolations"][0]["field"].as_str().unwrap().to_owned();
    (field, error["message"].as_str().unwrap().to_owned())
}

/// The text of the predictions, which shows how numbers are written.
async fn text(server: &Server, model: &str, instances: &str) -> String {
    let response = client()
        .post(server.url(&format!("/v1/endpoints/{model}:predict")))
        .body(format!(r#"{{"instances":{instances}}}"#))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let body = response.text().await.unwrap();
    let rest = body.strip_prefix(r#"{"predictions":"#).unwrap();
    rest[..rest.find(r#","deployedModelId""#).unwrap()].to_owned()
}

#[tokio::test]
async fn rows_of_numbers() {
    let server = Builder::with_models(&["linear", "linear-flat"]).start();
    let rows = json!([[1, 2, 3, 4], [0.5, 0, 0, 0], {"x": [0, 0, 0, 1]}]);
    assert_eq!(predict(&server, "linear", rows.clone()).await, json!([[30.5], [1.0], [4.5]]));
    assert_eq!(predict(&server, "linear-flat", rows).await, json!([30.5, 1.0, 4.5]));
    assert_eq!(text(&server, "linear", "[[0.1,0,0,0]]").await, "[[0.6]]");

    // More rows than a batch, each with its own answer.
    let many: Vec<Value> = (0..200).map(|row| json!([row, 0, 0, 0])).collect();
    let expected: Vec<Value> = (0..200).map(|row| json!(f64::from(row) + 0.5)).collect();
    assert_eq!(predict(&server, "linear-flat", json!(many)).await, json!(expected));
}

#[tokio::test]
async fn what_does_not_fit_is_named() {
    let server = Builder::with_models(&["linear", "columns", "echo-grid", "echo-string"]).start();
    for (model, instances, field, words) in [
        ("linear", json!([[1, 2, 3, 4], [1, 2, 3]]), "instances[1]", "has 3 elements; it must have 4"),
        ("linear", json!([[1, 2, 3, 4, 5, 6]]), "instances[0]", "has 6 elements"),
        ("linear", json!([1]), "instances[0]", "is a number; it must be a list of 4"),
        ("linear", json!([[1, 2, [3], 4]]), "instances[0][2]", "is a list; it must be a number"),
        ("linear", json!([[1, 2, "3", 4]]), "instances[0][2]", "the string \"3\""),
        ("linear", json!([[1, null, 3, 4]]), "instances[0][1]", "is null"),
        ("linear", json!([[1, 2, 3, true]]), "instances[0][3]", "is a boolean"),
        ("linear", json!([[1e39, 2, 3, 4]]), "instances[0][0]", "beyond the range of float32"),
        ("linear", json!([{"y": [1, 2, 3, 4]}]), "instances[0].y", "it takes `x`"),
        ("linear", json!([{"x": [1, 2, 3, "a"]}]), "instances[0].x[3]", "float32[4]"),
        ("linear", json!([{}]), "instances[0]", "has no `x`"),
        ("columns", json!([[1, "Oslo"]]), "instances[0]", "an object with the inputs `age`, `city`"),
        ("columns", json!([{"age": [1]}]), "instances[0]", "has no `city`"),
        ("columns", json!([{"age": "old", "city": "Oslo"}]), "instances[0].age", "\"old\""),
        ("columns", json!([{"age": 1, "city": 2}]), "instances[0].city", "must be a string"),
        ("echo-grid", json!([[[1, 2], [3, 4]], [[1, 2], [3]]]), "instances[1][1]", "equally long"),
        ("echo-string", json!([["a", {"b64": "!"}]]), "instances[0][1].b64", "not base64"),
        ("echo-string", json!([["a", {"b64": "/w=="}]]), "instances[0][1].b64", "UTF-8"),
        ("echo-string", json!([["a", {"b64": 7}]]), "instances[0][1].b64", "base64 string"),
    ] {
        let (named, message) = refused(&server, model, instances.clone()).await;
        assert_eq!(named, field, "{model} {instances}: {message}");
        assert!(message.starts_with(field) && message.contains(words), "{model} {instances}: {message}");
    }
    let body = json!({"instances": [[1, 2, 3, 4]], "parameters": {"top_k": 1}});
    let (status, answer) = post(&server, "/v1/endpoints/linear:predict", &body).await;
    assert_eq!(
        (status, &answer["error"]["details"][0]["fieldViolations"][0]["field"]),
        (400, &json!("parameters.top_k"))
    );
}

#[tokio::test]
async fn every_type_there_and_back() {
    let wholes = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"];
    let types = ["float32", "float16", "float64", "bool", "string"];
    let names: Vec<String> = types.iter().chain(&wholes).map(|kind| format!("echo-{kind}")).collect();
    let server = Builder::with_models(&names.iter().map(String::as_str).collect::<Vec<_>>()).start();
    for (kind, instance) in [
        ("float32", "[0.1,-3.4028235e+38]"),
        ("float16", "[0.5,-65504.0]"),
        ("float64", "[0.1,1.7976931348623157e+308]"),
        ("int8", "[-128,127]"),
        ("int16", "[-32768,32767]"),
        ("int32", "[-2147483648,2147483647]"),
        ("int64", "[-9223372036854775808,9223372036854775807]"),
        ("uint8", "[0,255]"),
        ("uint16", "[0,65535]"),
        ("uint32", "[0,4294967295]"),
        ("uint64", "[0,18446744073709551615]"),
        ("bool", "[true,false]"),
        ("string", r#"["","søt \"日本\""]"#),
    ] {
        assert_eq!(text(&server, &format!("echo-{kind}"), &format!("[{instance}]")).await, format!("[{instance}]"));
    }
    for kind in wholes {
        let model = format!("echo-{kind}");
        // As Google's clients send it: every number is a double.
        assert_eq!(text(&server, &model, "[[1.0,2e0]]").await, "[[1,2]]", "{kind}");
        let (field, message) = refused(&server, &model, json!([[1, 1.5]])).await;
        assert_eq!(field, "instances[0][1]");
        assert!(message.contains("1.5; it must be a whole number"), "{message}");
        let (_, message) = refused(&server, &model, json!([[1e20, 0]])).await;
        assert!(message.contains("100000000000000000000") && message.contains(" to "), "{message}");
    }
    for kind in ["float32", "float16", "float64"] {
        let strange = json!([["NaN", "Infinity"], ["-Infinity", 1.0]]);
        assert_eq!(predict(&server, &format!("echo-{kind}"), strange.clone()).await, strange);
    }
    assert_eq!(predict(&server, "echo-string", json!([[{"b64": "Y2F0"}, "dog"]])).await, json!([["cat", "dog"]]));
    let (_, message) = refused(&server, "echo-bool", json!([[0, true]])).await;
    assert!(message.contains("true or false"), "{message}");
}

#[tokio::test]
async fn columns_by_name() {
    let server = Builder::with_models(&["columns"]).start();
    let rows =
        json!([{"age": [39], "city": ["Oslo"]}, {"city": "Rome", "age": 41}, {"age": 7, "city": {"b64": "T3Nsbw=="}}]);
    assert_eq!(predict(&server, "columns", rows).await, json!([[1039.0], [2041.0], [1007.0]]));
}

#[tokio::test]
async fn several_outputs_are_an_object() {
    let server = Builder::with_models(&["classes", "classes-label", "zip-map", "zip-map-text"]).start();
    let rows = json!([[10, 0], [0, 10], [-10, -10]]);
    let answers = predict(&server, "classes", rows.clone()).await;
    assert_eq!(answers[0]["label"], 0);
    assert_eq!(answers[2]["label"], 2);
    assert_eq!(predict(&server, "classes-label", rows.clone()).await, json!([0, 1, 2]));
    let probabilities = answers[1]["probabilities"].clone();
    assert!(probabilities[1].as_f64().unwrap() > 0.99, "{answers}");

    let maps = predict(&server, "zip-map", rows.clone()).await;
    assert_eq!(maps[1]["label"], 1);
    let [zero, one, two] = [0, 1, 2].map(|class| probabilities[class].clone());
    assert_eq!(maps[1]["probability"], json!({"0": zero, "1": one, "2": two}));
    let maps = predict(&server, "zip-map-text", rows).await;
    assert_eq!(maps[1], json!({"label": "dog", "probability": {"cat": zero, "dog": one, "owl": two}}));
}

#[tokio::test]
async fn lists_of_any_length_do_not_disturb_each_other() {
    let server = Builder::with_models(&["variable", "echo-grid", "echo-blob", "echo-pairs"]).start();
    let rows: Vec<Vec<usize>> = (0..100).map(|row| (0..row % 5).collect()).collect();
    let sums: Vec<f64> = rows.iter().map(|row| row.iter().sum::<usize>() as f64).collect();
    assert_eq!(predict(&server, "variable", json!(rows)).await, json!(sums));
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains("can't share a batch")), "{log:#?}");

    let grids = json!([[[1.0, 2.0]], [[1.0], [2.0]], [[]], [], [[5.0, 6.0], [7.0, 8.0]]]);
    assert_eq!(predict(&server, "echo-grid", grids.clone()).await, grids);
    let blobs = json!([{"b64": "AQL/"}, {"x": {"b64": ""}}, [7, 8]]);
    assert_eq!(predict(&server, "echo-blob", blobs).await, json!([[1, 2, 255], [], [7, 8]]));
    // A batch of exactly two is padded and cut.
    assert_eq!(predict(&server, "echo-pairs", json!([[1], [2], 3])).await, json!([[1.0], [2.0], [3.0]]));
}

#[tokio::test]
async fn what_json_lacks_is_written_as_strings() {
    let server = Builder::with_models(&["not-finite", "text-bytes"]).start();
    assert_eq!(predict(&server, "not-finite", json!([0, 1, -1])).await, json!([["NaN"], ["Infinity"], ["-Infinity"]]));
    let answers = predict(&server, "text-bytes", json!(["cat", {"b64": "Y2F0"}, {"text": "søt"}])).await;
    assert_eq!(answers[0], json!({"copy_bytes": {"b64": "Y2F0"}, "copy": "cat"}));
    assert_eq!(answers[1], answers[0]);
    assert_eq!(answers[2], json!({"copy_bytes": {"b64": "c8O4dA=="}, "copy": "søt"}));
}

#[tokio::test]
async fn a_bare_list_is_taken_on_the_container_routes() {
    let server = Builder::with_models(&["linear"]).start();
    let rows = json!([[1, 2, 3, 4], [0, 0, 0, 0]]);
    let (status, answer) = post(&server, "/predict", &rows).await;
    assert_eq!((status, answer), (200, json!({"predictions": [[30.5], [0.5]]})));
    let (status, _) = post(&server, "/v1/endpoints/linear:predict", &rows).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_failing_row_fails_alone_and_zeros_are_only_a_guess() {
    let server = Builder::with_models(&["no-zero"]).start();
    assert_eq!(predict(&server, "no-zero", json!([2, 2])).await, json!(["two", "two"]));
    let (status, answer) = post(&server, "/v1/endpoints/no-zero:predict", &json!({"instances": [2, 9]})).await;
    assert_eq!(status, 500);
    assert!(answer["error"]["message"].as_str().unwrap().contains("instances[1]"), "{answer}");
}

/// A model that asks for more memory than there can be is that request's failure, not the server's.
#[tokio::test]
async fn memory_that_cannot_be_had_fails_alone() {
    let server = Builder::with_models(&["as-large-as-told"]).start();
    let path = "/v1/endpoints/as-large-as-told:predict";
    assert_eq!(predict(&server, "as-large-as-told", json!([1, 1000])).await, json!([1, 1000]));
    // Times four bytes, more than an address can name.
    let too_large = json!({"instances": [1_u64 << 46]});
    let requests = (0..8).map(|_| post(&server, path, &too_large));
    for (status, answer) in futures_util::future::join_all(requests).await {
        assert_eq!((status, &answer["error"]["status"]), (500, &json!("INTERNAL")), "{answer}");
    }
    assert_eq!(predict(&server, "as-large-as-told", json!([7])).await, json!([7]));
}

#[tokio::test]
async fn the_description_shows_an_instance_that_works() {
    let models = ["linear", "columns", "classes", "zip-map", "echo-string", "echo-grid", "text-bytes"];
    let server = Builder::with_models(&models).start();
    let endpoints: Value = client().get(server.url("/v1/endpoints")).send().await.unwrap().json().await.unwrap();
    let endpoints = endpoints["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), models.len());
    for endpoint in endpoints {
        let model = &endpoint["deployedModels"][0];
        assert_eq!(model["task"], "tensors");
        let (status, answer) = post(&server, endpoint["predict"].as_str().unwrap(), &model["example"]).await;
        assert_eq!(status, 200, "{}: {answer}", model["example"]);
    }
    let zip_map = endpoints.iter().find(|endpoint| endpoint["id"] == "zip-map").unwrap();
    assert_eq!(zip_map["deployedModels"][0]["outputs"][1]["type"], "map(int64,float32)");
}

fn run(arguments: &[&str], models: &std::path::Path) -> (bool, String) {
    let output = tessera().args(arguments).current_dir(models).arg("--models").arg(models).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// A repository with a copy of one of the tests' models.
fn repository(model: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let version = folder.path().join(model).join("1");
    std::fs::create_dir_all(&version).unwrap();
    let source = crate::harness::root().join("tests/models").join(model).join("1/model.onnx");
    std::fs::copy(source, version.join("model.onnx")).unwrap();
    for (name, text) in files {
        std::fs::write(version.join(name), text).unwrap();
    }
    folder
}

#[test]
fn the_commands_know_models_without_pictures() {
    let models = repository("linear", &[]);
    let (good, text) = run(&["models"], models.path());
    assert!(good && text.contains("tensors") && text.contains("x float32[?,4]"), "{text}");
    let (good, text) = run(&["check"], models.path());
    assert!(good && text.contains("linear version 1  ok"), "{text}");
    let (good, text) = run(&["predict", "cat.jpg"], models.path());
    assert!(!good && text.contains(r#"{"instances":[[0.0,0.0,0.0,0.0]]}"#), "{text}");
}

#[test]
fn what_a_model_is_for_can_be_said() {
    for (model, files, words) in [
        ("no-batch", &[][..], "has no axis for the batch"),
        ("linear", &[("preprocessor_config.json", "{}")], "taken for an image classifier"),
        ("linear", &[("model.toml", "task = \"image-classification\"")], "preprocessing makes"),
        ("linear", &[("model.toml", "task = \"tables\"")], "tensors"),
        ("linear", &[("model.toml", "[preprocess]\npreset = \"hf\"")], "for image classifiers"),
        ("linear", &[("model.toml", "[postprocess]\nactivation = \"none\"")], "for image classifiers"),
        (
            "colour",
            &[("model.toml", "task = \"image-classification\"\n[postprocess]\nflatten = true")],
            "postprocess.flatten",
        ),
    ] {
        let models = repository(model, files);
        let (good, text) = run(&["check"], models.path());
        assert!(!good && text.contains(words), "{model} {files:?}: {text}");
    }
    let models = repository("colour", &[("preprocessor_config.json", "{}"), ("model.toml", "task = \"tensors\"")]);
    let (good, text) = run(&["models"], models.path());
    assert!(good && text.contains("tensors"), "{text}");
}
