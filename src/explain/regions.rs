//! The features of a picture: the fields of a grid over its tensor.

use ndarray::{ArrayD, ArrayView, Axis, Slice};
use ndarray::{ArrayViewD, Ix4};

use super::shapley::Coalition;

/// Where a picture's tensor has its height; its width is the next axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// [1, channels, height, width]
    ChannelsFirst,
    /// [1, height, width, channels]
    ChannelsLast,
}

/// A grid of fields, as equal as whole pixels allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Fields from top to bottom.
    rows: usize,
    /// Fields from left to right.
    columns: usize,
    /// The axis of the height.
    vertical: usize,
}

impl Grid {
    /// A grid of `side` times `side` fields over a tensor of this shape, or fewer where there are fewer pixels.
    pub fn new(side: usize, shape: &[usize], layout: Layout) -> Self {
        let vertical = match layout {
            Layout::ChannelsFirst => 2,
            Layout::ChannelsLast => 1,
        };
        let fields = |axis: usize| side.clamp(1, shape.get(axis).copied().unwrap_or(1).max(1));
        Self { rows: fields(vertical), columns: fields(vertical + 1), vertical }
    }

    /// How many fields there are; they are counted row by row.
    pub fn count(self) -> usize {
        self.rows * self.columns
    }

    /// The picture with all fields outside of the coalition taken from the baseline, which has the same shape. `None` if
    /// that isn't so, or if they have not four axes.
    pub fn variant<T: Clone>(
        self,
        picture: &ArrayViewD<'_, T>,
        baseline: &ArrayViewD<'_, T>,
        coalition: &Coalition,
    ) -> Option<ArrayD<T>> {
        let picture: ArrayView<'_, T, Ix4> = picture.view().into_dimensionality().ok()?;
        if picture.shape() != baseline.shape() {
            return None;
        }
        let mut variant = baseline.view().into_dimensionality::<Ix4>().ok()?.to_owned();
        let bounds = |axis: usize, field: usize, fields: usize| {
            let length = picture.len_of(Axis(axis));
            Slice::from((field * length / fields)..((field + 1) * length / fields))
        };
        for field in (0..self.count()).filter(|&field| coalition.contains(field)) {
            let rows = bounds(self.vertical, field / self.columns, self.rows);
            let columns = bounds(self.vertical + 1, field % self.columns, self.columns);
            let own = picture.slice_axis(Axis(self.vertical), rows);
            let own = own.slice_axis(Axis(self.vertical + 1), columns);
            let mut other = variant.slice_axis_mut(Axis(self.vertical), rows);
            other.slice_axis_inplace(Axis(self.vertical + 1), columns);
            other.assign(&own);
        }
        Some(variant.into_dyn())
    }

    /// The contributions as rows of the grid.
    pub fn named(self, name: &str, contributions: &[f64]) -> serde_json::Value {
        let rows: Vec<&[f64]> = contributions.chunks(self.columns).collect();
        serde_json::json!({ name: rows })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array4, IxDyn};
    use serde_json::json;

    use super::super::shapley::Plan;
    use super::*;

    #[test]
    fn fields_cover_every_pixel_once() {
        for (layout, shape) in [(Layout::ChannelsFirst, [1, 3, 5, 7]), (Layout::ChannelsLast, [1, 5, 7, 3])] {
            let grid = Grid::new(3, &shape, layout);
            assert_eq!(grid.count(), 9);
            let (ones, zeros) = (ArrayD::from_elem(IxDyn(&shape), 1), ArrayD::from_elem(IxDyn(&shape), 0));
            // The coalitions of one field: their pixels add up to the picture.
            let plan = Plan::new(9, 1000);
            let single = plan.coalitions().iter().filter(|c| (0..9).filter(|&field| c.contains(field)).count() == 1);
            let sum = single.map(|one| grid.variant(&ones.view(), &zeros.view(), one).unwrap()).reduce(|a, b| a + b);
            assert_eq!(sum, Some(ones.clone()));
        }
    }

    #[test]
    fn a_field_is_a_rectangle_over_all_channels() {
        let picture = Array4::<i32>::ones((1, 2, 4, 4)).into_dyn();
        let baseline = ArrayD::zeros(picture.raw_dim());
        let grid = Grid::new(2, picture.shape(), Layout::ChannelsFirst);
        let plan = Plan::new(4, 100);
        let is_top_right = |c: &&Coalition| (0..4).all(|field| c.contains(field) == (field == 1));
        let top_right = plan.coalitions().iter().find(is_top_right).unwrap();
        let variant = grid.variant(&picture.view(), &baseline.view(), top_right).unwrap();
        for ((_, _, y, x), value) in variant.into_dimensionality::<Ix4>().unwrap().indexed_iter() {
            assert_eq!(*value, i32::from(y < 2 && x >= 2), "{y} {x}");
        }
    }

    #[test]
    fn a_small_picture_has_fewer_fields() {
        assert_eq!(Grid::new(7, &[1, 3, 2, 9], Layout::ChannelsFirst).count(), 14);
        let grid = Grid::new(2, &[1, 3, 2, 2], Layout::ChannelsFirst);
        assert_eq!(grid.named("p", &[1.0, 2.0, 3.0, 4.0]), json!({"p": [[1.0, 2.0], [3.0, 4.0]]}));
        let small = ArrayD::<f32>::zeros(IxDyn(&[1, 3]));
        assert!(grid.variant(&small.view(), &small.view(), &Plan::new(1, 1).coalitions()[0]).is_none());
    }
}
