//! Downloaded artifacts on the disk, in bounded space.
//!
//! An artifact's files lie in `KEY/bucket/prefix/`, where the key is a hash of what the store listed, so that another
//! content is another folder. While they arrive the folder is called `KEY.part`, and a process that is killed leaves what
//! it had for the next one. `KEY.lock` is locked, exclusively, by whoever fetches or removes, and shared by whoever uses
//! the files: the system gives it back however a process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::progress::Bytes;

/// The folder of all artifacts.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    root: PathBuf,
    max_bytes: u64,
}

/// Holds an artifact's files where they are.
#[derive(Debug)]
pub(super) struct Lease {
    _lock: File,
}

/// What is to be done for an artifact.
pub(super) enum Entry {
    /// Its files are here.
    Present(Lease),
    /// They are not; who has this may fetch them.
    Absent(Fetching),
    /// Somebody else is fetching them.
    Busy,
}

/// The right to fetch an artifact.
pub(super) struct Fetching {
    lock: File,
}

/// There is no room.
#[derive(Debug)]
pub(super) struct Full {
    /// Bytes that are in use, and can't be removed.
    pub used: u64,
}

impl Cache {
    /// A cache in a folder, which is made if it isn't there. `is_shared` is whether it lies where others may write, too;
    /// then nobody else may be able to write into it.
    pub fn open(root: &Path, max_bytes: u64, is_shared: bool) -> io::Result<Self> {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(root)?;
        let cache = Self { root: root.to_owned(), max_bytes };
        let lock = cache.lock_file("")?;
        if is_shared {
            is_ours(root, &lock)?;
        }
        Ok(cache)
    }

