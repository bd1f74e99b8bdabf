//! From JSON to tensors and back, without a model.

use bytes::Bytes;
use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;

use super::*;
use crate::for_each_element_type;
use crate::tensor::ElementType;

fn spec(name: &str, element_type: ElementType, shape: &[Option<usize>]) -> TensorSpec {
    let shape = std::iter::once(None).chain(shape.iter().copied()).collect();
    TensorSpec { name: name.to_owned(), element_type, shape, map_keys: None }
}

fn flattened(flatten: bool) -> OutputOptions {
    OutputOptions { flatten, names: None }
}

/// A task that would give back what it gets.
fn echo(specs: &[TensorSpec], flatten: bool) -> Tensors {
    Tensors::new(&Signature { inputs: specs.to_vec(), outputs: specs.to_vec() }, &flattened(flatten)).unwrap()
}

fn prepare(task: &Tensors, json: &str) -> Result<Item, InputError> {
    task.prepare(&Instance::Json(Bytes::copy_from_slice(json.as_bytes()))).map(|prepared| prepared.item)
}

fn written(task: &Tensors, item: &[Tensor]) -> String {
    serde_json::to_string(&task.finish(item).unwrap()).unwrap()
}

fn row<T>(shape: &[usize], elements: Vec<T>) -> Tensor
where
    Tensor: From<ArrayD<T>>,
{
    let shape: Vec<usize> = std::iter::once(1).chain(shape.iter().copied()).collect();
    ArrayD::from_shape_vec(IxDyn(&shape), elements).unwrap().into()
}

/// A row of any type and of up to three axes, none of them empty: an empty list hides the lengths inside it.
fn rows() -> impl Strategy<Value = Tensor> {
    prop::collection::vec(1usize..4, 0..4).prop_flat_map(|shape| {
        let count = shape.iter().product::<usize>();
        macro_rules! one_of {
            ($($element:expr),*) => {
                prop_oneof![$({
                    let shape = shape.clone();
                    prop::collection::vec($element, count).prop_map(move |elements| row(&shape, elements))
                }),*]
            };
        }
        let float32 = any::<u32>().prop_map(f32::from_bits);
        let float64 = any::<u64>().prop_map(f64::from_bits);
        let float16 = any::<u16>().prop_map(half::f16::from_bits);
        let integers = one_of![
            any::<i8>(),
            any::<i16>(),
            any::<i32>(),
            any::<i64>(),
            any::<u8>(),
            any::<u16>(),
            any::<u32>(),
            any::<u64>()
        ];
        prop_oneof![
            4 => integers,
            5 => one_of![float32, float64, float16, any::<bool>(), "[^\u{0}]{0,8}"],
        ]
    })
}

