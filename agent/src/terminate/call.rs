//! One call within a connection whose TLS ends here: from the caller's request to what the agent
//! serves (`serve::exchange`), and back.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use culvert_http::pace::PacedIo;
use culvert_http::problem::{Dialect, insert_call};
use culvert_http::request::check;
use culvert_http::upload::Upload;
use culvert_http::{
    Breaker, Grip, HeadRoom, Problem, Progress, Traffic, answer, headers, trace, upgrade,
};
use culvert_policy::{CanonicalTarget, PathOptions};
use culvert_proto::code::{ErrorCode, Layer, ResetCode};
use culvert_proto::connect_name::ConnectName;
use culvert_proto::head::{BodyLength, CallId, Head, Mode, Refusal, ResponseHead};
use culvert_proto::names::EndpointName;
use culvert_proto::principal::Principal;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::PACE;
use super::answer::{AnswerBody, Way};
use super::handover::{AnswerReceiver, SwitchedCaller, handover};
use crate::serve::{Call, FromCaller, Message, Serving, ToCaller, note_refused, run_inside};

/// What the calls of one connection share.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) serving: Arc<Serving>,
    pub(super) endpoint: EndpointName,
    /// Which names its calls may be for.
    pub(super) names: Vec<ConnectName>,
    pub(super) paths: PathOptions,
    /// The CONNECT that the connection is.
    pub(super) connect: CallId,
    pub(super) caller: Principal,
    pub(super) source: Option<IpAddr>,
    /// The relay node that it came through.
    pub(super) node: Arc<str>,
    pub(super) traffic: Arc<Traffic>,
    /// Whether the connection ends with an answer that broke off.
    pub(super) cut_short: Arc<AtomicBool>,
}

/// A call of the connection that is not over.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Traffic>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.on_end();
    }
}

/// A request that is a call.
struct Checked {
    authority: String,
    name: ConnectName,
    /// Canonical.
    target: Bytes,
    /// The protocol that it asks to switch to.
    asked: Option<String>,
    room: HeadRoom,
}

/// A call on its way.
struct Underway {
    receiver: AnswerReceiver,
    /// What it asks to switch to, and where the caller's side comes out when it has.
    switch: Option<(String, OnUpgrade)>,
    to_head: bool,
    /// Held until the answer's head.
    room: HeadRoom,
}

/// The declared name that a Host, in lower case, is for. It is passed on, and an upstream may tell `vc.local.`
/// and `vc.local:0443` from what the policy judged: no other spelling is taken.
pub(super) fn declared<'n>(names: &'n [ConnectName], host: &str) -> Option<&'n ConnectName> {
    names.iter().find(|name| {
        let text = name.as_str();
        host == text || text.strip_suffix(":443") == Some(host)
    })
}

