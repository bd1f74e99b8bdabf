//! The C decoder (libjpeg-turbo as mozjpeg ships it) behind a safe face, row by row.
//!
//! The library reports an error by a callback that must not return. Ours unwinds to the call that it came from, through
//! C frames that are compiled for it (`-fexceptions`, the feature `unwinding`) and declared so (`C-unwind`).

#![allow(unsafe_code)]

use super::super::error::ImageError;
use super::super::spec::JpegDct;
use super::markers::Outline;
use super::{corrupt, divided, scans_allowed, too_many_scans, truncated};
use mozjpeg_sys::*;
use std::ffi::{c_int, c_ulong};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

/// Memory for each pixel, in bytes, besides what is asked for and a picture's coefficients.
pub(super) const SAMPLES: u64 = 0;

/// Rows that one call asks for; it gives as many as the decoder has ready, one or two mostly.
const ROWS_A_CALL: usize = 8;

/// The rows of a picture that is being decoded.
pub(crate) struct Rows<'a> {
    /// From `Box::into_raw`: the C structures point at each other, so that they must not be moved or borrowed as a whole.
    state: NonNull<State>,
    /// Bytes of a row of the result.
    stride: usize,
    rows_left: usize,
    /// The state reads from the bytes.
    _borrowed: PhantomData<&'a [u8]>,
}

struct State {
    decoder: jpeg_decompress_struct,
    errors: Errors,
    progress: Progress,
}

/// What `decoder.common.err` points at: the library's part comes first, so that a callback finds the rest behind it.
#[repr(C)]
struct Errors {
    manager: jpeg_error_mgr,
    /// Whether the data ended before the picture did.
    premature_end: bool,
}

/// What `decoder.common.progress` points at, likewise.
#[repr(C)]
struct Progress {
    manager: jpeg_progress_mgr,
    scans_allowed: c_int,
    /// Whether the picture has more.
    exceeded: bool,
}

/// What [`fail`] and [`limit_scans`] unwind with.
struct Failed;

/// Gives a way out of the library where it can't go on.
unsafe extern "C-unwind" fn fail(_: &mut jpeg_common_struct) {
    // Not `panic!`: nobody is to read of it.
    resume_unwind(Box::new(Failed));
}

/// Counts warnings, which have negative levels, and prints nothing.
unsafe extern "C-unwind" fn note(decoder: &mut jpeg_common_struct, level: c_int) {
    if level < 0 {
        // SAFETY: the only error managers that have this callback are those inside `Errors`.
        let errors = unsafe { &mut *decoder.err.cast::<Errors>() };
        errors.manager.num_warnings += 1;
        errors.premature_end |= errors.manager.msg_code == JWRN_JPEG_EOF as c_int;
    }
}

/// Ends the decoding of a picture with too many scans.
///
/// It takes a pointer where the library's declaration has a reference, as it looks beyond the structure that this would be
/// to.
unsafe extern "C-unwind" fn limit_scans(decoder: *mut jpeg_common_struct) {
    // SAFETY: the only ones that have this callback are the decompressors inside `State`, which begin with this structure
    // and whose progress is the one beside them. The library gives the pointer to the whole of it.
    unsafe {
        let progress = (*decoder).progress.cast::<Progress>();
        if (*decoder.cast::<jpeg_decompress_struct>()).input_scan_number > (*progress).scans_allowed {
            (*progress).exceeded = true;
            resume_unwind(Box::new(Failed));
        }
    }
}

