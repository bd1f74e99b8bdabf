//! Orientation of a picture: the tag, and the turning.

use super::image::RgbImage;

/// How a picture must be turned to stand upright: the Exif orientation, 1 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orientation(u8);

impl Orientation {
    pub const UPRIGHT: Self = Self(1);

    pub fn new(value: u16) -> Self {
        match value {
            1..=8 => Self(value as u8),
            _ => Self::UPRIGHT,
        }
    }

    /// Reads tag 0x0112 of an Exif block, given from its TIFF header on. Anything unreadable is
    /// taken as upright.
    pub fn from_exif(exif: &[u8]) -> Self {
        find(exif).map_or(Self::UPRIGHT, Self::new)
    }

    /// Whether width and height change places.
    pub fn swaps_sides(self) -> bool {
        self.0 >= 5
    }

    /// Writes `image`, turned upright, to `out`; false where there is nothing to do.
    pub fn apply(self, image: &RgbImage, out: &mut RgbImage) -> bool {
        if self == Self::UPRIGHT {
            return false;
        }
        let (w, h) = (image.width(), image.height());
        let (out_w, out_h) = if self.swaps_sides() { (h, w) } else { (w, h) };
        out.reset(out_w, out_h);
        let source = image.pixels();
        let rows = out.pixels_mut().chunks_exact_mut(out_w * 3);
        for (y, row) in rows.enumerate() {
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                let (sx, sy) = match self.0 {
                    2 => (w - 1 - x, y),
                    3 => (w - 1 - x, h - 1 - y),
                    4 => (x, h - 1 - y),
                    5 => (y, x),
                    6 => (y, h - 1 - x),
                    7 => (w - 1 - y, h - 1 - x),
                    _ => (w - 1 - y, x),
                };
                let at = (sy * w + sx) * 3;
                pixel.copy_from_slice(&source[at..at + 3]);
            }
        }
        true
    }
}

fn find(exif: &[u8]) -> Option<u16> {
    let little = match exif.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let u16_at = |at: usize| {
        let bytes: [u8; 2] = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let u32_at = |at: usize| {
        let (first, second) = (u32::from(u16_at(at)?), u32::from(u16_at(at + 2)?));
        Some(if little { second << 16 | first } else { first << 16 | second })
    };
    let directory = usize::try_from(u32_at(4)?).ok()?;
    let entries = usize::from(u16_at(directory)?);
    (0..entries)
        .map_while(|i| {
            let at = directory.checked_add(2 + i * 12)?;
            Some((at, u16_at(at)?))
        })
        .find(|&(_, tag)| tag == 0x0112)
        // Type 3 is a 16-bit number, kept in the entry itself.
        .filter(|&(at, _)| u16_at(at + 2) == Some(3))
        .and_then(|(at, _)| u16_at(at + 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_tag_in_both_byte_orders() {
        let little = b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0";
        let big = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0";
        assert_eq!(Orientation::from_exif(little), Orientation(6));
        assert_eq!(Orientation::from_exif(big), Orientation(6));
        for end in 0..little.len() - 3 {
            assert_eq!(Orientation::from_exif(&little[..end]), Orientation::UPRIGHT);
        }
        assert_eq!(Orientation::new(9), Orientation::UPRIGHT);
    }

    #[test]
    fn turns_a_two_pixel_picture() {
        let mut image = RgbImage::new();
        image.reset(2, 1);
        image.pixels_mut().copy_from_slice(&[1, 1, 1, 2, 2, 2]);
        let mut out = RgbImage::new();
        assert!(!Orientation::UPRIGHT.apply(&image, &mut out));
        for (value, width, first) in [(2, 2, 2), (3, 2, 2), (4, 2, 1), (5, 1, 1), (6, 1, 1), (7, 1, 2), (8, 1, 2)] {
            assert!(Orientation(value).apply(&image, &mut out));
            assert_eq!((out.width(), out.pixels()[0]), (width, first), "{value}");
        }
    }
}
