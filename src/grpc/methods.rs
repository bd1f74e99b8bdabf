//! Calling one of this server's own methods by its name, with its message as bytes: `DirectRawPredict`.
//!
//! The bytes go to the same services that the port serves. Only unary methods of those that predict, and health, can be
//! called like that: management is not within reach of a client that may only predict, and a request can't name another
//! endpoint than the one it was let in for. The services here have no methods that call by name, so that a call can't
//! go round in circles.

use std::sync::{Arc, LazyLock};

use axum::Router;
use bytes::{Buf, BufMut, Bytes};
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response};

use super::V1BETA1;
use super::call::Call;
use super::status::{from_tonic, to_tonic};
use crate::endpoint::Version;
use crate::protocol::proto_json;
use crate::protocol::status::{Code, Status};
use crate::service::{ENDPOINT_ID, SESSION, Service, ServiceError, Target};

/// The services whose methods can be called.
const CALLABLE: [&str; 3] =
    ["google.cloud.aiplatform.v1.PredictionService", "inference.GRPCInferenceService", "grpc.health.v1.Health"];

static HEALTH: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap_or_default());

/// The methods that can be called.
pub struct Methods {
    service: Arc<Service>,
    services: Router,
    message_limit: usize,
}

impl Methods {
    /// Those of `services`; an answer has at most `message_limit` bytes.
    pub fn new(service: Arc<Service>, services: Router, message_limit: usize) -> Self {
        Self { service, services, message_limit }
    }

    /// What a caller says of itself, to be passed on.
    pub fn passed(headers: &HeaderMap) -> HeaderMap {
        let kept = [AUTHORIZATION, HeaderName::from_static(SESSION)].into_iter();
        kept.filter_map(|name| headers.get(&name).cloned().map(|value| (name, value))).collect()
    }

    /// Calls `/package.Service/Method` for an endpoint, and gives its answer's bytes with its metadata.
    ///
    /// # Errors
    /// UNIMPLEMENTED for what can't be called, INVALID_ARGUMENT for bytes that aren't its message, and whatever the
    /// method fails with.
    pub async fn call(
        &self,
        endpoint: &str,
        method: &str,
        input: Bytes,
        passed: HeaderMap,
        call: Call,
    ) -> Result<Response<Bytes>, tonic::Status> {
        let checked = check(endpoint, method, &input).and_then(|checked| {
            self.check_model(endpoint, checked.model.as_deref()).map_err(|error| Status::from(&error))?;
            Ok(checked.path)
        });
        let path = checked.map_err(|status| to_tonic(&status))?;
        let mut request = Request::new(input);
        *request.metadata_mut() = MetadataMap::from_headers(passed);
        request.extensions_mut().insert(call);
        if let Ok(endpoint) = endpoint.parse() {
            request.metadata_mut().insert(ENDPOINT_ID, endpoint);
        }
        let mut client = tonic::client::Grpc::new(self.services.clone()).max_decoding_message_size(self.message_limit);
        tokio::time::timeout_at(call.deadline, client.unary(request, path, Plain)).await.unwrap_or_else(|_| {
            Err(to_tonic(&Status::new(Code::DeadlineExceeded, "the deadline passed before the method answered")))
        })
    }
}

impl Methods {
    /// The endpoint must be there, and have the model that a message of the Open Inference Protocol names.
    fn check_model(&self, endpoint: &str, model: Option<&str>) -> Result<(), ServiceError> {
        self.service.catalog()?.endpoint(endpoint)?;
        if let Some(model) = model {
            self.service.within(Target::Endpoint(endpoint), model, Version::Any, None)?;
        }
        Ok(())
    }
}

/// What a method gave to a caller who isn't one of gRPC.
pub struct Called {
    /// Its message.
    pub output: Bytes,
    /// Its metadata that is text.
    pub headers: HeaderMap,
}

impl Methods {
    /// As [`Methods::call`], for HTTP.
    ///
    /// # Errors
    /// As [`Methods::call`].
    pub async fn call_for_http(
        &self,
        endpoint: &str,
        method: &str,
        input: Bytes,
        headers: &HeaderMap,
        deadline: tokio::time::Instant,
    ) -> Result<Called, Status> {
        let answer = self.call(endpoint, method, input, Self::passed(headers), Call::until(deadline)).await;
        let answer = answer.map_err(|status| from_tonic(&status))?;
        let (metadata, output, _) = answer.into_parts();
        Ok(Called { output, headers: metadata.into_headers() })
    }
}

/// A method that can be called.
#[derive(Debug)]
struct Checked {
    path: PathAndQuery,
    /// The model that its message names.
    model: Option<String>,
}

