//! Starting the log, and changing its level while the process runs.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use serde::Serialize;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, reload};

use super::lines::{Lines, Style};
use super::writer::process_log;

/// What log lines look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line, with the field names that Cloud Logging gives a meaning to.
    Json,
    /// For people; in colours on a terminal, unless `NO_COLOR` was set.
    Text,
}

impl LogFormat {
    /// All of them, by the names that the setting takes.
    pub const NAMES: [(&'static str, Self); 3] = [("auto", Self::Auto), ("json", Self::Json), ("text", Self::Text)];
}

/// Why the log cannot be as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Not a level.
    #[error("`{0}` is not a log level: error, warn, info, debug or trace, or by module as in `info,tessera=debug`")]
    Level(String),
    /// Something else logs in this process already.
    #[error("cannot start the log: {0}")]
    Start(#[from] TryInitError),
    /// The system gives no thread for it.
    #[error("cannot start the log's thread: {0}")]
    Thread(#[from] io::Error),
}

/// How to log.
#[derive(Debug, Clone, Default)]
pub struct LogSettings {
    /// What lines look like.
    pub format: LogFormat,
    /// A level, or levels by module as in `info,tessera=debug`.
    pub level: String,
    /// Whether colours are unwanted even on a terminal.
    pub no_color: bool,
    /// Attached to each JSON line under `logging.googleapis.com/labels`.
    pub labels: BTreeMap<String, String>,
    /// The Google Cloud project, which makes a trace's id the full name that Cloud Trace wants.
    pub project: Option<String>,
}

/// Changes the level while the process runs. Clones are one and the same.
#[derive(Clone, Debug)]
pub struct LogControl {
    handle: Arc<reload::Handle<EnvFilter, Registry>>,
}

impl LogControl {
    /// The level in force, as in `info,tessera=debug`.
    pub fn level(&self) -> String {
        self.handle.with_current(|filter| without_default(&filter.to_string())).unwrap_or_default()
    }

    /// Logs at `level` from now on.
    ///
    /// # Errors
    /// When it is not a level; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = parse_level(level)?;
        self.handle.reload(filter).map_err(|_| LogError::Level(level.to_owned()))
    }

    /// A control that is attached to nothing, and the filter that it would change; for tests.
    #[cfg(test)]
    pub(crate) fn detached(level: &str) -> (reload::Layer<EnvFilter, Registry>, Self) {
        let (layer, handle) = reload::Layer::new(parse_level(level).unwrap());
        (layer, Self { handle: Arc::new(handle) })
    }
}

/// Starts logging to stdout, where a container's platform takes lines for what they say (stderr it takes for errors).
/// Panics are logged too, as errors.
///
/// # Errors
/// When the level is not one or something logs already.
pub fn start_logging(settings: &LogSettings) -> Result<LogControl, LogError> {
    let terminal = io::stdout().is_terminal();
    let style = match settings.format {
        LogFormat::Auto if !terminal => json_style(settings),
        LogFormat::Json => json_style(settings),
        LogFormat::Auto | LogFormat::Text => Style::Text { color: terminal && !settings.no_color },
    };
    let (filter, handle) = reload::Layer::new(parse_level(&settings.level)?);
    tracing_subscriber::registry().with(filter).with(Lines::new(style, process_log()?)).try_init()?;
    log_panics();
    Ok(LogControl { handle: Arc::new(handle) })
}

fn json_style(settings: &LogSettings) -> Style {
    Style::Json { labels: settings.labels.clone(), project: settings.project.clone() }
}

/// ONNX Runtime tells at info what it does to each node of each graph: heard only by who asks for `ort=info`.
const QUIET_RUNTIME: &str = "ort=warn";

/// Directives whose every part is a known level, so that a misspelt `inof` is not taken for a module's name.
fn parse_level(text: &str) -> Result<EnvFilter, LogError> {
    let invalid = || LogError::Level(text.to_owned());
    let text = if text.trim().is_empty() { "info" } else { text.trim() };
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
        let known = ["off", "error", "warn", "info", "debug", "trace"];
        if !known.contains(&level.trim().to_ascii_lowercase().as_str()) {
            return Err(invalid());
        }
    }
    let text = if text.contains("ort=") { text.to_owned() } else { format!("{text},{QUIET_RUNTIME}") };
    EnvFilter::builder().parse(text).map_err(|_| invalid())
}

/// A filter's text without what was added to it.
fn without_default(filter: &str) -> String {
    filter.split(',').filter(|directive| *directive != QUIET_RUNTIME).collect::<Vec<_>>().join(",")
}

/// Panics of any thread go to the log, within the span in which they happen, instead of to stderr.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("a panic without a text");
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture(); // Empty unless RUST_BACKTRACE asks for it.
        let backtrace =
            (backtrace.status() == std::backtrace::BacktraceStatus::Captured).then(|| backtrace.to_string());
        tracing::error!(location, thread = thread.name(), backtrace, critical = true, "panic: {message}");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        for level in ["info", "DEBUG", "warn,tessera=debug", "", "off"] {
            assert!(parse_level(level).is_ok(), "{level}");
        }
        for level in ["inof", "info,tessera=loud", "tessera"] {
            let error = parse_level(level).unwrap_err().to_string();
            assert!(error.contains(level) && error.contains("debug"), "{error}");
        }
    }

    #[test]
    fn the_level_changes_at_run_time() {
        let (layer, control) = LogControl::detached("info");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert!(!tracing::enabled!(tracing::Level::DEBUG));
            control.set_level("debug").unwrap();
            assert!(tracing::enabled!(tracing::Level::DEBUG));
            assert_eq!(control.level(), "debug");
            assert!(control.set_level("loud").is_err());
            assert_eq!(control.level(), "debug");
        });
    }
}
