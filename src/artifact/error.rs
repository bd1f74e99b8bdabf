//! Why an artifact can't be had.

use std::path::PathBuf;

use thiserror::Error;

/// Why an artifact can't be had. Each text names the URI, or the setting, and what to do; none holds a secret.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// It can't be a URI of an artifact.
    #[error("{uri:?} can't be used as an artifact's URI: {reason}")]
    Uri {
        /// As it was written.
        uri: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The folder can't be used.
    #[error("{uri}: {} {reason}", directory.display())]
    Folder {
        /// What was asked for.
        uri: String,
        /// The folder that it means.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing lies at this URI.
    #[error("{uri}: {reason}")]
    NotFound {
        /// What was asked for.
        uri: String,
        /// What isn't there.
        reason: String,
    },
    /// The store doesn't let us read it.
    #[error("{uri}: {reason}")]
    Denied {
        /// What was asked for.
        uri: String,
        /// What is missing.
        reason: String,
    },
    /// What lies there can't be an artifact.
    #[error("{uri}: {reason}")]
    Refused {
        /// What was asked for.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is larger than what may be kept.
    #[error("{uri}: {reason}")]
    TooLarge {
        /// What was asked for.
        uri: String,
        /// Its size and the limit.
        reason: String,
    },
    /// The store could not be asked, or not for long enough.
    #[error("{uri}: {reason}")]
    Unavailable {
        /// What was asked for.
        uri: String,
        /// What happened.
        reason: String,
    },
    /// What arrived is not what the store says that it has, again and again.
    #[error("{uri}: {reason}")]
    Corrupt {
        /// What was asked for.
        uri: String,
        /// Which object.
        reason: String,
    },
    /// A variable of the environment that names the store or its credentials can't be used.
    #[error("{variable} {reason}")]
    Setting {
        /// Its name.
        variable: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The client that speaks to stores can't be made.
    #[error("the client for object stores can't be set up: {reason}")]
    Client {
        /// What it says.
        reason: String,
    },
    /// The disk can't be used.
    #[error("{}: {reason} (downloads go to artifacts.directory)", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}
