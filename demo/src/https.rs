//! A small HTTPS server for the demo's stand-ins, the token issuer and the SDDC API.
//!
//! It is for loopback and for one user: it bounds what a request may hold, and nothing more.

use std::convert::Infallible;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::certs;
use crate::failure::{Doing, Result};

/// How long nothing is accepted after an error: one that lasts is not spun on.
const REST: Duration = Duration::from_millis(100);

/// An answer with any body.
pub type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Serves with `NAME.pem` and `NAME.key` of `folder` on a free loopback port until the starter
/// closes our standard input, which also happens when the starter is killed.
///
/// The port is chosen before `handler` is made, because an issuer must know its own address;
/// the address is the first line on standard output, for the starter to read.
pub async fn serve<H, F>(
    folder: &Path,
    name: &str,
    handler: impl FnOnce(&str) -> Result<H>,
) -> Result<()>
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(Arc::new(certs::server_config_from(folder, name)?));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .doing(|| "cannot listen")?;
    let port = listener.local_addr().doing(|| "cannot listen")?.port();
    let url = format!("https://localhost:{port}");
    let handler = Arc::new(handler(&url)?);
    crate::say(&url);

    let mut starter = starter_gone();
    loop {
        tokio::select! {
            _ = &mut starter => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    tokio::spawn(connection(stream, acceptor.clone(), handler.clone()));
                }
                // Of a connection that is gone already, or the system is short of something: the others
                // go on, and so do those to come.
                Err(error) => {
                    eprintln!("cannot accept a connection: {error}");
                    sleep(REST).await;
                }
            }
        }
    }
}

/// Completes when standard input ends.
fn starter_gone() -> oneshot::Receiver<()> {
    let (gone, starter) = oneshot::channel();
    std::thread::spawn(move || {
        // However reading ends, nobody holds the other end any more.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = gone.send(());
    });
    starter
}

async fn connection<H, F>(stream: TcpStream, acceptor: TlsAcceptor, handler: Arc<H>)
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    // A peer that breaks off a handshake or a connection is its own concern.
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(move |request| {
        let line = format!("{} {}", request.method(), request.uri());
        let reply = handler(request);
        async move {
            let reply = reply.await;
            eprintln!("{line} -> {}", reply.status());
            Ok::<_, Infallible>(reply)
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The whole body of a small request, or nothing if it is larger than 16 KiB or broken off.
pub async fn small_body(body: Incoming) -> Option<Bytes> {
    Limited::new(body, 16 * 1024)
        .collect()
        .await
        .ok()
        .map(|body| body.to_bytes())
}

/// An answer of JSON.
pub fn json(status: StatusCode, value: &Value) -> Reply {
    let mut reply = with_body(status, Full::new(Bytes::from(value.to_string())));
    reply.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    reply
}

/// An answer of any body.
pub fn with_body<B>(status: StatusCode, body: B) -> Reply
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut reply = Response::new(body.boxed_unsync());
    *reply.status_mut() = status;
    reply
}
