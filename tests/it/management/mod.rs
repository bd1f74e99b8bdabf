//! Models and endpoints that come and go while the server runs, over REST.

use serde_json::{Value, json};

use crate::harness::{Server, client, root};

mod deployments;
mod explanations;
mod state;
mod steps;
mod traffic;

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
