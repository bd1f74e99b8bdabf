//! The threads on which pictures are decoded.
//!
//! A pool of its own, so that neither the threads that serve connections nor the engine's wait for a decoder, and so
//! that each thread keeps its buffers. It has no bound: whoever gives it work holds an admission of a
//! queue, which has one.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send + 'static>;

/// A handle; the threads end when the last one is dropped.
#[derive(Clone)]
pub struct WorkPool {
    jobs: Sender<Job>,
    threads: usize,
}

impl WorkPool {
    /// Starts this many threads; 0 takes one per core.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            set => set,
        };
        let (jobs, inbox) = unbounded();
        for index in 0..threads {
            let inbox: Receiver<Job> = inbox.clone();
            std::thread::Builder::new().name(format!("prepare-{index}")).spawn(move || {
                // A panic costs its own job its answer, which the waiting side sees, and nobody else.
                inbox.iter().for_each(|job| drop(catch_unwind(AssertUnwindSafe(job))));
            })?;
        }
        Ok(Self { jobs, threads })
    }

    /// How many jobs are done at once.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Queues work, in order of arrival. The answer fails if the work panics. When the answer is dropped before the
    /// work has begun, the work is not done.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        let job = move || {
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        };
        // Sending fails only when all threads are gone; the answer then fails too.
        let _ = self.jobs.send(Box::new(job));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_panic_fails_its_own_work_only() {
        let pool = WorkPool::start(1).unwrap();
        assert!(pool.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_not_done() {
        let pool = WorkPool::start(1).unwrap();
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let first = pool.run(move || gate.recv().is_ok());
        let done = Arc::new(AtomicBool::new(false));
        let flag = done.clone();
        drop(pool.run(move || flag.store(true, Ordering::SeqCst)));
        go.send(()).unwrap();
        first.await.unwrap();
        pool.run(|| ()).await.unwrap();
        assert!(!done.load(Ordering::SeqCst));
    }
}
