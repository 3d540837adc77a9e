//! Wiring: from a checked configuration to a running agent.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use culvert_config::proxy::Proxies;
use culvert_config::{AgentConfig, ConfigError};
use culvert_identity::{Proxying, TokenSource};
use culvert_process::background::Background;
use culvert_process::descriptors::{self, Room};
use culvert_process::files::ReadOnce;
use culvert_process::signals::EndSignals;
use culvert_process::workers::{Workers, processors};
use culvert_proto::control::Hello;
use culvert_proto::growth::GrowthBudget;
use culvert_proto::limits::Limits;
use culvert_proto::mux;
use culvert_session::dial::DialTarget;
use culvert_session::proxy::HttpProxy;
use sd_notify::NotifyState;
use secrecy::ExposeSecret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, AdminError, Desk};
use crate::audit::Audit;
use crate::connect::{Link, LiveSessions, RelayTrust, SOFTWARE, Slot};
use crate::diagnose::Diagnosis;
use crate::drain::drain;
use crate::files::Files;
use crate::register;
use crate::reload::PolicySource;
use crate::serve::{Accounts, CallerChecks, Serving};
use crate::tokens::{self, GrantError};

/// How often idle upstream connections are looked at.
const SWEEP: Duration = Duration::from_secs(5);

/// An agent that could run: every file was read.
pub(crate) struct App {
    file: ReadOnce,
    config: AgentConfig,
    policy: Arc<PolicySource>,
    callers: Option<Arc<CallerChecks>>,
    serving: Arc<Serving>,
    relay: RelayTrust,
    target: DialTarget,
}

/// The agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("the runtime cannot be started: {0}")]
    Runtime(io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error("the system gives no random numbers")]
    Random,
    #[error("{}: {}", .0.key(), .0)]
    Grant(#[from] GrantError),
    #[error("the audit log cannot be opened ({0}): check audit in agent.toml")]
    Audit(io::Error),
    #[error("audit.file: there is no folder {}; make it first", .0.display())]
    AuditFolder(PathBuf),
    #[error("{}: {}", .0.key(), .0)]
    Admin(#[from] AdminError),
    #[error("a task of the agent has failed ({0}): that is a defect, see the log")]
    Task(&'static str),
}

impl RunError {
    /// Whether the next start will fail as well, unless somebody changes something.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::Admin(error) => error.is_lasting(),
            Self::AuditFolder(_) => true,
            _ => false,
        }
    }
}

impl App {
    /// Reads `file` and everything that it names: policy, certificates, the system's roots.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let read = ReadOnce::new(file);
        let config = AgentConfig::load(file)?;
        let wrong = |key: &str, message: String| ConfigError::at_key(file, key, message);
        tokens::check(&config.oauth).map_err(|error| wrong(error.key(), error.to_string()))?;
        Admin::check(&config.admin).map_err(|error| wrong(error.key(), error.to_string()))?;
        let policy = Arc::new(PolicySource::load(&config.policy.file)?);
        let accounts = Accounts::new(Audit::new(&config.audit), &config.endpoints);
        let proxies = proxying(config.relay.proxy.clone());
        let callers = config
            .verify_callers
            .as_ref()
            .map(|callers| CallerChecks::new(callers, proxies))
            .transpose()
            .map_err(|error| wrong("verify_callers", error.to_string()))?
            .map(Arc::new);
        let domain = config.relay.url.host_str().unwrap_or_default();
        let serving = Serving::new(&config.endpoints, domain, policy.watch(), accounts)
            .map_err(|error| wrong(&error.key, error.to_string()))?;
        let serving = serving.verifying(callers.clone());
        let serving = Arc::new(serving);
        let relay = RelayTrust::new(config.relay.ca.as_deref());
        let tls = relay.load();
        let tls = tls.map_err(|error| wrong("relay.ca", error.to_string()))?;
        let target = DialTarget::new(config.relay.url.as_str(), tls)
            .map_err(|error| wrong("relay.url", error.to_string()))?;
        let target = match http_proxy(&config.relay.proxy, target.host(), target.port()) {
            Some(proxy) => target.through(proxy),
            None => target,
        };
        Ok(Self {
            file: read,
            config,
            policy,
            callers,
            serving,
            relay,
            target,
        })
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// What must be there when the agent runs, and is not yet.
    pub(crate) fn shortcomings(&self) -> Vec<String> {
        let folder = self.config.audit.missing_folder();
        let folder = folder.map(|folder| {
            format!(
                "there is no folder {} for audit.file; `run` ends without it (the systemd unit makes \
                 /var/log/culvert-agent when it starts the agent)",
                folder.display()
            )
        });
        folder.into_iter().collect()
    }

