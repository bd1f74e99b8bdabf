//! Reading a request's body whole, within a size and a time.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use bytes::BytesMut;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt;

use super::gzip::{Gunzip, GunzipError};

/// How much of a body is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// The most bytes, as sent and also once unpacked.
    pub bytes: usize,
    /// The longest time from the head of the request to the end of its body.
    pub timeout: Duration,
}

/// Why a body was not read. Except for `Interrupted` the connection is of no further use, as the rest of the body is
/// still to come: the server closes it after the answer.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// More bytes than accepted.
    #[error("Request payload size exceeds the limit: {limit} bytes (limits.body).")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// More bytes than accepted once it is unpacked.
    #[error("Request payload size exceeds the limit: {limit} bytes (limits.body) after its gzip encoding is undone.")]
    TooLargeUnpacked {
        /// The limit.
        limit: usize,
    },
    /// The client sends too slowly.
    #[error("the body of the request did not arrive within {} s", .timeout.as_secs_f64())]
    Timeout {
        /// The limit.
        timeout: Duration,
    },
    /// Neither `gzip` nor `identity`.
    #[error(
        "the header Content-Encoding names `{encoding}`, which is not supported: send the body as it is, or in gzip"
    )]
    UnsupportedEncoding {
        /// What the header says.
        encoding: String,
    },
    /// The header says gzip, the body does not.
    #[error("the header Content-Encoding says gzip, but the body is not: {reason}")]
    Gzip {
        /// What is wrong with it.
        reason: String,
    },
    /// The client left, or broke the protocol.
    #[error("the body of the request broke off: {0}")]
    Interrupted(axum::Error),
}

/// Reads the body of `request` into one contiguous piece; a body that came in one piece is not copied. A `gzip` encoding
/// is undone while it is read and never yields more than the limit.
///
/// A body that announces too large a length is refused before a byte of it is asked for: a client that sent
/// `Expect: 100-continue` is then spared the upload.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_body(request: Request, limits: BodyLimits) -> Result<Bytes, BodyError> {
    let BodyLimits { bytes: limit, timeout } = limits;
    let (head, body) = request.into_parts();
    let gzip = is_gzip(&head.headers)?;
    let announced = announced_length(&head.headers, &body);
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLarge { limit });
    }
    let announced = announced.map_or(0, |length| usize::try_from(length).unwrap_or(limit));
    let read = async { if gzip { read_gzip(body, limit).await } else { read_plain(body, announced, limit).await } };
    tokio::time::timeout(timeout, read).await.map_err(|_| BodyError::Timeout { timeout })?
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, BodyError> {
    let mut gzip = false;
    for value in headers.get_all(CONTENT_ENCODING) {
        let encoding = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
        match encoding.as_str() {
            "identity" | "" => {}
            "gzip" | "x-gzip" if !gzip => gzip = true,
            _ => {
                let encoding = encoding.chars().take(64).collect();
                return Err(BodyError::UnsupportedEncoding { encoding });
            }
        }
    }
    Ok(gzip)
}

fn announced_length(headers: &HeaderMap, body: &Body) -> Option<u64> {
    let header = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    header.or_else(|| body.size_hint().exact())
}

async fn next_chunk(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
    while let Some(frame) = body.frame().await {
        match frame.map_err(BodyError::Interrupted)?.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Ok(Some(data)),
            Err(_trailers) => {}
        }
    }
    Ok(None)
}

async fn read_plain(mut body: Body, announced: usize, limit: usize) -> Result<Bytes, BodyError> {
    let Some(first) = next_chunk(&mut body).await? else {
        return Ok(Bytes::new());
    };
    if first.len() > limit {
        return Err(BodyError::TooLarge { limit });
    }
    let Some(second) = next_chunk(&mut body).await? else {
        return Ok(first);
    };
    // What is reserved costs no memory until bytes arrive, and is at most the limit.
    let mut whole = BytesMut::with_capacity(announced.max(first.len() + second.len()).min(limit));
    let mut next = Some(second);
    whole.extend_from_slice(&first);
    drop(first);
    while let Some(chunk) = next {
        if chunk.len() > limit - whole.len() {
            return Err(BodyError::TooLarge { limit });
        }
        whole.extend_from_slice(&chunk);
        next = next_chunk(&mut body).await?;
    }
    Ok(whole.freeze())
}

