//! An image classifier: its description against its graph.

use super::RepositoryError;
use super::folder::ModelFolder;
use super::manifest::Manifest;
use crate::engine::{Signature, TensorSpec};
use crate::preprocess::{DecodeLimits, PreprocessSpec, Preprocessor};
use crate::task::image_classification::ImageClassification;
use crate::tensor::{ElementType, Tensor};

/// Joins the description with the signature.
///
/// # Errors
/// [`RepositoryError`] says what doesn't fit, and what to change.
pub(super) fn task(
    folder: &ModelFolder,
    manifest: &Manifest,
    signature: &Signature,
    limits: DecodeLimits,
) -> Result<ImageClassification, RepositoryError> {
    let wrong = |reason: String| RepositoryError::mismatch(&manifest.file, reason);
    let postprocess = &manifest.overrides.postprocess;
    if postprocess.flatten.is_some() || postprocess.outputs.is_some() {
        let reason = "postprocess.flatten and postprocess.outputs are for models of tensors; an image classifier \
                      answers with labels";
        return Err(RepositoryError::Invalid { path: folder.directory.join("model.toml"), reason: reason.to_owned() });
    }
    let [input] = signature.inputs.as_slice() else {
        let names: Vec<String> = signature.inputs.iter().map(ToString::to_string).collect();
        return Err(wrong(format!("an image classifier has one input; this model has {}", names.join(", "))));
    };
    let mut overrides = manifest.overrides.preprocess.clone();
    if overrides.layout.is_none() && is_channels_last(input) {
        overrides.layout = Some("nhwc".to_owned());
    }
    let spec = PreprocessSpec::resolve(&overrides, manifest.preprocessor_config.as_deref())
        .map_err(|error| RepositoryError::Invalid { path: folder.directory.clone(), reason: error.to_string() })?;
    let preprocessor = Preprocessor::new(spec)
        .map_err(|error| RepositoryError::Invalid { path: folder.directory.clone(), reason: error.to_string() })?;
    check_input(input, &preprocessor).map_err(wrong)?;
    let scores_output = scores_output(signature).map_err(wrong)?;
    if manifest.labels.is_empty() {
        return Err(wrong(
            "the classes have no names: config.json must have `id2label`, or model.toml `labels`".to_owned(),
        ));
    }
    let scores = &signature.outputs[scores_output];
    if let Some(classes) = scores.shape[1].filter(|classes| *classes != manifest.labels.len()) {
        return Err(wrong(format!(
            "the model gives scores of {classes} classes ({scores}), but there are {} labels",
            manifest.labels.len()
        )));
    }
    Ok(ImageClassification {
        preprocessor,
        input: input.clone(),
        scores_output,
        labels: manifest.labels.clone(),
        activation: manifest.activation,
        limits,
    })
}

/// Whether an input is surely [batch, height, width, 3].
fn is_channels_last(input: &TensorSpec) -> bool {
    matches!(input.shape.as_slice(), [_, channels, _, Some(3)] if *channels != Some(3))
}

/// Compares the input with what the preprocessing makes.
fn check_input(input: &TensorSpec, preprocessor: &Preprocessor) -> Result<(), String> {
    if !matches!(input.element_type, ElementType::Float32 | ElementType::Float16) {
        return Err(format!("the input {input} must be float32 or float16 for images"));
    }
    let made = preprocessor.output_shape();
    let fits = match input.shape.as_slice() {
        [_, rest @ ..] if rest.len() == 3 => {
            rest.iter().zip(made).all(|(length, made)| length.is_none_or(|it| it == made))
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(format!(
        "the model's input is {input}, but preprocessing makes [batch,{},{},{}]: change `size`, `crop` or `layout` under \
         [preprocess] in model.toml, or preprocessor_config.json",
        made[0], made[1], made[2]
    ))
}

/// The output with the scores: the one called `logits`, else the first with [batch, classes] floats.
fn scores_output(signature: &Signature) -> Result<usize, String> {
    let fits = |output: &TensorSpec| {
        output.shape.len() == 2
            && output.map_keys.is_none()
            && matches!(output.element_type, ElementType::Float32 | ElementType::Float16)
    };
    let outputs = || signature.outputs.iter().enumerate().filter(|(_, output)| fits(output));
    let named = outputs().find(|(_, output)| output.name == "logits");
    named.or_else(|| outputs().next()).map(|(index, _)| index).ok_or_else(|| {
        let names: Vec<String> = signature.outputs.iter().map(ToString::to_string).collect();
        format!("an image classifier has an output float32[batch,classes]; this model has {}", names.join(", "))
    })
}

/// Compares what the model really gave with the description; the values themselves don't matter.
pub(super) fn check_outputs(task: &ImageClassification, outputs: &[Tensor]) -> Result<(), String> {
    let scores = outputs.get(task.scores_output).map_or(0, |scores| scores.shape().iter().product());
    if scores == task.labels.len() {
        return Ok(());
    }
    Err(format!("the model gives {scores} scores for a picture, but there are {} labels", task.labels.len()))
}
