//! Wire types and their rules. No I/O, no models, no handlers.

pub mod status;
pub mod vertex;
