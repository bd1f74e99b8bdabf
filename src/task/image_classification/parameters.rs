//! `parameters` of an image classifier.

use serde_json::{Map, Value};

use crate::task::InputError;

/// Which form the predictions take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// `{"label", "confidence"}` of the best class.
    Best,
    /// `{"labels", "confidences"}` of this many classes, best first.
    TopK(usize),
    /// Vertex AI's own `{"ids", "displayNames", "confidences"}`, best first.
    Vertex {
        /// How many classes at most.
        max_predictions: usize,
        /// Classes with a lower confidence are left out, so that there may be none.
        confidence_threshold: f64,
    },
}

/// What Vertex AI's own image classification does without `maxPredictions`.
const DEFAULT_MAX_PREDICTIONS: usize = 10;

const KNOWN: [&str; 3] = ["top_k", "maxPredictions", "confidenceThreshold"];

/// Reads the JSON text of `parameters`; absent ones ask for the best class.
///
/// # Errors
/// [`InputError`] names the parameter.
pub fn parse(json: Option<&[u8]>) -> Result<Form, InputError> {
    let Some(json) = json else { return Ok(Form::Best) };
    let value: Value =
        serde_json::from_slice(json).map_err(|error| InputError::new("", format!("is not valid JSON: {error}")))?;
    let parameters = match value {
        Value::Null => return Ok(Form::Best),
        Value::Object(parameters) => parameters,
        _ => return Err(InputError::new("", "must be an object, null or absent")),
    };
    // Protobuf clients may write either case, and Node's sends null for what is unset.
    let parameter = |names: [&'static str; 2]| {
        names
            .into_iter()
            .find_map(|name| parameters.get(name).filter(|value| !value.is_null()).map(|value| (name, value)))
    };
    refuse_unknown(&parameters)?;
    let top_k = parameter(["top_k", "topK"]).map(|(name, value)| count(name, value)).transpose()?;
    let max_predictions =
        parameter(["maxPredictions", "max_predictions"]).map(|(name, value)| count(name, value)).transpose()?;
    let threshold = parameter(["confidenceThreshold", "confidence_threshold"])
        .map(|(name, value)| fraction(name, value))
        .transpose()?;
    match (top_k, max_predictions, threshold) {
        (None, None, None) => Ok(Form::Best),
        (Some(count), None, None) => Ok(Form::TopK(count)),
        (None, count, threshold) => Ok(Form::Vertex {
            max_predictions: count.unwrap_or(DEFAULT_MAX_PREDICTIONS),
            confidence_threshold: threshold.unwrap_or(0.0),
        }),
        (Some(_), _, _) => Err(InputError::new(
            "top_k",
            "can't be combined with maxPredictions or confidenceThreshold: choose one form",
        )),
    }
}

/// A parameter that would be ignored is a parameter that the client thinks is obeyed.
fn refuse_unknown(parameters: &Map<String, Value>) -> Result<(), InputError> {
    const OTHER_CASE: [&str; 3] = ["topK", "max_predictions", "confidence_threshold"];
    let unknown = parameters.keys().find(|key| !KNOWN.contains(&key.as_str()) && !OTHER_CASE.contains(&key.as_str()));
    match unknown {
        None => Ok(()),
        Some(key) => {
            let key: String = key.chars().take(40).collect();
            Err(InputError::new(key, format!("is not a parameter of this model; it knows {}", KNOWN.join(", "))))
        }
    }
}

/// A whole number of at least 1; `5.0` is 5, as protobuf clients send it.
fn count(name: &str, value: &Value) -> Result<usize, InputError> {
    match value.as_f64() {
        Some(number) if number >= 1.0 && number.fract() == 0.0 => Ok(number as usize),
        _ => Err(InputError::new(name, "must be a whole number of at least 1")),
    }
}

fn fraction(name: &str, value: &Value) -> Result<f64, InputError> {
    match value.as_f64() {
        Some(number) if (0.0..=1.0).contains(&number) => Ok(number),
        _ => Err(InputError::new(name, "must be a number from 0 to 1")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(json: &str) -> Form {
        parse(Some(json.as_bytes())).unwrap()
    }

    #[test]
    fn nothing_asks_for_the_best() {
        assert_eq!(parse(None).unwrap(), Form::Best);
        for json in ["null", "{}", r#"{"top_k":null}"#] {
            assert_eq!(form(json), Form::Best, "{json}");
        }
    }

    #[test]
    fn counts_may_be_written_as_floats() {
        assert_eq!(form(r#"{"top_k":1}"#), Form::TopK(1));
        assert_eq!(form(r#"{"top_k":5.0}"#), Form::TopK(5));
        assert_eq!(form(r#"{"topK":7}"#), Form::TopK(7));
        assert!(matches!(form(r#"{"top_k":1e30}"#), Form::TopK(count) if count > 1000));
    }

    #[test]
    fn vertex_own_form_has_its_defaults() {
        assert_eq!(
            form(r#"{"confidenceThreshold":0.5}"#),
            Form::Vertex { max_predictions: 10, confidence_threshold: 0.5 }
        );
        assert_eq!(form(r#"{"maxPredictions":3}"#), Form::Vertex { max_predictions: 3, confidence_threshold: 0.0 });
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (json, path) in [
            (r#"{"top_k":0}"#, "top_k"),
            (r#"{"top_k":-1}"#, "top_k"),
            (r#"{"top_k":1.5}"#, "top_k"),
            (r#"{"top_k":"5"}"#, "top_k"),
            (r#"{"maxPredictions":0}"#, "maxPredictions"),
            (r#"{"confidenceThreshold":1.1}"#, "confidenceThreshold"),
            (r#"{"topk":5}"#, "topk"),
            (r#"{"top_k":5,"maxPredictions":5}"#, "top_k"),
            ("[]", ""),
            ("5", ""),
        ] {
            assert_eq!(parse(Some(json.as_bytes())).unwrap_err().path, path, "{json}");
        }
    }
}
