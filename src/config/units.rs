//! Durations and sizes as people write them.

use std::time::Duration;

/// Units of time by their names, in nanoseconds.
const TIMES: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Units of size by their names, in bytes.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// Reads "250ms", "30s", "1.5m", "1h" or a bare number of seconds. `None`: it is none of these, is negative, or is
/// longer than 584 years.
pub fn parse_duration(text: &str) -> Option<Duration> {
    quantity(text, &TIMES, 1_000_000_000).map(Duration::from_nanos)
}

/// Reads "10MB", "32 MiB", "1.5GiB" or a bare number of bytes; letter case doesn't matter.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    quantity(text, &SIZES, 1)
}

/// Writes a duration so that [`parse_duration`] gives it back, in the unit that makes it shortest.
pub(super) fn format_duration(duration: Duration) -> String {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    format(nanoseconds, &TIMES)
}

/// Writes a size so that [`parse_size`] gives it back, in the unit that makes it shortest.
pub(super) fn format_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    format(bytes, &SIZES)
}

fn format(amount: u64, units: &[(&str, u64)]) -> String {
    let exact = units
        .iter()
        .filter(|(_, unit)| amount.is_multiple_of(*unit))
        .map(|(name, unit)| format!("{}{name}", amount / unit));
    exact.min_by_key(String::len).unwrap_or_else(|| amount.to_string())
}

/// A decimal number and a unit; without a unit the number counts `bare`.
fn quantity(text: &str, units: &[(&str, u64)], bare: u64) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|character: char| !matches!(character, '0'..='9' | '.' | '_')).unwrap_or(text.len());
    let (number, name) = (text[..end].replace('_', ""), text[end..].trim());
    let unit = if name.is_empty() {
        bare
    } else {
        let known = |(known, _): &&(&str, u64)| known.eq_ignore_ascii_case(name);
        units.iter().find(known)?.1
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if !fraction.chars().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    // Fifteen digits are exact in an f64 and finer than any unit here.
    let part = format!("0.{fraction}").parse::<f64>().ok()? * unit as f64;
    whole.checked_add(part.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("250ms", 250),
            ("0ms", 0),
            ("1.5m", 90_000),
            ("1h", 3_600_000),
            ("5", 5_000),
            (" 2 s ", 2_000),
            ("0.25", 250),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1.2.3s", "1e3s", ".5s", "99999999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("10MB", 10_000_000),
            ("32MiB", 32 << 20),
            ("32 mib", 32 << 20),
            ("1.5KiB", 1536),
            ("1kb", 1000),
            ("7", 7),
            ("1_000", 1000),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MB", "ten", "-1", "10 bananas", "99999999TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for nanoseconds in [0, 1, 1_500_000, 30_000_000_000, 90_000_000_000, 7_200_000_000_000] {
            let duration = Duration::from_nanos(nanoseconds);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
        for bytes in [0, 1, 1000, 1024, 10_000_000, 32 << 20, 123_456_789] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
        assert_eq!(format_duration(Duration::from_secs(90)), "90s");
        assert_eq!(format_size(32 << 20), "32MiB");
        assert_eq!(format_size(10_000_000), "10MB");
    }
}
