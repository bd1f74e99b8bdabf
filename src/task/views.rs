//! Predictions in the shapes of other protocols than Vertex AI's: by column, as classes, as one number.
//!
//! NaN and infinities may be written as byte strings of their names, which the serialiser of
//! [`tf_serving`](crate::protocol::tf_serving::to_json) turns into tokens; classes and numbers always are.

use serde::ser::{Serialize, SerializeMap, Serializer};
use thiserror::Error;

use super::Prediction;
use super::image_classification::Classification;
use super::tensors::{Classes, NonFinite, Number, Row, Styled, StyledColumns};

/// The model's predictions have not the shape that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this model gives no {0}")]
pub struct ViewError(pub &'static str);

/// A prediction as it is.
pub struct RowView<'a> {
    /// Which.
    pub prediction: &'a Prediction,
    /// How NaN and infinities are written.
    pub non_finite: NonFinite,
}

impl Serialize for RowView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.prediction {
            Prediction::Tensors(row) => Styled { row, non_finite: self.non_finite }.serialize(serializer),
            other => other.serialize(serializer),
        }
    }
}

/// The predictions of one request by column: the only output's values, or an object of the outputs' values.
pub struct ColumnsView<'a> {
    /// At least one.
    pub predictions: &'a [Prediction],
    /// How NaN and infinities are written.
    pub non_finite: NonFinite,
}

impl Serialize for ColumnsView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows: Vec<_> = self
            .predictions
            .iter()
            .filter_map(|prediction| match prediction {
                Prediction::Tensors(row) => Some(row),
                Prediction::ImageClassification(_) => None,
            })
            .collect();
        if !rows.is_empty() {
            return StyledColumns { rows, non_finite: self.non_finite }.serialize(serializer);
        }
        let pictures: Vec<&Classification> = self.predictions.iter().filter_map(classification).collect();
        let mut object = serializer.serialize_map(None)?;
        // The form is the request's, so all predictions have the first one's.
        if let Some(Classification::Best { .. }) = pictures.first() {
            let labels: Vec<_> = pictures.iter().filter_map(|picture| picture.labels().first()).collect();
            let confidences: Vec<_> = pictures.iter().filter_map(|picture| picture.confidences().first()).collect();
            object.serialize_entry("label", &labels)?;
            object.serialize_entry("confidence", &confidences)?;
            return object.end();
        }
        let ids: Vec<_> = pictures.iter().filter_map(|picture| picture.ids()).collect();
        let labels: Vec<_> = pictures.iter().map(|picture| picture.labels()).collect();
        let confidences: Vec<_> = pictures.iter().map(|picture| picture.confidences()).collect();
        match ids.is_empty() {
            true => object.serialize_entry("labels", &labels)?,
            false => {
                object.serialize_entry("ids", &ids)?;
                object.serialize_entry("displayNames", &labels)?;
            }
        }
        object.serialize_entry("confidences", &confidences)?;
        object.end()
    }
}

fn classification(prediction: &Prediction) -> Option<&Classification> {
    match prediction {
        Prediction::ImageClassification(classification) => Some(classification),
        Prediction::Tensors(_) => None,
    }
}

/// `[[label, score], ...]`.
pub struct ClassesView<'a>(&'a Prediction);

impl<'a> ClassesView<'a> {
    /// The classes of a picture; of tensors those of a map, or the places in the only list of floats.
    ///
    /// # Errors
    /// [`ViewError`] when the model's outputs are neither.
    pub fn new(prediction: &'a Prediction) -> Result<Self, ViewError> {
        match prediction {
            Prediction::Tensors(row) if !Classes(row).exist() => Err(ViewError("classes with scores")),
            _ => Ok(Self(prediction)),
        }
    }
}

impl Serialize for ClassesView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Prediction::Tensors(row) => Classes(row).serialize(serializer),
            Prediction::ImageClassification(picture) => {
                serializer.collect_seq(picture.labels().iter().zip(picture.confidences()))
            }
        }
    }
}

/// One number.
pub struct NumberView<'a>(&'a Row);

impl<'a> NumberView<'a> {
    /// The number of a model whose only output has one for each instance.
    ///
    /// # Errors
    /// [`ViewError`] for all others.
    pub fn new(prediction: &'a Prediction) -> Result<Self, ViewError> {
        match prediction {
            Prediction::Tensors(row) if Number(row).exists() => Ok(Self(row)),
            _ => Err(ViewError("single number for an instance")),
        }
    }
}

impl Serialize for NumberView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Number(self.0).serialize(serializer)
    }
}
