//! What there is: models with their versions, and endpoints. A snapshot that is swapped whole, so that readers never wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::endpoint::Aliases;
use crate::loader::ModelKey;
use crate::protocol::generated::google::cloud::aiplatform::v1::{DeployedModelRef, Endpoint, Model};
use crate::protocol::generated::google::longrunning::Operation;
use crate::protocol::status::{Code, Status};
use crate::repository::ModelFolder;

use super::names::Name;

/// The alias that each model has on exactly one of its versions.
pub const DEFAULT: &str = "default";

/// A model with all its versions. Also its form in the database.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ModelRecord {
    /// In the order in which they were uploaded; at least one.
    #[prost(message, repeated, tag = "1")]
    pub versions: Vec<Model>,
    /// The highest version that was ever given out, so that none is given out twice.
    #[prost(uint64, tag = "2")]
    pub issued: u64,
}

impl ModelRecord {
    /// The version of a number or an alias; without either, the default one. `-` stands for the model as such.
    pub fn find(&self, version: Option<&str>) -> Option<&Model> {
        let alias = match version {
            None | Some("-") => DEFAULT,
            Some(alias) => alias,
        };
        let is_it = |model: &&Model| model.version_id == alias || model.version_aliases.iter().any(|own| own == alias);
        self.versions.iter().find(is_it)
    }
}

/// Something, and whether it was declared by the configuration, so that nobody can change it here.
#[derive(Debug)]
pub struct Entry<T> {
    /// The thing itself.
    pub value: Arc<T>,
    /// By config.toml or the models' folder.
    pub declared: bool,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), declared: self.declared }
    }
}

impl<T> Entry<T> {
    /// From the configuration.
    pub fn declared(value: T) -> Self {
        Self { value: Arc::new(value), declared: true }
    }

    /// Made by a request.
    pub fn made(value: T) -> Self {
        Self { value: Arc::new(value), declared: false }
    }
}

/// Everything that there is, by ids.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The models.
    pub models: BTreeMap<String, Entry<ModelRecord>>,
    /// The endpoints.
    pub endpoints: BTreeMap<String, Entry<Endpoint>>,
    /// Where the files of declared models lie.
    pub folders: Arc<BTreeMap<ModelKey, ModelFolder>>,
}

/// What is to become different, all of it at once. `None` deletes.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Models by id.
    pub models: Vec<(String, Option<ModelRecord>)>,
    /// Endpoints by id.
    pub endpoints: Vec<(String, Option<Endpoint>)>,
    /// Operations by the last segment of their names.
    pub operations: Vec<(String, Option<Operation>)>,
}

impl State {
    /// This state after a change.
    pub fn after(&self, change: &Change) -> Self {
        let mut state = self.clone();
        for (id, model) in &change.models {
            match model {
                Some(model) => state.models.insert(id.clone(), Entry::made(model.clone())),
                None => state.models.remove(id),
            };
        }
        for (id, endpoint) in &change.endpoints {
            match endpoint {
                Some(endpoint) => state.endpoints.insert(id.clone(), Entry::made(endpoint.clone())),
                None => state.endpoints.remove(id),
            };
        }
        state
    }

    /// The versions that aliases stand for.
    pub fn aliases(&self) -> Aliases {
        let versions = self.models.iter().flat_map(|(id, entry)| entry.value.versions.iter().map(move |own| (id, own)));
        let aliases = versions.flat_map(|(id, version)| {
            version.version_aliases.iter().map(move |alias| (id.clone(), alias.clone(), version.version_id.clone()))
        });
        aliases.collect()
    }

    /// The model of a name.
    pub fn model(&self, name: &Name) -> Result<&Entry<ModelRecord>, Status> {
        self.models.get(&name.id).ok_or_else(|| {
            Status::new(Code::NotFound, format!("there is no model `{}`", shown(&name.id))).because("MODEL_NOT_FOUND")
        })
    }

    /// The version of a model that a name means.
    pub fn version(&self, name: &Name) -> Result<&Model, Status> {
        let record = self.model(name)?;
        record.value.find(name.version.as_deref()).ok_or_else(|| {
            let version = shown(name.version.as_deref().unwrap_or_default());
            let message = format!("model `{}` has no version or alias `{version}`", shown(&name.id));
            Status::new(Code::NotFound, message).because("MODEL_VERSION_NOT_FOUND")
        })
    }

    /// The model of a name, if it may be changed.
    pub fn changeable_model(&self, name: &Name) -> Result<&ModelRecord, Status> {
        let entry = self.model(name)?;
        if entry.declared { Err(is_declared("model", &name.id)) } else { Ok(&entry.value) }
    }

    /// The endpoint of a name.
    pub fn endpoint(&self, name: &Name) -> Result<&Entry<Endpoint>, Status> {
        self.endpoints.get(&name.id).ok_or_else(|| {
            let message = format!("there is no endpoint `{}`", shown(&name.id));
            Status::new(Code::NotFound, message).because("ENDPOINT_NOT_FOUND")
        })
    }

    /// The endpoint of a name, if it may be changed.
    pub fn changeable_endpoint(&self, name: &Name) -> Result<&Endpoint, Status> {
        let entry = self.endpoint(name)?;
        if entry.declared { Err(is_declared("endpoint", &name.id)) } else { Ok(&entry.value) }
    }

    /// Where versions of a model are deployed, with the version of each.
    pub fn deployments<'a>(&'a self, model: &'a str) -> impl Iterator<Item = (DeployedModelRef, &'a str)> {
        self.endpoints.values().flat_map(move |endpoint| {
            let of_it = endpoint
                .value
                .deployed_models
                .iter()
                .filter(move |deployed| super::names::id_of(&deployed.model) == model);
            of_it.map(move |deployed| {
                let reference =
                    DeployedModelRef { endpoint: endpoint.value.name.clone(), deployed_model_id: deployed.id.clone() };
                (reference, deployed.model_version_id.as_str())
            })
        })
    }
}

/// The refusal to change what the configuration declares.
fn is_declared(kind: &str, id: &str) -> Status {
    let message = format!(
        "{kind} `{}` comes from the server's configuration and can't be changed here: change config.toml or the models' \
         folder, and restart",
        shown(id)
    );
    Status::new(Code::FailedPrecondition, message).because("DECLARED_BY_CONFIGURATION")
}

/// A client's own word, as far as a message repeats it.
pub fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
