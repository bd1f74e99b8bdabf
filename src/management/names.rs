//! Names of resources: reading them out of requests, and making ids that nobody chose.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

use crate::auth;
use crate::protocol::status::{Code, Status};

/// The last segments of a resource's name; before them stands the parent, `projects/{project}/locations/{location}`.
/// Project and location are whatever the client believes them to be (Google's clients send the project's id first, and
/// then its number, which the server gave them): a self-hosted server has one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// `projects/{project}/locations/{location}`.
    pub parent: String,
    /// Its id, without a version.
    pub id: String,
    /// What stands behind `@`: a version, or an alias of one. Of models only.
    pub version: Option<String>,
}

/// The parent of a collection.
pub fn parent(field: &str, text: &str) -> Result<String, Status> {
    match text.split('/').collect::<Vec<_>>()[..] {
        ["projects", project, "locations", location] if !project.is_empty() && !location.is_empty() => {
            Ok(text.to_owned())
        }
        _ => Err(Status::bad_field(field, format!("{field} must be projects/PROJECT/locations/LOCATION"))),
    }
}

/// The name of an endpoint.
pub fn endpoint(field: &str, text: &str) -> Result<Name, Status> {
    resource(field, "endpoints", text)
}

/// The name of a model, which may end in `@` with a version or an alias.
pub fn model(field: &str, text: &str) -> Result<Name, Status> {
    let mut name = resource(field, "models", text)?;
    if let Some((id, version)) = name.id.split_once('@') {
        (name.version, name.id) = (Some(version.to_owned()), id.to_owned());
    }
    Ok(name)
}

fn resource(field: &str, collection: &str, text: &str) -> Result<Name, Status> {
    let wrong = || {
        let what = collection.trim_end_matches('s').to_uppercase();
        Status::bad_field(field, format!("{field} must be projects/PROJECT/locations/LOCATION/{collection}/{what}"))
    };
    let (before, id) = text.rsplit_once('/').ok_or_else(wrong)?;
    let (before, found) = before.rsplit_once('/').ok_or_else(wrong)?;
    if found != collection || id.is_empty() {
        return Err(wrong());
    }
    Ok(Name { parent: parent(field, before).map_err(|_| wrong())?, id: id.to_owned(), version: None })
}

/// Refuses a caller whose token is for other endpoints. To be asked where the caller is at hand, not in a task beside.
pub fn check_permitted(endpoint: &str) -> Result<(), Status> {
    if auth::may_use(id_of(endpoint)) { Ok(()) } else { Err(not_permitted("this token is not for this endpoint")) }
}

/// Refuses a caller whose token is for other endpoints than that of an operation. Those on models belong to none.
pub fn check_operation(name: &str) -> Result<(), Status> {
    if is_operation_permitted(name) { Ok(()) } else { Err(not_permitted("this token is not for this operation")) }
}

/// Whether the caller may hear of an operation.
pub fn is_operation_permitted(name: &str) -> bool {
    match name.split('/').skip(4).collect::<Vec<_>>()[..] {
        ["endpoints", endpoint, ..] => auth::may_use(endpoint),
        _ => !auth::is_restricted(),
    }
}

/// Refuses a caller whose token is for some endpoints only, on none of which a model is.
pub fn check_model(is_on_permitted: bool) -> Result<(), Status> {
    match is_on_permitted || !auth::is_restricted() {
        true => Ok(()),
        false => Err(not_permitted("this token is for some endpoints only, and this model is on none of them")),
    }
}

/// Refuses a caller whose token is for some endpoints only.
pub fn check_unrestricted() -> Result<(), Status> {
    match auth::is_restricted() {
        true => Err(not_permitted("this token is for some endpoints only, so that it can't do this")),
        false => Ok(()),
    }
}

fn not_permitted(message: &str) -> Status {
    Status::new(Code::PermissionDenied, message).because("TOKEN_NOT_SUFFICIENT")
}

/// A resource's name under another parent.
pub fn under(parent: &str, name: &str) -> String {
    match name.splitn(5, '/').nth(4) {
        Some(rest) => format!("{parent}/{rest}"),
        None => name.to_owned(),
    }
}