async fn read_gzip(mut body: Body, limit: usize) -> Result<Bytes, BodyError> {
    let map = |error| match error {
        GunzipError::TooLarge => BodyError::TooLargeUnpacked { limit },
        GunzipError::Invalid(reason) => BodyError::Gzip { reason },
    };
    let mut unpacked = Gunzip::new(limit);
    let mut received = 0;
    while let Some(chunk) = next_chunk(&mut body).await? {
        received += chunk.len();
        if received > limit {
            return Err(BodyError::TooLarge { limit });
        }
        unpacked.write(&chunk).map_err(map)?;
    }
    unpacked.finish().map_err(map)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use futures_util::stream;

    use super::*;

    const LIMITS: BodyLimits = BodyLimits { bytes: 1000, timeout: Duration::from_secs(5) };

    /// A request whose body comes in these pieces, and a count of those that were asked for.
    fn request(chunks: Vec<Bytes>, headers: &[(&str, &str)]) -> (Request, Arc<AtomicUsize>) {
        let polled = Arc::new(AtomicUsize::new(0));
        let count = polled.clone();
        let chunks = chunks.into_iter().map(move |chunk| {
            count.fetch_add(1, SeqCst);
            Ok::<_, Infallible>(chunk)
        });
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        (request.body(Body::from_stream(stream::iter(chunks))).unwrap(), polled)
    }

    async fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn one_piece_is_not_copied() {
        let chunk = Bytes::from(vec![7; 1000]);
        let body = read_body(request(vec![chunk.clone()], &[]).0, LIMITS).await.unwrap();
        assert_eq!(body.as_ptr(), chunk.as_ptr());
        assert_eq!(body.len(), 1000);
    }

    #[tokio::test]
    async fn pieces_are_joined() {
        let pieces =
            vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c"), Bytes::from_static(b"def")];
        assert_eq!(read_body(request(pieces, &[]).0, LIMITS).await.unwrap(), "abcdef");
        assert_eq!(read_body(request(vec![], &[]).0, LIMITS).await.unwrap(), "");
    }

    #[tokio::test]
    async fn too_much_is_refused_and_not_read() {
        let (asked, polled) = request(vec![Bytes::from_static(b"a")], &[("content-length", "1001")]);
        let error = read_body(asked, LIMITS).await.unwrap_err();
        assert_eq!(error.to_string(), "Request payload size exceeds the limit: 1000 bytes (limits.body).");
        assert_eq!(polled.load(SeqCst), 0);
        let (asked, polled) = request(vec![Bytes::from(vec![0; 400]); 100], &[]);
        assert!(matches!(read_body(asked, LIMITS).await, Err(BodyError::TooLarge { limit: 1000 })));
        assert_eq!(polled.load(SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_ends() {
        let never = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let start = tokio::time::Instant::now();
        assert!(matches!(read_body(Request::new(never), LIMITS).await, Err(BodyError::Timeout { .. })));
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test]
    async fn gzip_is_undone() {
        let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let packed = gzip(&text).await;
        for size in [1, 7, packed.len()] {
            let pieces = packed.chunks(size).map(Bytes::copy_from_slice).collect();
            let body = read_body(request(pieces, &[("content-encoding", "GZip")]).0, LIMITS).await.unwrap();
            assert_eq!(body, text);
        }
    }

    #[tokio::test]
    async fn a_bomb_does_not_go_off() {
        let packed = gzip(&vec![0; 1 << 20]).await; // A thousandth of its size.
        let limits = BodyLimits { bytes: 100_000, ..LIMITS };
        let (asked, _) = request(vec![packed.into()], &[("content-encoding", "gzip")]);
        let error = read_body(asked, limits).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLargeUnpacked { limit: 100_000 }), "{error}");
    }

    #[tokio::test]
    async fn wrong_encodings_are_named() {
        for body in [b"{}".to_vec(), gzip(b"abc").await[..12].to_vec(), vec![]] {
            let (asked, _) = request(vec![body.into()], &[("content-encoding", "gzip")]);
            let error = read_body(asked, LIMITS).await.unwrap_err();
            assert!(matches!(error, BodyError::Gzip { .. }), "{error}");
        }
        for encoding in ["br", "gzip, gzip", "zstd"] {
            let error = read_body(request(vec![], &[("content-encoding", encoding)]).0, LIMITS).await.unwrap_err();
            assert!(error.to_string().contains("Content-Encoding") && error.to_string().contains(encoding), "{error}");
        }
    }
}
