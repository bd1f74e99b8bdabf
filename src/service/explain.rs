//! `explain`: what each feature of an instance contributes to its prediction.
//!
//! The model is asked like any other request's: its variants of an instance go through the queue in portions, each of
//! which is admitted, waits and can be cancelled. What is to be evaluated, and what follows, says [`crate::explain`].

use std::sync::Arc;

use ndarray::ArrayD;
use serde_json::Value;

use super::evaluate::Evaluated;
use super::{Answer, Chosen, Question, Service, ServiceError, StageTimes};
use crate::endpoint::ServedModel;
use crate::explain::features::Features;
use crate::explain::regions::{Grid, Layout};
use crate::explain::shapley::{Coalition, Plan};
use crate::explain::spec::{Choice, Settings, SpecError, baselines_of};
use crate::preprocess;
use crate::protocol::generated::google::cloud::aiplatform::v1::{Attribution, Explanation, ExplanationSpecOverride};
use crate::protocol::value;
use crate::task::image_classification::ImageClassification;
use crate::task::{InputError, Instance, NotFinite, OutputError, Scores, Task};
use crate::tensor::{ElementType, Tensor};

/// The most features of an instance, evaluations for one baseline, and values of all outputs in them: tens of megabytes.
const MOST_FEATURES: usize = 4096;
const MOST_EVALUATIONS: usize = 1 << 16;
const MOST_VALUES: usize = 1 << 22;

/// Variants that are in the queue at once for one request: enough for a full batch, and little of a queue.
const PORTION: usize = 32;

impl Service {
    /// Explains predictions by the deployed model's specification and the request's: an explanation for each instance,
    /// and the predictions themselves.
    ///
    /// # Errors
    /// [`ServiceError`]; at the latest when the deadline passes.
    pub async fn explain(
        &self,
        chosen: &Chosen,
        question: Question,
        overrides: Option<&ExplanationSpecOverride>,
        deadline: tokio::time::Instant,
    ) -> Result<(Vec<Explanation>, Answer), ServiceError> {
        let work = self.explained(chosen, question, overrides, deadline);
        tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(ServiceError::DeadlineExceeded))
    }

    async fn explained(
        &self,
        chosen: &Chosen,
        question: Question,
        overrides: Option<&ExplanationSpecOverride>,
        deadline: tokio::time::Instant,
    ) -> Result<(Vec<Explanation>, Answer), ServiceError> {
        let deployed = &chosen.deployed;
        if deployed.disable_explanations {
            return Err(ServiceError::ExplanationsDisabled);
        }
        if deployed.model.signature.outputs.iter().all(|output| output.element_type == ElementType::String) {
            return Err(ServiceError::NothingToExplain);
        }
        let settings = Settings::resolve(deployed.explanation_spec.as_ref(), overrides)?;
        let Question { instances, parameters, form: _ } = question;

        let instances = self.check_pixels(&deployed.model, instances, deadline).await?;

        let mut answer = Answer { predictions: Vec::new(), times: StageTimes::default(), images: Vec::new() };
        let mut explanations = Vec::with_capacity(instances.len());
        for (index, instance) in instances.into_iter().enumerate() {
            let subject = Asked { service: self, chosen, settings: &settings, deadline, index };
            let attributions = subject.explain(instance, parameters.as_deref(), &mut answer).await?;
            explanations.push(Explanation { attributions, neighbors: Vec::new() });
        }
        Ok((explanations, answer))
    }

    /// Refuses too many pixels before any picture is decoded. The work holds a place in the queue, as any other does.
    async fn check_pixels(
        &self,
        model: &ServedModel,
        instances: Vec<Instance>,
        deadline: tokio::time::Instant,
    ) -> Result<Vec<Instance>, ServiceError> {
        let _admission = model.admit(1, deadline)?;
        self.evaluator.check_pixels(&model.task, instances).await
    }
}

/// One instance that is to be explained.
struct Asked<'a> {
    service: &'a Service,
    chosen: &'a Chosen,
    settings: &'a Settings,
    deadline: tokio::time::Instant,
    index: usize,
}

