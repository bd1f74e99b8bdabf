//! The `[preprocess]` section of a model's settings: every step, each key optional.

use super::error::SpecError;
use super::geometry::{Crop, CropOffset, Resize};
use super::resize::taps::Filter;
use super::spec::{Alpha, Color, Exif, Gif, JpegDct, Layout, Normalise, PreprocessSpec, Preset, Resampler};
use serde::Deserialize;

/// The keys of a `[preprocess]` section, as written.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessOverrides {
    /// `tf`, `hf` or `hf-fast`: the defaults of everything else.
    pub preset: Option<String>,
    /// A side, `[height, width]`, `{ height, width }` or `{ shortest_edge, longest_edge }`.
    pub size: Option<SizeSetting>,
    /// `nearest`, `lanczos`, `bilinear`, `bicubic`, `box`, `hamming`, or Pillow's number for it.
    pub resample: Option<FilterSetting>,
    /// `tf`, `pil` or `torchvision`.
    pub resampler: Option<String>,
    /// Whether the filter is widened when shrinking.
    pub antialias: Option<bool>,
    /// `u8` or `f32`: whether the resized picture is rounded to levels.
    pub resize_output: Option<String>,
    /// `islow` or `ifast`.
    pub jpeg_dct: Option<String>,
    /// Large JPEGs are decoded at a fraction of their size, but no smaller than this many times the size that they are
    /// resized to; at least 1. Not what the reference does.
    pub jpeg_oversample: Option<f64>,
    /// `none`, a side, `[height, width]` or `{ height, width }`.
    pub crop: Option<CropSetting>,
    /// The kept part of each side: the picture is resized to `size / crop_pct` and cropped to
    /// `size`.
    pub crop_pct: Option<f64>,
    /// `floor`, `truncate` or `half-even`.
    pub crop_offset: Option<String>,
    /// What levels 0 to 255 are multiplied with.
    pub rescale_factor: Option<f64>,
    /// Means of red, green and blue, after rescaling.
    pub mean: Option<[f64; 3]>,
    /// Standard deviations of red, green and blue, after rescaling.
    pub std: Option<[f64; 3]>,
    /// `nchw` or `nhwc`.
    pub layout: Option<String>,
    /// `rgb` or `bgr`.
    pub color: Option<String>,
    /// `ignore` or `apply`.
    pub exif: Option<String>,
    /// `drop` or `white`.
    pub alpha: Option<String>,
    /// `first` or `refuse`.
    pub gif: Option<String>,
    /// Most pixels a picture may have, below the server's own limit.
    pub max_pixels: Option<u64>,
}

/// The forms of `size`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number, [height, width], { height, width } or { shortest_edge }")]
pub enum SizeSetting {
    /// Both sides.
    Side(u32),
    /// Height, width.
    Pair([u32; 2]),
    /// Height, width.
    Exact(Sides),
    /// The shorter side, and perhaps the most for the longer one.
    Shortest(ShortestEdge),
}

/// `{ height, width }`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sides {
    /// In pixels.
    pub height: u32,
    /// In pixels.
    pub width: u32,
}

/// `{ shortest_edge, longest_edge }`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortestEdge {
    /// In pixels.
    pub shortest_edge: u32,
    /// In pixels.
    pub longest_edge: Option<u32>,
}

/// The forms of `crop`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected \"none\", a number, [height, width] or { height, width }")]
pub enum CropSetting {
    /// `none`.
    Word(String),
    /// Both sides.
    Side(u32),
    /// Height, width.
    Pair([u32; 2]),
    /// Height, width.
    Exact(Sides),
}

/// The forms of `resample`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected the name of a filter or Pillow's number for it")]
pub enum FilterSetting {
    /// Pillow's number.
    Number(u8),
    /// The name.
    Name(String),
}

const PRESETS: &[(&str, Preset)] =
    &[("tf", Preset::Tensorflow), ("hf", Preset::HuggingFace), ("hf-fast", Preset::HuggingFaceFast)];

const RESAMPLERS: &[(&str, Resampler)] =
    &[("tf", Resampler::Tensorflow), ("pil", Resampler::Pil), ("torchvision", Resampler::Torchvision)];

