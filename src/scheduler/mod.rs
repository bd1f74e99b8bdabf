//! The queue of one deployed model: admission, deadlines, cancellation, batches.
//!
//! It knows tensors and time, and nothing of images or of HTTP. An item goes through three hands:
//!
//! 1. [`Scheduler::admit`] is asked before the work of decoding is begun. It is synchronous and cheap, keeps the bounds
//!    in items and bytes, and refuses whoever could not be answered before the deadline. The [`Admission`] is a share
//!    of the queue, divided into one [`Ticket`] for each item.
//!    Whoever turns something small into large tensors waits for a [`Room`] first.
//! 2. [`Scheduler::submit`] trades a ticket and the item's tensors for a [`Pending`] answer. To drop that is to cancel.
//! 3. The dispatcher, one task, forms batches and answers.
//!
//! ```text
//! admit ──► Admission ──► Ticket ──► submit ──► Pending ..............► Completed
//!  (gate: atomic counts)               │ command                            ▲ reply
//!                                      ▼                                    │
//!                                 dispatcher: callers, queue ──► batch ──► engine
//! ```
//!
//! # The rules
//!
//! - An item that finds the engine with room is dispatched at once, or with those that tasks bring that are ready to run
//!   by then; the next batch is what queued while the others ran. With a `max_delay` a batch that is not full waits so
//!   long for company, but not so long that a deadline is missed for it.
//! - First come, first served. A batch never has more than `max_batch` items, and they have the same shapes: the first
//!   item decides, and those of other shapes keep their places for a batch of their own.
//! - The engine is given as many batches as it computes at once ([`Engine::concurrency`]), and one more, the
//!   *successor*, so that it has no gap between two batches. Only a full batch goes ahead like that: it can't grow
//!   any more, so nothing is lost by forming it early, and what isn't in it stays within reach of a bigger batch, of
//!   cancellation and of its deadline. With `max_batch` 1, which is usual on a CPU, each item is a full batch: as many
//!   run as there are workers, one is ready, the rest can leave.
//! - An answer comes by its deadline: with the outputs, or at that moment (to the millisecond of tokio's clock) with
//!   [`ScheduleError::DeadlineExceeded`], whether the item waits or runs. A waiting item whose deadline has come or
//!   whose caller has gone is in no batch, and its memory and share are free at once.
//! - Each accepted item is answered exactly once. An engine's error, or panic, answers the items of its batch and no
//!   other; when there were several, each of them is run again by itself, once, so that an item which the model can't
//!   bear fails alone. (Not after [`EngineError::Stopped`], which concerns nobody in particular.)
//! - Time is tokio's, so tests may pause it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::engine::{Engine, EngineError, Item};
use crate::tensor::Tensor;

mod admission;
mod dispatcher;
mod observer;
mod pace;
mod queue;
mod room;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use admission::{Admission, Refusal, Ticket};
pub use observer::{Departure, SchedulerObserver};
pub use room::Room;

use admission::Gate;
use dispatcher::{Arrival, Command, Dispatcher, Rules};
use queue::{Answer, Caller, Number};
use room::Rooms;

/// How much a queue holds and how it forms batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerSettings {
    /// The most items that may be admitted and not yet dispatched; also the most instances of one request.
    pub queue_items: usize,
    /// The most bytes of tensors that these may take.
    pub queue_bytes: usize,
    /// The most items of a batch, if fewer than [`Engine::max_batch`].
    pub max_batch: Option<usize>,
    /// How long a batch that isn't full waits for more items although the engine has room.
    pub max_delay: Duration,
}

impl Default for SchedulerSettings {
    /// 1,024 items, 1 GiB, the engine's own largest batch, no delay.
    fn default() -> Self {
        Self { queue_items: 1024, queue_bytes: 1 << 30, max_batch: None, max_delay: Duration::ZERO }
    }
}

/// What came of an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Completed {
    /// The engine's outputs for it.
    pub outputs: Item,
    /// From its submission until the engine began with its batch.
    pub queue: Duration,
    /// How long the engine took for its batch.
    pub inference: Duration,
    /// The items of that batch.
    pub batch_size: usize,
}

/// Why an accepted item has no outputs.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// Its deadline came first.
    #[error("the deadline passed before the model answered")]
    DeadlineExceeded,
    /// The engine could not run it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The dispatcher is gone, with the runtime that it ran on.
    #[error("the model has been shut down")]
    Closed,
}

/// The handle of one model's queue. Clones share the queue; it ends when the last of them and of the pending answers
/// is dropped.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    gate: Arc<Gate>,
    rooms: Rooms,
    commands: mpsc::UnboundedSender<Command>,
    observer: Arc<dyn SchedulerObserver>,
    next: AtomicU64,
}

