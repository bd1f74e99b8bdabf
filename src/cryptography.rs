//! The one implementation of cryptography in this process: ring, for the server's TLS, for the clients of object stores and
//! for checksums.

use std::sync::Once;

/// Makes ring what everything in this process uses that speaks TLS. To be called before the first client is made; further
/// calls do nothing.
pub fn install() {
    static ONCE: Once = Once::new();
    // It fails if there is one already, which then is this one: nothing else here brings one.
    ONCE.call_once(|| drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default()));
}
