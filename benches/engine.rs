//! Images a second of a model, how long a lone image takes, and how long images take that come at random times at 0.6 of
//! what the cores can do: ONNX Runtime in a bare loop, and through the engine, in turn.
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
use tessera::engine::onnx::{Example, OnnxEngine, OnnxModel, OnnxOptions, library};
use tessera::engine::{Batch, Engine, Item};
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
            let (most, memory) = bare(&file, cores, 1, duration);
            println!("  bare, {cores} sessions of one thread     {most:.1}/s, {memory:+} MB");
            let (lone, memory) = bare(&file, 1, cores, duration);
            println!("  bare, 1 session of {cores} threads       {lone:.1}/s, {memory:+} MB");
            let engine = |workers, threads| {
                let options = OnnxOptions { workers, threads, ..OnnxOptions::default() };
                let result = runtime.block_on(through_engine(&file, &options, duration, most * 0.6));
                let Figures { loaded, lone: alone, at_random, memory } = result;
                format!(
                    "{loaded:.1}/s, ratio {:.3}; lone {alone:.1}/s, ratio {:.3}; at random {:.1} ms; {memory:+} MB",
                    loaded / most,
                    alone / lone,
                    at_random * 1e3
                )
            };
            println!("  engine, by load                    {}", engine(0, 0));
            println!("  engine, {cores} workers of one thread    {}", engine(cores, 1));
            println!("  engine, 1 worker of {cores} threads      {}", engine(1, 0));
        }
    }
}

/// So many sessions, each with a caller and so many threads, nothing else.
fn bare(file: &Path, sessions: usize, threads: usize, duration: Duration) -> (f64, i64) {
    let before = resident_megabytes();
    let environment = library::environment(None).expect("`make runtime` fetches ONNX Runtime");
    let mut sessions: Vec<Session> = (0..sessions)
        .map(|_| {
            let build = || {
                Session::builder(&environment)?
                    .with_optimization_level(GraphOptimizationLevel::All)?
                    .with_intra_threads(threads)?
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

/// What the engine does.
struct Figures {
    /// Images a second with as many batches of one picture in flight as it takes.
    loaded: f64,
    /// Images a second one after the other.
    lone: f64,
    /// Seconds that an image takes in the mean when they come at random times.
    at_random: f64,
    /// Megabytes more than before.
    memory: i64,
}

async fn through_engine(file: &Path, options: &OnnxOptions, duration: Duration, rate: f64) -> Figures {
    let before = resident_megabytes();
    let item = vec![Tensor::zeros(ElementType::Float32, &SHAPE)];
    let model = OnnxModel::open(file, options).expect("the model loads");
    let (engine, _) =
        model.start("bench", Some(Example { item: item.clone(), is_typical: true })).expect("the model runs");
    let engine = Arc::new(engine);
    let loaded = images_a_second(&engine, &item, engine.concurrency(), duration).await;
    let lone = images_a_second(&engine, &item, 1, duration).await;
    // Long enough for some dozens of a large model's.
    let at_random = at_random_times(&engine, &item, rate, duration * 4).await;
    Figures { loaded, lone, at_random, memory: resident_megabytes() - before }
}

async fn images_a_second(engine: &Arc<OnnxEngine>, item: &Item, callers: usize, duration: Duration) -> f64 {
    let begin = Instant::now();
    let callers = (0..callers).map(|_| {
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
    count as f64 / begin.elapsed().as_secs_f64()
}

/// The mean time of images that come at random, so many a second, the same times in each run.
async fn at_random_times(engine: &Arc<OnnxEngine>, item: &Item, rate: f64, duration: Duration) -> f64 {
    let (mut due, mut state) = (0.0, 1_u64);
    let mut tasks = Vec::new();
    // One for all: hundreds of copies would take longer than the runs.
    let batch: Batch = Arc::from([item.clone()]);
    let begin = tokio::time::Instant::now();
    while due < duration.as_secs_f64() {
        // Knuth's linear congruential generator (MMIX); its upper bits are random enough for gaps.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = ((state >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        due -= uniform.ln() / rate;
        let (engine, batch, at) = (engine.clone(), batch.clone(), begin + Duration::from_secs_f64(due));
        tasks.push(async move {
            tokio::time::sleep_until(at).await;
            engine.run(batch).await.expect("the model runs");
            at.elapsed().as_secs_f64()
        });
    }
    let times = futures_util::future::join_all(tasks).await;
    times.iter().sum::<f64>() / times.len() as f64
}

/// What the process holds in memory; only Linux tells.
fn resident_megabytes() -> i64 {
    tessera::engine::memory::give_back();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: i64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    kilobytes / 1024
}
