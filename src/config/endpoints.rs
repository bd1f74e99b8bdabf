//! `[[endpoint]]`: which models answer under which id, and who gets how much of the traffic.

use std::collections::BTreeSet;

use serde::Serialize;

use super::error::{Origin, Problem, ProblemKind};
use super::layers::{Node, Table, Value};
use super::reader::{Expected, Parsed, Reader, boolean, integer, name, text};

/// An endpoint that was declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Unique among the endpoints; 1 to 128 letters, digits, '-', '_' and '.', the first a letter or a digit.
    pub id: String,
    /// For people, where it differs from the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// At least one; their traffic adds up to 100.
    pub deployed_models: Vec<DeployedModel>,
}

/// A model that answers for an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeployedModel {
    /// Unique in its endpoint, syntax as [`Endpoint::id`]. `None`: to be derived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name of a model in the repository.
    pub model: String,
    /// One of its versions. `None`: its highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Percent of the endpoint's requests, 0 to 100.
    pub traffic: u8,
    /// Percent of the endpoint's requests that it gets copies of, 1 to 100: it is a shadow, which answers nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<u8>,
}

const ENDPOINT_KEYS: [&str; 3] = ["id", "display_name", "deployed_models"];
const DEPLOYED_MODEL_KEYS: [&str; 5] = ["id", "model", "version", "traffic", "shadow"];
const ID_RULE: &str = "an id of 1 to 128 letters, digits, '-', '_' and '.', the first one a letter or a digit";

/// Whether a text can be an id, and so one segment of a path.
pub fn is_id(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= 128
        && text.bytes().all(rest)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// An id, also one that is written as an integer.
pub(super) fn id(value: &Value) -> Parsed<String> {
    let id = match value {
        Value::Integer(number) => number.to_string(),
        value => text(value).unwrap_or_default(),
    };
    if is_id(&id) { Ok(id) } else { Err(Expected(ID_RULE.to_owned(), "\"imagenet\"".to_owned())) }
}

/// Reads the list under `endpoint`.
pub(super) fn read(node: &Node, problems: &mut Vec<Problem>) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    let mut ids = BTreeSet::new();
    let example = "[{ id = \"photos\", deployed_models = [{ model = \"imagenet\" }] }]";
    for (path, table, origin) in tables(node, "endpoint", example, problems) {
        let before = problems.len();
        let mut reader = Reader::new(&table, path.clone(), problems);
        reader.refuse_others(&ENDPOINT_KEYS);
        let id = required(&mut reader, &table, "id", &origin, id);
        let display_name = reader.optional("display_name", name);
        if let Some(id) = &id
            && !ids.insert(id.clone())
        {
            let kind = inconsistent(format!("two endpoints have the id {id:?}; each needs its own"));
            reader.refuse("id", &origin, kind);
        }
        let deployed_models = match table.get("deployed_models") {
            Some(node) => read_deployed_models(node, &path, problems),
            None => {
                let kind = inconsistent(format!(
                    "needs `deployed_models`, such as {}",
                    "deployed_models = [{ model = \"imagenet\" }]"
                ));
                reader.refuse("", &origin, kind);
                Vec::new()
            }
        };
        if let Some(id) = id
            && problems.len() == before
        {
            endpoints.push(Endpoint { id, display_name, deployed_models });
        }
    }
    endpoints
}

