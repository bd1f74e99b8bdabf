//! From predictions to Vertex AI's `Tensor`.

use std::collections::HashMap;

use ndarray::{ArrayD, Axis, IxDyn};

use crate::for_each_element_type;
use crate::protocol::generated::google::cloud::aiplatform::v1 as wire;
use crate::protocol::generated::google::cloud::aiplatform::v1::tensor::DataType;
use crate::task::Prediction;
use crate::task::image_classification::Classification;
use crate::task::tensors::Value;
use crate::tensor::Tensor;

/// The outputs for all rows.
pub fn outputs(predictions: &[Prediction]) -> Vec<wire::Tensor> {
    let rows: Vec<Vec<Value>> = predictions.iter().map(values).collect();
    let count = rows.first().map_or(0, Vec::len);
    (0..count).map(|output| column(rows.iter().filter_map(|row| row.get(output)))).collect()
}

/// What one row has of each output; axis 0 is 1.
fn values(prediction: &Prediction) -> Vec<Value> {
    let plain = |tensor| Value { tensor, keys: None };
    match prediction {
        Prediction::Tensors(row) => row.values.clone(),
        Prediction::ImageClassification(Classification::Best { label, confidence }) => {
            vec![plain(row([label.to_string()])), plain(row([*confidence]))]
        }
        Prediction::ImageClassification(Classification::TopK { labels, confidences }) => {
            vec![plain(row(labels.iter().map(ToString::to_string))), plain(row(confidences.iter().copied()))]
        }
        Prediction::ImageClassification(Classification::Vertex { ids, display_names, confidences }) => vec![
            plain(row(ids.iter().cloned())),
            plain(row(display_names.iter().map(ToString::to_string))),
            plain(row(confidences.iter().copied())),
        ],
    }
}

/// A tensor of one row.
fn row<T>(values: impl IntoIterator<Item = T>) -> Tensor
where
    Tensor: From<ArrayD<T>>,
{
    ndarray::Array1::from_iter(values).insert_axis(Axis(0)).into_dyn().into()
}

/// One output of all rows.
fn column<'a>(rows: impl Iterator<Item = &'a Value> + Clone) -> wire::Tensor {
    if rows.clone().any(|row| row.keys.is_some()) {
        return list(rows.map(|row| match &row.keys {
            Some(keys) => map(keys, &row.tensor),
            None => tensor(&row.tensor),
        }));
    }
    let tensors: Vec<&Tensor> = rows.map(|row| &row.tensor).collect();
    match Tensor::concatenate(&tensors) {
        Ok(whole) => tensor(&whole),
        // The rows differ in shape.
        Err(_) => list(tensors.into_iter().map(tensor)),
    }
}

fn list(parts: impl Iterator<Item = wire::Tensor>) -> wire::Tensor {
    wire::Tensor { list_val: parts.collect(), ..Default::default() }
}

/// A row of a map: each value by its key.
fn map(keys: &Tensor, values: &Tensor) -> wire::Tensor {
    let keys: Vec<String> = for_each_element_type!(keys, keys => keys.iter().map(ToString::to_string).collect());
    let one = |index: usize| {
        for_each_element_type!(values, values => {
            let value = values.iter().nth(index).cloned().unwrap_or_default();
            tensor(&Tensor::from(ArrayD::from_elem(IxDyn(&[]), value)))
        })
    };
    let entries: HashMap<String, wire::Tensor> =
        keys.into_iter().enumerate().map(|(index, key)| (key, one(index))).collect();
    wire::Tensor { struct_val: entries, ..Default::default() }
}

/// A tensor with its values in the field of its type; half precision is FLOAT.
fn tensor(tensor: &Tensor) -> wire::Tensor {
    let empty = wire::Tensor {
        // What is in memory has lengths that an i64 holds.
        shape: tensor.shape().iter().map(|&length| i64::try_from(length).unwrap_or(i64::MAX)).collect(),
        ..Default::default()
    };
    macro_rules! with {
        ($dtype:ident, $field:ident: $values:expr) => {
            wire::Tensor { dtype: DataType::$dtype.into(), $field: $values.collect(), ..empty }
        };
    }
    match tensor {
        Tensor::Bool(array) => with!(Bool, bool_val: array.iter().copied()),
        Tensor::String(array) => with!(String, string_val: array.iter().cloned()),
        Tensor::Float16(array) => with!(Float, float_val: array.iter().map(|value| value.to_f32())),
        Tensor::Float32(array) => with!(Float, float_val: array.iter().copied()),
        Tensor::Float64(array) => with!(Double, double_val: array.iter().copied()),
        Tensor::Int8(array) => with!(Int8, int_val: array.iter().map(|&value| value.into())),
        Tensor::Int16(array) => with!(Int16, int_val: array.iter().map(|&value| value.into())),
        Tensor::Int32(array) => with!(Int32, int_val: array.iter().copied()),
        Tensor::Int64(array) => with!(Int64, int64_val: array.iter().copied()),
        Tensor::Uint8(array) => with!(Uint8, uint_val: array.iter().map(|&value| value.into())),
        Tensor::Uint16(array) => with!(Uint16, uint_val: array.iter().map(|&value| value.into())),
        Tensor::Uint32(array) => with!(Uint32, uint_val: array.iter().copied()),
        Tensor::Uint64(array) => with!(Uint64, uint64_val: array.iter().copied()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::task::tensors::{Output, Row};

    fn prediction(tensor: Tensor, keys: Option<Tensor>) -> Prediction {
        let output = Output { name: "y".to_owned(), flatten: true };
        Prediction::Tensors(Row { outputs: Arc::from([output]), values: vec![Value { tensor, keys }] })
    }

    #[test]
    fn rows_are_put_together_in_their_order() {
        let rows = [prediction(row([1i64, 2]), None), prediction(row([3i64, 4]), None)];
        let written = outputs(&rows);
        assert_eq!(written.len(), 1);
        assert_eq!(
            (written[0].dtype(), &*written[0].shape, &*written[0].int64_val),
            (DataType::Int64, &[2, 2][..], &[1, 2, 3, 4][..])
        );
    }

    #[test]
    fn ragged_rows_are_a_list() {
        let rows = [prediction(row([1f32]), None), prediction(row([2f32, 3.0]), None)];
        let written = &outputs(&rows)[0];
        let shapes: Vec<&[i64]> = written.list_val.iter().map(|part| &*part.shape).collect();
        assert_eq!(shapes, [&[1, 1][..], &[1, 2]]);
    }

    #[test]
    fn maps_are_structures() {
        let written = outputs(&[prediction(row([0.25f32, 0.75]), Some(row(["a".to_owned(), "b".to_owned()])))]);
        let entry = &written[0].list_val[0].struct_val["b"];
        assert_eq!((&*entry.float_val, entry.shape.len()), (&[0.75][..], 0));
    }

    #[test]
    fn a_classifier_gives_labels_and_confidences() {
        let best = |label: &str| {
            Prediction::ImageClassification(Classification::Best { label: label.into(), confidence: 0.5 })
        };
        let written = outputs(&[best("a"), best("b")]);
        assert_eq!((&*written[0].string_val, &*written[0].shape), (&["a".to_owned(), "b".to_owned()][..], &[2, 1][..]));
        assert_eq!((written[1].dtype(), &*written[1].float_val), (DataType::Float, &[0.5, 0.5][..]));
    }
}
