//! One rule at a time, on paused time.

use ndarray::{ArrayD, IxDyn};

use super::*;
use crate::engine::fake::FakeEngine;

const MS: Duration = Duration::from_millis(1);

fn item(value: f32) -> Item {
    vec![ArrayD::from_elem(IxDyn(&[1, 1]), value).into()]
}

fn settings(queue_items: usize) -> SchedulerSettings {
    SchedulerSettings { queue_items, ..SchedulerSettings::default() }
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
    let mut others = Vec::new();
    for n in 1..=5 {
        others.push(submit(&scheduler, n as f32, None));
        settle().await;
    }
    first.await.unwrap();
    for (n, other) in (1..=5).zip(others) {
        let completed = other.await.unwrap();
        assert_eq!(completed.outputs, item(n as f32));
        assert_eq!(completed.batch_size, 5);
        assert_eq!(completed.queue, 10 * MS);
    }
    assert_eq!(engine.batches(), [1, 5]);
}

#[tokio::test(start_paused = true)]
async fn items_submitted_together_share_their_first_batch() {
    let engine = ten_ms(8);
    let scheduler = start(&engine, settings(100));
    let tickets = scheduler.admit(3, 12, None).unwrap().split();
    assert_eq!(tickets.iter().map(Ticket::bytes).collect::<Vec<_>>(), [4; 3]);
    let items = tickets.into_iter().zip([1.0, 2.0, 3.0].map(item));
    let pending = scheduler.submit_all(items, None);
    for (value, pending) in [1.0, 2.0, 3.0].into_iter().zip(pending) {
        assert_eq!(pending.await.unwrap().outputs, item(value));
    }
    assert_eq!(engine.batches(), [3]);
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_about_to_come_shares_the_batch() {
    let engine = ten_ms(8);
    let scheduler = start(&engine, settings(100));
    settle().await;
    let first = submit(&scheduler, 0.0, None);
    // The dispatcher is ready to run by now, and this task behind it.
    tokio::task::yield_now().await;
    let second = submit(&scheduler, 1.0, None);
    assert_eq!(first.await.unwrap().batch_size, 2);
    assert_eq!(second.await.unwrap().outputs, item(1.0));
    assert_eq!(engine.batches(), [2]);
}

#[tokio::test(start_paused = true)]
async fn items_of_different_shapes_share_no_batch() {
    let engine = ten_ms(3);
    let scheduler = start(&engine, settings(100));
    let wide = |width: usize, value: f32| vec![ArrayD::from_elem(IxDyn(&[1, width]), value).into()];
    let first = submit(&scheduler, 0.0, None);
    settle().await;
    let widths = [1, 2, 1, 2, 1, 1];
    let mut others = Vec::new();
    for (width, value) in widths.into_iter().zip(1u8..) {
        let ticket = scheduler.admit(1, 4, None).unwrap().ticket(4).unwrap();
        others.push((wide(width, value.into()), scheduler.submit(ticket, wide(width, value.into()), None)));
    }
    settle().await;
    // Three of width 1 are a full batch, and go ahead; two of width 2 are not.
    assert_eq!(engine.batches(), [1, 3]);
    first.await.unwrap();
    let mut sizes = Vec::new();
    for (item, other) in others {
        let completed = other.await.unwrap();
        assert_eq!(completed.outputs, item);
        sizes.push(completed.batch_size);
    }
    assert_eq!(sizes, [3, 2, 3, 2, 3, 1]);
    // Those of width 2 were not overtaken by the last of width 1, which came after them.
    assert_eq!(engine.batches(), [1, 3, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn one_full_batch_goes_ahead_and_no_more() {
    let engine = ten_ms(2);
    let scheduler = start(&engine, settings(100));
    let mut pending = vec![submit(&scheduler, 0.0, None)];
    settle().await;
    pending.push(submit(&scheduler, 1.0, None));
    settle().await;
    assert_eq!(engine.batches(), [1], "a batch that can grow stays");
    pending.extend((2..=6).map(|n| submit(&scheduler, n as f32, None)));
    settle().await;
    assert_eq!(engine.batches(), [1, 2], "one full batch goes ahead");
    assert_eq!(engine.running(), 1);
    assert_eq!(scheduler.queue_length(), 4);
    let mut waited = Vec::new();
    for pending in pending {
        let completed = pending.await.unwrap();
        assert_eq!(completed.inference, 10 * MS, "without the time behind another");
        waited.push(completed.queue.as_millis());
    }
    assert_eq!(waited, [0, 10, 10, 20, 20, 30, 30]);
    assert_eq!(engine.batches(), [1, 2, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn workers_of_single_items_are_all_busy() {
    let engine = Arc::new(FakeEngine::new(1, 4, 10 * MS, Duration::ZERO));
    let scheduler = start(&engine, settings(100));
    let begin = Instant::now();
    let pending: Vec<_> = (0..12).map(|n| submit(&scheduler, n as f32, None)).collect();
    settle().await;
    assert_eq!(engine.running(), 4);
    assert_eq!(scheduler.queue_length(), 12 - 5);
    for pending in pending {
        pending.await.unwrap();
    }
    assert_eq!(begin.elapsed(), 30 * MS);
    assert_eq!(scheduler.expected_wait(8), 10 * MS, "two rounds of four workers");
}

#[tokio::test(start_paused = true)]
async fn the_setting_and_the_engine_both_bound_a_batch() {
    for (setting, expected) in [(Some(3), 3), (Some(0), 1), (Some(100), 4), (None, 4)] {
        let engine = ten_ms(4);
        let max_batch = setting;
        let scheduler = start(&engine, SchedulerSettings { max_batch, ..settings(100) });
        let tickets = scheduler.admit(12, 48, None).unwrap().split();
        let items = tickets.into_iter().map(|ticket| (ticket, item(1.0)));
        for pending in scheduler.submit_all(items, None) {
            pending.await.unwrap();
        }
        assert_eq!(engine.batches().into_iter().max(), Some(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_collects_a_batch_but_misses_no_deadline() {
    let engine = ten_ms(3);
    let max_delay = 50 * MS;
    let scheduler = start(&engine, SchedulerSettings { max_delay, ..settings(100) });
    let lone = submit(&scheduler, 0.0, None).await.unwrap();
    assert_eq!(lone.queue, 50 * MS);
    let hurried = submit(&scheduler, 0.0, Some(Instant::now() + 30 * MS));
    assert_eq!(hurried.await.unwrap().queue, 20 * MS);
    let three = [0, 1, 2].map(|n| submit(&scheduler, n as f32, None));
    for pending in three {
        let completed = pending.await.unwrap();
        assert_eq!(completed.queue, Duration::ZERO, "full at once");
    }
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_items_and_in_bytes() {
    let engine = ten_ms(1);
    let queue_bytes = 100;
    let scheduler = start(&engine, SchedulerSettings { queue_bytes, ..settings(4) });
    submit(&scheduler, 0.0, None).await.unwrap();
    let three = scheduler.admit(3, 60, None).unwrap();
    let full = scheduler.admit(2, 8, None).unwrap_err();
    assert_eq!(full, Refusal::QueueFull { retry_after: 40 * MS });
    let full = scheduler.admit(1, 41, None).unwrap_err();
    assert_eq!(full, Refusal::QueueBytesFull { retry_after: 30 * MS });
    assert_eq!((scheduler.queue_length(), scheduler.queue_bytes()), (3, 60));
    drop(scheduler.admit(1, 40, None).unwrap());
    for (items, bytes) in [(5, 1), (1, 101), (usize::MAX, usize::MAX)] {
        let refusal = scheduler.admit(items, bytes, None).unwrap_err();
        assert_eq!(refusal.reason(), "too_large");
        assert_eq!(refusal.retry_after(), None);
    }
    drop(three);
    assert_eq!((scheduler.queue_length(), scheduler.queue_bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn shares_are_given_back_by_whoever_drops_them() {
    let scheduler = start(&ten_ms(1), settings(10));
    let mut admission = scheduler.admit(3, 10, None).unwrap();
    let ticket = admission.ticket(7).unwrap();
    let greedy = admission.ticket(7).unwrap();
    assert_eq!((ticket.bytes(), greedy.bytes()), (7, 3), "no more than is left");
    drop(ticket);
    assert_eq!((scheduler.queue_length(), scheduler.queue_bytes()), (2, 3));
    let pending = scheduler.submit(greedy, item(1.0), None);
    assert_eq!(scheduler.queue_bytes(), 4, "the true size");
    pending.await.unwrap();
    assert!(admission.ticket(0).is_some());
    assert!(admission.ticket(0).is_none());
    drop(admission);
    assert_eq!((scheduler.queue_length(), scheduler.queue_bytes()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_would_come_too_late_is_refused_at_the_door() {
    let engine = ten_ms(1);
    let scheduler = start(&engine, settings(100));
    submit(&scheduler, 0.0, None).await.unwrap();
    let soon = |ms: u32| Some(Instant::now() + ms * MS);
    assert_eq!(scheduler.admit(1, 4, soon(0)).unwrap_err(), Refusal::DeadlinePassed);
    drop(scheduler.admit(1, 4, soon(1)).expect("an idle engine is tried"));
    let others: Vec<_> = (0..4).map(|_| submit(&scheduler, 0.0, None)).collect();
    settle().await;
    // Four ahead, 10 ms each, and 10 ms of its own.
    let refusal = scheduler.admit(1, 4, soon(35)).unwrap_err();
    assert_eq!(refusal, Refusal::DeadlineUnmeetable { retry_after: 15 * MS });
    let deadline = soon(50);
    let mut admission = scheduler.admit(1, 4, deadline).unwrap();
    let pending = scheduler.submit(admission.ticket(4).unwrap(), item(1.0), deadline);
    for other in others {
        other.await.unwrap();
    }
    assert_eq!(pending.await.unwrap().outputs, item(1.0), "the estimate was right, to the millisecond");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_answered_when_it_comes() {
    let engine = ten_ms(8);
    let scheduler = start(&engine, settings(100));
    let begin = Instant::now();
    let running = submit(&scheduler, 0.0, Some(begin + 4 * MS));
    settle().await;
    let waiting = submit(&scheduler, 1.0, Some(begin + 3 * MS));
    let patient = submit(&scheduler, 2.0, Some(begin + 1000 * MS));
    assert_eq!(waiting.await, Err(ScheduleError::DeadlineExceeded));
    assert_eq!(begin.elapsed(), 3 * MS);
    assert_eq!(scheduler.queue_length(), 1);
    assert_eq!(running.await, Err(ScheduleError::DeadlineExceeded));
    assert_eq!(begin.elapsed(), 4 * MS);
    assert_eq!(patient.await.unwrap().outputs, item(2.0));
    assert_eq!(engine.batches(), [1, 1], "who expired was in no batch");
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_leaves_the_queue_at_once() {
    let engine = ten_ms(8);
    let scheduler = start(&engine, settings(100));
    let first = submit(&scheduler, 0.0, None);
    settle().await;
    let [second, third, fourth] = [1.0, 2.0, 3.0].map(|value| submit(&scheduler, value, None));
    settle().await;
    assert_eq!(scheduler.queue_length(), 3);
    drop(third);
    settle().await;
    assert_eq!((scheduler.queue_length(), scheduler.queue_bytes()), (2, 8));
    drop(first);
    assert_eq!(second.await.unwrap().outputs, item(1.0));
    assert_eq!(fourth.await.unwrap().outputs, item(3.0));
    assert_eq!(engine.batches(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_item_fails_alone() {
    for bad in [f32::NAN, f32::INFINITY] {
        let engine = ten_ms(8);
        let scheduler = start(&engine, settings(100));
        let first = submit(&scheduler, 0.0, None);
        settle().await;
        let values = [1.0, bad, 3.0];
        let pending = values.map(|value| submit(&scheduler, value, None));
        let behind = submit(&scheduler, 4.0, None);
        first.await.unwrap();
        for (value, pending) in values.into_iter().zip(pending) {
            match pending.await {
                Ok(completed) => assert_eq!(completed.outputs, item(value)),
                Err(error) => {
                    assert!(!value.is_finite(), "{value} was hurt by a neighbour");
                    assert!(matches!(error, ScheduleError::Engine(EngineError::Failed(_))));
                }
            }
        }
        assert_eq!(behind.await.unwrap().outputs, item(4.0));
        assert_eq!(engine.batches(), [1, 4, 1, 1, 1, 1], "once more each, alone");
        assert_eq!((scheduler.queue_length(), scheduler.queue_bytes()), (0, 0));
        submit(&scheduler, 5.0, None).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn draining_answers_everyone_who_is_in() {
    let engine = ten_ms(2);
    let scheduler = start(&engine, settings(100));
    let mut admission = scheduler.admit(1, 4, None).unwrap();
    let queued: Vec<_> = (0..5).map(|n| submit(&scheduler, n as f32, None)).collect();
    let drain = tokio::spawn({
        let scheduler = scheduler.clone();
        async move { scheduler.drain().await }
    });
    settle().await;
    let refusal = scheduler.admit(1, 4, None).unwrap_err();
    assert_eq!(refusal, Refusal::Draining);
    tokio::time::sleep(100 * MS).await;
    assert!(!drain.is_finished(), "somebody is admitted, and still decoding");
    let last = scheduler.submit(admission.ticket(4).unwrap(), item(9.0), None);
    drop(admission);
    drain.await.unwrap();
    for pending in queued.into_iter().chain([last]) {
        use futures_util::FutureExt;
        pending.now_or_never().expect("answered before the drain ended").unwrap();
    }
    scheduler.drain().await;
}

#[test]
fn a_runtime_that_ends_answers_closed() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (scheduler, waiting, admission) = runtime().block_on(async {
        let scheduler = start(&ten_ms(1), settings(10));
        let waiting = submit(&scheduler, 1.0, None);
        let admission = scheduler.admit(1, 4, None).unwrap();
        (scheduler, waiting, admission)
    });
    runtime().block_on(async {
        assert_eq!(waiting.await, Err(ScheduleError::Closed));
        let mut tickets = admission.split();
        let late = scheduler.submit(tickets.remove(0), item(1.0), None);
        assert_eq!(late.await, Err(ScheduleError::Closed));
        assert_eq!(scheduler.admit(1, 4, None).unwrap_err(), Refusal::Closed);
        assert_eq!(scheduler.queue_length(), 0);
    });
}

#[tokio::test(start_paused = true)]
async fn an_observer_sees_it_all() {
    #[derive(Default)]
    struct Record(std::sync::Mutex<Vec<String>>);
    impl Record {
        fn add(&self, line: String) {
            self.0.lock().unwrap().push(line);
        }
    }
    impl SchedulerObserver for Record {
        fn queue_changed(&self, items: usize, bytes: usize, _expected_wait: Duration) {
            self.add(format!("queue {items} {bytes}"));
        }
        fn batch_formed(&self, size: usize) {
            self.add(format!("formed {size}"));
        }
        fn batch_finished(&self, size: usize, time: Duration, outcome: Result<(), &EngineError>) {
            self.add(format!("finished {size} {time:?} {}", outcome.is_ok()));
        }
        fn departed(&self, departure: Departure) {
            self.add(format!("{departure:?}"));
        }
        fn refused(&self, refusal: &Refusal) {
            self.add(refusal.reason().to_owned());
        }
    }
    let record = Arc::new(Record::default());
    let scheduler = Scheduler::start(ten_ms(4), settings(2), record.clone());
    let first = submit(&scheduler, 0.0, None);
    settle().await;
    let cancelled = submit(&scheduler, 1.0, None);
    let expired = submit(&scheduler, 2.0, Some(Instant::now() + MS));
    assert!(scheduler.admit(1, 4, None).is_err());
    settle().await;
    drop(cancelled);
    expired.await.unwrap_err();
    first.await.unwrap();
    assert_eq!(
        *record.0.lock().unwrap(),
        [
            "formed 1",
            "queue 0 0",
            "queue_full",
            "queue 2 8",
            "Cancelled",
            "queue 1 4",
            "Expired",
            "queue 0 0",
            "finished 1 10ms true",
            "queue 0 0"
        ]
    );
}
