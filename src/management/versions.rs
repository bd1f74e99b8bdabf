//! Versions of a model, and the aliases that move between them.

use prost_types::Timestamp;

use crate::endpoint::derived_id;
use crate::protocol::generated::google::cloud::aiplatform::v1::model::DeploymentResourcesType;
use crate::protocol::generated::google::cloud::aiplatform::v1::model_source_info::ModelSourceType;
use crate::protocol::generated::google::cloud::aiplatform::v1::{Model, ModelSourceInfo};
use crate::protocol::status::Status;

use super::names;
use super::state::{DEFAULT, ModelRecord, shown};

/// A new version of what a request describes: what is the server's to say is said here, the rest is kept as it came.
pub fn made(asked: Model, name: String, version: u64, now: Timestamp) -> Model {
    let formats = |formats: &[&str]| formats.iter().map(|format| (*format).to_owned()).collect();
    Model {
        name,
        version_id: version.to_string(),
        version_aliases: Vec::new(),
        version_create_time: Some(now),
        version_update_time: Some(now),
        create_time: Some(now),
        update_time: Some(now),
        etag: etag(now),
        deployed_models: Vec::new(),
        supported_deployment_resources_types: vec![DeploymentResourcesType::DedicatedResources.into()],
        supported_input_storage_formats: formats(&[
            "jsonl",
            "bigquery",
            "csv",
            "tf-record",
            "tf-record-gzip",
            "file-list",
        ]),
        supported_output_storage_formats: formats(&["jsonl", "bigquery"]),
        model_source_info: Some(ModelSourceInfo { source_type: ModelSourceType::Custom.into(), copy: false }),
        ..asked
    }
}

/// The mark of a state: no two are changed at the same time.
pub fn etag(time: Timestamp) -> String {
    derived_id(&[&time.seconds.to_string(), &time.nanos.to_string()])
}

/// The aliases to add and those to remove, which begin with `-`.
#[derive(Debug, PartialEq, Eq)]
pub struct AliasChange {
    added: Vec<String>,
    removed: Vec<String>,
}

impl AliasChange {
    /// Reads a request's aliases.
    pub fn parse(field: &str, aliases: &[String]) -> Result<Self, Status> {
        let mut change = Self { added: Vec::new(), removed: Vec::new() };
        for (index, alias) in aliases.iter().enumerate() {
            let (name, list) = match alias.strip_prefix('-') {
                Some(name) => (name, &mut change.removed),
                None => (alias.as_str(), &mut change.added),
            };
            let field = format!("{field}[{index}]");
            if !names::is_alias(name) {
                let message = format!(
                    "{field} is `{}`; an alias has 2 to 128 letters, digits and hyphens, begins with a lower-case letter and \
                     ends with one or with a digit",
                    shown(name)
                );
                return Err(Status::bad_field(field, message));
            }
            if !list.iter().any(|listed| listed == name) {
                list.push(name.to_owned());
            }
        }
        if change.removed.iter().any(|alias| alias == DEFAULT) {
            let message =
                format!("{field} removes `default`, which each model needs: add it to another version instead");
            return Err(Status::bad_field(field, message));
        }
        if let Some(both) = change.added.iter().find(|alias| change.removed.contains(alias)) {
            return Err(Status::bad_field(field, format!("{field} both adds and removes `{both}`")));
        }
        Ok(change)
    }

    /// The aliases that are added.
    pub fn added(&self) -> &[String] {
        &self.added
    }
}

impl ModelRecord {
    /// Gives a version its aliases, which other versions thereby lose, and takes others from it.
    pub fn realias(&mut self, version: &str, change: &AliasChange, now: Timestamp) {
        for model in &mut self.versions {
            let before = model.version_aliases.clone();
            let is_it = model.version_id == version;
            let goes = |alias: &String| change.added.contains(alias) || (is_it && change.removed.contains(alias));
            model.version_aliases.retain(|alias| !goes(alias));
            if is_it {
                let kept = before.iter().filter(|alias| change.added.contains(alias));
                let new = change.added.iter().filter(|alias| !before.contains(alias));
                model.version_aliases.extend(kept.chain(new).cloned());
            }
            if model.version_aliases != before {
                model.version_update_time = Some(now);
                model.update_time = Some(now);
                model.etag = etag(now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(versions: &[&[&str]]) -> ModelRecord {
        let owned = |aliases: &[&str]| aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let version = |(index, aliases): (usize, &&[&str])| {
            let version_id = (index + 1).to_string();
            Model { version_id, version_aliases: owned(aliases), ..Model::default() }
        };
        ModelRecord { versions: versions.iter().enumerate().map(version).collect(), issued: versions.len() as u64 }
    }

    fn change(aliases: &[&str]) -> Result<AliasChange, Status> {
        AliasChange::parse("version_aliases", &aliases.iter().map(|alias| (*alias).to_owned()).collect::<Vec<_>>())
    }

    fn aliases(record: &ModelRecord) -> Vec<String> {
        record.versions.iter().map(|model| model.version_aliases.join(",")).collect()
    }

    #[test]
    fn an_alias_lives_on_one_version() {
        let mut record = record(&[&["default", "old"], &["canary"]]);
        record.realias("2", &change(&["default", "golden"]).unwrap(), names::now());
        assert_eq!(aliases(&record), ["old", "canary,default,golden"]);
        record.realias("2", &change(&["-canary", "-old"]).unwrap(), names::now());
        assert_eq!(aliases(&record), ["old", "default,golden"]);
        assert_eq!(record.find(None).unwrap().version_id, "2");
        assert_eq!(record.find(Some("old")).unwrap().version_id, "1");
        assert_eq!(record.find(Some("1")).unwrap().version_id, "1");
        assert!(record.find(Some("3")).is_none());
    }

    #[test]
    fn default_can_be_moved_but_not_removed() {
        for wrong in [&["-default"][..], &["Golden"], &["1"], &["a"], &["ok", "-ok"], &[""]] {
            assert_eq!(change(wrong).unwrap_err().code, crate::protocol::status::Code::InvalidArgument, "{wrong:?}");
        }
    }
}
