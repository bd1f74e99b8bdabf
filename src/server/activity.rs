//! What happens on one connection, and what its age says about it.
//!
//! hyper has a timeout for heads, but it starts with the previous answer, so that it would cut idle connections too;
//! and its graceful shutdown closes a connection whose request is on its way. Both are decided here instead.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::{CROWDED_IDLE, GOAWAY_GRACE, Phase, QUIET_GRACE, ServerSettings};

/// Shared by the socket, the service and the watcher of one connection. Times are milliseconds since the connection
/// began, plus one, so that zero means "not".
///
/// The fields are independent observations, so that relaxed ordering is enough: a watcher that sees one late looks
/// again later.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// When bytes last arrived or an answer last ended.
    last: AtomicU64,
    /// When the first bytes of a request arrived that no service call has taken yet.
    head: AtomicU64,
    /// Since when the client takes no byte of what is being written.
    blocked: AtomicU64,
    /// Requests handed to the service whose answer has not been written.
    in_flight: AtomicUsize,
    /// Whether any request has been read.
    used: AtomicBool,
    http2: AtomicBool,
    /// The write side is shut; the rest is read away.
    lingering: AtomicBool,
}

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look again then.
    Until(Instant),
    /// Let it finish what runs and close it.
    Retire,
    /// Drop it; the text says why.
    Cut(&'static str),
}

impl Activity {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(1),
            head: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            http2: AtomicBool::new(false),
            lingering: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn instant(&self, stamp: u64) -> Instant {
        self.began + Duration::from_millis(stamp.saturating_sub(1))
    }

    /// A TLS handshake is over; what was agreed on may be HTTP/2. From now on a request is waited for.
    pub fn greeted(&self, http2: bool) {
        self.http2.store(http2, Relaxed);
        self.last.store(self.now(), Relaxed);
    }

    /// Bytes arrived.
    pub fn received(&self, bytes: &[u8]) {
        let now = self.now();
        let first = self.last.swap(now, Relaxed) == 1 && !self.used.load(Relaxed);
        // "PRI * HTTP/2.0" opens HTTP/2 (RFC 9113, 3.4), whose heads come in frames that only hyper can tell apart.
        if first && bytes.starts_with(b"PRI ") {
            self.http2.store(true, Relaxed);
        }
        if self.in_flight.load(Relaxed) == 0 && !self.http2.load(Relaxed) {
            let _ = self.head.compare_exchange(0, now, Relaxed, Relaxed);
        }
    }

    /// The client took bytes, or refuses to.
    pub fn writing(&self, blocked: bool) {
        if blocked {
            let _ = self.blocked.compare_exchange(0, self.now(), Relaxed, Relaxed);
        } else if self.blocked.load(Relaxed) != 0 {
            self.blocked.store(0, Relaxed);
        }
    }

    /// The write side is shut.
    pub fn lingering(&self) {
        self.lingering.store(true, Relaxed);
    }

    /// The head of a request is complete.
    pub fn request_began(&self, http2: bool) {
        self.in_flight.fetch_add(1, Relaxed);
        self.used.store(true, Relaxed);
        self.http2.store(http2, Relaxed);
        self.head.store(0, Relaxed);
    }

    /// Its answer has been handed over whole, or given up.
    pub fn request_ended(&self) {
        self.last.store(self.now(), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Whether a client that was told to close at `told` has had the time for it: no request is under way, and nothing
    /// has come for a while.
    pub fn ignores_goaway(&self, told: Instant) -> bool {
        let last = self.instant(self.last.load(Relaxed));
        self.in_flight.load(Relaxed) == 0 && last.max(told).elapsed() >= GOAWAY_GRACE
    }

    /// What to do now.
    pub fn judge(&self, phase: Phase, crowded: bool, settings: &ServerSettings) -> Verdict {
        let now = Instant::now();
        let until = |deadline: Instant, late: Verdict| {
            if now >= deadline { late } else { Verdict::Until(deadline) }
        };
        if self.lingering.load(Relaxed) {
            return Verdict::Until(now + Duration::from_secs(3600)); // The socket times this itself.
        }
        let closing = match phase {
            Phase::Closing { since } => Some(since),
            Phase::Serving | Phase::Draining { .. } => None,
        };
        if closing.is_some() && self.http2.load(Relaxed) {
            return Verdict::Retire; // By GOAWAY: what runs is finished, nothing that was sent is lost.
        }
        let blocked = self.blocked.load(Relaxed);
        if blocked != 0 {
            return until(self.instant(blocked) + settings.write_timeout, Verdict::Cut("the client takes no answer"));
        }
        if self.in_flight.load(Relaxed) != 0 {
            // Its deadline is the service's matter. An answer makes this connection end or quiet; look then.
            let pause =
                if closing.is_some() { QUIET_GRACE / 4 } else { settings.write_timeout.min(settings.header_timeout) };
            return Verdict::Until(now + pause);
        }
        let head = self.head.load(Relaxed);
        if head != 0 {
            return until(
                self.instant(head) + settings.header_timeout,
                Verdict::Cut("the head of the request did not arrive in time"),
            );
        }
        let last = self.instant(self.last.load(Relaxed));
        let quiet = match (self.used.load(Relaxed), crowded) {
            (_, true) => CROWDED_IDLE.min(settings.idle_timeout),
            (true, false) => settings.idle_timeout,
            (false, false) => settings.header_timeout,
        };
        match closing {
            Some(since) => until(last.max(since) + QUIET_GRACE.min(quiet), Verdict::Retire),
            None => until(last + quiet, Verdict::Retire),
        }
    }
}
