//! The series of one model's queue and engine, looked up once. Several deployed models may share a model.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntGauge};

/// Records what happens in the queue of one model. Made by [`Metrics::model`](super::Metrics::model); no method
/// allocates or looks a label up.
#[derive(Debug, Clone)]
pub struct ModelMetrics {
    pub(super) batch_size: Histogram,
    pub(super) padding: IntCounter,
    pub(super) queue_items: IntGauge,
    pub(super) queue_bytes: IntGauge,
    pub(super) expected_wait: Gauge,
    pub(super) refused: IntCounter,
    pub(super) cancelled: IntCounter,
}

impl ModelMetrics {
    /// The engine ran `items` together, and `padding` more besides to fill a fixed batch.
    pub fn batch(&self, items: usize, padding: usize) {
        self.batch_size.observe(items as f64);
        self.padding.inc_by(padding as u64);
    }

    /// What waits for the engine now.
    pub fn queue(&self, items: usize, bytes: usize) {
        self.queue_items.set(i64::try_from(items).unwrap_or(i64::MAX));
        self.queue_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// How long a request that comes now is expected to wait.
    pub fn expected_wait(&self, wait: Duration) {
        self.expected_wait.set(wait.as_secs_f64());
    }

    /// A request was turned away at the door.
    pub fn refused(&self) {
        self.refused.inc();
    }

    /// An item left because nobody waited for it any more.
    pub fn cancelled(&self) {
        self.cancelled.inc();
    }
}