/// In the order of Pillow's numbers.
const FILTERS: &[(&str, Filter)] = &[
    ("nearest", Filter::Nearest),
    ("lanczos", Filter::Lanczos),
    ("bilinear", Filter::Bilinear),
    ("bicubic", Filter::Bicubic),
    ("box", Filter::Box),
    ("hamming", Filter::Hamming),
];

impl std::str::FromStr for Preset {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        one_of("preset", text, PRESETS)
    }
}

impl PreprocessSpec {
    /// Resolves the settings of a model: its `[preprocess]` section over its
    /// `preprocessor_config.json`, if there is one, over the preset.
    ///
    /// # Errors
    /// The first key that can't be honoured, and what to write instead.
    pub fn resolve(overrides: &PreprocessOverrides, hugging_face: Option<&str>) -> Result<Self, SpecError> {
        let preset = match overrides.preset.as_deref() {
            Some(name) => name.parse()?,
            None => Preset::default(),
        };
        let mut spec = match hugging_face {
            // The file may be of no use by itself; the section may mend it.
            Some(text) => Self::read_hugging_face(text, preset)?,
            None => Self::from_preset(preset),
        };
        overrides.apply(&mut spec)?;
        spec.validate()?;
        Ok(spec)
    }
}

impl PreprocessOverrides {
    /// Changes `spec` in the keys that are given.
    fn apply(&self, spec: &mut PreprocessSpec) -> Result<(), SpecError> {
        if let Some(name) = &self.resampler {
            spec.set_resampler(one_of("resampler", name, RESAMPLERS)?);
        }
        if let Some(filter) = &self.resample {
            spec.filter = match filter {
                FilterSetting::Name(name) => one_of("resample", name, FILTERS)?,
                FilterSetting::Number(number) => match FILTERS.get(usize::from(*number)) {
                    Some((_, filter)) => *filter,
                    None => {
                        return Err(SpecError::key(
                            "resample",
                            format!("{number} is not one of Pillow's filters"),
                            "0 is nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming",
                        ));
                    }
                },
            };
        }
        if let Some(antialias) = self.antialias {
            spec.antialias = antialias;
        }
        self.check_resize_output(spec)?;
        self.geometry(spec)?;
        self.numbers(spec);
        let decode = &mut spec.decode;
        let dct = [("islow", JpegDct::Islow), ("ifast", JpegDct::Ifast)];
        set("jpeg_dct", &self.jpeg_dct, &dct, &mut decode.jpeg_dct)?;
        decode.jpeg_oversample = self.jpeg_oversample.or(decode.jpeg_oversample);
        let exif = [("ignore", Exif::Ignore), ("apply", Exif::Apply)];
        set("exif", &self.exif, &exif, &mut decode.exif)?;
        let alpha = [("drop", Alpha::Drop), ("white", Alpha::White)];
        set("alpha", &self.alpha, &alpha, &mut decode.alpha)?;
        let gif = [("first", Gif::First), ("refuse", Gif::Refuse)];
        set("gif", &self.gif, &gif, &mut decode.gif)?;
        let layout = [("nchw", Layout::Nchw), ("nhwc", Layout::Nhwc)];
        set("layout", &self.layout, &layout, &mut spec.layout)?;
        let color = [("rgb", Color::Rgb), ("bgr", Color::Bgr)];
        set("color", &self.color, &color, &mut spec.color)
    }

    /// Each resampler has one kind of result; the key may only say so.
    fn check_resize_output(&self, spec: &PreprocessSpec) -> Result<(), SpecError> {
        let natural = match spec.resampler {
            Resampler::Tensorflow => "f32",
            Resampler::Pil | Resampler::Torchvision => "u8",
        };
        let mut value = natural;
        let known = [("u8", "u8"), ("f32", "f32")];
        set("resize_output", &self.resize_output, &known, &mut value)?;
        if value == natural {
            return Ok(());
        }
        let other = if value == "f32" { "tf" } else { "pil" };
        Err(SpecError::key(
            "resize_output",
            format!("this resampler yields {natural}, not {value}"),
            format!("set `resampler = \"{other}\"` or leave the key out"),
        ))
    }

