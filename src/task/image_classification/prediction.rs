//! From logits to an answer.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::Serialize;

use super::parameters::Form;
use crate::task::OutputError;

/// How a model's outputs become confidences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Logits of classes that exclude each other: `exp(x - max) / sum(exp(x - max))`.
    #[default]
    Softmax,
    /// Logits of independent labels: `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Already confidences.
    None,
}

/// One picture's classes, in one of three forms.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the fields are the wire's")]
pub enum Classification {
    Best {
        label: Arc<str>,
        confidence: f32,
    },
    TopK {
        labels: Vec<Arc<str>>,
        confidences: Vec<f32>,
    },
    #[serde(rename_all = "camelCase")]
    Vertex {
        ids: Vec<String>,
        display_names: Vec<Arc<str>>,
        confidences: Vec<f32>,
    },
}

impl Classification {
    /// The names of its classes, best first.
    pub fn labels(&self) -> &[Arc<str>] {
        match self {
            Self::Best { label, .. } => std::slice::from_ref(label),
            Self::TopK { labels, .. } | Self::Vertex { display_names: labels, .. } => labels,
        }
    }

    /// From 0 to 1, one for each of the labels.
    pub fn confidences(&self) -> &[f32] {
        match self {
            Self::Best { confidence, .. } => std::slice::from_ref(confidence),
            Self::TopK { confidences, .. } | Self::Vertex { confidences, .. } => confidences,
        }
    }

    /// The numbers of its classes, in the form that has them.
    pub fn ids(&self) -> Option<&[String]> {
        match self {
            Self::Vertex { ids, .. } => Some(ids),
            Self::Best { .. } | Self::TopK { .. } => None,
        }
    }
}

/// Turns the scores of one picture into a prediction. Equal confidences keep the order of the classes.
///
/// # Errors
/// [`OutputError`] when the scores are not as many as the labels, or not numbers.
pub fn classify(
    scores: &[f32],
    labels: &[Arc<str>],
    activation: Activation,
    form: Form,
) -> Result<Classification, OutputError> {
    if scores.len() != labels.len() {
        return Err(OutputError(format!("the model gave {} scores, but has {} labels", scores.len(), labels.len())));
    }
    if let Some(index) = scores.iter().position(|score| score.is_nan()) {
        return Err(OutputError(format!("the model gave NaN (not a number) as the score of class {index}")));
    }
    let confidences = confidences(scores, activation)?;
    match form {
        Form::Best => {
            let best = ranked(&confidences, 1);
            let index = *best.first().ok_or_else(|| OutputError("the model has no classes".to_owned()))?;
            Ok(Classification::Best { label: labels[index].clone(), confidence: confidences[index] })
        }
        Form::TopK(count) => {
            let best = ranked(&confidences, count);
            Ok(Classification::TopK {
                labels: best.iter().map(|&index| labels[index].clone()).collect(),
                confidences: best.iter().map(|&index| confidences[index]).collect(),
            })
        }
        Form::Vertex { max_predictions, confidence_threshold } => {
            let mut best = ranked(&confidences, max_predictions);
            best.retain(|&index| f64::from(confidences[index]) >= confidence_threshold);
            Ok(Classification::Vertex {
                ids: best.iter().map(usize::to_string).collect(),
                display_names: best.iter().map(|&index| labels[index].clone()).collect(),
                confidences: best.iter().map(|&index| confidences[index]).collect(),
            })
        }
    }
}

/// Confidences from 0 to 1. Sums are kept in f64, so that a thousand classes don't lose digits.
///
/// # Errors
/// [`OutputError`] when no class can be told from the others.
pub(super) fn confidences(scores: &[f32], activation: Activation) -> Result<Vec<f32>, OutputError> {
    match activation {
        Activation::None => Ok(scores.to_vec()),
        Activation::Sigmoid => {
            Ok(scores.iter().map(|&score| (1.0 / (1.0 + (-f64::from(score)).exp())) as f32).collect())
        }
        Activation::Softmax => {
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if !max.is_finite() && !scores.is_empty() {
                return Err(OutputError(format!("the model gave {max} as its highest score")));
            }
            let powers: Vec<f64> = scores.iter().map(|&score| f64::from(score - max).exp()).collect();
            let sum: f64 = powers.iter().sum();
            Ok(powers.into_iter().map(|power| (power / sum) as f32).collect())
        }
    }
}

/// The indices of the `count` highest confidences, highest first.
fn ranked(confidences: &[f32], count: usize) -> Vec<usize> {
    let order = |&a: &usize, &b: &usize| -> Ordering { confidences[b].total_cmp(&confidences[a]).then(a.cmp(&b)) };
    let mut indices: Vec<usize> = (0..confidences.len()).collect();
    if count < indices.len() {
        indices.select_nth_unstable_by(count, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|index| format!("class {index}").into()).collect()
    }

    fn top(scores: &[f32], count: usize) -> (Vec<String>, Vec<f32>) {
        match classify(scores, &labels(scores.len()), Activation::Softmax, Form::TopK(count)).unwrap() {
            Classification::TopK { labels, confidences } => {
                (labels.iter().map(ToString::to_string).collect(), confidences)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_best_class_comes_first() {
        let (labels, confidences) = top(&[1.0, 3.0, 2.0], 2);
        assert_eq!(labels, ["class 1", "class 2"]);
        let sum = 1f64.exp() + 3f64.exp() + 2f64.exp();
        assert!((f64::from(confidences[0]) - 3f64.exp() / sum).abs() < 1e-7);
    }

    #[test]
    fn more_than_there_are_is_all_of_them_and_they_sum_to_one() {
        let (labels, confidences) = top(&[0.5, -1.0, 0.25], usize::MAX);
        assert_eq!(labels.len(), 3);
        assert!((confidences.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let (labels, confidences) = top(&[-3e38, 3e38, 3e38], 3);
        assert_eq!(labels, ["class 1", "class 2", "class 0"]);
        assert_eq!(confidences, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn what_is_no_number_gets_no_label() {
        for scores in [[0.0, f32::NAN], [f32::INFINITY, 0.0], [f32::NEG_INFINITY; 2]] {
            assert!(classify(&scores, &labels(2), Activation::Softmax, Form::Best).is_err(), "{scores:?}");
        }
        let error = classify(&[0.0, f32::NAN], &labels(2), Activation::None, Form::Best).unwrap_err();
        assert!(error.to_string().contains("NaN"), "{error}");
    }

    #[test]
    fn a_label_is_never_missing_silently() {
        assert!(classify(&[0.0; 3], &labels(2), Activation::Softmax, Form::Best).is_err());
    }

    #[test]
    fn a_threshold_may_leave_nothing() {
        let form = Form::Vertex { max_predictions: 5, confidence_threshold: 0.9 };
        let answer = classify(&[0.0, 0.0], &labels(2), Activation::Softmax, form).unwrap();
        assert_eq!(serde_json::to_string(&answer).unwrap(), r#"{"ids":[],"displayNames":[],"confidences":[]}"#);
    }

    #[test]
    fn independent_labels_do_not_share_a_whole() {
        let form = Form::Vertex { max_predictions: 5, confidence_threshold: 0.0 };
        match classify(&[0.0, 0.0], &labels(2), Activation::Sigmoid, form).unwrap() {
            Classification::Vertex { ids, confidences, .. } => {
                assert_eq!((ids, confidences), (vec!["0".to_owned(), "1".to_owned()], vec![0.5, 0.5]));
            }
            other => panic!("{other:?}"),
        }
    }
}
