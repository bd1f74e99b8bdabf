//! Everything that can keep a prediction from being made, and what a client is told of it.
//!
//! This is the one place that decides on codes. What a client reads names the part of its request that is at fault and
//! what to do; what only helps the operator goes to the log, where the error arises. Never the other way round.

use std::time::Duration;

use thiserror::Error;

use super::Chosen;
use crate::endpoint::LookupError;
use crate::explain::spec::SpecError;
use crate::protocol::open_inference::InferError;
use crate::protocol::status::{Code, Status};
use crate::protocol::tf_serving::Form;
use crate::protocol::vertex::RequestError;
use crate::scheduler::{Refusal, ScheduleError};
use crate::task::{InputError, OutputError, ViewError};

/// Why there is no prediction.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The models are still being loaded.
    #[error("the models are still being loaded")]
    Loading,
    /// The request names something that isn't here.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The caller's token is for other endpoints.
    #[error("this token is not for this endpoint")]
    Forbidden,
    /// The body is not a prediction request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A tensor, or what else is named by its whole path, can't be used.
    #[error(transparent)]
    Field(InputError),
    /// The body is not an inference request.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The deployed model is asked by `/invoke/...` alone.
    #[error(
        "endpoint `{0}` is asked by paths of its model's own, below .../endpoints/{0}/invoke/, and not by this method"
    )]
    InvokeAlone(String),
    /// The deployed model gives no explanations.
    #[error("explanations are disabled for this deployed model (disableExplanations)")]
    ExplanationsDisabled,
    /// An explanation is about numbers.
    #[error("the model gives no numbers that could be explained: its outputs are strings")]
    NothingToExplain,
    /// What is asked of an explanation can't be had.
    #[error(transparent)]
    Explanation(#[from] SpecError),
    /// The parameters make no sense.
    #[error("parameters: {0}")]
    Parameters(InputError),
    /// An instance can't be used.
    #[error("instances[{index}]: {error}")]
    Instance {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        error: InputError,
    },
    /// The model's outputs have not the shape that was asked for.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The queue didn't let the request in.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The time that the request had is over.
    #[error("the deadline has passed")]
    DeadlineExceeded,
    /// The model failed.
    #[error("instances[{index}]: {error}")]
    Model {
        /// The instance that it failed on, from 0.
        index: usize,
        /// What the scheduler or the engine says.
        error: ScheduleError,
    },
    /// The model answered with something that is no prediction.
    #[error("instances[{index}]: {error}")]
    Output {
        /// The instance that it was for, from 0.
        index: usize,
        /// What is wrong with it.
        error: OutputError,
    },
    /// A defect of ours, caught.
    #[error("preparing instances[{0}] panicked")]
    Panicked(usize),
}

