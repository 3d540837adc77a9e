//! `culvert-agent pin`: the certificates of a server, for an administrator to compare and pin.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use clap::Args;
use culvert_session::race;
use culvert_session::tls::TlsTrouble;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::time::timeout;
use url::Url;

use crate::certificate::{self, Facts, pin_hex};

/// Longest wait for an address, and for a certificate from it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// The server: HOST, HOST:PORT or [IPV6]:PORT; 443 is the port if none is given.
    #[arg(value_name = "HOST:PORT", value_parser = target)]
    target: Target,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// Without brackets.
    host: String,
    port: u16,
}

/// A server as people write it, an `https` URL included.
fn target(text: &str) -> Result<Target, String> {
    let expected = || format!("found {text:?}; expected HOST, HOST:PORT or [IPV6]:PORT");
    let url = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let url = Url::parse(&url).map_err(|_| expected())?;
    let is_plain = url.scheme() == "https" && url.path() == "/" && url.username().is_empty();
    let host = url.host_str().filter(|_| is_plain).ok_or_else(expected)?;
    Ok(Target {
        host: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        port: url.port().unwrap_or(443),
    })
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinError {
    #[error("{0:?} is not a name that a certificate could have")]
    Name(String),
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("cannot connect to {host} port {port}: {source}")]
    Connect {
        host: String,
        port: u16,
        source: io::Error,
    },
    #[error("{host} port {port} shows no certificate: {}", why(.source))]
    Tls {
        host: String,
        port: u16,
        source: io::Error,
    },
}

/// Why there is no certificate, for who does not know TLS's words.
fn why(error: &io::Error) -> String {
    match TlsTrouble::of(error) {
        TlsTrouble::NotTls => "what answers there speaks no TLS; is it another port?".to_owned(),
        _ => error.to_string(),
    }
}

/// What the server shows, as text to print.
pub(crate) async fn pin(args: &PinArgs) -> Result<String, PinError> {
    let Target { host, port } = args.target.clone();
    let name = ServerName::try_from(host.clone()).map_err(|_| PinError::Name(host.clone()))?;
    let found = within(tokio::net::lookup_host((host.as_str(), port))).await;
    let addresses = found.map_err(|source| PinError::Resolve {
        host: host.clone(),
        source,
    })?;
    let tcp = within(race::connect(addresses.collect())).await;
    let tcp = tcp.map_err(|source| PinError::Connect {
        host: host.clone(),
        port,
        source,
    })?;
    let address = tcp
        .peer_addr()
        .map_or_else(|_| host.clone(), |a| a.to_string());
    let chain = within(certificate::shown(tcp, name)).await;
    let chain = chain.map_err(|source| PinError::Tls { host, port, source })?;
    let facts: Vec<Facts> = chain.iter().map(Facts::of).collect();
    let pin = pin_hex(&chain[0]);
    if args.json {
        let certificates: Vec<_> = facts.iter().map(Facts::to_json).collect();
        return Ok(json!({
            "address": address,
            "verified": false,
            "certificates": certificates,
            "pin_sha256": pin,
        })
        .to_string());
    }
    let mut text = format!("{address} shows (nothing of it is verified):\n\n");
    for (number, facts) in facts.iter().enumerate() {
        // A buffer in memory takes everything.
        let _ = writeln!(text, "certificate {}\n{facts}", number + 1);
    }
    text.push_str(
        "Compare the SHA-256 of certificate 1 with what the server's own console shows. If it is \
         the same, this line pins it in the [[endpoint]]:\n\n",
    );
    let _ = writeln!(text, "pin_sha256 = [\"{pin}\"]");
    Ok(text)
}

async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let timed_out = |_| io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s");
    timeout(PATIENCE, step).await.map_err(timed_out)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_as_people_do() {
        for (text, host, port) in [
            ("vc.example", "vc.example", 443),
            ("vc.example:8443", "vc.example", 8443),
            ("https://vc.example:8443/", "vc.example", 8443),
            ("10.0.0.7:9443", "10.0.0.7", 9443),
            ("[2001:db8::7]:9443", "2001:db8::7", 9443),
        ] {
            let host = host.to_owned();
            assert_eq!(target(text), Ok(Target { host, port }), "{text}");
        }
        for text in [
            "",
            "http://vc.example",
            "vc.example/path",
            "a b",
            "vc:99999",
            "me@vc",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
