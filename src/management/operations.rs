//! Long-running operations: most are done when they are answered, the rest can be asked for.
//!
//! Google's clients ask again only after a second, and then ever more rarely, so an operation that is done at once spares
//! its caller that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prost::{Message, Name};
use prost_types::{Any, Timestamp};
use tokio::sync::watch;

use crate::artifact::Progress;
use crate::protocol::generated::google::cloud::aiplatform::v1::{
    DeployModelOperationMetadata, DeploymentStage, GenericOperationMetadata,
};
use crate::protocol::generated::google::longrunning::operation::Result as Outcome;
use crate::protocol::generated::google::longrunning::{ListOperationsResponse, Operation};
use crate::protocol::generated::google::rpc;
use crate::protocol::status::{Code, Status};

use super::names::{self, id_of};
use super::state::{Change, shown};

/// The version of the API that a request came by; it shows in the type URLs of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// `google.cloud.aiplatform.v1`
    #[default]
    V1,
    /// `google.cloud.aiplatform.v1beta1`
    V1Beta1,
}

impl Version {
    const PACKAGES: [(Self, &'static str); 2] =
        [(Self::V1, ".aiplatform.v1."), (Self::V1Beta1, ".aiplatform.v1beta1.")];

    /// An operation whose messages are called as this version calls them; their fields are the same.
    pub fn of(self, mut operation: Operation) -> Operation {
        let result = match &mut operation.result {
            Some(Outcome::Response(any)) => Some(any),
            _ => None,
        };
        for any in operation.metadata.iter_mut().chain(result) {
            any.type_url = self.type_url(&any.type_url);
        }
        operation
    }

    /// The name of a type as this version calls it.
    pub fn type_url(self, url: &str) -> String {
        let package = |wanted| Self::PACKAGES.into_iter().find(|(version, _)| (*version == self) == wanted);
        match (package(true), package(false)) {
            (Some((_, own)), Some((_, other))) => url.replace(other, own),
            _ => url.to_owned(),
        }
    }
}

/// How many operations are kept; the oldest of those that are done are forgotten.
const KEPT: usize = 1000;

/// The operations, by the last segment of their names: digits that grow with time.
#[derive(Debug, Default)]
pub struct Operations {
    all: Mutex<BTreeMap<String, Operation>>,
    /// Those that are to end and don't know it yet.
    cancelled: Mutex<BTreeSet<String>>,
    changed: watch::Sender<()>,
}

/// A message in an envelope that says what it is.
pub fn any<M: Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// The metadata that all operations have.
pub fn generic(create_time: Timestamp, update_time: Timestamp) -> Option<GenericOperationMetadata> {
    let (create_time, update_time) = (Some(create_time), Some(update_time));
    Some(GenericOperationMetadata { partial_failures: Vec::new(), create_time, update_time })
}

/// A name for a new operation on a resource.
pub fn name(resource: &str, time: &Timestamp) -> String {
    // Seconds have ten digits until the year 2286.
    format!("{resource}/operations/{}{:06}", time.seconds, time.nanos / 1000)
}

/// An operation on a resource that is done, under a name for `time`.
pub fn done(resource: &str, version: Version, time: Timestamp, metadata: Any, response: Any) -> Operation {
    version.of(Operation {
        name: name(resource, &time),
        metadata: Some(metadata),
        done: true,
        result: Some(Outcome::Response(response)),
    })
}

/// What `operation` holds to tell how far a deployment is. The messages have no field for a download's progress, and
/// Google's REST client for operations takes no field that it doesn't know. So it stands in the one place for words that
/// there is, as a partial status whose code is OK, and only as long as the download lasts.
pub fn deploying(begun: Timestamp, stage: DeploymentStage, progress: Option<Progress>) -> Any {
    let told = |progress: Progress| rpc::Status { message: progress.to_string(), ..rpc::Status::default() };
    let generic = generic(begun, names::now()).map(|generic| GenericOperationMetadata {
        partial_failures: progress.map(told).into_iter().collect(),
        ..generic
    });
    any(&DeployModelOperationMetadata { generic_metadata: generic, deployment_stage: stage.into() })
}

/// The metadata of an operation that will never be done.
fn ended(metadata: Any) -> Any {
    let is_deployment = metadata.type_url.ends_with(".DeployModelOperationMetadata");
    match DeployModelOperationMetadata::decode(&*metadata.value) {
        Ok(earlier) if is_deployment => {
            let begun = earlier.generic_metadata.and_then(|generic| generic.create_time).unwrap_or_else(names::now);
            Any { type_url: metadata.type_url, ..deploying(begun, DeploymentStage::FailedToDeploy, None) }
        }
        _ => metadata,
    }
}

/// The outcome of an operation that failed.
pub fn error(status: &Status) -> Outcome {
    Outcome::Error(rpc::Status { code: status.code.number(), message: status.message.clone(), details: Vec::new() })
}

impl Operations {
    /// Those that a database held. One that was under way will never be done.
    pub fn restore(&self, operations: BTreeMap<String, Operation>) -> Change {
        let mut change = Change::default();
        for (id, mut operation) in operations {
            if !operation.done {
                let message = "the server was restarted before this was done; ask again";
                operation.done = true;
                operation.metadata = operation.metadata.map(ended);
                operation.result = Some(error(&Status::new(Code::Aborted, message)));
                change.operations.push((id.clone(), Some(operation.clone())));
            }
            self.all().insert(id, operation);
        }
        change
    }

    /// What has to be forgotten when so many operations come.
    pub fn surplus(&self, coming: usize) -> Vec<(String, Option<Operation>)> {
        let all = self.all();
        let surplus = (all.len() + coming).saturating_sub(KEPT);
        all.iter().filter(|(_, operation)| operation.done).take(surplus).map(|(id, _)| (id.clone(), None)).collect()
    }

    /// Shows what has been kept.
    pub fn apply(&self, change: &Change) {
        let mut all = self.all();
        for (id, operation) in &change.operations {
            match operation {
                Some(operation) => all.insert(id.clone(), operation.clone()),
                None => all.remove(id),
            };
            self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        }
        drop(all);
        self.changed.send_replace(());
    }

    /// Shows how far an operation is; that is not kept.
    pub fn progress(&self, id: &str, metadata: Option<Any>) {
        if let Some(operation) = self.all().get_mut(id).filter(|operation| !operation.done) {
            operation.metadata = metadata;
        }
    }

    /// Asks an operation to end, as far as it still can.
    pub fn cancel(&self, name: &str) -> Result<(), Status> {
        let operation = self.get(name)?;
        if !operation.done {
            self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).insert(id_of(name).to_owned());
            self.changed.send_replace(());
        }
        Ok(())
    }

    /// Comes to an end when the operation of a name is to.
    pub async fn cancelled(&self, name: &str) {
        let mut changed = self.changed.subscribe();
        while !self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).remove(id_of(name)) {
            if changed.changed().await.is_err() {
                // The sender is ours; it can't be gone.
                return std::future::pending().await;
            }
        }
    }

