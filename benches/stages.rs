//! The stages of one picture's way to the model, each alone and together, on one thread.

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use tessera::preprocess::{DecodeLimits, PreprocessSpec, Preprocessor, Preset};
use tessera::protocol::vertex::{self, Surface};
use tessera::task::base64;
use tessera::task::image_classification::instance::find_image;

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

/// From the body to the picture's bytes: the request is parsed, the text found, the base64 undone.
fn wire(criterion: &mut Criterion) {
    let text = format!(r#"{{"instances":[{{"b64":"{}"}}]}}"#, STANDARD.encode(JPEG));
    let body = Bytes::from(text);
    let mut group = criterion.benchmark_group("wire");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| vertex::parse(black_box(&body), Surface::Api, 16).expect("the body is sound"));
    });
    let request = vertex::parse(&body, Surface::Api, 16).expect("the body is sound");
    group.bench_function("find", |bencher| {
        bencher.iter(|| find_image(black_box(&request.instances[0])).expect("there is a picture"));
    });
    let image = find_image(&request.instances[0]).expect("there is a picture");
    let mut buffer = Vec::new();
    group.bench_function("base64", |bencher| {
        bencher.iter(|| base64::decode(black_box(&image.text), &mut buffer).expect("it is base64").len());
    });
    group.finish();
}

criterion_group!(benches, wire, front_end);
criterion_main!(benches);
