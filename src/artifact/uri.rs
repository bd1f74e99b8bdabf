//! Where an artifact lies: `gs://bucket/prefix`, `s3://bucket/prefix`, `file:///folder`, or a folder's absolute path.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::ArtifactError;

/// Where an artifact lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactUri {
    /// A folder of this machine, by its absolute path.
    Folder(PathBuf),
    /// Everything below a prefix of a bucket.
    Objects(ObjectUri),
}

/// A prefix of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectUri {
    /// Whose bucket it is.
    pub store: Store,
    /// Its name.
    pub bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
}

/// A kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Google Cloud Storage, `gs://`.
    Google,
    /// Amazon S3 and what speaks its protocol, `s3://`.
    S3,
}

impl Store {
    /// As it stands in URIs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Google => "gs",
            Self::S3 => "s3",
        }
    }
}

impl fmt::Display for ObjectUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.store.scheme(), self.bucket)?;
        if !self.prefix.is_empty() {
            write!(formatter, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

/// Whether a text is meant as a URI, rather than as a path.
pub fn is_uri(text: &str) -> bool {
    ["gs://", "s3://", "file://"].iter().any(|scheme| text.starts_with(scheme))
}

impl ArtifactUri {
    /// Reads a URI. A path is taken as it stands, `file://` is percent-decoded, the others are not: a prefix is what is
    /// written.
    ///
    /// # Errors
    /// [`ArtifactError::Uri`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ArtifactError> {
        let wrong = |reason: &'static str| ArtifactError::Uri { uri: shown(text), reason };
        if let Some(rest) = text.strip_prefix("gs://") {
            return objects(Store::Google, rest).map(Self::Objects).map_err(wrong);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            return objects(Store::S3, rest).map(Self::Objects).map_err(wrong);
        }
        let folder = match text.starts_with("file:") {
            true => file_path(text)
                .ok_or_else(|| wrong("a file:// URI must name a path of this machine, as in file:///models/vit"))?,
            false => PathBuf::from(text),
        };
        if !folder.is_absolute() {
            return Err(wrong("it must be gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, file:///FOLDER or an absolute path"));
        }
        if folder.components().any(|part| part == Component::ParentDir) {
            return Err(wrong("a path must not contain `..`"));
        }
        if folder.to_string_lossy().contains(char::is_control) {
            return Err(wrong("a path must not contain control characters, such as \\0: leave them out"));
        }
        Ok(Self::Folder(folder))
    }
}

fn objects(store: Store, rest: &str) -> Result<ObjectUri, &'static str> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_bucket = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !(3..=222).contains(&bucket.len()) || !bucket.bytes().all(is_bucket) || bucket.contains("..") {
        return Err("a bucket's name has 3 to 222 letters, digits, '-', '_' and '.', as in gs://my-bucket/models/vit");
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.len() > 1024 || (!prefix.is_empty() && prefix.split('/').any(|segment| !is_segment(segment))) {
        return Err("a prefix must be made of folder names between single slashes, without `.`, `..` and control \
                    characters");
    }
    Ok(ObjectUri { store, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

/// Whether one part of an object's name can be a file's or a folder's.
pub(super) fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment.len() <= 255
        && !segment.contains(|character: char| character.is_control() || character == '\\')
}

/// A URI as it is shown in a message: it may be anything, and of any length.
pub(super) fn shown(uri: &str) -> String {
    uri.chars().filter(|character| !character.is_control()).take(200).collect()
}

/// The path of `file:///path` or `file://localhost/path` (RFC 8089), percent-decoded. `None`: it isn't one of these.
fn file_path(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

/// The folder that stands in for `uri`, by the longest prefix among `map` that is a whole number of its segments.
pub(super) fn mapped(map: &[(ObjectUri, PathBuf)], uri: &ObjectUri) -> Option<PathBuf> {
    let rest = |of: &ObjectUri| -> Option<String> {
        if (of.store, &of.bucket) != (uri.store, &uri.bucket) {
            return None;
        }
        let rest = uri.prefix.strip_prefix(&of.prefix)?;
        match of.prefix.is_empty() || rest.is_empty() {
            true => Some(rest.to_owned()),
            false => rest.strip_prefix('/').map(str::to_owned),
        }
    };
    let (rest, folder) = map
        .iter()
        .filter_map(|(of, folder)| Some((of.prefix.len(), rest(of)?, folder)))
        .max_by_key(|(length, _, _)| *length)
        .map(|(_, rest, folder)| (rest, folder))?;
    Some(if rest.is_empty() { folder.clone() } else { folder.join(Path::new(&rest)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(text: &str) -> ObjectUri {
        match ArtifactUri::parse(text) {
            Ok(ArtifactUri::Objects(uri)) => uri,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn uris() {
        let uri = objects("gs://my-bucket/models/vit/");
        assert_eq!((uri.store, &*uri.bucket, &*uri.prefix), (Store::Google, "my-bucket", "models/vit"));
        assert_eq!(uri.to_string(), "gs://my-bucket/models/vit");
        assert_eq!(objects("s3://abc").to_string(), "s3://abc");
        assert_eq!(objects("gs://abc/a b/ä%20").prefix, "a b/ä%20");
        for (text, folder) in [("/models/vit", "/models/vit"), ("file:///my%20models", "/my models")] {
            assert_eq!(ArtifactUri::parse(text).unwrap(), ArtifactUri::Folder(folder.into()));
        }
        for wrong in [
            "",
            "models",
            "./models",
            "/models/../etc",
            "file://elsewhere/models",
            "gs://",
            "gs://a/b",
            "gs://a b c/x",
            "gs://abc//x",
            "gs://abc/a/../b",
            "gs://abc/a/./b",
            "gs://abc/a\nb",
            "s3://abc/a\\b",
            "http://abc/x",
            "GS://abc/x",
            "file:///%2e%2e/etc",
            "file:///models%00",
            "/models\0",
        ] {
            let error = ArtifactUri::parse(wrong).unwrap_err();
            assert!(matches!(error, ArtifactError::Uri { .. }), "{wrong}: {error}");
        }
    }

    #[test]
    fn file_uris() {
        for (uri, path) in [
            ("file:///models", Some("/models")),
            ("file://localhost/models/a", Some("/models/a")),
            ("file:///my%20models/%C3%A4", Some("/my models/ä")),
            ("file://elsewhere/models", None),
            ("file:models", None),
            ("file:///a%2", None),
            ("file:///a%+1", None),
            ("s3://bucket", None),
        ] {
            assert_eq!(file_path(uri), path.map(PathBuf::from), "{uri}");
        }
    }

    #[test]
    fn the_longest_mapped_prefix_of_whole_segments_wins() {
        let map: Vec<(ObjectUri, PathBuf)> = [
            ("gs://local-bucket/models", "/models"),
            ("gs://local-bucket/models/vit", "/vit"),
            ("gs://whole", "/whole"),
        ]
        .map(|(uri, folder)| (objects(uri), folder.into()))
        .into();
        for (uri, folder) in [
            ("gs://local-bucket/models/toy", Some("/models/toy")),
            ("gs://local-bucket/models", Some("/models")),
            ("gs://local-bucket/models/vit/3", Some("/vit/3")),
            ("gs://local-bucket/models/vitamin", Some("/models/vitamin")),
            ("gs://local-bucket/modelsx", None),
            ("gs://whole", Some("/whole")),
            ("gs://whole/a/b", Some("/whole/a/b")),
            ("s3://whole/a", None),
        ] {
            assert_eq!(mapped(&map, &objects(uri)), folder.map(PathBuf::from), "{uri}");
        }
    }
}
