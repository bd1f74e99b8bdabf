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

/// Where the first of the markers stands at or after `from`.
fn find_marker(bytes: &[u8], markers: &[u8], from: usize) -> usize {
    from + bytes[from..].windows(2).position(|w| w[0] == 0xff && markers.contains(&w[1])).unwrap()
}

/// A progressive picture of 240,000 pixels with its first scan so many times.
fn scan_bomb(scans: usize) -> Vec<u8> {
    let picture = inputs().into_iter().find(|(name, _)| name == "coffee_progressive.jpg").unwrap().1;
    let first = find_marker(&picture, &[0xda], 0);
    let scan_end = find_marker(&picture, &[0xc4, 0xda], first + 2);
    let mut bomb = picture[..scan_end].to_vec();
    for _ in 1..scans {
        bomb.extend(&picture[first..scan_end]);
    }
    bomb.extend([0xff, 0xd9]);
    bomb
}

#[test]
fn a_progressive_bomb_of_scans_is_refused() {
    let preprocessor = small();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    let start = Instant::now();
    let error = preprocessor.run(&scan_bomb(2000), &DecodeLimits::default(), &mut tensor).unwrap_err();
    assert!(matches!(error, ImageError::TooCostly { .. }), "{error}");
    assert!(start.elapsed().as_secs() < 2);
}

/// Whatever the walk over the markers believes of a picture, its decoder keeps to the limits.
#[cfg(feature = "exact-jpeg")]
#[test]
fn a_bomb_that_hides_its_scans_is_refused() {
    let preprocessor = small();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    // Some more than the 416 that so many pixels may have.
    let bomb = scan_bomb(430);
    let frame = find_marker(&bomb, &[0xc2], 0);
    let size = &bomb[frame + 5..frame + 9];
    // A frame and a scan of all components, for whoever takes the stuffed zero byte for a marker with a length, which
    // leads into this comment; the decoder goes on behind it.
    let mut decoy = vec![0xff, 0xc0, 0, 17, 8];
    decoy.extend(size);
    decoy.extend([3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
    decoy.extend([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0]);
    let mut hidden = vec![0xff, 0xd8, 0xff, 0, 0, 6, 0xff, 0xfe, 0, decoy.len() as u8 + 2];
    hidden.extend(&decoy);
    hidden.extend(&bomb[2..]);
    let error = preprocessor.run(&hidden, &DecodeLimits::default(), &mut tensor).unwrap_err();
    assert!(matches!(error, ImageError::TooCostly { .. }), "{error}");
    // A marker among data has no length that the decoder would look at.
    let first = find_marker(&bomb, &[0xda], 0);
    let mut hidden = bomb[..first].to_vec();
    hidden.extend([0xff, 0xdd, 0, 4, 0, 1]);
    let second = find_marker(&bomb, &[0xda], first + 2);
    hidden.extend(&bomb[first..second]);
    hidden.extend([0xff, 5, 0xff, 0xff]);
    hidden.extend(&bomb[second..]);
    let error = preprocessor.run(&hidden, &DecodeLimits::default(), &mut tensor).unwrap_err();
    assert!(matches!(error, ImageError::TooCostly { .. }), "{error}");
}

/// A stuffed byte before a restart marker is damaged into a marker whose length would lead past the end. Pillow, too,
/// reads it.
#[cfg(feature = "exact-jpeg")]
#[test]
fn damage_is_no_end() {
    let mut file = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    file.extend([1; 64]);
    file.extend([0xff, 0xc0, 0, 11, 8, 0, 8, 0, 16, 1, 1, 0x11, 0]);
    for table in [0x00, 0x10] {
        file.extend([0xff, 0xc4, 0, 20, table, 1]);
        file.extend([0; 16]);
    }
    file.extend([0xff, 0xdd, 0, 4, 0, 1, 0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
    file.extend([0x3f, 0xff, 5, 0x70, 0, 0xff, 0xd0, 0x3f, 0xff, 0xd9]);
    let preprocessor = small();
    let mut tensor = vec![0.0; preprocessor.output_len()];
    preprocessor.run(&file, &DecodeLimits::default(), &mut tensor).unwrap();
    assert!(tensor.iter().all(|value| (value - (128.0 / 127.5 - 1.0)).abs() < 1e-6), "{tensor:?}");
    let cut = file.len() - 2;
    let error = preprocessor.run(&file[..cut], &DecodeLimits::default(), &mut tensor).unwrap_err();
    assert!(matches!(error, ImageError::Truncated { .. }), "{error}");
}

#[test]
fn a_side_that_no_decoder_takes_is_named() {
    let picture = inputs().into_iter().find(|(name, _)| name == "camera_gray.jpg").unwrap().1;
    let frame = find_marker(&picture, &[0xc0], 0);
    let mut long = picture;
    long[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdd, 0, 1]);
    let error = inspect(&long).unwrap_err();
    assert!(error.to_string().contains("65,500"), "{error}");
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
        // The decoder that isn't exact makes the whole picture first.
        let expected = if name.ends_with(".jpg") && !jpeg::EXACT { expected + 7 } else { expected };
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
