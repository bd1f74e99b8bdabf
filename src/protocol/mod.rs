//! Wire types and their rules. No I/O, no models, no handlers.

#[rustfmt::skip]
pub mod generated;
pub mod proto_json;
pub mod status;
pub mod value;
pub mod vertex;
