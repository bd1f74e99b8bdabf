//! A walk over the markers of a JPEG file (ITU-T T.81, annex B), without decoding anything.

use super::super::error::ImageError;
use super::{corrupt, truncated};

/// What the headers up to the first scan say.
#[derive(Debug, Clone)]
pub(crate) struct Outline<'a> {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Number of colour components: 1, 3 or 4 in pictures that can be decoded.
    pub components: u8,
    /// Bits per sample.
    pub precision: u8,
    /// Code of the start-of-frame marker: 0xC0 baseline, 0xC2 progressive...
    pub process: u8,
    /// Whether an Adobe marker is present, which says that CMYK is stored inverted.
    pub adobe: bool,
    /// The Exif block, from its TIFF header on.
    pub exif: Option<&'a [u8]>,
    /// Whether more than one scan is needed for the picture.
    pub multiple_scans: bool,
    /// Offset of the first start-of-scan marker.
    pub first_scan: usize,
}

impl Outline<'_> {
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// Whether the file is too short for what its header declares, whatever its data is: each block of 8x8 samples takes
/// at least one Huffman code for its DC coefficient and, in a single sequential scan, one more for the rest of it. A
/// picture in several scans may have as few blocks as its smallest component in the first of them, a sixteenth.
pub(crate) fn is_provably_short(bytes: &[u8], outline: &Outline<'_>) -> bool {
    let blocks = u64::from(outline.width.div_ceil(8)) * u64::from(outline.height.div_ceil(8));
    let bits = match outline.process {
        0xc0 | 0xc1 if !outline.multiple_scans => 2 * blocks,
        0xc0..=0xc2 => blocks / 16,
        // Arithmetic coding may spend less than a bit on a block.
        _ => 0,
    };
    (bytes.len() as u64) < bits / 8
}

/// The scans of a file, as far as its markers tell: a decoder may find others in damaged data.
#[cfg(any(test, not(feature = "exact-jpeg")))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scans {
    /// Number of start-of-scan markers.
    pub count: u64,
    /// Whether an end-of-image marker follows the last one.
    pub complete: bool,
}

/// Reads the headers up to the first scan.
pub(crate) fn outline(bytes: &[u8]) -> Result<Outline<'_>, ImageError> {
    let mut outline = Outline {
        width: 0,
        height: 0,
        components: 0,
        precision: 0,
        process: 0,
        adobe: false,
        exif: None,
        multiple_scans: false,
        first_scan: 0,
    };
    let mut at = 2;
    loop {
        let (marker, start) = next_marker(bytes, at).ok_or_else(truncated)?;
        match marker {
            // Without a length, or none at all: a stuffed zero byte where no data is.
            0x00 | 0x01 | 0xd0..=0xd8 => {
                at = start;
                continue;
            }
            0xd9 => return Err(corrupt("it ends before its first scan")),
            _ => {}
        }
        let segment = segment(bytes, start).ok_or_else(truncated)?;
        match marker {
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                if outline.components != 0 {
                    return Err(corrupt("it has two frame headers"));
                }
                let [precision, h1, h0, w1, w0, components, ..] = *segment else {
                    return Err(corrupt("its frame header is too short"));
                };
                outline.process = marker;
                outline.precision = precision;
                outline.height = u32::from(u16::from_be_bytes([h1, h0]));
                outline.width = u32::from(u16::from_be_bytes([w1, w0]));
                outline.components = components;
                if !matches!(components, 1 | 3 | 4) {
                    return Err(corrupt("it has an impossible number of colour components"));
                }
            }
            0xda => {
                if outline.components == 0 {
                    return Err(corrupt("its first scan comes before its frame header"));
                }
                outline.multiple_scans = outline.process == 0xc2 || segment.first() != Some(&outline.components);
                outline.first_scan = start - 2;
                return Ok(outline);
            }
            0xe1 if outline.exif.is_none() => {
                outline.exif = segment.strip_prefix(b"Exif\0\0");
            }
            0xee => outline.adobe |= segment.len() >= 12 && segment.starts_with(b"Adobe"),
            _ => {}
        }
        at = start + 2 + segment.len();
    }
}

/// Counts the scans from the marker at offset `at` on.
#[cfg(any(test, not(feature = "exact-jpeg")))]
pub(crate) fn scans(bytes: &[u8], mut at: usize) -> Scans {
    let mut scans = Scans { count: 0, complete: false };
    while let Some((marker, start)) = next_marker(bytes, at) {
        at = match marker {
            0xd9 => {
                scans.complete = true;
                break;
            }
            // Stuffed zero bytes and restart markers belong to the entropy-coded data.
            0x00 | 0x01 | 0xd0..=0xd8 => start,
            _ => {
                scans.count += u64::from(marker == 0xda);
                match segment(bytes, start) {
                    Some(segment) => start + 2 + segment.len(),
                    None => break,
                }
            }
        };
    }
    scans
}

/// Code of the next marker at or after `at`, and the offset behind it. Bytes between segments and
/// fill bytes (0xFF) are skipped, as decoders do.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    at += bytes.get(at..)?.iter().position(|&b| b == 0xff)?;
    let code = bytes.get(at..)?.iter().position(|&b| b != 0xff)? + at;
    Some((bytes[code], code + 1))
}

/// Payload of the segment whose length field is at `start`; `None` where it runs off the end.
fn segment(bytes: &[u8], start: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(start)?, *bytes.get(start + 1)?]));
    bytes.get(start + 2..start + length.max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SOI, a frame of 3 components, one scan of `scan_components`, data with a stuffed byte.
    fn file(process: u8, scan_components: u8, end: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, process, 0, 8, 8, 0, 20, 0, 30, 3];
        bytes.extend([0xff, 0xda, 0, 3, scan_components, 1, 2, 0xff, 0, 3, 0xff, 0xd0, 4]);
        bytes.extend(end);
        bytes
    }

    #[test]
    fn reads_the_frame_and_counts_scans() {
        let bytes = file(0xc2, 3, &[0xff, 0xda, 0, 3, 1, 9, 0xff, 0xd9]);
        let outline = outline(&bytes).unwrap();
        assert_eq!((outline.width, outline.height, outline.components), (30, 20, 3));
        assert!(outline.multiple_scans);
        let expected = Scans { count: 2, complete: true };
        assert_eq!(scans(&bytes, outline.first_scan), expected);
    }

    #[test]
    fn sees_a_missing_end_marker_and_partial_scans() {
        let bytes = file(0xc0, 3, &[]);
        let first = outline(&bytes).unwrap();
        assert!(!first.multiple_scans);
        assert!(!scans(&bytes, first.first_scan).complete);
        assert!(outline(&file(0xc0, 1, &[])).unwrap().multiple_scans);
    }

    #[test]
    fn a_cut_header_is_truncated() {
        let bytes = file(0xc0, 3, &[]);
        for end in 2..14 {
            assert_eq!(outline(&bytes[..end]).unwrap_err(), truncated(), "{end}");
        }
    }
}