/// Equality under which NaN is itself.
fn same(one: &Tensor, other: &Tensor) -> bool {
    let shown = |tensor: &Tensor| for_each_element_type!(tensor, array => format!("{array:?}"));
    one.element_type() == other.element_type() && shown(one) == shown(other)
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(tensor in rows(), fixed in any::<bool>(), named in any::<bool>()) {
        let shape: Vec<Option<usize>> = tensor.shape()[1..].iter().map(|&length| fixed.then_some(length)).collect();
        let task = echo(&[spec("x", tensor.element_type(), &shape)], false);
        let json = written(&task, std::slice::from_ref(&tensor));
        let instance = if named { format!(r#"{{"x":{json}}}"#) } else { json.clone() };
        let item = prepare(&task, &instance).unwrap();
        prop_assert!(same(&item[0], &tensor), "{json}: {:?}", item[0]);
        prop_assert_eq!(written(&task, &item), json);
    }

    #[test]
    fn no_text_makes_it_panic(text in r#"[\[\]{}",:b64x0-9eE.+\- ntrufalse]{0,40}"#) {
        for kind in [ElementType::Float32, ElementType::String, ElementType::Uint8, ElementType::Bool] {
            let task = echo(&[spec("x", kind, &[None, Some(2)])], false);
            if let Ok(item) = prepare(&task, &text) {
                prop_assert_eq!(item[0].shape()[2], if item[0].shape()[1] == 0 { 2 } else { item[0].shape()[2] });
            }
        }
    }

    #[test]
    fn a_list_too_short_or_too_long_is_named(rows in 1usize..4, columns in 1usize..4, at in 0usize..3, more in any::<bool>()) {
        let at = at % rows;
        let mut lists = vec![vec![0; columns]; rows];
        if more { lists[at].push(0) } else { lists[at].pop(); }
        let task = echo(&[spec("x", ElementType::Int32, &[Some(rows), Some(columns)])], false);
        let error = prepare(&task, &serde_json::to_string(&lists).unwrap()).unwrap_err();
        prop_assert_eq!(error.path, format!("[{at}]"));
    }
}

#[test]
fn floats_are_written_with_no_more_digits_than_they_have() {
    let task = echo(&[spec("x", ElementType::Float32, &[Some(3)])], false);
    assert_eq!(written(&task, &[row(&[3], vec![0.1f32, 1e-7, f32::NAN])]), r#"[0.1,1e-7,"NaN"]"#);
    let task = echo(&[spec("x", ElementType::Float64, &[Some(2)])], false);
    assert_eq!(written(&task, &[row(&[2], vec![0.1f64, f64::NEG_INFINITY])]), r#"[0.1,"-Infinity"]"#);
}

#[test]
fn flattening_is_for_lists_of_one_alone() {
    let one = spec("x", ElementType::Int64, &[Some(1)]);
    let two = spec("y", ElementType::Int64, &[Some(2)]);
    let deep = spec("z", ElementType::Int64, &[Some(1), Some(1)]);
    let item = [row(&[1], vec![7i64]), row(&[2], vec![8, 9]), row(&[1, 1], vec![5i64])];
    let specs = [one, two, deep];
    assert_eq!(written(&echo(&specs, false), &item), r#"{"x":[7],"y":[8,9],"z":[[5]]}"#);
    assert_eq!(written(&echo(&specs, true), &item), r#"{"x":7,"y":[8,9],"z":[[5]]}"#);
}

#[test]
fn maps_and_bytes_have_their_own_forms() {
    let input = spec("x", ElementType::Float32, &[Some(2)]);
    let bytes = spec("text_bytes", ElementType::String, &[]);
    let map = TensorSpec { map_keys: Some(ElementType::Int64), ..spec("map", ElementType::Float32, &[None]) };
    let signature = Signature { inputs: vec![input], outputs: vec![map, bytes] };
    let task = Tensors::new(&signature, &flattened(false)).unwrap();
    let outputs = [row(&[2], vec![0.25f32, f32::NAN]), row(&[], vec!["a".to_owned()]), row(&[2], vec![3i64, -1])];
    assert_eq!(written(&task, &outputs), r#"{"map":{"3":0.25,"-1":"NaN"},"text_bytes":{"b64":"YQ=="}}"#);
    assert!(task.finish(&outputs[..2]).is_err());
    let two_rows = Tensor::zeros(ElementType::String, &[2]);
    assert!(task.finish(&[outputs[0].clone(), two_rows, outputs[2].clone()]).is_err());
}

#[test]
fn outputs_can_be_chosen() {
    let specs = ["a", "b", "c"].map(|name| TensorSpec {
        map_keys: (name == "a").then_some(ElementType::Int64),
        ..spec(name, ElementType::Float32, &[Some(1)])
    });
    let input = vec![spec("x", ElementType::Float32, &[Some(2)])];
    let signature = Signature { inputs: input, outputs: specs.to_vec() };
    let chosen = |names: &[&str]| {
        let names = Some(names.iter().map(ToString::to_string).collect());
        Tensors::new(&signature, &OutputOptions { flatten: true, names })
    };
    let outputs = [row(&[1], vec![1f32]), row(&[1], vec![2f32]), row(&[1], vec![3f32]), row(&[1], vec![9i64])];
    assert_eq!(written(&chosen(&["b"]).unwrap(), &outputs), "2.0");
    assert_eq!(written(&chosen(&["c", "a"]).unwrap(), &outputs), r#"{"c":3.0,"a":{"9":1.0}}"#);
    let error = chosen(&["b", "d"]).unwrap_err();
    assert!(error.contains("`d`") && error.contains("c float32[?,1]"), "{error}");
    assert!(chosen(&[]).is_err());
}

#[test]
fn an_input_may_be_called_b64() {
    let task = echo(&[spec("b64", ElementType::String, &[])], false);
    assert_eq!(prepare(&task, r#"{"b64":"YQ=="}"#).unwrap(), [row(&[], vec!["YQ==".to_owned()])]);
    let task = echo(&[spec("x", ElementType::String, &[])], false);
    assert_eq!(prepare(&task, r#" {"b64":"YQ=="}"#).unwrap(), [row(&[], vec!["a".to_owned()])]);
    assert_eq!(prepare(&task, r#"{"b64":""}"#).unwrap(), [row(&[], vec![String::new()])]);
}

#[test]
fn broken_instances_are_named() {
    let task = echo(&[spec("x", ElementType::Float32, &[None, Some(2)])], false);
    for (json, path, words) in [
        ("[[1,2],[1e999,2]]", "[1][0]", "not valid JSON"),
        ("[[1,2],[1,{\"b64\":\"YQ==\"}]]", "[1][1].b64", "is an object; it must be a number"),
        ("[[1,2],{\"a\":1}]", "[1]", "is an object"),
        ("{\"x\":[[1,2]],\"x\":[[1,2]]}", "x", "is given twice"),
        ("[[1,2]] 3", "", "not valid JSON"),
        ("{\"b64\":\"YQ==\",\"c\":1}", "b64", "is an object; it must be a list"),
    ] {
        let error = prepare(&task, json).unwrap_err();
        assert_eq!(error.path, path, "{json}: {error}");
        assert!(error.message.contains(words), "{json}: {error}");
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(prepare(&task, &deep).unwrap_err().path, "[0][0]");
}

#[test]
fn models_without_a_batch_are_refused() {
    let signature = |inputs: Vec<TensorSpec>| Signature { outputs: inputs.clone(), inputs };
    let batch = |name: &str, rows| TensorSpec { shape: vec![rows], ..spec(name, ElementType::Int8, &[]) };
    let scalar = TensorSpec { shape: Vec::new(), ..spec("x", ElementType::Int8, &[]) };
    assert!(Tensors::new(&signature(vec![scalar]), &flattened(false)).unwrap_err().contains("x int8[]"));
    let error = Tensors::new(&signature(vec![batch("a", None), batch("b", Some(4))]), &flattened(false)).unwrap_err();
    assert!(error.contains("b int8[4]") && error.contains("a int8[?]"), "{error}");
    assert!(Tensors::new(&signature(vec![batch("a", Some(4)), batch("b", Some(4))]), &flattened(false)).is_ok());
}

#[test]
fn long_examples_are_described() {
    let task = echo(&[spec("pixels", ElementType::Float32, &[Some(3), Some(224), Some(224)])], false);
    assert_eq!(task.example_instance(), json!("<lists of shape [3, 224, 224] of float32>"));
}

#[test]
fn an_item_is_counted_as_large_as_its_example() {
    let inputs = [
        spec("pixels", ElementType::Float32, &[None, Some(3), Some(8), Some(8)]),
        spec("words", ElementType::String, &[None, None]),
        spec("flag", ElementType::Bool, &[Some(1)]),
    ];
    let task = echo(&inputs, false);
    let bytes: usize = task.example().iter().map(Tensor::byte_size).sum();
    assert_eq!((task.item_bytes(), bytes), (bytes, 3 * 8 * 8 * 4 + size_of::<String>() + 1));
}
