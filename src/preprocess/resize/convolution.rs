//! Separable convolution of 8-bit RGB in fixed point, with 8 bits between the passes.

use super::super::error::ImageError;
use super::super::geometry::Plan;
use super::super::image::RgbImage;
use super::super::picture::Picture;
#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::taps::{Axis, Filter, Rounding, Taps};
use std::ops::Range;
use std::time::Duration;

/// Weights and the picture between the passes, kept by each thread.
pub(crate) struct Workspace {
    columns: Taps,
    rows: Taps,
    between: RgbImage,
}

impl Workspace {
    pub const fn new() -> Self {
        Self { columns: Taps::new(), rows: Taps::new(), between: RgbImage::new() }
    }

    /// Gives back memory that only a very large picture needed.
    pub fn trim(&mut self) {
        self.between.trim();
    }
}

/// The window of the resized picture, into `out`; `plan` is for a picture of this size. Returns how long decoding took.
///
/// # Errors
/// If the picture can't be decoded.
pub(crate) fn resize(
    picture: Picture<'_>,
    plan: &Plan,
    filter: Filter,
    rounding: Rounding,
    antialias: bool,
    work: &mut Workspace,
    out: &mut RgbImage,
) -> Result<Duration, ImageError> {
    let axis = |input, output, first, count| Axis { input, output, first, count, filter, rounding, antialias };
    let (width, height) = (picture.columns, picture.rows);
    let window = plan.window;
    let Workspace { columns, rows, between } = work;
    // A pass that keeps its size is skipped, which the windows below do by themselves.
    let (horizontally, vertically) = (width != plan.resized.0, height != plan.resized.1);
    if horizontally {
        columns.prepare(axis(width, plan.resized.0, window.left, window.width));
    }
    if vertically {
        rows.prepare(axis(height, plan.resized.1, window.top, window.height));
    }
    let vertical_first = rounding == Rounding::Pillow && vertical_first((width, height), plan.resized);
    if horizontally && !vertical_first {
        // The picture is needed from top to bottom, so it need never be there as a whole.
        if !vertically {
            return horizontal_as_decoded(picture, columns, window.top..window.top + window.height, out);
        }
        let decoding = horizontal_as_decoded(picture, columns, rows.needed(), between)?;
        out.reset(window.width, window.height);
        pass_vertical(between, rows, 0, rows.needed().start, out);
        return Ok(decoding);
    }
    let (image, decoding) = picture.read()?;
    match (horizontally, vertically) {
        (true, _) => {
            let needed = columns.needed();
            between.reset(needed.len(), window.height);
            pass_vertical(image, rows, needed.start, 0, between);
            out.reset(window.width, window.height);
            pass_horizontal(between, columns, 0..window.height, needed.start, out, 0);
        }
        (false, true) => {
            out.reset(window.width, window.height);
            pass_vertical(image, rows, window.left, 0, out);
        }
        (false, false) => copy(image, window.left, window.top, window.width, window.height, out),
    }
    Ok(decoding)
}

/// Resamples the `needed` rows while they are decoded.
fn horizontal_as_decoded(
    picture: Picture<'_>,
    columns: &Taps,
    needed: Range<usize>,
    out: &mut RgbImage,
) -> Result<Duration, ImageError> {
    out.reset(columns.len(), needed.len());
    picture.strips(0, |strip| {
        let there = strip.first.max(needed.start)..(strip.first + strip.image.height()).min(needed.end);
        if !there.is_empty() {
            let rows = there.start - strip.first..there.end - strip.first;
            pass_horizontal(strip.image, columns, rows, 0, out, there.start - needed.start);
        }
    })
}

/// Pillow 13's order of the passes; before, and in torchvision, the horizontal one came first.
fn vertical_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let shrink = |from: usize, to: usize| from as i64 - to as i64;
    let rows = shrink(from.1, to.1);
    rows > 0 && rows > 2 * shrink(from.0, to.0)
}

/// Copies a rectangle.
pub(crate) fn copy(image: &RgbImage, left: usize, top: usize, width: usize, height: usize, out: &mut RgbImage) {
    out.reset(width, height);
    let rows = image.pixels().chunks_exact(image.width() * 3).skip(top);
    for (row, out) in rows.zip(out.pixels_mut().chunks_exact_mut(width * 3)) {
        out.copy_from_slice(&row[left * 3..(left + width) * 3]);
    }
}

/// Resamples these rows of `image` to those of `out` from number `first` on. Weights count columns from `origin` on.
#[cfg_attr(target_arch = "x86_64", allow(unsafe_code))]
fn pass_horizontal(image: &RgbImage, taps: &Taps, rows: Range<usize>, origin: usize, out: &mut RgbImage, first: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::horizontal(image, taps, rows, origin, out, first) };
    }
    plain::horizontal(image, taps, rows, origin, out, first);
}

/// Resamples the columns of `image` from number `left` on, as many as `out` has. Weights count
/// rows from `origin` on.
#[cfg_attr(target_arch = "x86_64", allow(unsafe_code))]
fn pass_vertical(image: &RgbImage, taps: &Taps, left: usize, origin: usize, out: &mut RgbImage) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::vertical(image, taps, left, origin, out) };
    }
    plain::vertical(image, taps, left, origin, out);
}

