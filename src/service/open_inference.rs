//! The Open Inference Protocol's questions, by whatever transport: tensors by name in, tensors by name out.
//!
//! Axis 0 of each tensor is the batch: its rows go through the queue one by one, so that an answer doesn't depend on what
//! shares a request. A model of pictures has the input `image`, a BYTES tensor of their files (as JSON, their base64), and
//! the outputs `label` and `score` of shape [rows, k], k being the request's parameter `top_k`, or 1.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::evaluate::{AT_ONCE, Evaluated, Submitted, collected};
use super::{Answer, Chosen, Service, ServiceError};
use crate::endpoint::{Catalog, DeployedModel, LookupError, NamedModel, Version};
use crate::engine::TensorSpec;
use crate::protocol::generated::inference as wire;
use crate::protocol::open_inference::{InferError, InferRequest, ModelMetadata, TensorMetadata, datatype};
use crate::protocol::status::{Code, Status};
use crate::task::{InputError, Instance, MAP_KEYS, Prediction, PreparationTimes, Task, highest, tensor_columns};
use crate::tensor::bytes::split_strings;
use crate::tensor::{ElementType, EncodedData, EncodedTensor, Tensor};

/// The input of a model of pictures.
const IMAGE: &str = "image";

/// Parameters of a request that are not for the model.
const RESERVED: [&str; 6] =
    ["binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout"];

impl Service {
    /// Answers a request of at most `limit` rows; takes its inputs.
    ///
    /// # Errors
    /// [`ServiceError`]; at the latest when the deadline passes, or the request's own `timeout` in microseconds.
    pub async fn infer(
        &self,
        chosen: &Chosen,
        request: &mut InferRequest,
        limit: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, ServiceError> {
        let deployed = &chosen.deployed;
        check_outputs(deployed, request)?;
        let timeout = request.timeout()?.and_then(|timeout| tokio::time::Instant::now().checked_add(timeout));
        let deadline = timeout.map_or(deadline, |timeout| timeout.min(deadline));
        let parameters = parameters(deployed, request)?;
        let inputs = std::mem::take(&mut request.inputs);
        for input in &inputs {
            let rows = input.shape.first().copied().unwrap_or(0);
            if rows == 0 || rows > limit {
                let field = format!("inputs.{}.shape", input.name.chars().take(40).collect::<String>());
                let message = format!("has {rows} rows on its first axis; a request has 1 to {limit}");
                return Err(InferError::Field { field, message }.into());
            }
        }
        match &*deployed.model.task {
            Task::ImageClassification(_) => {
                let instances = pictures(inputs)?;
                let answer = self.evaluator.predict(chosen, instances, parameters.as_deref(), deadline).await;
                answer.map_err(|error| match error {
                    ServiceError::Instance { index, error: InputError { message, .. } } => {
                        ServiceError::Field(InputError { path: format!("inputs.{IMAGE}[{index}]"), message })
                    }
                    error => error,
                })
            }
            Task::Tensors(_) => {
                let work = self.columns(chosen, inputs, parameters.as_deref(), deadline);
                tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(ServiceError::DeadlineExceeded))
            }
        }
        .inspect_err(|error| error.log(chosen))
    }
}

