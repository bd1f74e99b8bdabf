//! Objects to files: several at once, each checked against what the listing says of it, continued where a connection broke.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::StatusCode;
use http::header::{CONTENT_RANGE, RANGE};
use reqwest::Response;
use tokio::sync::mpsc;

use super::bucket::Bucket;
use super::file::{Fault, PartialFile};
use super::object::Object;
use super::progress::Meter;
use super::request::{self, ATTEMPTS};
use super::{ArtifactError, ObjectUri};

/// Objects that are fetched side by side.
const SIDE_BY_SIDE: usize = 8;
/// Pieces of an object that wait to be written.
const PIECES: usize = 8;

/// Fetches all `objects` into `folder`.
///
/// # Errors
/// [`ArtifactError`] of the first that can't be had.
pub(super) async fn download(
    bucket: &Bucket,
    objects: &[Object],
    folder: &Path,
    meter: &Meter,
) -> Result<(), ArtifactError> {
    stream::iter(objects)
        .map(|object| Transfer { bucket, object, path: folder.join(&object.path), meter }.run())
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect()
        .await
}

struct Transfer<'a> {
    bucket: &'a Bucket,
    object: &'a Object,
    path: PathBuf,
    meter: &'a Meter,
}

/// Why an attempt came to nothing.
enum Failure {
    /// It may go well next time; the bytes that arrived are kept.
    Passing(String, Option<std::time::Duration>),
    /// The bytes that arrived are wrong, and gone.
    Corrupt(String),
    Final(ArtifactError),
}

impl Transfer<'_> {
    fn uri(&self) -> &ObjectUri {
        self.bucket.uri()
    }

    async fn run(self) -> Result<(), ArtifactError> {
        let (mut failed, mut reached) = (0, 0);
        loop {
            let before = reached;
            let (reason, asked, is_corrupt) = match self.attempt(&mut reached).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(reason, asked)) => (reason, asked, false),
                Err(Failure::Corrupt(reason)) => (reason, None, true),
            };
            // A connection that breaks after every gigabyte gets there all the same.
            failed = if reached > before && !is_corrupt { 1 } else { failed + 1 };
            if failed >= ATTEMPTS || (is_corrupt && failed >= 3) {
                let (uri, object) = (self.uri().to_string(), super::uri::shown(&self.object.name));
                let reason = format!("the object {object:?}: {reason}, {failed} times");
                return Err(match is_corrupt {
                    true => ArtifactError::Corrupt { uri, reason },
                    false => ArtifactError::Unavailable { uri, reason },
                });
            }
            let pause = request::pause(failed, asked);
            tracing::warn!(uri = %self.uri(), object = self.object.name, reason, "trying again in {pause:.1?}");
            tokio::time::sleep(pause).await;
        }
    }

    /// One try. `reached` becomes the bytes that were there at its end.
    async fn attempt(&self, reached: &mut u64) -> Result<(), Failure> {
        let (path, object) = (self.path.clone(), self.object.clone());
        let mut file = self.blocking(move || PartialFile::open(&path, &object)).await?;
        let mut counted = Counted { meter: self.meter, bytes: 0 };
        counted.add(file.length());
        let mut md5 = true;
        if file.length() < self.object.size {
            let received = self.receive(file, &mut counted).await;
            *reached = counted.bytes;
            (file, md5) = received?;
        }
        let object = self.object.clone();
        let finished = self.blocking(move || {
            let finished = file.finish(&object, md5)?;
            if matches!(finished, Err(Fault::Checksum(_))) {
                file.clear()?;
            }
            Ok(finished)
        });
        match finished.await? {
            Ok(()) => {
                counted.bytes = 0; // They stay.
                Ok(())
            }
            Err(Fault::Size(length)) => {
                Err(Failure::Passing(format!("it ended after {length} of {} bytes", self.object.size), None))
            }
            Err(Fault::Checksum(kind)) => Err(Failure::Corrupt(format!("its {kind} is not the one that is stored"))),
        }
    }

    /// Fetches what `file` lacks; with whether the store's MD5 is one of these bytes.
    async fn receive(&self, mut file: PartialFile, counted: &mut Counted<'_>) -> Result<(PartialFile, bool), Failure> {
        let begin = file.length();
        let mut request = self.bucket.get(self.object).await.map_err(Failure::Final)?;
        if begin > 0 {
            request = request.header(RANGE, format!("bytes={begin}-"));
        }
        let mut response = request.send().await.map_err(|error| Failure::Passing(request::plain(error), None))?;
        let anew = !self.continues(&response, begin)?;
        let md5 = !is_encrypted(&response);
        if anew {
            counted.forget();
        }
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        let writing = self.blocking(move || {
            if anew {
                file.clear()?;
            }
            while let Some(piece) = pieces.blocking_recv() {
                file.write(&piece)?;
            }
            Ok(file)
        });
        let receiving = async move {
            loop {
                match response.chunk().await {
                    Ok(None) => return Ok(()),
                    // More than was listed would never end.
                    Ok(Some(piece)) if counted.bytes + piece.len() as u64 > self.object.size => {
                        return Err(Failure::Corrupt("it is longer than it was listed".to_owned()));
                    }
                    Ok(Some(piece)) => {
                        counted.add(piece.len() as u64);
                        if sender.send(piece).await.is_err() {
                            return Ok(()); // The disk failed, which the writer says.
                        }
                    }
                    Err(error) => return Err(Failure::Passing(request::plain(error), None)),
                }
            }
        };
        let (received, written) = tokio::join!(receiving, writing);
        let file = written?;
        received.map(|()| (file, md5))
    }

    /// Whether an answer goes on where the file ends. One that begins anew does not.
    fn continues(&self, response: &Response, begin: u64) -> Result<bool, Failure> {
        let status = response.status();
        match status {
            StatusCode::OK => Ok(begin == 0),
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
                match range.is_some_and(|range| range.starts_with(&format!("bytes {begin}-"))) {
                    true => Ok(true),
                    false => Err(Failure::Corrupt("the store sent another part than it was asked for".to_owned())),
                }
            }
            status if request::is_passing(status) => {
                Err(Failure::Passing(format!("the store answered {status}"), request::retry_after(response)))
            }
            StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => {
                Err(Failure::Final(ArtifactError::Unavailable {
                    uri: self.uri().to_string(),
                    reason: format!("{:?} was changed or deleted meanwhile; try again", self.object.name),
                }))
            }
            status => Err(Failure::Final(request::refused(self.uri(), status))),
        }
    }

    /// Does what blocks.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let failed = |reason: String| Failure::Final(ArtifactError::Disk { path: self.path.clone(), reason });
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(panic) => Err(failed(panic.to_string())),
        }
    }
}

/// Whether what S3 says of an object hashes its encrypted form (SSE-KMS, SSE-C):
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html>
fn is_encrypted(response: &Response) -> bool {
    let headers = response.headers();
    let by_kms =
        headers.get("x-amz-server-side-encryption").is_some_and(|kind| kind.as_bytes().starts_with(b"aws:kms"));
    by_kms || headers.contains_key("x-amz-server-side-encryption-customer-algorithm")
}

/// Bytes that count as done until an attempt fails.
struct Counted<'a> {
    meter: &'a Meter,
    bytes: u64,
}

impl Counted<'_> {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.meter.add(bytes);
    }

    fn forget(&mut self) {
        self.meter.take_back(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}