fn read_deployed_models(node: &Node, endpoint: &str, problems: &mut Vec<Problem>) -> Vec<DeployedModel> {
    let path = format!("{endpoint}.deployed_models");
    let before = problems.len();
    let mut deployed_models = Vec::new();
    let mut shares = Vec::new();
    let mut ids = BTreeSet::new();
    for (path, table, origin) in tables(node, &path, "[{ model = \"imagenet\" }]", problems) {
        let mut reader = Reader::new(&table, path, problems);
        reader.refuse_others(&DEPLOYED_MODEL_KEYS);
        let own_id = reader.optional("id", id);
        if let Some(id) = &own_id
            && !ids.insert(id.clone())
        {
            let kind = inconsistent(format!("two deployed models of this endpoint have the id {id:?}"));
            reader.refuse("id", &origin, kind);
        }
        let traffic = reader.optional("traffic", integer::<u8>(0..=100, 50));
        let shadow = reader.optional("shadow", shadow_percent).flatten();
        match (shadow, traffic) {
            (Some(_), Some(1..)) => {
                let kind = inconsistent("a shadow gets copies alone: leave out its `traffic`".to_owned());
                reader.refuse("traffic", &origin, kind);
            }
            (Some(_), _) => {}
            (None, traffic) => shares.push(traffic),
        }
        deployed_models.push(DeployedModel {
            id: own_id,
            model: required(&mut reader, &table, "model", &origin, id).unwrap_or_default(),
            version: reader.optional("version", id),
            traffic: 0,
            shadow,
        });
    }
    if problems.len() > before {
        return deployed_models;
    }
    match split(&shares) {
        Ok(shares) => {
            let answering = deployed_models.iter_mut().filter(|deployed| deployed.shadow.is_none());
            for (deployed_model, share) in answering.zip(shares) {
                deployed_model.traffic = share;
            }
        }
        Err(reason) => problems.push(Problem { origin: node.origin.clone(), key: path, kind: inconsistent(reason) }),
    }
    deployed_models
}

/// `true` for all requests, `false` for no shadow, or a percent.
fn shadow_percent(value: &Value) -> Parsed<Option<u8>> {
    match boolean(value) {
        Ok(true) => Ok(Some(100)),
        Ok(false) => Ok(None),
        Err(_) => integer::<u8>(1..=100, 10)(value).map(Some).map_err(|_| {
            Expected("true, or the percent of the requests to copy, 1 to 100".to_owned(), "10".to_owned())
        }),
    }
}

/// The shares of the traffic, which add up to 100; one that is alone may be left out.
fn split(shares: &[Option<u8>]) -> Result<Vec<u8>, String> {
    if let [None] = shares {
        return Ok(vec![100]);
    }
    let given: Vec<u8> = shares.iter().copied().flatten().collect();
    let sum: u32 = given.iter().copied().map(u32::from).sum();
    match given.len() {
        _ if shares.is_empty() => Err("needs at least one deployed model".to_owned()),
        count if count < shares.len() => {
            Err("with more than one deployed model each needs its `traffic` in percent".to_owned())
        }
        _ if sum != 100 => Err(format!("`traffic` adds up to {sum} and has to add up to 100")),
        _ => Ok(given),
    }
}

fn inconsistent(reason: String) -> ProblemKind {
    ProblemKind::Inconsistent(reason)
}

fn required<T>(
    reader: &mut Reader<'_>,
    table: &Table,
    key: &str,
    origin: &Origin,
    parse: impl FnOnce(&Value) -> Parsed<T>,
) -> Option<T> {
    if !table.contains_key(key) {
        reader.refuse("", origin, inconsistent(format!("needs `{key}`")));
    }
    reader.optional(key, parse)
}

