//! `tessera check`: would it start? Everything that is wrong is said at once.

use std::io::Write;

use super::args::CheckArgs;
use super::local;
use super::{Failure, NEXT, remark};
use crate::config::{self, Settings, Sources};
use crate::repository;
use crate::startup::Plan;

/// Reads the configuration, then loads and runs each model that would be served. Where the configuration is wrong in
/// parts, the models are checked all the same, by the built-in settings.
pub fn run(arguments: &CheckArgs, sources: Sources, out: &mut dyn Write) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let mut settings = match config::load(&sources) {
        Ok(settings) => settings,
        Err(error) => {
            problems.push(Failure::from(error).0);
            match config::load(&only_models(&sources)) {
                Ok(settings) => settings,
                Err(_) => return Err(Failure(problems.join(NEXT))),
            }
        }
    };
    for warning in &settings.warnings {
        remark(format_args!("warning: {warning}"));
    }
    if arguments.print_config && problems.is_empty() {
        write!(out, "{}", settings.to_toml())?;
        return Ok(());
    }
    if problems.is_empty() {
        let origin =
            settings.file.as_ref().map_or_else(|| "built-in settings".to_owned(), |file| file.display().to_string());
        writeln!(out, "configuration  ok  ({origin})")?;
    }
    let fetched = local::fetch_repository(&mut settings);
    match fetched.and_then(|()| Plan::new(&settings).map_err(Failure::new)) {
        Err(Failure(error)) => problems.push(error),
        Ok(plan) => {
            problems.extend(plan.problems.iter().map(ToString::to_string));
            check_models(&plan, &settings, out, &mut problems)?;
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure(problems.join(NEXT))) }
}

/// The flag that says where models lie, and nothing else that could be wrong.
fn only_models(sources: &Sources) -> Sources {
    let overrides = sources.overrides.iter().filter(|flag| flag.key == "repository.directory").cloned().collect();
    Sources { overrides, directory: "/nonexistent".into(), ..Sources::default() }
}

fn check_models(
    plan: &Plan,
    settings: &Settings,
    out: &mut dyn Write,
    problems: &mut Vec<String>,
) -> Result<(), Failure> {
    let mut options = local::options_alone(settings);
    options.warm_up = true;
    for folder in &plan.folders {
        let name = format!("model {} version {}", folder.name, folder.version);
        match repository::load(folder, &options) {
            Ok(model) => {
                writeln!(out, "{name}  ok  ({}, {:.2} s)", model.engine.provider(), model.load_time.as_secs_f64())?;
            }
            Err(error) => problems.push(format!("{name}: {error}")),
        }
    }
    Ok(())
}
