//! Right answers about pictures.

use serde_json::{Value, json};

use crate::harness::{Builder, Server, client, colour, example, golden, instance, post};

const PREDICT: &str = "/v1/endpoints/imagenet:predict";

fn imagenet() -> Server {
    Builder::with_models(&["imagenet"]).start()
}

/// The label of each prediction.
fn labels(answer: &Value) -> Vec<&str> {
    let predictions = answer["predictions"].as_array().unwrap();
    predictions.iter().map(|prediction| prediction["label"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_cat_is_an_egyptian_cat() {
    let server = imagenet();
    let (status, answer) = post(&server, PREDICT, &json!({"instances": [instance(&example("cat.jpg"))]})).await;
    assert_eq!(status, 200, "{answer}");
    let prediction = &answer["predictions"][0];
    assert_eq!(prediction["label"], "Egyptian cat");
    assert!((0.7..0.9).contains(&prediction["confidence"].as_f64().unwrap()), "{prediction}");
    assert_eq!(answer["modelDisplayName"], "imagenet");
    assert_eq!(answer["modelVersionId"], "1");
    assert_eq!(answer["model"], "projects/local-project/locations/us-central1/models/imagenet");
    assert!(answer["deployedModelId"].as_str().unwrap().bytes().all(|byte| byte.is_ascii_digit()));

    let by_name =
        "/v1/projects/123/locations/europe-west4/endpoints/imagenet%3Apredict?%24alt=json%3Benum-encoding%3Dint";
    let (_, same) = post(&server, by_name, &json!({"instances": [instance(&example("cat.jpg"))]})).await;
    assert_eq!(same, answer);

    // The container's form is predictions alone.
    let deployed = answer["deployedModelId"].as_str().unwrap();
    for path in ["/predict".to_owned(), format!("/v1/endpoints/imagenet/deployedModels/{deployed}:predict")] {
        let (_, answer) = post(&server, &path, &json!({"instances": [instance(&example("cat.jpg"))]})).await;
        assert_eq!(answer, json!({"predictions": [prediction]}));
    }
}

#[tokio::test]
async fn every_form_of_an_instance_means_the_same_picture() {
    let server = imagenet();
    let standard = instance(&example("cat.jpg"));
    let text = standard["b64"].as_str().unwrap();
    let url_safe = text.replace('+', "-").replace('/', "_");
    let forms = json!([
        standard,
        {"string_input": {"b64": text}},
        text,
        url_safe,
        text.trim_end_matches('='),
        {"b64": url_safe.trim_end_matches('=')},
        {"image_bytes": {"b64": text}, "tag": "cat"},
    ]);
    let (status, answer) = post(&server, PREDICT, &json!({"instances": forms})).await;
    assert_eq!(status, 200, "{answer}");
    let predictions = answer["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 7);
    assert!(predictions.iter().all(|prediction| prediction == &predictions[0]), "{answer}");
}

#[tokio::test]
async fn every_format_is_read() {
    let server = imagenet();
    let names = [
        "camera_gray.jpg",
        "chelsea_444.jpg",
        "coffee_progressive.jpg",
        "pil_sample_cmyk.jpg",
        "palette_trns.png",
        "rgba.png",
        "la.png",
        "gray16.png",
        "rgb16.png",
        "onebit.png",
        "flower.webp",
        "hopper.gif",
        "anim.gif",
    ];
    let instances: Vec<Value> = names.iter().map(|name| instance(&golden("images", name))).collect();
    let (status, answer) = post(&server, PREDICT, &json!({"instances": instances})).await;
    assert_eq!(status, 200, "{answer}");
    let labels = labels(&answer);
    assert_eq!(labels[1], "Egyptian cat");
    assert_eq!(labels[2], "espresso");
    for format in [image::ImageFormat::Bmp, image::ImageFormat::Tiff] {
        let picture = image::load_from_memory(&golden("images", "chelsea_444.jpg")).unwrap();
        let mut file = std::io::Cursor::new(Vec::new());
        picture.to_rgb8().write_to(&mut file, format).unwrap();
        let (_, answer) = post(&server, PREDICT, &json!({"instances": [instance(&file.into_inner())]})).await;
        assert_eq!(answer["predictions"][0]["label"], "Egyptian cat", "{format:?}");
    }
}

#[tokio::test]
async fn parameters_choose_the_form() {
    let server = imagenet();
    let ask = async |parameters: Value| {
        let body = json!({"instances": [instance(&example("cat.jpg"))], "parameters": parameters});
        post(&server, PREDICT, &body).await
    };
    for parameters in [Value::Null, json!({})] {
        let (_, answer) = ask(parameters).await;
        assert_eq!(answer["predictions"][0]["label"], "Egyptian cat");
    }
    let (_, answer) = ask(json!({"top_k": 5.0})).await;
    let labels = answer["predictions"][0]["labels"].as_array().unwrap();
    let confidences: Vec<f64> = answer["predictions"][0]["confidences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| value.as_f64().unwrap())
        .collect();
    assert_eq!((labels.len(), labels[0].as_str().unwrap()), (5, "Egyptian cat"));
    assert!(confidences.is_sorted_by(|a, b| a >= b), "{confidences:?}");

    let (_, answer) = ask(json!({"top_k": 1})).await;
    assert_eq!(answer["predictions"][0]["labels"].as_array().unwrap().len(), 1);
    let (_, answer) = ask(json!({"top_k": 1_000_000})).await;
    assert_eq!(answer["predictions"][0]["labels"].as_array().unwrap().len(), 1000);
    let sum: f64 =
        answer["predictions"][0]["confidences"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-4, "{sum}");

    let (_, answer) = ask(json!({"confidenceThreshold": 0.5, "maxPredictions": 3})).await;
    assert_eq!(answer["predictions"][0]["displayNames"], json!(["Egyptian cat"]));
    assert_eq!(answer["predictions"][0]["ids"], json!(["285"]));
    let (_, answer) = ask(json!({"confidenceThreshold": 0.999})).await;
    assert_eq!(answer["predictions"][0], json!({"ids": [], "displayNames": [], "confidences": []}));

    for (parameters, field) in [
        (json!({"top_k": 0}), "parameters.top_k"),
        (json!({"top_k": -3}), "parameters.top_k"),
        (json!({"maxPredictions": 0}), "parameters.maxPredictions"),
        (json!({"topp_k": 1}), "parameters.topp_k"),
    ] {
        let (status, answer) = ask(parameters).await;
        assert_eq!(status, 400);
        assert_eq!(answer["error"]["status"], "INVALID_ARGUMENT");
        assert!(answer["error"]["message"].as_str().unwrap().contains(field), "{answer}");
        assert_eq!(answer["error"]["details"][0]["fieldViolations"][0]["field"], field);
    }
}

#[tokio::test]
async fn the_small_vit_knows_a_boot() {
    let server = Builder::with_models(&["fashion-vit"]).start();
    let (status, answer) = post(
        &server,
        "/v1/endpoints/fashion-vit:predict",
        &json!({"instances": [instance(&example("ankle-boot.png"))]}),
    )
    .await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["predictions"][0]["label"], "Ankle boot");
    // The only endpoint is the default one.
    let (status, _) = post(&server, "/predict", &json!({"instances": [instance(&example("ankle-boot.png"))]})).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn models_of_every_make_are_served() {
    let models = ["colour", "fixed-1", "fixed-4", "half", "nhwc", "external", "onnx-folder"];
    let server = Builder::with_models(&models).start();
    let pictures = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 10, 0], [0, 255, 10], [10, 0, 255]];
    let expected = ["red", "green", "blue", "red", "green", "blue"];
    let instances: Vec<Value> = pictures.iter().map(|&rgb| instance(&colour(rgb))).collect();
    for model in models {
        let (status, answer) =
            post(&server, &format!("/v1/endpoints/{model}:predict"), &json!({"instances": instances})).await;
        assert_eq!(status, 200, "{model}: {answer}");
        assert_eq!(labels(&answer), expected, "{model}");
    }
}

#[tokio::test]
async fn gzip_bodies_headers_and_stages() {
    use std::io::Write;
    let server = imagenet();
    let body = json!({"instances": [instance(&example("cat.jpg"))]}).to_string();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body.as_bytes()).unwrap();
    let response = client()
        .post(server.url(PREDICT))
        .header("content-encoding", "gzip")
        .header("x-request-id", "my-own-id")
        .header("x-server-timeout", "5.5")
        .body(encoder.finish().unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    assert_eq!(headers["x-request-id"], "my-own-id");
    assert_eq!(headers["x-vertex-ai-endpoint-id"], "imagenet");
    let timing = headers["server-timing"].to_str().unwrap();
    for stage in ["parse", "decode", "preprocess", "queue", "inference", "postprocess", "total"] {
        assert!(timing.contains(stage), "{timing}");
    }
    let made = client().get(server.url("/health")).send().await.unwrap();
    assert!(!made.headers()["x-request-id"].is_empty());
}

#[tokio::test]
async fn what_is_served_can_be_seen() {
    let server = Builder::with_models(&["imagenet", "colour"]).start();
    for path in ["/", "/v1/endpoints"] {
        let index: Value = client().get(server.url(path)).send().await.unwrap().json().await.unwrap();
        assert_eq!(index["defaultEndpoint"], "imagenet");
        let imagenet = &index["endpoints"][1];
        assert_eq!(imagenet["id"], "imagenet");
        let deployed = &imagenet["deployedModels"][0];
        assert_eq!(deployed["inputs"][0]["shape"], json!([null, 3, 224, 224]));
        assert_eq!(deployed["labels"]["count"], 1000);
        assert!(deployed["example"]["instances"].is_array());
    }
}

#[tokio::test]
async fn a_hundred_clients_get_their_own_answers() {
    let server = Builder::with_models(&["colour"]).setting("engine.max_batch", "8").start();
    let client = client();
    let url = server.url("/v1/endpoints/colour:predict");
    let tasks: Vec<_> = (0..100u8)
        .map(|number| {
            let (client, url) = (client.clone(), url.clone());
            tokio::spawn(async move {
                for round in 0..10u8 {
                    // Each picture has logits of its own, so an answer that went astray shows.
                    let rgb = [number * 2, round * 20, 255 - number * 2];
                    let body = json!({"instances": [instance(&colour(rgb)), instance(&colour([rgb[2], rgb[1], rgb[0]]))],
                        "parameters": {"top_k": 3}});
                    let answer: Value = client.post(&url).json(&body).send().await.unwrap().json().await.unwrap();
                    let first = confidences_by_label(&answer["predictions"][0]);
                    let second = confidences_by_label(&answer["predictions"][1]);
                    for (prediction, rgb) in [(first, rgb), (second, [rgb[2], rgb[1], rgb[0]])] {
                        for (confidence, expected) in prediction.iter().zip(expected(rgb)) {
                            assert!((confidence - expected).abs() < 1e-4, "{rgb:?}: {prediction:?}");
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Softmax of the colour model's logits: 8 times each channel in [-1, 1].
fn expected(rgb: [u8; 3]) -> [f64; 3] {
    let powers = rgb.map(|level| (8.0 * (f64::from(level) / 127.5 - 1.0)).exp());
    let sum: f64 = powers.iter().sum();
    powers.map(|power| power / sum)
}

fn confidences_by_label(prediction: &Value) -> [f64; 3] {
    ["red", "green", "blue"].map(|label| {
        let index = prediction["labels"].as_array().unwrap().iter().position(|known| known == label).unwrap();
        prediction["confidences"][index].as_f64().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_do_not_depend_on_the_load() {
    let server = Builder::with_models(&["imagenet"]).setting("log.level", "debug").start();
    // A lone request has all cores, as the log says, others share them: the same bits either way.
    let has_both = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    if has_both {
        let warmed: Value = serde_json::from_str(&server.logged(r#""message":"warmed""#)).unwrap();
        assert_eq!(warmed["wide"], true, "{warmed}");
        // Most of the 18 MB are kernels of convolutions, and there is one copy of them.
        assert!(warmed["lent"].as_u64() > Some(15_000_000), "{warmed}");
    }
    let body = json!({"instances": [instance(&example("cat.jpg"))], "parameters": {"topK": 1000}});
    let path = "/v1/endpoints/imagenet:predict";
    let lone = post(&server, path, &body).await;
    assert_eq!(lone.0, 200);
    for _ in 0..3 {
        let together = (0..32).map(|_| post(&server, path, &body));
        for answer in futures_util::future::join_all(together).await {
            assert_eq!(answer.1["predictions"], lone.1["predictions"]);
        }
    }
    if has_both {
        server.logged(r#""layout":"Narrow""#);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_burst_comes_back() {
    let server = imagenet();
    // As many small ones first: what the engine keeps for a full batch is not the pictures'.
    burst(&server, &example("cat.jpg")).await;
    let before = server.resident();
    // Decoded as a whole, unlike JPEG.
    burst(&server, &twelve_megapixels(image::ImageFormat::Png)).await;
    let most = server.resident();
    assert!(most > before + 60, "{before} to {most} MiB");
    // The allocator keeps what is free for ten seconds.
    let begin = std::time::Instant::now();
    while server.resident() > before + (most - before) / 2 {
        assert!(begin.elapsed().as_secs() < 30, "{before} MiB before, {most} at most, {} after", server.resident());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_large_jpeg_is_never_in_memory_as_a_whole() {
    let server = imagenet();
    burst(&server, &example("cat.jpg")).await;
    let before = server.resident();
    burst(&server, &twelve_megapixels(image::ImageFormat::Jpeg)).await;
    // The pixels of one take 34 MiB, and two or more are decoded at once.
    let most = server.resident();
    assert!(most < before + 30, "{before} to {most} MiB");
}

/// Two times twelve requests at once, with one picture each.
#[cfg(target_os = "linux")]
async fn burst(server: &Server, picture: &[u8]) {
    let body = json!({"instances": [instance(picture)]});
    for _ in 0..2 {
        let together = (0..12).map(|_| post(server, PREDICT, &body));
        for answer in futures_util::future::join_all(together).await {
            assert_eq!(answer.0, 200, "{}", answer.1);
        }
    }
}

/// A picture of 4000x3000 that is plain enough to be a small file.
#[cfg(target_os = "linux")]
fn twelve_megapixels(format: image::ImageFormat) -> Vec<u8> {
    let picture = image::RgbImage::from_fn(4000, 3000, |x, y| image::Rgb([(x / 16) as u8, (y / 16) as u8, 128]));
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}

#[tokio::test]
async fn a_damaged_picture_spoils_no_other() {
    let server = imagenet();
    let sound = json!({"instances": [instance(&example("cat.jpg"))]});
    let expected = post(&server, PREDICT, &sound).await;
    let mut damaged = example("cat.jpg");
    let table = damaged.windows(2).position(|pair| pair == [0xff, 0xc4]).unwrap();
    // More codes of one bit than there are: an error in the middle of the headers.
    damaged[table + 5] = 0xff;
    let damaged = json!({"instances": [instance(&damaged)]});
    // Enough for each thread that decodes to meet one.
    for _ in 0..32 {
        let (status, answer) = post(&server, PREDICT, &damaged).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("instances[0].b64"), "{answer}");
    }
    for _ in 0..32 {
        assert_eq!(post(&server, PREDICT, &sound).await, expected);
    }
}
