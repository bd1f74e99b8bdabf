//! `tessera measure`: how many items a second a model runs, without a server around it.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use serde_json::json;

use super::args::MeasureArgs;
use super::table::Table;
use super::{Failure, is_for_people, local};
use crate::config::Settings;
use crate::engine::onnx::{Bound, OnnxEngine};
use crate::engine::{Batch, Engine, EngineError};
use crate::repository;
use crate::startup::load_options;

/// What a size of batch gives.
struct Figures {
    batch: usize,
    /// Items a second with as many batches in flight as the engine computes at once.
    rate: f64,
    /// How long a batch takes when it is the only one.
    lone: Duration,
}

/// Measures each size of batch in turn.
pub fn run(arguments: &MeasureArgs, settings: &Settings, out: &mut dyn Write) -> Result<(), Failure> {
    let folder = local::choose(settings, arguments.model.as_deref())?;
    let mut options = load_options(settings);
    options.engine.max_batch = arguments.batch.iter().copied().max().unwrap_or(1);
    let model =
        repository::load(&folder, &options).map_err(|error| Failure(format!("model {:?}: {error}", folder.name)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut measured = Vec::new();
    for &batch in &arguments.batch {
        let limit = model.engine.max_batch();
        if batch > limit {
            return Err(Failure(format!("model {:?} takes at most {limit} at once, not {batch}", folder.name)));
        }
        if is_for_people() {
            eprint!("\r\x1b[Kbatches of {batch} ...");
        }
        let example = model.task.example();
        let items: Batch =
            (0..batch).map(|seed| example.iter().map(|tensor| tensor.with_pattern(seed)).collect()).collect();
        let half = arguments.duration / 2;
        let figures = runtime.block_on(async {
            let lone = batches_a_second(&model.engine, &items, 1, half).await?;
            let together = batches_a_second(&model.engine, &items, model.engine.concurrency(), half).await?;
            Ok::<_, EngineError>(Figures {
                batch,
                rate: together * batch as f64,
                lone: Duration::from_secs_f64(1.0 / lone),
            })
        });
        measured.push(figures.map_err(|error| Failure(format!("model {:?}: {error}", folder.name)))?);
    }
    if is_for_people() {
        eprint!("\r\x1b[K");
    }
    let engine = &*model.engine;
    if arguments.json {
        writeln!(out, "{}", as_json(&folder.name, engine, &measured))?;
        return Ok(());
    }
    let how = match engine.bound() {
        Bound { graphs: true, .. } => ", CUDA graphs",
        Bound { memory: true, .. } => ", bound memory",
        Bound { .. } => "",
    };
    writeln!(out, "{}: {}, {} batches side by side{how}", folder.name, engine.provider(), engine.concurrency())?;
    let mut table = Table::new(["batch", "items/s", "alone ms"]);
    for Figures { batch, rate, lone } in measured {
        table.row([batch.to_string(), format!("{rate:.1}"), format!("{:.2}", lone.as_secs_f64() * 1e3)]);
    }
    Ok(table.print(out)?)
}

fn as_json(model: &str, engine: &OnnxEngine, measured: &[Figures]) -> serde_json::Value {
    let results = measured.iter().map(|figures| {
        json!({
            "batch": figures.batch, "items_per_second": figures.rate,
            "alone_ms": figures.lone.as_secs_f64() * 1e3,
        })
    });
    json!({
        "model": model, "provider": engine.provider(), "concurrency": engine.concurrency(),
        "bound_memory": engine.bound().memory, "cuda_graphs": engine.bound().graphs,
        "results": results.collect::<Vec<_>>(),
    })
}

/// So many callers, each with a batch at a time, for so long, and at least one batch each.
async fn batches_a_second(
    engine: &Arc<OnnxEngine>,
    items: &Batch,
    callers: usize,
    duration: Duration,
) -> Result<f64, EngineError> {
    let begin = Instant::now();
    let callers = (0..callers).map(|_| async {
        let mut count = 0_usize;
        while count == 0 || begin.elapsed() < duration {
            engine.run(items.clone()).await?;
            count += 1;
            // A batch that is run where it is brought would keep the other callers waiting.
            tokio::task::yield_now().await;
        }
        Ok(count)
    });
    let count: usize = try_join_all(callers).await?.into_iter().sum();
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}
