//! Which image format some bytes are, told from their first bytes alone.

use super::error::ImageError;
use std::fmt;

/// Image formats that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG (JFIF, Exif, Adobe, raw).
    Jpeg,
    /// PNG, also animated (the default picture is taken).
    Png,
    /// GIF 87a or 89a.
    Gif,
    /// WebP, lossy or lossless.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// TIFF or BigTIFF, either byte order.
    Tiff,
}

impl Format {
    /// Name as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Gif => "GIF",
            Self::WebP => "WebP",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tells the format of `bytes`.
///
/// # Errors
/// [`ImageError::Empty`]; [`ImageError::Unsupported`] for a known format that is not decoded here;
/// [`ImageError::NotAnImage`] with what the bytes look like instead.
pub fn sniff(bytes: &[u8]) -> Result<Format, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if let Some(format) = supported(bytes) {
        return Ok(format);
    }
    if let Some(kind) = unsupported(bytes) {
        return Err(ImageError::Unsupported { kind });
    }
    Err(ImageError::NotAnImage { looks_like: describe(bytes) })
}

fn supported(bytes: &[u8]) -> Option<Format> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
        // The start of a signature is a truncated picture, not something else.
        [0xff, 0xd8] => Some(Format::Jpeg),
        [0x89, b'P', b'N', b'G', ..] => Some(Format::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::WebP),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Format::Tiff),
        _ if is_bmp(bytes) => Some(Format::Bmp),
        _ => None,
    }
}

/// `BM` alone could begin a text; the size of the second header, at byte 14, has few values.
fn is_bmp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"BM") && matches!(bytes.get(14..18), Some([12 | 16 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
}

fn unsupported(bytes: &[u8]) -> Option<&'static str> {
    if let Some(brand) = (bytes.get(4..8) == Some(b"ftyp")).then(|| bytes.get(8..12)).flatten() {
        return Some(match brand {
            b"avif" | b"avis" => "AVIF",
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"hevm" | b"hevs" => "HEIC",
            // The generic brands: the list of compatible ones says which codec it is.
            b"mif1" | b"msf1" | b"miaf" => {
                if bytes.get(16..64.min(bytes.len())).is_some_and(|rest| rest.chunks_exact(4).any(|b| b == b"avif")) {
                    "AVIF"
                } else {
                    "HEIF"
                }
            }
            b"jp2 " => "JPEG 2000",
            b"crx " => "Canon raw (CR3)",
            _ => "video (MP4 or QuickTime)",
        });
    }
    const MAGIC: &[(&[u8], &str)] = &[
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"%PDF-", "PDF"),
        (b"8BPS", "Photoshop (PSD)"),
        (b"%!PS", "PostScript"),
        (b"\0\0\x01\0", "Windows icon (ICO)"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"qoif", "QOI"),
        (b"DDS ", "DDS"),
        (b"icns", "Apple icon (ICNS)"),
        (b"farbfeld", "farbfeld"),
        (b"BPG\xfb", "BPG"),
        (b"FLIF", "FLIF"),
        (b"AT&TFORM", "DjVu"),
        (b"\x1aE\xdf\xa3", "video (Matroska or WebM)"),
    ];
    if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(kind);
    }
    if bytes.get(128..132) == Some(b"DICM") {
        return Some("DICOM");
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"AVI ") {
        return Some("video (AVI)");
    }
    if let [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t', ..] = bytes {
        return Some("Netpbm (PBM, PGM, PPM)");
    }
    is_svg(bytes).then_some("SVG")
}

fn is_svg(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(1024)];
    let head = text_start(head);
    let has = |needle: &[u8]| head.windows(needle.len()).any(|w| w.eq_ignore_ascii_case(needle));
    head.starts_with(b"<svg") || ((head.starts_with(b"<?xml") || head.starts_with(b"<!")) && has(b"<svg"))
}

/// Skips a byte order mark and blanks.
fn text_start(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start()
}

