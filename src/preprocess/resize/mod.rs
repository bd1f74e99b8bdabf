//! The resamplers of the three references, each to the last bit.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_bilinear;
pub(super) mod convolution;
pub(super) mod nearest;
pub(super) mod taps;
pub(super) mod tensorflow;
