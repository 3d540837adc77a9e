//! Files that a report goes to: whole, or as they were before.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::load::Failure;

/// A file that can be written, as was seen before anything was measured.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    /// Takes the file's place when it is whole. `None`: it is a pipe or a terminal.
    new: Option<NamedTempFile>,
}

impl Output {
    /// Makes sure that there can be such a file. What is there stays until [`write`](Self::write).
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let failed = |error| format!("{}: {error}", path.display());
        // A link stays one.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()).into());
        }
        let new = if path.exists() && !path.is_file() {
            None
        } else {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let mut new = tempfile::Builder::new();
            // As of any file that a program writes: the umask takes from it.
            new.permissions(Permissions::from_mode(0o666));
            let new = new.tempfile_in(folder.unwrap_or(Path::new(".")));
            Some(new.map_err(failed)?)
        };
        Ok(Self { path, new })
    }

    /// Writes it.
    pub fn write(self, text: &str) -> Result<(), Failure> {
        let Self { path, new } = self;
        let written = match new {
            None => fs::write(&path, text),
            Some(mut new) => new
                .write_all(text.as_bytes())
                .and_then(|()| new.persist(&path).map_err(|error| error.error))
                .map(drop),
        };
        written.map_err(|error| format!("{}: {error}", path.display()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_said_before_and_what_is_there_stays_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let there = |name: &str| folder.path().join(name);
        for wrong in [there("none/x.json"), folder.path().to_owned()] {
            Output::create(&wrong).unwrap_err();
        }
        fs::write(there("base.json"), "old").unwrap();
        drop(Output::create(&there("base.json")).unwrap());
        assert_eq!(fs::read_to_string(there("base.json")).unwrap(), "old");
        let output = Output::create(&there("base.json")).unwrap();
        output.write("new").unwrap();
        assert_eq!(fs::read_to_string(there("base.json")).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = Output::create(Path::new("/dev/full")).unwrap();
        assert!(error.write("x").is_err());
    }
}
