//! What is refused: in the form of the face that is asked, with the field at fault, and without an internal error.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Builder, Server, client, root};
use crate::management::PARENT;

/// Asks with a body as it is, and gives the status, the methods that are allowed, and the JSON of the answer.
async fn ask(server: &Server, method: &str, path: &str, body: &str) -> (u16, String, Value) {
    let method: Method = method.parse().unwrap();
    let request = client().request(method.clone(), server.url(path)).body(body.to_owned());
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let allow = response.headers().get("allow").map(|allow| allow.to_str().unwrap().to_owned());
    let text = response.text().await.unwrap();
    let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {status} {text:?}"));
    (status, allow.unwrap_or_default(), json)
}

/// The field at fault and the message of a 400 in Google's form.
async fn refused(server: &Server, method: &str, path: &str, body: &Value) -> (String, String) {
    let (status, _, answer) = ask(server, method, path, &body.to_string()).await;
    assert_eq!((status, &answer["error"]["status"]), (400, &json!("INVALID_ARGUMENT")), "{body}: {answer}");
    let field = answer["error"]["details"][0]["fieldViolations"][0]["field"].as_str().unwrap_or_default();
    (field.to_owned(), answer["error"]["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn unknown_paths_have_the_form_of_their_face() {
    let server = Builder::with_models(&["linear", "linear-invoke"]).start();
    let invoke = "/v1/projects/p/locations/l/endpoints/linear-invoke/invoke";
    for (method, path, wanted) in [
        ("GET", "/v2/foo", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("POST", "/v2/cudasharedmemory/region/x/register", 404),
        ("GET", "/v2/models/linear/unknown", 404),
        ("POST", "/v1/models/linear/foo", 404),
        ("GET", "/v1/models/linear/versions/1/foo", 404),
        ("POST", "/v2/models/linear", 405),
        ("DELETE", "/v1/models", 405),
        ("PUT", "/v2", 405),
        ("POST", "/v2/health/ready", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v2/models/linear/infer", 405),
        ("GET", &format!("{invoke}/v1/models/linear-invoke/foo"), 404),
        ("POST", &format!("{invoke}/v2/models/linear-invoke"), 405),
    ] {
        let (status, allow, answer) = ask(&server, method, path, "").await;
        assert_eq!(status, wanted, "{method} {path}: {answer}");
        assert!(answer["error"].is_string(), "{method} {path}: {answer}");
        let is_post = path.ends_with("/infer") || path.ends_with("/index");
        let wanted_methods = if is_post { "POST" } else { "GET, HEAD" };
        assert_eq!(allow, if wanted == 405 { wanted_methods } else { "" }, "{method} {path}");
    }
    for (path, words) in [("/v1/modelsx", "/v1/modelsx"), ("/v3/models", "/v3/models"), ("/ui/nothing", "/ui/nothing")]
    {
        let (status, _, answer) = ask(&server, "GET", path, "").await;
        assert_eq!(status, 404, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(words), "{answer}");
    }
}

#[tokio::test]
async fn an_index_is_asked_for_by_an_object() {
    let server = Builder::with_models(&["linear"]).start();
    for body in ["", "{}", r#"{"ready":true}"#, r#"{"repository_name":""}"#] {
        assert_eq!(ask(&server, "POST", "/v2/repository/index", body).await.0, 200, "{body}");
    }
    for body in ["[[", "{", "1", r#"{"ready":7}"#] {
        let (status, _, answer) = ask(&server, "POST", "/v2/repository/index", body).await;
        assert!(status == 400 && answer["error"].is_string(), "{body}: {status} {answer}");
    }
}

const CORS: &str = "[server]\ncors_origins = [\"https://a.example\"]";

#[tokio::test]
async fn pages_of_other_origins() {
    let server = Builder::with_models(&["linear"]).with_config(CORS).start();
    let path = "/v1/projects/p/locations/l/endpoints/linear:predict";
    let asked = client().request(Method::OPTIONS, server.url(path)).header("origin", "https://a.example");
    let response = asked.header("access-control-request-method", "PATCH").send().await.unwrap();
    let list = |response: &reqwest::Response, name: &str| -> Vec<String> {
        let text = response.headers()[name].to_str().unwrap().to_lowercase();
        text.split(',').map(|part| part.trim().to_owned()).collect()
    };
    let methods = list(&response, "access-control-allow-methods");
    assert!(
        ["get", "post", "patch", "delete"].iter().all(|&method| methods.contains(&method.to_owned())),
        "{methods:?}"
    );
    let headers = list(&response, "access-control-allow-headers");
    for name in
        ["x-tessera-session", "authorization", "x-goog-api-key", "content-type", "inference-header-content-length"]
    {
        assert!(headers.contains(&name.to_owned()), "{name}: {headers:?}");
    }
    let response = client().post(server.url(path)).header("origin", "https://a.example");
    let response = response.body(r#"{"instances":[[1,2,3,4]]}"#).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let exposed = list(&response, "access-control-expose-headers");
    let own = response.headers().keys().map(http::HeaderName::as_str).filter(|name| name.starts_with("x-"));
    for name in own.chain(["server-timing", "inference-header-content-length", "retry-after"]) {
        assert!(exposed.contains(&name.to_owned()), "{name}: {exposed:?}");
    }
    assert!(exposed.contains(&"x-vertex-ai-model-version-id".to_owned()));
}

#[tokio::test]
async fn resources_with_fields_that_make_no_sense() {
    let server = Builder::with_models(&["linear"]).start();
    let endpoints = format!("/v1/{PARENT}/endpoints");
    let (status, _, made) = ask(&server, "POST", &format!("{endpoints}?endpointId=e"), r#"{"displayName":"e"}"#).await;
    assert_eq!(status, 200, "{made}");

    // One field, two names; and one name twice.
    let path = format!("{endpoints}/e?updateMask=displayName");
    for body in [r#"{"displayName":"a","display_name":"b"}"#, r#"{"displayName":"a","displayName":"b"}"#] {
        let (status, _, answer) = ask(&server, "PATCH", &path, body).await;
        let message = answer["error"]["message"].as_str().unwrap().to_owned();
        assert!(status == 400 && message.contains("`displayName` is given twice"), "{status} {answer}");
    }

    let many: BTreeMap<String, &str> = (0..65).map(|number| (format!("k{number}"), "")).collect();
    for (labels, words) in [
        (json!({"Team": "a"}), "lower-case"),
        (json!({"1team": "a"}), "begins with a letter"),
        (json!({"": "a"}), "begins with a letter"),
        (json!({"team": "A"}), "is \"A\""),
        (json!({"team": "a b"}), "is \"a b\""),
        (json!({"team": "a".repeat(64)}), "63"),
        (json!(many), "64"),
    ] {
        let body = json!({"displayName": "x", "labels": labels});
        let (field, message) = refused(&server, "POST", &endpoints, &body).await;
        assert!(field.starts_with("endpoint.labels") && message.contains(words), "{field}: {message}");
        let (field, _) = refused(&server, "PATCH", &format!("{endpoints}/e?updateMask=labels"), &body).await;
        assert!(field.starts_with("endpoint.labels"), "{field}");
        let upload = json!({"model": body});
        let (field, _) = refused(&server, "POST", &format!("/v1/{PARENT}/models:upload"), &upload).await;
        assert!(field.starts_with("model.labels"), "{field}");
    }
    let fine = json!({"displayName": "x", "labels": {"team_1-a": "", "größe": "42"}});
    assert_eq!(ask(&server, "POST", &endpoints, &fine.to_string()).await.0, 200);

    for uri in ["/models\0", "models", "http://a/b", "gs://a\u{1}bc/x"] {
        let upload = json!({"model": {"displayName": "x", "artifactUri": uri}});
        let (field, message) = refused(&server, "POST", &format!("/v1/{PARENT}/models:upload"), &upload).await;
        assert_eq!(field, "model.artifact_uri", "{message}");
        assert!(!message.contains('\0'), "{message:?}");
    }
    let (_, message) = refused(
        &server,
        "POST",
        &format!("/v1/{PARENT}/models:upload"),
        &json!({"model": {"displayName": "x", "artifactUri": "/models\0"}}),
    )
    .await;
    assert!(message.contains("control characters"), "{message}");
}

#[tokio::test]
async fn folders_that_hold_no_model() {
    let server = Builder::with_models(&["linear"]).start();
    let endpoints = format!("/v1/{PARENT}/endpoints?endpointId=e");
    assert_eq!(ask(&server, "POST", &endpoints, r#"{"displayName":"e"}"#).await.0, 200);
    let crowd = tempfile::tempdir().unwrap();
    for number in 0..3000 {
        std::fs::write(crowd.path().join(format!("{number}.txt")), "").unwrap();
    }
    for (folder, words) in [
        (root().join("docs"), "looked for were model.onnx, onnx/model.onnx"),
        (crowd.path().to_owned(), "too much in the artifact's folder"),
    ] {
        let upload = json!({"model": {"displayName": "x", "artifactUri": folder}});
        let (_, _, uploaded) = ask(&server, "POST", &format!("/v1/{PARENT}/models:upload"), &upload.to_string()).await;
        let body = json!({"deployedModel": {"model": uploaded["response"]["model"]}, "trafficSplit": {"0": 100}});
        let path = format!("/v1/{PARENT}/endpoints/e:deployModel");
        let (status, _, operation) = ask(&server, "POST", &path, &body.to_string()).await;
        let message = operation["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 200 && message.contains(words), "{operation}");
    }
}
