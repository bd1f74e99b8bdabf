//! From a folder to a model that serves: what the files promise is checked against what the ONNX file takes and gives,
//! now, so that a mismatch is explained here and not at the first request.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RepositoryError;
use super::folder::ModelFolder;
use super::manifest::{EngineOverrides, Manifest, TaskName};
use super::{image, tensors};
use crate::engine::onnx::{Example, OnnxEngine, OnnxModel, OnnxOptions};
use crate::engine::{Engine, Signature, TensorSpec};
use crate::preprocess::DecodeLimits;
use crate::task::Task;
use crate::tensor::ElementType;

/// How models are loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// How they are run; a model's own `[engine]` overrides it.
    pub engine: OnnxOptions,
    /// Whether each session is run once before the model counts as ready.
    pub warm_up: bool,
    /// What decoding one picture may cost.
    pub decode: DecodeLimits,
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
    /// Whether its endpoints are asked by `/invoke/...`.
    pub invoke: bool,
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
    let is_typical = matches!(task, Task::ImageClassification(_));
    let example = options.warm_up.then(|| Example { item: task.example(), is_typical });
    let (engine, outputs) = model.start(&folder.name, example)?;
    if let (Some(outputs), Task::ImageClassification(task)) = (outputs, &task) {
        image::check_outputs(task, &outputs).map_err(|reason| RepositoryError::mismatch(&manifest.file, reason))?;
    }
    Ok(LoadedModel {
        name: folder.name.clone(),
        version: folder.version,
        display_name: manifest.display_name,
        task: Arc::new(task),
        invoke: manifest.overrides.invoke,
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
    let mut model = OnnxModel::open(&manifest.file, &engine_options)?;
    let (name, why) = task_of(&manifest, model.signature());
    let task = match name {
        TaskName::ImageClassification => image::task(folder, &manifest, model.signature(), options.decode)
            .map(|task| Task::ImageClassification(Box::new(task))),
        TaskName::Tensors => tensors::task(folder, &manifest, &mut model).map(Task::Tensors),
    };
    let task = task.map_err(|error| match (error, why) {
        (RepositoryError::Mismatch { path, reason }, Some(why)) => {
            RepositoryError::mismatch(&path, format!("{reason} ({why})"))
        }
        (error, _) => error,
    })?;
    Ok((manifest, model, task))
}

/// What a model is for: what `model.toml` says, else an image classifier when its files look like one. With the reason,
/// where it was guessed.
fn task_of(manifest: &Manifest, signature: &Signature) -> (TaskName, Option<&'static str>) {
    let is_picture = |input: &TensorSpec| {
        input.shape.len() == 4 && matches!(input.element_type, ElementType::Float32 | ElementType::Float16)
    };
    if let Some(task) = manifest.overrides.task {
        (task, None)
    } else if manifest.preprocessor_config.is_some() {
        let why = "taken for an image classifier because there is a preprocessor_config.json; if it is none, set \
                   `task = \"tensors\"` in model.toml";
        (TaskName::ImageClassification, Some(why))
    } else if !manifest.labels.is_empty() && signature.inputs.iter().any(is_picture) {
        let why = "taken for an image classifier because it has labels and an input with four axes; if it is none, set \
                   `task = \"tensors\"` in model.toml";
        (TaskName::ImageClassification, Some(why))
    } else {
        let why = "taken for a model of plain tensors; an image classifier needs preprocessor_config.json beside it, or \
                   `task = \"image-classification\"` in model.toml, and labels";
        (TaskName::Tensors, Some(why))
    }
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
