//! Who asks, and what they may do: bearer tokens and API keys.
//!
//! A [`Guard`] knows the tokens, by their hashes, and follows the file that holds them. Whoever a transport lets in is the
//! [`Caller`] of everything that is done for the request, in the [scope](Caller::scope) that the transport opens around it;
//! where an endpoint has been found, [`may_use`] asks whether it is one of theirs. Without tokens nobody is asked anything.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use thiserror::Error;

use crate::server::FileWatch;

mod file;
mod rules;

pub use rules::{Asked, Need};

/// What a token lets its bearer do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Ask for predictions, and look.
    Predict,
    /// Change models and endpoints, and look.
    Manage,
    /// Both.
    #[default]
    All,
}

impl Role {
    /// By their names in files.
    pub const NAMES: [(&'static str, Self); 3] =
        [("predict", Self::Predict), ("manage", Self::Manage), ("all", Self::All)];
}

/// Somebody who was let in.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    /// What the token is called, for logs.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The endpoints that they may use; `None`: all.
    pub endpoints: Option<BTreeSet<String>>,
}

tokio::task_local! {
    static CALLER: Arc<Caller>;
}

impl Caller {
    /// Runs `work`, all of which this caller asks for.
    pub async fn scope<F: Future>(self: Arc<Self>, work: F) -> F::Output {
        CALLER.scope(self, work).await
    }

    /// The same for work that doesn't wait.
    pub fn sync_scope<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        CALLER.sync_scope(self.clone(), work)
    }

    /// Whether an endpoint is one of theirs.
    pub fn may_use(&self, endpoint: &str) -> bool {
        self.endpoints.as_ref().is_none_or(|own| own.contains(endpoint))
    }

    /// Whether they may do what is needed.
    pub fn may(&self, need: Need) -> bool {
        match need {
            Need::Nothing | Need::Token => true,
            Need::Predict => self.role != Role::Manage,
            Need::Manage => self.role != Role::Predict,
        }
    }
}

/// Whether the caller at hand may use an endpoint. Without one there are no tokens: nobody is asked.
pub fn may_use(endpoint: &str) -> bool {
    CALLER.try_with(|caller| caller.may_use(endpoint)).unwrap_or(true)
}

/// Whether there are endpoints that the caller at hand must not hear of.
pub fn is_restricted() -> bool {
    CALLER.try_with(|caller| caller.endpoints.is_some()).unwrap_or(false)
}

/// A token, and whose it is.
struct Token {
    hash: [u8; SHA256_OUTPUT_LEN],
    caller: Arc<Caller>,
}

