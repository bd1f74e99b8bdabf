//! Variables of the environment, and those of them that are settings: `TESSERA__SECTION__KEY`.

use std::collections::BTreeMap;

use super::error::{Origin, Problem};
use super::layers::{self, Node, Schema, Table, Value};
use super::suggest;

const PREFIX: &str = "TESSERA__";

/// The environment, as a value: nothing below `main` reads that of the process.
#[derive(Debug, Default, Clone)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// That of the process. What is not Unicode is kept with replacement characters, so that it is refused and not
    /// overlooked.
    pub fn of_process() -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect()
    }

    /// The value of a variable; an empty one is unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(known, value)| (known == name).then_some(value))
    }

    /// All that are set and not empty, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The variable of a key: `server.port` is `TESSERA__SERVER__PORT`.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_uppercase())
}

/// Lays the variables over the tree.
pub(super) fn overlay(tree: &mut Table, environment: &Environment, schema: &Schema, problems: &mut Vec<Problem>) {
    // Below TESSERA__ENGINE__LIBRARY: the name is older and shared with other programs.
    if let Some(path) = environment.get("ORT_DYLIB_PATH") {
        let layer = layers::single("engine.library", raw("ORT_DYLIB_PATH", path));
        layers::overlay(tree, layer, "", schema, problems);
    }
    // In the order of the names, in which a section comes before the keys in it.
    for (name, value) in environment.iter() {
        let Some(path) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let path = path.to_lowercase().replace("__", ".");
        if schema.knows(&path) {
            let layer = layers::single(&path, raw(name, value));
            layers::overlay(tree, layer, "", schema, problems);
        } else {
            let origin = Origin::Environment(name.to_owned());
            problems.push(schema.unknown(path, origin, false));
        }
    }
}

/// What is to be said of variables that look like settings and are none, because they have no double underscores.
pub(super) fn misspelt(environment: &Environment, schema: &Schema) -> Vec<String> {
    let single = |(name, value): (&str, &str)| {
        let rest = name.strip_prefix("TESSERA_").filter(|rest| !rest.starts_with('_'))?;
        if is_of_kubernetes(name, value) {
            return None;
        }
        let path = rest.to_lowercase().replace("__", "_");
        let keys = || schema.keys().iter().map(String::as_str);
        let is_whole = |key: &&str| key.replace('.', "_") == path;
        let is_last = |key: &&str| key.rsplit('.').next() == Some(path.as_str());
        let near = || suggest::nearest(&path, keys());
        // Of several ports the API's is meant.
        let server = format!("server.{path}");
        let meant = keys().find(is_whole).or_else(|| keys().find(|key| *key == server));
        let meant = meant.or_else(|| keys().find(is_last)).or_else(near);
        let hint = match meant {
            Some(key) => format!("did you mean {}?", variable(key)),
            None => format!("settings are {PREFIX}SECTION__KEY"),
        };
        Some(format!("{name} is no setting and has no effect; {hint}"))
    };
    environment.iter().filter_map(single).collect()
}

/// Whether Kubernetes sets a variable like this, in every pod beside a Service called `tessera` or `tessera-...`.
fn is_of_kubernetes(name: &str, value: &str) -> bool {
    let is_port = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_port(rest))
        || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
}

/// The value of a variable, which only its reader can tell the type of.
pub(super) fn raw(name: &str, value: &str) -> Node {
    Node { value: Value::Raw(value.to_owned()), origin: Origin::Environment(name.to_owned()) }
}
