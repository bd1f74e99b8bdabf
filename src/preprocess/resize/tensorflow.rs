//! `tf.image.resize`, bilinear with half-pixel centres and no antialiasing, in f32.
//!
//! Positions and mixing follow TensorFlow's `resize_bilinear_op`; the result is not rounded to
//! 8 bits. Scaling and shifting are applied on the way, as its graph optimiser folds them.

use super::super::error::ImageError;
use super::super::geometry::Plan;
use super::super::image::RgbImage;
use super::super::normalise::Output;
use super::super::picture::Picture;
use super::super::spec::{Color, Layout};
use std::time::Duration;

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
pub(super) struct Position {
    pub lower: u32,
    pub upper: u32,
    pub mix: f32,
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

/// Resizes a picture, as its rows are decoded, and writes `value * scale + bias` of each channel where `plan` places it.
/// Returns how long decoding took.
///
/// # Errors
/// If the picture can't be decoded.
pub(crate) fn resize(
    picture: Picture<'_>,
    plan: &Plan,
    scale: [f32; 3],
    bias: [f32; 3],
    work: &mut Workspace,
    out: &mut Output<'_>,
) -> Result<Duration, ImageError> {
    let window = plan.window;
    positions(picture.columns, plan.resized.0, window.left, window.width, &mut work.columns);
    positions(picture.rows, plan.resized.1, window.top, window.height, &mut work.rows);
    let Workspace { columns, rows } = work;
    let mut rows = rows.iter().enumerate().peekable();
    // With the last row of the strip before it, a strip has both rows that lie across its upper edge.
    picture.strips(1, |strip| {
        let end = strip.first + strip.image.height();
        while let Some((y, row)) = rows.next_if(|(_, row)| (row.upper as usize) < end) {
            let first = strip.first as u32;
            let row = Position { lower: row.lower - first, upper: row.upper - first, mix: row.mix };
            write_row(strip.image, row, columns, scale, bias, (plan.placed.0, plan.placed.1 + y), out);
        }
    })
}

/// Writes the row of the result that lies between two of `image`, from `x` and `y` on.
fn write_row(
    image: &RgbImage,
    row: Position,
    columns: &[Position],
    scale: [f32; 3],
    bias: [f32; 3],
    (x, y): (usize, usize),
    out: &mut Output<'_>,
) {
    let (pixels, _) = image.pixels().as_chunks::<3>();
    let row_at = |y: u32| &pixels[y as usize * image.width()..][..image.width()];
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
    match out.layout() {
        Layout::Nchw => {
            let mut planes = out.planes(y, x, columns.len());
            let done = vectorised(image, row, columns, scale, bias, &mut planes);
            let [r, g, b] = planes.map(|plane| &mut plane[done..]);
            for (((column, r), g), b) in columns[done..].iter().zip(r).zip(g).zip(b) {
                [*r, *g, *b] = value(column);
            }
        }
        Layout::Nhwc => {
            let color = out.color();
            let pixels = out.interleaved(y, x, columns.len());
            for (column, pixel) in columns.iter().zip(pixels) {
                *pixel = value(column);
                if color == Color::Bgr {
                    pixel.reverse();
                }
            }
        }
    }
}

/// Writes as much of a row as can be done with vectors, and says how many pixels that was.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn vectorised(
    image: &RgbImage,
    row: Position,
    columns: &[Position],
    scale: [f32; 3],
    bias: [f32; 3],
    planes: &mut [&mut [f32]; 3],
) -> usize {
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { super::avx2_bilinear::row(image, row, columns, scale, bias, planes) };
    }
    0
}

#[cfg(not(target_arch = "x86_64"))]
fn vectorised(
    _image: &RgbImage,
    _row: Position,
    _columns: &[Position],
    _scale: [f32; 3],
    _bias: [f32; 3],
    _planes: &mut [&mut [f32]; 3],
) -> usize {
    0
}

#[cfg(test)]
mod tests {
    use super::super::super::geometry::Window;
    use super::super::super::image::noise;
    use super::*;

    /// The channels-last form is plain Rust; the channels-first one has vectors in it.
    #[test]
    fn both_layouts_hold_the_same_bits() {
        let mut work = Workspace::new();
        let sizes = [(640, 480), (1, 1), (2, 3), (11, 150), (223, 225), (37, 20)];
        for (width, height) in sizes {
            let image = noise(width, height);
            let plan = Plan {
                resized: (45, 31),
                window: Window { left: 3, top: 2, width: 39, height: 27 },
                placed: (1, 2),
                output: (41, 30),
            };
            let (scale, bias) = ([0.1, 0.2, 0.3], [-1.0, 0.5, 0.0]);
            let mut run = |layout, color| {
                let mut data = vec![0.0; 41 * 30 * 3];
                let mut out = Output::new(&mut data, plan.output, layout, color);
                resize(Picture::whole(&image), &plan, scale, bias, &mut work, &mut out).unwrap();
                data
            };
            let first = run(Layout::Nchw, Color::Rgb);
            let last = run(Layout::Nhwc, Color::Rgb);
            let reversed = run(Layout::Nhwc, Color::Bgr);
            for (i, value) in first.iter().enumerate() {
                let (channel, pixel) = (i / (41 * 30), i % (41 * 30));
                assert_eq!(value.to_bits(), last[pixel * 3 + channel].to_bits());
                assert_eq!(value.to_bits(), reversed[pixel * 3 + 2 - channel].to_bits());
            }
        }
    }
}
