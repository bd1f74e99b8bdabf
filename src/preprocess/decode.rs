//! Encoded bytes to RGB8 pixels, for every format.
//!
//! The size is read from the header and checked before anything is decoded or allocated. Other
//! than JPEG, formats are decoded by the `image` crate, whose memory is limited and whose panics,
//! should a hostile file find one, are answered like any other corruption.

use super::error::ImageError;
use super::exif::Orientation;
use super::format::{self, Format};
use super::geometry::Resize;
use super::image::{self as pixels, RgbImage};
use super::jpeg;
use super::picture::Picture;
use super::spec::{Alpha, DecodeSpec, Exif, Gif, Reference};
use image::codecs::{bmp, gif, png, tiff, webp};
use image::{ColorType, ExtendedColorType, ImageDecoder, ImageError as CodecError, Limits};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bounds for the decoding of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most pixels (width times height) that a header may declare.
    pub max_pixels: u64,
    /// Most memory, in bytes, that its pixels may take in all forms that they have while it is decoded.
    pub max_bytes: u64,
}

impl Default for DecodeLimits {
    /// 50 megapixels, 640 MiB.
    fn default() -> Self {
        Self { max_pixels: 50_000_000, max_bytes: 640 << 20 }
    }
}

/// Format and size of a picture, from its header alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Format found in the first bytes.
    pub format: Format,
    /// Width in pixels, before any Exif rotation.
    pub width: u32,
    /// Height in pixels, before any Exif rotation.
    pub height: u32,
}

/// Tells format and size without decoding.
///
/// # Errors
/// As for [`Preprocessor::run`](super::Preprocessor::run), as far as the header shows it.
pub fn inspect(encoded: &[u8]) -> Result<ImageInfo, ImageError> {
    let format = format::sniff(encoded)?;
    let (width, height) = match format {
        Format::Jpeg => {
            let outline = jpeg::outline(encoded)?;
            (outline.width, outline.height)
        }
        _ => guarded(format, || {
            declared_size(format, encoded).map_or_else(|| Ok(open(format, encoded)?.dimensions()), Ok)
        })?,
    };
    Ok(ImageInfo { format, width, height })
}

/// Buffers that a thread keeps between pictures.
pub(super) struct Decoder {
    /// The last picture, or the last of its rows.
    image: RgbImage,
    turned: RgbImage,
    /// Samples as a codec yields them: CMYK, RGBA, 16 bits...
    samples: Vec<u8>,
}

impl Decoder {
    pub const fn new() -> Self {
        Self { image: RgbImage::new(), turned: RgbImage::new(), samples: Vec::new() }
    }

