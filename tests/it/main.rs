//! The built binary over real sockets, with real models and real pictures.

mod bench;
mod cli;
mod container;
mod errors;
mod grpc;
mod harness;
mod models;
mod open_inference;
mod predict;
mod raw;
mod tensors;
