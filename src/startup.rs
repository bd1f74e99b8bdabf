//! From settings to endpoints: which models are loaded, and under which names they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::artifact::{ArtifactError, ArtifactSettings, ArtifactUri, Artifacts, LocalArtifact, Progress, is_uri};
use crate::config::{self, Settings};
use crate::endpoint::{Catalog, Defaults, DeployedModel, Endpoint, Identity, ServedModel, derived_id};
use crate::engine::onnx::{CudaOptions, OnnxOptions, TensorRtOptions};
use crate::loader::ModelKey;
use crate::observe::Metrics;
use crate::preprocess::DecodeLimits;
use crate::protocol::vertex::DeployedModelFields;
use crate::repository::{Found, LoadOptions, ModelFolder, RepositoryError, find_models};

/// Why the settings and the models on disk don't fit together.
#[derive(Debug, Error)]
pub enum StartupError {
    /// The repository can't be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The repository can't be brought here.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A declared model isn't there.
    #[error("[[endpoint]] {endpoint:?}: there is no model {model:?}{version} in the repository; there are: {known}")]
    UnknownModel {
        /// The endpoint that declares it.
        endpoint: String,
        /// The model that it names.
        model: String,
        /// ` version N`, or nothing.
        version: String,
        /// What there is.
        known: String,
    },
    /// A model could not be made ready.
    #[error("model {name:?}: {error}")]
    Model {
        /// Which one.
        name: String,
        /// What is wrong.
        error: RepositoryError,
    },
    /// The default endpoint doesn't exist.
    #[error("default_endpoint is {id:?}, which is not served here; there are: {known}")]
    UnknownDefault {
        /// What the setting says.
        id: String,
        /// What there is.
        known: String,
    },
}

/// What is to be served, before anything is loaded.
#[derive(Debug)]
pub struct Plan {
    /// The folders of the models that some endpoint needs.
    pub folders: Vec<ModelFolder>,
    /// What is wrong, and keeps the server from starting unless `repository.on_error` is `skip`.
    pub problems: Vec<StartupError>,
    found: Vec<ModelFolder>,
    endpoints: Vec<PlannedEndpoint>,
    defaults: Defaults,
    resource_prefix: String,
}

/// An endpoint that is to be served.
#[derive(Debug)]
pub struct PlannedEndpoint {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub display_name: String,
    /// Its models.
    pub deployed: Vec<PlannedModel>,
}

/// A model that is to answer for an endpoint.
#[derive(Debug)]
pub struct PlannedModel {
    /// Its id there.
    pub id: String,
    /// Which model.
    pub model: ModelKey,
    /// Percent of the endpoint's requests.
    pub traffic: u8,
    /// Percent of the endpoint's requests that it gets copies of, as a shadow.
    pub shadow: Option<u8>,
}

impl Plan {
    /// Looks at the repository. Each model is an endpoint of its own name, in its highest version, unless an endpoint
    /// of that name is declared.
    ///
    /// # Errors
    /// When the repository can't be read or is empty. What else is wrong is in [`Plan::problems`], all of it.
    pub fn new(settings: &Settings) -> Result<Self, StartupError> {
        let Found { models: found, problems } = match find_models(&settings.repository.directory) {
            Err(error) if may_be_empty(settings, &error) => Found::default(),
            found => found?,
        };
        let mut problems: Vec<StartupError> = problems.into_iter().map(StartupError::from).collect();
        let mut highest: BTreeMap<&str, &ModelFolder> = BTreeMap::new();
        for folder in &found {
            highest.insert(&folder.name, folder);
        }
        let mut endpoints = Vec::new();
        for declared in &settings.endpoints {
            endpoints.push(planned(declared, &found, &highest, &mut problems));
        }
        let declared: BTreeSet<String> = endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
        for folder in highest.values().filter(|folder| !declared.contains(&folder.name)) {
            let id = folder.name.clone();
            let deployed = deployed_id(&id, folder);
            let model =
                PlannedModel { id: deployed, model: (folder.name.clone(), folder.version), traffic: 100, shadow: None };
            endpoints.push(PlannedEndpoint { display_name: id.clone(), id, deployed: vec![model] });
        }
        let needed: BTreeSet<ModelKey> = endpoints
            .iter()
            .flat_map(|endpoint| endpoint.deployed.iter().map(|deployed| deployed.model.clone()))
            .collect();
        problems.extend(check_default(settings, &endpoints).err());
        Ok(Self {
            problems,
            folders: found.iter().filter(|folder| needed.contains(&key(folder))).cloned().collect(),
            endpoints,
            defaults: Defaults {
                id: settings.default_endpoint.clone(),
                alias: settings.container.labels.get("endpoint_id").cloned(),
            },
            found,
            resource_prefix: format!("projects/{}/locations/{}", settings.project, settings.location),
        })
    }

