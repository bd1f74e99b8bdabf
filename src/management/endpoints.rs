//! `EndpointService`, as far as it concerns endpoints themselves; deploying is in [`deploy`](super::deploy).

use std::sync::Arc;

use prost_types::Timestamp;

use crate::auth;
use crate::protocol::generated::google::cloud::aiplatform::v1::{
    CreateEndpointOperationMetadata, CreateEndpointRequest, DeleteEndpointRequest, DeploymentStage, Endpoint,
    GetEndpointRequest, ListEndpointsRequest, ListEndpointsResponse, PrivateEndpoints,
    UpdateEndpointLongRunningRequest, UpdateEndpointOperationMetadata, UpdateEndpointRequest,
};
use crate::protocol::generated::google::longrunning::Operation;
use crate::protocol::status::{Code, Status};

use super::filter::Filtered;
use super::listing::{self, Listed, Query};
use super::models::{check_display_name, check_etag, check_labels, deleted, kept};
use super::names::{self, Name, id_of};
use super::operations::{any, done, generic};
use super::state::{Change, State, shown};
use super::versions::etag;
use super::{Caller, Management, masks, shadow, split};

/// What `PATCH` can change.
const CHANGEABLE: [&str; 8] = [
    "display_name",
    "description",
    "labels",
    "traffic_split",
    "predict_request_response_logging_config",
    "client_connection_config",
    "private_service_connect_config",
    "gen_ai_advanced_features_config",
];

fn missing() -> Status {
    Status::bad_field("endpoint", "endpoint is missing")
}

impl Management {
    /// `CreateEndpoint`, without any model.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, ALREADY_EXISTS.
    pub async fn create_endpoint(
        self: &Arc<Self>,
        caller: Caller,
        request: CreateEndpointRequest,
    ) -> Result<Operation, Status> {
        match request.endpoint_id.as_str() {
            "" => names::check_unrestricted()?,
            id => names::check_permitted(id)?,
        }
        self.detached(|this| async move {
            let parent = names::parent("parent", &request.parent)?;
            let asked = request.endpoint.ok_or_else(missing)?;
            check_display_name("endpoint.display_name", &asked.display_name)?;
            check_labels("endpoint.labels", &asked.labels)?;
            let writer = this.writer.lock().await;
            let (state, now) = (this.state()?, names::now());
            let id = new_id(&state, &request.endpoint_id)?;
            let endpoint = Endpoint {
                name: format!("{parent}/endpoints/{id}"),
                // These say what is deployed, which nothing is yet.
                deployed_models: Vec::new(),
                traffic_split: split::Split::new(),
                model_deployment_monitoring_job: String::new(),
                dedicated_endpoint_dns: String::new(),
                etag: etag(now),
                create_time: Some(now),
                update_time: Some(now),
                ..asked
            };
            let metadata = CreateEndpointOperationMetadata {
                generic_metadata: generic(now, now),
                deployment_stage: DeploymentStage::Unspecified.into(),
            };
            let shown = this.view(&endpoint, &parent, &caller);
            let operation = done(&endpoint.name, caller.version, now, any(&metadata), any(&shown));
            this.replace_endpoint(&writer, endpoint, Some(&operation)).await?;
            Ok(operation)
        })
        .await
    }

    /// Keeps an endpoint's new state.
    async fn replace_endpoint(
        &self,
        writer: &tokio::sync::MutexGuard<'_, super::Writer>,
        endpoint: Endpoint,
        operation: Option<&Operation>,
    ) -> Result<(), Status> {
        let change = Change {
            endpoints: vec![(id_of(&endpoint.name).to_owned(), Some(endpoint))],
            operations: operation.map(kept).into_iter().collect(),
            ..Change::default()
        };
        self.commit(writer, change, None).await
    }

    /// `GetEndpoint`
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn get_endpoint(&self, caller: &Caller, request: &GetEndpointRequest) -> Result<Endpoint, Status> {
        let state = self.state()?;
        let name = self.known(&state, names::endpoint("name", &request.name)?);
        names::check_permitted(&name.id)?;
        Ok(self.view(&state.endpoint(&name)?.value, &name.parent, caller))
    }

    /// The name with the id of the endpoint that it stands for: Vertex AI's own id stands for the default one.
    fn known(&self, state: &State, name: Name) -> Name {
        if state.endpoints.contains_key(&name.id) {
            return name;
        }
        let catalog = self.service.catalog().ok();
        let found = catalog.as_ref().and_then(|catalog| catalog.endpoint(&name.id).ok());
        found.map(|endpoint| Name { id: endpoint.id.clone(), ..name.clone() }).unwrap_or(name)
    }

