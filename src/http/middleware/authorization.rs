//! Lets in who has a token. See [`crate::auth`].

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, Uri};
use hyper::body::{Frame, SizeHint};

use crate::auth::{Asked, Caller, Guard, Need};
use crate::protocol::status::{Code, Status};

/// Another way to send a token than `Authorization`.
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-goog-api-key");

/// What the layer knows.
#[derive(Clone)]
pub struct Authorization {
    /// Who has which token.
    pub guard: Arc<Guard>,
    /// The answer to a request with these headers and this path that is refused, in the protocol that it speaks.
    pub refuse: fn(&HeaderMap, &Uri, Status) -> Response,
    /// Whether a request with these headers is a call of gRPC.
    pub is_grpc: fn(&HeaderMap) -> bool,
}

/// A layer (by `axum::middleware::from_fn_with_state`) that answers those without a token by 401 (UNAUTHENTICATED), and those
/// whose token isn't good for what they ask by 403 (PERMISSION_DENIED). What is below it runs in the scope of the caller.
pub async fn authorization(State(own): State<Authorization>, request: Request, next: Next) -> Response {
    let is_grpc = (own.is_grpc)(request.headers());
    let asked = Asked { method: request.method(), path: request.uri().path(), is_grpc };
    let need = asked.need();
    if need == Need::Nothing {
        return next.run(request).await;
    }
    let refuse = |status: Status| (own.refuse)(request.headers(), request.uri(), status);
    let (caller, is_given) = caller(&own.guard, &request);
    let Some(caller) = caller else {
        let message = match is_given {
            true => "this token is not known here",
            false => {
                "a token is needed: send it as `Authorization: Bearer TOKEN`, as the header `x-goog-api-key`, or as the \
                 parameter `key` of the query"
            }
        };
        let mut response = refuse(Status::new(Code::Unauthenticated, message).because("UNAUTHENTICATED"));
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tessera\""));
        return response;
    };
    let is_restricted = caller.endpoints.is_some();
    if !caller.may(need) || (is_restricted && !asked.concerns(need, |endpoint| caller.may_use(endpoint))) {
        let message = match need {
            Need::Manage if !caller.may(need) => "this token is not for changing models and endpoints",
            Need::Predict => "this token is not for predictions",
            _ => "this token is not for this endpoint",
        };
        return refuse(Status::new(Code::PermissionDenied, message).because("TOKEN_NOT_SUFFICIENT"));
    }
    tracing::debug!(caller = caller.name, "let in");
    let response = caller.clone().scope(next.run(request)).await;
    // What is streamed is made while it is sent.
    response.map(|body| Body::new(Scoped { body, caller }))
}

/// Whose token a request has, and whether it has any.
fn caller(guard: &Guard, request: &Request) -> (Option<Arc<Caller>>, bool) {
    let bearer = request.headers().get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii().to_vec())
    });
    let header = request.headers().get_all(API_KEY).iter().map(|value| value.as_bytes().to_vec());
    let query = request.uri().query().into_iter().flat_map(|query| query.split('&')).filter_map(|pair| {
        let value = pair.strip_prefix("key=").or_else(|| pair.strip_prefix("%24key="))?;
        Some(decoded(value))
    });
    let mut is_given = false;
    let found = bearer.chain(header).chain(query).filter(|token| !token.is_empty()).find_map(|token| {
        is_given = true;
        guard.caller(&token)
    });
    (found, is_given)
}

/// A value of a query, percent-decoded.
fn decoded(value: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = || u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok();
        match (first, escaped()) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// A body that is made in the scope of the caller who asked for it.
struct Scoped {
    body: Body,
    caller: Arc<Caller>,
}

impl HttpBody for Scoped {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, caller } = &mut *self;
        caller.sync_scope(|| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
