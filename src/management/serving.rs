//! From messages to what answers: loading the models that are deployed, and making the catalogue follow the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::artifact::{Artifacts, LocalArtifact, Progress};
use crate::endpoint::{self, Catalog, Identity, ServedModel};
use crate::loader::Loader;
use crate::protocol::generated::google::cloud::aiplatform::v1::deployed_model::Status as Health;
use crate::protocol::generated::google::cloud::aiplatform::v1::{DeployedModel, Endpoint};
use crate::protocol::status::{Code, Status};
use crate::protocol::vertex::DeployedModelFields;
use crate::repository::ModelFolder;

use super::names::{self, id_of};
use super::state::{Change, Entry, State};
use super::store::Store;
use super::{Management, ManagementError, artifact, explanation, shadow};

/// Where a version's files are to be had.
#[derive(Debug, Clone)]
pub enum Source {
    /// In the models' folder.
    Folder(ModelFolder),
    /// Wherever its upload said.
    Artifact {
        /// Where.
        uri: String,
        /// The model's id.
        model: String,
        /// Its version.
        version: u64,
    },
}

impl Source {
    /// That of a version, which has to exist.
    pub fn of(state: &State, model: &str, version: &str) -> Result<Self, Status> {
        let number: u64 = version.parse().unwrap_or(0);
        if let Some(folder) = state.folders.get(&(model.to_owned(), number)) {
            return Ok(Self::Folder(folder.clone()));
        }
        let record = state.models.get(model).map(|entry| &entry.value);
        let found = record.and_then(|record| record.versions.iter().find(|found| found.version_id == version));
        match found.map(|found| found.artifact_uri.as_str()) {
            Some("") => {
                let message = format!(
                    "model `{model}` version {version} has no artifactUri: upload a version with the folder that holds its \
                     model.onnx"
                );
                Err(Status::new(Code::FailedPrecondition, message).because("NO_ARTIFACT"))
            }
            Some(uri) => Ok(Self::Artifact { uri: uri.to_owned(), model: model.to_owned(), version: number }),
            None => Err(Status::new(Code::NotFound, format!("there is no model `{model}` version {version}"))),
        }
    }

