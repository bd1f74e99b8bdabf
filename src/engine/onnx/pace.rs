//! How long batches take, guessed from those that ran.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many sizes of batch are told apart. The last one holds all that is larger.
const SIZES: usize = 12;

/// The weight of the newest run is one part in this many.
const SMOOTHING: u64 = 8;

/// What a run takes of which nothing is known. Longer than any.
pub(super) const UNKNOWN: Duration = Duration::from_nanos(u64::MAX);

/// Times of runs by the size of the batch. A batch costs far less than as many runs of one item, so each doubling of the
/// size is learned by itself.
#[derive(Debug)]
pub(super) struct Pace {
    /// Nanoseconds of batches of up to 1, 2, 4, ... items; 0 where none ran yet.
    runs: [AtomicU64; SIZES],
}

impl Pace {
    /// A run of one item takes about so long, or [`UNKNOWN`].
    pub(super) fn new(run: Duration) -> Self {
        let pace = Self { runs: std::array::from_fn(|_| AtomicU64::new(0)) };
        pace.runs[0].store(nanoseconds(run).max(1), Ordering::Relaxed);
        pace
    }

    /// What a batch of so many items is expected to take. Sizes that never ran are told from the next smaller one.
    pub(super) fn of(&self, items: usize) -> Duration {
        let size = size_class(items);
        let known = (0..=size).rev().find_map(|smaller| match self.runs[smaller].load(Ordering::Relaxed) {
            0 => None,
            // At worst each item takes its own time.
            run => Some(run.saturating_mul(1 << (size - smaller))),
        });
        Duration::from_nanos(known.unwrap_or(u64::MAX))
    }

    /// Learns from a run, for guesses that must not be too short: the longest one counts, forgotten by and by.
    pub(super) fn learn_longest(&self, items: usize, time: Duration) {
        self.learn(items, |before| nanoseconds(time).max(before - before / SMOOTHING));
    }

    /// Learns from a run, for guesses that are right on average.
    pub(super) fn learn_mean(&self, items: usize, time: Duration) {
        let time = nanoseconds(time);
        self.learn(items, |before| match before {
            0 | u64::MAX => time,
            before => before - before / SMOOTHING + time / SMOOTHING,
        });
    }

    /// One of two threads that learn at the same time may be lost, which a guess bears.
    fn learn(&self, items: usize, next: impl FnOnce(u64) -> u64) {
        let run = &self.runs[size_class(items)];
        run.store(next(run.load(Ordering::Relaxed)).max(1), Ordering::Relaxed);
    }
}

fn size_class(items: usize) -> usize {
    let doublings = items.max(1).checked_next_power_of_two().map_or(SIZES, |rounded| rounded.trailing_zeros() as usize);
    doublings.min(SIZES - 1)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const US: Duration = Duration::from_micros(1);

    #[test]
    fn the_longest_run_is_remembered_for_a_while() {
        assert_eq!(Pace::new(UNKNOWN).of(1), UNKNOWN);
        let pace = Pace::new(10 * US);
        assert_eq!(pace.of(3), 40 * US);
        pace.learn_longest(1, 2 * MS);
        assert_eq!(pace.of(1), 2 * MS);
        for _ in 0..100 {
            pace.learn_longest(1, 10 * US);
        }
        assert!(pace.of(1) < 11 * US);
    }

    #[test]
    fn a_batch_is_known_by_batches_of_its_size() {
        let pace = Pace::new(10 * US);
        pace.learn_longest(60, 30 * US);
        assert_eq!(pace.of(33), 30 * US);
        assert_eq!(pace.of(65), 60 * US);
        assert_eq!(pace.of(2), 20 * US);
        assert_eq!(Pace::new(UNKNOWN).of(usize::MAX), UNKNOWN);
    }

    #[test]
    fn a_mean_is_moved_by_an_eighth() {
        let pace = Pace::new(8 * MS);
        pace.learn_mean(1, 16 * MS);
        assert_eq!(pace.of(1), 9 * MS);
        pace.learn_mean(2, 20 * MS);
        assert_eq!(pace.of(2), 20 * MS, "the first one of its size");
        for _ in 0..200 {
            pace.learn_mean(1, 4 * MS);
        }
        assert!(pace.of(1).abs_diff(4 * MS) < US);
        let pace = Pace::new(UNKNOWN);
        pace.learn_mean(1, 4 * MS);
        assert_eq!(pace.of(1), 4 * MS);
    }
}
