//! A session whose inputs and outputs are bound to memory at fixed places: a set of them for each of some sizes of
//! batch, the *buckets*, allocated once.
//!
//! For GPUs. A batch is copied once, into page-locked memory, from where the GPU takes it without a detour; its outputs
//! come back the same way, and no run allocates anything. A batch between two buckets is padded to the larger one. With
//! CUDA graphs each bucket is one graph, which replays with the addresses that it was recorded with: so its tensors lie
//! on the GPU, and are filled from, and copied to, the page-locked ones around each run.
//!
//! Only one thread uses it, the one that made it: CUDA's state in the runtime, graphs included, belongs to a thread.
//! A worker has one each, so that while the GPU computes for one, another fills its memory or hands out its outputs.
//!
//! The runtime decides what is copied when, and a mistake in that would answer with an earlier batch's outputs. So each
//! bucket has to [prove](BoundSession::prove) itself against plain runs before it serves. Nothing here is particular to
//! GPUs but [`Memory`], so that tests bind a CPU's memory.

use ort::session::{IoBinding, RunOptions};

use super::provider::{Memory, graph_run};
use super::session::ModelSession;
use super::slot::{Slot, row_shape};
use crate::engine::{EngineError, Item};
use crate::tensor::Tensor;

/// The largest difference to a plain run, as a share of the largest output: far above what the order of additions does,
/// also in half precision, and far below what another batch's outputs do.
const TOLERANCE: f64 = 0.01;

/// Memory for batches of so many rows, and the session bound to it.
struct Bucket {
    rows: usize,
    binding: IoBinding,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    /// Which graph it is, where there are graphs.
    options: Option<RunOptions>,
}

/// A session with its buckets, from the smallest to the largest.
pub(super) struct BoundSession {
    session: Box<ModelSession>,
    buckets: Vec<Bucket>,
}

/// The numbers of rows up to the largest batch: steps of a half and a third, so that at most a third is padding.
fn bucket_sizes(max_batch: usize, fixed_batch: Option<usize>) -> Vec<usize> {
    if let Some(rows) = fixed_batch {
        return vec![rows];
    }
    let powers = std::iter::successors(Some(1_usize), |size| size.checked_mul(2));
    let mut sizes: Vec<usize> = powers
        .flat_map(|size| [size, size + size / 2])
        .take_while(|size| *size < max_batch)
        .chain([max_batch.max(1)])
        .collect();
    sizes.dedup();
    sizes
}

impl BoundSession {
    /// Binds a session to memory for batches of up to so many rows.
    ///
    /// # Errors
    /// The session again, and why it can't be bound.
    pub(super) fn new(
        session: Box<ModelSession>,
        max_batch: usize,
        memory: impl Fn(&ModelSession) -> ort::Result<Memory>,
    ) -> Result<Self, (Box<ModelSession>, String)> {
        let buckets = memory(&session).map_err(|error| error.to_string()).and_then(|memory| {
            bucket_sizes(max_batch, session.fixed_batch())
                .into_iter()
                .map(|rows| Bucket::new(&session, rows, &memory))
                .collect::<Result<Vec<_>, _>>()
        });
        match buckets {
            Ok(buckets) => Ok(Self { session, buckets }),
            Err(reason) => Err((session, reason)),
        }
    }

    /// The session, bound no more.
    pub(super) fn into_session(self) -> Box<ModelSession> {
        self.session
    }

    /// Whether each bucket is recorded as a graph.
    pub(super) fn has_graphs(&self) -> bool {
        self.session.has_graphs()
    }

    /// The rows of the buckets, from the smallest to the largest.
    pub(super) fn sizes(&self) -> Vec<usize> {
        self.buckets.iter().map(|bucket| bucket.rows).collect()
    }

    /// Runs the items as one batch.
    ///
    /// # Errors
    /// As [`ModelSession::run`].
    pub(super) fn run(&mut self, batch: &[Item]) -> Result<Vec<Item>, EngineError> {
        let rows: Vec<usize> = batch.iter().map(|item| item.first().map_or(1, Tensor::row_count)).collect();
        let total: usize = rows.iter().sum();
        let bucket = self.buckets.iter_mut().find(|bucket| bucket.rows >= total);
        match bucket.filter(|bucket| bucket.takes(batch, &rows)) {
            Some(bucket) => {
                bucket.run(&mut self.session, batch, &rows).map_err(|error| EngineError::Failed(error.to_string()))
            }
            // Larger than any bucket, or of a shape that the runtime has to judge.
            None => self.session.run(batch),
        }
    }

