//! What is asked of an explanation: the deployed model's `ExplanationSpec`, overridden field by field by the request's.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Value as ProtoValue};
use serde_json::Value;
use thiserror::Error;

use crate::protocol::generated::google::cloud::aiplatform::v1::explanation_metadata::output_metadata::DisplayNameMapping;
use crate::protocol::generated::google::cloud::aiplatform::v1::explanation_parameters::Method;
use crate::protocol::generated::google::cloud::aiplatform::v1::{
    ExplanationParameters, ExplanationSpec, ExplanationSpecOverride,
};
use crate::protocol::value;

/// Why there can be no explanation of that kind.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// A field of the request's own specification makes no sense.
    #[error("{field} {message}")]
    Invalid {
        /// Its whole path in the request.
        field: String,
        /// The rest of a sentence that begins with it.
        message: String,
    },
    /// The deployed model's specification wants a method that isn't here.
    #[error("the deployed model's explanationSpec asks for {0}; there is sampledShapleyAttribution alone")]
    Method(&'static str),
}

impl SpecError {
    /// An error about a field of the override.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid { field: format!("{OVERRIDE}.{field}"), message: message.into() }
    }
}

const OVERRIDE: &str = "explanationSpecOverride";

/// Which outputs are explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The largest.
    Largest,
    /// So many of the largest, largest first; `None` is all of them.
    Top(Option<usize>),
    /// These, in this order; each by its place along the axes of the output.
    Indices(Vec<Vec<usize>>),
}

/// What an explanation is to be like.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The paths of sampled Shapley, 1 to 50.
    pub paths: usize,
    /// Which outputs are explained.
    pub choice: Choice,
    /// The baselines of features, by name. A feature with one has it in all of them.
    pub baselines: BTreeMap<String, Vec<Value>>,
    /// The name of the inputs that the specification describes.
    pub inputs: Vec<String>,
    /// What the specification calls the output, and the model's name for it.
    pub output: Option<(String, String)>,
    /// What the indices of the output mean: lists of names, nested as the output is.
    pub display_names: Option<Value>,
}

/// Paths when nobody says how many.
const PATHS: usize = 10;
const MOST_PATHS: i32 = 50;
/// The most baselines of one feature: each is an explanation of its own, over which is averaged.
const MOST_BASELINES: usize = 100;

