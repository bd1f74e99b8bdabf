//! From a model's folder to a model that answers: loaded, warm, with its queue. At the start and at run time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::artifact::LocalArtifact;
use crate::endpoint::ServedModel;
use crate::engine::Engine;
use crate::observe::{Metrics, ModelMetrics};
use crate::repository::{self, LoadOptions, LoadedModel, ModelFolder, RepositoryError};
use crate::scheduler::{Departure, Refusal, Scheduler, SchedulerObserver, SchedulerSettings};

/// A version of a model.
pub type ModelKey = (String, u64);

/// Where a version's model is, as long as somebody uses it. Whoever loads it holds the lock, so that it is loaded once.
type Slot = Arc<tokio::sync::Mutex<Weak<ServedModel>>>;

/// Loads models, and knows which are loaded.
pub struct Loader {
    options: Arc<LoadOptions>,
    queue: SchedulerSettings,
    metrics: Arc<Metrics>,
    slots: Mutex<HashMap<ModelKey, Slot>>,
    in_memory: Arc<Mutex<HashMap<ModelKey, usize>>>,
}

impl Loader {
    /// Nothing is loaded yet.
    pub fn new(options: LoadOptions, queue: SchedulerSettings, metrics: Arc<Metrics>) -> Self {
        Self { options: Arc::new(options), queue, metrics, slots: Mutex::default(), in_memory: Arc::default() }
    }

    /// The model of a folder: the one that is already in memory, or else loaded and warmed on a thread of its own. The
    /// folder's name and version say which model it is, wherever it lies; `files` keep it there, for as long as the model
    /// is used.
    ///
    /// # Errors
    /// [`RepositoryError`] says which file is at fault and what to do.
    pub async fn load(
        &self,
        folder: ModelFolder,
        files: Option<LocalArtifact>,
    ) -> Result<Arc<ServedModel>, RepositoryError> {
        let slot = self.slot((folder.name.clone(), folder.version));
        let mut loaded = slot.lock().await;
        if let Some(model) = loaded.upgrade() {
            return Ok(model);
        }
        let options = self.options.clone();
        let directory = folder.directory.clone();
        let result = tokio::task::spawn_blocking(move || repository::load(&folder, &options)).await;
        // A panic while loading is a defect, which the panic's hook logs.
        let failed = |_| RepositoryError::Invalid { path: directory, reason: "loading it failed".to_owned() };
        let model = Arc::new(self.served(result.map_err(failed)??, files));
        tracing::info!(
            model = model.name,
            version = model.version,
            provider = model.provider,
            seconds = model.load_time.as_secs_f64(),
            "model ready"
        );
        *loaded = Arc::downgrade(&model);
        Ok(model)
    }

    /// Forgets where a version was that exists no more.
    pub fn forget(&self, key: &ModelKey) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn slot(&self, key: ModelKey) -> Slot {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    /// Gives a loaded model its queue.
    fn served(&self, loaded: LoadedModel, files: Option<LocalArtifact>) -> ServedModel {
        let version = loaded.version.to_string();
        let observer = Arc::new(QueueObserver {
            // First, so that an earlier one's end doesn't take the series away.
            _series: Series::new((loaded.name.clone(), loaded.version), &self.in_memory, &self.metrics),
            metrics: self.metrics.model(&loaded.name, &version),
            fixed_batch: loaded.engine.fixed_batch(),
        });
        self.metrics.model_loaded(&loaded.name, &version, loaded.load_time);
        ServedModel {
            signature: loaded.engine.signature().clone(),
            provider: loaded.engine.provider().to_string(),
            name: loaded.name,
            version: loaded.version,
            display_name: loaded.display_name,
            task: loaded.task,
            invoke: loaded.invoke,
            file_bytes: loaded.file_bytes,
            load_time: loaded.load_time,
            files,
            scheduler: Scheduler::start(loaded.engine, self.queue, observer),
        }
    }
}

/// Turns what a queue tells into metrics.
struct QueueObserver {
    metrics: ModelMetrics,
    /// The batch that the model insists on.
    fixed_batch: Option<usize>,
    _series: Series,
}

/// The series of a model, which leave with it. One that is loaded again while the last requests of an earlier one are
/// answered shares them.
struct Series {
    key: ModelKey,
    in_memory: Arc<Mutex<HashMap<ModelKey, usize>>>,
    metrics: Arc<Metrics>,
}

impl Series {
    fn new(key: ModelKey, in_memory: &Arc<Mutex<HashMap<ModelKey, usize>>>, metrics: &Arc<Metrics>) -> Self {
        *in_memory.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default() += 1;
        Self { key, in_memory: in_memory.clone(), metrics: metrics.clone() }
    }
}

impl Drop for Series {
    fn drop(&mut self) {
        let mut in_memory = self.in_memory.lock().unwrap_or_else(PoisonError::into_inner);
        let left = in_memory.get_mut(&self.key).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            in_memory.remove(&self.key);
            self.metrics.remove_model(&self.key.0, &self.key.1.to_string());
        }
    }
}

impl SchedulerObserver for QueueObserver {
    fn queue_changed(&self, items: usize, bytes: usize, expected_wait: Duration) {
        self.metrics.queue(items, bytes);
        self.metrics.expected_wait(expected_wait);
    }

    fn batch_formed(&self, size: usize) {
        let padding = self.fixed_batch.map_or(0, |fixed| fixed.saturating_sub(size));
        self.metrics.batch(size, padding);
    }

    fn departed(&self, _departure: Departure) {
        self.metrics.cancelled();
    }

    fn refused(&self, _refusal: &Refusal) {
        self.metrics.refused();
    }
}