/// Says what bytes that are no image look like, so that the sender finds the mistake.
fn describe(bytes: &[u8]) -> String {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "it is gzip data; send the image itself"),
        (b"PK\x03\x04", "it is a ZIP archive; send the image itself"),
        (b"\x28\xb5\x2f\xfd", "it is Zstandard data; send the image itself"),
        (b"BZh", "it is bzip2 data; send the image itself"),
        (b"\x93NUMPY", "it is a NumPy array file; send an encoded image"),
        (b"\x7fELF", "it is a program"),
        (b"ID3", "it is audio"),
        (b"OggS", "it is audio or video"),
    ];
    if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return (*what).to_owned();
    }
    let head = &bytes[..bytes.len().min(64)];
    let text = text_start(head);
    let starts = |prefix: &[u8]| text.get(..prefix.len()).is_some_and(|s| s.eq_ignore_ascii_case(prefix));
    const URLS: &[&str] = &["http://", "https://", "gs://", "s3://", "ftp://", "file://"];
    if let Some(scheme) = URLS.iter().find(|scheme| starts(scheme.as_bytes())) {
        return format!("it is a {scheme} URL, and URLs are never fetched; send the bytes of the image");
    }
    if starts(b"data:") {
        return "it is a data: URL; send only the base64 after its comma".to_owned();
    }
    // How the base64 text of JPEG, PNG, GIF, WebP and TIFF begins.
    const ENCODED: &[&[u8]] = &[b"/9j/", b"_9j_", b"iVBORw0KGgo", b"R0lGOD", b"UklGR", b"SUkqA", b"TU0AK"];
    if ENCODED.iter().any(|prefix| text.starts_with(prefix)) {
        return "it is base64 text once more; encode the image only once".to_owned();
    }
    if starts(b"<!doctype html") || starts(b"<html") {
        return "it is an HTML page".to_owned();
    }
    if starts(b"<?xml") || starts(b"<") {
        return "it is XML or HTML text".to_owned();
    }
    if matches!(text.first(), Some(b'{' | b'[')) && is_text(head) {
        return "it is JSON text".to_owned();
    }
    if is_text(head) {
        return "it is text".to_owned();
    }
    if bytes.iter().take(4096).all(|&b| b == 0) {
        return "its bytes are all zero".to_owned();
    }
    let hex: Vec<String> = bytes.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("it begins with the bytes {}, which no known image format does", hex.join(" "))
}

/// Valid UTF-8 (but for a character cut at the end) without control characters.
fn is_text(head: &[u8]) -> bool {
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => match std::str::from_utf8(&head[..error.valid_up_to()]) {
            Ok(text) => text,
            Err(_) => return false,
        },
        Err(_) => return false,
    };
    !valid.is_empty() && !valid.chars().any(|c| c.is_control() && !c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: &[u8]) -> String {
        sniff(bytes).unwrap_err().to_string()
    }

    #[test]
    fn names_known_formats_that_are_not_decoded() {
        for (bytes, name) in [
            (&b"\0\0\0\x20ftypavif\0\0\0\0"[..], "AVIF"),
            (b"\0\0\0\x20ftypheic\0\0\0\0", "HEIC"),
            (b"\0\0\0\x20ftypmif1\0\0\0\0mif1avif", "AVIF"),
            (b"\0\0\0\x0cjP  \r\n\x87\n\0\0", "JPEG 2000"),
            (b"\xff\x4f\xff\x51\0", "JPEG 2000"),
            (b"\xff\x0a\0\0", "JPEG XL"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "SVG"),
            (b"%PDF-1.7", "PDF"),
        ] {
            let text = message(bytes);
            assert!(text.starts_with(&format!("{name} is not supported")), "{text}");
        }
    }

    #[test]
    fn says_what_the_bytes_look_like() {
        for (bytes, part) in [
            (&b"{\"a\": 1}"[..], "JSON"),
            (b"<!DOCTYPE html><html>", "HTML page"),
            (b"\x1f\x8b\x08\0", "gzip"),
            (b"/9j/4AAQSkZJRg", "base64 text once more"),
            (b"https://example.com/cat.jpg", "https:// URL"),
            (b"gs://bucket/cat.jpg", "gs:// URL"),
            (b"data:image/png;base64,AAAA", "data: URL"),
            (b"hello", "text"),
            (b"\x01\x02\x03\xff\xfe", "01 02 03 ff fe"),
        ] {
            let text = message(bytes);
            assert!(text.starts_with("not an image: ") && text.contains(part), "{text}");
        }
        assert_eq!(sniff(b""), Err(ImageError::Empty));
    }

    #[test]
    fn long_input_is_not_repeated() {
        let text = message(&b"gs://".iter().copied().chain([b'x'; 5000]).collect::<Vec<_>>());
        assert!(text.len() < 200, "{text}");
    }
}
