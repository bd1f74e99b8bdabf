//! The pure Rust decoder, for builds without a C compiler. Not exact: it differs from the
//! references by a few levels per pixel.

use super::super::error::ImageError;
use super::super::spec::JpegDct;
use super::markers::Outline;
use super::{corrupt, markers, scans_allowed, too_many_scans, truncated};
use image::codecs::jpeg::JpegDecoder;
use image::{ColorType, ImageDecoder as _};
use std::io::Cursor;
use std::marker::PhantomData;

/// Memory for each pixel, in bytes, besides what is asked for: the whole picture, twice while its colours are converted.
pub(super) const SAMPLES: u64 = 7;

/// The rows of a picture, all decoded at once and given out one after the other.
pub(crate) struct Rows<'a> {
    pixels: Vec<u8>,
    given: usize,
    _borrowed: PhantomData<&'a [u8]>,
}

impl<'a> Rows<'a> {
    /// Decodes to `channels` bytes a pixel: 3 (RGB) or 4 (CMYK as stored).
    ///
    /// There is one inverse DCT, so `_dct` has no effect. `_divisor` is 1, as whoever asks looks at [`super::EXACT`].
    pub fn begin(
        bytes: &'a [u8],
        outline: &Outline<'a>,
        _dct: JpegDct,
        _divisor: usize,
        channels: usize,
    ) -> Result<Self, ImageError> {
        let scans = markers::scans(bytes, outline.first_scan);
        if scans.count > scans_allowed(outline) {
            return Err(too_many_scans());
        }
        // The decoder fills missing data with grey and says nothing.
        if !scans.complete {
            return Err(truncated());
        }
        let failed = |_| corrupt("its data cannot be decoded");
        let unknown = || corrupt("its colour components are of an unknown kind");
        let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(failed)?;
        if decoder.dimensions() != (outline.width, outline.height) {
            return Err(corrupt("its headers cannot be read"));
        }
        let color = decoder.color_type();
        let count = outline.width as usize * outline.height as usize;
        let mut samples = vec![0; count * usize::from(color.bytes_per_pixel())];
        if decoder.total_bytes() != samples.len() as u64 {
            return Err(unknown());
        }
        decoder.read_image(&mut samples).map_err(failed)?;
        let pixels = match (color, channels) {
            (ColorType::Rgb8, 3) => samples,
            (ColorType::L8, 3) => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
            // It converts CMYK to RGB by itself. Inverted, without black, either formula gives the same colours back.
            (ColorType::Rgb8, 4) => samples.as_chunks::<3>().0.iter().flat_map(|&[r, g, b]| [r, g, b, 255]).collect(),
            _ => return Err(unknown()),
        };
        Ok(Self { pixels, given: 0, _borrowed: PhantomData })
    }

    /// Gives the next rows, as many as `out` holds.
    ///
    /// # Panics
    /// If `out` holds more than are left.
    pub fn read(&mut self, out: &mut [u8]) -> Result<(), ImageError> {
        out.copy_from_slice(&self.pixels[self.given..][..out.len()]);
        self.given += out.len();
        Ok(())
    }
}
