//! The figures for the terminal and as JSON.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::record::Latencies;
use super::schedule::{Pace, Spacing};
use super::summary::{Moment, Summary};

/// The percentiles by their names.
pub const PERCENTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

/// Prints the table.
pub fn print(summary: &Summary, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "{}\n{}, {:.1} s after {} s of warm-up\n",
        summary.url,
        pace(summary),
        summary.seconds,
        summary.warm_up
    )?;
    for (name, value) in rows(summary) {
        writeln!(out, "{name:<14}{value}")?;
    }
    for (fault, faults) in summary.faults.iter().filter(|(_, faults)| faults.count > 0) {
        writeln!(out, "  {:<12}{}  {}", fault.to_string(), count(faults.count), first_line(&faults.example))?;
    }
    if summary.succeeded > 0 {
        writeln!(out, "\n{:<14}latency", "")?;
        for (name, value) in latency_rows(&summary.latencies) {
            writeln!(out, "{name:<14}{:>10}", milliseconds(value))?;
        }
    }
    for warning in summary.warnings() {
        writeln!(out, "\nwarning: {warning}")?;
    }
    Ok(())
}

/// How the load was put on, in words.
pub fn pace(summary: &Summary) -> String {
    let connections = summary.connections;
    match summary.pace {
        Pace::Open { rate, spacing } => {
            let random = if spacing == Spacing::Random { " at random" } else { "" };
            format!("open loop, {rate} requests/s{random} over {connections} connections")
        }
        Pace::Closed { think_time } if think_time.is_zero() => format!("closed loop, {connections} connections"),
        Pace::Closed { think_time } => format!("closed loop, {connections} users who pause for {think_time:?}"),
    }
}

/// The figures other than latencies, by their names.
pub fn rows(summary: &Summary) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("requests", count(summary.requests())),
        ("errors", count(summary.failed)),
        ("requests/s", rate(summary.rate())),
        ("sent", bytes(summary.bytes_sent)),
        ("received", bytes(summary.bytes_received)),
    ];
    if let Pace::Open { .. } = summary.pace {
        rows.push(("late sends", format!("{} (longest {})", count(summary.late), milliseconds(summary.delays.max()))));
        rows.push(("never sent", count(summary.unsent)));
    }
    if let Some(cores) = summary.processor {
        rows.push(("own work", format!("{cores:.2} cores")));
    }
    rows
}

/// Latencies in milliseconds by their names.
pub fn latency_rows(latencies: &Latencies) -> Vec<(&'static str, f64)> {
    let percentiles = PERCENTILES.map(|(name, share)| (name, latencies.quantile(share)));
    percentiles.into_iter().chain([("max", latencies.max())]).collect()
}

/// The whole as one JSON object.
pub fn json(summary: &Summary) -> Value {
    let counted = summary.faults.iter().filter(|(_, faults)| faults.count > 0);
    let errors: Map<_, _> = counted.map(|(fault, faults)| (fault.to_string(), json!(faults.count))).collect();
    let (mode, rate, think_time) = match summary.pace {
        Pace::Open { rate, .. } => ("open", Some(rate), None),
        Pace::Closed { think_time } => ("closed", None, Some(think_time.as_secs_f64())),
    };
    let is_open = rate.is_some();
    json!({
        "url": summary.url,
        "mode": mode,
        "connections": summary.connections,
        "rate": rate,
        "random": matches!(summary.pace, Pace::Open { spacing: Spacing::Random, .. }),
        "think_time_seconds": think_time,
        "warm_up_seconds": summary.warm_up,
        "seconds": summary.seconds,
        "requests": summary.requests(),
        "succeeded": summary.succeeded,
        "failed": summary.failed,
        "errors": errors,
        "requests_with_warm_up": summary.all,
        "requests_per_second": summary.rate(),
        "bytes_sent": summary.bytes_sent,
        "bytes_received": summary.bytes_received,
        "latency_ms": json_of(&summary.latencies),
        "send_delay_ms": is_open.then(|| json_of(&summary.delays)),
        "late_sends": is_open.then_some(summary.late),
        "never_sent": is_open.then_some(summary.unsent),
        "own_cores": summary.processor,
        "warnings": summary.warnings(),
        "timeline": summary.timeline.iter().map(json_of_moment).collect::<Vec<_>>(),
    })
}

fn json_of(latencies: &Latencies) -> Value {
    let mut object: Map<_, _> =
        latency_rows(latencies).into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    object.insert("min".to_owned(), latencies.min().into());
    object.insert("mean".to_owned(), latencies.mean().into());
    Value::Object(object)
}

fn json_of_moment(moment: &Moment) -> Value {
    json!({"succeeded": moment.succeeded, "failed": moment.failed, "p50_ms": moment.p50, "p99_ms": moment.p99})
}

fn first_line(text: &str) -> String {
    let line: String = text.trim().chars().map(|it| if it.is_control() { ' ' } else { it }).take(100).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A count with its thousands apart.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds with three digits or so.
pub fn milliseconds(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.3} ms"),
        value if value < 100.0 => format!("{value:.2} ms"),
        value if value < 1000.0 => format!("{value:.1} ms"),
        value => format!("{} ms", count(value.round() as u64)),
    }
}

fn rate(value: f64) -> String {
    if value < 1000.0 { format!("{value:.2}") } else { count(value.round() as u64) }
}

fn bytes(bytes: u64) -> String {
    let unit = |power: i32| bytes as f64 / 1000_f64.powi(power);
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", unit(1)),
        1_000_000..1_000_000_000 => format!("{:.1} MB", unit(2)),
        _ => format!("{:.2} GB", unit(3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.12345, 12.3456, 123.456, 1234.5].map(milliseconds),
            ["0.123 ms", "12.35 ms", "123.5 ms", "1,235 ms"]
        );
        assert_eq!([12, 1_200, 3_400_000].map(bytes), ["12 B", "1.2 kB", "3.4 MB"]);
        assert_eq!(first_line("\n {\"error\":\n  \"x\"}\n"), "{\"error\": \"x\"}");
    }
}