    /// `ListEndpoints`
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what can't be read of the question.
    pub fn list_endpoints(
        &self,
        caller: &Caller,
        request: &ListEndpointsRequest,
    ) -> Result<ListEndpointsResponse, Status> {
        let state = self.state()?;
        let parent = names::parent("parent", &request.parent)?;
        let query = Query {
            filter: &request.filter,
            order_by: &request.order_by,
            page_size: request.page_size,
            page_token: &request.page_token,
        };
        let permitted = state.endpoints.iter().filter(|(id, _)| auth::may_use(id));
        let endpoints = permitted.map(|(_, entry)| Item(&entry.value));
        let (page, next_page_token) = listing::page(endpoints, &query)?;
        let endpoints = page
            .into_iter()
            .map(|Item(endpoint)| masks::readable(self.view(endpoint, &parent, caller), request.read_mask.as_ref()));
        Ok(ListEndpointsResponse { endpoints: endpoints.collect::<Result<_, _>>()?, next_page_token })
    }

    /// `UpdateEndpoint`: the fields that the mask names.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION for a declared endpoint, ABORTED for an old etag.
    pub async fn update_endpoint(
        self: &Arc<Self>,
        caller: Caller,
        request: UpdateEndpointRequest,
    ) -> Result<Endpoint, Status> {
        let fields = masks::to_update(request.update_mask.as_ref(), &CHANGEABLE)?;
        let asked = request.endpoint.ok_or_else(missing)?;
        names::check_permitted(&asked.name)?;
        self.detached(|this| async move {
            let (parent, endpoint, _) = this.change_endpoint(&caller, asked, &fields, false).await?;
            Ok(this.view(&endpoint, &parent, &caller))
        })
        .await
    }

    /// `UpdateEndpointLongRunning`, which changes how clients connect.
    ///
    /// # Errors
    /// As [`Management::update_endpoint`].
    pub async fn update_endpoint_long_running(
        self: &Arc<Self>,
        caller: Caller,
        request: UpdateEndpointLongRunningRequest,
    ) -> Result<Operation, Status> {
        let asked = request.endpoint.ok_or_else(missing)?;
        names::check_permitted(&asked.name)?;
        let mut fields = Vec::new();
        if asked.client_connection_config.is_some() {
            fields.push("client_connection_config");
        }
        if asked.private_service_connect_config.is_some() {
            fields.push("private_service_connect_config");
        }
        if fields.is_empty() {
            let message = "endpoint must have client_connection_config or private_service_connect_config: this method \
                           changes nothing else, and UpdateEndpoint (PATCH) does the rest";
            return Err(Status::bad_field("endpoint", message));
        }
        self.detached(|this| async move {
            let (_, _, operation) = this.change_endpoint(&caller, asked, &fields, true).await?;
            operation.ok_or_else(|| Status::new(Code::Internal, "the operation is missing"))
        })
        .await
    }

    async fn change_endpoint(
        &self,
        caller: &Caller,
        asked: Endpoint,
        fields: &[&str],
        is_long_running: bool,
    ) -> Result<(String, Endpoint, Option<Operation>), Status> {
        let name = names::endpoint("endpoint.name", &asked.name)?;
        let writer = self.writer.lock().await;
        let (state, now) = (self.state()?, names::now());
        let mut endpoint = state.changeable_endpoint(&name)?.clone();
        check_etag(&asked.etag, &endpoint.etag)?;
        for field in fields {
            match *field {
                "display_name" => {
                    check_display_name("endpoint.display_name", &asked.display_name)?;
                    endpoint.display_name.clone_from(&asked.display_name);
                }
                "description" => endpoint.description.clone_from(&asked.description),
                "labels" => {
                    check_labels("endpoint.labels", &asked.labels)?;
                    endpoint.labels.clone_from(&asked.labels);
                }
                "traffic_split" => {
                    let deployed = endpoint.deployed_models.iter().map(|deployed| deployed.id.as_str());
                    let split = split::checked("endpoint.traffic_split", &asked.traffic_split, deployed, None)?;
                    endpoint.traffic_split = split.unwrap_or_default();
                    shadow::check_split(&endpoint)?;
                }
                "predict_request_response_logging_config" => {
                    endpoint
                        .predict_request_response_logging_config
                        .clone_from(&asked.predict_request_response_logging_config);
                }
                "client_connection_config" => endpoint.client_connection_config = asked.client_connection_config,
                "private_service_connect_config" => {
                    endpoint.private_service_connect_config.clone_from(&asked.private_service_connect_config);
                }
                _ => endpoint.gen_ai_advanced_features_config.clone_from(&asked.gen_ai_advanced_features_config),
            }
        }
        (endpoint.update_time, endpoint.etag) = (Some(now), etag(now));
        let operation = is_long_running.then(|| {
            let metadata = UpdateEndpointOperationMetadata { generic_metadata: generic(now, now) };
            let shown = self.view(&endpoint, &name.parent, caller);
            done(&shown.name, caller.version, now, any(&metadata), any(&shown))
        });
        self.replace_endpoint(&writer, endpoint.clone(), operation.as_ref()).await?;
        Ok((name.parent, endpoint, operation))
    }

