//! Image classification: a picture in, labels out.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use half::f16;
use ndarray::{ArrayD, IxDyn};

use super::{
    ImageFacts, InputError, Instance, OutputError, PreparationTimes, Prepared, Scores, base64, check_finite, given,
};
use crate::engine::{Item, TensorSpec};
use crate::preprocess::{DecodeLimits, Preprocessor, inspect, sniff};
use crate::tensor::{ElementType, Tensor};

pub mod instance;
pub mod parameters;
mod prediction;

pub use parameters::Form;
pub use prediction::{Activation, Classification};

/// The task's name, which is Hugging Face's.
pub const NAME: &str = "image-classification";

/// A classifier: how its pictures are prepared, and what its scores mean.
#[derive(Debug)]
pub struct ImageClassification {
    /// From a file's bytes to numbers.
    pub preprocessor: Preprocessor,
    /// What the model takes: float32 or float16, as the preprocessing makes it.
    pub input: TensorSpec,
    /// Which of the model's outputs holds the scores, of shape [batch, classes].
    pub scores_output: usize,
    /// The name of each class, in the order of the scores.
    pub labels: Vec<Arc<str>>,
    /// What makes confidences of scores.
    pub activation: Activation,
    /// What decoding one picture may cost.
    pub limits: DecodeLimits,
}

/// A thread's buffer for decoded base64 shrinks to this after a larger picture, in bytes.
const KEPT_BUFFER: usize = 4 << 20;

/// Characters of base64, a multiple of four, in which most pictures' headers are found.
const HEAD: usize = 16 << 10;

thread_local! {
    static DECODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl ImageClassification {
    /// The shape of one item's tensor: [1, C, H, W] or [1, H, W, C].
    fn item_shape(&self) -> [usize; 4] {
        let [a, b, c] = self.preprocessor.output_shape();
        [1, a, b, c]
    }

    pub(super) fn item_bytes(&self) -> usize {
        self.item_shape().iter().product::<usize>() * self.input.element_type.size()
    }

    pub(super) fn example(&self) -> Item {
        vec![Tensor::zeros(self.input.element_type, &self.item_shape())]
    }

    pub(super) fn prepare(&self, instance: &Instance) -> Result<Prepared, InputError> {
        let json = match instance {
            Instance::Encoded(bytes) => return self.prepare_file(bytes, "", std::time::Duration::ZERO),
            Instance::Tensors(item) => {
                let prepared = given(item, std::slice::from_ref(&self.input))?;
                check_finite(item).map_err(|message| InputError::new(self.input.name.clone(), message))?;
                return Ok(prepared);
            }
            Instance::Json(json) => json,
        };
        let begin = Instant::now();
        let found = instance::find_image(json)?;
        DECODED.with_borrow_mut(|buffer| {
            let bytes =
                base64::decode(&found.text, buffer).map_err(|message| InputError::new(&*found.path, message))?;
            let result = self.prepare_file(bytes, &found.path, begin.elapsed());
            if buffer.len() > KEPT_BUFFER {
                buffer.truncate(KEPT_BUFFER);
                buffer.shrink_to_fit();
            }
            result
        })
    }

    /// The pixels of an instance's picture by its header; 0 where it can't be read or promises too many.
    pub(super) fn pixels(&self, instance: &Instance) -> u64 {
        let info = match instance {
            Instance::Encoded(bytes) => inspect(bytes).ok(),
            Instance::Tensors(_) => None,
            Instance::Json(json) => instance::find_image(json).ok().and_then(|found| {
                DECODED.with_borrow_mut(|buffer| {
                    let mut inspected = |text: &str| inspect(base64::decode(text, buffer).ok()?).ok();
                    found.text.get(..HEAD).and_then(&mut inspected).or_else(|| inspected(&found.text))
                })
            }),
        };
        let pixels = info.map_or(0, |info| u64::from(info.width) * u64::from(info.height));
        if pixels > self.limits.max_pixels { 0 } else { pixels }
    }

    /// Decodes a picture's file straight into the tensor of its item.
    fn prepare_file(&self, file: &[u8], path: &str, base64: std::time::Duration) -> Result<Prepared, InputError> {
        let shape = self.item_shape();
        let mut pixels = vec![0f32; shape.iter().product()];
        let times = self
            .preprocessor
            .run(file, &self.limits, &mut pixels)
            .map_err(|error| InputError::new(path, format!("can't be used: {error}")))?;
        let tensor = self.tensor(&shape, pixels).map_err(|error| InputError::new(path, error))?;
        Ok(Prepared {
            item: vec![tensor],
            times: PreparationTimes { decode: base64 + times.decode, preprocess: times.resize },
            image: Some(ImageFacts {
                format: sniff(file).map_or("unknown", |format| format.name()),
                bytes: file.len(),
            }),
        })
    }

    fn tensor(&self, shape: &[usize], pixels: Vec<f32>) -> Result<Tensor, String> {
        let unfit = |error: ndarray::ShapeError| error.to_string();
        match self.input.element_type {
            ElementType::Float16 => {
                let pixels = pixels.into_iter().map(f16::from_f32).collect();
                Ok(ArrayD::from_shape_vec(IxDyn(shape), pixels).map_err(unfit)?.into())
            }
            _ => Ok(ArrayD::from_shape_vec(IxDyn(shape), pixels).map_err(unfit)?.into()),
        }
    }

    pub(super) fn finish(&self, outputs: &[Tensor], form: Form) -> Result<Classification, OutputError> {
        prediction::classify(&self.raw_scores(outputs)?, &self.labels, self.activation, form)
    }

    /// The confidences of all classes, in the order of the labels.
    pub(super) fn scores(&self, outputs: &[Tensor]) -> Result<Scores, OutputError> {
        let confidences = prediction::confidences(&self.raw_scores(outputs)?, self.activation)?;
        if let Some(class) = confidences.iter().position(|confidence| !confidence.is_finite()) {
            return Err(OutputError(format!("the confidence of class {class} is no number")));
        }
        let shape = vec![confidences.len()];
        Ok(Scores { name: "confidences".into(), shape, values: confidences.into_iter().map(f64::from).collect() })
    }

    fn raw_scores<'a>(&self, outputs: &'a [Tensor]) -> Result<Cow<'a, [f32]>, OutputError> {
        let scores =
            outputs.get(self.scores_output).ok_or_else(|| OutputError("the model gave no scores".to_owned()))?;
        match scores {
            Tensor::Float32(array) => match array.as_slice() {
                Some(scores) => Ok(Cow::Borrowed(scores)),
                None => Ok(array.iter().copied().collect()),
            },
            Tensor::Float16(array) => Ok(array.iter().map(|score| score.to_f32()).collect()),
            other => Err(OutputError(format!("the scores are {}, not float", other.element_type()))),
        }
    }
}
