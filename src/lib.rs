//! Tessera: a self-hosted online inference server that speaks the Vertex AI prediction protocol.
//!
//! The modules in the order in which a request meets them; each knows only those below it:
//!
//! - [`tensor`]: typed arrays, the common language of tasks, scheduler and engine
//! - [`scheduler`]: the queue of one model: admission, deadlines, batches
//! - [`engine`]: runs a batch of tensors through a model
#![warn(missing_docs)]

pub mod engine;
pub mod scheduler;
pub mod tensor;
