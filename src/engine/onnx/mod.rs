//! Models on ONNX Runtime.
//!
//! [`OnnxModel::open`] loads the sessions, so that the signature can be checked against the task;
//! [`OnnxModel::start`] warms them and gives the [`OnnxEngine`] that serves.
//!
//! An engine owns its threads, its *workers*, which are fed by a channel; nothing waits for a lock. On a CPU the workers
//! share their sessions, and so one copy of the weights, and the default is a worker per core with one thread each, which
//! gives the most images a second, and all cores for a batch that comes alone, which is answered soonest. On a GPU each
//! worker has a session of its own, bound to memory (`bound`); by default there are two, so that copies to and from the
//! GPU overlap with computing. Dropping the engine ends its threads and frees the sessions.
//!
//! A batch that takes some microseconds, as a row of numbers through a few trees does, is run by whoever brings it: to
//! wake a thread for it, and to be woken by it, would take several times as long.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::oneshot;

use super::{BoxFuture, Engine, EngineError, Item, Outcome, Signature, memory};

mod affinity;
mod bound;
mod convert;
mod file;
mod layout;
pub mod library;
mod load;
mod optimised;
mod pace;
mod provider;
mod session;
mod shared;
mod slot;
mod weights;
mod worker;

pub use provider::{CudaOptions, TensorRtOptions};
pub use worker::{Bound, IoBinding};

use layout::{Sessions, WORTH_SHARING, cores, workers_and_threads};
use library::LibraryError;
use load::Layout;
use pace::UNKNOWN;
use session::ModelSession;
use weights::SharedWeights;
use worker::{Job, has_own_sessions, run_guarded, thread_name};

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
    /// When inputs and outputs are bound to memory that is allocated once.
    pub io_binding: IoBinding,
    /// For CUDA, and what TensorRT leaves to it.
    pub cuda: CudaOptions,
    /// For TensorRT.
    pub tensorrt: TensorRtOptions,
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
            io_binding: IoBinding::Auto,
            cuda: CudaOptions::default(),
            tensorrt: TensorRtOptions::default(),
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
    path: PathBuf,
    options: OnnxOptions,
    /// One for each worker; on a CPU all are the same, unless they are bound to memory.
    sessions: Vec<Arc<ModelSession>>,
    /// What a second layout of the CPU's cores would share.
    weights: Option<Arc<SharedWeights>>,
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
        let (workers, threads) = workers_and_threads(provider, options, cores());
        let nothing_set = options.workers == 0 && options.threads == 0;
        let own_sessions = has_own_sessions(provider, options);
        let mut weights = match nothing_set && workers > 1 && !own_sessions {
            true => shared_weights(environment, path),
            false => None,
        };
        let open = |weights| ModelSession::open(environment, path, provider, threads, options, weights).map(Arc::new);
        let sessions = match own_sessions {
            false => {
                let shared = weights.clone().and_then(|weights| open(Some(weights)).ok());
                // What may be wrong is told without what sharing adds to it.
                let session = match shared {
                    Some(session) => session,
                    None => {
                        weights = None;
                        open(None)?
                    }
                };
                vec![session; workers]
            }
            true => (0..workers).map(|_| open(None)).collect::<Result<Vec<_>, _>>()?,
        };
        let fixed = sessions[0].fixed_batch();
        let chosen = match (options.max_batch, provider) {
            // On a CPU a batch brings no more images a second, only a longer wait.
            (0, Provider::Cpu) => 1,
            (0, _) => 16,
            (set, _) => set,
        };
        let batch_is_free = fixed.is_none() && options.max_batch == 0;
        let (path, options) = (path.to_path_buf(), options.clone());
        Ok(Self { path, options, sessions, weights, provider, max_batch: fixed.unwrap_or(chosen), batch_is_free })
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
        let Self { path, options, sessions, weights, provider, max_batch, batch_is_free: _ } = self;
        let signature = sessions[0].signature().clone();
        let (concurrency, fixed_batch) = (sessions.len(), sessions[0].fixed_batch());
        let begin = Instant::now();
        let mut outputs = None;
        let mut narrow_run = UNKNOWN;
        // Workers that share a session come one after the other, and need it warmed only once.
        let mut distinct: Vec<&Arc<ModelSession>> = sessions.iter().collect();
        distinct.dedup_by(|a, b| Arc::ptr_eq(a, b));
        for session in distinct {
            let Some(example) = &example else { break };
            let warmed = warm(name, session, example, max_batch)?;
            (outputs, narrow_run) = (warmed.outputs, warmed.run);
        }
        let wide = weights.as_ref().filter(|_| narrow_run >= WORTH_SHARING).and_then(|weights| {
            give_back(Some(weights));
            wide_session(name, &path, &options, weights)
        });
        let wide_run = match (&wide, &example) {
            (Some(session), Some(example)) => warm(name, session, example, max_batch)?.run,
            _ => UNKNOWN,
        };
        if let Some(weights) = &weights {
            weights.all_built();
        }
        give_back(weights.as_ref());
        memory::give_back_code();
        let lent = weights.as_ref().map_or(0, |weights| weights.lent());
        tracing::debug!(
            model = name,
            milliseconds = begin.elapsed().as_millis(),
            wide = wide.is_some(),
            lent,
            "warmed"
        );
        let (jobs, inbox) = crossbeam_channel::unbounded();
        let wide = wide.map(|session| (session, wide_run));
        let has_wide = wide.is_some();
        let shared = (!has_own_sessions(provider, &options))
            .then(|| Arc::new(Sessions::new(name, concurrency, (sessions[0].clone(), narrow_run), wide)));
        let mut wide_jobs = None;
        if let Some(shared) = shared.as_ref().filter(|_| has_wide) {
            let (jobs, inbox) = crossbeam_channel::unbounded();
            // One thread, so that what is wide runs one after the other.
            worker::start("engine-wide", shared.clone(), Layout::Wide, inbox)?;
            wide_jobs = Some(jobs);
        }
        let is_bound = options.io_binding.is_on(provider);
        let mut bound = None;
        for (index, session) in sessions.into_iter().enumerate() {
            match (&shared, &example, Arc::try_unwrap(session)) {
                // What can't be run on the example can't prove itself.
                (None, Some(example), Ok(session)) if is_bound && outputs.is_some() => {
                    let session = Box::new(session);
                    let this =
                        worker::start_bound(name, index, session, example.item.clone(), max_batch, inbox.clone())?;
                    // All are alike, or else the least is told.
                    let least = |other: Bound| Bound {
                        memory: other.memory && this.memory,
                        graphs: other.graphs && this.graphs,
                    };
                    bound = Some(bound.map_or(this, least));
                }
                (None, _, session) => {
                    let session = session.map_or_else(|session| session, Arc::new);
                    let sessions = Arc::new(Sessions::new(name, 1, (session, narrow_run), None));
                    worker::start(&thread_name(index), sessions, Layout::Narrow, inbox.clone())?;
                }
                (Some(shared), ..) => {
                    worker::start(&thread_name(index), shared.clone(), Layout::Narrow, inbox.clone())?;
                }
            }
        }
        let bound = bound.unwrap_or_default();
        let engine =
            OnnxEngine { signature, provider, max_batch, concurrency, fixed_batch, bound, jobs, wide_jobs, shared };
        Ok((engine, outputs))
    }
}

