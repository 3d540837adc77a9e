//! Taking connections: on an address, or on a socket in the file system.

use std::convert::Infallible;
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::answer::{Authorized, MAX_BODY, Refused, answered};
use crate::credential::Credential;

/// Connections at once; more wait in the kernel.
const CONNECTIONS: usize = 64;

/// How long a request's head may take, and its body, or an idle connection stay.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may last: nobody needs one for longer, and none stays stuck.
const CONNECTION: Duration = Duration::from_secs(120);

/// Rest after an error of accept(2).
const REST: Duration = Duration::from_millis(100);

/// Who may write to the socket: its owner and group.
const MODE: u32 = 0o660;

/// Where operators ask. Dropped, it answers no more connections.
pub struct Listener {
    socket: Socket,
    terms: Terms,
}

/// On what terms connections are served.
#[derive(Default)]
struct Terms {
    tls: Option<Arc<Certificate>>,
    credential: Option<Credential>,
}

/// Gives the TLS of a new connection.
type Certificate = dyn Fn() -> Result<Arc<ServerConfig>, String> + Send + Sync;

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// The system does not give it.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::on(Socket::Tcp(TcpListener::bind(address).await?)))
    }

    fn on(socket: Socket) -> Self {
        Self {
            socket,
            terms: Terms::default(),
        }
    }

    /// Speaks TLS, each connection with what this function gives for it, which may block.
    #[must_use]
    pub fn over_tls(
        mut self,
        tls: impl Fn() -> Result<Arc<ServerConfig>, String> + Send + Sync + 'static,
    ) -> Self {
        self.terms.tls = Some(Arc::new(tls));
        self
    }

    /// Answers nobody who does not show this; whoever does may name the listener as he likes.
    #[must_use]
    pub fn asking_for(mut self, credential: Credential) -> Self {
        self.terms.credential = Some(credential);
        self
    }

    /// Binds a path that the owner and the group may write to (mode 0660), also where a program that was
    /// killed has left its socket.
    ///
    /// # Errors
    /// Something else is there, or a program that answers; or the system does not give it.
    pub async fn unix(path: &Path) -> io::Result<Self> {
        if is_left_over(path).await {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(MODE))?;
        Ok(Self::on(Socket::Unix(listener)))
    }

    /// The address, of a listener that has one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Answers until it is dropped: 64 connections at once, bodies of at most 16 KiB.
    pub async fn run<A, F>(self, answer: A)
    where
        A: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send,
    {
        let Self { socket, terms } = self;
        let terms = Arc::new(terms);
        let seats = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let seat = seats.clone().acquire_owned().await;
            match socket.accept().await {
                Ok(io) => {
                    let (answer, terms) = (answer.clone(), terms.clone());
                    tokio::spawn(async move {
                        let _seat = seat;
                        let _ = timeout(CONNECTION, take(io, &terms, answer)).await;
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

impl Socket {
    async fn accept(&self) -> io::Result<Box<dyn Io>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Serves a connection, over TLS if that is what there is.
async fn take<A, F>(io: Box<dyn Io>, terms: &Terms, answer: A)
where
    A: Fn(Request<Bytes>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let Some(tls) = &terms.tls else {
        return serve(io, terms, answer).await;
    };
    let tls = match aside(tls.clone()).await {
        Ok(tls) => tls,
        Err(error) => {
            tracing::warn!("the admin listener has no certificate to show: {error}");
            return;
        }
    };
    match timeout(PATIENCE, TlsAcceptor::from(tls).accept(io)).await {
        Ok(Ok(io)) => serve(io, terms, answer).await,
        Ok(Err(error)) => tracing::debug!(%error, "a handshake with the admin listener failed"),
        Err(_) => tracing::debug!("a handshake with the admin listener took too long"),
    }
}

async fn serve<A, F, IO>(io: IO, terms: &Terms, answer: A)
where
    A: Fn(Request<Bytes>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| async {
        let (mut head, body) = request.into_parts();
        if let Some(credential) = &terms.credential {
            if !credential.is_shown(&head.headers).await {
                return Ok(answered(Err(Refused::Credential)));
            }
            head.extensions.insert(Authorized);
        }
        let body = Limited::new(body, MAX_BODY).collect();
        Ok::<_, Infallible>(match timeout(PATIENCE, body).await {
            Ok(Ok(body)) => answer(Request::from_parts(head, body.to_bytes())).await,
            Ok(Err(_)) | Err(_) => answered(Err(Refused::Body)),
        })
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(io), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the admin listener ended");
    }
}

/// What a function gives that may block: file systems may take their time.
pub(crate) async fn aside<T: Send + 'static>(
    read: Arc<dyn Fn() -> Result<T, String> + Send + Sync>,
) -> Result<T, String> {
    let read = tokio::task::spawn_blocking(move || read());
    read.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Whether the path is a socket that nobody listens on.
async fn is_left_over(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    is_socket
        && matches!(UnixStream::connect(path).await,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}
