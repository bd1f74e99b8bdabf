//! TensorFlow Serving's REST bodies, of which KServe's first protocol is a part.
//!
//! ```text
//! rows     {"signature_name"?, "instances": [...], "parameters"?}      -> {"predictions": [...]}
//! columns  {"signature_name"?, "inputs": [...] or {name: [...]}}       -> {"outputs": ...}
//! examples {"signature_name"?, "context"?: {...}, "examples": [{...}]} -> {"result": [...]}
//! ```
//!
//! (<https://www.tensorflow.org/tfx/serving/api_rest>; `parameters` is an addition, as on a container's route.) Columns
//! are turned into rows here, so that one code reads both: the first axis of each column is the batch. `NaN`, `Infinity`
//! and `-Infinity` may stand where a number does, in requests and in answers, although JSON has no such tokens.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use bytes::Bytes;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

use super::object::Object;
use super::vertex::{
    self, ECHO, Fields, InstanceList, Instances, RequestError, Top, other_kinds, parameters_of, read_top,
};

/// Whether a request was made of rows, which decides on the form of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `instances`, answered by `predictions`.
    Rows,
    /// `inputs`, answered by `outputs`.
    Columns {
        /// Whether the inputs have names, or the only one has none.
        named: bool,
    },
}

/// A parsed request.
#[derive(Debug, Clone)]
pub struct PredictRequest {
    /// The JSON text of each row; at least one. Slices of the body, except for named columns.
    pub rows: Vec<Bytes>,
    /// The JSON text of the parameters; absent when they are missing or `null`.
    pub parameters: Option<Bytes>,
    /// What the rows were made of.
    pub form: Form,
}

/// Parses the body of `:predict`, of which at most `limit` rows are accepted.
///
/// # Errors
/// [`RequestError`].
pub fn parse(body: &Bytes, limit: usize) -> Result<PredictRequest, RequestError> {
    match vertex::recognise(body, limit) {
        Some(request) => {
            Ok(PredictRequest { rows: request.instances, parameters: request.parameters, form: Form::Rows })
        }
        None => with_tokens(body, |body| read(body, limit)),
    }
}

fn read(body: &Bytes, limit: usize) -> Result<PredictRequest, RequestError> {
    let fields = match read_top(body, limit)? {
        Top::Object(fields) => fields,
        // As Ray Serve's clients post them.
        Top::List(instances) => Fields { instances: Some(instances), ..Fields::default() },
        Top::Other(kind) => return Err(RequestError::NotAnObject(kind)),
    };
    let Fields { instances, parameters, inputs, signature_name, twice, .. } = fields;
    if let Some(field) = twice {
        return Err(RequestError::Twice(field));
    }
    check_signature(signature_name)?;
    let slice = |raw: &RawValue| body.slice_ref(raw.get().as_bytes());
    let (rows, form) = match (instances, inputs) {
        (Some(instances), None) => (instances.list(limit)?.into_iter().map(slice).collect(), Form::Rows),
        (None, Some(inputs)) => columns(inputs, limit, slice)?,
        (Some(_), Some(_)) => return Err(RequestError::RowsAndColumns),
        (None, None) => return Err(RequestError::NoRowsOrColumns),
    };
    Ok(PredictRequest { rows, parameters: parameters_of(body, parameters), form })
}

