//! Vertex AI's contract for custom containers, and the life of the process.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Builder, client, colour, example, instance, post, raw_get, root, tessera};

#[tokio::test]
async fn the_variables_of_vertex() {
    let route = "/v1/endpoints/4711/deployedModels/42";
    let server = Builder::with_models(&["colour"])
        .env("AIP_HEALTH_ROUTE", route)
        .env("AIP_PREDICT_ROUTE", &format!("{route}:predict"))
        .env("AIP_MODE", "PREDICTION")
        .env("AIP_STORAGE_URI", "")
        .start();
    assert!(raw_get(server.address(), route).unwrap().starts_with("HTTP/1.1 200"));
    assert!(raw_get(server.address(), "/health").unwrap().starts_with("HTTP/1.1 200"));
    let (status, answer) =
        post(&server, &format!("{route}:predict"), &json!({"instances": [instance(&colour([255, 0, 0]))]})).await;
    assert_eq!((status, &answer["predictions"][0]["label"]), (200, &json!("red")));
    assert_eq!(answer.as_object().unwrap().len(), 1, "predictions alone: {answer}");
    let response = client().get(server.url(&format!("{route}:predict"))).send().await.unwrap();
    assert_eq!(response.status(), 405);
    let metrics = raw_get(server.address(), "/metrics").unwrap();
    assert!(metrics.contains(r#"tessera_images_total{format="png"} 1"#), "{metrics}");
    assert!(metrics.contains("tessera_predictions_total") && metrics.contains("tessera_build_info"), "{metrics}");
    // The log has the path that was asked for.
    server.logged(&format!("{route}:predict"));
}

#[tokio::test]
async fn a_flat_folder_is_a_model() {
    let folder = root().join("tests/models/colour/1");
    let map = format!(r#"{{ "gs://my-bucket/models" = {:?} }}"#, folder.parent().unwrap());
    for uri in
        [folder.display().to_string(), format!("file://{}", folder.display()), "gs://my-bucket/models/1/".to_owned()]
    {
        let mut command = tessera();
        let scratch = tempfile::tempdir().unwrap();
        command.current_dir(scratch.path()).args(["check"]).env("AIP_STORAGE_URI", &uri);
        command.env("TESSERA__ARTIFACTS__MAP", &map);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{uri}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut command = tessera();
    let output = command.args(["check"]).env("AIP_STORAGE_URI", "http://bucket/model").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("gs://BUCKET/PREFIX"), "{text}");
}

#[tokio::test]
async fn the_port_opens_before_the_models_load() {
    let server = Builder::with_models(&["imagenet", "slow"]).spawn();
    let begin = Instant::now();
    let mut reasons = Vec::new();
    loop {
        let answer = raw_get(server.address(), "/health").unwrap();
        assert!(raw_get(server.address(), "/livez").unwrap().starts_with("HTTP/1.1 200"));
        if answer.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        reasons.push(answer);
        assert!(begin.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!reasons.is_empty(), "it was never seen loading");
    assert!(reasons.iter().any(|reason| reason.contains("slow") || reason.contains("imagenet")), "{reasons:?}");
}

#[tokio::test]
async fn a_model_that_cannot_load_ends_the_start() {
    for (model, words) in [
        ("corrupt", "corrupt"),
        ("wrong-size", "preprocessing makes"),
        ("one-channel", "[batch,3,32,32]"),
        ("missing-label", "label"),
    ] {
        let mut server = Builder::with_models(&["colour", model]).spawn();
        let status = server.wait(Duration::from_secs(20));
        let log = server.log().join("\n");
        assert_eq!(status.code(), Some(1), "{model}: {log}");
        assert!(log.contains(words), "{model}: {log}");
        // Or the others are served.
        let server = Builder::with_models(&["colour", model]).setting("repository.on_error", "skip").start();
        let (status, _) =
            post(&server, "/v1/endpoints/colour:predict", &json!({"instances": [instance(&colour([9; 3]))]})).await;
        assert_eq!(status, 200);
        let (status, _) = post(&server, &format!("/v1/endpoints/{model}:predict"), &json!({"instances": ["A"]})).await;
        assert_eq!(status, 404);
    }
}

#[tokio::test]
async fn health_never_waits_for_inference() {
    let server = Builder::with_models(&["slow"]).start();
    let request = json!({"instances": vec![instance(&colour([9; 3])); 8]});
    let url = server.url("/predict");
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let call = client().post(&url).json(&request).send();
            tokio::spawn(async move { call.await.unwrap().status() })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let begin = Instant::now();
        assert!(raw_get(server.address(), "/health").unwrap().starts_with("HTTP/1.1 200"));
        slowest = slowest.max(begin.elapsed());
    }
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    drop(server);
    drop(busy);
}

#[tokio::test]
async fn logs_are_for_cloud_logging_and_hold_no_body() {
    let server = Builder::with_models(&["imagenet"]).start();
    let request = json!({"instances": [instance(&example("cat.jpg"))]});
    post(&server, "/v1/endpoints/imagenet:predict", &request).await;
    post(&server, "/v1/endpoints/imagenet:predict?key=secret-key", &json!({"instances": ["TOPSECRETBODY####"]})).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let log = server.log();
    let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines
            .iter()
            .all(|line| line["severity"].is_string() && line["message"].is_string() && line["time"].is_string())
    );
    let access: Vec<&Value> = lines.iter().filter(|line| line["httpRequest"]["status"].is_number()).collect();
    assert!(access.iter().any(|line| line["httpRequest"]["status"] == 200), "{log:#?}");
    let text = log.join("\n");
    assert!(!text.contains("TOPSECRETBODY") && !text.contains("secret-key"), "{text}");
    assert!(!text.contains(&request["instances"][0]["b64"].as_str().unwrap()[..40]));
}

/// The heart of it: many clients, kept and fresh connections, and a SIGTERM in their midst. Whoever had a connection
/// gets an answer; whoever comes later is refused a connection, never cut off.
#[test]
fn sigterm_under_load_loses_nothing() {
    let mut server = Builder::with_models(&["colour"]).setting("server.drain_delay", "400ms").start();
    let address = server.address();
    let body = json!({"instances": [instance(&colour([255, 0, 0]))]}).to_string();
    let request = format!(
        "POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let lost = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let clients: Vec<_> = (0..24)
        .map(|number| {
            let (stop, answered, lost, request) = (stop.clone(), answered.clone(), lost.clone(), request.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // A refused connection is an honest answer: a load balancer takes another replica.
                    let Ok(mut stream) = TcpStream::connect(address) else { break };
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    let rounds = if number % 2 == 0 { 50 } else { 1 };
                    for _ in 0..rounds {
                        match exchange(&mut stream, request.as_bytes()) {
                            Ok(head) => {
                                answered.fetch_add(1, Ordering::Relaxed);
                                if !head.starts_with("HTTP/1.1 200") {
                                    lost.lock().unwrap().push(head);
                                    break;
                                }
                                if head.to_lowercase().contains("connection: close") {
                                    break;
                                }
                            }
                            Err(error) => {
                                lost.lock().unwrap().push(format!("client {number}: {error}"));
                                break;
                            }
                        }
                    }
                }
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    server.signal("TERM");
    std::thread::sleep(Duration::from_millis(150));
    let health = raw_get(address, "/health").unwrap();
    assert!(health.starts_with("HTTP/1.1 503"), "{health}");
    let status = server.wait(Duration::from_secs(20));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(status.code(), Some(0), "{:#?}", server.log());
    let lost = lost.lock().unwrap();
    assert!(
        lost.is_empty(),
        "{} of {} were lost: {:?}",
        lost.len(),
        answered.load(Ordering::Relaxed),
        &lost[..lost.len().min(5)]
    );
    assert!(answered.load(Ordering::Relaxed) > 100);
}

/// Sends a request on a connection and reads one whole answer; gives its head.
fn exchange(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<String> {
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            let text = format!("closed after {} bytes", answer.len());
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text));
        }
        answer.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Ok(head.to_owned());
        }
    }
}

#[tokio::test]
async fn what_was_accepted_is_finished() {
    let mut server = Builder::with_models(&["slow"]).setting("engine.workers", "1").start();
    let request = json!({"instances": vec![instance(&colour([9; 3])); 4]});
    let call = client().post(server.url("/predict")).json(&request).send();
    let answer = tokio::spawn(async move { call.await.unwrap().json::<Value>().await.unwrap() });
    tokio::time::sleep(Duration::from_millis(150)).await;
    server.signal("INT");
    let answer = answer.await.unwrap();
    assert_eq!(answer["predictions"].as_array().unwrap().len(), 4, "{answer}");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}
