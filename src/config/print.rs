//! The effective settings as TOML that can be read back, each changed value with where it was set.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serializer;
use toml_edit::{DocumentMut, Item};

use super::error::Origin;
use super::settings::Settings;
use super::units;

pub(super) fn duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::format_duration(*duration))
}

pub(super) fn size<S: Serializer>(bytes: &usize, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::format_size(*bytes as u64))
}

pub(super) fn path<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    let path = path.as_ref().map(|path| path.to_string_lossy());
    serializer.serialize_str(path.as_deref().unwrap_or_default())
}

pub(super) fn optional_port<S: Serializer>(port: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
    match port {
        Some(port) => serializer.serialize_u16(*port),
        None => serializer.serialize_str("off"),
    }
}

/// The settings as a file that `--config` takes, with a comment on each that is not the built-in one.
pub(super) fn to_toml(settings: &Settings) -> String {
    let plain = match toml::to_string(settings) {
        Ok(plain) => plain,
        // Only a path that is not Unicode gets here.
        Err(error) => return format!("# can't be printed: {error}\n"),
    };
    let Ok(mut document) = plain.parse::<DocumentMut>() else {
        return plain;
    };
    if let Some(artifacts) = document.get_mut("artifacts").and_then(Item::as_table_mut)
        && let Some(mut map) = artifacts.remove("map")
    {
        // On one line, as all values are, so that its origin can stand behind it.
        map.make_value();
        artifacts.insert("map", map);
    }
    for (key, origin) in &settings.origins {
        comment(&mut document, key, origin);
    }
    let mut printed = document.to_string();
    let container = &settings.container;
    let routes = [("AIP_HEALTH_ROUTE", &container.health_route), ("AIP_PREDICT_ROUTE", &container.predict_route)];
    for (name, route) in routes {
        if let Some(route) = route {
            printed.push_str(&format!("# {name} = {route}\n"));
        }
    }
    if let Some(port) = container.grpc_port {
        printed.push_str(&format!("# AIP_GRPC_PORT = {port}\n"));
    }
    for (name, value) in &container.labels {
        let value = value.escape_debug();
        printed.push_str(&format!("# AIP_{} = {value}\n", name.to_uppercase()));
    }
    printed
}

/// Appends a comment to the line of a key; lists of tables have no such line.
fn comment(document: &mut DocumentMut, key: &str, origin: &Origin) {
    let mut names = key.split('.');
    let mut item = names.next().and_then(|name| document.get_mut(name));
    for name in names {
        item = item.and_then(|item| item.get_mut(name));
    }
    if let Some(Item::Value(value)) = item {
        // A comment ends with its line, also if a file's name doesn't.
        let origin: String = origin.to_string().escape_debug().collect();
        value.decor_mut().set_suffix(format!(" # {origin}"));
    }
}
