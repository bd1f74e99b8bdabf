//! Events as lines: text for people, or JSON with the field names of Cloud Logging's structured logging
//! (<https://cloud.google.com/logging/docs/structured-logging>).
//!
//! A field whose name holds dots becomes an object within an object in JSON, so that `httpRequest.status` is what
//! Cloud Logging expects; in text those of `httpRequest` are left out, because the message says the same. The fields
//! of the spans around an event belong to it. Three names have a meaning of their own: `trace_id` and `span_id` (W3C)
//! become Cloud Logging's fields, `request_id` a label; `critical = true` raises an error's severity.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// What lines look like.
#[derive(Debug, Clone)]
pub(super) enum Style {
    Text { color: bool },
    Json { labels: BTreeMap<String, String>, project: Option<String> },
}

/// Writes each event as one line, in one piece.
pub(super) struct Lines<W> {
    style: Style,
    writer: W,
}

impl<W> Lines<W> {
    pub fn new(style: Style, writer: W) -> Self {
        Self { style, writer }
    }
}

/// Names and values in the order of their appearance; kept with each span.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if name.starts_with("log.") {
            return; // Bookkeeping of the bridge from the `log` crate.
        }
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(index).1)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::from(format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::from(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::from(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::from(value));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::from(value));
    }
}

impl<S, W> Layer<S> for Lines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = match fields.take("message") {
            Some(Value::String(message)) => message,
            _ => String::new(),
        };
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.0 {
                    if !fields.0.iter().any(|(known, _)| known == name) {
                        fields.0.push((name, value.clone()));
                    }
                }
            }
        }
        let metadata = event.metadata();
        let event = Line { level: *metadata.level(), target: metadata.target(), message, fields: &fields.0 };
        let mut line = Vec::with_capacity(CAPACITY);
        match &self.style {
            Style::Text { color } => event.write_text(&mut line, *color),
            Style::Json { labels, project } => event.write_json(&mut line, labels, project.as_deref()),
        }
        line.push(b'\n');
        // A log that cannot be written cannot be complained about either.
        let _ = self.writer.make_writer().write_all(&line);
    }
}

/// More than a request's line takes.
const CAPACITY: usize = 768;

/// An event with the fields of the spans around it.
struct Line<'a> {
    level: Level,
    target: &'a str,
    message: String,
    fields: &'a [(&'static str, Value)],
}

impl Line<'_> {
    fn write_text(&self, line: &mut Vec<u8>, color: bool) {
        let (name, paint) = match self.level {
            Level::ERROR => ("ERROR", "31"),
            Level::WARN => ("WARN ", "33"),
            Level::INFO => ("INFO ", "32"),
            Level::DEBUG => ("DEBUG", "34"),
            Level::TRACE => ("TRACE", "35"),
        };
        // Seconds are enough for people, who compare with their watch; durations are in the messages.
        let (time, message) = (Seconds(OffsetDateTime::now_utc()), Printable(&self.message));
        // Writing into memory doesn't fail.
        let _ = match color {
            true => write!(line, "\x1b[2m{time}Z\x1b[0m \x1b[{paint}m{name}\x1b[0m {message}"),
            false => write!(line, "{time}Z {name} {message}"),
        };
        for (name, value) in self.fields {
            if name.starts_with("httpRequest.") || matches!(*name, "trace_id" | "span_id" | CRITICAL) {
                continue;
            }
            let _ = match color {
                true => write!(line, " \x1b[2m{name}=\x1b[0m"),
                false => write!(line, " {name}="),
            };
            let _ = match value {
                Value::String(text) => write!(line, "{}", Printable(text)),
                other => write!(line, "{other}"),
            };
        }
    }

    fn write_json(&self, line: &mut Vec<u8>, labels: &BTreeMap<String, String>, project: Option<&str>) {
        // Writing into memory doesn't fail, and all keys are strings.
        let _ = serde_json::to_writer(line, &JsonLine { line: self, labels, project });
    }

    fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn severity(&self) -> &'static str {
        match self.level {
            Level::ERROR if self.field(CRITICAL) == Some(&Value::Bool(true)) => "CRITICAL",
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        }
    }
}

/// The field that raises an error's severity.
const CRITICAL: &str = "critical";

/// The keys that a line has without fields, and the fields that have a meaning of their own.
const SPECIAL: [&str; 8] = ["severity", "time", "message", "target", "trace_id", "span_id", "request_id", CRITICAL];

struct JsonLine<'a> {
    line: &'a Line<'a>,
    labels: &'a BTreeMap<String, String>,
    project: Option<&'a str>,
}

