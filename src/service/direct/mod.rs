//! `directPredict` and its streams: the model's inputs as tensors instead of instances, its outputs likewise.
//!
//! Inputs are matched with the model's by position, or by name when the only one is a `structVal`. Axis 0 of each is
//! the rows, which are the request's instances: they go through the queue one by one and are put together again in
//! their order. A classifier of pictures takes its pixels, or a STRING tensor of encoded pictures: their bytes in
//! `bytesVal`, or base64 in `stringVal`.
//!
//! Outputs stand in the model's order. What differs from row to row in shape is a `listVal` of the rows; a map is a
//! `listVal` of one `structVal` each. A classifier gives `labels` (STRING) and `confidences` (FLOAT) of shape
//! [rows, k], k being its parameter `top_k`.

use bytes::Bytes;

use super::{Question, ServiceError};
use crate::endpoint::ServedModel;
use crate::protocol::generated::google::cloud::aiplatform::v1 as wire;
use crate::protocol::generated::google::cloud::aiplatform::v1::tensor::DataType;
use crate::protocol::tf_serving::Form;
use crate::task::{InputError, Instance, Prediction, Task};
use crate::tensor::Tensor;

mod parameters;
mod read;
mod write;

/// Reads the tensors of a request, which may have `limit` rows.
///
/// # Errors
/// [`ServiceError`] names the tensor, such as `inputs[1].floatVal`.
pub fn read_direct(
    model: &ServedModel,
    inputs: impl Into<InputSet>,
    parameters: Option<&wire::Tensor>,
    limit: usize,
) -> Result<Question, ServiceError> {
    let parameters = parameters.map(parameters::to_json).transpose().map_err(ServiceError::Field)?;
    let named = by_input(model, inputs.into())?;
    let instances = match (&*model.task, named.as_slice()) {
        (Task::ImageClassification(_), [(path, pictures)]) if pictures.dtype() == DataType::String => {
            pictures_of(path, pictures, limit)?
        }
        _ => rows_of(model, &named, limit)?,
    };
    Ok(Question { instances, parameters: parameters.map(Bytes::from), form: Form::Rows })
}

/// Divides the inputs of a stream's request into sets, each of which gets an answer of its own: the model's inputs one
/// after the other, as often as the client likes.
///
/// # Errors
/// When there are none, or not a multiple of the model's.
pub fn input_sets(model: &ServedModel, inputs: Vec<wire::Tensor>) -> Result<Vec<InputSet>, ServiceError> {
    let size = match inputs.iter().all(|input| !input.struct_val.is_empty()) {
        true => 1,
        false => model.signature.inputs.len().max(1),
    };
    if inputs.is_empty() || !inputs.len().is_multiple_of(size) {
        return Err(wrong_count(model, inputs.len()));
    }
    let starts = (0..inputs.len()).step_by(size);
    let mut inputs = inputs.into_iter();
    Ok(starts.map(|first| InputSet { inputs: inputs.by_ref().take(size).collect(), first }).collect())
}

/// The model's inputs, once.
#[derive(Debug)]
pub struct InputSet {
    inputs: Vec<wire::Tensor>,
    /// Where the first of them stands among the request's inputs.
    first: usize,
}

impl From<Vec<wire::Tensor>> for InputSet {
    fn from(inputs: Vec<wire::Tensor>) -> Self {
        Self { inputs, first: 0 }
    }
}

/// The outputs for all rows, in the model's order.
pub fn write_direct(predictions: &[Prediction]) -> Vec<wire::Tensor> {
    write::outputs(predictions)
}

fn field(path: impl Into<String>, message: impl Into<String>) -> ServiceError {
    ServiceError::Field(InputError::new(path, message))
}

fn wrong_count(model: &ServedModel, count: usize) -> ServiceError {
    let names: Vec<String> = model.signature.inputs.iter().map(ToString::to_string).collect();
    let takes = names.join(", ");
    field("inputs", format!("has {count} tensors; the model takes {}: {takes}", names.len()))
}

/// The tensor of each of the model's inputs, with its path.
fn by_input(model: &ServedModel, set: InputSet) -> Result<Vec<(String, wire::Tensor)>, ServiceError> {
    let InputSet { mut inputs, first } = set;
    let wanted = &model.signature.inputs;
    if let [named] = inputs.as_mut_slice()
        && !named.struct_val.is_empty()
    {
        let mut given = std::mem::take(&mut named.struct_val);
        let found = wanted
            .iter()
            .map(|input| {
                let tensor = given.remove(&input.name);
                let tensor = tensor.ok_or_else(|| {
                    field(
                        format!("inputs[{first}].structVal"),
                        format!("has no `{}`; the model takes {input}", input.name),
                    )
                })?;
                Ok((format!("inputs[{first}].structVal.{}", input.name), tensor))
            })
            .collect::<Result<Vec<_>, ServiceError>>()?;
        return match given.into_keys().next() {
            Some(name) => {
                let name: String = name.chars().take(40).collect();
                Err(field(format!("inputs[{first}].structVal.{name}"), "is not an input of this model"))
            }
            None => Ok(found),
        };
    }
    if inputs.len() != wanted.len() {
        return Err(wrong_count(model, inputs.len()));
    }
    Ok(inputs.into_iter().zip(first..).map(|(tensor, index)| (format!("inputs[{index}]"), tensor)).collect())
}

/// One instance for each encoded picture.
fn pictures_of(path: &str, pictures: &wire::Tensor, limit: usize) -> Result<Vec<Instance>, ServiceError> {
    read::check_string(pictures, path).map_err(ServiceError::Field)?;
    check_rows(pictures.bytes_val.len().max(pictures.string_val.len()), limit)?;
    let encoded = pictures.bytes_val.iter().map(|bytes| Instance::Encoded(bytes.clone()));
    // As a string among instances would be read. Any string can be written as JSON.
    let text = |text: &String| serde_json::Value::from(text.as_str()).to_string();
    let base64 = pictures.string_val.iter().map(|value| Instance::Json(text(value).into()));
    Ok(encoded.chain(base64).collect())
}

/// One instance for each row of the tensors.
fn rows_of(model: &ServedModel, named: &[(String, wire::Tensor)], limit: usize) -> Result<Vec<Instance>, ServiceError> {
    let wanted = &model.signature.inputs;
    let mut tensors: Vec<Tensor> = Vec::with_capacity(named.len());
    for ((path, message), input) in named.iter().zip(wanted) {
        let tensor = read::tensor(message, input.element_type, path).map_err(ServiceError::Field)?;
        crate::task::check(&tensor, input).map_err(|message| field(path, message))?;
        if let Some(first) = tensors.first().filter(|first| first.row_count() != tensor.row_count()) {
            let (rows, others) = (tensor.row_count(), first.row_count());
            return Err(field(path, format!("has {rows} rows, and {} has {others}", named[0].0)));
        }
        tensors.push(tensor);
    }
    let rows = tensors.first().map_or(0, Tensor::row_count);
    check_rows(rows, limit)?;
    let row = |row: usize| tensors.iter().map(|tensor| tensor.rows(row, row + 1)).collect::<Result<_, _>>();
    // Each tensor has that many rows.
    (0..rows)
        .map(|index| row(index).map(Instance::Tensors).map_err(|error| field("inputs", error.to_string())))
        .collect()
}

fn check_rows(rows: usize, limit: usize) -> Result<(), ServiceError> {
    match rows {
        0 => Err(field("inputs", "has no rows: axis 0 of each tensor must be at least 1")),
        rows if rows > limit => Err(field("inputs", format!("has {rows} rows; a request has at most {limit}"))),
        _ => Ok(()),
    }
}
