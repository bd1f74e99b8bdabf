//! One copy of a model's weights for several sessions.
//!
//! Sessions of different thread counts answer different loads (see [`super::layout`]), but each would keep the weights
//! again. ONNX Runtime can share them in two steps: the caller lends the initializers (`AddInitializer`), and sessions
//! that are given the same container of prepacked weights keep one packed copy of what is lent
//! (<https://onnxruntime.ai/docs/get-started/with-c.html#features>, "Share initializer(s) between sessions"). The lent
//! bytes are the file itself, mapped: after packing nobody reads most of them again, so their pages are given back, and
//! whatever is read after all comes from the page cache. ViT-B/16 (346 MB) takes 375 MB with two sessions instead of
//! 711 (`benches/engine.rs`).
//!
//! A mapped file must not be overwritten in place while it is served: replace models by renaming, as the repository's
//! documentation says. ONNX Runtime asks the same for weights in files of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, UncheckedAdvice};
use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, PrepackedWeights, SessionBuilder};
use ort::sys::ONNXTensorElementDataType;
use ort::value::DynValue;
use prost::Message;
use thiserror::Error;

use super::file::{Graph, Initializer, Model, without_weights};
use super::optimised::Optimised;

/// Smaller initializers are left to each session.
const LEAST: usize = 64 << 10;

/// What a second session may copy for itself without further ado, in bytes: the weights whose layout its operators change.
const LITTLE: usize = 4 << 20;

/// What it may copy at most, where the optimised graph can't be had.
const COPIED: usize = 32 << 20;

/// Operators that keep weights in a layout of their own, made while the session is built, which can't be shared.
const COPYING: [&str; 5] = ["Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv"];

/// Why weights can't be shared. Each session then loads its own.
#[derive(Debug, Error)]
pub(super) enum WeightsError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not understood: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("{0}")]
    Runtime(#[from] ort::Error),
}

/// The large initializers of one model, to be lent to sessions that live no longer than this.
pub(super) struct SharedWeights {
    /// The model's file, where it lies, and its name.
    model: Bytes,
    folder: PathBuf,
    name: String,
    // In the order in which they have to be dropped: the values point into the maps.
    values: Vec<(String, Arc<DynValue>)>,
    prepacked: PrepackedWeights,
    maps: Vec<Arc<Mmap>>,
    /// What is lent, in bytes.
    lent: usize,
    /// The model's file is not the one that was given, but what the optimiser made of it.
    optimised: Option<Optimised>,
}

impl SharedWeights {
    /// Maps the weights of a model's file, in the layout that its operators want. `None` when a second session would
    /// copy too much for itself anyway.
    ///
    /// # Errors
    /// [`WeightsError`].
    pub(super) fn open(environment: &Environment, path: &Path) -> Result<Option<Self>, WeightsError> {
        let (weights, copied) = Self::map(path, &COPYING)?;
        if copied <= LITTLE {
            return Ok(Some(weights));
        }
        let optimised = Optimised::write(environment, path, LEAST)
            .map_err(WeightsError::from)
            .and_then(|optimised| Ok((Self::map(optimised.path(), &[])?.0, optimised)));
        match optimised {
            Ok((weights, optimised)) => Ok(Some(Self { optimised: Some(optimised), ..weights })),
            Err(error) => {
                tracing::debug!(bytes = copied, %error, "each session keeps its own weights of convolutions");
                Ok((copied <= COPIED).then_some(weights))
            }
        }
    }

