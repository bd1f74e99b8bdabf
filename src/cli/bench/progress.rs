//! One line on a terminal, renewed each second.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::load::Load;
use super::report::{count, milliseconds};
use super::schedule::Schedule;

/// To the beginning of the line, and nothing after it.
const CLEAR: &str = "\r\x1b[K";

/// Shows what the last full second was like, each second, for as long as it is polled.
pub async fn show(load: Arc<Load>, schedule: Schedule) {
    if !io::stderr().is_terminal() {
        return;
    }
    for second in 0.. {
        let next = schedule.start + Duration::from_secs(second + 1);
        tokio::time::sleep_until(next.into()).await;
        // A terminal that is gone is no reason to stop.
        let _ = write!(io::stderr(), "{CLEAR}{}", line(&load, &schedule, second as usize));
    }
}

/// Takes the line away.
pub fn clear() {
    if io::stderr().is_terminal() {
        let _ = write!(io::stderr(), "{CLEAR}");
    }
}

fn line(load: &Load, schedule: &Schedule, index: usize) -> String {
    let whole = schedule.end.duration_since(schedule.start).as_secs_f64();
    let now = schedule.start + Duration::from_secs(index as u64 + 1);
    let phase = match now {
        now if now <= schedule.begin => "  warm-up",
        now if now > schedule.end => "  waiting for the last answers",
        _ => "",
    };
    let elapsed = now.min(Instant::now()).duration_since(schedule.start).as_secs_f64();
    let record = load.record();
    let (succeeded, p50, p99) =
        record.seconds.get(index).map_or((0, 0.0, 0.0), |it| (it.succeeded, it.quantile(0.5), it.quantile(0.99)));
    let failed: u64 = record.seconds.iter().map(|second| second.failed).sum();
    format!(
        "{elapsed:.0}/{whole:.0} s  {} requests/s  p50 {}  p99 {}  {} errors{phase}",
        count(succeeded),
        milliseconds(p50),
        milliseconds(p99),
        count(failed),
    )
}
