//! Secrets from files, systemd credentials or the environment; never from flags.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::{SecretString, zeroize::Zeroize};

/// Largest secret file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// Reads a secret: the systemd credential that `written` names (`systemd.exec(5)`,
/// `LoadCredential=`), or else the file at `path`.
///
/// A file that others than its owner may read or write is refused, except among systemd
/// credentials, whose folder systemd itself protects. One trailing line break is dropped.
pub fn read(path: &Path, written: &Path) -> Result<SecretString, String> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    read_from(folder.as_deref(), path, written)
}

fn read_from(
    credentials: Option<&Path>,
    path: &Path,
    written: &Path,
) -> Result<SecretString, String> {
    let credential = credentials
        .filter(|_| written.is_relative())
        .map(|folder| folder.join(written))
        .filter(|credential| credential.exists());
    let (path, private) = match &credential {
        Some(credential) => (credential.as_path(), false),
        None => (path, true),
    };
    let unreadable = |error| format!("cannot read the secret file {} ({error})", path.display());
    if private {
        check_private(path)?;
    }
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
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

/// Refuses a secret file that others than its owner may read or write, or that is not there.
pub(crate) fn check_private(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| format!("cannot read the secret file {} ({error})", path.display()))?;
    // Whoever followed the advice below would lock a folder.
    if metadata.is_dir() {
        return Err(format!(
            "{} is a folder; expected the file with the secret",
            path.display()
        ));
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(format!(
        "the secret file {} has mode {mode:03o}; expected one that only its owner may use (chmod 600 \
         {})",
        path.display(),
        path.display()
    ))
}

/// What stands for a secret where a configuration is shown.
pub(crate) const MASK: &str = "***";

/// Shows that there is a secret.
pub(crate) fn masked<S: serde::Serializer>(
    _: &SecretString,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(MASK)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_systemd_credential_goes_before_the_file_of_its_name() {
        let credentials = tempfile::tempdir().unwrap();
        fs::write(credentials.path().join("secret"), "from systemd\n").unwrap();
        let beside = tempfile::tempdir().unwrap();
        let file = beside.path().join("secret");
        fs::write(&file, "from the file").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let read = |credentials| {
            let secret = read_from(credentials, &file, Path::new("secret")).unwrap();
            secret.expose_secret().to_owned()
        };
        assert_eq!(read(Some(credentials.path())), "from systemd");
        assert_eq!(read(None), "from the file");
        assert_eq!(
            read(Some(beside.path().join("nothing").as_path())),
            "from the file"
        );
    }

    #[test]
    fn nobody_is_told_to_change_the_mode_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = check_private(folder.path()).unwrap_err();
        assert!(
            error.ends_with("is a folder; expected the file with the secret"),
            "{error}"
        );
    }
}
