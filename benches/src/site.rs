//! What is measured: an installation on this machine, or one that exists already.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::load::{CULVERT_AUTHORIZATION, Failure, Target, tls_trusting};
use crate::process;
use crate::sample::Processes;
use crate::stack::{Between, MOST_RELAYS, Settings, Stack, Upstream};

/// One way to the upstream.
#[derive(Debug, Clone)]
pub struct Way {
    /// `culvert`, `connect` (the same by CONNECT), `hop` (through another relay) or `nginx`.
    pub name: &'static str,
    /// Whom to call.
    pub target: Target,
    /// Whose CPU and memory count.
    pub processes: Processes,
}

/// What to call for each kind of call; `None`: the upstream has nothing for it.
#[derive(Debug, Clone)]
pub struct Paths {
    /// A small answer.
    pub small: String,
    /// A large answer.
    pub bulk: Option<String>,
    /// Takes a body (PUT).
    pub sink: Option<String>,
    /// Accepts a WebSocket and returns its messages.
    pub echo: Option<String>,
    /// Answers after `?ms=N` milliseconds.
    pub poll: Option<String>,
}

/// What is measured.
#[derive(Debug)]
pub struct Site {
    /// The ways, Culvert first.
    pub ways: Vec<Way>,
    /// What to call there.
    pub paths: Paths,
    /// The installation, if it is ours.
    pub stack: Option<Stack>,
    /// The folder of the programs, for further installations of ours.
    pub programs: Option<PathBuf>,
}

/// What an installation of ours has.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Parts {
    /// Relays of the installation; with several, calls are also made through one that passes them
    /// on to the one which has the agent (`hop`).
    #[arg(long, default_value_t = 1, value_parser = relays)]
    pub relays: usize,
    /// Also call by CONNECT, under the upstream's own name (`connect`).
    #[arg(long)]
    pub connect: bool,
}

/// A number of relays that an installation of ours can have.
fn relays(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    let number = number.filter(|number| (1..=MOST_RELAYS).contains(number));
    number.ok_or_else(|| format!("expected 1 to {MOST_RELAYS}"))
}

/// An installation that exists.
#[derive(Debug, Clone, clap::Args)]
pub struct Remote {
    /// The endpoint, such as `https://vcenter--acme.relay.example`.
    // As text: clap shows what it cannot read, and there may be a password in it.
    #[arg(long)]
    pub url: String,
    /// Where to connect, instead of what the URL's host resolves to: one relay of several, say.
    #[arg(long, value_name = "IP:PORT")]
    pub address: Option<SocketAddr>,
    /// A file with the caller's token and nothing else.
    #[arg(long)]
    pub token_file: PathBuf,
    /// A file with more headers for each call, `NAME: VALUE` a line: the upstream's own credential.
    #[arg(long)]
    pub headers_file: Option<PathBuf>,
    /// Certificates of the authority to trust (PEM); without it, this machine's.
    #[arg(long)]
    pub ca: Option<PathBuf>,
    /// A path with a small answer.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// A path with a large answer, for downloads.
    #[arg(long)]
    pub bulk_path: Option<String>,
    /// A path that takes bodies (PUT, 16 MiB of zeros each), for uploads.
    #[arg(long)]
    pub sink_path: Option<String>,
    /// A path that accepts a WebSocket and returns its messages.
    #[arg(long)]
    pub echo_path: Option<String>,
    /// A path that answers after as many milliseconds as `?ms=` says, for long polls.
    #[arg(long)]
    pub poll_path: Option<String>,
    /// A process of the installation on this machine, as NAME=PID; its CPU and memory are measured.
    #[arg(long, value_parser = named_pid)]
    pub pid: Vec<(String, u32)>,
}

fn named_pid(text: &str) -> Result<(String, u32), String> {
    let parts = text.split_once('=');
    let parsed = parts.and_then(|(name, pid)| Some((name.to_owned(), pid.parse().ok()?)));
    parsed.ok_or_else(|| format!("{text}: expected NAME=PID, such as relay=4711"))
}

