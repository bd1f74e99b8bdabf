//! The figures of a run.

use std::collections::BTreeMap;
use std::time::Instant;

use super::record::{Fault, Faults, Latencies, Record};
use super::schedule::{Pace, Schedule};

/// More cores busy than this, and the load generator, whose work is on one, may have been the limit.
const BUSY: f64 = 0.9;
/// A greater share of late requests than this says that the latencies are those of waiting for a connection.
const MANY_LATE: f64 = 0.01;

/// The figures of a run. Times are in seconds, latencies in milliseconds.
pub struct Summary {
    /// What was asked.
    pub url: String,
    /// How requests came about.
    pub pace: Pace,
    /// Connections, each with a request at a time.
    pub connections: u32,
    /// Before requests counted.
    pub warm_up: f64,
    /// The time that is measured, shorter than asked for if the run was interrupted.
    pub seconds: f64,
    /// Requests that count and succeeded.
    pub succeeded: u64,
    /// Requests that succeeded within the time that is measured; in an open loop not the same as those that count,
    /// which were due in it.
    pub answered: u64,
    /// Requests that count and failed.
    pub failed: u64,
    /// Failed requests by why; one without a count happened during the warm-up.
    pub faults: BTreeMap<Fault, Faults>,
    /// All requests, counting or not.
    pub all: u64,
    /// Bytes of the bodies of the requests that succeeded.
    pub bytes_sent: u64,
    /// Bytes of the bodies of their answers.
    pub bytes_received: u64,
    /// Of the requests that succeeded.
    pub latencies: Latencies,
    /// Open loop: how long after they were due requests were sent.
    pub delays: Latencies,
    /// Open loop: requests that were sent more than 1 ms after they were due.
    pub late: u64,
    /// Open loop: requests that were due and never sent.
    pub unsent: u64,
    /// Cores that this process kept busy.
    pub processor: Option<f64>,
    /// The course of the run, warm-up and last answers included.
    pub timeline: Vec<Moment>,
}

/// A second of the run.
pub struct Moment {
    /// Requests that ended in it and succeeded.
    pub succeeded: u64,
    /// Requests that ended in it and failed.
    pub failed: u64,
    /// The median latency of the former; 0 without any.
    pub p50: f64,
    /// The latency that 1 % of the former exceeded; 0 without any.
    pub p99: f64,
}

impl Summary {
    /// Of a run that ended, or was interrupted, at `now`.
    pub fn new(
        url: String,
        schedule: &Schedule,
        connections: u32,
        processor: Option<f64>,
        unsent: u64,
        now: Instant,
        record: &Record,
    ) -> Self {
        let until = schedule.end.min(now);
        let moments = record.seconds.iter().map(|second| Moment {
            succeeded: second.succeeded,
            failed: second.failed,
            p50: second.quantile(0.5),
            p99: second.quantile(0.99),
        });
        Self {
            url,
            pace: schedule.pace,
            connections,
            warm_up: schedule.begin.duration_since(schedule.start).as_secs_f64(),
            seconds: until.saturating_duration_since(schedule.begin).as_secs_f64(),
            succeeded: record.latencies.count(),
            answered: record.answered,
            failed: record.failed(),
            faults: record.faults.clone(),
            all: record.all,
            bytes_sent: record.bytes.0,
            bytes_received: record.bytes.1,
            latencies: record.latencies.clone(),
            delays: record.delays.clone(),
            late: record.late,
            unsent,
            processor,
            timeline: moments.collect(),
        }
    }

    /// Requests that count and were answered with success or not.
    pub fn requests(&self) -> u64 {
        self.succeeded + self.failed
    }

    /// Successful answers per second of the time that is measured.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.answered as f64 / self.seconds } else { 0.0 }
    }

    /// What to know before one believes the figures.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.unsent > 0 {
            warnings.push(format!(
                "{} requests were due and never sent: the server can't keep up with this rate, and the latencies are \
                 too low",
                self.unsent
            ));
        } else if self.late as f64 > MANY_LATE * self.requests() as f64 {
            warnings.push(
                "many requests were sent late because no connection was free, which is part of their latency; with \
                 more --connections they would wait in the server"
                    .to_owned(),
            );
        }
        if let Some(cores) = self.processor.filter(|cores| *cores > BUSY) {
            warnings.push(format!(
                "the load generator kept {cores:.2} cores busy and may have been the limit itself; it works on one"
            ));
        }
        warnings
    }

    /// Why no request succeeded, if none did.
    pub fn why_none(&self) -> String {
        let why = self.faults.iter().max_by_key(|(_, faults)| faults.count);
        let idle = if self.unsent > 0 { "the rate is too high" } else { "the time was too short for one" };
        let why = why.map_or(idle.to_owned(), |(fault, faults)| format!("{fault}: {}", faults.example.trim()));
        format!("no request to {} succeeded: {why}", self.url)
    }
}
