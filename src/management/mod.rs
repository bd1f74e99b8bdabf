//! Endpoints and models that come and go at run time: Vertex AI's `ModelService`, `EndpointService` and
//! `google.longrunning.Operations`, without a transport.
//!
//! Each method takes a request's message and gives the answer's, or a [`Status`]. What there is is a snapshot that is
//! swapped whole (`state`): reading never waits. Changes come one after the other: each is checked against the latest
//! snapshot, is on the disk (`store`) before anybody sees it, then becomes the new snapshot and the new [`Catalog`], which
//! requests for predictions see from their next one on. Requests under way keep the models that they have, and a model is
//! dropped with the last of them.
//!
//! What the configuration declares is in the same snapshot and can't be changed here.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use thiserror::Error;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::artifact::Artifacts;
use crate::endpoint::{Catalog, ServedModel};
use crate::loader::{Loader, ModelKey};
use crate::observe::Metrics;
use crate::protocol::generated::google::longrunning::WaitOperationRequest;
use crate::protocol::generated::google::longrunning::{ListOperationsRequest, ListOperationsResponse, Operation};
use crate::protocol::status::{Code, Status};
use crate::repository::RepositoryError;
use crate::service::Service;
use crate::startup::Plan;

mod artifact;
mod declared;
mod deploy;
mod endpoints;
mod explanation;
mod filter;
mod listing;
mod masks;
mod models;
mod names;
mod operations;
mod serving;
mod shadow;
mod split;
mod state;
mod store;
mod versions;

pub use operations::Version;
pub use store::StoreError;

use operations::Operations;
use state::{Change, State};
use store::Store;

/// What management has to know of the rest of the server.
#[derive(Debug, Clone, Default)]
pub struct ManagementSettings {
    /// Where the database is kept; `None`: in memory only.
    pub directory: Option<PathBuf>,
    /// Whether a deployed model that can't be loaded again keeps the server from starting.
    pub fail_on_error: bool,
    /// The port of the API's plain HTTP.
    pub http_port: u16,
    /// The port of the API's HTTPS, where there is one.
    pub https_port: Option<u16>,
    /// `host:port` of the listener with TLS, which dedicated endpoints are reached by.
    pub dedicated_dns: Option<String>,
}

/// By which way a request came.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The version of the API.
    pub version: Version,
    /// Where the caller reaches the API over HTTP, such as `http://localhost:8080`.
    pub base_url: Option<String>,
    /// When they give up, as far as they have said so.
    pub deadline: Option<Instant>,
}

impl Caller {
    /// How long an answer may wait for its operation to be done. Google's clients of v1beta1 give up after five seconds,
    /// those of v1 never.
    fn patience(&self) -> Duration {
        let usual = Duration::from_secs(match self.version {
            Version::V1 => 15,
            Version::V1Beta1 => 4,
        });
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()) * 3 / 4);
        left.map_or(usual, |left| left.min(usual))
    }
}

/// Why the server can't go on with what it was told at run time.
#[derive(Debug, Error)]
pub enum ManagementError {
    /// The database can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A model that was deployed can't be loaded any more.
    #[error(
        "endpoint {endpoint:?}, deployed model {id:?}: {reason}. To start without it, set repository.on_error = \"skip\"; it \
         can then be undeployed"
    )]
    Model {
        /// The endpoint.
        endpoint: String,
        /// The deployed model.
        id: String,
        /// What is wrong.
        reason: String,
    },
}

/// Whoever holds it may change things.
#[derive(Default)]
struct Writer {
    store: Option<Store>,
}

/// The methods.
pub struct Management {
    settings: ManagementSettings,
    service: Arc<Service>,
    loader: Arc<Loader>,
    artifacts: Arc<Artifacts>,
    metrics: Arc<Metrics>,
    state: ArcSwapOption<State>,
    operations: Operations,
    writer: Mutex<Writer>,
}

impl Management {
    /// Nothing can be asked before [`Management::start`].
    pub fn new(
        settings: ManagementSettings,
        service: Arc<Service>,
        loader: Arc<Loader>,
        artifacts: Arc<Artifacts>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (state, operations) = (ArcSwapOption::empty(), Operations::default());
        let writer = Mutex::default();
        Arc::new(Self { settings, service, loader, artifacts, metrics, state, operations, writer })
    }

    /// Begins with what the configuration declares, takes up what was made before, and publishes all of it.
    ///
    /// # Errors
    /// [`ManagementError`].
    pub async fn start(
        &self,
        plan: &Plan,
        models: &BTreeMap<ModelKey, Arc<ServedModel>>,
        catalog: Catalog,
    ) -> Result<Arc<Catalog>, ManagementError> {
        let mut state = declared::state(plan, models);
        let mut catalog = catalog;
        let mut writer = self.writer.lock().await;
        match &self.settings.directory {
            Some(directory) => {
                let store = Store::open(directory)?;
                catalog = self.restore(&mut state, catalog, &store).await?;
                writer.store = Some(store);
            }
            None => tracing::info!(
                "models and endpoints that are made over the API are kept in memory only; state.directory keeps them"
            ),
        }
        self.service.publish(catalog.with_aliases(state.aliases()));
        self.state.store(Some(Arc::new(state)));
        Ok(self.service.catalog().unwrap_or_default())
    }

