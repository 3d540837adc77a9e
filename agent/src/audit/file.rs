//! The audit log as files: appended to, rotated by size, and taken up again after a restart.
//!
//! `FILE` is written, `FILE.1` is the one before, up to `FILE.KEEP`. `FILE.head` holds number and
//! hash of the last line that is safely on the disk, and is locked: two agents do not share a log.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use culvert_config::audit::MAX_KEEP;

use super::chain::{Hash, Head, Sealed};

/// Longest end of a file that is read for its last whole line: a multiple of the longest line.
const TAIL: u64 = 1024 * 1024;

/// Log files that are written.
#[derive(Debug)]
pub(crate) struct LogFiles {
    path: PathBuf,
    max_size: u64,
    keep: u32,
    file: File,
    /// Bytes of whole lines.
    size: u64,
    identity: (u64, u64),
    note: File,
}

/// Where a log goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resumed {
    pub(crate) head: Head,
    /// A crash left half a line.
    pub(crate) torn: bool,
    /// Lines that were safely written and are gone.
    pub(crate) missing: u64,
}

impl LogFiles {
    /// Opens or makes the file, and finds where its chain goes on.
    pub(crate) fn open(path: &Path, max_size: u64, keep: u32) -> io::Result<(Self, Resumed)> {
        let note = writable().open(beside(path, "head"))?;
        match note.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process writes this audit log"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let noted = read_note(&note)?.unwrap_or(Head::NONE);
        let (file, identity) = open_log(path)?;
        let end = End::of(&file)?;
        let resumed = match end.head {
            Some(head) => Resumed {
                head: if head.seq < noted.seq { noted } else { head },
                torn: end.torn,
                missing: noted.seq.saturating_sub(head.seq),
            },
            // An empty file: another program has moved the old one.
            None => Resumed {
                head: noted,
                torn: end.torn,
                missing: 0,
            },
        };
        let mut files = Self {
            path: path.to_owned(),
            max_size,
            keep,
            file,
            size: end.size,
            identity,
            note,
        };
        if end.unended {
            files.append(b"\n")?;
        }
        Ok((files, resumed))
    }

    /// Appends whole lines: all of them, or none.
    pub(crate) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(lines) {
            // What a full disk took of them goes again, so that no half line stays.
            let _ = self.file.set_len(self.size);
            return Err(error);
        }
        self.size += lines.len() as u64;
        Ok(())
    }

    /// Whether the next file is due.
    pub(crate) fn is_full(&self) -> bool {
        self.size >= self.max_size
    }

    /// Whether the file is no longer the one at its path, or has lost what stood in it: another program
    /// has moved or emptied it.
    pub(crate) fn has_moved(&self) -> bool {
        let is_same = |found: Metadata| {
            (found.dev(), found.ino()) == self.identity && found.len() >= self.size
        };
        !std::fs::metadata(&self.path).is_ok_and(is_same)
    }

    /// Moves the file to the first number, so that [`reopen`](Self::reopen) begins the next one. The
    /// older ones move up no further than to the first number that is free: where the file itself cannot
    /// be moved, trying again and again costs none of them.
    pub(crate) fn move_up(&self) -> io::Result<()> {
        let free = (1..self.keep).find(|number| !self.numbered(*number).exists());
        for number in (1..free.unwrap_or(self.keep)).rev() {
            rename(&self.numbered(number), &self.numbered(number + 1))?;
        }
        rename(&self.path, &self.numbered(1))?;
        // Where fewer are kept than before, the others would stay for ever, and be taken for the ones
        // before if more are kept again. One that cannot be removed is tried again the next time.
        for number in self.keep + 1..=MAX_KEEP {
            let _ = std::fs::remove_file(self.numbered(number));
        }
        Ok(())
    }

    /// Opens the file at the path, whatever has become of the old one.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let (file, identity) = open_log(&self.path)?;
        self.size = file.metadata()?.len();
        (self.file, self.identity) = (file, identity);
        Ok(())
    }

    /// Brings everything to the disk, and then notes that it is there.
    pub(crate) fn sync(&mut self, head: Head) -> io::Result<()> {
        self.file.sync_data()?;
        // The same length each time, in place: it needs no room on a full disk.
        let note = format!("{:020} {}\n", head.seq, head.hash);
        self.note.write_all_at(note.as_bytes(), 0)
    }

    fn numbered(&self, number: u32) -> PathBuf {
        beside(&self.path, &number.to_string())
    }
}

