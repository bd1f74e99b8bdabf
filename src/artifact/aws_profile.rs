//! Profiles of Amazon's own tools: the shared credentials file and the configuration file
//! (<https://docs.aws.amazon.com/sdkref/latest/guide/file-format.html>).
//!
//! Used where the environment has no keys and no web identity. `AWS_PROFILE` names the profile, otherwise it is `default`;
//! `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE` name the files, otherwise they are `~/.aws/credentials` and
//! `~/.aws/config`. Of keys that are in both files, those of the first hold.

use std::collections::BTreeMap;
use std::path::PathBuf;

use object_store::aws::AmazonS3ConfigKey;

use super::{ArtifactError, Variables};

/// What a profile says of S3.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Profile {
    /// Settings of the client, keys among them.
    pub settings: Vec<(AmazonS3ConfigKey, String)>,
    /// The region, unless the environment names one.
    pub region: Option<String>,
    /// Another address of the store, unless the environment names one.
    pub endpoint: Option<String>,
}

/// The keys of a section, or of none that is of interest.
type Section = BTreeMap<String, String>;

/// How credentials are asked for by means that are not there.
const OTHER_MEANS: [&str; 5] = ["role_arn", "sso_session", "sso_start_url", "credential_process", "login_session"];

impl Profile {
    /// The profile that the variables name.
    ///
    /// # Errors
    /// [`ArtifactError::Setting`]: a file or a profile that is named isn't there, or the profile needs what this server
    /// can't do.
    pub fn read(variables: &Variables) -> Result<Self, ArtifactError> {
        let has = |name| variables.get(name).is_some();
        let has_keys = has("AWS_ACCESS_KEY_ID") && has("AWS_SECRET_ACCESS_KEY");
        let needs_none = has_keys || has("AWS_WEB_IDENTITY_TOKEN_FILE") || has("AWS_SKIP_SIGNATURE");
        let named = variables.get("AWS_PROFILE");
        let name = named.unwrap_or("default");
        let credentials =
            section(&text(variables, "AWS_SHARED_CREDENTIALS_FILE", "credentials")?, |title| title == name);
        let of_profile = |title: &str| {
            let own = title.strip_prefix("profile ").map(|own| own.trim().trim_matches(['"', '\'']));
            own == Some(name) || (title == "default" && name == "default")
        };
        let configuration = section(&text(variables, "AWS_CONFIG_FILE", "config")?, of_profile);
        if let (Some(name), None, None) = (named, &credentials, &configuration) {
            let reason = format!(
                "is {name:?}, but neither AWS_SHARED_CREDENTIALS_FILE (~/.aws/credentials) nor AWS_CONFIG_FILE \
                 (~/.aws/config) has such a profile"
            );
            return Err(ArtifactError::Setting { variable: "AWS_PROFILE", reason });
        }
        let mut section = configuration.unwrap_or_default();
        section.extend(credentials.unwrap_or_default());
        let mut profile =
            Self { settings: Vec::new(), region: section.remove("region"), endpoint: section.remove("endpoint_url") };
        if needs_none {
            return Ok(profile);
        }
        let mut take = |key: &str| section.remove(key).filter(|value| !value.is_empty());
        match (take("aws_access_key_id"), take("aws_secret_access_key"), take("web_identity_token_file")) {
            (Some(key), Some(secret), _) => {
                profile.settings.push((AmazonS3ConfigKey::AccessKeyId, key));
                profile.settings.push((AmazonS3ConfigKey::SecretAccessKey, secret));
                profile.settings.extend(take("aws_session_token").map(|token| (AmazonS3ConfigKey::Token, token)));
            }
            (_, _, Some(file)) => {
                profile.settings.push((AmazonS3ConfigKey::WebIdentityTokenFile, file));
                profile.settings.extend(take("role_arn").map(|role| (AmazonS3ConfigKey::RoleArn, role)));
                profile
                    .settings
                    .extend(take("role_session_name").map(|name| (AmazonS3ConfigKey::RoleSessionName, name)));
            }
            _ => {
                if let Some(means) = OTHER_MEANS.iter().find(|means| section.contains_key(**means)) {
                    let reason = format!(
                        "is {name:?}, whose profile asks for credentials by {means}, which this server doesn't do: give it \
                         aws_access_key_id and aws_secret_access_key, or set them in the environment (`aws configure \
                         export-credentials --format env` prints them)"
                    );
                    return Err(ArtifactError::Setting { variable: "AWS_PROFILE", reason });
                }
            }
        }
        Ok(profile)
    }
}

