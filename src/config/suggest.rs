//! The nearest known name to one that nobody knows.

/// The one of `known` that was most likely meant by `written`, if any is near enough to be worth showing.
///
/// A name is near if at most a third of its letters (and always one) have to be changed, put in, left out or swapped.
/// Of dotted paths the last part alone may be near too, so that a key in the wrong section is found.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = normalise(written);
    let mut best: Option<((usize, usize), &str)> = None;
    for candidate in known {
        let name = normalise(candidate);
        let whole = distance(&written, &name);
        // A misplaced key is a worse match than a misspelt one in the right place.
        let misplaced = distance(last_part(&written), last_part(&name)).map(|edits| edits * 2 + 1);
        let Some(edits) = whole.into_iter().chain(misplaced).min() else {
            continue;
        };
        // Keys of one name in several sections are equally misplaced: the nearer path counts.
        let edits = (edits, strsim::damerau_levenshtein(&written, &name));
        if best.is_none_or(|(least, _)| edits < least) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Case and the choice between `-` and `_` are no mistakes worth counting.
fn normalise(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

fn last_part(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// Edits from one name to the other, or `None` if they are too far apart. Only the parts that differ count as length:
/// a long common section must not bring any two of its keys near.
fn distance(written: &str, known: &str) -> Option<usize> {
    let edits = strsim::damerau_levenshtein(written, known);
    let length = match (written.rsplit_once('.'), known.rsplit_once('.')) {
        (Some((left, leaf)), Some((right, _))) if left == right => leaf.chars().count(),
        _ => written.chars().count(),
    };
    (edits <= (length / 3).max(1)).then_some(edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 7] =
        ["grpc.port", "server.port", "server.host", "server.admin_port", "limits.body", "log.level", "engine"];

    #[test]
    fn misspelt_names_are_found() {
        assert_eq!(nearest("server.prot", KNOWN), Some("server.port"));
        assert_eq!(nearest("server.admin-port", KNOWN), Some("server.admin_port"));
        assert_eq!(nearest("servr.port", KNOWN), Some("server.port"));
        assert_eq!(nearest("LOG.LEVLE", KNOWN), Some("log.level"));
        assert_eq!(nearest("enigne", KNOWN), Some("engine"));
    }

    #[test]
    fn a_key_in_the_wrong_section_is_found() {
        assert_eq!(nearest("server.body", KNOWN), Some("limits.body"));
        assert_eq!(nearest("host", KNOWN), Some("server.host"));
    }

    #[test]
    fn what_is_far_from_everything_is_left_alone() {
        assert_eq!(nearest("server.colour", KNOWN), None);
        assert_eq!(nearest("server.quota", KNOWN), None);
        assert_eq!(nearest("x", []), None);
    }
}
