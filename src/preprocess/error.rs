//! What can be wrong with a picture or with the settings for pictures.

use super::format::Format;

/// Why the bytes of an image were not turned into a tensor. Each message is for the client who
/// sent them: it never repeats long input and names nothing internal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No bytes at all.
    #[error("the image is empty (0 bytes)")]
    Empty,
    /// A format, or a variant of one, that is recognised but cannot be decoded.
    #[error("{kind} is not supported; send JPEG, PNG, WebP, GIF, BMP or TIFF")]
    Unsupported {
        /// Name of the format as people know it.
        kind: &'static str,
    },
    /// The first bytes are of no image format.
    #[error("not an image: {looks_like}")]
    NotAnImage {
        /// A short description of the first bytes.
        looks_like: String,
    },
    /// The data ends before the picture does.
    #[error("the {format} image is truncated: its data ends before the picture does")]
    Truncated {
        /// Format found in the first bytes.
        format: Format,
    },
    /// The data breaks the rules of its format.
    #[error("the {format} image is corrupt: {detail}")]
    Corrupt {
        /// Format found in the first bytes.
        format: Format,
        /// Which rule, in a few words.
        detail: &'static str,
    },
    /// The header declares more pixels than the limit; nothing was decoded.
    #[error(
        "the {width}x{height} picture has {} pixels, over the limit of {limit}",
        u64::from(*width) * u64::from(*height)
    )]
    TooManyPixels {
        /// Declared width in pixels.
        width: u32,
        /// Declared height in pixels.
        height: u32,
        /// The limit in pixels.
        limit: u64,
    },
    /// Decoding would take more memory than the limit; nothing was decoded.
    #[error(
        "decoding the {format} image would take {bytes} bytes, {bytes_per_pixel} for each pixel, over the limit of {limit}; \
         send it smaller, or as a baseline JPEG"
    )]
    TooManyBytes {
        /// Format found in the first bytes.
        format: Format,
        /// Memory for all forms that the pixels have while they are decoded.
        bytes: u64,
        /// The same for one pixel.
        bytes_per_pixel: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Decoding would cost far more memory or time than a picture of this size is worth.
    #[error("the {format} image is refused: {detail}")]
    TooCostly {
        /// Format found in the first bytes.
        format: Format,
        /// Which bound, in a few words.
        detail: &'static str,
    },
    /// A setting of the model refuses such pictures.
    #[error("{detail}")]
    Refused {
        /// What is refused and by which setting.
        detail: &'static str,
    },
}

/// Why settings do not describe a preprocessing that can be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// `preprocessor_config.json` is not a JSON object of known types.
    #[error("preprocessor_config.json cannot be read: {0}")]
    Json(String),
    /// A key has a value that cannot be honoured.
    #[error("`{key}`: {problem}; {remedy}")]
    Key {
        /// The key as it is written in the file that is at fault.
        key: String,
        /// What is wrong.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
}

impl SpecError {
    pub(super) fn key(key: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Key { key: key.into(), problem: problem.into(), remedy: remedy.into() }
    }
}
