//! Model files, wherever they lie: a folder of this machine is used in place, what lies in an object store is brought
//! here first.
//!
//! [`Artifacts::fetch`] takes `gs://bucket/prefix`, `s3://bucket/prefix`, `file:///folder` and absolute paths. What is
//! downloaded is checked by size and checksum, written beside its place and renamed when all of it is there, kept for
//! the next time, and bounded in size. Knows nothing of models: what the files mean is the
//! [repository](crate::repository)'s matter.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod aws_profile;
mod bucket;
mod cache;
mod error;
mod external_account;
mod file;
mod google;
mod object;
mod progress;
mod request;
mod s3;
mod transfer;
mod uri;

pub use error::ArtifactError;
pub use progress::{Progress, Stage};
pub use uri::{ArtifactUri, ObjectUri, Store, is_uri};

use bucket::Bucket;
use cache::{Cache, Entry, Lease};
use object::Object;
use progress::{Bytes, Meter};

/// The most objects of one artifact.
const MOST_OBJECTS: usize = 10_000;

/// How often somebody else's download is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What [`Artifacts`] needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArtifactSettings {
    /// Folders that stand in for prefixes of object stores.
    pub map: Vec<(ObjectUri, PathBuf)>,
    /// Where downloads are kept; `None`: below the system's folder for temporary files.
    pub directory: Option<PathBuf>,
    /// What all downloads together may take on the disk, in bytes.
    pub max_bytes: u64,
    /// The environment.
    pub variables: Variables,
}

/// The variables by which object stores and their credentials are found. They are secrets, so that only their names are
/// ever shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Whether a variable of this name is one of these.
    pub fn is_one(name: &str) -> bool {
        const NAMES: [&str; 7] = [
            "GOOGLE_APPLICATION_CREDENTIALS",
            "STORAGE_EMULATOR_HOST",
            "NO_GCE_CHECK",
            "GCE_METADATA_TIMEOUT",
            "CLOUDSDK_CONFIG",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE",
            "HOME",
        ];
        NAMES.contains(&name) || name.starts_with("AWS_")
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(|(_, value)| !value.is_empty())
    }
}

/// Keeps those that [are ones](Variables::is_one).
impl<'a> FromIterator<(&'a str, &'a str)> for Variables {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(variables: I) -> Self {
        let own = |(name, value): (&str, &str)| Self::is_one(name).then(|| (name.to_owned(), value.to_owned()));
        Self(variables.into_iter().filter_map(own).collect())
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// Brings artifacts to this machine. One for the process.
#[derive(Debug)]
pub struct Artifacts {
    settings: ArtifactSettings,
}

/// The files of an artifact on this machine. As long as this lives, nobody clears them away.
#[derive(Debug)]
pub struct LocalArtifact {
    /// The folder that holds them. Its last segment, or the one above if that is a version, is the artifact's own name.
    pub directory: PathBuf,
    _lease: Option<Lease>,
}

impl Artifacts {
    /// With these settings; touches nothing yet.
    pub fn new(settings: ArtifactSettings) -> Self {
        Self { settings }
    }

