//! Tensors in, tensors out: over REST, over gRPC, in streams of both directions, and methods by their names.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use serde_json::{Value, json};
use tessera::protocol::generated::google::cloud::aiplatform::v1 as wire;
use tessera::protocol::generated::google::cloud::aiplatform::v1::tensor::DataType;
use tessera::protocol::generated::inference;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;

use crate::grpc::{V1, V1BETA1, call, channel, serving};
use crate::harness::{Server, client, colour, post};

fn name(endpoint: &str) -> String {
    format!("projects/p/locations/l/endpoints/{endpoint}")
}

async fn ask(server: &Server, endpoint: &str, verb: &str, body: Value) -> (u16, Value) {
    post(server, &format!("/v1/{}:{verb}", name(endpoint)), &body).await
}

async fn direct(channel: &Channel, endpoint: &str, inputs: Vec<wire::Tensor>) -> Result<Vec<wire::Tensor>, Status> {
    let request = wire::DirectPredictRequest { endpoint: name(endpoint), inputs, parameters: None };
    let answer: Response<wire::DirectPredictResponse> =
        call(channel, &format!("{V1}/DirectPredict"), Request::new(request)).await?;
    Ok(answer.into_inner().outputs)
}

fn floats(shape: &[i64], values: &[f32]) -> wire::Tensor {
    let dtype = DataType::Float.into();
    wire::Tensor { dtype, shape: shape.to_vec(), float_val: values.to_vec(), ..Default::default() }
}

fn row(first: f32) -> wire::Tensor {
    floats(&[1, 4], &[first, 0.0, 0.0, 0.0])
}

/// What `linear` makes of [`row`].
fn expected(first: f32) -> Vec<f32> {
    vec![first + 0.5]
}

async fn bidirectional<Q, A>(
    channel: &Channel,
    method: &str,
    messages: impl Stream<Item = Q> + Send + 'static,
) -> Result<Streaming<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = format!("/{method}").parse().unwrap();
    let codec = ProstCodec::<Q, A>::default();
    client.streaming(Request::new(messages), path, codec).await.map(Response::into_inner)
}

#[tokio::test]
async fn rows_in_rows_out_over_both() {
    let server = serving(&["linear", "fixed-1"]).start();
    let channel = channel(&server).await;
    let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let outputs = direct(&channel, "linear", vec![floats(&[2, 4], &values)]).await.unwrap();
    assert_eq!((outputs.len(), &*outputs[0].shape, &*outputs[0].float_val), (1, &[2, 1][..], &[30.5, 70.5][..]));
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    for input in [
        json!({"dtype": "FLOAT", "shape": ["2", "4"], "floatVal": values}),
        json!({"dtype": 3, "shape": [2, 4], "float_val": values}),
        json!({"dtype": "FLOAT", "shape": [2, 4], "tensorVal": STANDARD.encode(&raw)}),
        json!({"listVal": [
            {"dtype": "FLOAT", "shape": [4], "floatVal": [1, 2, 3, 4]},
            {"dtype": "FLOAT", "shape": [4], "floatVal": [5, 6, 7, 8]},
        ]}),
        json!({"structVal": {"x": {"dtype": "FLOAT", "shape": [2, 4], "floatVal": values}}}),
    ] {
        let (status, answer) = ask(&server, "linear", "directPredict", json!({"inputs": [input]})).await;
        let output = json!({"dtype": "FLOAT", "shape": ["2", "1"], "floatVal": [30.5, 70.5]});
        assert_eq!((status, answer), (200, json!({"outputs": [output]})), "{input}");
    }
}

