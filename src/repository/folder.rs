//! Finding models on a disk.
//!
//! A model is a folder with `model.onnx` or `onnx/model.onnx`. A repository holds `NAME/VERSION/` (versions are whole
//! numbers) or `NAME/` (version 1); and a folder that is itself a model stands for a repository with just that one,
//! which is what `AIP_STORAGE_URI` names.

use std::path::{Path, PathBuf};

use super::RepositoryError;

/// One version of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFolder {
    /// The name of the folder, by which requests and settings know the model.
    pub name: String,
    /// From 1.
    pub version: u64,
    /// Where its files lie.
    pub directory: PathBuf,
    /// Folders in which `model.toml` may lie, the one that wins first.
    pub manifest_directories: Vec<PathBuf>,
}

/// The names under which a folder may keep its model, best first.
pub const MODEL_FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// Files by which a model of another kind is known, and what makes ONNX of it.
const OTHER_KINDS: [(&str, &str); 9] = [
    (
        "saved_model.pb",
        "a TensorFlow SavedModel: convert it with `python -m tf2onnx.convert --saved-model DIR --output model.onnx`",
    ),
    ("model.safetensors", "PyTorch weights: export them with `optimum-cli export onnx --model DIR OUTPUT`"),
    ("pytorch_model.bin", "PyTorch weights: export them with `optimum-cli export onnx --model DIR OUTPUT`"),
    ("model.pt", "a PyTorch model: export it with `torch.onnx.export`"),
    ("model.pkl", "a pickled model: convert it with skl2onnx or onnxmltools"),
    ("model.joblib", "a pickled model: convert it with skl2onnx or onnxmltools"),
    ("model.bst", "an XGBoost model: convert it with onnxmltools"),
    (
        "model.tflite",
        "a TensorFlow Lite model: convert it with `python -m tf2onnx.convert --tflite FILE --output model.onnx`",
    ),
    ("config.json", "a description without its model: export it with `optimum-cli export onnx --model DIR OUTPUT`"),
];

/// All models below a folder, by name and then by version.
///
/// Folders that hold no model of any kind are passed over: a repository may keep scripts and notes.
///
/// # Errors
/// When the folder can't be read, when there is no model in it, or when a model in it is of another kind.
pub fn find_models(directory: &Path) -> Result<Vec<ModelFolder>, RepositoryError> {
    if has_model(directory) {
        return Ok(vec![ModelFolder {
            name: folder_name(directory),
            version: 1,
            directory: directory.to_path_buf(),
            manifest_directories: vec![directory.to_path_buf()],
        }]);
    }
    let mut models = Vec::new();
    for child in subfolders(directory)? {
        let versions = versions(&child)?;
        if versions.is_empty() {
            refuse_other_kinds(&child)?;
        }
        models.extend(versions);
    }
    if models.is_empty() {
        refuse_other_kinds(directory)?;
        return Err(RepositoryError::NoModels(directory.to_path_buf()));
    }
    models.sort_by(|a, b| a.name.cmp(&b.name).then(a.version.cmp(&b.version)));
    Ok(models)
}

/// The versions in the folder of one model.
fn versions(directory: &Path) -> Result<Vec<ModelFolder>, RepositoryError> {
    let name = folder_name(directory);
    let folder = |version, path: PathBuf| ModelFolder {
        name: name.clone(),
        version,
        manifest_directories: vec![path.clone(), directory.to_path_buf()],
        directory: path,
    };
    if has_model(directory) {
        return Ok(vec![folder(1, directory.to_path_buf())]);
    }
    let mut found = Vec::new();
    for child in subfolders(directory)? {
        let Ok(version) = folder_name(&child).parse::<u64>() else { continue };
        if has_model(&child) {
            found.push(folder(version, child));
        } else {
            refuse_other_kinds(&child)?;
        }
    }
    Ok(found)
}

/// Whether a folder is a model; one whose `model.toml` names another file counts too.
fn has_model(directory: &Path) -> bool {
    let named = || {
        std::fs::read_dir(directory).is_ok_and(|entries| {
            entries
                .filter_map(Result::ok)
                .any(|entry| entry.path().extension().is_some_and(|extension| extension == "onnx"))
        })
    };
    MODEL_FILES.iter().any(|file| directory.join(file).is_file()) || (directory.join("model.toml").is_file() && named())
}

fn refuse_other_kinds(directory: &Path) -> Result<(), RepositoryError> {
    match OTHER_KINDS.iter().find(|(file, _)| directory.join(file).exists()) {
        Some((_, what)) => Err(RepositoryError::OtherKind { directory: directory.to_path_buf(), what }),
        None => Ok(()),
    }
}

fn subfolders(directory: &Path) -> Result<Vec<PathBuf>, RepositoryError> {
    let unreadable = |error| RepositoryError::Unreadable { path: directory.to_path_buf(), reason: error };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        // Links are followed: Kubernetes mounts volumes by them. Hidden folders are somebody else's.
        if path.is_dir() && !folder_name(&path).starts_with('.') {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// The last part of a path, also of one such as `.` that has to be resolved first.
fn folder_name(directory: &Path) -> String {
    let resolved = match directory.file_name() {
        Some(_) => directory.to_path_buf(),
        None => directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf()),
    };
    resolved.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        root
    }

    fn found(files: &[&str]) -> Vec<(String, u64)> {
        let root = repository(files);
        find_models(root.path()).unwrap().into_iter().map(|model| (model.name, model.version)).collect()
    }

    #[test]
    fn versions_are_whole_numbers_in_order() {
        let files = ["vit/2/model.onnx", "vit/10/model.onnx", "vit/draft/model.onnx", "cat/model.onnx", "scripts/a.py"];
        assert_eq!(found(&files), [("cat".into(), 1), ("vit".into(), 2), ("vit".into(), 10)]);
    }

    #[test]
    fn a_hugging_face_export_is_a_model() {
        assert_eq!(found(&["vit/onnx/model.onnx", "vit/config.json"]), [("vit".into(), 1)]);
    }

    #[test]
    fn a_folder_may_be_the_model_itself() {
        let root = repository(&["bucket/model.onnx", "bucket/config.json"]);
        let models = find_models(&root.path().join("bucket")).unwrap();
        assert_eq!((models[0].name.as_str(), models[0].version, models.len()), ("bucket", 1, 1));
    }

    #[test]
    fn other_kinds_are_told_how_to_become_onnx() {
        for (files, words) in [
            (vec!["a/model.onnx", "vit/1/saved_model.pb"], "tf2onnx"),
            (vec!["vit/model.safetensors", "vit/config.json"], "optimum"),
            (vec!["model.bst"], "onnxmltools"),
        ] {
            let error = find_models(repository(&files).path()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_empty_or_missing_folder_is_an_error() {
        let root = repository(&[]);
        assert!(matches!(find_models(root.path()), Err(RepositoryError::NoModels(_))));
        assert!(matches!(find_models(&root.path().join("no")), Err(RepositoryError::Unreadable { .. })));
    }
}
