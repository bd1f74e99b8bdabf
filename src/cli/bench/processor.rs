//! The processor time of this process, which tells whether the load generator itself was the limit.

use std::time::Duration;

/// Clock ticks a second in `/proc`: 100 on every platform of Linux, whatever the kernel's own are.
const TICKS: u64 = 100;

/// The processor time that this process has used, if the system tells.
pub fn time() -> Option<Duration> {
    parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
}

/// How many cores were busy on average since [`time`] gave `before`, `elapsed` ago.
pub fn share_since(before: Option<Duration>, elapsed: Duration) -> Option<f64> {
    let used = time()?.saturating_sub(before?);
    Some(used.as_secs_f64() / elapsed.as_secs_f64())
}

/// User and system time from the text of `/proc/PID/stat`, fields 14 and 15 of proc_pid_stat(5). The second field is
/// the program's name in parentheses, which may contain anything.
fn parse(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_does_not_confuse() {
        let stat = "12 (a ) 1 2 b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 1 0 5";
        assert_eq!(parse(stat), Some(Duration::from_millis(1750)));
        assert_eq!(parse("nothing"), None);
    }
}