fn check_signature(name: Option<&RawValue>) -> Result<(), RequestError> {
    match name.map(RawValue::get) {
        None | Some(r#""serving_default""# | r#""""# | "null") => Ok(()),
        Some(other) => Err(RequestError::Signature(other.chars().take(ECHO).collect())),
    }
}

/// The rows of `inputs`: of the only input, or of inputs by name.
fn columns(
    inputs: &RawValue,
    limit: usize,
    slice: impl Fn(&RawValue) -> Bytes,
) -> Result<(Vec<Bytes>, Form), RequestError> {
    let columns = serde_json::Deserializer::from_str(inputs.get())
        .deserialize_any(ColumnsSeed { limit })
        .map_err(|error| RequestError::NotJson(error.to_string()))?;
    let named = match columns {
        Columns::One(only) => {
            let rows = elements(only, "inputs", limit)?.into_iter().map(slice).collect();
            return Ok((rows, Form::Columns { named: false }));
        }
        Columns::Other(kind) => {
            let message = format!("is {kind}; it must be a list of rows, or an object of such lists by input");
            return Err(RequestError::Column { field: "inputs".to_owned(), message });
        }
        Columns::Named(named) => named,
    };
    let mut columns: Vec<(String, Vec<&RawValue>)> = Vec::with_capacity(named.len());
    for (name, column) in named {
        let field = format!("inputs.{}", name.chars().take(ECHO).collect::<String>());
        let elements = elements(column, &field, limit)?;
        if let Some((first, others)) = columns.first()
            && others.len() != elements.len()
        {
            let message = format!(
                "has {} rows, and `inputs.{}` {}: all inputs share the first axis",
                elements.len(),
                first.chars().take(ECHO).collect::<String>(),
                others.len()
            );
            return Err(RequestError::Column { field, message });
        }
        columns.push((name, elements));
    }
    let count = columns.first().map_or(0, |(_, elements)| elements.len());
    if count == 0 {
        let message = "is empty: it must have at least one input".to_owned();
        return Err(RequestError::Column { field: "inputs".to_owned(), message });
    }
    let keys: Vec<String> = columns.iter().map(|(name, _)| Value::from(name.as_str()).to_string()).collect();
    let row = |index: usize| {
        let mut text = String::from("{");
        for (key, (_, elements)) in keys.iter().zip(&columns) {
            let comma = if text.len() > 1 { "," } else { "" };
            text.extend([comma, key, ":", elements[index].get()]);
        }
        text.push('}');
        Bytes::from(text)
    };
    Ok(((0..count).map(row).collect(), Form::Columns { named: true }))
}

fn elements<'a>(list: Instances<'a>, field: &str, limit: usize) -> Result<Vec<&'a RawValue>, RequestError> {
    let message = match list {
        Instances::List(list) if !list.is_empty() => return Ok(list),
        Instances::List(_) => "is empty: it must have at least one row".to_owned(),
        Instances::TooMany => format!("has more than {limit} rows; send them in several requests"),
        Instances::Other(kind) => format!("is {kind}; it must be a list, whose first axis is the batch"),
    };
    Err(RequestError::Column { field: field.to_owned(), message })
}

