//! Wire types and their rules. No I/O, no models, no handlers.

pub mod explain;
#[rustfmt::skip]
pub mod generated;
mod object;
pub mod open_inference;
pub mod proto_json;
mod quick;
pub mod status;
pub mod tf_serving;
pub mod unique;
pub mod value;
pub mod vertex;
