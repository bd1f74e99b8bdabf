//! Amazon S3 and what speaks its protocol, set up by the variables that Amazon's own tools read: `AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL` and the others of `AWS_*`, by a
//! [profile](super::aws_profile), or by the identity that the machine gives.

use std::time::Duration;

use futures_util::TryStreamExt;
use http::Method;
use http::header::IF_MATCH;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use reqwest::{Client, RequestBuilder, Url};

use super::aws_profile::Profile;
use super::object::Object;
use super::request::ATTEMPTS;
use super::{ArtifactError, ObjectUri, Variables};

/// How long a signed URL holds: as long as one connection may take.
const SIGNED_FOR: Duration = Duration::from_secs(6 * 3600);

/// A bucket.
pub(super) struct S3Bucket {
    uri: ObjectUri,
    client: Client,
    store: AmazonS3,
    /// Where the bucket's objects are read without a signature.
    public: Option<Url>,
}

impl S3Bucket {
    pub fn new(uri: &ObjectUri, client: Client, variables: &Variables) -> Result<Self, ArtifactError> {
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: ATTEMPTS as usize - 1,
            retry_timeout: Duration::from_secs(60),
        };
        let profile = Profile::read(variables)?;
        let mut builder = AmazonS3Builder::new().with_retry(retry);
        for (key, value) in profile.settings {
            builder = builder.with_config(key, value);
        }
        for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("AWS_")) {
            // Others are for other tools.
            if let Ok(key) = name.to_lowercase().parse::<AmazonS3ConfigKey>() {
                builder = builder.with_config(key, value);
            }
        }
        let endpoint = variables.get("AWS_ENDPOINT_URL_S3").or_else(|| variables.get("AWS_ENDPOINT_URL"));
        if let (None, Some(endpoint)) = (endpoint, &profile.endpoint) {
            builder = builder.with_endpoint(endpoint);
        }
        let endpoint = endpoint.or(profile.endpoint.as_deref());
        let region = variables.get("AWS_REGION").or_else(|| variables.get("AWS_DEFAULT_REGION"));
        if let (None, Some(region)) = (region, &profile.region) {
            builder = builder.with_region(region);
        }
        let region = region.or(profile.region.as_deref()).unwrap_or("us-east-1");
        if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
            builder = builder.with_allow_http(true);
        }
        let store = builder.with_bucket_name(&uri.bucket).build().map_err(|error| ArtifactError::Setting {
            variable: "AWS_*",
            reason: format!("can't be used: {}", harmless(&error.to_string())),
        })?;
        let is_public = variables.get("AWS_SKIP_SIGNATURE").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let host = match endpoint {
            Some(endpoint) => format!("{}/{}", endpoint.trim_end_matches('/'), uri.bucket),
            None => format!("https://s3.{region}.amazonaws.com/{}", uri.bucket),
        };
        let public = is_public.then(|| host.parse().ok()).flatten();
        Ok(Self { uri: uri.clone(), client, store, public })
    }

    /// Everything below the prefix.
    pub async fn list(&self, most: usize) -> Result<Vec<Object>, ArtifactError> {
        let prefix = (!self.uri.prefix.is_empty()).then(|| Path::from(self.uri.prefix.as_str()));
        let mut listing = self.store.list(prefix.as_ref());
        let mut objects = Vec::new();
        while objects.len() <= most {
            let Some(meta) = listing.try_next().await.map_err(|error| self.error(&error))? else { break };
            let name = meta.location.to_string();
            let Some(path) = Object::path_of(&self.uri, &name)? else { continue };
            objects.push(Object {
                size: meta.size,
                md5: meta.e_tag.as_deref().and_then(md5_of),
                crc32c: None,
                version: meta.e_tag,
                name,
                path,
            });
        }
        Ok(objects)
    }

    /// The request for an object's bytes.
    pub async fn get(&self, object: &Object) -> Result<RequestBuilder, ArtifactError> {
        let url = match &self.public {
            Some(bucket) => {
                let mut url = bucket.clone();
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments.extend(object.name.split('/'));
                }
                url
            }
            None => {
                let path = Path::parse(&object.name)
                    .map_err(|error| ArtifactError::Refused { uri: self.uri.to_string(), reason: error.to_string() })?;
                let signed = self.store.signed_url(Method::GET, &path, SIGNED_FOR).await;
                signed.map_err(|error| self.error(&error))?
            }
        };
        let request = self.client.get(url);
        Ok(match &object.version {
            Some(tag) => request.header(IF_MATCH, tag),
            None => request,
        })
    }

    fn error(&self, error: &object_store::Error) -> ArtifactError {
        use object_store::Error;
        let uri = self.uri.to_string();
        let text = error.to_string();
        let status = match error {
            Error::NotFound { .. } => Some(404),
            Error::PermissionDenied { .. } => Some(403),
            Error::Unauthenticated { .. } => Some(401),
            _ => status_of(&text),
        };
        match status {
            Some(404) => {
                ArtifactError::NotFound { uri, reason: format!("there is no bucket {:?} (404)", self.uri.bucket) }
            }
            Some(401 | 403) => ArtifactError::Denied {
                uri,
                reason:
                    "these credentials may not list and read it (403); the actions s3:ListBucket and s3:GetObject of \
                         the bucket allow it"
                        .to_owned(),
            },
            Some(301 | 307 | 400) => ArtifactError::Unavailable {
                uri,
                reason: "the store answered that the request is not for it; is AWS_REGION the bucket's region?"
                    .to_owned(),
            },
            Some(status) => ArtifactError::Unavailable { uri, reason: format!("the store answered {status}") },
            None if matches!(error, Error::InvalidPath { .. }) => ArtifactError::Refused {
                uri,
                reason: format!("an object's name can't be that of a file: {}", harmless(&text)),
            },
            None if text.contains("169.254.") => ArtifactError::Denied {
                uri,
                reason: "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or \
                         AWS_PROFILE, or AWS_SKIP_SIGNATURE=true for a public bucket; the machine's metadata server gave none"
                    .to_owned(),
            },
            None => {
                ArtifactError::Unavailable { uri, reason: format!("the store can't be reached: {}", deepest(error)) }
            }
        }
    }
}

