//! The Open Inference Protocol, which is KServe's second, as JSON with Triton's binary extension.
//!
//! ```text
//! {"id"?, "parameters"?, "inputs": [{"name", "shape", "datatype", "parameters"?, "data"?}],
//!  "outputs"?: [{"name", "parameters"?}]}
//! ```
//!
//! (<https://github.com/kserve/open-inference-protocol>, and `protocol/extension_binary_data.md` of
//! <https://github.com/triton-inference-server/server>.) A tensor's elements are the JSON in `data`, or, where its
//! parameters have a `binary_data_size`, so many bytes behind the JSON, in the order of the inputs. A header says where the
//! JSON ends.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use super::object::Object;
use crate::tensor::{ElementType, EncodedData, EncodedTensor};

/// The header that says how many of a body's bytes are JSON, in requests and answers.
pub const HEADER_LENGTH: &str = "inference-header-content-length";

/// The media type of a body with bytes behind its JSON, by which the length also travels where headers are not passed on:
/// `...;json-header-size=N`.
pub const BINARY_MEDIA_TYPE: &str = "application/vnd.vertex-ai-triton.binary+json";

/// The same for a server's metadata.
pub const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "classification", "model_configuration", "statistics"];

/// What a request is beside its tensors.
pub type Parameters = BTreeMap<String, Value>;

/// A request, over whatever transport.
#[derive(Debug, Clone, Default)]
pub struct InferRequest {
    /// Given back in the answer.
    pub id: Option<String>,
    /// For the whole request.
    pub parameters: Parameters,
    /// At least one.
    pub inputs: Vec<EncodedTensor>,
    /// All outputs if empty.
    pub outputs: Vec<RequestedOutput>,
}

/// An output that is asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// For this output.
    pub parameters: Parameters,
}

impl InferRequest {
    /// The time that the request gives itself, in microseconds; 0 is none of its own.
    ///
    /// # Errors
    /// [`InferError::Field`].
    pub fn timeout(&self) -> Result<Option<Duration>, InferError> {
        match self.parameters.get("timeout") {
            None | Some(Value::Null) => Ok(None),
            Some(timeout) => match timeout.as_u64() {
                Some(0) => Ok(None),
                Some(microseconds) => Ok(Some(Duration::from_micros(microseconds))),
                None => {
                    Err(InferError::field("parameters.timeout", "must be a whole number of microseconds, 0 or more"))
                }
            },
        }
    }

    /// Whether an output is to be given back in binary form.
    pub fn is_binary(&self, output: &str) -> bool {
        let requested = self.outputs.iter().find(|requested| requested.name == output);
        let asked = requested.and_then(|requested| requested.parameters.get("binary_data"));
        asked.or_else(|| self.parameters.get("binary_data_output")).and_then(Value::as_bool).unwrap_or(false)
    }
}

impl RequestedOutput {
    /// How many of the highest elements are asked for, as text, instead of the tensor.
    ///
    /// # Errors
    /// [`InferError::Field`].
    pub fn classification(&self) -> Result<Option<usize>, InferError> {
        match self.parameters.get("classification") {
            None | Some(Value::Null) => Ok(None),
            Some(count) => match count.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(0) => Ok(None),
                Some(count) => Ok(Some(count)),
                None => Err(InferError::field(
                    format!("outputs.{}.parameters.classification", clipped(&self.name)),
                    "must be a whole number",
                )),
            },
        }
    }
}

/// What is wrong with a request.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InferError {
    /// There is no body.
    #[error("the request has no body: post {{\"inputs\": [{{\"name\", \"shape\", \"datatype\", \"data\"}}]}}")]
    Empty,
    /// Not the JSON of a request.
    #[error("the body is not the JSON of an inference request: {0}")]
    NotJson(String),
    /// One field is wrong.
    #[error("{field} {message}")]
    Field {
        /// Which one.
        field: String,
        /// The rest of a sentence that begins with its name.
        message: String,
    },
}

