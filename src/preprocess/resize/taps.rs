//! Weights of the separable filters, in the fixed point of either reference.
//!
//! Pillow (`src/libImaging/Resample.c`) and PyTorch (`UpSampleKernel.cpp`, antialiased `uint8`)
//! compute the same real weights, in f64, and round them differently: Pillow to 22 bits after the
//! point, PyTorch to as many as fit 16 bits.

/// Filters, by their names in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The closest pixel.
    Nearest,
    /// The mean of the covered area.
    Box,
    /// Triangle; widened by the scale when shrinking.
    Bilinear,
    /// A sharper triangle.
    Hamming,
    /// Cubic with a = -0.5.
    Bicubic,
    /// Three-lobed sinc.
    Lanczos,
}

impl Filter {
    /// Half of the width at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Nearest | Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => {
                let x = x.abs();
                if x == 0.0 {
                    1.0
                } else if x >= 1.0 {
                    0.0
                } else {
                    let x = x * std::f64::consts::PI;
                    x.sin() / x * (0.54 + 0.46 * x.cos())
                }
            }
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// How weights are rounded to integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// 22 bits after the point.
    Pillow,
    /// As many bits as let the largest weight fit an i16.
    Torchvision,
}

/// One axis to resample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Axis {
    pub input: usize,
    pub output: usize,
    /// First output position that is needed, and how many are.
    pub first: usize,
    pub count: usize,
    pub filter: Filter,
    pub rounding: Rounding,
    /// Whether the filter is widened when shrinking.
    pub antialias: bool,
}

/// Integer weights of one axis, kept for the next picture of the same size.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    axis: Option<Axis>,
    /// For each output: the first input position and the number of weights.
    spans: Vec<(u32, u32)>,
    /// Weights of one output after the other, `stride` apart (an even number), zero-filled.
    weights: Vec<i32>,
    /// The same in pairs of i16 for `pmaddwd`: weight = high * 2^15 + low.
    low: Vec<i32>,
    high: Vec<i32>,
    stride: usize,
    precision: u32,
    real: Vec<f64>,
}

impl Taps {
    pub const fn new() -> Self {
        Self {
            axis: None,
            spans: Vec::new(),
            weights: Vec::new(),
            low: Vec::new(),
            high: Vec::new(),
            stride: 0,
            precision: 0,
            real: Vec::new(),
        }
    }

    /// Computes the weights of `axis`, if they are not those at hand.
    pub fn prepare(&mut self, axis: Axis) {
        if self.axis == Some(axis) {
            return;
        }
        self.axis = None;
        let kernel = Kernel::new(&axis);
        // No more weights than pixels, and an even number of them.
        self.stride = kernel.longest.next_multiple_of(2);
        self.spans.clear();
        self.real.clear();
        self.real.resize(self.stride * axis.count, 0.0);
        let mut largest = 0.0_f64;
        let rows = self.real.chunks_exact_mut(self.stride);
        for (output, row) in (axis.first..axis.first + axis.count).zip(rows) {
            let (first, count) = kernel.weigh(output, row);
            largest = row.iter().copied().fold(largest, f64::max);
            self.spans.push((first as u32, count as u32));
        }
        // PyTorch chooses the precision by all weights, whatever is cropped afterwards.
        if axis.rounding == Rounding::Torchvision && axis.output <= MOST_LOOKED_AT {
            let mut row = vec![0.0; self.stride];
            let window = axis.first..axis.first + axis.count;
            for output in (0..axis.output).filter(|output| !window.contains(output)) {
                kernel.weigh(output, &mut row);
                largest = row.iter().copied().fold(largest, f64::max);
            }
        }
        self.precision = match axis.rounding {
            Rounding::Pillow => 22,
            Rounding::Torchvision => torch_precision(largest),
        };
        let one = f64::from(1 << self.precision);
        self.weights.clear();
        self.weights.extend(self.real.iter().map(|&weight| {
            let scaled = weight * one;
            (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
        }));
        self.pack(axis.rounding);
        self.axis = Some(axis);
    }

    fn pack(&mut self, rounding: Rounding) {
        let pair = |first: i32, second: i32| (first & 0xffff) | (second << 16);
        self.low.clear();
        self.high.clear();
        let (pairs, _) = self.weights.as_chunks::<2>();
        match rounding {
            Rounding::Torchvision => self.low.extend(pairs.iter().map(|&[a, b]| pair(a, b))),
            Rounding::Pillow => {
                self.low.extend(pairs.iter().map(|&[a, b]| pair(a & 0x7fff, b & 0x7fff)));
                self.high.extend(pairs.iter().map(|&[a, b]| pair(a >> 15, b >> 15)));
            }
        }
    }

    /// Number of outputs.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Bits after the point.
    pub fn precision(&self) -> u32 {
        self.precision
    }

    /// First input position and weights of output number `i`.
    pub fn of(&self, i: usize) -> (usize, &[i32]) {
        let (first, count) = self.spans[i];
        let start = i * self.stride;
        (first as usize, &self.weights[start..start + count as usize])
    }

    #[cfg(any(test, target_arch = "x86_64"))]
    /// First input position and packed weights (low, high) of output number `i`; a pair may reach
    /// one position further than [`Self::of`], with weight zero. No high halves where 16 bits are
    /// all.
    pub fn packed(&self, i: usize) -> (usize, &[i32], &[i32]) {
        let (first, count) = self.spans[i];
        let start = i * self.stride / 2;
        let range = start..start + (count as usize).div_ceil(2);
        let high = self.high.get(range.clone()).unwrap_or(&[]);
        (first as usize, &self.low[range], high)
    }

    /// Whether weights are wider than 16 bits.
    #[cfg(target_arch = "x86_64")]
    pub fn is_wide(&self) -> bool {
        !self.high.is_empty()
    }

    /// The range of input positions that have a weight.
    pub fn needed(&self) -> std::ops::Range<usize> {
        let first = self.spans.iter().map(|s| s.0).min().unwrap_or(0);
        let end = self.spans.iter().map(|s| s.0 + s.1).max().unwrap_or(0);
        first as usize..end as usize
    }
}

/// Beyond so many outputs, of which a crop needs a few, weights repeat themselves.
const MOST_LOOKED_AT: usize = 1 << 16;

/// The real weights of an axis.
struct Kernel {
    filter: Filter,
    input: usize,
    scale: f64,
    filter_scale: f64,
    support: f64,
    /// Most weights that an output has.
    longest: usize,
}

impl Kernel {
    fn new(axis: &Axis) -> Self {
        let scale = axis.input as f64 / axis.output as f64;
        let filter_scale = if axis.antialias { scale.max(1.0) } else { 1.0 };
        let support = axis.filter.support() * filter_scale;
        Self {
            filter: axis.filter,
            input: axis.input,
            scale,
            filter_scale,
            support,
            longest: (support.ceil() as usize * 2 + 1).min(axis.input),
        }
    }