    /// Fetches the files, unless they are here. `tell` hears how far a download is.
    pub async fn fetch(
        self,
        artifacts: &Arc<Artifacts>,
        tell: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Files, Status> {
        match self {
            Self::Folder(folder) => Ok(Files { folder, artifact: None }),
            Self::Artifact { uri, model, version } => {
                let local = bring(artifacts, &uri, tell).await?;
                let folder = artifact::folder(&uri, &local.directory, &model, version)?;
                Ok(Files { folder, artifact: Some((uri, local)) })
            }
        }
    }
}

/// Brings an artifact here, until nobody waits for it any more. On a thread of its own: the work borrows from itself in
/// ways that keep the compiler from seeing that it may move between threads.
async fn bring(
    artifacts: &Arc<Artifacts>,
    uri: &str,
    tell: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<LocalArtifact, Status> {
    let (artifacts, uri, runtime) = (artifacts.clone(), uri.to_owned(), Handle::current());
    let (waiting, given_up) = oneshot::channel::<()>();
    let work = move || {
        runtime.block_on(async {
            tokio::select! {
                fetched = artifacts.fetch(&uri, tell) => Some(fetched),
                _ = given_up => None,
            }
        })
    };
    let fetched = tokio::task::spawn_blocking(work).await;
    drop(waiting);
    match fetched {
        Ok(Some(fetched)) => Ok(fetched?),
        _ => Err(Status::new(
            Code::Internal,
            "fetching the artifact met a defect of the server, which its log describes",
        )),
    }
}

/// A version's files on this machine.
pub struct Files {
    folder: ModelFolder,
    /// The URI by which clients know them, and what keeps them here.
    artifact: Option<(String, LocalArtifact)>,
}

impl Files {
    /// Loads their model.
    pub async fn load(self, loader: &Loader) -> Result<Arc<ServedModel>, Status> {
        let (uri, local) = self.artifact.unzip();
        let directory = self.folder.directory.to_string_lossy().into_owned();
        loader.load(self.folder, local).await.map_err(|error| {
            let mut status = Status::from(error);
            // The client knows the artifact by its URI, and has no business with where it lies here.
            status.message = status.message.replace(&directory, uri.as_deref().unwrap_or("the model's folder"));
            status
        })
    }
}

/// A deployed model that answers.
pub fn healthy() -> Option<Health> {
    Some(Health { message: String::new(), last_update_time: Some(names::now()), available_replica_count: 1 })
}

impl Management {
    /// Makes the catalogue follow a change. `loaded` is a model that has just been loaded, with its deployed id.
    pub(super) fn serve(&self, state: &State, change: &Change, loaded: Option<(&str, Arc<ServedModel>)>) {
        if change.endpoints.is_empty() && change.models.is_empty() {
            return;
        }
        let mut catalog = self.service.catalog().map(|catalog| Catalog::clone(&catalog)).unwrap_or_default();
        let mut gone = Vec::new();
        for (id, endpoint) in &change.endpoints {
            let earlier = catalog.get(id).cloned();
            let models = |deployed: &DeployedModel| {
                let new = loaded.as_ref().filter(|(id, _)| *id == deployed.id).map(|(_, model)| model.clone());
                new.or_else(|| Some(earlier.as_ref()?.deployed_model(&deployed.id).ok()?.model.clone()))
            };
            catalog = match endpoint {
                Some(endpoint) => catalog.with(self.runtime(state, endpoint, &models)),
                None => catalog.without(id),
            };
            let is_left = |deployed: &str| catalog.get(id).is_some_and(|now| now.deployed_model(deployed).is_ok());
            let earlier = earlier.iter().flat_map(|earlier| earlier.deployed_models());
            let ids = earlier.map(|deployed| deployed.fields.deployed_model_id.clone());
            gone.extend(ids.filter(|deployed| !is_left(deployed)).map(|deployed| (id.clone(), deployed)));
        }
        self.service.publish(catalog.with_aliases(state.aliases()));
        for (endpoint, deployed) in gone {
            self.metrics.remove_deployed_model(&endpoint, &deployed);
        }
    }

    /// The endpoint that answers, with those of its models that are there. When some are not, the others take the whole
    /// traffic.
    fn runtime(
        &self,
        state: &State,
        endpoint: &Endpoint,
        models: &dyn Fn(&DeployedModel) -> Option<Arc<ServedModel>>,
    ) -> endpoint::Endpoint {
        let id = id_of(&endpoint.name);
        let share = |deployed: &DeployedModel| endpoint.traffic_split.get(&deployed.id).copied().unwrap_or(0);
        let present: Vec<_> =
            endpoint.deployed_models.iter().filter_map(|deployed| Some((deployed, models(deployed)?))).collect();
        let total: i32 = present.iter().map(|(deployed, _)| share(deployed)).sum();
        let deployed_models = present.into_iter().map(|(deployed, model)| {
            let record = state.models.get(id_of(&deployed.model));
            let version = record.and_then(|record| record.value.find(Some(&deployed.model_version_id)));
            let spec = version.and_then(|version| version.explanation_spec.as_ref());
            let name = version.map_or(deployed.display_name.as_str(), |version| version.display_name.as_str());
            let shadow = shadow::percent(deployed);
            let container = version.and_then(|version| version.container_spec.as_ref());
            let invoke = model.invoke || container.is_some_and(|spec| !spec.invoke_route_prefix.is_empty());
            let scaled = (share(deployed) * 100).checked_div(total).unwrap_or(0);
            Arc::new(endpoint::DeployedModel {
                fields: DeployedModelFields {
                    deployed_model_id: deployed.id.clone(),
                    model: deployed.model.clone(),
                    model_display_name: name.to_owned(),
                    model_version_id: deployed.model_version_id.clone(),
                },
                model,
                invoke,
                traffic: u8::try_from(scaled).unwrap_or(0),
                metrics: match shadow {
                    Some(_) => self.metrics.shadow(id, &deployed.id),
                    None => self.metrics.deployed_model(id, &deployed.id),
                },
                shadow,
                explanation_spec: explanation::effective(spec, deployed.explanation_spec.as_ref()),
                disable_explanations: deployed.disable_explanations,
            })
        });
        let identity = Identity {
            name: endpoint.name.clone(),
            id: id.to_owned(),
            display_name: endpoint.display_name.clone(),
            create_time: endpoint.create_time.map(|time| time.to_string()).unwrap_or_default(),
        };
        endpoint::Endpoint::new(identity, deployed_models.collect())
    }

    /// Takes up what a database holds: its models are loaded again, side by side.
    pub(super) async fn restore(
        &self,
        state: &mut State,
        mut catalog: Catalog,
        store: &Store,
    ) -> Result<Catalog, ManagementError> {
        let contents = store.read()?;
        store.apply(&self.operations.restore(contents.operations))?;
        for (id, model) in contents.models {
            match state.models.contains_key(&id) {
                true => {
                    tracing::warn!(model = id, "this model was uploaded, but the models' folder has one of its name")
                }
                false => drop(state.models.insert(id, Entry::made(model))),
            }
        }
        let mut loading = JoinSet::new();
        for (id, endpoint) in contents.endpoints {
            if state.endpoints.contains_key(&id) {
                tracing::warn!(endpoint = id, "this endpoint was created, but the configuration has one of its id");
                continue;
            }
            for deployed in &endpoint.deployed_models {
                let place = (id.clone(), deployed.id.clone());
                let source = Source::of(state, id_of(&deployed.model), &deployed.model_version_id);
                let (loader, artifacts) = (self.loader.clone(), self.artifacts.clone());
                loading.spawn(async move {
                    let load = async { source?.fetch(&artifacts, |_| {}).await?.load(&loader).await };
                    (place, load.await)
                });
            }
            state.endpoints.insert(id, Entry::made(endpoint));
        }
        let mut loaded = BTreeMap::new();
        let mut failures = BTreeMap::new();
        while let Some(finished) = loading.join_next().await {
            // What panics is in neither, and so counts as missing.
            match finished {
                Ok((place, Ok(model))) => drop(loaded.insert(place, model)),
                Ok(((endpoint, id), Err(status))) if self.settings.fail_on_error => {
                    return Err(ManagementError::Model { endpoint, id, reason: status.message });
                }
                Ok((place, Err(status))) => {
                    tracing::error!(
                        endpoint = place.0,
                        deployed_model = place.1,
                        "skipped, as repository.on_error is \"skip\": {}",
                        status.message
                    );
                    failures.insert(place, status.message);
                }
                Err(_) => {}
            }
        }
        for (id, entry) in &mut state.endpoints {
            let endpoint = Arc::make_mut(&mut entry.value);
            for deployed in endpoint.deployed_models.iter_mut().filter(|_| !entry.declared) {
                let place = (id.clone(), deployed.id.clone());
                deployed.status = match loaded.contains_key(&place) {
                    true => healthy(),
                    false => Some(Health {
                        message: failures.remove(&place).unwrap_or_else(|| "it could not be loaded".to_owned()),
                        last_update_time: Some(names::now()),
                        available_replica_count: 0,
                    }),
                };
            }
        }
        for (id, entry) in state.endpoints.iter().filter(|(_, entry)| !entry.declared) {
            let models = |deployed: &DeployedModel| loaded.get(&(id.clone(), deployed.id.clone())).cloned();
            catalog = catalog.with(self.runtime(state, &entry.value, &models));
        }
        Ok(catalog)
    }
}
