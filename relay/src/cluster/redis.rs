//! The registry in Redis or Valkey: a single server, one found by Sentinel, or a Cluster.
//!
//! ```text
//! PREFIX:nodes            set: NODE.PROCESS of each node that has an entry, and some that had one
//! PREFIX:node:NODE.PROCESS    {"version", "address", "leaving", "load"}  expires with the lease
//! PREFIX:routes:NODE.PROCESS  {"version", "routes": [...]}               expires with the lease
//! PREFIX:revocations      set: ID of each revocation about which there is a word, or was one
//! PREFIX:revocation:ID    {"lifted", "tenant", ...}          expires when the word is over
//! PREFIX:revoked          changes with every word
//! PREFIX:changes          channel: NODE.PROCESS whose entry has changed, or `revocations`
//! ```
//! The prefix is in braces, so that all keys are in one slot of a Cluster and can be set at once.

mod words;
mod written;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use culvert_config::cluster::{RedisDirectory, Topology};
use culvert_session::tls::install_provider;
use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisError, TlsCertificates, TlsMode, ToRedisArgs, Value, from_redis_value_ref, pipe,
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio::time::sleep;

use self::words::{MAX_WORD, Written};
use self::written::{Meta, Routes};
use super::PATIENCE;
use super::registry::{Entry, Heard, Instance, Load, Registry, RegistryError, Seen, Stamp};
use crate::revocations::sharing::{Says, Word};
use crate::revocations::{LONGEST, MAX_REVOCATIONS};

/// How long hints are done without after the engine did not take the subscription.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// Most names of nodes that are looked at.
const MAX_NAMES: usize = 4096;

/// Most words about revocations that are read: what a node says at most, twice.
const MAX_WORDS: usize = 4 * MAX_REVOCATIONS;

/// Words that are said or read at once.
const WORDS: usize = 128;

/// Entries in Redis.
pub(crate) struct RedisRegistry {
    prefix: String,
    server: Server,
    /// The connection for commands, while it works.
    connection: Mutex<Option<Connection>>,
    hints: Mutex<Option<PubSubStream>>,
}

impl fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRegistry")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// How the engine is found.
enum Server {
    Single(Client),
    Sentinel(Mutex<SentinelClient>),
    Cluster(ClusterClient),
}

#[derive(Clone)]
enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl RedisRegistry {
    /// For an engine as it is configured; connects when it is needed.
    pub(crate) fn new(config: &RedisDirectory) -> Result<Self, RedisError> {
        Ok(Self {
            prefix: format!("{{{}}}", config.prefix),
            server: Server::new(config)?,
            connection: Mutex::new(None),
            hints: Mutex::new(None),
        })
    }

    fn key(&self, kind: &str, instance: impl fmt::Display) -> String {
        format!("{}:{kind}:{instance}", self.prefix)
    }

    fn nodes(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    fn revocations(&self) -> String {
        format!("{}:revocations", self.prefix)
    }

    fn stamp(&self) -> String {
        format!("{}:revoked", self.prefix)
    }

    fn channel(&self) -> String {
        format!("{}:changes", self.prefix)
    }

    /// Runs commands on the connection, a new one if need be.
    async fn run<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RegistryError> {
        let mut held = self.connection.lock().await;
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => self.server.connect().await?,
        };
        let done = match &mut connection {
            Connection::Single(connection) => commands.query_async(connection).await,
            Connection::Cluster(connection) => commands.query_async(connection).await,
        };
        // A server that was a primary refuses what is written, and nothing shows that it will not
        // go on so: the next connection is a new one.
        if done.is_ok() {
            *held = Some(connection);
        }
        Ok(done?)
    }

    /// Takes names of what is over out of a set. That is tidying, and not what was asked for: an engine
    /// that takes no writes at the moment can still be read.
    async fn forget<N: ToRedisArgs>(&self, set: String, names: N) {
        let mut commands = pipe();
        commands.srem(set, names).ignore();
        let done: Result<(), _> = self.run(&commands).await;
        if let Err(error) = done {
            tracing::debug!("the registry is not tidied: {error}");
        }
    }

    async fn subscribe(&self) -> Result<Option<PubSubStream>, RedisError> {
        let client = match &self.server {
            Server::Single(client) => client.clone(),
            Server::Sentinel(sentinel) => sentinel.lock().await.async_get_client().await?,
            Server::Cluster(_) => return Ok(None),
        };
        let (mut sink, stream) = client.get_async_pubsub().await?.split();
        sink.subscribe(self.channel()).await?;
        Ok(Some(stream))
    }
}

