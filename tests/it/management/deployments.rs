//! Deployments that fail, take long, are given up, or are cut off by the end of the process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{LINEAR, PARENT, artifact, create, deploy, done, predict, refused, upload};
use crate::harness::{Builder, Server, client};
use crate::object_store::ObjectStore;

#[tokio::test]
async fn a_deployment_that_fails_changes_nothing_and_says_why() {
    let server = Builder::with_models(&["linear"]).start();
    let (good, endpoint) = (upload(&server, LINEAR).await, create(&server, "e").await);
    let id = deploy(&server, &endpoint, &good, json!({"0": 100})).await;
    let before = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("saved_model.pb"), "x").unwrap();
    let saved_model = folder.path().to_string_lossy().into_owned();
    for (uri, code, words) in [
        (saved_model.as_str(), 9, "tf2onnx"),
        (&artifact("tests/models/corrupt/1"), 9, "model.onnx"),
        (&artifact("tests/models/missing-label/1"), 9, "labels"),
        ("/there/is/nothing", 9, "/there/is/nothing"),
    ] {
        let body = json!({"model": {"displayName": "Bad", "artifactUri": uri}});
        let uploaded = done(&server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
        let body = json!({"deployedModel": {"model": uploaded["response"]["model"]}, "trafficSplit": {"0": 50, id.clone(): 50}});
        let operation = done(&server, "POST", &format!("/v1/{endpoint}:deployModel"), body).await;
        assert_eq!((&operation["done"], &operation["error"]["code"]), (&json!(true), &json!(code)), "{operation}");
        let message = operation["error"]["message"].as_str().unwrap();
        assert!(message.contains(words) && operation["response"].is_null(), "{message}");
        assert_eq!(operation["metadata"]["deploymentStage"], "FAILED_TO_DEPLOY");
    }
    assert_eq!(done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await, before);
    assert_eq!(predict(&server, &endpoint).await["deployedModelId"], id);
    // What is wrong with the request itself is an error at once.
    let path = format!("/v1/{endpoint}:deployModel");
    for (body, code) in [
        (json!({"deployedModel": {"model": format!("{PARENT}/models/none")}}), "NOT_FOUND"),
        (json!({"deployedModel": {"model": format!("{good}@7")}}), "NOT_FOUND"),
        (json!({"deployedModel": {"model": good, "id": id}}), "INVALID_ARGUMENT"),
        (json!({"deployedModel": {"model": good}, "trafficSplit": {"0": 50}}), "INVALID_ARGUMENT"),
        (json!({"deployedModel": {"model": good, "colour": 1}}), "INVALID_ARGUMENT"),
        (json!({}), "INVALID_ARGUMENT"),
    ] {
        assert_eq!(refused(&server, "POST", &path, body.clone()).await.0, code, "{body}");
    }
}

