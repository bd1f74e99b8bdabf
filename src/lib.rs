//! Tessera: a self-hosted online inference server that speaks the Vertex AI prediction protocol.
//!
//! The modules in the order in which a request meets them; each knows only those below it:
//!
//! - [`tensor`]: typed arrays, the common language of tasks, scheduler and engine
//! - [`engine`]: runs a batch of tensors through a model
//! - [`admin`]: the admin port
//! - [`http`]: the HTTP transport
//! - [`observe`]: metrics and logs
//! - [`server`]: listeners, readiness, drain: the life of the process
#![warn(missing_docs)]

pub mod admin;
pub mod engine;
pub mod http;
pub mod observe;
pub mod server;
pub mod tensor;
