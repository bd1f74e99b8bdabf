//! On the CPU provider, with and without a second place for what the session sees, which is how it is with graphs.

use std::path::{Path, PathBuf};

use ndarray::{ArrayD, IxDyn};

use super::*;
use crate::engine::Engine;
use crate::engine::onnx::{Bound, Example, IoBinding, OnnxModel, OnnxOptions, Provider, library};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name).join("model.onnx")
}

fn session(path: &Path) -> ModelSession {
    let environment = library::environment(None).unwrap();
    ModelSession::open(&environment, path, Provider::Cpu, 1, &OnnxOptions::default(), None).unwrap()
}

fn bound(path: &Path, max_batch: usize, has_device: bool) -> BoundSession {
    let memory = |session: &ModelSession| session.memory_of(Provider::Cpu, has_device);
    BoundSession::new(Box::new(session(path)), max_batch, memory).map_err(|(_, reason)| reason).unwrap()
}

/// Pictures that differ in every row.
fn pictures(count: usize, seed: usize) -> Vec<Item> {
    let zeros = Tensor::zeros(crate::tensor::ElementType::Float32, &[1, 3, 224, 224]);
    (0..count).map(|index| vec![zeros.with_pattern(seed + index)]).collect()
}

fn assert_close(plain: &[Item], bound: &[Item]) {
    assert_eq!(plain.len(), bound.len());
    // Other sizes of batch may add in another order.
    let apart = difference(plain, bound);
    assert!(apart < 1e-4, "{apart}");
}

#[test]
fn at_most_a_third_of_a_bucket_is_padding() {
    assert_eq!(bucket_sizes(64, None), [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]);
    assert_eq!(bucket_sizes(1, None), [1]);
    assert_eq!(bucket_sizes(5, None), [1, 2, 3, 4, 5]);
    assert_eq!(bucket_sizes(20, None), [1, 2, 3, 4, 6, 8, 12, 16, 20]);
    assert_eq!(bucket_sizes(16, Some(4)), [4]);
}

#[test]
fn bound_runs_equal_plain_ones_in_every_bucket_and_between() {
    let path = model("models/fashion-vit/1");
    let plain = session(&path);
    for has_device in [false, true] {
        let mut bound = bound(&path, 6, has_device);
        assert_eq!(bound.sizes(), [1, 2, 3, 4, 6]);
        // Up and down again, so that each finds what another left there; 7 is beyond the largest bucket.
        for count in [1, 2, 3, 4, 5, 6, 7, 5, 3, 1, 6, 2] {
            let batch = pictures(count, count * 100);
            assert_close(&plain.run(&batch).unwrap(), &bound.run(&batch).unwrap());
        }
    }
}

#[test]
fn many_callers_get_their_own_answers_from_bound_workers() {
    let path = model("models/fashion-vit/1");
    let options =
        OnnxOptions { io_binding: IoBinding::On, workers: 3, threads: 1, max_batch: 6, ..OnnxOptions::default() };
    let example = Example { item: pictures(1, 0).remove(0), is_typical: true };
    let (engine, _) = OnnxModel::open(&path, &options).unwrap().start("bound", Some(example)).unwrap();
    assert_eq!((engine.bound(), engine.concurrency()), (Bound { memory: true, graphs: false }, 3));
    let plain = session(&path);
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let (engine, plain) = (&engine, &plain);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for turn in 0..5 {
                    let batch = pictures(1 + (caller * 3 + turn * 2) % 6, caller * 1000 + turn * 100);
                    let outputs = runtime.block_on(engine.run(batch.clone().into())).unwrap().outputs;
                    assert_close(&plain.run(&batch).unwrap(), &outputs);
                }
            });
        }
    });
}

#[test]
fn nothing_is_bound_on_a_cpu_unless_told() {
    let example = || Example { item: pictures(1, 0).remove(0), is_typical: true };
    let path = model("models/fashion-vit/1");
    let (engine, _) = OnnxModel::open(&path, &OnnxOptions::default()).unwrap().start("plain", Some(example())).unwrap();
    assert_eq!(engine.bound(), Bound::default());
    // Without an example nothing proves itself.
    let options = OnnxOptions { io_binding: IoBinding::On, ..OnnxOptions::default() };
    let (engine, _) = OnnxModel::open(&path, &options).unwrap().start("unproved", None).unwrap();
    assert_eq!(engine.bound(), Bound::default());
}

#[test]
fn outputs_that_were_handed_out_stay_as_they_are() {
    let mut bound = bound(&model("models/fashion-vit/1"), 2, true);
    let first = bound.run(&pictures(2, 0)).unwrap();
    let kept = first.clone();
    let second = bound.run(&pictures(2, 50)).unwrap();
    assert_eq!(first, kept);
    assert!(difference(&first, &second) > 1e-3);
}

#[test]
fn items_of_several_rows_are_told_apart() {
    let path = model("models/fashion-vit/1");
    let plain = session(&path);
    let mut bound = bound(&path, 8, false);
    let singles = pictures(5, 7);
    let join = |items: &[Item]| {
        let tensors: Vec<&Tensor> = items.iter().map(|item| &item[0]).collect();
        vec![Tensor::concatenate(&tensors).unwrap()]
    };
    let batch = [join(&singles[..2]), join(&singles[2..3]), join(&singles[3..])];
    let outputs = bound.run(&batch).unwrap();
    assert_eq!(outputs.iter().map(|item| item[0].row_count()).collect::<Vec<_>>(), [2, 1, 2]);
    assert_close(&plain.run(&batch).unwrap(), &outputs);
}

