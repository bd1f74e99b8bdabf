//! Settings: read once at the start, from five layers, and handed down as types.
//!
//! The layers, each over those before it: the built-in `config.toml`, a file, variables `TESSERA__SECTION__KEY`,
//! Vertex AI's variables `AIP_*`, and flags. [`load`] merges them as trees in which each value knows where it was set
//! (`layers`), then reads the result by type and range (`reader`) into [`Settings`]. The built-in file is also
//! the list of the names that exist, so a key can't be without documentation.
//!
//! Nothing here, and nothing that is handed settings, reads the process's environment: that is a parameter.

use std::path::{Path, PathBuf};
use std::sync::Arc;

mod container;
mod endpoints;
mod environment;
mod error;
mod layers;
mod log_level;
mod print;
mod reader;
mod settings;
pub mod suggest;
mod units;

pub use container::Container;
pub use endpoints::{DeployedModel, Endpoint, is_id};
pub use environment::Environment;
pub use error::{ConfigError, Origin, Problem, ProblemKind};
pub use log_level::check as check_log_level;
pub use settings::{
    Artifacts, Auth, Cuda, Engine, Grpc, Limits, Log, OnError, Repository, Secrets, Server, Settings, State, TensorRt,
    Tls,
};
pub use units::parse_duration;

use layers::{Node, Schema, Table, Value};
use reader::Reader;

/// The commented reference of every setting, which is also the lowest layer.
pub const REFERENCE: &str = include_str!("../../config.toml");

/// The file that is read where none is named, if it exists.
pub const FILE: &str = "config.toml";

/// A setting that a flag of the command line overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The key's full path, such as `server.port`.
    pub key: &'static str,
    /// The flag, such as `--port`, for messages.
    pub flag: &'static str,
    /// Its value, a string or anything else in TOML's syntax.
    pub value: String,
}

/// Where settings come from.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// The file that was asked for; it has to exist. `None`: [`FILE`] in `directory`, if it exists.
    pub file: Option<PathBuf>,
    /// Where [`FILE`] is looked for; empty: the current directory.
    pub directory: PathBuf,
    /// The variables.
    pub environment: Environment,
    /// The flags.
    pub overrides: Vec<Override>,
}

/// Reads all layers.
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn load(sources: &Sources) -> Result<Settings, ConfigError> {
    let mut problems = Vec::new();
    let mut tree = built_in(&mut problems);
    let schema = Schema::of(&tree);

    let file = sources.file.clone().or_else(|| {
        let path = sources.directory.join(FILE);
        path.exists().then_some(path)
    });
    if let Some(path) = &file {
        let layer = read_file(path, &mut problems);
        layers::overlay(&mut tree, layer, "", &schema, &mut problems);
    }
    environment::overlay(&mut tree, &sources.environment, &schema, &mut problems);
    let moved = sources.overrides.iter().any(|flag| flag.key == "repository.directory");
    let container = container::overlay(&mut tree, &sources.environment, moved, &schema, &mut problems);
    for Override { key, flag, value } in &sources.overrides {
        let (value, origin) = (Value::Raw(value.clone()), Origin::Flag(flag));
        let layer = layers::single(key, Node { value, origin });
        layers::overlay(&mut tree, layer, "", &schema, &mut problems);
    }

    let mut reader = Reader::new(&tree, String::new(), &mut problems);
    let mut settings = Settings::read(&mut reader, container);
    if let Some(node) = tree.get(ENDPOINT) {
        settings.endpoints = endpoints::read(node, &mut problems);
    }
    settings.warnings = environment::misspelt(&sources.environment, &schema);
    settings.artifacts.variables = sources.environment.iter().collect();
    if problems.is_empty() {
        settings.origins = schema
            .keys()
            .iter()
            .filter_map(|key| Some((key.clone(), origin(&tree, key)?)))
            .filter(|(_, origin)| *origin != Origin::Default)
            .collect();
        settings.file = file;
        return Ok(settings);
    }
    problems.sort_by_key(|problem| match problem.origin {
        Origin::File(_, line) => (0, line),
        Origin::Environment(_) => (1, 0),
        Origin::Flag(_) => (2, 0),
        Origin::Default => (3, 0),
    });
    Err(ConfigError { problems })
}

impl Settings {
    /// The settings as TOML that [`load`] reads back, with a comment on each that is not the built-in one.
    pub fn to_toml(&self) -> String {
        print::to_toml(self)
    }
}

/// The one key that the reference can only show in a comment: `endpoint = []` would keep users from adding
/// `[[endpoint]]` below.
const ENDPOINT: &str = "endpoint";

fn built_in(problems: &mut Vec<Problem>) -> Table {
    let mut tree = layers::parse(REFERENCE, &|_| Origin::Default).unwrap_or_else(|errors| {
        problems.extend(errors);
        Table::new()
    });
    let (value, origin) = (Value::Array(Vec::new()), Origin::Default);
    tree.insert(ENDPOINT.to_owned(), Node { value, origin });
    tree
}

fn read_file(path: &Path, problems: &mut Vec<Problem>) -> Table {
    let name = Arc::new(path.to_owned());
    let origin = |line| Origin::File(Arc::clone(&name), line);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem {
                origin: origin(0),
                key: String::new(),
                kind: ProblemKind::Unreadable(error.to_string()),
            });
            return Table::new();
        }
    };
    layers::parse(&text, &origin).unwrap_or_else(|errors| {
        problems.extend(errors);
        Table::new()
    })
}

/// Where a key was set.
fn origin(tree: &Table, key: &str) -> Option<Origin> {
    match key.split_once('.') {
        None => tree.get(key).map(|node| node.origin.clone()),
        Some((section, rest)) => match &tree.get(section)?.value {
            Value::Table(table) => origin(table, rest),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests;
