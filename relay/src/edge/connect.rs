//! CONNECT: a caller asks for a way to a name that an endpoint of its tenant declares.
//!
//! The tenant is the credential's, so a name means what it means there and nothing else: there is
//! no way to this relay, to another tenant, or to an address that nobody declared.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use culvert_http::Problem;
use culvert_http::request::too_many_fields;
use culvert_http::upload::FirstBytes;
use culvert_identity::verify::{ProvedRequest, ProvedTarget};
use culvert_proto::code::{ErrorCode, ResetCode};
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::{BodyLength, CallHead, Head, Mode};
use culvert_proto::names::TenantName;
use culvert_session::splice::Cut;
use culvert_session::{Item, Stream, StreamError};
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, Method, Request, Response, Version};
use hyper::body::Incoming;

use super::Edge;
use super::authenticate::{Caller, must_call};
use super::call::Answer;
use super::connection::Connection;
use super::find::{Finder, too_early};
use super::forward::{Failure, broken, lost, open};
use super::leave::Leave;
use super::passage::Passage;
use super::record::CallRecord;
use super::retry::Retries;
use super::route::{Destination, Endpoint};
use crate::directory::Target;

impl Edge {
    /// Opens a way to the name that a CONNECT asks for.
    pub(super) async fn connect(
        &self,
        connection: &Arc<Connection>,
        mut request: Request<Incoming>,
        record: &mut CallRecord,
    ) -> Result<Answer, Problem> {
        record.mode = Mode::Connect;
        let name = self.connect_target(&request)?;
        record.target = Bytes::copy_from_slice(name.as_str().as_bytes());
        let proved = ProvedRequest {
            method: "CONNECT",
            to: ProvedTarget::Connect(&name),
        };
        let Caller {
            verified: caller,
            token,
        } = self
            .authenticate(connection, request.headers(), &proved)
            .await?;
        record.caller = Some(caller.clone());
        must_call(&caller)?;
        let tenant = &caller.principal.tenant;
        let holder = self.directory.holder(tenant, &name);
        let endpoint = holder.as_ref().map(|(endpoint, _)| endpoint);
        let mut leave = self.begin(record, endpoint)?;
        let unknown = || match self.routes.is_own(name.host()) {
            true => own_name(self.routes.domain()),
            false => too_early(&self.directory, tenant).unwrap_or_else(unknown_name),
        };
        let (endpoint, mode) = holder.ok_or_else(unknown)?;
        record.mode = mode;
        record.endpoint = Some(Endpoint {
            tenant: tenant.clone(),
            name: endpoint.clone(),
        });
        if !caller.may_call_endpoint(&endpoint) {
            return Err(Problem::forbidden(
                "the token is not good for this endpoint",
            ));
        }
        let upgrade = hyper::upgrade::on(&mut request);
        let head = CallHead {
            call: record.call,
            endpoint,
            mode,
            method: Method::CONNECT,
            target: record.target.clone(),
            headers: HeaderMap::new(),
            body: BodyLength::Unknown,
            upgrade: None,
            authority: record.target.clone(),
            source: Some(connection.peer.address.ip()),
            caller: caller.principal.clone(),
            token,
        };
        let stream = self.way(tenant, &name, &head, &mut leave).await?;
        let passage = Passage {
            upgrade,
            stream,
            leave,
            cut: match mode {
                // The caller's TLS with the relay is all that these bytes are protected by.
                Mode::Tcp => Cut::Breaks,
                Mode::Http | Mode::Connect | Mode::Terminate => Cut::Ends,
            },
            stall: self.limits.stall.0,
        };
        Ok(Answer::Passage(Response::new(()), passage))
    }