#[tokio::test]
async fn every_type_there_and_back() {
    let kinds = [
        ("bool", "BOOL", json!({"boolVal": [true, false]})),
        ("string", "STRING", json!({"stringVal": ["s\u{f8}t", ""]})),
        ("float32", "FLOAT", json!({"floatVal": [0.5, -2.0]})),
        ("float16", "FLOAT", json!({"floatVal": [0.5, -2.0]})),
        ("float64", "DOUBLE", json!({"doubleVal": [0.1, 1e300]})),
        ("int8", "INT8", json!({"intVal": [-128, 127]})),
        ("int16", "INT16", json!({"intVal": [-32768, 5]})),
        ("int32", "INT32", json!({"intVal": [-2147483648i64, 5]})),
        ("int64", "INT64", json!({"int64Val": ["-9223372036854775808", "9007199254740993"]})),
        ("uint8", "UINT8", json!({"uintVal": [0, 255]})),
        ("uint16", "UINT16", json!({"uintVal": [0, 65535]})),
        ("uint32", "UINT32", json!({"uintVal": [0, 4294967295u32]})),
        ("uint64", "UINT64", json!({"uint64Val": ["0", "18446744073709551615"]})),
    ];
    let models: Vec<String> = kinds.iter().map(|(kind, ..)| format!("echo-{kind}")).collect();
    let server = serving(&models.iter().map(String::as_str).collect::<Vec<_>>()).start();
    for (model, (_, dtype, values)) in models.iter().zip(&kinds) {
        let mut tensor = values.clone();
        tensor["dtype"] = json!(dtype);
        tensor["shape"] = json!(["1", "2"]);
        let (status, answer) = ask(&server, model, "directPredict", json!({"inputs": [tensor]})).await;
        assert_eq!((status, &answer["outputs"][0]), (200, &tensor), "{model}: {answer}");
    }
    // What has no number in JSON.
    let strange = json!({"dtype": "FLOAT", "shape": ["1", "2"], "floatVal": ["NaN", "-Infinity"]});
    let (_, answer) = ask(&server, "echo-float32", "directPredict", json!({"inputs": [strange]})).await;
    assert_eq!(answer["outputs"][0], strange);
}

#[tokio::test]
async fn inputs_by_place_and_by_name() {
    let server = serving(&["columns", "zip-map-text"]).start();
    let age = json!({"dtype": "FLOAT", "shape": [2, 1], "floatVal": [39, 41]});
    let city = json!({"dtype": "STRING", "shape": [2, 1], "stringVal": ["Oslo", "Rome"]});
    let bytes = json!({"dtype": "STRING", "shape": [2, 1], "bytesVal": ["T3Nsbw==", "Um9tZQ"]});
    for inputs in [json!([age, city]), json!([age, bytes]), json!([{"structVal": {"city": city, "age": age}}])] {
        let (status, answer) = ask(&server, "columns", "directPredict", json!({"inputs": inputs})).await;
        assert_eq!((status, &answer["outputs"][0]["floatVal"]), (200, &json!([1039.0, 2041.0])), "{answer}");
    }
    // A map is a structure for each row.
    let x = json!({"dtype": "FLOAT", "shape": [1, 2], "floatVal": [1, 2]});
    let (_, answer) = ask(&server, "zip-map-text", "directPredict", json!({"inputs": [x]})).await;
    let probabilities = answer["outputs"].as_array().and_then(|outputs| outputs.last()).unwrap_or(&Value::Null);
    assert!(probabilities["listVal"][0]["structVal"].is_object(), "{answer}");
    for (inputs, field) in [
        (json!([]), "inputs"),
        (json!([age]), "inputs"),
        (json!([age, age]), "inputs[1]"),
        (json!([age, {"dtype": "STRING", "shape": [1, 1], "stringVal": ["Oslo"]}]), "inputs[1]"),
        (json!([{"structVal": {"age": age}}]), "inputs[0].structVal"),
        (json!([{"structVal": {"age": age, "city": city, "x": age}}]), "inputs[0].structVal.x"),
        (json!([{"dtype": "FLOAT", "shape": [2, 1], "floatVal": [39]}, city]), "inputs[0].shape"),
        (json!([{"dtype": "FLOAT", "shape": [0, 1]}, {"dtype": "STRING", "shape": [0, 1]}]), "inputs"),
    ] {
        let (status, answer) = ask(&server, "columns", "directPredict", json!({"inputs": inputs})).await;
        assert_eq!(status, 400, "{inputs}: {answer}");
        assert_eq!(answer["error"]["details"][0]["fieldViolations"][0]["field"], field, "{answer}");
    }
    let (status, answer) = ask(&server, "columns", "directPredict", json!({"inputs": [age, city], "nope": 1})).await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn pictures() {
    let server = serving(&["colour"]).start();
    let files = [colour([255, 0, 0]), colour([0, 0, 255])].map(|file| STANDARD.encode(file));
    let labels = |answer: &Value| answer["outputs"][0]["stringVal"].clone();
    for field in ["bytesVal", "stringVal"] {
        let tensor = json!({"dtype": "STRING", "shape": [2], field: files});
        let (status, answer) = ask(&server, "colour", "directPredict", json!({"inputs": [tensor]})).await;
        assert_eq!((status, labels(&answer)), (200, json!(["red", "blue"])), "{answer}");
        assert_eq!(answer["outputs"][1]["shape"], json!(["2", "1"]));
    }
    let top = json!({"structVal": {"top_k": {"dtype": "INT64", "int64Val": ["2"], "shape": ["1"]}}});
    let tensor = json!({"dtype": "STRING", "shape": [1], "bytesVal": [files[0]]});
    let (_, answer) = ask(&server, "colour", "directPredict", json!({"inputs": [tensor], "parameters": top})).await;
    assert_eq!((&answer["outputs"][0]["shape"], &labels(&answer)[0]), (&json!(["1", "2"]), &json!("red")), "{answer}");
    // The pixels themselves: full green.
    let pixels: Vec<f32> = (0..3 * 32 * 32).map(|index| if index / 1024 == 1 { 1.0 } else { -1.0 }).collect();
    let channel = channel(&server).await;
    let outputs = direct(&channel, "colour", vec![floats(&[1, 3, 32, 32], &pixels)]).await.unwrap();
    assert_eq!(outputs[0].string_val, ["green"]);
    let refused = direct(&channel, "colour", vec![floats(&[1, 3, 8, 8], &pixels[..192])]).await.unwrap_err();
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "inputs[0]");
}

