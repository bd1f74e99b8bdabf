//! Google Cloud Storage, by its JSON API: <https://cloud.google.com/storage/docs/json_api/v1>. It is what emulators speak
//! too, and its listings have the checksums that those of the XML API lack.
//!
//! Credentials are Application Default Credentials: the file of `GOOGLE_APPLICATION_CREDENTIALS`, else that of
//! `gcloud auth application-default login`, else the metadata server. A file may hold those of a service account, of a user,
//! or of [another provider](super::external_account). An emulator (`STORAGE_EMULATOR_HOST`) gets none.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use object_store::gcp::{GcpCredentialProvider, GoogleCloudStorageBuilder};
use object_store::{BackoffConfig, RetryConfig};
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;

use super::external_account::ExternalAccount;
use super::object::Object;
use super::request::{plain, send};
use super::{ArtifactError, ObjectUri, Variables};

const HOST: &str = "https://storage.googleapis.com";

/// The variable that names a credentials file.
const NAMED: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// A bucket.
pub(super) struct GoogleBucket {
    uri: ObjectUri,
    client: Client,
    base: Url,
    credentials: Credentials,
}

/// Where tokens come from.
enum Credentials {
    /// Nobody is to be told who asks.
    None,
    /// A service account's or a user's.
    File(GcpCredentialProvider),
    /// Those of the metadata server, which is not there on most machines.
    Metadata(GcpCredentialProvider),
    /// Another identity provider's.
    External(Box<ExternalAccount>),
}

/// What a credentials file holds.
enum File {
    /// What `object_store` reads by itself.
    Own(PathBuf),
    /// The text of credentials of another provider.
    External(Vec<u8>),
}

/// A page of a listing: <https://cloud.google.com/storage/docs/json_api/v1/objects/list>.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    items: Vec<Item>,
    next_page_token: Option<String>,
}

/// <https://cloud.google.com/storage/docs/json_api/v1/objects>. Numbers of 64 bits are strings in JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    name: String,
    size: String,
    md5_hash: Option<String>,
    crc32c: Option<String>,
    generation: Option<String>,
    content_encoding: Option<String>,
}

impl GoogleBucket {
    pub fn new(uri: &ObjectUri, client: Client, variables: &Variables) -> Result<Self, ArtifactError> {
        let wrong = |variable: &'static str, reason: String| ArtifactError::Setting { variable, reason };
        let emulator = variables.get("STORAGE_EMULATOR_HOST");
        // gcloud's own way to name another host; unlike an emulator it asks for credentials.
        const OVERRIDE: &str = "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE";
        let (variable, host) = match (emulator, variables.get(OVERRIDE)) {
            (Some(host), _) if host.contains("://") => ("STORAGE_EMULATOR_HOST", host.to_owned()),
            (Some(host), _) => ("STORAGE_EMULATOR_HOST", format!("http://{host}")),
            (None, Some(url)) => (OVERRIDE, url.to_owned()),
            (None, None) => ("", HOST.to_owned()),
        };
        let host = host.trim_end_matches('/').trim_end_matches("/storage/v1");
        let base: Url = host.parse().map_err(|error| wrong(variable, format!("is not a URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(wrong(variable, "is not an http:// or https:// URL".to_owned()));
        }
        let file = credentials_file(variables)?;
        let no_metadata = variables.get("NO_GCE_CHECK").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let credentials = match (&file, emulator) {
            (_, Some(_)) => Credentials::None,
            (None, None) if no_metadata => Credentials::None,
            (None, None) => Credentials::Metadata(credentials(uri, None, variables)?),
            (Some(File::Own(path)), None) => Credentials::File(credentials(uri, Some(path), variables)?),
            (Some(File::External(text)), None) => {
                let account = ExternalAccount::new(text, client.clone());
                let wrong = |reason| {
                    wrong(NAMED, format!("names credentials of the kind \"external_account\" whose file {reason}"))
                };
                Credentials::External(Box::new(account.map_err(wrong)?))
            }
        };
        Ok(Self { uri: uri.clone(), client, base, credentials })
    }

    /// Everything below the prefix.
    pub async fn list(&self, most: usize) -> Result<Vec<Object>, ArtifactError> {
        let prefix = match self.uri.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let mut objects = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let mut url = self.url(&["o"]);
            url.query_pairs_mut()
                .append_pair("prefix", &prefix)
                .append_pair("fields", "items(name,size,md5Hash,crc32c,generation,contentEncoding),nextPageToken");
            if let Some(token) = &token {
                url.query_pairs_mut().append_pair("pageToken", token);
            }
            let response = send(&self.uri, async || self.authorized(self.client.get(url.clone())).await).await?;
            let unreadable = |reason: String| ArtifactError::Unavailable { uri: self.uri.to_string(), reason };
            let text = response.bytes().await.map_err(|error| unreadable(plain(error)))?;
            let page: Page = serde_json::from_slice(&text)
                .map_err(|error| unreadable(format!("the store's listing can't be read: {error}")))?;
            for item in page.items {
                objects.extend(self.object(item)?);
            }
            if objects.len() > most {
                return Ok(objects);
            }
            match page.next_page_token.filter(|token| !token.is_empty()) {
                None => return Ok(objects),
                next => token = next,
            }
        }
    }

    fn object(&self, item: Item) -> Result<Option<Object>, ArtifactError> {
        let refuse = |reason: &str| ArtifactError::Refused {
            uri: self.uri.to_string(),
            reason: format!("the object {:?} {reason}", super::uri::shown(&item.name)),
        };
        let Some(path) = Object::path_of(&self.uri, &item.name)? else { return Ok(None) };
        if item.content_encoding.as_deref() == Some("gzip") {
            return Err(refuse("is stored with Content-Encoding gzip; upload it as it is, without `gsutil cp -z`"));
        }
        let bytes = |text: &Option<String>| BASE64_STANDARD.decode(text.as_deref()?).ok();
        Ok(Some(Object {
            size: item.size.parse().map_err(|_| refuse("has a size that is no number"))?,
            md5: bytes(&item.md5_hash).and_then(|bytes| bytes.try_into().ok()),
            crc32c: bytes(&item.crc32c).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes),
            version: item.generation,
            name: item.name,
            path,
        }))
    }

