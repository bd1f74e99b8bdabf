//! What the scheduler tells about itself, without knowing how it is recorded.

use std::time::Duration;

use super::Refusal;
use crate::engine::EngineError;

/// Why an item left without going through the engine, or before the engine was done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Departure {
    /// Whoever waited for it has gone.
    Cancelled,
    /// Its deadline passed.
    Expired,
}

/// Is told of what happens in a scheduler.
///
/// Called on the path of a request, so an implementation only adds to a counter: it must not block, and not panic.
/// `()` is the one that ignores everything.
pub trait SchedulerObserver: Send + Sync + 'static {
    /// The number of items admitted and not yet dispatched, their bytes, and how long an item that
    /// comes now would wait, as the dispatcher last saw them. Shares
    /// that are taken and given back in between are not told; [`Scheduler::queue_length`](super::Scheduler::queue_length)
    /// is exact at any time.
    fn queue_changed(&self, items: usize, bytes: usize, expected_wait: Duration) {
        let _ = (items, bytes, expected_wait);
    }

    /// A batch of `size` items is handed to the engine.
    fn batch_formed(&self, size: usize) {
        let _ = size;
    }

    /// The engine is done with a batch of `size` items after computing for `inference` (the time that a prefetched
    /// batch spent behind its predecessor isn't in it). A failed batch of several items is run again, one by one.
    fn batch_finished(&self, size: usize, inference: Duration, outcome: Result<(), &EngineError>) {
        let _ = (size, inference, outcome);
    }

    /// An item is gone without an output.
    fn departed(&self, departure: Departure) {
        let _ = departure;
    }

    /// A request was refused at the door.
    fn refused(&self, refusal: &Refusal) {
        let _ = refusal;
    }
}

impl SchedulerObserver for () {}
