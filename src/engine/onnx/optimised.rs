//! A model's graph as the runtime's optimiser leaves it, in files, for as long as sessions are built from it.
//!
//! Convolutions want their weights in blocks of as many channels as a vector register holds, and a session that loads a
//! model makes a copy of them in that layout. Once the optimised graph is written, these copies are weights like any
//! other: they lie in a file, several sessions share them, and none has to be optimised again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use tempfile::TempDir;

/// The files; removed when this is dropped, or earlier by [`Optimised::remove`].
pub(super) struct Optimised {
    model: PathBuf,
    folder: Mutex<Option<TempDir>>,
}

impl Optimised {
    /// Optimises a model for this machine's CPU. Initializers of `separate` bytes and more go into a file of their own.
    ///
    /// # Errors
    /// When there is no place for temporary files, or the runtime can't load the model or write it.
    pub(super) fn write(environment: &Environment, path: &Path, separate: usize) -> ort::Result<Self> {
        let unwritable = |error: io::Error| ort::Error::new(format!("no temporary folder: {error}"));
        let folder = tempfile::Builder::new().prefix("tessera-").tempdir().map_err(unwritable)?;
        let model = folder.path().join("model.onnx");
        // The level of the log: it would warn that the file is for this machine only.
        let session = Session::builder(environment)?
            .with_log_level(LogLevel::Error)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_optimized_model_path(&model)?
            .with_config_entry("session.optimized_model_external_initializers_file_name", "weights")?
            .with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", separate.to_string())?
            .commit_from_file(path)?;
        drop(session);
        Ok(Self { model, folder: Mutex::new(Some(folder)) })
    }

    /// Where the graph lies.
    pub(super) fn path(&self) -> &Path {
        &self.model
    }

    /// Removes the files: all sessions are built. What is mapped stays.
    pub(super) fn remove(&self) {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