/// The HTTP status that an error's text tells of.
fn status_of(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// What an error comes from.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    harmless(&cause.to_string())
}

/// An entity tag that is the MD5 of the bytes: 32 hexadecimal digits. Those of multipart uploads have a `-`.
fn md5_of(tag: &str) -> Option<[u8; 16]> {
    let digits = tag.trim_matches('"');
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// The beginning of a message, before any answer that it quotes: those of S3 repeat keys and signatures.
fn harmless(text: &str) -> String {
    let end = text.find(['<', '?']).unwrap_or(text.len());
    text[..end].chars().take(300).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_tags_are_hashes() {
        assert_eq!(md5_of("\"d41d8cd98f00b204e9800998ecf8427e\"").unwrap()[..2], [0xd4, 0x1d]);
        assert_eq!(md5_of("\"d41d8cd98f00b204e9800998ecf8427e-3\""), None);
        assert_eq!(md5_of("\"abc\""), None);
    }

    #[test]
    fn the_status_is_found() {
        assert_eq!(
            status_of("GET http://a?b in 3ms - Server returned non-2xx status code: 404 Not Found: <x>"),
            Some(404)
        );
        assert_eq!(status_of("connection refused"), None);
    }

    #[test]
    fn messages_end_before_what_they_quote() {
        assert_eq!(harmless("status 403: <Error><AWSAccessKeyId>AKIA</AWSAccessKeyId>"), "status 403:");
        assert_eq!(harmless("error for url http://host/a?X-Amz-Signature=1"), "error for url http://host/a");
    }
}
