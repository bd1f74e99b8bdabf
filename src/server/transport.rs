//! What a connection's bytes go through: the socket alone, or TLS upon it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::activity::Activity;
use super::socket::Socket;
use super::{CROWDED_IDLE, Drain, QUIET_GRACE};

/// The longest time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The first byte of TLS: a record of the type "handshake" (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// The answer to a client that speaks HTTP where TLS is asked for.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 110\r\n\
    connection: close\r\n\r\n{\"error\":{\"code\":400,\"message\":\"this port speaks TLS: use https://\",\
    \"status\":\"INVALID_ARGUMENT\",\"details\":[]}}";

/// A connection as hyper sees it.
pub(super) enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>, Arc<Activity>),
}

impl Transport {
    /// Greets a client by TLS, in bounded time: less when the listener is full, and when it is closing.
    ///
    /// # Errors
    /// Why there is no connection, in a few words.
    pub async fn greet(
        stream: Arc<TcpStream>,
        activity: &Arc<Activity>,
        acceptor: &TlsAcceptor,
        drain: &Drain,
        mut crowded: watch::Receiver<bool>,
        longest: Duration,
    ) -> Result<Self, String> {
        let greeting = async {
            let mut first = [0];
            let count = stream.peek(&mut first).await.map_err(|error| error.to_string())?;
            let mut socket = Socket::new(stream.clone(), activity.clone()).encrypted();
            if count == 1 && first[0] != TLS_HANDSHAKE {
                if first[0].is_ascii_uppercase() {
                    // It is gone anyway.
                    let _ = socket.write_all(NOT_TLS).await;
                    let _ = socket.shutdown().await;
                }
                return Err("the client does not speak TLS".to_owned());
            }
            acceptor.accept(socket).await.map_err(|error| error.to_string())
        };
        let stream = tokio::select! {
            greeted = greeting => greeted?,
            () = tokio::time::sleep(HANDSHAKE.min(longest)) => return Err("the TLS handshake took too long".to_owned()),
            () = async { drain.closing().await; tokio::time::sleep(QUIET_GRACE).await } => {
                return Err("the TLS handshake was not over when the listener closed".to_owned());
            }
            () = async {
                if crowded.wait_for(|full| *full).await.is_err() {
                    std::future::pending::<()>().await; // The listener has ended; the drain says what to do.
                }
                tokio::time::sleep(CROWDED_IDLE).await;
            } => return Err("the TLS handshake was not over when connections ran out".to_owned()),
        };
        activity.greeted(stream.get_ref().1.alpn_protocol() == Some(b"h2"));
        Ok(Self::Tls(Box::new(stream), activity.clone()))
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream, activity) => {
                let before = buf.filled().len();
                ready!(Pin::new(stream).poll_read(cx, buf))?;
                if buf.filled().len() > before {
                    activity.received(&buf.filled()[before..]);
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream, _) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(stream, _) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_has_its_length() {
        let text = std::str::from_utf8(NOT_TLS).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
