//! `tessera models`: what the repository holds.

use std::io::Write;

use serde_json::{Value, json};

use super::args::ModelsArgs;
use super::table::Table;
use super::{Failure, local};
use crate::config::Settings;
use crate::engine::TensorSpec;
use crate::repository::{LoadOptions, ModelFolder, RepositoryError, describe, file_bytes, find_models};
use crate::task::Task;

/// Lists every version of every model. One that can't be loaded is in the list too, with the reason.
pub fn run(arguments: &ModelsArgs, settings: &Settings, out: &mut dyn Write) -> Result<(), Failure> {
    let options = local::options_alone(settings);
    let found = find_models(&settings.repository.directory).map_err(Failure::new)?;
    let mut table = Table::new(["name", "version", "task", "input", "labels", "size", "provider"]);
    let mut broken: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    for folder in &found.models {
        let described = row(folder, &options);
        if let Err(error) = &described {
            broken.push(format!("model {:?} version {}: {error}", folder.name, folder.version));
        }
        if arguments.json {
            writeln!(out, "{}", as_json(folder, described))?;
        } else if let Ok(row) = described {
            let megabytes = format!("{:.1} MB", row.bytes as f64 / 1e6);
            let version = folder.version.to_string();
            table.row([
                folder.name.clone(),
                version,
                row.task.into(),
                row.input,
                row.labels.map_or_else(|| "-".to_owned(), |labels| labels.to_string()),
                megabytes,
                row.provider,
            ]);
        }
    }
    table.print(out)?;
    if broken.is_empty() { Ok(()) } else { Err(Failure(broken.join("\nerror: "))) }
}

struct Row {
    task: &'static str,
    input: String,
    labels: Option<usize>,
    bytes: u64,
    provider: String,
}

fn row(folder: &ModelFolder, options: &LoadOptions) -> Result<Row, RepositoryError> {
    let (manifest, model, task) = describe(folder, options)?;
    let labels = match &task {
        Task::ImageClassification(classifier) => Some(classifier.labels.len()),
        Task::Tensors(_) => None,
    };
    Ok(Row {
        task: task.name(),
        input: model.signature().inputs.iter().map(TensorSpec::to_string).collect::<Vec<_>>().join(", "),
        labels,
        bytes: file_bytes(&manifest.file),
        provider: model.provider().to_string(),
    })
}

fn as_json(folder: &ModelFolder, described: Result<Row, RepositoryError>) -> Value {
    match described {
        Ok(row) => json!({
            "name": folder.name, "version": folder.version, "task": row.task, "input": row.input,
            "labels": row.labels, "bytes": row.bytes, "provider": row.provider,
        }),
        Err(error) => json!({"name": folder.name, "version": folder.version, "error": error.to_string()}),
    }
}
