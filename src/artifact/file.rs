//! A file that is being written, and what its bytes hash to. All of it blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::{Digest as _, Md5};

use super::object::Object;

/// A file on its way to be an object's bytes.
pub(super) struct PartialFile {
    file: File,
    length: u64,
    md5: Md5,
    crc32c: Crc,
}

/// Why a finished file can't be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It has another size than the store said.
    Size(u64),
    /// Its bytes are others than those that were stored.
    Checksum(&'static str),
}

impl PartialFile {
    /// Opens it, with what an earlier attempt left there. Without a checksum to find out whether that is good, it begins
    /// anew.
    pub fn open(path: &Path, object: &Object) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path)?;
        let mut partial = Self { file, length: 0, md5: Md5::new(), crc32c: Crc::new(CrcAlgorithm::Crc32Iscsi) };
        let length = partial.file.metadata()?.len();
        if length > object.size || (object.md5.is_none() && object.crc32c.is_none()) {
            partial.file.set_len(0)?;
            return Ok(partial);
        }
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match partial.file.read(&mut buffer)? {
                0 => return Ok(partial),
                count => partial.note(&buffer[..count]),
            }
        }
    }

    /// Bytes that it has.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.note(bytes);
        Ok(())
    }

    fn note(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        self.crc32c.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// Begins anew.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.length, self.md5, self.crc32c) = (0, Md5::new(), Crc::new(CrcAlgorithm::Crc32Iscsi));
        Ok(())
    }

    /// Whether it is what the store said; `md5` is whether the store's MD5 is one of the bytes as they are sent. Then it
    /// is on the disk, too.
    pub fn finish(&mut self, object: &Object, md5: bool) -> io::Result<Result<(), Fault>> {
        if self.length != object.size {
            return Ok(Err(Fault::Size(self.length)));
        }
        let crc32c = self.crc32c.finalize();
        if object.crc32c.is_some_and(|expected| u64::from(expected) != crc32c) {
            return Ok(Err(Fault::Checksum("CRC-32C")));
        }
        let hash = self.md5.clone().finalize();
        if md5 && object.md5.is_some_and(|expected| expected[..] != hash[..]) {
            return Ok(Err(Fault::Checksum("MD5")));
        }
        self.file.sync_all().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(bytes: &[u8], md5: bool, crc32c: bool) -> Object {
        let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes);
        Object {
            name: "a".into(),
            path: "a".into(),
            size: bytes.len() as u64,
            version: None,
            md5: md5.then(|| Md5::digest(bytes).into()),
            crc32c: crc32c.then(|| u32::try_from(crc).unwrap()),
        }
    }

    #[test]
    fn checksums_are_the_published_ones() {
        // RFC 1321, A.5, and RFC 3720, B.4.
        let mut known = object(b"", true, true);
        assert_eq!(known.md5.unwrap()[..4], [0xd4, 0x1d, 0x8c, 0xd9]);
        known = object(&[0; 32], false, true);
        assert_eq!(known.crc32c, Some(0x8a91_36aa));
    }

    #[test]
    fn what_differs_is_found() {
        let root = tempfile::tempdir().unwrap();
        for (md5, crc32c, fault) in [(true, false, Some("MD5")), (true, true, Some("CRC-32C")), (false, false, None)] {
            let mut file = PartialFile::open(&root.path().join("deep/a"), &object(b"right", md5, crc32c)).unwrap();
            file.clear().unwrap();
            file.write(b"wrong").unwrap();
            let result = file.finish(&object(b"right", md5, crc32c), true).unwrap();
            assert_eq!(result.err(), fault.map(Fault::Checksum));
            let short = file.finish(&object(b"longer", md5, crc32c), true).unwrap();
            assert_eq!(short, Err(Fault::Size(5)));
        }
    }

    #[test]
    fn an_earlier_attempt_is_continued_where_it_can_be_checked() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        for (checked, kept) in [(true, 4), (false, 0)] {
            std::fs::write(&path, b"righ").unwrap();
            let object = object(b"right", checked, checked);
            let mut file = PartialFile::open(&path, &object).unwrap();
            assert_eq!(file.length(), kept);
            file.write(&b"right"[usize::try_from(kept).unwrap()..]).unwrap();
            assert_eq!(file.finish(&object, true).unwrap(), Ok(()));
            assert_eq!(std::fs::read(&path).unwrap(), b"right");
        }
    }
}
