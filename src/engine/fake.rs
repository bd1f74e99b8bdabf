//! An engine without a model: it waits a known time and gives back what it was given.
//!
//! It waits on tokio's clock, so that a test with paused time sees exact latencies, and it records each batch. Like a
//! real engine it computes [`Engine::concurrency`] batches at once; more of them wait for their turn, in order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{Batch, BoxFuture, Engine, EngineError, Outcome, Signature, TensorSpec};
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
    running: Arc<AtomicUsize>,
    turns: Arc<Semaphore>,
}

impl FakeEngine {
    /// An engine for one float32 input of shape [batch, 1], which is also its output.
    pub fn new(max_batch: usize, concurrency: usize, base: Duration, per_item: Duration) -> Self {
        let value = |name: &str| TensorSpec {
            name: name.to_owned(),
            element_type: ElementType::Float32,
            shape: vec![None, Some(1)],
            map_keys: None,
        };
        Self {
            signature: Signature { inputs: vec![value("x")], outputs: vec![value("y")] },
            max_batch,
            concurrency,
            base,
            per_item,
            batches: Mutex::default(),
            running: Arc::default(),
            turns: Arc::new(Semaphore::new(concurrency)),
        }
    }

    /// The sizes of the batches so far, in the order in which they were handed over.
    pub fn batches(&self) -> Vec<usize> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Batches that are being computed, at most [`Engine::concurrency`].
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }
}

/// Takes itself off the count, even when its batch is dropped or panics.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

    /// Fails the whole batch when an item's first input has a NaN in it, and panics when it has an infinity.
    fn run(&self, batch: Batch) -> BoxFuture<Result<Outcome, EngineError>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).push(batch.len());
        let delay = self.base + self.per_item * u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let (running, turns) = (self.running.clone(), self.turns.clone());
        Box::pin(async move {
            let _turn = turns.acquire().await.map_err(|_| EngineError::Stopped)?;
            running.fetch_add(1, Ordering::Relaxed);
            let _running = Running(running);
            let began = Instant::now();
            tokio::time::sleep(delay).await;
            let any = |test: fn(f32) -> bool| {
                batch.iter().any(|item| matches!(item.first(), Some(Tensor::Float32(x)) if x.iter().any(|&v| test(v))))
            };
            assert!(!any(f32::is_infinite), "infinity");
            if any(f32::is_nan) {
                return Err(EngineError::Failed("not a number".to_owned()));
            }
            Ok(Outcome { outputs: batch.to_vec(), began })
        })
    }
}
