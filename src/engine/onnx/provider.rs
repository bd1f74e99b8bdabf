//! Execution providers: what they are told, and where the memory lies that they copy from and to without detours.

use std::path::PathBuf;

use ort::ep;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::session::{RunOptions, Session};

use super::{OnnxOptions, Provider};

/// The CUDA provider's options.
#[derive(Debug, Clone, Default)]
pub struct CudaOptions {
    /// Each size of batch is recorded once as a graph of kernels, and replayed.
    pub graphs: bool,
    /// Matrix products of float32 may round their factors to TensorFloat-32 (10 bits of mantissa instead of 23).
    pub tf32: bool,
    /// The most memory that each session's arena takes on the GPU, in bytes; 0: what there is.
    pub memory_limit: usize,
}

/// TensorRT's options.
#[derive(Debug, Clone, Default)]
pub struct TensorRtOptions {
    /// It computes in float16 where it may.
    pub fp16: bool,
    /// As [`CudaOptions::graphs`].
    pub graphs: bool,
    /// Where engines, and the timings that chose their kernels, are kept for the next start.
    pub engine_cache: Option<PathBuf>,
}

/// The run option that numbers CUDA graphs (`onnxruntime_run_options_config_keys.h`): each number is one graph, 0 is
/// the runtime's own, and `NO_GRAPH` neither records nor replays.
const GRAPH_NUMBER: &str = "gpu_graph_id";
const NO_GRAPH: &str = "-1";

/// Whether sessions of this provider are asked to record graphs.
pub(super) fn wants_graphs(provider: Provider, options: &OnnxOptions) -> bool {
    match provider {
        Provider::Cpu => false,
        Provider::Cuda => options.cuda.graphs,
        Provider::TensorRt => options.tensorrt.graphs,
    }
}

/// Options of a run that records the graph of this number when it is first used, and replays it later; `None` is a run
/// without a graph.
///
/// # Errors
/// What the runtime says.
pub(super) fn graph_run(number: Option<usize>) -> ort::Result<RunOptions> {
    let mut options = RunOptions::new()?;
    options.set(GRAPH_NUMBER, number.map_or(NO_GRAPH.to_owned(), |number| number.to_string()))?;
    Ok(options)
}

/// Tells a session what computes.
pub(super) fn register(
    builder: SessionBuilder,
    provider: Provider,
    options: &OnnxOptions,
    graphs: bool,
) -> ort::Result<SessionBuilder> {
    let cuda = |graphs| {
        let mut cuda = ep::CUDA::default()
            .with_device_id(options.device_id)
            // On unless it is switched off, and it changes the numbers.
            .with_tf32(options.cuda.tf32)
            .with_cuda_graph(graphs);
        if options.cuda.memory_limit > 0 {
            // By powers of two it would ask for up to twice what is needed, and meet the limit early.
            cuda = cuda
                .with_memory_limit(options.cuda.memory_limit)
                .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
        }
        cuda.build().error_on_failure()
    };
    Ok(match provider {
        // Not named: naming the CPU provider switches its arena off.
        Provider::Cpu => builder,
        Provider::Cuda => builder.with_execution_providers([cuda(graphs)])?,
        Provider::TensorRt => {
            let mut tensorrt = ep::TensorRT::default()
                .with_device_id(options.device_id)
                .with_fp16(options.tensorrt.fp16)
                .with_cuda_graph(graphs);
            if let Some(cache) = &options.tensorrt.engine_cache {
                tensorrt = tensorrt
                    .with_engine_cache(true)
                    .with_engine_cache_path(cache.display())
                    .with_timing_cache(true)
                    .with_timing_cache_path(cache.display());
            }
            // What TensorRT can't take runs on CUDA rather than on the CPU.
            builder.with_execution_providers([tensorrt.build().error_on_failure(), cuda(false)])?
        }
    })
}

/// Where a session's bound tensors lie.
pub(super) struct Memory {
    /// What the processor writes and reads. For a GPU it is page-locked, so that copies need no detour.
    pub(super) host: Allocator,
    /// Where the tensors lie that the session itself sees, if not there: graphs replay with fixed addresses on the GPU.
    pub(super) device: Option<Allocator>,
}

impl Memory {
    /// The memory of a session that computes by this provider.
    ///
    /// # Errors
    /// What the runtime says, as when the provider has no such memory.
    pub(super) fn of(session: &Session, provider: Provider, device_id: i32, graphs: bool) -> ort::Result<Self> {
        let allocator =
            |device, id, kind| Allocator::new(session, MemoryInfo::new(device, id, AllocatorType::Device, kind)?);
        Ok(match provider {
            Provider::Cpu => Self {
                host: allocator(AllocationDevice::CPU, 0, MemoryType::Default)?,
                device: if graphs { Some(allocator(AllocationDevice::CPU, 0, MemoryType::Default)?) } else { None },
            },
            Provider::Cuda | Provider::TensorRt => Self {
                host: allocator(AllocationDevice::CUDA_PINNED, device_id, MemoryType::CPU)?,
                device: match graphs {
                    true => Some(allocator(AllocationDevice::CUDA, device_id, MemoryType::Default)?),
                    false => None,
                },
            },
        })
    }
}
