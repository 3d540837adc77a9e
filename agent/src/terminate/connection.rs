//! One CONNECT whose TLS ends here: the handshake, then HTTP until either side has enough.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use culvert_http::{Alpn, Traffic};
use culvert_proto::code::ResetCode;
use culvert_proto::connect_name::ConnectName;
use culvert_session::{Stream, StreamError};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::call::Inside;
use super::identity::Identity;
use crate::serve::{Call, Serving, UNRECOGNIZED_NAME};
use crate::upstream::Progress;

/// How long a caller that was told with a TLS alert may take to hang up.
const LAST_WORD: Duration = Duration::from_secs(5);

/// How connections to one endpoint are taken.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) identity: Identity,
    /// What callers may connect to, and call by.
    pub(crate) names: Vec<ConnectName>,
    /// Whether a caller may leave out which server it means.
    pub(crate) allow_no_sni: bool,
    /// How long a handshake may take.
    pub(crate) handshake: Duration,
    pub(crate) paths: culvert_policy::PathOptions,
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// In good order.
    Whole,
    /// The caller's TLS is not one that is served; why not.
    NoTls(String),
    /// One side is gone.
    Broken(StreamError, String),
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
enum NoTls {
    #[error("tls: {0}")]
    Handshake(#[from] io::Error),
    #[error("sni: the ClientHello names {0}, not this endpoint")]
    Name(String),
    #[error("tls: the handshake took too long")]
    Slow,
}

impl Host {
    /// Serves a connection to its end: `call` is its CONNECT, to `name`. A cancelled `leave` lets the
    /// calls in flight go on and takes no further ones.
    pub(crate) async fn serve(
        &self,
        serving: &Arc<Serving>,
        call: &Call,
        node: &Arc<str>,
        name: &ConnectName,
        io: Metered,
        leave: &CancellationToken,
    ) -> Ended {
        let cut_short = io.cut_short.clone();
        let accepted = match timeout(self.handshake, self.accept(io, name)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(NoTls::Slow),
        };
        let tls = match accepted {
            Ok(tls) => tls,
            Err(NoTls::Handshake(error)) if let Some(gone) = stream_error(&error) => {
                return Ended::Broken(gone, error.to_string());
            }
            Err(error) => return Ended::NoTls(error.to_string()),
        };
        let alpn = match tls.get_ref().1.alpn_protocol() {
            Some(b"h2") => Alpn::H2,
            _ => Alpn::Http1,
        };
        let traffic = Arc::new(Traffic::default());
        let inside = Arc::new(Inside {
            serving: serving.clone(),
            endpoint: call.endpoint.clone(),
            names: self.names.clone(),
            paths: self.paths,
            connect: call.id,
            caller: call.caller.clone(),
            source: call.source,
            node: node.clone(),
            traffic: traffic.clone(),
            cut_short,
        });
        let answer = |request, progress| inside.clone().answer(request, progress);
        let server = &serving.front().server;
        match server.serve(tls, alpn, &traffic, leave, answer).await {
            Ok(()) => Ended::Whole,
            Err(error) => {
                let source = error.source().and_then(|source| source.downcast_ref());
                let gone = source.and_then(stream_error);
                let gone = gone.unwrap_or(StreamError::Finished);
                Ended::Broken(gone, error.to_string())
            }
        }
    }

    /// The TLS handshake with a caller that connected to `name`. The server that it means must be one
    /// of the endpoint's names.
    async fn accept(&self, io: Metered, name: &ConnectName) -> Result<TlsStream<Metered>, NoTls> {
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let config = match start.client_hello().server_name() {
            Some(server) => {
                let mut known = self.names.iter().map(ConnectName::host);
                let host = known.find(|known| known.eq_ignore_ascii_case(server));
                host.and_then(|host| self.identity.config_for(host))
                    .ok_or_else(|| server.to_owned())
            }
            None if self.allow_no_sni || name.address().is_some() => self
                .identity
                .config_for(name.host())
                .ok_or_else(|| "no server".to_owned()),
            None => Err("no server".to_owned()),
        };
        match config {
            Ok(config) => Ok(start.into_stream(config).await?),
            Err(found) => {
                // TLS clients say it in words of their own; a connection that just breaks tells
                // nothing.
                start.io.write_all(UNRECOGNIZED_NAME).await?;
                start.io.shutdown().await?;
                let mut waste = [0; 512];
                let hung_up = async { while let Ok(1..) = start.io.read(&mut waste).await {} };
                let _ = timeout(LAST_WORD, hung_up).await;
                Err(NoTls::Name(found))
            }
        }
    }
}

/// How the stream below broke, where it was that.
fn stream_error(error: &io::Error) -> Option<StreamError> {
    error.get_ref()?.downcast_ref().copied()
}

/// A stream of the tunnel whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Metered {
    stream: Stream,
    received: Arc<Progress>,
    sent: Arc<AtomicU64>,
    /// Our direction has ended in good order.
    finished: bool,
    /// It ends with an answer that broke off.
    cut_short: Arc<AtomicBool>,
}

impl Metered {
    pub(crate) fn new(stream: Stream, received: Arc<Progress>, sent: Arc<AtomicU64>) -> Self {
        Self {
            stream,
            received,
            sent,
            finished: false,
            cut_short: Arc::default(),
        }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.sent.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, out);
        let bytes = out.filled().len() - before;
        if bytes > 0 {
            self.received.note(bytes, false);
        }
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.finished |= matches!(shut, Poll::Ready(Ok(())));
        shut
    }
}

impl Drop for Metered {
    /// hyper lets go of a connection as soon as it has said all. The relay is still passing that on then,
    /// and would cut the caller if the stream were just dropped.
    fn drop(&mut self) {
        if self.finished {
            self.stream.recv.stop(ResetCode::NotNeeded);
        } else if self.cut_short.load(Ordering::Relaxed) {
            // What came of the answer is the caller's, and may wait for the tunnel yet.
            self.stream.send.cut_short(ResetCode::Truncated);
        }
    }
}
