//! Which deployed model answers, and that none goes missing while they come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{LINEAR, PARENT, artifact, ask, create, deploy, done, predict, refused, upload};
use crate::harness::{Builder, client};

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

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_comes_back() {
    let server = Builder::with_models(&["linear"]).start();
    let (model, endpoint) = (upload(&server, "models/imagenet/1").await, create(&server, "large").await);
    let warm = deploy(&server, &endpoint, &model, json!({"0": 100})).await;
    done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), json!({"deployedModelId": warm})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.resident();
    let mut ids = Vec::new();
    for _ in 0..6 {
        let body =
            json!({"parentModel": model, "model": {"displayName": "N", "artifactUri": artifact("models/imagenet/1")}});
        let uploaded = done(&server, "POST", &format!("/v1/{PARENT}/models:upload"), body).await;
        let version = uploaded["response"]["modelVersionId"].as_str().unwrap();
        ids.push(deploy(&server, &endpoint, &format!("{model}@{version}"), json!({"0": 100})).await);
    }
    let loaded = server.resident();
    assert!(loaded > before + 40, "{before} to {loaded} MiB");
    for id in ids {
        let (_, shown) = ask(&server, "PATCH", &format!("/v1/{endpoint}?updateMask=trafficSplit"), json!({})).await;
        assert!(shown["trafficSplit"].is_null());
        done(&server, "POST", &format!("/v1/{endpoint}:undeployModel"), json!({"deployedModelId": id})).await;
    }
    // Threads end after the last request; the allocator gives back then.
    let mut after = server.resident();
    for _ in 0..200 {
        if after < before + (loaded - before) / 4 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = server.resident();
    }
    panic!("{before} MiB before, {loaded} with six models, {after} after");
}