    /// Opens one picture as RGB8, which is to be resized so. A JPEG that need not be turned is decoded as its rows are
    /// read, any other here.
    pub fn open<'a>(
        &'a mut self,
        encoded: &'a [u8],
        spec: &DecodeSpec,
        resize: Resize,
        limits: &DecodeLimits,
    ) -> Result<Picture<'a>, ImageError> {
        let format = format::sniff(encoded)?;
        if format != Format::Jpeg {
            let orientation = guarded(format, || self.decode_other(format, encoded, spec, limits))?;
            let turned = is_turned(format, orientation, spec) && orientation.apply(&self.image, &mut self.turned);
            return Ok(Picture::whole(if turned { &self.turned } else { &self.image }));
        }
        let outline = jpeg::outline(encoded)?;
        check_pixels(outline.width, outline.height, limits)?;
        let orientation = outline.exif.map_or(Orientation::UPRIGHT, Orientation::from_exif);
        let turned = is_turned(format, orientation, spec);
        check_bytes(format, outline.pixels(), jpeg::bytes_per_pixel(&outline), turned, limits)?;
        if jpeg::is_provably_short(encoded, &outline) {
            return Err(ImageError::Truncated { format });
        }
        let stored = (outline.width as usize, outline.height as usize);
        let size = if turned && orientation.swaps_sides() { (stored.1, stored.0) } else { stored };
        let divisor = spec
            .jpeg_oversample
            .filter(|_| jpeg::EXACT)
            .map_or(1, |oversample| resize.divisor(size.0, size.1, oversample));
        let rows = guarded(format, || jpeg::Rows::begin(encoded, &outline, spec.jpeg_dct, divisor, spec.reference))?;
        let (columns, lines) = jpeg::divided(&outline, divisor);
        let Self { image, turned: upright, samples } = self;
        if !turned {
            return Ok(Picture::decoded(rows, stored, (columns, lines), image, samples));
        }
        let (image, _) = Picture::decoded(rows, stored, (columns, lines), image, samples).read()?;
        orientation.apply(image, upright);
        let mut picture = Picture::whole(upright);
        (picture.width, picture.height) = size;
        Ok(picture)
    }

    /// Gives back memory that only a very large picture needed.
    pub fn trim(&mut self) {
        self.image.trim();
        self.turned.trim();
        pixels::trim(&mut self.samples);
    }

    fn decode_other(
        &mut self,
        format: Format,
        encoded: &[u8],
        spec: &DecodeSpec,
        limits: &DecodeLimits,
    ) -> Result<Orientation, ImageError> {
        if let Some((width, height)) = declared_size(format, encoded) {
            check_pixels(width, height, limits)?;
        }
        let is_complete = match format {
            Format::Png => png_is_complete(encoded),
            Format::WebP => webp_is_complete(encoded),
            _ => true,
        };
        if !is_complete {
            return Err(ImageError::Truncated { format });
        }
        if format == Format::Gif && spec.gif == Gif::Refuse && gif_is_animated(encoded) {
            return Err(ImageError::Refused {
                detail: "animated GIFs are refused by this model (setting `gif = \"refuse\"`); \
                         send a single frame",
            });
        }
        let mut decoder = open(format, encoded)?;
        let (width, height) = decoder.dimensions();
        check_pixels(width, height, limits)?;
        if width == 0 || height == 0 {
            return Err(ImageError::Corrupt { format, detail: "its header declares no pixels" });
        }
        let (columns, rows) = (width as usize, height as usize);
        let color = decoder.color_type();
        let bytes = columns * rows * usize::from(color.bytes_per_pixel());
        if is_provably_short(format, encoded.len(), decoder.original_color_type(), columns as u64 * rows as u64) {
            return Err(ImageError::Truncated { format });
        }
        let orientation = match decoder.orientation() {
            Ok(orientation) => Orientation::new(orientation.to_exif().into()),
            Err(_) => Orientation::UPRIGHT,
        };
        // Eight bits a channel are decoded into their place, others by way of their samples.
        let samples = if color == ColorType::Rgb8 { 0 } else { u64::from(color.bytes_per_pixel()) };
        let turned = is_turned(format, orientation, spec);
        check_bytes(format, columns as u64 * rows as u64, RGB + samples, turned, limits)?;
        let mut memory = Limits::default();
        memory.max_alloc = Some(bytes as u64 * 3 + CODEC_MEMORY);
        decoder.set_limits(memory).map_err(|error| from_codec(format, &error))?;
        self.image.reset(columns, rows);
        if color == ColorType::Rgb8 {
            decoder.read_image(self.image.pixels_mut()).map_err(|error| from_codec(format, &error))?;
            return Ok(orientation);
        }
        let samples = pixels::grow(&mut self.samples, bytes);
        // Some codecs leave out what their data leaves out.
        samples.fill(0);
        decoder.read_image(samples).map_err(|error| from_codec(format, &error))?;
        to_rgb(color, samples, spec.alpha, self.image.pixels_mut())
            .ok_or(ImageError::Unsupported { kind: "a picture of this sample format" })?;
        Ok(orientation)
    }
}

/// What a codec may allocate besides the samples themselves, in bytes: tables, one row, metadata.
const CODEC_MEMORY: u64 = 64 << 20;

/// Bytes of a pixel of the picture that is decoded, and of the one that is turned.
const RGB: u64 = 3;

/// Whether a file is too short for its picture, whatever its data is: found before memory is asked for. Deflate makes
/// at most 1,032 bytes of one, GIF's codes at most 4,096 pixels of one byte.
fn is_provably_short(format: Format, length: usize, color: ExtendedColorType, pixels: u64) -> bool {
    let length = length as u64;
    match format {
        Format::Png => length.saturating_mul(1032 * 8) < pixels.saturating_mul(u64::from(color.bits_per_pixel())),
        Format::Gif => length.saturating_mul(4096) < pixels,
        _ => false,
    }
}

fn check_pixels(width: u32, height: u32, limits: &DecodeLimits) -> Result<(), ImageError> {
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    Ok(())
}

fn check_bytes(
    format: Format,
    pixels: u64,
    bytes_per_pixel: u64,
    turned: bool,
    limits: &DecodeLimits,
) -> Result<(), ImageError> {
    let bytes_per_pixel = bytes_per_pixel + if turned { RGB } else { 0 };
    let bytes = pixels.saturating_mul(bytes_per_pixel);
    if bytes > limits.max_bytes {
        return Err(ImageError::TooManyBytes { format, bytes, bytes_per_pixel, limit: limits.max_bytes });
    }
    Ok(())
}