    /// `DeleteEndpoint`
    ///
    /// # Errors
    /// NOT_FOUND; FAILED_PRECONDITION for a declared endpoint, and for one with models.
    pub async fn delete_endpoint(
        self: &Arc<Self>,
        caller: Caller,
        request: DeleteEndpointRequest,
    ) -> Result<Operation, Status> {
        names::check_permitted(&request.name)?;
        self.detached(|this| async move {
            let name = names::endpoint("name", &request.name)?;
            let writer = this.writer.lock().await;
            let (state, now) = (this.state()?, names::now());
            let endpoint = state.changeable_endpoint(&name)?;
            if !endpoint.deployed_models.is_empty() {
                let deployed: Vec<&str> =
                    endpoint.deployed_models.iter().map(|deployed| deployed.id.as_str()).collect();
                let message = format!(
                    "endpoint `{}` has deployed models ({}): undeploy them first",
                    name.id,
                    deployed.join(", ")
                );
                return Err(Status::new(Code::FailedPrecondition, message).because("ENDPOINT_HAS_DEPLOYED_MODELS"));
            }
            let operation = deleted(&caller, &request.name, now);
            let change =
                Change { endpoints: vec![(name.id, None)], operations: vec![kept(&operation)], ..Change::default() };
            this.commit(&writer, change, None).await?;
            Ok(operation)
        })
        .await
    }

    /// An endpoint as it is shown under a parent: with the addresses by which this caller reaches it.
    pub(super) fn view(&self, endpoint: &Endpoint, parent: &str, caller: &Caller) -> Endpoint {
        let mut shown = endpoint.clone();
        shown.name = names::under(parent, &endpoint.name);
        let id = id_of(&endpoint.name);
        let is_private = !endpoint.network.is_empty()
            || endpoint.enable_private_service_connect
            || endpoint.private_service_connect_config.is_some();
        for deployed in &mut shown.deployed_models {
            deployed.model = names::under(parent, &deployed.model);
            if let Some(base) = caller.base_url.as_ref().filter(|_| is_private) {
                let route = format!("{base}/v1/endpoints/{id}/deployedModels/{}", deployed.id);
                deployed.private_endpoints = Some(PrivateEndpoints {
                    predict_http_uri: format!("{route}:predict"),
                    explain_http_uri: format!("{route}:explain"),
                    health_http_uri: route,
                    service_attachment: String::new(),
                });
            }
        }
        if endpoint.dedicated_endpoint_enabled {
            shown.dedicated_endpoint_dns = self.settings.dedicated_dns.clone().unwrap_or_default();
        }
        shown
    }
}

/// The id of a new endpoint: the one that was asked for, or digits.
fn new_id(state: &State, asked: &str) -> Result<String, Status> {
    if asked.is_empty() {
        let fresh = std::iter::repeat_with(names::fresh_id).find(|id| !state.endpoints.contains_key(id));
        return Ok(fresh.unwrap_or_default());
    }
    if !names::is_endpoint_id(asked) {
        let message = format!(
            "endpoint_id is `{}`; it may be up to 63 lower-case letters, digits and hyphens that begin with a letter and don't \
             end with a hyphen, or up to 9 digits that don't begin with 0",
            shown(asked)
        );
        return Err(Status::bad_field("endpoint_id", message));
    }
    if state.endpoints.contains_key(asked) {
        let message = format!("endpoint `{asked}` exists already");
        return Err(Status { field: Some("endpoint_id".to_owned()), ..Status::new(Code::AlreadyExists, message) });
    }
    Ok(asked.to_owned())
}

/// An endpoint in a list.
struct Item<'a>(&'a Endpoint);

impl Filtered for Item<'_> {
    const FIELDS: &'static [&'static str] = &["endpoint", "display_name"];

    fn values(&self, field: &str) -> Vec<&str> {
        match field {
            "endpoint" => vec![id_of(&self.0.name), &self.0.name],
            _ => vec![&self.0.display_name],
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.0.labels.get(key).map(String::as_str)
    }
}

impl Listed for Item<'_> {
    fn id(&self) -> (&str, &str) {
        (id_of(&self.0.name), "")
    }

    fn display_name(&self) -> &str {
        &self.0.display_name
    }

    fn create_time(&self) -> Option<&Timestamp> {
        self.0.create_time.as_ref()
    }

    fn update_time(&self) -> Option<&Timestamp> {
        self.0.update_time.as_ref()
    }
}
