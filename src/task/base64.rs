//! Base64 as clients really send it: standard or URL-safe alphabet, padded or not, perhaps with line breaks or as
//! a `data:` URL.

use std::sync::LazyLock;

use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, Simd};
use base64::{DecodeError, DecodeSliceError, Engine, decoded_len_estimate};

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

static STANDARD: LazyLock<Simd> = LazyLock::new(|| Simd::standard(LENIENT));
static URL_SAFE: LazyLock<Simd> = LazyLock::new(|| Simd::url_safe(LENIENT));

/// Decodes into the buffer, whose memory is reused, and gives the decoded part of it.
///
/// The alphabet is not looked for beforehand, which would take longer than decoding: the standard one is tried, and
/// only what fails is looked at again.
///
/// # Errors
/// What is wrong with the text, as the rest of a sentence that begins with the name of the field.
pub fn decode<'a>(text: &str, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], String> {
    let text = without_data_url(text);
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    let length = match decode_either(text.as_bytes(), buffer) {
        Err(DecodeError::InvalidByte(_, byte)) if byte.is_ascii_whitespace() => {
            let dense: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            decode_either(&dense, buffer)
        }
        result => result,
    };
    match length {
        Ok(length) => Ok(&buffer[..length]),
        Err(error) => Err(explain(text, &error)),
    }
}

/// Encodes in the standard alphabet with padding, which every client decodes.
pub fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The part after the comma of `data:image/jpeg;base64,...`.
fn without_data_url(text: &str) -> &str {
    match text.strip_prefix("data:").and_then(|rest| rest.split_once(',')) {
        Some((head, data)) if head.ends_with(";base64") => data,
        _ => text,
    }
}

fn decode_either(text: &[u8], buffer: &mut Vec<u8>) -> Result<usize, DecodeError> {
    match decode_with(&STANDARD, text, buffer) {
        Err(DecodeError::InvalidByte(_, b'-' | b'_')) => decode_with(&URL_SAFE, text, buffer),
        result => result,
    }
}

fn decode_with(engine: &Simd, text: &[u8], buffer: &mut Vec<u8>) -> Result<usize, DecodeError> {
    let estimate = decoded_len_estimate(text.len());
    if buffer.len() < estimate {
        buffer.resize(estimate, 0);
    }
    engine.decode_slice(text, buffer).map_err(|error| match error {
        DecodeSliceError::DecodeError(error) => error,
        // The estimate is never too small.
        DecodeSliceError::OutputSliceTooSmall => DecodeError::InvalidLength(text.len()),
    })
}

/// Says what is wrong without repeating more of the text than one character.
fn explain(text: &str, error: &DecodeError) -> String {
    const SCHEMES: [&str; 6] = ["http://", "https://", "gs://", "s3://", "file://", "ftp://"];
    if let Some(scheme) = SCHEMES.iter().find(|scheme| text.starts_with(**scheme)) {
        return format!("is a URL ({scheme}...); URLs are never fetched: send the image's bytes in base64");
    }
    match error {
        DecodeError::InvalidByte(offset, byte) => {
            let what = match byte {
                b'=' => "padding (`=`) before the end".to_owned(),
                0x21..=0x7e => format!("the character `{}`", char::from(*byte)),
                _ => format!("the byte 0x{byte:02x}"),
            };
            format!("is not base64: {what} at offset {offset}")
        }
        DecodeError::InvalidLength(_) => format!("is not base64: {} characters can't be whole bytes", text.len()),
        _ => "is not base64: its end is damaged".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Result<Vec<u8>, String> {
        decode(text, &mut Vec::new()).map(<[u8]>::to_vec)
    }

    #[test]
    fn both_alphabets_padded_or_not() {
        let bytes = [0xfb, 0xff, 0xbf, 0x00];
        for text in ["+/+/AA==", "+/+/AA", "-_-_AA==", "-_-_AA"] {
            assert_eq!(decoded(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn line_breaks_and_data_urls_are_taken() {
        assert_eq!(decoded("+/+/\r\nAA==\n").unwrap(), [0xfb, 0xff, 0xbf, 0x00]);
        assert_eq!(decoded("-_-_\nAA").unwrap(), [0xfb, 0xff, 0xbf, 0x00]);
        assert_eq!(decoded("data:image/png;base64,AAAA").unwrap(), [0, 0, 0]);
    }

    #[test]
    fn long_texts_agree_with_the_plain_decoder() {
        use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE};
        let bytes: Vec<u8> = (0..10_000u32).map(|index| (index * 31 % 251) as u8).collect();
        for length in [0usize, 1, 2, 3, 31, 32, 33, 47, 48, 49, 9_999, 10_000] {
            let bytes = &bytes[..length];
            if length > 0 {
                assert_eq!(decoded(&STANDARD_NO_PAD.encode(bytes)).unwrap(), bytes);
                assert_eq!(decoded(&URL_SAFE.encode(bytes)).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn a_reused_buffer_leaks_nothing() {
        let mut buffer = Vec::new();
        decode("AQIDBAUG", &mut buffer).unwrap();
        assert_eq!(decode("Bw==", &mut buffer).unwrap(), [7]);
    }

    #[test]
    fn mistakes_are_explained() {
        assert!(decoded("").unwrap_err().contains("empty"));
        assert!(decoded("AAAA*AAA").unwrap_err().contains("`*` at offset 4"));
        assert!(decoded("A").unwrap_err().contains("1 characters"));
        assert!(decoded("https://example.com/cat.jpg").unwrap_err().contains("never fetched"));
        assert!(decoded("gs://bucket/cat.jpg").unwrap_err().contains("gs://"));
        assert!(decoded("AA+_AAAA").unwrap_err().contains("not base64"));
    }
}