    /// Makes the files below `uri` available in a folder of this machine. `progress` is told twice a second while
    /// something is under way; a line is logged every two seconds.
    ///
    /// May be given up at any time by dropping it: what arrived is kept for the next try.
    ///
    /// # Errors
    /// [`ArtifactError`].
    pub async fn fetch(
        &self,
        uri: &str,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<LocalArtifact, ArtifactError> {
        let objects = match ArtifactUri::parse(uri)? {
            ArtifactUri::Folder(folder) => return in_place(uri, folder).await,
            ArtifactUri::Objects(objects) => objects,
        };
        if let Some(folder) = uri::mapped(&self.settings.map, &objects) {
            return in_place(uri, folder).await;
        }
        let meter = Meter::default();
        tokio::select! {
            brought = self.bring(&objects, &meter) => brought,
            () = meter.report(&objects, &progress) => unreachable!("it reports until it is dropped"),
        }
    }

    async fn bring(&self, uri: &ObjectUri, meter: &Meter) -> Result<LocalArtifact, ArtifactError> {
        let cache = self.cache().await?;
        let bucket = Bucket::new(uri, &self.settings.variables)?;
        let objects = match bucket.list(MOST_OBJECTS).await {
            Err(error @ ArtifactError::Unavailable { .. }) => return self.fall_back(&cache, uri, error).await,
            listed => listed?,
        };
        let total = self.check(uri, &objects)?;
        meter.begin(objects.len(), total);
        let key = key(uri, &objects);
        let folder_in = |folder: PathBuf| folder.join(&uri.bucket).join(&uri.prefix);
        let begin = std::time::Instant::now();
        loop {
            let (own, entered) = (key.clone(), cache.clone());
            let mut fetching = match blocking(cache.root(), move || entered.enter(&own)).await? {
                Entry::Present(lease) => {
                    let (own, remembering, text) = (key.clone(), cache.clone(), uri.to_string());
                    blocking(cache.root(), move || remembering.remember(&text, &own)).await?;
                    let directory = folder_in(cache.folder(&key));
                    tracing::info!(%uri, directory = %directory.display(), files = objects.len(), bytes = total, "artifact is here");
                    return Ok(LocalArtifact { directory, _lease: Some(lease) });
                }
                Entry::Busy => {
                    meter.stage(Stage::Waiting);
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                Entry::Absent(fetching) => fetching,
            };
            meter.stage(Stage::Downloading);
            let (own, making) = (key.clone(), cache.clone());
            let (room, fetching) =
                blocking(cache.root(), move || Ok((making.make_room(&own, total, &mut fetching)?, fetching))).await?;
            room.map_err(|full| self.too_large(uri, total, full.used))?;
            transfer::download(&bucket, &objects, &folder_in(cache.partial(&key)), meter).await?;
            let (own, publishing) = (key.clone(), cache.clone());
            blocking(cache.root(), move || publishing.publish(&own, &fetching)).await?;
            tracing::info!(%uri, files = objects.len(), bytes = total, seconds = begin.elapsed().as_secs_f64(), "downloaded");
        }
    }

    /// The last content that was fetched, where the store can't be asked whether it is still the same.
    async fn fall_back(
        &self,
        cache: &Cache,
        uri: &ObjectUri,
        error: ArtifactError,
    ) -> Result<LocalArtifact, ArtifactError> {
        let (asked, text) = (cache.clone(), uri.to_string());
        let Some((key, lease)) = blocking(cache.root(), move || Ok(asked.remembered(&text))).await? else {
            return Err(error);
        };
        tracing::warn!(%uri, "{error}; using what was downloaded before, which may be out of date");
        let directory = cache.folder(&key).join(&uri.bucket).join(&uri.prefix);
        Ok(LocalArtifact { directory, _lease: Some(lease) })
    }

    async fn cache(&self) -> Result<Cache, ArtifactError> {
        let ArtifactSettings { directory, max_bytes, .. } = &self.settings;
        let root = directory.clone().unwrap_or_else(|| std::env::temp_dir().join("tessera-artifacts"));
        let (folder, max_bytes, is_shared) = (root.clone(), *max_bytes, directory.is_none());
        blocking(&root, move || Cache::open(&folder, max_bytes, is_shared)).await
    }

    /// The bytes of all objects, if they can be an artifact.
    fn check(&self, uri: &ObjectUri, objects: &[Object]) -> Result<u64, ArtifactError> {
        let refuse = |reason: String| Err(ArtifactError::Refused { uri: uri.to_string(), reason });
        if objects.is_empty() {
            let reason =
                "there is no object below it; an artifact's URI names the folder that holds model.onnx".to_owned();
            return Err(ArtifactError::NotFound { uri: uri.to_string(), reason });
        }
        if objects.len() > MOST_OBJECTS {
            return refuse(format!(
                "there are more than {MOST_OBJECTS} objects below it; name a folder that holds one model"
            ));
        }
        let files: BTreeSet<&Path> = objects.iter().map(|object| object.path.as_path()).collect();
        let both = files.iter().find(|file| file.ancestors().skip(1).any(|folder| files.contains(folder)));
        if let Some(file) = both {
            return refuse(format!(
                "{:?} lies below another object, which can't be a file and a folder",
                file.display()
            ));
        }
        let total = objects.iter().fold(0, |total: u64, object| total.saturating_add(object.size));
        if total > self.settings.max_bytes {
            return Err(self.too_large(uri, total, 0));
        }
        Ok(total)
    }

    fn too_large(&self, uri: &ObjectUri, bytes: u64, used: u64) -> ArtifactError {
        let in_use = match used {
            0 => String::new(),
            used => format!(", of which {} are in use", Bytes(used)),
        };
        let limit = Bytes(self.settings.max_bytes);
        let reason = format!("it has {}, and artifacts.max_bytes is {limit}{in_use}", Bytes(bytes));
        ArtifactError::TooLarge { uri: uri.to_string(), reason }
    }
}

/// A name for exactly this content of a prefix.
fn key(uri: &ObjectUri, objects: &[Object]) -> String {
    let line = |object: &Object| {
        let Object { name, size, version, md5, crc32c, .. } = object;
        format!("{name}\t{size}\t{version:?}\t{md5:?}\t{crc32c:?}")
    };
    let lines: Vec<String> = std::iter::once(uri.to_string()).chain(objects.iter().map(line)).collect();
    cache::key_of(&lines)
}

/// Does what blocks, in or about `path`.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, ArtifactError> {
    let failed = |reason: String| ArtifactError::Disk { path: path.to_owned(), reason };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(error.to_string())),
        Err(panic) => Err(failed(panic.to_string())),
    }
}

