//! Which part of which resized picture fills the tensor. All sizes are in pixels.

/// The size that a picture is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Pictures keep their size.
    None,
    /// Both sides are given; the aspect ratio is not kept.
    Exact {
        /// Height of the result.
        height: u32,
        /// Width of the result.
        width: u32,
    },
    /// The shorter side is given and the aspect ratio kept.
    ShortestEdge {
        /// The shorter side of the result.
        edge: u32,
        /// The longer side is at most this; the shorter one then shrinks with it.
        longest: Option<u32>,
    },
}

impl Resize {
    /// Width and height that a picture of `width` x `height` pixels is resized to.
    pub(super) fn target(self, width: usize, height: usize) -> (usize, usize) {
        match self {
            Self::None => (width, height),
            Self::Exact { height, width } => (width as usize, height as usize),
            Self::ShortestEdge { edge, longest } => {
                let (short, long) = (width.min(height) as u64, width.max(height) as u64);
                let mut new_short = u64::from(edge);
                let mut new_long = new_short * long / short;
                if let Some(longest) = longest.map(u64::from)
                    && new_long > longest
                {
                    new_short = (longest * new_short / new_long).max(1);
                    new_long = longest;
                }
                let (short, long) = (new_short as usize, new_long as usize);
                if width <= height { (short, long) } else { (long, short) }
            }
        }
    }

    /// By what a picture may be divided before it is resized: 8, 4, 2 or 1, such that both sides stay `oversample` times
    /// as long as the target's.
    pub(super) fn divisor(self, width: usize, height: usize, oversample: f64) -> usize {
        let target = self.target(width, height);
        let stays = |side: usize, divisor: usize, target: usize| (side / divisor) as f64 >= oversample * target as f64;
        let fits = |divisor: &usize| stays(width, *divisor, target.0) && stays(height, *divisor, target.1);
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }
}

/// Height and width of a centre crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Height of the result.
    pub height: u32,
    /// Width of the result.
    pub width: u32,
}

/// How the centre is rounded where the margins cannot be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CropOffset {
    /// Down, and up where the picture is padded: Hugging Face's PIL backend.
    Floor,
    /// Towards zero, cropped or padded: Hugging Face's torchvision backend.
    Truncate,
    /// To the nearest even number, and down where the picture is padded: torchvision and timm.
    HalfEven,
}

/// The way from one picture to the tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Width and height that the whole picture is resized to.
    pub resized: (usize, usize),
    /// The part of the resized picture that is needed, which is never empty.
    pub window: Window,
    /// Column and row of the tensor that the window starts at; what is left is zero.
    pub placed: (usize, usize),
    /// Width and height of the tensor.
    pub output: (usize, usize),
}

/// A rectangle of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub left: usize,
    pub top: usize,
    pub width: usize,
    pub height: usize,
}

impl Plan {
    /// Plans for a picture of `width` x `height` pixels.
    pub fn new(resize: Resize, crop: Option<Crop>, offset: CropOffset, width: usize, height: usize) -> Self {
        let resized = resize.target(width, height);
        let output = crop.map_or(resized, |crop| (crop.width as usize, crop.height as usize));
        let (left, columns, x) = centre(resized.0, output.0, offset);
        let (top, rows, y) = centre(resized.1, output.1, offset);
        Self { resized, window: Window { left, top, width: columns, height: rows }, placed: (x, y), output }
    }

    /// Whether the window leaves a part of the tensor open.
    pub fn is_padded(&self) -> bool {
        (self.window.width, self.window.height) != self.output
    }
}

/// First pixel taken, number of pixels taken, and where they begin in the crop.
fn centre(have: usize, want: usize, offset: CropOffset) -> (usize, usize, usize) {
    if have < want {
        let missing = want - have;
        let before = match offset {
            CropOffset::Floor => missing.div_ceil(2),
            CropOffset::Truncate | CropOffset::HalfEven => missing / 2,
        };
        return (0, have, before);
    }
    let spare = have - want;
    let before = match offset {
        CropOffset::HalfEven if spare % 4 == 3 => spare / 2 + 1,
        _ => spare / 2,
    };
    (before, want, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_side_is_truncated() {
        let resize = |longest| Resize::ShortestEdge { edge: 248, longest };
        assert_eq!(resize(None).target(640, 427), (371, 248));
        assert_eq!(resize(None).target(427, 640), (248, 371));
        assert_eq!(resize(Some(300)).target(640, 427), (300, 200));
    }

    #[test]
    fn a_divided_picture_stays_larger_than_its_target() {
        let exact = Resize::Exact { height: 224, width: 224 };
        assert_eq!(exact.divisor(4000, 3000, 2.0), 4);
        assert_eq!(exact.divisor(4000, 3000, 1.0), 8);
        assert_eq!(exact.divisor(8000, 895, 2.0), 1);
        assert_eq!(exact.divisor(896, 896, 2.0), 2);
        assert_eq!(exact.divisor(895, 4000, 2.0), 1);
        assert_eq!(exact.divisor(100, 100, 1.0), 1);
        assert_eq!(Resize::None.divisor(4000, 3000, 1.0), 1);
        assert_eq!(Resize::ShortestEdge { edge: 248, longest: None }.divisor(4000, 3000, 2.0), 4);
    }

    #[test]
    fn centres_round_as_the_references_do() {
        use CropOffset::{Floor, HalfEven, Truncate};
        // Python: round(0.5) == 0, round(1.5) == 2, round(2.5) == 2.
        for (spare, half_even) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4)] {
            assert_eq!(centre(10 + spare, 10, HalfEven), (half_even, 10, 0));
            assert_eq!(centre(10 + spare, 10, Floor), (spare / 2, 10, 0));
        }
        assert_eq!(centre(7, 10, Floor), (0, 7, 2));
        assert_eq!(centre(7, 10, Truncate), (0, 7, 1));
    }

    #[test]
    fn an_extreme_picture_asks_for_the_crop_only() {
        let resize = Resize::ShortestEdge { edge: 224, longest: None };
        let crop = Crop { height: 224, width: 224 };
        let plan = Plan::new(resize, Some(crop), CropOffset::Floor, 1, 65_535);
        assert_eq!(plan.resized, (224, 224 * 65_535));
        assert_eq!((plan.window.width, plan.window.height), (224, 224));
        assert!(!plan.is_padded());
    }
}
