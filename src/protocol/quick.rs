//! A quick look at the bodies that pictures come in.
//!
//! A JSON parser looks at each byte of a string for its end, escapes and control characters, eight at a time at best, and
//! again for UTF-8; a body with a picture is one string of a megabyte. So the form that clients send is recognised here,
//! at several times that speed: objects of strings (or of such objects) in `instances`, and nothing after them but
//! `parameters`. A body that differs in the least is left to the parser, which would say the same of those that are
//! recognised.

use std::ops::Range;

use serde_json::value::RawValue;

/// What a body consists of.
pub(super) struct Parts<'a> {
    /// Where the instances are; at least one.
    pub(super) instances: Vec<Range<usize>>,
    pub(super) parameters: Option<&'a RawValue>,
}

/// The parts of a body that is `{"instances": [{"b64": "..."}, ...]}`, whatever the names in them and the space between,
/// perhaps with `parameters`. None for any other, be it valid or not, and for more than `limit` instances.
pub(super) fn parts(body: &[u8], limit: usize) -> Option<Parts<'_>> {
    let mut cursor = Cursor { body, at: 0 };
    cursor.expect(b'{')?;
    cursor.name(b"instances")?;
    cursor.expect(b'[')?;
    let mut instances = Vec::new();
    loop {
        cursor.space();
        let begin = cursor.at;
        cursor.object(DEPTH)?;
        instances.push(begin..cursor.at);
        match cursor.token()? {
            b',' if instances.len() < limit => {}
            b']' => break,
            _ => return None,
        }
    }
    match cursor.token()? {
        b',' => {
            cursor.name(b"parameters")?;
            // Up to the brace that closes the body, if there is nothing else before it.
            let end = body.iter().rposition(|byte| !is_space(*byte))?;
            let rest = body.get(cursor.at..=end)?.strip_suffix(b"}")?;
            Some(Parts { instances, parameters: Some(serde_json::from_slice(rest).ok()?) })
        }
        b'}' => {
            cursor.space();
            (cursor.at == body.len()).then_some(Parts { instances, parameters: None })
        }
        _ => None,
    }
}

/// An object of objects of strings, such as `{"image_bytes": {"b64": "..."}}`.
const DEPTH: usize = 2;

/// What JSON calls white space.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn space(&mut self) {
        while self.body.get(self.at).copied().is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// The next byte that isn't space.
    fn token(&mut self) -> Option<u8> {
        self.space();
        let token = self.body.get(self.at).copied();
        self.at += 1;
        token
    }

    fn expect(&mut self, token: u8) -> Option<()> {
        (self.token()? == token).then_some(())
    }

    /// The name of a member, and the colon after it.
    fn name(&mut self, name: &[u8]) -> Option<()> {
        (self.string()? == name).then_some(())?;
        self.expect(b':')
    }

    /// A string without escapes, all ASCII.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = &self.body[self.at..];
        let length = plain_length(rest);
        self.at += length + 1;
        (*rest.get(length)? == b'"').then(|| &rest[..length])
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.expect(b'{')?;
        loop {
            self.string()?;
            self.expect(b':')?;
            self.space();
            match self.body.get(self.at)? {
                b'{' if depth > 1 => self.object(depth - 1)?,
                _ => self.string().map(drop)?,
            }
            match self.token()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }
}

