//! Undoing gzip piece by piece, never beyond a limit: a thousand bytes can stand for a million.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_compression::tokio::write::GzipDecoder;
use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Takes packed bytes, keeps unpacked ones.
pub(super) struct Gunzip {
    decoder: GzipDecoder<Bounded>,
}

#[derive(Debug)]
pub(super) enum GunzipError {
    /// The unpacked bytes are more than the limit.
    TooLarge,
    /// Not gzip, or not all of it.
    Invalid(String),
}

impl Gunzip {
    pub fn new(limit: usize) -> Self {
        Self { decoder: GzipDecoder::new(Bounded { bytes: Vec::new(), limit, exceeded: false }) }
    }

    pub async fn write(&mut self, packed: &[u8]) -> Result<(), GunzipError> {
        let result = self.decoder.write_all(packed).await;
        self.check(result)
    }

    /// The unpacked bytes, once all packed ones are written.
    pub async fn finish(mut self) -> Result<Bytes, GunzipError> {
        let result = self.decoder.shutdown().await;
        self.check(result)?;
        Ok(self.decoder.into_inner().bytes.into())
    }

    fn check(&self, result: io::Result<()>) -> Result<(), GunzipError> {
        result.map_err(|error| match self.decoder.get_ref().exceeded {
            true => GunzipError::TooLarge,
            false => GunzipError::Invalid(error.to_string()),
        })
    }
}

struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    exceeded: bool,
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.len() > self.limit - self.bytes.len() {
            self.exceeded = true;
            return Poll::Ready(Err(io::Error::other("beyond the limit")));
        }
        self.bytes.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
