//! Instances through a model: prepared on the [`WorkPool`], queued, awaited in their order, and something made of each
//! one's outputs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use super::{Answer, Chosen, ServiceError, StageTimes, WorkPool};
use crate::endpoint::DeployedModel;
use crate::scheduler::{Admission, Pending};
use crate::task::{ImageFacts, InputError, Instance, OutputError, PreparationTimes, Task};
use crate::tensor::Tensor;

/// What prepares instances, and what a request's may cost.
#[derive(Clone)]
pub struct Evaluator {
    /// Where pictures are decoded.
    pub pool: WorkPool,
    /// Pixels that all pictures of one request may have together.
    pub request_pixels: u64,
}

/// What came of some instances.
pub(super) struct Evaluated<T> {
    pub results: Vec<T>,
    pub times: StageTimes,
    pub images: Vec<ImageFacts>,
}

/// What preparing an instance led to.
pub(super) struct Submitted {
    pub pending: Pending,
    pub times: PreparationTimes,
    pub image: Option<ImageFacts>,
    /// How long it waited to be prepared.
    pub waited: Duration,
}

impl Evaluator {
    /// The predictions for at least one instance, and no more than a request may have, before the deadline.
    ///
    /// # Errors
    /// [`ServiceError`]; at the latest when the deadline passes.
    pub async fn predict(
        &self,
        chosen: &Chosen,
        instances: Vec<Instance>,
        parameters: Option<&[u8]>,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, ServiceError> {
        let work = async {
            let task = &chosen.deployed.model.task;
            let parameters = task.parse_parameters(parameters).map_err(ServiceError::Parameters)?;
            let finish = |task: &Task, outputs: &[Tensor]| task.finish(outputs, parameters);
            let Evaluated { results, times, images } = self.evaluate(chosen, instances, deadline, finish).await?;
            Ok(Answer { predictions: results, times, images })
        };
        tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(ServiceError::DeadlineExceeded))
    }

    /// Asks the model for instances, and makes something of its outputs for each.
    pub(super) async fn evaluate<T>(
        &self,
        chosen: &Chosen,
        instances: Vec<Instance>,
        deadline: tokio::time::Instant,
        finish: impl Fn(&Task, &[Tensor]) -> Result<T, OutputError>,
    ) -> Result<Evaluated<T>, ServiceError> {
        let model = &chosen.deployed.model;
        let admission = model.admit(instances.len(), deadline)?;
        let bytes: usize = instances.iter().map(Instance::byte_size).sum();
        let submitted = match model.task.is_light() && bytes <= AT_ONCE {
            true => prepare_at_once(&chosen.deployed, &instances, admission, deadline)?,
            false => self.prepare(&chosen.deployed, instances, admission, deadline).await?,
        };
        collected(&model.task, submitted, finish).await
    }

    /// Prepares the instances on the pool.
    async fn prepare(
        &self,
        deployed: &DeployedModel,
        instances: Vec<Instance>,
        admission: Admission,
        deadline: tokio::time::Instant,
    ) -> Result<Vec<Submitted>, ServiceError> {
        let model = &deployed.model;
        let instances = self.check_pixels(&model.task, instances).await?;
        // At most as many at once as there are threads: however many instances a request has, another one's turn comes
        // after one of them, not after all.
        let window = self.pool.threads();
        let preparations =
            instances.into_iter().zip(admission.split()).enumerate().map(async |(index, (instance, mut ticket))| {
                let (task, scheduler) = (model.task.clone(), model.scheduler.clone());
                let begin = Instant::now();
                // Whichever is smaller waits: what came, or what is made of it.
                if instance.byte_size() < task.item_bytes() {
                    ticket.keep(scheduler.room().await);
                }
                let waited = begin.elapsed();
                let preparation = self.pool.run(move || -> Result<Submitted, InputError> {
                    let prepared = task.prepare(&instance)?;
                    // The body's memory is not needed while the item waits.
                    drop(instance);
                    let pending = scheduler.submit(ticket, prepared.item, Some(deadline));
                    Ok(Submitted { pending, times: prepared.times, image: prepared.image, waited })
                });
                prepared(index, preparation).await
            });
        futures_util::stream::iter(preparations).buffered(window).try_collect().await
    }

