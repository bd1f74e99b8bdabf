//! The life of the process: listeners, readiness and shutdown. Knows nothing of models or routes.
//!
//! The order of a start and of an end:
//!
//! 1. [`Server::bind`] opens the port before anything slow begins, so that a probe by TCP connect succeeds while
//!    models load and an address that is taken is found at once.
//! 2. [`Server::serve`] answers from then on; [`Readiness`] says whether the process can do its work yet.
//! 3. [`Drain::begin`] (by [`stop_on_signals`], on SIGTERM or SIGINT) turns readiness to
//!    [`State::Draining`] at once. For [`DrainSettings::delay`] everything is still accepted and answered, each answer
//!    with `Connection: close`, while load balancers learn of the change.
//! 4. Then the door closes: the kernel stops completing handshakes, what it had already accepted is taken over, and
//!    the listening socket is closed only when none is left. Thus nobody who got a connection sees it reset.
//! 5. Connections with a request under way finish it. Those without one get [`QUIET_GRACE`] to send one, and are then
//!    closed by FIN, unless bytes have arrived meanwhile. After [`DrainSettings::timeout`] the rest is cut and counted.

mod activity;
mod connection;
mod door;
mod drain;
mod files;
mod listener;
mod readiness;
mod signals;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
mod transport;

use std::time::Duration;

pub use connection::Encrypted;
pub use drain::{Drain, DrainSettings, Phase};
pub use files::FileWatch;
pub use listener::{BindError, Served, Server};
pub use readiness::{Readiness, State};
pub use signals::{end_process, stop_on_signals};
pub use tls::{Tls, TlsError, TlsFiles};

/// How long a connection without a request under way is kept when the listener has stopped, in case the client's
/// request is on its way. Counted from its last traffic or from the start of the drain, whichever is later.
pub const QUIET_GRACE: Duration = Duration::from_millis(500);

/// How long an HTTP/2 client without a request under way may take to close after it was told so by GOAWAY, which takes it one
/// round trip. hyper would wait for its answer for ever.
pub const GOAWAY_GRACE: Duration = Duration::from_secs(2);

/// How long a connection without a request is kept while the listener has as many connections as it may.
pub const CROWDED_IDLE: Duration = Duration::from_secs(1);

/// Limits of one listener.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The most connections open at once. When it is reached the listener stops accepting until one ends: further
    /// clients wait in the kernel's backlog rather than being turned away, and cost this process nothing. To make room
    /// for them, connections without a request are then closed after [`CROWDED_IDLE`], and answers ask to be the last.
    pub max_connections: usize,
    /// The longest time from connecting, or from the first byte of a request on a kept connection, until the whole
    /// head of the request has arrived. Later the connection is cut (a "slow loris").
    pub header_timeout: Duration,
    /// The longest time that a kept connection may be without a request. Longer than a load balancer keeps its own
    /// (60 s at many, 600 s at Google's), so that it is the balancer that closes and no request meets a closed door.
    pub idle_timeout: Duration,
    /// The longest time that the client may refuse to take any byte of an answer.
    pub write_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            header_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(620),
            write_timeout: Duration::from_secs(60),
        }
    }
}
