//! Instances that already are the model's tensors.

use std::time::Duration;

use super::{InputError, PreparationTimes, Prepared};
use crate::engine::{Item, TensorSpec};
use crate::tensor::Tensor;

/// Takes one row of each input as it is.
///
/// # Errors
/// [`InputError`] names the input whose tensor the model can't be given.
pub(super) fn given(item: &Item, inputs: &[TensorSpec]) -> Result<Prepared, InputError> {
    if item.len() != inputs.len() {
        let message = format!("has {} tensors; the model takes {}", item.len(), inputs.len());
        return Err(InputError::new("", message));
    }
    for (tensor, input) in item.iter().zip(inputs) {
        check(tensor, input).map_err(|message| InputError::new(input.name.clone(), message))?;
        if tensor.row_count() != 1 {
            let message = format!("has {} rows; an instance has one", tensor.row_count());
            return Err(InputError::new(input.name.clone(), message));
        }
    }
    let times = PreparationTimes { decode: Duration::ZERO, preprocess: Duration::ZERO };
    Ok(Prepared { item: item.clone(), times, image: None })
}

/// Whether a tensor is what an input takes, in any number of rows.
///
/// # Errors
/// The rest of a sentence that begins with the tensor's name.
pub fn check(tensor: &Tensor, input: &TensorSpec) -> Result<(), String> {
    input.check(tensor.element_type(), tensor.shape())?;
    match tensor {
        Tensor::String(texts) if texts.iter().any(|text| text.contains('\0')) => {
            Err("has a NUL character (U+0000), which the model can't be given".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether all values are numbers. Of pictures they must be: the answer would be none, and look like the model's fault.
///
/// # Errors
/// The rest of a sentence that begins with the tensor's name.
pub(super) fn check_finite(item: &Item) -> Result<(), String> {
    let odd = |tensor: &Tensor| match tensor {
        Tensor::Float32(values) => values.iter().any(|value| !value.is_finite()),
        Tensor::Float16(values) => values.iter().any(|value| !value.is_finite()),
        Tensor::Float64(values) => values.iter().any(|value| !value.is_finite()),
        _ => false,
    };
    match item.iter().any(odd) {
        true => Err("has values that are not finite numbers; a prepared picture has none".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, IxDyn};

    use super::*;
    use crate::tensor::ElementType;

    fn spec(shape: &[Option<usize>]) -> TensorSpec {
        TensorSpec { name: "x".to_owned(), element_type: ElementType::Float32, shape: shape.to_vec(), map_keys: None }
    }

    #[test]
    fn type_rank_and_fixed_axes_must_fit() {
        let input = spec(&[Some(4), Some(3), None]);
        for shape in [[1, 3, 2], [7, 3, 0]] {
            assert_eq!(check(&Tensor::zeros(ElementType::Float32, &shape), &input), Ok(()), "{shape:?}");
        }
        for (kind, shape) in [
            (ElementType::Float64, &[1, 3, 2][..]),
            (ElementType::Float32, &[1, 2, 2]),
            (ElementType::Float32, &[1, 3]),
            (ElementType::Float32, &[]),
        ] {
            assert!(check(&Tensor::zeros(kind, shape), &input).is_err(), "{kind}{shape:?}");
        }
    }

    #[test]
    fn an_instance_is_one_row_of_each_input() {
        let inputs = [spec(&[None, Some(2)])];
        assert!(given(&vec![Tensor::zeros(ElementType::Float32, &[1, 2])], &inputs).is_ok());
        assert!(given(&vec![Tensor::zeros(ElementType::Float32, &[2, 2])], &inputs).is_err());
        assert!(given(&vec![], &inputs).is_err());
    }

    #[test]
    fn a_picture_is_made_of_numbers() {
        let picture = |value: f32| vec![Tensor::from(ArrayD::from_elem(IxDyn(&[1, 3, 2, 2]), value))];
        assert_eq!(check_finite(&picture(-1.0)), Ok(()));
        assert!(check_finite(&picture(f32::NAN)).is_err() && check_finite(&picture(f32::INFINITY)).is_err());
    }

    #[test]
    fn the_runtime_has_no_nul() {
        let input = TensorSpec { element_type: ElementType::String, ..spec(&[None]) };
        let text = |text: &str| Tensor::from(ArrayD::from_elem(IxDyn(&[1]), text.to_owned()));
        assert!(check(&text("a"), &input).is_ok() && check(&text("a\0"), &input).is_err());
    }
}
