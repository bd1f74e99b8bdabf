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

/// Gives the pages of code back. Much of ONNX Runtime's is needed only to load a model; what is needed again comes back from
/// the file, or from the system's cache of it. Takes some milliseconds; not for a request's way.
pub fn give_back_code() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if let Err(error) = code::give_back() {
        tracing::debug!(%error, "the pages of code could not be given back");
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod code {
    use std::ffi::{c_int, c_void};
    use std::io;
    use std::ops::Range;

    /// Gives the pages of code back.
    ///
    /// # Errors
    /// What the system says.
    pub fn give_back() -> io::Result<()> {
        let mut result = Ok(());
        // SAFETY: the callback takes what it is given here, and is called before this returns.
        unsafe { libc::dl_iterate_phdr(Some(give_back_meanwhile), (&raw mut result).cast()) };
        result
    }

    /// Called with the lock that unloading a library takes, so that until this returns no mapping of code makes way for
    /// anything else. Models that are loaded at the same time may unload libraries: those of a provider that fails.
    unsafe extern "C" fn give_back_meanwhile(
        _: *mut libc::dl_phdr_info,
        _: libc::size_t,
        result: *mut c_void,
    ) -> c_int {
        let all = || ranges(&std::fs::read_to_string("/proc/self/smaps")?).try_for_each(give_back_range);
        // SAFETY: it is what `give_back` lent.
        unsafe { *result.cast::<io::Result<()>>() = all() };
        // No further call.
        1
    }

    fn give_back_range(range: Range<usize>) -> io::Result<()> {
        // SAFETY: the range is a mapping of a file's code to which nobody has written, so that dropping its pages loses
        // nothing: the next access finds the file's bytes again.
        let advised =
            unsafe { libc::madvise(std::ptr::without_provenance_mut(range.start), range.len(), libc::MADV_DONTNEED) };
        if advised == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The mappings of code in a `/proc/PID/smaps` (proc(5)) that hold what their files hold: nobody has written to them,
    /// neither a dynamic linker nor a debugger, and none of what they wrote is in swap.
    fn ranges(maps: &str) -> impl Iterator<Item = Range<usize>> {
        let (mut code, mut unwritten) = (None, false);
        maps.lines().filter_map(move |line| {
            let (first, rest) = line.split_once(' ')?;
            if let Some((from, to)) = first.split_once('-') {
                let of_a_file = rest.starts_with("r-xp ") && rest.contains(" /");
                let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
                (code, unwritten) = (of_a_file.then_some(range), false);
            }
            let is_none = rest.trim() == "0 kB";
            match first {
                "Anonymous:" => unwritten = is_none,
                "Swap:" if unwritten && is_none => return code.take(),
                _ => {}
            }
            None
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn code_is_what_nobody_has_written_to() {
            let maps = "\
7f0000001000-7f0000003000 r-xp 00001000 fe:00 42                         /lib/one.so
Rss:                   8 kB
Anonymous:             0 kB
Swap:                  0 kB
7f0000003000-7f0000004000 r--p 00003000 fe:00 42                         /lib/one.so
Anonymous:             0 kB
Swap:                  0 kB
7f0000005000-7f0000006000 r-xp 00001000 fe:00 43                         /lib/patched.so
Anonymous:             4 kB
Swap:                  0 kB
7f0000005800-7f0000006000 r-xp 00001000 fe:00 43                         /lib/swapped.so
Anonymous:             0 kB
Swap:                  4 kB
7f0000006000-7f0000007000 rwxp 00001000 fe:00 44                         /lib/written.so
Anonymous:             0 kB
Swap:                  0 kB
7f0000007000-7f0000008000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
Swap:                  0 kB
7f0000008000-7f0000009000 r-xp 00000000 00:00 0
Anonymous:             0 kB
Swap:                  0 kB
7f000000a000-7f000000b000 r-xp 00001000 fe:00 45                         /lib/with a space.so
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me
";
            let expected = [0x7f00_0000_1000..0x7f00_0000_3000, 0x7f00_0000_a000..0x7f00_0000_b000];
            assert_eq!(ranges(maps).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn code_that_was_given_back_still_runs() {
            give_back().unwrap();
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            assert!(ranges(&maps).count() > 0);
        }
    }
}
