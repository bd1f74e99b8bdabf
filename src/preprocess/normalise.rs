//! Levels to numbers, written where the layout of the tensor wants them.

use super::geometry::Plan;
use super::image::RgbImage;
use super::spec::{Color, Layout, PreprocessSpec, Resampler};

/// What each level 0 to 255 of each channel (R, G, B) becomes.
pub(super) struct Tables {
    values: [[f32; 256]; 3],
    /// The TensorFlow form, `value * scale + bias`, for levels that are no integers.
    pub scale: [f32; 3],
    pub bias: [f32; 3],
}

impl Tables {
    pub fn new(spec: &PreprocessSpec) -> Self {
        let mut values = [[0.0; 256]; 3];
        let (mut scale, mut bias) = ([1.0; 3], [0.0; 3]);
        for channel in 0..3 {
            let (mean, std) = spec.normalise.map_or((0.0, 1.0), |n| (n.mean[channel], n.std[channel]));
            scale[channel] = (spec.rescale_factor.unwrap_or(1.0) / std) as f32;
            bias[channel] = (-mean / std) as f32;
            for (level, value) in (0_u8..=255).zip(&mut values[channel]) {
                *value = level_value(level, spec, channel);
            }
        }
        Self { values, scale, bias }
    }
}

/// Each reference computes the same value by other steps, in f32 but for Pillow's rescaling.
fn level_value(level: u8, spec: &PreprocessSpec, channel: usize) -> f32 {
    let rescaled = |v: f64| {
        let value = spec.rescale_factor.map_or(v as f32, |factor| (v * factor) as f32);
        if spec.rescale_offset { value - 1.0 } else { value }
    };
    let Some(normalise) = spec.normalise else {
        return rescaled(f64::from(level));
    };
    let (mean, std) = (normalise.mean[channel] as f32, normalise.std[channel] as f32);
    let value = match (spec.resampler, spec.rescale_factor) {
        // Both steps are fused: mean and deviation are brought to levels instead.
        (Resampler::Torchvision, Some(factor)) if !spec.rescale_offset => {
            let levels = (1.0 / factor) as f32;
            (f32::from(level) - mean * levels) / (std * levels)
        }
        _ => (rescaled(f64::from(level)) - mean) / std,
    };
    if normalise.twice { value / std } else { value }
}

/// The tensor of one picture, in the caller's memory.
pub(super) struct Output<'a> {
    data: &'a mut [f32],
    width: usize,
    height: usize,
    layout: Layout,
    color: Color,
}

impl<'a> Output<'a> {
    /// `data` holds 3 * `width` * `height` values.
    pub fn new(data: &'a mut [f32], (width, height): (usize, usize), layout: Layout, color: Color) -> Self {
        assert_eq!(data.len(), width * height * 3);
        Self { data, width, height, layout, color }
    }

    /// Where channel R, G or B (0 to 2) is in the tensor.
    fn channel(&self, channel: usize) -> usize {
        match self.color {
            Color::Rgb => channel,
            Color::Bgr => 2 - channel,
        }
    }

    /// Gives channels R, G and B the values that black has.
    pub fn fill(&mut self, black: [f32; 3]) {
        for (channel, value) in black.into_iter().enumerate() {
            let channel = self.channel(channel);
            match self.layout {
                Layout::Nchw => {
                    let plane = self.width * self.height;
                    self.data[channel * plane..][..plane].fill(value);
                }
                Layout::Nhwc => {
                    let values = self.data[channel..].iter_mut().step_by(3);
                    values.for_each(|v| *v = value);
                }
            }
        }
    }

    /// The slices of row `y`, from column `x` on, that hold `count` values of R, G and B each, for
    /// channels-first tensors.
    pub fn planes(&mut self, y: usize, x: usize, count: usize) -> [&mut [f32]; 3] {
        let plane = self.width * self.height;
        let start = y * self.width + x;
        let (first, rest) = self.data.split_at_mut(plane);
        let (second, third) = rest.split_at_mut(plane);
        let rows = [first, second, third].map(|plane| &mut plane[start..start + count]);
        match self.color {
            Color::Rgb => rows,
            Color::Bgr => {
                let [b, g, r] = rows;
                [r, g, b]
            }
        }
    }

    /// The pixels of row `y`, from column `x` on, for channels-last tensors, in the tensor's order.
    pub fn interleaved(&mut self, y: usize, x: usize, count: usize) -> &mut [[f32; 3]] {
        let start = (y * self.width + x) * 3;
        self.data[start..start + count * 3].as_chunks_mut().0
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn color(&self) -> Color {
        self.color
    }
}

/// Writes the window of a resized picture, through the tables.
pub(super) fn write(window: &RgbImage, plan: &Plan, tables: &Tables, out: &mut Output<'_>) {
    if plan.is_padded() {
        out.fill(tables.values.each_ref().map(|table| table[0]));
    }
    let width = window.width();
    let (pixels, _) = window.pixels().as_chunks::<3>();
    let [red, green, blue] = &tables.values;
    let (x, top) = plan.placed;
    for (y, row) in pixels.chunks_exact(width).enumerate() {
        match out.layout() {
            Layout::Nchw => {
                let [r, g, b] = out.planes(top + y, x, width);
                for (((pixel, r), g), b) in row.iter().zip(r).zip(g).zip(b) {
                    *r = red[usize::from(pixel[0])];
                    *g = green[usize::from(pixel[1])];
                    *b = blue[usize::from(pixel[2])];
                }
            }
            Layout::Nhwc => {
                let color = out.color();
                for (pixel, out) in row.iter().zip(out.interleaved(top + y, x, width)) {
                    *out = [red[usize::from(pixel[0])], green[usize::from(pixel[1])], blue[usize::from(pixel[2])]];
                    if color == Color::Bgr {
                        out.reverse();
                    }
                }
            }
        }
    }
}
