//! One call, from its request to its answer, top to bottom.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use culvert_http::problem::{Dialect, insert_call};
use culvert_http::request::{check, is_connect};
use culvert_http::upload::Upload;
use culvert_http::{Grip, Problem, answer, headers, trace, upgrade};
use culvert_identity::verify::{ProvedRequest, ProvedTarget};
use culvert_policy::canonical::{CanonicalTarget, PathOptions};
use culvert_proto::code::ErrorCode;
use culvert_proto::head::{BodyLength, CallHead, Mode};
use culvert_session::Stream;
use culvert_session::body::RecvBody;
use culvert_session::splice::Cut;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::sync::OwnedSemaphorePermit;

use super::Edge;
use super::answer::AnswerBody;
use super::authenticate::{Caller, must_call};
use super::connection::Connection;
use super::download::Download;
use super::find::Finder;
use super::forward::{InterimTo, forward, unknown_endpoint};
use super::passage::Passage;
use super::record::CallRecord;
use super::route::{Destination, Endpoint, host};
use crate::listener::Door;

impl Edge {
    /// Answers a request, whatever it takes.
    #[expect(
        clippy::manual_async_fn,
        reason = "that has each argument twice, for hours maybe"
    )]
    pub(crate) fn answer(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
        mut record: CallRecord,
    ) -> impl Future<Output = Response<AnswerBody>> + Send {
        async move {
            let version = request.version();
            let proxy = is_connect(&request);
            let dialect = Dialect::of(request.headers());
            // A server of gRPC may say nothing at all before it has something to say.
            let unhurried = dialect == Dialect::Grpc;
            record
                .progress
                .unhurried
                .store(unhurried, Ordering::Relaxed);
            match self.call(&connection, request, &mut record).await {
                Ok(answer) => {
                    let last = match &answer {
                        Answer::Own(response) => {
                            connection.on_own_answer(response.body().len(), false)
                        }
                        Answer::Upstream(..) | Answer::Passage(..) => false,
                    };
                    let mut response = answer.finish(&connection, version, record);
                    say_last(&mut response, version, last);
                    response
                }
                Err(mut problem) => {
                    problem.proxy = proxy;
                    problem.basic |= proxy;
                    problem.told_in(dialect, version);
                    let method = record.method.as_ref().unwrap_or(&Method::GET);
                    let (response, body) =
                        problem.answer(self.routes.domain(), record.call, method);
                    let mut response = response.map(|()| body);
                    let refused = problem.code == ErrorCode::Unauthenticated;
                    let last = connection.on_own_answer(response.body().len(), refused);
                    if version < Version::HTTP_2 && problem.upgrade {
                        let headers = response.headers_mut();
                        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                    }
                    say_last(&mut response, version, last);
                    record.on_refused(problem);
                    response.map(|body| AnswerBody::text(body, record))
                }
            }
        }
    }

    /// A place for a call, if there is one.
    pub(super) fn seat(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.seats.clone().try_acquire_owned().map_err(|_| {
            Problem::new(
                ErrorCode::Overloaded,
                "this relay node has as many calls in progress as it may; try again",
            )
        })
    }

    #[expect(clippy::manual_async_fn, reason = "as above")]
    fn call<'c>(
        &'c self,
        connection: &'c Arc<Connection>,
        request: Request<Incoming>,
        record: &'c mut CallRecord,
    ) -> impl Future<Output = Result<Answer, Problem>> + Send + 'c {
        async move {
            if let Some(violation) = connection.traffic.refused() {
                record.method = None;
                return Err(violation.into());
            }
            if is_connect(&request) {
                // In a box, as all that is rare here: every call has room for it otherwise.
                return Box::pin(self.connect(connection, request, record)).await;
            }
            // Whatever becomes of it from here on, what the caller has begun to send is heard out.
            let request =
                request.map(|body| Upload::new(body, self.limits.stall.0, record.progress.clone()));
            let authority = check(&request)?;
            let target = canonical(&request)?;
            record.target = target.clone();
            if connection.peer.door == Door::Proxy {
                return Box::pin(self.proxy_page(connection, request, &authority, record)).await;
            }
            let endpoint = match self.routes.resolve(&authority) {
                Destination::Relay => {
                    return Box::pin(self.own_page(connection, request, &authority, record)).await;
                }
                Destination::Endpoint(endpoint) => Some(endpoint),
                Destination::Unknown => None,
            };
            let (version, asked) = (request.version(), upgrade::asked(&request));
            let (mut parts, upload) = request.into_parts();
            record.trace = trace::carry_on(&mut parts.headers, record.call);
            let method = match asked {
                // Over HTTP/2 it is called CONNECT.
                Ok(Some(_)) => Method::GET,
                _ => parts.method.clone(),
            };
            let proved = ProvedRequest {
                method: method.as_str(),
                to: ProvedTarget::Https {
                    authority: &authority,
                    path: std::str::from_utf8(&target).unwrap_or_default(),
                },
            };
            let authenticated = self.authenticate(connection, &parts.headers, &proved);
            let Caller {
                verified: caller,
                token,
            } = authenticated.await?;
            record.caller = Some(caller.clone());
            must_call(&caller)?;
            let Some(Endpoint { tenant, name }) = endpoint.clone() else {
                return Err(unknown_endpoint());
            };
            record.endpoint = endpoint;
            let own = tenant == caller.principal.tenant;
            let leave = self.begin(record, own.then_some(&name))?;
            if own && !caller.may_call_endpoint(&name) {
                return Err(Problem::forbidden(
                    "the token is not good for this endpoint",
                ));
            }
            let asked = asked?;
            let on_upgrade = parts.extensions.remove::<OnUpgrade>();
            if asked.is_some() {
                upgrade::as_get(&mut parts);
            }

            let to_head = parts.method == Method::HEAD;
            let waits = headers::waits(&parts.headers);
            record.progress.waits.store(waits, Ordering::Relaxed);
            let length = upload.length();
            let mut upload = Some(upload.throttled(record.throttle()));
            let head = CallHead {
                call: record.call,
                endpoint: name,
                mode: Mode::Http,
                method: parts.method,
                target,
                headers: headers::of_request(parts.headers, length != BodyLength::Empty),
                body: length,
                upgrade: asked,
                authority: Bytes::copy_from_slice(authority.as_bytes()),
                source: Some(connection.peer.address.ip()),
                caller: caller.principal.clone(),
                token,
            };
            let room = connection.traffic.take_room(&head.headers)?;
            // Whether an endpoint is another tenant's or does not exist: the same steps, the same
            // answer.
            let directory = if own { &self.directory } else { &self.nowhere };
            let open = self.limits.open.0;
            let caller_host = host(&authority);
            let interim = (version == Version::HTTP_11).then_some(InterimTo {
                traffic: &connection.traffic,
                progress: &record.progress,
                host: caller_host,
            });
            let finder = Finder {
                directory,
                tenant: &tenant,
                endpoint: &head.endpoint,
                name: None,
            };
            let forwarded = forward(finder, &head, &mut upload, interim, leave, open).await;
            drop(room);
            let forwarded = forwarded.map_err(|problem| match connection.traffic.refused() {
                Some(violation) => violation.into(),
                None => problem,
            })?;

            let answer = forwarded.head;
            if let (Some(protocol), Some(upgrade), Some(mut send)) =
                (&head.upgrade, on_upgrade, forwarded.send)
            {
                if answer.status == StatusCode::SWITCHING_PROTOCOLS {
                    let headers = headers::of_response(answer.headers, false, Some(caller_host));
                    let response = upgrade::switched(version, protocol, headers);
                    let passage = Passage {
                        upgrade,
                        stream: Stream {
                            send,
                            recv: forwarded.recv,
                        },
                        leave: forwarded.leave,
                        cut: Cut::of_protocol(protocol),
                        stall: self.limits.stall.0,
                    };
                    return Ok(Answer::Passage(response, passage));
                }
                // Nothing follows the request. If that cannot be said, it shows in the answer.
                let _ = send.finish();
                if version == Version::HTTP_2 && answer.status.is_success() {
                    // There it would mean that it has switched.
                    return Err(upgrade::stays_with_http());
                }
            }
            let (response, length) = answer::head(answer, to_head, Some(caller_host));
            let body = RecvBody::new(forwarded.recv, length);
            let throttle = record.throttle();
            let download = Download::new(body, forwarded.uploading, forwarded.leave, throttle);
            Ok(Answer::Upstream(response, download))
        }
    }
}

