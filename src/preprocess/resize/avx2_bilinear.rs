//! One row of TensorFlow's bilinear resize with AVX2: the operations of the plain form in the same
//! order, so the same bits. Nothing is contracted to a fused multiply-add.

#![allow(unsafe_code)]

use super::super::image::RgbImage;
use super::tensorflow::Position;
use std::arch::x86_64::*;

/// Writes a row of red, green and blue. Returns how many pixels were done: all but the last few.
///
/// # Panics
/// If a position is outside `image`, or a plane is shorter than `columns`.
#[target_feature(enable = "avx2")]
pub(super) fn row(
    image: &RgbImage,
    row: Position,
    columns: &[Position],
    scale: [f32; 3],
    bias: [f32; 3],
    planes: &mut [&mut [f32]; 3],
) -> usize {
    let done = columns.len() / 4 * 4;
    let (width, height) = (image.width(), image.height());
    assert!(row.lower.max(row.upper) < height as u32);
    // Positions grow, but a maximum costs little and proves it.
    let rightmost = columns.iter().map(|c| c.lower.max(c.upper)).max();
    assert!(rightmost.is_none_or(|x| x < width as u32));
    assert!(planes.iter().all(|plane| plane.len() >= done));
    let above = &image.padded()[row.lower as usize * width * 3..];
    let below = &image.padded()[row.upper as usize * width * 3..];
    let [r, g, b] = scale;
    let scale = _mm_setr_ps(r, g, b, 0.0);
    let [r, g, b] = bias;
    let bias = _mm_setr_ps(r, g, b, 0.0);
    let row_mix = _mm_set1_ps(row.mix);
    for x in (0..done).step_by(4) {
        let mut pixels = [_mm_setzero_ps(); 4];
        for (pixel, column) in pixels.iter_mut().zip(&columns[x..x + 4]) {
            let corner = |at: u32| {
                let at = at as usize * 3;
                // SAFETY: pixel `at` is inside both rows by the assertions above; 4 bytes from it
                // reach one over the row, into the next or into the padding of the last.
                unsafe {
                    let above = above.as_ptr().add(at).cast::<i32>().read_unaligned();
                    let below = below.as_ptr().add(at).cast::<i32>().read_unaligned();
                    (above, below)
                }
            };
            // Four channels, of which the last is of no meaning, of both rows.
            let (above, below) = corner(column.lower);
            let left = _mm_insert_epi32::<1>(_mm_cvtsi32_si128(above), below);
            let (above, below) = corner(column.upper);
            let right = _mm_insert_epi32::<1>(_mm_cvtsi32_si128(above), below);
            let left = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(left));
            let right = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(right));
            let step = _mm256_mul_ps(_mm256_sub_ps(right, left), _mm256_set1_ps(column.mix));
            let mixed = _mm256_add_ps(left, step);
            let top = _mm256_castps256_ps128(mixed);
            let bottom = _mm256_extractf128_ps::<1>(mixed);
            let step = _mm_mul_ps(_mm_sub_ps(bottom, top), row_mix);
            *pixel = _mm_add_ps(_mm_mul_ps(_mm_add_ps(top, step), scale), bias);
        }
        // Four pixels of three channels to three channels of four pixels.
        let [p0, p1, p2, p3] = pixels;
        let (rg01, rg23) = (_mm_unpacklo_ps(p0, p1), _mm_unpacklo_ps(p2, p3));
        let (b01, b23) = (_mm_unpackhi_ps(p0, p1), _mm_unpackhi_ps(p2, p3));
        let channels = [_mm_movelh_ps(rg01, rg23), _mm_movehl_ps(rg23, rg01), _mm_movelh_ps(b01, b23)];
        for (plane, channel) in planes.iter_mut().zip(channels) {
            // SAFETY: each plane holds at least `done` values, and `x + 4` is at most that.
            unsafe { _mm_storeu_ps(plane.as_mut_ptr().add(x), channel) };
        }
    }
    done
}