/// Whether a picture is turned upright. Pillow does so while it loads a TIFF, whatever the caller asked for.
fn is_turned(format: Format, orientation: Orientation, spec: &DecodeSpec) -> bool {
    let wanted = spec.exif == Exif::Apply || (format == Format::Tiff && spec.reference == Reference::Pillow);
    wanted && orientation != Orientation::UPRIGHT
}

/// Runs a codec so that a panic inside it is an error of this one picture.
pub(super) fn guarded<T>(format: Format, run: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
    // Buffers that a panic leaves behind hold bytes of no meaning, as they do between pictures.
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or(Err(ImageError::Corrupt { format, detail: "its data cannot be decoded" }))
}

fn open<'a>(format: Format, encoded: &'a [u8]) -> Result<Box<dyn ImageDecoder + 'a>, ImageError> {
    let cursor = Cursor::new(encoded);
    let mut memory = Limits::default();
    memory.max_alloc = Some(CODEC_MEMORY);
    let decoder: Result<Box<dyn ImageDecoder + 'a>, CodecError> = match format {
        Format::Png => {
            // The decoder takes its limit here and keeps it; the samples are ours.
            png::PngDecoder::with_limits(cursor, memory).map(|d| Box::new(d) as _)
        }
        Format::Gif => gif::GifDecoder::new(cursor).map(|d| Box::new(d) as _),
        Format::WebP => webp::WebPDecoder::new(cursor).map(|d| Box::new(d) as _),
        Format::Bmp => bmp::BmpDecoder::new(cursor).map(|d| Box::new(d) as _),
        Format::Tiff => tiff::TiffDecoder::new(cursor).map(|d| Box::new(d) as _),
        Format::Jpeg => unreachable!("JPEG has a decoder of its own"),
    };
    decoder.map_err(|error| from_codec(format, &error))
}

fn from_codec(format: Format, error: &CodecError) -> ImageError {
    match error {
        CodecError::Unsupported(_) => ImageError::Unsupported {
            kind: match format {
                Format::Tiff => "a TIFF of this colour type (such as a palette, or grey with alpha) or compression",
                Format::Bmp => "a BMP of this kind",
                Format::WebP => "a WebP of this kind",
                Format::Png => "a PNG of this kind",
                _ => "a picture of this kind",
            },
        },
        CodecError::Limits(_) => {
            ImageError::TooCostly { format, detail: "decoding it would take far more memory than its pixels" }
        }
        error if is_truncation(error) => ImageError::Truncated { format },
        _ => ImageError::Corrupt { format, detail: "its data cannot be decoded" },
    }
}

/// Whether the end of the data is at the bottom of `error`.
fn is_truncation(error: &CodecError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::UnexpectedEof;
        }
        if let Some(CodecError::IoError(io)) = error.downcast_ref::<CodecError>() {
            return io.kind() == std::io::ErrorKind::UnexpectedEof;
        }
        cause = error.source();
    }
    false
}

