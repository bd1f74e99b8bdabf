//! The built binary over real sockets, with real models and real pictures.

mod bench;
mod cli;
mod consistency;
mod container;
mod descriptors;
mod direct;
mod errors;
mod explain;
mod grpc;
mod harness;
mod invoke;
mod management;
mod models;
mod object_store;
mod open_inference;
mod openapi;
mod predict;
mod raw;
mod refusals;
mod tensors;
