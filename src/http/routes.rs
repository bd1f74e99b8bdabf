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
    /// POST with `:predict`.
    Predict,
}

/// Decides by verb and method.
///
/// # Errors
/// 404 for a verb that doesn't exist, 405 for the wrong method.
pub fn action(verb: Option<&str>, method: &Method) -> Result<Action, Status> {
    match verb {
        None if method == Method::GET || method == Method::HEAD => Ok(Action::Describe),
        None => Err(Status::method_not_allowed("GET, HEAD")),
        Some("predict") if method == Method::POST => Ok(Action::Predict),
        Some("predict") => Err(Status::method_not_allowed("POST")),
        Some(verb) => {
            let verb: String = verb.chars().take(40).collect();
            Err(Status::new(Code::NotFound, format!("the verb `{verb}` is not known here; there is `predict`")))
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
        assert_eq!(action(Some("predict"), &Method::POST), Ok(Action::Predict));
        assert_eq!(action(None, &Method::HEAD), Ok(Action::Describe));
        assert_eq!(action(Some("predict"), &Method::GET).unwrap_err().allow, Some("POST"));
        assert_eq!(action(None, &Method::DELETE).unwrap_err().allow, Some("GET, HEAD"));
        assert_eq!(action(Some("predct"), &Method::POST).unwrap_err().code, Code::NotFound);
    }
}
