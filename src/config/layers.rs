//! A tree of values of which each knows where it was set, and the laying of one over another.

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Origin, Problem, ProblemKind};
use super::suggest;

/// The settings of one layer, or of all layers merged, by their names.
pub(super) type Table = BTreeMap<String, Node>;

/// A value and where it was set.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A value as it was written, not yet judged by type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are TOML's own")]
pub(super) enum Value {
    Table(Table),
    Array(Vec<Node>),
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    /// A variable or a flag: a string without quotes, or anything else in TOML's syntax. Which one it is, only the
    /// reader knows, who has a type in mind.
    Raw(String),
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Value {
    /// The value with a raw one read as TOML, or as a string if it isn't TOML.
    pub(super) fn interpreted(&self, origin: &Origin) -> Cow<'_, Self> {
        let Self::Raw(text) = self else {
            return Cow::Borrowed(self);
        };
        Cow::Owned(match DeValue::parse(text) {
            Ok(value) => node(&value, &|_| origin.clone(), origin.clone()).value,
            Err(_) => Self::String(text.clone()),
        })
    }

    /// For error messages: the type and, where it is short, the value.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Table(_) => "a table".to_owned(),
            Self::Array(_) => "a list".to_owned(),
            Self::String(text) => format!("the string {text:?}"),
            Self::Raw(text) => format!("{text:?}"),
            Self::Integer(number) => format!("the integer {number}"),
            Self::Float(number) => format!("the number {number}"),
            Self::Boolean(value) => format!("the boolean {value}"),
            Self::Datetime(text) => format!("the date {text}"),
        }
    }
}

/// Reads a document. `origin` tells the origin of a line, counted from 1.
///
/// # Errors
/// Every mistake in its syntax, not only the first.
pub(super) fn parse(text: &str, origin: &dyn Fn(usize) -> Origin) -> Result<Table, Vec<Problem>> {
    let at = |offset: usize| {
        let before = text.as_bytes().iter().take(offset);
        origin(1 + before.filter(|&&byte| byte == b'\n').count())
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table(document.get_ref(), &at));
    }
    let problem = |error: toml::de::Error| Problem {
        origin: at(error.span().map_or(0, |span| span.start)),
        key: String::new(),
        kind: ProblemKind::Syntax(error.message().to_owned()),
    };
    Err(errors.into_iter().map(problem).collect())
}

fn table(table: &DeTable<'_>, at: &dyn Fn(usize) -> Origin) -> Table {
    let entry = |(key, value): (&Spanned<Cow<'_, str>>, _)| {
        let origin = at(key.span().start);
        (key.get_ref().to_string(), node(value, at, origin))
    };
    table.iter().map(entry).collect()
}

fn node(spanned: &Spanned<DeValue<'_>>, at: &dyn Fn(usize) -> Origin, origin: Origin) -> Node {
    let value = match spanned.get_ref() {
        DeValue::Table(inner) => Value::Table(table(inner, at)),
        DeValue::Array(items) => {
            let element = |item: &Spanned<DeValue<'_>>| node(item, at, at(item.span().start));
            Value::Array(items.iter().map(element).collect())
        }
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) => Value::Integer(number),
            // Beyond 64 bits: a number all the same, for the reader to refuse with its range.
            Err(_) => Value::Float(digits.as_str().parse().unwrap_or(f64::INFINITY)),
        },
        DeValue::Float(digits) => Value::Float(digits.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
    };
    Node { value, origin }
}

/// The names that exist, as full paths.
#[derive(Debug)]
pub(super) struct Schema {
    keys: Vec<String>,
    sections: Vec<String>,
}

impl Schema {
    /// The names of a tree: its tables are sections, everything else are keys. So is an empty table: what stands in it,
    /// users name.
    pub(super) fn of(tree: &Table) -> Self {
        let mut schema = Self { keys: Vec::new(), sections: Vec::new() };
        schema.collect(tree, "");
        schema
    }

    fn collect(&mut self, tree: &Table, prefix: &str) {
        for (name, node) in tree {
            let path = join(prefix, name);
            if let Value::Table(inner) = &node.value
                && !inner.is_empty()
            {
                self.collect(inner, &path);
                self.sections.push(path);
            } else {
                self.keys.push(path);
            }
        }
    }

    /// The full paths of all keys.
    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    pub(super) fn knows(&self, path: &str) -> bool {
        self.is_key(path) || self.sections.iter().any(|known| known == path)
    }

    fn is_key(&self, path: &str) -> bool {
        self.keys.iter().any(|known| known == path)
    }

    /// The problem of a name that isn't known, with the nearest that is, written as at `origin`.
    pub(super) fn unknown(&self, path: String, origin: Origin, is_section: bool) -> Problem {
        let names = self.keys.iter().chain(&self.sections).map(String::as_str);
        let nearest = if is_section {
            suggest::nearest(&path, self.sections.iter().map(String::as_str))
        } else {
            suggest::nearest(&path, names)
        };
        let variable = matches!(origin, Origin::Environment(_));
        let spelled = |path: &str| match (variable, is_section) {
            (true, _) => super::environment::variable(path),
            (false, true) => format!("[{path}]"),
            (false, false) => path.to_owned(),
        };
        Problem {
            kind: ProblemKind::Unknown {
                what: match (variable, is_section) {
                    (true, _) => "variable",
                    (false, true) => "section",
                    (false, false) => "key",
                },
                nearest: nearest.map(spelled),
            },
            // A variable's name says it already.
            key: if variable { String::new() } else { path },
            origin,
        }
    }
}

pub(super) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Lays `over` over `base`: sections are merged, everything else is replaced whole. What `base` doesn't have is
/// unknown and left out.
pub(super) fn overlay(base: &mut Table, over: Table, prefix: &str, schema: &Schema, problems: &mut Vec<Problem>) {
    for (name, node) in over {
        let path = join(prefix, &name);
        let Some(below) = base.get_mut(&name) else {
            let is_section = matches!(node.value, Value::Table(_));
            problems.push(schema.unknown(path, node.origin, is_section));
            continue;
        };
        if schema.is_key(&path) {
            *below = node;
            continue;
        }
        // What isn't a key is a section, and so a table.
        let Value::Table(inner) = &mut below.value else { continue };
        match node.value.interpreted(&node.origin).into_owned() {
            Value::Table(table) => overlay(inner, table, &path, schema, problems),
            other => problems.push(Problem {
                kind: ProblemKind::Invalid {
                    expected: "a section".to_owned(),
                    example: format!("[{path}]"),
                    found: other.describe(),
                },
                key: path,
                origin: node.origin,
            }),
        }
    }
}

/// A layer of one value: `a.b` becomes `{a: {b: value}}`.
pub(super) fn single(path: &str, node: Node) -> Table {
    let (name, node) = match path.split_once('.') {
        Some((section, rest)) => {
            let origin = node.origin.clone();
            let value = Value::Table(single(rest, node));
            (section, Node { value, origin })
        }
        None => (path, node),
    };
    Table::from([(name.to_owned(), node)])
}
