//! Endpoints: the names that requests go to, and which deployed model answers each request.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::artifact::LocalArtifact;
use crate::engine::Signature;
use crate::observe::DeployedModelMetrics;
use crate::protocol::generated::google::cloud::aiplatform::v1::ExplanationSpec;
use crate::protocol::vertex::DeployedModelFields;
use crate::scheduler::{Admission, Refusal, Scheduler};
use crate::task::Task;

mod catalog;
mod identity;
mod model;
mod shadow;
mod traffic;

pub use catalog::{Aliases, Catalog, Defaults};
pub use identity::derived_id;
pub(crate) use identity::hash;
pub use model::{NamedModel, Version};
pub use shadow::{Copied, Shadow};
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
    /// Whether its own files ask for [`DeployedModel::invoke`].
    pub invoke: bool,
    /// What it takes and gives.
    pub signature: Signature,
    /// What computes, such as `cpu`.
    pub provider: String,
    /// The size of its files in bytes.
    pub file_bytes: u64,
    /// How long it took to become ready.
    pub load_time: Duration,
    /// What keeps its files on this machine, where they were brought here.
    pub files: Option<LocalArtifact>,
    /// Its queue.
    pub scheduler: Scheduler,
}

impl ServedModel {
    /// Asks the queue for a share for so many items, with the bytes that these will take as tensors.
    ///
    /// # Errors
    /// As [`Scheduler::admit`].
    pub fn admit(&self, items: usize, deadline: tokio::time::Instant) -> Result<Admission, Refusal> {
        self.scheduler.admit(items, self.task.item_bytes().saturating_mul(items), Some(deadline))
    }
}

/// A model under an endpoint.
pub struct DeployedModel {
    /// Who answered, as it stands in answers.
    pub fields: DeployedModelFields,
    /// The model.
    pub model: Arc<ServedModel>,
    /// Percent of the endpoint's requests.
    pub traffic: u8,
    /// Whether it is asked by `/invoke/...`, and no longer by `predict` and the like.
    pub invoke: bool,
    /// What is counted of its requests.
    pub metrics: DeployedModelMetrics,
    /// How its predictions are explained, by the model's own specification and the deployment's; `None`: nobody said.
    pub explanation_spec: Option<ExplanationSpec>,
    /// Whether they are not explained at all.
    pub disable_explanations: bool,
    /// The percent of the requests that it gets copies of, as a shadow, which answers nobody.
    pub shadow: Option<u8>,
}

/// Who an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of Endpoint")]
pub struct Identity {
    pub name: String,
    pub id: String,
    pub display_name: String,
    pub create_time: String,
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
    split: Arc<TrafficSplit>,
    shadows: Vec<Shadow>,
}

impl Endpoint {
    /// An endpoint for models whose traffic adds up to 100, or to 0 where nothing is deployed.
    pub fn new(identity: Identity, deployed_models: Vec<Arc<DeployedModel>>) -> Self {
        let shares: Vec<u8> = deployed_models.iter().map(|deployed| deployed.traffic).collect();
        let Identity { name, id, display_name, create_time } = identity;
        let split = Arc::new(TrafficSplit::new(&shares));
        let shadow = |deployed: &Arc<DeployedModel>| Some(Shadow::new(deployed.clone(), deployed.shadow?));
        let shadows = deployed_models.iter().filter_map(shadow).collect();
        Self { name, id, display_name, create_time, deployed_models, split, shadows }
    }

    /// Goes on with the turns of an earlier state of this endpoint, where the split is the same, so that a change of
    /// something else doesn't begin a new hundred.
    pub fn after(mut self, earlier: &Self) -> Self {
        if self.split.turns() == earlier.split.turns() {
            self.split = earlier.split.clone();
        }
        self
    }

    /// The models, in the order in which they were declared.
    pub fn deployed_models(&self) -> &[Arc<DeployedModel>] {
        &self.deployed_models
    }

    /// Those of the models that get copies of the traffic.
    pub fn shadows(&self) -> &[Shadow] {
        &self.shadows
    }

    /// The deployed model whose turn it is by the traffic split; `None` when none has traffic. Requests of one `session`
    /// get the same one as long as the split is unchanged, on every replica, and take nobody's turn.
    pub fn choose(&self, session: Option<&[u8]>) -> Option<&Arc<DeployedModel>> {
        let index = match session {
            Some(session) => self.split.of(session),
            None => self.split.next(),
        };
        self.deployed_models.get(index?)
    }

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
