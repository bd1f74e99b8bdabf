//! The HTTP transport: bytes into requests and results into bytes. No decision is taken here.

pub mod middleware;
pub mod operations;
