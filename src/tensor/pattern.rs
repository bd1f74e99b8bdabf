//! Values that are neither zeros nor alike: for trying and timing models, which may be faster on zeros.

use half::f16;

use super::Tensor;

/// One of 251 values from -0.5 to 0.5. As that is a prime number, rows and seeds don't fall together.
fn noise(index: usize, seed: usize) -> f32 {
    ((index * 37 + seed * 61) % 251) as f32 / 250.0 - 0.5
}

impl Tensor {
    /// A copy with a pattern added to its floats, another one for each seed; other types stay as they are, since not every
    /// value of them may be allowed.
    #[must_use]
    pub fn with_pattern(&self, seed: usize) -> Self {
        let mut copy = self.clone();
        match &mut copy {
            Self::Float32(array) => array.iter_mut().enumerate().for_each(|(at, value)| *value += noise(at, seed)),
            Self::Float64(array) => {
                array.iter_mut().enumerate().for_each(|(at, value)| *value += f64::from(noise(at, seed)));
            }
            Self::Float16(array) => {
                let add = |(at, value): (usize, &mut f16)| *value = f16::from_f32(value.to_f32() + noise(at, seed));
                array.iter_mut().enumerate().for_each(add);
            }
            _ => {}
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::ElementType;

    #[test]
    fn floats_differ_from_place_to_place_and_from_seed_to_seed() {
        for element_type in [ElementType::Float16, ElementType::Float32, ElementType::Float64] {
            let zeros = Tensor::zeros(element_type, &[1, 7]);
            assert_ne!(zeros.with_pattern(0), zeros);
            assert_ne!(zeros.with_pattern(0), zeros.with_pattern(1));
            assert_eq!(zeros.with_pattern(3), zeros.with_pattern(3));
        }
        let Tensor::Float32(array) = Tensor::zeros(ElementType::Float32, &[251]).with_pattern(9) else {
            unreachable!()
        };
        assert!(array.iter().all(|value| value.abs() <= 0.5));
        let whole = Tensor::zeros(ElementType::Int64, &[1, 7]);
        assert_eq!(whole.with_pattern(1), whole);
    }
}
