//! How a CPU's cores are divided among batches, by settings and by the load.
//!
//! The most images a second come from one single-threaded run per core, the soonest answer to a lone request from a run
//! on all cores: ViT-B/16 on two cores gives 5.5 images a second in 365 ms each, or 5.2 in 190 ms. So where nothing is set a
//! model has two sessions over one copy of its weights, a narrow and a wide one, and each batch takes the one that fits
//! what else is running. Both give the same bits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::session::ModelSession;
use super::{OnnxOptions, Provider};
use crate::engine::{EngineError, Item};
use crate::tensor::Tensor;

/// How many workers, and how many threads each.
///
/// Most images a second come from one single-threaded worker per core; a GPU needs few threads, and two workers, so that
/// one's copies and the other's kernels overlap.
pub(super) fn workers_and_threads(provider: Provider, options: &OnnxOptions, cores: usize) -> (usize, usize) {
    match (provider, options.workers, options.threads) {
        (Provider::Cpu, 0, 0) => (cores, 1),
        (Provider::Cpu, 0, threads) => ((cores / threads).max(1), threads),
        (Provider::Cpu, workers, 0) => (workers, (cores / workers).max(1)),
        (Provider::Cuda | Provider::TensorRt, 0, threads) => (2, threads.max(1)),
        (Provider::Cpu | Provider::Cuda | Provider::TensorRt, workers, threads) => (workers, threads.max(1)),
    }
}

/// The cores that this process may use (its affinity and cgroup quota count).
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The sessions that a worker may run a batch on.
pub(super) struct Sessions {
    narrow: Arc<ModelSession>,
    wide: Option<Arc<ModelSession>>,
    load: Load,
    pace: Pace,
}

impl Sessions {
    /// Without a wide session every batch is run on the narrow one, on which one takes about so long.
    pub(super) fn new(narrow: Arc<ModelSession>, wide: Option<Arc<ModelSession>>, narrow_run: Duration) -> Self {
        Self { narrow, wide, load: Load::new(narrow_run), pace: Pace::new(narrow_run) }
    }

    /// A session that one thread has for itself.
    pub(super) fn alone(session: ModelSession) -> Self {
        Self::new(Arc::new(session), None, Duration::MAX)
    }

    /// Whether a batch is likely to be done within [`SHORT`]. Large inputs are not guessed at: another item may have been
    /// much smaller.
    pub(super) fn is_short(&self, batch: &[Item]) -> bool {
        let bytes = || batch.iter().flatten().map(Tensor::byte_size).sum::<usize>();
        self.wide.is_none() && self.pace.of(batch.len()) <= SHORT && bytes() <= SMALL
    }

    pub(super) fn run(&self, batch: &[Item]) -> Result<Vec<Item>, EngineError> {
        let Some(wide) = &self.wide else {
            if !self.is_short(batch) {
                self.narrow.step_aside();
            }
            let begin = Instant::now();
            let result = self.narrow.run(batch);
            self.pace.ran(batch.len(), begin.elapsed());
            return result;
        };
        let turn = self.load.begin(Instant::now());
        let session = if turn.is_alone { wide } else { &self.narrow };
        session.step_aside();
        session.run(batch)
    }
}

/// Whether batches come one at a time.
///
/// A batch is alone when no other is running, and none has overlapped with another lately: clients that wait for their
/// answers leave short gaps, and a wide run that begins in one of them would get in the way of the next narrow ones.
#[derive(Debug)]
struct Load {
    running: AtomicUsize,
    /// Times are microseconds since then.
    origin: Instant,
    /// Until when "lately" lasts.
    crowded_until: AtomicU64,
    /// How long the last narrow run took, which is how long it lasts after two batches overlapped.
    narrow_run: AtomicU64,
}

/// One batch that is running.
struct Turn<'a> {
    load: &'a Load,
    begin: u64,
    is_alone: bool,
}

impl Load {
    fn new(narrow_run: Duration) -> Self {
        Self {
            running: AtomicUsize::new(0),
            origin: Instant::now(),
            crowded_until: AtomicU64::new(0),
            narrow_run: AtomicU64::new(u64::try_from(narrow_run.as_micros()).unwrap_or(0)),
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }

    fn begin(&self, now: Instant) -> Turn<'_> {
        let begin = self.micros(now);
        let others = self.running.fetch_add(1, Ordering::AcqRel);
        if others > 0 {
            self.crowd(begin);
        }
        let is_alone = others == 0 && begin >= self.crowded_until.load(Ordering::Acquire);
        Turn { load: self, begin, is_alone }
    }

    fn crowd(&self, now: u64) {
        let until = now.saturating_add(self.narrow_run.load(Ordering::Relaxed));
        self.crowded_until.fetch_max(until, Ordering::AcqRel);
    }

