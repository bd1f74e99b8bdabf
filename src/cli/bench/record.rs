//! What was seen: latencies as histograms of high dynamic range, and the course of the run second by second.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::schedule::Schedule;

/// A request sent this much after it was due was sent late; less is the clock and the operating system.
const LATE: Duration = Duration::from_millis(1);
/// Nothing takes longer: a day of schedule and a day of time-out. In nanoseconds.
const LONGEST: u64 = 200_000_000_000_000;
/// What is told apart at the fast end, in nanoseconds.
const SHORTEST: u64 = 100;

/// Latencies in nanoseconds, with three significant digits from 100 ns to two days.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    #[allow(clippy::expect_used, reason = "constant bounds, which a test makes")]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(SHORTEST, LONGEST, 3).expect("1 <= low, 2 * low <= high, 3 <= 5 digits"))
    }

    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// The latency that this share (0 to 1) of the requests did not exceed, in milliseconds; 0 without any.
    pub fn quantile(&self, share: f64) -> f64 {
        milliseconds(self.0.value_at_quantile(share) as f64)
    }

    /// The least, in milliseconds; 0 without any.
    pub fn min(&self) -> f64 {
        milliseconds(self.0.min() as f64)
    }

    /// The greatest, in milliseconds; 0 without any.
    pub fn max(&self) -> f64 {
        milliseconds(self.0.max() as f64)
    }

    /// The arithmetic mean in milliseconds; 0 without any.
    pub fn mean(&self) -> f64 {
        milliseconds(self.0.mean())
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

fn milliseconds(nanoseconds: f64) -> f64 {
    nanoseconds / 1e6
}

/// Why a request did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// An answer with another status than 2xx.
    Status(u16),
    /// No connection.
    Connect,
    /// The connection ended before the answer did, or what came was not HTTP.
    Broken,
    /// No answer in time.
    Timeout,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(formatter, "{status}"),
            Self::Connect => formatter.write_str("connect"),
            Self::Broken => formatter.write_str("broken"),
            Self::Timeout => formatter.write_str("timeout"),
        }
    }
}

/// How often a fault came, and what it said the first time.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Requests that count.
    pub count: u64,
    /// The beginning of the answer's body, or the error's text.
    pub example: String,
}

/// One request's end.
#[derive(Debug)]
pub struct Sample {
    /// When it was to be sent. In a closed loop, when it was sent.
    pub due: Instant,
    /// When it was sent.
    pub sent: Instant,
    /// When the last byte of the answer came.
    pub ended: Instant,
    /// Bytes of the request's body.
    pub body: u64,
    /// Bytes of the answer's body, or why there is none and what was said about it.
    pub outcome: Result<u64, (Fault, String)>,
}

/// One second of the run, by when requests ended. Seconds of the warm-up are among them.
#[derive(Debug)]
pub struct Second {
    /// Requests that succeeded.
    pub succeeded: u64,
    /// Requests that did not.
    pub failed: u64,
    /// Latencies of the former in nanoseconds, with two significant digits.
    latencies: Histogram<u32>,
}

impl Second {
    #[allow(clippy::expect_used, reason = "a constant, which a test makes")]
    fn new() -> Self {
        Self { succeeded: 0, failed: 0, latencies: Histogram::new(2).expect("2 <= 5 digits") }
    }

    /// As [`Latencies::quantile`].
    pub fn quantile(&self, share: f64) -> f64 {
        milliseconds(self.latencies.value_at_quantile(share) as f64)
    }
}

/// Everything that was seen of a run.
#[derive(Debug)]
pub struct Record {
    schedule: Schedule,
    /// Of successful requests that count.
    pub latencies: Latencies,
    /// How long after they were due requests that count were sent.
    pub delays: Latencies,
    /// How many of them were late.
    pub late: u64,
    /// Failed requests by why.
    pub faults: BTreeMap<Fault, Faults>,
    /// Bytes of bodies that were sent and received in requests that count and succeeded.
    pub bytes: (u64, u64),
    /// All requests that ended, counting or not.
    pub all: u64,
    /// Requests that succeeded within the time that is measured, whenever they were due.
    pub answered: u64,
    /// The course of the run.
    pub seconds: Vec<Second>,
}