/// The size at its fixed place in the header, where the format has one.
fn declared_size(format: Format, bytes: &[u8]) -> Option<(u32, u32)> {
    let u16_le = |at: usize| Some(u32::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let u32_be = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    match format {
        Format::Png if bytes.get(12..16)? == b"IHDR" => Some((u32_be(16)?, u32_be(20)?)),
        Format::Gif => Some((u16_le(6)?, u16_le(8)?)),
        _ => None,
    }
}

/// Whether the chunks run up to the end chunk. A decoder that has all its rows would not notice.
fn png_is_complete(bytes: &[u8]) -> bool {
    let mut at = 8_usize;
    while let Some(header) = bytes.get(at..at.saturating_add(8)) {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let Some(next) = at.checked_add(length as usize + 12) else {
            return false;
        };
        if next > bytes.len() {
            return false;
        }
        if &header[4..] == b"IEND" {
            return true;
        }
        at = next;
    }
    false
}

/// Whether there are as many bytes as the head of the file promises. Lossless data that is cut is often decoded all the same.
fn webp_is_complete(bytes: &[u8]) -> bool {
    let declared = bytes.get(4..8).and_then(|length| length.try_into().ok()).map_or(0, u32::from_le_bytes);
    bytes.len() as u64 >= u64::from(declared) + 8
}

/// Whether a second frame follows the first. Only the blocks are walked, nothing is decompressed.
fn gif_is_animated(bytes: &[u8]) -> bool {
    let color_table = |packed: u8| {
        if packed & 0x80 != 0 { 3 << ((packed & 7) + 1) } else { 0 }
    };
    let Some(&packed) = bytes.get(10) else {
        return false;
    };
    let mut at = 13 + color_table(packed);
    let mut frames = 0;
    loop {
        match bytes.get(at) {
            Some(0x21) => at += 2,
            Some(0x2c) => {
                frames += 1;
                let Some(&packed) = bytes.get(at + 9) else {
                    return false;
                };
                if frames == 2 {
                    return true;
                }
                at += 11 + color_table(packed);
            }
            _ => return false,
        }
        // Sub-blocks, each after its length, up to one of length zero.
        loop {
            match bytes.get(at) {
                Some(0) => break,
                Some(&length) => at += usize::from(length) + 1,
                None => return false,
            }
        }
        at += 1;
    }
}

/// Converts samples of `color` to RGB8; `None` where that is not known.
fn to_rgb(color: ColorType, samples: &[u8], alpha: Alpha, rgb: &mut [u8]) -> Option<()> {
    let white = alpha == Alpha::White;
    match color {
        ColorType::L8 => each::<1>(samples, rgb, |[l]| [l, l, l]),
        ColorType::La8 => each::<2>(samples, rgb, |[l, a]| flatten([l, l, l], a, white)),
        ColorType::Rgba8 => each::<4>(samples, rgb, |[r, g, b, a]| flatten([r, g, b], a, white)),
        // Sixteen bits keep their upper byte.
        ColorType::L16 => each::<2>(samples, rgb, |s| [high(s, 0); 3]),
        ColorType::La16 => {
            each::<4>(samples, rgb, |s| flatten([high(s, 0); 3], high(s, 1), white));
        }
        ColorType::Rgb16 => each::<6>(samples, rgb, |s| [high(s, 0), high(s, 1), high(s, 2)]),
        ColorType::Rgba16 => {
            each::<8>(samples, rgb, |s| flatten([high(s, 0), high(s, 1), high(s, 2)], high(s, 3), white))
        }
        _ => return None,
    }
    Some(())
}

fn each<const N: usize>(samples: &[u8], rgb: &mut [u8], convert: impl Fn([u8; N]) -> [u8; 3]) {
    let (samples, _) = samples.as_chunks::<N>();
    let (rgb, _) = rgb.as_chunks_mut::<3>();
    for (sample, rgb) in samples.iter().zip(rgb) {
        *rgb = convert(*sample);
    }
}

/// Upper byte of the 16-bit sample number `i`, which is in the machine's byte order.
fn high<const N: usize>(samples: [u8; N], i: usize) -> u8 {
    (u16::from_ne_bytes([samples[2 * i], samples[2 * i + 1]]) >> 8) as u8
}

/// Drops alpha, or lays the pixel over white as Pillow's `alpha_composite` does, to the bit.
fn flatten(rgb: [u8; 3], alpha: u8, white: bool) -> [u8; 3] {
    if !white || alpha == 255 {
        return rgb;
    }
    if alpha == 0 {
        return [255; 3];
    }
    // Seven bits beyond the sample; the background is opaque, so the result is as well.
    let source = u32::from(alpha) * 128;
    let background = 255 * 128 - source;
    rgb.map(|v| {
        let v = u32::from(v) * source + 255 * background + (128 << 7);
        ((((v >> 8) + v) >> 8) >> 7) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_keep_the_upper_byte() {
        let samples: Vec<u8> = [0x12ff_u16, 0xff80, 0x0080].iter().flat_map(|v| v.to_ne_bytes()).collect();
        let mut rgb = [0; 3];
        to_rgb(ColorType::Rgb16, &samples, Alpha::Drop, &mut rgb).unwrap();
        assert_eq!(rgb, [0x12, 0xff, 0]);
    }

    #[test]
    fn alpha_is_dropped_or_laid_over_white() {
        assert_eq!(flatten([10, 20, 30], 0, false), [10, 20, 30]);
        assert_eq!(flatten([10, 20, 30], 0, true), [255; 3]);
        assert_eq!(flatten([0, 100, 255], 128, true), [127, 177, 255]);
        assert_eq!(flatten([10, 20, 30], 255, true), [10, 20, 30]);
    }

    #[test]
    fn a_png_without_its_last_chunk_is_incomplete() {
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\0IDAT\0\0\0\0\0\0\0\0IEND\0\0\0\0".to_vec();
        assert!(png_is_complete(&file));
        file.pop();
        assert!(!png_is_complete(&file));
    }
}