    fn end(&self, turn: &Turn<'_>, now: Instant) {
        let now = self.micros(now);
        if !turn.is_alone {
            self.narrow_run.store(now.saturating_sub(turn.begin), Ordering::Relaxed);
        }
        if self.running.fetch_sub(1, Ordering::AcqRel) > 1 {
            self.crowd(now);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.load.end(self, Instant::now());
    }
}

/// How long a batch takes, guessed from the runs so far: from the longest of those of about its size, forgotten by and by,
/// because to guess too little blocks a thread that others need. A batch costs far less than as many runs of one item.
#[derive(Debug)]
struct Pace {
    /// Nanoseconds of batches of up to 1, 2, 4, ... items; 0 where none ran yet.
    runs: [AtomicU64; SIZES],
}

/// The last one holds all that is larger.
const SIZES: usize = 12;

impl Pace {
    /// A run of one item takes about so long.
    fn new(run: Duration) -> Self {
        let pace = Self { runs: std::array::from_fn(|_| AtomicU64::new(0)) };
        pace.runs[0].store(nanoseconds(run).max(1), Ordering::Relaxed);
        pace
    }

    fn of(&self, items: usize) -> Duration {
        let size = size_class(items);
        let known = (0..=size).rev().find_map(|smaller| match self.runs[smaller].load(Ordering::Relaxed) {
            0 => None,
            // At worst each item takes its own time.
            run => Some(run.saturating_mul(1 << (size - smaller))),
        });
        Duration::from_nanos(known.unwrap_or(u64::MAX))
    }

    fn ran(&self, items: usize, time: Duration) {
        let run = &self.runs[size_class(items)];
        let before = run.load(Ordering::Relaxed);
        run.store(nanoseconds(time).max(before - before / 8).max(1), Ordering::Relaxed);
    }
}

fn size_class(items: usize) -> usize {
    let doublings = items.max(1).checked_next_power_of_two().map_or(SIZES, |rounded| rounded.trailing_zeros() as usize);
    doublings.min(SIZES - 1)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Batches up to this long are run where they are brought, unless they have more bytes than [`SMALL`].
const SHORT: Duration = Duration::from_micros(100);
const SMALL: usize = 64 << 10;

/// A narrow run shorter than this gains nothing from more threads: waking them takes as long.
pub(super) const WORTH_SHARING: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_single_threaded_session_per_core_unless_told_otherwise() {
        let with = |workers, threads| OnnxOptions { workers, threads, ..OnnxOptions::default() };
        assert_eq!(workers_and_threads(Provider::Cpu, &with(0, 0), 8), (8, 1));
        assert_eq!(workers_and_threads(Provider::Cpu, &with(1, 0), 8), (1, 8));
        assert_eq!(workers_and_threads(Provider::Cpu, &with(0, 4), 8), (2, 4));
        assert_eq!(workers_and_threads(Provider::Cpu, &with(0, 16), 8), (1, 16));
        assert_eq!(workers_and_threads(Provider::Cpu, &with(3, 2), 8), (3, 2));
        assert_eq!(workers_and_threads(Provider::Cuda, &with(0, 0), 8), (2, 1));
        assert_eq!(workers_and_threads(Provider::TensorRt, &with(1, 2), 8), (1, 2));
    }

    /// Begins a batch at a time, and takes its end into hand.
    fn begin(load: &Load, milliseconds: u64) -> std::mem::ManuallyDrop<Turn<'_>> {
        std::mem::ManuallyDrop::new(load.begin(load.origin + Duration::from_millis(milliseconds)))
    }

    fn end(load: &Load, turn: &Turn<'_>, milliseconds: u64) {
        load.end(turn, load.origin + Duration::from_millis(milliseconds));
    }

    #[test]
    fn a_lone_client_has_all_cores() {
        let load = Load::new(Duration::from_millis(400));
        for start in [0, 210, 1000] {
            let turn = begin(&load, start);
            assert!(turn.is_alone, "{start}");
            end(&load, &turn, start + 200);
        }
    }

    #[test]
    fn the_longest_run_is_remembered_for_a_while() {
        let pace = Pace::new(Duration::MAX);
        assert!(pace.of(1) > SHORT);
        let pace = Pace::new(Duration::from_micros(10));
        assert_eq!(pace.of(3), Duration::from_micros(40));
        pace.ran(1, Duration::from_millis(2));
        assert_eq!(pace.of(1), Duration::from_millis(2));
        for _ in 0..100 {
            pace.ran(1, Duration::from_micros(10));
        }
        assert!(pace.of(1) < Duration::from_micros(11));
    }

    #[test]
    fn a_batch_is_known_by_batches_of_its_size() {
        let pace = Pace::new(Duration::from_micros(10));
        pace.ran(60, Duration::from_micros(30));
        assert_eq!(pace.of(33), Duration::from_micros(30));
        assert_eq!(pace.of(65), Duration::from_micros(60));
        assert_eq!(pace.of(2), Duration::from_micros(20));
        assert_eq!(Pace::new(Duration::MAX).of(usize::MAX), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn two_clients_share_until_one_has_been_alone_for_a_run() {
        let load = Load::new(Duration::from_millis(400));
        let first = begin(&load, 0);
        let second = begin(&load, 10);
        assert!(first.is_alone && !second.is_alone);
        end(&load, &first, 300);
        end(&load, &second, 410); // A narrow run of 400 ms.
        // Both ask again; the gap does not make the first one alone.
        let first = begin(&load, 415);
        assert!(!first.is_alone);
        let second = begin(&load, 420);
        assert!(!second.is_alone);
        end(&load, &first, 815);
        end(&load, &second, 820); // The last time that two overlapped is 815.
        let lone = begin(&load, 830);
        assert!(!lone.is_alone);
        end(&load, &lone, 1230);
        assert!(begin(&load, 1235).is_alone);
    }
}
