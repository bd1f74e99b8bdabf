//! The body of Vertex AI's `predict`: `{"instances": [...], "parameters": {...}}`.
//!
//! The body is scanned once; an instance is a slice of it, read only when its turn comes. One shape serves both
//! surfaces: the container's (other top-level fields are ignored, and a bare list is taken for the instances, as Ray
//! Serve's clients post it) and the API's (other fields are an error, as in proto3 JSON; only `labels`, which are for
//! billing, may stand there).

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use super::quick;

/// Which of the two protocols a body belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Between Vertex and a container.
    Container,
    /// Between Google's clients and Vertex.
    Api,
}

/// A parsed request. The slices share the body's memory.
#[derive(Debug, Clone)]
pub struct PredictRequest {
    /// The JSON text of each instance; at least one.
    pub instances: Vec<Bytes>,
    /// The JSON text of the parameters; absent when they are missing or `null`.
    pub parameters: Option<Bytes>,
}

/// What is wrong with a body.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RequestError {
    #[error("the request has no body: post {{\"instances\": [...]}}")]
    Empty,
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    #[error("the body is {0}; it must be an object: {{\"instances\": [...]}}")]
    NotAnObject(&'static str),
    #[error("`instances` is missing: the body must be {{\"instances\": [...]}}")]
    NoInstances,
    #[error("`instances` is empty: it must have at least one element")]
    EmptyInstances,
    #[error("`instances` is {0}; it must be a list")]
    NotAList(&'static str),
    #[error("`instances` has more than {0} elements; send them in several requests")]
    TooMany(usize),
    #[error("`{0}` is given twice")]
    Twice(String),
    #[error("`instances` and `inputs` can't stand beside each other: send rows or columns")]
    RowsAndColumns,
    #[error("`instances` or `inputs` is missing: the body must be {{\"instances\": [...]}} or {{\"inputs\": ...}}")]
    NoRowsOrColumns,
    #[error("`{field}` {message}")]
    Column { field: String, message: String },
    #[error("`signature_name` is {0}: a model here has one signature, \"serving_default\"; leave the field out")]
    Signature(String),
    #[error("unknown field `{0}`: only `instances`, `parameters` and `labels` may stand beside each other here")]
    Unknown(String),
}

impl RequestError {
    /// The field at fault, where there is one.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::NoInstances | Self::EmptyInstances | Self::NotAList(_) | Self::TooMany(_) => Some("instances"),
            Self::Twice(field) | Self::Unknown(field) | Self::Column { field, .. } => Some(field),
            Self::Signature(_) => Some("signature_name"),
            Self::Empty | Self::NotJson(_) | Self::NotAnObject(_) | Self::RowsAndColumns | Self::NoRowsOrColumns => {
                None
            }
        }
    }
}

/// The most characters of a client's own words that a message repeats.
pub(super) const ECHO: usize = 40;

/// Parses a body, of which at most `limit` instances are accepted.
///
/// # Errors
/// [`RequestError`] says what is wrong, with the position for what isn't JSON at all.
pub fn parse(body: &Bytes, surface: Surface, limit: usize) -> Result<PredictRequest, RequestError> {
    if let Some(request) = recognise(body, limit) {
        return Ok(request);
    }
    let top = match read_top(body, limit)? {
        Top::Object(fields) => fields,
        Top::List(instances) if surface == Surface::Container => {
            Fields { instances: Some(instances), ..Fields::default() }
        }
        Top::List(_) => return Err(RequestError::NotAnObject("a list")),
        Top::Other(kind) => return Err(RequestError::NotAnObject(kind)),
    };
    if let (Surface::Api, None, Some(field)) = (surface, &top.twice, &top.unknown) {
        return Err(RequestError::Unknown(field.clone()));
    }
    request(body, top, limit)
}

/// The request in a body of the most common form, which all faces that speak of `instances` understand alike.
pub(super) fn recognise(body: &Bytes, limit: usize) -> Option<PredictRequest> {
    let parts = quick::parts(body, limit)?;
    let instances = parts.instances.into_iter().map(|range| body.slice(range)).collect();
    Some(PredictRequest { instances, parameters: parameters_of(body, parts.parameters) })
}

fn request(body: &Bytes, fields: Fields<'_>, limit: usize) -> Result<PredictRequest, RequestError> {
    if let Some(field) = fields.twice {
        return Err(RequestError::Twice(field));
    }
    let instances = fields.instances.ok_or(RequestError::NoInstances)?.list(limit)?;
    let slice = |raw: &RawValue| body.slice_ref(raw.get().as_bytes());
    Ok(PredictRequest {
        instances: instances.into_iter().map(slice).collect(),
        parameters: parameters_of(body, fields.parameters),
    })
}

/// The JSON text of the parameters in a body; none for `null`.
pub(super) fn parameters_of(body: &Bytes, parameters: Option<&RawValue>) -> Option<Bytes> {
    let given = parameters.filter(|raw| raw.get() != "null");
    given.map(|raw| body.slice_ref(raw.get().as_bytes()))
}

