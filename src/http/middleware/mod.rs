//! What every request passes on its way in and out: one concern a file.
//!
//! The order that works, from the outside: [`request_id`] (so that everything below logs with it), [`access_log`],
//! [`catch_panic`] (so that a panic has a line and an answer), [`cors`] (browsers ask it without a token), [`authorization`],
//! then the routes:
//!
//! ```
//! # use std::sync::Arc;
//! # use axum::{Router, middleware::from_fn, middleware::from_fn_with_state};
//! # use tessera::{http::middleware::*, observe::Metrics};
//! # fn routes() -> Router { Router::new() }
//! # let metrics = Arc::new(Metrics::new()?);
//! let log = from_fn_with_state(AccessLog::new(metrics.clone(), ["/health"]), access_log);
//! let router: Router = routes().layer((from_fn(request_id), log, catch_panic(metrics)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `Connection: close` while the process ends is not here: the [server](crate::server) adds it to every answer.

mod access_log;
mod authorization;
mod body;
mod cors;
mod gzip;
mod panic;
mod request_id;
mod timing;

pub use access_log::{AccessLog, AskedUri, access_log};
pub use authorization::{Authorization, authorization};
pub use body::{BodyError, BodyLimits, read_body};
pub use cors::{OriginError, cors};
pub use panic::{PanicResponse, catch_panic};
pub use request_id::{RequestId, request_id};
pub use timing::{SERVER_TIMING, ServerTimeoutError, X_SERVER_TIMEOUT, server_timeout, server_timing};
