//! Tessera: a self-hosted online inference server that speaks the Vertex AI prediction protocol.
//!
//! The modules in the order in which a request meets them; each knows only those below it:
//!
//! - [`tensor`]: typed arrays, the common language of tasks, scheduler and engine
//! - [`engine`]: runs a batch of tensors through a model
//! - [`server`]: listeners, readiness, drain: the life of the process
#![warn(missing_docs)]

pub mod engine;
pub mod server;
pub mod tensor;
