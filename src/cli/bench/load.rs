//! Puts the load on: one task a connection, all on one thread, which leaves the other cores to a server beside it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::record::{Fault, Record, Sample};
use super::schedule::{Pace, Schedule};
use super::target::Target;

/// How long a connection that could not be opened is left alone.
const BEFORE_RETRY: Duration = Duration::from_millis(100);
/// How long requests that were due before the end may wait for a connection after it.
const GRACE: Duration = Duration::from_secs(1);

/// A run in progress.
pub struct Load {
    schedule: Schedule,
    target: Arc<Target>,
    timeout: Duration,
    connections: usize,
    record: Mutex<Record>,
    /// Requests sent or tried so far, whose number tells whose turn it is.
    turns: AtomicUsize,
    /// Open loop: one permit for each request that is due and not sent.
    due: Semaphore,
    /// Open loop: the next request to be sent.
    next: AtomicU64,
}

impl Load {
    /// A run that starts at the schedule's start.
    pub fn new(schedule: Schedule, target: Target, connections: usize, timeout: Duration) -> Self {
        Self {
            record: Mutex::new(Record::new(schedule.clone())),
            schedule,
            target: Arc::new(target),
            timeout,
            connections,
            turns: AtomicUsize::new(0),
            due: Semaphore::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// What was seen so far.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open loop: requests that were due by `now` and never sent; of those that count.
    pub fn unsent(&self, now: Instant) -> u64 {
        match self.schedule.pace {
            Pace::Closed { .. } => 0,
            Pace::Open { .. } => {
                let before = self.schedule.due_by(self.schedule.begin - Duration::from_nanos(1));
                let first = before.max(self.next.load(Ordering::Relaxed));
                self.schedule.due_by(now).saturating_sub(first)
            }
        }
    }

    /// Puts the load on until the end; returns when the last answer is there.
    pub async fn run(self: &Arc<Self>) {
        let mut workers = JoinSet::new();
        for index in 0..self.connections {
            let load = self.clone();
            match self.schedule.pace {
                Pace::Closed { think_time } => workers.spawn(async move { load.ask_in_turn(index, think_time).await }),
                Pace::Open { .. } => workers.spawn(async move { load.ask_when_due().await }),
            };
        }
        if matches!(self.schedule.pace, Pace::Open { .. }) {
            let load = self.clone();
            // A thread of its own sleeps to the microsecond; the timers of tokio to the millisecond.
            std::thread::spawn(move || {
                be_punctual();
                load.release();
            });
        }
        while workers.join_next().await.is_some() {}
    }

    /// Ends an open loop's release of requests early.
    pub fn stop(&self) {
        self.due.close();
    }

    async fn ask_in_turn(&self, index: usize, think_time: Duration) {
        let mut connection = Connection::new(self.target.clone(), self.timeout);
        tokio::time::sleep_until(self.schedule.arrival(index, self.connections).into()).await;
        while Instant::now() < self.schedule.end {
            let is_connected = self.ask(&mut connection, None).await;
            let pause = if is_connected { think_time } else { think_time.max(BEFORE_RETRY) };
            if !pause.is_zero() {
                tokio::time::sleep(pause.min(self.schedule.end.saturating_duration_since(Instant::now()))).await;
            }
        }
    }

    async fn ask_when_due(&self) {
        let mut connection = Connection::new(self.target.clone(), self.timeout);
        // Opened beforehand if possible: a connection is part of a request only where the server closes it each time.
        let _ = connection.open().await;
        while let Ok(permit) = self.due.acquire().await {
            permit.forget();
            let due = self.schedule.due(self.next.fetch_add(1, Ordering::Relaxed));
            self.ask(&mut connection, Some(due)).await;
        }
    }

    /// Sends a request, records what came of it, and says whether there was a connection.
    async fn ask(&self, connection: &mut Connection, due: Option<Instant>) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let exchange = connection.exchange(turn).await;
        let ended = Instant::now();
        let is_connected = !matches!(exchange.outcome, Err((Fault::Connect, _)));
        let body = self.target.body_length(turn);
        let due = due.unwrap_or(exchange.sent);
        self.record().add(Sample { due, sent: exchange.sent, ended, body, outcome: exchange.outcome });
        is_connected
    }

    /// Gives out the requests as they become due.
    fn release(&self) {
        let total = self.schedule.total();
        let mut released = 0;
        while released < total && !self.due.is_closed() {
            let due = self.schedule.due_by(Instant::now());
            self.due.add_permits((due - released) as usize);
            released = due;
            // Not longer at once, so that an interrupted run ends.
            let pause = self.schedule.due(released).saturating_duration_since(Instant::now());
            std::thread::sleep(pause.min(BEFORE_RETRY));
        }
        let limit = self.schedule.end + GRACE;
        while self.next.load(Ordering::Relaxed) < total && Instant::now() < limit && !self.due.is_closed() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.due.close();
    }
}

/// Has the calling thread woken when it is time, not up to 50 us later, which is how Linux saves wake-ups.
fn be_punctual() {
    // Without it requests are sent a little later, which their latencies count.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZero::new(1));
}
