//! What every method does around its own work: who is asked, until when, who answers, and what is counted.

use tonic::Request;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use super::Grpc;
use super::call::Call;
use crate::protocol::generated::google::cloud::aiplatform::v1::{Explanation, ExplanationSpecOverride};
use crate::protocol::status::{Code, Status};
use crate::service::{Chosen, ENDPOINT_ID, Question, SESSION, Target};
use crate::task::Prediction;

/// What a call says beside its message.
#[derive(Clone)]
pub struct Head {
    /// When it came, and when it has to be answered.
    pub call: Call,
    endpoint: Option<MetadataValue<Ascii>>,
    session: Option<MetadataValue<Ascii>>,
}

impl Head {
    /// Of any call.
    pub fn of<T>(request: &Request<T>, grpc: &Grpc) -> Self {
        let call = request.extensions().get::<Call>().copied();
        Self {
            call: call.unwrap_or_else(|| Call::new(None, grpc.settings.request_timeout)),
            endpoint: request.metadata().get(ENDPOINT_ID).cloned(),
            session: request.metadata().get(SESSION).filter(|session| !session.is_empty()).cloned(),
        }
    }

    /// The id of the endpoint: the last segment of the message's own name, or what the metadata says. Project and
    /// location are whatever the client believes them to be.
    ///
    /// # Errors
    /// When neither names one.
    pub fn endpoint<'a>(&'a self, name: &'a str) -> Result<&'a str, Status> {
        let metadata = || self.endpoint.as_ref().and_then(|value| value.to_str().ok());
        let named = Some(name).filter(|name| !name.is_empty()).or_else(metadata);
        named.map(|name| name.rsplit('/').next().unwrap_or(name)).filter(|id| !id.is_empty()).ok_or_else(|| {
            let message = "endpoint is missing: it must be projects/PROJECT/locations/LOCATION/endpoints/ENDPOINT";
            Status::bad_field("endpoint", message)
        })
    }
}

impl Grpc {
    /// The one of the endpoint that a call names.
    ///
    /// # Errors
    /// The status for the client.
    pub fn choose_of(&self, head: &Head, endpoint: &str) -> Result<Chosen, Status> {
        self.choose(head, Target::Endpoint(head.endpoint(endpoint)?))
    }

    /// Finds who answers, of the call's session where there is a choice; counts a call for what isn't here.
    ///
    /// # Errors
    /// The status for the client.
    pub fn choose(&self, head: &Head, target: Target<'_>) -> Result<Chosen, Status> {
        let session = head.session.as_ref().map(MetadataValue::as_bytes);
        self.service.choose_for(target, session).map_err(|error| {
            let status = Status::from(&error);
            self.metrics.answered_unknown(status.http_status().as_u16());
            status
        })
    }

    /// Counts an outcome for whoever was chosen.
    pub fn counted<T>(&self, chosen: &Chosen, outcome: Result<T, Status>) -> Result<T, Status> {
        let http = outcome.as_ref().map_or_else(|status| status.http_status().as_u16(), |_| 200);
        chosen.deployed.metrics.answered(http);
        outcome
    }

    /// Answers a call and counts it: `read` makes a question of the message, with something that `write` needs to make
    /// a message of the predictions.
    ///
    /// # Errors
    /// The status for the client.
    pub async fn ask<C, T>(
        &self,
        call: Call,
        chosen: &Chosen,
        read: impl FnOnce() -> Result<(Question, C), Status>,
        write: impl FnOnce(&[Prediction], C) -> Result<T, serde_json::Error>,
    ) -> Result<T, Status> {
        let outcome = async {
            chosen.check_verbs().map_err(|error| Status::from(&error))?;
            let received = std::time::Instant::now();
            let (question, context) = read()?;
            let parse = received.elapsed();
            let answer = self.service.answer(chosen, question, call.deadline).await;
            let answer = answer.map_err(|error| Status::from(&error))?;
            let message = write(&answer.predictions, context).map_err(|error| unwritable(&error))?;
            answer.count(&chosen.deployed, &self.metrics, parse, call.arrived.elapsed());
            Ok(message)
        };
        self.counted(chosen, outcome.await)
    }
}

impl Grpc {
    /// Explains predictions, and counts it: an explanation for each, and the predictions.
    ///
    /// # Errors
    /// The status for the client.
    pub async fn explain(
        &self,
        call: Call,
        chosen: &Chosen,
        read: impl FnOnce() -> Result<Question, Status>,
        overrides: Option<&ExplanationSpecOverride>,
    ) -> Result<(Vec<Explanation>, Vec<Prediction>), Status> {
        let explained = async {
            chosen.check_verbs().map_err(|error| Status::from(&error))?;
            let explained = self.service.explain(chosen, read()?, overrides, call.deadline).await;
            explained.inspect_err(|error| error.log(chosen)).map_err(|error| Status::from(&error))
        };
        let (explanations, answer) = self.counted(chosen, explained.await)?;
        answer.count(&chosen.deployed, &self.metrics, std::time::Duration::ZERO, call.arrived.elapsed());
        Ok((explanations, answer.predictions))
    }
}

/// The failure of writing an answer, which is a defect of ours.
pub fn unwritable(error: &serde_json::Error) -> Status {
    tracing::error!(%error, "an answer could not be written as a message");
    Status::new(Code::Internal, "the answer could not be written as a message")
}

/// The metadata by which Vertex says who answered.
pub fn name_the_model(metadata: &mut MetadataMap, chosen: &Chosen) {
    for (name, value) in chosen.names() {
        // Ids are checked when they are configured; a folder's name may hold what metadata can't.
        if let Ok(value) = value.parse() {
            metadata.insert(name, value);
        }
    }
}