    /// Maps the weights of a file as they are, and counts the bytes of those that each session copies, as it does for the
    /// operators in `copying`.
    fn map(path: &Path, copying: &[&str]) -> Result<(Self, usize), WeightsError> {
        let mut files = Files::default();
        let (folder, name) = (path.parent().unwrap_or(Path::new(".")), path.file_name().unwrap_or_default());
        let model = files.bytes(path)?;
        let graph = Model::decode(model.clone())?.graph.unwrap_or_default();
        let (lent, copied) = graph.divide(folder, &mut files, copying)?;
        let lent_bytes = lent.iter().map(|weight| weight.bytes.len()).sum();
        let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)?;
        let values = lent.into_iter().map(|weight| weight.into_value(&memory)).collect::<ort::Result<_>>()?;
        let (folder, name) = (folder.canonicalize()?, name.to_string_lossy().into_owned());
        let maps = files.0.into_values().collect();
        let prepacked = PrepackedWeights::new();
        Ok((Self { model, folder, name, values, prepacked, maps, lent: lent_bytes, optimised: None }, copied))
    }

    /// Builds a session that has these weights lent.
    ///
    /// The runtime is given the model without them: it would hold a whole one several times over while it loads.
    pub(super) fn commit(&self, builder: SessionBuilder) -> ort::Result<Session> {
        let mut builder = builder
            .with_prepacked_weights(&self.prepacked)?
            .with_config_entry("session.model_external_initializers_file_folder_path", self.folder.to_string_lossy())?;
        if self.optimised.is_some() {
            builder = builder.with_optimization_level(GraphOptimizationLevel::Disable)?;
        }
        for (name, value) in &self.values {
            builder = builder.with_initializer(name, value.clone())?;
        }
        let lent: BTreeSet<&str> = self.values.iter().map(|(name, _)| name.as_str()).collect();
        let model = without_weights(&self.model, &self.name, |name| lent.contains(name))
            .map_err(|error| ort::Error::new(error.to_string()))?;
        builder.commit_from_memory(&model)
    }

    /// What sessions share, in bytes.
    pub(super) fn lent(&self) -> usize {
        self.lent
    }

    /// Removes files that only building a session needs: there will be no further one.
    pub(super) fn all_built(&self) {
        if let Some(optimised) = &self.optimised {
            optimised.remove();
        }
    }

    /// Gives the pages back that building a session has read. They are read again where they are needed.
    pub(super) fn give_back(&self) {
        for map in &self.maps {
            // SAFETY: the map is of a file and only read, so dropping its pages loses nothing: the next access finds
            // the file's bytes again.
            let advised = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
            if let Err(error) = advised {
                tracing::debug!(%error, "the pages of a mapped model could not be given back");
            }
        }
    }
}

/// The mapped files, each once.
#[derive(Default)]
struct Files(BTreeMap<PathBuf, Arc<Mmap>>);

impl Files {
    /// The bytes of a file, without reading it.
    fn bytes(&mut self, path: &Path) -> io::Result<Bytes> {
        struct Owner(Arc<Mmap>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        if let Some(map) = self.0.get(path) {
            return Ok(Bytes::from_owner(Owner(map.clone())));
        }
        let file = File::open(path)?;
        // SAFETY: the file is only read. That nobody shortens it meanwhile is what the repository's documentation asks
        // for; it is what ONNX Runtime's own mapping of external data relies on too.
        let map = Arc::new(unsafe { Mmap::map(&file)? });
        self.0.insert(path.to_path_buf(), map.clone());
        Ok(Bytes::from_owner(Owner(map)))
    }
}

/// An initializer whose bytes are as ONNX Runtime wants them in memory: little-endian, row-major.
struct Weight {
    name: String,
    element_type: ONNXTensorElementDataType,
    shape: Vec<i64>,
    bytes: Bytes,
}

impl Weight {
    fn into_value(self, memory: &MemoryInfo) -> ort::Result<(String, Arc<DynValue>)> {
        let mut value = ptr::null_mut();
        // SAFETY: the bytes are those of a map that `SharedWeights` keeps for longer than the value, and as many as shape
        // and type say (`Initializer::weight` has checked it). The runtime takes them as mutable, but only reads what
        // is an initializer. A file may place them at any address, as it may place external data.
        let status = unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                self.bytes.as_ptr().cast_mut().cast(),
                self.bytes.len(),
                self.shape.as_ptr(),
                self.shape.len(),
                self.element_type,
                &mut value,
            )
        };
        // SAFETY: the status is the one that the call has just returned, and is looked at once.
        unsafe { ort::Error::result_from_status(status)? };
        let value = NonNull::new(value).ok_or_else(|| ort::Error::new("a weight is missing"))?;
        // SAFETY: the runtime has just made it and gives it to us.
        let value = unsafe { DynValue::from_ptr(value, Some(&Allocator::default())) };
        Ok((self.name, Arc::new(value)))
    }
}

impl Graph {
    /// The initializers that can be lent, and the bytes of those that each session copies.
    fn divide(self, folder: &Path, files: &mut Files, copying: &[&str]) -> io::Result<(Vec<Weight>, usize)> {
        let copying: BTreeSet<&str> = self
            .nodes
            .iter()
            .filter(|node| copying.contains(&&*node.operator))
            .flat_map(|node| node.inputs.iter().map(String::as_str))
            .collect();
        // An initializer that is an input too may be replaced by a caller, so it is no constant.
        let inputs: BTreeSet<&str> = self.inputs.iter().map(|input| input.name.as_str()).collect();
        let (mut lent, mut copied) = (Vec::new(), 0);
        for initializer in &self.initializers {
            let bytes = initializer.bytes(folder, files)?;
            let name = initializer.name.as_str();
            let weight = match copying.contains(name) || inputs.contains(name) || bytes.len() < LEAST {
                true => None,
                false => initializer.weight(&bytes),
            };
            match weight {
                Some(weight) => lent.push(weight),
                None => copied += bytes.len(),
            }
        }
        Ok((lent, copied))
    }
}