impl Settings {
    /// From the deployed model's specification and the request's.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn resolve(
        model: Option<&ExplanationSpec>,
        request: Option<&ExplanationSpecOverride>,
    ) -> Result<Self, SpecError> {
        let mut settings = Self {
            paths: PATHS,
            choice: Choice::Largest,
            baselines: BTreeMap::new(),
            inputs: Vec::new(),
            output: None,
            display_names: None,
        };
        if let Some(model) = model {
            if let Some(parameters) = &model.parameters {
                settings.set_parameters(parameters, false)?;
            }
            let metadata = model.metadata.clone().unwrap_or_default();
            for (name, input) in &metadata.inputs {
                settings.inputs.push(name.clone());
                settings.set_baselines(name, &input.input_baselines)?;
            }
            settings.inputs.sort_unstable();
            if metadata.outputs.len() == 1 {
                settings.output = metadata.outputs.iter().next().map(|(name, output)| {
                    let tensor = Some(&output.output_tensor_name).filter(|tensor| !tensor.is_empty());
                    (name.clone(), tensor.unwrap_or(name).clone())
                });
                let mapping = metadata.outputs.into_values().next().and_then(|output| output.display_name_mapping);
                if let Some(DisplayNameMapping::IndexDisplayNameMapping(names)) = mapping {
                    settings.display_names = json(&names);
                }
            }
        }
        if let Some(request) = request {
            if request.examples_override.is_some() {
                return Err(SpecError::invalid(
                    "examplesOverride",
                    "is for explanations by examples, which are not here",
                ));
            }
            if let Some(parameters) = &request.parameters {
                settings.set_parameters(parameters, true)?;
            }
            for (name, input) in request.metadata.iter().flat_map(|metadata| &metadata.inputs) {
                settings.set_baselines(name, &input.input_baselines)?;
            }
        }
        settings.check_baselines()?;
        Ok(settings)
    }

    fn set_parameters(&mut self, parameters: &ExplanationParameters, of_request: bool) -> Result<(), SpecError> {
        let other = match &parameters.method {
            None => None,
            Some(Method::SampledShapleyAttribution(method)) => {
                match method.path_count {
                    0 => {}
                    count @ 1..=MOST_PATHS => self.paths = usize::try_from(count).unwrap_or(PATHS),
                    count => {
                        let message = format!("is {count}; it must be from 1 to {MOST_PATHS}");
                        return Err(SpecError::invalid("parameters.sampledShapleyAttribution.pathCount", message));
                    }
                }
                None
            }
            Some(Method::IntegratedGradientsAttribution(_)) => Some("integratedGradientsAttribution"),
            Some(Method::XraiAttribution(_)) => Some("xraiAttribution"),
            Some(Method::Examples(_)) => Some("examples"),
        };
        match other {
            Some(method) if of_request => {
                let message =
                    "can't be asked for: a request may not change the method, which is sampledShapleyAttribution";
                return Err(SpecError::invalid(&format!("parameters.{method}"), message));
            }
            Some(method) => return Err(SpecError::Method(method)),
            None => {}
        }
        match parameters.top_k {
            0 => {}
            -1 => self.choice = Choice::Top(None),
            count if count > 0 => self.choice = Choice::Top(usize::try_from(count).ok()),
            count => {
                let message = format!("is {count}; it must be at least 1, or -1 for all outputs");
                return Err(SpecError::invalid("parameters.topK", message));
            }
        }
        if let Some(ListValue { values }) = parameters.output_indices.as_ref().filter(|list| !list.values.is_empty()) {
            let indices = values.iter().map(index).collect::<Option<_>>();
            let wrong = || {
                let message = "must be whole numbers from 0, or lists of them where the output has several axes";
                SpecError::invalid("parameters.outputIndices", message)
            };
            self.choice = Choice::Indices(indices.ok_or_else(wrong)?);
        }
        Ok(())
    }

    fn set_baselines(&mut self, name: &str, baselines: &[ProtoValue]) -> Result<(), SpecError> {
        if baselines.is_empty() {
            return Ok(());
        }
        let baselines = baselines.iter().map(json).collect::<Option<Vec<_>>>();
        let unreadable = || SpecError::invalid(&baselines_of(name), "has a number that JSON can't express");
        self.baselines.insert(name.to_owned(), baselines.ok_or_else(unreadable)?);
        Ok(())
    }

    /// Features must have equally many baselines, or one.
    fn check_baselines(&self) -> Result<(), SpecError> {
        let most = self.baseline_count();
        let odd = self.baselines.iter().find(|(_, baselines)| baselines.len() != 1 && baselines.len() != most);
        match odd {
            _ if most > MOST_BASELINES => {
                let name = self.baselines.iter().find(|(_, baselines)| baselines.len() == most);
                let name = name.map_or("", |(name, _)| name);
                Err(SpecError::invalid(
                    &baselines_of(name),
                    format!("has {most} elements; there may be {MOST_BASELINES}"),
                ))
            }
            Some((name, baselines)) => {
                let message =
                    format!("has {} elements, and another has {most}: give each one, or equally many", baselines.len());
                Err(SpecError::invalid(&baselines_of(name), message))
            }
            None => Ok(()),
        }
    }

    /// Over how many baselines is averaged.
    pub fn baseline_count(&self) -> usize {
        self.baselines.values().map(Vec::len).max().unwrap_or(1)
    }

    /// What a feature has in one of the baselines, if anybody said.
    pub fn baseline(&self, number: usize, name: &str) -> Option<&Value> {
        let baselines = self.baselines.get(name)?;
        baselines.get(number).or_else(|| baselines.first())
    }

    /// The name for features that have none of their own.
    pub fn free_name<'a>(&'a self, otherwise: &'a str) -> &'a str {
        match (self.inputs.as_slice(), self.baselines.len()) {
            ([name], _) => name,
            ([], 1) => self.baselines.keys().next().map_or(otherwise, String::as_str),
            _ => otherwise,
        }
    }

    /// Refuses baselines of features that aren't there.
    ///
    /// # Errors
    /// [`SpecError::Invalid`].
    pub fn check_names(&self, names: &[&str]) -> Result<(), SpecError> {
        match self.baselines.keys().find(|name| !names.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let message = format!("is for no feature of the instance, whose features are {}", names.join(", "));
                Err(SpecError::invalid(&baselines_of(name), message))
            }
        }
    }
}

/// The path of a feature's baselines.
pub fn baselines_of(name: &str) -> String {
    let name: String = name.chars().take(40).collect();
    format!("metadata.inputs.{name}.inputBaselines")
}

fn json(value: &ProtoValue) -> Option<Value> {
    serde_json::from_slice(&value::to_json(value).ok()?).ok()
}

