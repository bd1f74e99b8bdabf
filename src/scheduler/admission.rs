//! The door of the queue: who may come in, and the shares that those who are in hold.
//!
//! Everything here is a handful of atomic operations, because it is asked before the work of decoding is begun, on
//! whatever thread the request is. A share belongs to a value ([`Admission`], [`Ticket`]) and is given back when that
//! is dropped, wherever that happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pace::Pace;
use super::room::Room;

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the same in all variants")]
pub enum Refusal {
    /// It would not fit into an empty queue either; there is no use in sending it again.
    #[error(
        "{items} items of {bytes} bytes together are more than the queue can ever hold ({max_items} items, {max_bytes} bytes)"
    )]
    TooLarge { items: usize, bytes: usize, max_items: usize, max_bytes: usize },
    /// As many items are waiting as may.
    #[error("the queue is full")]
    QueueFull { retry_after: Duration },
    /// What is waiting takes as much memory as it may.
    #[error("the queue is full: no memory is left in it")]
    QueueBytesFull { retry_after: Duration },
    /// The answer would come after the deadline.
    #[error("the answer would come after the deadline")]
    DeadlineUnmeetable { retry_after: Duration },
    /// The deadline has passed already.
    #[error("the deadline has passed")]
    DeadlinePassed,
    /// The model is being taken out of service; another replica may answer.
    #[error("the model is shutting down")]
    Draining,
    /// The dispatcher is gone.
    #[error("the model has been shut down")]
    Closed,
}

impl Refusal {
    /// After what time another try may be let in, by what is known now; `None` where trying again is of no use. May
    /// be shorter than a second: who writes it into a header rounds it up.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooLarge { .. } | Self::DeadlinePassed => None,
            Self::QueueFull { retry_after }
            | Self::QueueBytesFull { retry_after }
            | Self::DeadlineUnmeetable { retry_after } => Some(*retry_after),
            Self::Draining | Self::Closed => Some(Duration::ZERO),
        }
    }

    /// A short name, one of seven, for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::QueueFull { .. } => "queue_full",
            Self::QueueBytesFull { .. } => "queue_bytes_full",
            Self::DeadlineUnmeetable { .. } => "deadline_unmeetable",
            Self::DeadlinePassed => "deadline_passed",
            Self::Draining => "draining",
            Self::Closed => "closed",
        }
    }
}

/// The counts that the bounds are kept by.
///
/// All operations are sequentially consistent: that an admission either sees `draining` or is seen by the drain
/// needs a single order of two variables.
#[derive(Debug)]
pub(super) struct Gate {
    max_items: usize,
    max_bytes: usize,
    /// Admitted and not yet dispatched.
    items: AtomicUsize,
    bytes: AtomicUsize,
    /// Items inside the engine.
    running: AtomicUsize,
    draining: AtomicBool,
    idle: Notify,
    pub(super) pace: Pace,
}

impl Gate {
    pub(super) fn new(max_items: usize, max_bytes: usize, concurrency: usize) -> Self {
        Self {
            max_items,
            max_bytes,
            items: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            idle: Notify::new(),
            pace: Pace::new(concurrency),
        }
    }

    pub(super) fn items(&self) -> usize {
        self.items.load(SeqCst)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(SeqCst)
    }

    pub(super) fn expected_wait(&self, items: usize) -> Duration {
        self.pace.wait(self.ahead(), items)
    }

    fn ahead(&self) -> usize {
        self.items().saturating_add(self.running.load(SeqCst))
    }