impl ServiceError {
    /// The error's kind as programs are told it. These are part of the API.
    fn reason(&self) -> &'static str {
        match self {
            Self::Loading => "MODELS_LOADING",
            Self::Lookup(LookupError::NoTraffic(_)) => "NO_TRAFFIC",
            Self::Lookup(LookupError::UnknownDeployedModel { .. }) => "DEPLOYED_MODEL_NOT_FOUND",
            Self::Lookup(LookupError::UnknownModel { .. } | LookupError::UnknownVersion { .. }) => "MODEL_NOT_FOUND",
            Self::Lookup(_) => "ENDPOINT_NOT_FOUND",
            Self::Forbidden => "TOKEN_NOT_SUFFICIENT",
            Self::Request(_) | Self::Field(_) | Self::Infer(_) => "INVALID_REQUEST",
            Self::InvokeAlone(_) => "INVOKE_ALONE",
            Self::ExplanationsDisabled => "EXPLANATIONS_DISABLED",
            Self::NothingToExplain => "NOTHING_TO_EXPLAIN",
            Self::Explanation(_) => "INVALID_EXPLANATION_SPEC",
            Self::Parameters(_) => "INVALID_PARAMETERS",
            Self::Instance { .. } => "INVALID_INSTANCE",
            Self::View(_) => "WRONG_METHOD",
            Self::Refused(Refusal::TooLarge { .. }) => "REQUEST_TOO_LARGE",
            Self::Refused(Refusal::DeadlinePassed)
            | Self::DeadlineExceeded
            | Self::Model { error: ScheduleError::DeadlineExceeded, .. } => "DEADLINE_EXCEEDED",
            Self::Refused(_) => "OVERLOADED",
            Self::Model { error: ScheduleError::Closed, .. } => "SHUTTING_DOWN",
            Self::Model { .. } | Self::Output { .. } => "MODEL_FAILED",
            Self::Panicked(_) => "INTERNAL_ERROR",
        }
    }

    /// The same error about another instance: for work on variants of it, whose own numbers a client doesn't know.
    pub(super) fn at(self, index: usize) -> Self {
        match self {
            Self::Instance { error, .. } => Self::Instance { index, error },
            Self::Model { error, .. } => Self::Model { index, error },
            Self::Output { error, .. } => Self::Output { index, error },
            Self::Panicked(_) => Self::Panicked(index),
            other => other,
        }
    }

    /// Says that the instance at fault is not the client's own, but made of its values and those of a baseline; so is
    /// what the model makes of it.
    pub(super) fn of_a_variant(self) -> Self {
        match self {
            Self::Output { index, error } => {
                let error = InputError::new("", format!("can't be explained: {error}"));
                Self::Instance { index, error }.of_a_variant()
            }
            Self::Instance { index, error: InputError { path, message } } => {
                let hint = "in a variant of the instance with values of the baseline; set inputBaselines to values that \
                            the model takes";
                Self::Instance { index, error: InputError { path, message: format!("{message} ({hint})") } }
            }
            other => other,
        }
    }

    /// The error as a client sees it who sent the instances in this form: of columns, `instances[2].x[1]` is
    /// `inputs.x[2][1]`.
    pub fn in_form(self, form: Form) -> Self {
        match (self, form) {
            (Self::Instance { index, error: InputError { path, message } }, Form::Columns { named }) => {
                let place = if named { path.find(['[', '.']).unwrap_or(path.len()) } else { 0 };
                let (name, rest) = path.split_at(place);
                let before = if name.is_empty() { "" } else { "." };
                let behind = if rest.is_empty() || rest.starts_with(['[', '.']) { "" } else { "." };
                Self::Field(InputError { path: format!("inputs{before}{name}[{index}]{behind}{rest}"), message })
            }
            (error, _) => error,
        }
    }

    /// Logs what only the operator is told. Once for each request that failed.
    pub fn log(&self, chosen: &Chosen) {
        if Status::from(self).code == Code::Internal {
            tracing::error!(model = chosen.deployed.model.name, error = %self, "prediction failed");
        }
    }
}

/// How long a client is asked to wait for models that are being loaded.
const LOADING_RETRY: Duration = Duration::from_secs(2);

