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

/// Quality 85, 4:2:0; 72 kB and 473 kB.
const PICTURES: [(&str, &[u8]); 2] =
    [("640x480", include_bytes!("data/china_640x480.jpg")), ("1920x1280", include_bytes!("data/china_1920x1280.jpg"))];

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
            for (size, jpeg) in PICTURES {
                group.bench_function(BenchmarkId::new(name, size), |bencher| {
                    bencher.iter_custom(|rounds| {
                        let mut total = Duration::ZERO;
                        for _ in 0..rounds {
                            let times =
                                preprocessor.run(black_box(jpeg), &limits, &mut tensor).expect("the picture is sound");
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
        }
        group.finish();
    }
}

/// From the body to the picture's bytes: the request is parsed, the text found, the base64 undone.
fn wire(criterion: &mut Criterion) {
    for (size, jpeg) in PICTURES {
        let text = format!(r#"{{"instances":[{{"b64":"{}"}}]}}"#, STANDARD.encode(jpeg));
        let body = Bytes::from(text);
        let mut group = criterion.benchmark_group("wire");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("parse", size), |bencher| {
            bencher.iter(|| vertex::parse(black_box(&body), Surface::Api, 16).expect("the body is sound"));
        });
        let request = vertex::parse(&body, Surface::Api, 16).expect("the body is sound");
        group.bench_function(BenchmarkId::new("find", size), |bencher| {
            bencher.iter(|| find_image(black_box(&request.instances[0])).expect("there is a picture"));
        });
        let image = find_image(&request.instances[0]).expect("there is a picture");
        let mut buffer = Vec::new();
        group.bench_function(BenchmarkId::new("base64", size), |bencher| {
            bencher.iter(|| base64::decode(black_box(&image.text), &mut buffer).expect("it is base64").len());
        });
        group.finish();
    }
}

criterion_group!(benches, wire, front_end);
criterion_main!(benches);
