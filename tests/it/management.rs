//! Models and endpoints that come and go while the server runs, over REST.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Builder, Server, client, root};

pub const PARENT: &str = "projects/my-project/locations/europe-west4";
const LINEAR: &str = "tests/models/linear/1";

/// The URI of a folder of this repository.
pub fn artifact(folder: &str) -> String {
    root().join(folder).to_string_lossy().into_owned()
}

/// Asks, and gives the status and the JSON of the answer.
async fn ask(server: &Server, method: &str, path: &str, body: Value) -> (u16, Value) {
    let mut request = client().request(method.parse().unwrap(), server.url(path));
    if !body.is_null() {
        request = request.json(&body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {status} {text}")))
}

/// Asks for something that has to succeed.
async fn done(server: &Server, method: &str, path: &str, body: Value) -> Value {
    let (status, answer) = ask(server, method, path, body).await;
    assert_eq!(status, 200, "{method} {path}: {answer}");
    answer
}

/// Asks for something that has to fail, and gives the canonical code and the message.
async fn refused(server: &Server, method: &str, path: &str, body: Value) -> (String, String) {
    let (status, answer) = ask(server, method, path, body).await;
    assert!(status >= 400, "{method} {path}: {answer}");
    let text = |field: &str| answer["error"][field].as_str().unwrap().to_owned();
    (text("status"), text("message"))
}

/// Uploads a model from a folder of the repository, and gives its name.
async fn upload(server: &Server, folder: &str) -> String {
    let body = json!({"model": {"displayName": "Model", "artifactUri": artifact(folder)}});
    let operation = done(server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
    operation["response"]["model"].as_str().unwrap().to_owned()
}

async fn create(server: &Server, id: &str) -> String {
    let path = format!("/v1/{PARENT}/endpoints?endpointId={id}&%24alt=json%3Benum-encoding%3Dint");
    let operation = done(server, "POST", &path, json!({"displayName": id})).await;
    assert_eq!(operation["done"], true);
    operation["response"]["name"].as_str().unwrap().to_owned()
}

/// Deploys a model and gives the deployed model's id.
async fn deploy(server: &Server, endpoint: &str, model: &str, split: Value) -> String {
    let body = json!({"deployedModel": {"model": model}, "trafficSplit": split});
    let operation = done(server, "POST", &format!("/v1/{endpoint}:deployModel"), body).await;
    assert_eq!(operation["done"], true, "{operation}");
    let id = operation["response"]["deployedModel"]["id"].as_str();
    id.unwrap_or_else(|| panic!("{operation}")).to_owned()
}

async fn predict(server: &Server, endpoint: &str) -> Value {
    done(server, "POST", &format!("/v1/{endpoint}:predict"), json!({"instances": [[1, 2, 3, 4]]})).await
}

#[tokio::test]
async fn four_steps_and_back() {
    let server = Builder::with_models(&["linear"]).start();
    let body = json!({"model": {
        "display_name": "Toy", "artifactUri": artifact(LINEAR), "labels": {"team": "a"},
        "containerSpec": {"imageUri": "local/server:latest", "ports": [{"containerPort": 8080}]},
    }});
    let uploaded = done(&server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
    let model = uploaded["response"]["model"].as_str().unwrap();
    assert_eq!(
        uploaded["response"],
        json!({"@type": "type.googleapis.com/google.cloud.aiplatform.v1.UploadModelResponse", "model": model,
               "modelVersionId": "1"})
    );
    assert!(uploaded["name"].as_str().unwrap().starts_with(&format!("{model}/operations/")), "{uploaded}");
    assert!(uploaded["metadata"]["genericMetadata"]["createTime"].as_str().unwrap().ends_with('Z'));

    let endpoint = create(&server, "my-endpoint").await;
    assert_eq!(endpoint, format!("{PARENT}/endpoints/my-endpoint"));
    let (code, message) =
        refused(&server, "POST", &format!("/v1/{endpoint}:predict"), json!({"instances": [[1, 2, 3, 4]]})).await;
    assert_eq!(code, "FAILED_PRECONDITION", "{message}");

    // Enums as numbers, as Google's clients send them.
    let machine = json!({"machineType": "n1-standard-8", "acceleratorType": 5, "acceleratorCount": 1});
    let body = json!({
        "deployedModel": {"model": format!("{model}@default"), "displayName": "first",
                          "dedicatedResources": {"machineSpec": machine, "minReplicaCount": 1}},
        "trafficSplit": {"0": 100},
    });
    let deployed = done(&server, "POST", &format!("/v1/{endpoint}:deployModel"), body).await;
    assert_eq!(
        (&deployed["done"], &deployed["metadata"]["deploymentStage"]),
        (&json!(true), &json!("SUCCESSFULLY_DEPLOYED"))
    );
    let of_response = &deployed["response"]["deployedModel"];
    let id = of_response["id"].as_str().unwrap().to_owned();
    assert_eq!((&of_response["model"], &of_response["modelVersionId"]), (&json!(model), &json!("1")));
    assert_eq!(of_response["dedicatedResources"]["machineSpec"]["acceleratorType"], "NVIDIA_TESLA_T4");
    assert_eq!(of_response["status"]["availableReplicaCount"], 1);

    let shown = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
    assert_eq!(shown["trafficSplit"], json!({id.clone(): 100}));
    assert_eq!(shown["deployedModels"][0]["displayName"], "first");
    assert!(shown["createTime"].is_string() && shown["etag"].is_string());
    assert_eq!(shown["deployedModels"][0]["inputs"][0]["type"], "float32", "{shown}");

    let answer = predict(&server, &endpoint).await;
    assert_eq!((&answer["deployedModelId"], &answer["predictions"]), (&json!(id), &json!([[30.5]])));
    assert_eq!((&answer["model"], &answer["modelDisplayName"]), (&json!(model), &json!("Toy")));
    // The number of a project stands for its id.
    let other = endpoint.replace("my-project", "123456789");
    assert_eq!(done(&server, "GET", &format!("/v1/{other}"), Value::Null).await["name"], other);

    let shown = done(&server, "GET", &format!("/v1/{}", model), Value::Null).await;
    assert_eq!(shown["deployedModels"], json!([{"endpoint": endpoint, "deployedModelId": id}]));
    assert_eq!(shown["supportedDeploymentResourcesTypes"], json!(["DEDICATED_RESOURCES"]));
    assert_eq!((&shown["versionAliases"], &shown["labels"]), (&json!(["default"]), &json!({"team": "a"})));
    assert_eq!(done(&server, "GET", &format!("/v1/{model}%401"), Value::Null).await["versionId"], "1");

    // What is in use can't be deleted.
    let (code, message) = refused(&server, "DELETE", &format!("/v1/{model}"), Value::Null).await;
    assert!(code == "FAILED_PRECONDITION" && message.contains("undeploy it first"), "{code} {message}");
    let (code, _) = refused(&server, "DELETE", &format!("/v1/{endpoint}"), Value::Null).await;
    assert_eq!(code, "FAILED_PRECONDITION");

    let body = json!({"deployedModelId": id});
    let undeployed = done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), body).await;
    assert_eq!(
        undeployed["response"],
        json!({"@type": "type.googleapis.com/google.cloud.aiplatform.v1.UndeployModelResponse"})
    );
    let shown = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
    assert!(shown["trafficSplit"].is_null() && shown["deployedModels"].is_null(), "{shown}");
    for (name, version) in [(&endpoint, "v1"), (&model.to_owned(), "v1beta1")] {
        let deleted = done(&server, "DELETE", &format!("/{version}/{name}"), Value::Null).await;
        assert_eq!(deleted["response"], json!({"@type": "type.googleapis.com/google.protobuf.Empty"}));
        let of_version = format!("type.googleapis.com/google.cloud.aiplatform.{version}.DeleteOperationMetadata");
        assert_eq!(deleted["metadata"]["@type"], of_version);
        // It can be asked for where Google's clients do.
        let operation = deleted["name"].as_str().unwrap();
        for prefix in ["ui", "v1"] {
            let polled = done(&server, "GET", &format!("/{prefix}/{operation}"), Value::Null).await;
            assert_eq!((&polled["done"], &polled["response"]), (&json!(true), &deleted["response"]));
        }
        assert_eq!(refused(&server, "GET", &format!("/v1/{name}"), Value::Null).await.0, "NOT_FOUND");
    }
    let (code, _) =
        refused(&server, "POST", &format!("/v1/{endpoint}:predict"), json!({"instances": [[1, 2, 3, 4]]})).await;
    assert_eq!(code, "NOT_FOUND");
}

#[tokio::test]
async fn versions_and_aliases() {
    let server = Builder::with_models(&["linear"]).start();
    let model = upload(&server, LINEAR).await;
    let path = format!("/v1/{PARENT}/models:upload");
    let version = json!({"parentModel": model, "model": {
        "displayName": "Second", "artifactUri": artifact(LINEAR), "versionAliases": ["canary", "golden"]}});
    let second = done(&server, "POST", &path, version).await;
    assert_eq!(second["response"]["modelVersionId"], "2");
    assert_eq!(second["response"]["model"], model);
    let get = |reference: &str| {
        let path = format!("/v1/{model}{reference}");
        let server = &server;
        async move { done(server, "GET", &path, Value::Null).await["versionId"].clone() }
    };
    assert_eq!((get("").await, get("@canary").await, get("%402").await), (json!("1"), json!("2"), json!("2")));
    // An alias lives on one version.
    let merged = done(
        &server,
        "POST",
        &format!("/v1/{model}@1:mergeVersionAliases"),
        json!({"versionAliases": ["golden", "-none"]}),
    )
    .await;
    assert_eq!(merged["versionAliases"], json!(["default", "golden"]));
    let body = json!({"versionAliases": ["default"]});
    done(&server, "POST", &format!("/v1/{model}@canary:mergeVersionAliases"), body).await;
    assert_eq!(get("").await, json!("2"));
    let listed = done(&server, "GET", &format!("/v1/{model}:listVersions?orderBy=create_time"), Value::Null).await;
    let aliases: Vec<_> =
        listed["models"].as_array().unwrap().iter().map(|m| (&m["name"], &m["versionAliases"])).collect();
    assert_eq!(
        json!(aliases),
        json!([[format!("{model}@1"), ["golden"]], [format!("{model}@2"), ["canary", "default"]]])
    );
    // The model's name belongs to all versions, a version's description to one.
    let body = json!({"displayName": "Both"});
    done(&server, "PATCH", &format!("/v1/{model}?updateMask=displayName"), body).await;
    assert_eq!(done(&server, "GET", &format!("/v1/{model}@1"), Value::Null).await["displayName"], "Both");
    let body = json!({"versionDescription": "old"});
    done(&server, "PATCH", &format!("/v1/{model}@1?updateMask=version_description"), body).await;
    assert!(done(&server, "GET", &format!("/v1/{model}@2"), Value::Null).await["versionDescription"].is_null());

    for (version, reason) in [("2", "default version"), ("canary", "default version")] {
        let (code, message) =
            refused(&server, "DELETE", &format!("/v1/{model}@{version}:deleteVersion"), Value::Null).await;
        assert!(code == "FAILED_PRECONDITION" && message.contains(reason), "{message}");
    }
    done(&server, "DELETE", &format!("/v1/{model}@1:deleteVersion"), Value::Null).await;
    assert_eq!(refused(&server, "GET", &format!("/v1/{model}@1"), Value::Null).await.0, "NOT_FOUND");
    let third = json!({"parentModel": model, "model": {"displayName": "Third", "artifactUri": artifact(LINEAR)}});
    assert_eq!(done(&server, "POST", &path, third).await["response"]["modelVersionId"], "3");

    // A deployed model keeps the version that the alias meant.
    let endpoint = create(&server, "e").await;
    deploy(&server, &endpoint, &format!("{model}@canary"), json!({"0": 100})).await;
    assert_eq!(predict(&server, &endpoint).await["modelVersionId"], "2");
    done(&server, "POST", &format!("/v1/{model}@3:mergeVersionAliases"), json!({"versionAliases": ["canary"]})).await;
    assert_eq!(predict(&server, &endpoint).await["modelVersionId"], "2");
}

#[tokio::test]
async fn traffic_follows_the_split_exactly_or_the_session() {
    let server = Builder::with_models(&["linear"]).start();
    let (model, endpoint) = (upload(&server, LINEAR).await, create(&server, "split").await);
    let first = deploy(&server, &endpoint, &model, json!({"0": 100})).await;
    let second = deploy(&server, &endpoint, &model, json!({"0": 20, first.clone(): 80})).await;
    let third = deploy(&server, &endpoint, &model, json!({})).await;
    let shown = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
    assert_eq!(shown["trafficSplit"], json!({first.clone(): 80, second.clone(): 20}));

    let client = client();
    let url = server.url(&format!("/v1/{endpoint}:predict"));
    let one = |session: Option<String>| {
        let mut request = client.post(&url).json(&json!({"instances": [[1, 2, 3, 4]]}));
        if let Some(session) = session {
            request = request.header("X-Tessera-Session", session);
        }
        async move { request.send().await.unwrap().json::<Value>().await.unwrap()["deployedModelId"].to_string() }
    };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..500 {
        *counts.entry(one(None).await).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([(format!("{first:?}"), 400), (format!("{second:?}"), 100)]));
    // Sessions stay where they are, and are spread over both.
    let mut homes = BTreeMap::new();
    for user in 0..50 {
        homes.insert(user, one(Some(format!("user-{user}"))).await);
    }
    assert_eq!(homes.values().collect::<std::collections::BTreeSet<_>>().len(), 2);
    for (user, home) in &homes {
        assert_eq!(&one(Some(format!("user-{user}"))).await, home);
    }

    // Another split, by PATCH with the whole endpoint, as the SDK sends it.
    let mut body = shown.clone();
    body["trafficSplit"] = json!({third.clone(): 100});
    for extra in ["id", "predict", "deployedModels"] {
        body.as_object_mut().unwrap().remove(extra);
    }
    let patched = done(&server, "PATCH", &format!("/v1/{endpoint}?updateMask=trafficSplit"), body).await;
    assert_eq!(patched["trafficSplit"], json!({third.clone(): 100}));
    assert_eq!(one(None).await, format!("{third:?}"));
    let patch = format!("/v1/{endpoint}?updateMask=trafficSplit");
    for (split, words) in [
        (json!({third.clone(): 99}), "adds up to 99"),
        (json!({"7": 100}), "no deployed model"),
        (json!({"0": 100}), "no deployed model"),
    ] {
        let (code, message) = refused(&server, "PATCH", &patch, json!({"trafficSplit": split})).await;
        assert!(code == "INVALID_ARGUMENT" && message.contains(words), "{message}");
    }
    // Who has traffic can't go without saying where to.
    let undeploy = format!("/v1/{endpoint}:undeployModel");
    let (code, _) = refused(&server, "POST", &undeploy, json!({"deployedModelId": third})).await;
    assert_eq!(code, "FAILED_PRECONDITION");
    done(&server, "POST", &undeploy, json!({"deployedModelId": third, "trafficSplit": {first.clone(): 100}})).await;
    done(&server, "POST", &undeploy, json!({"deployedModelId": second})).await;
    assert_eq!(one(None).await, format!("{first:?}"));
    let metrics = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let has = |id: &str| metrics.contains(&format!("deployed_model=\"{id}\""));
    assert!(has(&first) && !has(&second) && !has(&third));
}

#[tokio::test]
async fn what_is_declared_can_be_seen_and_not_changed() {
    let server = Builder::with_models(&["linear"]).env("AIP_ENDPOINT_ID", "1234567890").start();
    let endpoint = format!("{PARENT}/endpoints/linear");
    let shown = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
    let id = shown["deployedModels"][0]["id"].as_str().unwrap();
    assert_eq!(
        (&shown["trafficSplit"], &shown["predict"]),
        (&json!({id: 100}), &json!("/v1/endpoints/linear:predict"))
    );
    let model = format!("{PARENT}/models/linear");
    assert_eq!(shown["deployedModels"][0]["model"], model);
    for (method, path, body) in [
        ("PATCH", format!("/v1/{endpoint}?updateMask=displayName"), json!({"displayName": "x"})),
        ("DELETE", format!("/v1/{endpoint}"), Value::Null),
        ("POST", format!("/v1/{endpoint}:deployModel"), json!({"deployedModel": {"model": model}})),
        ("POST", format!("/v1/{endpoint}:undeployModel"), json!({"deployedModelId": id})),
        ("DELETE", format!("/v1/{model}"), Value::Null),
        ("PATCH", format!("/v1/{model}?updateMask=description"), json!({"description": "x"})),
        ("POST", format!("/v1/{model}:mergeVersionAliases"), json!({"versionAliases": ["golden"]})),
        ("POST", format!("/v1/{PARENT}/models:upload"), json!({"parentModel": model, "model": {"displayName": "x"}})),
    ] {
        let (code, message) = refused(&server, method, &path, body).await;
        assert!(code == "FAILED_PRECONDITION" && message.contains("configuration"), "{method} {path}: {message}");
    }
    let (code, _) =
        refused(&server, "POST", &format!("/v1/{PARENT}/endpoints?endpointId=linear"), json!({"displayName": "x"}))
            .await;
    assert_eq!(code, "ALREADY_EXISTS");
    // Vertex's own id is another name of the default endpoint.
    let vertex = format!("{PARENT}/endpoints/1234567890");
    assert_eq!(done(&server, "GET", &format!("/v1/{vertex}"), Value::Null).await["displayName"], "linear");
    assert_eq!(predict(&server, &vertex).await["deployedModelId"], id);
    // A declared model may be deployed elsewhere; it is the same in memory.
    let other = create(&server, "other").await;
    deploy(&server, &other, &model, json!({"0": 100})).await;
    assert_eq!(predict(&server, &other).await["predictions"], json!([[30.5]]));
}

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

#[tokio::test]
async fn lists_are_filtered_ordered_and_paged() {
    let server = Builder::with_models(&["linear"]).start();
    for (id, name, team) in [("a1", "Zebra", "x"), ("a2", "Ant", "y"), ("a3", "Ant", "x")] {
        let body = json!({"displayName": name, "labels": {"team": team}});
        done(&server, "POST", &format!("/v1/{PARENT}/endpoints?endpoint_id={id}"), body).await;
    }
    let ids = async |query: &str| -> Vec<String> {
        let answer = done(&server, "GET", &format!("/v1/{PARENT}/endpoints?{query}"), Value::Null).await;
        let id = |endpoint: &Value| endpoint["name"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        answer["endpoints"].as_array().into_iter().flatten().map(id).collect()
    };
    assert_eq!(ids("").await.len(), 4);
    assert_eq!(ids("filter=labels.team%3Dx&orderBy=display_name").await, ["a3", "a1"]);
    assert_eq!(ids("filter=display_name%3D%22Ant%22%20AND%20labels.team%3Ay").await, ["a2"]);
    assert_eq!(ids("filter=display_name%3DAnt+AND+NOT+labels.team%3Dy").await, ["a3"]);
    assert_eq!(ids("filter=endpoint%3Da2").await, ["a2"]);
    let page = done(
        &server,
        "GET",
        &format!("/v1/{PARENT}/endpoints?pageSize=3&orderBy=displayName%20desc&readMask=name"),
        Value::Null,
    )
    .await;
    assert_eq!(page["endpoints"][1], json!({"name": format!("{PARENT}/endpoints/a1")}));
    let token = page["nextPageToken"].as_str().unwrap();
    assert_eq!(ids(&format!("pageSize=3&orderBy=displayName%20desc&pageToken={token}")).await, ["a3"]);
    let (code, message) =
        refused(&server, "GET", &format!("/v1/{PARENT}/endpoints?filter=colour%3Dred"), Value::Null).await;
    assert!(code == "INVALID_ARGUMENT" && message.contains("colour"), "{message}");
    assert_eq!(
        refused(&server, "GET", &format!("/v1/{PARENT}/endpoints?nonsense=1"), Value::Null).await.0,
        "INVALID_ARGUMENT"
    );
    let models = done(&server, "GET", &format!("/v1beta1/{PARENT}/models?pageSize=1"), Value::Null).await;
    assert_eq!(models["models"][0]["name"], format!("{PARENT}/models/linear"));
}

#[tokio::test]
async fn a_shadow_is_compared_and_never_answers() {
    let server = Builder::with_models(&["linear"]).start();
    let (model, endpoint) = (upload(&server, LINEAR).await, create(&server, "shadowed").await);
    // The same numbers, but written as one value a row.
    let other = upload(&server, "tests/models/linear-flat/1").await;
    let first = deploy(&server, &endpoint, &model, json!({"0": 100})).await;
    let path = format!("/v1/{endpoint}:deployModel");
    let shadow = |model: &str, label: &str| json!({"deployedModel": {"model": model, "systemLabels": {"tessera-shadow": label}}});
    let (code, message) = refused(&server, "POST", &path, shadow(&model, "all")).await;
    assert!(code == "INVALID_ARGUMENT" && message.contains("tessera-shadow"), "{message}");
    let mut with_traffic = shadow(&model, "100");
    with_traffic["trafficSplit"] = json!({"0": 100});
    assert_eq!(refused(&server, "POST", &path, with_traffic).await.0, "INVALID_ARGUMENT");
    let mut ids = Vec::new();
    for (model, label) in [(&model, "true"), (&other, "50")] {
        let operation = done(&server, "POST", &path, shadow(model, label)).await;
        ids.push(operation["response"]["deployedModel"]["id"].as_str().unwrap().to_owned());
    }
    let counts = async |id: &str| -> BTreeMap<String, usize> {
        let metrics = client().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
        let wanted = format!("deployed_model=\"{id}\"");
        let lines =
            metrics.lines().filter(|line| line.starts_with("tessera_shadow_requests_total") && line.contains(&wanted));
        let outcome = |line: &str| line.split("outcome=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        lines.map(|line| (outcome(line), line.rsplit(' ').next().unwrap().parse().unwrap())).collect()
    };
    for _ in 0..20 {
        assert_eq!(predict(&server, &endpoint).await["deployedModelId"], first);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut all = counts(&ids[0]).await;
    for _ in 0..100 {
        if all.values().sum::<usize>() >= 20 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        all = counts(&ids[0]).await;
    }
    assert_eq!(all.values().sum::<usize>(), 20, "{all:?}");
    assert!(all["agreed"] >= 15 && all["differed"] == 0 && all["failed"] == 0, "{all:?}");
    // Its flattened answer has another shape, and so is another answer; every second request is copied.
    let half = counts(&ids[1]).await;
    assert!(half["agreed"] == 0 && half["differed"] + half["dropped"] == 10, "{half:?}");
    done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), json!({"deployedModelId": ids[0]})).await;
    assert!(counts(&ids[0]).await.is_empty());
}

/// A server whose state is in a folder that outlives it.
fn with_state(directory: &std::path::Path) -> Builder {
    Builder::with_models(&["linear"]).setting("state.directory", &directory.to_string_lossy())
}

#[tokio::test]
async fn what_was_confirmed_survives_a_kill_in_the_midst_of_changes() {
    let state = tempfile::tempdir().unwrap();
    let server = Arc::new(with_state(state.path()).start());
    let (model, endpoint) = (upload(&server, LINEAR).await, create(&server, "kept").await);
    let id = deploy(&server, &endpoint, &model, json!({"0": 100})).await;
    let confirmed = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (server, confirmed) = (server.clone(), confirmed.clone());
            tokio::spawn(async move {
                let client = client();
                let mut names = Vec::new();
                for number in 0.. {
                    let url = server.url(&format!("/v1/{PARENT}/endpoints?endpointId=w{writer}-{number}"));
                    let sent = client.post(url).json(&json!({"displayName": "w"})).send().await;
                    let Ok(response) = sent else { return names };
                    if response.status() != 200 || response.bytes().await.is_err() {
                        return names;
                    }
                    names.push(format!("w{writer}-{number}"));
                    confirmed.fetch_add(1, Ordering::Relaxed);
                }
                names
            })
        })
        .collect();
    while confirmed.load(Ordering::Relaxed) < 100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.signal("KILL");
    let mut names = Vec::new();
    for writer in writers {
        names.extend(writer.await.unwrap());
    }
    drop(server);

    let server = with_state(state.path()).start();
    let mut found = std::collections::BTreeSet::new();
    let mut token = String::new();
    loop {
        let path = format!("/v1/{PARENT}/endpoints?pageSize=50&pageToken={token}");
        let page = done(&server, "GET", &path, Value::Null).await;
        for endpoint in page["endpoints"].as_array().unwrap() {
            found.insert(endpoint["name"].as_str().unwrap().rsplit('/').next().unwrap().to_owned());
        }
        match page["nextPageToken"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    let lost: Vec<_> = names.iter().filter(|name| !found.contains(*name)).collect();
    assert!(names.len() >= 100 && lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), names.len());
    // What was deployed answers as soon as the server is ready.
    assert_eq!(predict(&server, &endpoint).await["deployedModelId"], id);
    assert_eq!(done(&server, "GET", &format!("/v1/{model}"), Value::Null).await["versionId"], "1");
}

#[tokio::test]
async fn a_model_that_is_gone_stops_the_start_or_is_skipped() {
    let state = tempfile::tempdir().unwrap();
    let files = tempfile::tempdir().unwrap();
    let copy = files.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    std::fs::copy(root().join(LINEAR).join("model.onnx"), copy.join("model.onnx")).unwrap();
    let server = with_state(state.path()).start();
    let body = json!({"model": {"displayName": "Copy", "artifactUri": format!("file://{}", copy.display())}});
    let uploaded = done(&server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
    let endpoint = create(&server, "e").await;
    let id = deploy(&server, &endpoint, uploaded["response"]["model"].as_str().unwrap(), json!({"0": 100})).await;
    server.signal("KILL");
    drop(server);
    std::fs::remove_dir_all(&copy).unwrap();

    let mut failing = with_state(state.path()).spawn();
    assert_eq!(failing.wait(Duration::from_secs(60)).code(), Some(1));
    let log = failing.log().join("\n");
    assert!(log.contains("repository.on_error") && log.contains(&id), "{log}");
    drop(failing);

    let server = with_state(state.path()).setting("repository.on_error", "skip").start();
    let shown = done(&server, "GET", &format!("/v1/{endpoint}"), Value::Null).await;
    let status = &shown["deployedModels"][0]["status"];
    assert!(status["message"].is_string() && status["availableReplicaCount"].is_null(), "{shown}");
    let (code, _) =
        refused(&server, "POST", &format!("/v1/{endpoint}:predict"), json!({"instances": [[1, 2, 3, 4]]})).await;
    assert_eq!(code, "FAILED_PRECONDITION");
    done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), json!({"deployedModelId": id})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_models_come_and_go() {
    let server = Arc::new(Builder::with_models(&["linear"]).start());
    let (model, endpoint) = (upload(&server, LINEAR).await, create(&server, "busy").await);
    let mut current = deploy(&server, &endpoint, &model, json!({"0": 100})).await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (server, stop, answered) = (server.clone(), stop.clone(), answered.clone());
            let url = server.url(&format!("/v1/{endpoint}:predict"));
            tokio::spawn(async move {
                let client = client();
                while !stop.load(Ordering::Relaxed) {
                    let response = client.post(&url).json(&json!({"instances": [[1, 2, 3, 4]]})).send().await.unwrap();
                    let (status, body) = (response.status(), response.text().await.unwrap());
                    assert!(status == 200 && body.contains("30.5"), "{status} {body}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                drop(server);
            })
        })
        .collect();
    for turn in 0..12 {
        // Each turn another version, so that each is loaded anew and dropped.
        let body = json!({"parentModel": model, "model": {"displayName": "Next", "artifactUri": artifact(LINEAR)}});
        let uploaded = done(&server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
        let version = uploaded["response"]["modelVersionId"].as_str().unwrap();
        let next =
            deploy(&server, &endpoint, &format!("{model}@{version}"), json!({"0": 30, current.clone(): 70})).await;
        let body = json!({"deployedModelId": current, "trafficSplit": {next.clone(): 100}});
        done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), body).await;
        assert!(turn < 12 && load.iter().all(|client| !client.is_finished()), "a request failed");
        current = next;
    }
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.unwrap();
    }
    assert!(answered.load(Ordering::Relaxed) > 50, "{answered:?}");
}

/// The memory of a process that is in use, in MiB.
fn resident(server: &Server) -> usize {
    let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{}/status", server.pid()))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_comes_back() {
    let server = Builder::with_models(&["linear"]).start();
    let (model, endpoint) = (upload(&server, "models/imagenet/1").await, create(&server, "large").await);
    let warm = deploy(&server, &endpoint, &model, json!({"0": 100})).await;
    done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), json!({"deployedModelId": warm})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = resident(&server);
    let mut ids = Vec::new();
    for _ in 0..6 {
        let body =
            json!({"parentModel": model, "model": {"displayName": "N", "artifactUri": artifact("models/imagenet/1")}});
        let uploaded = done(&server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
        let version = uploaded["response"]["modelVersionId"].as_str().unwrap();
        ids.push(deploy(&server, &endpoint, &format!("{model}@{version}"), json!({"0": 100})).await);
    }
    let loaded = resident(&server);
    assert!(loaded > before + 40, "{before} to {loaded} MiB");
    for id in ids {
        let (_, shown) = ask(&server, "PATCH", &format!("/v1/{endpoint}?updateMask=trafficSplit"), json!({})).await;
        assert!(shown["trafficSplit"].is_null());
        done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), json!({"deployedModelId": id})).await;
    }
    // Threads end after the last request; the allocator gives back then.
    let mut after = resident(&server);
    for _ in 0..50 {
        if after < before + (loaded - before) / 4 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = resident(&server);
    }
    panic!("{before} MiB before, {loaded} with six models, {after} after");
}
