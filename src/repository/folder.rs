//! Finding models on a disk.
//!
//! A model is a folder with `model.onnx` or `onnx/model.onnx`. A repository holds `NAME/VERSION/` (versions are whole
//! numbers) or `NAME/` (version 1); and a folder that is itself a model, or holds nothing but its versions, stands for a
//! repository with just that one, which is what `AIP_STORAGE_URI` names.

use std::path::{Path, PathBuf};

use super::RepositoryError;
use crate::config::is_id;

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
    ("model.pkl", PICKLED),
    ("model.joblib", PICKLED),
    (
        "model.bst",
        "an XGBoost model: convert it where it was trained, with `onnxmltools.convert_xgboost(model, initial_types=[(\"input\", \
         FloatTensorType([None, COLUMNS]))])` (pip install onnxmltools), and save what that gives with \
         `onnx.save(onnx_model, \"model.onnx\")`",
    ),
    (
        "model.tflite",
        "a TensorFlow Lite model: convert it with `python -m tf2onnx.convert --tflite FILE --output model.onnx`",
    ),
    ("config.json", "a description without its model: export it with `optimum-cli export onnx --model DIR OUTPUT`"),
];

/// What scikit-learn's models are saved as, by `pickle` and by `joblib`.
const PICKLED: &str = "a pickled model: convert it where it was trained, with `skl2onnx.to_onnx(model, X[:1], \
    options={\"zipmap\": False})` for scikit-learn (pip install skl2onnx) or `onnxmltools.convert_xgboost` and its like for \
    others, and save what that gives with `onnx.save(onnx_model, \"model.onnx\")`";

/// What a repository holds.
#[derive(Debug, Default)]
pub struct Found {
    /// By name and then by version.
    pub models: Vec<ModelFolder>,
    /// Folders that seem to be meant as models, but can't be.
    pub problems: Vec<RepositoryError>,
}

/// The most files and folders that are looked at, two levels deep, below a repository and below an artifact's folder. A
/// path such as `/`, which holds everything, is told so and not searched.
const MOST_IN_REPOSITORY: usize = 100_000;
const MOST_IN_ARTIFACT: usize = 1000;

/// All models below a folder.
///
/// Folders that hold no model of any kind are passed over: a repository may keep scripts and notes.
///
/// # Errors
/// When the folder can't be read, or when there is neither a model nor the attempt of one in it.
pub fn find_models(directory: &Path) -> Result<Found, RepositoryError> {
    find_within(directory, MOST_IN_REPOSITORY)
}

/// As [`find_models`], where somebody names a folder who knows that it holds one model: it gives up early.
///
/// # Errors
/// As [`find_models`].
pub fn find_in_artifact(directory: &Path) -> Result<Found, RepositoryError> {
    find_within(directory, MOST_IN_ARTIFACT)
}

fn find_within(directory: &Path, most: usize) -> Result<Found, RepositoryError> {
    if has_model(directory) {
        let model = ModelFolder {
            name: lone_name(directory),
            version: 1,
            directory: directory.to_path_buf(),
            manifest_directories: vec![directory.to_path_buf()],
        };
        return Ok(Found { models: vec![model], problems: Vec::new() });
    }
    let mut found = Found::default();
    let mut left = most;
    let children = subfolders(directory, &mut left)?;
    if are_versions(&children) {
        let versions = versions_among(children, directory, &mut found);
        add_model(directory, &lone_name(directory), versions, &mut found);
    } else {
        for child in children {
            find_model(&child, &mut found, &mut left)?;
        }
    }
    if found.models.is_empty() && found.problems.is_empty() {
        return Err(other_kind(directory).unwrap_or_else(|| RepositoryError::NoModels(directory.to_path_buf())));
    }
    found.models.sort_by(|a, b| a.name.cmp(&b.name).then(a.version.cmp(&b.version)));
    Ok(found)
}