impl InferError {
    /// An error about one field.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The protocol's name of a type.
pub fn datatype(element_type: ElementType) -> &'static str {
    match element_type {
        ElementType::Float32 => "FP32",
        ElementType::Float16 => "FP16",
        ElementType::Float64 => "FP64",
        ElementType::Int8 => "INT8",
        ElementType::Int16 => "INT16",
        ElementType::Int32 => "INT32",
        ElementType::Int64 => "INT64",
        ElementType::Uint8 => "UINT8",
        ElementType::Uint16 => "UINT16",
        ElementType::Uint32 => "UINT32",
        ElementType::Uint64 => "UINT64",
        ElementType::Bool => "BOOL",
        ElementType::String => "BYTES",
    }
}

/// The type of a name, and the lengths of a shape.
///
/// # Errors
/// [`InferError::Field`]; `input` is the name of the tensor.
pub fn type_and_shape(input: &str, name: &str, shape: &[i64]) -> Result<(ElementType, Vec<usize>), InferError> {
    use ElementType::{
        Bool, Float16, Float32, Float64, Int8, Int16, Int32, Int64, String, Uint8, Uint16, Uint32, Uint64,
    };
    const ALL: [ElementType; 13] =
        [Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Float16, Float32, Float64, String];
    let field = |part: &str| format!("inputs.{}.{part}", clipped(input));
    let element_type = ALL.into_iter().find(|element_type| datatype(*element_type) == name).ok_or_else(|| {
        let known = ALL.map(datatype).join(", ");
        InferError::field(field("datatype"), format!("is `{}`; it must be one of {known}", clipped(name)))
    })?;
    let length = |length: &i64| usize::try_from(*length);
    let shape = shape.iter().map(length).collect::<Result<_, _>>().map_err(|_| {
        InferError::field(field("shape"), "has a negative length: a request says how long each axis is")
    })?;
    Ok((element_type, shape))
}

/// Refuses a tensor, one of the `inputs` or `outputs`, that is to travel by memory which client and server share: there
/// is none here, and a client that asked for it would not look at the answer.
///
/// # Errors
/// [`InferError::Field`].
pub fn check_memory<'a>(
    list: &str,
    name: &str,
    parameters: impl IntoIterator<Item = &'a String>,
) -> Result<(), InferError> {
    match parameters.into_iter().find(|parameter| parameter.starts_with("shared_memory_")) {
        None => Ok(()),
        Some(parameter) => {
            let message = "is not supported: there is no shared memory here, so send and take the data itself";
            Err(InferError::field(format!("{list}.{}.parameters.{}", clipped(name), clipped(parameter)), message))
        }
    }
}