impl Asked<'_> {
    async fn explain(
        &self,
        instance: Instance,
        parameters: Option<&[u8]>,
        answer: &mut Answer,
    ) -> Result<Vec<Attribution>, ServiceError> {
        let model = &self.chosen.deployed.model;
        let parameters = model.task.parse_parameters(parameters).map_err(ServiceError::Parameters)?;
        let output = self.settings.output.as_ref().map(|(_, tensor)| tensor.as_str());

        // The instance itself: its prediction, and the outputs among which is chosen.
        let whole = |task: &Task, outputs: &[Tensor]| {
            let prediction = task.finish(outputs, parameters)?;
            Ok((prediction, task.scores(outputs, output)?, task.score_labels(outputs, output)))
        };
        let subject = Subject::new(self, instance).await?;
        let itself = vec![subject.itself()];
        let evaluated = self.service.evaluator.evaluate(self.chosen, itself, self.deadline, whole).await;
        let Evaluated { results, times, images } = evaluated.map_err(|error| error.at(self.index))?;
        let (prediction, scores, labels) =
            results.into_iter().next().ok_or_else(|| output_error(self.index, "the model gave nothing".to_owned()))?;
        scores.check_finite().map_err(|error| self.not_finite(error))?;
        answer.predictions.push(prediction);
        answer.times.merge(&times);
        answer.images.extend(images);
        let places = self.places(&scores)?;

        self.check_cost(subject.count(), places.len())?;
        let plan = Plan::new(subject.count(), self.settings.paths);
        let baselines = self.settings.baseline_count();
        let mut sums: Vec<Sum> = places.iter().map(|_| Sum::new(subject.count())).collect();
        for number in 0..baselines {
            let baseline = subject.baseline(self, number).await?;
            let values = self.values(&subject, &baseline, &plan, &scores, &places, answer).await?;
            for (sum, values) in sums.iter_mut().zip(&values) {
                sum.add(&plan, values);
            }
        }
        let attribution = |(&place, sum): (&usize, Sum)| {
            let count = baselines as f64;
            let means: Vec<f64> = sum.contributions.iter().map(|sum| sum / count).collect();
            let attributions = value::from_serialize(&subject.named(&means));
            let index = unravel(place, &scores.shape);
            Ok(Attribution {
                baseline_output_value: sum.baseline / count,
                instance_output_value: scores.values[place],
                feature_attributions: Some(attributions.map_err(|error| output_error(self.index, error.to_string()))?),
                output_display_name: self.display_name(&index, place, &labels),
                output_index: index.into_iter().map(|index| i32::try_from(index).unwrap_or(i32::MAX)).collect(),
                approximation_error: sum.error / count,
                output_name: self.settings.output.as_ref().map_or(&*scores.name, |(name, _)| name).to_owned(),
            })
        };
        places.iter().zip(sums).map(attribution).collect()
    }

    /// What a client is told whose values lead to outputs between which there is no difference.
    fn not_finite(&self, NotFinite { name, value, place }: NotFinite) -> ServiceError {
        let message = format!(
            "can't be explained, because it makes the model's output `{name}` {value} at {place}: send values for which \
             the outputs are finite"
        );
        ServiceError::Instance { index: self.index, error: InputError::new("", message) }
    }

    /// Before any of it is planned: a plan takes memory by the square of the features.
    fn check_cost(&self, features: usize, places: usize) -> Result<(), ServiceError> {
        if features > MOST_FEATURES {
            let message = format!("has {features} features; at most {MOST_FEATURES} can be explained");
            return Err(ServiceError::Instance { index: self.index, error: InputError::new("", message) });
        }
        let evaluations = features.saturating_mul(self.settings.paths);
        if evaluations > MOST_EVALUATIONS {
            let message = format!(
                "times {features} features is {evaluations} evaluations; it may be {MOST_EVALUATIONS}: ask for fewer paths"
            );
            return Err(SpecError::invalid("parameters.sampledShapleyAttribution.pathCount", message).into());
        }
        if evaluations.saturating_mul(places) > MOST_VALUES {
            let message = format!("asks for {places} outputs of {evaluations} evaluations each, too many at once");
            return Err(SpecError::invalid("parameters.topK", message).into());
        }
        Ok(())
    }

    /// Which of the outputs are explained, as places in row-major order.
    fn places(&self, scores: &Scores) -> Result<Vec<usize>, ServiceError> {
        let mut ranked: Vec<usize> = (0..scores.values.len()).collect();
        ranked.sort_by(|&a, &b| scores.values[b].total_cmp(&scores.values[a]).then(a.cmp(&b)));
        if ranked.is_empty() {
            return Err(output_error(self.index, format!("the output `{}` is empty", scores.name)));
        }
        match &self.settings.choice {
            Choice::Largest => ranked.truncate(1),
            Choice::Top(None) => {}
            Choice::Top(Some(count)) => ranked.truncate(*count),
            Choice::Indices(indices) => {
                let places = indices.iter().map(|index| ravel(index, &scores.shape)).collect::<Option<_>>();
                ranked = places.ok_or_else(|| {
                    let message = format!(
                        "has a place outside of the output `{}`, whose axes are {:?}",
                        scores.name, scores.shape
                    );
                    SpecError::invalid("parameters.outputIndices", message)
                })?;
            }
        }
        Ok(ranked)
    }

    /// The name of an output: of the specification, or the model's own.
    fn display_name(&self, index: &[usize], place: usize, labels: &[Arc<str>]) -> String {
        let given = self.settings.display_names.as_ref().and_then(|names| {
            let name = index.iter().try_fold(names, |names, &index| names.get(index))?;
            Some(name.as_str()?.to_owned())
        });
        given.or_else(|| labels.get(place).map(ToString::to_string)).unwrap_or_default()
    }

    /// For each place the values of all coalitions.
    async fn values(
        &self,
        subject: &Subject,
        baseline: &Baseline,
        plan: &Plan,
        itself: &Scores,
        places: &[usize],
        answer: &mut Answer,
    ) -> Result<Vec<Vec<f64>>, ServiceError> {
        let coalitions = plan.coalitions();
        let mut values = vec![vec![0.0; coalitions.len()]; places.len()];
        // What all features are the instance's of has been evaluated.
        for (values, &place) in values.iter_mut().zip(places) {
            values[plan.whole()] = itself.values[place];
        }
        let output = self.settings.output.as_ref().map(|(_, tensor)| tensor.as_str());
        let scores = |task: &Task, outputs: &[Tensor]| {
            let scores = task.scores(outputs, output)?;
            match scores.shape == itself.shape {
                true => Ok(scores),
                false => Err(OutputError(format!(
                    "the shape of `{}` depends on the features ({:?}, {:?}), so that it can't be explained",
                    scores.name, itself.shape, scores.shape
                ))),
            }
        };
        let others: Vec<usize> = (0..coalitions.len()).filter(|&index| index != plan.whole()).collect();
        for portion in others.chunks(PORTION) {
            let variants = portion.iter().map(|&index| subject.variant(baseline, &coalitions[index]));
            let variants = variants.collect::<Option<Vec<_>>>();
            let variants =
                variants.ok_or_else(|| output_error(self.index, "the baseline has another form".to_owned()))?;
            let evaluated = self.service.evaluator.evaluate(self.chosen, variants, self.deadline, scores).await;
            let evaluated = evaluated.map_err(|error| error.at(self.index).of_a_variant())?;
            answer.times.merge(&evaluated.times);
            for (&coalition, scores) in portion.iter().zip(evaluated.results) {
                scores.check_finite().map_err(|error| self.not_finite(error).of_a_variant())?;
                for (values, &place) in values.iter_mut().zip(places) {
                    values[coalition] = scores.values[place];
                }
            }
        }
        Ok(values)
    }
}

