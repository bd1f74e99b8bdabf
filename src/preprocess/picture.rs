//! A picture on its way to the resampler: there as a whole, or decoded as its rows are read.
//!
//! Reading in strips spares large pictures most of what memory costs: the pixels of 12 megapixels are 36 MB, those of a
//! strip stay in a core's cache.

use super::decode::guarded;
use super::error::ImageError;
use super::format::Format;
use super::image::RgbImage;
use super::jpeg;
use std::time::{Duration, Instant};

/// About as large is a strip, in bytes: a share of a core's second-level cache.
const STRIP: usize = 64 << 10;

/// A strip has at least so many rows, and a multiple of them: what the decoder makes at once of common pictures.
const ROWS: usize = 16;

/// A picture of RGB8, upright where that was asked for.
pub(super) struct Picture<'a> {
    /// Its own width in pixels.
    pub width: usize,
    /// Its own height in pixels.
    pub height: usize,
    /// Number of columns that it is decoded to: fewer than it has where `jpeg_oversample` allows that.
    pub columns: usize,
    /// Number of rows that it is decoded to.
    pub rows: usize,
    pixels: Pixels<'a>,
}

enum Pixels<'a> {
    Whole(&'a RgbImage),
    Rows {
        rows: jpeg::Rows<'a>,
        /// Takes the rows.
        image: &'a mut RgbImage,
        work: &'a mut Vec<u8>,
    },
}

/// Some rows of a picture.
pub(super) struct Strip<'a> {
    /// Number of the first of them.
    pub first: usize,
    pub image: &'a RgbImage,
}

impl<'a> Picture<'a> {
    /// A picture that is there.
    pub fn whole(image: &'a RgbImage) -> Self {
        let (width, height) = (image.width(), image.height());
        Self { width, height, columns: width, rows: height, pixels: Pixels::Whole(image) }
    }

    /// A picture of `size` (width and height), decoded to `columns` and `lines` as it is read into `image`.
    pub fn decoded(
        rows: jpeg::Rows<'a>,
        size: (usize, usize),
        (columns, lines): (usize, usize),
        image: &'a mut RgbImage,
        work: &'a mut Vec<u8>,
    ) -> Self {
        let pixels = Pixels::Rows { rows, image, work };
        Self { width: size.0, height: size.1, columns, rows: lines, pixels }
    }

    /// All of it, and how long decoding took from here.
    ///
    /// # Errors
    /// If it can't be decoded.
    pub fn read(self) -> Result<(&'a RgbImage, Duration), ImageError> {
        match self.pixels {
            Pixels::Whole(image) => Ok((image, Duration::ZERO)),
            Pixels::Rows { mut rows, image, work } => {
                let start = Instant::now();
                image.reset(self.columns, self.rows);
                guarded(Format::Jpeg, || rows.read(work, image.pixels_mut()))?;
                Ok((image, start.elapsed()))
            }
        }
    }

    /// Gives `take` all rows, from the top, some at a time, of which the first `overlap` were the last of those before.
    /// Returns how long decoding took.
    ///
    /// # Errors
    /// If it can't be decoded, which may be found after most of it has been given.
    pub fn strips(self, overlap: usize, mut take: impl FnMut(Strip<'_>)) -> Result<Duration, ImageError> {
        let (mut rows, strip, work) = match self.pixels {
            Pixels::Whole(image) => {
                take(Strip { first: 0, image });
                return Ok(Duration::ZERO);
            }
            Pixels::Rows { rows, image, work } => (rows, image, work),
        };
        let stride = self.columns * 3;
        let at_once = (STRIP / stride / ROWS * ROWS).max(ROWS);
        // Room for the largest, so that what is kept of one stays there for the next.
        strip.reset(self.columns, overlap + at_once);
        let mut decoding = Duration::ZERO;
        let mut next = 0;
        while next < self.rows {
            let kept = overlap.min(next);
            let count = at_once.min(self.rows - next);
            let start = Instant::now();
            let before = strip.height();
            strip.pixels_mut().copy_within((before - kept) * stride.., 0);
            strip.reset(self.columns, kept + count);
            guarded(Format::Jpeg, || rows.read(work, &mut strip.pixels_mut()[kept * stride..]))?;
            decoding += start.elapsed();
            take(Strip { first: next - kept, image: strip });
            next += count;
        }
        Ok(decoding)
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::noise;
    use super::super::resize::{convolution, tensorflow};
    use super::super::*;
    use super::*;

    fn jpeg(width: usize, height: usize) -> Vec<u8> {
        let mut file = std::io::Cursor::new(Vec::new());
        let size = (width as u32, height as u32);
        let encoder = ::image::codecs::jpeg::JpegEncoder::new(&mut file);
        let picture = noise(width, height);
        ::image::ImageEncoder::write_image(encoder, picture.pixels(), size.0, size.1, ::image::ColorType::Rgb8.into())
            .unwrap();
        file.into_inner()
    }

    #[test]
    fn strips_give_the_tensor_of_the_whole() {
        let limits = DecodeLimits::default();
        let crop = Crop { height: 50, width: 40 };
        let mut decoder = decode::Decoder::new();
        let mut work = ResizeScratch {
            convolution: convolution::Workspace::new(),
            tensorflow: tensorflow::Workspace::new(),
            resized: RgbImage::new(),
        };
        // One strip and many, of all rows and few, with what is left at the end; wider than a strip; rows first and columns.
        for (width, height) in [(1, 1), (17, 33), (640, 37), (1333, 151), (6000, 50), (90, 1500), (61, 2000), (300, 97)]
        {
            let file = jpeg(width, height);
            for preset in [Preset::HuggingFace, Preset::HuggingFaceFast, Preset::Tensorflow] {
                for (resize, crop) in [
                    (Resize::Exact { height: 224, width: 224 }, None),
                    (Resize::Exact { height: 97, width: 61 }, None),
                    (Resize::ShortestEdge { edge: 60, longest: None }, Some(crop)),
                ] {
                    let spec = PreprocessSpec { resize, crop, ..PreprocessSpec::from_preset(preset) };
                    let preprocessor = Preprocessor::new(spec).unwrap();
                    let mut strips = vec![f32::NAN; preprocessor.output_len()];
                    preprocessor.run(&file, &limits, &mut strips).unwrap();
                    let picture = decoder.open(&file, &spec.decode, resize, &limits).unwrap();
                    let (image, _) = picture.read().unwrap();
                    let mut whole = vec![f32::NAN; preprocessor.output_len()];
                    preprocessor.transform(Picture::whole(image), &mut work, &mut whole).unwrap();
                    let same = strips.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits() && a.is_finite());
                    assert!(same, "{width}x{height} {preset:?} {resize:?}");
                }
            }
        }
    }
}
