//! Which explanation holds for a deployed model: the model's specification, overridden field by field by the deployment's.

use crate::protocol::generated::google::cloud::aiplatform::v1::{
    ExplanationMetadata, ExplanationParameters, ExplanationSpec,
};

/// The specification that holds.
pub fn effective(model: Option<&ExplanationSpec>, deployed: Option<&ExplanationSpec>) -> Option<ExplanationSpec> {
    match (model, deployed) {
        (None, None) => None,
        (Some(one), None) | (None, Some(one)) => Some(one.clone()),
        (Some(model), Some(deployed)) => Some(ExplanationSpec {
            parameters: merged(&model.parameters, &deployed.parameters, parameters),
            metadata: merged(&model.metadata, &deployed.metadata, metadata),
        }),
    }
}

fn merged<T: Clone>(base: &Option<T>, over: &Option<T>, merge: impl FnOnce(&T, &T) -> T) -> Option<T> {
    match (base, over) {
        (Some(base), Some(over)) => Some(merge(base, over)),
        (base, over) => over.clone().or_else(|| base.clone()),
    }
}

fn parameters(base: &ExplanationParameters, over: &ExplanationParameters) -> ExplanationParameters {
    let asks = over.top_k != 0 || over.output_indices.is_some();
    let outputs = if asks { over } else { base };
    ExplanationParameters {
        top_k: outputs.top_k,
        output_indices: outputs.output_indices.clone(),
        method: over.method.clone().or_else(|| base.method.clone()),
    }
}

fn metadata(base: &ExplanationMetadata, over: &ExplanationMetadata) -> ExplanationMetadata {
    let mut merged = base.clone();
    merged.inputs.extend(over.inputs.clone());
    merged.outputs.extend(over.outputs.clone());
    for (field, value) in [
        (&mut merged.feature_attributions_schema_uri, &over.feature_attributions_schema_uri),
        (&mut merged.latent_space_source, &over.latent_space_source),
    ] {
        if !value.is_empty() {
            field.clone_from(value);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::proto_json;

    fn spec(json: &str) -> ExplanationSpec {
        proto_json::read(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_deployment_overrides_field_by_field() {
        let model = spec(
            r#"{"parameters":{"sampledShapleyAttribution":{"pathCount":10},"topK":2},
                "metadata":{"inputs":{"a":{"inputTensorName":"x"}},"outputs":{"o":{"outputTensorName":"y"}}}}"#,
        );
        let deployed =
            spec(r#"{"parameters":{"sampledShapleyAttribution":{"pathCount":25}},"metadata":{"inputs":{"b":{}}}}"#);
        let expected = spec(
            r#"{"parameters":{"sampledShapleyAttribution":{"pathCount":25},"topK":2},
                "metadata":{"inputs":{"a":{"inputTensorName":"x"},"b":{}},"outputs":{"o":{"outputTensorName":"y"}}}}"#,
        );
        assert_eq!(effective(Some(&model), Some(&deployed)), Some(expected));
        assert_eq!(effective(Some(&model), None), Some(model.clone()));
        assert_eq!(effective(None, Some(&model)), Some(model.clone()));
        let others = effective(Some(&model), Some(&spec(r#"{"parameters":{"outputIndices":[1]}}"#))).unwrap();
        assert_eq!(others.parameters.unwrap().top_k, 0);
    }
}