/// Every file of a log, open and oldest first.
pub(crate) type AllFiles = Vec<(PathBuf, File)>;

/// How often the files of a log are opened anew because it was rotated meanwhile, and the pause before.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// What was noted beside a log: number and hash of its last line.
pub(crate) fn noted(path: &Path) -> io::Result<Option<Head>> {
    match found(File::open(beside(path, "head")))? {
        Some(note) => read_note(&note),
        None => Ok(None),
    }
}

/// Opens every file of a log, and reads what was noted beside it. The log may be written, and rotated,
/// at the same time.
pub(crate) fn all(path: &Path, keep: u32) -> io::Result<(AllFiles, Option<Head>)> {
    for _ in 0..TRIES {
        // First the note: what is written meanwhile is behind it.
        let noted = noted(path)?;
        let files = open_all(path, keep)?;
        let is_all = |files: &AllFiles| {
            // A name that was free when its turn came may have been given since.
            let there = names(path, keep).filter(|name| name.exists()).count();
            files.len() == there && files.iter().all(is_in_place)
        };
        if files.last().is_some_and(|(last, _)| last == path) && is_all(&files) {
            return Ok((files, noted));
        }
        sleep(PAUSE);
    }
    // It is not there, or says why it cannot be opened.
    File::open(path)?;
    Err(io::Error::other(
        "the log is rotated faster than its files can be opened",
    ))
}

fn open_all(path: &Path, keep: u32) -> io::Result<AllFiles> {
    let mut files = Vec::new();
    for file in names(path, keep) {
        if let Some(open) = found(File::open(&file))? {
            files.push((file, open));
        }
    }
    Ok(files)
}

/// Names that files of a log may have, oldest first.
fn names(path: &Path, keep: u32) -> impl Iterator<Item = PathBuf> {
    let numbered = (1..=keep).rev();
    let numbered = numbered.map(|number| beside(path, &number.to_string()));
    numbered.chain([path.to_owned()])
}

/// Whether a file is still the one that its name leads to.
fn is_in_place((path, file): &(PathBuf, File)) -> bool {
    let opened = file.metadata().map(|found| (found.dev(), found.ino()));
    opened.is_ok_and(|opened| identity(path) == Some(opened))
}

/// `None` for what is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// `FILE.suffix`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    name.into()
}

fn writable() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).create(true).mode(0o600);
    options
}

fn open_log(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = writable().append(true).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((file, (metadata.dev(), metadata.ino())))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    found(std::fs::rename(from, to)).map(|_| ())
}

fn read_note(note: &File) -> io::Result<Option<Head>> {
    let mut text = [0; 128];
    let length = note.read_at(&mut text, 0)?;
    let text = String::from_utf8_lossy(&text[..length]);
    let mut words = text.split_ascii_whitespace();
    let seq = words.next().and_then(|word| word.parse().ok());
    let hash = words.next().and_then(|word| Hash::parse(word.as_bytes()));
    Ok(seq.zip(hash).map(|(seq, hash)| Head { seq, hash }))
}

/// What the end of a file says.
struct End {
    size: u64,
    /// Of the last whole line; `None` where there is none.
    head: Option<Head>,
    /// Behind it is half a line.
    torn: bool,
    /// The last line, whole or not, has no end.
    unended: bool,
}

impl End {
    fn of(mut file: &File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.take(TAIL).read_to_end(&mut tail)?;
        let unended = tail.last().is_some_and(|last| *last != b'\n');
        let lines = tail.strip_suffix(b"\n").unwrap_or(&tail);
        let mut lines = lines
            .rsplit(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let mut torn = false;
        let head = lines.find_map(|line| {
            let sealed = Sealed::parse(line);
            torn |= sealed.is_none();
            sealed.map(|sealed| sealed.head)
        });
        Ok(Self {
            size,
            head,
            torn,
            unended,
        })
    }
}
