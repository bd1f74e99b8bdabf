//! How a CPU's cores are divided among batches, by settings and by the load.
//!
//! The most images a second come from one single-threaded run per core, the soonest answer to a lone request from a run
//! on all cores: ViT-B/16 on two cores gives 5.5 images a second in 365 ms each, or 5.2 in 190 ms. So where nothing is set a
//! model has two sessions over one copy of its weights, a narrow and a wide one, and each batch takes the one that fits
//! the load ([`Load`]). Both give the same bits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::load::{Layout, Load};
use super::pace::{Pace, UNKNOWN};
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
    narrow: Lane,
    wide: Option<Lane>,
    load: Load,
}

/// A session and what is known of its runs.
struct Lane {
    session: Arc<ModelSession>,
    pace: Pace,
    /// Batches for which it was chosen and that are not done.
    batches: AtomicUsize,
}

impl Lane {
    fn new((session, run): (Arc<ModelSession>, Duration)) -> Self {
        Self { session, pace: Pace::new(run), batches: AtomicUsize::new(0) }
    }

    fn batches(&self) -> usize {
        self.batches.load(Ordering::Acquire)
    }

    fn run(&self, batch: &[Item]) -> (Result<Vec<Item>, EngineError>, Duration) {
        let begin = Instant::now();
        let result = self.session.run(batch);
        (result, begin.elapsed())
    }
}

/// Takes a batch off the count, even one that panics.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Sessions {
    /// Of a model with so many workers; each session with the time that a run of one item takes. Without a wide one every
    /// batch is run on the narrow one.
    pub(super) fn new(
        model: &str,
        workers: usize,
        narrow: (Arc<ModelSession>, Duration),
        wide: Option<(Arc<ModelSession>, Duration)>,
    ) -> Self {
        Self { narrow: Lane::new(narrow), wide: wide.map(Lane::new), load: Load::new(model, workers) }
    }

    /// A session that one thread has for itself.
    pub(super) fn alone(model: &str, session: ModelSession) -> Self {
        Self::new(model, 1, (Arc::new(session), UNKNOWN), None)
    }

    /// Whether a batch is likely to be done within [`SHORT`]. Large inputs are not guessed at: another item may have been
    /// much smaller.
    pub(super) fn is_short(&self, batch: &[Item]) -> bool {
        let bytes = || batch.iter().flatten().map(Tensor::byte_size).sum::<usize>();
        self.wide.is_none() && self.narrow.pace.of(batch.len()) <= SHORT && bytes() <= SMALL
    }

    /// The layout for a batch that comes now. To be asked once for each, in their order, and where there are two of them
    /// before each run.
    pub(super) fn choose(&self, batch: &[Item]) -> Layout {
        let Some(wide) = &self.wide else { return Layout::Narrow };
        let layout = match self.narrow.pace.of(batch.len()) {
            UNKNOWN => Layout::Narrow,
            narrow => {
                let batches = (wide.batches(), self.narrow.batches());
                self.load.choose(Instant::now(), batches, wide.pace.of(batch.len()), narrow)
            }
        };
        let lane = if layout == Layout::Wide { wide } else { &self.narrow };
        lane.batches.fetch_add(1, Ordering::AcqRel);
        layout
    }

    /// Runs a batch. At most one at a time is to be wide.
    pub(super) fn run(&self, layout: Layout, batch: &[Item]) -> Result<Vec<Item>, EngineError> {
        let (lane, other) = match (layout, &self.wide) {
            (Layout::Wide, Some(wide)) => (wide, Some(&self.narrow)),
            (_, wide) => (&self.narrow, wide.as_ref()),
        };
        if !self.is_short(batch) {
            lane.session.step_aside();
        }
        let Some(other) = other else {
            let (result, time) = lane.run(batch);
            lane.pace.learn_longest(batch.len(), time);
            return result;
        };
        let _done = Done(&lane.batches);
        let was_mixed = other.batches() > 0;
        let (result, time) = lane.run(batch);
        // A run beside one of the other layout says little about either.
        if !was_mixed && other.batches() == 0 {
            lane.pace.learn_mean(batch.len(), time);
        }
        result
    }
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
}
