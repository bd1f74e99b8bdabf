//! Tensors: the model's inputs as JSON, and its outputs as JSON, in TensorFlow Serving's row shape.
//!
//! For models that need nothing between the request and the graph: tables of scikit-learn and XGBoost, text that the
//! graph itself tokenises, numbers of any kind. Axis 0 of each input and output is the batch, so an instance has the
//! rest of the shape.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json, json};

use super::{InputError, Instance, OutputError, PreparationTimes, Prepared, Scores, given, scores::of_row};
use crate::engine::{Item, Signature, TensorSpec};
use crate::for_each_element_type;
use crate::tensor::{ElementType, Tensor};

mod columns;
mod element;
mod instance;
mod read;
mod write;

pub use element::NonFinite;
pub(super) use write::{Classes, Number, Styled, StyledColumns, serialize_elements};
pub use write::{Output, Row, Value};

/// The task's name.
pub const NAME: &str = "tensors";

/// The most elements of a shown example: a table's row, and not a picture's pixels.
const LONGEST_EXAMPLE: usize = 64;

/// A model that is given what the client sent, and whose outputs are the answer.
#[derive(Debug)]
pub struct Tensors {
    inputs: Vec<TensorSpec>,
    outputs: Arc<[Output]>,
    /// Where each output is in an item, and where its keys are.
    places: Vec<(usize, Option<usize>)>,
    /// The tensors of an item that the model gives.
    given: usize,
}

/// Which outputs are given back, and how.
#[derive(Debug, Clone, Default)]
pub struct OutputOptions {
    /// An output of shape [batch, 1] is written as one value a row instead of a list of one.
    pub flatten: bool,
    /// The names of those to give back, in this order; all if absent.
    pub names: Option<Vec<String>>,
}

/// The shape of an item's tensor, with one element along axes of no fixed length.
fn item_shape(input: &TensorSpec) -> impl Iterator<Item = usize> {
    std::iter::once(1).chain(input.shape.iter().skip(1).map(|length| length.unwrap_or(1)))
}