    /// What `culvert-agent diagnose` tries.
    pub(crate) fn diagnosis(self) -> Result<Diagnosis, RunError> {
        Ok(Diagnosis {
            grant: tokens::grant(
                &self.config.oauth,
                proxying(self.config.relay.proxy.clone()),
            ),
            mux: session_config(&self.config)?,
            offers: register::offers(&self.config.endpoints),
            config: self.config,
            target: self.target,
            serving: self.serving,
        })
    }

    /// Runs until a signal asks for the end, then drains.
    pub(crate) async fn run(self) -> Result<(), RunError> {
        let mut signals = Signals::listen().map_err(RunError::Signals)?;
        make_room_for_calls(&self.config);
        if let Some(folder) = self.config.audit.missing_folder() {
            return Err(RunError::AuditFolder(folder.to_owned()));
        }
        let audit = &self.serving.accounts().audit;
        audit.start().map_err(RunError::Audit)?;
        let proxying = proxying(self.config.relay.proxy.clone());
        let grant = tokens::grant(&self.config.oauth, proxying)?;
        let (tokens, renewing) = TokenSource::new(grant.clone());
        let mut background = Background::default();
        background.spawn("token renewal", renewing);
        let live = Arc::new(LiveSessions::default());
        let desk = Desk {
            started: Instant::now(),
            relay: self.config.relay.url.to_string(),
            endpoints: self.config.endpoints.clone(),
            sessions: live.clone(),
            tokens: tokens.clone(),
            policy: self.policy.clone(),
            serving: self.serving.clone(),
        };
        let admin = Admin::bind(&self.config.admin, desk).await?;
        background.spawn("admin listener", admin.run());
        background.spawn("policy", self.policy.clone().keep());
        let files = Arc::new(Files {
            config: self.file,
            relay: self.relay,
            target: self.target.clone(),
            serving: self.serving.clone(),
            asked: Notify::new(),
        });
        background.spawn("files", files.clone().keep());
        if let Some(callers) = self.callers.clone() {
            background.spawn("issuers' keys", callers.keep(tokens.watch()));
        }
        let stop = CancellationToken::new();
        let link = Arc::new(Link {
            target: self.target,
            tokens: tokens.watch(),
            renew: Box::new(move || tokens.renew()),
            mux: session_config(&self.config)?,
            lanes: self.config.relay.lanes,
            offers: register::offers(&self.config.endpoints),
            serving: self.serving.clone(),
            reconnect: self.config.limits.reconnect.0,
            stop: stop.clone(),
            live,
        });
        let sessions = self.config.relay.sessions;
        let workers = usize::from(sessions).min(processors());
        let workers = Workers::start(workers).map_err(RunError::Runtime)?;
        let mut slots = Background::default();
        for number in 0..sessions {
            let slot = Slot::new(link.clone(), number);
            slots.spawn_on(workers.next(), "session", slot.keep());
        }
        tracing::info!(
            relay = %self.config.relay.url,
            sessions = self.config.relay.sessions,
            lanes = self.config.relay.lanes,
            endpoints = self.config.endpoints.len(),
            "{SOFTWARE} runs"
        );
        notify(&[NotifyState::Ready]);

        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let failed = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::End => break None,
                    Asked::Reload => {
                        self.policy.reload();
                        audit.reopen();
                        files.reload();
                    }
                },
                _ = sweep.tick() => {
                    self.serving.sweep();
                }
                // What is left of the agent ends in order, and another one takes its place.
                name = background.failed() => break Some(name),
                name = slots.failed() => break Some(name),
            }
        };
        notify(&[NotifyState::Stopping]);
        stop.cancel();
        self.serving.front().draining.cancel();
        slots.ended().await;
        let again = async { while !matches!(signals.next().await, Asked::End) {} };
        drain(
            &link.live.sessions(),
            self.serving.calls(),
            self.config.limits.drain.0,
            again,
        )
        .await;
        audit.close().await;
        // A refresh token that the disk has not taken yet is tried once more.
        drop(grant);
        failed.map_or(Ok(()), |name| Err(RunError::Task(name)))
    }
}