/// An answer without its record.
pub(super) enum Answer {
    Own(Response<Bytes>),
    Upstream(Response<()>, Download),
    /// From here on it is bytes.
    Passage(Response<()>, Passage),
}

impl Answer {
    fn finish(
        self,
        connection: &Arc<Connection>,
        version: Version,
        mut record: CallRecord,
    ) -> Response<AnswerBody> {
        let call = record.call;
        let mut response = match self {
            Self::Own(response) => {
                record.on_answer(response.status());
                response.map(|text| AnswerBody::text(text, record))
            }
            Self::Upstream(response, download) => {
                record.on_answer(response.status());
                response.map(|()| AnswerBody::stream(download, version, record))
            }
            Self::Passage(response, passage) => {
                record.on_answer(response.status());
                let grip = Grip::take(version, &connection.traffic, &connection.breaker);
                let carried = passage.carry(record, grip);
                if version == Version::HTTP_2 {
                    tokio::spawn(carried);
                } else {
                    connection.traffic.leave_afterwards(carried);
                }
                response.map(|()| AnswerBody::none())
            }
        };
        insert_call(response.headers_mut(), call);
        response
    }
}

/// Says in an answer of HTTP/1 that no other one follows.
fn say_last<B>(response: &mut Response<B>, version: Version, last: bool) {
    if version < Version::HTTP_2 && last {
        let close = HeaderValue::from_static("close");
        response.headers_mut().append(CONNECTION, close);
    }
}

/// The one spelling of the target that everybody behind here sees.
fn canonical(request: &Request<Upload>) -> Result<Bytes, Problem> {
    let target = request
        .uri()
        .path_and_query()
        .map_or("/", |target| target.as_str());
    // What it cannot know of an endpoint the relay allows: the agent decides.
    let target = CanonicalTarget::parse(target, PathOptions::ALL);
    let target = target
        .map_err(|error| Problem::bad_request(format!("the target is not accepted: {error}")))?;
    Ok(Bytes::copy_from_slice(target.as_str().as_bytes()))
}
