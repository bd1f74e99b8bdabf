//! `preprocessor_config.json`, as Hugging Face's image processors save and read it.
//!
//! A key that is missing has the default of the class that is named (transformers 5). Order of the
//! steps: resize, centre crop, rescale, normalise.

use super::error::SpecError;
use super::geometry::{Crop, Resize};
use super::resize::taps::Filter;
use super::spec::{Alpha, Color, Normalise, PreprocessSpec, Preset};
use serde_json::{Map, Value};

const STANDARD: ([f64; 3], [f64; 3]) = ([0.5; 3], [0.5; 3]);
const IMAGENET: ([f64; 3], [f64; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
const CLIP: ([f64; 3], [f64; 3]) = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]);

/// How a class reads `size`.
#[derive(Clone, Copy, PartialEq)]
enum Sizing {
    /// A single number is both sides.
    Square(u32),
    /// A single number is the shorter side.
    Shortest(u32),
    /// The shorter side is divided by `crop_pct`, and the middle cropped; without cropping from
    /// the given size on.
    CropPct(u32, f64, u32),
    /// The shorter side is multiplied by 256/224.
    Levit(u32),
}

/// Defaults of one class.
#[derive(Clone, Copy)]
struct Class {
    name: &'static str,
    sizing: Sizing,
    filter: Filter,
    crop: Option<u32>,
    statistics: ([f64; 3], [f64; 3]),
    convert_rgb: bool,
}

const fn class(
    name: &'static str,
    sizing: Sizing,
    filter: Filter,
    crop: Option<u32>,
    statistics: ([f64; 3], [f64; 3]),
) -> Class {
    Class { name, sizing, filter, crop, statistics, convert_rgb: false }
}

/// Image classifiers' classes, without the endings that are stripped.
const CLASSES: &[Class] = {
    use Filter::{Bicubic, Bilinear};
    use Sizing::{CropPct, Levit, Shortest, Square};
    &[
        class("ViT", Square(224), Bilinear, None, STANDARD),
        class("DeiT", Square(256), Bicubic, Some(224), STANDARD),
        class("Beit", Square(224), Bicubic, None, STANDARD),
        class("Siglip", Square(224), Bicubic, None, STANDARD),
        Class { convert_rgb: true, ..class("CLIP", Shortest(224), Bicubic, Some(224), CLIP) },
        Class { convert_rgb: true, ..class("Bit", Shortest(224), Bicubic, Some(224), CLIP) },
        class("ConvNext", CropPct(384, 0.875, 384), Bicubic, None, STANDARD),
        class("PoolFormer", CropPct(224, 0.9, u32::MAX), Bicubic, Some(224), IMAGENET),
        class("Levit", Levit(224), Bicubic, Some(224), IMAGENET),
        class("MobileNetV1", Shortest(256), Bilinear, Some(224), STANDARD),
        class("MobileNetV2", Shortest(256), Bilinear, Some(224), STANDARD),
        class("MobileViT", Shortest(224), Bilinear, Some(256), STANDARD),
        class("EfficientFormer", Shortest(224), Bicubic, Some(224), IMAGENET),
        class("EfficientNet", Square(346), Bicubic, None, STANDARD),
        class("Pvt", Square(224), Bilinear, None, IMAGENET),
        class("Segformer", Square(512), Bilinear, None, IMAGENET),
    ]
};

impl PreprocessSpec {
    /// Reads the text of a `preprocessor_config.json`; `preset` says which backend is reproduced.
    ///
    /// # Errors
    /// [`SpecError::Json`] for no JSON object; [`SpecError::Key`] for a class, a step or a value
    /// that can't be honoured.
    pub fn from_hugging_face(text: &str, preset: Preset) -> Result<Self, SpecError> {
        let spec = Self::read_hugging_face(text, preset)?;
        spec.validate()?;
        Ok(spec)
    }