    fn geometry(&self, spec: &mut PreprocessSpec) -> Result<(), SpecError> {
        if let Some(size) = &self.size {
            spec.resize = match *size {
                SizeSetting::Side(side) => exact(side, side),
                SizeSetting::Pair([height, width]) => exact(height, width),
                SizeSetting::Exact(Sides { height, width }) => exact(height, width),
                SizeSetting::Shortest(size) => {
                    Resize::ShortestEdge { edge: size.shortest_edge, longest: size.longest_edge }
                }
            };
        }
        if let Some(crop) = &self.crop {
            let (height, width) = match crop {
                CropSetting::Side(side) => (*side, *side),
                CropSetting::Pair([height, width]) => (*height, *width),
                CropSetting::Exact(Sides { height, width }) => (*height, *width),
                CropSetting::Word(word) => {
                    one_of("crop", word, &[("none", ())])?;
                    (0, 0)
                }
            };
            let none = matches!(crop, CropSetting::Word(_));
            spec.crop = (!none).then_some(Crop { height, width });
        }
        if let Some(crop_pct) = self.crop_pct {
            if !(crop_pct > 0.0 && crop_pct <= 1.0) {
                return Err(SpecError::key(
                    "crop_pct",
                    format!("{crop_pct} is out of range"),
                    "choose a number above 0 and up to 1, such as 0.875",
                ));
            }
            let (height, width) = match spec.resize {
                Resize::Exact { height, width } => (height, width),
                Resize::ShortestEdge { edge, .. } => (edge, edge),
                Resize::None => {
                    return Err(SpecError::key(
                        "crop_pct",
                        "there is no `size` that it could refer to",
                        "set `size`, or `crop` instead",
                    ));
                }
            };
            spec.resize =
                Resize::ShortestEdge { edge: (f64::from(height.min(width)) / crop_pct) as u32, longest: None };
            spec.crop.get_or_insert(Crop { height, width });
        }
        let offsets =
            [("floor", CropOffset::Floor), ("truncate", CropOffset::Truncate), ("half-even", CropOffset::HalfEven)];
        set("crop_offset", &self.crop_offset, &offsets, &mut spec.crop_offset)
    }

    fn numbers(&self, spec: &mut PreprocessSpec) {
        if let Some(factor) = self.rescale_factor {
            spec.rescale_factor = Some(factor);
        }
        spec.max_pixels = self.max_pixels.or(spec.max_pixels);
        if self.mean.is_some() || self.std.is_some() {
            let normalise = spec.normalise.get_or_insert(Normalise { mean: [0.0; 3], std: [1.0; 3], twice: false });
            normalise.mean = self.mean.unwrap_or(normalise.mean);
            normalise.std = self.std.unwrap_or(normalise.std);
        }
    }
}

fn exact(height: u32, width: u32) -> Resize {
    Resize::Exact { height, width }
}

fn set<T: Copy>(
    key: &'static str,
    value: &Option<String>,
    known: &[(&str, T)],
    target: &mut T,
) -> Result<(), SpecError> {
    if let Some(value) = value {
        *target = one_of(key, value, known)?;
    }
    Ok(())
}

