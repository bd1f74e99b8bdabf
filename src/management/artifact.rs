//! From an artifact's files to the folder of a model's version.

use std::path::Path;

use crate::artifact::ArtifactError;
use crate::protocol::status::{Code, Status};
use crate::repository::{ModelFolder, RepositoryError, find_in_artifact};

/// The folder as that of a model's version. It may hold the model itself, or, as a repository would, one folder with it.
pub fn folder(uri: &str, directory: &Path, model: &str, version: u64) -> Result<ModelFolder, Status> {
    let named = |error: RepositoryError| {
        let mut status = Status::from(error);
        status.message = status.message.replace(&*directory.to_string_lossy(), uri);
        status
    };
    let mut found = find_in_artifact(directory).map_err(named)?;
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

impl From<ArtifactError> for Status {
    /// Why an artifact can't be had.
    fn from(error: ArtifactError) -> Self {
        let code = match &error {
            ArtifactError::Uri { .. } => Code::InvalidArgument,
            ArtifactError::NotFound { .. } => Code::NotFound,
            ArtifactError::Folder { .. } | ArtifactError::Refused { .. } => Code::FailedPrecondition,
            ArtifactError::Denied { .. } => Code::PermissionDenied,
            ArtifactError::TooLarge { .. } => Code::ResourceExhausted,
            _ => Code::Unavailable,
        };
        Self::new(code, error.to_string()).because("ARTIFACT_NOT_AVAILABLE")
    }
}
