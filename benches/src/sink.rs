//! An upstream that takes a body and says how much it was: for uploads.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::load::Failure;

/// Takes bodies on `listener`; the number counts their bytes as they come.
pub fn serve(listener: std::net::TcpListener) -> Result<Arc<AtomicU64>, Failure> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let arrived = Arc::new(AtomicU64::new(0));
    let counter = arrived.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counter = counter.clone();
            let service = service_fn(move |request| count(request, counter.clone()));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Ok(arrived)
}

async fn count(
    request: Request<Incoming>,
    arrived: Arc<AtomicU64>,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let mut body = request.into_body();
    let mut bytes: u64 = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        bytes += length;
        arrived.fetch_add(length, Ordering::Relaxed);
    }
    Ok(Response::new(Full::new(bytes.to_string().into())))
}
