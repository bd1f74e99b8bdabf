//! Workload identity federation: credentials of another identity provider, exchanged for Google's
//! (<https://google.aip.dev/auth/4117>). A token of that provider is read from a file or a URL, the Security Token Service
//! gives an access token for it, and if need be that of a service account follows from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::request;

/// All that is needed to read a bucket.
const READ: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// What is needed to become a service account.
const IMPERSONATE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// For as long as a service account's token holds.
const LIFETIME: u64 = 3600;
/// So long before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(300);
/// How often a step is tried that fails in a way that may pass.
const ATTEMPTS: u32 = 4;

/// The file's content. It holds no secret but the client's, and the headers.
#[derive(Deserialize)]
struct Configuration {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    #[serde(default)]
    service_account_impersonation: Impersonation,
    credential_source: Source,
    client_id: Option<String>,
    client_secret: Option<String>,
    workforce_pool_user_project: Option<String>,
}

#[derive(Deserialize, Default)]
struct Impersonation {
    token_lifetime_seconds: Option<u64>,
}

/// Where the other provider's token is.
#[derive(Deserialize)]
struct Source {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
}

#[derive(Deserialize, Default)]
struct Format {
    r#type: Option<String>,
    subject_token_field_name: Option<String>,
}

/// What the Security Token Service answers: <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>.
#[derive(Deserialize)]
struct Exchanged {
    access_token: String,
    expires_in: Option<u64>,
}

/// <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Generated {
    access_token: String,
}

/// Credentials of the kind `external_account`.
pub(super) struct ExternalAccount {
    configuration: Configuration,
    client: Client,
    token: Mutex<Option<(String, Instant)>>,
}

impl ExternalAccount {
    /// From the content of a credentials file.
    ///
    /// # Errors
    /// What is wrong, in words that hold nothing of the file.
    pub fn new(text: &[u8], client: Client) -> Result<Self, String> {
        let configuration: Configuration = serde_json::from_slice(text).map_err(|_| {
            "lacks one of audience, subject_token_type, token_url and credential_source, or has it in another form"
                .to_owned()
        })?;
        let Source { file, url, format, .. } = &configuration.credential_source;
        if file.is_some() == url.is_some() {
            return Err(
                "needs a credential_source with either file or url: those of AWS, of programs and of certificates \
                        are not there"
                    .to_owned(),
            );
        }
        match (format.r#type.as_deref(), &format.subject_token_field_name) {
            (None | Some("text"), _) | (Some("json"), Some(_)) => {}
            _ => {
                return Err("needs a credential_source.format of the type \"text\", or \"json\" with a \
                             subject_token_field_name"
                    .to_owned());
            }
        }
        Ok(Self { configuration, client, token: Mutex::default() })
    }

    /// An access token for buckets, the same one as long as it holds.
    ///
    /// # Errors
    /// Which step failed and why, without what the steps were given.
    pub async fn token(&self) -> Result<String, String> {
        let mut held = self.token.lock().await;
        if let Some((token, end)) = held.as_ref()
            && Instant::now() < *end
        {
            return Ok(token.clone());
        }
        let (token, seconds) = self.fresh().await?;
        let lifetime = Duration::from_secs(seconds);
        *held = Some((token.clone(), Instant::now() + lifetime.saturating_sub(MARGIN.min(lifetime / 2))));
        Ok(token)
    }

    /// A new token and the seconds for which it holds.
    async fn fresh(&self) -> Result<(String, u64), String> {
        let own = &self.configuration;
        let subject = self.subject().await?;
        let scope = if own.service_account_impersonation_url.is_some() { IMPERSONATE } else { READ };
        let options =
            own.workforce_pool_user_project.as_ref().map(|project| json!({"userProject": project}).to_string());
        let mut fields = vec![
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("audience", &own.audience),
            ("scope", scope),
            ("subject_token_type", &own.subject_token_type),
            ("subject_token", &subject),
        ];
        fields
            .extend(options.as_ref().filter(|_| own.client_id.is_none()).map(|options| ("options", options.as_str())));
        let form = form(&fields);
        let exchange = || {
            let request = self.client.post(&own.token_url).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
            let request = match &own.client_id {
                Some(id) => request.basic_auth(id, own.client_secret.as_ref()),
                None => request,
            };
            request.body(form.clone())
        };
        let exchanged: Exchanged = read("the token exchange at token_url", exchange).await?;
        let Some(url) = &own.service_account_impersonation_url else {
            return Ok((exchanged.access_token, exchanged.expires_in.unwrap_or(LIFETIME)));
        };
        let seconds = own.service_account_impersonation.token_lifetime_seconds.unwrap_or(LIFETIME);
        let body = json!({"scope": [READ], "lifetime": format!("{seconds}s")}).to_string();
        let impersonate = || {
            let request = self.client.post(url).bearer_auth(&exchanged.access_token);
            request.header(CONTENT_TYPE, "application/json").body(body.clone())
        };
        let generated: Generated = read("service_account_impersonation_url", impersonate).await?;
        Ok((generated.access_token, seconds))
    }

