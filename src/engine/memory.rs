//! Memory that was needed while models were loaded or dropped, given back to the system.

/// Gives free memory back. Allocators (glibc's is the runtime's, mimalloc this program's) keep what was freed for later,
/// which after loading a model may be as much again as the model itself. Takes some milliseconds; not for a request's way.
pub fn give_back() {
    // SAFETY: a call without preconditions, from any thread; it frees what mimalloc keeps of this thread's and of ended
    // threads' memory, and finds nothing where another allocator is in use.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: a call without preconditions, safe from any thread; what it returns says only whether there was anything.
    unsafe {
        libc::malloc_trim(0);
    }
}
