//! How far a fetch is, for those who wait for it.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::ObjectUri;

/// How often a line is logged.
const LINES: Duration = Duration::from_secs(2);
/// How often the caller is told.
const TELLS: Duration = Duration::from_millis(500);

/// What a fetch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It asks the store what there is.
    Listing,
    /// Another process, or another fetch, brings the same artifact.
    Waiting,
    /// Bytes arrive.
    Downloading,
}

/// How far a fetch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it does.
    pub stage: Stage,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes in all; 0 as long as that isn't known.
    pub total: u64,
    /// Files in all; 0 as long as that isn't known.
    pub files: usize,
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Stage::Listing => formatter.write_str("asking the object store"),
            Stage::Waiting => formatter.write_str("waiting for another download of the same artifact"),
            Stage::Downloading => {
                let percent = (self.done * 100).checked_div(self.total).unwrap_or(100);
                let (done, total) = (Bytes(self.done), Bytes(self.total));
                let plural = if self.files == 1 { "" } else { "s" };
                write!(formatter, "downloading, {done} of {total} ({percent} %) in {} file{plural}", self.files)
            }
        }
    }
}

/// A number of bytes for people.
pub(super) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1024 => write!(formatter, "{} B", self.0),
            1024..0x10_0000 => write!(formatter, "{:.1} KiB", bytes / 1024.0),
            0x10_0000..0x4000_0000 => write!(formatter, "{:.1} MiB", bytes / 1_048_576.0),
            _ => write!(formatter, "{:.2} GiB", bytes / 1_073_741_824.0),
        }
    }
}

/// What those who do the work note.
#[derive(Debug, Default)]
pub(super) struct Meter {
    stage: AtomicU8,
    done: AtomicU64,
    total: AtomicU64,
    files: AtomicUsize,
}

impl Meter {
    pub fn stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Relaxed);
    }

    pub fn begin(&self, files: usize, total: u64) {
        self.files.store(files, Relaxed);
        self.total.store(total, Relaxed);
        self.stage(Stage::Downloading);
    }

    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }

    /// What was counted turned out to be of no use.
    pub fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Relaxed);
    }

    pub fn progress(&self) -> Progress {
        let stage = match self.stage.load(Relaxed) {
            0 => Stage::Listing,
            1 => Stage::Waiting,
            _ => Stage::Downloading,
        };
        let total = self.total.load(Relaxed);
        Progress { stage, done: self.done.load(Relaxed).min(total), total, files: self.files.load(Relaxed) }
    }

    /// Tells `progress` and the log until it is dropped.
    pub async fn report(&self, uri: &ObjectUri, progress: &(dyn Fn(Progress) + Send + Sync)) {
        let mut logged = Instant::now();
        loop {
            progress(self.progress());
            tokio::time::sleep(TELLS).await;
            if logged.elapsed() >= LINES {
                logged = Instant::now();
                let now = self.progress();
                tracing::info!(%uri, bytes = now.done, total = now.total, "{now}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_for_people() {
        let meter = Meter::default();
        assert_eq!(meter.progress().to_string(), "asking the object store");
        meter.begin(3, 300 << 20);
        meter.add(12 << 20);
        assert_eq!(meter.progress().to_string(), "downloading, 12.0 MiB of 300.0 MiB (4 %) in 3 files");
        meter.take_back(12 << 20);
        assert_eq!(meter.progress().done, 0);
        assert_eq!(Bytes(2047).to_string(), "2.0 KiB");
    }
}
