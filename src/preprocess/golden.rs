//! Every reference of `tests/golden`, held to the last bit.

#![cfg(all(test, feature = "exact-jpeg"))]

use super::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::PathBuf;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn manifest() -> Value {
    serde_json::from_slice(&std::fs::read(root().join("manifest.json")).unwrap()).unwrap()
}

fn bytes(entry: &Value) -> Vec<u8> {
    std::fs::read(root().join(entry["path"].as_str().unwrap())).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The reference's tensor in levels, rows of pixels, and how far off its file may be: half a step,
/// and the f32 error of going back to levels.
fn levels(golden: &Value) -> (Vec<f32>, f32) {
    let file = root().join(golden["file"].as_str().unwrap());
    match ::image::open(file).unwrap() {
        ::image::DynamicImage::ImageRgb8(image) => (image.into_raw().into_iter().map(f32::from).collect(), 0.0),
        ::image::DynamicImage::ImageRgb16(image) => {
            let values = image.into_raw().into_iter();
            (values.map(|v| f32::from(v) / 256.0).collect(), 1.0 / 512.0 + 5e-5)
        }
        other => panic!("unexpected {:?}", other.color()),
    }
}

struct Reference {
    kind: &'static str,
    spec: PreprocessSpec,
    mean: [f32; 3],
    std: [f32; 3],
}

impl Reference {
    fn new(kind: &'static str, spec: PreprocessSpec) -> Self {
        let normalise = spec.normalise.unwrap();
        Self { kind, spec, mean: normalise.mean.map(|v| v as f32), std: normalise.std.map(|v| v as f32) }
    }
}

fn references() -> Vec<Reference> {
    let hf = PreprocessSpec::from_preset(Preset::HuggingFace);
    let crop = Crop { height: 224, width: 224 };
    let shortest = |edge| Resize::ShortestEdge { edge, longest: None };
    let mut timm = hf;
    timm.resize = shortest(248);
    timm.crop = Some(crop);
    timm.filter = Filter::Bicubic;
    timm.crop_offset = CropOffset::HalfEven;
    let mut clip = hf;
    clip.resize = shortest(224);
    clip.crop = Some(crop);
    clip.filter = Filter::Bicubic;
    clip.normalise = Some(Normalise {
        mean: [0.48145466, 0.4578275, 0.40821073],
        std: [0.26862954, 0.26130258, 0.27577711],
        twice: false,
    });
    let mut pipeline = hf;
    pipeline.decode.exif = Exif::Apply;
    let mut white = hf;
    white.decode.alpha = Alpha::White;
    vec![
        Reference::new("tf", PreprocessSpec::from_preset(Preset::Tensorflow)),
        Reference::new("pil", hf),
        Reference::new("hf_fast", PreprocessSpec::from_preset(Preset::HuggingFaceFast)),
        Reference::new("timm", timm),
        Reference::new("clip", clip),
        Reference::new("pil_pipeline", pipeline),
        Reference::new("pil_convert_rgb", white),
    ]
}

/// Pillow shows 16-bit grey as white, which is not followed.
fn deviates_on_purpose(entry: &Value, kind: &str) -> bool {
    entry["pil_mode"] == "I;16" && kind != "tf"
}

#[test]
fn tensors_are_equal_to_the_references() {
    let manifest = manifest();
    let probe_at: Vec<[usize; 3]> = serde_json::from_value(manifest["probe_index_cyx"].clone()).unwrap();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for Reference { kind, spec, mean, std } in references() {
        let preprocessor = Preprocessor::new(spec).unwrap();
        let mut tensor = vec![f32::NAN; preprocessor.output_len()];
        let (mut images, mut worst, mut worst_mean, mut probes) = (0, 0.0_f32, 0.0_f64, 0);
        for entry in manifest["images"].as_array().unwrap() {
            let golden = &entry["golden"][kind];
            if golden.is_null() || deviates_on_purpose(entry, kind) {
                continue;
            }
            tensor.fill(f32::NAN);
            preprocessor.run(&bytes(entry), &DecodeLimits::default(), &mut tensor).unwrap();
            let (expected, tolerance) = levels(golden);
            let (mut max, mut sum) = (0.0_f32, 0.0_f64);
            for (i, expected) in expected.iter().enumerate() {
                let (pixel, c) = (i / 3, i % 3);
                let value = tensor[c * 224 * 224 + pixel];
                let level = (value * std[c] + mean[c]) * 255.0;
                let error = (level - expected).abs();
                let error = if error < 1e-3 { 0.0 } else { error };
                max = max.max(error);
                sum += f64::from(error);
            }
            if let Some(values) = golden["probes"].as_array() {
                for (at, value) in probe_at.iter().zip(values) {
                    let ours = tensor[(at[0] * 224 + at[1]) * 224 + at[2]];
                    let theirs = value.as_f64().unwrap() as f32;
                    probes += 1;
                    if ours.to_bits() != theirs.to_bits() {
                        wrong.push(format!("{kind} {} probe {ours} {theirs}", entry["name"]));
                    }
                }
            }
            if max > tolerance {
                wrong.push(format!("{kind} {}: max {max} level", entry["name"]));
            }
            worst = worst.max(max);
            worst_mean = worst_mean.max(sum / expected.len() as f64);
            images += 1;
        }
        println!("{kind}: {images} images, max {worst}, worst mean {worst_mean:.5}, {probes} probes");
        assert!(images > 0 && probes >= images * 48);
        compared += images;
    }
    assert_eq!(compared, 131, "no reference is left out");
    assert!(wrong.is_empty(), "{}", wrong[..wrong.len().min(20)].join("\n"));
}

#[test]
fn decoded_pixels_are_equal_to_the_references() {
    let mut compared = 0;
    let mut decoder = decode::Decoder::new();
    for entry in manifest()["images"].as_array().unwrap() {
        for (key, preset) in
            [("pil_decoded_rgb_sha256", Preset::HuggingFace), ("tf_decoded_rgb_sha256", Preset::Tensorflow)]
        {
            let Some(expected) = entry[key].as_str() else {
                continue;
            };
            if key.starts_with("pil") && deviates_on_purpose(entry, "pil") {
                continue;
            }
            let spec = PreprocessSpec::from_preset(preset);
            let bytes = bytes(entry);
            let picture = decoder.open(&bytes, &spec.decode, Resize::None, &DecodeLimits::default()).unwrap();
            let (image, _) = picture.read().unwrap();
            assert_eq!(sha256(image.pixels()), expected, "{key} {}", entry["name"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 41);
}

#[test]
fn broken_inputs_are_refused_by_name() {
    let preprocessor = Preprocessor::new(PreprocessSpec::default()).unwrap();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    let mut messages = Vec::new();
    for entry in manifest()["errors"].as_array().unwrap() {
        let error = preprocessor.run(&bytes(entry), &DecodeLimits::default(), &mut tensor).unwrap_err();
        messages.push((entry["name"].as_str().unwrap().to_owned(), error));
    }
    let error = |name: &str| &messages.iter().find(|(n, _)| n == name).unwrap().1;
    assert_eq!(messages.len(), 7);
    assert_eq!(*error("empty.bin"), ImageError::Empty);
    assert!(error("text.txt").to_string().contains("text"));
    for (name, format) in
        [("truncated_half.jpg", Format::Jpeg), ("truncated_header.jpg", Format::Jpeg), ("truncated.png", Format::Png)]
    {
        assert_eq!(*error(name), ImageError::Truncated { format }, "{name}");
    }
    for (name, side) in [("bomb_65500.jpg", 65_500), ("bomb_50000.png", 50_000)] {
        let expected = ImageError::TooManyPixels { width: side, height: side, limit: 50_000_000 };
        assert_eq!(*error(name), expected);
    }
}

#[test]
fn every_format_decodes_as_pillow_does() {
    let formats = root().join("formats");
    let manifest: Value = serde_json::from_slice(&std::fs::read(formats.join("formats.json")).unwrap()).unwrap();
    let spec = PreprocessSpec::default();
    let mut decoder = decode::Decoder::new();
    let mut wrong = Vec::new();
    for (name, expected) in manifest.as_object().unwrap() {
        let bytes = std::fs::read(formats.join(name)).unwrap();
        let picture = decoder.open(&bytes, &spec.decode, Resize::None, &DecodeLimits::default());
        match picture.and_then(|picture| picture.read()) {
            Ok((image, _)) => {
                assert_eq!(expected["size"][0], image.width(), "{name}");
                if sha256(image.pixels()) != expected["rgb_sha256"].as_str().unwrap() {
                    wrong.push(name.clone());
                }
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The error of decoding at a fraction of the size, as `docs/preprocessing.md` states it.
#[test]
fn oversampled_jpegs_come_close_to_whole_ones() {
    let picture = |name: &str| std::fs::read(root().join("images").join(name)).unwrap();
    let (retina, turned) = (picture("retina_large.jpg"), picture("chelsea_exif6.jpg"));
    for (preset, largest_mean) in
        [(Preset::HuggingFace, 0.7), (Preset::HuggingFaceFast, 0.7), (Preset::Tensorflow, 4.0)]
    {
        for (bytes, side) in [(&retina, 224), (&turned, 32)] {
            let mut spec = PreprocessSpec::from_preset(preset);
            spec.resize = Resize::Exact { height: side, width: side };
            spec.decode.exif = Exif::Apply;
            let tensor = |oversample| {
                let mut spec = spec;
                spec.decode.jpeg_oversample = oversample;
                let preprocessor = Preprocessor::new(spec).unwrap();
                let mut tensor = vec![0.0; preprocessor.output_len()];
                preprocessor.run(bytes, &DecodeLimits::default(), &mut tensor).unwrap();
                tensor
            };
            let (whole, divided) = (tensor(None), tensor(Some(1.5)));
            let errors = whole.iter().zip(&divided).map(|(a, b)| f64::from((a - b).abs()) * 127.5);
            let mean = errors.sum::<f64>() / whole.len() as f64;
            println!("{preset:?} {side}: mean error {mean:.3} levels");
            assert!(mean > 0.0 && mean < largest_mean, "{preset:?} {side}: {mean}");
        }
    }
}

/// The result must not depend on what the thread did before, nor on the thread.
#[test]
fn threads_and_earlier_pictures_leave_no_trace() {
    let manifest = manifest();
    let preprocessor = Preprocessor::new(PreprocessSpec::default()).unwrap();
    let run = |bytes: &[u8]| {
        let mut tensor = vec![0.0; preprocessor.output_len()];
        preprocessor.run(bytes, &DecodeLimits::default(), &mut tensor).map(|_| tensor)
    };
    let inputs: Vec<_> =
        ["images", "errors"].iter().flat_map(|key| manifest[key].as_array().unwrap()).map(bytes).collect();
    let alone: Vec<_> =
        inputs.iter().map(|input| std::thread::scope(|scope| scope.spawn(|| run(input)).join().unwrap())).collect();
    std::thread::scope(|scope| {
        for start in [0, 7, 13] {
            let (inputs, alone, run) = (&inputs, &alone, &run);
            scope.spawn(move || {
                for i in (0..inputs.len()).map(|i| (i * 5 + start) % inputs.len()) {
                    assert!(run(&inputs[i]) == alone[i], "input {i}");
                }
            });
        }
    });
}

#[test]
fn every_filter_resizes_as_pillow_does() {
    let list = std::fs::read(root().join("formats/resized.json")).unwrap();
    let list: Vec<Value> = serde_json::from_slice(&list).unwrap();
    let picture = std::fs::read(root().join("images/coffee_progressive.jpg")).unwrap();
    let mut wrong = Vec::new();
    for expected in &list {
        let [resample, width, height] = [&expected["resample"], &expected["size"][0], &expected["size"][1]];
        let section = format!("resample = {resample}\nsize = [{height}, {width}]\nlayout = \"nhwc\"");
        let mut spec = PreprocessSpec::resolve(&toml::from_str(&section).unwrap(), None).unwrap();
        (spec.rescale_factor, spec.normalise) = (None, None);
        let preprocessor = Preprocessor::new(spec).unwrap();
        let mut tensor = vec![0.0; preprocessor.output_len()];
        preprocessor.run(&picture, &DecodeLimits::default(), &mut tensor).unwrap();
        let levels: Vec<u8> = tensor.iter().map(|&level| level as u8).collect();
        if sha256(&levels) != expected["rgb_sha256"].as_str().unwrap() {
            wrong.push(format!("{resample} {width}x{height}"));
        }
    }
    assert!(list.len() == 36 && wrong.is_empty(), "{wrong:?}");
}