    /// The folder of all.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the files of a key lie once they are complete.
    pub fn folder(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Where they lie until then.
    pub fn partial(&self, key: &str) -> PathBuf {
        self.root.join(format!("{key}.part"))
    }

    fn lock_file(&self, key: &str) -> io::Result<File> {
        let path = self.root.join(format!("{key}.lock"));
        OpenOptions::new().create(true).truncate(false).write(true).open(path)
    }

    /// Looks for an artifact, and takes hold of it.
    pub fn enter(&self, key: &str) -> io::Result<Entry> {
        let lock = self.lock_file(key)?;
        match lock.try_lock_shared() {
            Ok(()) if self.folder(key).is_dir() => {
                lock.set_modified(SystemTime::now())?;
                return Ok(Entry::Present(Lease { _lock: lock }));
            }
            Ok(()) => lock.unlock()?,
            Err(TryLockError::WouldBlock) => return Ok(Entry::Busy),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        match lock.try_lock() {
            Ok(()) if self.folder(key).is_dir() => Ok(Entry::Busy), // Come meanwhile: the next look finds it.
            Ok(()) => Ok(Entry::Absent(Fetching { lock })),
            Err(TryLockError::WouldBlock) => Ok(Entry::Busy),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Makes room for `bytes`, removing what was not used for longest, and reserves it for as long as `fetching` lives.
    /// `key` is what they are for.
    pub fn make_room(&self, key: &str, bytes: u64, fetching: &mut Fetching) -> io::Result<Result<(), Full>> {
        // One at a time, so that none counts what another is removing.
        let all = self.lock_file("")?;
        all.lock()?;
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let of = name.strip_suffix(".part").unwrap_or(&name).to_owned();
            if entry.file_type()?.is_dir() && is_key(&of) && of != key {
                let used = std::fs::metadata(self.root.join(format!("{of}.lock"))).and_then(|lock| lock.modified());
                let size = size(&entry.path())?.max(self.reserved(&of)?);
                entries.push((used.unwrap_or(SystemTime::UNIX_EPOCH), size, of, entry.path()));
            }
        }
        entries.sort();
        let mut used: u64 = entries.iter().map(|(_, size, _, _)| size).sum();
        for (_, size, of, path) in entries {
            if used.saturating_add(bytes) <= self.max_bytes {
                break;
            }
            let lock = self.lock_file(&of)?;
            if lock.try_lock().is_err() {
                continue; // In use.
            }
            // What is partly removed must not look complete.
            let doomed = self.partial(&of);
            if path != doomed {
                if doomed.is_dir() {
                    std::fs::remove_dir_all(&doomed)?;
                }
                std::fs::rename(&path, &doomed)?;
            }
            std::fs::remove_dir_all(&doomed)?;
            used -= size;
            tracing::info!(folder = %path.display(), "removed an unused artifact of {} to make room", Bytes(size));
        }
        if used.saturating_add(bytes) > self.max_bytes {
            return Ok(Err(Full { used }));
        }
        fetching.lock.set_len(0)?;
        fetching.lock.write_all(bytes.to_string().as_bytes())?;
        std::fs::create_dir_all(self.partial(key))?;
        Ok(Ok(()))
    }

    /// The bytes that a fetch under way has reserved.
    fn reserved(&self, key: &str) -> io::Result<u64> {
        let is_fetching = matches!(self.lock_file(key)?.try_lock_shared(), Err(TryLockError::WouldBlock));
        let text = std::fs::read_to_string(self.root.join(format!("{key}.lock")))?;
        Ok(if is_fetching { text.parse().unwrap_or(0) } else { 0 })
    }

    /// Makes what was fetched complete, and lets go of it.
    pub fn publish(&self, key: &str, fetching: &Fetching) -> io::Result<()> {
        std::fs::rename(self.partial(key), self.folder(key))?;
        // The name is on the disk too, before anybody relies on it.
        File::open(&self.root)?.sync_all()?;
        fetching.lock.set_modified(SystemTime::now())
    }

    /// Remembers what lies at a URI.
    pub fn remember(&self, uri: &str, key: &str) -> io::Result<()> {
        let path = self.root.join(format!("{}.uri", key_of(&[uri])));
        let fresh = path.with_extension(format!("uri.{}", std::process::id()));
        std::fs::write(&fresh, key)?;
        std::fs::rename(fresh, path)
    }

    /// What lay at a URI when it was last fetched, if it is still here.
    pub fn remembered(&self, uri: &str) -> Option<(String, Lease)> {
        let key = std::fs::read_to_string(self.root.join(format!("{}.uri", key_of(&[uri])))).ok()?;
        match is_key(&key).then(|| self.enter(&key).ok())?? {
            Entry::Present(lease) => Some((key, lease)),
            _ => None,
        }
    }
}

/// A name for what these texts say: 32 hexadecimal digits.
pub(super) fn key_of<T: AsRef<str>>(texts: &[T]) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    for text in texts {
        hash.update(text.as_ref().as_bytes());
        hash.update(b"\n"); // No name has one.
    }
    hash.finish().as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_key(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The bytes of all files below a folder.
fn size(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}

/// Whether a folder in a place where everybody may write is this user's alone, to whom `file` belongs.
#[cfg(unix)]
fn is_ours(folder: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::symlink_metadata(folder)?;
    if metadata.is_dir() && metadata.uid() == file.metadata()?.uid() && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "others may write there; set artifacts.directory to a folder that is yours alone",
    ))
}

#[cfg(not(unix))]
fn is_ours(_: &Path, _: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: char) -> String {
        digit.to_string().repeat(32)
    }

    fn put(cache: &Cache, digit: char, bytes: usize) -> Lease {
        let key = key(digit);
        let Entry::Absent(mut fetching) = cache.enter(&key).unwrap() else { panic!("present or busy") };
        cache.make_room(&key, bytes as u64, &mut fetching).unwrap().unwrap();
        let folder = cache.partial(&key).join("bucket");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.onnx"), vec![0; bytes]).unwrap();
        cache.publish(&key, &fetching).unwrap();
        drop(fetching);
        let Entry::Present(lease) = cache.enter(&key).unwrap() else { panic!("not there") };
        lease
    }

    fn absent(cache: &Cache, digit: char) -> Fetching {
        let Entry::Absent(fetching) = cache.enter(&key(digit)).unwrap() else { panic!("present or busy") };
        fetching
    }

    fn is_present(cache: &Cache, digit: char) -> bool {
        cache.folder(&key(digit)).is_dir()
    }

    #[test]
    fn what_is_unused_for_longest_makes_room() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(&root.path().join("cache"), 100, true).unwrap();
        let lease = put(&cache, 'a', 40);
        drop(put(&cache, 'b', 30));
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(put(&cache, 'c', 30));
        assert!(matches!(cache.enter(&key('b')).unwrap(), Entry::Present(_)), "used again");
        drop(put(&cache, 'd', 20));
        assert_eq!(['a', 'b', 'c', 'd'].map(|digit| is_present(&cache, digit)), [true, true, false, true]);
        // Only what is in use may keep others out.
        let mut fetching = absent(&cache, 'e');
        assert_eq!(cache.make_room(&key('e'), 61, &mut fetching).unwrap().unwrap_err().used, 40);
        assert!(is_present(&cache, 'a') && !is_present(&cache, 'b'));
        drop(lease);
        assert!(cache.make_room(&key('e'), 80, &mut fetching).unwrap().is_ok());
        assert!(!is_present(&cache, 'a'));
        // What another fetch has reserved counts before it is there.
        let mut second = absent(&cache, 'f');
        assert_eq!(cache.make_room(&key('f'), 21, &mut second).unwrap().unwrap_err().used, 80);
        drop(fetching);
        assert!(cache.make_room(&key('f'), 21, &mut second).unwrap().is_ok());
    }

    #[test]
    fn one_fetches_and_the_others_wait() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::open(root.path(), 100, false).unwrap();
        let fetching = absent(&cache, 'a');
        assert!(matches!(cache.enter(&key('a')).unwrap(), Entry::Busy));
        drop(fetching); // As when the process is killed.
        let lease = put(&cache, 'a', 1);
        assert!(matches!(cache.enter(&key('a')).unwrap(), Entry::Present(_)));
        drop(lease);
        cache.remember("gs://bucket/a", &key('a')).unwrap();
        assert_eq!(cache.remembered("gs://bucket/a").unwrap().0, key('a'));
        assert!(cache.remembered("gs://bucket/b").is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_may_write_is_not_trusted() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::open(root.path(), 1, true).is_err());
        assert!(Cache::open(root.path(), 1, false).is_ok());
    }
}
