//! The task that owns the queue: it takes commands, forms batches, and answers.
//!
//! Nothing in it blocks. What it shares with others are the atomic counts of the gate; all else it owns alone.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};

use super::admission::{Gate, Ticket};
use super::observer::{Departure, SchedulerObserver};
use super::queue::{Answer, Caller, Callers, Number, Queue, Waiter, ready_at};
use super::{Completed, ScheduleError};
use crate::engine::{Batch, BoxFuture, Engine, EngineError, Item, Outcome};
use crate::tensor::Tensor;

/// The commands taken at once from the channel, before the dispatcher looks at batches again.
const INBOX: usize = 256;

/// An item on its way into the queue.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) number: Number,
    pub(super) item: Item,
    pub(super) ticket: Ticket,
    pub(super) caller: Caller,
}

#[derive(Debug)]
pub(super) enum Command {
    Submit(Arrival),
    /// The items of one request, which may then share a batch from the start.
    SubmitAll(Vec<Arrival>),
    /// The caller has gone.
    Cancel(Number),
}

/// How batches are formed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) max_batch: usize,
    pub(super) concurrency: usize,
    pub(super) max_delay: Duration,
}

/// A batch inside the engine.
struct Flight {
    number: u64,
    items: Vec<Number>,
    /// Kept to run the items again one by one; `None` for a batch of one.
    batch: Option<Batch>,
    launched: Instant,
    /// Since when it takes one of the engine's places; `None` while it is the successor, waiting behind those that do.
    placed: Option<Instant>,
}

pub(super) struct Dispatcher {
    engine: Arc<dyn Engine>,
    rules: Rules,
    gate: Arc<Gate>,
    observer: Arc<dyn SchedulerObserver>,
    commands: mpsc::UnboundedReceiver<Command>,
    callers: Callers,
    queue: Queue,
    runs: FuturesUnordered<Run>,
    /// In the order in which they were launched.
    flights: VecDeque<Flight>,
    launched: u64,
    reported: (usize, usize, bool),
}

