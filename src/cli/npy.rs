//! NumPy's file format, version 1.0 (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes float32 values in row-major order.
pub fn write(path: &Path, shape: &[usize], values: &[f32]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&header(shape))?;
    for value in values {
        file.write_all(&value.to_le_bytes())?;
    }
    file.flush()
}

fn header(shape: &[usize]) -> Vec<u8> {
    const MAGIC: &[u8; 8] = b"\x93NUMPY\x01\x00";
    let axes: String = shape.iter().map(|length| format!("{length}, ")).collect();
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({axes}), }}");
    // With the magic and the length, the header must be a multiple of 64 bytes and end in a newline.
    let used = MAGIC.len() + 2 + text.len() + 1;
    text.push_str(&" ".repeat(used.next_multiple_of(64) - used));
    text.push('\n');
    // A shape of a few axes is far below 65,535 bytes.
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    [MAGIC, &length[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_aligned_and_says_the_shape() {
        let header = header(&[1, 3, 224, 224]);
        assert_eq!(header.len() % 64, 0);
        let text = String::from_utf8_lossy(&header[10..]).into_owned();
        assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3, 224, 224, ), }"), "{text}");
        assert!(text.ends_with('\n'));
    }
}
