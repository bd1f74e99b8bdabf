//! Events as lines: text for people, or JSON with the field names of Cloud Logging's structured logging
//! (<https://cloud.google.com/logging/docs/structured-logging>).
//!
//! A field whose name holds dots becomes an object within an object in JSON, so that `httpRequest.status` is what
//! Cloud Logging expects; in text those of `httpRequest` are left out, because the message says the same. The fields
//! of the spans around an event belong to it. Three names have a meaning of their own: `trace_id` and `span_id` (W3C)
//! become Cloud Logging's fields, `request_id` a label; `critical = true` raises an error's severity.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write;

use serde_json::{Map, Value};
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
        let mut line = match &self.style {
            Style::Text { color } => text(metadata.level(), message, fields, *color),
            Style::Json { labels, project } => {
                json(metadata.level(), metadata.target(), message, fields, labels, project.as_deref())
            }
        };
        line.push('\n');
        // A log that cannot be written cannot be complained about either.
        let _ = self.writer.make_writer().write_all(line.as_bytes());
    }
}

fn now() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

fn text(level: &Level, message: String, mut fields: Fields, color: bool) -> String {
    fields.take("critical");
    let (name, paint) = match *level {
        Level::ERROR => ("ERROR", "31"),
        Level::WARN => ("WARN ", "33"),
        Level::INFO => ("INFO ", "32"),
        Level::DEBUG => ("DEBUG", "34"),
        Level::TRACE => ("TRACE", "35"),
    };
    // Seconds are enough for people, who compare with their watch; durations are in the messages.
    let time = now().chars().take(19).collect::<String>();
    let mut line = match color {
        true => format!("\x1b[2m{time}Z\x1b[0m \x1b[{paint}m{name}\x1b[0m {}", printable(&message)),
        false => format!("{time}Z {name} {}", printable(&message)),
    };
    for (name, value) in &fields.0 {
        if name.starts_with("httpRequest.") || matches!(*name, "trace_id" | "span_id") {
            continue;
        }
        let value = match value {
            Value::String(text) => printable(text),
            other => other.to_string(),
        };
        let _ = match color {
            true => write!(line, " \x1b[2m{name}=\x1b[0m{value}"),
            false => write!(line, " {name}={value}"),
        };
    }
    line
}

/// Text from clients must not forge lines or steer the terminal; line ends and tabs of our own are kept in sight.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

fn json(
    level: &Level,
    target: &str,
    message: String,
    mut fields: Fields,
    labels: &BTreeMap<String, String>,
    project: Option<&str>,
) -> String {
    let critical = fields.take("critical") == Some(Value::Bool(true));
    let severity = match *level {
        Level::ERROR if critical => "CRITICAL",
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    };
    let mut object = Map::new();
    object.insert("severity".into(), severity.into());
    object.insert("time".into(), now().into());
    object.insert("message".into(), message.into());
    object.insert("target".into(), target.into());
    if let Some(Value::String(trace)) = fields.take("trace_id") {
        let trace = project.map_or(trace.clone(), |project| format!("projects/{project}/traces/{trace}"));
        object.insert("logging.googleapis.com/trace".into(), trace.into());
    }
    if let Some(span) = fields.take("span_id") {
        object.insert("logging.googleapis.com/spanId".into(), span);
    }
    let mut all: Map<String, Value> =
        labels.iter().map(|(name, value)| (name.clone(), Value::from(value.clone()))).collect();
    if let Some(id) = fields.take("request_id") {
        all.insert("request_id".into(), id);
    }
    if !all.is_empty() {
        object.insert("logging.googleapis.com/labels".into(), all.into());
    }
    for (name, value) in fields.0 {
        match name.split_once('.') {
            Some((outer, inner)) => {
                let group = object.entry(outer).or_insert_with(|| Map::new().into());
                if let Value::Object(group) = group {
                    group.insert(inner.to_owned(), value);
                }
            }
            None => {
                object.insert(name.to_owned(), value);
            }
        }
    }
    Value::Object(object).to_string()
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
