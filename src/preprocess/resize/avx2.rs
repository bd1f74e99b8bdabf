//! The two convolution passes with AVX2: the same integers as the plain form, in another order of
//! additions, which wrapping integers do not notice.
//!
//! A weight of 22 bits does not fit the 16 of `pmaddwd`. It is taken as high * 2^15 + low; the two
//! sums are put together at the end, modulo 2^32, as the sum itself is known to fit 32 bits.

#![allow(unsafe_code)]

use super::super::image::{PADDING, RgbImage};
use super::taps::Taps;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows done at once by the horizontal pass, two in each vector.
const ROWS: usize = 4;

/// As the plain horizontal pass.
///
/// # Panics
/// If `image` or `out` has fewer rows or columns than asked for.
#[target_feature(enable = "avx2")]
pub(super) fn horizontal(
    image: &RgbImage,
    taps: &Taps,
    rows: Range<usize>,
    origin: usize,
    out: &mut RgbImage,
    first: usize,
) {
    let needed = taps.needed();
    assert!(!rows.is_empty() && rows.end <= image.height() && first + rows.len() <= out.height());
    assert!(origin <= needed.start && needed.end - origin <= image.width());
    assert_eq!(taps.len(), out.width());
    if taps.is_wide() {
        horizontal_of::<true>(image, taps, rows, origin, out, first);
    } else {
        horizontal_of::<false>(image, taps, rows, origin, out, first);
    }
}

#[target_feature(enable = "avx2")]
fn horizontal_of<const WIDE: bool>(
    image: &RgbImage,
    taps: &Taps,
    rows: Range<usize>,
    origin: usize,
    out: &mut RgbImage,
    first_row: usize,
) {
    let (stride, out_stride, (top, height)) = (image.width() * 3, out.width() * 3, (rows.start, rows.len()));
    let source = image.padded().as_ptr();
    let target = out.padded_mut().as_mut_ptr();
    let half = _mm256_set1_epi32(1 << (taps.precision() - 1));
    let shift = _mm_cvtsi32_si128(taps.precision() as i32);
    // From r0 g0 b0 r1 g1 b1 to 16-bit pairs (r0 r1) (g0 g1) (b0 b1), in either half.
    let spread = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    // The low bytes of four i32, of which the last is of no meaning.
    let gather =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    let zero = _mm256_setzero_si256();
    let most = _mm256_set1_epi32(255);
    let mut y = 0;
    while y < height {
        // The last rows are done twice rather than by other code.
        let rows: [usize; ROWS] = std::array::from_fn(|i| (y + i).min(height - 1));
        let from = rows.map(|row| (top + row) * stride);
        for x in 0..taps.len() {
            let (first, low, high) = taps.packed(x);
            let start = (first - origin) * 3;
            let mut sums = [half; 2];
            let mut highs = [zero; 2];
            for (i, &weights) in low.iter().enumerate() {
                let at = start + i * 6;
                let weights = _mm256_set1_epi32(weights);
                let upper = if WIDE { _mm256_set1_epi32(high[i]) } else { zero };
                for half in 0..2 {
                    // SAFETY: the first pixel of each pair is inside the row by the assertions of
                    // `horizontal`, so `at + 3` is at most the row's end, and 8 bytes from `at` are
                    // at most 5 over it: into the next row, or the padding of the last.
                    let pixels = unsafe {
                        _mm256_inserti128_si256::<1>(
                            _mm256_castsi128_si256(_mm_loadl_epi64(source.add(from[2 * half] + at).cast())),
                            _mm_loadl_epi64(source.add(from[2 * half + 1] + at).cast()),
                        )
                    };
                    let pixels = _mm256_shuffle_epi8(pixels, spread);
                    sums[half] = _mm256_add_epi32(sums[half], _mm256_madd_epi16(pixels, weights));
                    if WIDE {
                        highs[half] = _mm256_add_epi32(highs[half], _mm256_madd_epi16(pixels, upper));
                    }
                }
            }
            for half in 0..2 {
                let mut sum = sums[half];
                if WIDE {
                    sum = _mm256_add_epi32(sum, _mm256_slli_epi32::<15>(highs[half]));
                }
                let level = _mm256_sra_epi32(sum, shift);
                let level = _mm256_min_epi32(_mm256_max_epi32(level, zero), most);
                let bytes = _mm256_shuffle_epi8(level, gather);
                let upper = _mm256_castsi256_si128(bytes);
                let lower = _mm256_extracti128_si256::<1>(bytes);
                for (row, bytes) in [(rows[2 * half], upper), (rows[2 * half + 1], lower)] {
                    let value = _mm_cvtsi128_si32(bytes).to_le_bytes();
                    let at = (first_row + row) * out_stride + x * 3;
                    // SAFETY: pixel `x` of row `row` is inside `out`, and the fourth byte is the
                    // first of the next pixel, written later, or of a row below or the padding.
                    unsafe { store(target.add(at), value, x + 1 == taps.len()) };
                }
            }
        }
        y += ROWS;
    }
}

