//! A TCP stream that tells what happens on it, and that closes without a reset.
//!
//! A socket that is closed while bytes lie unread in it answers with RST, and an RST makes the other side's kernel throw
//! away what it had not yet handed to its program: a client that is refused in the middle of its upload would see
//! "connection reset" and never the answer. Therefore shutting down means: send FIN, then read away what still comes
//! until the client closes too, for a bounded time (RFC 9112, 9.6).

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::activity::Activity;

/// Closing waits at most this long for the client's FIN while nothing arrives.
const LINGER_QUIET: Duration = Duration::from_secs(1);
/// And at most this long in all.
const LINGER_TOTAL: Duration = Duration::from_secs(10);

/// The server's side of one connection.
pub(super) struct Socket {
    // Shared with the watcher, which peeks.
    stream: Arc<TcpStream>,
    activity: Arc<Activity>,
    /// What is read here is not yet what the client says.
    is_encrypted: bool,
    /// The client has closed its side.
    ended: bool,
    linger: Option<Linger>,
}

struct Linger {
    quiet: Pin<Box<Sleep>>,
    latest: Instant,
}

impl Socket {
    pub fn new(stream: Arc<TcpStream>, activity: Arc<Activity>) -> Self {
        Self { stream, activity, is_encrypted: false, ended: false, linger: None }
    }

    /// For TLS above it, which tells of what arrives once it is deciphered.
    pub fn encrypted(self) -> Self {
        Self { is_encrypted: true, ..self }
    }

    fn track_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Pending => self.activity.writing(true),
            Poll::Ready(_) => self.activity.writing(false),
        }
    }
}

/// Whether bytes lie in `stream` that nobody has read.
pub(super) fn has_unread(stream: &TcpStream) -> bool {
    SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]).is_ok_and(|count| count > 0)
}

/// Reads what is there. Where that does not fill the buffer, the socket is empty: then whoever reads next waits for the kernel
/// to tell of more, instead of asking it in vain. (What comes meanwhile is told again, and an end was told with it: epoll and
/// kqueue report edges, and tokio forgets none that it has heard of after it began to read.)
fn read(stream: &TcpStream, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    let (mut count, room) = (0, buf.remaining());
    let result = stream.try_io(Interest::READABLE, || {
        count = stream.try_read_buf(buf)?;
        if 0 < count && count < room { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if count == 0 => Err(error),
        _ => Ok(count),
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let before = buf.filled().len();
            match read(&self.stream, buf) {
                Ok(0) => {
                    self.ended = buf.remaining() > 0;
                    return Poll::Ready(Ok(()));
                }
                Ok(_) => {
                    if !self.is_encrypted {
                        self.activity.received(&buf.filled()[before..]);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = poll_io(&self.stream, cx, |stream| stream.try_write(buf));
        self.track_write(&result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = poll_io(&self.stream, cx, |stream| stream.try_write_vectored(bufs));
        self.track_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // The kernel has it; TCP_NODELAY is set.
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ended {
            // Nothing more can come, so that closing cannot reset.
            return Poll::Ready(shutdown_write(&this.stream));
        }
        let linger = match &mut this.linger {
            Some(linger) => linger,
            none => {
                shutdown_write(&this.stream)?;
                this.activity.lingering();
                let now = Instant::now();
                let quiet = Box::pin(tokio::time::sleep(LINGER_QUIET));
                none.insert(Linger { quiet, latest: now + LINGER_TOTAL })
            }
        };
        let mut scratch = [0; 16 * 1024];
        // Bounded, so that a fast sender does not keep this thread.
        for _ in 0..16 {
            if linger.quiet.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            ready!(this.stream.poll_read_ready(cx))?;
            match this.stream.try_read(&mut scratch) {
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => linger.quiet.as_mut().reset(linger.latest.min(Instant::now() + LINGER_QUIET)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn poll_io(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    attempt: impl Fn(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match attempt(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    match SockRef::from(stream).shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()), // The client was first.
        result => result,
    }
}
