//! All rules at once: thousands of random schedules on paused time.

use std::collections::HashSet;
use std::sync::Mutex;

use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;
use tokio::time::{sleep_until, timeout};

use super::*;
use crate::engine::fake::FakeEngine;
use crate::engine::{Batch, BoxFuture, Outcome, Signature};

const MS: Duration = Duration::from_millis(1);

/// Added to the value of an item that the engine can't bear.
const POISON: u32 = 1 << 20;

/// A fake engine that writes down what it is given, and fails batches with a poisoned item.
struct Recorder {
    inner: FakeEngine,
    given: Mutex<Vec<Vec<u32>>>,
    /// Handed over and not finished.
    inside: Arc<std::sync::atomic::AtomicUsize>,
}

impl Engine for Recorder {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }
    fn max_batch(&self) -> usize {
        self.inner.max_batch()
    }
    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }
    fn run(&self, batch: Batch) -> BoxFuture<Result<Outcome, EngineError>> {
        let values: Vec<u32> = batch.iter().map(value_of).collect();
        let inside = self.inside.clone();
        let before = inside.fetch_add(1, Ordering::SeqCst);
        assert!(before <= self.concurrency(), "more than one successor inside");
        self.given.lock().unwrap().push(values.clone());
        let run = self.inner.run(batch);
        Box::pin(async move {
            let outcome = run.await;
            inside.fetch_sub(1, Ordering::SeqCst);
            match values.iter().find(|&&value| value >= POISON) {
                Some(value) if value % 2 == 0 => panic!("poison"),
                Some(_) => Err(EngineError::Failed("poison".to_owned())),
                None => outcome,
            }
        })
    }
}

fn item(value: u32) -> Item {
    vec![ArrayD::from_elem(IxDyn(&[1, 1]), value as f32).into()]
}

fn value_of(item: &Item) -> u32 {
    match &item[0] {
        Tensor::Float32(array) => *array.first().unwrap() as u32,
        other => panic!("not an item of this test: {other:?}"),
    }
}

#[derive(Debug, Clone)]
struct Request {
    at: u64,
    items: usize,
    together: bool,
    /// Time for decoding, between admission and submission.
    decoding: u64,
    poisoned: Option<usize>,
    unused: bool,
    deadline: Option<u64>,
    cancel: Option<u64>,
}

#[derive(Debug, Clone)]
struct Plan {
    max_batch: usize,
    concurrency: usize,
    base: u64,
    per_item: u64,
    queue_items: usize,
    queue_bytes: usize,
    max_delay: u64,
    requests: Vec<Request>,
}

fn request() -> impl Strategy<Value = Request> {
    let rarely = |range: std::ops::Range<u64>| prop_oneof![3 => Just(None), 1 => range.prop_map(Some)];
    (
        0..60_u64,
        1..7_usize,
        any::<bool>(),
        0..3_u64,
        prop_oneof![9 => Just(None), 1 => (0..6_usize).prop_map(Some)],
        prop::bool::weighted(0.1),
        rarely(0..60),
        rarely(0..40),
    )
        .prop_map(|(at, items, together, decoding, poisoned, unused, deadline, cancel)| Request {
            at,
            items,
            together,
            decoding,
            poisoned,
            unused,
            deadline,
            cancel,
        })
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        (1..9_usize, 1..4_usize, 0..8_u64, 0..3_u64),
        (4..40_usize, 16..160_usize),
        prop_oneof![3 => Just(0), 1 => 1..10_u64],
        prop::collection::vec(request(), 1..25),
    )
        .prop_map(|((max_batch, concurrency, base, per_item), (queue_items, queue_bytes), max_delay, requests)| {
            Plan { max_batch, concurrency, base, per_item, queue_items, queue_bytes, max_delay, requests }
        })
}

/// What all requests of a plan share.
struct World {
    scheduler: Scheduler,
    engine: Arc<Recorder>,
    plan: Plan,
    submitted: std::sync::atomic::AtomicU32,
    /// Values of items that left before the engine was given them, and so must never be.
    left: Mutex<HashSet<u32>>,
}

impl World {
    fn given(&self, value: u32) -> bool {
        let given = self.engine.given.lock().unwrap();
        given.iter().any(|batch| batch.contains(&value))
    }

    /// Only items whose batch failed may take the queue over its bound.
    fn check_bounds(&self) {
        if self.plan.requests.iter().all(|r| r.poisoned.is_none()) {
            assert!(self.scheduler.queue_length() <= self.plan.queue_items);
            assert!(self.scheduler.queue_bytes() <= self.plan.queue_bytes);
        }
        assert!(self.engine.inner.running() <= self.plan.concurrency);
    }

    async fn request(self: Arc<Self>, request: Request, begin: Instant) {
        sleep_until(begin + MS * request.at as u32).await;
        let deadline = request.deadline.map(|ms| Instant::now() + MS * ms as u32);
        let admitted = self.scheduler.admit(request.items, 4 * request.items, deadline);
        self.check_bounds();
        let admission = match admitted {
            Ok(admission) => admission,
            Err(refusal) => {
                let hopeless = request.items > self.plan.queue_items || 4 * request.items > self.plan.queue_bytes;
                assert_eq!(hopeless, refusal.reason() == "too_large", "{refusal}");
                assert!(deadline.is_some() || !refusal.reason().starts_with("deadline"), "{refusal}");
                return;
            }
        };
        tokio::time::sleep(MS * request.decoding as u32).await;
        let mut tickets = admission.split();
        if request.unused {
            tickets.pop();
        }
        let mut values = Vec::new();
        let items: Vec<_> = tickets
            .into_iter()
            .enumerate()
            .map(|(index, ticket)| {
                let mut value = self.submitted.fetch_add(1, Ordering::SeqCst);
                if request.poisoned == Some(index) {
                    value += POISON;
                }
                values.push(value);
                (ticket, item(value))
            })
            .collect();
        let pending = if request.together {
            self.scheduler.submit_all(items, deadline)
        } else {
            items.into_iter().map(|(ticket, item)| self.scheduler.submit(ticket, item, deadline)).collect()
        };
        self.check_bounds();
        let answers = values
            .into_iter()
            .zip(pending)
            .map(|(value, pending)| self.answer(value, pending, deadline, request.cancel));
        futures_util::future::join_all(answers).await;
    }