impl Site {
    /// Brings up an installation on loopback. The way through nginx is there if nginx is, the one
    /// through another relay if there are several relays, and the one by CONNECT if it is asked for.
    pub async fn local(
        programs: &Path,
        between: Between<'_>,
        sessions: usize,
        Parts { relays, connect }: Parts,
    ) -> Result<Self, Failure> {
        let nginx = has_nginx();
        let settings = Settings {
            between,
            sessions: Some(sessions + 64),
            upstream: Upstream::Own,
            without_nginx: !nginx,
            relays,
            ..Settings::default()
        };
        let stack = Stack::start(programs, &settings).await?;
        let way = |name, target: &Target, names: &[&str]| Way {
            name,
            target: target.clone(),
            processes: processes(&stack, names),
        };
        let mut ways = vec![way("culvert", &stack.culvert, &["relay", "agent"])];
        if connect {
            ways.push(way("connect", &stack.bytes, &["relay", "agent"]));
        }
        if let Some(hop) = &stack.hop {
            ways.push(way("hop", hop, &["relay", "relay-2", "agent"]));
        }
        if nginx {
            ways.push(way("nginx", &stack.nginx, &["edge", "inner"]));
        }
        Ok(Self {
            ways,
            paths: Paths {
                small: "/small".into(),
                bulk: Some("/bulk".into()),
                sink: Some("/sink".into()),
                echo: Some("/echo".into()),
                poll: Some("/poll".into()),
            },
            stack: Some(stack),
            programs: Some(programs.to_owned()),
        })
    }

    /// Takes one that exists.
    pub async fn remote(options: &Remote) -> Result<Self, Failure> {
        let endpoint = endpoint(&options.url)?;
        let host = endpoint.host();
        let port = endpoint.port_u16().unwrap_or(443);
        let address = match options.address {
            Some(address) => address,
            None => resolve(host, port).await?,
        };
        let mut headers = HeaderMap::new();
        if let Some(path) = &options.headers_file {
            headers = read_headers(path)?;
        }
        headers.insert(CULVERT_AUTHORIZATION, bearer(&options.token_file)?);
        let host = match port {
            443 => host.to_owned(),
            port => format!("{host}:{port}"),
        };
        let target = Target {
            address,
            host,
            headers,
            tls: trust(options.ca.as_deref())?,
            proxy: None,
        };
        let mut watched: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (name, pid) in &options.pid {
            if !Path::new(&format!("/proc/{pid}")).exists() {
                return Err(format!("--pid {name}={pid}: there is no such process").into());
            }
            let pids = watched.entry(name.clone()).or_default();
            pids.push(*pid);
            pids.extend(process::children(*pid));
        }
        Ok(Self {
            ways: vec![Way {
                name: "culvert",
                target,
                processes: Arc::new(Mutex::new(watched)),
            }],
            paths: Paths {
                small: options.path.clone(),
                bulk: options.bulk_path.clone(),
                sink: options.sink_path.clone(),
                echo: options.echo_path.clone(),
                poll: options.poll_path.clone(),
            },
            stack: None,
            programs: None,
        })
    }

    /// Looks up the relay's process again, after it was started anew.
    pub fn find_relay(&self) {
        let Some(stack) = &self.stack else { return };
        for way in &self.ways {
            let mut known = way.processes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(relay) = known.get_mut("relay") {
                *relay = stack.pids(&["relay"]);
            }
        }
    }
}

/// Host and port of `--url`. No error shows the URL: there may be a password in it.
pub fn endpoint(url: &str) -> Result<Authority, Failure> {
    // In the text, since what is parsed has lost its fragment.
    let bare = !url.contains(['@', '?', '#']);
    let parsed: Option<Uri> = url.parse().ok();
    let parsed =
        parsed.filter(|url| bare && url.scheme_str() == Some("https") && url.path() == "/");
    let authority = parsed.and_then(|url| url.authority().cloned());
    authority.ok_or_else(|| {
        "--url: expected https://HOST[:PORT] without user, path or query; the token comes from \
         --token-file, paths from --path and the like"
            .into()
    })
}

async fn resolve(host: &str, port: u16) -> Result<SocketAddr, Failure> {
    let name = host.trim_matches(['[', ']']);
    let mut addresses = tokio::net::lookup_host((name, port))
        .await
        .map_err(|error| format!("{host}: {error}; --address IP:PORT says where it is"))?;
    let first = addresses.next();
    first.ok_or_else(|| format!("{host}: it has no address").into())
}

/// The text of the file that an option names.
fn read(option: &str, path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    fs::read_to_string(path).map_err(|error| format!("{option} {shown}: {error}").into())
}

