//! `culvert-agent diagnose`: the way to the relay and to each upstream, step by step, by the very
//! code that `run` uses.

mod upstream;

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use culvert_config::AgentConfig;
use culvert_identity::{AccessToken, Grant};
use culvert_process::words::sentence;
use culvert_proto::code::GoawayCode;
use culvert_proto::control::{Control, Offer};
use culvert_proto::mux;
use culvert_session::dial::{self, DialError, DialPhase, DialTarget};
use culvert_session::{Session, SessionEvent};
use rustls::ProtocolVersion;
use tokio::time::timeout;

use crate::certificate::{self, Facts};
use crate::connect::{GREETING_TIMEOUT, SOFTWARE};
use crate::register::{ANSWER_TIMEOUT, Registrations};
use crate::serve::Serving;
use crate::tokens::GrantError;

/// How long a call that came in meanwhile may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is tried.
pub(crate) struct Diagnosis {
    pub(crate) config: AgentConfig,
    pub(crate) target: DialTarget,
    pub(crate) grant: Result<Grant, GrantError>,
    pub(crate) mux: mux::Config,
    pub(crate) offers: Vec<Offer>,
    pub(crate) serving: Arc<Serving>,
}

impl Diagnosis {
    /// Tries everything, tells each step to `out`, and whether all went well.
    ///
    /// # Errors
    /// Not all of it could be told.
    pub(crate) async fn run(self, out: &mut impl Write) -> io::Result<bool> {
        let mut report = Report {
            out,
            failures: 0,
            unwritten: None,
        };
        let reaches = self.connection(&mut report).await;
        let token = self.token(&mut report).await;
        match (reaches, token) {
            (true, Some(token)) => self.session(&token, &mut report).await,
            _ => {
                report.skipped("websocket", "needs TLS with the relay, and a token");
                report.skipped("registration", "needs a session");
            }
        }
        for endpoint in &self.config.endpoints {
            if let Some(upstream) = self.serving.upstream(&endpoint.name) {
                upstream::probe(endpoint, upstream, &mut report).await;
            }
        }
        report.end()
    }

    /// DNS, corporate proxy, TLS.
    async fn connection(&self, report: &mut Report<'_, impl Write>) -> bool {
        let (host, port) = (self.target.host(), self.target.port());
        let tcp = match dial::connect(&self.target, SOFTWARE).await {
            Ok(tcp) => tcp,
            Err(error) => {
                self.no_connection(&error, report);
                return false;
            }
        };
        match self.target.proxy() {
            None => {
                let address = tcp
                    .peer_addr()
                    .map_or_else(|_| "?".into(), |a| a.to_string());
                report.passed("dns", &format!("{host} port {port} answers at {address}"));
                report.passed("proxy", "none on this way");
            }
            Some(proxy) => {
                report.passed("dns", &format!("{host} is resolved by the proxy"));
                report.passed(
                    "proxy",
                    &format!("{proxy} opened a tunnel to {host} port {port}"),
                );
            }
        }
        let error = match dial::secure(&self.target, tcp).await {
            Ok(tls) => {
                let version = tls.get_ref().1.protocol_version();
                report.passed("tls", &format!("{} with {host}", version_word(version)));
                return true;
            }
            Err(error) => error,
        };
        report.failed("tls", &error.to_string(), error.advice());
        // What was shown instead tells an intercepting proxy from a wrong CA file.
        if let Ok(tcp) = dial::connect(&self.target, SOFTWARE).await {
            let name = self.target.server_name().clone();
            let shown = timeout(FAREWELL, certificate::shown(tcp, name)).await;
            if let Ok(Ok(chain)) = shown {
                report.certificates(&chain);
            }
        }
        false
    }

    fn no_connection(&self, error: &DialError, report: &mut Report<'_, impl Write>) {
        let (text, advice) = (error.to_string(), error.advice());
        match error.phase() {
            DialPhase::Proxy => {
                report.passed("dns", "left to the proxy");
                report.failed("proxy", &text, advice);
            }
            DialPhase::Dns => report.failed("dns", &text, advice),
            DialPhase::Tcp | DialPhase::Tls | DialPhase::WebSocket => {
                report.passed("dns", &format!("{} resolves", self.target.host()));
                report.passed("proxy", "none on this way");
                report.failed("tcp", &text, advice);
            }
        }
        report.skipped("tls", "needs a connection");
    }

    async fn token(&self, report: &mut Report<'_, impl Write>) -> Option<AccessToken> {
        let grant = match &self.grant {
            Ok(grant) => grant,
            Err(error) => {
                report.failed("token", &format!("{}: {error}", error.key()), "");
                return None;
            }
        };
        match grant.obtain().await {
            Ok(token) => {
                let text = match grant {
                    Grant::TokenFile(file) => {
                        format!("read from {}; the relay will judge it", file.display())
                    }
                    _ => format!(
                        "the issuer gave one that lives {} s",
                        token.lifetime.as_secs()
                    ),
                };
                report.passed("token", &text);
                Some(token)
            }
            Err(error) => {
                report.failed("token", &error.to_string(), "");
                None
            }
        }
    }

