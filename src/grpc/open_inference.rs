//! `inference.GRPCInferenceService`: the Open Inference Protocol over gRPC, as KServe's and Triton's clients speak it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ndarray::{Array1, ArrayD};
use serde_json::Value;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Streaming};

use super::Grpc;
use super::ask::Head;
use super::call::Call;
use super::status::to_tonic;
use super::streams::{Streams, in_order};
use crate::endpoint::{Catalog, NamedModel, Version};
use crate::protocol::generated::inference::grpc_inference_service_server::GrpcInferenceService;
use crate::protocol::generated::inference::infer_parameter::ParameterChoice;
use crate::protocol::generated::inference::{self as wire, model_infer_request, model_infer_response};
use crate::protocol::open_inference::{
    EXTENSIONS, InferError, InferRequest, ModelMetadata, Parameters, RequestedOutput, TensorMetadata, check_memory,
    datatype, type_and_shape,
};
use crate::protocol::status::Status;
use crate::server::Drain;
use crate::service::open_inference::{self, Output};
use crate::service::{Chosen, ServiceError, Target};
use crate::tensor::{ElementType, EncodedData, EncodedTensor, Tensor};

/// The methods.
pub struct OpenInference {
    grpc: Arc<Grpc>,
    streams: Streams,
    drain: Drain,
}

impl OpenInference {
    /// On top of a service.
    pub fn new(grpc: Arc<Grpc>, streams: Streams, drain: Drain) -> Self {
        Self { grpc, streams, drain }
    }

    fn catalog(&self) -> Result<Arc<Catalog>, tonic::Status> {
        self.grpc.service.catalog().map_err(|error| to_tonic(&Status::from(&error)))
    }

    fn model(&self, name: &str) -> Result<NamedModel, tonic::Status> {
        let model = self.catalog()?.model(name);
        model.map_err(|error| to_tonic(&Status::from(&ServiceError::Lookup(error))))
    }
}

fn version(version: &str) -> Version<'_> {
    if version.is_empty() { Version::Any } else { Version::Number(version) }
}

fn lookup(error: crate::endpoint::LookupError) -> tonic::Status {
    to_tonic(&Status::from(&ServiceError::Lookup(error)))
}

