//! The binary: everything is in the library.

fn main() {
    // ONNX Runtime's Linux builds send usage events unless this is set before they are loaded; the option for it in
    // their interface comes too late.
    //
    // SAFETY: nothing else runs yet, so no other thread can be reading the environment.
    unsafe { std::env::set_var("ORT_DISABLE_TELEMETRY", "1") };
    tessera::server::end_process(tessera::cli::run())
}
