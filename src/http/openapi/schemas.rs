//! Schemas: of Google's messages by their descriptors, as proto3 JSON writes them, and of the other protocols by hand.

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::protocol::proto_json::descriptors;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// The JSON of one of Google's messages, by its name in the package of Vertex AI.
    Message(&'static str),
    /// One of [`NAMED`].
    Named(&'static str),
    /// Any JSON.
    Json,
    /// Bytes of any media type.
    Bytes,
    /// Text of this media type.
    Text(&'static str),
}

/// The package of Vertex AI's messages.
const PACKAGE: &str = "google.cloud.aiplatform.v1";

/// The schemas that are referred to.
pub struct Schemas {
    found: Map<String, Value>,
}

impl Schemas {
    /// None yet.
    pub fn new() -> Self {
        Self { found: Map::new() }
    }

    /// All of them, by name.
    pub fn finish(mut self) -> Map<String, Value> {
        self.found.sort_keys();
        self.found
    }

    /// `content` of a request or an answer.
    pub fn content(&mut self, body: &Body) -> Value {
        match body {
            Body::Bytes => {
                json!({ "*/*": { "schema": { "type": "string", "contentMediaType": "application/octet-stream" } } })
            }
            Body::Text(media_type) => json!({ (*media_type): { "schema": { "type": "string" } } }),
            Body::Json => json!({ "application/json": { "schema": {} } }),
            Body::Named(name) => {
                let (_, schema) = NAMED.iter().find(|(known, _)| known == name).unwrap_or(&NAMED[0]);
                // A test reads all of them.
                let schema = serde_json::from_str(schema).unwrap_or(Value::Null);
                self.found.insert((*name).to_owned(), schema);
                json!({ "application/json": { "schema": reference(name) } })
            }
            Body::Message(name) => {
                let name = if name.contains('.') { (*name).to_owned() } else { format!("{PACKAGE}.{name}") };
                let schema = match descriptors().get_message_by_name(&name) {
                    Some(message) => self.message(&message),
                    None => json!({ "type": "object" }),
                };
                json!({ "application/json": { "schema": schema } })
            }
        }
    }

    fn message(&mut self, message: &MessageDescriptor) -> Value {
        let name = message.full_name();
        let well_known = match name {
            "google.protobuf.Value" => json!({}),
            "google.protobuf.Struct" | "google.protobuf.Any" => json!({ "type": "object" }),
            "google.protobuf.Empty" => json!({ "type": "object", "maxProperties": 0 }),
            "google.protobuf.ListValue" => json!({ "type": "array", "items": {} }),
            "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
            "google.protobuf.Duration" => json!({ "type": "string", "pattern": "^-?[0-9]+(\\.[0-9]+)?s$" }),
            "google.protobuf.FieldMask" => json!({ "type": "string" }),
            "google.protobuf.DoubleValue" | "google.protobuf.FloatValue" => json!({ "type": "number" }),
            "google.protobuf.BoolValue" => json!({ "type": "boolean" }),
            "google.protobuf.StringValue" => json!({ "type": "string" }),
            _ => Value::Null,
        };
        if !well_known.is_null() {
            return well_known;
        }
        if !self.found.contains_key(name) {
            // First, as messages may hold themselves.
            self.found.insert(name.to_owned(), Value::Null);
            let fields: Map<String, Value> =
                message.fields().map(|field| (field.json_name().to_owned(), self.field(&field))).collect();
            self.found.insert(name.to_owned(), json!({ "type": "object", "properties": fields }));
        }
        reference(name)
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map()
            && let Kind::Message(entry) = field.kind()
        {
            let values = self.kind(&entry.map_entry_value_field().kind());
            return json!({ "type": "object", "additionalProperties": values });
        }
        let schema = self.kind(&field.kind());
        if field.is_list() { json!({ "type": "array", "items": schema }) } else { schema }
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double => json!({ "type": "number", "format": "double" }),
            Kind::Float => json!({ "type": "number", "format": "float" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "format": "int32", "minimum": 0 }),
            // As strings, because doubles can't hold them.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "type": "string", "format": "int64" }),
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": "string", "format": "uint64" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Enum(names) => enumeration(names),
            Kind::Message(message) => self.message(message),
        }
    }
}

fn enumeration(names: &EnumDescriptor) -> Value {
    let names: Vec<String> = names.values().map(|value| value.name().to_owned()).collect();
    json!({ "type": "string", "enum": names })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The bodies that are no messages of Google's.
const NAMED: [(&str, &str); 16] = [
    (
        "Error",
        r#"{"type":"object","required":["error"],"properties":{"error":{"type":"object",
            "required":["code","message","status"],"properties":{
                "code":{"type":"integer"},"message":{"type":"string"},"status":{"type":"string"},
                "details":{"type":"array","items":{"type":"object"}}}}}}"#,
    ),
    ("TextError", r#"{"type":"object","required":["error"],"properties":{"error":{"type":"string"}}}"#),
    (
        "ContainerRequest",
        r#"{"type":"object","description":"Rows or columns; the body may also be the file of one picture.",
            "properties":{"instances":{"type":"array","minItems":1,"items":{}},"inputs":{},
            "parameters":{"type":["object","null"]}}}"#,
    ),
    ("ContainerAnswer", r#"{"type":"object","properties":{"predictions":{"type":"array","items":{}},"outputs":{}}}"#),
    (
        "PredictRequest",
        r#"{"type":"object","description":"Either instances (rows) or inputs (columns).","properties":{
            "signature_name":{"const":"serving_default"},"instances":{"type":"array","minItems":1,"items":{}},
            "inputs":{"description":"A list of rows, or such lists by input."},"parameters":{"type":["object","null"]}}}"#,
    ),
    (
        "PredictAnswer",
        r#"{"type":"object","description":"predictions to instances, outputs to inputs.","properties":{
            "predictions":{"type":"array","items":{}},"outputs":{}}}"#,
    ),
    (
        "ExamplesRequest",
        r#"{"type":"object","required":["examples"],"properties":{"signature_name":{"const":"serving_default"},
            "context":{"type":"object"},"examples":{"type":"array","minItems":1,"items":{"type":"object"}},
            "parameters":{"type":["object","null"]}}}"#,
    ),
    ("ClassifyAnswer", r#"{"type":"object","properties":{"result":{"type":"array","items":{"type":"array"}}}}"#),
    ("RegressAnswer", r#"{"type":"object","properties":{"result":{"type":"array","items":{"type":"number"}}}}"#),
    (
        "ModelStatus",
        r#"{"type":"object","properties":{"name":{"type":"string"},"ready":{"type":"boolean"},
            "model_version_status":{"type":"array","items":{"type":"object","properties":{
                "version":{"type":"string"},"state":{"type":"string"},"status":{"type":"object"}}}}}}"#,
    ),
    ("Models", r#"{"type":"object","properties":{"models":{"type":"array","items":{"type":"string"}}}}"#),
    (
        "ServerMetadata",
        r#"{"type":"object","properties":{"name":{"type":"string"},"version":{"type":"string"},
            "extensions":{"type":"array","items":{"type":"string"}}}}"#,
    ),
    (
        "ModelMetadata",
        r##"{"type":"object","properties":{"name":{"type":"string"},
            "versions":{"type":"array","items":{"type":"string"}},"platform":{"type":"string"},
            "inputs":{"type":"array","items":{"type":"object"}},"outputs":{"type":"array","items":{"type":"object"}}}}"##,
    ),
    (
        "InferRequest",
        r#"{"type":"object","required":["inputs"],"properties":{"id":{"type":"string"},"parameters":{"type":"object"},
            "inputs":{"type":"array","minItems":1,"items":{"type":"object","required":["name","shape","datatype"],
                "properties":{"name":{"type":"string"},"shape":{"type":"array","items":{"type":"integer"}},
                "datatype":{"enum":["BOOL","UINT8","UINT16","UINT32","UINT64","INT8","INT16","INT32","INT64","FP16","FP32",
                    "FP64","BYTES"]},"parameters":{"type":"object"},"data":{"type":"array","items":{}}}}},
            "outputs":{"type":"array","items":{"type":"object","required":["name"],"properties":{
                "name":{"type":"string"},"parameters":{"type":"object"}}}}}}"#,
    ),
    (
        "InferAnswer",
        r#"{"type":"object","properties":{"model_name":{"type":"string"},"model_version":{"type":"string"},
            "id":{"type":"string"},"outputs":{"type":"array","items":{"type":"object","properties":{
                "name":{"type":"string"},"datatype":{"type":"string"},"shape":{"type":"array","items":{"type":"integer"}},
                "parameters":{"type":"object"},"data":{"type":"array","items":{}}}}}}}"#,
    ),
    (
        "Health",
        r#"{"type":"object","properties":{"status":{"enum":["LOADING","READY","DRAINING","FAILED"]},
        "reason":{"type":"string"}}}"#,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_schemas_are_json() {
        for (name, schema) in NAMED {
            assert!(serde_json::from_str::<Value>(schema).is_ok_and(|schema| schema.is_object()), "{name}");
        }
    }

    #[test]
    fn messages_are_written_as_proto3_json() {
        let mut schemas = Schemas::new();
        schemas.content(&Body::Message("Endpoint"));
        let schemas = schemas.finish();
        let endpoint = &schemas["google.cloud.aiplatform.v1.Endpoint"]["properties"];
        assert_eq!(endpoint["createTime"]["format"], "date-time");
        assert_eq!(endpoint["trafficSplit"]["additionalProperties"]["type"], "integer");
        let deployed = &endpoint["deployedModels"]["items"]["$ref"];
        assert_eq!(*deployed, "#/components/schemas/google.cloud.aiplatform.v1.DeployedModel");
    }
}