#[tokio::test]
async fn a_stream_from_the_server() {
    let server = serving(&["linear"]).start();
    let tensor = |first: i32| json!({"dtype": "FLOAT", "shape": [1, 4], "floatVal": [first, 0, 0, 0]});
    let inputs: Vec<Value> = (0..20).map(tensor).collect();
    let body = json!({"inputs": inputs});
    let (status, answer) = ask(&server, "linear", "serverStreamingPredict", body.clone()).await;
    let values: Vec<f64> =
        answer.as_array().unwrap().iter().map(|piece| piece["outputs"][0]["floatVal"][0].as_f64().unwrap()).collect();
    let wanted: Vec<f64> = (0..20).map(|first| f64::from(first) + 0.5).collect();
    assert_eq!((status, values), (200, wanted));
    let url = server.url(&format!("/v1/{}:serverStreamingPredict?alt=sse", name("linear")));
    let events = client().post(url).json(&body).send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    assert_eq!(events.text().await.unwrap().matches("data: {").count(), 20);
    // The first answer's failure is the request's; a later one ends the stream.
    let wrong = json!({"dtype": "FLOAT", "shape": [1, 3], "floatVal": [1, 2, 3]});
    let (status, _) = ask(&server, "linear", "serverStreamingPredict", json!({"inputs": [wrong, tensor(1)]})).await;
    assert_eq!(status, 400);
    let inputs = json!({"inputs": [tensor(1), wrong, tensor(2)]});
    let (status, answer) = ask(&server, "linear", "serverStreamingPredict", inputs).await;
    assert_eq!((status, answer.as_array().unwrap().len()), (200, 2));
    assert_eq!(answer[1]["error"]["status"], "INVALID_ARGUMENT");
    assert!(answer[1].to_string().contains("inputs[1]"), "{answer}");

    let request = wire::StreamingPredictRequest {
        endpoint: name("linear"),
        inputs: (0u8..20).map(|first| row(first.into())).collect(),
        parameters: None,
    };
    let mut client = Grpc::new(channel(&server).await);
    client.ready().await.unwrap();
    let path = format!("/{V1}/ServerStreamingPredict").parse().unwrap();
    let codec = ProstCodec::<_, wire::StreamingPredictResponse>::default();
    let response = client.server_streaming(Request::new(request), path, codec).await.unwrap();
    assert_eq!(response.metadata().get("x-vertex-ai-endpoint-id").unwrap(), "linear");
    let answers: Vec<_> =
        response.into_inner().map(|answer| answer.unwrap().outputs[0].float_val.clone()).collect().await;
    assert_eq!(answers, (0u8..20).map(|first| expected(first.into())).collect::<Vec<_>>());
}

