//! Callers: curl, run to its end or a step at a time.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

use crate::certificates::ClientCertificate;
use crate::issuer::world;

/// The version of HTTP that curl insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http {
    /// HTTP/1.1.
    One,
    /// HTTP/2, by ALPN.
    Two,
}

impl Http {
    /// Both, for tests that hold for either.
    pub const BOTH: [Self; 2] = [Self::One, Self::Two];
}

/// A call to make.
#[derive(Debug)]
pub struct Curl {
    command: Command,
}

impl Curl {
    /// A GET of `url`, whose host is taken to be this machine; trusts the tests' authority alone.
    pub fn new(url: &str) -> Self {
        let mut command = Command::new("curl");
        // Never ~/.curlrc, never a proxy; no limit on how long a host may be loopback.
        command.args(["--disable", "--silent", "--show-error", "--noproxy", "*"]);
        command.args(["--globoff", "--path-as-is", "--include", "--no-buffer"]);
        command.args(["--max-time", "120"]);
        command.arg("--cacert").arg(world().ca_file());
        if let Some((host, port)) = authority(url) {
            command
                .arg("--resolve")
                .arg(format!("{host}:{port}:127.0.0.1"));
        }
        command.arg(url);
        Self { command }
    }

    /// A GET of `url` through the relay at `port` as proxy.
    pub fn through(port: u16, url: &str) -> Self {
        let mut curl = Self::new(url);
        let proxy = format!("https://{}:{port}", crate::stack::DOMAIN);
        curl.command.args(["--noproxy", "", "--proxy", &proxy]);
        curl.command
            .args(["--suppress-connect-headers", "--proxy-cacert"]);
        curl.command.arg(world().ca_file());
        curl
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.command.args(args);
        self
    }

    /// Insists on a version of HTTP.
    pub fn http(self, http: Http) -> Self {
        self.arg(match http {
            Http::One => "--http1.1",
            Http::Two => "--http2",
        })
    }

    /// Sets the method.
    pub fn method(self, method: &str) -> Self {
        self.arg("--request").arg(method)
    }

    /// Adds a header, like `Accept: */*`.
    pub fn header(self, header: &str) -> Self {
        self.arg("--header").arg(header)
    }

    /// Presents `token` to the relay.
    pub fn token(self, token: &str) -> Self {
        self.header(&format!("Culvert-Authorization: Bearer {token}"))
    }

    /// Shows a certificate to whoever the URL names.
    pub fn certificate(mut self, shown: &ClientCertificate) -> Self {
        self.command.arg("--cert").arg(&shown.certificate);
        self.command.arg("--key").arg(&shown.key);
        self
    }

    /// Shows a certificate to the relay as proxy.
    pub fn proxy_certificate(mut self, shown: &ClientCertificate) -> Self {
        self.command.arg("--proxy-cert").arg(&shown.certificate);
        self.command.arg("--proxy-key").arg(&shown.key);
        self
    }