#[tonic::async_trait]
impl GrpcInferenceService for OpenInference {
    async fn server_live(
        &self,
        _: Request<wire::ServerLiveRequest>,
    ) -> Result<Response<wire::ServerLiveResponse>, tonic::Status> {
        Ok(Response::new(wire::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<wire::ServerReadyRequest>,
    ) -> Result<Response<wire::ServerReadyResponse>, tonic::Status> {
        Ok(Response::new(wire::ServerReadyResponse { ready: self.drain.readiness().is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<wire::ModelReadyRequest>,
    ) -> Result<Response<wire::ModelReadyResponse>, tonic::Status> {
        let request = request.into_inner();
        let model = self.model(&request.name)?;
        model.version(version(&request.version)).map_err(lookup)?;
        Ok(Response::new(wire::ModelReadyResponse { ready: true }))
    }

    async fn server_metadata(
        &self,
        _: Request<wire::ServerMetadataRequest>,
    ) -> Result<Response<wire::ServerMetadataResponse>, tonic::Status> {
        Ok(Response::new(wire::ServerMetadataResponse {
            name: "tessera".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<wire::ModelMetadataRequest>,
    ) -> Result<Response<wire::ModelMetadataResponse>, tonic::Status> {
        let request = request.into_inner();
        let model = self.model(&request.name)?;
        let deployed = model.version(version(&request.version)).map_err(lookup)?;
        let ModelMetadata { name, versions, platform, inputs, outputs } = open_inference::metadata(&model, deployed);
        let tensor = |TensorMetadata { name, datatype, shape }: TensorMetadata| {
            wire::model_metadata_response::TensorMetadata { name, datatype: datatype.to_owned(), shape }
        };
        Ok(Response::new(wire::ModelMetadataResponse {
            name,
            versions,
            platform: platform.to_owned(),
            inputs: inputs.into_iter().map(tensor).collect(),
            outputs: outputs.into_iter().map(tensor).collect(),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<wire::ModelInferRequest>,
    ) -> Result<Response<wire::ModelInferResponse>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let answer = infer(&self.grpc, &head, head.call, request.into_inner()).await;
        answer.map(Response::new).map_err(|status| to_tonic(&status))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<wire::ModelInferRequest>>,
    ) -> Result<Response<BoxStream<wire::ModelStreamInferResponse>>, tonic::Status> {
        let head = Head::of(&request, &self.grpc);
        let grpc = self.grpc.clone();
        let messages = self.streams.until_closing(request.into_inner());
        let answers = in_order(messages, move |message| {
            let (grpc, head) = (grpc.clone(), head.clone());
            let call = head.call.message(grpc.settings.request_timeout);
            async move {
                let id = message.id.clone();
                // A request that fails doesn't end the stream.
                Ok::<_, Status>(match infer(&grpc, &head, call, message).await {
                    Ok(answer) => {
                        wire::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(answer) }
                    }
                    Err(status) => wire::ModelStreamInferResponse {
                        error_message: status.message,
                        infer_response: Some(wire::ModelInferResponse { id, ..Default::default() }),
                    },
                })
            }
        });
        Ok(Response::new(answers))
    }

    async fn model_config(
        &self,
        request: Request<wire::ModelConfigRequest>,
    ) -> Result<Response<wire::ModelConfigResponse>, tonic::Status> {
        let request = request.into_inner();
        let model = self.model(&request.name)?;
        let deployed = model.version(version(&request.version)).map_err(lookup)?;
        let config = open_inference::config(&model, deployed, self.grpc.settings.instances);
        Ok(Response::new(wire::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_statistics(
        &self,
        request: Request<wire::ModelStatisticsRequest>,
    ) -> Result<Response<wire::ModelStatisticsResponse>, tonic::Status> {
        let request = request.into_inner();
        let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
        let model_stats =
            open_inference::statistics(&*self.catalog()?, name, version(&request.version)).map_err(lookup)?;
        Ok(Response::new(wire::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        _: Request<wire::RepositoryIndexRequest>,
    ) -> Result<Response<wire::RepositoryIndexResponse>, tonic::Status> {
        let models = open_inference::index(&*self.catalog()?);
        Ok(Response::new(wire::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        _: Request<wire::RepositoryModelLoadRequest>,
    ) -> Result<Response<wire::RepositoryModelLoadResponse>, tonic::Status> {
        Err(to_tonic(&open_inference::no_repository()))
    }

    async fn repository_model_unload(
        &self,
        _: Request<wire::RepositoryModelUnloadRequest>,
    ) -> Result<Response<wire::RepositoryModelUnloadResponse>, tonic::Status> {
        Err(to_tonic(&open_inference::no_repository()))
    }
}

/// Answers one request, and counts it.
async fn infer(
    grpc: &Grpc,
    head: &Head,
    call: Call,
    mut message: wire::ModelInferRequest,
) -> Result<wire::ModelInferResponse, Status> {
    let (name, asked) = (std::mem::take(&mut message.model_name), std::mem::take(&mut message.model_version));
    let chosen = grpc.choose(head, Target::Model { name: &name, version: version(&asked) })?;
    let outcome = infer_with(grpc, call, &chosen, name, message).await;
    grpc.counted(&chosen, outcome.map_err(|error| Status::from(&error)))
}

async fn infer_with(
    grpc: &Grpc,
    call: Call,
    chosen: &Chosen,
    model_name: String,
    message: wire::ModelInferRequest,
) -> Result<wire::ModelInferResponse, ServiceError> {
    let received = Instant::now();
    let raw = !message.raw_input_contents.is_empty();
    let mut request = read(message)?;
    let parse = received.elapsed();
    let answer = grpc.service.infer(chosen, &mut request, grpc.settings.instances, call.deadline).await?;
    let outputs = open_inference::outputs(&request, &answer.predictions)?;
    // float16 has no list of its own.
    let raw = raw || outputs.iter().any(|output| output.element_type == ElementType::Float16);
    let mut response = wire::ModelInferResponse {
        model_name,
        model_version: chosen.deployed.version().to_owned(),
        id: request.id.unwrap_or_default(),
        ..Default::default()
    };
    for output in &outputs {
        if raw {
            let mut bytes = Vec::new();
            output.rows.iter().for_each(|row| row.write_bytes(&mut bytes));
            response.raw_output_contents.push(bytes.into());
        }
        response.outputs.push(model_infer_response::InferOutputTensor {
            name: output.name.clone(),
            datatype: datatype(output.element_type).to_owned(),
            shape: output.shape.iter().map(|length| i64::try_from(*length).unwrap_or(i64::MAX)).collect(),
            contents: (!raw).then(|| contents(output)),
            ..Default::default()
        });
    }
    answer.count(&chosen.deployed, &grpc.metrics, parse, call.arrived.elapsed());
    Ok(response)
}

fn read(message: wire::ModelInferRequest) -> Result<InferRequest, InferError> {
    let wire::ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = message;
    if inputs.is_empty() {
        return Err(InferError::field("inputs", "is empty: it must have at least one tensor"));
    }
    if !raw_input_contents.is_empty() && raw_input_contents.len() != inputs.len() {
        let message = format!("has {} elements; there are {} inputs", raw_input_contents.len(), inputs.len());
        return Err(InferError::field("raw_input_contents", message));
    }
    let mut raw = raw_input_contents.into_iter();
    let inputs = inputs.into_iter().map(|input| {
        let model_infer_request::InferInputTensor { name, datatype, shape, contents, parameters } = input;
        check_memory("inputs", &name, parameters.keys())?;
        let (element_type, shape) = type_and_shape(&name, &datatype, &shape)?;
        let data = match (raw.next(), contents) {
            (Some(bytes), _) => EncodedData::Binary(bytes),
            (None, contents) => elements(element_type, contents.unwrap_or_default()).map_err(|message| {
                let name: String = name.chars().take(40).collect();
                InferError::field(format!("inputs.{name}.contents"), message)
            })?,
        };
        Ok(EncodedTensor { name, element_type, shape, data })
    });
    let output = |output: model_infer_request::InferRequestedOutputTensor| {
        check_memory("outputs", &output.name, output.parameters.keys())?;
        Ok(RequestedOutput { name: output.name, parameters: read_parameters(output.parameters) })
    };
    Ok(InferRequest {
        id: (!id.is_empty()).then_some(id),
        parameters: read_parameters(parameters),
        inputs: inputs.collect::<Result<_, InferError>>()?,
        outputs: outputs.into_iter().map(output).collect::<Result<_, InferError>>()?,
    })
}

fn read_parameters(parameters: impl IntoIterator<Item = (String, wire::InferParameter)>) -> Parameters {
    let value = |parameter: wire::InferParameter| match parameter.parameter_choice {
        None => Value::Null,
        Some(ParameterChoice::BoolParam(value)) => value.into(),
        Some(ParameterChoice::Int64Param(value)) => value.into(),
        Some(ParameterChoice::StringParam(value)) => value.into(),
        Some(ParameterChoice::DoubleParam(value)) => value.into(),
        Some(ParameterChoice::Uint64Param(value)) => value.into(),
    };
    parameters.into_iter().map(|(name, parameter)| (name, value(parameter))).collect()
}

/// The elements of the list that belongs to a type.
fn elements(element_type: ElementType, contents: wire::InferTensorContents) -> Result<EncodedData, String> {
    fn all<T>(elements: Vec<T>) -> Result<EncodedData, String>
    where
        Tensor: From<ArrayD<T>>,
    {
        Ok(EncodedData::Elements(Array1::from_vec(elements).into_dyn().into()))
    }
    fn narrow<W: Copy + ToString, T: TryFrom<W>>(wide: &[W]) -> Result<EncodedData, String>
    where
        Tensor: From<ArrayD<T>>,
    {
        let element =
            |value: &W| T::try_from(*value).map_err(|_| format!("has {}, beyond its type", value.to_string()));
        all(wide.iter().map(element).collect::<Result<Vec<T>, _>>()?)
    }
    match element_type {
        ElementType::Bool => all(contents.bool_contents),
        ElementType::Int8 => narrow::<i32, i8>(&contents.int_contents),
        ElementType::Int16 => narrow::<i32, i16>(&contents.int_contents),
        ElementType::Int32 => all(contents.int_contents),
        ElementType::Int64 => all(contents.int64_contents),
        ElementType::Uint8 => narrow::<u32, u8>(&contents.uint_contents),
        ElementType::Uint16 => narrow::<u32, u16>(&contents.uint_contents),
        ElementType::Uint32 => all(contents.uint_contents),
        ElementType::Uint64 => all(contents.uint64_contents),
        ElementType::Float32 => all(contents.fp32_contents),
        ElementType::Float64 => all(contents.fp64_contents),
        ElementType::String => Ok(EncodedData::Files(contents.bytes_contents)),
        ElementType::Float16 => Err("can't hold FP16: send it as raw_input_contents".to_owned()),
    }
}

/// The rows of an output in the list that belongs to its type.
fn contents(output: &Output<'_>) -> wire::InferTensorContents {
    let mut contents = wire::InferTensorContents::default();
    for row in &output.rows {
        match &**row {
            Tensor::Bool(array) => contents.bool_contents.extend(array),
            Tensor::Int8(array) => contents.int_contents.extend(array.iter().map(|value| i32::from(*value))),
            Tensor::Int16(array) => contents.int_contents.extend(array.iter().map(|value| i32::from(*value))),
            Tensor::Int32(array) => contents.int_contents.extend(array),
            Tensor::Int64(array) => contents.int64_contents.extend(array),
            Tensor::Uint8(array) => contents.uint_contents.extend(array.iter().map(|value| u32::from(*value))),
            Tensor::Uint16(array) => contents.uint_contents.extend(array.iter().map(|value| u32::from(*value))),
            Tensor::Uint32(array) => contents.uint_contents.extend(array),
            Tensor::Uint64(array) => contents.uint64_contents.extend(array),
            Tensor::Float32(array) => contents.fp32_contents.extend(array),
            Tensor::Float64(array) => contents.fp64_contents.extend(array),
            Tensor::String(array) => contents.bytes_contents.extend(array.iter().map(|text| Bytes::from(text.clone()))),
            // The caller sends it as bytes.
            Tensor::Float16(_) => {}
        }
    }
    contents
}
