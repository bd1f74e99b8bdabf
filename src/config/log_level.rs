//! `log.level`: a level, and other levels for single modules, as `tracing_subscriber::EnvFilter` takes them.

use super::layers::Value;
use super::reader::{Expected, Parsed, text};
use super::suggest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks directives such as "info" or "info,tessera::scheduler=debug".
///
/// `EnvFilter` would take a misspelt level for the name of a module and silence everything else, so this is stricter:
/// without a module it has to be a level.
///
/// # Errors
/// The reason, with the nearest level.
pub fn check(directives: &str) -> Result<(), String> {
    for directive in directives.split(',') {
        let level = match directive.rsplit_once('=') {
            Some((module, level)) if !module.trim().is_empty() => level,
            _ => directive,
        };
        let level = level.trim().to_lowercase();
        if LEVELS.contains(&level.as_str()) {
            continue;
        }
        let hint =
            suggest::nearest(&level, LEVELS).map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"));
        return Err(format!("{level:?} is none of {}{hint}", LEVELS.join(", ")));
    }
    Ok(())
}

pub(super) fn read(value: &Value) -> Parsed<String> {
    let directives = text(value).unwrap_or_default();
    match check(&directives) {
        Ok(()) => Ok(directives),
        Err(_) => {
            let level = directives.rsplit(['=', ',']).next().unwrap_or_default();
            let nearest = suggest::nearest(level, LEVELS).unwrap_or("info");
            Err(Expected(
                format!("one of {}, or directives for single modules", LEVELS.join(", ")),
                format!("{nearest:?} or \"info,tessera::scheduler=debug\""),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives() {
        for level in ["info", "TRACE", "off", "info,tessera::scheduler=debug", "warn, ort=error"] {
            assert_eq!(check(level), Ok(()), "{level}");
        }
        for level in ["", "inof", "info,", "info,tessera=loud", "=info,x"] {
            assert!(check(level).is_err(), "{level}");
        }
        assert!(check("inof").is_err_and(|reason| reason.ends_with("did you mean `info`?")));
    }
}
