//! What a request cost, counted.

use std::time::Duration;

use super::Answer;
use crate::endpoint::DeployedModel;
use crate::observe::{Metrics, Stage};

impl Answer {
    /// Counts the answer and its stages for `deployed`, and gives them by name, the total last. `parse` is the time from
    /// bytes to instances, `total` that since the request's head.
    pub fn count(
        &self,
        deployed: &DeployedModel,
        metrics: &Metrics,
        parse: Duration,
        total: Duration,
    ) -> [(&'static str, Duration); 7] {
        let times = &self.times;
        let stages = [
            (Stage::Parse, parse),
            (Stage::Decode, times.decode),
            (Stage::Preprocess, times.preprocess),
            (Stage::Queue, times.queue),
            (Stage::Inference, times.inference),
            (Stage::Postprocess, times.postprocess),
        ];
        for (stage, duration) in stages {
            deployed.metrics.stage(stage, duration);
        }
        deployed.metrics.finished(total, times.inference, self.predictions.len());
        for image in &self.images {
            metrics.image(image.format, image.bytes);
        }
        let mut named = [(Stage::Total.name(), total); 7];
        for (named, (stage, duration)) in named.iter_mut().zip(stages) {
            *named = (stage.name(), duration);
        }
        named
    }
}
