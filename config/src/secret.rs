//! Secrets from files, systemd credentials or the environment; never from flags.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::{SecretString, zeroize::Zeroize};

/// Largest secret file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// Reads a secret that `written` names, beside the configuration file or, where no such file
/// exists, in the folder of systemd credentials (`systemd.exec(5)`, `LoadCredential=`).
///
/// A file that others than its owner may read or write is refused, except among systemd
/// credentials, whose folder systemd itself protects. One trailing line break is dropped.
pub(crate) fn read(path: &Path, written: &Path) -> Result<SecretString, String> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY")
        .map(|folder| PathBuf::from(folder).join(written))
        .filter(|candidate| !path.exists() && written.is_relative() && candidate.exists());
    let (path, private) = match &credential {
        Some(credential) => (credential.as_path(), false),
        None => (path, true),
    };
    let unreadable = |error| format!("cannot read the secret file {} ({error})", path.display());
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    if private && mode & 0o077 != 0 {
        return Err(format!(
            "the secret file {} has mode {mode:03o}; expected one that only its owner may use \
             (chmod 600 {})",
            path.display(),
            path.display()
        ));
    }
    if metadata.len() > MAX_SECRET {
        return Err(format!(
            "the secret file {} is larger than {MAX_SECRET} bytes",
            path.display()
        ));
    }
    let mut text = std::fs::read_to_string(path).map_err(unreadable)?;
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    if secret.is_empty() {
        return Err(format!("the secret file {} is empty", path.display()));
    }
    let secret = SecretString::from(secret);
    text.zeroize();
    Ok(secret)
}