    /// Writes the weights of one output to the start of `row`; the rest becomes zero. Returns the
    /// first input position and the number of weights.
    fn weigh(&self, output: usize, row: &mut [f64]) -> (usize, usize) {
        let centre = (output as f64 + 0.5) * self.scale;
        let first = ((centre - self.support + 0.5) as isize).max(0) as usize;
        let end = ((centre + self.support + 0.5) as usize).min(self.input);
        // Rounding may leave nothing at the edge; one pixel keeps the sum defined.
        let first = first.min(self.input - 1);
        let count = (end.max(first + 1) - first).min(self.longest);
        let (weights, rest) = row.split_at_mut(count);
        rest.fill(0.0);
        let mut sum = 0.0;
        for (i, weight) in weights.iter_mut().enumerate() {
            let x = ((i + first) as f64 - centre + 0.5) * (1.0 / self.filter_scale);
            *weight = self.filter.weight(x);
            sum += *weight;
        }
        if sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        (first, count)
    }
}

/// The most bits after the point (at most 22) for which the largest weight fits an i16.
fn torch_precision(largest: f64) -> u32 {
    (0..22).find(|bits| (0.5 + largest * f64::from(1 << (bits + 1))) as i64 >= 1 << 15).unwrap_or(22)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(input: usize, output: usize, filter: Filter, rounding: Rounding) -> Axis {
        Axis { input, output, first: 0, count: output, filter, rounding, antialias: true }
    }

    #[test]
    fn weights_of_one_output_sum_to_one() {
        use Filter::{Bicubic, Bilinear, Box, Hamming, Lanczos};
        let mut taps = Taps::new();
        for filter in [Box, Bilinear, Hamming, Bicubic, Lanczos] {
            for (input, output) in [(640, 224), (100, 224), (1, 224), (3000, 7), (2, 1)] {
                for rounding in [Rounding::Pillow, Rounding::Torchvision] {
                    taps.prepare(axis(input, output, filter, rounding));
                    let one = 1_i32 << taps.precision();
                    for i in 0..output {
                        let (first, weights) = taps.of(i);
                        assert!(first + weights.len() <= input);
                        let error = (weights.iter().sum::<i32>() - one).unsigned_abs() as usize;
                        assert!(error <= weights.len(), "{filter:?} {input} {output} {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn packed_halves_are_the_weights() {
        let mut taps = Taps::new();
        taps.prepare(axis(301, 64, Filter::Bicubic, Rounding::Pillow));
        for i in 0..taps.len() {
            let (first, weights) = taps.of(i);
            let (packed_first, low, high) = taps.packed(i);
            assert_eq!(first, packed_first);
            for (j, &weight) in weights.iter().enumerate() {
                let half = |packed: &[i32]| (packed[j / 2] >> (16 * (j % 2))) as i16;
                let (low, high) = (i32::from(half(low)), i32::from(half(high)));
                assert_eq!(high * (1 << 15) + low, weight);
            }
        }
    }

    #[test]
    fn an_extreme_window_is_cheap_and_inside() {
        let mut taps = Taps::new();
        let mut axis = axis(65_535, 224 * 65_535, Filter::Bilinear, Rounding::Pillow);
        (axis.first, axis.count) = (7_000_000, 224);
        taps.prepare(axis);
        assert!(taps.needed().len() < 4);
    }
}
