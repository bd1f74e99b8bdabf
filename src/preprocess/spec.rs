//! The settings of one model's preprocessing, resolved and checked.

use super::error::SpecError;
use super::geometry::{Crop, CropOffset, Resize};
use super::resize::taps::Filter;

/// A set of defaults that reproduces one reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preset {
    /// `tf.io.decode_jpeg` and `tf.image.resize` as in a Keras or TensorFlow serving graph.
    Tensorflow,
    /// Hugging Face's image processors with the PIL backend (Pillow 13).
    #[default]
    HuggingFace,
    /// Hugging Face's image processors with the torchvision backend ("fast").
    HuggingFaceFast,
}

/// Whose resampling is reproduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampler {
    /// TensorFlow's `tf.image.resize`, in f32.
    Tensorflow,
    /// Pillow's `Image.resize`: fixed point, 8 bits between the passes.
    Pil,
    /// torchvision's antialiased `resize` of 8-bit tensors: 16-bit weights.
    Torchvision,
}

/// The inverse DCT of the JPEG decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JpegDct {
    /// Accurate integers: Pillow, torchvision.
    Islow,
    /// Fast, less accurate integers: TensorFlow's default.
    Ifast,
}

/// What is done about the Exif orientation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exif {
    /// The picture is taken as it is stored.
    Ignore,
    /// The picture is turned upright.
    Apply,
}

/// What is done about transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpha {
    /// The colours are taken as they are stored.
    Drop,
    /// The picture is laid over white.
    White,
}

/// What is done about animated GIFs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gif {
    /// The first frame is taken.
    First,
    /// They are refused.
    Refuse,
}

/// Order of the axes of the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Channels first.
    Nchw,
    /// Channels last.
    Nhwc,
}

/// Order of the channels of the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// Whose decoder is reproduced, where they differ otherwise than by a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    Pillow,
    TensorFlow,
}

/// How bytes become RGB pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodeSpec {
    /// The inverse DCT.
    pub jpeg_dct: JpegDct,
    /// Whether pictures are turned upright.
    pub exif: Exif,
    /// What becomes of transparency.
    pub alpha: Alpha,
    /// Whether animated GIFs are taken.
    pub gif: Gif,
    /// JPEGs are decoded at a half, a quarter or an eighth of their size, as long as both sides stay this many times
    /// those that the picture is resized to. `None`: always whole, as the references do.
    pub jpeg_oversample: Option<f64>,
    pub(super) reference: Reference,
}

/// `(value - mean) / std` of each channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalise {
    /// Means of red, green and blue, after rescaling.
    pub mean: [f64; 3],
    /// Standard deviations of red, green and blue, after rescaling.
    pub std: [f64; 3],
    /// Whether it is divided by the deviation once more (EfficientNet's `include_top`).
    pub twice: bool,
}

/// All settings of one model's preprocessing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PreprocessSpec {
    /// How bytes become RGB pixels.
    pub decode: DecodeSpec,
    /// The size that pictures are resized to.
    pub resize: Resize,
    /// The filter of the resize.
    pub filter: Filter,
    /// Whose resampling is reproduced.
    pub resampler: Resampler,
    /// Whether the filter is widened when shrinking.
    pub antialias: bool,
    /// The part that is kept after resizing.
    pub crop: Option<Crop>,
    /// How the centre of the crop is rounded.
    pub crop_offset: CropOffset,
    /// What levels 0 to 255 are multiplied with.
    pub rescale_factor: Option<f64>,
    /// Whether 1 is subtracted after rescaling (EfficientNet).
    pub rescale_offset: bool,
    /// Mean and deviation, unless turned off.
    pub normalise: Option<Normalise>,
    /// Order of the axes.
    pub layout: Layout,
    /// Order of the channels.
    pub color: Color,
    /// Most pixels a picture may have, below the server's own limit.
    pub max_pixels: Option<u64>,
}

impl Default for PreprocessSpec {
    fn default() -> Self {
        Self::from_preset(Preset::default())
    }
}

impl PreprocessSpec {
    /// The defaults of a preset: 224x224, bilinear, mean and deviation 0.5, channels first.
    pub fn from_preset(preset: Preset) -> Self {
        let mut spec = Self {
            decode: DecodeSpec {
                jpeg_dct: JpegDct::Islow,
                exif: Exif::Ignore,
                alpha: Alpha::Drop,
                gif: Gif::First,
                jpeg_oversample: None,
                reference: Reference::Pillow,
            },
            resize: Resize::Exact { height: 224, width: 224 },
            filter: Filter::Bilinear,
            resampler: Resampler::Pil,
            antialias: true,
            crop: None,
            crop_offset: CropOffset::Floor,
            rescale_factor: Some(1.0 / 255.0),
            rescale_offset: false,
            normalise: Some(Normalise { mean: [0.5; 3], std: [0.5; 3], twice: false }),
            layout: Layout::Nchw,
            color: Color::Rgb,
            max_pixels: None,
        };
        spec.set_resampler(match preset {
            Preset::Tensorflow => Resampler::Tensorflow,
            Preset::HuggingFace => Resampler::Pil,
            Preset::HuggingFaceFast => Resampler::Torchvision,
        });
        if preset == Preset::Tensorflow {
            spec.decode.jpeg_dct = JpegDct::Ifast;
        }
        spec
    }

