//! How the engine is reached: a single server, one found by Sentinel, or a Cluster.

use std::time::Duration;

use culvert_config::cluster::{RedisDirectory, Topology};
use culvert_session::tls::install_provider;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisError, TlsCertificates, TlsMode,
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

/// How long one server of a Cluster, and a connection with any other, is waited for.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Quiet time after which the kernel asks whether the other end is still there, and how often; after that
/// many questions without an answer the connection is over.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// How the engine is found.
pub(super) enum Server {
    Single(Client),
    Sentinel(Mutex<SentinelClient>),
    Cluster(ClusterClient),
}

/// A connection for commands.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Server {
    /// As it is configured; nothing is connected yet.
    pub(super) fn new(config: &RedisDirectory) -> Result<Self, RedisError> {
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
            infos.push(info.set_redis_settings(settings).set_tcp_settings(tcp()));
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
                    .response_timeout(TIMEOUT)
                    .tcp_settings(tcp());
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
                )?
                .set_client_to_redis_tcp_settings(tcp())
                .set_client_to_sentinel_tcp_settings(tcp());
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

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Connection, RedisError> {
        // The library's own would give up after half a second; questions have an end anyway.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(None);
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

    /// What is published on a channel from now on; `None`: a Cluster is not asked for that.
    pub(super) async fn subscribe(
        &self,
        channel: &str,
    ) -> Result<Option<PubSubStream>, RedisError> {
        let client = match self {
            Self::Single(client) => client.clone(),
            Self::Sentinel(sentinel) => sentinel.lock().await.async_get_client().await?,
            Self::Cluster(_) => return Ok(None),
        };
        let (mut sink, stream) = client.get_async_pubsub().await?.split();
        sink.subscribe(channel).await?;
        Ok(Some(stream))
    }
}

impl Connection {
    pub(super) async fn run<T: FromRedisValue>(
        &mut self,
        commands: &Pipeline,
    ) -> Result<T, RedisError> {
        match self {
            Self::Single(connection) => commands.query_async(connection).await,
            Self::Cluster(connection) => commands.query_async(connection).await,
        }
    }
}

/// A subscription may be silent for long: without keep-alive nobody would ever notice that its other end is
/// gone.
fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    TcpSettings::default().set_keepalive(keepalive)
}
