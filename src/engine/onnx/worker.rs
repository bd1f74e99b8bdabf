//! The threads of an engine: each takes batches from a channel and runs them, until the engine is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;

use crossbeam_channel::Receiver;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::bound::BoundSession;
use super::layout::Sessions;
use super::load::Layout;
use super::session::ModelSession;
use super::{LoadError, OnnxOptions, Provider};
use crate::engine::{EngineError, Item, Outcome};

/// A batch, and where its outputs go.
pub(super) struct Job {
    pub(super) batch: Arc<[Item]>,
    pub(super) reply: oneshot::Sender<Result<Outcome, EngineError>>,
}

/// What a thread runs batches on.
enum Worker {
    /// Sessions that other threads may share, in one of their layouts.
    Plain(Arc<Sessions>, Layout),
    /// A session of its own, bound to memory.
    Bound(Box<BoundSession>),
}

impl Worker {
    fn run(&mut self, batch: &[Item]) -> Result<Outcome, EngineError> {
        match self {
            Self::Plain(sessions, layout) => run_guarded(sessions, *layout, batch),
            Self::Bound(session) => guarded(|| session.run(batch)),
        }
    }
}

/// When inputs and outputs are bound to memory that is allocated once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum IoBinding {
    /// On GPUs.
    #[default]
    Auto,
    /// Always, on a CPU too, where each worker then has a session of its own.
    On,
    /// Never.
    Off,
}

impl IoBinding {
    /// All of them, by the names that the setting takes.
    pub const NAMES: [(&'static str, Self); 3] = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];

    /// Whether sessions of this provider are bound.
    pub(super) fn is_on(self, provider: Provider) -> bool {
        match self {
            Self::Auto => provider != Provider::Cpu,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// Starts a thread that runs batches on sessions that others may share.
pub(super) fn start(
    name: &str,
    sessions: Arc<Sessions>,
    layout: Layout,
    inbox: Receiver<Job>,
) -> Result<(), LoadError> {
    spawn(name, move || work(Worker::Plain(sessions, layout), &inbox))
}

/// How batches are run, after all that might have failed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// On inputs and outputs in memory that is allocated once.
    pub memory: bool,
    /// By replaying CUDA graphs.
    pub graphs: bool,
}

/// Starts a thread that binds its session to memory, and waits until that has proved itself. If it doesn't, the thread
/// runs batches without.
pub(super) fn start_bound(
    name: &str,
    index: usize,
    session: Box<ModelSession>,
    example: Item,
    max_batch: usize,
    inbox: Receiver<Job>,
) -> Result<Bound, LoadError> {
    let (is_ready, ready) = mpsc::channel();
    let name = name.to_owned();
    spawn(&thread_name(index), move || {
        // Here, because what CUDA keeps for a session belongs to a thread.
        let worker = match bind(session, &example, max_batch) {
            Ok(bound) => {
                let graphs = bound.has_graphs();
                tracing::debug!(model = name, index, batches = ?bound.sizes(), graphs, "bound to memory");
                let _ = is_ready.send(Bound { memory: true, graphs });
                Worker::Bound(Box::new(bound))
            }
            Err((session, reason)) => {
                tracing::warn!(model = name, index, reason, "serving without bound memory");
                let _ = is_ready.send(Bound::default());
                Worker::Plain(Arc::new(Sessions::alone(&name, *session)), Layout::Narrow)
            }
        };
        work(worker, &inbox);
    })?;
    // One after the other: while a graph is recorded, other threads must not allocate on the GPU.
    ready.recv().map_err(|_| LoadError::WarmUp("a panic in the engine's thread".to_owned()))
}

fn bind(
    session: Box<ModelSession>,
    example: &Item,
    max_batch: usize,
) -> Result<BoundSession, (Box<ModelSession>, String)> {
    let mut bound = BoundSession::new(session, max_batch, ModelSession::memory)?;
    match bound.prove(example) {
        Ok(()) => Ok(bound),
        Err(reason) => Err((bound.into_session(), reason)),
    }
}

/// What a worker's thread is called.
pub(super) fn thread_name(index: usize) -> String {
    format!("engine-{index}")
}

fn spawn(name: &str, life: impl FnOnce() + Send + 'static) -> Result<(), LoadError> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(life);
    spawned.map(drop).map_err(|error| LoadError::WarmUp(format!("no thread could be started: {error}")))
}

fn work(mut worker: Worker, inbox: &Receiver<Job>) {
    while let Ok(Job { batch, reply }) = inbox.recv() {
        let result = worker.run(&batch);
        // The inputs are freed here, not by whoever waits for the answer.
        drop(batch);
        let _ = reply.send(result);
    }
}

/// Runs a batch on sessions that others may share; a panic is an error of the batch.
pub(super) fn run_guarded(sessions: &Sessions, layout: Layout, batch: &[Item]) -> Result<Outcome, EngineError> {
    guarded(|| sessions.run(layout, batch))
}

/// A panic must neither end the thread nor leave the batch without an answer. The session itself is only a handle: what it
/// points to lives in the runtime, which doesn't unwind; and bound memory is written anew for each batch.
fn guarded(run: impl FnOnce() -> Result<Vec<Item>, EngineError>) -> Result<Outcome, EngineError> {
    let began = Instant::now();
    let outputs = catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err(EngineError::Failed("a panic in the engine's thread".to_owned())))?;
    Ok(Outcome { outputs, began })
}

/// The settings that make a model's sessions separate ones.
pub(super) fn has_own_sessions(provider: Provider, options: &OnnxOptions) -> bool {
    provider != Provider::Cpu || options.io_binding.is_on(provider)
}
