//! Endpoints: the names that requests go to, and which deployed model answers each request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::engine::Signature;
use crate::observe::DeployedModelMetrics;
use crate::protocol::generated::google::cloud::aiplatform::v1::ExplanationSpec;
use crate::protocol::vertex::DeployedModelFields;
use crate::scheduler::Scheduler;
use crate::task::Task;

mod identity;
mod model;
mod traffic;

pub use identity::derived_id;
pub use model::{NamedModel, Version};
use traffic::TrafficSplit;

/// A model that is ready to answer. Several deployed models may share it, and its queue.
pub struct ServedModel {
    /// The name of its folder.
    pub name: String,
    /// From 1.
    pub version: u64,
    /// What people call it.
    pub display_name: String,
    /// What it means.
    pub task: Arc<Task>,
    /// Whether its endpoints are asked by `/invoke/...`, and no longer by `predict` and the like.
    pub invoke: bool,
    /// What it takes and gives.
    pub signature: Signature,
    /// What computes, such as `cpu`.
    pub provider: String,
    /// The size of its files in bytes.
    pub file_bytes: u64,
    /// How long it took to become ready.
    pub load_time: Duration,
    /// Its queue.
    pub scheduler: Scheduler,
}

/// A model under an endpoint.
pub struct DeployedModel {
    /// Who answered, as it stands in answers.
    pub fields: DeployedModelFields,
    /// The model.
    pub model: Arc<ServedModel>,
    /// Percent of the endpoint's requests.
    pub traffic: u8,
    /// What is counted of its requests.
    pub metrics: DeployedModelMetrics,
    /// How its predictions are explained, where somebody said.
    pub explanation_spec: Option<ExplanationSpec>,
    /// Whether they are not explained at all.
    pub disable_explanations: bool,
}

/// A name that requests go to.
pub struct Endpoint {
    /// `projects/{project}/locations/{location}/endpoints/{id}`.
    pub name: String,
    /// The last segment of its resource name.
    pub id: String,
    /// What people call it.
    pub display_name: String,
    /// When it began to be served, as RFC 3339. Google's SDK takes an endpoint without it for one that isn't loaded.
    pub create_time: String,
    deployed_models: Vec<Arc<DeployedModel>>,
    split: TrafficSplit,
}

impl Endpoint {
    /// An endpoint for models whose traffic adds up to 100; `parent` is `projects/{project}/locations/{location}`.
    pub fn new(parent: &str, id: String, display_name: String, deployed_models: Vec<Arc<DeployedModel>>) -> Self {
        let shares: Vec<u8> = deployed_models.iter().map(|deployed| deployed.traffic).collect();
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self {
            name: format!("{parent}/endpoints/{id}"),
            id,
            display_name,
            create_time: now.format(&Rfc3339).unwrap_or_default(),
            split: TrafficSplit::new(&shares),
            deployed_models,
        }
    }

    /// The models, in the order in which they were declared.
    pub fn deployed_models(&self) -> &[Arc<DeployedModel>] {
        &self.deployed_models
    }

    /// The deployed model whose turn it is by the traffic split; `None` when none has traffic.
    pub fn choose(&self) -> Option<&Arc<DeployedModel>> {
        self.deployed_models.get(self.split.next()?)
    }
}

/// Why no deployed model could be found.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LookupError {
    /// There is no endpoint of that id.
    #[error("endpoint `{id}` is not served here; there are: {}", .known.join(", "))]
    UnknownEndpoint {
        /// What was asked for.
        id: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The endpoint has no deployed model of that id.
    #[error("endpoint `{endpoint}` has no deployed model `{id}`")]
    UnknownDeployedModel {
        /// The endpoint.
        endpoint: String,
        /// What was asked for.
        id: String,
    },
    /// Nothing here has that name: no endpoint, no model, no deployed model.
    #[error("model `{name}` is not served here; there are: {}", .known.join(", "))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The model isn't there in that version.
    #[error("model `{model}` has no {version} here; there are: {}", .known.join(", "))]
    UnknownVersion {
        /// The model.
        model: String,
        /// What was asked for, such as `version 2`.
        version: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A route that names no endpoint was used, but none is the default.
    #[error("no endpoint is the default: set `default_endpoint` to one of {}", .known.join(", "))]
    NoDefault {
        /// What there is.
        known: Vec<String>,
    },
    /// The endpoint exists, but sends no traffic to any model.
    #[error("endpoint `{0}` has no deployed model with traffic")]
    NoTraffic(String),
}

/// All endpoints.
#[derive(Default)]
pub struct Catalog {
    endpoints: BTreeMap<String, Arc<Endpoint>>,
    default: Option<String>,
}

impl Catalog {
    /// The endpoints by their ids. Without an endpoint of the default's id, the only one there is answers in its place.
    pub fn new(endpoints: Vec<Endpoint>, default: &str) -> Self {
        let endpoints: BTreeMap<_, _> =
            endpoints.into_iter().map(|endpoint| (endpoint.id.clone(), Arc::new(endpoint))).collect();
        let default = match endpoints.len() {
            _ if endpoints.contains_key(default) => Some(default.to_owned()),
            1 => endpoints.keys().next().cloned(),
            _ => None,
        };
        Self { endpoints, default }
    }

    /// The endpoints in the order of their ids.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    /// The endpoint of an id.
    ///
    /// # Errors
    /// [`LookupError::UnknownEndpoint`].
    pub fn endpoint(&self, id: &str) -> Result<&Arc<Endpoint>, LookupError> {
        self.endpoints.get(id).ok_or_else(|| LookupError::UnknownEndpoint {
            id: id.chars().take(64).collect(),
            known: self.endpoints.keys().cloned().collect(),
        })
    }

    /// The endpoint for routes that name none.
    ///
    /// # Errors
    /// [`LookupError::NoDefault`].
    pub fn default_endpoint(&self) -> Result<&Arc<Endpoint>, LookupError> {
        self.default
            .as_ref()
            .and_then(|id| self.endpoints.get(id))
            .ok_or_else(|| LookupError::NoDefault { known: self.endpoints.keys().cloned().collect() })
    }
}

impl Endpoint {
    /// The deployed model of an id.
    ///
    /// # Errors
    /// [`LookupError::UnknownDeployedModel`].
    pub fn deployed_model(&self, id: &str) -> Result<&Arc<DeployedModel>, LookupError> {
        self.deployed_models.iter().find(|deployed| deployed.fields.deployed_model_id == id).ok_or_else(|| {
            LookupError::UnknownDeployedModel { endpoint: self.id.clone(), id: id.chars().take(64).collect() }
        })
    }
}
