//! From a [`Status`] to gRPC's, with the details of `google.rpc` in `grpc-status-details-bin`.

use tonic_types::{ErrorDetails, StatusExt};

use crate::protocol::status::Status;

/// As the client gets it.
pub fn to_tonic(status: &Status) -> tonic::Status {
    let mut details = ErrorDetails::new();
    if let Some(field) = &status.field {
        details.add_bad_request_violation(field, &status.message);
    }
    if let Some(wait) = status.retry_after_seconds() {
        details.set_retry_info(Some(std::time::Duration::from_secs(wait)));
    }
    let code = tonic::Code::from(status.code.number());
    tonic::Status::with_error_details(code, &status.message, details)
}
