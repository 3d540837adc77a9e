//! The admin listener: a loopback address, or a socket in the file system.

use std::convert::Infallible;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use culvert_config::agent_admin::{AgentAdmin, DEFAULT_ADMIN};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Desk;

/// Connections at once; more wait in the kernel.
const CONNECTIONS: usize = 64;

/// How long a request's head may take, or an idle connection stay.
const HEAD: Duration = Duration::from_secs(10);

/// How long a connection may last: nobody needs one for longer, and none stays stuck.
const CONNECTION: Duration = Duration::from_secs(120);

/// Rest after an error of accept(2).
const REST: Duration = Duration::from_millis(100);

/// Who may write to the socket: its owner and group.
const MODE: u32 = 0o660;

/// The admin listener.
pub(crate) struct Admin {
    socket: Option<Socket>,
    desk: Arc<Desk>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address} ({error})")]
pub(crate) struct AdminError {
    key: &'static str,
    address: String,
    error: io::Error,
}

impl Admin {
    /// Binds the address. One that nobody asked for may be taken: another agent's, say; that is
    /// said, and the agent runs without.
    pub(crate) async fn bind(address: &AgentAdmin, desk: Desk) -> Result<Self, AdminError> {
        let desk = Arc::new(desk);
        let socket = match address {
            AgentAdmin::Listen(address) => match TcpListener::bind(address).await {
                Ok(listener) => Some(Socket::Tcp(listener)),
                Err(error) if *address == DEFAULT_ADMIN => {
                    tracing::warn!(
                        %error,
                        "nobody is answered on {address}, the default of admin.listen: give \
                         this agent an address of its own"
                    );
                    None
                }
                Err(error) => {
                    return Err(AdminError {
                        key: "admin.listen",
                        address: address.to_string(),
                        error,
                    });
                }
            },
            AgentAdmin::Socket(path) => match bind_socket(path).await {
                Ok(listener) => Some(Socket::Unix(listener)),
                Err(error) => {
                    return Err(AdminError {
                        key: "admin.socket",
                        address: path.display().to_string(),
                        error,
                    });
                }
            },
        };
        Ok(Self { socket, desk })
    }

    /// Answers until it is dropped.
    pub(crate) async fn run(self) {
        let Some(socket) = self.socket else { return };
        let seats = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(seat) = seats.clone().acquire_owned().await else {
                return;
            };
            let accepted: io::Result<Box<dyn Io>> = match &socket {
                Socket::Tcp(listener) => listener.accept().await.map(|(tcp, _)| Box::new(tcp) as _),
                Socket::Unix(listener) => listener.accept().await.map(|(io, _)| Box::new(io) as _),
            };
            match accepted {
                Ok(io) => {
                    let desk = self.desk.clone();
                    tokio::spawn(async move {
                        let _seat = seat;
                        let _ = timeout(CONNECTION, serve(io, desk)).await;
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "the admin listener cannot take a connection");
                    sleep(REST).await;
                }
            }
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn serve(io: Box<dyn Io>, desk: Arc<Desk>) {
    let service = service_fn(|request| {
        let response = super::answer(&desk, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(io), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the admin listener ended");
    }
}

/// Binds the path, also where an agent that was killed has left its socket.
async fn bind_socket(path: &PathBuf) -> io::Result<UnixListener> {
    if is_left_over(path).await {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(listener)
}

/// Whether the path is a socket that nobody listens on.
async fn is_left_over(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    is_socket
        && matches!(UnixStream::connect(path).await,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}
