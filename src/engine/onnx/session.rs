//! One ONNX Runtime session: building it for a provider, and running a batch through it.

use std::path::Path;
use std::sync::Arc;

use ort::environment::Environment;
use ort::ep;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::convert::{input_spec, input_value, is_contiguous, output_maps, output_spec, output_tensor, pad};
use super::shared::SharedSession;
use super::weights::SharedWeights;
use super::{LoadError, OnnxOptions, Provider};
use crate::engine::{EngineError, Item, Signature, memory};
use crate::tensor::{Tensor, TensorError};

/// A session with what is known of its model. Threads may share it.
pub(super) struct ModelSession {
    session: SharedSession,
    signature: Signature,
    fixed_batch: Option<usize>,
    /// What the session has borrowed, dropped after it.
    _weights: Option<Arc<SharedWeights>>,
    _memory: GivesBack,
}

/// Dropped after what stands above it: what that had is the system's again, not the allocator's.
struct GivesBack;

impl Drop for GivesBack {
    fn drop(&mut self) {
        memory::give_back();
    }
}

impl ModelSession {
    /// Loads a model for one provider, with this many intra-op threads, and with weights that other sessions share.
    pub(super) fn open(
        environment: &Environment,
        path: &Path,
        provider: Provider,
        threads: usize,
        options: &OnnxOptions,
        weights: Option<Arc<SharedWeights>>,
    ) -> Result<Self, LoadError> {
        let built =
            build(environment, path, provider, threads, options, weights.as_deref()).and_then(SharedSession::new);
        let session = built.map_err(|error| match provider {
            Provider::Cpu => LoadError::Model { path: path.to_path_buf(), reason: error.to_string() },
            _ => LoadError::Provider { provider, reason: error.to_string() },
        })?;
        let unsupported = |reason| LoadError::Model { path: path.to_path_buf(), reason };
        let signature = Signature {
            inputs: session.session().inputs().iter().map(input_spec).collect::<Result<_, _>>().map_err(unsupported)?,
            outputs: session
                .session()
                .outputs()
                .iter()
                .map(output_spec)
                .collect::<Result<_, _>>()
                .map_err(unsupported)?,
        };
        let fixed_batch = signature.inputs.iter().find_map(|input| input.shape.first().copied().flatten());
        Ok(Self { session, signature, fixed_batch, _weights: weights, _memory: GivesBack })
    }

    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The length of axis 0, when the model fixes it.
    pub(super) fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }

    /// Runs the items as one batch. A single item is handed over as it is; several are gathered with one copy.
    pub(super) fn run(&self, batch: &[Item]) -> Result<Vec<Item>, EngineError> {
        let failed = |error: TensorError| EngineError::Failed(error.to_string());
        let rows: Vec<usize> = batch.iter().map(|item| item.first().map_or(1, Tensor::row_count)).collect();
        let total: usize = rows.iter().sum();
        let lone = match batch {
            [item] if self.fixed_batch.is_none_or(|fixed| fixed == total) && item.iter().all(is_contiguous) => {
                Some(item)
            }
            _ => None,
        };
        let gathered = match lone {
            Some(_) => Vec::new(),
            None => self.gather(batch).map_err(failed)?,
        };
        let outputs =
            self.run_tensors(lone.unwrap_or(&gathered)).map_err(|error| EngineError::Failed(error.to_string()))?;
        let expected = self.fixed_batch.map_or(total, |fixed| fixed.max(total));
        for (output, spec) in outputs.iter().zip(&self.signature.outputs) {
            if output.shape().is_empty() || output.row_count() != expected {
                return Err(EngineError::Failed(format!(
                    "output `{}` has shape {:?} for a batch of {expected}: its first axis must be the batch",
                    spec.name,
                    output.shape()
                )));
            }
        }
        if lone.is_some() {
            return Ok(vec![outputs]);
        }
        scatter(&outputs, &rows).map_err(failed)
    }

    /// Joins the items' tensors input by input, and pads them to the model's fixed batch.
    fn gather(&self, batch: &[Item]) -> Result<Item, TensorError> {
        (0..self.signature.inputs.len())
            .map(|input| {
                let parts: Vec<&Tensor> =
                    batch.iter().map(|item| item.get(input).ok_or(TensorError::Mismatch)).collect::<Result<_, _>>()?;
                let joined = Tensor::concatenate(&parts)?;
                match self.fixed_batch {
                    Some(rows) => pad(joined, rows),
                    None => Ok(joined),
                }
            })
            .collect()
    }

    fn run_tensors(&self, inputs: &[Tensor]) -> ort::Result<Item> {
        let values = inputs.iter().map(input_value).collect::<ort::Result<Vec<_>>>()?;
        let outputs = self.session.run(&values)?;
        let mut tensors = Vec::with_capacity(self.signature.outputs.len());
        let mut all_keys = Vec::new();
        for (value, spec) in outputs.iter().zip(&self.signature.outputs) {
            tensors.push(match spec.map_keys {
                None => output_tensor(value)?,
                Some(key_type) => {
                    let (values, keys) = output_maps(value, key_type)?;
                    all_keys.push(keys);
                    values
                }
            });
        }
        tensors.append(&mut all_keys);
        Ok(tensors)
    }
}

/// Gives each item its rows of each output; padding is left behind.
fn scatter(outputs: &[Tensor], rows: &[usize]) -> Result<Vec<Item>, TensorError> {
    let mut start = 0;
    rows.iter()
        .map(|count| {
            let item = outputs.iter().map(|output| output.rows(start, start + count)).collect();
            start += count;
            item
        })
        .collect()
}

fn build(
    environment: &Environment,
    path: &Path,
    provider: Provider,
    threads: usize,
    options: &OnnxOptions,
    weights: Option<&SharedWeights>,
) -> ort::Result<Session> {
    let mut builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_intra_op_spinning(options.spin)?;
    builder = with_provider(builder, provider, options)?;
    match weights {
        Some(weights) => weights.commit(builder),
        None => builder.commit_from_file(path),
    }
}

fn with_provider(builder: SessionBuilder, provider: Provider, options: &OnnxOptions) -> ort::Result<SessionBuilder> {
    let cuda = || ep::CUDA::default().with_device_id(options.device_id).build().error_on_failure();
    Ok(match provider {
        // Not named: naming the CPU provider switches its arena off.
        Provider::Cpu => builder,
        Provider::Cuda => builder.with_execution_providers([cuda()])?,
        Provider::TensorRt => {
            let mut tensorrt =
                ep::TensorRT::default().with_device_id(options.device_id).with_fp16(options.tensorrt_fp16);
            if let Some(cache) = &options.tensorrt_engine_cache {
                tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(cache.display());
            }
            // What TensorRT can't take runs on CUDA rather than on the CPU.
            builder.with_execution_providers([tensorrt.build().error_on_failure(), cuda()])?
        }
    })
}
