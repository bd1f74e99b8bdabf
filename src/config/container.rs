//! Vertex AI's contract for custom containers: what it says by variables named `AIP_*`.
//!
//! Source: "Custom container requirements for inference", section "Environment variables". `AIP_GRPC_PORT` and
//! `AIP_STORAGE_DIR` are not in that table; Google's own serving containers read them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::artifact::ArtifactUri;

use super::environment::{Environment, raw};
use super::error::{Origin, Problem, ProblemKind};
use super::layers::{self, Node, Schema, Table, Value};

/// What Vertex AI said. All empty outside of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Container {
    /// A path that answers as `/health` does, beginning with '/'.
    pub health_route: Option<String>,
    /// A path that answers as `/predict` does, beginning with '/'.
    pub predict_route: Option<String>,
    /// The directory of `AIP_STORAGE_DIR`, or the directory or URI of `AIP_STORAGE_URI`, if it is the one that is served:
    /// `repository.directory` is then the same. It may hold the files of a single model, without a name.
    pub storage: Option<PathBuf>,
    /// Where gRPC is expected: `grpc.port` where that is "auto".
    pub grpc_port: Option<u16>,
    /// The rest, by the variables' names without `AIP_`, in lower case: `endpoint_id`, `mode`...
    pub labels: BTreeMap<String, String>,
    /// Whether a port was assigned by `AIP_HTTP_PORT`. Only those that are assigned can be reached.
    pub(super) is_assigned_a_port: bool,
}

impl Container {
    /// Whether this runs in Vertex AI, or in something that plays its part.
    pub fn is_vertex(&self) -> bool {
        self.is_assigned_a_port || self.labels.contains_key("mode")
    }
}

const LABELS: [&str; 10] = [
    "AIP_ENDPOINT_ID",
    "AIP_DEPLOYED_MODEL_ID",
    "AIP_MODEL_NAME",
    "AIP_VERSION_NAME",
    "AIP_PROJECT_NUMBER",
    "AIP_FRAMEWORK",
    "AIP_MODE",
    "AIP_MODE_VERSION",
    "AIP_MACHINE_TYPE",
    "AIP_ACCELERATOR_TYPE",
];

/// Lays what is a setting over the tree and gives the rest. With `ignore_storage`, a flag has the last word on where
/// models lie.
pub(super) fn overlay(
    tree: &mut Table,
    environment: &Environment,
    ignore_storage: bool,
    schema: &Schema,
    problems: &mut Vec<Problem>,
) -> Container {
    let mut container = Container {
        health_route: route("AIP_HEALTH_ROUTE", environment, problems),
        predict_route: route("AIP_PREDICT_ROUTE", environment, problems),
        ..Container::default()
    };
    if let (Some(health), Some(predict)) = (&container.health_route, &container.predict_route)
        && health == predict
    {
        let reason = format!(
            "is {predict:?}, and so is AIP_HEALTH_ROUTE: nobody could tell a probe from a prediction; give one of them \
             another path"
        );
        problems.push(Problem {
            origin: Origin::Environment("AIP_PREDICT_ROUTE".to_owned()),
            key: String::new(),
            kind: ProblemKind::Inconsistent(reason),
        });
    }
    if let Some(port) = environment.get("AIP_HTTP_PORT") {
        container.is_assigned_a_port = true;
        let layer = layers::single("server.port", raw("AIP_HTTP_PORT", port));
        layers::overlay(tree, layer, "", schema, problems);
    }
    if let Some(port) = environment.get("AIP_GRPC_PORT") {
        container.grpc_port = port.parse().ok();
        if container.grpc_port.is_none() {
            problems.push(invalid("AIP_GRPC_PORT", "an integer from 0 to 65535", "8500", port));
        }
    }
    if !ignore_storage && let Some((variable, storage)) = storage(environment) {
        match storage {
            Ok(directory) => {
                let value = Value::String(directory.to_string_lossy().into_owned());
                let origin = Origin::Environment(variable.to_owned());
                let layer = layers::single("repository.directory", Node { value, origin });
                layers::overlay(tree, layer, "", schema, problems);
                container.storage = Some(directory);
            }
            Err(problem) => problems.push(problem),
        }
    }
    for variable in LABELS {
        if let Some(value) = environment.get(variable) {
            let name = variable.trim_start_matches("AIP_").to_lowercase();
            container.labels.insert(name, value.to_owned());
        }
    }
    container
}

fn route(variable: &str, environment: &Environment, problems: &mut Vec<Problem>) -> Option<String> {
    let route = environment.get(variable)?;
    let is_path = |character: char| !character.is_whitespace() && !matches!(character, '?' | '#');
    if route.starts_with('/') && route.chars().all(is_path) {
        return Some(route.to_owned());
    }
    let expected = "a path that begins with '/', without spaces, '?' and '#'";
    problems.push(invalid(variable, expected, "/predict", route));
    None
}

/// The variable that says where the model's files lie, and what it says.
fn storage(environment: &Environment) -> Option<(&'static str, Result<PathBuf, Problem>)> {
    if let Some(directory) = environment.get("AIP_STORAGE_DIR") {
        return Some(("AIP_STORAGE_DIR", Ok(PathBuf::from(directory))));
    }
    let uri = environment.get("AIP_STORAGE_URI")?;
    let directory = match ArtifactUri::parse(uri) {
        Ok(ArtifactUri::Folder(folder)) => Ok(folder),
        // Fetched when the models are loaded.
        Ok(ArtifactUri::Objects(objects)) => Ok(PathBuf::from(objects.to_string())),
        Err(_) => {
            let expected = "gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, an absolute path or a file:// URI";
            Err(invalid("AIP_STORAGE_URI", expected, "gs://my-bucket/models/vit", uri))
        }
    };
    Some(("AIP_STORAGE_URI", directory))
}

fn invalid(variable: &str, expected: &str, example: &str, found: &str) -> Problem {
    Problem {
        origin: Origin::Environment(variable.to_owned()),
        key: String::new(),
        kind: ProblemKind::Invalid {
            expected: expected.to_owned(),
            example: example.to_owned(),
            found: format!("{found:?}"),
        },
    }
}