/// What is added up over baselines for one output.
struct Sum {
    baseline: f64,
    contributions: Vec<f64>,
    error: f64,
}

impl Sum {
    fn new(features: usize) -> Self {
        Self { baseline: 0.0, contributions: vec![0.0; features], error: 0.0 }
    }

    fn add(&mut self, plan: &Plan, values: &[f64]) {
        let found = plan.contributions(values);
        self.baseline += values.first().copied().unwrap_or_default();
        self.contributions.iter_mut().zip(found.values).for_each(|(sum, value)| *sum += value);
        self.error += found.error;
    }
}

/// An instance, divided into its features.
enum Subject {
    Json(Features),
    Picture { name: String, grid: Grid, pixels: Tensor },
}

/// The same with the values of a baseline.
enum Baseline {
    Json(Features),
    Picture(Tensor),
}

impl Subject {
    async fn new(asked: &Asked<'_>, instance: Instance) -> Result<Self, ServiceError> {
        let model = &asked.chosen.deployed.model;
        let (settings, index) = (asked.settings, asked.index);
        let name = model.signature.inputs.first().map_or("instance", |input| input.name.as_str());
        let name = settings.free_name(name).to_owned();
        let subject = match &*model.task {
            Task::Tensors(_) => {
                let wrong = |message: String| ServiceError::Instance { index, error: InputError::new("", message) };
                let Instance::Json(text) = instance else {
                    return Err(wrong("must be JSON to be explained".to_owned()));
                };
                let instance: Value =
                    serde_json::from_slice(&text).map_err(|error| wrong(format!("can't be read: {error}")))?;
                Self::Json(Features::of(instance, &name))
            }
            Task::ImageClassification(task) => {
                let pixels =
                    asked.pixels(model, instance).await?.map_err(|error| ServiceError::Instance { index, error })?;
                let grid = Grid::new(asked.service.image_grid, pixels.shape(), layout(task));
                Self::Picture { name, grid, pixels }
            }
        };
        match &subject {
            Self::Json(features) => settings.check_names(&features.names())?,
            Self::Picture { name, .. } => settings.check_names(&[name])?,
        }
        Ok(subject)
    }

