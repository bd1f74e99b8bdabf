//! Tessera: a self-hosted online inference server that speaks the Vertex AI prediction protocol.
//!
//! The modules, from the outside in. Each knows only those below it:
//!
//! - [`http`]: bytes to requests, outcomes to bytes
//! - [`grpc`]: the same for gRPC
//! - [`admin`]: the operator's port
//! - [`startup`]: from settings to endpoints
//! - [`management`]: endpoints and models that come and go at run time
//! - [`loader`]: from a folder to a model with its queue
//! - [`service`]: from a parsed request to predictions
//! - [`explain`]: what each feature of an instance contributes to its prediction
//! - [`auth`]: who asks, and what they may do
//! - [`endpoint`]: which deployed model answers
//! - [`repository`]: models on disk, found, understood, loaded
//! - [`artifact`]: model files, brought here from where they lie
//! - [`scheduler`]: the queue of a model: admission, deadlines, batches
//! - [`engine`]: runs a batch of tensors through a model
//! - [`task`]: what a model means: instances to tensors, tensors to predictions
//! - [`preprocess`]: pictures to tensors
//! - [`protocol`]: wire types and their rules
//! - [`tensor`]: typed arrays, the common language of tasks, scheduler and engine
//!
//! Beside the path: [`server`] (listeners, readiness, drain), [`cryptography`] (whose), [`observe`] (metrics,
//! logs), [`config`] (settings), [`cli`] (the commands).
#![warn(missing_docs)]

pub mod admin;
pub mod artifact;
pub mod auth;
pub mod cli;
pub mod config;
pub mod cryptography;
pub mod endpoint;
pub mod engine;
pub mod explain;
pub mod grpc;
pub mod http;
pub mod loader;
pub mod management;
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