    /// The endpoints over the models that were loaded. Of an endpoint whose models are not all there, the rest takes
    /// the whole traffic; one without any is left out.
    pub fn catalog(&self, models: &BTreeMap<ModelKey, Arc<ServedModel>>, metrics: &Metrics) -> Catalog {
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let create_time = now.format(&Rfc3339).unwrap_or_default();
        let endpoints = self
            .endpoints
            .iter()
            .filter_map(|endpoint| {
                let present: Vec<_> = endpoint
                    .deployed
                    .iter()
                    .filter_map(|deployed| Some((deployed, models.get(&deployed.model)?)))
                    .collect();
                let traffic: u32 = present.iter().map(|(deployed, _)| u32::from(deployed.traffic)).sum();
                (!present.is_empty()).then_some(())?;
                let deployed = present.into_iter().map(|(deployed, model)| {
                    let scaled = (u32::from(deployed.traffic) * 100).checked_div(traffic).unwrap_or(0);
                    Arc::new(DeployedModel {
                        fields: self.fields(deployed, model),
                        model: model.clone(),
                        invoke: model.invoke,
                        traffic: u8::try_from(scaled).unwrap_or(100),
                        metrics: match deployed.shadow {
                            Some(_) => metrics.shadow(&endpoint.id, &deployed.id),
                            None => metrics.deployed_model(&endpoint.id, &deployed.id),
                        },
                        explanation_spec: None,
                        disable_explanations: false,
                        shadow: deployed.shadow,
                    })
                });
                let identity = Identity {
                    name: format!("{}/endpoints/{}", self.resource_prefix, endpoint.id),
                    id: endpoint.id.clone(),
                    display_name: endpoint.display_name.clone(),
                    create_time: create_time.clone(),
                };
                Some(Endpoint::new(identity, deployed.collect()))
            })
            .collect();
        Catalog::new(endpoints, self.defaults.clone())
    }

    /// All models of the repository, whether they are served or not.
    pub fn found(&self) -> &[ModelFolder] {
        &self.found
    }

    /// The endpoints.
    pub fn endpoints(&self) -> &[PlannedEndpoint] {
        &self.endpoints
    }

    /// `projects/{project}/locations/{location}` of what the configuration declares.
    pub fn parent(&self) -> &str {
        &self.resource_prefix
    }

    fn fields(&self, deployed: &PlannedModel, model: &ServedModel) -> DeployedModelFields {
        DeployedModelFields {
            deployed_model_id: deployed.id.clone(),
            model: format!("{}/models/{}", self.resource_prefix, model.name),
            model_display_name: model.display_name.clone(),
            model_version_id: model.version.to_string(),
        }
    }
}

fn key(folder: &ModelFolder) -> ModelKey {
    (folder.name.clone(), folder.version)
}

fn deployed_id(endpoint: &str, folder: &ModelFolder) -> String {
    derived_id(&[endpoint, &folder.name, &folder.version.to_string()])
}

fn planned(
    declared: &config::Endpoint,
    found: &[ModelFolder],
    highest: &BTreeMap<&str, &ModelFolder>,
    problems: &mut Vec<StartupError>,
) -> PlannedEndpoint {
    let deployed = declared.deployed_models.iter().filter_map(|deployed| {
        let folder = match &deployed.version {
            None => highest.get(deployed.model.as_str()).copied(),
            Some(version) => {
                found.iter().find(|folder| folder.name == deployed.model && folder.version.to_string() == *version)
            }
        };
        let unknown = || StartupError::UnknownModel {
            endpoint: declared.id.clone(),
            model: deployed.model.clone(),
            version: deployed.version.as_ref().map(|version| format!(" version {version}")).unwrap_or_default(),
            known: found
                .iter()
                .map(|folder| format!("{} {}", folder.name, folder.version))
                .collect::<Vec<_>>()
                .join(", "),
        };
        let Some(folder) = folder else {
            problems.push(unknown());
            return None;
        };
        Some(PlannedModel {
            id: deployed.id.clone().unwrap_or_else(|| deployed_id(&declared.id, folder)),
            model: key(folder),
            traffic: deployed.traffic,
            shadow: deployed.shadow,
        })
    });
    let deployed = deployed.collect();
    PlannedEndpoint {
        id: declared.id.clone(),
        display_name: declared.display_name.clone().unwrap_or_else(|| declared.id.clone()),
        deployed,
    }
}

