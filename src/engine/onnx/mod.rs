//! Models on ONNX Runtime.
//!
//! [`OnnxModel::open`] loads the sessions, so that the signature can be checked against the task;
//! [`OnnxModel::start`] warms them and gives the [`OnnxEngine`] that serves.
//!
//! An engine owns its threads, its *workers*, which are fed by a channel; nothing waits for a lock. On a CPU the workers
//! share one session, and so one copy of the weights, and the default is a worker per core with one thread each, which
//! gives the most images a second. On a GPU each worker has a session of its own, by default there is one. Dropping the
//! engine ends its threads and frees the sessions.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::oneshot;

use super::{BoxFuture, Engine, EngineError, Item, Signature};

mod convert;
pub mod library;
mod session;
mod shared;

use library::LibraryError;
use session::ModelSession;

/// What computes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The processor's cores.
    #[default]
    Cpu,
    /// An NVIDIA GPU by CUDA.
    Cuda,
    /// An NVIDIA GPU by TensorRT; what that can't take runs on CUDA.
    TensorRt,
}

impl Provider {
    /// All of them, by the names that the setting takes.
    pub const NAMES: [(&'static str, Self); 3] =
        [("cpu", Self::Cpu), ("cuda", Self::Cuda), ("tensorrt", Self::TensorRt)];
}

impl fmt::Display for Provider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        })
    }
}

impl FromStr for Provider {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::NAMES.into_iter().find_map(|(name, provider)| (name == text).then_some(provider)).ok_or(())
    }
}

/// How to run models.
#[derive(Debug, Clone)]
pub struct OnnxOptions {
    /// ONNX Runtime's library, when it is not to be sought in the usual places.
    pub library: Option<PathBuf>,
    /// Folders whose libraries are loaded first: CUDA's and cuDNN's, where the system's loader doesn't know them.
    pub library_directories: Vec<PathBuf>,
    /// What computes.
    pub provider: Provider,
    /// Whether a provider that can't be had is replaced by the CPU, with a warning.
    pub fallback: bool,
    /// Which GPU.
    pub device_id: i32,
    /// Batches that are run side by side; 0 chooses.
    pub workers: usize,
    /// Threads that share the work of one batch; 0 chooses.
    pub threads: usize,
    /// Whether a session's threads spin while they wait. Faster on cores of one's own, ruinous on shared ones.
    pub spin: bool,
    /// The largest batch; 0 chooses.
    pub max_batch: usize,
    /// TensorRT computes in fp16 where it may.
    pub tensorrt_fp16: bool,
    /// Where TensorRT keeps the engines that it builds.
    pub tensorrt_engine_cache: Option<PathBuf>,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self {
            library: None,
            library_directories: Vec::new(),
            provider: Provider::Cpu,
            fallback: false,
            device_id: 0,
            workers: 0,
            threads: 0,
            spin: false,
            max_batch: 0,
            tensorrt_fp16: false,
            tensorrt_engine_cache: None,
        }
    }
}

/// Why a model could not be made ready.
#[derive(Debug, Error)]
pub enum LoadError {
    /// ONNX Runtime itself is missing.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The file can't be read, isn't a model, or uses what the runtime lacks.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The ONNX file.
        path: PathBuf,
        /// What the runtime says.
        reason: String,
    },
    /// The provider that was asked for can't be had.
    #[error(
        "the provider `{provider}` can't be used: {reason}\nSet engine.provider = \"cpu\", or engine.fallback = true \
         to use the CPU where it is missing."
    )]
    Provider {
        /// Which one was asked for.
        provider: Provider,
        /// What the runtime says.
        reason: String,
    },
    /// The first run failed.
    #[error("the model failed when it was run for the first time: {0}")]
    WarmUp(String),
}

/// What a model is warmed with.
#[derive(Debug, Clone)]
pub struct Example {
    /// One item.
    pub item: Item,
    /// Whether clients send the like, so that a model that fails on it is broken. Else only its shapes are right.
    pub is_typical: bool,
}