/// The tables of a list with their paths and origins; what isn't one becomes a problem.
fn tables(node: &Node, path: &str, example: &str, problems: &mut Vec<Problem>) -> Vec<(String, Table, Origin)> {
    let mut invalid = |origin: &Origin, path: String, value: &Value| {
        problems.push(Problem {
            origin: origin.clone(),
            key: path,
            kind: ProblemKind::Invalid {
                expected: "a list of tables".to_owned(),
                example: example.to_owned(),
                found: value.describe(),
            },
        });
    };
    let value = node.value.interpreted(&node.origin).into_owned();
    let Value::Array(items) = value else {
        invalid(&node.origin, path.to_owned(), &value);
        return Vec::new();
    };
    let mut tables = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        match item.value {
            Value::Table(table) => tables.push((path, table, item.origin)),
            other => invalid(&item.origin, path, &other),
        }
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers;

    fn endpoints(toml: &str) -> Result<Vec<Endpoint>, Vec<String>> {
        let path = std::sync::Arc::new("f".into());
        let tree = layers::parse(toml, &|line| Origin::File(std::sync::Arc::clone(&path), line)).unwrap();
        let mut problems = Vec::new();
        let endpoints = read(&tree["endpoint"], &mut problems);
        if problems.is_empty() {
            return Ok(endpoints);
        }
        Err(problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn a_single_deployed_model_gets_all_the_traffic() {
        let endpoints = endpoints("[[endpoint]]\nid = \"a\"\ndeployed_models = [{ model = \"m\", version = 2 }]");
        let expected = DeployedModel {
            id: None,
            model: "m".to_owned(),
            version: Some("2".to_owned()),
            traffic: 100,
            shadow: None,
        };
        assert_eq!(endpoints.unwrap()[0].deployed_models, [expected]);
    }

    #[test]
    fn traffic_is_split_as_declared() {
        let toml = "endpoint = [{ id = 'a', deployed_models = [\n\
                    { id = '1', model = 'm', traffic = 90 }, { model = 'n', traffic = 10 }] }]";
        let endpoints = endpoints(toml).unwrap();
        let shares: Vec<u8> = endpoints[0].deployed_models.iter().map(|deployed| deployed.traffic).collect();
        assert_eq!(shares, [90, 10]);
    }

    #[test]
    fn a_shadow_has_no_share_of_the_traffic() {
        let toml = |shadow: &str| {
            format!("endpoint = [{{ id = 'a', deployed_models = [{{ model = 'm' }}, {{ model = 'n', {shadow} }}] }}]")
        };
        for (text, percent) in [("shadow = true", Some(100)), ("shadow = 5, traffic = 0", Some(5))] {
            let deployed = endpoints(&toml(text)).unwrap()[0].deployed_models.clone();
            let shares: Vec<_> = deployed.iter().map(|deployed| (deployed.traffic, deployed.shadow)).collect();
            assert_eq!(shares, [(100, None), (0, percent)]);
        }
        for text in ["shadow = 0", "shadow = 101", "shadow = 'x'", "shadow = 5, traffic = 10", "shadow = false"] {
            assert!(endpoints(&toml(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn traffic_has_to_add_up() {
        for (models, reason) in [
            ("", "f:1: endpoint[0].deployed_models: needs at least one deployed model"),
            (
                "{ model = 'm' }, { model = 'n', traffic = 100 }",
                "f:1: endpoint[0].deployed_models: with more than one deployed model each needs its `traffic` in percent",
            ),
            (
                "{ model = 'm', traffic = 60 }, { model = 'n', traffic = 60 }",
                "f:1: endpoint[0].deployed_models: `traffic` adds up to 120 and has to add up to 100",
            ),
            (
                "{ model = 'm', traffic = 99 }",
                "f:1: endpoint[0].deployed_models: `traffic` adds up to 99 and has to add up to 100",
            ),
        ] {
            let toml = format!("endpoint = [{{ id = 'a', deployed_models = [{models}] }}]");
            assert_eq!(endpoints(&toml), Err(vec![reason.to_owned()]));
        }
    }

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let toml = "[[endpoint]]\nid = \"a/b\"\n\n[[endpoint]]\nid = \"x\"\nmodels = 1\n\n[[endpoint]]\nid = \"x\"\n\
                    deployed_models = [\n  { id = \"1\", modell = \"m\" },\n  { id = \"1\", model = \"m\", traffic = 101 },\n]";
        let problems = endpoints(toml).unwrap_err();
        let expected = [
            "f:2: endpoint[0].id: expected an id of 1 to 128 letters",
            "f:1: endpoint[0]: needs `deployed_models`",
            "f:6: endpoint[1].models: unknown key",
            "f:4: endpoint[1]: needs `deployed_models`",
            "f:9: endpoint[2].id: two endpoints have the id \"x\"",
            "f:11: endpoint[2].deployed_models[0].modell: unknown key; did you mean `model`?",
            "f:11: endpoint[2].deployed_models[0]: needs `model`",
            "f:12: endpoint[2].deployed_models[1].id: two deployed models of this endpoint have the id \"1\"",
            "f:12: endpoint[2].deployed_models[1].traffic: expected an integer from 0 to 100, such as 50; found the integer 101",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}\n{expected}");
        }
    }

    #[test]
    fn ids() {
        for id in ["imagenet", "1", "vit-b_16.v2", "A"] {
            assert!(is_id(id), "{id}");
        }
        for id in ["", "-a", ".", "..", "a/b", "a:predict", "ä", "a b", &"x".repeat(129)] {
            assert!(!is_id(id), "{id}");
        }
    }
}
