//! An encoded picture to the normalised tensor that a vision model takes.
//!
//! The steps are decode, resize, centre crop, rescale, normalise, lay out. Three references are
//! reproduced to the last bit: TensorFlow's graph (`tf.io.decode_jpeg`, `tf.image.resize`),
//! Hugging Face's image processors with the PIL backend, and with the torchvision backend. Which
//! one is a matter of a [`PreprocessSpec`]; the figures that tests keep are under `tests/golden`.
//!
//! Everything here is a pure function of bytes and settings. Buffers are kept by each thread, so that a picture allocates
//! nothing of its size once a thread is warm.

mod decode;
mod error;
mod exif;
mod format;
mod geometry;
mod golden;
mod hostile;
mod hugging_face;
mod image;
mod jpeg;
mod normalise;
mod overrides;
mod picture;
mod resize;
mod spec;

pub use decode::{DecodeLimits, ImageInfo, inspect};
pub use error::{ImageError, SpecError};
pub use format::{Format, sniff};
pub use geometry::{Crop, CropOffset, Resize};
pub use jpeg::EXACT;
pub use overrides::{CropSetting, FilterSetting, PreprocessOverrides, ShortestEdge, Sides, SizeSetting};
pub use resize::taps::Filter;
pub use spec::{Alpha, Color, DecodeSpec, Exif, Gif, JpegDct, Layout, Normalise, PreprocessSpec, Preset, Resampler};

use geometry::Plan;
use image::RgbImage;
use normalise::{Output, Tables};
use picture::Picture;
use resize::taps::Rounding;
use resize::{convolution, nearest, tensorflow};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// How long the two parts took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageTimes {
    /// From encoded bytes to RGB pixels.
    pub decode: Duration,
    /// From RGB pixels to the tensor: resize, crop, normalise, lay out.
    pub resize: Duration,
}

/// Turns pictures into tensors as a [`PreprocessSpec`] says. Shared by all threads.
pub struct Preprocessor {
    spec: PreprocessSpec,
    tables: Tables,
    height: usize,
    width: usize,
}

impl std::fmt::Debug for Preprocessor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Preprocessor").field(&self.spec).finish()
    }
}

impl Preprocessor {
    /// Prepares for the given settings.
    ///
    /// # Errors
    /// As [`PreprocessSpec::validate`].
    pub fn new(spec: PreprocessSpec) -> Result<Self, SpecError> {
        spec.validate()?;
        let (height, width) = spec.output_size()?;
        Ok(Self { spec, tables: Tables::new(&spec), height: height as usize, width: width as usize })
    }

    /// The settings.
    pub fn spec(&self) -> &PreprocessSpec {
        &self.spec
    }

    /// Order of the axes of the tensor.
    pub fn layout(&self) -> Layout {
        self.spec.layout
    }

    /// Shape of the tensor without its batch axis: [3, height, width] or [height, width, 3].
    pub fn output_shape(&self) -> [usize; 3] {
        match self.spec.layout {
            Layout::Nchw => [3, self.height, self.width],
            Layout::Nhwc => [self.height, self.width, 3],
        }
    }

    /// Number of values of the tensor of one picture.
    pub fn output_len(&self) -> usize {
        self.height * self.width * 3
    }

    /// Decodes `encoded` and writes its tensor to `out`, which holds [`Self::output_len`] values.
    /// After an error the values are of no meaning.
    ///
    /// # Errors
    /// See [`ImageError`].
    ///
    /// # Panics
    /// If `out` is of another length.
    pub fn run(&self, encoded: &[u8], limits: &DecodeLimits, out: &mut [f32]) -> Result<StageTimes, ImageError> {
        let max_pixels = self.spec.max_pixels.unwrap_or(u64::MAX);
        let limits = DecodeLimits { max_pixels: limits.max_pixels.min(max_pixels), ..*limits };
        SCRATCH.with_borrow_mut(|scratch| {
            let start = Instant::now();
            let picture = scratch.decoder.open(encoded, &self.spec.decode, self.spec.resize, &limits)?;
            let opening = start.elapsed();
            let decode = opening + self.transform(picture, &mut scratch.resize, out)?;
            let times = StageTimes { decode, resize: start.elapsed().saturating_sub(decode) };
            scratch.decoder.trim();
            scratch.resize.convolution.trim();
            Ok(times)
        })
    }

    /// Returns how long decoding took from here.
    fn transform(
        &self,
        picture: Picture<'_>,
        work: &mut ResizeScratch,
        out: &mut [f32],
    ) -> Result<Duration, ImageError> {
        let spec = &self.spec;
        let plan = Plan::new(spec.resize, spec.crop, spec.crop_offset, picture.width, picture.height);
        let mut out = Output::new(out, plan.output, spec.layout, spec.color);
        let rounding = match spec.resampler {
            Resampler::Tensorflow => {
                let Tables { scale, bias, .. } = self.tables;
                if plan.is_padded() {
                    out.fill(bias);
                }
                return tensorflow::resize(picture, &plan, scale, bias, &mut work.tensorflow, &mut out);
            }
            Resampler::Pil => Rounding::Pillow,
            Resampler::Torchvision => Rounding::Torchvision,
        };
        let decoding = if spec.filter == Filter::Nearest {
            let (image, decoding) = picture.read()?;
            nearest::resize(image, &plan, &mut work.resized);
            decoding
        } else {
            let ResizeScratch { convolution: workspace, resized, .. } = work;
            convolution::resize(picture, &plan, spec.filter, rounding, spec.antialias, workspace, resized)?
        };
        normalise::write(&work.resized, &plan, &self.tables, &mut out);
        Ok(decoding)
    }
}

/// What a thread keeps between pictures.
struct Scratch {
    decoder: decode::Decoder,
    resize: ResizeScratch,
}

struct ResizeScratch {
    convolution: convolution::Workspace,
    tensorflow: tensorflow::Workspace,
    resized: RgbImage,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            decoder: decode::Decoder::new(),
            resize: ResizeScratch {
                convolution: convolution::Workspace::new(),
                tensorflow: tensorflow::Workspace::new(),
                resized: RgbImage::new(),
            },
        })
    };
}
