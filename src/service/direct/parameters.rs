//! `parameters` as a tensor: what would be JSON elsewhere.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::read;
use crate::for_each_element_type;
use crate::protocol::generated::google::cloud::aiplatform::v1 as wire;
use crate::task::InputError;
use crate::task::tensors::{Output, Row, Value};
use crate::tensor::Tensor;

/// The JSON text of parameters: an object for `structVal`, a list for `listVal`, and otherwise the values, where one
/// value stands for itself.
///
/// # Errors
/// [`InputError`] with the whole path.
pub fn to_json(parameters: &wire::Tensor) -> Result<Vec<u8>, InputError> {
    value(parameters, "parameters").map(|json| json.to_string().into_bytes())
}

fn value(tensor: &wire::Tensor, path: &str) -> Result<Json, InputError> {
    if !tensor.struct_val.is_empty() {
        let entries = tensor.struct_val.iter().map(|(name, tensor)| {
            let path: String = format!("{path}.structVal.{name}").chars().take(100).collect();
            Ok((name.clone(), value(tensor, &path)?))
        });
        return entries.collect::<Result<Map<_, _>, InputError>>().map(Json::Object);
    }
    if *tensor == wire::Tensor::default() {
        return Ok(Json::Null);
    }
    let tensor = read::any(tensor, path)?;
    let shape: Vec<usize> = match tensor.shape() {
        // One value, with or without an axis, stands for itself.
        [] | [1] => vec![1],
        shape => std::iter::once(1).chain(shape.iter().copied()).collect(),
    };
    let row = for_each_element_type!(tensor, array => array.into_shape_with_order(shape).map(Tensor::from));
    let row = row.map_err(|error| InputError::new(path, error.to_string()))?;
    let output = Output { name: String::new(), flatten: false };
    let row = Row { outputs: Arc::from([output]), values: vec![Value { tensor: row, keys: None }] };
    serde_json::to_value(row).map_err(|error| InputError::new(path, error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::protocol::generated::google::cloud::aiplatform::v1::tensor::DataType;

    fn text(parameters: &wire::Tensor) -> String {
        String::from_utf8(to_json(parameters).unwrap()).unwrap()
    }

    #[test]
    fn names_and_values() {
        let count = |shape: Vec<i64>| wire::Tensor {
            dtype: DataType::Int64.into(),
            int64_val: vec![5],
            shape,
            ..Default::default()
        };
        for shape in [vec![], vec![1]] {
            let named = HashMap::from([("top_k".to_owned(), count(shape))]);
            assert_eq!(text(&wire::Tensor { struct_val: named, ..Default::default() }), r#"{"top_k":5}"#);
        }
        let list = wire::Tensor { list_val: vec![count(vec![]), count(vec![])], ..Default::default() };
        assert_eq!(text(&list), "[5,5]");
        assert_eq!(text(&wire::Tensor::default()), "null");
    }
}
