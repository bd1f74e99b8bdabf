//! Which path means what.
//!
//! axum's matcher refuses `{id}:verb`, so the last segment is taken whole and split here, at its last colon, after
//! percent-decoding: clients may write `%3A`.

use http::Method;

use crate::protocol::status::{Code, Status};

/// The last segment of a resource's path: the resource, and what to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceVerb<'a> {
    /// Such as `imagenet`.
    pub resource: &'a str,
    /// Such as `predict`; `None` for the resource itself.
    pub verb: Option<&'a str>,
}

impl<'a> ResourceVerb<'a> {
    /// Splits a decoded segment.
    pub fn split(segment: &'a str) -> Self {
        match segment.rsplit_once(':') {
            Some((resource, verb)) => Self { resource, verb: Some(verb) },
            None => Self { resource: segment, verb: None },
        }
    }
}

/// What can be asked of an endpoint or a deployed model over this path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// GET without a verb.
    Describe,
    /// POST with a verb.
    Ask(Verb),
}

/// What is asked of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the wire's")]
pub enum Verb {
    Predict,
    RawPredict,
    StreamRawPredict,
    DirectPredict,
    DirectRawPredict,
    ServerStreamingPredict,
    Explain,
}

/// The verbs as they stand in paths.
pub const VERBS: [(&str, Verb); 7] = [
    ("predict", Verb::Predict),
    ("rawPredict", Verb::RawPredict),
    ("streamRawPredict", Verb::StreamRawPredict),
    ("directPredict", Verb::DirectPredict),
    ("directRawPredict", Verb::DirectRawPredict),
    ("serverStreamingPredict", Verb::ServerStreamingPredict),
    ("explain", Verb::Explain),
];

/// Decides by verb and method.
///
/// # Errors
/// 404 for a verb that doesn't exist, 405 for the wrong method.
pub fn action(verb: Option<&str>, method: &Method) -> Result<Action, Status> {
    let Some(verb) = verb else {
        return match *method {
            Method::GET | Method::HEAD => Ok(Action::Describe),
            _ => Err(Status::method_not_allowed("GET, HEAD")),
        };
    };
    match VERBS.iter().find(|(name, _)| *name == verb) {
        Some((_, verb)) if method == Method::POST => Ok(Action::Ask(*verb)),
        Some(_) => Err(Status::method_not_allowed("POST")),
        None => {
            let verb: String = verb.chars().take(40).collect();
            let known = VERBS.map(|(name, _)| format!("`{name}`")).join(", ");
            Err(Status::new(Code::NotFound, format!("the verb `{verb}` is not known here; there are {known}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_colon_divides() {
        assert_eq!(
            ResourceVerb::split("imagenet:predict"),
            ResourceVerb { resource: "imagenet", verb: Some("predict") }
        );
        assert_eq!(ResourceVerb::split("a:b:predict").resource, "a:b");
        assert_eq!(ResourceVerb::split("imagenet").verb, None);
    }

    #[test]
    fn verbs_and_methods_have_errors_of_their_own() {
        assert_eq!(action(Some("predict"), &Method::POST), Ok(Action::Ask(Verb::Predict)));
        assert_eq!(action(None, &Method::HEAD), Ok(Action::Describe));
        assert_eq!(action(Some("predict"), &Method::GET).unwrap_err().allow, Some("POST"));
        assert_eq!(action(None, &Method::DELETE).unwrap_err().allow, Some("GET, HEAD"));
        assert_eq!(action(Some("predct"), &Method::POST).unwrap_err().code, Code::NotFound);
    }
}