/// The default of the built-in settings, which fits the shipped models.
const BUILT_IN_DEFAULT: &str = "imagenet";

/// A default that somebody chose must exist. The built-in one need not fit their models, unless there are several and
/// Vertex will post to the route that only a default answers.
fn check_default(settings: &Settings, endpoints: &[PlannedEndpoint]) -> Result<(), StartupError> {
    let is_there = endpoints.iter().any(|endpoint| endpoint.id == settings.default_endpoint);
    let needed = settings.default_endpoint != BUILT_IN_DEFAULT
        || (settings.container.predict_route.is_some() && endpoints.len() > 1);
    if is_there || !needed {
        return Ok(());
    }
    Err(StartupError::UnknownDefault {
        id: settings.default_endpoint.clone(),
        known: endpoints.iter().map(|endpoint| endpoint.id.as_str()).collect::<Vec<_>>().join(", "),
    })
}

/// Whether to start without any model of the repository's. With a database, all that is served may come over the API; then
/// an empty folder is right, and one that nobody named need not even be there.
fn may_be_empty(settings: &Settings, error: &RepositoryError) -> bool {
    let directory = &settings.repository.directory;
    settings.state.directory.is_some()
        && match error {
            RepositoryError::NoModels(_) => true,
            RepositoryError::Unreadable { .. } => directory == Path::new("models") && !directory.exists(),
            _ => false,
        }
}

/// What brings artifacts here, by the settings.
pub fn artifacts(settings: &Settings) -> Artifacts {
    let entry = |(uri, folder): (&String, &String)| match ArtifactUri::parse(uri) {
        Ok(ArtifactUri::Objects(uri)) => Some((uri, PathBuf::from(folder))),
        // Refused when the settings were read.
        _ => None,
    };
    Artifacts::new(ArtifactSettings {
        map: settings.artifacts.map.iter().filter_map(entry).collect(),
        directory: settings.artifacts.directory.clone().or_else(|| {
            let state = settings.state.directory.as_ref()?;
            Some(state.join("artifacts"))
        }),
        max_bytes: settings.artifacts.max_bytes as u64,
        variables: settings.artifacts.variables.clone(),
    })
}

/// Makes a `repository.directory` that is a URI a folder of this machine. Of a folder nothing is asked.
///
/// # Errors
/// When there is nothing to be had at the URI.
pub async fn fetch_repository(
    settings: &mut Settings,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<Option<LocalArtifact>, ArtifactError> {
    let uri = settings.repository.directory.to_string_lossy().into_owned();
    if !is_uri(&uri) {
        return Ok(None);
    }
    let local = artifacts(settings).fetch(&uri, progress).await?;
    settings.repository.directory.clone_from(&local.directory);
    Ok(Some(local))
}

/// What the settings mean for loading.
pub fn load_options(settings: &Settings) -> LoadOptions {
    let engine = &settings.engine;
    LoadOptions {
        engine: OnnxOptions {
            library: engine.library.clone(),
            library_directories: engine.library_directories.clone(),
            provider: engine.provider,
            fallback: engine.fallback,
            device_id: i32::from(engine.device_id),
            workers: engine.workers,
            threads: engine.threads,
            spin: engine.spin,
            max_batch: engine.max_batch,
            io_binding: engine.io_binding,
            cuda: CudaOptions {
                graphs: engine.cuda.graphs,
                tf32: engine.cuda.tf32,
                memory_limit: engine.cuda.memory_limit,
            },
            tensorrt: TensorRtOptions {
                fp16: engine.tensorrt.fp16,
                graphs: engine.tensorrt.graphs,
                engine_cache: engine.tensorrt.engine_cache.clone(),
            },
        },
        warm_up: engine.warm_up,
        decode: decode_limits(settings),
    }
}

/// What decoding one picture may cost.
pub fn decode_limits(settings: &Settings) -> DecodeLimits {
    DecodeLimits { max_pixels: settings.limits.pixels, max_bytes: settings.limits.decode_bytes as u64 }
}