impl Inside {
    /// Answers a request, whatever it takes.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        progress: Arc<Progress>,
    ) -> Response<AnswerBody> {
        let in_flight = InFlight(self.traffic.clone());
        let id = CallId(fastrand::u128(..).to_ne_bytes());
        let (version, method) = (request.version(), request.method().clone());
        let dialect = Dialect::of(request.headers());
        let unhurried = dialect == Dialect::Grpc;
        progress.unhurried.store(unhurried, Ordering::Relaxed);
        let answered = match self.begin(id, request, &progress) {
            Ok(underway) => {
                self.finish(version, underway, progress.clone(), in_flight)
                    .await
            }
            Err(problem) => Err((problem, in_flight)),
        };
        match answered {
            Ok(mut response) => {
                insert_call(response.headers_mut(), id);
                response
            }
            Err((mut problem, in_flight)) => {
                problem.told_in(dialect, version);
                let domain = &self.serving.front().domain;
                let (response, body) = problem.answer(domain, id, &method);
                response.map(|()| AnswerBody::text(body, progress, in_flight))
            }
        }
    }

    /// Begins the call that a request asks for. What is no request of HTTP is refused here, with a
    /// line in the audit log.
    fn begin(
        &self,
        id: CallId,
        request: Request<Incoming>,
        progress: &Arc<Progress>,
    ) -> Result<Underway, Problem> {
        // Whatever becomes of it, what the caller has begun to send is heard out.
        let request = request.map(|body| Upload::new(body, PACE.stall, progress.clone()));
        let Checked {
            authority,
            name,
            target,
            asked,
            room,
        } = self
            .check(&request)
            .map_err(|problem| self.refuse(id, &request, problem))?;
        let (mut parts, upload) = request.into_parts();
        let on_upgrade = parts.extensions.remove::<OnUpgrade>();
        if asked.is_some() {
            upgrade::as_get(&mut parts);
        }
        let Parts {
            method,
            headers: mut fields,
            ..
        } = parts;
        trace::carry_on(&mut fields, id);
        let to_head = method == Method::HEAD;
        let waits = headers::waits(&fields);
        progress.waits.store(waits, Ordering::Relaxed);
        let length = upload.length();
        let call = self.call(id, method, target, asked.clone(), Some(name));
        let message = Message {
            headers: headers::of_request(fields, length != BodyLength::Empty),
            length,
            authority: authority.into(),
            // Its CONNECT has proved who calls.
            token: None,
        };
        let (sender, receiver) = handover();
        let to = ToCaller::Inside(sender);
        let from = FromCaller::Inside(Box::new(upload));
        let serving = self.serving.clone();
        let exchange = run_inside(serving, (call, message), (to, from), self.node.clone());
        self.serving.spawn(exchange);
        Ok(Underway {
            receiver,
            switch: asked.zip(on_upgrade),
            to_head,
            room,
        })
    }

    /// Says what can be said against a request before it is a call.
    fn check(&self, request: &Request<Upload>) -> Result<Checked, Problem> {
        if let Some(violation) = self.traffic.refused() {
            return Err(violation.into());
        }
        let authority = check(request)?.to_ascii_lowercase();
        let name = declared(&self.names, &authority).cloned();
        let name = name.ok_or_else(|| {
            Problem::bad_request("the Host is not a name that this endpoint declares")
        })?;
        let target = CanonicalTarget::parse(target_of(request), self.paths).map_err(|error| {
            Problem::bad_request(format!("the target is not accepted: {error}"))
        })?;
        Ok(Checked {
            authority,
            name,
            target: Bytes::copy_from_slice(target.as_str().as_bytes()),
            asked: upgrade::asked(request)?,
            room: self.traffic.take_room(request.headers())?,
        })
    }

    /// Refuses a request that is no call: with a line in the audit log.
    fn refuse(&self, id: CallId, request: &Request<Upload>, mut problem: Problem) -> Problem {
        problem.layer = Layer::Agent;
        let (method, target) = match self.traffic.refused() {
            // What hyper was given in its place is nobody's request.
            Some(_) => (Method::from_bytes(b"-").unwrap_or_default(), ""),
            None => (request.method().clone(), target_of(request)),
        };
        let target = Bytes::copy_from_slice(target.as_bytes());
        let call = self.call(id, method, target, None, None);
        let refusal = Refusal {
            code: problem.code,
            detail: problem.detail.to_string(),
            rule: None,
            soap: false,
        };
        note_refused(&self.serving, &call, refusal, &self.node);
        problem
    }

    fn call(
        &self,
        id: CallId,
        method: Method,
        target: Bytes,
        upgrade: Option<String>,
        name: Option<ConnectName>,
    ) -> Call {
        Call {
            id,
            within: Some(self.connect),
            endpoint: self.endpoint.clone(),
            mode: Mode::Terminate,
            method,
            target,
            name,
            upgrade,
            source: self.source,
            caller: self.caller.clone(),
        }
    }

    /// Waits for the answer of a call, without a limit of its own: a long poll may take half an hour.
    async fn finish(
        &self,
        version: Version,
        underway: Underway,
        progress: Arc<Progress>,
        in_flight: InFlight,
    ) -> Result<Response<AnswerBody>, (Problem, InFlight)> {
        let Underway {
            mut receiver,
            switch,
            to_head,
            room,
        } = underway;
        let head = self.head(version, &mut receiver, &progress).await;
        drop(room);
        let head = match head {
            Ok(head) => head,
            Err(problem) => return Err((problem, in_flight)),
        };
        if let Some((protocol, on_upgrade)) = switch {
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                let fields = headers::of_response(head.headers, false, None);
                let response = upgrade::switched(version, &protocol, fields);
                self.leave_http(version, receiver, on_upgrade, in_flight);
                return Ok(response.map(|()| AnswerBody::none(progress)));
            }
            if version == Version::HTTP_2 && head.status.is_success() {
                return Err((upgrade::stays_with_http(), in_flight));
            }
        }
        let (response, length) = answer::head(head, to_head, None);
        progress.unhurried.store(true, Ordering::Relaxed);
        let way = Way {
            version,
            traffic: self.traffic.clone(),
            cut_short: self.cut_short.clone(),
        };
        Ok(response.map(|()| AnswerBody::of_call(receiver, length, way, progress, in_flight)))
    }

    /// The head of the answer, after whatever comes before it.
    async fn head(
        &self,
        version: Version,
        receiver: &mut AnswerReceiver,
        progress: &Progress,
    ) -> Result<ResponseHead, Problem> {
        loop {
            match receiver.head().await {
                Ok(Head::Response(head)) => return Ok(head),
                Ok(Head::Refusal(refusal)) => return Err(refusal.into()),
                Ok(Head::Interim(head)) if version == Version::HTTP_11 => {
                    self.traffic.pass_interim(progress, head, None).await;
                }
                Ok(Head::Taken | Head::Interim(_) | Head::Trailers(_)) => {}
                Err(code) => return Err(self.gave_up(code)),
            }
        }
    }

    /// The call ended before there was anything to answer.
    fn gave_up(&self, code: ResetCode) -> Problem {
        match self.traffic.refused() {
            // It was the caller's own doing: its body is not what it should be.
            Some(violation) => Problem::of_agent(ErrorCode::BadRequest, violation.to_string()),
            None => Problem::of_agent(
                ErrorCode::SessionLost,
                match code {
                    ResetCode::Internal => {
                        "a defect of the agent broke the call off; whether the local API has seen it is \
                         not known"
                    }
                    _ => "the agent broke the call off; whether the local API has seen it is not known",
                },
            )
            .with_log(code.to_string()),
        }
    }

    /// Lets the call have the caller's side, as soon as hyper lets go of it.
    fn leave_http(
        &self,
        version: Version,
        mut receiver: AnswerReceiver,
        on_upgrade: OnUpgrade,
        in_flight: InFlight,
    ) {
        // A connection that breaks ends by the reset of its stream.
        let grip = Grip::take(version, &self.traffic, &Breaker::default());
        let leaving = async move {
            let Ok(upgraded) = on_upgrade.await else {
                return;
            };
            receiver.hand_over(SwitchedCaller {
                io: PacedIo::new(TokioIo::new(upgraded), PACE.stall),
                grip,
                is_whole: false,
                _in_flight: in_flight,
            });
            match version {
                Version::HTTP_2 => receiver.let_go(),
                // The connection is the caller's side: it lasts as long as the call.
                _ => receiver.over().await,
            }
        };
        if version == Version::HTTP_2 {
            tokio::spawn(leaving);
        } else {
            self.traffic.leave_afterwards(leaving);
        }
    }
}

/// Path and query, as they came.
fn target_of(request: &Request<Upload>) -> &str {
    let target = request.uri().path_and_query();
    target.map_or("/", |target| target.as_str())
}
