//! An engine without a model: it waits a known time and gives back what it was given.
//!
//! It waits on tokio's clock, so that a test with paused time sees exact latencies, and it records each batch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{BoxFuture, Engine, EngineError, Item, Signature, TensorSpec};
use crate::tensor::{ElementType, Tensor};

/// Echoes its inputs after a delay of `base + per_item * items`.
#[derive(Debug)]
pub struct FakeEngine {
    signature: Signature,
    max_batch: usize,
    concurrency: usize,
    base: Duration,
    per_item: Duration,
    batches: Mutex<Vec<usize>>,
    running: std::sync::Arc<AtomicUsize>,
}

impl FakeEngine {
    /// An engine for one float32 input of shape [batch, 1], which is also its output.
    pub fn new(max_batch: usize, concurrency: usize, base: Duration, per_item: Duration) -> Self {
        let value = |name: &str| TensorSpec {
            name: name.to_owned(),
            element_type: ElementType::Float32,
            shape: vec![None, Some(1)],
        };
        Self {
            signature: Signature { inputs: vec![value("x")], outputs: vec![value("y")] },
            max_batch,
            concurrency,
            base,
            per_item,
            batches: Mutex::default(),
            running: std::sync::Arc::default(),
        }
    }

    /// The sizes of the batches so far, in the order in which they began.
    pub fn batches(&self) -> Vec<usize> {
        self.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Batches under way.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
}

impl Engine for FakeEngine {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// Fails the whole batch when an item's first element is NaN.
    fn run(&self, batch: Vec<Item>) -> BoxFuture<Result<Vec<Item>, EngineError>> {
        self.batches.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(batch.len());
        let delay = self.base + self.per_item * u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let running = self.running.clone();
        running.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            running.fetch_sub(1, Ordering::Relaxed);
            let broken = |item: &Item| matches!(item.first(), Some(Tensor::Float32(x)) if x.iter().any(|v| v.is_nan()));
            if batch.iter().any(broken) {
                return Err(EngineError::Failed("not a number".to_owned()));
            }
            Ok(batch)
        })
    }
}
