//! The registry in which the relays find each other: a Redis or Valkey server of the demo's own,
//! that keeps nothing.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::Command;

use crate::failure::{Failure, Result};
use crate::port;
use crate::program::Program;
use crate::tour::until;

/// The programs that do, the first one that is there is taken.
const SERVERS: [&str; 2] = ["valkey-server", "redis-server"];

/// A running server and its port.
pub(super) async fn start(folder: &Path) -> Result<(Program, u16)> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let server = find(path).ok_or_else(|| {
        Failure::new(
            "--cluster needs a server in which the relays find each other, and neither \
             valkey-server nor redis-server is in PATH. Install one (Debian, Ubuntu: `apt install \
             redis-server`), or start the demo without --cluster",
        )
    })?;
    let port = port::free()?;
    let mut command = Command::new(server);
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder);
    let mut program = Program::start("registry", folder, &mut command)?;
    let listens = until(
        Duration::from_secs(10),
        "the registry does not listen",
        async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .is_ok()
        },
    );
    tokio::select! {
        listens = listens => listens?,
        ended = program.ended() => return Err(ended),
    }
    Ok((program, port))
}

fn find(path: OsString) -> Option<PathBuf> {
    let mut programs = SERVERS.iter().flat_map(|server| {
        std::env::split_paths(&path)
            .map(move |folder| folder.join(server))
            .collect::<Vec<_>>()
    });
    programs.find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_server_is_found_and_none_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = || folder.path().as_os_str().to_owned();
        assert_eq!(find(path()), None);
        for server in ["redis-server", "valkey-server"] {
            let program = folder.path().join(server);
            std::fs::write(&program, "").unwrap();
            assert_eq!(find(path()), Some(program));
        }
    }
}