/// The passes in plain Rust: the definition that the vector forms are tested against.
mod plain {
    use super::{Range, RgbImage, Taps};

    pub fn horizontal(
        image: &RgbImage,
        taps: &Taps,
        rows: Range<usize>,
        origin: usize,
        out: &mut RgbImage,
        first: usize,
    ) {
        let (stride, width) = (image.width() * 3, out.width());
        let half = 1 << (taps.precision() - 1);
        let from = image.pixels().chunks_exact(stride).skip(rows.start).take(rows.len());
        for (row, out) in from.zip(out.pixels_mut().chunks_exact_mut(width * 3).skip(first)) {
            for (x, pixel) in out.chunks_exact_mut(3).enumerate() {
                let (first, weights) = taps.of(x);
                let first = (first - origin) * 3;
                let (pixels, _) = row[first..first + weights.len() * 3].as_chunks::<3>();
                let mut sum = [half; 3];
                for (source, &weight) in pixels.iter().zip(weights) {
                    for (sum, &source) in sum.iter_mut().zip(source) {
                        *sum += i32::from(source) * weight;
                    }
                }
                for (pixel, sum) in pixel.iter_mut().zip(sum) {
                    *pixel = (sum >> taps.precision()).clamp(0, 255) as u8;
                }
            }
        }
    }

    pub fn vertical(image: &RgbImage, taps: &Taps, left: usize, origin: usize, out: &mut RgbImage) {
        // Sums of a few columns at a time stay in registers.
        const LANES: usize = 32;
        let stride = image.width() * 3;
        let bytes = out.width() * 3;
        let half = 1 << (taps.precision() - 1);
        for (y, out) in out.pixels_mut().chunks_exact_mut(bytes).enumerate() {
            let (first, weights) = taps.of(y);
            let start = (first - origin) * stride + left * 3;
            for (part, out) in out.chunks_mut(LANES).enumerate() {
                let mut sums = [half; LANES];
                for (i, &weight) in weights.iter().enumerate() {
                    let at = start + i * stride + part * LANES;
                    let source = &image.padded()[at..at + LANES];
                    for (sum, &source) in sums.iter_mut().zip(source) {
                        *sum += i32::from(source) * weight;
                    }
                }
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = (sum >> taps.precision()).clamp(0, 255) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::image::noise;
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    #[allow(unsafe_code)]
    fn vector_passes_are_the_plain_ones() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        let mut taps = Taps::new();
        let (mut expected, mut actual) = (RgbImage::new(), RgbImage::new());
        let sizes = [(640, 224), (1, 5), (2, 1), (7, 3), (3, 40), (1000, 9), (37, 37), (33, 32)];
        for (input, output) in sizes {
            for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
                for rounding in [Rounding::Pillow, Rounding::Torchvision] {
                    for (first, count) in [(0, output), (output / 3, output - output / 3)] {
                        taps.prepare(Axis { input, output, first, count, filter, rounding, antialias: true });
                        for other in [1, 5, 43] {
                            let image = noise(input, other + 2);
                            expected.reset(count, other);
                            actual.reset(count, other);
                            plain::horizontal(&image, &taps, 1..other + 1, 0, &mut expected, 0);
                            // SAFETY: AVX2 was found above.
                            unsafe { avx2::horizontal(&image, &taps, 1..other + 1, 0, &mut actual, 0) };
                            assert!(expected.pixels() == actual.pixels(), "{input} to {output}");
                            let image = noise(other + 2, input);
                            expected.reset(other, count);
                            actual.reset(other, count);
                            plain::vertical(&image, &taps, 1, 0, &mut expected);
                            // SAFETY: AVX2 was found above.
                            unsafe { avx2::vertical(&image, &taps, 1, 0, &mut actual) };
                            assert!(expected.pixels() == actual.pixels(), "{input} to {output}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_window_is_a_part_of_the_whole() {
        use super::super::super::geometry::Window;
        let image = noise(97, 61);
        let (mut whole, mut part) = (RgbImage::new(), RgbImage::new());
        let mut work = Workspace::new();
        for resized in [(40, 30), (97, 30), (40, 61), (90, 20), (200, 150), (97, 61)] {
            for rounding in [Rounding::Pillow, Rounding::Torchvision] {
                let mut run = |window, out: &mut RgbImage| {
                    let plan = Plan { resized, window, placed: (0, 0), output: resized };
                    let picture = Picture::whole(&image);
                    resize(picture, &plan, Filter::Bicubic, rounding, true, &mut work, out).unwrap();
                };
                let all = Window { left: 0, top: 0, width: resized.0, height: resized.1 };
                run(all, &mut whole);
                let window = Window { left: 9, top: 7, width: 20, height: 11 };
                run(window, &mut part);
                let mut expected = RgbImage::new();
                copy(&whole, 9, 7, 20, 11, &mut expected);
                assert!(expected.pixels() == part.pixels(), "{resized:?} {rounding:?}");
            }
        }
    }
}