    /// WebSocket and registration.
    async fn session(&self, token: &AccessToken, report: &mut Report<'_, impl Write>) {
        let io = match dial::dial(&self.target, token.expose(), SOFTWARE).await {
            Ok(io) => io,
            Err(error) => {
                report.failed("websocket", &error.to_string(), error.advice());
                report.skipped("registration", "needs a session");
                return;
            }
        };
        let (session, incoming, mut controls) = Session::spawn(io, self.mux.clone());
        let hello = match timeout(GREETING_TIMEOUT, session.ready()).await {
            Ok(Ok(hello)) => hello,
            Ok(Err(error)) => {
                report.failed("websocket", &format!("the session ended: {error}"), "");
                return;
            }
            Err(_) => {
                let advice = "something between here and the relay holds messages back";
                report.failed("websocket", "the relay did not greet", advice);
                return;
            }
        };
        let node: Arc<str> = hello.name.escape_debug().to_string().into();
        report.passed("websocket", &format!("relay node {node} took the token"));
        // The relay may send calls from here on; they are served like any other.
        tokio::spawn(self.serving.clone().serve(incoming, node.clone()));
        let mut registrations = Registrations::new(&self.offers, &node);
        let answered = async {
            registrations
                .offer(&session)
                .map_err(|error| error.to_string())?;
            loop {
                match controls.recv().await {
                    Some(SessionEvent::Control(Control::Registered { request, results })) => {
                        registrations.on_registered(request, &results);
                        if registrations.is_answered() {
                            return Ok(results);
                        }
                    }
                    Some(_) => {}
                    None => return Err("the session ended".to_owned()),
                }
            }
        };
        match timeout(ANSWER_TIMEOUT, answered).await {
            Ok(Ok(results)) => {
                for offer in &self.offers {
                    let endpoint = offer.endpoint.as_str();
                    let result = results.iter().find(|r| r.endpoint == offer.endpoint);
                    let refused = match result {
                        Some(result) => result.refused.as_deref(),
                        None => Some("the relay's answer does not mention it"),
                    };
                    match refused {
                        None => report.passed("registration", endpoint),
                        Some(reason) => {
                            let text = format!("{endpoint}: refused: {}", sentence(reason));
                            let advice = "check the endpoints claim and the scope of the agent's \
                                          token at the issuer";
                            report.failed("registration", &text, advice);
                        }
                    }
                }
            }
            Ok(Err(error)) => report.failed("registration", &error, "see the relay's log"),
            Err(_) => report.failed("registration", "the relay did not answer", "see its log"),
        }
        session.drain(Duration::ZERO);
        let _ = timeout(FAREWELL, crate::drain::emptied(&session)).await;
        session.close(GoawayCode::Drain, "only a diagnosis");
    }
}

fn version_word(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "TLS",
    }
}

/// One line a step, as it happens.
struct Report<'o, W> {
    out: &'o mut W,
    failures: usize,
    /// Why it cannot be told.
    unwritten: Option<io::Error>,
}

impl<W: Write> Report<'_, W> {
    fn say(&mut self, line: impl Display) {
        let written = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
        // A reader that has gone away has read enough.
        if let Some(error) = written
            .err()
            .filter(|e| e.kind() != io::ErrorKind::BrokenPipe)
        {
            self.unwritten.get_or_insert(error);
        }
    }

    fn line(&mut self, outcome: &str, step: &str, text: &str) {
        self.say(format_args!("{outcome:<5} {step:<14} {text}"));
    }

    fn passed(&mut self, step: &str, text: &str) {
        self.line("ok", step, text);
    }

    fn skipped(&mut self, step: &str, why: &str) {
        self.line("skip", step, why);
    }

    fn failed(&mut self, step: &str, text: &str, advice: &str) {
        self.failures += 1;
        self.line("FAIL", step, text);
        if !advice.is_empty() {
            self.say(format_args!("      what to do: {advice}"));
        }
    }

    fn certificates(&mut self, chain: &[rustls_pki_types::CertificateDer<'_>]) {
        for (number, certificate) in chain.iter().enumerate() {
            let facts = Facts::of(certificate).to_string();
            self.say(format_args!("      certificate {}", number + 1));
            for line in facts.lines() {
                self.say(format_args!("      {line}"));
            }
        }
    }

    fn end(mut self) -> io::Result<bool> {
        match self.failures {
            0 => self.say("everything works"),
            1 => self.say("1 step failed"),
            many => self.say(format_args!("{many} steps failed")),
        }
        self.unwritten.map_or(Ok(self.failures == 0), Err)
    }
}
