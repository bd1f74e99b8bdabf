//! The stages of one picture's way to the model, each alone and together, on one thread.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tessera::preprocess::{DecodeLimits, PreprocessSpec, Preprocessor, Preset};

/// 640x480, quality 85, 4:2:0, 72 kB.
const JPEG: &[u8] = include_bytes!("data/china_640x480.jpg");

const PRESETS: [(&str, Preset); 3] =
    [("hf", Preset::HuggingFace), ("hf-fast", Preset::HuggingFaceFast), ("tf", Preset::Tensorflow)];

/// Bytes to tensor, and its two parts as the server reports them.
fn front_end(criterion: &mut Criterion) {
    let limits = DecodeLimits::default();
    for stage in ["decode", "resize_normalise", "front_end"] {
        let mut group = criterion.benchmark_group(stage);
        for (name, preset) in PRESETS {
            let spec = PreprocessSpec::from_preset(preset);
            let preprocessor = Preprocessor::new(spec).expect("presets are valid");
            let mut tensor = vec![0.0; preprocessor.output_len()];
            group.bench_function(BenchmarkId::new(name, "640x480"), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        let times =
                            preprocessor.run(black_box(JPEG), &limits, &mut tensor).expect("the picture is sound");
                        total += match stage {
                            "decode" => times.decode,
                            "resize_normalise" => times.resize,
                            _ => times.decode + times.resize,
                        };
                    }
                    black_box(&tensor);
                    total
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, front_end);
criterion_main!(benches);
