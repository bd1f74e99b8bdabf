//! `tessera bench`: puts a load on a server and says how it answered.
//!
//! From the inside out: [`target`] (the requests), [`schedule`] (when they are sent and which count), [`connection`]
//! (one at a time) with the [`answer`]s that it reads, [`record`] (what was seen), [`load`] (all connections together), [`summary`] (the figures), and
//! what people and programs get of them: [`progress`], [`report`], [`html`] with its [`chart`]s.

mod answer;
mod chart;
mod connection;
mod html;
mod load;
mod processor;
mod progress;
mod record;
mod report;
mod schedule;
mod summary;
mod target;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::load::Load;
use self::schedule::{Pace, Schedule, Spacing};
use self::summary::Summary;
use self::target::Target;
use super::Failure;
use super::args::{BenchArgs, Profile};

/// As many as keep a small server busy.
const CONNECTIONS: u32 = 8;
/// Enough that requests at a rate which the server can take do not wait for a connection.
const CONNECTIONS_OPEN: u32 = 64;
/// How long users pause who were not told otherwise.
const THINK_TIME: Duration = Duration::from_secs(1);

/// Runs the load, shows its progress on a terminal, and prints what was measured.
pub fn run(arguments: &BenchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let target = Target::new(arguments)?;
    let (pace, connections) = pace(arguments);
    let url = target.url.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cpu = processor::time();
    let schedule = Schedule::new(pace, Instant::now(), arguments.warm_up, arguments.duration);
    let load = Arc::new(Load::new(schedule.clone(), target, connections as usize, arguments.timeout));
    runtime.block_on(async {
        let shown = tokio::spawn(progress::show(load.clone(), schedule.clone()));
        tokio::select! {
            () = load.run() => {}
            _ = tokio::signal::ctrl_c() => load.stop(),
        }
        shown.abort();
        let _ = shown.await;
    });
    progress::clear();
    let now = Instant::now();
    let processor = processor::share_since(cpu, now.duration_since(schedule.start));
    let summary = Summary::new(url, &schedule, connections, processor, load.unsent(now), now, &load.record());
    if arguments.json {
        writeln!(out, "{}", report::json(&summary))?;
    } else {
        report::print(&summary, out)?;
    }
    if let Some(path) = &arguments.html {
        let failed = |error| Failure(format!("{}: {error}", path.display()));
        std::fs::write(path, html::page(&summary)).map_err(failed)?;
    }
    match summary.succeeded + summary.answered {
        0 => Err(Failure(summary.why_none())),
        _ => Ok(()),
    }
}

fn pace(arguments: &BenchArgs) -> (Pace, u32) {
    let users = |count, think_time| (Pace::Closed { think_time }, count);
    let spacing = if arguments.random { Spacing::Random } else { Spacing::Even };
    match (arguments.profile, arguments.users, arguments.rate) {
        (Some(Profile::VitBlog), _, _) => users(100, Duration::from_secs(1)),
        (None, Some(count), _) => users(count, arguments.think_time.unwrap_or(THINK_TIME)),
        (None, None, Some(rate)) => (Pace::Open { rate, spacing }, arguments.connections.unwrap_or(CONNECTIONS_OPEN)),
        (None, None, None) => users(arguments.connections.unwrap_or(CONNECTIONS), Duration::ZERO),
    }
}
