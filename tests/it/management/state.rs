//! What is kept, and is there again after `kill -9`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{LINEAR, PARENT, create, deploy, done, predict, refused, upload};
use crate::harness::{Builder, client, root, tessera};

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

#[test]
fn without_any_model_only_a_server_with_a_state_starts() {
    let mut failing = Builder::with_models(&[]).spawn();
    assert_eq!(failing.wait(Duration::from_secs(60)).code(), Some(1));
    let log = failing.log().join("\n");
    assert!(log.contains("there is no model here") && log.contains("set state.directory"), "{log}");
    // The usual folder need not be there; one that was named has to be.
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    for (named, is_good) in [(None, true), (Some("elsewhere"), false)] {
        let mut check = tessera();
        check.arg("check").current_dir(folder.path()).env("TESSERA__STATE__DIRECTORY", &state);
        check.args(named.map(|folder| ["--models", folder]).into_iter().flatten());
        let output = check.output().unwrap();
        assert_eq!(output.status.success(), is_good, "{named:?}: {output:?}");
    }
}
