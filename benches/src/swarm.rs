//! Thousands of agents in this process, each with a session of its own with a real relay, and
//! callers of theirs.
//!
//! Agent `i` belongs to tenant `t(i mod tenants)` and offers one endpoint, `e(i)`. It has no
//! upstream but answers itself: see `serve`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::{Control, Hello, Offer, Registration};
use culvert_proto::head::{BodyLength, CallHead, Head, Mode, ResponseHead};
use culvert_proto::limits::Limits;
use culvert_proto::mux::{self, Item};
use culvert_proto::names::EndpointName;
use culvert_session::dial::{DialTarget, dial};
use culvert_session::tls::{ServerTrust, TlsMin, client_tls};
use culvert_session::{Controls, Incoming, Session, SessionEvent, Stream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::load::{CULVERT_AUTHORIZATION, Failure, Refused};
use crate::stack::Stack;

/// Dials at once.
const DIALS: usize = 32;

/// A call that is never answered.
pub const HOLD: &str = "/hold";

/// A call whose body is taken and counted (PUT), or whose answer has as many bytes as the query
/// says (GET).
pub const BULK: &str = "/bulk";

/// The agents.
#[derive(Debug)]
pub struct Swarm {
    members: Vec<Member>,
    tenants: usize,
    held: Arc<AtomicUsize>,
}

impl Swarm {
    /// Connects and registers `count` agents of `tenants` tenants.
    pub async fn join(stack: &Stack, count: usize, tenants: usize) -> Result<Self, Failure> {
        let target = dial_target(stack, stack.culvert.address.port())?;
        let held = Arc::new(AtomicUsize::new(0));
        let mut members = Vec::with_capacity(count);
        let mut dials = JoinSet::new();
        for number in 0..count {
            if dials.len() == DIALS
                && let Some(session) = dials.join_next().await
            {
                members.push(session??);
            }
            let tenant = tenant(number, tenants);
            let name = format!("agent-{number}");
            let token = stack.keys.sign(&tenant, &name, "culvert:register")?;
            dials.spawn(agent(target.clone(), token, number, held.clone()));
        }
        while let Some(session) = dials.join_next().await {
            members.push(session??);
        }
        Ok(Self {
            members,
            tenants,
            held,
        })
    }

    /// How many sessions are still open.
    pub fn open(&self) -> usize {
        self.members.iter().filter(|one| one.0.is_open()).count()
    }

    /// How many calls are held by the agents now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A caller who may call every agent.
    pub async fn caller(&self, stack: &Stack) -> Result<Caller, Failure> {
        let tokens = (0..self.tenants).map(|number| {
            let tenant = tenant(number, self.tenants);
            let token = stack.keys.sign(&tenant, "caller", "culvert:call")?;
            Ok(HeaderValue::try_from(format!("Bearer {token}"))?)
        });
        let tokens = tokens.collect::<Result<_, Failure>>()?;
        Caller::connect(stack, tokens).await
    }
}

/// A registered agent. Dropped, it leaves: the tasks that answer its calls would keep the session.
#[derive(Debug)]
pub struct Member(Session);

impl Member {
    /// Waits until its session ends.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.close(GoawayCode::Drain, "leaves");
    }
}

/// An agent that can join again and again.
#[derive(Debug)]
pub struct Recruit {
    target: DialTarget,
    token: String,
    number: usize,
    held: Arc<AtomicUsize>,
}

impl Recruit {
    /// Agent `number` of `tenants`, which finds the relay at `port` of loopback.
    pub fn new(stack: &Stack, port: u16, number: usize, tenants: usize) -> Result<Self, Failure> {
        let tenant = tenant(number, tenants);
        let name = format!("agent-{number}");
        Ok(Self {
            target: dial_target(stack, port)?,
            token: stack.keys.sign(&tenant, &name, "culvert:register")?,
            number,
            held: Arc::default(),
        })
    }

    /// Dials and registers. The session lasts as long as what this gives.
    pub async fn join(&self) -> Result<Member, Failure> {
        let (target, token) = (self.target.clone(), self.token.clone());
        agent(target, token, self.number, self.held.clone()).await
    }
}

fn dial_target(stack: &Stack, port: u16) -> Result<DialTarget, Failure> {
    let tls = client_tls(&ServerTrust::Ca(vec![stack.ca.clone()]), TlsMin::V13)?;
    Ok(DialTarget::new(&format!("wss://localhost:{port}"), tls)?)
}

fn tenant(number: usize, tenants: usize) -> String {
    format!("t{}", number % tenants)
}

