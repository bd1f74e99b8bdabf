//! From a folder to a model that serves: what the files promise is checked against what the ONNX file takes and gives,
//! now, so that a mismatch is explained here and not at the first request.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RepositoryError;
use super::folder::ModelFolder;
use super::manifest::{EngineOverrides, Manifest};
use crate::engine::onnx::{OnnxEngine, OnnxModel, OnnxOptions};
use crate::engine::{Engine, Signature, TensorSpec};
use crate::preprocess::{PreprocessSpec, Preprocessor};
use crate::task::Task;
use crate::task::image_classification::ImageClassification;
use crate::tensor::{ElementType, Tensor};

/// How models are loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// How they are run; a model's own `[engine]` overrides it.
    pub engine: OnnxOptions,
    /// Whether each session is run once before the model counts as ready.
    pub warm_up: bool,
    /// Pictures with more pixels are refused.
    pub max_pixels: u64,
}

/// A model that is ready to serve.
#[derive(Debug)]
pub struct LoadedModel {
    /// By which settings and requests know it.
    pub name: String,
    /// From 1.
    pub version: u64,
    /// What people call it.
    pub display_name: String,
    /// What it means.
    pub task: Arc<Task>,
    /// What runs it.
    pub engine: Arc<OnnxEngine>,
    /// The size of its files in bytes.
    pub file_bytes: u64,
    /// How long it took to load and warm.
    pub load_time: Duration,
}

/// Loads, checks and warms a model. Blocks for as long as that takes.
///
/// # Errors
/// [`RepositoryError`] says which file is at fault and what to do.
pub fn load(folder: &ModelFolder, options: &LoadOptions) -> Result<LoadedModel, RepositoryError> {
    let begin = Instant::now();
    let (manifest, model, task) = describe(folder, options)?;
    let example = options.warm_up.then(|| task.example());
    let (engine, outputs) = model.start(&folder.name, example)?;
    if let Some(outputs) = outputs {
        check_outputs(&task, &outputs).map_err(|reason| mismatch(&manifest.file, reason))?;
    }
    Ok(LoadedModel {
        name: folder.name.clone(),
        version: folder.version,
        display_name: manifest.display_name,
        task: Arc::new(task),
        engine: Arc::new(engine),
        file_bytes: file_bytes(&manifest.file),
        load_time: begin.elapsed(),
    })
}

/// Does all of [`load`] but running the model.
///
/// # Errors
/// As [`load`].
pub fn describe(folder: &ModelFolder, options: &LoadOptions) -> Result<(Manifest, OnnxModel, Task), RepositoryError> {
    let manifest = Manifest::read(folder)?;
    let engine_options = overridden(&options.engine, &manifest.overrides.engine)
        .map_err(|reason| RepositoryError::Invalid { path: folder.directory.join("model.toml"), reason })?;
    let model = OnnxModel::open(&manifest.file, &engine_options)?;
    let task = image_classification(folder, &manifest, model.signature(), options.max_pixels)?;
    Ok((manifest, model, Task::ImageClassification(task)))
}

fn overridden(options: &OnnxOptions, overrides: &EngineOverrides) -> Result<OnnxOptions, String> {
    let mut options = options.clone();
    if let Some(provider) = &overrides.provider {
        options.provider = provider
            .parse()
            .map_err(|()| format!("engine.provider is {provider:?}; it must be \"cpu\", \"cuda\" or \"tensorrt\""))?;
    }
    let EngineOverrides { provider: _, fallback, device_id, workers, threads, spin, max_batch } = overrides;
    options.fallback = fallback.unwrap_or(options.fallback);
    options.device_id = device_id.unwrap_or(options.device_id);
    options.workers = workers.unwrap_or(options.workers);
    options.threads = threads.unwrap_or(options.threads);
    options.spin = spin.unwrap_or(options.spin);
    options.max_batch = max_batch.unwrap_or(options.max_batch);
    Ok(options)
}

fn mismatch(path: &Path, reason: impl Into<String>) -> RepositoryError {
    RepositoryError::Mismatch { path: path.to_path_buf(), reason: reason.into() }
}

/// Joins the description with the signature.
fn image_classification(
    folder: &ModelFolder,
    manifest: &Manifest,
    signature: &Signature,
    max_pixels: u64,
) -> Result<ImageClassification, RepositoryError> {
    let wrong = |reason: String| mismatch(&manifest.file, reason);
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
        element_type: input.element_type,
        scores_output,
        labels: manifest.labels.clone(),
        activation: manifest.activation,
        max_pixels,
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
        output.shape.len() == 2 && matches!(output.element_type, ElementType::Float32 | ElementType::Float16)
    };
    let outputs = || signature.outputs.iter().enumerate().filter(|(_, output)| fits(output));
    let named = outputs().find(|(_, output)| output.name == "logits");
    named.or_else(|| outputs().next()).map(|(index, _)| index).ok_or_else(|| {
        let names: Vec<String> = signature.outputs.iter().map(ToString::to_string).collect();
        format!("an image classifier has an output float32[batch,classes]; this model has {}", names.join(", "))
    })
}

/// Compares what the model really gave with the description; the values themselves don't matter.
fn check_outputs(task: &Task, outputs: &[Tensor]) -> Result<(), String> {
    let Task::ImageClassification(task) = task;
    let scores = outputs.get(task.scores_output).map_or(0, |scores| scores.shape().iter().product());
    if scores == task.labels.len() {
        return Ok(());
    }
    Err(format!("the model gives {scores} scores for a picture, but there are {} labels", task.labels.len()))
}

/// The size in bytes of a model's file and of external data beside it.
pub fn file_bytes(file: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let is_data = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension == "data" || extension.to_string_lossy().starts_with("onnx_data"))
    };
    let beside = file.parent().and_then(|directory| std::fs::read_dir(directory).ok());
    let data: u64 = beside
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_data(path))
        .map(|path| size(&path))
        .sum();
    size(file) + data
}

impl LoadedModel {
    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        self.engine.signature()
    }
}
