//! Undoing gzip piece by piece, never beyond a limit: a thousand bytes can stand for a million.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;

/// Takes packed bytes, keeps unpacked ones.
pub(super) struct Gunzip {
    decoder: MultiGzDecoder<Bounded>,
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
        Self { decoder: MultiGzDecoder::new(Bounded { bytes: Vec::new(), limit, exceeded: false }) }
    }

    pub fn write(&mut self, packed: &[u8]) -> Result<(), GunzipError> {
        let result = self.decoder.write_all(packed);
        self.check(result)
    }

    /// The unpacked bytes, once all packed ones are written.
    pub fn finish(mut self) -> Result<Bytes, GunzipError> {
        let result = self.decoder.try_finish();
        self.check(result)?;
        Ok(std::mem::take(&mut self.decoder.get_mut().bytes).into())
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

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.bytes.len() {
            self.exceeded = true;
            return Err(io::Error::other("beyond the limit"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
