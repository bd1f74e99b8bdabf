//! Prediction, whoever asks: from a parsed request to predictions, through task, queue and engine.
//!
//! Transports call this and turn the outcome into bytes. The order of work for one request:
//!
//! 1. the parameters are read, so that nothing is decoded for a request that is refused anyway;
//! 2. the queue admits all its instances, or none, before anything is decoded;
//! 3. each instance is prepared on the [`WorkPool`] and queued from there;
//! 4. the answers are awaited in the order of the instances.
//!
//! The first instance that fails fails the request; what is still under way for the others is cancelled. So is
//! everything when the future is dropped, because the client has gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use shadow::Copies;

use crate::auth;
use crate::endpoint::{Catalog, DeployedModel, Endpoint, LookupError, Version};
use crate::protocol::tf_serving::Form;
use crate::protocol::vertex::PredictRequest;
use crate::scheduler::Completed;
use crate::task::{ImageFacts, Instance, Prediction, PreparationTimes};

mod accounting;
mod direct;
mod error;
mod evaluate;
mod explain;
pub mod open_inference;
mod pool;
mod raw;
mod shadow;

pub use direct::{InputSet, input_sets, read_direct, write_direct};
pub use error::ServiceError;
pub use evaluate::Evaluator;
pub use pool::WorkPool;
pub use raw::{RawForm, read_raw, read_rows};

/// The header, or gRPC's metadata, whose value keeps the requests of a session with one deployed model.
pub const SESSION: &str = "x-tessera-session";

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The default endpoint.
    Default,
    /// An endpoint; its traffic split decides on the model.
    Endpoint(&'a str),
    /// One model of an endpoint.
    DeployedModel {
        /// The endpoint.
        endpoint: &'a str,
        /// The model's id under it.
        id: &'a str,
    },
    /// A model by name, as protocols without endpoints have it.
    Model {
        /// What [`Catalog::model`] finds.
        name: &'a str,
        /// Which version of it.
        version: Version<'a>,
    },
}

/// What is asked, in whatever form it came.
#[derive(Debug, Clone)]
pub struct Question {
    /// At least one.
    pub instances: Vec<Instance>,
    /// The JSON text of the parameters.
    pub parameters: Option<Bytes>,
    /// Where the instances stand in the request, for those who are told that one is wrong.
    pub form: Form,
}

/// Who answers a request.
#[derive(Clone)]
pub struct Chosen {
    /// The endpoint that was asked.
    pub endpoint: Arc<Endpoint>,
    /// Its deployed model whose turn it is.
    pub deployed: Arc<DeployedModel>,
}

impl Chosen {
    /// Whether the model is asked by `predict` and the like.
    ///
    /// # Errors
    /// [`ServiceError::InvokeAlone`].
    pub fn check_verbs(&self) -> Result<(), ServiceError> {
        match self.deployed.invoke {
            true => Err(ServiceError::InvokeAlone(self.endpoint.id.clone())),
            false => Ok(()),
        }
    }

    /// The headers, or the metadata, by which Vertex AI says who answered, and their values.
    pub fn names(&self) -> [(&'static str, &str); 4] {
        let fields = &self.deployed.fields;
        let [endpoint, deployed_model, model, version] = ANSWERED_BY;
        [
            (endpoint, &self.endpoint.id),
            (deployed_model, &fields.deployed_model_id),
            (model, &fields.model),
            (version, &fields.model_version_id),
        ]
    }
}

/// The headers of an answer that say who gave it.
pub const ANSWERED_BY: [&str; 4] =
    [ENDPOINT_ID, "x-vertex-ai-deployed-model-id", "x-vertex-ai-model", "x-vertex-ai-model-version-id"];

/// The header that names the endpoint; in a gRPC request it does so where the message doesn't.
pub const ENDPOINT_ID: &str = "x-vertex-ai-endpoint-id";

/// How long the stages of a request took; of several instances the slowest counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the stages")]
pub struct StageTimes {
    pub decode: Duration,
    pub preprocess: Duration,
    pub queue: Duration,
    pub inference: Duration,
    pub postprocess: Duration,
}

/// A request's predictions.
#[derive(Debug)]
pub struct Answer {
    /// One for each instance, in the same order.
    pub predictions: Vec<Prediction>,
    /// Where the time went.
    pub times: StageTimes,
    /// The pictures among the instances.
    pub images: Vec<ImageFacts>,
}

/// The models and the threads that serve them. One for the process.
pub struct Service {
    catalog: ArcSwapOption<Catalog>,
    /// What asks the models.
    pub evaluator: Evaluator,
    image_grid: usize,
}

impl Service {
    /// A service that is still loading. Explanations divide pictures into a grid of `image_grid` fields each way.
    pub fn new(evaluator: Evaluator, image_grid: usize) -> Self {
        Self { catalog: ArcSwapOption::empty(), evaluator, image_grid }
    }

    /// Serves these endpoints from now on. Requests under way keep the models that they have.
    pub fn publish(&self, catalog: Catalog) {
        self.catalog.store(Some(Arc::new(catalog)));
    }

    /// The endpoints.
    ///
    /// # Errors
    /// [`ServiceError::Loading`].
    pub fn catalog(&self) -> Result<Arc<Catalog>, ServiceError> {
        self.catalog.load_full().ok_or(ServiceError::Loading)
    }

    /// Finds who answers, if the caller may ask it. Each call is a turn of the endpoint's traffic split.
    ///
    /// # Errors
    /// [`ServiceError::Loading`], [`ServiceError::Lookup`] or [`ServiceError::Forbidden`].
    pub fn choose(&self, target: Target<'_>) -> Result<Chosen, ServiceError> {
        self.choose_for(target, None)
    }