/// One output: `3`, or `[0, 3]`.
fn index(value: &ProtoValue) -> Option<Vec<usize>> {
    let number = |value: &ProtoValue| match value.kind {
        Some(Kind::NumberValue(number)) if number >= 0.0 && number.fract() == 0.0 && number < 1e9 => {
            Some(number as usize)
        }
        _ => None,
    };
    match &value.kind {
        Some(Kind::ListValue(list)) => list.values.iter().map(number).collect(),
        _ => number(value).map(|index| vec![index]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::proto_json;

    fn resolve(model: Value, request: Value) -> Result<Settings, SpecError> {
        let model: ExplanationSpec = proto_json::read(model.to_string().as_bytes()).unwrap();
        let request: ExplanationSpecOverride = proto_json::read(request.to_string().as_bytes()).unwrap();
        Settings::resolve(Some(&model), Some(&request))
    }

    fn field(request: Value) -> String {
        match resolve(json!({}), request).unwrap_err() {
            SpecError::Invalid { field, .. } => field,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_request_overrides_field_by_field() {
        let model = json!({
            "parameters": {"sampledShapleyAttribution": {"pathCount": 5}, "topK": 3},
            "metadata": {
                "inputs": {"age": {"inputBaselines": [30, 40]}, "city": {"inputBaselines": ["Oslo"]}},
                "outputs": {"risk": {"outputTensorName": "score", "indexDisplayNameMapping": ["low", "high"]}},
            },
        });
        let plain = resolve(model.clone(), json!({})).unwrap();
        assert_eq!((plain.paths, &plain.choice), (5, &Choice::Top(Some(3))));
        assert_eq!((plain.baseline(1, "age"), plain.baseline(1, "city")), (Some(&json!(40)), Some(&json!("Oslo"))));
        assert_eq!(plain.output, Some(("risk".to_owned(), "score".to_owned())));
        assert_eq!(plain.display_names, Some(json!(["low", "high"])));
        let request = json!({
            "parameters": {"sampledShapleyAttribution": {"pathCount": 7}},
            "metadata": {"inputs": {"age": {"inputBaselines": [1]}}},
        });
        let overridden = resolve(model, request).unwrap();
        assert_eq!((overridden.paths, &overridden.choice), (7, &Choice::Top(Some(3))));
        assert_eq!((overridden.baseline(0, "age"), overridden.baseline_count()), (Some(&json!(1)), 1));
    }

    #[test]
    fn nothing_said_is_ten_paths_for_the_largest() {
        let settings = Settings::resolve(None, None).unwrap();
        assert_eq!((settings.paths, settings.choice, settings.baselines.len()), (10, Choice::Largest, 0));
    }

    #[test]
    fn outputs() {
        let choice = |parameters| resolve(json!({}), json!({"parameters": parameters})).unwrap().choice;
        assert_eq!(choice(json!({"topK": -1})), Choice::Top(None));
        assert_eq!(choice(json!({"outputIndices": [2, 0]})), Choice::Indices(vec![vec![2], vec![0]]));
        assert_eq!(choice(json!({"topK": 2, "outputIndices": [[1, 2]]})), Choice::Indices(vec![vec![1, 2]]));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let shapley = |count| json!({"parameters": {"sampledShapleyAttribution": {"pathCount": count}}});
        for count in [-1, 51] {
            assert_eq!(field(shapley(count)), "explanationSpecOverride.parameters.sampledShapleyAttribution.pathCount");
        }
        assert_eq!(field(json!({"parameters": {"topK": -2}})), "explanationSpecOverride.parameters.topK");
        for indices in [json!([-1]), json!([0.5]), json!(["a"])] {
            let path = "explanationSpecOverride.parameters.outputIndices";
            assert_eq!(field(json!({"parameters": {"outputIndices": indices}})), path);
        }
        for method in ["integratedGradientsAttribution", "xraiAttribution", "examples"] {
            let path = format!("explanationSpecOverride.parameters.{method}");
            assert_eq!(field(json!({"parameters": {method: {}}})), path);
            let refused = resolve(json!({"parameters": {method: {}}}), json!({}));
            assert_eq!(refused.unwrap_err(), SpecError::Method(method));
        }
        assert_eq!(field(json!({"examplesOverride": {}})), "explanationSpecOverride.examplesOverride");
        let uneven =
            json!({"metadata": {"inputs": {"a": {"inputBaselines": [1, 2]}, "b": {"inputBaselines": [1, 2, 3]}}}});
        assert_eq!(field(uneven), "explanationSpecOverride.metadata.inputs.a.inputBaselines");
    }
}