/// A loaded model that isn't running yet.
pub struct OnnxModel {
    /// One for each worker; on a CPU all are the same.
    sessions: Vec<Arc<ModelSession>>,
    provider: Provider,
    max_batch: usize,
    /// Neither a setting nor the model itself says how large a batch is.
    batch_is_free: bool,
}

impl OnnxModel {
    /// Loads the model from its file. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`LoadError`] says what is missing and how to mend it.
    pub fn open(path: &Path, options: &OnnxOptions) -> Result<Self, LoadError> {
        let environment = library::environment(options.library.as_deref())?;
        if options.provider != Provider::Cpu {
            options.library_directories.iter().try_for_each(|directory| library::preload(directory))?;
        }
        match Self::open_with(&environment, path, options.provider, options) {
            Err(error @ LoadError::Provider { .. }) if options.fallback => {
                tracing::warn!(%error, "falling back to the CPU");
                Self::open_with(&environment, path, Provider::Cpu, options)
            }
            result => result,
        }
    }

    fn open_with(
        environment: &ort::environment::Environment,
        path: &Path,
        provider: Provider,
        options: &OnnxOptions,
    ) -> Result<Self, LoadError> {
        let (workers, threads) = layout(provider, options, cores());
        let open = || ModelSession::open(environment, path, provider, threads, options).map(Arc::new);
        let sessions = match provider {
            Provider::Cpu => vec![open()?; workers],
            Provider::Cuda | Provider::TensorRt => (0..workers).map(|_| open()).collect::<Result<Vec<_>, _>>()?,
        };
        let fixed = sessions[0].fixed_batch();
        let chosen = match (options.max_batch, provider) {
            // On a CPU a batch brings no more images a second, only a longer wait.
            (0, Provider::Cpu) => 1,
            (0, _) => 16,
            (set, _) => set,
        };
        let batch_is_free = fixed.is_none() && options.max_batch == 0;
        Ok(Self { sessions, provider, max_batch: fixed.unwrap_or(chosen), batch_is_free })
    }

    /// Makes batches of up to this many items, unless a setting or the model itself says otherwise.
    pub fn prefer_batch(&mut self, items: usize) {
        if self.batch_is_free {
            self.max_batch = items.max(1);
        }
    }

    /// What the model takes and gives.
    pub fn signature(&self) -> &Signature {
        self.sessions[0].signature()
    }

    /// What computes, after any fallback.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The length of axis 0 of the inputs, when the model fixes it.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.sessions[0].fixed_batch()
    }

    /// Runs the example through each session, so that no request pays for a first run, and starts to serve. Gives the
    /// outputs for the example too.
    ///
    /// # Errors
    /// [`LoadError::WarmUp`] when the model fails on an example that is typical.
    pub fn start(self, name: &str, example: Option<Example>) -> Result<(OnnxEngine, Option<Item>), LoadError> {
        let Self { sessions, provider, max_batch, batch_is_free: _ } = self;
        let signature = sessions[0].signature().clone();
        let (concurrency, fixed_batch) = (sessions.len(), sessions[0].fixed_batch());
        let mut warm_up = Duration::ZERO;
        let mut outputs = None;
        // Workers that share a session come one after the other, and need it warmed only once.
        let mut distinct: Vec<&Arc<ModelSession>> = sessions.iter().collect();
        distinct.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for session in distinct {
            let Some(Example { item, is_typical }) = &example else { break };
            let begin = Instant::now();
            let full = vec![item.clone(); max_batch];
            let sizes = if max_batch == 1 { vec![1] } else { vec![1, max_batch] };
            for batch in sizes.into_iter().map(|size| &full[..size]) {
                match session.run(batch) {
                    Ok(items) => outputs = items.into_iter().next(),
                    Err(error) if *is_typical => return Err(LoadError::WarmUp(error.to_string())),
                    Err(error) => {
                        tracing::warn!(model = name, %error, "the model can't be warmed with zeros and empty strings");
                        break;
                    }
                }
            }
            warm_up += begin.elapsed();
        }
        tracing::debug!(model = name, milliseconds = warm_up.as_millis(), "warmed");
        let (jobs, inbox) = crossbeam_channel::unbounded();
        for (index, session) in sessions.into_iter().enumerate() {
            let inbox = inbox.clone();
            std::thread::Builder::new()
                .name(format!("engine-{index}"))
                .spawn(move || work(&session, &inbox))
                .map_err(|error| LoadError::WarmUp(format!("no thread could be started: {error}")))?;
        }
        Ok((OnnxEngine { signature, provider, max_batch, concurrency, fixed_batch, jobs }, outputs))
    }
}

