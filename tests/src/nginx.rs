//! A real local API: nginx with TLS, of a configuration and a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_demo::certs::Authority;
use tempfile::TempDir;

use crate::issuer::world;
use crate::port;
use crate::process::Process;
use crate::wait::until;

/// A running nginx. It answers
/// - `/api/...` with JSON that tells what arrived,
/// - `/files/...` with files of [`Nginx::files`], and stores there what is PUT,
/// - `/api/tls` with the protocol, the version of TLS, and what it thinks of the client's
///   certificate.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Nginx {
    /// Starts one with a certificate that agents trust.
    pub fn start() -> Self {
        Self::start_signed_by(&world().authority)
    }

    /// Starts one with a certificate of `authority`.
    pub fn start_signed_by(authority: &Authority) -> Self {
        Self::launch(authority, "", "")
    }

    /// Starts one that agents trust, with `listen` behind its address (`http2`), and `directives`
    /// in its server.
    pub fn start_with(listen: &str, directives: &str) -> Self {
        Self::launch(&world().authority, listen, directives)
    }

    fn launch(authority: &Authority, listen: &str, directives: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let leaf = authority
            .issue(&["localhost", "vcenter.sddc.local"])
            .expect("a certificate");
        leaf.write(path, "nginx").expect("a certificate");
        for name in ["files", "temp"] {
            std::fs::create_dir(path.join(name)).expect("a folder");
        }
        let port = port::free();
        std::fs::write(
            path.join("nginx.conf"),
            configuration(port, listen, directives),
        )
        .expect("nginx.conf");
        let mut nginx = Self {
            process: launch(path),
            port,
            folder,
        };
        nginx.await_listening();
        nginx
    }

    /// Ends it.
    pub fn stop(&mut self) {
        self.process.kill();
    }

    /// Starts it again, at the same address.
    pub fn restart(&mut self) {
        self.process = launch(self.folder.path());
        self.await_listening();
    }

    fn await_listening(&mut self) {
        until("nginx listens", || {
            self.process.assert_running();
            port::answers(self.port)
        });
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The folder behind `/files/`.
    pub fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// One line for each request that has arrived.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default()
    }
}

fn launch(folder: &Path) -> Process {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).args(["-e", "stderr"]);
    command.arg("-c").arg(folder.join("nginx.conf"));
    Process::start("nginx", folder, &mut command)
}

/// One process, which ends when it is killed and leaves nobody behind.
fn configuration(port: u16, listen: &str, directives: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path temp;\n"))
        .concat();
    format!(
        r#"daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 2048; }}
http {{
{temporary}    access_log access.log;
    client_max_body_size 0;
    keepalive_requests 100000;
    types {{ }}
    default_type application/octet-stream;
    server {{
        listen 127.0.0.1:{port} ssl {listen};
        {directives}
        ssl_certificate nginx.pem;
        ssl_certificate_key nginx.key;
        location = /api/tls {{
            default_type text/plain;
            return 200 "$server_protocol $ssl_protocol $ssl_client_verify";
        }}
        location /api/ {{
            default_type application/json;
            return 200 '{{"method":"$request_method","target":"$request_uri","host":"$http_host"}}';
        }}
        location /files/ {{
            root .;
            dav_methods PUT;
        }}
        location = /moved {{ return 302 https://localhost:{port}/api/elsewhere; }}
        location = /empty {{ return 204; }}
        location = /error {{ return 500; }}
    }}
}}
"#
    )
}
