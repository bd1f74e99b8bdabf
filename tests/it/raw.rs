//! Raw bodies over HTTP: as they are and in Google's wrapper, pictures and JSON, on every route that takes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Response;
use serde_json::{Value, json};

use crate::harness::{Builder, Server, client, colour, instance};

const ENDPOINTS: &str = "projects/p/locations/l/endpoints";

async fn post(server: &Server, path: &str, content_type: Option<&str>, body: impl Into<reqwest::Body>) -> Response {
    let request = client().post(server.url(path)).body(body);
    let request = match content_type {
        Some(content_type) => request.header("content-type", content_type),
        None => request,
    };
    request.send().await.unwrap()
}

fn wrapped(content_type: &str, data: &[u8]) -> String {
    json!({"httpBody": {"contentType": content_type, "data": STANDARD.encode(data)}}).to_string()
}

fn unwrapped(answer: &Value) -> Value {
    assert_eq!(answer["contentType"], "application/json");
    serde_json::from_slice(&STANDARD.decode(answer["data"].as_str().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_picture_as_it_is() {
    let server = Builder::with_models(&["colour", "linear"]).start();
    let red = colour([255, 0, 0]);
    let routes = [
        format!("/v1/{ENDPOINTS}/colour:rawPredict"),
        format!("/v1beta1/{ENDPOINTS}/colour:rawPredict"),
        format!("/v1/{ENDPOINTS}/colour%3ArawPredict?%24alt=json%3Benum-encoding%3Dint"),
        format!("/v1/{ENDPOINTS}/colour:streamRawPredict"),
        "/v1/endpoints/colour:rawPredict".to_owned(),
    ];
    for route in &routes {
        for content_type in [Some("image/png"), Some("application/octet-stream"), None] {
            let response = post(&server, route, content_type, red.clone()).await;
            assert_eq!(response.status(), 200, "{route} {content_type:?}");
            assert_eq!(response.headers()["content-type"], "application/json");
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["predictions"][0]["label"], "red", "{answer}");
            assert_eq!(answer.as_object().unwrap().len(), 1, "the container's form: {answer}");
        }
    }
    let refused = post(&server, &format!("/v1/{ENDPOINTS}/linear:rawPredict"), Some("image/png"), red).await;
    assert_eq!(refused.status(), 400);
    let message = refused.json::<Value>().await.unwrap()["error"]["message"].to_string();
    assert!(message.contains("numbers or strings"), "{message}");
}

/// On Vertex, rawPredict posts the body to the container's predict route as it is.
#[tokio::test]
async fn the_containers_route_takes_raw_bodies() {
    let server = Builder::with_models(&["colour"]).start();
    let route = "/v1/endpoints/colour/deployedModels/";
    let described: Value = client().get(server.url("/v1/endpoints/colour")).send().await.unwrap().json().await.unwrap();
    let id = described["deployedModels"][0]["id"].as_str().unwrap();
    for path in ["/predict".to_owned(), format!("{route}{id}:predict")] {
        let answer = post(&server, &path, Some("image/png"), colour([0, 0, 255])).await;
        assert_eq!(answer.json::<Value>().await.unwrap()["predictions"][0]["label"], "blue", "{path}");
    }
}

#[tokio::test]
async fn json_and_who_answered() {
    let server = Builder::with_models(&["linear"]).start();
    let route = format!("/v1/{ENDPOINTS}/linear:rawPredict");
    for (content_type, body) in [
        (Some("application/json"), r#"{"instances":[[1,2,3,4]]}"#),
        (None, r#"{"instances":[[1.0,2,3,4]],"parameters":null,"anything":1}"#),
        (Some("text/plain"), "[[1,2,3,4]]"),
    ] {
        let response = post(&server, &route, content_type, body).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-vertex-ai-endpoint-id"), "linear");
        assert!(header("x-vertex-ai-deployed-model-id").bytes().all(|byte| byte.is_ascii_digit()));
        assert!(header("x-vertex-ai-model").ends_with("/models/linear"));
        assert_eq!(header("x-vertex-ai-model-version-id"), "1");
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer["predictions"].as_array().unwrap().len(), 1, "{body}: {answer}");
    }
    for body in ["", "{", "3", r#"{"instances":[]}"#] {
        let response = post(&server, &route, None, body).await;
        assert_eq!(response.status(), 400, "{body}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["status"], "INVALID_ARGUMENT");
    }
}

#[tokio::test]
async fn what_comes_wrapped_goes_wrapped() {
    let server = Builder::with_models(&["colour"]).start();
    let red = colour([255, 0, 0]);
    let json_body = json!({"instances": [instance(&red)]}).to_string();
    for body in [wrapped("image/png", &red), wrapped("application/json", json_body.as_bytes()), wrapped("", &red)] {
        let route = format!("/v1/{ENDPOINTS}/colour:rawPredict");
        let answer: Value = post(&server, &route, Some("application/json"), body.clone()).await.json().await.unwrap();
        assert_eq!(unwrapped(&answer)["predictions"][0]["label"], "red");
        // A stream of one piece.
        let route = format!("/v1/{ENDPOINTS}/colour:streamRawPredict");
        let pieces: Value = post(&server, &route, Some("application/json"), body.clone()).await.json().await.unwrap();
        assert_eq!(pieces.as_array().unwrap().len(), 1);
        assert_eq!(unwrapped(&pieces[0])["predictions"][0]["label"], "red");
        let events = post(&server, &format!("{route}?alt=sse"), None, body).await;
        assert_eq!(events.headers()["content-type"], "text/event-stream");
        let text = events.text().await.unwrap();
        let data = text.strip_prefix("data: ").unwrap().trim_end();
        assert_eq!(unwrapped(&serde_json::from_str(data).unwrap())["predictions"][0]["label"], "red");
    }
    let broken = r#"{"httpBody":{"data":"%%"}}"#;
    let response = post(&server, &format!("/v1/{ENDPOINTS}/colour:rawPredict"), None, broken).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["details"][0]["fieldViolations"][0]["field"], "httpBody");
    // `predict` knows no wrapper.
    let response = post(&server, &format!("/v1/{ENDPOINTS}/colour:predict"), None, wrapped("image/png", &red)).await;
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn a_raw_stream_may_be_events() {
    let server = Builder::with_models(&["linear"]).start();
    let route = format!("/v1/{ENDPOINTS}/linear:streamRawPredict");
    let request = client().post(server.url(&route)).body("[[1,2,3,4]]").header("accept", "text/event-stream");
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with(r#"data: {"predictions":[["#) && text.ends_with("\r\n\r\n"), "{text}");
}
