//! `EndpointService`: putting models on endpoints and taking them off.
//!
//! A deployment is checked, then its model is fetched and loaded beside everything that goes on, then it is checked again
//! against what there is by now, and takes effect at once. Whatever fails on the way leaves the endpoint as it was.

use std::sync::Arc;

use prost_types::Timestamp;

use crate::artifact::Progress;
use crate::protocol::generated::google::cloud::aiplatform::v1::deployed_model::PredictionResources;
use crate::protocol::generated::google::cloud::aiplatform::v1::{
    DeployModelRequest, DeployModelResponse, DeployedModel, DeploymentStage, Endpoint,
    MutateDeployedModelOperationMetadata, MutateDeployedModelRequest, MutateDeployedModelResponse,
    UndeployModelOperationMetadata, UndeployModelRequest, UndeployModelResponse,
};
use crate::protocol::generated::google::longrunning::Operation;
use crate::protocol::generated::google::longrunning::operation::Result as Outcome;
use crate::protocol::status::{Code, Status};

use super::models::{check_display_name, kept};
use super::names::{self, id_of};
use super::operations::{self, any, deploying, done, generic};
use super::serving::{Source, healthy};
use super::state::{Change, State, shown};
use super::versions::etag;
use super::{Caller, Management, masks, shadow, split};

/// A deployment under way.
struct Deployment {
    request: DeployModelRequest,
    /// The id of the deployed model.
    id: String,
    caller: Caller,
    begun: Timestamp,
    /// The operation that tells of it.
    operation: String,
}

impl Management {
    /// `DeployModel`. The operation is done when this returns, unless the model takes long to load.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION for a declared endpoint. What keeps the model from
    /// being loaded is in the operation.
    pub async fn deploy_model(
        self: &Arc<Self>,
        caller: Caller,
        request: DeployModelRequest,
    ) -> Result<Operation, Status> {
        names::check_permitted(&request.endpoint)?;
        let state = self.state()?;
        let name = names::endpoint("endpoint", &request.endpoint)?;
        let endpoint = state.changeable_endpoint(&name)?;
        let id = new_id(endpoint, request.deployed_model.as_ref().map_or("", |deployed| &deployed.id))?;
        let begun = names::now();
        let (_, deployed) = with_deployed(&state, endpoint, &request, &id, begun)?;
        let source = Source::of(&state, id_of(&deployed.model), &deployed.model_version_id)?;

        let operation = Operation {
            name: operations::name(&request.endpoint, &begun),
            metadata: Some(deploying(begun, DeploymentStage::StartingDeployment, None)),
            ..Operation::default()
        };
        let operation = caller.version.of(operation);
        let patience = caller.patience();
        let deployment = Deployment { request, id, caller, begun, operation: operation.name.clone() };
        let begin = |this: Arc<Self>| async move {
            let writer = this.writer.lock().await;
            let change = Change { operations: vec![kept(&operation)], ..Change::default() };
            this.commit(&writer, change, None).await?;
            drop(writer);
            tokio::spawn(async move { this.deploy(deployment, source).await });
            Ok(operation.name)
        };
        let operation = self.detached(begin).await?;
        self.operations.wait(&operation, patience).await
    }

    /// Does a deployment, and ends its operation with what came of it.
    async fn deploy(self: Arc<Self>, deployment: Deployment, source: Source) {
        let deployment = Arc::new(deployment);
        if let Err(status) = self.try_deploy(&deployment, source).await {
            tracing::warn!(endpoint = deployment.request.endpoint, "a deployment failed: {}", status.message);
            let operation = deployment.ended(DeploymentStage::FailedToDeploy, operations::error(&status));
            let writer = self.writer.lock().await;
            let change = Change { operations: vec![kept(&operation)], ..Change::default() };
            // When even this can't be kept, the caller still learns of it.
            if self.commit(&writer, change.clone(), None).await.is_err() {
                self.operations.apply(&change);
            }
        }
    }