/// Parses the body of `infer`, of which the first `header_length` bytes are JSON, or all.
///
/// # Errors
/// [`InferError`].
pub fn parse(body: &Bytes, header_length: Option<usize>) -> Result<InferRequest, InferError> {
    #[derive(Deserialize)]
    struct Body<'a> {
        id: Option<String>,
        #[serde(default)]
        parameters: Parameters,
        #[serde(borrow)]
        inputs: Vec<Object<Input<'a>>>,
        #[serde(default)]
        outputs: Vec<Object<Output>>,
    }
    #[derive(Deserialize)]
    struct Input<'a> {
        name: String,
        datatype: String,
        shape: Vec<i64>,
        #[serde(default)]
        parameters: Parameters,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Output {
        name: String,
        #[serde(default)]
        parameters: Parameters,
    }
    let header_length = header_length.unwrap_or(body.len());
    if header_length > body.len() {
        let message = format!("is {header_length}, but the body has {} bytes", body.len());
        return Err(InferError::field("Inference-Header-Content-Length", message));
    }
    if body.is_empty() {
        return Err(InferError::Empty);
    }
    let (json, mut rest) = (body.slice(..header_length), body.slice(header_length..));
    let Object(Body { id, parameters, inputs, outputs }) =
        serde_json::from_slice(&json).map_err(|error| InferError::NotJson(error.to_string()))?;
    if inputs.is_empty() {
        return Err(InferError::field("inputs", "is empty: it must have at least one tensor"));
    }
    let mut tensors = Vec::with_capacity(inputs.len());
    for Object(Input { name, datatype, shape, parameters, data }) in inputs {
        check_memory("inputs", &name, parameters.keys())?;
        let (element_type, shape) = type_and_shape(&name, &datatype, &shape)?;
        let wrong =
            |part: &str, message: String| Err(InferError::field(format!("inputs.{}.{part}", clipped(&name)), message));
        let data = match (data, parameters.get("binary_data_size")) {
            (Some(data), None) => EncodedData::Json(json.slice_ref(data.get().as_bytes())),
            (None, Some(size)) => match size.as_u64().and_then(|size| usize::try_from(size).ok()) {
                Some(size) if size <= rest.len() => EncodedData::Binary(rest.split_to(size)),
                Some(size) => {
                    let message = format!("is {size}, but the body has {} bytes left for it", rest.len());
                    return wrong("parameters.binary_data_size", message);
                }
                None => return wrong("parameters.binary_data_size", "must be a number of bytes".to_owned()),
            },
            (Some(_), Some(_)) => return wrong("data", "and its binary_data_size can't stand together".to_owned()),
            (None, None) => return wrong("data", "is missing, and there is no binary_data_size".to_owned()),
        };
        tensors.push(EncodedTensor { name, element_type, shape, data });
    }
    if !rest.is_empty() {
        let message = format!("leaves {} bytes that belong to no input", rest.len());
        return Err(InferError::field("binary_data_size", message));
    }
    let output = |Object(Output { name, parameters })| {
        check_memory("outputs", &name, parameters.keys())?;
        Ok(RequestedOutput { name, parameters })
    };
    let outputs = outputs.into_iter().map(output).collect::<Result<_, InferError>>()?;
    Ok(InferRequest { id, parameters, inputs: tensors, outputs })
}

/// The JSON of an answer; of the binary extension, the part before the bytes.
#[derive(Debug, Serialize)]
pub struct InferResponse<'a, D> {
    /// As it was asked for.
    pub model_name: &'a str,
    /// Which one answered.
    pub model_version: &'a str,
    /// The request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// In the order in which they were asked for.
    pub outputs: Vec<OutputTensor<'a, D>>,
}

/// One tensor of an answer.
#[derive(Debug, Serialize)]
pub struct OutputTensor<'a, D> {
    /// The model's name for it.
    pub name: &'a str,
    /// See [`datatype`].
    pub datatype: &'static str,
    /// Axis 0 is the batch.
    pub shape: &'a [usize],
    /// Where it isn't in the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BinarySize>,
    /// All elements in row-major order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<D>,
}

/// How many bytes of an answer are a tensor's.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BinarySize {
    /// In the order of the outputs.
    pub binary_data_size: usize,
}