/// Adds the model of a folder, if it holds one.
///
/// # Errors
/// When there is more below it than is looked at.
fn find_model(directory: &Path, found: &mut Found, left: &mut usize) -> Result<(), RepositoryError> {
    let versions = if has_model(directory) {
        vec![(1, directory.to_path_buf())]
    } else {
        match subfolders(directory, left) {
            Ok(children) => versions_among(children, directory, found),
            Err(error @ RepositoryError::TooMany(_)) => return Err(error),
            Err(error) => {
                found.problems.push(error);
                return Ok(());
            }
        }
    };
    add_model(directory, &folder_name(directory), versions, found);
    Ok(())
}

/// Those of a model's folders that are versions of it; what else is wrong with them goes to the problems.
fn versions_among(children: Vec<PathBuf>, directory: &Path, found: &mut Found) -> Vec<(u64, PathBuf)> {
    let mut versions = Vec::new();
    for child in children {
        match (version_of(&child), has_model(&child)) {
            (Some(version), true) => versions.push((version, child)),
            (None, true) => found.problems.push(RepositoryError::Invalid {
                reason: "a version must be a whole number from 1, such as `1`; rename the folder".to_owned(),
                path: child,
            }),
            (Some(_), false) => found.problems.extend(other_kind(&child)),
            (None, false) => {}
        }
    }
    if versions.is_empty() {
        found.problems.extend(other_kind(directory));
    }
    versions
}

fn add_model(directory: &Path, name: &str, versions: Vec<(u64, PathBuf)>, found: &mut Found) {
    if !versions.is_empty() && !is_id(name) {
        found.problems.push(RepositoryError::Invalid {
            path: directory.to_path_buf(),
            reason: "a model's name is part of URLs: it must have only letters, digits, '-', '_' and '.', and begin \
                     with a letter or a digit; rename the folder"
                .to_owned(),
        });
        return;
    }
    found.models.extend(versions.into_iter().map(|(version, path)| ModelFolder {
        name: name.to_owned(),
        version,
        manifest_directories: vec![path.clone(), directory.to_path_buf()],
        directory: path,
    }));
}

/// The version that a folder's name is; `01` would be a second name of 1.
fn version_of(directory: &Path) -> Option<u64> {
    let name = folder_name(directory);
    name.parse().ok().filter(|version: &u64| *version > 0 && version.to_string() == name)
}

/// Whether folders are the versions of one model: those of them that are models are named by whole numbers.
fn are_versions(folders: &[PathBuf]) -> bool {
    let mut models = folders.iter().filter(|folder| has_model(folder)).peekable();
    models.peek().is_some() && models.all(|folder| version_of(folder).is_some())
}