impl Scheduler {
    /// Starts the dispatcher of an engine.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time enabled.
    pub fn start(engine: Arc<dyn Engine>, settings: SchedulerSettings, observer: Arc<dyn SchedulerObserver>) -> Self {
        let largest = engine.max_batch().max(1);
        let rules = Rules {
            max_batch: settings.max_batch.unwrap_or(largest).clamp(1, largest),
            concurrency: engine.concurrency().max(1),
            max_delay: settings.max_delay,
        };
        let gate = Arc::new(Gate::new(settings.queue_items, settings.queue_bytes, rules.concurrency));
        let rooms = Rooms::new(rules.max_batch, rules.concurrency);
        // Unbounded, because it is the gate that bounds: each item in it holds a ticket.
        let (commands, inbox) = mpsc::unbounded_channel();
        tokio::spawn(Dispatcher::new(engine, rules, gate.clone(), observer.clone(), inbox).run());
        Self { shared: Arc::new(Shared { gate, rooms, commands, observer, next: AtomicU64::new(0) }) }
    }

    /// Asks for a share of the queue for a request of so many items that will take so many bytes as tensors.
    ///
    /// # Errors
    /// A [`Refusal`], which says why and when another try may succeed.
    pub fn admit(&self, items: usize, bytes: usize, deadline: Option<Instant>) -> Result<Admission, Refusal> {
        let admitted = if self.shared.commands.is_closed() {
            Err(Refusal::Closed)
        } else {
            self.shared.gate.admit(items, bytes, deadline)
        };
        admitted.inspect_err(|refusal| self.shared.observer.refused(refusal))
    }

    /// Waits until an item should be prepared, so that it is ready when its turn comes but not long before. For items
    /// that take more memory prepared than unprepared; the room goes with the ticket ([`Ticket::keep`]).
    pub async fn room(&self) -> Option<Room> {
        self.shared.rooms.take().await
    }

    /// Queues an item. Its share is from now on what its tensors really take.
    ///
    /// # Panics
    /// If the ticket is another scheduler's, which no input can bring about.
    pub fn submit(&self, ticket: Ticket, item: Item, deadline: Option<Instant>) -> Pending {
        let (arrival, pending) = self.arrival(ticket, item, deadline);
        // Fails when the dispatcher is gone; then the reply's sender is dropped, and the answer is `Closed`.
        let _ = self.shared.commands.send(Command::Submit(arrival));
        pending
    }

    /// Queues several items as one, so that they go into the same batch as far as it has room. The answers are in the
    /// order of the items.
    ///
    /// # Panics
    /// As [`Scheduler::submit`].
    pub fn submit_all(
        &self,
        items: impl IntoIterator<Item = (Ticket, Item)>,
        deadline: Option<Instant>,
    ) -> Vec<Pending> {
        let (arrivals, pending) = items.into_iter().map(|(ticket, item)| self.arrival(ticket, item, deadline)).unzip();
        let _ = self.shared.commands.send(Command::SubmitAll(arrivals));
        pending
    }

    fn arrival(&self, mut ticket: Ticket, item: Item, deadline: Option<Instant>) -> (Arrival, Pending) {
        assert!(ticket.belongs_to(&self.shared.gate), "a ticket of another scheduler");
        ticket.settle(item.iter().map(Tensor::byte_size).sum());
        let (reply, answer) = oneshot::channel();
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let pending = Pending { number, answer, commands: self.shared.commands.clone(), answered: false };
        let caller = Caller { reply, submitted: Instant::now(), deadline };
        let arrival = Arrival { number, item, ticket, caller };
        (arrival, pending)
    }

    /// Items admitted and not yet dispatched, those still being decoded included.
    pub fn queue_length(&self) -> usize {
        self.shared.gate.items()
    }

    /// The bytes that those are counted with.
    pub fn queue_bytes(&self) -> usize {
        self.shared.gate.bytes()
    }

    /// How long a request of so many items would wait now until the engine begins with its last one, by the pace of
    /// the batches so far. Zero until there was one.
    pub fn expected_wait(&self, items: usize) -> Duration {
        self.shared.gate.expected_wait(items)
    }

    /// Refuses whoever comes from now on, and waits until everything that was admitted is answered or given up. There
    /// is no way back.
    pub async fn drain(&self) {
        self.shared.gate.drain().await;
    }
}

/// The answer to one item, when awaited. To drop it is to cancel the item: if it waits it leaves the queue, if it
/// runs its outputs are dropped.
#[derive(Debug)]
#[must_use = "dropping it cancels the item"]
pub struct Pending {
    number: Number,
    answer: oneshot::Receiver<Answer>,
    commands: mpsc::UnboundedSender<Command>,
    answered: bool,
}

impl Future for Pending {
    type Output = Result<Completed, ScheduleError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        self.answered = true;
        Poll::Ready(answer.unwrap_or(Err(ScheduleError::Closed)))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.answered {
            // First closed, so that a batch formed before the command is read passes it over as well.
            self.answer.close();
            let _ = self.commands.send(Command::Cancel(self.number));
        }
    }
}
