//! The models on disk: finding them, understanding their files, and making them ready to serve.

use std::path::PathBuf;

use thiserror::Error;

use crate::engine::onnx::LoadError;

mod folder;
mod image;
mod load;
mod manifest;
mod tensors;

pub use folder::{Found, ModelFolder, find_in_artifact, find_models};
pub use load::{LoadOptions, LoadedModel, describe, file_bytes, load};
pub use manifest::Manifest;

/// Why models can't be served. Each text names the file and what to do.
#[derive(Debug, Error)]
pub enum RepositoryError {
    /// A file or folder can't be read.
    #[error("{} can't be read: {reason} (the models' folder is set by --models DIR or repository.directory)", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// There is nothing to serve.
    #[error(
        "{}: there is no model here. A model is a folder NAME/ or NAME/VERSION/ with model.onnx (and, for images, \
         config.json and preprocessor_config.json); name another place with --models DIR, or set state.directory to serve \
         what is deployed over the API",
        .0.display()
    )]
    NoModels(PathBuf),
    /// A folder with so much below it that nobody means it.
    #[error("{}: there is too much in this folder for it to be a model's; name the one that holds model.onnx", .0.display())]
    TooMany(PathBuf),
    /// A model, but not an ONNX one.
    #[error("{}: there is no model.onnx here, but {what}", directory.display())]
    OtherKind {
        /// Where it lies.
        directory: PathBuf,
        /// What it is, and how to convert it.
        what: &'static str,
    },
    /// A file that can be read but not understood.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// Which one.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// The model takes or gives something else than its description promises.
    #[error("{}: {reason}", path.display())]
    Mismatch {
        /// The ONNX file.
        path: PathBuf,
        /// What doesn't fit, and what to change.
        reason: String,
    },
    /// The engine can't run it.
    #[error(transparent)]
    Engine(#[from] LoadError),
}

impl RepositoryError {
    /// A model whose files and graph don't fit together.
    fn mismatch(path: &std::path::Path, reason: impl Into<String>) -> Self {
        Self::Mismatch { path: path.to_path_buf(), reason: reason.into() }
    }
}