/// Uploads a model that lies in the store.
async fn upload_from_store(server: &Server, folder: &str) -> String {
    let body = json!({"model": {"displayName": folder, "artifactUri": format!("gs://models-bucket/{folder}")}});
    let operation = done(server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
    operation["response"]["model"].as_str().unwrap().to_owned()
}

/// What an operation says of its download.
fn progress(operation: &Value) -> &str {
    operation["metadata"]["genericMetadata"]["partialFailures"][0]["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_takes_long_is_watched_awaited_and_cancelled() {
    let store = ObjectStore::start(&["patient", "given-up"]).await;
    let cache = tempfile::tempdir().unwrap();
    let server = Builder::with_models(&["linear"])
        .env("STORAGE_EMULATOR_HOST", &store.host())
        .setting("artifacts.directory", &cache.path().to_string_lossy())
        .start();
    let endpoint = create(&server, "e").await;
    let first = deploy(&server, &endpoint, &upload(&server, LINEAR).await, json!({"0": 100})).await;
    let before = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
    let (patient, given_up) =
        (upload_from_store(&server, "patient").await, upload_from_store(&server, "given-up").await);

    let path = format!("/v1/{endpoint}:deployModel");
    let body = |model: &str| json!({"deployedModel": {"model": model}, "trafficSplit": {"0": 50, first.clone(): 50}});
    let begin = Instant::now();
    let (slow, other) =
        tokio::join!(done(&server, "POST", &path, body(&patient)), done(&server, "POST", &path, body(&given_up)));
    assert!((14..25).contains(&begin.elapsed().as_secs()), "answered after {:?}", begin.elapsed());
    for operation in [&slow, &other] {
        assert!(operation["done"].is_null() && operation["response"].is_null(), "{operation}");
        assert_eq!(operation["metadata"]["deploymentStage"], "PREPARING_MODEL");
        assert!(progress(operation).starts_with("downloading, "), "{operation}");
        assert!(progress(operation).contains(" of 16.0 MiB ("), "{operation}");
    }
    // It can be asked for where clients do, and goes on meanwhile.
    let (slow, other) = (slow["name"].as_str().unwrap(), other["name"].as_str().unwrap());
    let mut seen = BTreeSet::new();
    let mut updated = BTreeSet::new();
    for prefix in ["ui", "v1", "v1beta1"] {
        let polled = done(&server, "GET", &format!("/{prefix}/{slow}"), Value::Null).await;
        assert!(polled["done"].is_null(), "{polled}");
        seen.insert(progress(&polled).to_owned());
        updated.insert(polled["metadata"]["genericMetadata"]["updateTime"].to_string());
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    assert!(seen.len() == 3 && updated.len() == 3, "{seen:?} {updated:?}");
    let begin = Instant::now();
    let waited = done(&server, "POST", &format!("/v1/{slow}:wait"), json!({"timeout": "1.5s"})).await;
    assert!((1400..5000).contains(&begin.elapsed().as_millis()) && waited["done"].is_null(), "{waited}");
    assert_eq!(refused(&server, "DELETE", &format!("/v1/{slow}"), Value::Null).await.0, "FAILED_PRECONDITION");
    // The endpoint is what it was, and answers.
    assert_eq!(done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await, before);
    assert_eq!(predict(&server, &endpoint).await["deployedModelId"], first);

    done(&server, "POST", &format!("/v1/{other}:cancel"), json!({})).await;
    let ended = done(&server, "POST", &format!("/v1/{other}:wait"), json!({"timeout": "10s"})).await;
    assert_eq!((&ended["done"], &ended["error"]["code"]), (&json!(true), &json!(1)), "{ended}");
    assert_eq!((&ended["metadata"]["deploymentStage"], progress(&ended)), (&json!("FAILED_TO_DEPLOY"), ""));
    assert_eq!(done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await, before);

    store.hurry();
    let ended = done(&server, "POST", &format!("/v1/{slow}:wait"), json!({"timeout": "30s"})).await;
    assert_eq!(
        (&ended["done"], &ended["metadata"]["deploymentStage"]),
        (&json!(true), &json!("SUCCESSFULLY_DEPLOYED"))
    );
    assert_eq!(progress(&ended), "");
    let second = ended["response"]["deployedModel"]["id"].as_str().unwrap();
    let mut answered = BTreeSet::new();
    for _ in 0..4 {
        answered.insert(predict(&server, &endpoint).await["deployedModelId"].as_str().unwrap().to_owned());
    }
    assert_eq!(answered, BTreeSet::from([first, second.to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_killed_leaves_the_endpoint_and_goes_on_next_time() {
    let store = ObjectStore::start(&["slow"]).await;
    let state = tempfile::tempdir().unwrap();
    // Without any model of its own, and with downloads where the state is.
    let start = || {
        Builder::with_models(&[])
            .setting("state.directory", &state.path().to_string_lossy())
            .env("STORAGE_EMULATOR_HOST", &store.host())
            .start()
    };
    let server = Arc::new(start());
    let (model, endpoint) = (upload_from_store(&server, "slow").await, create(&server, "e").await);
    let before = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
    let body = json!({"deployedModel": {"model": model}, "trafficSplit": {"0": 100}});
    let deploying = {
        let (url, body) = (server.url(&format!("/v1/{endpoint}:deployModel")), body.clone());
        tokio::spawn(async move { client().post(url).json(&body).send().await })
    };
    let operations = format!("/v1/{endpoint}/operations");
    let name = loop {
        let listed = done(&server, "GET", &operations, Value::Null).await;
        let latest = &listed["operations"][0];
        if latest["metadata"]["@type"].as_str().unwrap().ends_with("DeployModelOperationMetadata")
            && progress(latest).contains("MiB of 16.0 MiB")
        {
            break latest["name"].as_str().unwrap().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    server.signal("KILL");
    assert!(deploying.await.unwrap().is_err());
    drop(server);

    let server = start();
    assert_eq!(done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await, before);
    let operation = done(&server, "GET", &format!("/ui/{name}"), Value::Null).await;
    assert_eq!((&operation["done"], &operation["error"]["code"]), (&json!(true), &json!(10)), "{operation}");
    assert!(operation["error"]["message"].as_str().unwrap().contains("restarted"), "{operation}");
    assert_eq!(operation["metadata"]["deploymentStage"], "FAILED_TO_DEPLOY");
    store.hurry();
    let operation = done(&server, "POST", &format!("/v1/{endpoint}:deployModel"), body).await;
    assert_eq!(operation["metadata"]["deploymentStage"], "SUCCESSFULLY_DEPLOYED", "{operation}");
    assert!(!store.ranges().is_empty() && state.path().join("artifacts").is_dir(), "{:?}", store.ranges());
    assert_eq!(predict(&server, &endpoint).await["predictions"], json!([[30.5]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_is_killed_is_whole_or_not_there() {
    let state = tempfile::tempdir().unwrap();
    let start =
        || Builder::with_models(&["linear"]).setting("state.directory", &state.path().to_string_lossy()).start();
    let mut server = start();
    let (model, endpoint) = (upload(&server, "models/imagenet/1").await, create(&server, "e").await);
    for milliseconds in [0, 20, 60, 150, 400, 1200] {
        let path = server.url(&format!("/v1/{endpoint}:deployModel"));
        let body = json!({"deployedModel": {"model": model}});
        let deploying = tokio::spawn(async move { client().post(path).json(&body).send().await });
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        server.signal("KILL");
        let _ = deploying.await;
        drop(server);
        server = start();
        let shown = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
        let deployed: BTreeSet<&str> =
            shown["deployedModels"].as_array().into_iter().flatten().map(|own| own["id"].as_str().unwrap()).collect();
        let listed = done(&server, "GET", &format!("/v1/{endpoint}/operations"), Value::Null).await;
        let mut of_operations = BTreeSet::new();
        for operation in listed["operations"].as_array().unwrap() {
            assert_eq!(operation["done"], true, "{operation}");
            of_operations.extend(operation["response"]["deployedModel"]["id"].as_str());
            let is_deployment = operation["metadata"]["deploymentStage"].is_string();
            assert!(
                !is_deployment || operation["response"].is_object() || operation["error"]["code"] == 10,
                "{operation}"
            );
        }
        assert_eq!(deployed, of_operations, "{listed}");
    }
}