/// Writes 3 bytes, and a fourth that is of no meaning unless it is the `last` of its row: the next
/// row may have been written already.
///
/// # Safety
/// 3 bytes at `to` are writable, 4 unless `last`.
#[inline(always)]
unsafe fn store(to: *mut u8, value: [u8; 4], last: bool) {
    // SAFETY: as the caller promises.
    unsafe {
        if last {
            std::ptr::copy_nonoverlapping(value.as_ptr(), to, 3);
        } else {
            std::ptr::copy_nonoverlapping(value.as_ptr(), to, 4);
        }
    }
}

/// Columns (bytes) done at once by the vertical pass.
const LANES: usize = 32;

/// As the plain vertical pass.
///
/// # Panics
/// If `image` has fewer rows or columns than asked for.
#[target_feature(enable = "avx2")]
pub(super) fn vertical(image: &RgbImage, taps: &Taps, left: usize, origin: usize, out: &mut RgbImage) {
    let needed = taps.needed();
    assert!(origin <= needed.start && needed.end - origin <= image.height());
    assert!(left + out.width() <= image.width());
    assert_eq!(taps.len(), out.height());
    const { assert!(LANES <= PADDING) };
    if taps.is_wide() {
        vertical_of::<true>(image, taps, left, origin, out);
    } else {
        vertical_of::<false>(image, taps, left, origin, out);
    }
}

#[target_feature(enable = "avx2")]
fn vertical_of<const WIDE: bool>(image: &RgbImage, taps: &Taps, left: usize, origin: usize, out: &mut RgbImage) {
    let (stride, bytes) = (image.width() * 3, out.width() * 3);
    let source = image.padded().as_ptr();
    let target = out.padded_mut().as_mut_ptr();
    let half = _mm256_set1_epi32(1 << (taps.precision() - 1));
    let shift = _mm_cvtsi32_si128(taps.precision() as i32);
    let zero = _mm256_setzero_si256();
    let last_row = image.height() - 1;
    for y in 0..taps.len() {
        let (first, low, high) = taps.packed(y);
        let first = first - origin;
        for column in (0..bytes).step_by(LANES) {
            let mut sums = [half; 4];
            let mut highs = [zero; 4];
            for (i, &weights) in low.iter().enumerate() {
                let weights = _mm256_set1_epi32(weights);
                let upper = if WIDE { _mm256_set1_epi32(high[i]) } else { zero };
                // The partner of an odd last row has weight zero: any row will do.
                let rows = [first + 2 * i, (first + 2 * i + 1).min(last_row)];
                let at = rows.map(|row| row * stride + left * 3 + column);
                // SAFETY: these are rows of `image` and `column` is inside `out`, so inside the
                // rows by the assertions of `vertical`; 32 bytes from there reach at most 31 over
                // the last row, into its padding.
                let (a, b) = unsafe {
                    (_mm256_loadu_si256(source.add(at[0]).cast()), _mm256_loadu_si256(source.add(at[1]).cast()))
                };
                // Bytes of both rows side by side, then as pairs of 16 bits. The halves of the
                // vector stay apart; packing at the end brings the bytes back in order.
                let (ab0, ab1) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
                let pairs = [
                    _mm256_unpacklo_epi8(ab0, zero),
                    _mm256_unpackhi_epi8(ab0, zero),
                    _mm256_unpacklo_epi8(ab1, zero),
                    _mm256_unpackhi_epi8(ab1, zero),
                ];
                for j in 0..4 {
                    sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(pairs[j], weights));
                    if WIDE {
                        highs[j] = _mm256_add_epi32(highs[j], _mm256_madd_epi16(pairs[j], upper));
                    }
                }
            }
            let mut levels = [zero; 4];
            for j in 0..4 {
                let mut sum = sums[j];
                if WIDE {
                    sum = _mm256_add_epi32(sum, _mm256_slli_epi32::<15>(highs[j]));
                }
                levels[j] = _mm256_sra_epi32(sum, shift);
            }
            // Both packs saturate, which is the clamp to 0..255.
            let packed =
                _mm256_packus_epi16(_mm256_packs_epi32(levels[0], levels[1]), _mm256_packs_epi32(levels[2], levels[3]));
            let at = y * bytes + column;
            // SAFETY: `column` is inside row `y` of `out`; what goes over its end is overwritten
            // by the next row, or is the padding of the last.
            unsafe { _mm256_storeu_si256(target.add(at).cast(), packed) };
        }
    }
}