impl Server {
    fn new(config: &RedisDirectory) -> Result<Self, RedisError> {
        // The client makes its own TLS, with the cryptography of the process.
        install_provider();
        let certificates = || TlsCertificates {
            client_tls: None,
            root_cert: config.ca.clone(),
        };
        let mut infos = Vec::new();
        for url in &config.urls {
            let info = url.as_str().into_connection_info()?;
            let mut settings = info.redis_settings().clone();
            if let Some(username) = &config.username {
                settings = settings.set_username(username);
            }
            if let Some(password) = &config.password {
                settings = settings.set_password(password.expose_secret());
            }
            infos.push(info.set_redis_settings(settings));
        }
        match &config.topology {
            Topology::Single => {
                let info = infos.remove(0);
                let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
                Ok(Self::Single(if tls {
                    Client::build_with_tls(info, certificates())?
                } else {
                    Client::open(info)?
                }))
            }
            Topology::Cluster => {
                let mut builder = ClusterClient::builder(infos)
                    .connection_timeout(TIMEOUT)
                    .response_timeout(TIMEOUT);
                if config.ca.is_some() {
                    builder = builder.certs(certificates());
                }
                Ok(Self::Cluster(builder.build()?))
            }
            Topology::Sentinel { primary } => {
                let addresses = infos.iter().map(|info| info.addr().clone());
                let tls = infos
                    .iter()
                    .any(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }));
                let mut builder = SentinelClientBuilder::new(
                    addresses,
                    primary.clone(),
                    SentinelServerType::Master,
                )?;
                if tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure);
                }
                if config.ca.is_some() {
                    builder = builder
                        .set_client_to_redis_certificates(certificates())
                        .set_client_to_sentinel_certificates(certificates());
                }
                if let Some(username) = &config.username {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = &config.password {
                    builder = builder.set_client_to_redis_password(password.expose_secret());
                }
                Ok(Self::Sentinel(Mutex::new(builder.build()?)))
            }
        }
    }

    async fn connect(&self) -> Result<Connection, RedisError> {
        // The library's own would give up after half a second.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(PATIENCE));
        Ok(match self {
            Self::Single(client) => Connection::Single(
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?,
            ),
            Self::Sentinel(sentinel) => Connection::Single(
                sentinel
                    .lock()
                    .await
                    .get_async_connection_with_config(&config)
                    .await?,
            ),
            Self::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        })
    }
}

/// How long one server of a Cluster, and a connection with any other, is waited for.
const TIMEOUT: Duration = Duration::from_secs(2);

impl From<RedisError> for RegistryError {
    fn from(error: RedisError) -> Self {
        Self::Engine(error.to_string())
    }
}

impl Registry for RedisRegistry {
    async fn publish(
        &self,
        entry: &Entry,
        load: Load,
        lease: Duration,
    ) -> Result<(), RegistryError> {
        let instance = &entry.instance;
        let lease = milliseconds(lease);
        let mut commands = pipe();
        commands
            .atomic()
            .pset_ex(
                self.key("routes", instance),
                Routes::of(entry).to_json(),
                lease,
            )
            .ignore()
            .pset_ex(
                self.key("node", instance),
                Meta::of(entry, load).to_json(),
                lease,
            )
            .ignore()
            .sadd(self.nodes(), instance.to_string())
            .ignore()
            .publish(self.channel(), instance.to_string())
            .ignore();
        self.run(&commands).await
    }

    async fn renew(
        &self,
        entry: &Entry,
        load: Load,
        lease: Duration,
    ) -> Result<bool, RegistryError> {
        let instance = &entry.instance;
        let lease = i64::try_from(milliseconds(lease)).unwrap_or(i64::MAX);
        let mut commands = pipe();
        commands
            .atomic()
            .pexpire(self.key("routes", instance), lease)
            .cmd("SET")
            .arg(self.key("node", instance))
            .arg(Meta::of(entry, load).to_json())
            .arg("XX")
            .arg("PX")
            .arg(lease)
            .sadd(self.nodes(), instance.to_string())
            .ignore();
        let (routes, node): (bool, Option<String>) = self.run(&commands).await?;
        Ok(routes && node.is_some())
    }

    async fn read(&self, known: &HashMap<Instance, u64>) -> Result<Vec<Seen>, RegistryError> {
        let (mut names,): (Vec<String>,) = self.run(pipe().smembers(self.nodes())).await?;
        if names.len() > MAX_NAMES {
            tracing::error!(
                names = names.len(),
                "there are more names of nodes in the registry than nodes look at: the rest is ignored"
            );
            names.truncate(MAX_NAMES);
        }
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = names.iter().map(|name| self.key("node", name)).collect();
        let (metas,): (Vec<Option<String>>,) = self.run(pipe().mget(keys)).await?;
        let mut seen = Vec::new();
        let mut ended = Vec::new();
        for (name, meta) in names.into_iter().zip(metas) {
            let Some(meta) = meta else {
                ended.push(name);
                continue;
            };
            // What others left there is not ours to judge.
            let Some(entry) = Instance::parse(&name).zip(Meta::parse(&meta)) else {
                continue;
            };
            let (entry, load) = entry.1.entry(entry.0);
            let unchanged = known.get(&entry.instance) == Some(&entry.version);
            seen.push(Seen {
                entry,
                load,
                unchanged,
            });
        }
        if !ended.is_empty() {
            self.forget(self.nodes(), ended).await;
        }
        self.read_routes(&mut seen).await?;
        Ok(seen)
    }

