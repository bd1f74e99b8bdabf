//! Reads an answer of HTTP/1.1 (RFC 9112) from a connection: its status, the end of its body, and what the body
//! begins with if it tells of a failure.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// As much of an answer as is kept to show what went wrong.
const EXAMPLE: usize = 300;
/// The longest head, or line between chunks, that is understood.
const LONGEST_HEAD: usize = 32 << 10;
/// The most headers.
const HEADERS: usize = 64;

/// An answer, read to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Bytes of the body.
    pub length: u64,
    /// The beginning of the body, unless the status is 2xx.
    pub example: Vec<u8>,
    /// Whether another request may follow on the connection.
    pub is_kept: bool,
}

/// How the end of a body is known.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClosed,
}

/// The reading side of a connection, with what was read and not used yet.
#[derive(Debug)]
pub struct Answers {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Answers {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self { buffer: vec![0; LONGEST_HEAD].into(), start: 0, end: 0 }
    }

    /// Whether something was read that no answer has used: the server said more than it was asked.
    pub fn has_rest(&self) -> bool {
        self.start < self.end
    }

    /// Reads the next answer to its end. Dropping the future loses what was read.
    ///
    /// # Errors
    /// Those of the connection; [`io::ErrorKind::UnexpectedEof`] if it ended before the answer did;
    /// [`io::ErrorKind::InvalidData`] if what came was not HTTP/1.
    pub async fn next(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Answer> {
        let (mut answer, framing) = loop {
            let (answer, framing) = self.head(from).await?;
            // 1xx comes before the answer proper.
            if answer.status >= 200 {
                break (answer, framing);
            }
        };
        match framing {
            Framing::Length(length) => self.take(from, length, &mut answer).await?,
            Framing::Chunked => loop {
                let size = chunk_size(self.line(from).await?)?;
                if size == 0 {
                    while !self.line(from).await?.is_empty() {}
                    break;
                }
                self.take(from, size, &mut answer).await?;
                self.line(from).await?;
            },
            Framing::UntilClosed => {
                answer.is_kept = false;
                loop {
                    let rest = (self.end - self.start) as u64;
                    self.take(from, rest, &mut answer).await?;
                    if self.fill(from).await? == 0 {
                        break;
                    }
                }
            }
        }
        Ok(answer)
    }

    async fn head(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Answer, Framing)> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.buffer[self.start..self.end]).map_err(invalid)?;
            if let httparse::Status::Complete(length) = parsed {
                let found = understand(&response)?;
                self.start += length;
                return Ok(found);
            }
            self.fill_some(from).await?;
        }
    }

    /// The next line, without its end.
    async fn line(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<&[u8]> {
        let length = loop {
            match self.buffer[self.start..self.end].iter().position(|&byte| byte == b'\n') {
                Some(length) => break length,
                None => self.fill_some(from).await?,
            }
        };
        let line = &self.buffer[self.start..self.start + length];
        self.start += length + 1;
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Uses up this many bytes of the body.
    async fn take(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        mut length: u64,
        answer: &mut Answer,
    ) -> io::Result<()> {
        while length > 0 {
            if self.start == self.end {
                self.fill_some(from).await?;
            }
            let present = usize::try_from(length).unwrap_or(usize::MAX).min(self.end - self.start);
            if !is_success(answer.status) {
                let wanted = present.min(EXAMPLE - answer.example.len());
                answer.example.extend_from_slice(&self.buffer[self.start..self.start + wanted]);
            }
            self.start += present;
            length -= present as u64;
            answer.length += present as u64;
        }
        Ok(())
    }

    async fn fill_some(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        match self.fill(from).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before the answer ended")),
            _ => Ok(()),
        }
    }

    /// Reads what is there, and says how much it was; 0 at the end.
    async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            return Err(invalid(format!("a head or a line of more than {LONGEST_HEAD} bytes")));
        }
        let read = from.read(&mut self.buffer[self.end..]).await?;
        self.end += read;
        Ok(read)
    }
}