/// The credential in a file. No error shows what it could not read.
fn bearer(path: &Path) -> Result<HeaderValue, Failure> {
    let token = read("--token-file", path)?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| format!("--token-file {}: this is no token", path.display()))?;
    bearer.set_sensitive(true);
    Ok(bearer)
}

/// The headers in a file, one a line, as curl reads them.
fn read_headers(path: &Path) -> Result<HeaderMap, Failure> {
    let text = read("--headers-file", path)?;
    let mut headers = HeaderMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let field = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::try_from(name.trim()).ok()?;
            Some((name, HeaderValue::try_from(value.trim()).ok()?))
        });
        let (name, mut value) = field.ok_or_else(|| {
            let shown = path.display();
            format!("--headers-file {shown}, line {number}: expected NAME: VALUE")
        })?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn processes(stack: &Stack, names: &[&str]) -> Processes {
    let known = names
        .iter()
        .map(|name| ((*name).to_owned(), stack.pids(&[name])))
        .collect();
    Arc::new(Mutex::new(known))
}

/// Whether there is an nginx to compare with.
fn has_nginx() -> bool {
    let mut command = Command::new("nginx");
    command
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// TLS that trusts the certificates of a file, or those of this machine.
fn trust(ca: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    match ca {
        Some(path) => {
            let shown = path.display();
            for certificate in CertificateDer::pem_file_iter(path)
                .map_err(|error| format!("--ca {shown}: {error}"))?
            {
                roots.add(certificate.map_err(|error| format!("--ca {shown}: {error}"))?)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("there is no certificate to trust: give --ca".into());
    }
    tls_trusting(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_from_a_file_and_no_error_shows_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        fs::write(&path, "X-One: a: b\n\nvmware-api-session-id:  0123 \n").unwrap();
        let headers = read_headers(&path).unwrap();
        assert_eq!(headers["x-one"], "a: b");
        assert_eq!(headers["vmware-api-session-id"], "0123");
        fs::write(&path, "X-One: a\nsecret").unwrap();
        let error = read_headers(&path).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn tls_asks_for_the_name_without_the_port_and_a_connect_for_both() {
        let roots = rustls::RootCertStore::empty();
        let mut target = Target {
            address: ([127, 0, 0, 1], 443).into(),
            host: String::new(),
            headers: HeaderMap::new(),
            tls: tls_trusting(roots).unwrap(),
            proxy: None,
        };
        for (host, name, authority) in [
            (
                "vc.relay.example",
                "vc.relay.example",
                "vc.relay.example:443",
            ),
            (
                "vc.relay.example:8443",
                "vc.relay.example",
                "vc.relay.example:8443",
            ),
            ("[::1]:8443", "::1", "[::1]:8443"),
            ("[::1]", "::1", "[::1]:443"),
        ] {
            host.clone_into(&mut target.host);
            assert_eq!(target.name().unwrap().to_str(), name);
            assert_eq!(target.authority().unwrap(), authority);
        }
    }

    #[test]
    fn an_endpoint_is_a_host_and_no_error_shows_a_password() {
        for (url, expected) in [
            ("https://vc.relay.example", "vc.relay.example"),
            ("https://vc.relay.example:8443/", "vc.relay.example:8443"),
            ("https://[::1]:8443", "[::1]:8443"),
        ] {
            assert_eq!(endpoint(url).unwrap().as_str(), expected);
        }
        for url in [
            "https://user:hunter2@vc.relay.example",
            "https://user:hunter 2@vc.relay.example",
            "https://user@hunter2@vc.relay.example",
            "https://vc.relay.example/hunter2",
            "https://vc.relay.example/?hunter2",
            "https://vc.relay.example/#hunter2",
            "http://hunter2",
            "hunter2",
            "",
        ] {
            let error = endpoint(url).unwrap_err().to_string();
            assert!(error.contains("https://HOST"), "{url}: {error}");
            assert!(!error.contains("hunter"), "{url}: {error}");
        }
    }

    #[test]
    fn a_process_is_given_by_name_and_number() {
        assert_eq!(named_pid("relay=12"), Ok(("relay".into(), 12)));
        assert!(named_pid("relay").unwrap_err().contains("NAME=PID"));
        assert!(named_pid("relay=x").unwrap_err().contains("NAME=PID"));
    }
}
