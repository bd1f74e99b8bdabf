//! What a model means: an instance becomes input tensors, output tensors become a prediction.
//!
//! Everything here is a pure function of the instance, the parameters and the model's description, so that it is
//! tested without a server. A task knows neither HTTP nor queues.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use thiserror::Error;

use crate::engine::Item;
use crate::preprocess::{ImageError, sniff};
use crate::tensor::{EncodedTensor, Tensor};

pub mod base64;
mod given;
pub mod image_classification;
mod scores;
pub mod tensors;
mod views;

pub use given::check;
use given::{check_finite, given};
pub use scores::{NotFinite, Scores};

use image_classification::{Classification, Form, ImageClassification};
use tensors::{Row, Tensors};
pub use views::{
    ClassesView, ColumnsView, FlatView, MAP_KEYS, NumberView, RowView, ViewError, highest, tensor_columns,
};

/// One thing to predict for, in the form in which it arrived.
#[derive(Debug, Clone)]
pub enum Instance {
    /// The JSON text of an element of `instances`.
    Json(Bytes),
    /// The bytes of a picture's file, as posted to a raw route or read from a disk.
    Encoded(Bytes),
    /// The model's input tensors themselves, in the order of its signature, with one row each.
    Tensors(Item),
}

/// Whether bytes begin like a picture's file, of a format that is decoded here or not. No JSON does.
pub fn is_picture(bytes: &[u8]) -> bool {
    matches!(sniff(bytes), Ok(_) | Err(ImageError::Unsupported { .. }))
}

impl Instance {
    /// Its length as it arrived.
    pub fn byte_size(&self) -> usize {
        match self {
            Self::Json(bytes) | Self::Encoded(bytes) => bytes.len(),
            Self::Tensors(tensors) => tensors.iter().map(Tensor::byte_size).sum(),
        }
    }
}

/// What is wrong with an instance or with the parameters.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{path} {message}")]
pub struct InputError {
    /// The part at fault, relative to the instance (or the parameters); empty for the whole.
    pub path: String,
    /// The rest of a sentence that begins with the name of that part.
    pub message: String,
}

impl InputError {
    /// An error about a part of the input.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// The model gave something that can't be made into a prediction.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct OutputError(pub String);

/// How long the steps of making an item took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PreparationTimes {
    /// Base64 and the picture's own compression.
    pub decode: Duration,
    /// From pixels to tensor: resize, crop, normalise, layout.
    pub preprocess: Duration,
}

/// What an instance became.
#[derive(Debug)]
pub struct Prepared {
    /// The tensors for the engine.
    pub item: Item,
    /// How long it took.
    pub times: PreparationTimes,
    /// The size of the file in bytes, and its format, where the instance was a picture.
    pub image: Option<ImageFacts>,
}

/// What is counted of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageFacts {
    /// The name of its file format, such as `jpeg`.
    pub format: &'static str,
    /// The size of the file in bytes.
    pub bytes: usize,
}

/// Parameters that a task has understood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Parameters {
    /// For [`ImageClassification`].
    ImageClassification(Form),
    /// For [`Tensors`], which has none.
    Tensors,
}

/// An answer for one instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Prediction {
    /// By [`ImageClassification`].
    ImageClassification(Classification),
    /// By [`Tensors`].
    Tensors(Row),
}

/// The meaning of one model.
#[derive(Debug)]
pub enum Task {
    /// A picture in, labels out.
    ImageClassification(Box<ImageClassification>),
    /// Numbers and strings in, the model's outputs out.
    Tensors(Tensors),
}

