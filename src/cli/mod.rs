//! The command line: one file a command, and the arguments of all of them in [`args`].
//!
//! Exit codes: 0 for success, [`FAILURE`] when the command could not do what it was asked (a wrong configuration, a
//! model that can't be loaded, a picture that can't be read), and 2 for a command line that is itself wrong, which
//! `clap` gives.

pub mod args;
pub mod completions;
mod help;

pub use args::{Arguments, Command};

/// The exit code of a command that was understood and failed.
pub const FAILURE: u8 = 1;