    /// As [`Self::from_hugging_face`], without the check that the settings go together.
    pub(super) fn read_hugging_face(text: &str, preset: Preset) -> Result<Self, SpecError> {
        let value: Value = serde_json::from_str(text).map_err(|error| SpecError::Json(error.to_string()))?;
        let Value::Object(mut object) = value else {
            return Err(SpecError::Json("it is not a JSON object".to_owned()));
        };
        // Newer files keep it beside the tokeniser's settings.
        if let Some(Value::Object(inner)) = object.remove("image_processor") {
            object = inner;
        }
        let file = File(&object);
        let class = file.class()?;
        file.refuse_unsupported()?;
        let mut spec = Self::from_preset(preset);
        file.geometry(&class, &mut spec)?;
        file.numbers(&class, &mut spec)?;
        if file.flag("do_convert_rgb")?.unwrap_or(class.convert_rgb) {
            spec.decode.alpha = Alpha::White;
        }
        Ok(spec)
    }
}

/// The file's keys, with null taken as missing.
struct File<'a>(&'a Map<String, Value>);

impl File<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, SpecError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(unexpected(key, other, "true or false")),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f64>, SpecError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(unexpected(key, value, "a number")),
            },
        }
    }

    /// One number for all channels, or three.
    fn channels(&self, key: &str) -> Result<Option<[f64; 3]>, SpecError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        if let Some(number) = value.as_f64() {
            return Ok(Some([number; 3]));
        }
        let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        match numbers.as_deref() {
            Some(&[r, g, b]) => Ok(Some([r, g, b])),
            Some(&[grey]) => Ok(Some([grey; 3])),
            _ => Err(unexpected(key, value, "three numbers")),
        }
    }

    fn class(&self) -> Result<Class, SpecError> {
        let keys = ["image_processor_type", "feature_extractor_type"];
        let found = keys.iter().find_map(|key| Some((*key, self.get(key)?)));
        // Files from before the class was saved are ViT's.
        let Some((key, value)) = found else {
            return Ok(CLASSES[0]);
        };
        let Some(full) = value.as_str() else {
            return Err(unexpected(key, value, "the name of a class"));
        };
        let mut name = full;
        for ending in ["Fast", "Pil", "FeatureExtractor", "ImageProcessor"] {
            name = name.strip_suffix(ending).unwrap_or(name);
        }
        if let Some(class) = CLASSES.iter().find(|c| c.name.eq_ignore_ascii_case(name)) {
            return Ok(*class);
        }
        // Any other class is taken at its word, where the file leaves no default to be guessed.
        let given = ["size", "resample", "image_mean", "image_std"];
        if name != "TimmWrapper" && given.iter().all(|key| self.get(key).is_some()) {
            return Ok(class("", Sizing::Shortest(224), Filter::Bilinear, None, STANDARD));
        }
        let known: Vec<&str> = CLASSES.iter().map(|class| class.name).collect();
        Err(SpecError::key(
            key,
            format!("the defaults of `{}` are not known", shorten(full)),
            format!("give {} in the file, or use one of {}", given.join(", "), known.join(", ")),
        ))
    }

    fn refuse_unsupported(&self) -> Result<(), SpecError> {
        const REFUSED: &[&str] = &[
            "do_pad",
            "do_reduce_labels",
            "reduce_labels",
            "do_thumbnail",
            "do_align_long_axis",
            "do_image_splitting",
            "do_split_image",
            "do_center_pad",
            "do_color_quantize",
        ];
        for key in REFUSED {
            if self.flag(key)?.unwrap_or(false) {
                return Err(SpecError::key(
                    *key,
                    "this step is not supported",
                    "set it to false if the model does without it",
                ));
            }
        }
        Ok(())
    }

    fn geometry(&self, class: &Class, spec: &mut PreprocessSpec) -> Result<(), SpecError> {
        if let Some(value) = self.get("resample") {
            spec.filter = filter(value)?;
        } else {
            spec.filter = class.filter;
        }
        let crop_size = match self.get("crop_size") {
            Some(value) => Some(sides(value, "crop_size")?),
            None => class.crop.map(|side| (side, side)),
        };
        let crop = crop_size.map(|(height, width)| Crop { height, width });
        let cropped = self.flag("do_center_crop")?.unwrap_or(class.crop.is_some());
        spec.crop =
            if cropped {
                Some(crop.ok_or_else(|| {
                    SpecError::key("crop_size", "it is missing", "give it, or set do_center_crop false")
                })?)
            } else {
                None
            };
        if !self.flag("do_resize")?.unwrap_or(true) {
            spec.resize = Resize::None;
            return Ok(());
        }
        let (default, square) = match class.sizing {
            Sizing::Square(side) => (side, true),
            Sizing::Shortest(side) | Sizing::CropPct(side, ..) | Sizing::Levit(side) => (side, false),
        };
        spec.resize = match self.get("size") {
            None if square => exact(default, default),
            None => shortest(default),
            Some(value) => size(value, square)?,
        };
        let Resize::ShortestEdge { edge, .. } = spec.resize else {
            return Ok(());
        };
        match class.sizing {
            Sizing::CropPct(_, default, limit) if edge < limit => {
                let crop_pct = self.number("crop_pct")?.unwrap_or(default);
                if !(crop_pct > 0.0 && crop_pct <= 1.0) {
                    return Err(SpecError::key(
                        "crop_pct",
                        format!("{crop_pct} is out of range"),
                        "choose a number above 0 and up to 1",
                    ));
                }
                spec.resize = shortest((f64::from(edge) / crop_pct) as u32);
                if spec.crop.is_none() {
                    spec.crop = Some(Crop { height: edge, width: edge });
                }
            }
            Sizing::CropPct(..) => spec.resize = exact(edge, edge),
            Sizing::Levit(_) => {
                spec.resize = shortest((256.0 / 224.0 * f64::from(edge)) as u32);
            }
            _ => {}
        }
        Ok(())
    }

    fn numbers(&self, class: &Class, spec: &mut PreprocessSpec) -> Result<(), SpecError> {
        if self.flag("do_rescale")?.unwrap_or(true) {
            spec.rescale_factor = Some(self.number("rescale_factor")?.unwrap_or(1.0 / 255.0));
        } else {
            spec.rescale_factor = None;
        }
        let efficientnet = class.name == "EfficientNet";
        spec.rescale_offset = self.flag("rescale_offset")?.unwrap_or(false);
        if spec.rescale_offset && !efficientnet {
            return Err(SpecError::key("rescale_offset", "it is known for EfficientNet only", "set it to false"));
        }
        let mobilevit = class.name == "MobileViT";
        spec.normalise = if self.flag("do_normalize")?.unwrap_or(!mobilevit) {
            let (mean, std) = class.statistics;
            Some(Normalise {
                mean: self.channels("image_mean")?.unwrap_or(mean),
                std: self.channels("image_std")?.unwrap_or(std),
                twice: efficientnet && self.flag("include_top")?.unwrap_or(true),
            })
        } else {
            None
        };
        if self.flag("do_flip_channel_order")?.unwrap_or(mobilevit) {
            spec.color = Color::Bgr;
        }
        Ok(())
    }
}

