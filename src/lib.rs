//! Tessera: a self-hosted online inference server that speaks the Vertex AI prediction protocol.
//!
//! The modules in the order in which a request meets them; each knows only those below it:
//!
//! - [`cli`]: the commands and their arguments; above everything else
//! - [`config`]: settings from file, environment and flags; beside the path, read once at the start
//! - [`tensor`]: typed arrays, the common language of tasks, scheduler and engine
//! - [`engine`]: runs a batch of tensors through a model
#![warn(missing_docs)]

pub mod cli;
pub mod config;
pub mod engine;
pub mod tensor;