/// What a model's first runs show.
struct Warmed {
    /// The outputs for the example, unless the model can't take it.
    outputs: Option<Item>,
    /// How long one example takes.
    run: Duration,
}

/// Runs batches of one and of the most items through a session.
fn warm(name: &str, session: &ModelSession, example: &Example, max_batch: usize) -> Result<Warmed, LoadError> {
    let full = vec![example.item.clone(); max_batch];
    let mut warmed = Warmed { outputs: None, run: UNKNOWN };
    // The first run of all pays for what later ones find there, so the second one is timed.
    let sizes = if max_batch == 1 { vec![1, 1] } else { vec![1, 1, max_batch] };
    for size in sizes {
        let begin = Instant::now();
        match session.run(&full[..size]) {
            Ok(items) => warmed.outputs = items.into_iter().next(),
            Err(error) if example.is_typical => return Err(LoadError::WarmUp(error.to_string())),
            Err(error) => {
                tracing::warn!(model = name, %error, "the model can't be warmed with zeros and empty strings");
                break;
            }
        }
        if size == 1 {
            warmed.run = warmed.run.min(begin.elapsed());
        }
    }
    Ok(warmed)
}

/// The weights of a model for more sessions than one, where that is possible.
fn shared_weights(environment: &ort::environment::Environment, path: &Path) -> Option<Arc<SharedWeights>> {
    let shared = SharedWeights::open(environment, path).inspect_err(|error| {
        tracing::debug!(path = %path.display(), %error, "the weights can't be shared between sessions");
    });
    shared.ok().flatten().map(Arc::new)
}

/// A session on all cores. Without it the model serves as well, only a lone request has to wait longer.
fn wide_session(
    name: &str,
    path: &Path,
    options: &OnnxOptions,
    weights: &Arc<SharedWeights>,
) -> Option<Arc<ModelSession>> {
    let environment = library::environment(options.library.as_deref()).ok()?;
    let session = ModelSession::open(&environment, path, Provider::Cpu, cores(), options, Some(weights.clone()))
        .inspect_err(
            |error| tracing::warn!(model = name, %error, "lone requests get one core, as a second session failed"),
        );
    session.ok().map(Arc::new)
}

/// Gives back what loading needed and serving doesn't.
fn give_back(weights: Option<&Arc<SharedWeights>>) {
    if let Some(weights) = weights {
        weights.give_back();
    }
    memory::give_back();
}

/// A model that serves.
pub struct OnnxEngine {
    signature: Signature,
    provider: Provider,
    max_batch: usize,
    concurrency: usize,
    fixed_batch: Option<usize>,
    bound: Bound,
    jobs: Sender<Job>,
    /// For batches that take all cores.
    wide_jobs: Option<Sender<Job>>,
    /// Where workers share their sessions: what chooses among them, and what runs batches that are done sooner than they are
    /// handed over.
    shared: Option<Arc<Sessions>>,
}

impl fmt::Debug for OnnxEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OnnxEngine").field("signature", &self.signature).finish_non_exhaustive()
    }
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

    /// How batches are run.
    pub fn bound(&self) -> Bound {
        self.bound
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

    fn run(&self, batch: Arc<[Item]>) -> BoxFuture<Result<Outcome, EngineError>> {
        let layout = match &self.shared {
            Some(sessions) if sessions.is_short(&batch) => {
                return Box::pin(std::future::ready(run_guarded(sessions, Layout::Narrow, &batch)));
            }
            Some(sessions) => sessions.choose(&batch),
            None => Layout::Narrow,
        };
        let jobs = match (layout, &self.wide_jobs) {
            (Layout::Wide, Some(wide_jobs)) => wide_jobs,
            _ => &self.jobs,
        };
        let (reply, answer) = oneshot::channel();
        let sent = jobs.send(Job { batch, reply });
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
    fn a_provider_is_known_by_its_name() {
        assert_eq!("tensorrt".parse(), Ok(Provider::TensorRt));
        assert_eq!("gpu".parse::<Provider>(), Err(()));
    }
}