impl Service {
    /// Asks a model of tensors; the rows of the inputs are the instances.
    async fn columns(
        &self,
        chosen: &Chosen,
        inputs: Vec<EncodedTensor>,
        parameters: Option<&[u8]>,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, ServiceError> {
        let model = &chosen.deployed.model;
        let parameters = model.task.parse_parameters(parameters).map_err(ServiceError::Parameters)?;
        let rows = inputs.first().and_then(|input| input.shape.first()).copied().unwrap_or(0);
        let admission = model.admit(rows, deadline)?;
        let size: usize = inputs.iter().map(EncodedTensor::byte_size).sum();
        let (task, scheduler) = (model.task.clone(), model.scheduler.clone());
        let submit = move || -> Result<Vec<Submitted>, InputError> {
            let begin = Instant::now();
            let items = task.items(inputs)?;
            let times = PreparationTimes { decode: begin.elapsed(), preprocess: Duration::ZERO };
            let pending = scheduler.submit_all(admission.split().into_iter().zip(items), Some(deadline));
            Ok(pending
                .into_iter()
                .map(|pending| Submitted { pending, times, image: None, waited: Duration::ZERO })
                .collect())
        };
        let submitted = match size <= AT_ONCE {
            true => submit(),
            false => self.evaluator.pool.run(submit).await.map_err(|_| ServiceError::Panicked(0))?,
        };
        let submitted = submitted.map_err(|error| {
            ServiceError::Field(InputError { path: format!("inputs.{}", error.path), message: error.message })
        })?;
        let finish = |task: &Task, outputs: &[Tensor]| task.finish(outputs, parameters);
        let Evaluated { results, times, images } = collected(&model.task, submitted, finish).await?;
        Ok(Answer { predictions: results, times, images })
    }
}

fn check_outputs(deployed: &DeployedModel, request: &InferRequest) -> Result<(), ServiceError> {
    let (_, outputs) = interface(deployed);
    for requested in &request.outputs {
        requested.classification()?;
        if !outputs.iter().any(|output| output.name == requested.name) {
            let names: Vec<String> = outputs.iter().map(|output| format!("`{}`", output.name)).collect();
            let field = format!("outputs.{}", requested.name.chars().take(40).collect::<String>());
            let message = format!("is not an output of this model; it gives {}", names.join(", "));
            return Err(InferError::Field { field, message }.into());
        }
    }
    Ok(())
}

/// The JSON text of the parameters that are for the model.
fn parameters(deployed: &DeployedModel, request: &InferRequest) -> Result<Option<Bytes>, ServiceError> {
    let for_model = |name: &&String| !RESERVED.contains(&name.as_str()) && !name.starts_with("triton_");
    let mut parameters: serde_json::Map<String, Value> =
        request.parameters.iter().filter(|(name, _)| for_model(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if let Task::ImageClassification(_) = &*deployed.model.task {
        // The form that has the numbers of the classes.
        for requested in &request.outputs {
            if let Some(count) = requested.classification()? {
                parameters.insert("maxPredictions".to_owned(), count.into());
            }
        }
    }
    Ok((!parameters.is_empty()).then(|| Value::Object(parameters).to_string().into()))
}

/// The pictures of the only input.
fn pictures(inputs: Vec<EncodedTensor>) -> Result<Vec<Instance>, ServiceError> {
    let wrong = |message: String| ServiceError::Field(InputError::new(format!("inputs.{IMAGE}"), message));
    let [input] = <[EncodedTensor; 1]>::try_from(inputs)
        .map_err(|inputs| wrong(format!("is the only input of this model; there are {}", inputs.len())))?;
    let EncodedTensor { name, element_type, shape, data } = input;
    if name != IMAGE || element_type != ElementType::String || !matches!(*shape, [_] | [_, 1]) {
        let name: String = name.chars().take(40).collect();
        let takes = format!("this model takes `{IMAGE}` BYTES[-1], the files of pictures");
        return Err(wrong(format!("is needed, and `{name}` {}{shape:?} is sent: {takes}", datatype(element_type))));
    }
    let rows = shape[0];
    let instances: Vec<Instance> = match data {
        EncodedData::Binary(bytes) => {
            let places = split_strings(&bytes, rows).map_err(wrong)?;
            places.into_iter().map(|place| Instance::Encoded(bytes.slice(place))).collect()
        }
        EncodedData::Json(text) => {
            let read = || -> Result<Vec<&RawValue>, serde_json::Error> {
                match shape.len() {
                    2 if text.iter().filter(|byte| !byte.is_ascii_whitespace()).nth(1) == Some(&b'[') => {
                        serde_json::from_slice::<Vec<[&RawValue; 1]>>(&text)
                            .map(|rows| rows.into_iter().map(|[value]| value).collect())
                    }
                    _ => serde_json::from_slice(&text),
                }
            };
            let values = read().map_err(|error| wrong(format!("has data that can't be read: {error}")))?;
            values.into_iter().map(|value| Instance::Json(text.slice_ref(value.get().as_bytes()))).collect()
        }
        EncodedData::Files(files) => files.into_iter().map(Instance::Encoded).collect(),
        EncodedData::Elements(_) => return Err(wrong("has elements of another type than it says".to_owned())),
    };
    match instances.len() == rows {
        true => Ok(instances),
        false => Err(wrong(format!("has {} elements; its shape takes {rows}", instances.len()))),
    }
}

/// A tensor of an answer.
#[derive(Debug)]
pub struct Output<'a> {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub element_type: ElementType,
    /// Axis 0 is the batch.
    pub shape: Vec<usize>,
    /// Its rows.
    pub rows: Vec<Cow<'a, Tensor>>,
}

/// The outputs that a request asks for, in its order, or else all in the model's.
///
/// # Errors
/// [`ServiceError`] when rows differ in shape, or can't be classified.
pub fn outputs<'a>(request: &InferRequest, predictions: &'a [Prediction]) -> Result<Vec<Output<'a>>, ServiceError> {
    let mut columns = tensor_columns(predictions);
    if request.outputs.is_empty() {
        return columns.into_iter().map(|(name, rows)| output(name, rows)).collect();
    }
    let mut outputs = Vec::with_capacity(request.outputs.len());
    for requested in &request.outputs {
        let found = columns.iter_mut().find(|(name, _)| *name == requested.name);
        // Checked before the model was asked; only an output that is asked for twice is gone.
        let Some((name, rows)) = found.map(|(name, rows)| (name.clone(), std::mem::take(rows))) else { continue };
        let rows = match requested.classification()? {
            Some(count) => highest(predictions, &rows, count)?,
            None => rows,
        };
        outputs.push(output(name, rows)?);
    }
    Ok(outputs)
}

