//! Copies of requests to shadows, and what is said of their answers: whether they agree, and how long they took.
//!
//! A copy is made once the request is answered, so that it can neither fail nor delay it; it waits while requests wait for
//! the model that answered, and gives up when that takes too long. What a shadow answers is compared and dropped.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Answer, Chosen, Evaluator, Question};
use crate::endpoint::Copied;
use crate::observe::ShadowOutcome;
use crate::task::Prediction;

/// How long a copy may wait for a moment without other work, and then for its answer.
const PATIENCE: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Numbers agree that differ by no more than this, of the larger one of them or of 1.
const TOLERANCE: f64 = 1e-3;

/// A request that is to be copied to shadows.
pub struct Copies {
    question: Question,
    to: Vec<(Chosen, tokio::sync::OwnedSemaphorePermit)>,
}

impl Copies {
    /// The copies of a request that has been put to `chosen`; `None` for most.
    pub fn of(chosen: &Chosen, question: &Question) -> Option<Self> {
        let mut to = Vec::new();
        for shadow in chosen.endpoint.shadows() {
            match shadow.copy() {
                Copied::No => {}
                Copied::Dropped => shadow.deployed.metrics.shadowed(ShadowOutcome::Dropped),
                Copied::Yes(permit) => {
                    let chosen = Chosen { endpoint: chosen.endpoint.clone(), deployed: shadow.deployed.clone() };
                    to.push((chosen, permit));
                }
            }
        }
        (!to.is_empty()).then(|| Self { question: question.clone(), to })
    }

    /// Sends them, now that the request is answered.
    pub fn send(self, evaluator: &Evaluator, chosen: &Chosen, answer: &Answer, took: Duration) {
        for (shadow, permit) in self.to {
            let question = self.question.clone();
            let primary = chosen.deployed.clone();
            let predictions = answer.predictions.clone();
            let evaluator = evaluator.clone();
            tokio::spawn(async move {
                let metrics = &shadow.deployed.metrics;
                let patience = tokio::time::Instant::now() + PATIENCE;
                while primary.model.scheduler.queue_length() > 0 {
                    if tokio::time::Instant::now() > patience {
                        return metrics.shadowed(ShadowOutcome::Dropped);
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                let (begin, deadline) = (Instant::now(), tokio::time::Instant::now() + TIMEOUT);
                let Question { instances, parameters, .. } = question;
                match evaluator.predict(&shadow, instances, parameters.as_deref(), deadline).await {
                    Ok(answer) => {
                        let outcome = match agree(&predictions, &answer.predictions) {
                            true => ShadowOutcome::Agreed,
                            false => ShadowOutcome::Differed,
                        };
                        metrics.shadowed(outcome);
                        metrics.shadow_latency(took, begin.elapsed());
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a shadow failed");
                        metrics.shadowed(ShadowOutcome::Failed);
                    }
                }
                drop(permit);
            });
        }
    }
}

/// Whether two answers say the same: pictures by their best label, everything else by all values.
fn agree(one: &[Prediction], other: &[Prediction]) -> bool {
    let same = |(one, other): (&Prediction, &Prediction)| match (one, other) {
        (Prediction::ImageClassification(one), Prediction::ImageClassification(other)) => {
            one.labels().first() == other.labels().first()
        }
        (one, other) => match (serde_json::to_value(one), serde_json::to_value(other)) {
            (Ok(one), Ok(other)) => is_close(&one, &other),
            _ => false,
        },
    };
    one.len() == other.len() && one.iter().zip(other).all(same)
}

fn is_close(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => (one - other).abs() <= TOLERANCE * one.abs().max(other.abs()).max(1.0),
            _ => one == other,
        },
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_close(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(key, one): (&String, &Value)| other.get(key).is_some_and(|other| is_close(one, other));
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_agree_within_the_tolerance() {
        assert!(is_close(&json!([{"a": [1.0, 1000]}]), &json!([{"a": [1.0009, 1000.9]}])));
        for other in [json!([1.0, 2.1]), json!([1.0]), json!([1.0, "2"]), json!({"a": 1.0})] {
            assert!(!is_close(&json!([1.0, 2.0]), &other), "{other}");
        }
    }
}
