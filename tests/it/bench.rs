//! `tessera bench` against a served model: what it counted is what the server counted.

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::harness::{Builder, Server, colour, raw_get, tessera};

/// An image in a file, which goes with the folder.
fn image() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("red.png");
    std::fs::write(&path, colour([255, 0, 0])).unwrap();
    (folder, path)
}

fn server() -> Server {
    Builder::with_models(&["colour"]).start()
}

/// Requests that the server has answered with success, by its own metrics.
fn served(server: &Server) -> u64 {
    let metrics = raw_get(server.address(), "/metrics").unwrap();
    let lines = metrics.lines().filter(|line| line.starts_with("tessera_requests_total{"));
    let succeeded = lines.filter(|line| line.contains(r#"code_class="2xx""#));
    succeeded.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

fn bench(url: &str, arguments: &[&str]) -> Output {
    tessera().args(["bench", url, "--json"]).args(arguments).output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What holds of every report without errors.
fn check(report: &Value) {
    assert_eq!(report["failed"], 0, "{report}");
    assert_eq!(report["requests"], report["succeeded"], "{report}");
    let timeline = report["timeline"].as_array().unwrap();
    let all: u64 = timeline.iter().map(|moment| moment["succeeded"].as_u64().unwrap()).sum();
    assert_eq!(report["requests_with_warm_up"], all, "{report}");
    let rate = report["requests_per_second"].as_f64().unwrap() * report["seconds"].as_f64().unwrap();
    // In an open loop those that end in the time measured and those that are due in it differ at its edges.
    let slack = if report["mode"] == "open" { 0.1 } else { 1e-6 };
    let requests = report["requests"].as_f64().unwrap();
    assert!((rate - requests).abs() <= slack * requests, "{report}");
    let latency = |name: &str| report["latency_ms"][name].as_f64().unwrap();
    let ascending = ["min", "p50", "p90", "p95", "p99", "p99.9", "max"].map(latency);
    assert!(ascending[0] > 0.0 && ascending.is_sorted(), "{report}");
}

#[test]
fn a_closed_loop_counts_what_the_server_counts() {
    let server = server();
    let (folder, image) = image();
    let html = folder.path().join("report.html");
    let arguments =
        ["--image", image.to_str().unwrap(), "--connections", "4", "--duration", "1s", "--warm-up", "300ms"];
    let output = bench(&server.url(""), &[&arguments[..], &["--html", html.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{output:?}");
    let report = report(&output);
    check(&report);
    assert_eq!(report["requests_with_warm_up"], served(&server), "{report}");
    assert!(report["requests"].as_u64() < report["requests_with_warm_up"].as_u64(), "{report}");
    assert_eq!((&report["mode"], &report["seconds"]), (&"closed".into(), &1.0.into()));
    let body = r#"{"instances":[{"b64":""}]}"#.len() as u64 + std::fs::metadata(&image).unwrap().len().div_ceil(3) * 4;
    assert_eq!(report["bytes_sent"], report["requests"].as_u64().unwrap() * body, "{report}");
    let page = std::fs::read_to_string(html).unwrap();
    assert_eq!(page.matches("<svg").count(), 3);
    assert!(!page.contains("NaN") && page.contains("/predict</h1>"), "{page}");
}

#[test]
fn an_open_loop_sends_what_is_due() {
    let server = server();
    let (_folder, image) = image();
    let arguments = ["--image", image.to_str().unwrap(), "--rate", "50", "--duration", "2s", "--warm-up", "500ms"];
    let output = bench(&server.url("/predict"), &arguments);
    assert!(output.status.success(), "{output:?}");
    let report = report(&output);
    check(&report);
    assert_eq!((&report["requests"], &report["requests_with_warm_up"]), (&100.into(), &125.into()), "{report}");
    assert_eq!(report["never_sent"], 0);
    assert_eq!(served(&server), 125);
}

#[test]
fn users_think_between_requests() {
    let server = server();
    let (_folder, image) = image();
    let arguments = ["--image", image.to_str().unwrap(), "--users", "5", "--think-time", "200ms", "-d", "2s"];
    let report = report(&bench(&server.url(""), &arguments));
    check(&report);
    // 5 users for 2 s, each less often than every 200 ms; how much less is the machine's business.
    let requests = report["requests"].as_u64().unwrap();
    assert!((15..=50).contains(&requests), "{report}");
}

#[test]
fn more_than_the_server_can_take_is_seen_as_waiting() {
    // An answer takes some 0.3 s, and there are two connections: a handful of 1000 requests.
    let server = Builder::with_models(&["slow"]).start();
    let (_folder, image) = image();
    let arguments = ["--image", image.to_str().unwrap(), "--rate", "1000", "-c", "2", "-d", "1s", "--warm-up", "0s"];
    let report = report(&bench(&server.url(""), &arguments));
    let numbers = ["requests", "never_sent"].map(|name| report[name].as_u64().unwrap());
    assert_eq!(numbers.iter().sum::<u64>(), 1000, "{report}");
    assert!(report["never_sent"].as_u64() > Some(0), "{report}");
    assert!(report["latency_ms"]["max"].as_f64() > Some(500.0), "{report}");
    assert!(report["warnings"][0].as_str().unwrap().contains("never sent"), "{report}");
}

#[test]
fn without_any_success_it_fails_and_says_why() {
    let server = server();
    let (_folder, image) = image();
    let arguments = ["--image", image.to_str().unwrap(), "--duration", "200ms", "--warm-up", "0s"];
    let output = bench(&server.url("/v1/endpoints/nowhere:predict"), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let failed = report(&output);
    assert!(failed["errors"]["404"].as_u64() > Some(0), "{failed}");
    assert_eq!((&failed["succeeded"], &failed["requests"]), (&0.into(), &failed["errors"]["404"]));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("404") && message.contains("nowhere"), "{message}");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = bench(&format!("http://127.0.0.1:{port}"), &arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(report(&output)["errors"]["connect"].as_u64() > Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"), "{output:?}");
}
