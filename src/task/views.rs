//! Predictions in the shapes of other protocols than Vertex AI's: by column, as classes, as one number.
//!
//! NaN and infinities may be written as byte strings of their names, which the serialiser of
//! [`tf_serving`](crate::protocol::tf_serving::to_json) turns into tokens; classes and numbers always are.

use std::borrow::Cow;

use ndarray::{Array1, ArrayD, Axis};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use thiserror::Error;

use super::Prediction;
use super::image_classification::Classification;
use super::tensors::{Classes, NonFinite, Number, Row, Styled, StyledColumns, serialize_elements};
use crate::for_each_element_type;
use crate::tensor::Tensor;

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

/// The predictions of one request as tensors by output, each with one row for a prediction. Of a picture there are the
/// outputs `label` and `score`; the keys of a map are an output of their own, `NAME.keys`.
pub fn tensor_columns(predictions: &[Prediction]) -> Vec<(String, Vec<Cow<'_, Tensor>>)> {
    let rows: Vec<&Row> = predictions
        .iter()
        .filter_map(|prediction| match prediction {
            Prediction::Tensors(row) => Some(row),
            Prediction::ImageClassification(_) => None,
        })
        .collect();
    let Some(first) = rows.first() else { return picture_columns(predictions) };
    let mut columns = Vec::with_capacity(first.outputs.len());
    for (index, output) in first.outputs.iter().enumerate() {
        let values = || rows.iter().filter_map(|row| row.values.get(index));
        columns.push((output.name.clone(), values().map(|value| Cow::Borrowed(&value.tensor)).collect()));
        let keys: Vec<_> = values().filter_map(|value| value.keys.as_ref().map(Cow::Borrowed)).collect();
        if !keys.is_empty() {
            columns.push((format!("{}{MAP_KEYS}", output.name), keys));
        }
    }
    columns
}

/// Behind the name of an output, that of its keys.
pub const MAP_KEYS: &str = ".keys";

fn picture_columns(predictions: &[Prediction]) -> Vec<(String, Vec<Cow<'_, Tensor>>)> {
    let pictures = || predictions.iter().filter_map(classification);
    let labels = pictures().map(|picture| row(picture.labels().iter().map(ToString::to_string).collect()));
    let scores = pictures().map(|picture| row(picture.confidences().to_vec()));
    vec![("label".to_owned(), labels.collect()), ("score".to_owned(), scores.collect())]
}

fn row<T>(elements: Vec<T>) -> Cow<'static, Tensor>
where
    Tensor: From<ArrayD<T>>,
{
    let elements = Array1::from_vec(elements).insert_axis(Axis(0)).into_dyn();
    Cow::Owned(elements.into())
}

/// The `count` highest numbers of each row as text, `VALUE:INDEX`, highest first; of pictures, `SCORE:INDEX:LABEL` where
/// the predictions have the indices.
///
/// # Errors
/// [`ViewError`] for what has no order.
pub fn highest(
    predictions: &[Prediction],
    rows: &[Cow<'_, Tensor>],
    count: usize,
) -> Result<Vec<Cow<'static, Tensor>>, ViewError> {
    let pictures: Vec<&Classification> = predictions.iter().filter_map(classification).collect();
    if !pictures.is_empty() {
        let texts = |picture: &Classification| -> Option<Vec<String>> {
            let named = picture.confidences().iter().zip(picture.ids()?).zip(picture.labels());
            Some(named.map(|((score, id), label)| format!("{score}:{id}:{label}")).collect())
        };
        return pictures.into_iter().map(|picture| texts(picture).map(row).ok_or(ViewError("indices"))).collect();
    }
    rows.iter()
        .map(|tensor| {
            if matches!(**tensor, Tensor::String(_) | Tensor::Bool(_)) {
                return Err(ViewError("numbers to classify in this output"));
            }
            let values = for_each_element_type!(&**tensor, array => texts(array.iter()));
            let mut ranked: Vec<(f64, usize, String)> = values;
            ranked.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
            Ok(row(ranked.into_iter().take(count).map(|(_, index, text)| format!("{text}:{index}")).collect()))
        })
        .collect()
}

/// Each element with its place and its digits.
fn texts<'a, T: ToString + 'a>(elements: impl Iterator<Item = &'a T>) -> Vec<(f64, usize, String)> {
    let text = |(index, element): (usize, &T)| {
        let text = element.to_string();
        (text.parse().unwrap_or(f64::NAN), index, text)
    };
    elements.enumerate().map(text).collect()
}

/// All elements of some tensors, one after the other, as a list.
pub struct FlatView<'a>(pub &'a [Cow<'a, Tensor>]);

impl Serialize for FlatView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let count = self.0.iter().map(|tensor| tensor.shape().iter().product::<usize>()).sum();
        let mut list = serializer.serialize_seq(Some(count))?;
        self.0.iter().try_for_each(|tensor| serialize_elements(tensor, &mut list))?;
        list.end()
    }
}
