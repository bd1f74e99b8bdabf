//! Field masks: which fields of a message a request wants to see or to change.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use prost_types::FieldMask;

use crate::protocol::proto_json::descriptors;
use crate::protocol::status::{Code, Status};

use super::state::shown;

/// A path as messages name their fields; JSON's `trafficSplit` is `traffic_split`.
pub fn snake_case(path: &str) -> String {
    let mut snake = String::with_capacity(path.len() + 4);
    for letter in path.trim().chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// The fields that a request is to change: each must be among those that can be, or be part of one of them. `*` is all of
/// those.
pub fn to_update(mask: Option<&FieldMask>, changeable: &[&'static str]) -> Result<Vec<&'static str>, Status> {
    const FIELD: &str = "update_mask";
    let paths = mask.map(|mask| mask.paths.as_slice()).unwrap_or_default();
    if paths.is_empty() {
        let message = format!("{FIELD} is missing: it names the fields to change, of {}", changeable.join(", "));
        return Err(Status::bad_field(FIELD, message));
    }
    let mut fields = Vec::new();
    for path in paths {
        if path == "*" {
            return Ok(changeable.to_vec());
        }
        let path = snake_case(path);
        let is_it =
            |field: &&&str| path.strip_prefix(**field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        match changeable.iter().find(is_it) {
            Some(field) => fields.push(*field),
            None => {
                let path = shown(&path);
                let message =
                    format!("{FIELD} has `{path}`, which can't be changed; there are {}", changeable.join(", "));
                return Err(Status::bad_field(FIELD, message));
            }
        }
    }
    Ok(fields)
}

/// A message with those fields alone that a request wants to read; without a mask, with all.
pub fn readable<M: Message + Name + Default>(message: M, mask: Option<&FieldMask>) -> Result<M, Status> {
    let paths: Vec<String> =
        mask.map(|mask| mask.paths.iter().map(|path| snake_case(path)).collect()).unwrap_or_default();
    if paths.is_empty() || paths.iter().any(|path| path == "*") {
        return Ok(message);
    }
    let internal = || Status::new(Code::Internal, "the answer could not be reduced to read_mask");
    let descriptor = descriptors().get_message_by_name(&M::full_name()).ok_or_else(internal)?;
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(&message).map_err(|_| internal())?;
    keep(&mut dynamic, &paths.iter().map(String::as_str).collect::<Vec<_>>())?;
    dynamic.transcode_to().map_err(|_| internal())
}

/// Clears what no path names. Recursion ends where the paths do.
fn keep(message: &mut DynamicMessage, paths: &[&str]) -> Result<(), Status> {
    for path in paths {
        let first = path.split('.').next().unwrap_or(path);
        if message.descriptor().get_field_by_name(first).is_none() {
            let message =
                format!("read_mask has `{}`, which is no field of {}", shown(path), message.descriptor().name());
            return Err(Status::bad_field("read_mask", message));
        }
    }
    let fields: Vec<_> = message.descriptor().fields().collect();
    for field in fields {
        if !message.has_field(&field) || paths.contains(&field.name()) {
            continue;
        }
        let inner: Vec<&str> =
            paths.iter().filter_map(|path| path.strip_prefix(field.name())?.strip_prefix('.')).collect();
        if inner.is_empty() {
            message.clear_field(&field);
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(part) => keep(part, &inner)?,
            Value::List(parts) => {
                for part in parts {
                    if let Value::Message(part) = part {
                        keep(part, &inner)?;
                    }
                }
            }
            // A map's entries, or a path into something that has no parts: the whole of it.
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::generated::google::cloud::aiplatform::v1::{DeployedModel, Endpoint};

    fn mask(paths: &[&str]) -> Option<FieldMask> {
        Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
    }

    #[test]
    fn only_what_can_be_changed_is() {
        const FIELDS: [&str; 3] = ["display_name", "labels", "traffic_split"];
        assert_eq!(to_update(mask(&["trafficSplit"]).as_ref(), &FIELDS), Ok(vec!["traffic_split"]));
        assert_eq!(
            to_update(mask(&["labels.team", "display_name"]).as_ref(), &FIELDS),
            Ok(vec!["labels", "display_name"])
        );
        assert_eq!(to_update(mask(&["*"]).as_ref(), &FIELDS), Ok(FIELDS.to_vec()));
        for wrong in [mask(&["create_time"]), mask(&["labelsx"]), mask(&[]), None] {
            assert_eq!(to_update(wrong.as_ref(), &FIELDS).unwrap_err().field.as_deref(), Some("update_mask"));
        }
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let deployed = DeployedModel { id: "1".into(), display_name: "x".into(), ..DeployedModel::default() };
        let endpoint = Endpoint {
            name: "n".into(),
            display_name: "d".into(),
            deployed_models: vec![deployed.clone()],
            labels: [("k".to_owned(), "v".to_owned())].into(),
            ..Endpoint::default()
        };
        let read = |paths: &[&str]| readable(endpoint.clone(), mask(paths).as_ref()).unwrap();
        assert_eq!(readable(endpoint.clone(), None).unwrap(), endpoint);
        assert_eq!(read(&["*"]), endpoint);
        assert_eq!(read(&["name"]), Endpoint { name: "n".into(), ..Endpoint::default() });
        let ids = read(&["deployedModels.id", "labels"]);
        assert_eq!(ids.deployed_models, [DeployedModel { id: "1".into(), ..DeployedModel::default() }]);
        assert_eq!((ids.labels.len(), &*ids.name), (1, ""));
        assert_eq!(readable(endpoint, mask(&["colour"]).as_ref()).unwrap_err().field.as_deref(), Some("read_mask"));
    }
}
