//! What can be asked of models, endpoints and operations.
//!
//! One route stands for all of it ([`super::super::management`] reads the rest of the path), so its paths are listed here.

use super::paths::{Operation, get, post};
use super::schemas::Body;

const TAG: &str = "management";

/// What lists take.
const LIST: &[&str] = &["filter", "pageSize", "pageToken", "orderBy", "readMask"];

/// The operations below a route's `projects/{project}/locations/{location}/`, but for those of [`endpoint`].
pub fn rest(route: &str) -> Vec<(String, Operation)> {
    let parent = route.trim_end_matches("{*rest}");
    let (models, endpoints) = (format!("{parent}models"), format!("{parent}endpoints"));
    let model = format!("{models}/{{model}}");
    let mut all = vec![
        (models.clone(), show("The models.", Body::Message("ListModelsResponse")).taking(LIST)),
        (format!("{models}:upload"), change("Upload a model, or a version of one.", "UploadModelRequest")),
        (model.clone(), show("A model, in its default version or in that of @VERSION or @ALIAS.", MODEL)),
        (model.clone(), with("patch", "Change a model.", Body::Message("Model"), MODEL).taking(&["updateMask"])),
        (model.clone(), Operation { method: "delete", ..show("Delete a model with its versions.", OPERATION) }),
        (
            format!("{model}:listVersions"),
            show("A model's versions.", Body::Message("ListModelVersionsResponse")).taking(LIST),
        ),
        (format!("{model}:deleteVersion"), Operation { method: "delete", ..show("Delete a version.", OPERATION) }),
        (
            format!("{model}:mergeVersionAliases"),
            post(TAG, "Give aliases to a version, or take them.", Body::Message("MergeVersionAliasesRequest"), MODEL),
        ),
        (endpoints.clone(), show("The endpoints.", Body::Message("ListEndpointsResponse")).taking(LIST)),
        (
            endpoints.clone(),
            post(TAG, "Create an endpoint.", Body::Message("Endpoint"), OPERATION).taking(&["endpointId"]),
        ),
    ];
    for kind in [model, format!("{endpoints}/{{endpoint}}")] {
        all.extend(operations(&format!("{kind}/operations")));
    }
    all
}

/// What can be asked of an endpoint at this path beside predictions.
pub fn endpoint(path: &str) -> Vec<(String, Operation)> {
    let at = |verb: &str| format!("{path}:{verb}");
    vec![
        (
            path.to_owned(),
            with("patch", "Change an endpoint.", Body::Message("Endpoint"), Body::Message("Endpoint"))
                .taking(&["updateMask"]),
        ),
        (
            path.to_owned(),
            Operation { method: "delete", ..show("Delete an endpoint without deployed models.", OPERATION) },
        ),
        (at("deployModel"), change("Deploy a model.", "DeployModelRequest")),
        (at("undeployModel"), change("Undeploy a model.", "UndeployModelRequest")),
        (at("mutateDeployedModel"), change("Change a deployed model.", "MutateDeployedModelRequest")),
        (at("update"), change("Change an endpoint.", "UpdateEndpointLongRunningRequest")),
    ]
}

/// The operations at `.../operations`, and each of them.
fn operations(list: &str) -> Vec<(String, Operation)> {
    let one = format!("{list}/{{operation}}");
    vec![
        (list.to_owned(), show("Operations.", Body::Message("google.longrunning.ListOperationsResponse"))),
        (one.clone(), show("An operation.", OPERATION)),
        (one.clone(), Operation { method: "delete", ..show("Forget an operation.", Body::Json) }),
        (format!("{one}:cancel"), post(TAG, "Ask an operation to end.", Body::Json, Body::Json)),
        (
            format!("{one}:wait"),
            post(TAG, "Wait for an operation.", Body::Message("google.longrunning.WaitOperationRequest"), OPERATION),
        ),
    ]
}

const MODEL: Body = Body::Message("Model");
const OPERATION: Body = Body::Message("google.longrunning.Operation");

fn show(summary: &str, answer: Body) -> Operation {
    get(TAG, summary, answer)
}

/// A change that is answered by an operation.
fn change(summary: &str, request: &'static str) -> Operation {
    post(TAG, summary, Body::Message(request), OPERATION)
}

fn with(method: &'static str, summary: &str, request: Body, answer: Body) -> Operation {
    Operation { method, ..post(TAG, summary, request, answer) }
}
