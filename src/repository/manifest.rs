//! What a model's folder says about it: Hugging Face's `config.json` and `preprocessor_config.json`, and our optional
//! `model.toml`, which overrides them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::RepositoryError;
use super::folder::{MODEL_FILES, ModelFolder};
use crate::preprocess::PreprocessOverrides;
use crate::task::image_classification::Activation;

/// `model.toml`: everything is optional.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelToml {
    /// What people call the model; the folder's name if absent.
    pub display_name: Option<String>,
    /// What the model is for; guessed from its files if absent.
    pub task: Option<TaskName>,
    /// The ONNX file, relative to the folder.
    pub file: Option<PathBuf>,
    /// A text file with the name of one class a line, relative to the folder; replaces `id2label`.
    pub labels: Option<PathBuf>,
    /// Overrides of `preprocessor_config.json`.
    pub preprocess: PreprocessOverrides,
    /// What becomes of the scores.
    pub postprocess: Postprocess,
    /// Overrides of the server's `[engine]`.
    pub engine: EngineOverrides,
    /// Whether endpoints of the model are asked by `/invoke/...`, and no longer by `predict` and the like.
    pub invoke: bool,
}

/// The tasks as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "see Task")]
pub enum TaskName {
    ImageClassification,
    Tensors,
}

/// `[postprocess]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Postprocess {
    /// `softmax`, `sigmoid` or `none`.
    pub activation: Option<ActivationName>,
    /// For tensors: an output of shape [batch, 1] is written as one value a row, not as a list of one.
    pub flatten: Option<bool>,
    /// For tensors: the names of the outputs that are given back; all if absent.
    pub outputs: Option<Vec<String>>,
}

/// [`Activation`] as it is written.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "see Activation")]
pub enum ActivationName {
    Softmax,
    Sigmoid,
    None,
}

/// `[engine]` of one model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "config.toml documents them")]
pub struct EngineOverrides {
    pub provider: Option<String>,
    pub fallback: Option<bool>,
    pub device_id: Option<i32>,
    pub workers: Option<usize>,
    pub threads: Option<usize>,
    pub spin: Option<bool>,
    pub max_batch: Option<usize>,
}

/// What is known of a model before it is loaded.
#[derive(Debug)]
pub struct Manifest {
    /// What people call the model.
    pub display_name: String,
    /// The ONNX file.
    pub file: PathBuf,
    /// The name of each class in the order of the scores; empty when the folder doesn't say.
    pub labels: Vec<Arc<str>>,
    /// What makes confidences of scores.
    pub activation: Activation,
    /// The text of `preprocessor_config.json`.
    pub preprocessor_config: Option<String>,
    /// What `model.toml` says.
    pub overrides: ModelToml,
}

/// The keys of `config.json` that matter here.
#[derive(Debug, Default, Deserialize)]
struct HuggingFaceConfig {
    id2label: Option<BTreeMap<String, String>>,
    problem_type: Option<String>,
}

impl Manifest {
    /// Reads the files of a model's folder.
    ///
    /// # Errors
    /// [`RepositoryError`] names the file and what is wrong in it.
    pub fn read(folder: &ModelFolder) -> Result<Self, RepositoryError> {
        let overrides = model_toml(folder)?;
        let directory = &folder.directory;
        let file = match &overrides.file {
            Some(file) => existing(directory.join(file), "the file that model.toml names is missing")?,
            None => MODEL_FILES
                .iter()
                .map(|file| directory.join(file))
                .find(|file| file.is_file())
                .ok_or_else(|| invalid(directory, "has no model.onnx; name the file with `file` in model.toml"))?,
        };
        let config_path = directory.join("config.json");
        let config: HuggingFaceConfig = match read_optional(&config_path)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| invalid(&config_path, error.to_string()))?,
            None => HuggingFaceConfig::default(),
        };
        let labels = match (&overrides.labels, config.id2label) {
            (Some(file), _) => label_lines(&directory.join(file))?,
            (None, Some(labels)) => ordered_labels(labels).map_err(|reason| invalid(&config_path, reason))?,
            (None, None) => Vec::new(),
        };
        let activation = match (overrides.postprocess.activation, config.problem_type.as_deref()) {
            (Some(ActivationName::Softmax), _) => Activation::Softmax,
            (Some(ActivationName::Sigmoid), _) => Activation::Sigmoid,
            (Some(ActivationName::None), _) => Activation::None,
            (None, Some("multi_label_classification")) => Activation::Sigmoid,
            (None, _) => Activation::Softmax,
        };
        Ok(Self {
            display_name: overrides.display_name.clone().unwrap_or_else(|| folder.name.clone()),
            file,
            labels,
            activation,
            preprocessor_config: read_optional(&directory.join("preprocessor_config.json"))?,
            overrides,
        })
    }
}

