//! One connection: a request at a time over HTTP/1.1, kept alive, opened anew when it was closed.
//!
//! Written by hand, because a load generator that shares its cores with the server takes from it what it uses itself.
//! A general client runs each connection in a task of its own: of 64 answers that came together it reads all before it
//! sends the next request, and the server waits meanwhile. Here reading, counting and sending again are one step.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::answer::{Answer, Answers, is_success};
use super::record::Fault;
use super::target::Target;

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
    open: Option<Open>,
}

struct Open {
    stream: TcpStream,
    answers: Answers,
}

impl Connection {
    /// One that will open when it is needed.
    pub fn new(target: Arc<Target>, timeout: Duration) -> Self {
        Self { target, timeout, open: None }
    }

    /// Opens it unless it is open.
    pub async fn open(&mut self) -> Result<(), (Fault, String)> {
        if self.open.as_ref().is_some_and(Open::is_idle) {
            return Ok(());
        }
        // The old one is closed first: its server may count connections.
        self.open = None;
        let timeout = self.timeout;
        let limited = tokio::time::timeout(timeout, Open::new(&self.target)).await;
        let failed = |reason| (Fault::Connect, reason);
        let opened = limited.unwrap_or_else(|_| Err(io::Error::other(format!("no connection in {timeout:?}"))));
        self.open = Some(opened.map_err(|error| failed(error.to_string()))?);
        Ok(())
    }

    /// Sends the request whose turn it is and reads the answer to its end.
    pub async fn exchange(&mut self, turn: usize) -> Exchange {
        if let Err(failure) = self.open().await {
            return Exchange { sent: Instant::now(), outcome: Err(failure) };
        }
        let mut sent = Instant::now();
        let mut attempt = self.once(turn).await;
        // A server may close an idle connection just as it is used again; what was not sent at all is sent once more.
        if matches!(attempt, Err(Attempt::NotSent)) && self.open().await.is_ok() {
            sent = Instant::now();
            attempt = self.once(turn).await;
        }
        let outcome = match attempt {
            Ok(answer) if is_success(answer.status) => Ok(answer.length),
            Ok(answer) => {
                let example = String::from_utf8_lossy(&answer.example).into_owned();
                Err((Fault::Status(answer.status), example))
            }
            Err(Attempt::NotSent) => Err((Fault::Broken, "the connection was closed".to_owned())),
            Err(Attempt::Failed(fault, reason)) => Err((fault, reason)),
        };
        Exchange { sent, outcome }
    }

    async fn once(&mut self, turn: usize) -> Result<Answer, Attempt> {
        // Taken, so that a connection in an unknown state is not used again.
        let Some(mut open) = self.open.take() else { return Err(Attempt::NotSent) };
        match tokio::time::timeout(self.timeout, open.ask(self.target.request(turn))).await {
            Err(_) => Err(Attempt::Failed(Fault::Timeout, format!("no answer in {:?}", self.timeout))),
            Ok(Err(attempt)) => Err(attempt),
            Ok(Ok(answer)) => {
                self.open = answer.is_kept.then_some(open);
                Ok(answer)
            }
        }
    }
}

enum Attempt {
    NotSent,
    Failed(Fault, String),
}

impl Open {
    async fn new(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answers: Answers::new() })
    }

    /// Whether nothing has come since the last answer: neither the connection's end nor what nobody asked for.
    fn is_idle(&self) -> bool {
        let nothing = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
        !self.answers.has_rest() && self.stream.try_read(&mut [0]).is_err_and(nothing)
    }

    /// Sends a request and reads its answer, which may come before all of the request is sent.
    async fn ask(&mut self, request: &[u8]) -> Result<Answer, Attempt> {
        let (mut reader, mut writer) = self.stream.split();
        let mut write = std::pin::pin!(writer.write_all(request));
        let mut read = std::pin::pin!(self.answers.next(&mut reader));
        let mut sending = true;
        let mut unsent = None;
        let answer = loop {
            tokio::select! {
                biased;
                // A server that refuses a large request may answer and close before it has read all of it.
                written = &mut write, if sending => {
                    sending = false;
                    unsent = written.err();
                }
                answer = &mut read => break answer,
            }
        };
        match (answer, unsent) {
            (Ok(answer), unsent) => Ok(Answer { is_kept: answer.is_kept && !sending && unsent.is_none(), ..answer }),
            (Err(_), Some(_)) => Err(Attempt::NotSent),
            (Err(error), None) => Err(Attempt::Failed(Fault::Broken, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

    /// A server that on each connection in turn reads this much, sends this, and closes.
    async fn server(connections: Vec<(usize, &'static [u8])>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for (length, answer) in connections {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut vec![0; length]).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        port
    }

    fn connection(port: u16, request: &[u8]) -> Connection {
        Connection::new(Arc::new(Target::of(port, request.to_vec())), Duration::from_secs(10))
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_is_opened_anew() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..],
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\n\r\nok",
        ] {
            let mut connection = connection(server(vec![(REQUEST.len(), answer); 3]).await, REQUEST);
            for turn in 0..3 {
                assert_eq!(connection.exchange(turn).await.outcome, Ok(2));
                // As a user thinks: so the end is there before it is used again.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let (fault, _) = connection.exchange(3).await.outcome.unwrap_err();
            assert_eq!(fault, Fault::Connect);
        }
    }

    #[tokio::test]
    async fn a_refusal_is_heard_while_the_request_is_still_being_sent() {
        let answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!";
        let mut request = REQUEST.to_vec();
        request.resize(32 << 20, b'x');
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connection = connection(listener.local_addr().unwrap().port(), &request);
        let asked = tokio::spawn(async move { connection.exchange(0).await.outcome });
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(answer).await.unwrap();
        // Still open and unread, so that nothing but the answer ends the request.
        assert_eq!(asked.await.unwrap(), Err((Fault::Status(413), "no!".to_owned())));
    }

    #[tokio::test]
    async fn an_end_in_the_middle_of_an_answer_is_a_fault() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
        let mut connection = connection(server(vec![(REQUEST.len(), answer)]).await, REQUEST);
        let (fault, reason) = connection.exchange(0).await.outcome.unwrap_err();
        assert_eq!(fault, Fault::Broken, "{reason}");
    }
}
