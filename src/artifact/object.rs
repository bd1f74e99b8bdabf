//! What a listing says of one object.

use std::path::{Path, PathBuf};

use super::uri::{is_segment, shown};
use super::{ArtifactError, ObjectUri};

/// An object that is to become a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// Its whole name in the bucket.
    pub name: String,
    /// Where it goes, below the artifact's folder.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Which of the contents that it had is meant: a generation or an entity tag.
    pub version: Option<String>,
    /// What its bytes hash to, where the store says it.
    pub md5: Option<[u8; 16]>,
    /// The same, by CRC-32C (Castagnoli).
    pub crc32c: Option<u32>,
}

impl Object {
    /// Where an object of this name goes. `None`: it only marks a folder.
    ///
    /// # Errors
    /// [`ArtifactError::Refused`] when the name can't be, or must not be, that of a file below the artifact's folder.
    pub fn path_of(uri: &ObjectUri, name: &str) -> Result<Option<PathBuf>, ArtifactError> {
        let refuse = || ArtifactError::Refused {
            uri: uri.to_string(),
            reason: format!(
                "the object {:?} can't become a file here: a name must be made of folder names between single slashes, \
                 without `.`, `..`, backslashes and control characters",
                shown(name)
            ),
        };
        let below = match uri.prefix.as_str() {
            "" => name,
            prefix => name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')).ok_or_else(refuse)?,
        };
        if below.is_empty() {
            return Ok(None);
        }
        let (below, is_marker) = match below.strip_suffix('/') {
            Some(folder) => (folder, true),
            None => (below, false),
        };
        if !below.split('/').all(is_segment) {
            return Err(refuse());
        }
        Ok((!is_marker).then(|| Path::new(below).to_path_buf()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ArtifactUri, Store};
    use super::*;

    #[test]
    fn names_stay_below_the_folder() {
        let Ok(ArtifactUri::Objects(uri)) = ArtifactUri::parse("gs://bucket/models/vit") else { panic!() };
        let path = |name: &str| Object::path_of(&uri, name);
        assert_eq!(path("models/vit/1/model.onnx").unwrap(), Some("1/model.onnx".into()));
        assert_eq!(path("models/vit/").unwrap(), None);
        assert_eq!(path("models/vit/1/").unwrap(), None);
        for name in [
            "models/vit/../../etc/passwd",
            "models/vit//etc/passwd",
            "models/vit/./a",
            "models/vit/a\u{0}b",
            "models/vit/a\nb",
            "models/vit/a\\b",
            "models/vitamin",
            "models/vit/..",
            "models/vit/a//",
        ] {
            assert!(matches!(path(name), Err(ArtifactError::Refused { .. })), "{name:?}");
        }
        let whole = ObjectUri { store: Store::S3, bucket: "bucket".into(), prefix: String::new() };
        assert_eq!(Object::path_of(&whole, "a/b").unwrap(), Some("a/b".into()));
        assert!(Object::path_of(&whole, "/etc/passwd").is_err());
    }
}