/// A method that can be called with these bytes for that endpoint.
fn check(endpoint: &str, method: &str, input: &[u8]) -> Result<Checked, Status> {
    let unimplemented = |what: &str| {
        let method: String = method.chars().take(100).collect();
        let message = format!("methodName `{method}` {what}");
        Status { field: Some("methodName".to_owned()), ..Status::new(Code::Unimplemented, message) }
    };
    if method.is_empty() {
        let message = "methodName is missing; it is a method's full name, such as \
                       `google.cloud.aiplatform.v1.PredictionService/Predict`";
        return Err(Status::bad_field("methodName", message));
    }
    let descriptor = find(method).ok_or_else(|| {
        unimplemented(
            "can't be called here; there are the unary methods of PredictionService, GRPCInferenceService and Health",
        )
    })?;
    let manages = descriptor.name().starts_with("Repository");
    let is_stream = descriptor.is_client_streaming() || descriptor.is_server_streaming();
    if is_stream || manages || descriptor.name() == "DirectRawPredict" {
        return Err(unimplemented("can't be called by its name: only unary methods that ask models can"));
    }
    let name = descriptor.input().name().to_owned();
    let message = DynamicMessage::decode(descriptor.input(), input)
        .map_err(|error| Status::bad_field("input", format!("input is not a {name}: {error}")))?;
    if let Some(Value::String(inner)) = message.get_field_by_name("endpoint").as_deref()
        && !inner.is_empty()
        && inner.rsplit('/').next() != Some(endpoint)
    {
        let message = format!("input.endpoint must be the endpoint of the request itself, `{endpoint}`, or empty");
        return Err(Status::bad_field("input.endpoint", message));
    }
    let text = |name: &str| match message.get_field_by_name(name).as_deref() {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    let model = match descriptor.parent_service().full_name() {
        "inference.GRPCInferenceService" => text("model_name").or_else(|| text("name")),
        _ => None,
    };
    // What has a descriptor is a path.
    let path = PathAndQuery::try_from(format!("/{}", method.trim_start_matches('/')));
    Ok(Checked { path: path.map_err(|_| unimplemented("is no path"))?, model })
}

fn find(method: &str) -> Option<MethodDescriptor> {
    let (service, method) = method.trim_start_matches('/').split_once('/')?;
    let service = if service == V1BETA1 { CALLABLE[0] } else { service };
    if !CALLABLE.contains(&service) {
        return None;
    }
    let service =
        proto_json::descriptors().get_service_by_name(service).or_else(|| HEALTH.get_service_by_name(service))?;
    service.methods().find(|descriptor| descriptor.name() == method)
}

/// Messages as the bytes that they are.
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::protocol::generated::google::cloud::aiplatform::v1::PredictRequest;

    const PREDICT: &str = "/google.cloud.aiplatform.v1.PredictionService/Predict";

    fn request(endpoint: &str) -> Vec<u8> {
        PredictRequest { endpoint: endpoint.to_owned(), ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn unary_methods_that_predict_and_health() {
        for method in [
            PREDICT,
            &PREDICT[1..],
            "/google.cloud.aiplatform.v1beta1.PredictionService/Predict",
            "/google.cloud.aiplatform.v1.PredictionService/Explain",
            "/grpc.health.v1.Health/Check",
            "/inference.GRPCInferenceService/ModelInfer",
        ] {
            assert!(check("e", method, &[]).is_ok(), "{method}");
        }
        for method in [
            "/",
            "/a.B/C",
            "/tensorflow.serving.PredictionService/Predict",
            "/google.cloud.aiplatform.v1.PredictionService/DirectRawPredict",
            "/google.cloud.aiplatform.v1.PredictionService/StreamDirectRawPredict",
            "/google.cloud.aiplatform.v1.PredictionService/ServerStreamingPredict",
            "/google.cloud.aiplatform.v1.PredictionService/Nothing",
            "/google.cloud.aiplatform.v1.EndpointService/DeleteEndpoint",
            "/grpc.health.v1.Health/Watch",
            "/inference.GRPCInferenceService/RepositoryModelLoad",
            "/inference.GRPCInferenceService/ModelStreamInfer",
        ] {
            assert_eq!(check("e", method, &[]).unwrap_err().code, Code::Unimplemented, "{method}");
        }
        let missing = check("e", "", &[]).unwrap_err();
        assert_eq!((missing.code, missing.field.as_deref()), (Code::InvalidArgument, Some("methodName")));
    }

    #[test]
    fn bytes_must_be_the_message_and_for_the_same_endpoint() {
        let refused = check("e", PREDICT, b"\xff").unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (Code::InvalidArgument, Some("input")));
        for endpoint in ["", "e", "projects/p/locations/l/endpoints/e"] {
            assert!(check("e", PREDICT, &request(endpoint)).is_ok(), "{endpoint}");
        }
        let refused = check("e", PREDICT, &request("projects/p/locations/l/endpoints/other")).unwrap_err();
        assert_eq!((refused.code, refused.field.as_deref()), (Code::InvalidArgument, Some("input.endpoint")));
    }
}
