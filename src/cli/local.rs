//! What the commands that work without a server share: choosing a model, loading it, reading pictures.

use std::io::Read;

use bytes::Bytes;
use serde_json::json;

use super::args::ImageSource;
use super::{Failure, remark};
use crate::artifact::Progress;
use crate::config::Settings;
use crate::repository::{self, LoadOptions, LoadedModel, ModelFolder, find_models};
use crate::startup::{self, load_options};
use crate::task::tensors::Tensors;

/// Brings a repository that is named by a URI to this machine, and tells standard error how far that is.
pub fn fetch_repository(settings: &mut Settings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let progress = |progress: Progress| remark(progress);
    runtime.block_on(startup::fetch_repository(settings, progress)).map(drop).map_err(Failure::new)
}

/// The folder of the model of this name, in its highest version; without a name that of the default endpoint, or the
/// only one there is.
pub fn choose(settings: &Settings, name: Option<&str>) -> Result<ModelFolder, Failure> {
    let found = find_models(&settings.repository.directory).map_err(Failure::new)?.models;
    let wanted = name.unwrap_or(&settings.default_endpoint);
    let is_only = |folder: &ModelFolder| found.iter().all(|other| other.name == folder.name);
    let highest = found.iter().rfind(|folder| folder.name == wanted);
    let only = found.last().filter(|folder| name.is_none() && is_only(folder));
    highest.or(only).cloned().ok_or_else(|| {
        let mut names: Vec<&str> = found.iter().map(|folder| folder.name.as_str()).collect();
        names.dedup();
        let directory = settings.repository.directory.display();
        Failure(format!(
            "there is no model {wanted:?} in {directory}; there are: {} (choose with --model)",
            names.join(", ")
        ))
    })
}

/// What the commands that take pictures say about a model that takes none.
pub fn no_images(task: &Tensors, name: &str) -> Failure {
    let example = json!({"instances": [task.example_instance()]});
    Failure(format!(
        "model {name:?} takes numbers or strings, not images. Start `tessera serve` and send it, for example:\n  \
         curl -H 'Content-Type: application/json' -d '{example}' http://localhost:8080/v1/endpoints/{name}:predict"
    ))
}

/// Loads a model for one caller: one session that uses all cores.
pub fn load_alone(settings: &Settings, folder: &ModelFolder) -> Result<LoadedModel, Failure> {
    repository::load(folder, &options_alone(settings))
        .map_err(|error| Failure(format!("model {:?}: {error}", folder.name)))
}

/// How to load a model for one caller.
pub fn options_alone(settings: &Settings) -> LoadOptions {
    let mut options = load_options(settings);
    if options.engine.workers == 0 {
        options.engine.workers = 1;
    }
    options.warm_up = false;
    options
}

/// The bytes of a picture.
pub fn read_image(source: &ImageSource) -> Result<Bytes, Failure> {
    match source {
        ImageSource::Stdin => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .map_err(|error| Failure(format!("standard input: {error}")))?;
            Ok(bytes.into())
        }
        ImageSource::File(path) => match std::fs::read(path) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(Failure(format!("{}: {error}", path.display()))),
        },
    }
}

/// What a picture is called in output.
pub fn image_name(source: &ImageSource) -> String {
    match source {
        ImageSource::Stdin => "-".to_owned(),
        ImageSource::File(path) => path.display().to_string(),
    }
}