impl Task {
    /// The task's name, as `model.toml` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ImageClassification(_) => image_classification::NAME,
            Self::Tensors(_) => tensors::NAME,
        }
    }

    /// What one prepared item takes of memory, in bytes: at most, or where its size depends on the instance, at least.
    pub fn item_bytes(&self) -> usize {
        match self {
            Self::ImageClassification(task) => task.item_bytes(),
            Self::Tensors(task) => task.item_bytes(),
        }
    }

    /// Reads the JSON text of the request's parameters.
    ///
    /// # Errors
    /// [`InputError`], relative to `parameters`.
    pub fn parse_parameters(&self, json: Option<&[u8]>) -> Result<Parameters, InputError> {
        match self {
            Self::ImageClassification(_) => {
                image_classification::parameters::parse(json).map(Parameters::ImageClassification)
            }
            Self::Tensors(_) => tensors::parse_parameters(json).map(|()| Parameters::Tensors),
        }
    }

    /// Whether preparing an instance costs about as much as reading its bytes, and no more.
    pub fn is_light(&self) -> bool {
        match self {
            Self::ImageClassification(_) => false,
            Self::Tensors(_) => true,
        }
    }

    /// The most pixels that a picture of one instance may have.
    pub fn most_pixels(&self) -> u64 {
        match self {
            Self::ImageClassification(task) => task.limits.max_pixels,
            Self::Tensors(_) => 0,
        }
    }

    /// The pixels of an instance's picture by its header, without decoding it; 0 where there is none that could be
    /// decoded, which [`Task::prepare`] tells.
    pub fn pixels(&self, instance: &Instance) -> u64 {
        match self {
            Self::ImageClassification(task) => task.pixels(instance),
            Self::Tensors(_) => 0,
        }
    }

    /// Makes the input tensors of an instance. Takes CPU time: unless the task [is light](Task::is_light), not for a
    /// thread that serves connections.
    ///
    /// # Errors
    /// [`InputError`], relative to the instance.
    pub fn prepare(&self, instance: &Instance) -> Result<Prepared, InputError> {
        match self {
            Self::ImageClassification(task) => task.prepare(instance),
            Self::Tensors(task) => task.prepare(instance),
        }
    }

    /// Makes the items of inputs that arrive whole, one for each of their rows. Takes CPU time, as [`Task::prepare`].
    ///
    /// # Errors
    /// [`InputError`], relative to the inputs.
    pub fn items(&self, inputs: Vec<EncodedTensor>) -> Result<Vec<Item>, InputError> {
        match self {
            Self::ImageClassification(_) => Err(InputError::new("", "are tensors, and this model takes pictures")),
            Self::Tensors(task) => task.items(inputs),
        }
    }

    /// An item like those that [`Task::prepare`] makes, for warming the engine.
    pub fn example(&self) -> Item {
        match self {
            Self::ImageClassification(task) => task.example(),
            Self::Tensors(task) => task.example(),
        }
    }

    /// Makes the prediction from an item's output tensors.
    ///
    /// # Errors
    /// [`OutputError`] when they are not what the model's description promises.
    pub fn finish(&self, outputs: &[Tensor], parameters: Parameters) -> Result<Prediction, OutputError> {
        match (self, parameters) {
            (Self::ImageClassification(task), Parameters::ImageClassification(form)) => {
                task.finish(outputs, form).map(Prediction::ImageClassification)
            }
            (Self::Tensors(task), Parameters::Tensors) => task.finish(outputs).map(Prediction::Tensors),
            // Parameters come from the same task's `parse_parameters`.
            _ => Err(OutputError("the parameters are another task's".to_owned())),
        }
    }

    /// The output that an explanation is about: the one of that name, or else the model's most telling one.
    ///
    /// # Errors
    /// [`OutputError`] when it holds no numbers, or there is none of that name.
    pub fn scores(&self, outputs: &[Tensor], name: Option<&str>) -> Result<Scores, OutputError> {
        match self {
            Self::ImageClassification(task) => task.scores(outputs),
            Self::Tensors(task) => task.scores(outputs, name),
        }
    }

    /// What the places of that output are called; empty where they have no names.
    pub fn score_labels(&self, outputs: &[Tensor], name: Option<&str>) -> Vec<Arc<str>> {
        match self {
            Self::ImageClassification(task) => task.labels.clone(),
            Self::Tensors(task) => task.score_labels(outputs, name),
        }
    }
}