/// Whether a status tells of success.
pub fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn understand(response: &httparse::Response<'_, '_>) -> io::Result<(Answer, Framing)> {
    let status = response.code.unwrap_or_default();
    let has = |name: &str, token: &str| {
        let named = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let mut values = named.filter_map(|header| std::str::from_utf8(header.value).ok());
        values.any(|value| value.split(',').any(|it| it.trim().eq_ignore_ascii_case(token)))
    };
    let is_kept = match response.version {
        Some(1) => !has("connection", "close"),
        _ => has("connection", "keep-alive"),
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let framing = if status < 200 || status == 204 || status == 304 {
        Framing::Length(0)
    } else if has("transfer-encoding", "chunked") {
        Framing::Chunked
    } else if let Some(header) = length {
        let text = std::str::from_utf8(header.value).map_err(invalid)?;
        Framing::Length(text.trim().parse().map_err(invalid)?)
    } else {
        Framing::UntilClosed
    };
    Ok((Answer { status, length: 0, example: Vec::new(), is_kept }, framing))
}

/// The size in a chunk's first line, before its extensions.
fn chunk_size(line: &[u8]) -> io::Result<u64> {
    let size = line.split(|&byte| byte == b';').next().unwrap_or_default();
    let text = std::str::from_utf8(size).map_err(invalid)?;
    u64::from_str_radix(text.trim(), 16).map_err(invalid)
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of these bytes when they come in pieces of `piece` bytes and the connection then ends.
    async fn read(bytes: &[u8], piece: usize) -> Vec<io::Result<Answer>> {
        let (mut client, mut server) = tokio::io::duplex(piece);
        let bytes = bytes.to_vec();
        tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut server, &bytes).await });
        let mut answers = Answers::new();
        let mut seen = Vec::new();
        loop {
            seen.push(answers.next(&mut client).await);
            if !matches!(seen.last(), Some(Ok(Answer { is_kept: true, .. }))) {
                return seen;
            }
        }
    }

    #[tokio::test]
    async fn each_framing_ends_where_it_should() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
            HTTP/1.1 100 Continue\r\n\r\n\
            HTTP/1.1 503 Busy\r\ntransfer-encoding: Chunked\r\n\r\n3;x=y\r\nno,\r\nA\r\n not today\r\n0\r\nTrailer: 1\r\n\r\n\
            HTTP/1.1 204 None\r\n\r\n\
            HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\nto the end";
        for piece in [1, 7, 4096] {
            let seen: Vec<_> = read(bytes, piece).await.into_iter().map(Result::unwrap).collect();
            let told: Vec<_> = seen.iter().map(|it| (it.status, it.length, &it.example[..], it.is_kept)).collect();
            let expected = [
                (200, 5, &b""[..], true),
                (503, 13, &b"no, not today"[..], true),
                (204, 0, &b""[..], true),
                (200, 10, &b""[..], false),
            ];
            assert_eq!(told, expected, "in pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_long_body_is_counted_and_not_kept() {
        let mut bytes = b"HTTP/1.1 500 Oh\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n".to_vec();
        bytes.extend(std::iter::repeat_n(b'x', 100_000));
        let [answer] = &read(&bytes, 4096).await[..] else { panic!("one answer") };
        let answer = answer.as_ref().unwrap();
        assert_eq!((answer.length, answer.example.len(), answer.is_kept), (100_000, EXAMPLE, false));
    }

    #[tokio::test]
    async fn what_ends_early_or_is_no_http_is_an_error() {
        for (bytes, kind) in [
            (&b""[..], io::ErrorKind::UnexpectedEof),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", io::ErrorKind::UnexpectedEof),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", io::ErrorKind::UnexpectedEof),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", io::ErrorKind::InvalidData),
            (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", io::ErrorKind::InvalidData),
            (b"SSH-2.0-OpenSSH\r\n", io::ErrorKind::InvalidData),
        ] {
            let seen = read(bytes, 64).await;
            assert_eq!(seen[0].as_ref().unwrap_err().kind(), kind, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