/// How many bytes come before the first that ends a string, or isn't itself in it: a quote, a backslash, a control
/// character, or one beyond ASCII.
fn plain_length(text: &[u8]) -> usize {
    // Compared as signed numbers, controls and what is beyond ASCII are all below the space.
    let is_special = |byte: &u8| byte.cast_signed() < 0x20 || *byte == b'"' || *byte == b'\\';
    // No early end within a block, so that the compiler compares many bytes at once.
    let block = text.chunks(64).position(|block| block.iter().fold(false, |any, byte| any | is_special(byte)));
    let from = block.map_or(text.len(), |index| index * 64);
    text[from..].iter().position(is_special).map_or(text.len(), |length| from + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Option<Vec<&str>> {
        let parts = parts(body.as_bytes(), 2)?;
        let instances = parts.instances.into_iter().map(|range| &body[range]);
        Some(instances.chain(parts.parameters.map(RawValue::get)).collect())
    }

    #[test]
    fn the_forms_of_pictures() {
        assert_eq!(found(r#"{"instances":[{"b64":"AA+/"}]}"#), Some(vec![r#"{"b64":"AA+/"}"#]));
        assert_eq!(
            found("\n{ \"instances\" :[ {\"image\": {\"b64\": \"\"} , \"tag\" : \"x\" }\t,{\"b64\":\"B\"} ]\r\n} "),
            Some(vec!["{\"image\": {\"b64\": \"\"} , \"tag\" : \"x\" }", "{\"b64\":\"B\"}"])
        );
        assert_eq!(
            found(r#"{"instances":[{"b64":"A"}],"parameters": {"topK":[1, "é"]} } "#),
            Some(vec![r#"{"b64":"A"}"#, r#"{"topK":[1, "é"]}"#])
        );
    }

    #[test]
    fn all_else_is_left_to_the_parser() {
        for body in [
            "",
            "{",
            "[]",
            r#"{"instances":[]}"#,
            r#"{"instances":[{}]}"#,
            r#"{"instances":["AAAA"]}"#,
            r#"{"instances":[[1,2]]}"#,
            r#"{"instances":[{"b64":1}]}"#,
            r#"{"instances":[{"b64":"A"}],"parameters":{},"parameters":{}}"#,
            r#"{"instances":[{"b64":"A"}],"parameters":{},"labels":{}}"#,
            r#"{"instances":[{"b64":"A"}],"labels":{}}"#,
            r#"{"instances":[{"b64":"A"}],"parameters":}"#,
            r#"{"instances":[{"b64":"A"}],"parameters":1"#,
            "{\"instances\":[{\"b64\":\"A\"}],\"parameters\":1}\x0c",
            "{\"instances\":[{\"b64\":\"A\"}]}\x0c",
            r#"{"parameters":{},"instances":[{"b64":"A"}]}"#,
            r#"{"instances":[{"b64":"A"},{"b64":"A"},{"b64":"A"}]}"#,
            r#"{"instances":[{"b64":"A\/A"}]}"#,
            "{\"instances\":[{\"b64\":\"A\nA\"}]}",
            "{\"instances\":[{\"b64\":\"A\u{e9}\"}]}",
            r#"{"instances":[{"a":{"b":{"c":"deeper"}}}]}"#,
            r#"{"instances":[{"b64":"A"}]"#,
            r#"{"instances":[{"b64":"A"}]}}"#,
            r#"{"instances":[{"b64":"A"},]}"#,
            r#"{"instances":[{"b64":"A",}]}"#,
            r#"{"instances":[{"b64":"A"#,
        ] {
            assert_eq!(found(body), None, "{body}");
        }
    }

    #[test]
    fn a_string_ends_wherever_it_ends() {
        for length in 0..200 {
            let mut text = vec![b'A'; length];
            assert_eq!(plain_length(&text), length);
            for special in *b"\"\\\n\x1f\x00\x80\xff" {
                text.push(special);
                text.extend(*b"A\"A");
                assert_eq!(plain_length(&text), length);
                text.truncate(length);
            }
        }
        assert_eq!(plain_length(b" ~\x7f!"), 4);
    }

    /// Whatever is recognised is JSON, and the parser finds the same in it.
    #[test]
    fn nothing_is_recognised_that_the_parser_would_refuse() {
        let pieces = [
            "}",
            "]",
            "}]}",
            "}],\"parameters\":",
            "1}",
            "}}]}",
            ",\"k\":\"v\"",
            "},{\"b64\":\"B\"",
            "},{\"x\":{\"b64\":\"B\"}",
            ",",
            "\"",
            ":",
            "{",
            " ",
            "\n",
            "1",
            "\\n",
            "é",
        ];
        let (mut recognised, mut with_parameters) = (0, 0);
        // A walk through sequences of pieces, the same at each run.
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..200_000 {
            let mut body = r#"{"instances":[{"b64":"A""#.to_owned();
            for _ in 0..random(6) {
                body.push_str(pieces[random(pieces.len())]);
            }
            let Some(parts) = parts(body.as_bytes(), 100) else { continue };
            recognised += 1;
            with_parameters += usize::from(parts.parameters.is_some());
            let parsed: serde_json::Value =
                serde_json::from_str(&body).unwrap_or_else(|error| panic!("{body}: {error}"));
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            let each: Vec<_> = parts.instances.into_iter().map(|range| value(&body[range])).collect();
            assert_eq!(parsed["instances"], serde_json::Value::from(each), "{body}");
            assert_eq!(parsed.get("parameters").cloned(), parts.parameters.map(|raw| value(raw.get())), "{body}");
        }
        assert!(recognised > 1_000 && with_parameters > 100, "only {recognised}, {with_parameters} with parameters");
    }
}
