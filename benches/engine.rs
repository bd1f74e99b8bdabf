//! Images a second of a model: ONNX Runtime in a bare loop, and through the engine, in turn.
//!
//! `cargo bench --bench engine [-- FOLDER...]`, by default on `models/imagenet/1`. Not Criterion: what counts is the
//! throughput of several threads over seconds, and the ratio to the bare loop in the same run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use tessera::engine::Engine;
use tessera::engine::onnx::{Example, OnnxModel, OnnxOptions, library};
use tessera::tensor::{ElementType, Tensor};

const SHAPE: [usize; 4] = [1, 3, 224, 224];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only asks whether it runs.
    let smoke = !arguments.iter().any(|argument| argument == "--bench");
    let rounds = if smoke { 1 } else { 3 };
    let duration = Duration::from_millis(if smoke { 100 } else { 3000 });
    let mut folders: Vec<PathBuf> =
        arguments.iter().filter(|argument| !argument.starts_with("--")).map(PathBuf::from).collect();
    if folders.is_empty() {
        folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/imagenet/1"));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for folder in folders {
        let file = folder.join("model.onnx");
        println!("{}", file.display());
        for _ in 0..rounds {
            let bare = bare(&file, cores, duration);
            let engine = |workers, threads| {
                let options = OnnxOptions { workers, threads, ..OnnxOptions::default() };
                let (images, memory) = runtime.block_on(through_engine(&file, &options, duration));
                format!("{images:.1}/s, ratio {:.3}, {memory:+} MB", images / bare.0)
            };
            println!("  bare, {cores} sessions of one thread      {:.1}/s, {:+} MB", bare.0, bare.1);
            println!("  engine, {cores} workers of one thread     {}", engine(0, 0));
            println!("  engine, 1 worker of {cores} threads       {}", engine(1, 0));
        }
    }
}

/// A session and a thread for each core, nothing else.
fn bare(file: &Path, threads: usize, duration: Duration) -> (f64, i64) {
    let before = resident_megabytes();
    let environment = library::environment(None).expect("`make runtime` fetches ONNX Runtime");
    let mut sessions: Vec<Session> = (0..threads)
        .map(|_| {
            let build = || {
                Session::builder(&environment)?
                    .with_optimization_level(GraphOptimizationLevel::All)?
                    .with_intra_threads(1)?
                    .with_intra_op_spinning(false)?
                    .commit_from_file(file)
            };
            build().expect("the model loads")
        })
        .collect();
    let pixels = vec![0.5f32; SHAPE.iter().product()];
    let count = AtomicUsize::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for session in &mut sessions {
            scope.spawn(|| {
                while begin.elapsed() < duration {
                    let input = TensorRef::from_array_view((SHAPE, &*pixels)).expect("the shape fits");
                    session.run(ort::inputs![input]).expect("the model runs");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let images = count.into_inner() as f64 / begin.elapsed().as_secs_f64();
    (images, resident_megabytes() - before)
}

/// As many batches of one picture in flight as the engine takes.
async fn through_engine(file: &Path, options: &OnnxOptions, duration: Duration) -> (f64, i64) {
    let before = resident_megabytes();
    let item = vec![Tensor::zeros(ElementType::Float32, &SHAPE)];
    let model = OnnxModel::open(file, options).expect("the model loads");
    let (engine, _) =
        model.start("bench", Some(Example { item: item.clone(), is_typical: true })).expect("the model runs");
    let engine = Arc::new(engine);
    let begin = Instant::now();
    let callers = (0..engine.concurrency()).map(|_| {
        let (engine, item) = (engine.clone(), item.clone());
        async move {
            let mut count = 0;
            while begin.elapsed() < duration {
                engine.run(Arc::from([item.clone()])).await.expect("the model runs");
                count += 1;
            }
            count
        }
    });
    let count: usize = futures_util::future::join_all(callers).await.into_iter().sum();
    (count as f64 / begin.elapsed().as_secs_f64(), resident_megabytes() - before)
}

/// What the process holds in memory; only Linux tells.
fn resident_megabytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: i64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kilobytes / 1024
}
