//! The description of the API in OpenAPI 3.1, made of the table of routes and the descriptors of Google's messages.
//!
//! `GET /openapi.json` is the description, `/docs` shows it with Swagger UI, whose files are part of the binary. A route
//! that [`paths`] has no words for is missing in the description, which a test excludes.

use std::sync::{Arc, OnceLock};

use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};

use super::Segments;
use super::respond::Failure;
use super::table::Routes;
use crate::protocol::status::{Code, Status};

mod management;
mod paths;
mod schemas;

use paths::Operation;
#[cfg(test)]
pub use paths::operations;
use schemas::Schemas;

/// What `/openapi.json` shows, made when it is first asked for.
#[derive(Clone)]
struct Description {
    paths: Arc<[String]>,
    text: Arc<OnceLock<Bytes>>,
}

/// The routes of the description, which is of these paths and their own.
pub fn routes<S: Clone + Send + Sync + 'static>(described: &[&[String]]) -> Routes<S> {
    let own = ["/openapi.json", "/docs", "/docs/", "/docs/{*file}"].map(str::to_owned);
    let paths = described.iter().flat_map(|paths| paths.iter()).chain(&own).cloned().collect();
    let description = Description { paths, text: Arc::default() };
    let [json, docs, index, files] = own;
    let show = move || {
        let description = description.clone();
        async move { description.respond() }
    };
    Routes::new()
        .route(&json, get(show))
        .route(&docs, get(async || Redirect::permanent("/docs/")))
        .route(&index, get(async || file("index.html")))
        .route(&files, get(async |Segments(name): Segments<String>| file(&name)))
}

impl Description {
    fn respond(self) -> Response {
        let text = self.text.get_or_init(|| document(&self.paths).to_string().into()).clone();
        ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
    }
}

/// A file of Swagger UI.
fn file(name: &str) -> Response {
    let config = Arc::new(utoipa_swagger_ui::Config::from("/openapi.json"));
    match utoipa_swagger_ui::serve(name, config) {
        Ok(Some(file)) => {
            let mut response = file.bytes.into_owned().into_response();
            let headers = response.headers_mut();
            let media_type = HeaderValue::from_str(&file.content_type);
            headers.insert(CONTENT_TYPE, media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
            if file.gzpipped {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
        }
        Ok(None) => Failure(Status::new(Code::NotFound, "there is no such file; /docs/ shows the API")).into_response(),
        Err(error) => {
            tracing::error!(error, "a file of Swagger UI could not be made");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The description of these routes.
fn document(routes: &[String]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    for (path, operation) in routes.iter().filter_map(|route| paths::operations(route)).flatten() {
        let described = describe(&path, &operation, &mut schemas);
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[operation.method] = described;
    }
    paths.sort_keys();
    let tags: Vec<Value> =
        paths::TAGS.iter().map(|(name, description)| json!({ "name": name, "description": description })).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tessera",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Predictions over Vertex AI's REST API, and over those of KServe, TensorFlow Serving and Triton.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "tags": tags,
        "paths": paths,
        "components": { "schemas": schemas.finish() },
    })
}

fn describe(path: &str, operation: &Operation, schemas: &mut Schemas) -> Value {
    let names = path.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name);
    let text = json!({ "type": "string" });
    let parameters: Vec<Value> = names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text }))
        .chain(operation.query.iter().map(|name| json!({ "name": name, "in": "query", "schema": text })))
        .collect();
    let mut described = json!({
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": operation_id(operation.method, path),
        "responses": {
            "200": { "description": "The answer.", "content": schemas.content(&operation.answer) },
        },
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(request) = &operation.request {
        described["requestBody"] = json!({ "required": true, "content": schemas.content(request) });
    }
    if let Some(error) = &operation.error {
        let content = schemas.content(error);
        described["responses"]["default"] = json!({ "description": "What went wrong.", "content": content });
    }
    described
}

/// Unique, as method and path are: letters, digits and underscores.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|character: char| !character.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let index = (path.len() > 1 && path.ends_with('/')).then_some("index");
    std::iter::once(method).chain(words).chain(index).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_whole_and_told_apart() {
        let routes = ["/v1/endpoints/{target}", "/v2/models/{model}/infer"].map(str::to_owned);
        let document = document(&routes);
        assert_eq!(document["openapi"], "3.1.0");
        assert!(document["paths"]["/v1/endpoints/{endpoint}:predict"]["post"]["requestBody"].is_object(), "{document}");
        assert!(document["components"]["schemas"]["google.cloud.aiplatform.v1.PredictRequest"].is_object());
        let mut ids = std::collections::BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for operation in methods.as_object().unwrap().values() {
                assert!(ids.insert(operation["operationId"].to_string()), "{path}");
                assert!(operation["responses"]["200"]["content"].is_object(), "{path}");
                let parameters = operation["parameters"].as_array().map_or(0, Vec::len);
                assert_eq!(parameters, path.matches('{').count(), "{path}");
            }
        }
    }

    #[test]
    fn references_lead_somewhere() {
        let routes = ["/v1/projects/{project}/locations/{location}/endpoints/{target}".to_owned()];
        let document = document(&routes);
        let text = document.to_string();
        let mut found = 0;
        for part in text.split(r##""$ref":"#/components/schemas/"##).skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
            found += 1;
        }
        assert!(found > 20, "{found}");
    }
}
