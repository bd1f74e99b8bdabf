//! The closest pixel, as Pillow's `resize(..., NEAREST)` chooses it.

use super::super::geometry::Plan;
use super::super::image::RgbImage;

/// The window of the resized picture, into `out`.
pub(crate) fn resize(image: &RgbImage, plan: &Plan, out: &mut RgbImage) {
    let window = plan.window;
    out.reset(window.width, window.height);
    let x = Positions::new(image.width(), plan.resized.0, window.left);
    let y = Positions::new(image.height(), plan.resized.1, window.top);
    let (source, _) = image.pixels().as_chunks::<3>();
    let (pixels, _) = out.pixels_mut().as_chunks_mut::<3>();
    for (row, sy) in pixels.chunks_exact_mut(window.width).zip(y) {
        for (pixel, sx) in row.iter_mut().zip(x.clone()) {
            *pixel = source[sy * image.width() + sx];
        }
    }
}

/// Source positions. Pillow adds the scale up step by step, in f64, and truncates.
#[derive(Clone)]
struct Positions {
    at: f64,
    scale: f64,
    last: usize,
}

impl Positions {
    fn new(input: usize, output: usize, skipped: usize) -> Self {
        let scale = input as f64 / output as f64;
        let mut positions = Self { at: scale * 0.5, scale, last: input - 1 };
        for _ in 0..skipped {
            positions.at += scale;
        }
        positions
    }
}

impl Iterator for Positions {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let position = (self.at as usize).min(self.last);
        self.at += self.scale;
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_middle_of_each_block() {
        let positions: Vec<_> = Positions::new(8, 4, 0).take(4).collect();
        assert_eq!(positions, [1, 3, 5, 7]);
        let positions: Vec<_> = Positions::new(2, 5, 1).take(4).collect();
        assert_eq!(positions, [0, 1, 1, 1]);
    }
}