/// The value of that name, or an error with the nearest name.
fn one_of<T: Copy>(key: &'static str, name: &str, known: &[(&str, T)]) -> Result<T, SpecError> {
    if let Some((_, value)) = known.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)) {
        return Ok(*value);
    }
    let shown: String = name.chars().take(40).collect();
    let all: Vec<String> = known.iter().map(|(k, _)| format!("\"{k}\"")).collect();
    let lower = shown.to_lowercase();
    let nearest = known
        .iter()
        .map(|(k, _)| (strsim::damerau_levenshtein(k, &lower), k))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, k)| *distance <= k.len() / 2);
    let remedy = match nearest {
        Some((_, nearest)) => format!("did you mean \"{nearest}\"? Allowed: {}", all.join(", ")),
        None => format!("allowed: {}", all.join(", ")),
    };
    Err(SpecError::key(key, format!("\"{shown}\" is not known"), remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(section: &str, file: Option<&str>) -> Result<PreprocessSpec, SpecError> {
        PreprocessSpec::resolve(&toml::from_str(section).unwrap(), file)
    }

    #[test]
    fn every_key_overrides_its_step() {
        let section = r#"
            preset = "hf"
            size = { shortest_edge = 248 }
            resample = "bicubic"
            resampler = "pil"
            antialias = true
            resize_output = "u8"
            jpeg_dct = "ifast"
            jpeg_oversample = 2
            crop = { height = 224, width = 200 }
            crop_offset = "half-even"
            rescale_factor = 0.5
            mean = [1.0, 2.0, 3.0]
            std = [4.0, 5.0, 6.0]
            layout = "nhwc"
            color = "bgr"
            exif = "apply"
            alpha = "white"
            gif = "refuse"
            max_pixels = 1000
        "#;
        let spec = resolve(section, None).unwrap();
        assert_eq!(spec.output_size().unwrap(), (224, 200));
        assert_eq!(spec.filter, Filter::Bicubic);
        assert_eq!(spec.crop_offset, CropOffset::HalfEven);
        assert_eq!((spec.decode.jpeg_dct, spec.decode.jpeg_oversample), (JpegDct::Ifast, Some(2.0)));
        assert_eq!((spec.decode.exif, spec.decode.alpha), (Exif::Apply, Alpha::White));
        assert_eq!((spec.decode.gif, spec.color), (Gif::Refuse, Color::Bgr));
        assert_eq!((spec.layout, spec.max_pixels), (Layout::Nhwc, Some(1000)));
        assert_eq!(spec.rescale_factor, Some(0.5));
        assert_eq!(spec.normalise.unwrap().std, [4.0, 5.0, 6.0]);
    }

    #[test]
    fn the_section_wins_over_the_file_and_the_file_over_the_preset() {
        let file = r#"{"image_processor_type": "CLIPImageProcessor"}"#;
        let spec = resolve("preset = \"hf-fast\"\nmean = [0.5, 0.5, 0.5]", Some(file)).unwrap();
        assert_eq!(spec.resampler, Resampler::Torchvision);
        assert_eq!(spec.filter, Filter::Bicubic);
        assert_eq!(spec.normalise.unwrap().mean, [0.5; 3]);
        assert_eq!(spec.normalise.unwrap().std[0], 0.26862954);
        // A file that is of no use alone can be mended.
        let file = r#"{"size": {"shortest_edge": 256}}"#;
        assert!(resolve("", Some(file)).is_err());
        assert!(resolve("crop = 224", Some(file)).is_ok());
    }

    #[test]
    fn crop_pct_enlarges_the_resize() {
        let spec = resolve("crop_pct = 0.9", None).unwrap();
        let edge = Resize::ShortestEdge { edge: 248, longest: None };
        assert_eq!((spec.resize, spec.output_size().unwrap()), (edge, (224, 224)));
    }

    #[test]
    fn mistakes_are_named_with_the_nearest_value() {
        for (section, part) in [
            ("preset = \"hf-fats\"", "`preset`: \"hf-fats\" is not known; did you mean \"hf-fast\"?"),
            ("resample = \"bilinaer\"", "did you mean \"bilinear\"?"),
            ("resample = 7", "`resample`: 7"),
            ("layout = \"nwhc\"", "did you mean \"nhwc\"?"),
            ("size = { shortest_edge = 256 }", "`size`"),
            ("size = 0", "`size`"),
            ("size = 100000", "`size`"),
            ("crop_pct = 1.5", "`crop_pct`"),
            ("resize_output = \"f32\"", "`resize_output`"),
            ("preset = \"tf\"\nresample = \"bicubic\"", "`resample`"),
            ("preset = \"tf\"\nantialias = true", "`antialias`"),
            ("std = [1.0, 0.0, 1.0]", "`std`"),
            ("crop = \"center\"", "`crop`"),
            ("jpeg_oversample = 0.5", "`jpeg_oversample`"),
        ] {
            let message = resolve(section, None).unwrap_err().to_string();
            assert!(message.contains(part), "{section}: {message}");
        }
        let unknown = toml::from_str::<PreprocessOverrides>("sizes = 3").unwrap_err();
        assert!(unknown.to_string().contains("sizes"));
    }
}