/// How many workers, and how many threads each.
///
/// Most images a second come from one single-threaded worker per core; a GPU needs one worker and few threads.
fn layout(provider: Provider, options: &OnnxOptions, cores: usize) -> (usize, usize) {
    match (provider, options.workers, options.threads) {
        (Provider::Cpu, 0, 0) => (cores, 1),
        (Provider::Cpu, 0, threads) => ((cores / threads).max(1), threads),
        (Provider::Cpu, workers, 0) => (workers, (cores / workers).max(1)),
        (_, workers, threads) => (workers.max(1), threads.max(1)),
    }
}

/// The cores that this process may use (its affinity and cgroup quota count).
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

struct Job {
    batch: Arc<[Item]>,
    reply: oneshot::Sender<Result<Vec<Item>, EngineError>>,
}

/// The life of an engine thread: until the engine is dropped.
fn work(session: &ModelSession, inbox: &Receiver<Job>) {
    while let Ok(Job { batch, reply }) = inbox.recv() {
        // A panic must neither end the thread nor leave the batch without an answer. The session itself is only
        // a handle: what it points to lives in the runtime, which doesn't unwind.
        let result = catch_unwind(AssertUnwindSafe(|| session.run(&batch)))
            .unwrap_or_else(|_| Err(EngineError::Failed("a panic in the engine's thread".to_owned())));
        // The inputs are freed here, not by whoever waits for the answer.
        drop(batch);
        let _ = reply.send(result);
    }
}

/// A model that serves.
#[derive(Debug)]
pub struct OnnxEngine {
    signature: Signature,
    provider: Provider,
    max_batch: usize,
    concurrency: usize,
    fixed_batch: Option<usize>,
    jobs: Sender<Job>,
}

impl OnnxEngine {
    /// The length of axis 0, when the model fixes it; smaller batches are padded to it.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }

    /// What computes.
    pub fn provider(&self) -> Provider {
        self.provider
    }
}

impl Engine for OnnxEngine {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn max_batch(&self) -> usize {
        self.max_batch
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn run(&self, batch: Arc<[Item]>) -> BoxFuture<Result<Vec<Item>, EngineError>> {
        let (reply, answer) = oneshot::channel();
        let sent = self.jobs.send(Job { batch, reply });
        Box::pin(async move {
            sent.map_err(|_| EngineError::Stopped)?;
            answer.await.unwrap_or(Err(EngineError::Stopped))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_single_threaded_session_per_core_unless_told_otherwise() {
        let with = |workers, threads| OnnxOptions { workers, threads, ..OnnxOptions::default() };
        assert_eq!(layout(Provider::Cpu, &with(0, 0), 8), (8, 1));
        assert_eq!(layout(Provider::Cpu, &with(1, 0), 8), (1, 8));
        assert_eq!(layout(Provider::Cpu, &with(0, 4), 8), (2, 4));
        assert_eq!(layout(Provider::Cpu, &with(0, 16), 8), (1, 16));
        assert_eq!(layout(Provider::Cpu, &with(3, 2), 8), (3, 2));
        assert_eq!(layout(Provider::Cuda, &with(0, 0), 8), (1, 1));
    }

    #[test]
    fn a_provider_is_known_by_its_name() {
        assert_eq!("tensorrt".parse(), Ok(Provider::TensorRt));
        assert_eq!("gpu".parse::<Provider>(), Err(()));
    }
}