/// What a model takes and gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelMetadata {
    /// As it was asked for.
    pub name: String,
    /// Highest first.
    pub versions: Vec<String>,
    /// Triton's name for ONNX Runtime.
    pub platform: &'static str,
    /// In the model's order.
    pub inputs: Vec<TensorMetadata>,
    /// In the model's order.
    pub outputs: Vec<TensorMetadata>,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorMetadata {
    /// The model's name for it.
    pub name: String,
    /// See [`datatype`].
    pub datatype: &'static str,
    /// -1 for a length that may differ. Axis 0 is the batch.
    pub shape: Vec<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str, binary: &[u8]) -> Result<InferRequest, InferError> {
        let body: Bytes = [json.as_bytes(), binary].concat().into();
        parse(&body, (!binary.is_empty()).then_some(json.len()))
    }

    #[test]
    fn json_and_bytes_side_by_side() {
        let request = parsed(
            r#"{"id":"7","inputs":[
                {"name":"a","data":[1, 2],"shape":[1,2],"datatype":"INT64"},
                {"name":"b","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}},
                {"name":"c","shape":[1],"datatype":"FP16","parameters":{"binary_data_size":2}}],
               "outputs":[{"name":"y","parameters":{"binary_data":false}}],
               "parameters":{"binary_data_output":true}}"#,
            &[1, 2, 3, 4],
        )
        .unwrap();
        assert_eq!(request.id.as_deref(), Some("7"));
        assert_eq!(request.inputs[0].data, EncodedData::Json("[1, 2]".into()));
        assert_eq!(request.inputs[1].data, EncodedData::Binary(Bytes::from_static(&[1, 2])));
        assert_eq!(request.inputs[2].data, EncodedData::Binary(Bytes::from_static(&[3, 4])));
        assert_eq!((request.inputs[2].element_type, &*request.inputs[0].shape), (ElementType::Float16, &[1, 2][..]));
        assert!(!request.is_binary("y") && request.is_binary("z"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let tensor = |fields: &str| format!(r#"{{"inputs":[{{"name":"a","shape":[1],"datatype":"INT8",{fields}}}]}}"#);
        for (json, binary, words) in [
            ("", &[][..], "no body"),
            ("{}", &[], "missing field `inputs`"),
            ("[]", &[], "expected an object"),
            (r#"["7", {}, [], []]"#, &[], "expected an object"),
            (r#"{"inputs":[["a","INT8",[1],{},[1]]]}"#, &[], "expected an object"),
            (r#"{"inputs":[],"outputs":[["y"]]}"#, &[], "expected an object"),
            (r#"{"inputs":[]}"#, &[], "inputs is empty"),
            (&tensor(r#""x":1"#), &[], "inputs.a.data is missing"),
            (&tensor(r#""data":[1],"parameters":{"binary_data_size":1}"#), &[1], "can't stand together"),
            (&tensor(r#""parameters":{"binary_data_size":2}"#), &[1], "has 1 bytes left"),
            (&tensor(r#""parameters":{"binary_data_size":-2}"#), &[1], "a number of bytes"),
            (&tensor(r#""data":[1]"#), &[1, 2], "leaves 2 bytes"),
            (&tensor(r#""parameters":{"shared_memory_region":"r"}"#), &[], "not supported"),
            (&tensor(r#""data":[1],"parameters":{"shared_memory_region":"r"}"#), &[], "inputs.a.parameters.shared"),
            (
                r#"{"inputs":[{"name":"a","shape":[1],"datatype":"INT8","data":[1]}],
                    "outputs":[{"name":"y","parameters":{"shared_memory_byte_size":4}}]}"#,
                &[],
                "outputs.y.parameters.shared_memory_byte_size is not supported",
            ),
            (
                r#"{"inputs":[{"name":"a","shape":[1],"datatype":"BF16","data":[1]}]}"#,
                &[],
                "`BF16`; it must be one of BOOL",
            ),
            (r#"{"inputs":[{"name":"a","shape":[-1],"datatype":"INT8","data":[1]}]}"#, &[], "negative length"),
        ] {
            let error = parsed(json, binary).unwrap_err().to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
        let error = parse(&Bytes::from_static(b"{}"), Some(3)).unwrap_err().to_string();
        assert!(error.contains("the body has 2 bytes"), "{error}");
    }

    #[test]
    fn a_timeout_is_in_microseconds() {
        let timeout = |value: Value| {
            let parameters = Parameters::from([("timeout".to_owned(), value)]);
            InferRequest { parameters, ..InferRequest::default() }.timeout()
        };
        assert_eq!(timeout(1500.into()), Ok(Some(Duration::from_micros(1500))));
        assert_eq!((timeout(0.into()), InferRequest::default().timeout()), (Ok(None), Ok(None)));
        for wrong in [Value::from(-1), 0.5.into(), "1".into(), true.into()] {
            assert!(timeout(wrong.clone()).unwrap_err().to_string().contains("parameters.timeout"), "{wrong}");
        }
    }

    #[test]
    fn a_classification_is_a_count() {
        let output = |value: Value| RequestedOutput {
            name: "y".to_owned(),
            parameters: Parameters::from([("classification".to_owned(), value)]),
        };
        assert_eq!(output(3.into()).classification(), Ok(Some(3)));
        assert_eq!(output(0.into()).classification(), Ok(None));
        assert!(output("3".into()).classification().is_err());
    }
}
