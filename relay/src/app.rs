//! Wiring: from a configuration to a running node.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use culvert_config::relay::RelayTls;
use culvert_config::{ConfigError, RelayConfig};
use culvert_http::Alpn;
use culvert_identity::{Proxying, Verifier};
use culvert_process::background::Background;
use culvert_process::files::ReadOnce;
use culvert_process::signals::EndSignals;
use culvert_process::workers::Workers;
use culvert_session::tls::TlsConfigError;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, timeout};

use crate::admin::{self, Admin};
use crate::cluster::Membership;
use crate::descriptors;
use crate::directory::Directory;
use crate::drain::{self, Ending};
use crate::edge::{CertificateCallers, Edge, Parts};
use crate::handshakes::Handshakes;
use crate::listener::{Listener, Terms};
use crate::metrics::Metrics;
use crate::node::Node;
use crate::revocations::Revocations;
use crate::revocations::enforce::enforce;
use crate::sessions::{self, Agents};
use crate::strangers::Strangers;
use crate::tenants::Tenants;
use crate::tls::{self, PublicTls};

/// How often the node forgets what it has remembered for long enough.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// How long the service manager is kept waiting for a node whose issuers do not answer: the node
/// goes on trying, and its readiness says so.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(30);

/// A configuration with everything that it names loaded: nothing is wrong with it that can be
/// known without a network.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: ReadOnce,
    config: RelayConfig,
    tls: Arc<PublicTls>,
    certificates: Option<CertificateCallers>,
    verifier: Arc<Verifier>,
    cluster: Option<Membership>,
}

impl Prepared {
    /// Reads and checks `file` and the files that it names.
    pub(crate) fn load(file: &Path) -> Result<Self, ConfigError> {
        let read = ReadOnce::new(file);
        let config = RelayConfig::load(file)?;
        let wrong = |key: &str, message: String| ConfigError::at_key(file, key, message);
        let hosts = config.routes.iter().map(|route| route.host.as_str());
        let tls = PublicTls::load(&config.tls, &config.domain, hosts)
            .map_err(|error| wrong(&key_of(&error, &config.tls), error.to_string()))?;
        let verifier = culvert_trust::verifier(&config.issuers, Proxying::Environment)
            .map_err(|error| wrong("issuer", error.to_string()))?;
        let certificates = CertificateCallers::new(&config, tls.clone())
            .map_err(|error| wrong("caller", error.to_string()))?;
        let cluster = Membership::prepare(&config).map_err(|(key, message)| wrong(key, message))?;
        Ok(Self {
            file: read,
            cluster,
            config,
            tls,
            certificates,
            verifier: Arc::new(verifier),
        })
    }

    /// What the node runs with.
    pub(crate) fn config(&self) -> &RelayConfig {
        &self.config
    }

    /// What the node can run with, and clients or other nodes will not be content with.
    pub(crate) fn shortcomings(&self) -> Vec<String> {
        let idle = match (&self.cluster, self.config.listen.peer) {
            (None, Some(peer)) => vec![format!(
                "listen.peer ({peer}) does nothing beside directory.kind = \"memory\": with it a node is \
                 alone, and nodes find each other by kind = \"redis\""
            )],
            _ => Vec::new(),
        };
        let peers = self.cluster.as_ref();
        let peers = peers.map(|membership| membership.tls().shortcomings());
        [self.tls.shortcomings(), peers.unwrap_or_default(), idle].concat()
    }
}

/// The key of the file that an error is about.
fn key_of(error: &TlsConfigError, tls: &RelayTls) -> String {
    if error.is_about_key_in(&tls.private_key) {
        return "tls.private_key".to_owned();
    }
    if error.is_about_certificates_in(&tls.certificate) {
        return "tls.certificate".to_owned();
    }
    for (number, further) in (1..).zip(&tls.sni) {
        if error.is_about_key_in(&further.private_key) {
            return format!("tls.sni[{number}].private_key");
        }
        if error.is_about_certificates_in(&further.certificate) {
            return format!("tls.sni[{number}].certificate");
        }
    }
    match &tls.client_ca {
        Some(file) if error.is_about_certificates_in(file) => "tls.client_ca".to_owned(),
        _ => "tls.certificate".to_owned(),
    }
}

