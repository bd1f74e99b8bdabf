//! Metrics and logs. Everyone may call this module; it calls nobody.

mod deployed_model;
mod lines;
mod logging;
mod metrics;
mod model;
mod process;
mod writer;

pub use deployed_model::{DeployedModelMetrics, ShadowOutcome, Stage};
pub use logging::{LogControl, LogError, LogFormat, LogSettings, start_logging};
pub use metrics::Metrics;
pub use model::ModelMetrics;
pub use writer::flush_log;
