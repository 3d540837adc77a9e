//! One tool's connection, from its request to its end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::relay::{Answer, Relay};
use crate::request::Request;

/// How long a tool may take to send its request.
const HEAD: Duration = Duration::from_secs(10);

/// What is held each way.
const BUFFER: usize = 16 * 1024;

/// Most bytes that a tool may send before it is answered.
const MAX_EARLY: usize = 64 * 1024;

/// Serves a tool to its end.
pub(crate) async fn serve(mut tool: TcpStream, peer: SocketAddr, relay: &Relay) {
    let _ = tool.set_nodelay(true);
    let request = match timeout(HEAD, Request::read(&mut tool)).await {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) | Ok(Err(_)) | Err(_) => {
            tracing::debug!(%peer, "a tool connected and asked for nothing");
            return;
        }
    };
    let carried = match request {
        Err(refusal) => {
            tracing::info!(%peer, status = refusal.status, "refused: {}", refusal.detail);
            say(&mut tool, refusal.to_http().as_bytes()).await
        }
        Ok(request) => carry(&mut tool, request, relay).await,
    };
    if let Err(error) = carried {
        tracing::debug!(%peer, %error, "a connection broke off");
        // The tool must not take what it got for all there was.
        let _ = tool.set_zero_linger();
    }
}

async fn carry(tool: &mut TcpStream, request: Request, relay: &Relay) -> io::Result<()> {
    let Request {
        name,
        version,
        early,
    } = request;
    let mut early = BytesMut::from(&early[..]);
    let answer = tokio::select! {
        answer = relay.connect(&name) => answer,
        gone = watch(tool, &mut early) => return gone,
    };
    let (fields, back, mut way) = match answer {
        Ok(Answer::Open { fields, early, way }) => (fields, early, way),
        Ok(Answer::Refused {
            status,
            reason,
            answer,
        }) => {
            tracing::info!(target = %name, status, "the relay refused: {reason}");
            return say(tool, &answer).await;
        }
        Err(refusal) => return say(tool, refusal.to_http().as_bytes()).await,
    };
    let head = format!("HTTP/1.{version} 200 Connection established\r\n{fields}\r\n");
    tool.write_all(head.as_bytes()).await?;
    tool.write_all(&back).await?;
    way.write_all(&early).await?;
    way.flush().await?;
    let carried = copy_bidirectional_with_sizes(tool, &mut way, BUFFER, BUFFER).await;
    if carried.is_err() {
        let _ = way.get_ref().0.set_zero_linger();
    }
    carried.map(|_| ())
}

/// Keeps what the tool sends before it is answered; ends when the tool is gone.
async fn watch(tool: &mut TcpStream, early: &mut BytesMut) -> io::Result<()> {
    while early.len() < MAX_EARLY {
        if tool.read_buf(early).await? == 0 {
            return Ok(());
        }
    }
    std::future::pending().await
}

/// Says something and hangs up, so that the tool gets to read it.
async fn say(tool: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    tool.write_all(answer).await?;
    tool.shutdown().await?;
    let mut waste = [0; 1024];
    let rest = async { while matches!(tool.read(&mut waste).await, Ok(1..)) {} };
    let _ = timeout(Duration::from_secs(2), rest).await;
    Ok(())
}
