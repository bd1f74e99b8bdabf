//! One connection from accept to close.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, Version};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::activity::{Activity, Verdict};
use super::socket::{Socket, has_unread};
use super::transport::Transport;
use super::{Drain, QUIET_GRACE, ServerSettings};

/// Serves `stream` until it closes, by TLS where there is an `acceptor`. HTTP/1.1 and HTTP/2 (with prior knowledge) are
/// told apart by their first bytes.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    drain: Drain,
    settings: Arc<ServerSettings>,
    mut crowded: watch::Receiver<bool>,
) {
    // Otherwise an answer in two segments waits for the client's delayed acknowledgement, 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection lost before it was served");
        return;
    }
    let stream = Arc::new(stream);
    let is_encrypted = acceptor.is_some();
    let activity = Arc::new(Activity::new());
    let transport = match acceptor {
        None => Transport::Plain(Socket::new(stream.clone(), activity.clone())),
        Some(acceptor) => {
            let (crowded, longest) = (crowded.clone(), settings.header_timeout);
            match Transport::greet(stream.clone(), &activity, &acceptor, &drain, crowded, longest).await {
                Ok(transport) => transport,
                Err(reason) => return tracing::debug!(%peer, reason, "no TLS connection"),
            }
        }
    };
    let mut phase = drain.subscribe();

    let service = service_fn({
        let activity = activity.clone();
        let crowded = crowded.clone();
        move |mut request: Request<Incoming>| {
            if is_encrypted {
                request.extensions_mut().insert(Encrypted);
            }
            answer(request, peer, router.clone(), drain.clone(), crowded.clone(), activity.clone())
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None); // Activity times heads.
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(transport), service));

    let mut retired: Option<Instant> = None;
    let mut watching = true;
    let mut timer = pin!(tokio::time::sleep(settings.header_timeout));
    loop {
        let current = *phase.borrow_and_update();
        let full = *crowded.borrow_and_update();
        // Judged after each poll, as that is when something may have happened.
        let step = poll_fn(|cx| {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(Step::Ended(result));
            }
            let wake = match activity.judge(current, full, &settings) {
                Verdict::Until(instant) => instant,
                Verdict::Cut(reason) => return Poll::Ready(Step::Cut(reason)),
                Verdict::Retire => match retired {
                    None if !has_unread(&stream) => return Poll::Ready(Step::Retire),
                    Some(told) if activity.ignores_goaway(told) => {
                        return Poll::Ready(Step::Cut("the client does not close"));
                    }
                    _ => Instant::now() + QUIET_GRACE / 4,
                },
            };
            // A timer that is too early only makes us look once more; setting it for each poll would cost more.
            if timer.is_elapsed() || wake < timer.deadline() {
                timer.as_mut().reset(wake);
            }
            timer.as_mut().poll(cx).map(|()| Step::Again)
        });
        let step = tokio::select! {
            biased;
            step = step => step,
            changed = phase.changed(), if watching => {
                watching = changed.is_ok();
                Step::Again
            }
            // Fails when the listener has ended; the drain then says what to do.
            Ok(()) = crowded.changed() => Step::Again,
        };
        match step {
            Step::Again => {}
            Step::Retire => {
                retired = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
            Step::Cut(reason) => return tracing::debug!(%peer, reason, "connection cut"),
            Step::Ended(Ok(())) => return,
            Step::Ended(Err(error)) => {
                return tracing::debug!(%peer, %error, "connection ended with an error");
            }
        }
    }
}

/// Among the extensions of a request that came by TLS.
#[derive(Debug, Clone, Copy)]
pub struct Encrypted;

/// What a look at the connection led to.
enum Step {
    Again,
    Retire,
    Cut(&'static str),
    Ended(Result<(), Box<dyn std::error::Error + Send + Sync>>),
}

async fn answer(
    mut request: Request<Incoming>,
    peer: SocketAddr,
    router: Router,
    drain: Drain,
    crowded: watch::Receiver<bool>,
    activity: Arc<Activity>,
) -> Result<Response<Body>, Infallible> {
    let version = request.version();
    activity.request_began(version == Version::HTTP_2);
    let in_flight = InFlight(activity);
    request.extensions_mut().insert(ConnectInfo(peer));
    let mut response = router.oneshot(request).await?;
    if version < Version::HTTP_2 && (drain.is_draining() || *crowded.borrow()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Body::new(Tracked { body, _in_flight: in_flight })))
}

/// Held as long as a request is under way, also when it is given up.
struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// The body of an answer, which ends the request when hyper has taken it whole.
struct Tracked {
    body: Body,
    _in_flight: InFlight,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
