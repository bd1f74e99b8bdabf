//! `tessera check`: would it start? Everything that is wrong is said at once.

use std::io::Write;

use super::Failure;
use super::args::CheckArgs;
use super::local;
use crate::config::{self, Sources};
use crate::repository;
use crate::startup::Plan;

/// Reads the configuration, then loads and runs each model that would be served.
pub fn run(arguments: &CheckArgs, sources: Sources, out: &mut dyn Write) -> Result<(), Failure> {
    let settings = config::load(&sources).map_err(Failure::new)?;
    if arguments.print_config {
        write!(out, "{}", settings.to_toml())?;
        return Ok(());
    }
    let origin =
        settings.file.as_ref().map_or_else(|| "built-in settings".to_owned(), |file| file.display().to_string());
    writeln!(out, "configuration  ok  ({origin})")?;
    let plan = Plan::new(&settings).map_err(Failure::new)?;
    let mut options = local::options_alone(&settings);
    options.warm_up = true;
    let mut problems = Vec::new();
    for folder in &plan.folders {
        let name = format!("model {} version {}", folder.name, folder.version);
        match repository::load(folder, &options) {
            Ok(model) => {
                writeln!(out, "{name}  ok  ({}, {:.2} s)", model.engine.provider(), model.load_time.as_secs_f64())?
            }
            Err(error) => problems.push(format!("{name}: {error}")),
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure(problems.join("\nerror: ")))
}