    /// Sets the resampler, and what goes with it unless it is set by itself.
    pub(super) fn set_resampler(&mut self, resampler: Resampler) {
        self.resampler = resampler;
        (self.antialias, self.crop_offset, self.decode.reference) = match resampler {
            Resampler::Tensorflow => (false, CropOffset::Floor, Reference::TensorFlow),
            Resampler::Pil => (true, CropOffset::Floor, Reference::Pillow),
            Resampler::Torchvision => (true, CropOffset::Truncate, Reference::Pillow),
        };
    }

    /// Height and width of the tensor.
    ///
    /// # Errors
    /// Where it would depend on the picture.
    pub fn output_size(&self) -> Result<(u32, u32), SpecError> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Ok((crop.height, crop.width)),
            (None, Resize::Exact { height, width }) => Ok((height, width)),
            (None, Resize::ShortestEdge { edge, .. }) => Err(SpecError::key(
                "size",
                "with `shortest_edge` and no crop, every picture has another size",
                format!("set `crop = {{ height = {edge}, width = {edge} }}` or `size = [{edge}, {edge}]`"),
            )),
            (None, Resize::None) => Err(SpecError::key(
                "size",
                "without resizing and without a crop, every picture has another size",
                "set `size` or `crop`",
            )),
        }
    }

    /// Checks that the settings go together.
    ///
    /// # Errors
    /// The first key that can't be honoured, and what to write instead.
    pub fn validate(&self) -> Result<(), SpecError> {
        let (height, width) = self.output_size()?;
        let sides = [("height", height), ("width", width)];
        let edge = match self.resize {
            Resize::ShortestEdge { edge, .. } => edge,
            Resize::Exact { height, width } => height.min(width),
            Resize::None => 1,
        };
        for (name, side) in sides.into_iter().chain([("edge", edge)]) {
            if !(1..=MAX_SIDE).contains(&side) {
                return Err(SpecError::key(
                    "size",
                    format!("a {name} of {side} pixels is out of range"),
                    format!("choose 1 to {MAX_SIDE}"),
                ));
            }
        }
        match self.resampler {
            Resampler::Tensorflow if self.filter != Filter::Bilinear => {
                return Err(SpecError::key(
                    "resample",
                    "the `tf` resampler is bilinear only",
                    "set `resample = \"bilinear\"` or `resampler = \"pil\"`",
                ));
            }
            Resampler::Tensorflow if self.antialias => {
                return Err(SpecError::key(
                    "antialias",
                    "the `tf` resampler has no antialiasing",
                    "set `antialias = false` or `resampler = \"pil\"`",
                ));
            }
            Resampler::Torchvision if !matches!(self.filter, Filter::Bilinear | Filter::Bicubic) => {
                return Err(SpecError::key(
                    "resample",
                    "the `torchvision` resampler is bilinear or bicubic only",
                    "set `resampler = \"pil\"`",
                ));
            }
            Resampler::Torchvision if !self.antialias => {
                return Err(SpecError::key(
                    "antialias",
                    "the `torchvision` resampler always antialiases",
                    "set `antialias = true` or `resampler = \"tf\"`",
                ));
            }
            _ => {}
        }
        if let Some(normalise) = self.normalise {
            let usable = |v: f64| v.is_finite() && v != 0.0;
            if !normalise.std.into_iter().all(usable) {
                return Err(SpecError::key(
                    "std",
                    "it must not be zero or infinite",
                    "give one positive number for each channel",
                ));
            }
            if !normalise.mean.into_iter().all(f64::is_finite) {
                return Err(SpecError::key("mean", "it must be finite", "give one number for each channel"));
            }
        }
        if self.decode.jpeg_oversample.is_some_and(|times| !times.is_finite() || times < 1.0) {
            return Err(SpecError::key(
                "jpeg_oversample",
                "it must be 1 or more",
                "2 is close to the whole picture's result and several times faster for large JPEGs",
            ));
        }
        if self.rescale_factor.is_some_and(|f| !f.is_finite() || f == 0.0) {
            return Err(SpecError::key(
                "rescale_factor",
                "it must not be zero or infinite",
                "0.00392156862745098 brings levels to 0..1",
            ));
        }
        Ok(())
    }
}

/// Largest side of a tensor, in pixels: ten times what vision models take.
const MAX_SIDE: u32 = 8192;
