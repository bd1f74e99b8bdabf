//! The built binary over real sockets, with real models and real pictures.

mod cli;
mod bench;
mod container;
mod errors;
mod harness;
mod predict;
