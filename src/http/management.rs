//! `ModelService`, `EndpointService` and operations as REST, by the annotations of Google's `.proto` files: the variables of
//! the path and the query are fields of the request's message, the body is the message or one of its fields.
//!
//! Google's clients ask for operations at `/ui/...`, the first of the paths that they know.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::Method;
use http::header::HOST;
use prost::{Message, Name};
use serde_json::{Map, Value, json};

use super::middleware::{BodyLimits, read_body};
use super::routes::ResourceVerb;
use super::{Api, Failure, describe, respond};
use crate::management::{Caller, Version};
use crate::protocol::generated::google::longrunning::{ListOperationsRequest, Operation, WaitOperationRequest};
use crate::protocol::proto_json::{self, ProtoJsonError};
use crate::protocol::status::{Code, Status};
use crate::protocol::unique;
use crate::server::Encrypted;

/// What can be asked of an endpoint beside predictions.
pub fn is_for_endpoint(verb: Option<&str>, method: &Method) -> bool {
    match verb {
        None => method != Method::POST,
        Some(verb) => matches!(verb, "deployModel" | "undeployModel" | "mutateDeployedModel" | "update"),
    }
}

/// A request to the resource of a path, which begins with `projects/`.
pub async fn handle(api: &Api, version: Version, path: &str, request: Request) -> Response {
    match answer(api, version, path, request).await {
        Ok(json) => respond::json(json.to_string().into_bytes()),
        Err(status) => {
            api.metrics.error(status.code.name());
            Failure(status).into_response()
        }
    }
}

/// The parts of a request.
struct Asked {
    version: Version,
    method: Method,
    /// As it was asked for, which need not be by the version.
    path: String,
    query: Map<String, Value>,
    body: Value,
    caller: Caller,
}

async fn answer(api: &Api, version: Version, path: &str, request: Request) -> Result<Value, Status> {
    let ResourceVerb { resource, verb } = ResourceVerb::split(path);
    let segments: Vec<&str> = resource.split('/').collect();
    let ["projects", project, "locations", location, rest @ ..] = &segments[..] else {
        return Err(unknown(request.uri().path()));
    };
    let parent = format!("projects/{project}/locations/{location}");
    let asked = read(api, version, request).await?;
    let management = &*api.management;
    let name = || json!(resource);
    let (method, caller) = (asked.method.clone(), asked.caller.clone());
    match (rest, verb, method.as_str()) {
        (["models"], Some("upload"), "POST") => {
            asked.operation(api.management.upload_model(caller, asked.whole([("parent", json!(parent))])?).await)
        }
        (["models"], Some("upload"), _) => Err(Status::method_not_allowed("POST")),
        (["models"], None, "GET") => write(&management.list_models(&asked.whole([("parent", json!(parent))])?)?),
        (["models"], None, _) => Err(Status::method_not_allowed("GET")),
        (["models", _], None, "GET" | "HEAD") => write(&management.get_model(&asked.whole([("name", name())])?)?),
        (["models", _], None, "PATCH") => write(&api.management.update_model(asked.field("model", resource)?).await?),
        (["models", _], None, "DELETE") => {
            asked.operation(api.management.delete_model(caller, asked.whole([("name", name())])?).await)
        }
        (["models", _], None, _) => Err(Status::method_not_allowed("GET, PATCH, DELETE")),
        (["models", _], Some("listVersions"), "GET") => {
            write(&management.list_model_versions(&asked.whole([("name", name())])?)?)
        }
        (["models", _], Some("deleteVersion"), "DELETE") => {
            asked.operation(api.management.delete_model_version(caller, asked.whole([("name", name())])?).await)
        }
        (["models", _], Some("mergeVersionAliases"), "POST") => {
            write(&api.management.merge_version_aliases(asked.whole([("name", name())])?).await?)
        }
        (["endpoints"], None, "POST") => {
            let request = asked.create("endpoint", [("parent", json!(parent))])?;
            asked.operation(api.management.create_endpoint(caller, request).await)
        }
        (["endpoints"], None, "GET") => {
            write(&management.list_endpoints(&caller, &asked.whole([("parent", json!(parent))])?)?)
        }
        (["endpoints"], None, _) => Err(Status::method_not_allowed("GET, POST")),
        (["endpoints", _], None, "GET" | "HEAD") => {
            let endpoint = management.get_endpoint(&caller, &asked.whole([("name", name())])?)?;
            let mut json = write(&endpoint)?;
            describe::add_details(api, &mut json);
            Ok(json)
        }
        (["endpoints", _], None, "PATCH") => {
            write(&api.management.update_endpoint(caller, asked.field("endpoint", resource)?).await?)
        }
        (["endpoints", _], None, "DELETE") => {
            asked.operation(api.management.delete_endpoint(caller, asked.whole([("name", name())])?).await)
        }
        (["endpoints", _], None, _) => Err(Status::method_not_allowed("GET, PATCH, DELETE")),
        (["endpoints", _], Some("deployModel"), "POST") => {
            asked.operation(api.management.deploy_model(caller, asked.whole([("endpoint", name())])?).await)
        }
        (["endpoints", _], Some("undeployModel"), "POST") => {
            asked.operation(api.management.undeploy_model(caller, asked.whole([("endpoint", name())])?).await)
        }
        (["endpoints", _], Some("mutateDeployedModel"), "POST") => {
            asked.operation(api.management.mutate_deployed_model(caller, asked.whole([("endpoint", name())])?).await)
        }
        (["endpoints", _], Some("update"), "POST") => {
            let mut request = asked.object();
            set_name(&mut request, "endpoint", resource);
            asked.operation(api.management.update_endpoint_long_running(caller, asked.message(request)?).await)
        }
        (["operations", ..] | [_, _, "operations", ..], verb, method) => {
            operations(api, &asked, resource, rest.ends_with(&["operations"]), verb, method).await
        }
        (["models" | "endpoints", _], Some(_), _) => match KNOWN_VERBS.iter().find(|(known, _)| Some(*known) == verb) {
            Some((_, allowed)) => Err(Status::method_not_allowed(allowed)),
            None => Err(unknown(&asked.path)),
        },
        _ => Err(unknown(&asked.path)),
    }
}