#[tokio::test]
async fn streams_of_both_directions_keep_their_order() {
    let server = serving(&["linear", "columns"]).start();
    let channel = channel(&server).await;
    for service in [V1, V1BETA1] {
        let messages = stream::iter(0u16..200).map(|index| wire::StreamDirectPredictRequest {
            // Only that of the first message counts.
            endpoint: name(if index == 0 { "linear" } else { "columns" }),
            inputs: vec![row(index.into())],
            parameters: None,
        });
        let method = format!("{service}/StreamDirectPredict");
        let answers: Streaming<wire::StreamDirectPredictResponse> =
            bidirectional(&channel, &method, messages).await.unwrap();
        let answers: Vec<_> = answers.map(|answer| answer.unwrap().outputs[0].float_val.clone()).collect().await;
        assert_eq!(answers, (0u16..200).map(|index| expected(index.into())).collect::<Vec<_>>());
    }
    // One that fails ends the stream, after the answers to those before it.
    let messages = stream::iter(0u8..50).map(|index| wire::StreamingPredictRequest {
        endpoint: name("linear"),
        inputs: vec![if index == 5 { floats(&[1, 1], &[0.0]) } else { row(index.into()) }],
        parameters: None,
    });
    let mut answers: Streaming<wire::StreamingPredictResponse> =
        bidirectional(&channel, &format!("{V1}/StreamingPredict"), messages).await.unwrap();
    for index in 0u8..5 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.outputs[0].float_val, expected(index.into()));
    }
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "inputs[0]");
    // None at all.
    let none = stream::empty::<wire::StreamingPredictRequest>();
    let mut answers: Streaming<wire::StreamingPredictResponse> =
        bidirectional(&channel, &format!("{V1}/StreamingPredict"), none).await.unwrap();
    assert!(answers.message().await.unwrap().is_none());
}

/// A client that does not read is not read from either.
#[tokio::test]
async fn a_stream_holds_back_its_client() {
    let server = serving(&["echo-blob"]).start();
    let channel = channel(&server).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let described: Value =
        client().get(server.url("/v1/endpoints/echo-blob")).send().await.unwrap().json().await.unwrap();
    let dtype = described["deployedModels"][0]["inputs"][0]["type"].as_str().unwrap().to_owned();
    assert_eq!(dtype, "uint8");
    let size = 256 << 10;
    let messages = stream::iter(0..2000).map(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        let tensor = wire::Tensor {
            dtype: DataType::Uint8.into(),
            shape: vec![1, size],
            tensor_val: vec![7; usize::try_from(size).unwrap()].into(),
            ..Default::default()
        };
        wire::StreamingPredictRequest { endpoint: name("echo-blob"), inputs: vec![tensor], parameters: None }
    });
    let mut answers: Streaming<wire::StreamingPredictResponse> =
        bidirectional(&channel, &format!("{V1}/StreamingPredict"), messages).await.unwrap();
    let mut before = 0;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = sent.load(Ordering::SeqCst);
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    assert!(before < 200, "{before} messages were taken without an answer being read");
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.outputs[0].shape, [1, size]);
}

// The client's side of the connection has to answer the server's last ping while this waits for the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_the_server_does() {
    let mut server = serving(&["linear"]).start();
    let channel = channel(&server).await;
    let (send, receive) = tokio::sync::mpsc::unbounded_channel::<wire::StreamingPredictRequest>();
    let messages = stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
    let message =
        |first| wire::StreamingPredictRequest { endpoint: name("linear"), inputs: vec![row(first)], parameters: None };
    send.send(message(1.0)).unwrap();
    let mut answers: Streaming<wire::StreamingPredictResponse> =
        bidirectional(&channel, &format!("{V1}/StreamingPredict"), messages).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    server.signal("TERM");
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}

