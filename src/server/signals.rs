//! SIGTERM and SIGINT: the first asks for an orderly end, the second for an immediate one.

use std::io;

use super::Drain;
use crate::observe::flush_log;

/// Listens for SIGTERM and SIGINT (Ctrl-C) from now on. The first begins `drain`; the second ends the process at once
/// with the shell's code for that signal (143 or 130).
///
/// # Errors
/// When the handlers cannot be installed.
#[cfg(unix)]
pub fn stop_on_signals(drain: Drain) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    use super::DrainSettings;

    // Installed before the task runs, so that a signal that comes now is not the default one, which kills.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143_u8),
                _ = interrupt.recv() => ("SIGINT", 130),
            }
        };
        let (name, _) = next().await;
        let DrainSettings { delay, timeout } = drain.settings();
        tracing::info!("{name}: shutting down; answering for {delay:?} more, then finishing for at most {timeout:?}");
        drain.begin();
        let (name, code) = next().await;
        tracing::warn!("{name} again: ending at once");
        end_process(code);
    });
    Ok(())
}

/// Listens for Ctrl-C from now on. The first begins `drain`; the second ends the process at once with code 130.
///
/// # Errors
/// None on this platform.
#[cfg(not(unix))]
pub fn stop_on_signals(drain: Drain) -> io::Result<()> {
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            drain.begin();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            end_process(130);
        }
    });
    Ok(())
}

/// Ends the process at once, without what the C library and loaded libraries do at a normal exit: a model that is still
/// being loaded, or a batch that is still computed, would run into ONNX Runtime's destructors and crash.
pub fn end_process(code: u8) -> ! {
    flush_log();
    // This is for what a command printed. Nobody is left to be told of a failure.
    let _ = io::Write::flush(&mut io::stdout());
    #[cfg(unix)]
    // SAFETY: `_exit` takes a number, touches no memory of ours and does not return.
    unsafe {
        libc::_exit(code.into())
    }
    #[cfg(not(unix))]
    std::process::exit(code.into())
}