impl Dispatcher {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        rules: Rules,
        gate: Arc<Gate>,
        observer: Arc<dyn SchedulerObserver>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self {
            engine,
            rules,
            gate,
            observer,
            commands,
            callers: Callers::default(),
            queue: Queue::default(),
            runs: FuturesUnordered::new(),
            flights: VecDeque::new(),
            launched: 0,
            reported: (0, 0, true),
        }
    }

    /// Runs until every handle and every caller has gone.
    pub(super) async fn run(mut self) {
        let mut inbox = Vec::with_capacity(INBOX);
        let mut timer = Timer::new();
        loop {
            self.dispatch();
            if let Some(moment) = self.next_moment() {
                timer.arm(moment);
            }
            tokio::select! {
                biased;
                Some((number, outcome)) = self.runs.next(), if !self.runs.is_empty() => {
                    self.land(number, outcome);
                }
                count = self.commands.recv_many(&mut inbox, INBOX) => {
                    if count == 0 {
                        return;
                    }
                    for command in inbox.drain(..) {
                        self.apply(command);
                    }
                    // What is ready to run on this thread may bring company for the batch: where requests come one upon
                    // another, a run for each would cost more than the wait for those that are being read now.
                    if self.rules.max_batch > 1 && self.flights.is_empty() {
                        tokio::task::yield_now().await;
                    }
                }
                () = timer.elapsed(), if timer.is_armed() => {}
            }
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Submit(arrival) => self.enqueue(arrival),
            Command::SubmitAll(arrivals) => {
                for arrival in arrivals {
                    self.enqueue(arrival);
                }
            }
            Command::Cancel(number) => {
                if self.callers.take(number).is_some() {
                    self.queue.remove(number);
                    self.observer.departed(Departure::Cancelled);
                }
            }
        }
    }

    fn enqueue(&mut self, arrival: Arrival) {
        let caller = arrival.caller;
        let waiter = Waiter {
            item: arrival.item,
            ticket: arrival.ticket,
            ready_at: ready_at(caller.submitted, self.rules.max_delay, caller.deadline, self.gate.pace.batch()),
            alone: false,
        };
        self.callers.insert(arrival.number, caller);
        self.queue.insert(arrival.number, waiter);
    }

    /// Hands over as many batches as the rules allow, after everything that was said until now is taken in: whoever
    /// has cancelled by now, or whose deadline has come, is in none of them.
    fn dispatch(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            self.apply(command);
        }
        let now = Instant::now();
        while let Some(number) = self.callers.expired(now) {
            self.answer(number, Err(ScheduleError::DeadlineExceeded));
            self.queue.remove(number);
            self.observer.departed(Departure::Expired);
        }
        while self.may_launch(now) {
            self.launch(now);
        }
        let queued = (self.gate.items(), self.gate.bytes(), self.flights.is_empty());
        if queued != self.reported {
            self.reported = queued;
            // Nobody waits for an engine that is free.
            let wait = if queued.2 { Duration::ZERO } else { self.gate.expected_wait(1) };
            self.observer.queue_changed(queued.0, queued.1, wait);
        }
    }

    /// While the engine has room, whatever waits may go. When it is busy, one full batch may go ahead and wait inside
    /// it, so that there is no gap between two batches under load. A batch that is not full stays here: it could
    /// still grow, and its items can still leave.
    fn may_launch(&self, now: Instant) -> bool {
        if self.queue.is_empty() || self.flights.len() > self.rules.concurrency {
            return false;
        }
        if self.queue.has_full_batch(self.rules.max_batch) {
            return true;
        }
        self.flights.len() < self.rules.concurrency
            && (self.rules.max_delay.is_zero() || self.queue.ready_at().is_some_and(|moment| moment <= now))
    }

    fn launch(&mut self, now: Instant) {
        let mut gone = Vec::new();
        let batch = self.queue.take_batch(self.rules.max_batch, &self.callers, |number| {
            gone.push(number);
        });
        for number in gone {
            self.callers.take(number);
            self.observer.departed(Departure::Cancelled);
        }
        if batch.is_empty() {
            return;
        }
        let size = batch.len();
        self.gate.begin(size);
        let mut numbers = Vec::with_capacity(size);
        let mut items = Vec::with_capacity(size);
        for (number, waiter) in batch {
            numbers.push(number);
            items.push(waiter.item);
            drop(waiter.ticket);
        }
        self.observer.batch_formed(size);
        let items: Batch = items.into();
        self.launched += 1;
        self.flights.push_back(Flight {
            number: self.launched,
            items: numbers,
            batch: (size > 1).then(|| items.clone()),
            launched: now,
            placed: (self.flights.len() < self.rules.concurrency).then_some(now),
        });
        self.runs.push(Run::start(self.launched, &*self.engine, items));
    }

    fn land(&mut self, number: u64, outcome: Result<Outcome, EngineError>) {
        let Some(place) = self.flights.iter().position(|f| f.number == number) else {
            return;
        };
        let Some(flight) = self.flights.remove(place) else {
            return;
        };
        let now = Instant::now();
        // The engine has room for the successor from now on.
        if let Some(successor) = self.flights.iter_mut().find(|f| f.placed.is_none()) {
            successor.placed = Some(now);
        }
        let size = flight.items.len();
        // The engine may keep a batch waiting in its place, to give it more of its power then; so what the batches to come
        // have to wait for is the time in a place, and not the time that was computed.
        let occupied = now.saturating_duration_since(flight.placed.unwrap_or(flight.launched));
        let outcome = outcome.and_then(|outcome| match outcome.outputs.len() {
            count if count == size => Ok(outcome),
            count => Err(EngineError::Failed(format!("the engine gave {count} outputs for {size} items"))),
        });
        let inference = outcome.as_ref().map_or(occupied, |outcome| now.saturating_duration_since(outcome.began));
        self.observer.batch_finished(size, inference, outcome.as_ref().map(|_| ()));
        match outcome {
            Ok(Outcome { outputs, began }) => {
                self.gate.pace.learn(size, occupied);
                for (number, outputs) in flight.items.into_iter().zip(outputs) {
                    self.complete(number, outputs, began, inference, size);
                }
            }
            Err(error) => match flight.batch {
                Some(batch) if error != EngineError::Stopped => {
                    self.run_alone(flight.items, batch, now);
                }
                _ => {
                    for number in flight.items {
                        self.answer(number, Err(ScheduleError::Engine(error.clone())));
                    }
                }
            },
        }
        self.gate.finish(size);
    }

    fn complete(&mut self, number: Number, outputs: Item, began: Instant, inference: Duration, batch_size: usize) {
        if let Some(caller) = self.callers.take(number) {
            let queue = began.saturating_duration_since(caller.submitted);
            // Fails when the caller has gone, and then nobody is owed anything.
            let _ = caller.reply.send(Ok(Completed { outputs, queue, inference, batch_size }));
        }
    }

    fn answer(&mut self, number: Number, answer: Answer) {
        if let Some(caller) = self.callers.take(number) {
            let _ = caller.reply.send(answer);
        }
    }

    /// A batch failed, and nobody knows by whose fault: each of its items goes back to its place to run once more,
    /// by itself. It is answered by what comes of that, so an item costs two runs at most.
    fn run_alone(&mut self, numbers: Vec<Number>, mut batch: Batch, now: Instant) {
        for (index, number) in numbers.into_iter().enumerate() {
            if !self.callers.listens(number) {
                continue;
            }
            let item = match Arc::get_mut(&mut batch) {
                Some(items) => std::mem::take(&mut items[index]),
                // The engine still holds it.
                None => batch[index].clone(),
            };
            let bytes = item.iter().map(Tensor::byte_size).sum();
            let waiter = Waiter { item, ticket: self.gate.readmit(bytes), ready_at: now, alone: true };
            self.queue.insert(number, waiter);
        }
    }

    /// When there is something to do although nothing happens.
    fn next_moment(&self) -> Option<Instant> {
        let held_back =
            !self.rules.max_delay.is_zero() && !self.queue.is_empty() && self.flights.len() < self.rules.concurrency;
        let ready = held_back.then(|| self.queue.ready_at()).flatten();
        self.callers.next_deadline().into_iter().chain(ready).min()
    }
}

