//! Ids that nobody chose.

/// Digits for a name that stay the same on every replica and at every start: FNV-1a of 64 bits over the parts, each
/// followed by a zero byte, without its top bit (<https://www.rfc-editor.org/rfc/rfc9923>).
pub fn derived_id(parts: &[&str]) -> String {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    (hash(bytes) >> 1).to_string()
}

/// FNV-1a of 64 bits.
pub(crate) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.into_iter().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_change() {
        // A replica of another version must agree, so the numbers are written down here.
        assert_eq!(derived_id(&["imagenet", "imagenet", "1"]), "6575649372186166602");
        assert_ne!(derived_id(&["ab", "c"]), derived_id(&["a", "bc"]));
    }
}
