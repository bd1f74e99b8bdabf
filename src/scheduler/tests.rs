//! One rule at a time, on paused time.

use std::sync::Mutex;

use ndarray::{ArrayD, IxDyn};

use super::*;
use crate::engine::fake::FakeEngine;
use crate::engine::{Batch, BoxFuture, Signature};

const MS: Duration = Duration::from_millis(1);

fn item(value: f32) -> Item {
    vec![ArrayD::from_elem(IxDyn(&[1, 1]), value).into()]
}

fn settings(queue_items: usize) -> SchedulerSettings {
    SchedulerSettings {
        queue_items,
        ..SchedulerSettings::default()
    }
}

fn start(engine: &Arc<FakeEngine>, settings: SchedulerSettings) -> Scheduler {
    Scheduler::start(engine.clone(), settings, Arc::new(()))
}

/// An engine of one batch at a time that takes 10 ms for any batch.
fn ten_ms(max_batch: usize) -> Arc<FakeEngine> {
    Arc::new(FakeEngine::new(max_batch, 1, 10 * MS, Duration::ZERO))
}

fn submit(scheduler: &Scheduler, value: f32, deadline: Option<Instant>) -> Pending {
    let mut admission = scheduler.admit(1, 4, None).unwrap();
    scheduler.submit(admission.ticket(4).unwrap(), item(value), deadline)
}

/// Lets the dispatcher do all it can without time passing.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_item_does_not_wait() {
    let engine = ten_ms(8);
    let scheduler = start(&engine, settings(8));
    let begin = Instant::now();
    let completed = submit(&scheduler, 7.0, None).await.unwrap();
    assert_eq!(completed.outputs, item(7.0));
    assert_eq!(begin.elapsed(), 10 * MS);
    assert_eq!(completed.queue, Duration::ZERO);
    assert_eq!(completed.inference, 10 * MS);
    assert_eq!(completed.batch_size, 1);
}

#[tokio::test(start_paused = true)]
async fn the_next_batch_is_what_queued_meanwhile() {
    let engine = ten_ms(8);
    let scheduler = start(&engine, settings(100));
    let first = submit(&scheduler, 0.0, None);
    settle().await;
    let others: Vec<_> = (1..=5)
        .map(|n| submit(&scheduler, n as f32, None))
        .collect();
    first.await.unwrap();
    for (n, other) in (1..=5).zip(others) {
        let completed = other.await.unwrap();
        assert_eq!(completed.outputs, item(n as f32));
        assert_eq!(completed.batch_size, 5);
        assert_eq!(completed.queue, 10 * MS);
    }
    assert_eq!(engine.batches(), [1, 5]);
}
