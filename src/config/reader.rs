//! Values of a tree by type and range. What doesn't fit becomes a problem and reading goes on, so that one look
//! finds everything that is wrong.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{Origin, Problem, ProblemKind};
use super::layers::{Table, Value, join};
use super::{suggest, units};

/// What a value should have been: a description with the range, and an example.
#[derive(Debug)]
pub(super) struct Expected(pub(super) String, pub(super) String);

/// A value as its reader sees it: raw ones are read as TOML except by [`text`].
pub(super) type Parsed<T> = Result<T, Expected>;

/// Reads one table.
pub(super) struct Reader<'a> {
    table: &'a Table,
    prefix: String,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// `prefix` is the table's own path, empty for the whole document.
    pub(super) fn new(table: &'a Table, prefix: String, problems: &'a mut Vec<Problem>) -> Self {
        Self { table, prefix, problems }
    }

    /// The value of a key that may be absent.
    pub(super) fn optional<T>(&mut self, key: &str, parse: impl FnOnce(&Value) -> Parsed<T>) -> Option<T> {
        let node = self.table.get(key)?;
        match parse_node(&node.value, &node.origin, parse) {
            Ok(value) => Some(value),
            Err(kind) => {
                let key = join(&self.prefix, key);
                let origin = node.origin.clone();
                self.problems.push(Problem { origin, key, kind });
                None
            }
        }
    }

    /// The value of a key that has a default in the layer below all others.
    pub(super) fn read<T: Default>(&mut self, key: &str, parse: impl FnOnce(&Value) -> Parsed<T>) -> T {
        if !self.table.contains_key(key) {
            let kind = ProblemKind::Inconsistent("has neither a value nor a default".to_owned());
            let key = join(&self.prefix, key);
            let origin = Origin::Default;
            self.problems.push(Problem { origin, key, kind });
        }
        self.optional(key, parse).unwrap_or_default()
    }

    /// A section, which exists because the layer below all others has it.
    pub(super) fn section<T>(&mut self, key: &str, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let empty = Table::new();
        let table = match self.table.get(key).map(|node| &node.value) {
            Some(Value::Table(table)) => table,
            _ => &empty,
        };
        read(&mut Reader::new(table, join(&self.prefix, key), self.problems))
    }

    /// Refuses keys that are not among `known`. Only for tables that are not merged.
    pub(super) fn refuse_others(&mut self, known: &[&str]) {
        for (name, node) in self.table {
            if known.contains(&name.as_str()) {
                continue;
            }
            let nearest = suggest::nearest(name, known.iter().copied()).map(str::to_owned);
            self.problems.push(Problem {
                origin: node.origin.clone(),
                key: join(&self.prefix, name),
                kind: ProblemKind::Unknown { what: "key", nearest },
            });
        }
    }

    /// Adds a problem of a key, or of the whole table where `key` is empty, whose origin is then `origin`.
    pub(super) fn refuse(&mut self, key: &str, origin: &Origin, kind: ProblemKind) {
        let own = self.table.get(key).map(|node| &node.origin);
        let origin = own.unwrap_or(origin).clone();
        let key = match key {
            "" => self.prefix.clone(),
            key => join(&self.prefix, key),
        };
        self.problems.push(Problem { origin, key, kind });
    }
}

fn parse_node<T>(value: &Value, origin: &Origin, parse: impl FnOnce(&Value) -> Parsed<T>) -> Result<T, ProblemKind> {
    parse(value).map_err(|Expected(expected, example)| ProblemKind::Invalid {
        expected,
        example,
        found: value.interpreted(origin).describe(),
    })
}

fn expected<T>(what: impl Into<String>, example: impl Into<String>) -> Parsed<T> {
    Err(Expected(what.into(), example.into()))
}

/// The value with raw text read as TOML; where that came from plays no part in scalars.
fn interpreted(value: &Value) -> Value {
    value.interpreted(&Origin::Default).into_owned()
}

/// A string; raw text is taken as it stands unless it is quoted.
pub(super) fn text(value: &Value) -> Parsed<String> {
    let text = match value {
        Value::Raw(text) => match interpreted(value) {
            Value::String(unquoted) => unquoted,
            _ => text.clone(),
        },
        Value::String(text) => text.clone(),
        _ => return expected("a string", "\"text\""),
    };
    Ok(text)
}