impl<'a> Rows<'a> {
    /// Reads the headers of the picture that `outline` describes, to decode it at its size divided by 1, 2, 4 or 8 and
    /// rounded up, to `channels` bytes a pixel: 3 (RGB) or 4 (CMYK as stored).
    pub fn begin(
        bytes: &'a [u8],
        outline: &Outline<'a>,
        dct: JpegDct,
        divisor: usize,
        channels: usize,
    ) -> Result<Self, ImageError> {
        let (width, height) = divided(outline, divisor);
        let size = c_ulong::try_from(bytes.len()).map_err(|_| corrupt("it is too long"))?;
        // SAFETY: all are C structures of numbers, pointers, enumerations with a zero, and optional functions.
        let state = Box::new(unsafe { std::mem::zeroed::<State>() });
        // SAFETY: a pointer from `Box::into_raw` is not null.
        let state = unsafe { NonNull::new_unchecked(Box::into_raw(state)) };
        let mut rows = Self { state, stride: width * channels, rows_left: height, _borrowed: PhantomData };
        // From here on `rows` destroys the state, which may be done at any time after it was zeroed.
        let scale = divisor as u32;
        let scans_allowed = scans_allowed(outline) as c_int;
        rows.call(|state| {
            // SAFETY: the state lives as long as `rows` and stays where it is, so that the structures may point at each
            // other; they are used by this thread alone. The input is read within `size` bytes, and outlives `rows`.
            unsafe {
                let decoder = &raw mut (*state).decoder;
                let errors = &raw mut (*state).errors;
                jpeg_std_error(&mut (*errors).manager);
                (*errors).manager.error_exit = Some(fail);
                (*errors).manager.emit_message = Some(note);
                (*decoder).common.err = errors.cast();
                jpeg_create_decompress(decoder);
                let progress = &raw mut (*state).progress;
                (*progress).scans_allowed = scans_allowed;
                // A function of a pointer may be called as one of a reference: both are passed alike.
                (*progress).manager.progress_monitor = Some(std::mem::transmute::<
                    unsafe extern "C-unwind" fn(*mut jpeg_common_struct),
                    unsafe extern "C-unwind" fn(&mut jpeg_common_struct),
                >(limit_scans));
                (*decoder).common.progress = progress.cast();
                jpeg_mem_src(&mut *decoder, bytes.as_ptr(), size);
                jpeg_read_header(&mut *decoder, 1);
            }
        })?;
        // SAFETY: the state is live.
        let decoder = unsafe { &mut (*state.as_ptr()).decoder };
        // The limits that were kept are those of the picture that `outline` describes.
        // SAFETY: its headers have been read.
        let multiple_scans = unsafe { jpeg_has_multiple_scans(decoder) } != 0;
        if (decoder.image_width, decoder.image_height) != (outline.width, outline.height)
            || decoder.num_components != c_int::from(outline.components)
            || multiple_scans != outline.multiple_scans
        {
            return Err(misread());
        }
        decoder.out_color_space = if channels == 4 { J_COLOR_SPACE::JCS_CMYK } else { J_COLOR_SPACE::JCS_RGB };
        decoder.dct_method = match dct {
            JpegDct::Ifast => J_DCT_METHOD::JDCT_IFAST,
            JpegDct::Islow => J_DCT_METHOD::JDCT_ISLOW,
        };
        (decoder.scale_num, decoder.scale_denom) = (1, scale);
        let started = rows.call(|state| {
            // SAFETY: the state is live, and its headers have been read.
            unsafe { jpeg_start_decompress(&mut (*state).decoder) }
        })?;
        // SAFETY: the state is live.
        let decoder = unsafe { &(*state.as_ptr()).decoder };
        let found = (decoder.output_width as usize, decoder.output_height as usize, decoder.output_components as usize);
        if started == 0 || found != (width, height, channels) {
            return Err(misread());
        }
        Ok(rows)
    }

    /// Decodes the next rows, as many as `out` holds; with the last of the picture, its end is looked at too.
    ///
    /// # Panics
    /// If `out` isn't a whole number of rows, or they are more than are left.
    pub fn read(&mut self, out: &mut [u8]) -> Result<(), ImageError> {
        let count = out.len() / self.stride;
        assert!(count * self.stride == out.len() && count <= self.rows_left);
        let stride = self.stride;
        let mut done = 0;
        while done < count {
            let asked = (count - done).min(ROWS_A_CALL);
            let wanted = &mut out[done * stride..][..asked * stride];
            let mut rows = [std::ptr::null_mut(); ROWS_A_CALL];
            for (row, start) in rows.iter_mut().zip(wanted.chunks_exact_mut(stride)) {
                *row = start.as_mut_ptr();
            }
            let read = self.call(|state| {
                // SAFETY: decompression has been started. A row has as many bytes as `begin` found the decoder to write,
                // and it writes `asked` rows at most.
                unsafe { jpeg_read_scanlines(&mut (*state).decoder, rows.as_mut_ptr(), asked as u32) }
            })?;
            if read == 0 {
                return Err(corrupt("its data cannot be decoded"));
            }
            done += read as usize;
        }
        self.rows_left -= count;
        if self.rows_left > 0 {
            return Ok(());
        }
        self.call(|state| {
            // SAFETY: decompression has been started and all rows are read.
            unsafe { jpeg_finish_decompress(&mut (*state).decoder) }
        })?;
        // It returns at an end marker, one that is missing being made up with a warning.
        // SAFETY: the state is live.
        match unsafe { (*self.state.as_ptr()).errors.premature_end } {
            true => Err(truncated()),
            false => Ok(()),
        }
    }

    /// Calls into the library, and says what is wrong with the file where that does not come back.
    fn call<T>(&mut self, run: impl FnOnce(*mut State) -> T) -> Result<T, ImageError> {
        let state = self.state.as_ptr();
        // What is left half done is not used again, only destroyed, which the library allows.
        catch_unwind(AssertUnwindSafe(|| run(state))).map_err(|_| {
            // SAFETY: the state is live.
            match unsafe { ((*state).progress.exceeded, (*state).errors.premature_end) } {
                (true, _) => too_many_scans(),
                (_, true) => truncated(),
                _ => corrupt("its data cannot be decoded"),
            }
        })
    }
}

/// The decoder reads something else from the headers than we do.
fn misread() -> ImageError {
    corrupt("its headers cannot be read")
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        let state = self.state.as_ptr();
        // SAFETY: made by `Box::into_raw` and not used afterwards. Destroying is allowed at any time, and does nothing to a
        // structure of zeros.
        unsafe {
            jpeg_destroy_decompress(&mut (*state).decoder);
            drop(Box::from_raw(state));
        }
    }
}
