//! Tessera: a self-hosted online inference server that speaks the Vertex AI prediction protocol.
//!
//! The modules, from the outside in. Each knows only those below it:
//!
//! - [`cli`]: the commands and their arguments; above everything else
//! - [`config`]: settings from file, environment and flags; beside the path, read once at the start
//! - [`tensor`]: typed arrays, the common language of tasks, scheduler and engine
//! - [`engine`]: runs a batch of tensors through a model
//! - [`task`]: what a model means: instances to tensors, tensors to predictions
//! - [`preprocess`]: pictures to tensors
//! - [`protocol`]: wire types and their rules
//! - [`tensor`]: typed arrays, the common language of tasks, scheduler and engine
//!
//! Beside the path: [`server`] (listeners, readiness, drain), [`observe`] (metrics, logs), [`config`] (settings),
//! [`cli`] (the commands).
#![warn(missing_docs)]

pub mod cli;
pub mod config;
pub mod endpoint;
pub mod engine;
pub mod http;
pub mod observe;
pub mod preprocess;
pub mod protocol;
pub mod repository;
pub mod scheduler;
pub mod server;
pub mod service;
pub mod startup;
pub mod task;
pub mod tensor;
