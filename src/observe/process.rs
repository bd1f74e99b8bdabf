//! Memory, CPU time and file descriptors of this process, read from `/proc/self` (Linux; elsewhere absent). The names
//! are those of Prometheus' own client libraries.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Counter, Gauge, IntGauge, Registry};

/// Clock ticks a second in `/proc` (USER_HZ): 100 on every architecture that Linux serves here.
const TICKS_PER_SECOND: f64 = 100.0;

/// The gauges, brought up to date before they are shown.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    resident: IntGauge,
    resident_peak: IntGauge,
    virtual_size: IntGauge,
    threads: IntGauge,
    open_files: IntGauge,
    cpu: Counter,
}

impl ProcessMetrics {
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            if cfg!(target_os = "linux") {
                registry.register(Box::new(gauge.clone()))?;
            }
            Ok::<_, prometheus::Error>(gauge)
        };
        let cpu = Counter::new("process_cpu_seconds_total", "CPU time of the process, user and system")?;
        if cfg!(target_os = "linux") {
            registry.register(Box::new(cpu.clone()))?;
        }
        let start = Gauge::new("process_start_time_seconds", "When the process started, in Unix time")?;
        start.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        registry.register(Box::new(start))?;
        Ok(Self {
            resident: gauge("process_resident_memory_bytes", "Memory in RAM")?,
            resident_peak: gauge("process_resident_memory_peak_bytes", "The most memory that was in RAM")?,
            virtual_size: gauge("process_virtual_memory_bytes", "Address space")?,
            threads: gauge("process_threads", "Threads")?,
            open_files: gauge("process_open_fds", "Open file descriptors")?,
            cpu,
        })
    }

    /// Reads `/proc` again; what cannot be read keeps its value.
    pub fn refresh(&self) {
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            let field = |name: &str| status.lines().find_map(|line| number(line.strip_prefix(name)?));
            let bytes = |name: &str| field(name).map(|kibibytes| kibibytes * 1024);
            for (gauge, value) in [
                (&self.resident, bytes("VmRSS:")),
                (&self.resident_peak, bytes("VmHWM:")),
                (&self.virtual_size, bytes("VmSize:")),
                (&self.threads, field("Threads:")),
            ] {
                if let Some(value) = value {
                    gauge.set(value);
                }
            }
        }
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat)) {
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory that is being read.
            self.open_files.set(i64::try_from(entries.count().saturating_sub(1)).unwrap_or(i64::MAX));
        }
    }
}

/// The number at the start of a field, as in `   123 kB`.
fn number(field: &str) -> Option<i64> {
    field.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `/proc/self/stat` (proc(5)). The second field is the program's name in parentheses and may hold
/// spaces and parentheses itself, so that counting starts behind the last one.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 1 0 9 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (cut"), None);
    }
}