    /// A stream whose other end the agent has connected.
    async fn way(
        &self,
        tenant: &TenantName,
        name: &ConnectName,
        head: &CallHead,
        leave: &mut Leave,
    ) -> Result<Stream, Problem> {
        let finder = Finder {
            directory: &self.directory,
            tenant,
            endpoint: &head.endpoint,
            name: Some(name),
        };
        let nothing = FirstBytes {
            data: Bytes::new(),
            end: false,
        };
        let opening = open(finder, head, &nothing, leave, self.limits.open.0);
        let mut retries = Retries::within(self.limits.open.0);
        let (mut stream, mut place) = opening.await?;
        loop {
            let error = match connected(&mut stream, !place.is_here(), leave).await {
                Ok(()) => return Ok(stream),
                Err(Failure::Problem(problem)) => return Err(problem),
                Err(Failure::Stream(error)) => error,
            };
            // What ended the call may have ended its session in the same moment: a drain does.
            leave.check()?;
            let untouched = matches!(
                error,
                StreamError::Reset(ResetCode::NotHere | ResetCode::Refused)
            );
            if !untouched {
                return Err(lost(error, !place.is_here()));
            }
            let wait = retries.next(error, &finder, &place).await;
            let wait = wait.ok_or_else(|| lost(error, !place.is_here()))?;
            let again = open(finder, head, &nothing, leave, wait).await;
            (stream, place) = again.map_err(|_| lost(error, !place.is_here()))?;
        }
    }

    /// What a CONNECT asks for, in its one spelling.
    fn connect_target(&self, request: &Request<Incoming>) -> Result<ConnectName, Problem> {
        let (uri, fields) = (request.uri(), request.headers());
        let refuse = |detail: String| Err(Problem::bad_request(detail));
        if too_many_fields(fields) {
            return refuse("the request has too many header fields, or too long ones".into());
        }
        if uri.scheme().is_some() || uri.path_and_query().is_some() {
            return refuse("a CONNECT has neither scheme nor path".into());
        }
        if fields.contains_key(CONTENT_LENGTH) {
            return refuse("a CONNECT has no body and no Content-Length".into());
        }
        let target = uri.authority().map_or("", |authority| authority.as_str());
        let name = match ConnectName::parse(target) {
            Ok(name) => name,
            Err(error) => return refuse(format!("the target of CONNECT is not accepted: {error}")),
        };
        let mut hosts = fields.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(_), Some(_)) => refuse("the request has more than one Host".into()),
            (Some(host), None) if !self.is_host_of(host.as_bytes(), &name, request.version()) => {
                refuse("the Host and the target of CONNECT differ".into())
            }
            _ => Ok(name),
        }
    }

    /// Whether a Host goes with the target: it is the same, perhaps without a port that is the
    /// client's default, or in HTTP/1 this relay itself, which some tools take for their server.
    fn is_host_of(&self, host: &[u8], name: &ConnectName, version: Version) -> bool {
        let Ok(host) = std::str::from_utf8(host) else {
            return false;
        };
        let port = name.port();
        let is_target = ConnectName::parse(host)
            .or_else(|_| ConnectName::parse(&format!("{host}:{port}")))
            .is_ok_and(|host| host == *name);
        let is_relay = || self.routes.resolve(host) == Destination::Relay;
        is_target || (version < Version::HTTP_2 && is_relay())
    }
}

/// Waits until the agent says that the way is open. `elsewhere`: the stream leads to another node,
/// which says first that it has found the agent.
async fn connected(stream: &mut Stream, elsewhere: bool, leave: &mut Leave) -> Result<(), Failure> {
    loop {
        let item = poll_fn(|cx| match stream.recv.poll_item(cx) {
            Poll::Pending => leave.poll(cx).map(|why| Err(Failure::Problem(why.into()))),
            item => item.map_err(Failure::Stream),
        });
        match item.await? {
            Item::Head(Head::Taken) if elsewhere => {}
            Item::Head(Head::Response(head)) if head.status.is_success() => return Ok(()),
            Item::Head(Head::Refusal(refusal)) => return Err(Problem::from(refusal).into()),
            _ => return Err(broken("the agent gave no answer to a CONNECT").into()),
        }
    }
}

/// No endpoint of the caller's tenant declares it; whether another's does, nobody can tell.
fn unknown_name() -> Problem {
    Problem::new(
        ErrorCode::UnknownEndpoint,
        "no endpoint of your tenant declares this name and port: check both, and the key `connect` \
         of the agent's configuration",
    )
}

/// A tool with the relay as its proxy asks it for a way to the relay itself, where it need only go.
fn own_name(domain: &str) -> Problem {
    Problem::new(
        ErrorCode::UnknownEndpoint,
        format!(
            "this is the relay itself, which is called without a proxy: put {domain} and .{domain} into \
             NO_PROXY"
        ),
    )
}
