//! What all object stores can do: say what lies below a prefix, and give an object's bytes.

use reqwest::RequestBuilder;

use super::google::GoogleBucket;
use super::object::Object;
use super::s3::S3Bucket;
use super::{ArtifactError, ObjectUri, Store, Variables, request};

/// A prefix of a bucket, with what is needed to read it.
pub(super) struct Bucket {
    uri: ObjectUri,
    kind: Kind,
}

enum Kind {
    Google(GoogleBucket),
    S3(Box<S3Bucket>),
}

impl Bucket {
    pub fn new(uri: &ObjectUri, variables: &Variables) -> Result<Self, ArtifactError> {
        let client = request::client()?;
        let kind = match uri.store {
            Store::Google => Kind::Google(GoogleBucket::new(uri, client, variables)?),
            Store::S3 => Kind::S3(Box::new(S3Bucket::new(uri, client, variables)?)),
        };
        Ok(Self { uri: uri.clone(), kind })
    }

    pub fn uri(&self) -> &ObjectUri {
        &self.uri
    }

    /// Everything below the prefix, by name. A little more than `most` objects at most.
    pub async fn list(&self, most: usize) -> Result<Vec<Object>, ArtifactError> {
        let mut objects = match &self.kind {
            Kind::Google(bucket) => bucket.list(most).await?,
            Kind::S3(bucket) => bucket.list(most).await?,
        };
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// The request for an object's bytes, in the version that was listed.
    pub async fn get(&self, object: &Object) -> Result<RequestBuilder, ArtifactError> {
        match &self.kind {
            Kind::Google(bucket) => bucket.get(object).await,
            Kind::S3(bucket) => bucket.get(object).await,
        }
    }
}