/// The first `model.toml` of the folders in which it may lie.
fn model_toml(folder: &ModelFolder) -> Result<ModelToml, RepositoryError> {
    for directory in &folder.manifest_directories {
        let path = directory.join("model.toml");
        if let Some(text) = read_optional(&path)? {
            return toml::from_str(&text).map_err(|error| invalid(&path, error.to_string()));
        }
    }
    Ok(ModelToml::default())
}

/// Labels by their numbers, which JSON can only write as strings: "10" comes after "2".
fn ordered_labels(labels: BTreeMap<String, String>) -> Result<Vec<Arc<str>>, String> {
    let numbered: BTreeMap<usize, String> = labels
        .into_iter()
        .map(|(key, label)| match key.parse() {
            Ok(index) => Ok((index, label)),
            Err(_) => Err(format!("id2label: the key {key:?} is not a whole number")),
        })
        .collect::<Result<_, _>>()?;
    match numbered.keys().enumerate().find(|(expected, index)| expected != *index) {
        Some((missing, _)) => Err(format!("id2label: class {missing} has no label")),
        None => Ok(numbered.into_values().map(Arc::from).collect()),
    }
}

fn label_lines(path: &Path) -> Result<Vec<Arc<str>>, RepositoryError> {
    let text =
        read_optional(path)?.ok_or_else(|| invalid(path, "the file that `labels` in model.toml names is missing"))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Arc::from).collect())
}

fn existing(path: PathBuf, reason: &str) -> Result<PathBuf, RepositoryError> {
    if path.is_file() { Ok(path) } else { Err(invalid(&path, reason)) }
}

fn invalid(path: &Path, reason: impl Into<String>) -> RepositoryError {
    RepositoryError::Invalid { path: path.to_path_buf(), reason: reason.into() }
}

fn read_optional(path: &Path) -> Result<Option<String>, RepositoryError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(RepositoryError::Unreadable { path: path.to_path_buf(), reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, ModelFolder) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(root.path().join(name), text).unwrap();
        }
        let directory = root.path().to_path_buf();
        let folder =
            ModelFolder { name: "m".into(), version: 1, manifest_directories: vec![directory.clone()], directory };
        (root, folder)
    }

    fn read(files: &[(&str, &str)]) -> Result<Manifest, RepositoryError> {
        let (_root, folder) = folder(files);
        Manifest::read(&folder)
    }

    #[test]
    fn labels_are_ordered_by_number() {
        let config = (0..12).map(|index| format!(r#""{index}":"label {index}""#)).collect::<Vec<_>>().join(",");
        let manifest =
            read(&[("model.onnx", ""), ("config.json", &format!(r#"{{"id2label":{{{config}}}}}"#))]).unwrap();
        assert_eq!(&*manifest.labels[10], "label 10");
        assert_eq!(&*manifest.labels[2], "label 2");
    }

    #[test]
    fn a_gap_in_the_labels_is_an_error() {
        let error = read(&[("model.onnx", ""), ("config.json", r#"{"id2label":{"0":"a","2":"c"}}"#)]).unwrap_err();
        assert!(error.to_string().contains("class 1 has no label"), "{error}");
    }

    #[test]
    fn model_toml_overrides() {
        let toml = "display_name = \"Cats\"\nfile = \"int8.onnx\"\nlabels = \"names.txt\"\n[postprocess]\nactivation = \"none\"";
        let manifest =
            read(&[("int8.onnx", ""), ("names.txt", "cat\ndog\n"), ("model.toml", toml), ("config.json", "{}")])
                .unwrap();
        assert_eq!(manifest.display_name, "Cats");
        assert!(manifest.file.ends_with("int8.onnx"));
        assert_eq!(manifest.labels.iter().map(|label| &**label).collect::<Vec<_>>(), ["cat", "dog"]);
        assert_eq!(manifest.activation, Activation::None);
    }

    #[test]
    fn a_misspelt_key_is_shown_with_its_line() {
        let error = read(&[("model.onnx", ""), ("model.toml", "[engine]\nworker = 2")]).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("workers"), "{error}");
    }

    #[test]
    fn independent_labels_are_known_from_the_problem_type() {
        let config = r#"{"id2label":{"0":"a"},"problem_type":"multi_label_classification"}"#;
        assert_eq!(read(&[("model.onnx", ""), ("config.json", config)]).unwrap().activation, Activation::Sigmoid);
    }
}
