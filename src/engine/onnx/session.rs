//! One ONNX Runtime session: building it for a provider, and running a batch through it.

use std::path::Path;
use std::sync::Arc;

use ort::environment::Environment;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, RunOptions, Session};

use super::affinity::Placement;
use super::convert::{input_spec, input_value, is_contiguous, output_maps, output_spec, output_tensor, pad};
use super::provider::{Memory, graph_run, register, wants_graphs};
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
    provider: Provider,
    device_id: i32,
    /// Where the session records graphs: the options of runs without one.
    without_graph: Option<RunOptions>,
    /// Where it has all CPUs for each run.
    placement: Option<Placement>,
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
        let placement = (provider == Provider::Cpu).then(|| Placement::new(threads)).flatten();
        let build = |graphs| {
            let builder = builder(environment, threads, placement.as_ref(), options)?;
            build(builder, path, provider, options, weights.as_deref(), graphs)
        };
        let graphs = wants_graphs(provider, options);
        let without_graph = |graphs: bool| graphs.then(|| graph_run(None)).transpose();
        let built = build(graphs).or_else(|error| match graphs {
            true => {
                let again = build(false)?;
                tracing::warn!(path = %path.display(), %error, "serving without CUDA graphs, as the model can't be recorded");
                Ok(again)
            }
            false => Err(error),
        });
        let built = built.and_then(|(session, graphs)| Ok((SharedSession::new(session)?, without_graph(graphs)?)));
        let (session, without_graph) = built.map_err(|error| match provider {
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
        Ok(Self {
            session,
            signature,
            fixed_batch,
            provider,
            device_id: options.device_id,
            without_graph,
            placement,
            _weights: weights,
            _memory: GivesBack,
        })
    }

    pub(super) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The length of axis 0, when the model fixes it.
    pub(super) fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }

    /// Moves the calling thread out of the way of those that will help it, where each CPU has one of them.
    pub(super) fn step_aside(&self) {
        if let Some(placement) = &self.placement {
            placement.step_aside();
        }
    }

    /// Whether it records graphs, one for each number that a run is given.
    pub(super) fn has_graphs(&self) -> bool {
        self.without_graph.is_some()
    }

    /// The memory from which its provider copies without a detour.
    ///
    /// # Errors
    /// What the runtime says.
    pub(super) fn memory(&self) -> ort::Result<Memory> {
        Memory::of(self.session.session(), self.provider, self.device_id, self.has_graphs())
    }

    /// Memory of the processor, in two places if `has_device`.
    #[cfg(test)]
    pub(super) fn memory_of(&self, provider: Provider, has_device: bool) -> ort::Result<Memory> {
        Memory::of(self.session.session(), provider, 0, has_device)
    }

    /// A binding to which nothing is bound yet.
    ///
    /// # Errors
    /// What the runtime says.
    pub(super) fn bind(&self) -> ort::Result<IoBinding> {
        self.session.session().create_binding()
    }

    /// Runs the model on what is bound, and leaves the outputs there. They are complete when it returns.
    ///
    /// # Errors
    /// What the runtime says.
    pub(super) fn run_bound(&mut self, binding: &IoBinding, options: Option<&RunOptions>) -> ort::Result<()> {
        let session = self.session.session_mut();
        match options {
            Some(options) => session.run_binding_with_options(binding, options).map(drop),
            None => session.run_binding(binding).map(drop),
        }
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
        let outputs = self.session.run(&values, self.without_graph.as_ref())?;
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

fn builder(
    environment: &Environment,
    threads: usize,
    placement: Option<&Placement>,
    options: &OnnxOptions,
) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(threads)?
        .with_intra_op_spinning(options.spin)?;
    Ok(match placement {
        Some(placement) => builder.with_config_entry("session.intra_op_thread_affinities", placement.helpers())?,
        None => builder,
    })
}

fn build(
    builder: SessionBuilder,
    path: &Path,
    provider: Provider,
    options: &OnnxOptions,
    weights: Option<&SharedWeights>,
    graphs: bool,
) -> ort::Result<(Session, bool)> {
    let mut builder = register(builder, provider, options, graphs)?;
    let session = match weights {
        Some(weights) => weights.commit(builder),
        None => builder.commit_from_file(path),
    };
    Ok((session?, graphs))
}
