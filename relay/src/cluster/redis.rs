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

mod room;
mod server;
mod words;
mod written;

use std::fmt;
use std::time::Duration;

use culvert_config::cluster::RedisDirectory;
use futures_util::StreamExt;
use redis::aio::PubSubStream;
use redis::{ErrorKind, FromRedisValue, Pipeline, RedisError, ToRedisArgs, pipe};
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::room::MAX_BYTES;
use self::server::{Connection, Server};
use self::written::{Meta, WrittenRoutes};
use super::registry::{
    Entry, Heard, Instance, Load, Registry, RegistryError, Route, Routes, Seen, Stamp,
};
use crate::revocations::sharing::Word;

/// How long the engine is waited for: for each answer, and for a connection with it where there is none.
const PATIENCE: Duration = Duration::from_secs(4);

/// Most names of nodes that are looked at.
const MAX_NAMES: usize = 4096;

/// How much of a node's routes is read at once, in bytes: what a slow engine gives in time.
const PIECE: usize = 1 << 20;

/// How often reading a node's routes is begun, where they change while they are read.
const TRIES: usize = 3;

/// Entries in Redis.
pub(crate) struct RedisRegistry {
    prefix: String,
    server: Server,
    /// The connections for commands, while they work: what keeps this node's lease waits for no other
    /// answer.
    telling: Mutex<Option<Connection>>,
    asking: Mutex<Option<Connection>>,
    hints: Mutex<Option<PubSubStream>>,
}

impl fmt::Debug for RedisRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisRegistry")
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisRegistry {
    /// For an engine as it is configured; connects when it is needed.
    pub(crate) fn new(config: &RedisDirectory) -> Result<Self, RedisError> {
        Ok(Self {
            prefix: format!("{{{}}}", config.prefix),
            server: Server::new(config)?,
            telling: Mutex::new(None),
            asking: Mutex::new(None),
            hints: Mutex::new(None),
        })
    }

    fn key(&self, kind: &str, instance: impl fmt::Display) -> String {
        format!("{}:{kind}:{instance}", self.prefix)
    }

    fn nodes(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    fn channel(&self) -> String {
        format!("{}:changes", self.prefix)
    }

    /// Runs commands that keep this node's entry.
    async fn tell<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RegistryError> {
        self.run_on(&self.telling, commands).await
    }

    /// Runs any others.
    async fn run<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, RegistryError> {
        self.run_on(&self.asking, commands).await
    }

    /// Runs commands on a connection, a new one if need be.
    async fn run_on<T: FromRedisValue>(
        &self,
        connection: &Mutex<Option<Connection>>,
        commands: &Pipeline,
    ) -> Result<T, RegistryError> {
        let mut held = connection.lock().await;
        let before = held.take();
        let (connection, answer) = in_time(async {
            let mut connection = match before {
                Some(connection) => connection,
                None => self.server.connect().await?,
            };
            let answer = connection.run(commands).await?;
            Ok((connection, answer))
        })
        .await?;
        // Only after an answer: a server that was a primary refuses what is written, and nothing shows that
        // it will not go on so. Then the next connection is a new one.
        *held = Some(connection);
        Ok(answer)
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
}

async fn in_time<T>(work: impl Future<Output = Result<T, RedisError>>) -> Result<T, RegistryError> {
    match timeout(PATIENCE, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(RegistryError::Timeout(PATIENCE)),
    }
}

impl From<RedisError> for RegistryError {
    fn from(error: RedisError) -> Self {
        match error.kind() {
            // What it has no name for in the library is said by the server too.
            ErrorKind::Server(_) | ErrorKind::Extension => Self::Refused(error.to_string()),
            _ => Self::Engine(error.to_string()),
        }
    }
}

impl Registry for RedisRegistry {
    fn fit(routes: Vec<Route>) -> Vec<Route> {
        room::fit(routes)
    }

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
                WrittenRoutes::of(entry).to_json(),
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
        self.tell(&commands).await
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
        let (routes, node): (bool, Option<String>) = self.tell(&commands).await?;
        Ok(routes && node.is_some())
    }

    async fn read(&self) -> Result<Vec<Seen>, RegistryError> {
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
            let read = Instance::parse(&name).zip(Meta::parse(&meta));
            seen.extend(read.map(|(instance, meta)| meta.seen(instance)));
        }
        if !ended.is_empty() {
            self.forget(self.nodes(), ended).await;
        }
        Ok(seen)
    }

    async fn routes(&self, instance: &Instance) -> Result<Option<Routes>, RegistryError> {
        for _ in 0..TRIES {
            if let Some(text) = self.read_routes(instance).await? {
                return Ok(WrittenRoutes::parse(&text).map(WrittenRoutes::routes));
            }
        }
        tracing::debug!(%instance, "the routes of a node change faster than they can be read");
        Ok(None)
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
        self.tell(&commands).await
    }

    async fn say(&self, words: &[Word]) -> Result<(), RegistryError> {
        self.say_words(words).await
    }

    async fn hear(&self, known: Option<&Stamp>) -> Result<Option<Heard>, RegistryError> {
        self.hear_words(known).await
    }

    async fn hint(&self) -> Result<(), RegistryError> {
        let mut hints = self.hints.lock().await;
        if let Some(stream) = &mut *hints {
            if stream.next().await.is_some() {
                return Ok(());
            }
            *hints = None;
            return Err(RegistryError::Engine("the subscription has ended".into()));
        }
        let channel = self.channel();
        match in_time(self.server.subscribe(&channel)).await? {
            // What was missed until now is a hint too.
            Some(stream) => *hints = Some(stream),
            None => std::future::pending().await,
        }
        Ok(())
    }
}

impl RedisRegistry {
    /// The text of a node's routes, piece by piece; `None`: it was written anew meanwhile.
    async fn read_routes(&self, instance: &Instance) -> Result<Option<Vec<u8>>, RegistryError> {
        let (node, routes) = (self.key("node", instance), self.key("routes", instance));
        let (mut text, mut version) = (Vec::new(), None);
        loop {
            // Both are always written together, so pieces beside one version are of one text.
            let mut commands = pipe();
            let (from, to) = (text.len(), text.len() + PIECE - 1);
            commands
                .atomic()
                .get(&node)
                .getrange(&routes, from as isize, to as isize);
            let (meta, mut piece): (Option<String>, Vec<u8>) = self.run(&commands).await?;
            let read = meta.and_then(|meta| Meta::parse(&meta));
            let read = read.map(|meta| meta.version);
            if *version.get_or_insert(read) != read {
                return Ok(None);
            }
            let is_last = piece.len() < PIECE;
            text.append(&mut piece);
            if is_last {
                return Ok(Some(text));
            }
            if text.len() >= MAX_BYTES {
                tracing::error!(%instance, "the routes of a node take {MAX_BYTES} bytes or more: they are not read");
                return Ok(Some(Vec::new()));
            }
        }
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
