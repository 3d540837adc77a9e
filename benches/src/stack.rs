//! A complete installation on loopback, each part its own process: an nginx as upstream, and in
//! front of it once relay and agent, once two more nginx in a row, TLS on every hop.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

use crate::link::{Line, Link};
use crate::load::{self, Failure, Target};
use crate::process;
use crate::sink;
use crate::token;

/// The relay's domain in the bench.
const DOMAIN: &str = "localhost";

/// The sizes of the files that the upstream serves, by path.
pub const FILES: [(&str, u64); 3] = [("small", 200), ("medium", 16 << 10), ("large", 1 << 30)];

/// A running installation. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Stack {
    folder: TempDir,
    children: Vec<(&'static str, Child)>,
    /// The line between agent and relay, where there is one, and the same between the nginx.
    pub links: Option<[Link; 2]>,
    /// The way through relay and agent.
    pub culvert: Target,
    /// The way through nginx and nginx.
    pub nginx: Target,
}

impl Stack {
    /// Brings everything up; `programs` is the folder of `culvert-relay` and `culvert-agent`,
    /// `line` what lies
    /// between them; without one they are neighbours.
    pub async fn start(programs: &Path, line: Option<Line>) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let ca = certificates(folder.path())?;
        serve_files(folder.path())?;
        let [upstream, inner, edge, public, admin] = free_ports()?;

        let sink = sink::serve().await?;
        let mut children = Vec::new();
        let tls = "ssl_certificate server.pem; ssl_certificate_key server.key;";
        let files = format!(
            "server {{ listen 127.0.0.1:{upstream} ssl; {tls} root files;\n\
             client_max_body_size 0; location /sink {{ proxy_pass http://127.0.0.1:{sink}; \
             proxy_http_version 1.1; proxy_request_buffering off; }} }}"
        );
        children.push(("upstream", nginx(folder.path(), "upstream", &files)?));
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let links = match line {
            Some(line) => Some([
                Link::start(local(public), line)?,
                Link::start(local(inner), line)?,
            ]),
            None => None,
        };
        let [relay, far] = match &links {
            Some(links) => links.each_ref().map(|link| link.address().port()),
            None => [public, inner],
        };
        for (name, port, next) in [("inner", inner, upstream), ("edge", edge, far)] {
            let proxy = format!(
                "upstream next {{ server 127.0.0.1:{next}; keepalive 128; }}\n\
                 server {{ listen 127.0.0.1:{port} ssl; {tls} keepalive_requests 1000000;\n\
                 location / {{ proxy_pass https://next; proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\"; proxy_set_header Host localhost;\n\
                 proxy_ssl_verify on; proxy_ssl_trusted_certificate ca.pem;\n\
                 proxy_ssl_name localhost; proxy_ssl_server_name on;\n\
                 proxy_max_temp_file_size 0; proxy_request_buffering off;\n\
                 client_max_body_size 0; }} }}"
            );
            children.push((name, nginx(folder.path(), name, &proxy)?));
        }

        let keys = token::Keys::new()?;
        fs::write(folder.path().join("keys.json"), keys.jwks())?;
        let issuer = token::serve(keys.sign("agent", "culvert:register")?).await?;
        configure(folder.path(), public, admin, relay, issuer, upstream)?;
        for (name, program) in [("relay", "culvert-relay"), ("agent", "culvert-agent")] {
            let log = fs::File::create(folder.path().join(format!("{name}.log")))?;
            let child = Command::new(programs.join(program))
                .args(["run", "--config"])
                .arg(folder.path().join(format!("{name}.toml")))
                .env(
                    "RUST_LOG",
                    std::env::var("RUST_LOG").unwrap_or("info".into()),
                )
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .map_err(|error| format!("{program} in {}: {error}", programs.display()))?;
            children.push((name, child));
        }

        let mut headers = HeaderMap::new();
        let bearer = format!("Bearer {}", keys.sign("caller", "culvert:call")?);
        headers.insert("culvert-authorization", HeaderValue::from_str(&bearer)?);
        let tls = client_tls(&ca)?;
        let target = |port: u16, host: &str, headers: HeaderMap| Target {
            address: local(port),
            host: host.to_owned(),
            headers,
            tls: tls.clone(),
        };
        let culvert = target(public, &format!("api--bench.{DOMAIN}"), headers);
        let nginx = target(edge, "localhost", HeaderMap::new());
        let stack = Self {
            folder,
            children,
            links,
            culvert,
            nginx,
        };
        stack.wait(&stack.nginx).await?;
        stack.wait(&stack.culvert).await?;
        Ok(stack)
    }

    /// Waits until a call works; a stack that is not up within 20 s is broken.
    async fn wait(&self, target: &Target) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let attempt = async {
                let mut send = load::connect(target).await?;
                load::call(&mut send, target, &"/small".parse()?).await
            };
            match attempt.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let logs = ["relay", "agent"].map(|name| {
                        fs::read_to_string(self.folder.path().join(format!("{name}.log")))
                            .unwrap_or_default()
                    });
                    return Err(format!("{}: {error}\n{}", target.host, logs.join("\n")).into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The process ids behind some names: `relay`, `agent`, `edge`, `inner`, `upstream`.
    pub fn pids(&self, names: &[&str]) -> Vec<u32> {
        self.children
            .iter()
            .filter(|(name, _)| names.contains(name))
            .flat_map(|(_, child)| {
                let mut pids = process::children(child.id());
                pids.push(child.id());
                pids
            })
            .collect()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // An nginx master takes its workers with it only when it is asked, not killed.
            let pid = child.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &pid]).status();
        }
        for (_, child) in &mut self.children {
            let _ = child.wait();
        }
    }
}

