//! An answer as the numbers that an explanation is about.

use std::sync::Arc;

use ndarray::ArrayD;

use super::OutputError;
use super::tensors::Value;
use crate::tensor::Tensor;

/// One output for one instance, as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// What the output is called in predictions.
    pub name: Arc<str>,
    /// Its axes without the batch; empty for one number.
    pub shape: Vec<usize>,
    /// In row-major order.
    pub values: Vec<f64>,
}

/// A number of an output that is none.
#[derive(Debug, Clone, PartialEq)]
pub struct NotFinite {
    /// The output.
    pub name: Arc<str>,
    /// NaN or an infinity.
    pub value: f64,
    /// Where it stands, in row-major order.
    pub place: usize,
}

impl Scores {
    /// Whether all of them are numbers that can be added up.
    ///
    /// # Errors
    /// The first that isn't.
    pub fn check_finite(&self) -> Result<(), NotFinite> {
        match self.values.iter().position(|value| !value.is_finite()) {
            Some(place) => Err(NotFinite { name: self.name.clone(), value: self.values[place], place }),
            None => Ok(()),
        }
    }
}

/// The numbers of an output's row.
///
/// # Errors
/// When it holds strings, or something that isn't a number.
pub(super) fn of_row(name: &Arc<str>, value: &Value, flatten: bool) -> Result<Scores, OutputError> {
    fn floats<T: Copy>(array: &ArrayD<T>, wide: impl Fn(T) -> f64) -> Vec<f64> {
        array.iter().map(|&value| wide(value)).collect()
    }
    let values = match &value.tensor {
        Tensor::Float16(array) => floats(array, |value| value.to_f64()),
        Tensor::Float32(array) => floats(array, f64::from),
        Tensor::Float64(array) => floats(array, |value| value),
        Tensor::Int8(array) => floats(array, f64::from),
        Tensor::Int16(array) => floats(array, f64::from),
        Tensor::Int32(array) => floats(array, f64::from),
        // Beyond 2^53 neighbours are one double, as they are in the API's JSON.
        Tensor::Int64(array) => floats(array, |value| value as f64),
        Tensor::Uint8(array) => floats(array, f64::from),
        Tensor::Uint16(array) => floats(array, f64::from),
        Tensor::Uint32(array) => floats(array, f64::from),
        Tensor::Uint64(array) => floats(array, |value| value as f64),
        Tensor::Bool(array) => floats(array, |value| f64::from(u8::from(value))),
        Tensor::String(_) => return Err(OutputError(format!("the output `{name}` holds strings, not numbers"))),
    };
    let shape = match value.tensor.shape().get(1..).unwrap_or_default() {
        [1] if flatten => Vec::new(),
        shape => shape.to_vec(),
    };
    Ok(Scores { name: name.clone(), shape, values })
}
