//! Closing a listening socket without resetting anybody.
//!
//! Closing a listener resets every connection that the kernel has accepted and the program has not taken. Taking all of
//! them first is not enough, as new ones keep coming in between. On Linux a socket filter makes the listener deaf to
//! new connection attempts (SYN) while handshakes that have begun are completed; what is then taken is all there is. A
//! client that was not heard repeats its SYN after a second and is told "connection refused", which it can retry
//! safely. Elsewhere the backlog is set to its minimum instead, which leaves a window of microseconds.

use std::io;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

/// How long handshakes that have begun may take to complete: a round trip, generously.
const HANDSHAKES: Duration = Duration::from_millis(100);

/// Stops `listener` and returns the connections that it had still accepted.
pub(super) async fn close(listener: TcpListener) -> Vec<(TcpStream, std::net::SocketAddr)> {
    if let Err(error) = refuse_new(&listener) {
        tracing::debug!(%error, "cannot refuse new connections before closing the listener");
    }
    let mut accepted = Vec::new();
    let deadline = Instant::now() + HANDSHAKES;
    loop {
        match timeout_at(deadline, listener.accept()).await {
            Ok(Ok(connection)) => accepted.push(connection),
            Ok(Err(error)) if is_of_one_connection(&error) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "connections that wait in the backlog are lost");
                return accepted;
            }
            Err(_) => return accepted,
        }
    }
}

/// Whether an error of `accept` is about the connection and not about the listener.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(target_os = "linux")]
fn refuse_new(listener: &TcpListener) -> io::Result<()> {
    use socket2::SockFilter;
    // Classic BPF (linux/filter.h); the packet starts at its TCP header, whose byte 13 holds the flags.
    let program = [
        SockFilter::new(0x30, 0, 0, 13),       // load the byte at 13
        SockFilter::new(0x54, 0, 0, 0x12),     // keep SYN (0x02) and ACK (0x10)
        SockFilter::new(0x15, 0, 1, 0x02),     // if SYN alone
        SockFilter::new(0x06, 0, 0, 0),        // then drop
        SockFilter::new(0x06, 0, 0, u32::MAX), // else pass whole
    ];
    let socket = SockRef::from(listener);
    socket.attach_filter(&program).or_else(|_| socket.listen(0))
}

#[cfg(not(target_os = "linux"))]
fn refuse_new(listener: &TcpListener) -> io::Result<()> {
    SockRef::from(listener).listen(0)
}
