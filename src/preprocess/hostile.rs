//! Inputs made to hurt: none may panic, hang or take memory, and a cut picture is never accepted.

#![cfg(test)]

use super::*;
use std::path::{Path, PathBuf};

fn inputs() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<PathBuf> = ["images", "errors", "formats"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect()
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}

fn small() -> Preprocessor {
    let mut spec = PreprocessSpec { resize: Resize::Exact { height: 8, width: 8 }, ..PreprocessSpec::default() };
    spec.decode.exif = Exif::Apply;
    Preprocessor::new(spec).unwrap()
}

#[test]
fn mutations_never_panic() {
    let preprocessor = small();
    let limits = DecodeLimits { max_pixels: 2_000_000, ..DecodeLimits::default() };
    let mut tensor = vec![0.0; preprocessor.output_len()];
    let mut random = Random(0x7e55_e7a1);
    for (name, bytes) in inputs() {
        if bytes.len() > 60_000 {
            continue;
        }
        for round in 0..60 {
            let mut bytes = bytes.clone();
            if bytes.is_empty() {
                continue;
            }
            for _ in 0..=random.below(4) {
                // Headers are the interesting part.
                let end = if round % 2 == 0 { bytes.len().min(64) } else { bytes.len() };
                let at = random.below(end);
                bytes[at] = match random.below(3) {
                    0 => 0xff,
                    1 => 0,
                    _ => random.below(256) as u8,
                };
            }
            let result = preprocessor.run(&bytes, &limits, &mut tensor);
            if result.is_ok() {
                assert!(tensor.iter().all(|v| v.is_finite()), "{name} round {round}");
            } else if let Err(error) = result {
                assert!(error.to_string().len() < 200, "{name}: {error}");
            }
            let _ = inspect(&bytes);
        }
    }
}

/// A decoder that lives on after a file that it could not read may refuse all others.
#[test]
fn a_damaged_picture_leaves_no_trace() {
    let preprocessor = small();
    let limits = DecodeLimits { max_pixels: 2_000_000, ..DecodeLimits::default() };
    let inputs = inputs();
    let sound = &inputs.iter().find(|(name, _)| name == "chelsea_444.jpg").unwrap().1;
    let run = |bytes: &[u8]| {
        let mut tensor = vec![0.0; preprocessor.output_len()];
        preprocessor.run(bytes, &limits, &mut tensor).map(|_| tensor)
    };
    let expected = run(sound).unwrap();
    let (mut damaged, mut refused) = (0, 0);
    for (name, bytes) in inputs.iter().filter(|(name, bytes)| name.ends_with(".jpg") && bytes.len() < 60_000) {
        // Every marker's segment in turn, up to the first scan's: its code, its length, what it says.
        let headers = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).map_or(bytes.len(), |at| at + 14);
        for at in (2..headers.min(bytes.len())).filter(|at| at % 3 == 0 || bytes[at - 1] == 0xff) {
            let mut bytes = bytes.clone();
            bytes[at] = if bytes[at] == 0xff { 0 } else { 0xff };
            damaged += 1;
            refused += usize::from(run(&bytes).is_err());
            assert!(run(sound).as_ref() == Ok(&expected), "{name} at {at}");
        }
    }
    assert!(damaged > 1000 && refused > 300, "{damaged} {refused}");
}

#[test]
fn a_cut_jpeg_png_or_webp_is_truncated_wherever_it_is_cut() {
    let preprocessor = small();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    let mut random = Random(42);
    let whole = |name: &str| {
        [".jpg", ".png", ".webp"].iter().any(|end| name.ends_with(end))
            && !name.starts_with("truncated")
            && !name.starts_with("bomb")
    };
    for (name, bytes) in inputs().into_iter().filter(|(name, _)| whole(name)) {
        // Some files have garbage behind their end, which may be cut off.
        let end = match preprocessor.run(&bytes, &DecodeLimits::default(), &mut tensor) {
            Ok(_) if name.ends_with("webp") => Some(bytes.len() - 2),
            Ok(_) if name.ends_with("png") => bytes.windows(4).rposition(|w| w == b"IEND"),
            Ok(_) => bytes.windows(2).rposition(|w| w == [0xff, 0xd9]),
            Err(error) => panic!("{name}: {error}"),
        };
        let end = end.unwrap() + 2;
        let cuts = (0..12).map(|_| 8 + random.below(end - 9)).chain([end - 1, end - 2]);
        for cut in cuts.collect::<Vec<_>>() {
            // WebP is told by its first twelve bytes.
            let cut = if name.ends_with("webp") { cut.max(12) } else { cut };
            let error = preprocessor.run(&bytes[..cut], &DecodeLimits::default(), &mut tensor).unwrap_err();
            assert!(matches!(error, ImageError::Truncated { .. }), "{name} cut at {cut} of {}: {error}", bytes.len());
        }
    }
}