/// The content of a file; empty, if nobody named it and it isn't there.
fn text(variables: &Variables, variable: &'static str, usual: &str) -> Result<String, ArtifactError> {
    let home = variables.get("HOME").map(PathBuf::from);
    let path = match (variables.get(variable), home) {
        (Some(path), Some(home)) => path.strip_prefix("~/").map_or_else(|| path.into(), |rest| home.join(rest)),
        (Some(path), None) => PathBuf::from(path),
        (None, Some(home)) => home.join(".aws").join(usual),
        (None, None) => return Ok(String::new()),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(_) if variables.get(variable).is_none() => Ok(String::new()),
        Err(error) => {
            let reason = format!("names {}, which can't be read: {error}", path.display());
            Err(ArtifactError::Setting { variable, reason })
        }
    }
}

/// What stands in the section whose title is the wanted one. Lines that are indented belong to a value of several parts,
/// none of which matters here.
fn section(text: &str, is_wanted: impl Fn(&str) -> bool) -> Option<Section> {
    let mut found: Option<Section> = None;
    let mut is_inside = false;
    for line in text.lines() {
        if let Some(title) = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(title, _)| title)
        {
            is_inside = is_wanted(title.trim());
            if is_inside {
                found.get_or_insert_default();
            }
            continue;
        }
        let is_value = is_inside && !line.starts_with([' ', '\t', '#', ';']);
        if let (true, Some((key, value)), Some(section)) = (is_value, line.split_once('='), &mut found) {
            let end = [" #", " ;", "\t#", "\t;"].iter().filter_map(|mark| value.find(mark)).min();
            let value = value[..end.unwrap_or(value.len())].trim();
            section.insert(key.trim().to_lowercase(), value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "# mine\n[default]\naws_access_key_id=AKIADEFAULT\naws_secret_access_key = s/+=1 # old\n\n\
        [work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = two\naws_session_token = three\n";
    const CONFIG: &str = "[default]\nregion = eu-west-1\n[profile work]\nregion=us-west-2\nendpoint_url = http://store\n\
        s3 =\n  addressing_style = path\n[profile \"by role\"]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = work\n\
        [profile web]\nrole_arn = arn:aws:iam::1:role/y\nweb_identity_token_file = /token\n";

    /// The values of the settings, the region and the endpoint.
    type Found = (Vec<String>, Option<String>, Option<String>);

    fn read(more: &[(&str, &str)]) -> Result<Found, String> {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        std::fs::write(home.path().join(".aws/credentials"), CREDENTIALS).unwrap();
        std::fs::write(home.path().join(".aws/config"), CONFIG).unwrap();
        let own = [("HOME", home.path().to_str().unwrap())];
        let variables: Variables = own.into_iter().chain(more.iter().copied()).collect();
        let profile = Profile::read(&variables).map_err(|error| error.to_string())?;
        let values = profile.settings.into_iter().map(|(_, value)| value).collect();
        Ok((values, profile.region, profile.endpoint))
    }

    #[test]
    fn profiles_are_found_in_both_files() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(&[]).unwrap(), (vec!["AKIADEFAULT".into(), "s/+=1".into()], some("eu-west-1"), None));
        let work = (vec!["AKIAWORK".into(), "two".into(), "three".into()], some("us-west-2"), some("http://store"));
        assert_eq!(read(&[("AWS_PROFILE", "work")]).unwrap(), work);
        let web = (vec!["/token".into(), "arn:aws:iam::1:role/y".into()], None, None);
        assert_eq!(read(&[("AWS_PROFILE", "web")]).unwrap(), web);
        // The environment's own keys hold, but the region is the profile's.
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_PROFILE", "work")];
        assert_eq!(read(&keys).unwrap(), (vec![], some("us-west-2"), some("http://store")));
    }

    #[test]
    fn what_can_not_be_used_says_why() {
        for (variables, words) in [
            (&[("AWS_PROFILE", "none")][..], "AWS_PROFILE is \"none\", but neither"),
            (&[("AWS_PROFILE", "by role")], "by role_arn"),
            (&[("AWS_SHARED_CREDENTIALS_FILE", "~/nothing")], "AWS_SHARED_CREDENTIALS_FILE names"),
        ] {
            let error = read(variables).unwrap_err();
            assert!(error.contains(words) && !error.contains("AKIA"), "{error}");
        }
    }
}
