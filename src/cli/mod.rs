//! The command line: one file a command, and the arguments of all of them in [`args`].
//!
//! Exit codes: 0 for success, [`FAILURE`] when the command could not do what it was asked (a wrong configuration, a
//! model that can't be loaded, a picture that can't be read), and 2 for a command line that is itself wrong, which
//! `clap` gives.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::Parser;

use crate::config::{self, ConfigError, Environment, Settings, Sources};

pub mod args;
mod bench;
mod check;
pub mod completions;
mod help;
mod local;
mod measure;
mod models;
mod npy;
mod predict;
mod preprocess;
mod serve;
mod table;

pub use args::{Arguments, Command};

/// The exit code of a command that was understood and failed.
pub const FAILURE: u8 = 1;

/// Does what the process's arguments say, and gives the exit code.
pub fn run() -> u8 {
    let environment = Environment::of_process();
    let mut out = io::stdout().lock();
    let result = match Arguments::parse().command {
        Command::Serve(arguments) => {
            drop(out);
            return serve(arguments.sources(environment));
        }
        Command::Predict(arguments) => with_settings(arguments.config.sources(environment), |settings| {
            predict::run(&arguments, settings, &mut out)
        }),
        Command::Preprocess(arguments) => {
            with_settings(arguments.config.sources(environment), |settings| preprocess::run(&arguments, settings))
        }
        Command::Check(arguments) => check::run(&arguments, arguments.config.sources(environment), &mut out),
        Command::Models(arguments) => {
            with_settings(arguments.config.sources(environment), |settings| models::run(&arguments, settings, &mut out))
        }
        Command::Measure(arguments) => with_settings(arguments.config.sources(environment), |settings| {
            measure::run(&arguments, settings, &mut out)
        }),
        Command::Bench(arguments) => bench::run(&arguments, &mut out),
        Command::Completions(arguments) => completions::run(&arguments, &mut out).map_err(Failure::new),
    };
    match result {
        Ok(()) => 0,
        Err(Failure(text)) => fail(text),
    }
}

/// Says something beside the output, if somebody listens: `eprintln!` would panic where nobody does.
fn remark(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Why a command could not do what it was asked, for the person who typed it.
#[derive(Debug)]
struct Failure(String);

impl Failure {
    fn new(error: impl Display) -> Self {
        Self(error.to_string())
    }
}

/// Between two failures, the first of which [`fail`] announces.
const NEXT: &str = "\nerror: ";

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self(error.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join(NEXT))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(error)
    }
}

fn fail(text: impl Display) -> u8 {
    remark(format_args!("error: {text}"));
    FAILURE
}

fn with_settings(sources: Sources, command: impl FnOnce(&Settings) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut settings = config::load(&sources)?;
    local::fetch_repository(&mut settings)?;
    command(&settings)
}

fn serve(sources: Sources) -> u8 {
    let no_color = sources.environment.get("NO_COLOR").is_some();
    match config::load(&sources) {
        Err(error) => fail(Failure::from(error).0),
        // Its own failures are in the log, which is open by then; a terminal shows them well enough.
        Ok(settings) => match serve::run(settings, no_color) {
            Ok(()) => 0,
            Err(serve::ServeError::Log(error)) => fail(error),
            Err(_) => FAILURE,
        },
    }
}

/// Whether somebody is looking at what is printed.
fn is_for_people() -> bool {
    io::stdout().is_terminal()
}
