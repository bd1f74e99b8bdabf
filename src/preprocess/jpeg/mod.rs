//! JPEG to RGB8, row by row, with the checks that both references make and the decoder does not.
//!
//! Truncated data is refused even when only the end marker is missing; damage inside the scan is
//! decoded as it is, as Pillow and TensorFlow do.

pub(super) mod markers;

#[cfg(feature = "exact-jpeg")]
mod turbo;
#[cfg(feature = "exact-jpeg")]
use turbo as backend;

#[cfg(not(feature = "exact-jpeg"))]
mod fallback;
#[cfg(not(feature = "exact-jpeg"))]
use fallback as backend;

use super::error::ImageError;
use super::format::Format;
use super::image;
use super::spec::{JpegDct, Reference};
use markers::Outline;
pub(super) use markers::is_provably_short;

/// Whether this build decodes JPEG bit for bit as the references do (feature `exact-jpeg`).
pub const EXACT: bool = cfg!(feature = "exact-jpeg");

/// A progressive picture costs its size once per scan. Files in the wild have about ten scans.
const FREE_SCANS: u64 = 32;
/// Beyond [`FREE_SCANS`], the scans of a picture may cost this many pixels in all.
const SCAN_BUDGET_PIXELS: u64 = 100_000_000;
/// No file needs more; libjpeg-turbo's own limit is the same.
const MAX_SCANS: u64 = 500;
/// No decoder of the references takes more, in pixels.
const MAX_SIDE: u32 = 65_500;

/// Reads the size from the frame header.
pub(super) fn outline(bytes: &[u8]) -> Result<Outline<'_>, ImageError> {
    let outline = markers::outline(bytes)?;
    if outline.precision != 8 {
        return Err(ImageError::Unsupported { kind: "a JPEG of more than 8 bits per sample" });
    }
    match outline.process {
        0xc0..=0xc2 => {}
        0xc9..=0xcb => {
            return Err(ImageError::Unsupported { kind: "an arithmetic-coded JPEG" });
        }
        _ => {
            return Err(ImageError::Unsupported { kind: "a lossless or hierarchical JPEG" });
        }
    }
    if outline.width == 0 || outline.height == 0 {
        return Err(corrupt("its header declares no pixels"));
    }
    if outline.width.max(outline.height) > MAX_SIDE {
        return Err(ImageError::Unsupported { kind: "a JPEG with a side of more than 65,500 pixels" });
    }
    Ok(outline)
}

/// Width and height of the picture that `outline` describes, divided and rounded up.
pub(super) fn divided(outline: &Outline<'_>, divisor: usize) -> (usize, usize) {
    ((outline.width as usize).div_ceil(divisor), (outline.height as usize).div_ceil(divisor))
}

/// The most memory that decoding takes for each pixel, in bytes: its colours, where they are wanted all at once, and
/// where it comes in several scans its coefficients of 16 bits.
pub(super) fn bytes_per_pixel(outline: &Outline<'_>) -> u64 {
    let coefficients = if outline.multiple_scans { 2 * u64::from(outline.components) } else { 0 };
    3 + backend::SAMPLES + coefficients
}

/// How many scans a picture may have. Only decoding it shows how many it has: damaged data may hide some.
fn scans_allowed(outline: &Outline<'_>) -> u64 {
    // Headers without pixels have been refused.
    (SCAN_BUDGET_PIXELS / outline.pixels()).clamp(FREE_SCANS, MAX_SCANS)
}

/// Rows of a picture with four components that are converted at once, so that they need not all be there twice.
const CMYK_ROWS: usize = 16;

/// The rows of a picture, decoded as they are read, from the top.
pub(super) struct Rows<'a> {
    rows: backend::Rows<'a>,
    /// Number of columns.
    width: usize,
    /// Of pictures with four components: whose formula, and whether ink is stored inverted.
    cmyk: Option<(Reference, bool)>,
}

impl<'a> Rows<'a> {
    /// Begins to decode the picture that `outline` describes, at its size divided by 1, 2, 4 or 8, which costs a good
    /// deal less than the whole.
    pub fn begin(
        bytes: &'a [u8],
        outline: &Outline<'a>,
        dct: JpegDct,
        divisor: usize,
        reference: Reference,
    ) -> Result<Self, ImageError> {
        let inverted = !EXACT || reference == Reference::Pillow || outline.adobe;
        let cmyk = (outline.components == 4).then_some((reference, inverted));
        let channels = if cmyk.is_some() { 4 } else { 3 };
        let (width, _) = divided(outline, divisor);
        Ok(Self { rows: backend::Rows::begin(bytes, outline, dct, divisor, channels)?, width, cmyk })
    }

    /// Decodes the next rows, as many as `rgb` holds. `work` is scratch for four-component pictures.
    ///
    /// With the last row, what follows it is checked: until then, a picture that is cut is not known to be.
    ///
    /// # Panics
    /// If `rgb` isn't a whole number of rows, or they are more than are left.
    pub fn read(&mut self, work: &mut Vec<u8>, rgb: &mut [u8]) -> Result<(), ImageError> {
        let Some((reference, inverted)) = self.cmyk else {
            return self.rows.read(rgb);
        };
        for rgb in rgb.chunks_mut(CMYK_ROWS * self.width * 3) {
            let stored = image::grow(work, rgb.len() / 3 * 4);
            self.rows.read(stored)?;
            cmyk_to_rgb(stored, rgb, reference, inverted);
        }
        Ok(())
    }
}

fn corrupt(detail: &'static str) -> ImageError {
    ImageError::Corrupt { format: Format::Jpeg, detail }
}

fn too_many_scans() -> ImageError {
    ImageError::TooCostly { format: Format::Jpeg, detail: "it has far too many scans for its size" }
}

fn truncated() -> ImageError {
    ImageError::Truncated { format: Format::Jpeg }
}

/// `stored` holds C, M, Y, K as in the file, so 255 minus the ink where it is inverted: Pillow takes
/// every file as inverted, TensorFlow those with an Adobe marker. They round differently as well.
fn cmyk_to_rgb(stored: &[u8], rgb: &mut [u8], reference: Reference, inverted: bool) {
    let flip = if inverted { 0 } else { 255 };
    for (cmyk, rgb) in stored.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        let white = u32::from(cmyk[3] ^ flip);
        for (ink, out) in cmyk.iter().zip(rgb) {
            let paper = u32::from(ink ^ flip);
            *out = match reference {
                Reference::TensorFlow => (paper * white / 255) as u8,
                Reference::Pillow => white.saturating_sub(image::div_255((255 - paper) * white)) as u8,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_cmyk_formulas_differ_by_rounding_only() {
        let stored = [200, 100, 50, 128];
        let (mut pillow, mut tensorflow, mut plain) = ([0; 3], [0; 3], [0; 3]);
        cmyk_to_rgb(&stored, &mut pillow, Reference::Pillow, true);
        cmyk_to_rgb(&stored, &mut tensorflow, Reference::TensorFlow, true);
        cmyk_to_rgb(&stored, &mut plain, Reference::TensorFlow, false);
        assert_eq!(pillow, [100, 50, 25]);
        assert_eq!(tensorflow, [100, 50, 25]);
        assert_eq!(plain, [27, 77, 102]);
    }
}
