//! The C decoder (libjpeg-turbo as mozjpeg ships it) behind a safe face.
//!
//! Its TurboJPEG interface reports errors by return value, so nothing unwinds through C.

#![allow(unsafe_code)]

use super::super::error::ImageError;
use super::super::spec::JpegDct;
use super::markers::Outline;
use super::{corrupt, divided, ends_early, truncated};
use std::ffi::{CStr, c_char, c_int, c_uchar, c_ulong, c_void};
use std::ptr::NonNull;

// The crate is linked for its C objects; it declares libjpeg's interface but not TurboJPEG's.
use mozjpeg_sys as _;

// turbojpeg.h, version 2.
unsafe extern "C" {
    fn tjInitDecompress() -> *mut c_void;
    fn tjDecompressHeader3(
        handle: *mut c_void,
        jpeg: *const c_uchar,
        size: c_ulong,
        width: *mut c_int,
        height: *mut c_int,
        subsampling: *mut c_int,
        colour_space: *mut c_int,
    ) -> c_int;
    fn tjDecompress2(
        handle: *mut c_void,
        jpeg: *const c_uchar,
        size: c_ulong,
        out: *mut c_uchar,
        width: c_int,
        pitch: c_int,
        height: c_int,
        pixel_format: c_int,
        flags: c_int,
    ) -> c_int;
    fn tjGetErrorStr2(handle: *mut c_void) -> *const c_char;
    fn tjGetErrorCode(handle: *mut c_void) -> c_int;
    fn tjDestroy(handle: *mut c_void) -> c_int;
}

const TJPF_RGB: c_int = 0;
const TJPF_CMYK: c_int = 11;
const TJFLAG_FASTDCT: c_int = 2048;
const TJFLAG_ACCURATEDCT: c_int = 4096;
const TJFLAG_LIMITSCANS: c_int = 32768;
const TJERR_WARNING: c_int = 0;

/// A decompressor, used by one thread at a time and for any number of pictures.
pub(crate) struct Decoder {
    handle: Option<NonNull<c_void>>,
}

impl Decoder {
    /// Makes a decoder; the C side is allocated at its first use.
    pub const fn new() -> Self {
        Self { handle: None }
    }

    fn handle(&mut self) -> Result<NonNull<c_void>, ImageError> {
        if let Some(handle) = self.handle {
            return Ok(handle);
        }
        // SAFETY: takes no arguments; null, its only failure, is checked.
        let handle = NonNull::new(unsafe { tjInitDecompress() }).ok_or_else(|| corrupt("no memory for the decoder"))?;
        self.handle = Some(handle);
        Ok(handle)
    }

    /// Decodes to `channels` bytes a pixel: 3 (RGB) or 4 (CMYK as stored), rows without padding.
    /// `out` has room for exactly the picture that `outline` describes, at its size divided by 1, 2, 4 or 8 and rounded up.
    pub fn decode(
        &mut self,
        bytes: &[u8],
        outline: &Outline<'_>,
        dct: JpegDct,
        divisor: usize,
        channels: usize,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let (width, height) = divided(outline, divisor);
        assert_eq!(out.len(), width * height * channels);
        let size = c_ulong::try_from(bytes.len()).map_err(|_| corrupt("it is too long"))?;
        let handle = self.handle()?.as_ptr();
        self.check_dimensions(bytes, outline)?;
        let flags = TJFLAG_LIMITSCANS
            | match dct {
                JpegDct::Ifast => TJFLAG_FASTDCT,
                JpegDct::Islow => TJFLAG_ACCURATEDCT,
            };
        // Both are below 65,536: no conversion can wrap.
        let (w, h) = (width as c_int, height as c_int);
        // SAFETY: `handle` is live and, as `self` is borrowed mutably, used by nobody else. The
        // input is read within `size` bytes. The decoder takes the largest of its scales, which are
        // eighths, whose picture is at most w x h, or fails, whatever the data says, and starts rows
        // `pitch` bytes apart, so it writes within `out` by the assertion above.
        let status = unsafe {
            tjDecompress2(
                handle,
                bytes.as_ptr(),
                size,
                out.as_mut_ptr(),
                w,
                w * channels as c_int,
                h,
                if channels == 4 { TJPF_CMYK } else { TJPF_RGB },
                flags,
            )
        };
        if status == 0 {
            return Ok(());
        }
        let (code, message) = self.last_error(handle);
        // Only the first warning is reported, so that any other one hides a missing end.
        if message.starts_with("Premature end") || ends_early(bytes, outline) {
            Err(truncated())
        } else if code == TJERR_WARNING {
            Ok(())
        } else {
            Err(corrupt("its data cannot be decoded"))
        }
    }

    /// The decoder skips to a size that fits if the data disagrees with our reading of the header;
    /// its own reading must be the same.
    fn check_dimensions(&mut self, bytes: &[u8], outline: &Outline<'_>) -> Result<(), ImageError> {
        let handle = self.handle()?.as_ptr();
        let (mut w, mut h, mut subsampling, mut space) = (0, 0, 0, 0);
        // SAFETY: `handle` is live and used by nobody else; the input is read within its length,
        // which the caller has converted already; the four results are live locals.
        unsafe {
            tjDecompressHeader3(
                handle,
                bytes.as_ptr(),
                bytes.len() as c_ulong,
                &mut w,
                &mut h,
                &mut subsampling,
                &mut space,
            );
        }
        // The status is of no interest: an unusual subsampling is an error to this call alone, and
        // any other failure leaves the sizes at zero or comes again with decoding.
        if (w, h) == (outline.width as c_int, outline.height as c_int) {
            Ok(())
        } else if ends_early(bytes, outline) {
            Err(truncated())
        } else {
            Err(corrupt("its headers cannot be read"))
        }
    }

    fn last_error(&self, handle: *mut c_void) -> (c_int, String) {
        // SAFETY: `handle` is live; the message is a string that ends with zero inside the handle
        // or in thread-local storage, copied before anything else is called.
        unsafe {
            let message = CStr::from_ptr(tjGetErrorStr2(handle));
            (tjGetErrorCode(handle), message.to_string_lossy().into_owned())
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            // SAFETY: made by `tjInitDecompress`, destroyed once, not used afterwards.
            unsafe { tjDestroy(handle.as_ptr()) };
        }
    }
}
