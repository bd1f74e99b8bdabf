//! The description of the API: what it says, and that it is true.

use serde_json::Value;

use crate::harness::{Builder, Server, client, root};

async fn description(server: &Server) -> Value {
    let response = client().get(server.url("/openapi.json")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-type"].as_bytes()),
        (200, &b"application/json"[..])
    );
    response.json().await.unwrap()
}

/// `tests/golden/openapi.json` is the description as it was reviewed; a change of it is a change of the API.
#[tokio::test]
async fn the_description_is_as_it_was_reviewed() {
    let server = Builder::with_models(&["linear"]).start();
    let mut described = description(&server).await;
    // It changes with every release, and nothing of the API with it.
    described["info"]["version"] = "0.0.0".into();
    let path = root().join("tests/golden/openapi.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&described).unwrap() + "\n").unwrap();
    }
    let reviewed: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let differs = |what: &str| -> Vec<String> {
        let (now, then) = (described[what].as_object().unwrap(), reviewed[what].as_object().unwrap());
        now.keys().chain(then.keys()).filter(|key| now.get(*key) != then.get(*key)).cloned().collect()
    };
    assert!(
        described == reviewed,
        "the API's description has changed: paths {:?}, components or schemas {:?}. If that is meant, run `UPDATE_GOLDEN=1 \
         cargo test --test it openapi::` and commit tests/golden/openapi.json",
        differs("paths"),
        differs("components"),
    );
}

#[tokio::test]
async fn every_described_path_is_there() {
    let server = Builder::with_models(&["linear"]).start();
    let endpoints: Value = client().get(server.url("/v1/endpoints")).send().await.unwrap().json().await.unwrap();
    let deployed = endpoints["endpoints"][0]["deployedModels"][0]["id"].as_str().unwrap().to_owned();
    let described = description(&server).await;
    let paths = described["paths"].as_object().unwrap();
    assert!(paths.len() > 60, "{}", paths.len());
    let operations = paths.values().flat_map(|methods| methods.as_object().unwrap().values());
    let mut ids: Vec<&str> = operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "two operations of one id: {ids:?}");
    for (path, methods) in paths {
        let mut asked = path
            .replace("{deployedModel}", &deployed)
            .replace("{deployed_model}", &deployed)
            .replace("{label}", "latest");
        for (name, value) in [
            ("endpoint", "linear"),
            ("model", "linear"),
            ("version", "1"),
            ("project", "p"),
            ("location", "l"),
            ("file", "index.css"),
            ("path", "predict"),
            ("operation", "1"),
            ("name", "projects/p/locations/l/endpoints/linear/operations/1"),
        ] {
            asked = asked.replace(&format!("{{{name}}}"), value);
        }
        assert!(!asked.contains('{'), "{path}: no value for a parameter");
        for method in methods.as_object().unwrap().keys() {
            let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let response = client().request(method.clone(), server.url(&asked)).body("{}").send().await.unwrap();
            let status = response.status().as_u16();
            let text = response.text().await.unwrap_or_default();
            // There is no operation yet, and the answer says so.
            if asked.contains("/operations/") && status == 404 && text.contains("no operation") {
                continue;
            }
            assert!(status != 404 && status != 405, "{method} {asked}: {status} {text}");
            // A body that is no request is the only thing that may be wrong.
            assert!(matches!(status, 200 | 308 | 400 | 501), "{method} {asked}: {status} {text}");
        }
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let server = Builder::with_models(&["linear"]).start();
    let page = client().get(server.url("/docs")).send().await.unwrap();
    assert_eq!((page.status().as_u16(), page.url().path()), (200, "/docs/"));
    for file in
        ["", "swagger-ui-bundle.js", "swagger-ui.css", "swagger-initializer.js", "swagger-ui-standalone-preset.js"]
    {
        let response = client().get(server.url(&format!("/docs/{file}"))).send().await.unwrap();
        assert_eq!(response.status(), 200, "{file}");
        let packed = response.headers().contains_key("content-encoding");
        let text = response.bytes().await.unwrap();
        assert!(packed || !String::from_utf8_lossy(&text).contains("src=\"http"), "{file}");
        if file == "swagger-initializer.js" {
            assert!(String::from_utf8_lossy(&text).contains("/openapi.json"));
        }
    }
    let missing = client().get(server.url("/docs/none.js")).send().await.unwrap();
    assert_eq!(missing.status(), 404);
}
