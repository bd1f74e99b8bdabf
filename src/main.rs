//! The binary: everything is in the library.

/// A fifth more requests a second for models that answer in microseconds (`docs/performance.md`): a request is some dozens
/// of small allocations, freed on other threads than those that made them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // ONNX Runtime's Linux builds send usage events unless this is set before they are loaded; the option for it in
    // their interface comes too late.
    //
    // SAFETY: nothing else runs yet, so no other thread can be reading the environment.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    tessera::server::end_process(tessera::cli::run())
}