/// Makes room for the connections to upstreams of as many calls as there may be at once, and says so
/// where there is less. How many that is, upstreams decide too: HTTP/2 carries many on one.
fn make_room_for_calls(config: &AgentConfig) {
    let wanted = most_calls(config);
    let Room { files, connections } = descriptors::make_room_for(wanted, 1);
    if connections < wanted {
        tracing::warn!(
            files,
            calls = connections,
            wanted,
            "the system's limit of open files allows fewer calls at once than max_streams of the \
             endpoints and limits.streams_per_session do"
        );
    }
}

/// The most calls at once: as many as the sessions carry, and the endpoints take.
fn most_calls(config: &AgentConfig) -> usize {
    let carried = usize::from(config.relay.sessions)
        .saturating_mul(config.limits.streams_per_session as usize);
    let endpoints = config.endpoints.iter();
    let taken = endpoints.fold(0_usize, |taken, endpoint| {
        taken.saturating_add(endpoint.max_streams as usize)
    });
    carried.min(taken)
}

/// The corporate proxy on the way to `host`, where there is one.
fn http_proxy(proxies: &Proxies, host: &str, port: u16) -> Option<HttpProxy> {
    let found = proxies.for_host(host, port)?;
    let proxy = HttpProxy::new(found.host.clone(), found.port);
    Some(match &found.credential {
        Some((user, password)) => proxy.with_credential(user, password.expose_secret()),
        None => proxy,
    })
}

/// The same for the token issuer. What is asked without TLS (loopback addresses, in development)
/// is asked without a proxy.
fn proxying(proxies: Proxies) -> Proxying {
    Proxying::Chosen(Arc::new(move |url| {
        let host = url
            .host_str()?
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = url.port_or_known_default()?;
        let proxy = proxies
            .for_host(host, port)
            .filter(|_| url.scheme() == "https");
        proxy?.to_url()
    }))
}

/// Tells systemd, where it wants to know.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}

enum Asked {
    End,
    Reload,
}

struct Signals {
    ends: EndSignals,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            ends: EndSignals::listen()?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
    async fn next(&mut self) -> Asked {
        tokio::select! {
            () = self.ends.next() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

/// What this side of every session says of itself and bears with.
fn session_config(config: &AgentConfig) -> Result<mux::Config, RunError> {
    Ok(mux::Config {
        side: mux::Side::Dialer,
        hello: Hello {
            min_version: mux::VERSION,
            max_version: mux::VERSION,
            features: match config.verify_callers {
                Some(_) => mux::CALLER_TOKENS,
                None => 0,
            },
            name: config.oauth.client_id().to_owned(),
            instance: instance()?,
            software: SOFTWARE.to_owned(),
            max_streams: config.limits.streams_per_session,
            initial_window: 256 * 1024,
            lane: None,
            slot: None,
        },
        limits: Limits {
            // Calls that came and wait for a task of theirs: as many as there may be.
            backlog: config.limits.streams_per_session as usize,
            growth: GrowthBudget::new(config.limits.receive_buffer.0),
            waiting: GrowthBudget::new(config.limits.waiting_buffer.0),
            ..Limits::default()
        },
    })
}

/// A random id of this process: tells a relay a restarted agent from one that dialled twice.
fn instance() -> Result<[u8; 16], RunError> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| RunError::Random)?;
    Ok(id)
}
