//! How fast the engine is, learned from the batches that it has run, and the waiting that follows from it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The weight of the newest batch is one part in this many. A first slow batch (a cold cache) is down to a tenth of
/// its share after 18 more, and one slow batch among many moves the estimate by an eighth only.
const SMOOTHING: u64 = 8;

/// Exponentially weighted means of the engine's times. One writer, the dispatcher; read by whoever asks for admission.
#[derive(Debug)]
pub(super) struct Pace {
    concurrency: u32,
    /// Nanoseconds of one batch divided by its items. 0 until a batch was seen.
    per_item: AtomicU64,
    /// Nanoseconds of one batch. 0 until a batch was seen.
    per_batch: AtomicU64,
}

impl Pace {
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            concurrency: u32::try_from(concurrency.max(1)).unwrap_or(u32::MAX),
            per_item: AtomicU64::new(0),
            per_batch: AtomicU64::new(0),
        }
    }

    /// Learns from a batch of `size` items that took `elapsed`.
    pub(super) fn learn(&self, size: usize, elapsed: Duration) {
        let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).max(1);
        blend(&self.per_batch, elapsed);
        blend(&self.per_item, (elapsed / (size.max(1) as u64)).max(1));
    }

    /// How long the engine takes for a batch.
    pub(super) fn batch(&self) -> Duration {
        Duration::from_nanos(self.per_batch.load(Ordering::Relaxed))
    }

    /// How long the last of `items` new items waits until the engine begins with it, behind `ahead` others that are
    /// queued or running.
    ///
    /// `concurrency` batches are computed at once, each at the pace of one item in `per_item`, so a backlog of n
    /// items is worked off in n * per_item / concurrency; nobody waits while the engine has room. Items that run are
    /// counted as if they had just begun, and bigger batches than those seen so far (which cost less for each item)
    /// are not hoped for: both err to the side of caution, and the second mends itself when the queue grows.
    pub(super) fn wait(&self, ahead: usize, items: usize) -> Duration {
        let backlog = ahead.saturating_add(items).saturating_sub(self.concurrency as usize);
        let nanos = u128::from(self.per_item.load(Ordering::Relaxed)) * backlog as u128 / u128::from(self.concurrency);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn blend(mean: &AtomicU64, sample: u64) {
    let old = mean.load(Ordering::Relaxed);
    let new = match old {
        0 => sample,
        _ => old - old / SMOOTHING + sample / SMOOTHING,
    };
    mean.store(new.max(1), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn nothing_is_expected_before_anything_was_seen() {
        let pace = Pace::new(1);
        assert_eq!(pace.wait(1000, 1), Duration::ZERO);
        assert_eq!(pace.batch(), Duration::ZERO);
    }

    #[test]
    fn a_backlog_is_shared_by_all_workers() {
        let pace = Pace::new(4);
        pace.learn(1, 8 * MS);
        assert_eq!(pace.wait(0, 4), Duration::ZERO, "room for everyone");
        assert_eq!(pace.wait(4, 1), 2 * MS);
        assert_eq!(pace.wait(20, 4), 40 * MS);
    }

    #[test]
    fn a_batch_counts_for_all_its_items() {
        let pace = Pace::new(1);
        pace.learn(8, 16 * MS);
        assert_eq!(pace.batch(), 16 * MS);
        assert_eq!(pace.wait(8, 1), 16 * MS);
    }

    #[test]
    fn it_follows_the_engine() {
        let pace = Pace::new(1);
        pace.learn(1, 2000 * MS);
        for _ in 0..18 {
            pace.learn(1, MS);
        }
        assert!(pace.batch() < 200 * MS, "{:?}", pace.batch());
        for _ in 0..200 {
            pace.learn(1, 5 * MS);
        }
        let error = pace.batch().abs_diff(5 * MS);
        assert!(error < Duration::from_micros(1), "{error:?}");
    }

    #[test]
    fn extremes_do_not_overflow() {
        let pace = Pace::new(1);
        pace.learn(1, Duration::MAX);
        assert!(pace.wait(usize::MAX, usize::MAX) > Duration::from_secs(1));
    }
}