/// Wakes the dispatcher at the next moment of interest.
///
/// It is never set to a later time, but fires early and is armed again: the next deadline moves with every answer,
/// and to tell tokio's timer each time would cost more than the rest of the dispatcher's work on an item.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    armed: bool,
}

impl Timer {
    fn new() -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now())), armed: false }
    }

    fn is_armed(&self) -> bool {
        self.armed
    }

    fn arm(&mut self, moment: Instant) {
        if !self.armed || moment < self.sleep.deadline() {
            self.sleep.as_mut().reset(moment);
            self.armed = true;
        }
    }

    async fn elapsed(&mut self) {
        self.sleep.as_mut().await;
        self.armed = false;
    }
}

/// The engine's future for one batch; a panic of the engine is an error of this batch.
struct Run {
    number: u64,
    future: BoxFuture<Result<Outcome, EngineError>>,
}

impl Run {
    fn start(number: u64, engine: &dyn Engine, batch: Batch) -> Self {
        // Unwind safe: whatever the engine left half done is the engine's, and the batch is dropped.
        let future = catch_unwind(AssertUnwindSafe(|| engine.run(batch)))
            .unwrap_or_else(|panic| Box::pin(std::future::ready(Err(panicked(&*panic)))));
        Self { number, future }
    }
}

impl Future for Run {
    type Output = (u64, Result<Outcome, EngineError>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let run = &mut *self;
        match catch_unwind(AssertUnwindSafe(|| run.future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => Poll::Ready((run.number, outcome)),
            Err(panic) => Poll::Ready((run.number, Err(panicked(&*panic)))),
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> EngineError {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    EngineError::Failed(format!("the engine panicked: {message}"))
}
