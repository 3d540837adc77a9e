//! Files that programs read: whether they have changed since.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Tells one content of a file from the next; of where symbolic links lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: there is no such file, or it cannot be looked at.
    pub fn of(file: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Files that are read together, and again when one of them changes.
#[derive(Debug)]
pub struct Watched {
    files: Vec<PathBuf>,
    seen: Mutex<Vec<Option<Stamp>>>,
}

impl Watched {
    /// Looks at them. Do so before they are read: what changes meanwhile is noticed at the next look.
    pub fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files: Vec<_> = files.into_iter().collect();
        let seen = Mutex::new(stamps(&files));
        Self { files, seen }
    }

    /// Whether they are to be read again: because they are others than at the last look, or because it
    /// is `asked` for. Where there are none, never. Blocks.
    pub fn are_due(&self, asked: bool) -> bool {
        let now = stamps(&self.files);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let have_changed = *seen != now;
        *seen = now;
        have_changed || asked && !self.files.is_empty()
    }
}

/// Their names, for the log.
impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, file) in self.files.iter().enumerate() {
            let between = if number == 0 { "" } else { ", " };
            write!(f, "{between}{}", file.display())?;
        }
        Ok(())
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|file| Stamp::of(file)).collect()
}

/// A program's configuration file, which is read at its start and never again.
#[derive(Debug)]
pub struct ReadOnce {
    file: PathBuf,
    read: Option<Stamp>,
    content: Option<u64>,
}

impl ReadOnce {
    /// Looks at it. Do so before it is read.
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            read: Stamp::of(file),
            content: content(file),
        }
    }

    /// Warns where it says something else than was read: for whoever asks for files to be read again, and
    /// may think that this is among them. Blocks.
    pub fn warn_if_changed(&self) {
        if self.has_changed() {
            tracing::warn!(
                file = %self.file.display(),
                "the configuration file has changed since the start, and is not read again: a change of \
                 it takes a restart"
            );
        }
    }

    /// A file that was written anew with the same words, or changed and changed back, has not.
    fn has_changed(&self) -> bool {
        let may_have = Stamp::of(&self.file) != self.read;
        may_have && (self.content.is_none() || content(&self.file) != self.content)
    }
}

/// Tells one content of a file from another. `None`: it cannot be read, or only once, as a pipe.
fn content(file: &Path) -> Option<u64> {
    if !std::fs::metadata(file).ok()?.is_file() {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    std::fs::read(file).ok()?.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_has_changed_where_it_says_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.toml");
        fs::write(&file, "node = 1").unwrap();
        let read = ReadOnce::new(&file);
        let anew = |text: &str| {
            // As an editor does: another file in its place.
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &file).unwrap();
        };
        assert!(!read.has_changed());
        for (text, changed) in [
            ("node = 2", true),
            ("node = 1", false),
            ("", true),
            ("node = 1", false),
        ] {
            anew(text);
            assert_eq!(read.has_changed(), changed, "{text:?}");
        }
        fs::remove_file(&file).unwrap();
        assert!(read.has_changed(), "it is gone");
        anew("node = 1");
        assert!(!read.has_changed());
    }
}
