//! Files of the demo's private folder.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::failure::{Doing, Result};

/// Writes a file that anybody may read.
pub fn write(file: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    write_with(file, content.as_ref(), 0o644)
}

/// Writes a file that only its owner may read: a key, a secret, a token.
pub fn write_private(file: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    write_with(file, content.as_ref(), 0o600)
}

/// Writes beside the file and renames, so that a reader sees the old content or the new.
fn write_with(file: &Path, content: &[u8], mode: u32) -> Result<()> {
    let beside = file.with_added_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        let mut new = options
            .create(true)
            .write(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        new.set_permissions(std::fs::Permissions::from_mode(mode))?;
        new.write_all(content)?;
        std::fs::rename(&beside, file)
    };
    write().doing(|| format!("cannot write {}", file.display()))
}

/// Makes `folder`, and its parents, so that only its owner can enter it.
pub fn private_folder(folder: &Path) -> Result<()> {
    let make = || {
        std::fs::create_dir_all(folder)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
    };
    make().doing(|| format!("cannot make {}", folder.display()))
}