    pub(super) fn admit(
        self: &Arc<Self>,
        items: usize,
        bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<Admission, Refusal> {
        if items > self.max_items || bytes > self.max_bytes {
            return Err(Refusal::TooLarge { items, bytes, max_items: self.max_items, max_bytes: self.max_bytes });
        }
        if let Some(deadline) = deadline {
            self.check_deadline(items, deadline)?;
        }
        if !add_within(&self.items, items, self.max_items) {
            let retry_after = self.expected_wait(items);
            return Err(Refusal::QueueFull { retry_after });
        }
        let mut admission = Admission { gate: self.clone(), items, bytes: 0 };
        if !add_within(&self.bytes, bytes, self.max_bytes) {
            drop(admission);
            let retry_after = self.expected_wait(items);
            return Err(Refusal::QueueBytesFull { retry_after });
        }
        admission.bytes = bytes;
        // Only now: a drain that begins later sees the items and waits for them.
        if self.draining.load(SeqCst) {
            return Err(Refusal::Draining);
        }
        Ok(admission)
    }

    /// An idle engine is always tried, whatever was measured before: an estimate that refuses everybody would never
    /// be mended.
    fn check_deadline(&self, items: usize, deadline: Instant) -> Result<(), Refusal> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refusal::DeadlinePassed);
        }
        let ahead = self.ahead();
        if ahead > 0 {
            let needed = self.pace.wait(ahead, items) + self.pace.batch();
            if let Some(late) = needed.checked_sub(left).filter(|late| !late.is_zero()) {
                return Err(Refusal::DeadlineUnmeetable { retry_after: late });
            }
        }
        Ok(())
    }

    /// Counts `items` as running. Called before their tickets are dropped, so that the gate never looks idle between.
    pub(super) fn begin(&self, items: usize) {
        self.running.fetch_add(items, SeqCst);
    }

    /// The engine is done with `items`, and they are answered or queued again.
    pub(super) fn finish(&self, items: usize) {
        self.running.fetch_sub(items, SeqCst);
        self.wake_if_idle();
    }

    /// A ticket for an item that goes back into the queue. It is not refused, because it was admitted once; while the
    /// queue is over its bound by it, newcomers are.
    pub(super) fn readmit(self: &Arc<Self>, bytes: usize) -> Ticket {
        self.items.fetch_add(1, SeqCst);
        self.bytes.fetch_add(bytes, SeqCst);
        Ticket { gate: self.clone(), bytes, room: None }
    }

    fn release(&self, items: usize, bytes: usize) {
        self.bytes.fetch_sub(bytes, SeqCst);
        self.items.fetch_sub(items, SeqCst);
        self.wake_if_idle();
    }

    fn wake_if_idle(&self) {
        if self.draining.load(SeqCst) && self.ahead() == 0 {
            self.idle.notify_waiters();
        }
    }

    /// Refuses whoever comes from now on, and waits until nothing is admitted or running.
    pub(super) async fn drain(&self) {
        self.draining.store(true, SeqCst);
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.ahead() == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// Adds unless the sum would be over the bound.
fn add_within(count: &AtomicUsize, amount: usize, bound: usize) -> bool {
    count.fetch_update(SeqCst, SeqCst, |old| old.checked_add(amount).filter(|&new| new <= bound)).is_ok()
}

/// The share of one request: so many items, so many bytes. Given back when dropped, less the tickets taken from it.
#[derive(Debug)]
#[must_use = "dropping an admission gives its share of the queue back"]
pub struct Admission {
    gate: Arc<Gate>,
    items: usize,
    bytes: usize,
}

impl Admission {
    /// The items that no ticket was taken for.
    pub fn items(&self) -> usize {
        self.items
    }

    /// Takes the ticket of one item, with `bytes` of the share (or what is left of it). `None` when there was one for
    /// each item already.
    pub fn ticket(&mut self, bytes: usize) -> Option<Ticket> {
        self.items = self.items.checked_sub(1)?;
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Some(Ticket { gate: self.gate.clone(), bytes, room: None })
    }

    /// A ticket for each item, the bytes divided evenly among them.
    pub fn split(mut self) -> Vec<Ticket> {
        let mut tickets = Vec::with_capacity(self.items);
        while self.items > 0 {
            tickets.extend(self.ticket(self.bytes.div_ceil(self.items)));
        }
        tickets
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.items > 0 || self.bytes > 0 {
            self.gate.release(self.items, self.bytes);
        }
    }
}

/// The share of one item. Given back when dropped; the scheduler drops it when the item leaves the queue.
#[derive(Debug)]
#[must_use = "dropping a ticket gives its share of the queue back"]
pub struct Ticket {
    gate: Arc<Gate>,
    bytes: usize,
    room: Option<Room>,
}

impl Ticket {
    /// Keeps an item's room for as long as its share.
    pub fn keep(&mut self, room: Option<Room>) {
        self.room = room;
    }

    /// The bytes that this item is counted with.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts the item with its true size, now that it is known. This may go over the bound: the memory is taken
    /// already, and a count that is honest keeps others out.
    pub(super) fn settle(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(0) => {}
            Some(more) => {
                self.gate.bytes.fetch_add(more, SeqCst);
            }
            None => {
                self.gate.bytes.fetch_sub(self.bytes - bytes, SeqCst);
            }
        }
        self.bytes = bytes;
    }

    pub(super) fn belongs_to(&self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.gate, gate)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.release(1, self.bytes);
    }
}