#[test]
fn a_claimed_size_is_refused_before_it_costs_anything() {
    let preprocessor = small();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    let limits = DecodeLimits { max_pixels: 100, ..DecodeLimits::default() };
    for (name, bytes) in inputs() {
        let start = Instant::now();
        let (Err(error), Ok(info)) = (preprocessor.run(&bytes, &limits, &mut tensor), inspect(&bytes)) else {
            assert!(inspect(&bytes).is_err() || name == "one_px.jpg", "{name}");
            continue;
        };
        if name != "truncated.png" {
            let expected = ImageError::TooManyPixels { width: info.width, height: info.height, limit: 100 };
            assert_eq!(error, expected, "{name}");
        }
        assert!(start.elapsed().as_secs() < 2, "{name}");
    }
}

#[test]
fn a_progressive_bomb_of_scans_is_refused() {
    let picture = inputs().into_iter().find(|(name, _)| name == "coffee_progressive.jpg").unwrap().1;
    let first = picture.windows(2).position(|w| w == [0xff, 0xda]).unwrap();
    let scan_end =
        first + 2 + picture[first + 2..].windows(2).position(|w| w == [0xff, 0xc4] || w == [0xff, 0xda]).unwrap();
    let mut bomb = picture[..scan_end].to_vec();
    for _ in 0..2000 {
        bomb.extend(&picture[first..scan_end]);
    }
    bomb.extend([0xff, 0xd9]);
    let preprocessor = small();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    let start = Instant::now();
    let error = preprocessor.run(&bomb, &DecodeLimits::default(), &mut tensor).unwrap_err();
    assert!(matches!(error, ImageError::TooCostly { .. }), "{error}");
    assert!(start.elapsed().as_secs() < 2);
}

#[test]
fn memory_is_bounded_by_what_the_header_promises() {
    let preprocessor = small();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    // Colours, then coefficients, samples, and the turned picture.
    for (name, expected) in [
        ("chelsea_444.jpg", 3),
        ("chelsea_exif6.jpg", 3 + 3),
        ("coffee_progressive.jpg", 3 + 6),
        ("pil_sample_cmyk.jpg", 3),
        ("camera_gray.jpg", 3),
        ("rgb.bmp", 3),
        ("rgba.png", 3 + 4),
        ("rgb16.png", 3 + 6),
        ("turned.tif", 3 + 3),
    ] {
        let bytes = inputs().into_iter().find(|(known, _)| known == name).unwrap().1;
        let info = inspect(&bytes).unwrap();
        let needed = u64::from(info.width) * u64::from(info.height) * expected;
        let mut run =
            |max_bytes| preprocessor.run(&bytes, &DecodeLimits { max_bytes, ..DecodeLimits::default() }, &mut tensor);
        run(needed).unwrap();
        match run(needed - 1).unwrap_err() {
            ImageError::TooManyBytes { bytes, bytes_per_pixel, .. } => {
                assert_eq!((bytes, bytes_per_pixel), (needed, expected), "{name}");
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn an_animated_gif_is_refused_where_a_setting_says_so() {
    let mut spec = PreprocessSpec::from_preset(Preset::Tensorflow);
    spec.decode.gif = Gif::Refuse;
    let preprocessor = Preprocessor::new(spec).unwrap();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    for (name, bytes) in inputs() {
        let result = preprocessor.run(&bytes, &DecodeLimits::default(), &mut tensor);
        match name.as_str() {
            "anim.gif" => assert!(matches!(result, Err(ImageError::Refused { .. }))),
            "hopper.gif" | "interlaced.gif" => assert!(result.is_ok()),
            _ => {}
        }
    }
}
