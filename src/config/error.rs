//! What can be wrong with a configuration, and where it was said.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the built-in `config.toml`.
    Default,
    /// In a file, on a line counted from 1; 0 is the file as a whole.
    File(Arc<PathBuf>, usize),
    /// In a variable of the environment, by its name.
    Environment(String),
    /// By a flag of the command line, such as `--port`.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(path, line) => match line {
                0 => write!(formatter, "{}", path.display()),
                line => write!(formatter, "{}:{line}", path.display()),
            },
            Self::Environment(name) => formatter.write_str(name),
            Self::Flag(name) => formatter.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was said.
    pub origin: Origin,
    /// The key's full path, such as `server.port` or `endpoint[0].id`; empty where the trouble is not with one key.
    pub key: String,
    /// What is wrong with it and what would be right.
    pub kind: ProblemKind,
}

/// The kinds of things that can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProblemKind {
    /// The file can't be read. Holds the system's reason.
    #[error("can't be read: {0}")]
    Unreadable(String),
    /// The file, or a value in TOML's syntax, is not TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// Nobody knows this key. `nearest` is in the notation of the place where it was said.
    #[error("unknown {what}{}", suggestion(nearest.as_deref()))]
    Unknown {
        /// "key", "section" or "variable".
        what: &'static str,
        /// The nearest known one, if any is near.
        nearest: Option<String>,
    },
    /// A value of the wrong type, outside its range, or not of the right form.
    #[error("expected {expected}, such as {example}; found {found}")]
    Invalid {
        /// What the value should have been, with its range.
        expected: String,
        /// A value that is right.
        example: String,
        /// What was there.
        found: String,
    },
    /// A value that is right by itself and wrong beside the others.
    #[error("{0}")]
    Inconsistent(String),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"))
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(formatter, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        write!(formatter, "{}", self.kind)
    }
}

/// Everything that is wrong with a configuration, one problem a line. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", lines(problems))]
pub struct ConfigError {
    /// In the order of the layers: file, environment, flags; then what only the whole shows.
    pub problems: Vec<Problem>,
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}