fn output(name: String, rows: Vec<Cow<'_, Tensor>>) -> Result<Output<'_>, ServiceError> {
    let Some(first) = rows.first() else {
        return Err(
            InferError::Field { field: format!("outputs.{name}"), message: "is asked for twice".to_owned() }.into()
        );
    };
    let mut shape = first.shape().to_vec();
    if let Some(index) = rows.iter().position(|row| row.shape() != shape) {
        let message = format!("`{name}` has another shape for this row than for the first: send the rows one by one");
        return Err(ServiceError::Output { index, error: crate::task::OutputError(message) });
    }
    if let Some(batch) = shape.first_mut() {
        *batch = rows.len();
    }
    Ok(Output { element_type: first.element_type(), name, shape, rows })
}

/// What a client sends and gets, which for pictures is not what the model takes and gives.
pub fn interface(deployed: &DeployedModel) -> (Vec<TensorSpec>, Vec<TensorSpec>) {
    let spec = |name: &str, element_type, axes| TensorSpec {
        name: name.to_owned(),
        element_type,
        shape: vec![None; axes],
        map_keys: None,
    };
    match &*deployed.model.task {
        Task::ImageClassification(_) => (
            vec![spec(IMAGE, ElementType::String, 1)],
            vec![spec("label", ElementType::String, 2), spec("score", ElementType::Float32, 2)],
        ),
        Task::Tensors(task) => {
            let signature = &deployed.model.signature;
            let outputs = task.given(signature).flat_map(|output| {
                let keys = output.map_keys.map(|keys| spec(&format!("{}{MAP_KEYS}", output.name), keys, 2));
                std::iter::once(output.clone()).chain(keys)
            });
            (signature.inputs.clone(), outputs.collect())
        }
    }
}

/// What a model is, as clients are told.
pub fn metadata(model: &NamedModel, deployed: &DeployedModel) -> ModelMetadata {
    let tensor = |spec: TensorSpec| TensorMetadata {
        datatype: datatype(spec.element_type),
        shape: lengths(&spec.shape).enumerate().map(|(axis, length)| if axis == 0 { -1 } else { length }).collect(),
        name: spec.name,
    };
    let (inputs, outputs) = interface(deployed);
    ModelMetadata {
        name: model.name.clone(),
        versions: model.versions().map(|deployed| deployed.version().to_owned()).collect(),
        platform: PLATFORM,
        inputs: inputs.into_iter().map(tensor).collect(),
        outputs: outputs.into_iter().map(tensor).collect(),
    }
}

/// Triton's name for models of ONNX Runtime.
pub const PLATFORM: &str = "onnxruntime_onnx";

/// The lengths of axes, -1 for those that may differ.
pub fn lengths(shape: &[Option<usize>]) -> impl Iterator<Item = i64> {
    shape.iter().map(|length| length.and_then(|length| i64::try_from(length).ok()).unwrap_or(-1))
}

/// A model's form in Triton's words; `rows` is the most that a request may have.
pub fn config(model: &NamedModel, deployed: &DeployedModel, rows: usize) -> wire::ModelConfig {
    let (inputs, outputs) = interface(deployed);
    let dims = |spec: &TensorSpec| lengths(spec.shape.get(1..).unwrap_or_default()).collect();
    wire::ModelConfig {
        name: model.name.clone(),
        platform: PLATFORM.to_owned(),
        backend: "onnxruntime".to_owned(),
        max_batch_size: i32::try_from(rows).unwrap_or(i32::MAX),
        input: inputs
            .iter()
            .map(|spec| wire::ModelInput {
                name: spec.name.clone(),
                data_type: data_type(spec.element_type).into(),
                dims: dims(spec),
            })
            .collect(),
        output: outputs
            .iter()
            .map(|spec| wire::ModelOutput {
                name: spec.name.clone(),
                data_type: data_type(spec.element_type).into(),
                dims: dims(spec),
            })
            .collect(),
    }
}

fn data_type(element_type: ElementType) -> wire::DataType {
    match element_type {
        ElementType::Float32 => wire::DataType::TypeFp32,
        ElementType::Float16 => wire::DataType::TypeFp16,
        ElementType::Float64 => wire::DataType::TypeFp64,
        ElementType::Int8 => wire::DataType::TypeInt8,
        ElementType::Int16 => wire::DataType::TypeInt16,
        ElementType::Int32 => wire::DataType::TypeInt32,
        ElementType::Int64 => wire::DataType::TypeInt64,
        ElementType::Uint8 => wire::DataType::TypeUint8,
        ElementType::Uint16 => wire::DataType::TypeUint16,
        ElementType::Uint32 => wire::DataType::TypeUint32,
        ElementType::Uint64 => wire::DataType::TypeUint64,
        ElementType::Bool => wire::DataType::TypeBool,
        ElementType::String => wire::DataType::TypeString,
    }
}

/// What was counted of a model's versions, or of one of them, or of all models.
///
/// # Errors
/// [`LookupError`].
pub fn statistics(
    catalog: &Catalog,
    model: Option<&str>,
    version: Version<'_>,
) -> Result<Vec<wire::ModelStatistics>, LookupError> {
    let of = |deployed: &DeployedModel, name: &str| {
        let totals = deployed.metrics.totals();
        let part = |(count, time): (u64, Duration)| {
            Some(wire::StatisticDuration { count, ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) })
        };
        wire::ModelStatistics {
            name: name.to_owned(),
            version: deployed.version().to_owned(),
            inference_count: totals.predictions,
            inference_stats: Some(wire::InferStatistics {
                success: part(totals.succeeded),
                fail: part((totals.failed, Duration::ZERO)),
                queue: part(totals.queue),
                compute_input: part(totals.input),
                compute_infer: part(totals.inference),
                compute_output: part(totals.output),
            }),
        }
    };
    let Some(name) = model else {
        // An endpoint without models has nothing to count.
        let models = catalog.model_names().into_iter().filter_map(|name| catalog.model(name).ok());
        return Ok(models
            .flat_map(|model| model.versions().map(|it| of(it, &model.name)).collect::<Vec<_>>())
            .collect());
    };
    let model = catalog.model(name)?;
    Ok(match version {
        Version::Any => model.versions().map(|deployed| of(deployed, name)).collect(),
        version => vec![of(model.version(version)?, name)],
    })
}

/// All models in all versions.
pub fn index(catalog: &Catalog) -> Vec<wire::repository_index_response::ModelIndex> {
    let model = |model: NamedModel| {
        let entry = |deployed: &Arc<DeployedModel>| wire::repository_index_response::ModelIndex {
            name: model.name.clone(),
            version: deployed.version().to_owned(),
            state: "READY".to_owned(),
            reason: String::new(),
        };
        model.versions().map(entry).collect::<Vec<_>>()
    };
    catalog.model_names().into_iter().filter_map(|name| catalog.model(name).ok()).flat_map(model).collect()
}

/// The answer to whoever wants a model loaded or unloaded.
pub fn no_repository() -> Status {
    let message = "models are not loaded and unloaded here: they come from the settings, and from Vertex AI's model and \
                   endpoint services";
    Status::new(Code::Unimplemented, message)
}
