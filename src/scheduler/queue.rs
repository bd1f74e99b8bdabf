//! What the dispatcher keeps of the items that were submitted: who is owed an answer, and what waits for the engine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admission::Ticket;
use super::{Completed, ScheduleError};
use crate::engine::Item;
use crate::tensor::Tensor;

/// The number of a submission. Numbers are given in the order of submission, so they are also the places in the queue.
pub(super) type Number = u64;

/// What a caller gets.
pub(super) type Answer = Result<Completed, ScheduleError>;

/// Somebody who waits for an answer.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) reply: oneshot::Sender<Answer>,
    pub(super) submitted: Instant,
    pub(super) deadline: Option<Instant>,
}

/// All who are owed an answer, whether their item waits or runs. To answer is to take the caller out, so nobody can
/// be answered twice.
#[derive(Debug, Default)]
pub(super) struct Callers {
    by_number: HashMap<Number, Caller>,
    deadlines: BTreeSet<(Instant, Number)>,
}

impl Callers {
    pub(super) fn insert(&mut self, number: Number, caller: Caller) {
        if let Some(deadline) = caller.deadline {
            self.deadlines.insert((deadline, number));
        }
        self.by_number.insert(number, caller);
    }

    pub(super) fn take(&mut self, number: Number) -> Option<Caller> {
        let caller = self.by_number.remove(&number)?;
        if let Some(deadline) = caller.deadline {
            self.deadlines.remove(&(deadline, number));
        }
        Some(caller)
    }

    /// Whether the caller is there and still listens.
    pub(super) fn listens(&self, number: Number) -> bool {
        self.by_number.get(&number).is_some_and(|caller| !caller.reply.is_closed())
    }

    /// The number of one caller whose deadline has come.
    pub(super) fn expired(&self, now: Instant) -> Option<Number> {
        let &(deadline, number) = self.deadlines.first()?;
        (deadline <= now).then_some(number)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }
}

/// An item that waits for the engine, with its share of the queue.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) item: Item,
    pub(super) ticket: Ticket,
    /// When it stops waiting for others to share its batch.
    pub(super) ready_at: Instant,
    /// It was in a batch that failed, and now runs by itself.
    pub(super) alone: bool,
}

/// The items that wait, first come first served. Any of them can leave.
///
/// An ordered map and no deque: whoever leaves from the middle (cancelled, expired) is gone at once with its memory,
/// and an item that comes back (its batch failed) has its old place.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: BTreeMap<Number, Waiter>,
}

impl Queue {
    pub(super) fn insert(&mut self, number: Number, waiter: Waiter) {
        self.waiters.insert(number, waiter);
    }

    pub(super) fn remove(&mut self, number: Number) -> Option<Waiter> {
        self.waiters.remove(&number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Whether the next batch can't get any bigger by waiting.
    pub(super) fn has_full_batch(&self, max_batch: usize) -> bool {
        let Some((_, first)) = self.waiters.first_key_value() else { return false };
        if first.alone {
            return true;
        }
        self.waiters.len() >= max_batch
            && self.waiters.values().filter(|waiter| alike(&first.item, &waiter.item)).take(max_batch).count()
                == max_batch
    }

    /// The earliest moment at which one of the waiters stops waiting for others. Looks at all of them, which is asked
    /// only while there are fewer than a batch.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        self.waiters.values().map(|waiter| waiter.ready_at).min()
    }

    /// Takes the next batch: the first item and, unless it is to be alone, those behind it of the same shapes up to
    /// `max_batch`. Items of other shapes keep their places, so that each is first at some time.
    /// Callers who don't listen any more are passed over and handed to `gone`.
    pub(super) fn take_batch(
        &mut self,
        max_batch: usize,
        callers: &Callers,
        mut gone: impl FnMut(Number),
    ) -> Vec<(Number, Waiter)> {
        let mut batch: Vec<(Number, Waiter)> = Vec::with_capacity(max_batch.min(self.waiters.len()));
        let mut from = 0;
        while batch.len() < max_batch
            && let Some((&number, waiter)) = self.waiters.range(from..).next()
        {
            from = number + 1;
            if !callers.listens(number) {
                self.waiters.remove(&number);
                gone(number);
                continue;
            }
            let fits = match batch.first() {
                None => true,
                Some(_) if waiter.alone => break,
                Some((_, first)) => alike(&first.item, &waiter.item),
            };
            if !fits {
                continue;
            }
            batch.extend(self.waiters.remove_entry(&number));
            if batch.len() == 1 && batch[0].1.alone {
                break;
            }
        }
        batch
    }
}

/// Whether two items can share a batch: their tensors differ in no axis but the first.
fn alike(one: &Item, other: &Item) -> bool {
    fn row(tensor: &Tensor) -> Option<&[usize]> {
        tensor.shape().get(1..)
    }
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| row(one) == row(other))
}

/// When an item that came at `submitted` stops waiting for company: after `max_delay`, and early enough for a batch
/// that takes `run` to be done by its deadline.
pub(super) fn ready_at(submitted: Instant, max_delay: Duration, deadline: Option<Instant>, run: Duration) -> Instant {
    let patient = submitted.checked_add(max_delay).unwrap_or(submitted);
    let latest = deadline.and_then(|deadline| deadline.checked_sub(run));
    latest.map_or(patient, |latest| latest.min(patient))
}