    async fn withdraw(&self, instance: &Instance) -> Result<(), RegistryError> {
        let mut commands = pipe();
        commands
            .atomic()
            .del(self.key("node", instance))
            .ignore()
            .del(self.key("routes", instance))
            .ignore()
            .srem(self.nodes(), instance.to_string())
            .ignore()
            .publish(self.channel(), instance.to_string())
            .ignore();
        self.run(&commands).await
    }

    async fn say(&self, words: &[Word]) -> Result<(), RegistryError> {
        for words in words.chunks(WORDS) {
            let mut commands = pipe();
            commands.atomic();
            for word in words {
                let set = commands.cmd("SET");
                set.arg(self.key("revocation", word.id));
                set.arg(Written::of(word).to_json());
                if word.says != Says::Lifted {
                    set.arg("NX");
                }
                if let Some(left) = word.left {
                    set.arg("PX").arg(milliseconds(left.min(LONGEST)).max(1));
                }
                set.ignore();
                commands
                    .sadd(self.revocations(), word.id.to_string())
                    .ignore();
            }
            let stamp = format!("{:032x}", fastrand::u128(..));
            commands
                .set(self.stamp(), stamp)
                .ignore()
                .publish(self.channel(), "revocations")
                .ignore();
            let () = self.run(&commands).await?;
        }
        Ok(())
    }

    async fn hear(&self, known: Option<&Stamp>) -> Result<Option<Heard>, RegistryError> {
        let (stamp,): (Stamp,) = self.run(pipe().get(self.stamp())).await?;
        if known == Some(&stamp) {
            return Ok(None);
        }
        let (mut names,): (Vec<String>,) = self.run(pipe().smembers(self.revocations())).await?;
        if names.len() > MAX_WORDS {
            tracing::error!(
                target: "culvert::security",
                words = names.len(),
                "there is more about revocations in the registry than nodes say: the rest is not read"
            );
            names.truncate(MAX_WORDS);
        }
        let mut words = Vec::new();
        for names in names.chunks(WORDS) {
            words.append(&mut self.read_words(names).await?);
        }
        Ok(Some(Heard { words, stamp }))
    }

    async fn hint(&self) {
        let mut hints = self.hints.lock().await;
        if let Some(stream) = &mut *hints {
            if stream.next().await.is_some() {
                return;
            }
            *hints = None;
        }
        loop {
            match self.subscribe().await {
                // What was missed until now is a hint too.
                Ok(Some(stream)) => {
                    *hints = Some(stream);
                    return;
                }
                Ok(None) => std::future::pending().await,
                Err(error) => {
                    tracing::debug!("no hints from the registry: {error}");
                    sleep(RESUBSCRIBE).await;
                }
            }
        }
    }
}

impl RedisRegistry {
    /// Adds the routes of what has changed; what is gone meanwhile is left out.
    async fn read_routes(&self, seen: &mut Vec<Seen>) -> Result<(), RegistryError> {
        let changed = seen.iter().filter(|seen| !seen.unchanged);
        let keys: Vec<_> = changed
            .map(|seen| self.key("routes", &seen.entry.instance))
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let (routes,): (Vec<Option<String>>,) = self.run(pipe().mget(keys)).await?;
        let mut routes = routes.into_iter();
        seen.retain_mut(|seen| {
            if seen.unchanged {
                return true;
            }
            let Some(read) = routes
                .next()
                .flatten()
                .and_then(|text| Routes::parse(&text))
            else {
                return false;
            };
            seen.entry.version = read.version;
            seen.entry.routes = read.routes();
            true
        });
        Ok(())
    }
}

impl RedisRegistry {
    /// The words with these names; forgets the names of those that are over.
    async fn read_words(&self, names: &[String]) -> Result<Vec<Word>, RegistryError> {
        let mut commands = pipe();
        for name in names {
            let key = self.key("revocation", name);
            // One byte more than the longest: what is cut off is no word.
            commands.getrange(&key, 0, MAX_WORD as isize).pttl(&key);
        }
        let read: Vec<Value> = self.run(&commands).await?;
        let (mut words, mut over) = (Vec::new(), Vec::new());
        for (name, read) in names.iter().zip(read.chunks_exact(2)) {
            let text: Vec<u8> = from_redis_value_ref(&read[0]).map_err(RedisError::from)?;
            let left: i64 = from_redis_value_ref(&read[1]).map_err(RedisError::from)?;
            match text.is_empty() {
                true => over.push(name.as_str()),
                // What others left there is not ours to judge.
                false => words.extend(Written::read(name, &text, left)),
            }
        }
        if !over.is_empty() {
            self.forget(self.revocations(), over).await;
        }
        Ok(words)
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
