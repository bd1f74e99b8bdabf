//! Pages of other origins may call the API, if a setting says so.

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Method, Uri};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::authorization::API_KEY;
use super::{SERVER_TIMING, X_SERVER_TIMEOUT};
use crate::http::open_inference::REDIRECT;
use crate::protocol::open_inference::HEADER_LENGTH;
use crate::service::{ANSWERED_BY, SESSION};

/// Not an origin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{origin}` is not an origin: scheme, host and port as in `https://example.org:8443`, or `*` alone for all")]
pub struct OriginError {
    /// What the setting says.
    pub origin: String,
}

/// The layer that allows `origins`; `None` when there are none, so that no CORS header is ever sent.
///
/// # Errors
/// When one of them is not an origin.
pub fn cors(origins: &[String]) -> Result<Option<CorsLayer>, OriginError> {
    let allowed = match origins {
        [] => return Ok(None),
        [all] if all == "*" => AllowOrigin::any(),
        some => AllowOrigin::list(some.iter().map(|origin| parse(origin)).collect::<Result<Vec<_>, _>>()?),
    };
    let answered_by = ANSWERED_BY.into_iter().map(HeaderName::from_static);
    let request_id = HeaderName::from_static("x-request-id");
    Ok(Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
            .allow_headers([
                AUTHORIZATION,
                API_KEY,
                CONTENT_TYPE,
                CONTENT_ENCODING,
                X_SERVER_TIMEOUT,
                HeaderName::from_static(SESSION),
                HeaderName::from_static(HEADER_LENGTH),
                REDIRECT,
                request_id.clone(),
            ])
            .expose_headers(
                answered_by
                    .chain([
                        request_id,
                        SERVER_TIMING,
                        RETRY_AFTER,
                        WWW_AUTHENTICATE,
                        HeaderName::from_static(HEADER_LENGTH),
                    ])
                    .collect::<Vec<_>>(),
            )
            .max_age(Duration::from_secs(3600)),
    ))
}

/// What a browser sends in `Origin`, letter by letter: no path, no slash at the end.
fn parse(origin: &str) -> Result<HeaderValue, OriginError> {
    let error = || OriginError { origin: origin.to_owned() };
    let uri: Uri = origin.parse().map_err(|_| error())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(error());
    };
    if origin != format!("{scheme}://{authority}") {
        return Err(error());
    }
    HeaderValue::from_str(origin).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::post;
    use http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn allowed(origins: &[&str], origin: &str) -> Option<String> {
        let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
        let mut router = Router::new().route("/", post(|| async {}));
        if let Some(layer) = cors(&origins).unwrap() {
            router = router.layer(layer);
        }
        let request = Request::builder().method("OPTIONS").header("origin", origin);
        let request = request.header("access-control-request-method", "POST").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn only_what_is_set_is_allowed() {
        let (ours, theirs) = ("https://a.example", "https://b.example:8443");
        assert_eq!(allowed(&[], ours).await, None);
        assert_eq!(allowed(&[ours], ours).await.as_deref(), Some(ours));
        assert_eq!(allowed(&[ours], theirs).await, None);
        assert_eq!(allowed(&[ours, theirs], theirs).await.as_deref(), Some(theirs));
        assert_eq!(allowed(&["*"], theirs).await.as_deref(), Some("*"));
    }

    #[test]
    fn others_are_refused() {
        for wrong in ["example.org", "https://example.org/", "https://example.org/path", "*.example.org", ""] {
            assert!(cors(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
