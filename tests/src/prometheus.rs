//! A real Prometheus that scrapes relay and agent, as docs/operations.md says it does.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::curl::Curl;
use crate::port;
use crate::process::Process;
use crate::wait::until;

/// A running Prometheus that looks every second.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    port: u16,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes these jobs, each at a port of `localhost` over TLS, showing the token in the file; `rules`
    /// are its alerting rules.
    pub fn start(jobs: &[(&str, u16)], token: &Path, ca: &Path, rules: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = port::free();
        let mut config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\n\
             scrape_configs:\n",
            rules.display()
        );
        for (job, port) in jobs {
            config += &format!(
                "  - job_name: {job}\n    scheme: https\n    \
                 authorization: {{ credentials_file: {} }}\n    \
                 tls_config: {{ ca_file: {}, server_name: localhost }}\n    \
                 static_configs: [{{ targets: [\"127.0.0.1:{port}\"] }}]\n",
                token.display(),
                ca.display()
            );
        }
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("prometheus.yml");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let mut process = Process::start("prometheus", folder.path(), &mut command);
        until("prometheus is ready", || {
            process.assert_running();
            let ready = format!("http://127.0.0.1:{port}/-/ready");
            Curl::new(&ready).run().status == 200
        });
        Self {
            _process: process,
            port,
            _folder: folder,
        }
    }

    /// What its API answers at `path`.
    pub fn api(&self, path: &str) -> Value {
        Curl::new(&format!("http://127.0.0.1:{}/api/v1/{path}", self.port))
            .run()
            .json()
    }

    /// The samples that an expression gives now.
    ///
    /// # Panics
    /// Prometheus does not understand it.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/query", self.port);
        let query = format!("query={expression}");
        let answer = Curl::new(&url)
            .args(["--data-urlencode", &query])
            .run()
            .json();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }
}