    /// Shows how far a deployment is.
    fn tell(&self, deployment: &Deployment, stage: DeploymentStage, progress: Option<Progress>) {
        let metadata = deploying(deployment.begun, stage, progress);
        let told = deployment.caller.version.of(Operation { metadata: Some(metadata), ..Operation::default() });
        self.operations.progress(id_of(&deployment.operation), told.metadata);
    }

    async fn try_deploy(self: &Arc<Self>, deployment: &Arc<Deployment>, source: Source) -> Result<(), Status> {
        self.tell(deployment, DeploymentStage::PreparingModel, None);
        let (this, own) = (self.clone(), deployment.clone());
        let tell = move |progress| this.tell(&own, DeploymentStage::PreparingModel, Some(progress));
        let work = async {
            let files = source.fetch(&self.artifacts, tell).await?;
            self.tell(deployment, DeploymentStage::StartingModelServer, None);
            files.load(&self.loader).await
        };
        let model = tokio::select! {
            loaded = work => loaded?,
            () = self.operations.cancelled(&deployment.operation) => {
                return Err(Status::new(Code::Cancelled, "the deployment was cancelled"));
            }
        };
        self.tell(deployment, DeploymentStage::FinishingUp, None);
        let writer = self.writer.lock().await;
        // What was right when it began need not be so any more.
        let (state, now) = (self.state()?, names::now());
        let name = names::endpoint("endpoint", &deployment.request.endpoint)?;
        let endpoint = state.changeable_endpoint(&name)?;
        let (endpoint, deployed) = with_deployed(&state, endpoint, &deployment.request, &deployment.id, now)?;
        let shown = self.view(&endpoint, &name.parent, &deployment.caller);
        let shown = shown.deployed_models.into_iter().find(|shown| shown.id == deployed.id);
        let response = any(&DeployModelResponse { deployed_model: shown });
        let operation = deployment.ended(DeploymentStage::SuccessfullyDeployed, Outcome::Response(response));
        let change = Change {
            endpoints: vec![(name.id, Some(endpoint))],
            operations: vec![kept(&operation)],
            ..Change::default()
        };
        self.commit(&writer, change, Some((&deployment.id, model))).await
    }

    /// `UndeployModel`. Its requests under way are answered by it; then it is dropped.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION for a declared endpoint or a model that still has traffic.
    pub async fn undeploy_model(
        self: &Arc<Self>,
        caller: Caller,
        request: UndeployModelRequest,
    ) -> Result<Operation, Status> {
        names::check_permitted(&request.endpoint)?;
        self.detached(|this| async move {
            let name = names::endpoint("endpoint", &request.endpoint)?;
            let writer = this.writer.lock().await;
            let (state, now) = (this.state()?, names::now());
            let mut endpoint = state.changeable_endpoint(&name)?.clone();
            let id = request.deployed_model_id.as_str();
            position(&endpoint, id)?;
            endpoint.deployed_models.retain(|deployed| deployed.id != id);
            let left = endpoint.deployed_models.iter().map(|deployed| deployed.id.as_str());
            // A client that names the model with nothing means the same as one that leaves it out.
            let mut given = request.traffic_split.clone();
            given.retain(|key, percent| key != id || *percent != 0);
            let given = split::checked("traffic_split", &given, left, None)?;
            let is_last = endpoint.deployed_models.is_empty();
            endpoint.traffic_split = split::without(&endpoint.traffic_split, id, given, is_last)?;
            shadow::check_split(&endpoint)?;
            (endpoint.update_time, endpoint.etag) = (Some(now), etag(now));
            let metadata = UndeployModelOperationMetadata { generic_metadata: generic(now, now) };
            let response = any(&UndeployModelResponse {});
            let operation = done(&request.endpoint, caller.version, now, any(&metadata), response);
            this.change_deployed(&writer, endpoint, &operation).await?;
            Ok(operation)
        })
        .await
    }