    async fn answer(&self, value: u32, pending: Pending, deadline: Option<Instant>, cancel: Option<u64>) {
        let patience = cancel.map_or(Duration::from_secs(3600), |ms| MS * ms as u32);
        match timeout(patience, pending).await {
            Err(_) => {
                assert!(cancel.is_some(), "{value} was never answered");
                if !self.given(value) {
                    self.left.lock().unwrap().insert(value);
                }
            }
            Ok(Ok(completed)) => {
                assert_eq!(completed.outputs, item(value), "an answer for another");
                assert!(value < POISON);
                assert!((1..=self.plan.max_batch).contains(&completed.batch_size));
                assert!(deadline.is_none_or(|deadline| Instant::now() <= deadline));
            }
            Ok(Err(ScheduleError::DeadlineExceeded)) => {
                let deadline = deadline.expect("there was no deadline");
                let late = Instant::now().checked_duration_since(deadline);
                // An item that was submitted when its deadline had passed is answered at once.
                assert!(late.is_some_and(|late| late <= 2 * MS), "{late:?}");
                if !self.given(value) {
                    self.left.lock().unwrap().insert(value);
                }
            }
            Ok(Err(ScheduleError::Engine(error))) => {
                assert!(value >= POISON, "{value} was hurt by a neighbour: {error}");
            }
            Ok(Err(ScheduleError::Closed)) => panic!("closed"),
        }
        self.check_bounds();
    }

    fn check_batches(&self) {
        let given = self.engine.given.lock().unwrap();
        let left = self.left.lock().unwrap();
        let mut runs: std::collections::HashMap<u32, usize> = Default::default();
        let mut newest = None;
        for batch in given.iter() {
            assert!(!batch.is_empty() && batch.len() <= self.plan.max_batch);
            for &value in batch {
                assert!(!left.contains(&value), "{value} had left, and was run");
                let times = runs.entry(value).or_default();
                *times += 1;
                assert!(*times == 1 || (*times == 2 && batch.len() == 1));
                if *times == 1 {
                    let place = value % POISON;
                    assert!(newest < Some(place), "{place} after {newest:?}");
                    newest = Some(place);
                }
            }
        }
        assert!(runs.iter().all(|(_, &times)| times == 1) || self.plan.requests.iter().any(|r| r.poisoned.is_some()));
    }
}

async fn carry_out(plan: Plan) {
    let begin = Instant::now();
    let engine = Arc::new(Recorder {
        inner: FakeEngine::new(plan.max_batch, plan.concurrency, MS * plan.base as u32, MS * plan.per_item as u32),
        given: Mutex::default(),
        inside: Arc::default(),
    });
    let settings = SchedulerSettings {
        queue_items: plan.queue_items,
        queue_bytes: plan.queue_bytes,
        max_batch: None,
        max_delay: MS * plan.max_delay as u32,
    };
    let world = Arc::new(World {
        scheduler: Scheduler::start(engine.clone(), settings, Arc::new(())),
        engine,
        plan: plan.clone(),
        submitted: Default::default(),
        left: Mutex::default(),
    });
    let requests: Vec<_> =
        plan.requests.into_iter().map(|request| tokio::spawn(world.clone().request(request, begin))).collect();
    for request in requests {
        if let Err(error) = request.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    timeout(Duration::from_secs(3600), world.scheduler.drain()).await.expect("a drain ends");
    assert_eq!(world.scheduler.queue_length(), 0);
    assert_eq!(world.scheduler.queue_bytes(), 0);
    world.check_batches();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_mixing_no_loss_in_order_within_bounds(plan in plan()) {
        // The poisoned items' panics are part of the plan; their backtraces would fill the log.
        static QUIET: std::sync::Once = std::sync::Once::new();
        QUIET.call_once(|| {
            let loud = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if panic.payload().downcast_ref::<&str>() != Some(&"poison") {
                    loud(panic);
                }
            }));
        });
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(carry_out(plan));
    }
}

/// The same on real time and several threads, where commands of different callers race.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_do_not_mix_answers() {
    let engine = Arc::new(FakeEngine::new(8, 2, Duration::ZERO, Duration::ZERO));
    let scheduler = Scheduler::start(engine.clone(), SchedulerSettings::default(), Arc::new(()));
    let clients: Vec<_> = (0..16_u32)
        .map(|client| {
            let scheduler = scheduler.clone();
            tokio::spawn(async move {
                for round in 0..500 {
                    let value = client * 1000 + round;
                    let ticket = scheduler.admit(1, 4, None).unwrap().ticket(4).unwrap();
                    let pending = scheduler.submit(ticket, item(value), None);
                    if round % 7 == 3 {
                        tokio::task::yield_now().await;
                        drop(pending);
                    } else {
                        assert_eq!(pending.await.unwrap().outputs, item(value));
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    timeout(Duration::from_secs(60), scheduler.drain()).await.expect("a drain ends");
    assert_eq!((scheduler.queue_length(), scheduler.queue_bytes()), (0, 0));
    assert!(engine.batches().into_iter().all(|size| size <= 8));
}