#[tokio::test]
async fn methods_by_their_names() {
    let server = serving(&["linear", "columns"]).start();
    let channel = channel(&server).await;
    let instances = vec![prost_types::Value {
        kind: Some(prost_types::value::Kind::ListValue(prost_types::ListValue {
            values: [1.0, 2.0, 3.0, 4.0]
                .map(|number| prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(number)) })
                .to_vec(),
        })),
    }];
    let inner = wire::PredictRequest { instances, ..Default::default() };
    let predict = format!("/{V1}/Predict");
    let raw = |method: &str, input: Vec<u8>| wire::DirectRawPredictRequest {
        endpoint: name("linear"),
        method_name: method.to_owned(),
        input: input.into(),
    };
    let path = format!("{V1}/DirectRawPredict");
    let answer: Response<wire::DirectRawPredictResponse> =
        call(&channel, &path, Request::new(raw(&predict, inner.encode_to_vec()))).await.unwrap();
    let output = wire::PredictResponse::decode(answer.into_inner().output).unwrap();
    assert_eq!((output.predictions.len(), &*output.model_display_name), (1, "linear"));

    let body = json!({"methodName": predict, "input": STANDARD.encode(inner.encode_to_vec())});
    let (status, answer) = ask(&server, "linear", "directRawPredict", body).await;
    assert_eq!(status, 200, "{answer}");
    let output = STANDARD.decode(answer["output"].as_str().unwrap()).unwrap();
    assert_eq!(wire::PredictResponse::decode(&output[..]).unwrap().predictions.len(), 1);
    let body = json!({"methodName": "grpc.health.v1.Health/Check", "input": ""});
    let (_, answer) = ask(&server, "linear", "directRawPredict", body).await;
    assert_eq!(answer, json!({"output": "CAE="}), "SERVING");

    // The Open Inference Protocol's, for models of this endpoint.
    let ready = |name: &str| inference::ModelReadyRequest { name: name.to_owned(), ..Default::default() };
    let method = "/inference.GRPCInferenceService/ModelReady";
    let answer: Response<wire::DirectRawPredictResponse> =
        call(&channel, &path, Request::new(raw(method, ready("linear").encode_to_vec()))).await.unwrap();
    assert!(inference::ModelReadyResponse::decode(answer.into_inner().output).unwrap().ready);
    let request = Request::new(raw(method, ready("columns").encode_to_vec()));
    let refused = call::<_, wire::DirectRawPredictResponse>(&channel, &path, request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    let nowhere = wire::DirectRawPredictRequest { endpoint: name("none"), ..raw(&predict, Vec::new()) };
    let refused = call::<_, wire::DirectRawPredictResponse>(&channel, &path, Request::new(nowhere)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");

    let elsewhere = wire::PredictRequest { endpoint: name("columns"), ..inner.clone() };
    let empty = wire::PredictRequest::default();
    let refusals = [
        ("/a.B/C", vec![], Code::Unimplemented, 501),
        ("/tensorflow.serving.PredictionService/Predict", b"abc".to_vec(), Code::Unimplemented, 501),
        (&format!("/{V1}/DirectRawPredict"), vec![], Code::Unimplemented, 501),
        ("/google.cloud.aiplatform.v1.EndpointService/DeleteEndpoint", vec![], Code::Unimplemented, 501),
        (&predict, b"\xff\xff".to_vec(), Code::InvalidArgument, 400),
        (&predict, elsewhere.encode_to_vec(), Code::InvalidArgument, 400),
        (&predict, empty.encode_to_vec(), Code::InvalidArgument, 400),
    ];
    for (method, input, code, http) in refusals {
        let request = Request::new(raw(method, input.clone()));
        let refused = call::<_, wire::DirectRawPredictResponse>(&channel, &path, request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{method}: {refused:?}");
        let body = json!({"methodName": method, "input": STANDARD.encode(&input)});
        let (status, answer) = ask(&server, "linear", "directRawPredict", body).await;
        assert_eq!(status, http, "{method}: {answer}");
        assert_eq!(answer["error"]["message"], refused.message());
    }
    let messages = stream::iter(0..3).map(move |_| wire::StreamingRawPredictRequest {
        endpoint: name("linear"),
        method_name: format!("/{V1}/Predict"),
        input: inner.encode_to_vec().into(),
    });
    let answers: Streaming<wire::StreamingRawPredictResponse> =
        bidirectional(&channel, &format!("{V1}/StreamingRawPredict"), messages).await.unwrap();
    assert_eq!(answers.map(|answer| assert!(!answer.unwrap().output.is_empty())).count().await, 3);
    let messages = stream::iter(0..3).map(|_| wire::StreamDirectRawPredictRequest {
        endpoint: name("linear"),
        method_name: "/a.B/C".to_owned(),
        input: Default::default(),
    });
    let mut answers: Streaming<wire::StreamDirectRawPredictResponse> =
        bidirectional(&channel, &format!("{V1}/StreamDirectRawPredict"), messages).await.unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unimplemented);
}