/// Parses a body that has other fields beside, whose JSON, an object of them, is given back.
///
/// # Errors
/// [`RequestError`].
pub(super) fn parse_with_others(body: &Bytes, limit: usize) -> Result<(PredictRequest, Vec<u8>), RequestError> {
    let mut fields = match scan(body, TopLevel { limit, keeps_others: true })? {
        Top::Object(fields) => fields,
        Top::List(_) => return Err(RequestError::NotAnObject("a list")),
        Top::Other(kind) => return Err(RequestError::NotAnObject(kind)),
    };
    let mut rest = b"{".to_vec();
    for (name, value) in std::mem::take(&mut fields.others) {
        if rest.len() > 1 {
            rest.push(b',');
        }
        let name = serde_json::Value::from(name).to_string();
        rest.extend([name.as_bytes(), b":", value.get().as_bytes()].into_iter().flatten());
    }
    rest.push(b'}');
    Ok((request(body, fields, limit)?, rest))
}

/// Scans a body once, without a judgement on its fields.
pub(super) fn read_top(body: &[u8], limit: usize) -> Result<Top<'_>, RequestError> {
    scan(body, TopLevel { limit, keeps_others: false })
}

fn scan(body: &[u8], top: TopLevel) -> Result<Top<'_>, RequestError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(RequestError::Empty);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    deserializer
        .deserialize_any(top)
        .and_then(|top| deserializer.end().map(|()| top))
        .map_err(|error| RequestError::NotJson(error.to_string()))
}

pub(super) enum Top<'a> {
    Object(Fields<'a>),
    List(Instances<'a>),
    Other(&'static str),
}

#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) instances: Option<Instances<'a>>,
    pub(super) parameters: Option<&'a RawValue>,
    /// TensorFlow Serving's.
    pub(super) inputs: Option<&'a RawValue>,
    /// TensorFlow Serving's.
    pub(super) signature_name: Option<&'a RawValue>,
    pub(super) unknown: Option<String>,
    pub(super) twice: Option<String>,
    pub(super) others: Vec<(String, &'a RawValue)>,
}

pub(super) enum Instances<'a> {
    List(Vec<&'a RawValue>),
    TooMany,
    Other(&'static str),
}

impl<'a> Instances<'a> {
    /// The elements, at least one; `limit` is how many were accepted.
    pub(super) fn list(self, limit: usize) -> Result<Vec<&'a RawValue>, RequestError> {
        match self {
            Self::List(list) if list.is_empty() => Err(RequestError::EmptyInstances),
            Self::List(list) => Ok(list),
            Self::TooMany => Err(RequestError::TooMany(limit)),
            Self::Other(kind) => Err(RequestError::NotAList(kind)),
        }
    }
}

/// Gives the same answer for each kind of JSON value that isn't the wanted one, and names the kind.
macro_rules! other_kinds {
    ($other:expr) => {
        fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
            Ok($other("a boolean"))
        }
        fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Self::Value, E> {
            Ok($other("a number"))
        }
        fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Self::Value, E> {
            Ok($other("a number"))
        }
        fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
            Ok($other("a number"))
        }
        fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Self::Value, E> {
            Ok($other("a string"))
        }
        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok($other("null"))
        }
    };
}

pub(super) use other_kinds;

struct TopLevel {
    limit: usize,
    /// Whether the fields that have no meaning here are kept.
    keeps_others: bool,
}

impl<'de> Visitor<'de> for TopLevel {
    type Value = Top<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    other_kinds!(Top::Other);

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Self::Value, A::Error> {
        InstanceList { limit: self.limit }.visit_seq(sequence).map(Top::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            let again = match key.as_str() {
                "instances" => {
                    fields.instances.replace(map.next_value_seed(InstanceList { limit: self.limit })?).is_some()
                }
                "parameters" => fields.parameters.replace(map.next_value()?).is_some(),
                other => {
                    if other != "labels" {
                        fields.unknown.get_or_insert_with(|| key.chars().take(ECHO).collect());
                    }
                    match other {
                        _ if self.keeps_others => {
                            fields.others.push((key.clone(), map.next_value()?));
                            false
                        }
                        "inputs" => fields.inputs.replace(map.next_value()?).is_some(),
                        "signature_name" => fields.signature_name.replace(map.next_value()?).is_some(),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            false
                        }
                    }
                }
            };
            if again {
                fields.twice = Some(key);
            }
        }
        Ok(Top::Object(fields))
    }
}

pub(super) struct InstanceList {
    pub(super) limit: usize,
}

impl<'de> DeserializeSeed<'de> for InstanceList {
    type Value = Instances<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for InstanceList {
    type Value = Instances<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list")
    }

    other_kinds!(Instances::Other);

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while list.len() < self.limit {
            match sequence.next_element::<&RawValue>()? {
                Some(raw) => list.push(raw),
                None => return Ok(Instances::List(list)),
            }
        }
        let mut more = false;
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            more = true;
        }
        Ok(if more { Instances::TooMany } else { Instances::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>().map_err(A::Error::custom)?.is_some() {}
        Ok(Instances::Other("an object"))
    }
}