    fn count(&self) -> usize {
        match self {
            Self::Json(features) => features.count(),
            Self::Picture { grid, .. } => grid.count(),
        }
    }

    /// The instance as it is.
    fn itself(&self) -> Instance {
        match self {
            Self::Json(features) => instance_of(&features.itself()),
            Self::Picture { pixels, .. } => Instance::Tensors(vec![pixels.clone()]),
        }
    }

    async fn baseline(&self, asked: &Asked<'_>, number: usize) -> Result<Baseline, ServiceError> {
        let given = |name: &str| asked.settings.baseline(number, name);
        match self {
            Self::Json(features) => {
                let baseline = features.baseline(given);
                let baseline = baseline.map_err(|(name, message)| SpecError::invalid(&baselines_of(&name), message))?;
                Ok(Baseline::Json(baseline))
            }
            Self::Picture { name, pixels, .. } => {
                let baseline = match given(name) {
                    None => Tensor::zeros(pixels.element_type(), pixels.shape()),
                    Some(baseline) => asked.picture_baseline(name, baseline, pixels).await?,
                };
                Ok(Baseline::Picture(baseline))
            }
        }
    }

    fn variant(&self, baseline: &Baseline, coalition: &Coalition) -> Option<Instance> {
        match (self, baseline) {
            (Self::Json(features), Baseline::Json(baseline)) => {
                Some(instance_of(&features.variant(baseline, coalition)))
            }
            (Self::Picture { grid, pixels, .. }, Baseline::Picture(baseline)) => {
                let variant = match (pixels, baseline) {
                    (Tensor::Float32(pixels), Tensor::Float32(baseline)) => {
                        grid.variant(&pixels.view(), &baseline.view(), coalition)?.into()
                    }
                    (Tensor::Float16(pixels), Tensor::Float16(baseline)) => {
                        grid.variant(&pixels.view(), &baseline.view(), coalition)?.into()
                    }
                    _ => return None,
                };
                Some(Instance::Tensors(vec![variant]))
            }
            _ => None,
        }
    }

    fn named(&self, contributions: &[f64]) -> Value {
        match self {
            Self::Json(features) => features.named(contributions),
            Self::Picture { name, grid, .. } => grid.named(name, contributions),
        }
    }
}