impl Tensors {
    /// A task over these inputs and outputs.
    ///
    /// # Errors
    /// A sentence that names the input whose axis 0 can't be the batch, or the output that isn't there.
    pub fn new(signature: &Signature, options: &OutputOptions) -> Result<Self, String> {
        if signature.inputs.is_empty() {
            return Err("the model has no inputs".to_owned());
        }
        if let Some(input) = signature.inputs.iter().find(|input| input.shape.is_empty()) {
            return Err(format!(
                "the input {input} has no axis for the batch (or the file doesn't say its shape): axis 0 of each input \
                 must count the instances"
            ));
        }
        let fixed = |input: &&TensorSpec| input.shape[0].is_some();
        if let Some(first) = signature.inputs.iter().find(fixed)
            && let Some(other) = signature.inputs.iter().find(|input| input.shape[0] != first.shape[0])
        {
            return Err(format!("axis 0 of the inputs must be the same batch; it differs in {first} and {other}"));
        }
        let mut keys = signature.outputs.len()..;
        let all: Vec<(&TensorSpec, (usize, Option<usize>))> = signature
            .outputs
            .iter()
            .enumerate()
            .map(|(place, output)| (output, (place, output.map_keys.and_then(|_| keys.next()))))
            .collect();
        let chosen = match &options.names {
            None => all,
            Some(names) => names
                .iter()
                .map(|name| all.iter().find(|(output, _)| output.name == *name).copied().ok_or(name))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|name| {
                    let known: Vec<String> = signature.outputs.iter().map(ToString::to_string).collect();
                    format!("postprocess.outputs names `{name}`, but the model gives {}", known.join(", "))
                })?,
        };
        if chosen.is_empty() {
            return Err("no output is to be given back".to_owned());
        }
        let output = |(spec, _): &(&TensorSpec, _)| Output { name: spec.name.clone(), flatten: options.flatten };
        Ok(Self {
            inputs: signature.inputs.clone(),
            outputs: chosen.iter().map(output).collect(),
            places: chosen.iter().map(|(_, place)| *place).collect(),
            given: keys.start,
        })
    }

    /// The outputs that are given back, as the signature describes them.
    pub fn given<'a>(&'a self, signature: &'a Signature) -> impl Iterator<Item = &'a TensorSpec> {
        self.outputs.iter().filter_map(|output| signature.outputs.iter().find(|spec| spec.name == output.name))
    }

    pub(super) fn item_bytes(&self) -> usize {
        // For each request, so without making its tensors.
        self.inputs.iter().map(|input| item_shape(input).product::<usize>() * input.element_type.size()).sum()
    }

    pub(super) fn example(&self) -> Item {
        let zeros = |input: &TensorSpec| {
            let shape: Vec<usize> = item_shape(input).collect();
            Tensor::zeros(input.element_type, &shape)
        };
        self.inputs.iter().map(zeros).collect()
    }

    /// An instance that the model takes, of zeros and empty strings. A long one is only described.
    pub fn example_instance(&self) -> Json {
        let value = |input: &TensorSpec, tensor: Tensor| {
            if tensor.shape().iter().product::<usize>() > LONGEST_EXAMPLE {
                return json!(format!("<lists of shape {:?} of {}>", &tensor.shape()[1..], input.element_type));
            }
            let output = Output { name: String::new(), flatten: false };
            let row = Row { outputs: Arc::from([output]), values: vec![Value { tensor, keys: None }] };
            serde_json::to_value(row).unwrap_or(Json::Null)
        };
        let mut values = self.inputs.iter().zip(self.example()).map(|(input, tensor)| (input, value(input, tensor)));
        match (self.inputs.len(), values.next()) {
            (1, Some((_, only))) => only,
            (_, first) => {
                let named = first.into_iter().chain(values).map(|(input, value)| (input.name.clone(), value));
                Json::Object(named.collect::<Map<_, _>>())
            }
        }
    }

    pub(super) fn prepare(&self, instance: &Instance) -> Result<Prepared, InputError> {
        let json = match instance {
            Instance::Json(json) => json,
            Instance::Tensors(item) => return given(item, &self.inputs),
            Instance::Encoded(_) => {
                return Err(InputError::new(
                    "",
                    "is a picture's file, and this model takes numbers or strings as JSON",
                ));
            }
        };
        let begin = Instant::now();
        let item = instance::read(json, &self.inputs)?;
        Ok(Prepared {
            item,
            times: PreparationTimes { decode: begin.elapsed(), preprocess: Duration::ZERO },
            image: None,
        })
    }

    pub(super) fn finish(&self, outputs: &[Tensor]) -> Result<Row, OutputError> {
        if outputs.len() != self.given {
            return Err(OutputError(format!("the model gave {} tensors instead of {}", outputs.len(), self.given)));
        }
        let is_row = |tensor: &Tensor| tensor.shape().first() == Some(&1);
        let values = self.places.iter().zip(&*self.outputs).map(|(&(place, keys), output)| {
            let value = Value { tensor: outputs[place].clone(), keys: keys.map(|keys| outputs[keys].clone()) };
            match is_row(&value.tensor) && value.keys.as_ref().is_none_or(is_row) {
                true => Ok(value),
                false => Err(OutputError(format!("`{}` is not one row: {:?}", output.name, value.tensor.shape()))),
            }
        });
        Ok(Row { outputs: self.outputs.clone(), values: values.collect::<Result<_, _>>()? })
    }

    /// The numbers of one output: that of the name, or the first that has floats, or the first that has numbers.
    pub(super) fn scores(&self, outputs: &[Tensor], name: Option<&str>) -> Result<Scores, OutputError> {
        let row = self.finish(outputs)?;
        let (output, value) = explained(&row, name)?;
        of_row(&output.name.as_str().into(), value, output.flatten)
    }

    /// The keys of that output, when it is a map.
    pub(super) fn score_labels(&self, outputs: &[Tensor], name: Option<&str>) -> Vec<Arc<str>> {
        let row = self.finish(outputs).ok();
        let keys = row.and_then(|row| explained(&row, name).ok()?.1.keys.clone());
        keys.map_or_else(
            Vec::new,
            |keys| for_each_element_type!(keys, keys => keys.iter().map(|key| key.to_string().into()).collect()),
        )
    }
}

/// The output that an explanation is about.
fn explained<'a>(row: &'a Row, name: Option<&str>) -> Result<(&'a Output, &'a Value), OutputError> {
    let is_text = |value: &Value| value.tensor.element_type() == ElementType::String;
    let numbers = || row.outputs.iter().zip(&row.values).filter(|(_, value)| !is_text(value));
    let is_float = |value: &Value| {
        matches!(value.tensor.element_type(), ElementType::Float16 | ElementType::Float32 | ElementType::Float64)
    };
    let named = numbers().find(|(output, _)| name.is_some_and(|name| output.name == name));
    let found = named.or_else(|| numbers().find(|(_, value)| is_float(value))).or_else(|| numbers().next());
    found.ok_or_else(|| OutputError("the model gives no numbers that could be explained".to_owned()))
}

/// Reads the JSON text of `parameters`, of which this task has none.
///
/// # Errors
/// [`InputError`] names what would be ignored.
pub(super) fn parse_parameters(json: Option<&[u8]>) -> Result<(), InputError> {
    let Some(json) = json else { return Ok(()) };
    let value: Json =
        serde_json::from_slice(json).map_err(|error| InputError::new("", format!("is not valid JSON: {error}")))?;
    match value {
        Json::Null => Ok(()),
        // Node's client sends null for what is unset.
        Json::Object(parameters) => match parameters.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => {
                Err(InputError::new(element::clipped(name), "is not a parameter of this model; it takes none"))
            }
        },
        _ => Err(InputError::new("", "must be an object, null or absent")),
    }
}

#[cfg(test)]
mod tests;