impl Record {
    /// Of a run that has not begun.
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            latencies: Latencies::new(),
            delays: Latencies::new(),
            late: 0,
            faults: BTreeMap::new(),
            bytes: (0, 0),
            all: 0,
            answered: 0,
            seconds: Vec::new(),
        }
    }

    /// Adds a request that ended.
    pub fn add(&mut self, sample: Sample) {
        let latency = sample.ended.saturating_duration_since(sample.due);
        self.all += 1;
        self.add_to_second(&sample, latency);
        let is_within = (self.schedule.begin..self.schedule.end).contains(&sample.ended);
        self.answered += u64::from(is_within && sample.outcome.is_ok());
        let counts = self.schedule.counts(sample.due, sample.ended);
        if counts {
            let delay = sample.sent.saturating_duration_since(sample.due);
            self.delays.record(delay);
            self.late += u64::from(delay > LATE);
        }
        match sample.outcome {
            Ok(received) if counts => {
                self.latencies.record(latency);
                self.bytes.0 += sample.body;
                self.bytes.1 += received;
            }
            Ok(_) => {}
            // One that does not count is kept as well, with no count: it may explain why none does.
            Err((fault, example)) => {
                self.faults.entry(fault).or_insert(Faults { count: 0, example }).count += u64::from(counts);
            }
        }
    }

    fn add_to_second(&mut self, sample: &Sample, latency: Duration) {
        let index = sample.ended.saturating_duration_since(self.schedule.start).as_secs() as usize;
        while self.seconds.len() <= index {
            self.seconds.push(Second::new());
        }
        let second = &mut self.seconds[index];
        if sample.outcome.is_ok() {
            second.succeeded += 1;
            // The histogram grows by itself, so this can only fail for want of memory.
            let _ = second.latencies.record(u64::try_from(latency.as_nanos()).unwrap_or(LONGEST));
        } else {
            second.failed += 1;
        }
    }

    /// Failed requests that count.
    pub fn failed(&self) -> u64 {
        self.faults.values().map(|faults| faults.count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::schedule::{Pace, Spacing};

    fn near(value: f64, expected: f64) {
        assert!((value / expected - 1.0).abs() < 1e-3, "{value} instead of {expected}");
    }

    #[test]
    fn quantiles_have_three_digits() {
        let mut latencies = Latencies::new();
        for microseconds in 1..=10_000 {
            latencies.record(Duration::from_micros(microseconds));
        }
        for (share, expected) in [(0.5, 5.0), (0.9, 9.0), (0.99, 9.9), (0.999, 9.99), (1.0, 10.0)] {
            near(latencies.quantile(share), expected);
        }
        near(latencies.mean(), 5.0005);
        near(latencies.max(), 10.0);
        assert!(latencies.min() <= 0.001 && latencies.min() > 0.0008, "{}", latencies.min());
        assert_eq!(latencies.count(), 10_000);
    }

    #[test]
    fn the_longest_is_kept() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(2 * 86_400));
        near(latencies.max(), 2.0 * 86_400_000.0);
        assert_eq!(Latencies::new().max(), 0.0);
    }

    /// A server that answers in 1 ms, except that it stops for 1 s: whoever was to ask meanwhile had to wait, and half
    /// of 2 s of requests did.
    #[test]
    fn waiting_counts_from_when_a_request_was_due() {
        let zero = Duration::ZERO;
        let schedule = Schedule::new(
            Pace::Open { rate: 100.0, spacing: Spacing::Even },
            Instant::now(),
            zero,
            Duration::from_secs(2),
        );
        let mut record = Record::new(schedule.clone());
        let resumed = schedule.start + Duration::from_secs(1);
        for index in 0..schedule.total() {
            let due = schedule.due(index);
            let sent = due.max(resumed);
            let ended = sent + Duration::from_millis(1);
            record.add(Sample { due, sent, ended, body: 7, outcome: Ok(3) });
        }
        assert_eq!((record.latencies.count(), record.bytes), (200, (1400, 600)));
        assert_eq!((record.late, record.answered), (100, 200));
        near(record.latencies.quantile(0.25), 1.0);
        near(record.latencies.quantile(0.75), 501.0);
        near(record.latencies.max(), 1001.0);
        near(record.delays.max(), 1000.0);
        assert_eq!(record.seconds.iter().map(|second| second.succeeded).collect::<Vec<_>>(), [0, 200]);
    }

    #[test]
    fn failures_are_told_apart_and_have_no_latency() {
        let second = Duration::from_secs(1);
        let schedule = Schedule::new(Pace::Closed { think_time: Duration::ZERO }, Instant::now(), second, second);
        let mut record = Record::new(schedule.clone());
        let mut add = |milliseconds, outcome| {
            let ended = schedule.start + Duration::from_millis(milliseconds);
            record.add(Sample { due: ended, sent: ended, ended, body: 0, outcome });
        };
        add(500, Err((Fault::Connect, "first".to_owned())));
        add(1500, Err((Fault::Connect, "second".to_owned())));
        add(1500, Err((Fault::Status(503), String::new())));
        add(1600, Err((Fault::Status(503), String::new())));
        add(1700, Ok(1));
        add(2500, Ok(1));
        assert_eq!((record.all, record.answered, record.latencies.count(), record.failed()), (6, 1, 1, 3));
        let faults: Vec<_> = record.faults.iter().map(|(fault, faults)| (fault.to_string(), faults.count)).collect();
        assert_eq!(faults, [("503".to_owned(), 2), ("connect".to_owned(), 1)]);
        assert_eq!(record.faults[&Fault::Connect].example, "first");
    }
}
