//! The pure Rust decoder, for builds without a C compiler. Not exact: it differs from the
//! references by a few levels per pixel.

use super::super::error::ImageError;
use super::super::spec::JpegDct;
use super::markers::Outline;
use super::{corrupt, ends_early, truncated};
use image::ImageDecoder as _;
use image::codecs::jpeg::JpegDecoder;
use std::io::Cursor;

/// Nothing is kept between pictures.
pub(crate) struct Decoder;

impl Decoder {
    pub const fn new() -> Self {
        Self
    }

    /// Decodes to `channels` bytes a pixel: 3 (RGB) or 4 (CMYK as stored).
    ///
    /// There is one inverse DCT, so `_dct` has no effect. `_divisor` is 1, as whoever asks looks at [`super::EXACT`].
    pub fn decode(
        &mut self,
        bytes: &[u8],
        outline: &Outline<'_>,
        _dct: JpegDct,
        _divisor: usize,
        channels: usize,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        // The decoder fills missing data with grey and says nothing.
        if ends_early(bytes, outline) {
            return Err(truncated());
        }
        let failed = |_| corrupt("its data cannot be decoded");
        let decoder = JpegDecoder::new(Cursor::new(bytes)).map_err(failed)?;
        if decoder.dimensions() != (outline.width, outline.height) {
            return Err(corrupt("its headers cannot be read"));
        }
        let color = decoder.color_type();
        if channels == 4 {
            // It converts CMYK to RGB by itself. Inverted, without black, either formula gives
            // the same colours back.
            let mut rgb = vec![0; out.len() / 4 * 3];
            if decoder.total_bytes() != rgb.len() as u64 {
                return Err(corrupt("its colour components are of an unknown kind"));
            }
            decoder.read_image(&mut rgb).map_err(failed)?;
            for (cmyk, rgb) in out.chunks_exact_mut(4).zip(rgb.chunks_exact(3)) {
                cmyk[..3].copy_from_slice(rgb);
                cmyk[3] = 255;
            }
            return Ok(());
        }
        match color {
            image::ColorType::Rgb8 => decoder.read_image(out).map_err(failed),
            image::ColorType::L8 => {
                let pixels = out.len() / 3;
                decoder.read_image(&mut out[..pixels]).map_err(failed)?;
                super::super::image::spread_grey(out, pixels);
                Ok(())
            }
            _ => Err(corrupt("its colour components are of an unknown kind")),
        }
    }
}
