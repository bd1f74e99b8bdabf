//! Variables of the environment, and those of them that are settings: `TESSERA__SECTION__KEY`.

use std::collections::BTreeMap;

use super::error::{Origin, Problem};
use super::layers::{self, Node, Schema, Table, Value};

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

/// The value of a variable, which only its reader can tell the type of.
pub(super) fn raw(name: &str, value: &str) -> Node {
    Node { value: Value::Raw(value.to_owned()), origin: Origin::Environment(name.to_owned()) }
}
