//! One connection: a request at a time over HTTP/1.1, kept alive, opened anew when it was closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::record::Fault;
use super::target::Target;

/// As much of an answer as is kept to show what went wrong.
const EXAMPLE: usize = 300;

/// What came of a request: when it was sent, and the bytes of the answer or why there is none.
pub struct Exchange {
    /// When it was sent, or would have been.
    pub sent: Instant,
    /// Bytes of the answer's body, or why there is none and what was said about it.
    pub outcome: Result<u64, (Fault, String)>,
}

/// A connection to the target, if open.
pub struct Connection {
    target: Arc<Target>,
    timeout: Duration,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    /// One that will open when it is needed.
    pub fn new(target: Arc<Target>, timeout: Duration) -> Self {
        Self { target, timeout, sender: None }
    }

    /// Opens it unless it is open.
    pub async fn open(&mut self) -> Result<(), (Fault, String)> {
        if let Some(sender) = &mut self.sender
            && sender.ready().await.is_ok()
        {
            return Ok(());
        }
        let connect = connect(&self.target);
        let timeout = self.timeout;
        let limited = tokio::time::timeout(timeout, connect).await;
        self.sender = Some(
            limited
                .unwrap_or_else(|_| Err(format!("no connection in {timeout:?}")))
                .map_err(|reason| (Fault::Connect, reason))?,
        );
        Ok(())
    }

    /// Sends the request whose turn it is and reads the answer to its end.
    pub async fn exchange(&mut self, turn: usize) -> Exchange {
        if let Err(failure) = self.open().await {
            return Exchange { sent: Instant::now(), outcome: Err(failure) };
        }
        let request = self.target.request(turn);
        let mut sent = Instant::now();
        let mut outcome = self.once(request).await;
        // A server may close an idle connection just as it is used again; what was not sent at all is sent once more.
        if matches!(outcome, Err(Attempt::NotSent)) && self.open().await.is_ok() {
            sent = Instant::now();
            outcome = self.once(self.target.request(turn)).await;
        }
        let outcome = outcome.map_err(|attempt| match attempt {
            Attempt::NotSent => (Fault::Broken, "the connection was closed".to_owned()),
            Attempt::Failed(fault, reason) => (fault, reason),
        });
        Exchange { sent, outcome }
    }

    async fn once(&mut self, request: Request<Full<Bytes>>) -> Result<u64, Attempt> {
        // Taken, so that a connection in an unknown state is not used again.
        let Some(mut sender) = self.sender.take() else { return Err(Attempt::NotSent) };
        match tokio::time::timeout(self.timeout, ask(&mut sender, request)).await {
            Err(_) => Err(Attempt::Failed(Fault::Timeout, format!("no answer in {:?}", self.timeout))),
            Ok(Err(error)) if error.is_canceled() => Err(Attempt::NotSent),
            Ok(Err(error)) => Err(Attempt::Failed(Fault::Broken, describe(&error))),
            Ok(Ok(answer)) => {
                self.sender = Some(sender);
                answer.map_err(|(status, example)| Attempt::Failed(Fault::Status(status), example))
            }
        }
    }
}

enum Attempt {
    NotSent,
    Failed(Fault, String),
}

/// The bytes of the body of a successful answer, or the status and the beginning of the body of another.
async fn ask(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Result<u64, (u16, String)>> {
    let response = sender.send_request(request).await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut received = 0;
    let mut example = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        received += data.len() as u64;
        if !status.is_success() && example.len() < EXAMPLE {
            example.extend_from_slice(&data[..data.len().min(EXAMPLE)]);
        }
    }
    example.truncate(EXAMPLE);
    let failure = || (status.as_u16(), String::from_utf8_lossy(&example).into_owned());
    Ok(if status.is_success() { Ok(received) } else { Err(failure()) })
}

async fn connect(target: &Target) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| describe(&error))?;
    // It ends with the sender. What goes wrong reaches whoever waits for the answer.
    tokio::spawn(async {
        let _ = connection.await;
    });
    Ok(sender)
}

fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
