//! The file of tokens, in one of two forms. Plain: one token a line, each of which may do everything. TOML:
//!
//! ```toml
//! [[token]]
//! name = "shop"              # for the log; unique
//! token = "..."              # or its hash, so that the file holds no secret:
//! # sha256 = "..."           # 64 hexadecimal digits, as `printf %s TOKEN | sha256sum` prints
//! role = "predict"           # "predict", "manage" or "all", which is the default
//! endpoints = ["imagenet"]   # by default all
//! ```

use std::collections::BTreeSet;

use ring::digest::SHA256_OUTPUT_LEN;
use serde::Deserialize;

use super::{Caller, Role, Token};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    token: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    token: Option<String>,
    sha256: Option<String>,
    role: Option<String>,
    endpoints: Option<BTreeSet<String>>,
}

/// Whether a text can be a token: what a header can carry, without spaces.
pub(super) fn check(token: &str) -> Result<(), &'static str> {
    match token.len() {
        0 => Err("is empty"),
        1..=4096 if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(()),
        1..=4096 => Err("has a character that is none of the visible ones of ASCII"),
        _ => Err("is longer than 4096 characters"),
    }
}

/// The tokens of a file. On failure with where and what is wrong, in words that hold no token.
pub(super) fn parse(text: &str) -> Result<Vec<Token>, String> {
    let is_toml = text.lines().any(|line| line.trim_start().starts_with("[[token]]"));
    let tokens = if is_toml { tables(text)? } else { lines(text)? };
    for (index, token) in tokens.iter().enumerate() {
        if let Some(other) = tokens[..index].iter().find(|other| other.hash == token.hash) {
            return Err(format!("{} and {} have the same token", other.caller.name, token.caller.name));
        }
        if tokens[..index].iter().any(|other| other.caller.name == token.caller.name) {
            return Err(format!("two tokens are called {:?}", token.caller.name));
        }
    }
    Ok(tokens)
}

fn lines(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = format!("line {}", index + 1);
        check(line).map_err(|reason| format!("the token in {name} {reason}"))?;
        tokens.push(Token::new(line, Caller { name, role: Role::All, endpoints: None }));
    }
    Ok(tokens)
}

fn tables(text: &str) -> Result<Vec<Token>, String> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(0, |span| {
            text.as_bytes()[..span.start.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
        });
        // The message alone: the whole error quotes the line. A message about a value may quote it too.
        let message = error.message().split('`').next().unwrap_or_default().trim_end();
        match message.is_empty() || message.starts_with("invalid type") {
            true => format!("line {line} is not as it must be"),
            false => format!("line {line} is not as it must be: {message}"),
        }
    })?;
    file.token.into_iter().map(token).collect()
}

fn token(entry: Entry) -> Result<Token, String> {
    let Entry { name, token, sha256, role, endpoints } = entry;
    let wrong = |reason: &str| format!("the token {name:?} {reason}");
    let role = match &role {
        None => Role::All,
        Some(role) => {
            let known = Role::NAMES.iter().find(|(known, _)| known == role);
            known.ok_or_else(|| wrong("has a role that is not \"predict\", \"manage\" or \"all\""))?.1
        }
    };
    let caller = Caller { name: name.clone(), role, endpoints };
    match (token, sha256) {
        (Some(text), None) => {
            check(&text).map_err(wrong)?;
            Ok(Token::new(&text, caller))
        }
        (None, Some(digits)) => {
            let hash = hash(&digits).ok_or_else(|| wrong("has a `sha256` that is not 64 hexadecimal digits"))?;
            Ok(Token { hash, caller: caller.into() })
        }
        _ => Err(wrong("needs either `token` or `sha256`")),
    }
}

fn hash(digits: &str) -> Option<[u8; SHA256_OUTPUT_LEN]> {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    if digits.len() != 2 * hash.len() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_say_who_and_what() {
        let text = "[[token]]\nname = \"shop\"\ntoken = \"s3cret=\"\nrole = \"predict\"\nendpoints = [\"a\", \"b\"]\n\
                    [[token]]\nname = \"ops\"\n\
                    sha256 = \"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\"\n";
        let tokens = parse(text).unwrap();
        let shop = &tokens[0].caller;
        assert_eq!(
            (&*shop.name, shop.role, shop.may_use("b"), shop.may_use("c")),
            ("shop", Role::Predict, true, false)
        );
        // The hash of "foo".
        let ops = Token::new("foo", Caller { name: "ops".into(), role: Role::All, endpoints: None });
        assert_eq!((tokens[1].hash, &tokens[1].caller), (ops.hash, &ops.caller));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_token() {
        let entry = "[[token]]\nname = \"a\"\n";
        for (text, words) in [
            ("good-token\nhush hush\n".to_owned(), "line 2"),
            ("hush\nhush\n".to_owned(), "same token"),
            (entry.to_owned(), "either"),
            (format!("{entry}token = \"hush hush\"\n"), "visible"),
            (format!("{entry}token = \"hush\"\nrole = \"king\"\n"), "role"),
            (format!("{entry}token = \"hush\"\nrule = \"all\"\n"), "line"),
            (format!("{entry}token = hush\n"), "line 3"),
            (format!("{entry}token = [\"hush\"]\n"), "line 3"),
            (format!("{entry}sha256 = \"hush\"\n"), "64 hexadecimal"),
            (format!("{entry}token = \"hush1\"\n{entry}token = \"hush2\"\n"), "two tokens"),
        ] {
            let error = parse(&text).err().unwrap();
            assert!(error.contains(words) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
