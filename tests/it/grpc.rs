//! gRPC over real sockets: the same answers as HTTP's, errors with details, health, reflection, deadlines, the end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use prost_types::Value;
use serde_json::json;
use tessera::protocol::generated::google::api::HttpBody;
use tessera::protocol::generated::google::cloud::aiplatform::v1::{
    PredictRequest, PredictResponse, RawPredictRequest, StreamRawPredictRequest,
};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

use crate::harness::{Builder, Server, client, colour, example, instance, post};

const COLOUR: &str = "projects/p/locations/l/endpoints/colour";
pub const V1: &str = "google.cloud.aiplatform.v1.PredictionService";
pub const V1BETA1: &str = "google.cloud.aiplatform.v1beta1.PredictionService";

pub fn serving(models: &[&str]) -> Builder {
    Builder::with_models(models).setting("grpc.port", "0")
}

pub async fn channel(server: &Server) -> Channel {
    Endpoint::from_shared(format!("http://{}", server.grpc_address())).unwrap().connect().await.unwrap()
}

/// A client without generated code: what is on the wire is a path and messages.
pub async fn call<Q, A>(channel: &Channel, method: &str, request: Request<Q>) -> Result<Response<A>, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
    client.ready().await.unwrap();
    client.unary(request, format!("/{method}").parse().unwrap(), ProstCodec::default()).await
}

async fn predict(
    channel: &Channel,
    request: impl tonic::IntoRequest<PredictRequest>,
) -> Result<PredictResponse, Status> {
    call(channel, &format!("{V1}/Predict"), request.into_request()).await.map(Response::into_inner)
}

async fn raw(channel: &Channel, content_type: &str, data: impl Into<Bytes>) -> Result<Response<HttpBody>, Status> {
    let body = HttpBody { content_type: content_type.to_owned(), data: data.into(), extensions: Vec::new() };
    let request = RawPredictRequest { endpoint: COLOUR.to_owned(), http_body: Some(body) };
    call(channel, &format!("{V1}/RawPredict"), Request::new(request)).await
}