/// Why there are no tokens. None of the texts holds one.
#[derive(Debug, Error)]
pub enum AuthError {
    /// The file can't be read.
    #[error("auth.tokens_file names {}, which can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is wrong.
    #[error("auth.tokens_file names {}, where {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong there.
        reason: String,
    },
    /// A token of the settings is wrong.
    #[error("auth.tokens: token {number} {reason}")]
    Token {
        /// Which one, from 1.
        number: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Where tokens come from.
#[derive(Clone, Default)]
pub struct AuthSettings {
    /// A file of them, which is followed.
    pub file: Option<PathBuf>,
    /// Further ones, each of which may do everything.
    pub tokens: Vec<String>,
}

/// Lets in who has a token.
pub struct Guard {
    settings: AuthSettings,
    tokens: ArcSwap<Vec<Token>>,
}

impl Guard {
    /// Reads the tokens, and follows their file from now on. `None`: there is no setting that asks for any.
    ///
    /// # Errors
    /// [`AuthError`].
    pub fn start(settings: AuthSettings) -> Result<Option<Arc<Self>>, AuthError> {
        if settings.file.is_none() && settings.tokens.is_empty() {
            return Ok(None);
        }
        let watch = settings.file.as_ref().map(|path| FileWatch::new([path]));
        let tokens = read(&settings)?;
        if tokens.is_empty() {
            tracing::warn!("auth.tokens_file holds no token: nobody is let in");
        }
        let guard = Arc::new(Self { tokens: ArcSwap::from_pointee(tokens), settings });
        if let Some(watch) = watch {
            let own = guard.clone();
            watch.follow(move || match read(&own.settings) {
                Ok(tokens) => {
                    tracing::info!(tokens = tokens.len(), "the tokens were read again");
                    own.tokens.store(Arc::new(tokens));
                }
                Err(error) => tracing::error!(%error, "the tokens stay as they were"),
            });
        }
        Ok(Some(guard))
    }

    /// Whose token this is. Takes the same time whatever it is, and whichever it is: hashes are compared, so that not even
    /// the length shows, and all of them are.
    pub fn caller(&self, token: &[u8]) -> Option<Arc<Caller>> {
        let hash = digest(&SHA256, token);
        let tokens = self.tokens.load();
        let (mut found, mut index) = (Choice::from(0), 0_u64);
        for (own, token) in (0_u64..).zip(tokens.iter()) {
            let is_it = token.hash[..].ct_eq(hash.as_ref());
            index.conditional_assign(&own, is_it);
            found |= is_it;
        }
        let token = tokens.get(usize::try_from(index).ok()?)?;
        bool::from(found).then(|| token.caller.clone())
    }
}

fn read(settings: &AuthSettings) -> Result<Vec<Token>, AuthError> {
    let mut tokens = Vec::new();
    for (index, text) in settings.tokens.iter().enumerate() {
        let number = index + 1;
        file::check(text).map_err(|reason| AuthError::Token { number, reason })?;
        tokens.push(Token::new(text, Caller { name: format!("token {number}"), role: Role::All, endpoints: None }));
    }
    if let Some(path) = &settings.file {
        let text =
            std::fs::read_to_string(path).map_err(|source| AuthError::Unreadable { path: path.clone(), source })?;
        let entries = file::parse(&text).map_err(|reason| AuthError::Invalid { path: path.clone(), reason })?;
        tokens.extend(entries);
    }
    Ok(tokens)
}

impl Token {
    fn new(text: &str, caller: Caller) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Self { hash, caller: Arc::new(caller) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(file: &str, tokens: &[&str]) -> Result<Guard, AuthError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, file).unwrap();
        let tokens = tokens.iter().map(|&token| token.to_owned()).collect();
        let settings = AuthSettings { file: Some(path), tokens };
        Ok(Guard { tokens: ArcSwap::from_pointee(read(&settings)?), settings })
    }

    #[test]
    fn a_token_is_its_callers() {
        let guard = guard("# two\nfirst-token\nsecond-token\n", &["third-token"]).unwrap();
        let name = |token: &str| guard.caller(token.as_bytes()).map(|caller| caller.name.clone());
        assert_eq!(name("third-token").as_deref(), Some("token 1"));
        assert_eq!(name("first-token").as_deref(), Some("line 2"));
        assert_eq!(name("second-token").as_deref(), Some("line 3"));
        for wrong in ["", "first-toke", "first-token ", "FIRST-TOKEN", "# two"] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
        let empty = super::tests::guard("# none\n", &[]).unwrap();
        assert_eq!(empty.caller(b""), None);
    }

    #[test]
    fn roles_and_endpoints() {
        let caller = |role| Caller { name: "a".into(), role, endpoints: None };
        assert!(caller(Role::Predict).may(Need::Predict) && !caller(Role::Predict).may(Need::Manage));
        assert!(!caller(Role::Manage).may(Need::Predict) && caller(Role::Manage).may(Need::Manage));
        assert!(caller(Role::All).may(Need::Predict) && caller(Role::All).may(Need::Manage));
        let own = Caller { endpoints: Some(["imagenet".to_owned()].into()), ..caller(Role::All) };
        assert!(own.may_use("imagenet") && !own.may_use("imagene") && caller(Role::All).may_use("x"));
    }

    #[tokio::test]
    async fn who_asks_is_known_within_the_scope() {
        let own = Arc::new(Caller { name: "a".into(), role: Role::All, endpoints: Some(["a".to_owned()].into()) });
        assert!(may_use("b") && !is_restricted());
        let seen = own
            .clone()
            .scope(async {
                tokio::task::yield_now().await;
                (may_use("a"), may_use("b"), is_restricted())
            })
            .await;
        assert_eq!(seen, (true, false, true));
        assert!(!own.sync_scope(|| may_use("b")));
    }
}