impl Serialize for JsonLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { line, labels, project } = self;
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("severity", line.severity())?;
        object.serialize_entry("time", &now())?;
        object.serialize_entry("message", &line.message)?;
        object.serialize_entry("target", line.target)?;
        match (line.field("trace_id"), project) {
            (Some(Value::String(trace)), Some(project)) => {
                object.serialize_entry(TRACE, &format_args!("projects/{project}/traces/{trace}"))?;
            }
            (Some(trace), _) => object.serialize_entry(TRACE, trace)?,
            (None, _) => {}
        }
        if let Some(span) = line.field("span_id") {
            object.serialize_entry("logging.googleapis.com/spanId", span)?;
        }
        let request = line.field("request_id");
        if request.is_some() || !labels.is_empty() {
            object.serialize_entry("logging.googleapis.com/labels", &Labels { labels, request })?;
        }
        for (index, (name, value)) in line.fields.iter().enumerate() {
            match name.split_once('.') {
                None if SPECIAL.contains(name) => {}
                None => object.serialize_entry(name, value)?,
                // The first of a group writes all of it.
                Some((outer, _)) if line.fields[..index].iter().any(|(name, _)| inner(name, outer).is_some()) => {}
                Some((outer, _)) => object.serialize_entry(outer, &Group { outer, fields: line.fields })?,
            }
        }
        object.end()
    }
}

const TRACE: &str = "logging.googleapis.com/trace";

struct Labels<'a> {
    labels: &'a BTreeMap<String, String>,
    request: Option<&'a Value>,
}

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in self.labels {
            if name != "request_id" || self.request.is_none() {
                object.serialize_entry(name, value)?;
            }
        }
        if let Some(request) = self.request {
            object.serialize_entry("request_id", request)?;
        }
        object.end()
    }
}

/// What follows `outer.` in a name that begins so.
fn inner<'a>(name: &'a str, outer: &str) -> Option<&'a str> {
    name.split_once('.').filter(|(first, _)| *first == outer).map(|(_, rest)| rest)
}

/// Those of the fields whose names begin with `outer.`.
struct Group<'a> {
    outer: &'a str,
    fields: &'a [(&'static str, Value)],
}

impl Serialize for Group<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        for (name, value) in self.fields {
            if let Some(inner) = inner(name, self.outer) {
                object.serialize_entry(inner, value)?;
            }
        }
        object.end()
    }
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

/// A time without fractions and zone: `2026-11-23T08:32:06`.
struct Seconds(OffsetDateTime);

impl fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (date, (hour, minute, second)) = (self.0.date(), self.0.to_hms());
        let (year, month, day) = date.to_calendar_date();
        write!(formatter, "{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}", u8::from(month))
    }
}

/// Text from clients must not forge lines or steer the terminal; line ends and tabs of our own are kept in sight.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((at, control)) = rest.char_indices().find(|(_, char)| char.is_control()) {
            write!(formatter, "{}{}", &rest[..at], control.escape_default())?;
            rest = &rest[at + control.len_utf8()..];
        }
        formatter.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(style: Style, log: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = tracing_subscriber::registry().with(Lines::new(style, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, log);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn a_request() {
        let span = tracing::info_span!(
            "request",
            request_id = "r-1",
            trace_id = "0af7651916cd43dd8448eb211c80319c",
            span_id = "b7ad6b7169203331",
            endpoint = tracing::field::Empty
        );
        let _entered = span.enter();
        span.record("endpoint", "imagenet");
        tracing::warn!(httpRequest.status = 503, httpRequest.latency = "0.002s", items = 3, "queue \"full\"\n2");
    }

    #[test]
    fn json_has_cloud_loggings_names() {
        let labels = BTreeMap::from([("endpoint_id".to_owned(), "42".to_owned())]);
        let line = logged(Style::Json { labels, project: Some("p".to_owned()) }, a_request);
        assert_eq!(line.matches('\n').count(), 1);
        let mut object: Value = serde_json::from_str(&line).unwrap();
        let time = object.as_object_mut().unwrap().remove("time").unwrap();
        let time = time.as_str().unwrap();
        assert!(time.len() >= 20 && time.as_bytes()[10] == b'T' && time.ends_with('Z'), "{time}");
        assert_eq!(
            object,
            serde_json::json!({
                "severity": "WARNING",
                "message": "queue \"full\"\n2",
                "target": module_path!(),
                "logging.googleapis.com/trace": "projects/p/traces/0af7651916cd43dd8448eb211c80319c",
                "logging.googleapis.com/spanId": "b7ad6b7169203331",
                "logging.googleapis.com/labels": {"endpoint_id": "42", "request_id": "r-1"},
                "httpRequest": {"status": 503, "latency": "0.002s"},
                "items": 3,
                "endpoint": "imagenet",
            })
        );
    }

    #[test]
    fn severities() {
        let style = Style::Json { labels: BTreeMap::new(), project: None };
        let lines = logged(style, || {
            tracing::error!(critical = true, "a");
            tracing::error!("b");
            tracing::info!("c");
            tracing::debug!("d");
        });
        let found: Vec<String> = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["severity"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, ["CRITICAL", "ERROR", "INFO", "DEBUG"]);
    }

    #[test]
    fn text_is_one_readable_line() {
        let line = logged(Style::Text { color: false }, a_request);
        assert_eq!(&line[20..], " WARN  queue \"full\"\\n2 items=3 request_id=r-1 endpoint=imagenet\n");
        assert!(logged(Style::Text { color: true }, a_request).contains("\x1b[33mWARN "));
    }

    #[test]
    fn clients_cannot_steer_the_terminal() {
        let line = logged(Style::Text { color: false }, || tracing::info!(agent = "a\n2026 INFO forged\x1b[2J", "x"));
        assert_eq!(line.lines().count(), 1);
        assert!(!line.contains('\x1b'));
    }
}
