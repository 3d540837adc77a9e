//! A call that is bytes: a CONNECT to a name that the endpoint declares (modes `connect`, `tcp`).

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use culvert_policy::Permit;
use culvert_proto::code::ResetCode;
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::{BodyLength, Head, Mode, ResponseHead};
use culvert_session::splice::{Cut, Moved, SpliceError, splice};
use culvert_session::{Item, RecvStream, SendStream};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ServedEndpoint;
use super::audit::{Outcome, Record};
use super::call::BadHead;
use super::decide::{MAX_BODY, decide};
use super::exchange::Exchange;
use super::failure::Failure;
use super::hello::{Hello, NoHello, UNRECOGNIZED_NAME};
use super::leash::{Withdrawn, withdrawn};
use crate::upstream::Progress;

/// How long a caller that was told with a TLS alert may take to hang up.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What a caller's own end of a passage was refused for.
const TOO_LONG: &str = "the caller sends more than the policy allows";

impl Exchange<'_> {
    /// The name that a CONNECT is for, if the endpoint takes such a CONNECT and may take one now. Its
    /// mode is what this agent's own configuration says, whatever the relay calls it.
    pub(super) fn connect_name(&self, endpoint: &ServedEndpoint) -> Result<ConnectName, Failure> {
        if Some(self.call.mode) != endpoint.proxied {
            return Err(self.bad_head(BadHead::Mode));
        }
        let name = self.call.connect_name();
        let name = name.map_err(|bad| self.bad_head(bad))?;
        if endpoint.port_of(&name).is_none() {
            return Err(self.bad_head(BadHead::Name));
        }
        if !self.serving.accounts.audit.admits() {
            return Err(Failure::unaudited());
        }
        Ok(name)
    }

    /// Decides on a passage and carries it to its end.
    pub(super) async fn pass(
        &self,
        send: &mut SendStream,
        recv: &mut RecvStream,
        record: &mut Record<'_>,
    ) -> Result<(), Failure> {
        let call = self.call;
        let endpoint = self.endpoint()?;
        send.set_priority(endpoint.priority);
        let name = self.connect_name(endpoint)?;
        let port = endpoint.port_of(&name);
        let port = port.ok_or_else(|| self.bad_head(BadHead::Name))?;
        let slot = endpoint.slots.try_acquire();
        let _slot = slot.map_err(|_| Failure::overloaded())?;

        let mut policies = self.serving.policy.clone();
        let facts = call.passage_facts(&name);
        let policy = policies.borrow_and_update().clone();
        let permit = decide(&policy, &facts, BodyLength::Unknown, record)?;
        let most = permit.max_body().unwrap_or(u64::MAX);
        let mut withdrawn = pin!(withdrawn(policies, facts, &call.caller));
        record.on_sent();
        let mut tcp = tokio::select! {
            biased;
            why = send.stopped() => return Err(why.into()),
            Withdrawn { refusal, reason } = &mut withdrawn => {
                record.reason = Some(reason.to_owned());
                return Err(Failure::Refused(Outcome::Withdrawn, refusal));
            }
            tcp = self.reach(endpoint, permit, port, record) => tcp?,
        };
        record.on_answer(StatusCode::OK.as_u16());
        send.send_head(&Head::Response(opened())).await?;
        let progress = Progress::new();
        record.request = Some(progress.clone());
        let mut capped = Capped {
            tcp: &mut tcp,
            left: most,
            taken: progress,
        };
        let carrying = async {
            if call.mode == Mode::Connect {
                let hello = self.hello(endpoint, &name, send, recv, record).await?;
                let written = capped.write_all(&hello.bytes).await;
                written.map_err(|error| broken(SpliceError::Io(error), record))?;
            }
            let idle = endpoint.upstream.timeouts().idle.0;
            let spliced = splice(send, recv, capped, Cut::Breaks, idle, |moved| {
                if let Moved::In(bytes) = moved {
                    record.answered += bytes as u64;
                }
            });
            spliced.await.map_err(|error| broken(error, record))
        };
        let carried = tokio::select! {
            biased;
            withdrawn = &mut withdrawn => Err(withdrawn),
            carried = carrying => Ok(carried),
        };
        let carried = carried.unwrap_or_else(|Withdrawn { reason, .. }| {
            record.reason = Some(reason.to_owned());
            Err(Failure::Broken(Outcome::Withdrawn, ResetCode::Withdrawn))
        });
        if carried.is_err() {
            // What the upstream got is not all: it must not take it for that.
            let _ = tcp.set_zero_linger();
        }
        carried
    }

    async fn reach(
        &self,
        endpoint: &ServedEndpoint,
        permit: Permit,
        port: u16,
        record: &mut Record<'_>,
    ) -> Result<TcpStream, Failure> {
        let reached = endpoint.upstream.tcp(permit, port).await;
        reached.map_err(|error| self.no_answer(&error, record))
    }

    /// The caller's ClientHello, if it means the server that the CONNECT is for: that is the one that
    /// the policy was asked about, and another name of the endpoint may be denied.
    async fn hello(
        &self,
        endpoint: &ServedEndpoint,
        name: &ConnectName,
        send: &mut SendStream,
        recv: &mut RecvStream,
        record: &mut Record<'_>,
    ) -> Result<Hello, Failure> {
        let limit = endpoint.upstream.timeouts().tls.0;
        let hello = tokio::select! {
            biased;
            why = send.stopped() => return Err(why.into()),
            hello = timeout(limit, Hello::read(recv)) => hello,
        };
        let hello = match hello {
            Ok(Ok(hello)) => hello,
            Ok(Err(NoHello::Stream(error))) => return Err(error.into()),
            Ok(Err(bad)) => {
                record.reason = Some(bad.to_string());
                return Err(Failure::Broken(Outcome::Refused, ResetCode::Protocol));
            }
            Err(_) => {
                record.reason = Some("the caller's ClientHello did not come in time".to_owned());
                return Err(Failure::Broken(Outcome::Refused, ResetCode::Timeout));
            }
        };
        let means_it = match hello.name() {
            None => endpoint.allow_no_sni || name.address().is_some(),
            Some(server) => is_host(server, name),
        };
        if means_it {
            return Ok(hello);
        }
        let found = hello.name().unwrap_or("no server");
        record.reason = Some(format!(
            "sni: the ClientHello names {found}, not {}",
            name.host()
        ));
        // TLS clients say it in words of their own; a connection that just breaks tells nothing.
        send.write_bytes(UNRECOGNIZED_NAME.into()).await?;
        send.finish()?;
        let hung_up = async { while let Ok(Item::Data(_)) = recv.item().await {} };
        let _ = timeout(LAST_WORD, hung_up).await;
        Err(Failure::Broken(Outcome::Refused, ResetCode::Protocol))
    }
}