/// A folder of this machine as it stands.
async fn in_place(uri: &str, directory: PathBuf) -> Result<LocalArtifact, ArtifactError> {
    // A look at a disk, which may be a network's.
    let looked = directory.clone();
    match blocking(&directory, move || Ok(is_usable(&looked))).await? {
        Ok(()) => Ok(LocalArtifact { directory, _lease: None }),
        Err(reason) => Err(ArtifactError::Folder { uri: uri::shown(uri), directory, reason }),
    }
}

fn is_usable(directory: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(directory).map_err(|error| format!("can't be read: {error}"))?;
    if !metadata.is_dir() {
        return Err("is not a folder; name the folder that holds the model's files".to_owned());
    }
    let mut entries = std::fs::read_dir(directory).map_err(|error| format!("can't be read: {error}"))?;
    match entries.next() {
        Some(_) => Ok(()),
        None => Err("is empty".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fetch(artifacts: &Artifacts, uri: &str) -> Result<PathBuf, String> {
        artifacts.fetch(uri, |_| {}).await.map(|local| local.directory).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn folders_are_used_in_place() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("my vit");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), "x").unwrap();
        let ArtifactUri::Objects(prefix) = ArtifactUri::parse("gs://local-bucket/models").unwrap() else { panic!() };
        let map = vec![(prefix, root.path().to_owned())];
        let artifacts = Artifacts::new(ArtifactSettings { map, ..ArtifactSettings::default() });
        for uri in [
            folder.to_str().unwrap().to_owned(),
            format!("file://{}", folder.to_str().unwrap().replace(' ', "%20")),
            "gs://local-bucket/models/my vit".to_owned(),
            "gs://local-bucket/models/my vit/".to_owned(),
        ] {
            assert_eq!(fetch(&artifacts, &uri).await, Ok(folder.clone()), "{uri}");
        }
        let file = folder.join("model.onnx");
        for (uri, words) in [
            ("gs://local-bucket/models/none", "can't be read"),
            (file.to_str().unwrap(), "is not a folder"),
            ("vit", "absolute path"),
        ] {
            let error = fetch(&artifacts, uri).await.unwrap_err();
            assert!(error.contains(words) && error.contains(uri), "{error}");
        }
        std::fs::create_dir(root.path().join("empty")).unwrap();
        assert!(fetch(&artifacts, "gs://local-bucket/models/empty").await.unwrap_err().contains("is empty"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let variables: Variables =
            [("AWS_SECRET_ACCESS_KEY", "hush"), ("PATH", "/bin"), ("HOME", "")].into_iter().collect();
        let shown = format!("{:?}", ArtifactSettings { variables: variables.clone(), ..ArtifactSettings::default() });
        assert!(
            shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hush") && !shown.contains("PATH"),
            "{shown}"
        );
        assert_eq!(variables.get("HOME"), None);
    }

    #[test]
    fn another_content_has_another_key() {
        let uri = ObjectUri { store: Store::Google, bucket: "bucket".into(), prefix: "a".into() };
        let object = Object {
            name: "a/b".into(),
            path: "b".into(),
            size: 1,
            version: Some("1".into()),
            md5: None,
            crc32c: Some(7),
        };
        let own = key(&uri, std::slice::from_ref(&object));
        assert_eq!(own.len(), 32);
        for other in [
            Object { size: 2, ..object.clone() },
            Object { version: Some("2".into()), ..object.clone() },
            Object { crc32c: None, ..object.clone() },
            Object { name: "a/c".into(), ..object },
        ] {
            assert_ne!(key(&uri, &[other]), own);
        }
    }
}
