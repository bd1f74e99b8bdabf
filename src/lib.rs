//! Tessera
pub mod preprocess;