    /// The other provider's token. It is read each time: whoever writes it also renews it.
    async fn subject(&self) -> Result<String, String> {
        let Source { file, url, headers, format } = &self.configuration.credential_source;
        let text = match (file, url) {
            (Some(file), _) => from_file(file).await?,
            (_, Some(url)) => {
                let ask =
                    || headers.iter().fold(self.client.get(url), |request, (name, value)| request.header(name, value));
                answer("credential_source.url", ask).await?
            }
            (None, None) => return Err("there is no credential_source".to_owned()),
        };
        let field = format.subject_token_field_name.as_deref().filter(|_| format.r#type.as_deref() == Some("json"));
        let token = match field {
            None => text.trim().to_owned(),
            Some(field) => {
                let json: Value =
                    serde_json::from_str(&text).map_err(|_| "what credential_source gives is not JSON".to_owned())?;
                let token = json[field].as_str().map(str::to_owned);
                token.ok_or_else(|| format!("what credential_source gives has no {field:?}"))?
            }
        };
        if token.is_empty() { Err("what credential_source gives is empty".to_owned()) } else { Ok(token) }
    }
}

async fn from_file(path: &Path) -> Result<String, String> {
    let read = tokio::fs::read_to_string(path).await;
    read.map_err(|error| format!("credential_source.file names {}, which can't be read: {error}", path.display()))
}

async fn read<T: for<'de> Deserialize<'de>>(step: &str, make: impl Fn() -> RequestBuilder) -> Result<T, String> {
    let text = answer(step, make).await?;
    serde_json::from_str(&text).map_err(|_| format!("{step} gave an answer without a token"))
}

/// The body of a good answer.
async fn answer(step: &str, make: impl Fn() -> RequestBuilder) -> Result<String, String> {
    let mut attempt = 1;
    loop {
        let (reason, asked) = match make().send().await {
            Ok(response) if response.status().is_success() => match response.text().await {
                Ok(text) => return Ok(text),
                Err(error) => (request::plain(error), None),
            },
            Ok(response) if request::is_passing(response.status()) => {
                (format!("it answered {}", response.status()), request::retry_after(&response))
            }
            Ok(response) => {
                let status = response.status();
                let code = response.text().await.ok().and_then(|text| oauth_error(&text));
                return Err(format!(
                    "{step} answered {status}{}",
                    code.map(|code| format!(", {code}")).unwrap_or_default()
                ));
            }
            Err(error) => (request::plain(error), None),
        };
        if attempt == ATTEMPTS {
            return Err(format!("{step}: {reason}, {attempt} times"));
        }
        tokio::time::sleep(request::pause(attempt, asked)).await;
        attempt += 1;
    }
}

/// The code of an error as OAuth (RFC 6749, 5.2) and Google's APIs have it. The rest may repeat what was sent.
fn oauth_error(text: &str) -> Option<String> {
    let json: Value = serde_json::from_str(text).ok()?;
    let code = json["error"].as_str().or_else(|| json["error"]["status"].as_str())?;
    let is_code = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_code.then(|| code.to_owned())
}

fn form(fields: &[(&str, &str)]) -> String {
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(source: Value) -> Result<ExternalAccount, String> {
        let file = json!({
            "type": "external_account", "audience": "//iam/pool", "token_url": "https://sts/token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "credential_source": source,
        });
        ExternalAccount::new(file.to_string().as_bytes(), request::client().unwrap())
    }

    #[tokio::test]
    async fn subject_tokens_come_from_files_in_two_formats() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, " jwt\n").unwrap();
        assert_eq!(account(json!({"file": file})).unwrap().subject().await.unwrap(), "jwt");
        std::fs::write(&file, r#"{"value":"other"}"#).unwrap();
        let format = json!({"type": "json", "subject_token_field_name": "value"});
        assert_eq!(account(json!({"file": file, "format": format})).unwrap().subject().await.unwrap(), "other");
        let format = json!({"type": "json", "subject_token_field_name": "none"});
        let error = account(json!({"file": file, "format": format})).unwrap().subject().await.unwrap_err();
        assert!(error.contains("no \"none\"") && !error.contains("other"), "{error}");
        std::fs::remove_file(&file).unwrap();
        assert!(account(json!({"file": file})).unwrap().subject().await.unwrap_err().contains("can't be read"));
    }

    #[test]
    fn what_is_not_there_is_refused() {
        for (source, words) in [
            (json!({"environment_id": "aws1"}), "either file or url"),
            (json!({"executable": {"command": "x"}}), "either file or url"),
            (json!({"file": "/a", "url": "http://b"}), "either file or url"),
            (json!({"file": "/a", "format": {"type": "json"}}), "subject_token_field_name"),
            (json!({"file": 7}), "another form"),
        ] {
            assert!(account(source.clone()).err().unwrap().contains(words), "{source}");
        }
    }

    #[test]
    fn only_codes_of_errors_are_shown() {
        assert_eq!(
            oauth_error(r#"{"error":"invalid_grant","error_description":"jwt"}"#).as_deref(),
            Some("invalid_grant")
        );
        assert_eq!(oauth_error(r#"{"error":{"status":"PERMISSION_DENIED"}}"#).as_deref(), Some("PERMISSION_DENIED"));
        assert_eq!(oauth_error(r#"{"error":"the token ey... is wrong"}"#), None);
        assert_eq!(form(&[("a", "b c/:"), ("d", "é")]), "a=b%20c%2F%3A&d=%C3%A9");
    }
}
