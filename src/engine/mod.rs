//! Engines run batches of tensors through a model.
//!
//! The face is small: what a model takes and gives ([`Signature`]), how much to give it at once
//! ([`Engine::max_batch`], [`Engine::concurrency`]) and [`Engine::run`]. An engine owns the threads that it
//! computes on; `run` only hands a batch over and waits, so that it can be awaited on any runtime. How many
//! threads, sessions or devices stand behind it is the engine's own affair.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use thiserror::Error;
use tokio::time::Instant;

use crate::tensor::{ElementType, Tensor};

pub mod fake;
pub mod memory;
pub mod onnx;

/// A future that owns all it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// The name, type and shape of one input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name by which the model knows it.
    pub name: String,
    /// What it holds.
    pub element_type: ElementType,
    /// The axes in order; `None` is a length that may differ from call to call.
    pub shape: Vec<Option<usize>>,
    /// The type of the keys, when it is an output of one map per row (what ONNX-ML's `ZipMap` makes). The shape is then
    /// [batch, entries], and an item has two tensors of it: the values at the output's own place, and the keys behind
    /// all outputs.
    pub map_keys: Option<ElementType>,
}

impl TensorSpec {
    /// Whether a tensor of this type and shape, axis 0 first, is what it takes, in any number of rows.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the tensor's name.
    pub fn check(&self, element_type: ElementType, shape: &[usize]) -> Result<(), String> {
        let fits = shape.len() == self.shape.len()
            // Axis 0 counts rows, whatever batch the model insists on.
            && shape.iter().zip(&self.shape).skip(1).all(|(length, wanted)| wanted.is_none_or(|wanted| wanted == *length));
        match element_type == self.element_type && fits {
            true => Ok(()),
            false => Err(format!("is {element_type}{shape:?}, and the model takes {self}")),
        }
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.map_keys {
            Some(keys) => write!(formatter, "{} map({keys},{})[", self.name, self.element_type)?,
            None => write!(formatter, "{} {}[", self.name, self.element_type)?,
        }
        for (index, length) in self.shape.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match length {
                Some(length) => write!(formatter, "{comma}{length}")?,
                None => write!(formatter, "{comma}?")?,
            }
        }
        formatter.write_str("]")
    }
}

/// What a model takes and gives. Axis 0 of each input and output is the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// In the model's own order.
    pub inputs: Vec<TensorSpec>,
    /// In the model's own order.
    pub outputs: Vec<TensorSpec>,
}

/// The tensors of one item: one per input (or output) of the signature, in its order, then the keys of each output that
/// is a map. Axis 0 counts the rows of the item, 1 for an image.
pub type Item = Vec<Tensor>;

/// The items of one batch. Shared and not owned, so that whoever asked for the run still has them when it fails and
/// can run each by itself, without a copy of every batch made beforehand.
pub type Batch = Arc<[Item]>;

/// What came of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// One entry for each item, in their order.
    pub outputs: Vec<Item>,
    /// When the engine began to compute it; before that the batch waited for its turn.
    pub began: Instant,
}

/// Why a batch could not be run.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum EngineError {
    /// The runtime refused the batch or failed in it. The text is for the log, not for clients.
    #[error("the model failed: {0}")]
    Failed(String),
    /// The engine's thread is gone; nothing that it was given will be answered.
    #[error("the engine has stopped")]
    Stopped,
}

/// Something that runs batches.
pub trait Engine: Send + Sync + 'static {
    /// What the model takes and gives.
    fn signature(&self) -> &Signature;

    /// The most items that one batch may have; at least 1.
    fn max_batch(&self) -> usize;

    /// How many batches may be in flight at once before more of them only wait inside the engine; at least 1.
    fn concurrency(&self) -> usize;

    /// Runs one batch of 1 to [`Engine::max_batch`] items. The answer for an item doesn't depend on the others in its batch.
    fn run(&self, batch: Batch) -> BoxFuture<Result<Outcome, EngineError>>;
}