/// Which deployed model gave the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployedModelFields {
    /// Digits, as a string: Google's REST client refuses a number.
    pub deployed_model_id: String,
    /// `projects/{project}/locations/{location}/models/{model}`, without a version.
    pub model: String,
    /// What people call the model.
    pub model_display_name: String,
    /// Digits, as a string.
    pub model_version_id: String,
}

/// The answer of `predict`; the container's has no model fields.
#[derive(Debug, Serialize)]
pub struct PredictResponse<'a, P> {
    /// One for each instance, in the same order.
    pub predictions: &'a [P],
    /// Who answered.
    #[serde(flatten)]
    pub deployed_model: Option<&'a DeployedModelFields>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str, surface: Surface) -> Result<PredictRequest, RequestError> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), surface, 3)
    }

    #[test]
    fn instances_are_slices_of_the_body() {
        let body = Bytes::from_static(br#" {"instances": [ {"b64": "AAAA"}, [1, 2] ], "parameters": {"top_k": 5}} "#);
        let request = parse(&body, Surface::Api, 10).unwrap();
        assert_eq!(request.instances, [&br#"{"b64": "AAAA"}"#[..], b"[1, 2]"]);
        assert_eq!(request.parameters.as_deref(), Some(&br#"{"top_k": 5}"#[..]));
        let range = body.as_ptr_range();
        assert!(request.instances.iter().all(|instance| range.contains(&instance.as_ptr())));
    }

    #[test]
    fn null_parameters_are_absent_ones() {
        for text in [r#"{"instances":[1]}"#, r#"{"instances":[1],"parameters":null}"#] {
            assert!(parse_text(text, Surface::Container).unwrap().parameters.is_none());
        }
    }

    #[test]
    fn each_mistake_has_its_own_words() {
        use RequestError::*;
        let error = |text| parse_text(text, Surface::Api).unwrap_err();
        assert_eq!(error(""), Empty);
        assert_eq!(error(" \n"), Empty);
        assert!(matches!(error("{bad"), NotJson(reason) if reason.contains("line 1 column 2")));
        assert!(matches!(error(r#"{"instances":[1]} x"#), NotJson(_)));
        assert!(matches!(error(r#"{"instances":[1,]}"#), NotJson(_)));
        assert_eq!(error("[1]"), NotAnObject("a list"));
        assert_eq!(error("3"), NotAnObject("a number"));
        assert_eq!(error("{}"), NoInstances);
        assert_eq!(error(r#"{"instances":[]}"#), EmptyInstances);
        assert_eq!(error(r#"{"instances":{"b64":"x"}}"#), NotAList("an object"));
        assert_eq!(error(r#"{"instances":"x"}"#), NotAList("a string"));
        assert_eq!(error(r#"{"instances":null}"#), NotAList("null"));
        assert_eq!(error(r#"{"instances":[1,2,3,4]}"#), TooMany(3));
        assert_eq!(error(r#"{"instances":[1],"instances":[2]}"#), Twice("instances".into()));
        assert_eq!(error(r#"{"instances":[1],"signature_name":"x"}"#), Unknown("signature_name".into()));
    }

    #[test]
    fn the_container_ignores_other_fields_and_the_api_takes_labels() {
        assert!(parse_text(r#"{"instances":[1],"extra":[{}]}"#, Surface::Container).is_ok());
        assert!(parse_text(r#"{"instances":[1],"labels":{"team":"a"}}"#, Surface::Api).is_ok());
    }

    #[test]
    fn the_container_takes_a_bare_list() {
        let request = parse_text("[[1,2],[3,4]]", Surface::Container).unwrap();
        assert_eq!(request.instances, [&b"[1,2]"[..], b"[3,4]"]);
        assert!(request.parameters.is_none());
        assert_eq!(parse_text("[]", Surface::Container).unwrap_err(), RequestError::EmptyInstances);
        assert_eq!(parse_text("[1,2,3,4]", Surface::Container).unwrap_err(), RequestError::TooMany(3));
        assert_eq!(parse_text("[[1,2]]", Surface::Api).unwrap_err(), RequestError::NotAnObject("a list"));
    }

    #[test]
    fn hostile_nesting_is_no_danger() {
        let deep = format!(r#"{{"instances":[{}1{}]}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse_text(&deep, Surface::Api).unwrap().instances.len(), 1);
        let broken = format!(r#"{{"instances":{}"#, "[".repeat(100_000));
        assert!(matches!(parse_text(&broken, Surface::Api), Err(RequestError::NotJson(_))));
    }

    #[test]
    fn the_containers_answer_is_predictions_alone() {
        let fields = DeployedModelFields {
            deployed_model_id: "7".into(),
            model: "projects/p/locations/l/models/m".into(),
            model_display_name: "m".into(),
            model_version_id: "1".into(),
        };
        let text =
            |deployed_model| serde_json::to_string(&PredictResponse { predictions: &[1], deployed_model }).unwrap();
        assert_eq!(text(None), r#"{"predictions":[1]}"#);
        assert_eq!(
            text(Some(&fields)),
            r#"{"predictions":[1],"deployedModelId":"7","model":"projects/p/locations/l/models/m","modelDisplayName":"m","modelVersionId":"1"}"#
        );
    }
}
