//! What the scheduler costs: items per second through an engine that answers at once, and what it adds to a lone item.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::{ArrayD, IxDyn};
use tessera::engine::{Batch, BoxFuture, Engine, EngineError, Item, Outcome, Signature};
use tessera::scheduler::{Pending, Scheduler, SchedulerSettings};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// Gives empty outputs without waiting.
struct Instantly {
    signature: Signature,
    max_batch: usize,
}

impl Engine for Instantly {
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn max_batch(&self) -> usize {
        self.max_batch
    }
    fn concurrency(&self) -> usize {
        1
    }
    fn run(&self, batch: Batch) -> BoxFuture<Result<Outcome, EngineError>> {
        Box::pin(async move { Ok(Outcome { outputs: vec![Item::new(); batch.len()], began: Instant::now() }) })
    }
}

fn start(runtime: &Runtime, max_batch: usize) -> Scheduler {
    let engine = Instantly { signature: Signature { inputs: Vec::new(), outputs: Vec::new() }, max_batch };
    let settings = SchedulerSettings { queue_items: 4096, ..SchedulerSettings::default() };
    runtime.block_on(async { Scheduler::start(Arc::new(engine), settings, Arc::new(())) })
}

fn submit(scheduler: &Scheduler, deadline: Option<Instant>) -> Pending {
    let item = vec![ArrayD::from_elem(IxDyn(&[1, 1]), 1_f32).into()];
    let mut admission = scheduler.admit(1, 4, deadline).expect("there is room");
    let ticket = admission.ticket(4).expect("one was admitted");
    scheduler.submit(ticket, item, deadline)
}

fn batch(criterion: &mut Criterion) {
    const ITEMS: u64 = 1024;
    let one_core = Builder::new_current_thread().enable_time().build();
    let one_core = one_core.expect("a runtime");
    let two_cores = Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime");

    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(ITEMS));
    for max_batch in [1, 32] {
        for (name, timeout) in [("", None), ("/deadline", Some(Duration::from_secs(30)))] {
            let scheduler = start(&one_core, max_batch);
            group.bench_function(format!("items/max_batch={max_batch}{name}"), |bencher| {
                bencher.iter(|| {
                    one_core.block_on(async {
                        let deadline = timeout.map(|timeout| Instant::now() + timeout);
                        let pending: Vec<_> = (0..ITEMS).map(|_| submit(&scheduler, deadline)).collect();
                        for pending in pending {
                            black_box(pending.await.expect("an answer"));
                        }
                    });
                });
            });
        }
    }
    group.throughput(Throughput::Elements(1));
    for (name, runtime) in [("one_core", &one_core), ("two_cores", &two_cores)] {
        let scheduler = start(runtime, 32);
        group.bench_function(format!("lone/{name}"), |bencher| {
            bencher.iter_custom(|rounds| {
                let scheduler = scheduler.clone();
                let rounds = async move {
                    let begin = std::time::Instant::now();
                    for _ in 0..rounds {
                        black_box(submit(&scheduler, None).await.expect("an answer"));
                    }
                    begin.elapsed()
                };
                // Spawned, as a connection is: `block_on` would count the wake-up of a thread outside the runtime.
                runtime.block_on(async { tokio::spawn(rounds).await.expect("no panic") })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, batch);
criterion_main!(benches);