/// Why a node could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// No threads.
    #[error("the runtime cannot be started: {0}")]
    Runtime(io::Error),
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({key}): {error}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// Signals cannot be received.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    /// A part of the node has failed.
    #[error("a task of the node has failed ({0}): that is a defect, see the log")]
    Task(&'static str),
}

/// Runs a node until it is asked to stop, and drains it.
pub(crate) async fn run(prepared: Prepared, workers: Arc<Workers>) -> Result<(), RunError> {
    for shortcoming in prepared.shortcomings() {
        tracing::warn!("{shortcoming}");
    }
    let Prepared {
        file,
        config,
        tls,
        certificates,
        verifier,
        cluster,
    } = prepared;
    // First of all: a node that is asked to stop while it starts stops in good order too.
    let mut signals = EndSignals::listen().map_err(RunError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let limits = &config.limits;
    let connections = descriptors::make_room_for(limits.connections as usize);

    let metrics = Arc::new(Metrics::new());
    let directory = Arc::new(Directory::of_new_node(limits.offline_memory.0));
    let strangers = Strangers::new(limits, metrics.clone());
    let handshakes = Handshakes::new(limits, metrics.clone());
    let tenants = Tenants::new(limits, &config.tenants, metrics.clone());
    let tenants = Arc::new(tenants);
    let revocations = Arc::new(Revocations::default());
    let agents = Agents::new(
        &config.node,
        limits,
        sessions::Parts {
            verifier: verifier.clone(),
            directory: directory.clone(),
            strangers: strangers.clone(),
            handshakes: handshakes.clone(),
            tenants: tenants.clone(),
            revocations: revocations.clone(),
            metrics: metrics.clone(),
        },
    );
    let edge = Arc::new(Edge::new(
        &config.domain,
        &config.routes,
        limits,
        Parts {
            verifier: verifier.clone(),
            certificates,
            directory: directory.clone(),
            strangers: strangers.clone(),
            tenants: tenants.clone(),
            revocations: revocations.clone(),
            agents: agents.clone(),
            metrics: metrics.clone(),
        },
    ));
    let ending = Ending::default();
    let node = Arc::new(Node {
        name: config.node.clone(),
        started: Instant::now(),
        verifier: verifier.clone(),
        directory: directory.clone(),
        agents: agents.clone(),
        tenants: tenants.clone(),
        revocations: revocations.clone(),
        metrics: metrics.clone(),
        neighbours: cluster.is_some().then(Arc::default),
        ending: ending.clone(),
        listening: AtomicBool::new(false),
    });

    // Everything in here ends with this function.
    let mut background = Background::default();
    let joined = match (cluster, &config.peer) {
        (Some(membership), Some(peer)) => {
            let (tls, expiry) = (
                membership.tls().clone(),
                metrics.peers.certificate_expiry(&peer.tls.name),
            );
            let mut hangup = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
            let hangups = async move || {
                hangup.recv().await;
            };
            background.spawn("peer certificates", tls::keep_fresh(tls, expiry, hangups));
            let joining = membership.join(peer, &node, &workers).await;
            let joined = joining.map_err(|error| RunError::Listen {
                key: "listen.peer",
                address: peer.listen,
                error,
            })?;
            joined.hear_first().await;
            Some(joined)
        }
        _ => None,
    };

    let address = config.listen.admin;
    let admin = admin::bind(address, config.admin.clone(), tls.clone()).await;
    let admin = admin.map_err(|error| RunError::Listen {
        key: "listen.admin",
        address,
        error,
    })?;
    let admin = Admin::new(admin, node.clone());
    let address = config.listen.public;
    let terms = Terms {
        workers: workers.clone(),
        balancers: config.listen.proxy_protocol.clone().into(),
        tls: tls.clone(),
        handshake: limits.tls_handshake.0,
        connections,
        strangers,
        handshakes,
    };
    let listener =
        Listener::bind(address, terms, metrics.clone()).map_err(|error| RunError::Listen {
            key: "listen.public",
            address,
            error,
        })?;
    let proxy = match config.listen.proxy {
        None => None,
        Some(address) => {
            let key = "listen.proxy";
            let bound = listener.beside(address);
            let bound = bound.map_err(|error| RunError::Listen {
                key,
                address,
                error,
            })?;
            tracing::warn!(
                %address,
                "listen.proxy takes CONNECT in plain text: tokens and names can be read on the way; \
                 it is for private networks only"
            );
            Some(bound)
        }
    };
    node.listening.store(true, Ordering::Release);
    tracing::info!(
        node = config.node,
        domain = config.domain,
        public = listener.address().map(|address| address.to_string()).ok(),
        admin = %config.listen.admin,
        version = env!("CARGO_PKG_VERSION"),
        "the relay runs"
    );

    background.spawn("admin listener", admin.run());
    background.spawn("issuers' keys", verifier.keep_fresh());
    let hangups = async move || {
        hangup.recv().await;
        file.warn_if_changed();
    };
    let expiry = metrics.certificate_expiry.clone();
    background.spawn("certificates", tls::keep_fresh(tls, expiry, hangups));
    background.spawn("memory", forget(node.clone()));
    background.spawn("revocations", enforce(node.clone()));
    background.spawn("readiness", announce(node));
    let farewell = joined.map(|joined| joined.run_in(&mut background));
    if let Some(proxy) = proxy {
        let (edge, drained) = (edge.clone(), ending.drain.clone());
        let serve = move |connection, peer| {
            edge.clone()
                .serve_connection(connection, Alpn::Http1, peer, drained.clone())
        };
        background.spawn("listen.proxy", proxy.run_plain(ending.clone(), serve));
    }
    let drained = ending.drain.clone();
    let homes = edge.clone();
    let home = move |name: &str| homes.home_of(name);
    let serve = move |connection, alpn, peer| {
        edge.clone()
            .serve_connection(connection, alpn, peer, drained.clone())
    };
    background.spawn("listen.public", listener.run(ending.clone(), home, serve));

    let (signalled, failed) = tokio::select! {
        () = signals.next() => (true, None),
        () = ending.drain.cancelled() => (false, None),
        // What is left of the node ends in order, and another one takes its place.
        name = background.failed() => (true, Some(name)),
    };
    notify(&[NotifyState::Stopping]);
    let (limit, elsewhere) = (limits.drain.0, farewell.is_some());
    let mut draining = pin!(drain::drain(&ending, &agents, &metrics, limit, elsewhere));
    let again = async {
        if !signalled {
            // What told us to drain may well be followed by a signal to stop: that asks for no more.
            signals.next().await;
            tracing::info!("asked to stop: the node drains already");
        }
        signals.next().await;
    };
    tokio::select! {
        () = &mut draining => {}
        () = again => {
            tracing::warn!("asked again: what is left is given up");
            ending.hurry.cancel();
            draining.await;
        }
    }
    if let Some(farewell) = farewell {
        farewell.await;
    }
    failed.map_or(Ok(()), |name| Err(RunError::Task(name)))
}

/// Keeps the node's memory short.
async fn forget(node: Arc<Node>) {
    let mut ticks = interval(FORGET_INTERVAL);
    loop {
        ticks.tick().await;
        node.directory.forget_old();
        node.revocations.forget_old();
        node.tenants.forget_idle();
        node.count_revocations();
    }
}

/// Tells the service manager once the node is ready.
async fn announce(node: Arc<Node>) {
    let ready = async {
        let mut looks = interval(Duration::from_millis(100));
        while !node.is_ready() {
            looks.tick().await;
        }
    };
    let mut ready = pin!(ready);
    if timeout(ANNOUNCE_WITHIN, &mut ready).await.is_err() {
        let (_, why) = node.state();
        tracing::warn!(
            "the node is up, but not ready; it waits for {}",
            why.join(", ")
        );
        notify(&[
            NotifyState::Ready,
            NotifyState::Status("up, but not ready: see /readyz"),
        ]);
        ready.await;
    }
    tracing::info!("the node is ready");
    notify(&[NotifyState::Ready, NotifyState::Status("ready")]);
}

/// Tells systemd, where it wants to know.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}
