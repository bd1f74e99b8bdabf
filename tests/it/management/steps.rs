//! Google's four steps and the way back; versions, lists, and what the configuration declares.

use serde_json::{Value, json};

use super::{LINEAR, PARENT, artifact, create, deploy, done, predict, refused, upload};
use crate::harness::Builder;

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