impl Asked<'_> {
    /// A picture as the tensor that the model takes. The preparing holds a place in the queue, as any other does.
    async fn pixels(
        &self,
        model: &ServedModel,
        instance: Instance,
    ) -> Result<Result<Tensor, InputError>, ServiceError> {
        let _admission = model.admit(1, self.deadline)?;
        let task = model.task.clone();
        let prepared = self.service.evaluator.pool.run(move || task.prepare(&instance));
        let prepared = prepared.await.map_err(|_| ServiceError::Panicked(self.index))?;
        Ok(prepared
            .and_then(|prepared| prepared.item.into_iter().next().ok_or_else(|| InputError::new("", "is no picture"))))
    }

    /// The baseline of a picture: another picture, or one number for all its values or for each channel, in the units of
    /// the model's input.
    async fn picture_baseline(&self, name: &str, given: &Value, pixels: &Tensor) -> Result<Tensor, ServiceError> {
        let model = &self.chosen.deployed.model;
        let wrong = |message: &str| SpecError::invalid(&baselines_of(name), message);
        if matches!(given, Value::String(_) | Value::Object(_)) {
            let baseline = self.pixels(model, instance_of(given)).await?;
            return Ok(baseline.map_err(|error| wrong(&error.to_string()))?);
        }
        let Task::ImageClassification(task) = &*model.task else {
            return Err(wrong("is for no picture").into());
        };
        let channel_axis = if layout(task) == Layout::ChannelsFirst { 1 } else { 3 };
        let channels = pixels.shape().get(channel_axis).copied().unwrap_or(1);
        let numbers: Option<Vec<f64>> = match given {
            Value::Array(values) if values.len() == channels => values.iter().map(Value::as_f64).collect(),
            value => value.as_f64().map(|number| vec![number; channels]),
        };
        let numbers = numbers.filter(|numbers| numbers.iter().all(|&number| (number as f32).is_finite()));
        let numbers = numbers.ok_or_else(|| {
            wrong(
                "must be a picture as an instance has it, a number within the range of float32, or a list of one such \
                 number for each channel",
            )
        })?;
        let pixel = |index: &ndarray::IxDyn| numbers[index[channel_axis]];
        Ok(match pixels {
            Tensor::Float16(array) => {
                ArrayD::from_shape_fn(array.raw_dim(), |index| half::f16::from_f64(pixel(&index))).into()
            }
            other => ArrayD::from_shape_fn(other.shape(), |index| pixel(&index) as f32).into(),
        })
    }
}

fn layout(task: &ImageClassification) -> Layout {
    match task.preprocessor.layout() {
        preprocess::Layout::Nchw => Layout::ChannelsFirst,
        preprocess::Layout::Nhwc => Layout::ChannelsLast,
    }
}

fn instance_of(json: &Value) -> Instance {
    Instance::Json(json.to_string().into())
}

fn output_error(index: usize, message: String) -> ServiceError {
    ServiceError::Output { index, error: OutputError(message) }
}

/// A place in row-major order as one along each axis.
fn unravel(place: usize, shape: &[usize]) -> Vec<usize> {
    let mut rest = place;
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&length| {
            let along = rest % length.max(1);
            rest /= length.max(1);
            along
        })
        .collect();
    index.reverse();
    index
}

/// The opposite; `None` outside of the shape.
fn ravel(index: &[usize], shape: &[usize]) -> Option<usize> {
    // One number may be addressed as if it were a list of one.
    if shape.is_empty() && index == [0] {
        return Some(0);
    }
    if index.len() != shape.len() || index.iter().zip(shape).any(|(along, length)| along >= length) {
        return None;
    }
    Some(index.iter().zip(shape).fold(0, |place, (along, length)| place * length + along))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_along_axes_and_in_a_row() {
        for place in 0..24 {
            assert_eq!(ravel(&unravel(place, &[2, 3, 4]), &[2, 3, 4]), Some(place));
        }
        assert_eq!(unravel(23, &[2, 3, 4]), [1, 2, 3]);
        assert_eq!((unravel(0, &[]), ravel(&[], &[]), ravel(&[0], &[])), (vec![], Some(0), Some(0)));
        assert_eq!((ravel(&[2, 0], &[2, 3]), ravel(&[1], &[2, 3])), (None, None));
    }
}