/// The verbs of models and endpoints with their methods.
const KNOWN_VERBS: [(&str, &str); 7] = [
    ("listVersions", "GET"),
    ("deleteVersion", "DELETE"),
    ("mergeVersionAliases", "POST"),
    ("deployModel", "POST"),
    ("undeployModel", "POST"),
    ("mutateDeployedModel", "POST"),
    ("update", "POST"),
];

async fn operations(
    api: &Api,
    asked: &Asked,
    resource: &str,
    is_list: bool,
    verb: Option<&str>,
    method: &str,
) -> Result<Value, Status> {
    let management = &api.management;
    match (is_list, verb, method) {
        (true, None, "GET") => {
            let of = resource.trim_end_matches("/operations");
            let request: ListOperationsRequest = asked.whole([("name", json!(of))])?;
            let answer = management.list_operations(&request)?;
            let operations = answer.operations.into_iter().map(|operation| asked.write_operation(operation));
            let operations: Vec<Value> = operations.collect::<Result<_, _>>()?;
            let mut json = json!({"operations": operations});
            if !answer.next_page_token.is_empty() {
                json["nextPageToken"] = json!(answer.next_page_token);
            }
            Ok(json)
        }
        (false, None, "GET" | "HEAD") => asked.operation(management.get_operation(resource)),
        (false, None, "DELETE") => management.delete_operation(resource.to_owned()).await.map(|()| json!({})),
        (false, Some("cancel"), "POST") => management.cancel_operation(resource).map(|()| json!({})),
        (false, Some("wait"), "POST") => {
            let request: WaitOperationRequest = asked.whole([("name", json!(resource))])?;
            asked.operation(management.wait_operation(&request).await)
        }
        (true, None, _) => Err(Status::method_not_allowed("GET")),
        (false, None, _) => Err(Status::method_not_allowed("GET, DELETE")),
        (false, Some("cancel" | "wait"), _) => Err(Status::method_not_allowed("POST")),
        _ => Err(unknown(&asked.path)),
    }
}

fn unknown(path: &str) -> Status {
    let path: String = path.chars().take(100).collect();
    Status::new(Code::NotFound, format!("there is nothing at {path} for this server"))
}

async fn read(api: &Api, version: Version, request: Request) -> Result<Asked, Status> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let host = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
    let scheme = if request.extensions().get::<Encrypted>().is_some() { "https" } else { "http" };
    let caller = Caller { version, base_url: host.map(|host| format!("{scheme}://{host}")), deadline: None };
    let query = query(request.uri().query().unwrap_or_default());
    let limits = BodyLimits { bytes: api.settings.body_limit, timeout: api.settings.body_timeout };
    let bytes = read_body(request, limits).await?;
    let body = match bytes.iter().all(u8::is_ascii_whitespace) {
        true => json!({}),
        false => unique::check(&mut serde_json::Deserializer::from_slice(&bytes))
            .and_then(|()| serde_json::from_slice(&bytes))
            .map_err(|error| Status::new(Code::InvalidArgument, format!("the body is not valid JSON: {error}")))?,
    };
    if !body.is_object() {
        return Err(Status::new(Code::InvalidArgument, "the body must be a JSON object"));
    }
    Ok(Asked { version, method, path, query, body, caller })
}

/// The parameters that are fields. What every Google API takes besides means nothing here, and `force` is for clients:
/// they undeploy first.
fn query(text: &str) -> Map<String, Value> {
    const STANDARD: [&str; 12] = [
        "alt",
        "prettyPrint",
        "fields",
        "key",
        "quotaUser",
        "access_token",
        "force",
        "callback",
        "oauth_token",
        "uploadType",
        "upload_protocol",
        "pretty_print",
    ];
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let decoded = pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decoded(name), percent_decoded(value))
    });
    let fields = decoded.filter(|(name, _)| !name.starts_with('$') && !STANDARD.contains(&name.as_str()));
    fields.map(|(name, value)| (name, Value::String(value))).collect()
}

