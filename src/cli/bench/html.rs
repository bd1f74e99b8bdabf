//! The report as a page that needs nothing else.

use std::fmt::Write as _;

use super::chart::{Chart, Line};
use super::record::Latencies;
use super::report::{count, latency_rows, milliseconds, pace, rows};
use super::summary::{Moment, Summary};

const STYLE: &str = "\
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:800px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin:2rem 0 0}
table{border-collapse:collapse;margin:1rem 0}
th{text-align:left;font-weight:normal;opacity:.75;padding-right:2rem}td{text-align:right}
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:currentColor}
.grid{stroke:currentColor;opacity:.15}.shaded{fill:currentColor;opacity:.07}
polyline{fill:none;stroke-width:2;stroke-linejoin:round}
.legend{margin:0;font-size:.85rem}.legend span{font-weight:600;margin-left:.5rem}
.p50{stroke:#1a73e8;fill:#1a73e8}.p99{stroke:#e8710a;fill:#e8710a}.errors{stroke:#d93025;fill:#d93025}
polyline.p50,polyline.p99,polyline.errors{fill:none}
span.p50{color:#1a73e8}span.p99{color:#e8710a}span.errors{color:#d93025}
.warning{border-left:4px solid #e8710a;padding-left:1rem}
";

/// The whole page.
pub fn page(summary: &Summary) -> String {
    let url = escape(&summary.url);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>tessera bench {url}</title>\n\
         <style>\n{STYLE}</style></head><body>\n<h1>{url}</h1>\n<p>{}, {:.1} s after {} s of warm-up</p>\n",
        escape(&pace(summary)),
        summary.seconds,
        summary.warm_up
    );
    for warning in summary.warnings() {
        page += &format!("<p class=\"warning\">{}</p>\n", escape(&warning));
    }
    page += "<table>\n";
    let figures = rows(summary).into_iter().map(|(name, value)| (name.to_owned(), value));
    let latencies =
        latency_rows(&summary.latencies).into_iter().map(|(name, value)| (name.to_owned(), milliseconds(value)));
    let faults = summary.faults.iter().filter(|(_, faults)| faults.count > 0);
    let faults = faults.map(|(fault, faults)| (format!("error {fault}"), count(faults.count)));
    for (name, value) in figures.chain(faults).chain(latencies) {
        // Writing to a string does not fail.
        let _ = writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", escape(&name), escape(&value));
    }
    page += "</table>\n";
    for (heading, chart) in [
        ("Latency by percentile", by_percentile(&summary.latencies)),
        ("Requests over time", requests_over_time(summary)),
        ("Latency over time", latency_over_time(summary)),
    ] {
        let _ = writeln!(page, "<h2>{heading}</h2>\n{}\n{}", chart.legend(), chart.svg());
    }
    page + "</body></html>\n"
}

/// With nines at even distances: 0, 90, 99, 99.9 %, as far as there are requests to tell.
fn by_percentile(latencies: &Latencies) -> Chart {
    let nines = (latencies.count().max(10) as f64).log10();
    let points = (0..=200).map(|step| {
        let x = nines * f64::from(step) / 200.0;
        // The last point is the slowest request itself.
        let share = if step == 200 { 1.0 } else { 1.0 - 10_f64.powf(-x) };
        (x, latencies.quantile(share))
    });
    let ticks = (0..=nines as u32).map(|nines| {
        let digits = nines.saturating_sub(2) as usize;
        (f64::from(nines), format!("{:.digits$} %", 100.0 - 100.0 * 0.1_f64.powf(f64::from(nines))))
    });
    let lines = vec![Line { name: "latency", class: "p50", points: points.collect() }];
    Chart { y: "ms", x: "percentile", x_ticks: ticks.collect(), range: (0.0, nines), shaded: None, lines }
}

fn requests_over_time(summary: &Summary) -> Chart {
    let succeeded = over_time(summary, |moment| Some(moment.succeeded as f64));
    let failed = over_time(summary, |moment| Some(moment.failed as f64));
    let lines = vec![
        Line { name: "succeeded", class: "p50", points: succeeded },
        Line { name: "failed", class: "errors", points: failed },
    ];
    time_chart(summary, "requests/s", lines)
}

fn latency_over_time(summary: &Summary) -> Chart {
    let answered = |moment: &Moment, latency| (moment.succeeded > 0).then_some(latency);
    let lines = vec![
        Line { name: "p50", class: "p50", points: over_time(summary, |moment| answered(moment, moment.p50)) },
        Line { name: "p99", class: "p99", points: over_time(summary, |moment| answered(moment, moment.p99)) },
    ];
    time_chart(summary, "ms", lines)
}

/// A point in the middle of each second that is over; the part of a second at the end would look like a break-down.
fn over_time(summary: &Summary, value: impl Fn(&Moment) -> Option<f64>) -> Vec<(f64, f64)> {
    let whole = ((summary.warm_up + summary.seconds).floor() as usize).max(1);
    let moments = summary.timeline.iter().take(whole).enumerate();
    moments.filter_map(|(second, moment)| Some((second as f64 + 0.5, value(moment)?))).collect()
}

fn time_chart(summary: &Summary, y: &'static str, lines: Vec<Line>) -> Chart {
    let end = (summary.warm_up + summary.seconds).max(1.0);
    let step = [1, 2, 5, 10, 30, 60, 300, 600, 3600].into_iter().find(|step| end / f64::from(*step) <= 12.0);
    let step = step.unwrap_or(3600 * 6);
    let ticks = (0..=(end / f64::from(step)) as u32).map(|tick| tick * step);
    let x_ticks = ticks.map(|second| (f64::from(second), format!("{second} s"))).collect();
    let shaded = (summary.warm_up > 0.0).then_some((0.0, summary.warm_up.min(end)));
    Chart { y, x: "time, the warm-up shaded", x_ticks, range: (0.0, end), shaded, lines }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_not_markup() {
        assert_eq!(escape("a<b>&\"c\""), "a&lt;b&gt;&amp;&quot;c&quot;");
    }
}