/// A string that is not empty.
pub(super) fn name(value: &Value) -> Parsed<String> {
    match text(value)? {
        name if name.trim().is_empty() => expected("a string that is not empty", "\"name\""),
        name => Ok(name),
    }
}

/// A path; the empty one is none.
pub(super) fn optional_path(value: &Value) -> Parsed<Option<PathBuf>> {
    let Ok(path) = text(value) else {
        return expected("a path", "\"/opt/onnxruntime/lib/libonnxruntime.so\"");
    };
    Ok((!path.is_empty()).then(|| PathBuf::from(path)))
}

/// A list of strings.
pub(super) fn texts(value: &Value) -> Parsed<Vec<String>> {
    let list = || Expected("a list of strings".to_owned(), "[\"one\", \"two\"]".to_owned());
    let Value::Array(items) = interpreted(value) else {
        return Err(list());
    };
    let strings = items.into_iter().map(|item| match item.value {
        Value::String(text) => Ok(text),
        _ => Err(list()),
    });
    strings.collect()
}

/// A table of strings, by names that users give.
pub(super) fn text_by_name(value: &Value) -> Parsed<BTreeMap<String, String>> {
    let table = || Expected("a table of strings".to_owned(), "{ \"name\" = \"text\" }".to_owned());
    let Value::Table(entries) = interpreted(value) else {
        return Err(table());
    };
    let entries = entries.into_iter().map(|(name, node)| match node.value {
        Value::String(text) => Ok((name, text)),
        _ => Err(table()),
    });
    entries.collect()
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Parsed<bool> {
    match interpreted(value) {
        Value::Boolean(value) => Ok(value),
        _ => expected("true or false", "true"),
    }
}

/// An integer of the range.
pub(super) fn integer<T>(range: RangeInclusive<i64>, example: i64) -> impl FnOnce(&Value) -> Parsed<T>
where
    T: TryFrom<i64>,
{
    move |value| match interpreted(value) {
        Value::Integer(number) if range.contains(&number) => T::try_from(number)
            .or_else(|_| expected(format!("an integer that fits, not {number}"), example.to_string())),
        _ => expected(format!("an integer from {} to {}", range.start(), range.end()), example.to_string()),
    }
}

/// A duration of the range: a string with a unit, or a number of seconds.
pub(super) fn duration(range: RangeInclusive<Duration>, example: &str) -> impl FnOnce(&Value) -> Parsed<Duration> {
    move |value| {
        let duration = match interpreted(value) {
            Value::String(text) => units::parse_duration(&text),
            Value::Integer(seconds) => u64::try_from(seconds).ok().map(Duration::from_secs),
            Value::Float(seconds) => Duration::try_from_secs_f64(seconds).ok(),
            _ => None,
        };
        let (least, most) = (range.start(), range.end());
        let (least, most) = (units::format_duration(*least), units::format_duration(*most));
        match duration {
            Some(duration) if range.contains(&duration) => Ok(duration),
            _ => expected(format!("a duration from {least} to {most}"), format!("{example:?}")),
        }
    }
}

/// A size of the range in bytes: a string with a unit, or a number of bytes.
pub(super) fn size(range: RangeInclusive<u64>, example: &str) -> impl FnOnce(&Value) -> Parsed<usize> {
    move |value| {
        let size = match interpreted(value) {
            Value::String(text) => units::parse_size(&text),
            Value::Integer(bytes) => u64::try_from(bytes).ok(),
            _ => None,
        };
        let (least, most) = (units::format_size(*range.start()), units::format_size(*range.end()));
        match size.filter(|size| range.contains(size)).map(usize::try_from) {
            Some(Ok(size)) => Ok(size),
            _ => expected(format!("a size from {least} to {most}"), format!("{example:?}")),
        }
    }
}

/// One of some names.
pub(super) fn choice<T: Copy>(names: &[(&str, T)]) -> impl FnOnce(&Value) -> Parsed<T> {
    move |value| {
        let written = text(value).unwrap_or_default();
        if let Some((_, chosen)) = names.iter().find(|(name, _)| *name == written) {
            return Ok(*chosen);
        }
        let known = names.iter().map(|(name, _)| *name);
        let nearest = suggest::nearest(&written, known.clone()).or_else(|| known.clone().next());
        let quoted: Vec<String> = known.map(|name| format!("{name:?}")).collect();
        expected(format!("one of {}", quoted.join(", ")), format!("{:?}", nearest.unwrap_or_default()))
    }
}