/// The last segment of a name.
pub fn id_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Digits for a resource that is made here: 19 of them, so that they can't be taken for ids that clients choose.
pub fn fresh_id() -> String {
    const LEAST: u64 = 1_000_000_000_000_000_000;
    // The standard library's own source of randomness: each state has new keys.
    let random = RandomState::new().build_hasher().finish();
    (LEAST + random % (8 * LEAST)).to_string()
}

/// The time, to the microsecond, and never the same twice.
pub fn now() -> Timestamp {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let clock = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
    let next = |last: i64| Some(clock.max(last.saturating_add(1)));
    let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(clock);
    let micros = clock.max(last.saturating_add(1));
    // A remainder of a million, times a thousand, is below a billion.
    Timestamp { seconds: micros.div_euclid(1_000_000), nanos: (micros.rem_euclid(1_000_000) * 1000) as i32 }
}

/// Whether a text can be an endpoint's id: up to 63 of `[a-z0-9-]` from a letter on, or up to nine digits that don't
/// begin with 0. Longer digits are the server's.
pub fn is_endpoint_id(text: &str) -> bool {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    match text.bytes().next() {
        Some(b'1'..=b'9') => is_digits && text.len() <= 9,
        Some(first) => first.is_ascii_lowercase() && text.len() <= 63 && text.bytes().all(rest) && !text.ends_with('-'),
        None => false,
    }
}

/// Whether a text can be a model's id: up to 63 of `[a-z0-9_-]`, the first not a digit or a hyphen.
pub fn is_model_id(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let first = text.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || first == b'_');
    first && text.len() <= 63 && text.bytes().all(rest)
}

/// Whether a text can be a deployed model's id: one to ten digits.
pub fn is_deployed_model_id(text: &str) -> bool {
    (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text can be an alias of a version: `[a-z][a-zA-Z0-9-]{0,126}[a-z0-9]`.
pub fn is_alias(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let last = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (2..=128).contains(&text.len())
        && text.bytes().all(rest)
        && text.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && text.bytes().last().is_some_and(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_wrong_ones_name_their_field() {
        let name = model("name", "projects/p/locations/l/models/m@golden").unwrap();
        assert_eq!(
            (&*name.parent, &*name.id, name.version.as_deref()),
            ("projects/p/locations/l", "m", Some("golden"))
        );
        assert_eq!(endpoint("name", "projects/1/locations/l/endpoints/7").unwrap().id, "7");
        for wrong in ["7", "endpoints/7", "projects/p/locations/l/models/7", "projects//locations/l/endpoints/7", ""] {
            assert_eq!(endpoint("endpoint", wrong).unwrap_err().field.as_deref(), Some("endpoint"), "{wrong}");
        }
        assert_eq!(
            under("projects/1/locations/x", "projects/p/locations/l/models/m"),
            "projects/1/locations/x/models/m"
        );
    }

    #[test]
    fn ids_have_their_syntax() {
        for id in ["a", "my-endpoint-1", "1", "123456789"] {
            assert!(is_endpoint_id(id), "{id}");
        }
        for id in ["", "0", "012", "1234567890", "1a", "A", "a_b", "-a", "a-", &"a".repeat(64)] {
            assert!(!is_endpoint_id(id), "{id}");
        }
        assert!(is_model_id("my_model-1") && is_model_id("_m") && !is_model_id("1m") && !is_model_id("-m"));
        assert!(!is_model_id("M") && !is_model_id("") && !is_model_id(&"m".repeat(64)));
        assert!(
            is_deployed_model_id("0123456789") && !is_deployed_model_id("12345678901") && !is_deployed_model_id("a")
        );
        assert!(is_alias("golden") && is_alias("v1") && is_alias("aB-0"));
        assert!(!is_alias("g") && !is_alias("1a") && !is_alias("goldeN") && !is_alias("a-") && !is_alias("a_b"));
    }

    #[test]
    fn what_is_made_here_is_unique() {
        let ids: std::collections::BTreeSet<String> = (0..1000).map(|_| fresh_id()).collect();
        assert!(ids.len() == 1000 && ids.iter().all(|id| id.len() == 19 && !is_endpoint_id(id)));
        let times: Vec<Timestamp> = (0..1000).map(|_| now()).collect();
        assert!(times.windows(2).all(|pair| (pair[0].seconds, pair[0].nanos) < (pair[1].seconds, pair[1].nanos)));
    }
}
