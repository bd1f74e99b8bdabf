//! The series of one deployed model, looked up once so that recording on the path of a request is a few atomic adds.

use std::time::Duration;

use prometheus::{Histogram, IntCounter};

/// A part of a request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// From bytes of JSON to typed instances.
    Parse,
    /// From base64 and compressed image to pixels.
    Decode,
    /// From pixels to the model's input.
    Preprocess,
    /// Waiting for the engine.
    Queue,
    /// The engine's run of the batch.
    Inference,
    /// From the model's output to predictions.
    Postprocess,
    /// From the end of the request's head to the answer.
    Total,
}

impl Stage {
    /// Every stage, in the order of a request; the position is the enum's number.
    pub const ALL: [Self; 7] =
        [Self::Parse, Self::Decode, Self::Preprocess, Self::Queue, Self::Inference, Self::Postprocess, Self::Total];

    /// The label's value and the name in `Server-Timing`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Decode => "decode",
            Self::Preprocess => "preprocess",
            Self::Queue => "queue",
            Self::Inference => "inference",
            Self::Postprocess => "postprocess",
            Self::Total => "total",
        }
    }
}

/// Records what happens to the requests of one deployed model at one endpoint. Made by
/// [`Metrics::deployed_model`](super::Metrics::deployed_model); no method allocates or looks a label up.
#[derive(Debug, Clone)]
pub struct DeployedModelMetrics {
    /// By class of status, from 1xx to 5xx.
    pub(super) requests: [IntCounter; 5],
    /// By [`Stage`].
    pub(super) stages: [Histogram; 7],
    pub(super) latency_total: Histogram,
    pub(super) latency_overhead: Histogram,
    pub(super) latency_model: Histogram,
    pub(super) predictions: IntCounter,
    /// For one that is a shadow.
    pub(super) shadow: Option<ShadowSeries>,
}

/// What came of the copy of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum ShadowOutcome {
    /// Its answer was that of the model that was asked.
    Agreed,
    /// It was another one.
    Differed,
    /// There was none.
    Failed,
    /// It was not made, as the shadow was behind.
    Dropped,
}

impl ShadowOutcome {
    /// The labels' values; the position is the enum's number.
    pub const NAMES: [&str; 4] = ["agreed", "differed", "failed", "dropped"];
}

/// The series of a shadow.
#[derive(Debug, Clone)]
pub(super) struct ShadowSeries {
    /// By [`ShadowOutcome`].
    pub requests: [IntCounter; 4],
    /// Of the model that was asked, and of the shadow.
    pub latency: [Histogram; 2],
}

/// What was counted so far: how often, and how long in all.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Totals {
    pub succeeded: (u64, Duration),
    pub failed: u64,
    pub queue: (u64, Duration),
    /// Decoding and preprocessing.
    pub input: (u64, Duration),
    pub inference: (u64, Duration),
    pub output: (u64, Duration),
    /// Instances.
    pub predictions: u64,
}

impl DeployedModelMetrics {
    /// What was counted so far.
    pub fn totals(&self) -> Totals {
        let of = |histogram: &Histogram| {
            let seconds = Duration::try_from_secs_f64(histogram.get_sample_sum()).unwrap_or_default();
            (histogram.get_sample_count(), seconds)
        };
        let stage = |stage: Stage| of(&self.stages[stage as usize]);
        let (decoded, preprocessed) = (stage(Stage::Decode), stage(Stage::Preprocess));
        Totals {
            succeeded: (self.requests[1].get(), of(&self.latency_total).1),
            failed: self.requests[3].get() + self.requests[4].get(),
            queue: stage(Stage::Queue),
            input: (decoded.0, decoded.1 + preprocessed.1),
            inference: stage(Stage::Inference),
            output: stage(Stage::Postprocess),
            predictions: self.predictions.get(),
        }
    }

    /// A request was answered with this HTTP status.
    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.requests[class].inc();
    }

    /// A request spent `duration` in `stage`. For [`Stage::Total`] see [`DeployedModelMetrics::finished`].
    pub fn stage(&self, stage: Stage, duration: Duration) {
        self.stages[stage as usize].observe(duration.as_secs_f64());
    }

    /// A request was predicted in `total`, of which the model ran for `model`. Gives [`Stage::Total`] and the three
    /// latency types of Vertex: total, model, and overhead as their difference.
    pub fn finished(&self, total: Duration, model: Duration, predictions: usize) {
        self.stage(Stage::Total, total);
        self.latency_total.observe(total.as_secs_f64());
        self.latency_model.observe(model.as_secs_f64());
        self.latency_overhead.observe(total.saturating_sub(model).as_secs_f64());
        self.predictions.inc_by(predictions as u64);
    }

    /// What came of a copy, for a shadow.
    pub fn shadowed(&self, outcome: ShadowOutcome) {
        if let Some(shadow) = &self.shadow {
            shadow.requests[outcome as usize].inc();
        }
    }

    /// How long the model took that was asked, and the shadow for its copy.
    pub fn shadow_latency(&self, primary: Duration, copy: Duration) {
        if let Some(ShadowSeries { latency: [of_primary, of_shadow], .. }) = &self.shadow {
            of_primary.observe(primary.as_secs_f64());
            of_shadow.observe(copy.as_secs_f64());
        }
    }
}
