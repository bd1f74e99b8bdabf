//! `ModelService`, `EndpointService` and `google.longrunning.Operations`: the same methods as REST's.

use std::sync::Arc;

use http::uri::Authority;
use tonic::{Request, Response};

use super::call::Call;
use super::status::to_tonic;
use crate::management::{Caller, Management, Version};
use crate::protocol::generated::google::cloud::aiplatform::v1::endpoint_service_server::EndpointService;
use crate::protocol::generated::google::cloud::aiplatform::v1::model_service_server::ModelService;
use crate::protocol::generated::google::cloud::aiplatform::v1::{
    CreateEndpointRequest, DeleteEndpointRequest, DeleteModelRequest, DeleteModelVersionRequest, DeployModelRequest,
    Endpoint, GetEndpointRequest, GetModelRequest, ListEndpointsRequest, ListEndpointsResponse,
    ListModelVersionsRequest, ListModelVersionsResponse, ListModelsRequest, ListModelsResponse,
    MergeVersionAliasesRequest, Model, MutateDeployedModelRequest, UndeployModelRequest,
    UpdateEndpointLongRunningRequest, UpdateEndpointRequest, UpdateModelRequest, UploadModelRequest,
};
use crate::protocol::generated::google::longrunning::operations_server::Operations;
use crate::protocol::generated::google::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse,
    Operation, WaitOperationRequest,
};
use crate::protocol::status::Status;
use crate::server::Encrypted;

/// The host by which a caller reached this server, found among a call's extensions.
#[derive(Debug, Clone)]
pub struct Host(pub Authority);

/// The methods, in one version. Clone it for the other services.
#[derive(Clone)]
pub struct Managed {
    /// Does what is asked.
    pub management: Arc<Management>,
    /// As it stands in the method's path. Operations are polled without one, and say what they said at first.
    pub version: Version,
}

type Answer<T> = Result<Response<T>, tonic::Status>;

fn answer<T>(result: Result<T, Status>) -> Answer<T> {
    result.map(Response::new).map_err(|status| to_tonic(&status))
}

impl Managed {
    fn caller<T>(&self, request: &Request<T>) -> Caller {
        let host = request.extensions().get::<Host>().map(|Host(authority)| authority.host());
        let is_encrypted = request.extensions().get::<Encrypted>().is_some();
        let base_url = host.map(|host| self.management.base_url(host, is_encrypted));
        Caller {
            version: self.version,
            base_url,
            deadline: request.extensions().get::<Call>().map(|call| call.deadline),
        }
    }
}

#[tonic::async_trait]
impl ModelService for Managed {
    async fn upload_model(&self, request: Request<UploadModelRequest>) -> Answer<Operation> {
        answer(self.management.upload_model(self.caller(&request), request.into_inner()).await)
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Answer<Model> {
        answer(self.management.get_model(request.get_ref()))
    }

    async fn list_models(&self, request: Request<ListModelsRequest>) -> Answer<ListModelsResponse> {
        answer(self.management.list_models(request.get_ref()))
    }

    async fn list_model_versions(
        &self,
        request: Request<ListModelVersionsRequest>,
    ) -> Answer<ListModelVersionsResponse> {
        answer(self.management.list_model_versions(request.get_ref()))
    }

    async fn update_model(&self, request: Request<UpdateModelRequest>) -> Answer<Model> {
        answer(self.management.update_model(request.into_inner()).await)
    }

    async fn delete_model(&self, request: Request<DeleteModelRequest>) -> Answer<Operation> {
        answer(self.management.delete_model(self.caller(&request), request.into_inner()).await)
    }

    async fn delete_model_version(&self, request: Request<DeleteModelVersionRequest>) -> Answer<Operation> {
        answer(self.management.delete_model_version(self.caller(&request), request.into_inner()).await)
    }

    async fn merge_version_aliases(&self, request: Request<MergeVersionAliasesRequest>) -> Answer<Model> {
        answer(self.management.merge_version_aliases(request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl EndpointService for Managed {
    async fn create_endpoint(&self, request: Request<CreateEndpointRequest>) -> Answer<Operation> {
        answer(self.management.create_endpoint(self.caller(&request), request.into_inner()).await)
    }

    async fn get_endpoint(&self, request: Request<GetEndpointRequest>) -> Answer<Endpoint> {
        answer(self.management.get_endpoint(&self.caller(&request), request.get_ref()))
    }

    async fn list_endpoints(&self, request: Request<ListEndpointsRequest>) -> Answer<ListEndpointsResponse> {
        answer(self.management.list_endpoints(&self.caller(&request), request.get_ref()))
    }

    async fn update_endpoint(&self, request: Request<UpdateEndpointRequest>) -> Answer<Endpoint> {
        answer(self.management.update_endpoint(self.caller(&request), request.into_inner()).await)
    }

    async fn update_endpoint_long_running(
        &self,
        request: Request<UpdateEndpointLongRunningRequest>,
    ) -> Answer<Operation> {
        answer(self.management.update_endpoint_long_running(self.caller(&request), request.into_inner()).await)
    }

    async fn delete_endpoint(&self, request: Request<DeleteEndpointRequest>) -> Answer<Operation> {
        answer(self.management.delete_endpoint(self.caller(&request), request.into_inner()).await)
    }

    async fn deploy_model(&self, request: Request<DeployModelRequest>) -> Answer<Operation> {
        answer(self.management.deploy_model(self.caller(&request), request.into_inner()).await)
    }

    async fn undeploy_model(&self, request: Request<UndeployModelRequest>) -> Answer<Operation> {
        answer(self.management.undeploy_model(self.caller(&request), request.into_inner()).await)
    }

    async fn mutate_deployed_model(&self, request: Request<MutateDeployedModelRequest>) -> Answer<Operation> {
        answer(self.management.mutate_deployed_model(self.caller(&request), request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl Operations for Managed {
    async fn list_operations(&self, request: Request<ListOperationsRequest>) -> Answer<ListOperationsResponse> {
        answer(self.management.list_operations(request.get_ref()))
    }

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Answer<Operation> {
        answer(self.management.get_operation(&request.get_ref().name))
    }

    async fn delete_operation(&self, request: Request<DeleteOperationRequest>) -> Answer<()> {
        answer(self.management.delete_operation(request.into_inner().name).await)
    }

    async fn cancel_operation(&self, request: Request<CancelOperationRequest>) -> Answer<()> {
        answer(self.management.cancel_operation(&request.get_ref().name))
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Answer<Operation> {
        answer(self.management.wait_operation(request.get_ref()).await)
    }
}