/// Whether a server's name in a ClientHello is the host of a CONNECT.
fn is_host(server: &str, name: &ConnectName) -> bool {
    let server = server.strip_suffix('.').unwrap_or(server);
    server.eq_ignore_ascii_case(name.host())
}

/// A passage that broke off: whose fault it was.
fn broken(error: SpliceError, record: &mut Record<'_>) -> Failure {
    record.reason = Some(error.to_string());
    match error {
        SpliceError::Stream(error) => Failure::Gone(error),
        SpliceError::Idle(_) => Failure::Broken(Outcome::Truncated, ResetCode::Timeout),
        SpliceError::Io(error) if error.kind() == io::ErrorKind::QuotaExceeded => {
            record.reason = Some(MAX_BODY.to_owned());
            Failure::Broken(Outcome::Withdrawn, ResetCode::Withdrawn)
        }
        SpliceError::Io(_) => Failure::Broken(Outcome::Truncated, ResetCode::Truncated),
    }
}

/// What says that the way is open.
pub(super) fn opened() -> ResponseHead {
    ResponseHead {
        status: StatusCode::OK,
        phrase: None,
        headers: HeaderMap::new(),
        body: BodyLength::Unknown,
    }
}

/// An upstream's connection that takes so many bytes and no more.
struct Capped<'t> {
    tcp: &'t mut TcpStream,
    left: u64,
    taken: Arc<Progress>,
}

impl Capped<'_> {
    fn on_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &written {
            self.left -= *written as u64;
            self.taken.note(*written, false);
        }
        written
    }
}

impl AsyncRead for Capped<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.tcp).poll_read(cx, out)
    }
}

impl AsyncWrite for Capped<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.len() as u64 > self.left {
            let error = io::Error::new(io::ErrorKind::QuotaExceeded, TOO_LONG);
            return Poll::Ready(Err(error));
        }
        let written = Pin::new(&mut *self.tcp).poll_write(cx, bytes);
        self.on_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if all > self.left {
            // What is within the limit goes before the piece that is not.
            let first = pieces.iter().find(|piece| !piece.is_empty());
            return self.poll_write(cx, first.map_or(&[], |piece| piece));
        }
        let written = Pin::new(&mut *self.tcp).poll_write_vectored(cx, pieces);
        self.on_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.tcp).poll_shutdown(cx)
    }
}
