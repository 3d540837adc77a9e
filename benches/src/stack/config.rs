//! The configuration files of all the parts.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use super::Settings;
use super::cluster::Cluster;
use super::files::write_private;
use crate::load::Failure;
use crate::token;

/// The addresses of all the parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    /// The relay's public address.
    pub(super) public: SocketAddr,
    /// Its admin listener.
    pub(super) admin: SocketAddr,
    /// The nginx in the relay's place, and the one in the agent's.
    pub(super) edge: SocketAddr,
    pub(super) inner: SocketAddr,
    /// The upstream, and what takes its uploads.
    pub(super) upstream: SocketAddr,
    pub(super) sink: SocketAddr,
    /// The token endpoint.
    pub(super) issuer: SocketAddr,
}

/// `server` blocks of the upstream: files, and a place for uploads.
pub(super) fn upstream(at: &Addresses) -> String {
    format!(
        "server {{ listen {} ssl; {TLS} root files;\n\
         client_max_body_size 0; location /sink {{ proxy_pass http://{}; \
         proxy_http_version 1.1; proxy_request_buffering off; }} }}",
        at.upstream, at.sink
    )
}

/// `server` blocks of an nginx that passes everything on to `next`.
pub(super) fn proxy(listen: SocketAddr, next: SocketAddr) -> String {
    format!(
        "upstream next {{ server {next}; keepalive 128; }}\n\
         map $http_upgrade $connection_to_next {{ default upgrade; '' ''; }}\n\
         server {{ listen {listen} ssl http2; {TLS} keepalive_requests 1000000;\n\
         location / {{ proxy_pass https://next; proxy_http_version 1.1;\n\
         proxy_set_header Connection $connection_to_next; proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Host localhost;\n\
         proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.pem;\n\
         proxy_ssl_name localhost; proxy_ssl_server_name on;\n\
         proxy_max_temp_file_size 0; proxy_request_buffering off;\n\
         client_max_body_size 0; }} }}"
    )
}

const TLS: &str = "ssl_certificate server.pem; ssl_certificate_key server.key;";

/// A whole configuration of nginx around `servers`; `name` tells its files from another's.
pub(super) fn nginx(name: &str, servers: &str) -> String {
    format!(
        "daemon off; worker_processes 2; pid {name}.pid; error_log {name}.err warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log {name}.access; client_body_temp_path {name}.body;\n\
         proxy_temp_path {name}.proxy; fastcgi_temp_path {name}.f; uwsgi_temp_path {name}.u;\n\
         scgi_temp_path {name}.s; keepalive_requests 1000000; tcp_nodelay on;\n\
         ssl_protocols TLSv1.2 TLSv1.3;\n{servers}\n}}\n"
    )
}

/// Writes what relay and agent are started with; `dial` is the port at which the agent finds
/// the relay.
pub(super) fn write(
    folder: &Path,
    at: &Addresses,
    dial: u16,
    cluster: Option<&Cluster>,
    settings: &Settings<'_>,
) -> Result<(), Failure> {
    let domain = settings.domain();
    let peers = cluster.map(|cluster| cluster.settings(cluster.first));
    let peers = peers.unwrap_or_default();
    let first = relay("relay", at.public, at.admin, peers, settings);
    fs::write(folder.join("relay.toml"), first)?;
    if let Some(cluster) = cluster {
        for node in &cluster.others {
            let peers = cluster.settings(node.peer);
            let other = relay(node.name, node.public, node.admin, peers, settings);
            fs::write(folder.join(format!("{}.toml", node.name)), other)?;
        }
    }
    let lanes = match settings.lanes {
        0 | 1 => String::new(),
        lanes => format!("lanes = {lanes}\n"),
    };
    let agent = format!(
        "[relay]\nurl = \"wss://{domain}:{dial}\"\nsessions = 1\nca = \"ca.pem\"\n{lanes}\n\
         [oauth]\ngrant = \"client_credentials\"\ntoken_url = \"http://{}/token\"\n\
         client_id = \"agent\"\nclient_secret_file = \"secret\"\naudience = \"culvert\"\n\n\
         [[endpoint]]\nname = \"api\"\nupstream = \"https://localhost:{}\"\n\
         ca = \"ca.pem\"\nmode = [\"http\", \"connect\"]\nconnect = [\"{NAME}:443\"]\n\n\
         [policy]\nfile = \"policy.toml\"\n",
        at.issuer,
        at.upstream.port()
    );
    fs::write(folder.join("agent.toml"), agent)?;
    fs::write(folder.join("policy.toml"), policy())?;
    write_private(&folder.join("secret"), "bench")
}

/// The configuration of a relay; `peers`: what it says of others under `[listen]`, and as tables.
fn relay(
    name: &str,
    public: SocketAddr,
    admin: SocketAddr,
    peers: (String, String),
    settings: &Settings<'_>,
) -> String {
    let (domain, url) = (settings.domain(), token::ISSUER);
    let sessions = settings.sessions.map_or(String::new(), |sessions| {
        format!("\n[limits]\nsessions = {sessions}\ntenant_max_sessions = {sessions}\n")
    });
    let (listen, tables) = peers;
    format!(
        "domain = \"{domain}\"\nnode = \"{name}\"\n\n[listen]\npublic = \"{public}\"\n\
         admin = \"{admin}\"\n{listen}\n[tls]\ncertificate = \"server.pem\"\n\
         private_key = \"server.key\"\n\n[[issuer]]\nurl = \"{url}\"\naudience = \"culvert\"\n\
         algorithms = [\"ES256\"]\njwks = \"file:keys.json\"\n{tables}{sessions}{}",
        settings.quotas
    )
}

/// The upstream's own name, which callers may CONNECT to.
pub(super) const NAME: &str = "api.bench";

/// 100 rules, as a real policy has; the one that allows the bench's calls stands last.
fn policy() -> String {
    let mut text = String::from("version = 1\n");
    for number in 1..98 {
        text.push_str(&format!(
            "\n[[rule]]\nid = \"rule-{number}\"\naction = \"allow\"\nendpoint = [\"api\"]\n\
             method = [\"GET\", \"HEAD\"]\npath = [\"/api/v{number}/**\", \"/rest/{number}/*/vm\"]\n\
             caller = [\"director-*\"]\n"
        ));
    }
    text.push_str(
        "\n[[rule]]\nid = \"bytes\"\naction = \"allow\"\nendpoint = [\"api\"]\n\
         mode = [\"connect\"]\ncaller = [\"caller\"]\n\
         \n[[rule]]\nid = \"echo\"\naction = \"allow\"\nendpoint = [\"api\"]\n\
         method = [\"GET\"]\npath = [\"/echo\"]\ncaller = [\"caller\"]\n\
         upgrade = [\"websocket\"]\n\
         \n[[rule]]\nid = \"bench\"\naction = \"allow\"\nendpoint = [\"api\"]\n\
         method = [\"GET\", \"PUT\"]\npath = [\"/*\"]\ncaller = [\"caller\"]\n",
    );
    text
}
