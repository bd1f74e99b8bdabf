//! Between our tensors and ONNX Runtime's values.

use std::hash::Hash;

use ndarray::{ArrayD, IxDyn};
use ort::session::SessionInputValue;
use ort::value::{
    DynMapValueType, DynValue, IntoTensorElementType, Outlet, Tensor as OrtTensor, TensorElementType, TensorRef,
    ValueType,
};

use crate::engine::TensorSpec;
use crate::for_each_element_type;
use crate::tensor::{ElementType, Tensor};

/// The element types that a client can express; `None` for the others (bfloat16, 8-bit floats, complex numbers).
fn element_type(element_type: TensorElementType) -> Option<ElementType> {
    Some(match element_type {
        TensorElementType::Float32 => ElementType::Float32,
        TensorElementType::Float16 => ElementType::Float16,
        TensorElementType::Float64 => ElementType::Float64,
        TensorElementType::Int8 => ElementType::Int8,
        TensorElementType::Int16 => ElementType::Int16,
        TensorElementType::Int32 => ElementType::Int32,
        TensorElementType::Int64 => ElementType::Int64,
        TensorElementType::Uint8 => ElementType::Uint8,
        TensorElementType::Uint16 => ElementType::Uint16,
        TensorElementType::Uint32 => ElementType::Uint32,
        TensorElementType::Uint64 => ElementType::Uint64,
        TensorElementType::Bool => ElementType::Bool,
        TensorElementType::String => ElementType::String,
        _ => return None,
    })
}

/// The name, type and shape of an input.
///
/// # Errors
/// A sentence that names the input, when it is no tensor or of a type that has no counterpart here.
pub(super) fn input_spec(outlet: &Outlet) -> Result<TensorSpec, String> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(format!("`{}` is a {}, not a tensor", outlet.name(), outlet.dtype()));
    };
    let element_type =
        element_type(*ty).ok_or_else(|| format!("`{}` has elements of the unsupported type {ty}", outlet.name()))?;
    Ok(TensorSpec {
        name: outlet.name().to_owned(),
        element_type,
        shape: shape.iter().map(|&length| usize::try_from(length).ok()).collect(),
        map_keys: None,
    })
}

/// The name, type and shape of an output, which may be one map per row as well.
///
/// # Errors
/// As [`input_spec`].
pub(super) fn output_spec(outlet: &Outlet) -> Result<TensorSpec, String> {
    let ValueType::Sequence(element) = outlet.dtype() else { return input_spec(outlet) };
    let name = outlet.name();
    let ValueType::Map { key, value } = &**element else {
        return Err(format!("`{name}` is a {}: only tensors and sequences of maps can be given back", outlet.dtype()));
    };
    // What ONNX-ML lets a ZipMap give.
    let map_keys = match (key, value) {
        (TensorElementType::Int64, TensorElementType::Float32) => ElementType::Int64,
        (TensorElementType::String, TensorElementType::Float32) => ElementType::String,
        _ => return Err(format!("`{name}` is a {}: export the model with zipmap=False", outlet.dtype())),
    };
    Ok(TensorSpec {
        name: name.to_owned(),
        element_type: ElementType::Float32,
        shape: vec![None, None],
        map_keys: Some(map_keys),
    })
}

/// A view of a tensor as an input value; only strings are copied.
pub(super) fn input_value(tensor: &Tensor) -> ort::Result<SessionInputValue<'_>> {
    if let Tensor::String(array) = tensor {
        return Ok(OrtTensor::from_string_array(array)?.into());
    }
    macro_rules! view {
        ($($variant:ident),*) => {
            match tensor {
                $(Tensor::$variant(array) => TensorRef::from_array_view(array)?.into(),)*
                Tensor::String(array) => OrtTensor::from_string_array(array)?.into(),
            }
        };
    }
    Ok(view!(Float32, Float16, Float64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool))
}

/// A copy of an output value.
pub(super) fn output_tensor(value: &DynValue) -> ort::Result<Tensor> {
    let ValueType::Tensor { ty, .. } = value.dtype() else {
        return Err(ort::Error::new("an output is not a tensor"));
    };
    let Some(element_type) = element_type(*ty) else {
        return Err(ort::Error::new("an output has elements of an unsupported type"));
    };
    macro_rules! copy {
        ($($variant:ident),*) => {
            match element_type {
                $(ElementType::$variant => Tensor::$variant(value.try_extract_array()?.to_owned()),)*
                ElementType::String => Tensor::String(value.try_extract_string_array()?),
            }
        };
    }
    Ok(copy!(Float32, Float16, Float64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32, Uint64, Bool))
}

/// A copy of an output that is one map per row: the values, and the keys, both of shape [rows, entries].
pub(super) fn output_maps(value: &DynValue, keys: ElementType) -> ort::Result<(Tensor, Tensor)> {
    fn unzip<K>(value: &DynValue) -> ort::Result<(Tensor, Tensor)>
    where
        K: IntoTensorElementType + Clone + Hash + Eq,
        Tensor: From<ArrayD<K>>,
    {
        let rows: Vec<Vec<(K, f32)>> = value
            .try_extract_sequence::<DynMapValueType>()?
            .iter()
            .map(|map| map.try_extract_key_values())
            .collect::<ort::Result<_>>()?;
        let shape = [rows.len(), rows.first().map_or(0, Vec::len)];
        let (keys, values): (Vec<K>, Vec<f32>) = rows.into_iter().flatten().unzip();
        let uneven = |_| ort::Error::new("the maps of an output have different numbers of entries");
        Ok((
            ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(uneven)?.into(),
            ArrayD::from_shape_vec(IxDyn(&shape), keys).map_err(uneven)?.into(),
        ))
    }
    match keys {
        ElementType::String => unzip::<String>(value),
        _ => unzip::<i64>(value),
    }
}

/// Appends copies of the last row until there are `rows`, for models whose batch is fixed.
///
/// The last row, not zeros: a model must not meet values that no client would send.
pub(super) fn pad(tensor: Tensor, rows: usize) -> Result<Tensor, crate::tensor::TensorError> {
    let present = tensor.row_count();
    if present >= rows {
        return Ok(tensor);
    }
    let last = tensor.rows(present - 1, present)?;
    let mut parts = vec![&tensor];
    parts.extend(std::iter::repeat_n(&last, rows - present));
    Tensor::concatenate(&parts)
}

/// Whether a tensor's elements lie one after the other, as the runtime needs them.
pub(super) fn is_contiguous(tensor: &Tensor) -> bool {
    fn contiguous<T>(array: &ArrayD<T>) -> bool {
        array.is_standard_layout()
    }
    for_each_element_type!(tensor, array => contiguous(array))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_repeats_the_last_row() {
        let two = Tensor::from(ArrayD::from_shape_vec(IxDyn(&[2, 1]), vec![1_i64, 2]).unwrap());
        let four = pad(two.clone(), 4).unwrap();
        assert_eq!(four, ArrayD::from_shape_vec(IxDyn(&[4, 1]), vec![1_i64, 2, 2, 2]).unwrap().into());
        assert_eq!(pad(two.clone(), 2).unwrap(), two);
    }
}