#[test]
fn every_type_of_a_fixed_size_goes_through_unchanged() {
    use crate::tensor::ElementType::*;
    for (name, element_type) in [
        ("float16", Float16),
        ("float32", Float32),
        ("float64", Float64),
        ("int8", Int8),
        ("int16", Int16),
        ("int32", Int32),
        ("int64", Int64),
        ("uint8", Uint8),
        ("uint16", Uint16),
        ("uint32", Uint32),
        ("uint64", Uint64),
        ("bool", Bool),
    ] {
        let path = model(&format!("tests/models/echo-{name}/1"));
        let plain = session(&path);
        let spec = plain.signature().inputs[0].clone();
        assert_eq!(spec.element_type, element_type);
        let mut bound = match BoundSession::new(Box::new(session(&path)), 4, ModelSession::memory) {
            Ok(bound) => bound,
            Err((_, reason)) => panic!("{name}: {reason}"),
        };
        let shape: Vec<usize> = spec.shape.iter().map(|length| length.unwrap_or(1)).collect();
        let item = |step: u8| {
            let mut bytes = Vec::new();
            let count: usize = shape.iter().product::<usize>() * element_type.size();
            (0..count).for_each(|index| bytes.push((index as u8).wrapping_add(step) & 1));
            vec![from_bytes(element_type, &bytes, &shape)]
        };
        let batch = [item(0), item(1), item(0)];
        assert_eq!(bound.run(&batch).unwrap(), plain.run(&batch).unwrap(), "{name}");
    }
}

fn from_bytes(element_type: crate::tensor::ElementType, bytes: &[u8], shape: &[usize]) -> Tensor {
    use crate::tensor::bytes::Binary;
    let count = shape.iter().product();
    macro_rules! read {
        ($($variant:ident: $element:ty),*) => {
            match element_type {
                $(crate::tensor::ElementType::$variant => {
                    let elements = <$element>::read(bytes, count).unwrap();
                    ArrayD::from_shape_vec(IxDyn(shape), elements).unwrap().into()
                })*
                crate::tensor::ElementType::String => unreachable!(),
            }
        };
    }
    read!(
        Float32: f32, Float16: half::f16, Float64: f64, Int8: i8, Int16: i16, Int32: i32, Int64: i64,
        Uint8: u8, Uint16: u16, Uint32: u32, Uint64: u64, Bool: bool
    )
}

#[test]
fn a_fixed_batch_is_filled_with_the_last_row() {
    let path = model("tests/models/fixed-4/1");
    let plain = session(&path);
    let input = &plain.signature().inputs[0];
    let shape: Vec<usize> = std::iter::once(1).chain(input.shape[1..].iter().map(|length| length.unwrap())).collect();
    let example = Tensor::zeros(input.element_type, &shape);
    let batch: Vec<Item> = (0..3).map(|row| vec![example.with_pattern(row)]).collect();
    let mut bound = bound(&path, 16, false);
    assert_eq!(bound.sizes(), [4]);
    assert_close(&plain.run(&batch).unwrap(), &bound.run(&batch).unwrap());
}

#[test]
fn what_has_no_fixed_shape_or_size_is_not_bound() {
    for name in ["variable", "echo-string", "zip-map"] {
        let (_, reason) =
            BoundSession::new(Box::new(session(&model(&format!("tests/models/{name}/1")))), 2, ModelSession::memory)
                .map(drop)
                .unwrap_err();
        assert!(reason.contains("doesn't fix the shape"), "{name}: {reason}");
    }
}

#[test]
fn a_wrong_shape_fails_as_it_does_without() {
    let mut bound = bound(&model("models/fashion-vit/1"), 2, false);
    let wrong = [vec![Tensor::zeros(crate::tensor::ElementType::Float32, &[1, 3, 224, 223])]];
    assert!(matches!(bound.run(&wrong), Err(EngineError::Failed(_))));
    assert!(bound.run(&pictures(1, 3)).is_ok());
}

/// What CUDA graphs would do with outputs that are not bound where they were recorded, or inputs that are not copied.
#[test]
fn stale_memory_does_not_prove_itself() {
    let path = model("models/fashion-vit/1");
    let example = pictures(1, 0).remove(0);
    for has_device in [false, true] {
        bound(&path, 3, has_device).prove(&example).unwrap();
    }
    // What is read is not what the session writes to, as if it had been recorded with other memory.
    let mut stale = bound(&path, 2, false);
    let memory = stale.session.memory().unwrap();
    for bucket in &mut stale.buckets {
        let spec = &stale.session.signature().outputs[0];
        let shape = row_shape(spec, None).unwrap();
        bucket.outputs = vec![Slot::new(spec, bucket.rows, shape, &memory).unwrap()];
    }
    let reason = stale.prove(&example).unwrap_err();
    assert!(reason.contains("differ from plain runs"), "{reason}");
}

#[test]
fn nan_equals_nan_alone() {
    let item = |value: f32| vec![vec![Tensor::from(ArrayD::from_elem(IxDyn(&[1, 1]), value))]];
    assert!(difference(&item(f32::NAN), &item(f32::NAN)).abs() < f64::EPSILON);
    assert!(difference(&item(f32::INFINITY), &item(f32::INFINITY)).abs() < f64::EPSILON);
    assert!(difference(&item(f32::NAN), &item(0.0)).is_infinite());
    assert!(difference(&item(1.0), &[]).is_infinite());
    assert!((difference(&item(1.0), &item(1.5)) - 0.5).abs() < 1e-9);
}