    /// Runs every bucket with several batches, the rows of which differ, and compares with plain runs. The largest bucket
    /// comes early, so that TensorRT, which builds anew for larger shapes, does so once.
    ///
    /// # Errors
    /// Which bucket answers differently, or fails.
    pub(super) fn prove(&mut self, example: &Item) -> Result<(), String> {
        let mut sizes = self.sizes();
        let last = sizes.len() - 1;
        sizes.swap(last.min(1), last);
        let first_row = |tensor: &Tensor| tensor.rows(0, 1).map_err(|error| error.to_string());
        let example: Item = example.iter().map(first_row).collect::<Result<_, _>>()?;
        for rows in sizes {
            for turn in 0..3 {
                let batch: Vec<Item> = (0..rows)
                    .map(|row| example.iter().map(|tensor| tensor.with_pattern(turn * rows + row)).collect())
                    .collect();
                let plain = self.session.run(&batch).map_err(|error| error.to_string())?;
                let bound = self.run(&batch).map_err(|error| format!("batches of {rows}: {error}"))?;
                let largest = magnitude(&plain);
                let difference = difference(&plain, &bound);
                if difference > TOLERANCE * largest {
                    return Err(format!(
                        "batches of {rows} differ from plain runs by {difference:e}, outputs being up to {largest:e}"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Bucket {
    fn new(session: &ModelSession, rows: usize, memory: &Memory) -> Result<Self, String> {
        let slots = |specs: &[crate::engine::TensorSpec]| {
            specs
                .iter()
                .map(|spec| {
                    let row_shape = row_shape(spec, session.fixed_batch())
                        .ok_or_else(|| format!("the model doesn't fix the shape of `{}`", spec.name))?;
                    Slot::new(spec, rows, row_shape, memory).map_err(|error| error.to_string())
                })
                .collect::<Result<Vec<Slot>, String>>()
        };
        let inputs = slots(&session.signature().inputs)?;
        let mut outputs = slots(&session.signature().outputs)?;
        let bind = |outputs: &mut [Slot]| {
            let mut binding = session.bind()?;
            for slot in outputs {
                binding.bind_output(slot.name.clone(), slot.tensor())?;
            }
            // Numbers from 1: 0 is the runtime's own.
            let options = if session.has_graphs() { Some(graph_run(Some(rows))?) } else { None };
            Ok((binding, options))
        };
        let (binding, options) = bind(&mut outputs).map_err(|error: ort::Error| error.to_string())?;
        Ok(Self { rows, binding, inputs, outputs, options })
    }

    fn takes(&self, batch: &[Item], rows: &[usize]) -> bool {
        batch.iter().zip(rows).all(|(item, rows)| {
            item.len() == self.inputs.len()
                && item.iter().zip(&self.inputs).all(|(tensor, slot)| tensor.row_count() == *rows && slot.takes(tensor))
        })
    }

    fn run(&mut self, session: &mut ModelSession, batch: &[Item], rows: &[usize]) -> ort::Result<Vec<Item>> {
        for (index, slot) in self.inputs.iter_mut().enumerate() {
            slot.write(batch.iter().map(|item| &item[index]))?;
            // Each time: where the session sees another device's memory, the copy is made here.
            self.binding.bind_input(slot.name.clone(), slot.tensor())?;
        }
        session.run_bound(&self.binding, self.options.as_ref())?;
        let mut items: Vec<Item> = rows.iter().map(|_| Vec::with_capacity(self.outputs.len())).collect();
        for slot in &mut self.outputs {
            items.iter_mut().zip(slot.read(rows)?).for_each(|(item, tensor)| item.push(tensor));
        }
        Ok(items)
    }
}

fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    match tensor {
        Tensor::Float32(array) => Some(array.iter().map(|value| f64::from(*value)).collect()),
        Tensor::Float64(array) => Some(array.iter().copied().collect()),
        Tensor::Float16(array) => Some(array.iter().map(|value| value.to_f64()).collect()),
        _ => None,
    }
}

/// The largest finite float, 0 if there is none.
fn magnitude(items: &[Item]) -> f64 {
    let finite = items.iter().flatten().filter_map(floats).flatten().filter(|value| value.is_finite());
    finite.map(f64::abs).fold(0.0, f64::max)
}

/// The largest difference of a float; infinite when anything else differs.
fn difference(plain: &[Item], bound: &[Item]) -> f64 {
    let apart = |(a, b): (f64, f64)| match a.is_finite() && b.is_finite() {
        true => (a - b).abs(),
        false if a == b || (a.is_nan() && b.is_nan()) => 0.0,
        false => f64::INFINITY,
    };
    let tensors = plain.iter().flatten().zip(bound.iter().flatten());
    let between = |(plain, bound): (&Tensor, &Tensor)| match (floats(plain), floats(bound)) {
        (Some(a), Some(b)) if plain.shape() == bound.shape() => a.into_iter().zip(b).map(apart).fold(0.0, f64::max),
        _ if plain == bound => 0.0,
        _ => f64::INFINITY,
    };
    match plain.iter().map(Vec::len).eq(bound.iter().map(Vec::len)) {
        true => tensors.map(between).fold(0.0, f64::max),
        false => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests;
