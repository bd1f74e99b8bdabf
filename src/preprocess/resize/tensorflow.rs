//! `tf.image.resize`, bilinear with half-pixel centres and no antialiasing, in f32.
//!
//! Positions and mixing follow TensorFlow's `resize_bilinear_op`; the result is not rounded to
//! 8 bits. Scaling and shifting are applied on the way, as its graph optimiser folds them.

use super::super::geometry::Plan;
use super::super::image::RgbImage;
use super::super::normalise::Output;
use super::super::spec::{Color, Layout};

/// Source positions along one axis, kept by each thread.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    columns: Vec<Position>,
    rows: Vec<Position>,
}

impl Workspace {
    pub const fn new() -> Self {
        Self { columns: Vec::new(), rows: Vec::new() }
    }
}

/// The first of two neighbours, and how far to go to the second.
#[derive(Debug, Clone, Copy)]
struct Position {
    lower: u32,
    upper: u32,
    mix: f32,
}

fn positions(input: usize, output: usize, first: usize, count: usize, out: &mut Vec<Position>) {
    let scale = input as f32 / output as f32;
    let last = input as u32 - 1;
    out.clear();
    out.extend((first..first + count).map(|x| {
        let at = (x as f32 + 0.5) * scale - 0.5;
        let floor = at.floor();
        let lower = (floor as i64).clamp(0, i64::from(last)) as u32;
        let upper = ((floor as i64 + 1).max(0) as u32).min(last);
        // Between a pixel and itself there is nothing to mix; this keeps vector forms simple.
        let mix = if lower == upper { 0.0 } else { at - floor };
        Position { lower, upper, mix }
    }));
}

/// Resizes `image` and writes `value * scale + bias` of each channel where `plan` places it.
pub(crate) fn resize(
    image: &RgbImage,
    plan: &Plan,
    scale: [f32; 3],
    bias: [f32; 3],
    work: &mut Workspace,
    out: &mut Output<'_>,
) {
    let window = plan.window;
    positions(image.width(), plan.resized.0, window.left, window.width, &mut work.columns);
    positions(image.height(), plan.resized.1, window.top, window.height, &mut work.rows);
    let (pixels, _) = image.pixels().as_chunks::<3>();
    let row_at = |y: u32| &pixels[y as usize * image.width()..][..image.width()];
    for (y, row) in work.rows.iter().enumerate() {
        let (above, below) = (row_at(row.lower), row_at(row.upper));
        let value = |column: &Position| {
            let (left, right) = (column.lower as usize, column.upper as usize);
            std::array::from_fn(|channel| {
                let sample = |row: &[[u8; 3]], at: usize| f32::from(row[at][channel]);
                let mix = |a: f32, b: f32, by: f32| a + (b - a) * by;
                let top = mix(sample(above, left), sample(above, right), column.mix);
                let bottom = mix(sample(below, left), sample(below, right), column.mix);
                mix(top, bottom, row.mix) * scale[channel] + bias[channel]
            })
        };
        let (x, y) = (plan.placed.0, plan.placed.1 + y);
        match out.layout() {
            Layout::Nchw => {
                let [r, g, b] = out.planes(y, x, window.width);
                for (((column, r), g), b) in work.columns.iter().zip(r).zip(g).zip(b) {
                    [*r, *g, *b] = value(column);
                }
            }
            Layout::Nhwc => {
                let color = out.color();
                let pixels = out.interleaved(y, x, window.width);
                for (column, pixel) in work.columns.iter().zip(pixels) {
                    *pixel = value(column);
                    if color == Color::Bgr {
                        pixel.reverse();
                    }
                }
            }
        }
    }
}