fn exact(height: u32, width: u32) -> Resize {
    Resize::Exact { height, width }
}

fn shortest(edge: u32) -> Resize {
    Resize::ShortestEdge { edge, longest: None }
}

fn filter(value: &Value) -> Result<Filter, SpecError> {
    match value.as_u64() {
        Some(0) => Ok(Filter::Nearest),
        Some(1) => Ok(Filter::Lanczos),
        Some(2) => Ok(Filter::Bilinear),
        Some(3) => Ok(Filter::Bicubic),
        Some(4) => Ok(Filter::Box),
        Some(5) => Ok(Filter::Hamming),
        _ => Err(unexpected(
            "resample",
            value,
            "0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (hamming)",
        )),
    }
}

fn side(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|side| u32::try_from(side).ok())
}

/// Height and width: a number, a pair, or an object.
fn sides(value: &Value, key: &str) -> Result<(u32, u32), SpecError> {
    if let Some(side) = side(value) {
        return Ok((side, side));
    }
    if let Some([height, width]) = value.as_array().map(Vec::as_slice)
        && let (Some(height), Some(width)) = (side(height), side(width))
    {
        return Ok((height, width));
    }
    let get = |name: &str| value.get(name).and_then(side);
    // Old files of square crops call the side `shortest_edge`.
    match (get("height"), get("width"), get("shortest_edge")) {
        (Some(height), Some(width), _) => Ok((height, width)),
        (None, None, Some(edge)) => Ok((edge, edge)),
        _ => Err(unexpected(key, value, "a number or {\"height\", \"width\"}")),
    }
}