    /// The request for an object's bytes.
    pub async fn get(&self, object: &Object) -> Result<RequestBuilder, ArtifactError> {
        let mut url = self.url(&["o", &object.name]);
        url.query_pairs_mut().append_pair("alt", "media");
        if let Some(generation) = &object.version {
            url.query_pairs_mut().append_pair("generation", generation);
        }
        self.authorized(self.client.get(url)).await
    }

    fn url(&self, rest: &[&str]) -> Url {
        let mut url = self.base.clone();
        // It can be a base, as was checked; each segment is percent-encoded, its slashes too.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["storage", "v1", "b", &self.uri.bucket]).extend(rest);
        }
        url
    }

    async fn authorized(&self, request: RequestBuilder) -> Result<RequestBuilder, ArtifactError> {
        let (provider, is_guess) = match &self.credentials {
            Credentials::None => return Ok(request),
            Credentials::External(account) => {
                let denied = |reason: String| ArtifactError::Denied {
                    uri: self.uri.to_string(),
                    reason: format!("no token by workload identity federation: {reason}"),
                };
                return account.token().await.map(|token| request.bearer_auth(token)).map_err(denied);
            }
            Credentials::File(provider) => (provider, false),
            Credentials::Metadata(provider) => (provider, true),
        };
        match provider.get_credential().await {
            Ok(credential) if credential.bearer.is_empty() => Ok(request),
            Ok(credential) => Ok(request.bearer_auth(&credential.bearer)),
            Err(error) if is_guess => {
                // A public bucket needs none; the answer to any other says that there were none.
                tracing::warn!(
                    uri = %self.uri,
                    "no Google credentials: GOOGLE_APPLICATION_CREDENTIALS is not set, gcloud has none, and the metadata \
                     server gave no token; asking without"
                );
                tracing::debug!(%error, "metadata server");
                Ok(request)
            }
            Err(_) => Err(ArtifactError::Denied {
                uri: self.uri.to_string(),
                reason:
                    "Google gave no token for the credentials file; it may be revoked, or the token server can't be \
                         reached"
                        .to_owned(),
            }),
        }
    }
}

/// The file with credentials, if there is one.
fn credentials_file(variables: &Variables) -> Result<Option<File>, ArtifactError> {
    if let Some(path) = variables.get(NAMED) {
        let refuse = |reason: String| ArtifactError::Setting { variable: NAMED, reason };
        // Only what kind it is: no message may repeat what the file holds.
        #[derive(Deserialize)]
        struct Kind {
            r#type: String,
        }
        let text =
            std::fs::read(path).map_err(|error| refuse(format!("names {path}, which can't be read: {error}")))?;
        let kind = serde_json::from_slice::<Kind>(&text).map(|kind| kind.r#type);
        return match kind.as_deref() {
            Ok("service_account" | "authorized_user") => Ok(Some(File::Own(path.into()))),
            Ok("external_account") => Ok(Some(File::External(text))),
            Ok(kind) => Err(refuse(format!(
                "names {path}, which holds credentials of the kind {kind:?}; there are \"service_account\", \
                 \"authorized_user\" and \"external_account\""
            ))),
            Err(_) => Err(refuse(format!("names {path}, which is no credentials file: it is JSON with a \"type\""))),
        };
    }
    let directory = match (variables.get("CLOUDSDK_CONFIG"), variables.get("HOME")) {
        (Some(directory), _) => PathBuf::from(directory),
        (None, Some(home)) => Path::new(home).join(".config/gcloud"),
        (None, None) => return Ok(None),
    };
    let path = directory.join("application_default_credentials.json");
    Ok(path.is_file().then_some(File::Own(path)))
}

fn credentials(
    uri: &ObjectUri,
    file: Option<&Path>,
    variables: &Variables,
) -> Result<GcpCredentialProvider, ArtifactError> {
    let patience = variables.get("GCE_METADATA_TIMEOUT").and_then(|seconds| seconds.parse().ok());
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 3,
        retry_timeout: patience.map_or(Duration::from_secs(10), Duration::from_secs),
    };
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(&uri.bucket).with_retry(retry);
    if let Some(path) = file {
        builder = builder.with_application_credentials(path.to_string_lossy());
    }
    let bucket = builder.build().map_err(|_| ArtifactError::Denied {
        uri: uri.to_string(),
        reason: match file {
            Some(path) => format!("the credentials in {} can't be used", path.display()),
            None => "there are no credentials".to_owned(),
        },
    })?;
    Ok(Arc::clone(bucket.credentials()))
}
