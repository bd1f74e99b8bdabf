//! From a [`Status`] to gRPC's, with the details of `google.rpc` in `grpc-status-details-bin`.

use std::collections::HashMap;
use std::time::Duration;

use tonic_types::{ErrorDetails, StatusExt};

use crate::protocol::status::{Code, ERROR_DOMAIN, Status};

/// As the client gets it.
pub fn to_tonic(status: &Status) -> tonic::Status {
    let mut details = ErrorDetails::new();
    if let Some(field) = &status.field {
        details.add_bad_request_violation(field, &status.message);
    }
    if let Some(wait) = status.retry_after_seconds() {
        details.set_retry_info(Some(Duration::from_secs(wait)));
    }
    if let Some(reason) = status.reason {
        details.set_error_info(reason, ERROR_DOMAIN, HashMap::<String, String>::new());
    }
    let code = tonic::Code::from(status.code.number());
    tonic::Status::with_error_details(code, &status.message, details)
}

/// A status that one of our own methods gave, for a client of another protocol.
pub fn from_tonic(status: &tonic::Status) -> Status {
    let code = match status.code() {
        tonic::Code::Cancelled => Code::Cancelled,
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::InvalidArgument,
        tonic::Code::DeadlineExceeded => Code::DeadlineExceeded,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::AlreadyExists => Code::AlreadyExists,
        tonic::Code::PermissionDenied => Code::PermissionDenied,
        tonic::Code::Aborted => Code::Aborted,
        tonic::Code::Unauthenticated => Code::Unauthenticated,
        tonic::Code::ResourceExhausted => Code::ResourceExhausted,
        tonic::Code::FailedPrecondition => Code::FailedPrecondition,
        tonic::Code::Unimplemented => Code::Unimplemented,
        tonic::Code::Unavailable => Code::Unavailable,
        _ => Code::Internal,
    };
    let details = status.get_error_details();
    let violation = details.bad_request().and_then(|request| request.field_violations.first());
    Status {
        field: violation.map(|violation| violation.field.clone()),
        retry_after: details.retry_info().and_then(|info| info.retry_delay),
        ..Status::new(code, status.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_those_of_json() {
        let status = to_tonic(&Status::bad_field("instances[3]", "instances[3] is wrong").because("INVALID_INSTANCE"));
        assert_eq!((status.code(), status.message()), (tonic::Code::InvalidArgument, "instances[3] is wrong"));
        let details = status.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!((&*violation.field, &*violation.description), ("instances[3]", "instances[3] is wrong"));
        let info = details.error_info().unwrap();
        assert_eq!((&*info.reason, &*info.domain), ("INVALID_INSTANCE", "tessera"));
        assert!(details.retry_info().is_none());

        let status = to_tonic(&Status::unavailable("full", Duration::from_millis(2500)));
        assert_eq!(status.get_error_details().retry_info().unwrap().retry_delay, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_status_survives_the_way_there_and_back() {
        for status in [
            Status::bad_field("instances[3]", "instances[3] is wrong"),
            Status::unavailable("full", Duration::from_secs(3)),
            Status::new(Code::NotFound, "no"),
            Status::new(Code::Unimplemented, "no"),
            Status::new(Code::PermissionDenied, "no"),
        ] {
            assert_eq!(from_tonic(&to_tonic(&status)), status);
        }
    }

    #[test]
    fn codes_agree_with_grpcs() {
        for code in [Code::Cancelled, Code::NotFound, Code::ResourceExhausted, Code::Unimplemented, Code::Internal] {
            let name = format!("{:?}", tonic::Code::from(code.number()));
            assert_eq!(name, format!("{code:?}"));
        }
    }
}