    /// As [`Service::choose`], but the requests of one session, whatever names it, stay with one deployed model.
    ///
    /// # Errors
    /// As [`Service::choose`].
    pub fn choose_for(&self, target: Target<'_>, session: Option<&[u8]>) -> Result<Chosen, ServiceError> {
        match self.find(target, session) {
            Ok(chosen) if auth::may_use(&chosen.endpoint.id) => Ok(chosen),
            Ok(_) => Err(ServiceError::Forbidden),
            // What there is, which the error tells, is not for everybody.
            Err(ServiceError::Lookup(_)) if auth::is_restricted() => Err(ServiceError::Forbidden),
            Err(error) => Err(error),
        }
    }

    fn find(&self, target: Target<'_>, session: Option<&[u8]>) -> Result<Chosen, ServiceError> {
        let catalog = self.catalog()?;
        let endpoint = match target {
            Target::Default => catalog.default_endpoint()?,
            Target::Endpoint(id) | Target::DeployedModel { endpoint: id, .. } => catalog.endpoint(id)?,
            Target::Model { name, version } => {
                let (endpoint, deployed) = catalog.model(name)?.choose(version, session)?;
                return Ok(Chosen { endpoint, deployed });
            }
        };
        let deployed = match target {
            Target::DeployedModel { id, .. } => endpoint.deployed_model(id)?,
            _ => endpoint.choose(session).ok_or_else(|| LookupError::NoTraffic(endpoint.id.clone()))?,
        };
        Ok(Chosen { endpoint: endpoint.clone(), deployed: deployed.clone() })
    }

    /// The endpoint's id and the deployed model's of a model by name, as far as it is one of those that the target
    /// reaches; of the endpoint itself the one whose turn it is, or which is the session's.
    ///
    /// # Errors
    /// [`ServiceError::Loading`] or [`ServiceError::Lookup`].
    pub fn within(
        &self,
        target: Target<'_>,
        name: &str,
        version: Version<'_>,
        session: Option<&[u8]>,
    ) -> Result<(String, String), ServiceError> {
        let catalog = self.catalog()?;
        let (endpoint, only) = match target {
            Target::Default => (catalog.default_endpoint()?, None),
            Target::Endpoint(id) => (catalog.endpoint(id)?, None),
            Target::DeployedModel { endpoint, id } => (catalog.endpoint(endpoint)?, Some(id)),
            Target::Model { .. } => {
                return Err(LookupError::UnknownModel { name: String::new(), known: Vec::new() }.into());
            }
        };
        if !auth::may_use(&endpoint.id) {
            return Err(ServiceError::Forbidden);
        }
        let reaches = |deployed: &&Arc<DeployedModel>| {
            let id = &deployed.fields.deployed_model_id;
            let named = endpoint.id == name || deployed.model.name == name || id == name;
            let versioned = match version {
                Version::Number(number) => deployed.version() == number,
                Version::Any | Version::Label(_) => true,
            };
            named && versioned && only.is_none_or(|only| only == id)
        };
        let found = match (version, endpoint.id == name, only) {
            (Version::Any, true, None) => endpoint.choose(session),
            _ => endpoint.deployed_models().iter().find(reaches),
        };
        let found = found.ok_or_else(|| LookupError::UnknownModel {
            name: name.chars().take(64).collect(),
            known: endpoint.deployed_models().iter().map(|deployed| deployed.model.name.clone()).collect(),
        })?;
        Ok((endpoint.id.clone(), found.fields.deployed_model_id.clone()))
    }

    /// Answers a request before its deadline, or says why not.
    ///
    /// # Errors
    /// [`ServiceError`]; at the latest when the deadline passes.
    pub async fn predict(
        &self,
        chosen: &Chosen,
        request: PredictRequest,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, ServiceError> {
        let instances = request.instances.into_iter().map(Instance::Json).collect();
        self.ask(chosen, Question { instances, parameters: request.parameters, form: Form::Rows }, deadline).await
    }

    /// As [`Service::predict`], for a question in any form.
    ///
    /// # Errors
    /// [`ServiceError`]; at the latest when the deadline passes.
    pub async fn answer(
        &self,
        chosen: &Chosen,
        question: Question,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, ServiceError> {
        let form = question.form;
        let answer = self.ask(chosen, question, deadline).await;
        answer.map_err(|error| error.in_form(form)).inspect_err(|error| error.log(chosen))
    }

    /// Puts a question to a model, and copies of it to the shadows of the endpoint.
    async fn ask(
        &self,
        chosen: &Chosen,
        question: Question,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, ServiceError> {
        let (copies, begin) = (Copies::of(chosen, &question), Instant::now());
        let Question { instances, parameters, form: _ } = question;
        let answer = self.evaluator.predict(chosen, instances, parameters.as_deref(), deadline).await?;
        if let Some(copies) = copies {
            copies.send(&self.evaluator, chosen, &answer, begin.elapsed());
        }
        Ok(answer)
    }
}

impl StageTimes {
    fn slowest(
        &mut self,
        preparation: PreparationTimes,
        completed: &Completed,
        waited: Duration,
        postprocess: Duration,
    ) {
        self.decode = self.decode.max(preparation.decode);
        self.preprocess = self.preprocess.max(preparation.preprocess);
        self.queue = self.queue.max(waited + completed.queue);
        self.inference = self.inference.max(completed.inference);
        self.postprocess += postprocess;
    }

    /// Of work that was done in portions.
    fn merge(&mut self, other: &Self) {
        self.decode = self.decode.max(other.decode);
        self.preprocess = self.preprocess.max(other.preprocess);
        self.queue += other.queue;
        self.inference += other.inference;
        self.postprocess += other.postprocess;
    }
}
