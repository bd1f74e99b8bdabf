//! What is answered to what can't be answered: code, form, and the field at fault.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Builder, Server, client, colour, example, golden, instance, post, raw};

const PREDICT: &str = "/v1/endpoints/imagenet:predict";

/// Posts a body as it is and checks the error's form; gives the message.
async fn refused(server: &Server, path: &str, body: impl Into<reqwest::Body>, code: u16, status: &str) -> String {
    let response = client().post(server.url(path)).body(body).send().await.unwrap();
    assert_eq!(response.status().as_u16(), code);
    assert_eq!(response.headers()["content-type"], "application/json");
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["error"]["code"], code, "{answer}");
    assert_eq!(answer["error"]["status"], status, "{answer}");
    answer["error"]["message"].as_str().unwrap().to_owned()
}

fn body(instances: &[Value]) -> String {
    json!({"instances": instances}).to_string()
}

#[tokio::test]
async fn bodies_that_are_no_request() {
    let server = Builder::with_models(&["imagenet"]).setting("limits.instances", "4").start();
    for (text, words) in [
        ("", "no body"),
        ("{bad", "line 1 column 2"),
        (r#"{"instances":[1}"#, "line 1 column 16"),
        ("[]", "a list"),
        ("{}", "`instances` is missing"),
        (r#"{"instances":[]}"#, "empty"),
        (r#"{"instances":{"b64":"x"}}"#, "an object"),
        (r#"{"instances":[1,2,3,4,5]}"#, "more than 4"),
        (r#"{"instances":[{"b64":"AAAA"}],"signature_name":"x"}"#, "signature_name"),
        (r#"{"instances":[{"b64":"AAAA"}],"parameters":[]}"#, "parameters must be"),
    ] {
        let message = refused(&server, PREDICT, text, 400, "INVALID_ARGUMENT").await;
        assert!(message.contains(words), "{text}: {message}");
    }
    // Not UTF-8.
    refused(&server, PREDICT, vec![b'{', b'"', 0xff, 0xfe, b'"', b'}'], 400, "INVALID_ARGUMENT").await;
}

#[tokio::test]
async fn instances_that_are_no_pictures() {
    let server = Builder::with_models(&["imagenet"]).start();
    let good = instance(&example("cat.jpg"));
    for (bad, field, words) in [
        (json!(12), "instances[1]", "a number"),
        (json!(null), "instances[1]", "null"),
        (json!({"image": "AAAA"}), "instances[1]", "`b64`"),
        (json!({"b64": 12}), "instances[1].b64", "a number"),
        (json!({"x": {"b64": []}}), "instances[1].x.b64", "a list"),
        (json!({"b64": ""}), "instances[1].b64", "empty"),
        (json!({"b64": "####"}), "instances[1].b64", "not base64"),
        (json!({"b64": "https://example.com/cat.jpg"}), "instances[1].b64", "never fetched"),
        (instance(b"just some text"), "instances[1].b64", "not an image"),
        (instance(&golden("errors", "text.txt")), "instances[1].b64", "not an image"),
        (instance(&golden("errors", "truncated_half.jpg")), "instances[1].b64", "truncated"),
        (instance(&golden("errors", "truncated_header.jpg")), "instances[1].b64", "can't be used"),
        (instance(&golden("errors", "truncated.png")), "instances[1].b64", "truncated"),
        (instance(&golden("errors", "bomb_50000.png")), "instances[1].b64", "limit"),
        (instance(&golden("errors", "bomb_65500.jpg")), "instances[1].b64", "limit"),
        (instance(b"\0\0\0\x20ftypavif\0\0\0\0"), "instances[1].b64", "AVIF"),
        (instance(b"\0\0\0\x18ftypheic\0\0\0\0"), "instances[1].b64", "HEI"),
        (instance(b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 "), "instances[1].b64", "JPEG 2000"),
    ] {
        let message = refused(&server, PREDICT, body(&[good.clone(), bad]), 400, "INVALID_ARGUMENT").await;
        assert!(message.contains(field) && message.contains(words), "{field} {words}: {message}");
        assert!(message.len() < 400, "{message}");
    }
    // A bare string is named as the instance itself.
    let message = refused(&server, PREDICT, body(&[json!("####")]), 400, "INVALID_ARGUMENT").await;
    assert!(message.starts_with("instances[0] is not base64"), "{message}");
}

#[tokio::test]
async fn bombs_cost_neither_memory_nor_time() {
    let server = Builder::with_models(&["colour"]).start();
    let memory = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        peak.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = memory();
    let begin = Instant::now();
    for name in ["bomb_50000.png", "bomb_65500.jpg"] {
        let body = body(&[instance(&golden("errors", name))]);
        refused(&server, "/predict", body, 400, "INVALID_ARGUMENT").await;
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut std::io::Read::take(std::io::repeat(b' '), 1 << 30), &mut encoder).unwrap();
    let bomb = encoder.finish().unwrap();
    let packed = Instant::now();
    let response =
        client().post(server.url("/predict")).header("content-encoding", "gzip").body(bomb).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(packed.elapsed() < Duration::from_secs(3), "{:?}", packed.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(60));
    let grown = memory() - before;
    assert!(grown < 150 * 1024, "{grown} KiB more at the peak");
}

#[tokio::test]
async fn limits_are_400_and_say_which() {
    let server =
        Builder::with_models(&["colour"]).setting("limits.body", "100KB").setting("limits.pixels", "1000").start();
    let message = refused(&server, "/predict", vec![b' '; 200_000], 400, "INVALID_ARGUMENT").await;
    assert!(message.contains("payload size exceeds the limit"), "{message}");
    // Without a length to know it by beforehand.
    let chunks = futures_util::stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(vec![b' '; 10_000])));
    refused(&server, "/predict", reqwest::Body::wrap_stream(chunks), 400, "INVALID_ARGUMENT").await;
    let message = refused(&server, "/predict", body(&[instance(&colour([1, 2, 3]))]), 400, "INVALID_ARGUMENT").await;
    assert!(message.contains("40x30") && message.contains("1000"), "{message}");
}

#[tokio::test]
async fn the_pictures_of_a_request_have_a_limit_together() {
    let server = Builder::with_models(&["colour"]).setting("limits.request_pixels", "3000").start();
    let picture = || instance(&colour([1, 2, 3]));
    let (status, _) = post(&server, "/predict", &json!({"instances": [picture(), picture()]})).await;
    assert_eq!(status, 200);
    // Nothing was decoded: of the first picture only the header is whole.
    let cut = instance(&colour([1, 2, 3])[..40]);
    let three = [cut, picture(), json!({"image": picture()})];
    let message = refused(&server, "/predict", body(&three), 400, "INVALID_ARGUMENT").await;
    assert!(message.contains("instances[2]") && message.contains("3600") && message.contains("3000"), "{message}");
    let explain = "/v1/endpoints/colour:explain";
    let message = refused(&server, explain, body(&three), 400, "INVALID_ARGUMENT").await;
    assert!(message.contains("instances[2]") && message.contains("3600"), "{message}");
    // What is refused by itself does not count.
    let others = [picture(), instance(b"no picture"), picture()];
    let message = refused(&server, "/predict", body(&others), 400, "INVALID_ARGUMENT").await;
    assert!(message.contains("instances[1].b64"), "{message}");
    let large = instance(&golden("images", "chelsea_444.jpg"));
    let (status, _) = post(&server, "/predict", &json!({"instances": [large]})).await;
    assert_eq!(status, 200, "a single picture has its own limit");
}

#[tokio::test]
async fn unknown_places_and_wrong_methods() {
    let server = Builder::with_models(&["colour"]).start();
    for path in ["/nowhere", "/v1/endpoints/nobody:predict", "/v1/endpoints/colour/deployedModels/1:predict"] {
        refused(&server, path, body(&[json!("A")]), 404, "NOT_FOUND").await;
    }
    let message = refused(&server, "/v1/endpoints/colour:predct", "{}", 404, "NOT_FOUND").await;
    assert!(message.contains("predct") && message.contains("predict"), "{message}");
    for (method, path, allow) in [
        (reqwest::Method::GET, "/predict", "POST"),
        (reqwest::Method::PUT, "/v1/endpoints/colour:predict", "POST"),
        (reqwest::Method::DELETE, "/v1/endpoints/colour", "GET"),
        (reqwest::Method::POST, "/v1/endpoints", "GET"),
        (reqwest::Method::POST, "/health", "GET"),
    ] {
        let response = client().request(method.clone(), server.url(path)).send().await.unwrap();
        assert_eq!(response.status(), 405, "{method} {path}");
        assert!(response.headers()["allow"].to_str().unwrap().contains(allow), "{method} {path}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], 405);
    }
}

#[tokio::test]
async fn models_that_fail_say_so() {
    let server = Builder::with_models(&["nan-on-black", "fails-on-bright"]).start();
    let (black, white, red) = (instance(&colour([0; 3])), instance(&colour([255; 3])), instance(&colour([255, 0, 0])));
    let nan = "/v1/endpoints/nan-on-black:predict";
    let message = refused(&server, nan, body(&[red.clone(), black]), 500, "INTERNAL").await;
    assert!(message.contains("NaN") && message.contains("instances[1]"), "{message}");
    let bright = "/v1/endpoints/fails-on-bright:predict";
    let message = refused(&server, bright, body(std::slice::from_ref(&white)), 500, "INTERNAL").await;
    assert!(message.contains("instances[0]"), "{message}");
    assert!(!message.contains("onnx") && !message.contains("Gather"), "{message}");
    // Neighbours in time are not hurt.
    let ask = |instance: &Value| {
        let body = json!({"instances": [instance]});
        let server = &server;
        async move { post(server, bright, &body).await.0 }
    };
    let statuses = futures_util::future::join_all((0..20).map(|i| ask(if i % 2 == 0 { &red } else { &white }))).await;
    for (index, status) in statuses.into_iter().enumerate() {
        assert_eq!(status, if index % 2 == 0 { 200 } else { 500 }, "request {index}");
    }
}

#[tokio::test]
async fn overload_and_deadlines() {
    let server =
        Builder::with_models(&["slow"]).setting("limits.queue_items", "4").setting("engine.workers", "1").start();
    let request = body(&[instance(&colour([9, 9, 9]))]);
    let ask = |timeout: Option<&'static str>| {
        let mut call = client().post(server.url("/predict")).body(request.clone());
        if let Some(timeout) = timeout {
            call = call.header("x-server-timeout", timeout);
        }
        async move { call.send().await.unwrap() }
    };
    // A deadline that passes while the model works.
    let response = ask(Some("0.05")).await;
    assert_eq!(response.status(), 504);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["status"], "DEADLINE_EXCEEDED");
    // More at once than the queue takes: each is answered or refused with a time to come back, and none is lost.
    let responses = futures_util::future::join_all((0..30).map(|_| ask(None))).await;
    let (mut answered, mut refused_count) = (0, 0);
    for response in responses {
        match response.status().as_u16() {
            200 => answered += 1,
            503 => {
                let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
                assert!((1..60).contains(&wait), "{wait}");
                assert_eq!(response.json::<Value>().await.unwrap()["error"]["status"], "UNAVAILABLE");
                refused_count += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(answered >= 4 && refused_count >= 10, "{answered} answered, {refused_count} refused");
    // A deadline that the queue makes impossible is refused at once.
    let queue = (0..4).map(|_| tokio::spawn(ask(None))).collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begin = Instant::now();
    assert_eq!(ask(Some("0.2")).await.status(), 503);
    assert!(begin.elapsed() < Duration::from_millis(150), "{:?}", begin.elapsed());
    for task in queue {
        assert_eq!(task.await.unwrap().status(), 200);
    }
    for bad in ["soon", "-1", "NaN"] {
        let response =
            client().post(server.url("/predict")).header("x-server-timeout", bad).body("{}").send().await.unwrap();
        assert_eq!(response.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn clients_that_go_away_leave_the_queue() {
    let server = Builder::with_models(&["slow"]).setting("engine.workers", "1").start();
    let request = body(&[instance(&colour([9, 9, 9]))]);
    for _ in 0..20 {
        let call = client().post(server.url("/predict")).body(request.clone()).send();
        let _ = tokio::time::timeout(Duration::from_millis(30), call).await;
    }
    // Twenty of them would take five seconds or more.
    let begin = Instant::now();
    let response = client().post(server.url("/predict")).body(request).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[test]
fn broken_http_does_not_end_the_server() {
    let server = Builder::with_models(&["colour"]).start();
    for request in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..],
        b"GET\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: abc\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\nzz\r\n",
    ] {
        let _ = raw(server.address(), request);
    }
    server.wait_until_ready();
}

/// A JPEG that says it has 49 million pixels, and holds the data of 256.
fn inflated_jpeg() -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(16, 16).write_to(&mut file, image::ImageFormat::Jpeg).unwrap();
    let mut bytes = file.into_inner();
    let frame = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0x1b, 0x58, 0x1b, 0x58]);
    bytes
}

#[tokio::test]
async fn a_request_of_many_instances_leaves_room_for_others() {
    let server = Builder::with_models(&["colour"]).start();
    // Short data is found before it is decoded; all of it is within what a request may have.
    let begin = Instant::now();
    let bombs = vec![instance(&inflated_jpeg()); 5];
    let message = refused(&server, "/predict", body(&bombs), 400, "INVALID_ARGUMENT").await;
    assert!(message.contains("instances[0]") && message.contains("truncated"), "{message}");
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    // Real, large pictures of one request do not keep a small one waiting for all of them.
    let large = image::RgbImage::from_fn(3000, 3000, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]));
    let mut file = std::io::Cursor::new(Vec::new());
    large.write_to(&mut file, image::ImageFormat::Jpeg).unwrap();
    let many = body(&vec![instance(&file.into_inner()); 6]);
    let url = server.url("/predict");
    let begin = Instant::now();
    let heavy = tokio::spawn(client().post(&url).body(many).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    let light = Instant::now();
    let (status, _) = post(&server, "/predict", &json!({"instances": [instance(&colour([255, 0, 0]))]})).await;
    let light = light.elapsed();
    assert_eq!((status, heavy.await.unwrap().unwrap().status().as_u16()), (200, 200));
    let heavy = begin.elapsed();
    assert!(light < heavy / 2, "{light:?} for one small picture, {heavy:?} for the large ones");
}

#[tokio::test]
async fn gzip_of_several_members_and_paths_that_are_not_text() {
    use std::io::Write;
    let server = Builder::with_models(&["colour"]).start();
    let text = json!({"instances": [instance(&colour([255, 0, 0]))]}).to_string();
    let pack = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let packed = [pack(&text[..20]), pack(&text[20..])].concat();
    let call = client().post(server.url("/predict")).header("content-encoding", "gzip").body(packed);
    assert_eq!(call.send().await.unwrap().status(), 200);
    refused(&server, "/v1/endpoints/%ff:predict", "{}", 404, "NOT_FOUND").await;
}

#[tokio::test]
async fn idle_connections_give_way_when_there_are_too_many() {
    use std::io::{Read, Write};
    let server = Builder::with_models(&["colour"]).setting("server.max_connections", "4").start();
    let idle: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(server.address()).unwrap();
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
            let mut answer = [0; 1024];
            assert!(stream.read(&mut answer).unwrap() > 0);
            stream
        })
        .collect();
    let begin = Instant::now();
    assert!(crate::harness::raw_get(server.address(), "/health").unwrap().starts_with("HTTP/1.1 200"));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    drop(idle);
}
