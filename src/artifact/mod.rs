//! Model files, wherever they lie: a folder of this machine is used in place, what lies in an object store is brought
//! here first.
//!
//! [`Artifacts::fetch`] takes `gs://bucket/prefix`, `s3://bucket/prefix`, `file:///folder` and absolute paths. Knows nothing
//! of models: what the files mean is the [repository](crate::repository)'s matter.

use std::fmt;
use std::path::{Path, PathBuf};

use thiserror::Error;

mod uri;

pub use uri::{ArtifactUri, ObjectUri, Store, is_uri};

/// What [`Artifacts`] needs to know.
#[derive(Debug, Clone, Default)]
pub struct ArtifactSettings {
    /// Folders that stand in for prefixes of object stores.
    pub map: Vec<(ObjectUri, PathBuf)>,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here.
    pub done: u64,
    /// Bytes in all; 0 as long as that isn't known.
    pub total: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            0 => write!(formatter, "downloading"),
            total => write!(formatter, "downloading, {} of {} bytes", self.done, total),
        }
    }
}

/// Brings artifacts to this machine. One for the process.
#[derive(Debug)]
pub struct Artifacts {
    settings: ArtifactSettings,
}

/// The files of an artifact on this machine.
#[derive(Debug)]
pub struct LocalArtifact {
    /// The folder that holds them. Its last segment, or the one above if that is a version, is the artifact's own name.
    pub directory: PathBuf,
}

/// Why an artifact can't be had. Each text names the URI and what to do; none holds a secret.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// It can't be a URI of an artifact.
    #[error("{uri:?} can't be used as an artifact's URI: {reason}")]
    Uri {
        /// As it was written.
        uri: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The folder can't be used.
    #[error("{uri}: {} {reason}", directory.display())]
    Folder {
        /// What was asked for.
        uri: String,
        /// The folder that it means.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing lies at this URI.
    #[error("{uri}: {reason}")]
    NotFound {
        /// What was asked for.
        uri: String,
        /// What isn't there.
        reason: String,
    },
}

impl Artifacts {
    /// With these settings; touches nothing yet.
    pub fn new(settings: ArtifactSettings) -> Self {
        Self { settings }
    }

    /// Makes the files below `uri` available in a folder of this machine. `progress` is told of every change, at least
    /// every two seconds while anything is under way.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub async fn fetch(
        &self,
        uri: &str,
        _progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<LocalArtifact, ArtifactError> {
        match ArtifactUri::parse(uri)? {
            ArtifactUri::Folder(folder) => in_place(uri, folder).await,
            ArtifactUri::Objects(objects) => match uri::mapped(&self.settings.map, &objects) {
                Some(folder) => in_place(uri, folder).await,
                None => Err(ArtifactError::NotFound {
                    uri: objects.to_string(),
                    reason: "no entry of artifacts.map stands in for it".to_owned(),
                }),
            },
        }
    }
}

/// A folder of this machine as it stands.
async fn in_place(uri: &str, directory: PathBuf) -> Result<LocalArtifact, ArtifactError> {
    // A look at a disk, which may be a network's.
    let look = |directory: PathBuf| async move {
        tokio::task::spawn_blocking(move || is_usable(&directory)).await.unwrap_or_else(|error| Err(error.to_string()))
    };
    match look(directory.clone()).await {
        Ok(()) => Ok(LocalArtifact { directory }),
        Err(reason) => Err(ArtifactError::Folder { uri: uri::shown(uri), directory, reason }),
    }
}

fn is_usable(directory: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(directory).map_err(|error| format!("can't be read: {error}"))?;
    if !metadata.is_dir() {
        return Err("is not a folder; name the folder that holds the model's files".to_owned());
    }
    let mut entries = std::fs::read_dir(directory).map_err(|error| format!("can't be read: {error}"))?;
    match entries.next() {
        Some(_) => Ok(()),
        None => Err("is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fetch(artifacts: &Artifacts, uri: &str) -> Result<PathBuf, String> {
        artifacts.fetch(uri, |_| {}).await.map(|local| local.directory).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn folders_are_used_in_place() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("my vit");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), "x").unwrap();
        let ArtifactUri::Objects(prefix) = ArtifactUri::parse("gs://local-bucket/models").unwrap() else { panic!() };
        let artifacts = Artifacts::new(ArtifactSettings { map: vec![(prefix, root.path().to_owned())] });
        for uri in [
            folder.to_str().unwrap().to_owned(),
            format!("file://{}", folder.to_str().unwrap().replace(' ', "%20")),
            "gs://local-bucket/models/my vit".to_owned(),
            "gs://local-bucket/models/my vit/".to_owned(),
        ] {
            assert_eq!(fetch(&artifacts, &uri).await, Ok(folder.clone()), "{uri}");
        }
        let file = folder.join("model.onnx");
        for (uri, words) in [
            ("gs://local-bucket/models/none", "can't be read"),
            (file.to_str().unwrap(), "is not a folder"),
            ("vit", "absolute path"),
        ] {
            let error = fetch(&artifacts, uri).await.unwrap_err();
            assert!(error.contains(words) && error.contains(uri), "{error}");
        }
        std::fs::create_dir(root.path().join("empty")).unwrap();
        assert!(fetch(&artifacts, "gs://local-bucket/models/empty").await.unwrap_err().contains("is empty"));
    }
}