impl From<&ServiceError> for Status {
    fn from(error: &ServiceError) -> Self {
        let status = match error {
            ServiceError::Loading => Status::unavailable(error.to_string(), LOADING_RETRY),
            ServiceError::Lookup(lookup) => match lookup {
                LookupError::NoTraffic(_) => Status::new(Code::FailedPrecondition, lookup.to_string()),
                _ => Status::new(Code::NotFound, lookup.to_string()),
            },
            ServiceError::Forbidden => Status::new(Code::PermissionDenied, error.to_string()),
            ServiceError::Request(request) => Status {
                field: request.field().map(str::to_owned),
                ..Status::new(Code::InvalidArgument, request.to_string())
            },
            ServiceError::Infer(InferError::Field { field, .. }) => Status::bad_field(field, error.to_string()),
            ServiceError::Infer(_) => Status::new(Code::InvalidArgument, error.to_string()),
            ServiceError::InvokeAlone(_) | ServiceError::ExplanationsDisabled | ServiceError::NothingToExplain => {
                Status::new(Code::FailedPrecondition, error.to_string())
            }
            ServiceError::Explanation(SpecError::Invalid { field, .. }) => Status::bad_field(field, error.to_string()),
            ServiceError::Explanation(SpecError::Method(_)) => Status::new(Code::Unimplemented, error.to_string()),
            ServiceError::Field(input) => bad_input("", input),
            ServiceError::Parameters(input) => bad_input("parameters", input),
            ServiceError::Instance { index, error } => bad_input(&format!("instances[{index}]"), error),
            ServiceError::View(_) => Status::new(Code::InvalidArgument, error.to_string()),
            ServiceError::Refused(refusal) => refused(refusal),
            ServiceError::DeadlineExceeded | ServiceError::Model { error: ScheduleError::DeadlineExceeded, .. } => {
                Status::new(Code::DeadlineExceeded, "the deadline passed before the answer was ready")
            }
            ServiceError::Model { error: ScheduleError::Closed, .. } => {
                Status::unavailable("the model is being shut down", Duration::ZERO)
            }
            ServiceError::Model { index, error: ScheduleError::Engine(_) } => Status::new(
                Code::Internal,
                format!(
                    "the model failed on instances[{index}]; the server's log has the reason under this request's id"
                ),
            ),
            ServiceError::Output { index, error } => {
                Status::new(Code::Internal, format!("the model's answer for instances[{index}] can't be used: {error}"))
            }
            ServiceError::Panicked(index) => {
                Status::new(Code::Internal, format!("an internal error while preparing instances[{index}]"))
            }
        };
        status.because(error.reason())
    }
}

fn bad_input(base: &str, input: &InputError) -> Status {
    let field = match input.path.as_str() {
        "" => base.to_owned(),
        path if base.is_empty() => path.to_owned(),
        path if path.starts_with('[') => format!("{base}{path}"),
        path => format!("{base}.{path}"),
    };
    let message = format!("{field} {}", input.message);
    Status::bad_field(field, message)
}

fn refused(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::TooLarge { .. } => Code::InvalidArgument,
        Refusal::DeadlinePassed => Code::DeadlineExceeded,
        _ => Code::Unavailable,
    };
    Status { retry_after: refusal.retry_after(), ..Status::new(code, refusal.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_instance_is_named_with_its_field() {
        let error = ServiceError::Instance { index: 3, error: InputError::new("b64", "is not base64") };
        let status = Status::from(&error);
        assert_eq!(status.field.as_deref(), Some("instances[3].b64"));
        assert_eq!(status.message, "instances[3].b64 is not base64");
        assert_eq!(status.code, Code::InvalidArgument);
    }

    #[test]
    fn a_bad_column_is_named_as_it_was_sent() {
        for (named, path, field) in [
            (false, "", "inputs[2]"),
            (false, "[1]", "inputs[2][1]"),
            (false, "b64", "inputs[2].b64"),
            (true, "x", "inputs.x[2]"),
            (true, "x[1][0]", "inputs.x[2][1][0]"),
            (true, "x.b64", "inputs.x[2].b64"),
        ] {
            let error = ServiceError::Instance { index: 2, error: InputError::new(path, "is wrong") };
            assert_eq!(Status::from(&error.in_form(Form::Columns { named })).field.as_deref(), Some(field), "{path}");
        }
    }

    #[test]
    fn the_engines_words_are_not_for_clients() {
        let engine = crate::engine::EngineError::Failed("/secret/path: node 7".to_owned());
        let error = ServiceError::Model { index: 0, error: ScheduleError::Engine(engine) };
        let status = Status::from(&error);
        assert_eq!(status.code, Code::Internal);
        assert!(!status.message.contains("secret"), "{}", status.message);
    }

    #[test]
    fn overload_says_when_to_come_back_and_oversize_does_not() {
        let full = ServiceError::Refused(Refusal::QueueFull { retry_after: Duration::from_millis(2500) });
        assert_eq!(Status::from(&full).retry_after_seconds(), Some(3));
        assert_eq!(Status::from(&full).code, Code::Unavailable);
        let large = Refusal::TooLarge { items: 9, bytes: 9, max_items: 1, max_bytes: 1 };
        assert_eq!(Status::from(&ServiceError::Refused(large)).retry_after_seconds(), None);
    }
}
