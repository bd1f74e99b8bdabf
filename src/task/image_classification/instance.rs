//! Finding the picture in an instance.
//!
//! Three forms are understood: `{"b64": "..."}`, `{"anything": {"b64": "..."}}` and a bare base64 string. The text
//! is borrowed from the body wherever JSON escapes allow it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::task::InputError;

/// The base64 text of an instance's picture and the path to it inside the instance.
#[derive(Debug, PartialEq, Eq)]
pub struct EncodedImage<'a> {
    /// What the client sent; not yet known to be base64.
    pub text: Cow<'a, str>,
    /// Such as `b64` or `image_bytes.b64`; empty for a bare string.
    pub path: String,
}

const FORMS: &str = r#"an image is {"b64": "..."}, {"any_name": {"b64": "..."}} or a base64 string"#;

/// Finds the picture in the JSON text of an instance.
///
/// # Errors
/// [`InputError`] names the part of the instance that is not as it should be.
pub fn find_image(json: &[u8]) -> Result<EncodedImage<'_>, InputError> {
    if let Some(text) = lone_text(json) {
        return Ok(EncodedImage { text: Cow::Borrowed(text), path: "b64".to_owned() });
    }
    let node: Node<'_> =
        serde_json::from_slice(json).map_err(|error| InputError::new("", format!("is not valid JSON: {error}")))?;
    match node {
        Node::Text(text) => Ok(EncodedImage { text, path: String::new() }),
        Node::Object(entries) => search(entries),
        Node::Other(kind) => Err(InputError::new("", format!("is {kind}; {FORMS}"))),
    }
}

/// The text of `{"b64": "..."}`, the form that most clients send. The request's parser has seen already that this is
/// JSON, so with no quote and no backslash between the first quote and the last, all between is that one string; to parse
/// it again takes several times as long.
fn lone_text(json: &[u8]) -> Option<&str> {
    let member = json.strip_prefix(b"{")?.trim_ascii_start().strip_prefix(b"\"b64\"")?;
    let value = member.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start().strip_prefix(b"\"")?;
    let text = value.strip_suffix(b"}")?.trim_ascii_end().strip_suffix(b"\"")?;
    let is_whole = memchr::memchr2(b'"', b'\\', text).is_none();
    is_whole.then(|| std::str::from_utf8(text).ok()).flatten()
}

/// Looks for `b64` in an object, then in the objects directly inside it.
fn search(entries: Vec<(String, Node<'_>)>) -> Result<EncodedImage<'_>, InputError> {
    let mut found: Option<EncodedImage<'_>> = None;
    for (key, node) in entries {
        let image = match node {
            node if key == "b64" => Some(EncodedImage { text: text_of(node, "b64")?, path: key }),
            Node::Object(inner) => match inner.into_iter().find(|(inner_key, _)| inner_key == "b64") {
                Some((_, node)) => {
                    let path = format!("{key}.b64");
                    Some(EncodedImage { text: text_of(node, &path)?, path })
                }
                None => None,
            },
            _ => None,
        };
        match (&found, image) {
            (Some(first), Some(second)) => {
                let message =
                    format!("has two images, `{}` and `{}`; send one image an instance", first.path, second.path);
                return Err(InputError::new("", message));
            }
            (None, Some(image)) => found = Some(image),
            (_, None) => {}
        }
    }
    found.ok_or_else(|| InputError::new("", format!("has no `b64`; {FORMS}")))
}

fn text_of<'a>(node: Node<'a>, path: &str) -> Result<Cow<'a, str>, InputError> {
    match node {
        Node::Text(text) => Ok(text),
        Node::Object(_) => Err(InputError::new(path, "is an object; it must be a base64 string")),
        Node::Other(kind) => Err(InputError::new(path, format!("is {kind}; it must be a base64 string"))),
    }
}

/// As much of a JSON value as the search needs.
enum Node<'a> {
    Text(Cow<'a, str>),
    Object(Vec<(String, Node<'a>)>),
    Other(&'static str),
}

/// The most keys of one object that are looked at; an instance with more is no image.
const MOST_KEYS: usize = 64;

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Node::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Node::Other("a number"))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Node::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while entries.len() < MOST_KEYS {
            match map.next_entry()? {
                Some(entry) => entries.push(entry),
                None => return Ok(Node::Object(entries)),
            }
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Node::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> (String, String) {
        let image = find_image(json.as_bytes()).unwrap();
        (image.text.into_owned(), image.path)
    }

    fn refused(json: &str) -> (String, String) {
        let error = find_image(json.as_bytes()).unwrap_err();
        (error.path, error.message)
    }

    #[test]
    fn the_three_forms() {
        assert_eq!(found(r#"{"b64":"AAAA"}"#), ("AAAA".into(), "b64".into()));
        assert_eq!(found(r#"{"string_input":{"b64":"AAAA"}}"#), ("AAAA".into(), "string_input.b64".into()));
        assert_eq!(found(r#""AAAA""#), ("AAAA".into(), String::new()));
        assert_eq!(found(r#"{"image":{"b64":"AAAA"},"tag":"beach"}"#), ("AAAA".into(), "image.b64".into()));
    }

    #[test]
    fn the_lone_text_is_what_the_parser_finds() {
        for json in [
            r#"{"b64":"AAAA"}"#,
            "{ \"b64\" :\n\"AA\" }",
            r#"{"b64":""}"#,
            r#"{"b64":"\u00e9}"}"#,
            "{\"b64\":\"\u{e9}\"}",
        ] {
            let parsed: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(found(json), (parsed["b64"].as_str().unwrap().to_owned(), "b64".to_owned()), "{json}");
        }
        assert_eq!(lone_text(br#"{"b64":"AAAA"}"#), Some("AAAA"));
        let others =
            [r#"{"b64":"A\/A"}"#, r#"{"b64":"A","tag":"B"}"#, r#"{"b64":{"b64":"A"}}"#, r#"{"b64":1}"#, r#"{"b":"A"}"#];
        for json in others {
            assert_eq!(lone_text(json.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn text_is_borrowed_unless_it_has_escapes() {
        assert!(matches!(find_image(br#"{"b64":"AA+/"}"#).unwrap().text, Cow::Borrowed(_)));
        assert_eq!(found(r#"{"b64":"AA\/A"}"#).0, "AA/A");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(refused(r#"{"b64":12}"#), ("b64".into(), "is a number; it must be a base64 string".into()));
        assert_eq!(refused(r#"{"x":{"b64":null}}"#).0, "x.b64");
        assert!(refused("[1,2]").1.starts_with("is a list"));
        assert!(refused(r#"{"image":"AAAA"}"#).1.starts_with("has no `b64`"));
        assert!(refused(r#"{"a":{"b64":"A"},"b":{"b64":"B"}}"#).1.contains("`a.b64` and `b.b64`"));
    }

    #[test]
    fn hostile_nesting_is_an_error_not_a_crash() {
        let deep = format!("{}1{}", "{\"a\":".repeat(50_000), "}".repeat(50_000));
        assert!(refused(&deep).1.contains("not valid JSON"));
    }
}