    async fn change_deployed(
        &self,
        writer: &tokio::sync::MutexGuard<'_, super::Writer>,
        endpoint: Endpoint,
        operation: &Operation,
    ) -> Result<(), Status> {
        let change = Change {
            endpoints: vec![(id_of(&endpoint.name).to_owned(), Some(endpoint))],
            operations: vec![kept(operation)],
            ..Change::default()
        };
        self.commit(writer, change, None).await
    }

    /// `MutateDeployedModel`: replica counts, autoscaling and logging, which are kept and shown.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION for a declared endpoint.
    pub async fn mutate_deployed_model(
        self: &Arc<Self>,
        caller: Caller,
        request: MutateDeployedModelRequest,
    ) -> Result<Operation, Status> {
        names::check_permitted(&request.endpoint)?;
        self.detached(|this| async move {
            let name = names::endpoint("endpoint", &request.endpoint)?;
            let missing = || Status::bad_field("deployed_model", "deployed_model is missing");
            let asked = request.deployed_model.as_ref().ok_or_else(missing)?;
            let fields = masks::to_update(request.update_mask.as_ref(), &MUTABLE)?;
            let writer = this.writer.lock().await;
            let (state, now) = (this.state()?, names::now());
            let mut endpoint = state.changeable_endpoint(&name)?.clone();
            let index = position(&endpoint, &asked.id)?;
            mutate(&mut endpoint.deployed_models[index], asked, &fields)?;
            (endpoint.update_time, endpoint.etag) = (Some(now), etag(now));
            let shown = this.view(&endpoint, &name.parent, &caller).deployed_models.into_iter().nth(index);
            let metadata = MutateDeployedModelOperationMetadata { generic_metadata: generic(now, now) };
            let response = any(&MutateDeployedModelResponse { deployed_model: shown });
            let operation = done(&request.endpoint, caller.version, now, any(&metadata), response);
            this.change_deployed(&writer, endpoint, &operation).await?;
            Ok(operation)
        })
        .await
    }
}

impl Deployment {
    /// Its operation, ended.
    fn ended(&self, stage: DeploymentStage, outcome: Outcome) -> Operation {
        self.caller.version.of(Operation {
            name: self.operation.clone(),
            metadata: Some(deploying(self.begun, stage, None)),
            done: true,
            result: Some(outcome),
        })
    }
}

/// Where a deployed model stands in its endpoint.
fn position(endpoint: &Endpoint, id: &str) -> Result<usize, Status> {
    endpoint.deployed_models.iter().position(|deployed| deployed.id == id).ok_or_else(|| {
        let message = format!("endpoint `{}` has no deployed model `{}`", id_of(&endpoint.name), shown(id));
        Status::new(Code::NotFound, message).because("DEPLOYED_MODEL_NOT_FOUND")
    })
}

/// The id of a new deployed model: the one that was asked for, or digits.
fn new_id(endpoint: &Endpoint, asked: &str) -> Result<String, Status> {
    const FIELD: &str = "deployed_model.id";
    let is_taken = |id: &str| endpoint.deployed_models.iter().any(|deployed| deployed.id == id);
    if asked.is_empty() {
        return Ok(std::iter::repeat_with(names::fresh_id).find(|id| !is_taken(id)).unwrap_or_default());
    }
    // "0" stands for the new model in a traffic split.
    if !names::is_deployed_model_id(asked) || asked == "0" {
        return Err(Status::bad_field(
            FIELD,
            format!("{FIELD} is `{}`; it may be 1 to 10 digits, not 0", shown(asked)),
        ));
    }
    Ok(asked.to_owned())
}

fn check_is_new(endpoint: &Endpoint, id: &str) -> Result<(), Status> {
    if endpoint.deployed_models.iter().all(|deployed| deployed.id != id) {
        return Ok(());
    }
    let message = format!("endpoint `{}` has a deployed model `{id}` already", id_of(&endpoint.name));
    Err(Status { field: Some("deployed_model.id".to_owned()), ..Status::new(Code::AlreadyExists, message) })
}