fn size(value: &Value, square: bool) -> Result<Resize, SpecError> {
    if let Some(side) = side(value) {
        return Ok(if square { exact(side, side) } else { shortest(side) });
    }
    let get = |name: &str| value.get(name).and_then(side);
    if let Some(edge) = get("shortest_edge") {
        return Ok(Resize::ShortestEdge { edge, longest: get("longest_edge") });
    }
    match sides(value, "size") {
        Ok((height, width)) => Ok(exact(height, width)),
        Err(_) => Err(unexpected("size", value, "a number, {\"height\", \"width\"} or {\"shortest_edge\"}")),
    }
}

fn unexpected(key: &str, value: &Value, wanted: &str) -> SpecError {
    SpecError::key(key, format!("{} is not a known value", shorten(&value.to_string())), format!("give {wanted}"))
}

/// The start of a text that comes from the file.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> PreprocessSpec {
        PreprocessSpec::from_hugging_face(text, Preset::HuggingFace).unwrap()
    }

    fn refuse(text: &str) -> String {
        let result = PreprocessSpec::from_hugging_face(text, Preset::HuggingFace);
        result.unwrap_err().to_string()
    }

    const CROP_224: Option<Crop> = Some(Crop { height: 224, width: 224 });

    #[test]
    fn an_empty_file_is_vit() {
        assert_eq!(read("{}"), PreprocessSpec::default());
        let saved = r#"{"do_normalize": true, "do_rescale": true, "do_resize": true,
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2,
            "image_processor_type": "ViTImageProcessor", "rescale_factor": 0.00392156862745098,
            "size": {"height": 224, "width": 224}, "do_convert_rgb": null}"#;
        assert_eq!(read(saved), PreprocessSpec::default());
    }

    #[test]
    fn classes_have_their_defaults_under_every_name() {
        for name in ["DeiTImageProcessor", "DeiTImageProcessorFast", "DeiTImageProcessorPil"] {
            let spec = read(&format!(r#"{{"image_processor_type": "{name}"}}"#));
            assert_eq!(spec.resize, exact(256, 256));
            assert_eq!((spec.crop, spec.filter), (CROP_224, Filter::Bicubic));
        }
        let clip = read(
            r#"{"feature_extractor_type": "CLIPFeatureExtractor", "size": 336,
            "crop_size": 336}"#,
        );
        assert_eq!(clip.resize, shortest(336));
        assert_eq!(clip.crop.unwrap().width, 336);
        assert_eq!(clip.normalise.unwrap().mean, CLIP.0);
        assert_eq!(clip.decode.alpha, Alpha::White);
        let vit = read(r#"{"feature_extractor_type": "ViTFeatureExtractor", "size": 384}"#);
        assert_eq!(vit.resize, exact(384, 384));
    }

    #[test]
    fn convnext_crops_below_384_only() {
        let spec = |edge: u32| {
            read(&format!(
                r#"{{"image_processor_type": "ConvNextImageProcessor",
                    "size": {{"shortest_edge": {edge}}}, "crop_pct": 0.875}}"#
            ))
        };
        assert_eq!((spec(224).resize, spec(224).crop), (shortest(256), CROP_224));
        assert_eq!((spec(384).resize, spec(384).crop), (exact(384, 384), None));
    }

    #[test]
    fn steps_can_be_turned_off() {
        let spec = read(
            r#"{"do_resize": false, "do_center_crop": true, "crop_size": 224,
            "do_rescale": false, "do_normalize": false}"#,
        );
        assert_eq!((spec.resize, spec.crop), (Resize::None, CROP_224));
        assert_eq!((spec.rescale_factor, spec.normalise), (None, None));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (text, part) in [
            (r#"{"do_pad": true}"#, "`do_pad`"),
            (r#"{"do_reduce_labels": true}"#, "`do_reduce_labels`"),
            (r#"{"resample": 9}"#, "`resample`: 9"),
            (r#"{"size": {"edge": 3}}"#, "`size`"),
            (r#"{"image_std": [1, 0, 1]}"#, "`std`"),
            (r#"{"image_processor_type": "FooImageProcessor"}"#, "FooImageProcessor"),
            (r#"{"size": {"shortest_edge": 224}}"#, "shortest_edge"),
            ("[]", "not a JSON object"),
            ("{", "cannot be read"),
        ] {
            let message = refuse(text);
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
