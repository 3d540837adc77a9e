//! A refresh token that changes with every use, kept in a file.
//!
//! Between the moment at which the issuer replaces a refresh token and the moment at which the new
//! one is on disk, a killed program has only the old one left. That moment is made as short as a
//! write can be, and never leaves half a file; what remains is the issuer's to bridge: those that
//! rotate refresh tokens let the one before be used again for a while (Auth0 calls it overlap,
//! Okta grace period, Keycloak reuse).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};

use super::client::Refreshed;
use super::{AccessToken, OAuthClient, ObtainError};
use crate::fetch::read_bounded;
use crate::verify::MAX_TOKEN;

/// How long after a failure a token that the disk did not take is tried again: a disk that was full
/// has room again at a moment that nobody tells us of, and a program that ends before has lost it.
pub(super) const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// The file of a refresh token. One program at a time has it: two would void each other's.
#[derive(Debug, Clone)]
pub struct RefreshTokenFile {
    file: Arc<Locked>,
}

#[derive(Debug)]
struct Locked {
    path: PathBuf,
    /// What the issuer gave and the disk did not take.
    unsaved: Mutex<Option<SecretString>>,
    /// Whether that is tried again every [`SAVE_AGAIN`].
    saves_again: AtomicBool,
    /// Held while this exists.
    _lock: File,
}

impl RefreshTokenFile {
    /// Claims the file at `path`, beside which `PATH.lock` is made. Its folder must be writable:
    /// most issuers replace the token whenever it is used. Whoever runs this as root leaves both files
    /// to the owner of the token; who could not is told before a token is used up.
    pub fn claim(path: PathBuf) -> io::Result<Self> {
        let lock = lock_beside(&path)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                io::Error::other("another program uses this refresh token; stop it first")
            }
            fs::TryLockError::Error(error) => error,
        })?;
        let file = Arc::new(Locked {
            path,
            unsaved: Mutex::default(),
            saves_again: AtomicBool::new(false),
            _lock: lock,
        });
        file.current()?;
        let (name, _) = successor(&file.path)?;
        fs::remove_file(name)?;
        Ok(Self { file })
    }

    /// Obtains a token, and stores the refresh token that comes with it before anything else, whatever
    /// the access token beside it is worth.
    /// Once begun it goes on to its end, even if the future is dropped.
    pub(super) async fn obtain(&self, client: &OAuthClient) -> Result<AccessToken, ObtainError> {
        let (file, client) = (self.file.clone(), client.clone());
        let exchange = tokio::spawn(async move {
            let Refreshed { token, next } = {
                let current = file.clone().blocking(Locked::current).await?;
                client.refresh(&current).await?
            };
            if let Some(next) = next {
                *file.unsaved.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
                // The access token is good all the same: what was not stored is tried again.
                if let Err(error) = file.clone().blocking(Locked::save).await {
                    tracing::error!(%error, "the new refresh token could not be stored");
                    file.save_again();
                }
            }
            token
        });
        exchange.await.unwrap_or(Err(ObtainError::Stopped))
    }
}

/// Whoever lets go of the file tries once more: at the end of a program nothing else does.
impl Drop for RefreshTokenFile {
    fn drop(&mut self) {
        if let Err(error) = self.file.save() {
            tracing::error!(%error, "the new refresh token is not stored");
        }
    }
}

impl Locked {
    async fn blocking<T: Send + 'static>(
        self: Arc<Self>,
        act: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ObtainError> {
        let path = self.path.clone();
        match tokio::task::spawn_blocking(move || act(&self)).await {
            Ok(done) => done.map_err(|error| ObtainError::file(&path, &error)),
            Err(_) => Err(ObtainError::Stopped),
        }
    }

    /// The refresh token to use next.
    fn current(&self) -> io::Result<SecretString> {
        if let Err(error) = self.save() {
            tracing::error!(%error, "the new refresh token still cannot be stored");
        }
        let unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        match &*unsaved {
            Some(token) => Ok(token.clone()),
            None => read(&self.path),
        }
    }

    /// Stores what is not stored yet: all of it or nothing, and for good. Whether there was anything.
    fn save(&self) -> io::Result<bool> {
        let mut unsaved = self.unsaved.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(token) = &*unsaved else {
            return Ok(false);
        };
        replace(&self.path, token)?;
        *unsaved = None;
        Ok(true)
    }

    /// From now on stores what is not stored yet every [`SAVE_AGAIN`], while anybody has the file.
    fn save_again(self: &Arc<Self>) {
        if self.saves_again.swap(true, Ordering::Relaxed) {
            return;
        }
        let file = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SAVE_AGAIN).await;
                let Some(file) = file.upgrade() else { return };
                // That it failed was said, and is again when the token is used.
                if let Ok(true) = file.blocking(Self::save).await {
                    tracing::info!("the new refresh token is stored now");
                }
            }
        });
    }
}

/// Reads a token from a file: visible ASCII, white space around it dropped.
pub(super) fn read(path: &Path) -> io::Result<SecretString> {
    let bytes = Zeroizing::new(read_bounded(path, MAX_TOKEN + 2)?);
    let token = bytes.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(io::Error::other("it holds no token"));
    }
    Ok(String::from_utf8_lossy(token).into_owned().into())
}

/// Replaces the file in one step, and waits until the disk has it.
fn replace(path: &Path, token: &SecretString) -> io::Result<()> {
    let (name, mut file) = successor(path)?;
    file.write_all(token.expose_secret().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&name, path)?;
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// `PATH.new`, empty, for whoever owns the file at `path`.
fn successor(path: &Path) -> io::Result<(PathBuf, File)> {
    let name = beside(path, ".new");
    // One that a killed program left may be somebody else's.
    match fs::remove_file(&name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = new_like(path, &name)?;
    Ok((name, file))
}

/// `PATH.lock`. It stays where it is: one that was removed and made anew could be locked twice.
fn lock_beside(path: &Path) -> io::Result<File> {
    let name = beside(path, ".lock");
    match File::open(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => new_like(path, &name),
        opened => opened,
    }
}

/// Makes a file with the owner, group and mode of the one at `path`. Never one that is there already,
/// nor one that a link leads to: the folder is the owner's, and this may be root.
fn new_like(path: &Path, name: &Path) -> io::Result<File> {
    let old = fs::metadata(path)?;
    let file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(name)?;
    let new = file.metadata()?;
    if new.uid() != old.uid() {
        fchown(&file, Some(old.uid()), Some(old.gid())).map_err(|error| {
            let (name, owner) = (name.display(), old.uid());
            io::Error::other(format!("{name} cannot be given to user {owner} ({error})"))
        })?;
    } else if new.gid() != old.gid() {
        // A user may give files to groups of its own alone. The file is for its owner anyway.
        let _ = fchown(&file, None, Some(old.gid()));
    }
    file.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
    Ok(file)
}

/// `PATHsuffix`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}