/// The endpoint with the model that a request deploys, under this id, and that model.
fn with_deployed(
    state: &State,
    endpoint: &Endpoint,
    request: &DeployModelRequest,
    id: &str,
    now: Timestamp,
) -> Result<(Endpoint, DeployedModel), Status> {
    let missing = || Status::bad_field("deployed_model", "deployed_model is missing");
    let asked = request.deployed_model.clone().ok_or_else(missing)?;
    let name = names::model("deployed_model.model", &asked.model)?;
    let model = state.version(&name)?;
    check_is_new(endpoint, id)?;
    let display_name = match asked.display_name.as_str() {
        "" => model.display_name.clone(),
        given => given.to_owned(),
    };
    check_display_name("deployed_model.display_name", &display_name)?;
    shadow::check_label(&asked)?;
    let deployed = DeployedModel {
        id: id.to_owned(),
        // Without a version: that is in a field of its own.
        model: model.name.clone(),
        model_version_id: model.version_id.clone(),
        display_name,
        create_time: Some(now),
        private_endpoints: None,
        status: healthy(),
        ..asked
    };
    let mut endpoint = endpoint.clone();
    let others = endpoint.deployed_models.iter().map(|deployed| deployed.id.as_str());
    if let Some(split) = split::checked("traffic_split", &request.traffic_split, others, Some(id))? {
        endpoint.traffic_split = split;
    }
    endpoint.deployed_models.push(deployed.clone());
    shadow::check_split(&endpoint)?;
    (endpoint.update_time, endpoint.etag) = (Some(now), etag(now));
    Ok((endpoint, deployed))
}

/// What can be changed of a deployed model.
const MUTABLE: [&str; 8] = [
    "dedicated_resources.min_replica_count",
    "dedicated_resources.max_replica_count",
    "dedicated_resources.required_replica_count",
    "dedicated_resources.autoscaling_metric_specs",
    "automatic_resources.min_replica_count",
    "automatic_resources.max_replica_count",
    "disable_container_logging",
    "enable_access_logging",
];

fn mutate(deployed: &mut DeployedModel, asked: &DeployedModel, fields: &[&str]) -> Result<(), Status> {
    use PredictionResources::{AutomaticResources as Automatic, DedicatedResources as Dedicated};
    for field in fields {
        match (*field, &mut deployed.prediction_resources, &asked.prediction_resources) {
            ("disable_container_logging", _, _) => {
                deployed.disable_container_logging = asked.disable_container_logging;
            }
            ("enable_access_logging", _, _) => deployed.enable_access_logging = asked.enable_access_logging,
            (field, Some(Dedicated(own)), Some(Dedicated(asked))) if field.starts_with("dedicated_resources.") => {
                match field {
                    "dedicated_resources.min_replica_count" => own.min_replica_count = asked.min_replica_count,
                    "dedicated_resources.max_replica_count" => own.max_replica_count = asked.max_replica_count,
                    "dedicated_resources.required_replica_count" => {
                        own.required_replica_count = asked.required_replica_count;
                    }
                    _ => own.autoscaling_metric_specs.clone_from(&asked.autoscaling_metric_specs),
                }
            }
            (field, Some(Automatic(own)), Some(Automatic(asked))) if field.starts_with("automatic_resources.") => {
                match field {
                    "automatic_resources.min_replica_count" => own.min_replica_count = asked.min_replica_count,
                    _ => own.max_replica_count = asked.max_replica_count,
                }
            }
            (field, _, _) => {
                let kind = field.split('.').next().unwrap_or(field);
                let message = format!(
                    "update_mask has `{field}`, but the deployed model, or the one in the request, has no {kind}"
                );
                return Err(Status::bad_field("update_mask", message));
            }
        }
    }
    Ok(())
}