    /// Gives the instances back, unless the headers of their pictures promise more pixels than one request may have. So
    /// a request that is too large costs no decoding.
    pub(super) async fn check_pixels(
        &self,
        task: &Arc<Task>,
        instances: Vec<Instance>,
    ) -> Result<Vec<Instance>, ServiceError> {
        let limit = self.request_pixels;
        if task.most_pixels().saturating_mul(instances.len() as u64) <= limit || instances.len() == 1 {
            return Ok(instances);
        }
        let task = task.clone();
        let checked = self.pool.run(move || {
            let mut total = 0_u64;
            for (index, instance) in instances.iter().enumerate() {
                total = total.saturating_add(task.pixels(instance));
                if total > limit {
                    let message = format!(
                        "brings the pictures of this request to {total} pixels, over the limit of {limit} for one request; \
                         send fewer of them at once"
                    );
                    return Err(ServiceError::Instance { index, error: InputError::new("", message) });
                }
            }
            Ok(instances)
        });
        checked.await.unwrap_or(Err(ServiceError::Panicked(0)))
    }
}

/// Awaits the outputs for what is in the queue, and makes something of them for each instance.
pub(super) async fn collected<T>(
    task: &Task,
    submitted: Vec<Submitted>,
    finish: impl Fn(&Task, &[Tensor]) -> Result<T, OutputError>,
) -> Result<Evaluated<T>, ServiceError> {
    let results = Vec::with_capacity(submitted.len());
    let mut evaluated = Evaluated { results, times: StageTimes::default(), images: Vec::new() };
    // In the order of the instances.
    for (index, Submitted { pending, times, image, waited }) in submitted.into_iter().enumerate() {
        let completed = pending.await.map_err(|error| ServiceError::Model { index, error })?;
        let begin = Instant::now();
        let result = finish(task, &completed.outputs).map_err(|error| ServiceError::Output { index, error })?;
        evaluated.results.push(result);
        evaluated.images.extend(image);
        evaluated.times.slowest(times, &completed, waited, begin.elapsed());
    }
    Ok(evaluated)
}

/// Up to so many bytes of instances are prepared at once, on the thread that serves the connection: to give them to
/// another one would take longer.
pub(super) const AT_ONCE: usize = 16 << 10;

/// Prepares the instances here, and queues them together.
fn prepare_at_once(
    deployed: &DeployedModel,
    instances: &[Instance],
    admission: Admission,
    deadline: tokio::time::Instant,
) -> Result<Vec<Submitted>, ServiceError> {
    let model = &deployed.model;
    let mut facts = Vec::with_capacity(instances.len());
    let mut items = Vec::with_capacity(instances.len());
    for (index, (instance, ticket)) in instances.iter().zip(admission.split()).enumerate() {
        let prepared = model.task.prepare(instance).map_err(|error| ServiceError::Instance { index, error })?;
        facts.push((prepared.times, prepared.image));
        items.push((ticket, prepared.item));
    }
    let pending = model.scheduler.submit_all(items, Some(deadline));
    let submitted = pending.into_iter().zip(facts);
    let waited = Duration::ZERO;
    Ok(submitted.map(|(pending, (times, image))| Submitted { pending, times, image, waited }).collect())
}

/// Waits until an instance is in the queue.
async fn prepared(
    index: usize,
    preparation: oneshot::Receiver<Result<Submitted, InputError>>,
) -> Result<Submitted, ServiceError> {
    match preparation.await {
        Ok(result) => result.map_err(|error| ServiceError::Instance { index, error }),
        Err(_) => Err(ServiceError::Panicked(index)),
    }
}
