//! Finding and loading ONNX Runtime's shared library.
//!
//! Nothing is linked at build time: the binary starts without the library, and one binary serves the CPU and the
//! CUDA build of it. A process loads it once and has one environment, for ever.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use thiserror::Error;

/// Where `make` keeps the library: a folder of the repository that this binary was built in.
const REPOSITORY_DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.onnxruntime/lib");

#[cfg(target_os = "macos")]
const FILE_NAME: &str = "libonnxruntime.dylib";
#[cfg(not(target_os = "macos"))]
const FILE_NAME: &str = "libonnxruntime.so";

/// Why the library could not be used. The text says what was looked for, where, and what mends it.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// It is in none of the usual places.
    #[error(
        "ONNX Runtime ({FILE_NAME}, 1.24 or newer) was not found. Looked in:{}\n\
         Run `make runtime` in Tessera's repository, or set ORT_DYLIB_PATH (or `engine.library`) to its path.",
        Places(.0)
    )]
    NotFound(Vec<PathBuf>),
    /// It was named by a setting, but isn't there.
    #[error(
        "ONNX Runtime was not found at {}, the path that ORT_DYLIB_PATH or `engine.library` names. \
         Correct or remove it; `make runtime` fetches a copy that is found by itself.",
        .0.display()
    )]
    NotThere(PathBuf),
    /// It is there, but can't be loaded or has the wrong version.
    #[error("ONNX Runtime could not be used: {0}. Run `make runtime` to fetch the version that Tessera needs.")]
    Unusable(String),
}

/// Prints each path on a line of its own.
struct Places<'a>(&'a [PathBuf]);

impl fmt::Display for Places<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|place| write!(formatter, "\n  {}", place.display()))
    }
}

/// The places where the library may lie, best first: beside the executable, in `../lib` of it, in the repository.
fn candidates(executable: Option<&Path>) -> Vec<PathBuf> {
    let beside = executable.and_then(Path::parent);
    let library = beside.and_then(Path::parent).map(|parent| parent.join("lib"));
    [beside.map(Path::to_path_buf), library, Some(PathBuf::from(REPOSITORY_DIRECTORY))]
        .into_iter()
        .flatten()
        .map(|directory| directory.join(FILE_NAME))
        .collect()
}

/// The file to load. An explicit path has no fallback: who names a library wants that one.
fn locate(explicit: Option<&Path>) -> Result<PathBuf, LibraryError> {
    // The runtime seeks its providers beside the path that it was opened by, so a link must be followed first.
    if let Some(path) = explicit {
        return path.canonicalize().map_err(|_| LibraryError::NotThere(path.to_path_buf()));
    }
    let executable = std::env::current_exe().and_then(|path| path.canonicalize()).ok();
    let places = candidates(executable.as_deref());
    places.iter().find_map(|place| place.canonicalize().ok()).ok_or(LibraryError::NotFound(places))
}

/// Gives the process's ONNX Runtime environment, loading the library on the first call.
///
/// Later calls give the same environment, whatever path they name: a process has only one.
///
/// # Errors
/// [`LibraryError`] when the library is missing, broken or of the wrong version.
pub fn environment(explicit: Option<&Path>) -> Result<Environment, LibraryError> {
    static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);
    let mut slot = ENVIRONMENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(environment) = slot.as_ref() {
        return Ok(environment.clone());
    }
    let path = locate(explicit)?;
    let builder = ort::init_from(&path).map_err(|error| LibraryError::Unusable(error.to_string()))?;
    let environment = builder
        .with_name("tessera")
        .with_telemetry(false)
        .build()
        .map_err(|error| LibraryError::Unusable(error.to_string()))?;
    tracing::debug!(library = %path.display(), "loaded ONNX Runtime");
    *slot = Some(environment.clone());
    Ok(environment)
}

/// Loads the libraries of a folder that the CUDA provider needs and the system's loader would not find, such as
/// those of NVIDIA's Python wheels. Files that can't be loaded on their own are tried again after the others, as
/// they may depend on them.
///
/// # Errors
/// [`LibraryError::Unusable`] when the folder can't be read.
pub fn preload(directory: &Path) -> Result<(), LibraryError> {
    let unreadable =
        |error| LibraryError::Unusable(format!("`engine.library_directories`: {}: {error}", directory.display()));
    let mut waiting: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(unreadable)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")))
        .collect();
    waiting.sort();
    loop {
        let before = waiting.len();
        waiting.retain(|path| ort::util::preload_dylib(path).is_err());
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    for path in waiting {
        tracing::debug!(library = %path.display(), "could not be preloaded");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_library_has_no_fallback() {
        let path = Path::new("/nowhere/libonnxruntime.so");
        let error = locate(Some(path)).unwrap_err();
        assert!(matches!(&error, LibraryError::NotThere(missing) if missing == path), "{error}");
        assert!(error.to_string().contains("make runtime"), "{error}");
    }

    #[test]
    fn the_executable_comes_before_the_repository() {
        let places = candidates(Some(Path::new("/opt/tessera/bin/tessera")));
        assert_eq!(places[0], Path::new("/opt/tessera/bin").join(FILE_NAME));
        assert_eq!(places[1], Path::new("/opt/tessera/lib").join(FILE_NAME));
        assert_eq!(places[2], Path::new(REPOSITORY_DIRECTORY).join(FILE_NAME));
    }

    #[test]
    fn a_missing_library_is_explained() {
        let text = LibraryError::NotFound(candidates(Some(Path::new("/opt/bin/tessera")))).to_string();
        assert!(text.contains("/opt/lib/") && text.contains("make runtime"), "{text}");
    }
}
