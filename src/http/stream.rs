//! Answers in several pieces: a JSON array, written element by element, or server-sent events.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use http::Request;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};

use crate::protocol::status::Status;

/// How the pieces are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `[{...},\r\n{...}]`, as Google's REST clients read it.
    Array,
    /// `data: {...}` and an empty line for each.
    Events,
}

impl Framing {
    /// Events if the query says `alt=sse` (also as `$alt`) or the client accepts nothing else; otherwise an array.
    pub fn asked_by<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let is_sse = |pair: &str| matches!(pair, "alt=sse" | "$alt=sse" | "%24alt=sse");
        let accept = request.headers().get(ACCEPT).map_or(&b""[..], |value| value.as_bytes());
        if query.split('&').any(is_sse) || accept.starts_with(b"text/event-stream") {
            Self::Events
        } else {
            Self::Array
        }
    }

    /// The media type of the whole.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Array => "application/json",
            Self::Events => "text/event-stream",
        }
    }

    fn piece(self, first: bool, json: &[u8]) -> Bytes {
        let (before, after): (&[u8], &[u8]) = match self {
            Self::Array if first => (b"[", b""),
            Self::Array => (b",\r\n", b""),
            // JSON as it is written here has no line breaks.
            Self::Events => (b"data: ", b"\r\n\r\n"),
        };
        [before, json, after].concat().into()
    }

    fn end(self, empty: bool) -> Bytes {
        Bytes::from_static(match self {
            Self::Array if empty => b"[]",
            Self::Array => b"]",
            Self::Events => b"",
        })
    }
}

/// A 200 whose body is written as its pieces of JSON come. The head is already gone when a later piece fails, so the
/// failure is the last piece then: Google's object, `{"error": {...}}`.
pub fn respond(framing: Framing, pieces: impl Stream<Item = Result<Vec<u8>, Status>> + Send + 'static) -> Response {
    let framed = stream::unfold(Some((Box::pin(pieces), true)), move |state| async move {
        let (mut pieces, first) = state?;
        let chunk = match pieces.next().await {
            Some(Ok(json)) => return Some((framing.piece(first, &json), Some((pieces, false)))),
            Some(Err(status)) => {
                let last = framing.piece(first, status.to_json().as_bytes());
                [last, framing.end(false)].concat().into()
            }
            None => framing.end(first),
        };
        Some((chunk, None))
    });
    let body = Body::from_stream(framed.map(Ok::<Bytes, Infallible>));
    ([(CONTENT_TYPE, framing.media_type()), (CACHE_CONTROL, "no-store")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::status::Code;

    async fn body(framing: Framing, pieces: Vec<Result<Vec<u8>, Status>>) -> String {
        let response = respond(framing, stream::iter(pieces));
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn pieces_in_their_frames() {
        let pieces = || vec![Ok(b"{}".to_vec()), Ok(b"1".to_vec())];
        assert_eq!(body(Framing::Array, pieces()).await, "[{},\r\n1]");
        assert_eq!(body(Framing::Array, vec![]).await, "[]");
        assert_eq!(body(Framing::Events, pieces()).await, "data: {}\r\n\r\ndata: 1\r\n\r\n");
    }

    #[tokio::test]
    async fn a_failure_ends_the_stream_and_leaves_it_well_formed() {
        let pieces = vec![Ok(b"{}".to_vec()), Err(Status::new(Code::Internal, "no")), Ok(b"{}".to_vec())];
        let text = body(Framing::Array, pieces).await;
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 2);
        assert_eq!(json[1]["error"]["message"], "no");
    }

    #[test]
    fn events_are_asked_for() {
        let framing = |uri: &str, accept: &str| {
            Framing::asked_by(&Request::builder().uri(uri).header(ACCEPT, accept).body(()).unwrap())
        };
        assert_eq!(framing("/x?alt=sse", "*/*"), Framing::Events);
        assert_eq!(framing("/x?key=1&%24alt=sse", ""), Framing::Events);
        assert_eq!(framing("/x", "text/event-stream"), Framing::Events);
        assert_eq!(framing("/x?%24alt=json%3Benum-encoding%3Dint", "application/json"), Framing::Array);
        assert_eq!(framing("/x?xalt=sse", "*/*, text/event-stream"), Framing::Array);
    }
}