pub fn value(json: &serde_json::Value) -> Value {
    use prost_types::value::Kind;
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.iter().map(value).collect() })
        }
        serde_json::Value::Object(fields) => Kind::StructValue(prost_types::Struct {
            fields: fields.iter().map(|(key, field)| (key.clone(), value(field))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}

fn request(endpoint: &str, instances: &[serde_json::Value], parameters: Option<serde_json::Value>) -> PredictRequest {
    PredictRequest {
        endpoint: endpoint.to_owned(),
        instances: instances.iter().map(value).collect(),
        parameters: parameters.as_ref().map(value),
        labels: Default::default(),
    }
}

fn red() -> serde_json::Value {
    instance(&colour([255, 0, 0]))
}

#[tokio::test]
async fn the_answer_is_that_of_http() {
    let server = serving(&["imagenet"]).start();
    let channel = channel(&server).await;
    let endpoint = "projects/p/locations/l/endpoints/imagenet";
    for parameters in [json!(null), json!({"top_k": 5}), json!({"maxPredictions": 3})] {
        let instances = [instance(&example("cat.jpg")), instance(&example("coffee.jpg"))];
        let body = json!({"instances": instances, "parameters": parameters});
        let (_, http) = post(&server, &format!("/v1/{endpoint}:predict"), &body).await;
        let answer = predict(&channel, request(endpoint, &instances, Some(parameters))).await.unwrap();
        let expected: Vec<Value> = http["predictions"].as_array().unwrap().iter().map(value).collect();
        assert_eq!(answer.predictions, expected);
        assert_eq!(answer.deployed_model_id, http["deployedModelId"]);
        assert_eq!(answer.model, http["model"]);
        assert_eq!(answer.model_display_name, http["modelDisplayName"]);
        assert_eq!(answer.model_version_id, http["modelVersionId"]);
    }
}

#[tokio::test]
async fn both_versions_and_both_ports() {
    let server = serving(&["colour"]).start();
    let own = channel(&server).await;
    let shared = Endpoint::from_shared(server.url("")).unwrap().connect().await.unwrap();
    for channel in [&own, &shared] {
        for service in [V1, V1BETA1] {
            let request = Request::new(request(COLOUR, &[red()], None));
            let answer: PredictResponse =
                call(channel, &format!("{service}/Predict"), request).await.unwrap().into_inner();
            assert_eq!(answer.predictions.len(), 1, "{service}");
        }
        let refused = call::<_, ()>(channel, &format!("{V1}/GenerateContent"), Request::new(())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        assert!(refused.message().contains("GenerateContent"), "{refused:?}");
        let refused = call::<_, ()>(channel, "no.such.Service/Method", Request::new(())).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
    // HTTP on gRPC's paths.
    let response = client().post(server.url(&format!("/{V1}/Predict"))).body("{}").send().await.unwrap();
    assert_eq!(response.status(), 415);
}

#[tokio::test]
async fn one_port_for_all_or_none() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    drop(listener);
    let server = Builder::with_models(&["colour"]).setting("grpc.port", &port).setting("server.port", &port);
    let server = server.start();
    let channel = Endpoint::from_shared(server.url("")).unwrap().connect().await.unwrap();
    predict(&channel, request(COLOUR, &[red()], None)).await.unwrap();
    assert!(!server.log().iter().any(|line| line.contains(r#""listener":"grpc""#)));

    let server = Builder::with_models(&["colour"]).setting("grpc.port", "off").start();
    let channel = Endpoint::from_shared(server.url("")).unwrap().connect().await.unwrap();
    let refused = predict(&channel, request(COLOUR, &[red()], None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
}

#[tokio::test]
async fn the_endpoint_may_be_metadata() {
    let server = serving(&["colour", "slow"]).start();
    let channel = channel(&server).await;
    let mut selected = Request::new(request("", &[red()], None));
    selected.metadata_mut().insert("x-vertex-ai-endpoint-id", "colour".parse().unwrap());
    assert_eq!(predict(&channel, selected).await.unwrap().model_display_name, "colour");
    // The message's own name comes first.
    let mut selected = Request::new(request(COLOUR, &[red()], None));
    selected.metadata_mut().insert("x-vertex-ai-endpoint-id", "slow".parse().unwrap());
    assert_eq!(predict(&channel, selected).await.unwrap().model_display_name, "colour");
    let refused = predict(&channel, request("", &[red()], None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "endpoint");
}

#[tokio::test]
async fn raw_bodies() {
    let server = serving(&["colour"]).start();
    let channel = channel(&server).await;
    let body = json!({"instances": [red(), red()]}).to_string();
    let response = raw(&channel, "application/json", body.clone()).await.unwrap();
    assert_eq!(response.metadata().get("x-vertex-ai-endpoint-id").unwrap(), "colour");
    let deployed = response.metadata().get("x-vertex-ai-deployed-model-id").unwrap().to_str().unwrap();
    assert!(!deployed.is_empty() && deployed.bytes().all(|byte| byte.is_ascii_digit()), "{deployed}");
    let json = |body: &HttpBody| serde_json::from_slice::<serde_json::Value>(&body.data).unwrap();
    let answer = response.into_inner();
    assert_eq!(answer.content_type, "application/json");
    assert_eq!(json(&answer)["predictions"].as_array().unwrap().len(), 2);
    assert_eq!(json(&answer).as_object().unwrap().len(), 1, "the container's form");

    let picture = raw(&channel, "image/png", colour([255, 0, 0])).await.unwrap().into_inner();
    assert_eq!(json(&picture)["predictions"][0], json(&answer)["predictions"][0]);
    for (content_type, body) in [("image/png", "no picture"), ("image/png", ""), ("", ""), ("application/json", "{")] {
        let refused = raw(&channel, content_type, body).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{content_type} {body}: {refused:?}");
    }

    let http_body = HttpBody { content_type: String::new(), data: body.into(), extensions: Vec::new() };
    let request = StreamRawPredictRequest { endpoint: COLOUR.to_owned(), http_body: Some(http_body) };
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = format!("/{V1}/StreamRawPredict").parse().unwrap();
    let codec = ProstCodec::<StreamRawPredictRequest, HttpBody>::default();
    let mut stream = client.server_streaming(Request::new(request), path, codec).await.unwrap().into_inner();
    let mut data = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        data.extend_from_slice(&piece.data);
    }
    assert_eq!(data, answer.data);
}

#[tokio::test]
async fn errors_carry_their_details() {
    let server = serving(&["colour"]).setting("limits.instances", "4").start();
    let channel = channel(&server).await;
    let nan = Value { kind: Some(prost_types::value::Kind::NumberValue(f64::NAN)) };
    let of_nan = PredictRequest { endpoint: COLOUR.to_owned(), instances: vec![nan], ..Default::default() };
    let violations = [
        (request(COLOUR, &[], None), "instances"),
        (request(COLOUR, &vec![red(); 5], None), "instances"),
        (request(COLOUR, &[red(), json!({"b64": "####"})], None), "instances[1].b64"),
        (request(COLOUR, &[red(), json!(1.5)], None), "instances[1]"),
        (request(COLOUR, &[red()], Some(json!({"top_k": 0}))), "parameters.top_k"),
        (request(COLOUR, &[red()], Some(json!([]))), "parameters"),
        (of_nan, "instances[0]"),
    ];
    for (request, field) in violations {
        let refused = predict(&channel, request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused:?}");
        let details = refused.get_details_bad_request().unwrap();
        assert_eq!(details.field_violations[0].field, field);
        assert_eq!(details.field_violations[0].description, refused.message());
    }
    let refused = predict(&channel, request("endpoints/999999", &[red()], None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("999999"), "{refused:?}");
    // Counted, and logged with the status that HTTP would have had.
    let metrics = client().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"tessera_errors_total{code="INVALID_ARGUMENT"} 7"#), "{metrics}");
    assert!(metrics.contains(r#"tessera_errors_total{code="NOT_FOUND"} 1"#));
    server.logged("PredictionService/Predict 404 in");
}

/// A failure with its details, which repeat its code and message.
fn detailed(status: &Status, code: Code) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = tonic_types::pb::Status::decode(status.details()).unwrap();
    assert_eq!((details.code, &*details.message), (status.code() as i32, status.message()));
}

#[tokio::test]
async fn what_is_no_message_of_the_method() {
    let server = serving(&["colour"]).start();
    let own = channel(&server).await;
    let shared = Endpoint::from_shared(server.url("")).unwrap().connect().await.unwrap();
    let mut deep = value(&json!(1));
    for _ in 0..200 {
        deep = Value { kind: Some(prost_types::value::Kind::ListValue(prost_types::ListValue { values: vec![deep] })) };
    }
    let deep = PredictRequest { endpoint: COLOUR.to_owned(), instances: vec![deep], ..Default::default() };
    let method = |service: &str, method: &str| format!("{service}/{method}");
    for channel in [&own, &shared] {
        for method in [
            method(V1, "Predict"),
            method(V1BETA1, "Predict"),
            method(V1, "Explain"),
            method(V1, "DirectRawPredict"),
            method(V1, "StreamRawPredict"),
            method("google.cloud.aiplatform.v1.ModelService", "UploadModel"),
            method("google.cloud.aiplatform.v1beta1.EndpointService", "GetEndpoint"),
            method("google.longrunning.Operations", "GetOperation"),
            method("inference.GRPCInferenceService", "ModelInfer"),
            method("grpc.health.v1.Health", "Check"),
        ] {
            // A number as their field 1, which is text in all of them.
            let refused = call::<u64, ()>(channel, &method, Request::new(7)).await.unwrap_err();
            detailed(&refused, Code::InvalidArgument);
            assert!(refused.message().contains("can't be read"), "{method}: {refused:?}");
            assert_eq!(refused.get_error_details().error_info().unwrap().reason, "INVALID_REQUEST");
        }
        let refused = predict(channel, deep.clone()).await.unwrap_err();
        detailed(&refused, Code::InvalidArgument);
        assert!(refused.message().contains("recursion limit"), "{refused:?}");

        for method in ["StreamDirectPredict", "StreamDirectRawPredict", "StreamingPredict"] {
            let mut client = Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let path = format!("/{V1}/{method}").parse().unwrap();
            let messages = Request::new(futures_util::stream::iter([7_u64]));
            let answers = client.streaming(messages, path, ProstCodec::<u64, ()>::default()).await;
            let refused = match answers {
                Ok(answers) => answers.into_inner().message().await.unwrap_err(),
                Err(refused) => refused,
            };
            detailed(&refused, Code::InvalidArgument);
        }
        for method in ["Check", "Watch"] {
            let request = HealthCheckRequest { service: "no.such.Service".to_owned() };
            let method = format!("grpc.health.v1.Health/{method}");
            let refused = call::<_, ()>(channel, &method, Request::new(request)).await.unwrap_err();
            detailed(&refused, Code::NotFound);
        }
    }
}

#[tokio::test]
async fn large_messages_up_to_the_limit() {
    let server = serving(&["colour"]).setting("limits.body", "12MiB").start();
    let channel = channel(&server).await;
    // What is not the picture is ignored, however long.
    let padded = |mebibytes: usize| json!({"b64": red()["b64"], "note": "x".repeat(mebibytes << 20)});
    let answer = predict(&channel, request(COLOUR, &[padded(11)], None)).await.unwrap();
    assert_eq!(answer.predictions.len(), 1);
    let refused = predict(&channel, request(COLOUR, &[padded(12)], None)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(refused.message(), "Request payload size exceeds the limit: 12582912 bytes.");
    predict(&channel, request(COLOUR, &[red()], None)).await.unwrap();
}

/// The status of a call by plain HTTP/2, as tonic's own client would end it by its own clock.
async fn status_within(server: &Server, timeout: &str, request: &PredictRequest) -> Status {
    let stream = tokio::net::TcpStream::connect(server.grpc_address()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let message = request.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&message);
    let request = http::Request::post(format!("http://server/{V1}/Predict"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(http_body_util::Full::new(Bytes::from(body)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    Status::from_header_map(response.headers()).expect("an answer that fails at once")
}

#[tokio::test]
async fn deadlines() {
    let server = serving(&["slow"]).start();
    let slow = request("slow", &vec![red(); 64], None);
    let begin = Instant::now();
    let status = status_within(&server, "300m", &slow).await;
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable), "{status:?}");
    assert_eq!(status_within(&server, "0n", &slow).await.code(), Code::DeadlineExceeded);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let status = status_within(&server, "soon", &slow).await;
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "grpc-timeout");
}

/// The items that wait in queues.
async fn queue_length(server: &Server) -> f64 {
    let metrics = client().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let lengths = metrics.lines().filter(|line| line.starts_with("tessera_queue_length{"));
    lengths.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn who_leaves_leaves_the_queue() {
    let server = serving(&["slow"]).start();
    let channel = channel(&server).await;
    let request = request("slow", &vec![red(); 200], None);
    let waiting = tokio::time::timeout(Duration::from_secs(1), predict(&channel, request));
    assert!(waiting.await.is_err(), "200 instances were predicted within a second");
    for _ in 0..100 {
        if queue_length(&server).await == 0.0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the queue still holds {}", queue_length(&server).await);
}

#[tokio::test]
async fn health_follows_readiness() {
    let server = serving(&["imagenet", "slow"]).spawn();
    let channel = channel(&server).await;
    let mut health = HealthClient::new(channel);
    let mut check = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.map(|answer| answer.into_inner().status())
    };
    assert_eq!(check("").await.unwrap(), ServingStatus::NotServing);
    server.wait_until_ready();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for service in ["", V1, V1BETA1] {
        assert_eq!(check(service).await.unwrap(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(check("no.such.Service").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let server = serving(&["colour"]).start();
    let mut reflection = ServerReflectionClient::new(channel(&server).await);
    let ask = |message| {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        tokio_stream_of(request)
    };
    let mut answers =
        reflection.server_reflection_info(ask(MessageRequest::ListServices(String::new()))).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in [V1, V1BETA1, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"] {
        assert!(names.contains(&name), "{name} not in {names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol(format!("{V1}.RawPredict"));
    let mut answers = reflection.server_reflection_info(ask(symbol)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
}

fn tokio_stream_of<T: Send + 'static>(message: T) -> impl futures_util::Stream<Item = T> + Send + 'static {
    futures_util::stream::iter([message])
}

// The client's side of the connection has to answer the server's last ping while this waits for the server.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_answered_before_the_end() {
    let mut server = serving(&["slow"]).setting("server.drain_delay", "500ms").start();
    let channel = channel(&server).await;
    let mut health = HealthClient::new(channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let under_way = tokio::spawn({
        let channel = channel.clone();
        async move { predict(&channel, request("slow", &vec![red(); 16], None)).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begin = Instant::now();
    server.signal("TERM");
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(begin.elapsed() < Duration::from_millis(400), "{:?}", begin.elapsed());
    // During the delay, calls are still taken.
    predict(&channel, request("slow", &[red()], None)).await.unwrap();
    assert_eq!(under_way.await.unwrap().unwrap().predictions.len(), 16);
    // Who only watches is not waited for.
    let status = server.wait(Duration::from_secs(15));
    assert!(status.success(), "{status}: {:#?}", server.log());
    assert!(server.log().iter().any(|line| line.contains("goodbye")), "{:#?}", server.log());
}
