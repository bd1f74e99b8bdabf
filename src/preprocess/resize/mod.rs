//! The resamplers of the three references, each to the last bit.

pub(super) mod convolution;
pub(super) mod nearest;
pub(super) mod taps;
pub(super) mod tensorflow;