/// The name of a folder that is itself the model: its own, or that of the folder above where its own is a version.
fn lone_name(directory: &Path) -> String {
    let resolved = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    let name = match (version_of(&resolved), resolved.parent()) {
        (Some(_), Some(parent)) => folder_name(parent),
        _ => folder_name(&resolved),
    };
    if is_id(&name) { name } else { "model".to_owned() }
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

fn other_kind(directory: &Path) -> Option<RepositoryError> {
    let (_, what) = OTHER_KINDS.iter().find(|(file, _)| directory.join(file).exists())?;
    Some(RepositoryError::OtherKind { directory: directory.to_path_buf(), what })
}

/// The folders below one; each entry is one `left` less.
fn subfolders(directory: &Path, left: &mut usize) -> Result<Vec<PathBuf>, RepositoryError> {
    let unreadable = |error| RepositoryError::Unreadable { path: directory.to_path_buf(), reason: error };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        *left = left.checked_sub(1).ok_or_else(|| RepositoryError::TooMany(directory.to_path_buf()))?;
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
        let found = find_models(root.path()).unwrap();
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        found.models.into_iter().map(|model| (model.name, model.version)).collect()
    }

    #[test]
    fn versions_are_whole_numbers_in_order() {
        let files = ["vit/2/model.onnx", "vit/10/model.onnx", "vit/draft/notes.txt", "cat/model.onnx", "scripts/a.py"];
        assert_eq!(found(&files), [("cat".into(), 1), ("vit".into(), 2), ("vit".into(), 10)]);
    }

    #[test]
    fn a_hugging_face_export_is_a_model() {
        assert_eq!(found(&["vit/onnx/model.onnx", "vit/config.json"]), [("vit".into(), 1)]);
    }

    #[test]
    fn a_folder_may_be_the_model_itself() {
        let root = repository(&["bucket/model.onnx", "bucket/config.json"]);
        let models = find_models(&root.path().join("bucket")).unwrap().models;
        assert_eq!((models[0].name.as_str(), models[0].version, models.len()), ("bucket", 1, 1));
    }

    #[test]
    fn a_folder_may_hold_nothing_but_versions_of_a_model() {
        let root = repository(&["vit/2/model.onnx", "vit/10/model.onnx", "vit/model.toml", "vit/notes/a.txt"]);
        let models = find_models(&root.path().join("vit")).unwrap().models;
        let named: Vec<_> = models.iter().map(|model| (model.name.as_str(), model.version)).collect();
        assert_eq!(named, [("vit", 2), ("vit", 10)]);
        assert_eq!(models[0].manifest_directories[1], root.path().join("vit"));
        assert_eq!(found(&["1/model.onnx", "cat/model.onnx"]), [("1".into(), 1), ("cat".into(), 1)]);
    }

    #[test]
    fn other_kinds_are_told_how_to_become_onnx() {
        for (files, words) in [
            (vec!["a/model.onnx", "vit/1/saved_model.pb"], "tf2onnx"),
            (vec!["vit/model.safetensors", "vit/config.json"], "optimum"),
            (vec!["model.bst"], "onnxmltools.convert_xgboost"),
            (vec!["model.pkl"], "skl2onnx.to_onnx"),
            (vec!["vit/model.joblib"], "skl2onnx.to_onnx"),
            (vec!["saved_model.pb", "variables/variables.index"], "tf2onnx.convert --saved-model"),
        ] {
            let error = match find_models(repository(&files).path()) {
                Ok(found) => found.problems[0].to_string(),
                Err(error) => error.to_string(),
            };
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_seems_to_be_a_model_is_not_passed_over_silently() {
        for file in ["vit/draft/model.onnx", "vit/01/model.onnx", "vit/0/model.onnx", "we ird:name/model.onnx"] {
            let root = repository(&["good/1/model.onnx", file]);
            let found = find_models(root.path()).unwrap();
            assert_eq!((found.models.len(), found.problems.len()), (1, 1), "{file}");
        }
    }

    #[test]
    fn a_flat_folder_named_like_a_version_takes_the_name_above() {
        let root = repository(&["vit/3/model.onnx"]);
        assert_eq!(find_models(&root.path().join("vit/3")).unwrap().models[0].name, "vit");
    }

    #[test]
    fn what_holds_everything_is_not_searched() {
        let many: Vec<String> = (0..=MOST_IN_ARTIFACT).map(|number| format!("vit/{number}.txt")).collect();
        let root = repository(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(matches!(find_in_artifact(root.path()), Err(RepositoryError::TooMany(_))));
        assert!(matches!(find_in_artifact(&root.path().join("vit")), Err(RepositoryError::TooMany(_))));
        assert!(matches!(find_models(root.path()), Err(RepositoryError::NoModels(_))));
        std::fs::write(root.path().join("vit/model.onnx"), "").unwrap();
        assert_eq!(find_in_artifact(&root.path().join("vit")).unwrap().models.len(), 1);
    }

    #[test]
    fn an_empty_or_missing_folder_is_an_error() {
        let root = repository(&[]);
        assert!(matches!(find_models(root.path()), Err(RepositoryError::NoModels(_))));
        assert!(matches!(find_models(&root.path().join("no")), Err(RepositoryError::Unreadable { .. })));
    }
}
