//! How far preparation may run ahead of the engine.
//!
//! The tensor of a picture takes several times the bytes of the file that it is made from, and is read from a core's cache
//! only if it was made a moment ago. So a picture is decoded when its batch is near, not when it comes: enough items are
//! ready, or about to be, that the engine never waits for one.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places for items that are being prepared or are ready.
#[derive(Debug, Clone)]
pub(super) struct Rooms(Arc<Semaphore>);

/// One of them; given back when dropped.
#[derive(Debug)]
pub struct Room {
    _permit: OwnedSemaphorePermit,
}

impl Rooms {
    /// For an engine that runs so many batches of so many items at once: the next batch for each, one more, and an item
    /// for each that is only being prepared.
    pub(super) fn new(max_batch: usize, concurrency: usize) -> Self {
        let places = max_batch.saturating_mul(concurrency + 1).saturating_add(concurrency);
        Self(Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))))
    }

    /// Waits for one, first come, first served.
    pub(super) async fn take(&self) -> Option<Room> {
        // Fails only when the semaphore is closed, which nobody does; the item is prepared without then.
        self.0.clone().acquire_owned().await.ok().map(|permit| Room { _permit: permit })
    }
}