enum Columns<'a> {
    One(Instances<'a>),
    Named(Vec<(String, Instances<'a>)>),
    Other(&'static str),
}

struct ColumnsSeed {
    limit: usize,
}

impl<'de> Visitor<'de> for ColumnsSeed {
    type Value = Columns<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("columns")
    }

    other_kinds!(Columns::Other);

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Self::Value, A::Error> {
        InstanceList { limit: self.limit }.visit_seq(sequence).map(Columns::One)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut named = Vec::new();
        while let Some(name) = map.next_key()? {
            named.push((name, map.next_value_seed(InstanceList { limit: self.limit })?));
        }
        Ok(Columns::Named(named))
    }
}

/// A parsed body of `:classify` or `:regress`.
#[derive(Debug, Clone)]
pub struct ExamplesRequest {
    /// The JSON text of each example, with the context's features; at least one.
    pub examples: Vec<Bytes>,
    /// The JSON text of the parameters.
    pub parameters: Option<Bytes>,
}

/// Parses the body of `:classify` and `:regress`, of which at most `limit` examples are accepted.
///
/// # Errors
/// [`RequestError`].
pub fn parse_examples(body: &Bytes, limit: usize) -> Result<ExamplesRequest, RequestError> {
    type Features<'a> = std::collections::BTreeMap<Cow<'a, str>, &'a RawValue>;
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        signature_name: Option<&'a RawValue>,
        #[serde(borrow)]
        context: Option<Features<'a>>,
        #[serde(borrow)]
        examples: Vec<Features<'a>>,
        #[serde(borrow)]
        parameters: Option<&'a RawValue>,
    }
    with_tokens(body, |body| {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(RequestError::Empty);
        }
        let Object(Body { signature_name, context, mut examples, parameters }) =
            serde_json::from_slice(body).map_err(|error| RequestError::NotJson(error.to_string()))?;
        check_signature(signature_name)?;
        let field = || "examples".to_owned();
        if examples.is_empty() {
            return Err(RequestError::Column { field: field(), message: "is empty".to_owned() });
        }
        if examples.len() > limit {
            let message = format!("has more than {limit} elements; send them in several requests");
            return Err(RequestError::Column { field: field(), message });
        }
        for (name, value) in context.iter().flatten() {
            examples.iter_mut().for_each(|example| {
                example.entry(name.clone()).or_insert(value);
            });
        }
        let text = |example: &Features<'_>| serde_json::to_vec(example).map(Bytes::from);
        let examples = examples.iter().map(text).collect::<Result<_, _>>();
        Ok(ExamplesRequest {
            examples: examples.map_err(|error| RequestError::NotJson(error.to_string()))?,
            parameters: parameters.map(|raw| Bytes::copy_from_slice(raw.get().as_bytes())),
        })
    })
}

/// Reads a body; if it isn't JSON, once more with the tokens that JSON doesn't have as strings, which is how the
/// readers of numbers know them.
fn with_tokens<T>(body: &Bytes, read: impl Fn(&Bytes) -> Result<T, RequestError>) -> Result<T, RequestError> {
    match read(body) {
        Err(error @ RequestError::NotJson(_)) => match quoted_tokens(body) {
            Some(quoted) => read(&quoted.into()),
            None => Err(error),
        },
        result => result,
    }
}

/// The text with `NaN`, `Infinity` and `-Infinity` in quotes where they stand outside of strings; `None` if they don't.
fn quoted_tokens(text: &[u8]) -> Option<Vec<u8>> {
    const TOKENS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut quoted = Vec::new();
    let (mut at, mut kept) = (0, 0);
    let mut in_string = false;
    while at < text.len() {
        let token = TOKENS.iter().find(|token| !in_string && text[at..].starts_with(token));
        match (text[at], token) {
            (_, Some(token)) => {
                quoted.extend_from_slice(&text[kept..at]);
                quoted.push(b'"');
                quoted.extend_from_slice(token);
                quoted.push(b'"');
                at += token.len();
                kept = at;
                continue;
            }
            (b'\\', None) if in_string => at += 1,
            (b'"', None) => in_string = !in_string,
            _ => {}
        }
        at += 1;
    }
    (kept > 0).then(|| {
        quoted.extend_from_slice(&text[kept..]);
        quoted
    })
}

/// The answer to rows.
#[derive(Debug, Serialize)]
pub struct Predictions<T> {
    /// One for each row.
    pub predictions: T,
}

/// The answer to columns.
#[derive(Debug, Serialize)]
pub struct Outputs<T> {
    /// The only output, or the outputs by name.
    pub outputs: T,
}

/// The answer to examples.
#[derive(Debug, Serialize)]
pub struct Results<T> {
    /// One for each example.
    pub result: T,
}

/// Writes JSON in which byte strings stand as they are: so the serialisers of numbers say `NaN` and its like.
///
/// # Errors
/// Whatever the serialisation fails with.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    struct BareTokens;
    impl Formatter for BareTokens {
        fn write_byte_array<W: ?Sized + Write>(&mut self, writer: &mut W, value: &[u8]) -> io::Result<()> {
            writer.write_all(value)
        }
    }
    let mut text = Vec::with_capacity(128);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, BareTokens))?;
    Ok(text)
}

#[cfg(test)]
mod tests;
