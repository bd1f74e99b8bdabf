//! From an artifact's URI to a model's folder.

use std::path::{Path, PathBuf};

use crate::protocol::status::{Code, Status};
use crate::repository::{ModelFolder, RepositoryError, find_models};

/// The local folder of an artifact.
pub async fn fetch(uri: &str) -> Result<PathBuf, Status> {
    let path = match uri.strip_prefix("file://") {
        Some(path) => path,
        None if uri.contains("://") => {
            let message = format!("the artifact {uri} can't be fetched: only local folders and file:// can");
            return Err(Status::new(Code::FailedPrecondition, message));
        }
        None => uri,
    };
    match Path::new(path) {
        path if path.is_absolute() && path.is_dir() => Ok(path.to_owned()),
        _ => Err(Status::new(Code::NotFound, format!("there is no folder {uri} (it must be an absolute path)"))),
    }
}

/// The folder as that of a model's version. It may hold the model itself, or, as a repository would, one folder with it.
pub fn folder(uri: &str, directory: &Path, model: &str, version: u64) -> Result<ModelFolder, Status> {
    let named = |error: RepositoryError| {
        let mut status = Status::from(error);
        status.message = status.message.replace(&*directory.to_string_lossy(), uri);
        status
    };
    let mut found = find_models(directory).map_err(named)?;
    if let Some(problem) = found.problems.into_iter().next() {
        return Err(named(problem));
    }
    match found.models.pop() {
        Some(folder) if found.models.is_empty() => Ok(ModelFolder { name: model.to_owned(), version, ..folder }),
        _ => {
            let message = format!("{uri} holds several models; artifactUri must name the folder of one");
            Err(Status::new(Code::FailedPrecondition, message))
        }
    }
}
