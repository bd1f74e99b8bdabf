//! A model of plain tensors: its description against its graph.

use super::RepositoryError;
use super::folder::ModelFolder;
use super::manifest::Manifest;
use crate::engine::onnx::OnnxModel;
use crate::preprocess::PreprocessOverrides;
use crate::task::tensors::{OutputOptions, Tensors};

/// The items of a batch where nothing else says. A row of a table costs less than running the graph once.
const BATCH: usize = 64;

/// Joins the description with the signature.
///
/// # Errors
/// [`RepositoryError`] says what doesn't fit, and what to change.
pub(super) fn task(
    folder: &ModelFolder,
    manifest: &Manifest,
    model: &mut OnnxModel,
) -> Result<Tensors, RepositoryError> {
    let toml = &manifest.overrides;
    let for_images = [
        (toml.preprocess != PreprocessOverrides::default(), "[preprocess]"),
        (toml.postprocess.activation.is_some(), "postprocess.activation"),
        (toml.labels.is_some(), "labels"),
    ];
    if let Some((_, key)) = for_images.iter().find(|(is_set, _)| *is_set) {
        return Err(RepositoryError::Invalid {
            path: folder.directory.join("model.toml"),
            reason: format!("{key} is for image classifiers; set `task = \"image-classification\"` if this is one"),
        });
    }
    model.prefer_batch(BATCH);
    let options =
        OutputOptions { flatten: toml.postprocess.flatten.unwrap_or(false), names: toml.postprocess.outputs.clone() };
    Tensors::new(model.signature(), &options).map_err(|reason| RepositoryError::mismatch(&manifest.file, reason))
}