    /// Where whoever reached this server's gRPC by a host can reach its HTTP: by TLS, if that is how they came.
    pub fn base_url(&self, host: &str, is_encrypted: bool) -> String {
        match self.settings.https_port {
            Some(port) if is_encrypted => format!("https://{host}:{port}"),
            _ => format!("http://{host}:{}", self.settings.http_port),
        }
    }

    fn state(&self) -> Result<Arc<State>, Status> {
        let loading = || Status::unavailable("the models are still being loaded", Duration::from_secs(2));
        self.state.load_full().ok_or_else(|| loading().because("MODELS_LOADING"))
    }

    /// Does a change to its end, even when nobody waits for the answer any more.
    async fn detached<T: Send + 'static, F: Future<Output = Result<T, Status>> + Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, Status> {
        let failed = |_| Status::new(Code::Internal, "the change met a defect of the server, which its log describes");
        tokio::spawn(work(self.clone())).await.map_err(failed)?
    }

    /// Makes a change: durable first, then visible. `loaded` is a model that one of the endpoints has now.
    async fn commit(
        &self,
        writer: &MutexGuard<'_, Writer>,
        mut change: Change,
        loaded: Option<(&str, Arc<ServedModel>)>,
    ) -> Result<(), Status> {
        change.operations.extend(self.operations.surplus(change.operations.len()));
        if let Some(store) = writer.store.clone() {
            let written = change.clone();
            let applied = tokio::task::spawn_blocking(move || store.apply(&written)).await;
            let applied = applied.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())));
            applied.map_err(|error| {
                tracing::error!(%error, "a change could not be kept");
                Status::new(Code::Internal, "the change could not be kept, so it was not made; the log has the reason")
            })?;
        }
        let state = self.state()?.after(&change);
        self.serve(&state, &change, loaded);
        self.state.store(Some(Arc::new(state)));
        self.operations.apply(&change);
        Ok(())
    }

    /// `GetOperation`
    ///
    /// # Errors
    /// NOT_FOUND, PERMISSION_DENIED.
    pub fn get_operation(&self, name: &str) -> Result<Operation, Status> {
        names::check_operation(name)?;
        self.operations.get(name)
    }

    /// `ListOperations`, of a resource or of all.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub fn list_operations(&self, request: &ListOperationsRequest) -> Result<ListOperationsResponse, Status> {
        self.operations.list(&request.name, request.page_size, &request.page_token)
    }

    /// `CancelOperation`: a deployment ends, if its model isn't loaded yet.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn cancel_operation(&self, name: &str) -> Result<(), Status> {
        names::check_operation(name)?;
        self.operations.cancel(name)
    }

    /// `DeleteOperation`: forgets the outcome of one that is done.
    ///
    /// # Errors
    /// NOT_FOUND; FAILED_PRECONDITION for one that is under way.
    pub async fn delete_operation(self: &Arc<Self>, name: String) -> Result<(), Status> {
        names::check_operation(&name)?;
        self.detached(|this| async move {
            let writer = this.writer.lock().await;
            if !this.operations.get(&name)?.done {
                return Err(Status::new(Code::FailedPrecondition, "the operation is under way; it can be cancelled"));
            }
            let change = Change { operations: vec![(names::id_of(&name).to_owned(), None)], ..Change::default() };
            this.commit(&writer, change, None).await
        })
        .await
    }

    /// `WaitOperation`: for as long as the request says, a minute at most.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub async fn wait_operation(&self, request: &WaitOperationRequest) -> Result<Operation, Status> {
        names::check_operation(&request.name)?;
        let limit = request.timeout.and_then(|timeout| Duration::try_from(timeout).ok());
        let longest = Duration::from_secs(50);
        self.operations.wait(&request.name, limit.unwrap_or(longest).min(longest)).await
    }
}

impl From<RepositoryError> for Status {
    /// Why an artifact can't be served. What says where files lie on this machine is left out.
    fn from(error: RepositoryError) -> Self {
        let message = match &error {
            RepositoryError::NoModels(_) => {
                "there is no model.onnx in the artifact's folder; looked for were model.onnx, onnx/model.onnx and the \
                 same in folders one and two levels below (for images they also hold config.json and \
                 preprocessor_config.json). artifactUri must name the folder that holds the model"
                    .to_owned()
            }
            RepositoryError::TooMany(_) => {
                "there is too much in the artifact's folder for it to be a model's: artifactUri must name the folder that \
                 holds model.onnx"
                    .to_owned()
            }
            RepositoryError::Unreadable { reason, .. } => format!("the artifact can't be read: {reason}"),
            _ => error.to_string(),
        };
        Self::new(Code::FailedPrecondition, message).because("MODEL_NOT_LOADABLE")
    }
}
