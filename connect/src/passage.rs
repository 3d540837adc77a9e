//! One tool's connection, from its request to its end.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::relay::{Answer, Relay};
use crate::request::Request;

/// How long a tool may take to send its request.
const HEAD: Duration = Duration::from_secs(10);

/// What is held each way.
const BUFFER: usize = 16 * 1024;

/// How long a tool may take to read an answer that is all there is.
const SAY: Duration = Duration::from_secs(10);

/// How long it may take to hang up then.
const HANG_UP: Duration = Duration::from_secs(2);

/// Most bytes that a tool may send before it is answered.
const MAX_EARLY: usize = 64 * 1024;

/// Serves a tool to its end; what it carries is broken off at the program's `end`.
pub(crate) async fn serve(
    mut tool: TcpStream,
    peer: SocketAddr,
    relay: &Relay,
    end: &CancellationToken,
) {
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
        Ok(request) => carry(&mut tool, request, relay, end).await,
    };
    if let Err(error) = carried {
        tracing::debug!(%peer, %error, "a connection broke off");
        // The tool must not take what it got for all there was.
        let _ = tool.set_zero_linger();
    }
}

async fn carry(
    tool: &mut TcpStream,
    request: Request,
    relay: &Relay,
    end: &CancellationToken,
) -> io::Result<()> {
    let Request {
        name,
        version,
        early,
    } = request;
    let mut early = BytesMut::from(&early[..]);
    let answer = tokio::select! {
        answer = relay.connect(&name) => answer,
        gone = watch(tool, &mut early) => return Err(gone),
        () = end.cancelled() => return Err(ended()),
    };
    let (fields, back, mut way) = match answer {
        Ok(Answer::Open { fields, early, way }) => (fields, early, way),
        Ok(Answer::Refused {
            status,
            reason,
            answer,
            ..
        }) => {
            tracing::info!(target = %name, status, "the relay refused: {reason}");
            return say(tool, &answer).await;
        }
        Err(refusal) => return say(tool, refusal.to_http().as_bytes()).await,
    };
    let head = format!("HTTP/1.{version} 200 Connection established\r\n{fields}\r\n");
    let carrying = async {
        tool.write_all(head.as_bytes()).await?;
        tool.write_all(&back).await?;
        way.write_all(&early).await?;
        way.flush().await?;
        // A tool that has ended its direction already ends it here, behind what it had sent.
        copy_bidirectional_with_sizes(tool, &mut way, BUFFER, BUFFER).await
    };
    let carried = tokio::select! {
        carried = carrying => carried.map(|_| ()),
        () = end.cancelled() => Err(ended()),
    };
    if carried.is_err() {
        let _ = way.get_ref().0.set_zero_linger();
    }
    carried
}

/// Why a connection ends with this program.
fn ended() -> io::Error {
    io::Error::other("culvert-connect ends")
}

/// Keeps what the tool sends before it is answered; ends when the tool is gone. One that has ended its
/// direction is not: it has said all that it has to say, and waits for the answer.
async fn watch(tool: &mut TcpStream, early: &mut BytesMut) -> io::Error {
    while early.len() < MAX_EARLY {
        match tool.read_buf(early).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return error,
        }
    }
    match tool.ready(Interest::ERROR).await {
        Ok(_) => io::ErrorKind::ConnectionReset.into(),
        Err(error) => error,
    }
}

/// Says something and hangs up, so that the tool gets to read it.
async fn say(tool: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    // A tool that reads nothing has its place among the connections no longer than others.
    timeout(SAY, tool.write_all(answer)).await??;
    tool.shutdown().await?;
    let mut waste = [0; 1024];
    let rest = async { while matches!(tool.read(&mut waste).await, Ok(1..)) {} };
    let _ = timeout(HANG_UP, rest).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tool_that_does_not_read_its_answer_is_not_waited_for_for_ever() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (tool, accepted) = tokio::join!(connecting, listener.accept());
        let (_tool, (mut here, _)) = (tool.unwrap(), accepted.unwrap());
        // More than lies in the kernel.
        let answer = vec![b'x'; 64 << 20];
        let error = say(&mut here, &answer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    /// What says of a tool that it is gone, when its input has ended before.
    #[tokio::test]
    async fn a_tool_that_ended_its_direction_and_is_reset_then_is_gone() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (tool, accepted) = tokio::join!(connecting, listener.accept());
        let (mut tool, (mut here, _)) = (tool.unwrap(), accepted.unwrap());
        tool.write_all(b"early").await.unwrap();
        tool.shutdown().await.unwrap();
        let mut early = BytesMut::new();
        while here.read_buf(&mut early).await.unwrap() > 0 {}
        assert_eq!(early, "early");
        tool.set_zero_linger().unwrap();
        drop(tool);
        let gone = timeout(HEAD, watch(&mut here, &mut early)).await.unwrap();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionReset);
    }
}