fn free_ports<const N: usize>() -> Result<[u16; N], Failure> {
    let listeners: Vec<_> = (0..N)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<Result<_, _>>()?;
    let ports: Vec<_> = listeners
        .iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?;
    ports.try_into().map_err(|_| "no free ports".into())
}

/// A CA, and one certificate that every server of the stack uses.
fn certificates(folder: &Path) -> Result<CertificateDer<'static>, Failure> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    // Not the default name, which the leaf has: OpenSSL takes equal names for self-signed.
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "Culvert bench CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    // By name: verifiers take no wildcard directly below a top-level domain.
    let names = [DOMAIN.to_owned(), format!("api--bench.{DOMAIN}")];
    let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    fs::write(folder.join("ca.pem"), ca_certificate.pem())?;
    fs::write(folder.join("server.pem"), certificate.pem())?;
    write_private(&folder.join("server.key"), &key.serialize_pem())?;
    Ok(ca_certificate.der().clone())
}

fn write_private(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn serve_files(folder: &Path) -> Result<(), Failure> {
    fs::create_dir(folder.join("files"))?;
    for (name, size) in FILES {
        fs::File::create(folder.join("files").join(name))?.set_len(size)?;
    }
    // nginx workers run as another user when the master is root.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn nginx(folder: &Path, name: &str, servers: &str) -> Result<Child, Failure> {
    let path = folder.join(format!("{name}.conf"));
    let text = format!(
        "daemon off; worker_processes 2; pid {name}.pid; error_log {name}.err warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log {name}.access; client_body_temp_path {name}.body;\n\
         proxy_temp_path {name}.proxy; fastcgi_temp_path {name}.f; uwsgi_temp_path {name}.u;\n\
         scgi_temp_path {name}.s; keepalive_requests 1000000; tcp_nodelay on;\n\
         ssl_protocols TLSv1.2 TLSv1.3;\n{servers}\n}}\n"
    );
    fs::write(&path, text)?;
    let log = fs::File::create(folder.join(format!("{name}.log")))?;
    let child = Command::new("nginx")
        .arg("-p")
        .arg(folder)
        .arg("-c")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|error| format!("nginx (Debian package nginx-core): {error}"))?;
    Ok(child)
}

fn configure(
    folder: &Path,
    public: u16,
    admin: u16,
    link: u16,
    issuer: u16,
    upstream: u16,
) -> Result<(), Failure> {
    let url = token::ISSUER;
    let relay = format!(
        "domain = \"{DOMAIN}\"\nnode = \"bench\"\n\n[listen]\npublic = \"127.0.0.1:{public}\"\n\
         admin = \"127.0.0.1:{admin}\"\n\n[tls]\ncertificate = \"server.pem\"\n\
         private_key = \"server.key\"\n\n[[issuer]]\nurl = \"{url}\"\naudience = \"culvert\"\n\
         algorithms = [\"ES256\"]\njwks = \"file:keys.json\"\n"
    );
    let agent = format!(
        "[relay]\nurl = \"wss://{DOMAIN}:{link}\"\nsessions = 1\nca = \"ca.pem\"\n\n[oauth]\n\
         grant = \"client_credentials\"\ntoken_url = \"http://127.0.0.1:{issuer}/token\"\n\
         client_id = \"agent\"\nclient_secret_file = \"secret\"\naudience = \"culvert\"\n\n\
         [[endpoint]]\nname = \"api\"\nupstream = \"https://localhost:{upstream}\"\n\
         ca = \"ca.pem\"\n\n[policy]\nfile = \"policy.toml\"\n"
    );
    fs::write(folder.join("relay.toml"), relay)?;
    fs::write(folder.join("agent.toml"), agent)?;
    fs::write(folder.join("policy.toml"), policy())?;
    write_private(&folder.join("secret"), "bench")
}

/// 100 rules, as a real policy has; the one that allows the bench's calls stands last.
fn policy() -> String {
    let mut text = String::from("version = 1\n");
    for number in 1..100 {
        text.push_str(&format!(
            "\n[[rule]]\nid = \"rule-{number}\"\naction = \"allow\"\nendpoint = [\"api\"]\n\
             method = [\"GET\", \"HEAD\"]\npath = [\"/api/v{number}/**\", \"/rest/{number}/*/vm\"]\n\
             caller = [\"director-*\"]\n"
        ));
    }
    text.push_str(
        "\n[[rule]]\nid = \"bench\"\naction = \"allow\"\nendpoint = [\"api\"]\n\
         method = [\"GET\", \"PUT\"]\npath = [\"/*\"]\ncaller = [\"caller\"]\n",
    );
    text
}

fn client_tls(ca: &CertificateDer<'static>) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Where `cargo build` put the programs: beside this one.
pub fn programs() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let folder = own.parent().ok_or("this program lies in no folder")?;
    for program in ["culvert-relay", "culvert-agent"] {
        if !folder.join(program).exists() {
            return Err(format!(
                "{program} is not in {}; build it with the same profile: cargo build --release",
                folder.display()
            )
            .into());
        }
    }
    Ok(folder.to_owned())
}
