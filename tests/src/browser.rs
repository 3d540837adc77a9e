//! A real browser: Chromium without a window, with a profile of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::issuer::world;

/// Chromium, which opens a page with a caller's token and runs until it is dropped.
#[derive(Debug)]
pub struct Browser {
    process: Child,
    folder: TempDir,
}

impl Browser {
    /// Opens a page in host mode.
    pub fn open(url: &str, token: &str) -> Self {
        Self::launch(url, token, None)
    }

    /// Opens a page through what the PAC file at a URL says.
    pub fn open_through(pac: &str, url: &str, token: &str) -> Self {
        Self::launch(url, token, Some(pac))
    }

    fn launch(url: &str, token: &str, pac: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        trust(path, &world().ca_file());
        let extension = path.join("extension");
        std::fs::create_dir(&extension).expect("a folder");
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("peers/extension");
        for file in ["manifest.json", "background.js"] {
            std::fs::copy(source.join(file), extension.join(file)).expect(file);
        }
        let call = json!({ "url": url, "token": token, "pac": pac });
        std::fs::write(extension.join("call.json"), call.to_string()).expect("call.json");
        let mut command = Command::new("chromium");
        command
            .env("HOME", path)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args(["--disable-quic", "--no-first-run", "--disable-sync"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            // What the browser's makers have it ask for by itself gets no answer.
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost")
            // A switch of its own keeps extensions from the command line out otherwise.
            .arg("--disable-features=DisableLoadExtensionCommandLineSwitch")
            .arg(format!("--load-extension={}", extension.display()))
            .arg(format!(
                "--user-data-dir={}",
                path.join("profile").display()
            ));
        let log = std::fs::File::create(path.join("log")).expect("a file");
        let process = command
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("chromium is installed: run tests/run.sh");
        Self { process, folder }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Both fail only if it has ended already; its other processes end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log"));
            eprintln!("--- chromium\n{}---", log.unwrap_or_default());
        }
    }
}

/// Lets the browser of this home folder trust an authority.
fn trust(home: &Path, authority: &Path) {
    let database = home.join(".pki/nssdb");
    std::fs::create_dir_all(&database).expect("a folder");
    let database = format!("sql:{}", database.display());
    let run = |arguments: &[&str]| {
        let status = Command::new("certutil")
            .args(["-d", &database])
            .args(arguments)
            .status()
            .expect("certutil is installed: run tests/run.sh");
        assert!(status.success(), "certutil {arguments:?}");
    };
    let authority = authority.to_str().expect("UTF-8");
    run(&["-N", "--empty-password"]);
    run(&["-A", "-n", "tests", "-t", "C,,", "-i", authority]);
}