/// One agent: gives its session once its endpoint is registered.
async fn agent(
    target: DialTarget,
    token: String,
    number: usize,
    held: Arc<AtomicUsize>,
) -> Result<Member, Failure> {
    let io = dial(&target, &token, "culvert-bench").await?;
    let config = mux::Config {
        side: mux::Side::Dialer,
        hello: Hello {
            min_version: mux::VERSION,
            max_version: mux::VERSION,
            features: 0,
            name: format!("agent-{number}"),
            instance: (number as u128).to_be_bytes(),
            software: "culvert-bench".to_owned(),
            max_streams: 4096,
            initial_window: 256 << 10,
            lane: None,
            slot: None,
        },
        limits: Limits {
            backlog: 4096,
            ..Limits::default()
        },
    };
    let (session, incoming, mut controls) = Session::spawn(io, config);
    let member = Member(session);
    let session = &member.0;
    session.ready().await?;
    session.send_control(&Control::Register {
        request: 1,
        offers: vec![Offer {
            endpoint: EndpointName::new(&format!("e{number}"))?,
            modes: vec![Mode::Http],
            connect: Vec::new(),
            priority: None,
        }],
    })?;
    registered(&mut controls).await?;
    tokio::spawn(async move { while controls.recv().await.is_some() {} });
    tokio::spawn(accept(incoming, held));
    Ok(member)
}

async fn registered(controls: &mut Controls) -> Result<(), Failure> {
    loop {
        match controls.recv().await {
            Some(SessionEvent::Control(Control::Registered { results, .. })) => {
                return match &results[..] {
                    [Registration { refused: None, .. }] => Ok(()),
                    other => Err(format!("not registered: {other:?}").into()),
                };
            }
            Some(_) => {}
            None => return Err("the session ended before the registration".into()),
        }
    }
}

async fn accept(mut incoming: Incoming, held: Arc<AtomicUsize>) {
    while let Some((head, stream)) = incoming.accept().await {
        let held = held.clone();
        // A call that fails is the caller's to report.
        tokio::spawn(async move { serve(head, stream, &held).await });
    }
}

/// Answers [`BULK`], holds [`HOLD`], and says "ok" to everything else.
async fn serve(head: CallHead, mut stream: Stream, held: &AtomicUsize) -> Result<(), Failure> {
    let target = std::str::from_utf8(&head.target)?;
    let bytes = match target.split_once('?') {
        _ if target == HOLD => {
            held.fetch_add(1, Ordering::Relaxed);
            stream.send.stopped().await;
            held.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        Some((BULK, bytes)) => bytes.parse()?,
        _ => {
            if head.method == Method::PUT {
                while !matches!(stream.recv.item().await?, Item::Finished) {}
            }
            2
        }
    };
    let answer = Head::Response(ResponseHead {
        status: StatusCode::OK,
        phrase: None,
        headers: HeaderMap::new(),
        body: BodyLength::Exact(bytes),
    });
    stream.send.send_head(&answer).await?;
    let mut left = bytes;
    while left > 0 {
        let length = left.min(16 << 10);
        let chunk = Bytes::from_static(&[0; 16 << 10]).slice(..length as usize);
        stream.send.write_bytes(chunk).await?;
        left -= length;
    }
    stream.send.finish()?;
    Ok(())
}

/// One HTTP/2 connection of a caller.
#[derive(Debug, Clone)]
pub struct Caller {
    send: SendRequest<Full<Bytes>>,
    /// A token for each tenant.
    tokens: Vec<HeaderValue>,
}

impl Caller {
    async fn connect(stack: &Stack, tokens: Vec<HeaderValue>) -> Result<Self, Failure> {
        let mut tls = (*stack.culvert.tls).clone();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(stack.culvert.address).await?;
        tcp.set_nodelay(true)?;
        let tls = TlsConnector::from(Arc::new(tls))
            .connect(ServerName::try_from("localhost")?, tcp)
            .await?;
        let (send, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(tls))
            .await?;
        tokio::spawn(connection);
        Ok(Self { send, tokens })
    }

    /// Calls agent `number`; its answer must be 200. Gives the length of the answer's body.
    pub async fn call(
        &mut self,
        number: usize,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<u64, Failure> {
        let tenant = number % self.tokens.len();
        let request = Request::builder()
            .method(method)
            .uri(format!("https://e{number}--t{tenant}.localhost{path}"))
            .header(CULVERT_AUTHORIZATION, &self.tokens[tenant])
            .body(Full::new(body))?;
        self.send.ready().await?;
        let response = self.send.send_request(request).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut bytes = 0;
        let mut last = Bytes::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes += data.len() as u64;
                last = data;
            }
        }
        if status == StatusCode::OK {
            Ok(bytes)
        } else {
            Err(Refused { status, body: last }.into())
        }
    }
}