    /// The operation of a name.
    pub fn get(&self, name: &str) -> Result<Operation, Status> {
        let found = self.all().get(id_of(name)).cloned();
        // The parent may be another project, but not another resource.
        let resource = |name: &str| name.splitn(5, '/').nth(4).map(str::to_owned);
        let is_it = |operation: &Operation| resource(&operation.name) == resource(name);
        found.filter(is_it).map(|operation| Operation { name: name.to_owned(), ..operation }).ok_or_else(|| {
            let message = format!("there is no operation `{}`", shown(id_of(name)));
            Status::new(Code::NotFound, message).because("OPERATION_NOT_FOUND")
        })
    }

    /// The operation of a name when it is done, or as far as it is after `limit`.
    pub async fn wait(&self, name: &str, limit: Duration) -> Result<Operation, Status> {
        let mut changed = self.changed.subscribe();
        let end = tokio::time::Instant::now() + limit;
        loop {
            let operation = self.get(name)?;
            if operation.done {
                return Ok(operation);
            }
            if tokio::time::timeout_at(end, changed.changed()).await.is_err() {
                // As far as it is now.
                return self.get(name);
            }
        }
    }

    /// The operations on a resource, or under a parent, the latest first.
    pub fn list(&self, of: &str, page_size: i32, page_token: &str) -> Result<ListOperationsResponse, Status> {
        let size = super::listing::page_size(page_size)?;
        let under = names::under("", &format!("{of}/")).trim_start_matches('/').to_owned();
        let belongs = |operation: &&Operation| {
            let is_below = names::under("", &operation.name).trim_start_matches('/').starts_with(&under);
            is_below && names::is_operation_permitted(&operation.name)
        };
        let all = self.all();
        let older = all.range::<str, _>(..).rev().filter(|(id, _)| page_token.is_empty() || id.as_str() < page_token);
        let mut operations: Vec<Operation> =
            older.map(|(_, operation)| operation).filter(belongs).take(size + 1).cloned().collect();
        let is_more = operations.len() > size;
        operations.truncate(size);
        let last = operations.last().map(|operation| id_of(&operation.name).to_owned());
        let next_page_token = last.filter(|_| is_more).unwrap_or_default();
        Ok(ListOperationsResponse { operations, next_page_token })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Operation>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