fn percent_decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Puts the name of the path into the resource within a request.
fn set_name(request: &mut Map<String, Value>, field: &str, name: &str) {
    if let Value::Object(resource) = request.entry(field).or_insert_with(|| json!({})) {
        resource.insert("name".to_owned(), json!(name));
    }
}

impl Asked {
    /// The body with the parameters.
    fn object(&self) -> Map<String, Value> {
        let mut object = self.body.as_object().cloned().unwrap_or_default();
        object.extend(self.query.clone());
        object
    }

    /// A message whose fields are the body's and the path's.
    fn whole<M: Message + Name + Default, const N: usize>(&self, path: [(&str, Value); N]) -> Result<M, Status> {
        let mut object = self.object();
        object.extend(path.map(|(field, value)| (field.to_owned(), value)));
        self.message(object)
    }

    /// A message of which the body is one field.
    fn create<M: Message + Name + Default, const N: usize>(
        &self,
        field: &str,
        path: [(&str, Value); N],
    ) -> Result<M, Status> {
        let mut object = self.query.clone();
        object.insert(field.to_owned(), self.body.clone());
        object.extend(path.map(|(field, value)| (field.to_owned(), value)));
        self.message(object)
    }

    /// A message of which the body is one field, the resource of the path.
    fn field<M: Message + Name + Default>(&self, field: &str, name: &str) -> Result<M, Status> {
        let mut object = self.query.clone();
        object.insert(field.to_owned(), self.body.clone());
        set_name(&mut object, field, name);
        self.message(object)
    }

    fn message<M: Message + Name + Default>(&self, mut object: Map<String, Value>) -> Result<M, Status> {
        for mask in ["updateMask", "update_mask", "readMask", "read_mask"] {
            if let Some(Value::String(paths)) = object.get_mut(mask) {
                *paths = camel_case(paths);
            }
        }
        // v1beta1 has a few fields more than the messages here.
        let strict = self.version == Version::V1;
        proto_json::from_value(Value::Object(object), strict).map_err(|error| match error {
            ProtoJsonError::Read { reason, .. } => {
                Status::new(Code::InvalidArgument, format!("the request can't be read: {reason}"))
            }
            error => internal(&error),
        })
    }

    fn operation(&self, outcome: Result<Operation, Status>) -> Result<Value, Status> {
        self.write_operation(outcome?)
    }

    /// An operation with the type URLs of the version that was asked.
    fn write_operation(&self, operation: Operation) -> Result<Value, Status> {
        // Its messages are known under v1's names only.
        let mut json = write(&Version::V1.of(operation))?;
        for part in ["metadata", "response"] {
            let Some(Value::Object(message)) = json.get_mut(part) else { continue };
            if message.get("@type").and_then(Value::as_str) == Some("type.googleapis.com/google.protobuf.Empty") {
                // The well-known form has a `value`, which Google's own clients refuse here.
                message.remove("value");
            }
            if let Some(Value::String(url)) = message.get_mut("@type") {
                *url = self.version.type_url(url);
            }
        }
        Ok(json)
    }
}

/// Field masks in JSON are in this case, but many people write them as the messages do.
fn camel_case(paths: &str) -> String {
    let mut camel = String::with_capacity(paths.len());
    let mut letters = paths.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '_' => camel.extend(letters.next().map(|next| next.to_ascii_uppercase())),
            _ => camel.push(letter),
        }
    }
    camel
}

fn write<M: Message + Name>(message: &M) -> Result<Value, Status> {
    proto_json::write(message).map_err(|error| internal(&error))
}

fn internal(error: &ProtoJsonError) -> Status {
    tracing::error!(%error, "a message could not be written as JSON");
    Status::new(Code::Internal, "the answer could not be written as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fields_are_left_of_a_query() {
        let fields =
            query("%24alt=json%3Benum-encoding%3Dint&endpointId=my-1&filter=labels.a%3Db+c&force=true&alt=json");
        assert_eq!(Value::Object(fields), json!({"endpointId": "my-1", "filter": "labels.a=b c"}));
        assert_eq!(percent_decoded("100%&%4"), "100%&%4");
    }

    #[test]
    fn masks_may_be_written_in_both_cases() {
        assert_eq!(camel_case("traffic_split,displayName,a.b_c"), "trafficSplit,displayName,a.bC");
    }

    #[test]
    fn endpoints_are_managed_by_their_own_verbs() {
        assert!(is_for_endpoint(None, &Method::PATCH) && is_for_endpoint(None, &Method::GET));
        assert!(is_for_endpoint(Some("deployModel"), &Method::POST) && is_for_endpoint(Some("update"), &Method::GET));
        assert!(!is_for_endpoint(Some("predict"), &Method::POST) && !is_for_endpoint(None, &Method::POST));
    }
}
