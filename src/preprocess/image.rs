//! RGB8 pixels in a buffer that is used again and again.

/// Readable bytes behind the last pixel, so that vector loads may run over the end.
pub(super) const PADDING: usize = 32;

/// A thread does not keep more than this between pictures, in bytes (about 5 megapixels).
const KEEP: usize = 16 << 20;

/// Where the first row begins, in bytes behind a multiple of [`VECTOR`]; of most pictures the others then do too.
/// libjpeg-turbo writes a row that begins at a multiple of its vectors (32 bytes with AVX2, else 16) past the caches, into
/// memory, from where it would have to be read again: 0.1 ms for a picture of 640x480.
const OFFSET: usize = 8;
const VECTOR: usize = 32;

/// RGB8 pixels, rows from the top without padding between them.
#[derive(Debug, Default)]
pub(super) struct RgbImage {
    width: usize,
    height: usize,
    /// From `start` on at least `width * height * 3 + PADDING` bytes; more after a larger picture.
    data: Vec<u8>,
    start: usize,
}

impl RgbImage {
    pub const fn new() -> Self {
        Self { width: 0, height: 0, data: Vec::new(), start: 0 }
    }

    /// Sets the size; the pixels are whatever was there before.
    pub fn reset(&mut self, width: usize, height: usize) {
        let length = width * height * 3 + PADDING + VECTOR;
        let data = grow(&mut self.data, length);
        // Only speed depends on the address.
        self.start = (OFFSET + VECTOR - data.as_ptr().addr() % VECTOR) % VECTOR;
        (self.width, self.height) = (width, height);
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    pub fn pixels(&self) -> &[u8] {
        &self.data[self.start..][..self.width * self.height * 3]
    }

    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..][..self.width * self.height * 3]
    }

    /// The pixels and [`PADDING`] bytes of no meaning.
    pub fn padded(&self) -> &[u8] {
        &self.data[self.start..][..self.width * self.height * 3 + PADDING]
    }

    /// The pixels and [`PADDING`] bytes of no meaning.
    pub fn padded_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..][..self.width * self.height * 3 + PADDING]
    }

    /// Gives back memory that only a very large picture needed.
    pub fn trim(&mut self) {
        trim(&mut self.data);
        if self.data.is_empty() {
            (self.width, self.height, self.start) = (0, 0, 0);
        }
    }
}

/// The first `length` bytes of `buffer`, which grows where needed and never shrinks.
pub(super) fn grow<T: Copy + Default>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    if buffer.len() < length {
        // Growing in place would copy the old bytes, which nobody reads.
        buffer.clear();
        buffer.reserve_exact(length);
        buffer.resize(length, T::default());
    }
    &mut buffer[..length]
}

/// Drops the buffer if it is larger than a thread should keep.
pub(super) fn trim<T>(buffer: &mut Vec<T>) {
    if buffer.capacity() * size_of::<T>() > KEEP {
        *buffer = Vec::new();
    }
}

/// `round(v / 255)` for v up to 65,535, as Pillow's `MULDIV255` computes it.
pub(super) fn div_255(v: u32) -> u32 {
    let v = v + 128;
    ((v >> 8) + v) >> 8
}

/// Pixels that look like noise, the same in every run.
#[cfg(test)]
pub(super) fn noise(width: usize, height: usize) -> RgbImage {
    let mut image = RgbImage::new();
    image.reset(width, height);
    let mut state = 0x9e37_79b9_u32;
    for pixel in image.pixels_mut() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        // Extremes as well, so that sums reach the ends of their range.
        *pixel = match state >> 30 {
            0 => 0,
            1 => 255,
            _ => state as u8,
        };
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn div_255_rounds() {
        for v in 0..=255 * 255_u32 {
            assert_eq!(div_255(v), (f64::from(v) / 255.0).round() as u32, "{v}");
        }
    }

    #[test]
    fn large_buffers_are_given_back() {
        let mut image = RgbImage::new();
        image.reset(4000, 4000);
        image.trim();
        assert_eq!((image.data.capacity(), image.pixels().len()), (0, 0));
        image.reset(10, 10);
        image.trim();
        assert_eq!(image.pixels().len(), 300);
    }
}