    /// Runs it to its end, for what `--write-out` says; fails the test if curl fails.
    pub fn report(mut self) -> String {
        self.command.arg("--no-include");
        let output = self.output();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "curl failed: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn output(&mut self) -> Output {
        let output = self.command.stdin(Stdio::null()).output();
        output.expect("curl is installed")
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Answer {
        let output = self.output();
        let mut reader = output.stdout.as_slice();
        let (version, status, headers) = read_head(&mut reader);
        Answer {
            exit: output.status.code(),
            version,
            status,
            headers,
            body: reader.to_vec(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it and fails the test unless it ended well.
    pub fn ok(self) -> Answer {
        let answer = self.run();
        assert_eq!(answer.exit, Some(0), "curl failed: {answer}");
        answer
    }

    /// Starts it and goes on.
    pub fn start(mut self) -> Running {
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("curl is installed");
        let stdin = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Running {
            child,
            stdin,
            output,
        }
    }
}

/// Host and port of a URL.
fn authority(url: &str) -> Option<(&str, &str)> {
    url.split("://")
        .nth(1)?
        .split(['/', '?'])
        .next()?
        .rsplit_once(':')
}

/// An answer, read to its end or to where it broke.
#[derive(Debug)]
pub struct Answer {
    /// curl's exit code: 0 only if the answer was whole.
    pub exit: Option<i32>,
    /// The version of HTTP, like `HTTP/2`.
    pub version: String,
    /// The status, 0 if there was no answer.
    pub status: u16,
    /// Header names, in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What curl complained about.
    pub errors: String,
}

impl Answer {
    /// The value of a header that occurs once; panics if it occurs more often.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(have, _)| have == name);
        let value = values.next();
        assert!(
            values.next().is_none(),
            "{name} occurs more than once: {self}"
        );
        value.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, null if it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code of a refusal: the fragment of its `type`.
    pub fn code(&self) -> String {
        let json = self.json();
        let kind = json["type"].as_str().unwrap_or_default();
        kind.split_once('#')
            .map(|(_, code)| code)
            .unwrap_or_default()
            .to_owned()
    }

    /// The id of the call; panics if the answer has none.
    pub fn call(&self) -> String {
        let id = self.header("culvert-call").unwrap_or_default();
        assert!(!id.is_empty(), "no Culvert-Call: {self}");
        id.to_owned()
    }

    /// Checks that this is the refusal `code` as the contract describes it: status, problem
    /// document, layer, `Proxy-Status` and call id.
    #[track_caller]
    pub fn assert_refused(&self, status: u16, code: &str, layer: &str) {
        let problem = self.json();
        assert_eq!(
            (self.status, self.code().as_str()),
            (status, code),
            "{self}"
        );
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self}"
        );
        assert_eq!(problem["status"], status, "{self}");
        assert_eq!(problem["layer"], layer, "{self}");
        assert_eq!(problem["call"], self.call().as_str(), "{self}");
        for member in ["title", "detail"] {
            assert!(
                problem[member]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{self}"
            );
        }
        let kind = problem["type"].as_str().unwrap_or_default();
        assert!(
            kind.starts_with("https://") && kind.contains("/.culvert/errors#"),
            "{self}"
        );
        assert!(
            self.header("proxy-status")
                .is_some_and(|value| !value.is_empty()),
            "{self}"
        );
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit {:?}, {} {}", self.exit, self.version, self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "  {name}: {value}")?;
        }
        let text = self.text();
        writeln!(f, "  {}", text.get(..2000).unwrap_or(&text))?;
        write!(f, "{}", self.errors)
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Waits for the answer's head; body and end are still to come. If there is no head, the
    /// answer tells why curl ended.
    pub fn head(&mut self) -> Answer {
        let (version, status, headers) = read_head(&mut self.output);
        let (exit, errors) = if status == 0 {
            self.end()
        } else {
            (None, String::new())
        };
        Answer {
            exit,
            version,
            status,
            headers,
            body: Vec::new(),
            errors,
        }
    }

    /// Waits for this much of the body; fewer only at its end.
    pub fn body(&mut self, length: usize) -> Vec<u8> {
        let mut body = Vec::new();
        self.output
            .by_ref()
            .take(length as u64)
            .read_to_end(&mut body)
            .expect("readable");
        body
    }

    /// Hands the body to `take` as it comes, to its end.
    pub fn each(&mut self, mut take: impl FnMut(&[u8])) {
        loop {
            let piece = self.output.fill_buf().expect("readable");
            if piece.is_empty() {
                return;
            }
            take(piece);
            let length = piece.len();
            self.output.consume(length);
        }
    }

    /// Where the body to upload is written (`--upload-file -`); ends when dropped.
    pub fn input(&mut self) -> impl Write + Send + use<> {
        self.stdin.take().expect("taken once")
    }

    /// The whole answer of a call of which nothing was read yet.
    pub fn answer(mut self) -> Answer {
        let head = self.head();
        if head.status == 0 {
            return head;
        }
        let end = self.finish();
        Answer {
            exit: end.exit,
            body: end.body,
            errors: end.errors,
            ..head
        }
    }

    /// Waits for the end; the answer has the exit code and the rest of the body.
    pub fn finish(mut self) -> Answer {
        let mut body = Vec::new();
        drop(self.stdin.take());
        self.output.read_to_end(&mut body).expect("readable");
        let (exit, errors) = self.end();
        Answer {
            exit,
            version: String::new(),
            status: 0,
            headers: Vec::new(),
            body,
            errors,
        }
    }

    /// Waits for curl's exit code and complaints.
    fn end(&mut self) -> (Option<i32>, String) {
        let mut errors = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut errors).expect("readable");
        }
        (self.child.wait().expect("it is our child").code(), errors)
    }

    /// Ends it at once, as when a user loses patience.
    pub fn kill(mut self) {
        self.child.kill().expect("it is our child");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type Head = (String, u16, Vec<(String, String)>);

/// Reads the head of the final answer, past interim ones.
fn read_head(reader: &mut impl BufRead) -> Head {
    loop {
        let head = read_one_head(reader);
        if head.1 == 0 || head.1 >= 200 {
            return head;
        }
    }
}

fn read_one_head(reader: &mut impl BufRead) -> Head {
    let mut lines = std::iter::from_fn(|| {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_owned();
        (!line.is_empty()).then_some(line)
    });
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let version = words.next().unwrap_or_default().to_owned();
    let status = words
        .next()
        .and_then(|status| status.parse().ok())
        .unwrap_or_default();
    let headers = lines
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    (version, status, headers)
}