impl Initializer {
    /// Its bytes, in the model's file or beside it; empty when it is written in another form.
    fn bytes(&self, folder: &Path, files: &mut Files) -> io::Result<Bytes> {
        let entry = |key: &str| self.external_data.iter().find(|entry| entry.key == key).map(|entry| &*entry.value);
        let Some(location) = entry("location") else {
            return Ok(self.raw_data.clone());
        };
        let outside = || io::Error::other(format!("the weight {:?} lies outside of its file", self.name));
        if !Path::new(location).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let all = files.bytes(&folder.join(location))?;
        let number = |key, otherwise| entry(key).map_or(Ok(otherwise), |text| text.parse().map_err(|_| outside()));
        let begin: usize = number("offset", 0)?;
        let length = number("length", all.len().saturating_sub(begin))?;
        let end = begin.checked_add(length).filter(|end| *end <= all.len()).ok_or_else(outside)?;
        Ok(all.slice(begin..end))
    }

    /// As something to lend; `None` for types that the CPU converts first, and for bytes that don't fit the shape.
    fn weight(&self, bytes: &Bytes) -> Option<Weight> {
        let (element_type, size) = match self.data_type {
            1 => (ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4),
            2 => (ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1),
            3 => (ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, 1),
            _ => return None,
        };
        let elements = self.shape.iter().try_fold(1_usize, |product, length| {
            usize::try_from(*length).ok().and_then(|length| product.checked_mul(length))
        })?;
        let fits = cfg!(target_endian = "little") && elements.checked_mul(size) == Some(bytes.len());
        fits.then(|| Weight { name: self.name.clone(), element_type, shape: self.shape.clone(), bytes: bytes.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::onnx::file::{Entry, Input, Node};

    fn initializer(name: &str, shape: &[i64], bytes: usize) -> Initializer {
        Initializer {
            shape: shape.to_vec(),
            data_type: 1,
            name: name.to_owned(),
            raw_data: Bytes::from(vec![0; bytes]),
            external_data: Vec::new(),
            data_location: 0,
        }
    }

    fn divide(graph: Graph) -> (Vec<String>, usize) {
        let (lent, copied) = graph.divide(Path::new("."), &mut Files::default(), &COPYING).unwrap();
        (lent.into_iter().map(|weight| weight.name).collect(), copied)
    }

    #[test]
    fn what_operators_lay_out_anew_is_not_lent() {
        let size = 128 * 256 * 4;
        let node = |operator: &str, weight: &str| Node {
            inputs: vec!["x".to_owned(), weight.to_owned()],
            operator: operator.to_owned(),
        };
        let graph = Graph {
            nodes: vec![node("MatMul", "product"), node("Conv", "kernel")],
            initializers: ["product", "kernel", "default"].map(|name| initializer(name, &[128, 256], size)).to_vec(),
            inputs: vec![Input { name: "x".to_owned() }, Input { name: "default".to_owned() }],
        };
        assert_eq!(divide(graph), (vec!["product".to_owned()], 2 * size));
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_not_lent() {
        for (shape, bytes) in [(&[128, 256][..], 128 * 256 * 4 - 4), (&[-1, 256], 1 << 17), (&[i64::MAX, 8], 1 << 17)] {
            let graph = Graph { initializers: vec![initializer("w", shape, bytes)], ..Graph::default() };
            assert_eq!(divide(graph), (Vec::new(), bytes), "{shape:?}");
        }
    }

    #[test]
    fn external_data_must_lie_within_its_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w.data"), vec![7; 1 << 18]).unwrap();
        let external = |offset: &str, length: &str| {
            let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
            let entries = vec![entry("location", "w.data"), entry("offset", offset), entry("length", length)];
            Initializer { external_data: entries, ..initializer("w", &[1 << 15], 0) }
        };
        let bytes = |initializer: Initializer| initializer.bytes(folder.path(), &mut Files::default());
        assert_eq!(bytes(external("4096", "131072")).unwrap().len(), 1 << 17);
        assert!(bytes(external("4096", "262144")).is_err());
        assert!(bytes(external("4096", "18446744073709551615")).is_err());
        assert!(bytes(external("262145", "0")).is_err());
        let entry = Entry { key: "location".to_owned(), value: "../w.data".to_owned() };
        assert!(bytes(Initializer { external_data: vec![entry], ..initializer("w", &[1], 0) }).is_err());
    }
}
