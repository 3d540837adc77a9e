//! `culvert-connect`: tools that know a plain HTTP proxy and no token.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use culvert_demo::files::write_private;
use culvert_tests::issuer::{CALLER, OTHER_CALLER, world};
use culvert_tests::process::{Process, program};
use culvert_tests::wait::{LONG, eventually, until};
use culvert_tests::{Nginx, Stack, Upstream, port, stack};
use rustix::process::Signal;
use tempfile::TempDir;

const POLICY: &str = r#"
version = 1

[[rule]]
id = "connections"
action = "allow"
mode = ["connect", "tcp"]
host = ["vcenter.sddc.local"]
caller = ["caller-acme"]

[[rule]]
id = "nothing-forbidden"
action = "deny"
path = ["/forbidden/**"]
"#;

fn start(upstream: &str) -> Stack {
    let names = r#"["vcenter.sddc.local:443", "alias.sddc.local:443"]"#;
    Stack::options()
        .endpoint("vcenter", upstream)
        .endpoint_settings(&format!(
            "mode = [\"http\", \"connect\"]\nconnect = {names}"
        ))
        .policy(POLICY)
        .start()
}

const CONNECT: &str = "CONNECT vcenter.sddc.local:443 HTTP/1.0\r\n\r\n";

/// A stack that carries any bytes to an upstream that speaks no TLS.
fn start_tcp() -> (Stack, TcpListener) {
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = upstream.local_addr().unwrap().port();
    let stack = Stack::options()
        .endpoint("vcenter", &format!("https://127.0.0.1:{port}"))
        .endpoint_settings("mode = [\"http\", \"tcp\"]\nconnect = [\"vcenter.sddc.local:443\"]")
        .policy(POLICY)
        .start();
    upstream.set_nonblocking(true).unwrap();
    (stack, upstream)
}

/// What the agent connects.
fn accepted(upstream: &TcpListener) -> TcpStream {
    let (connection, _) = eventually("the agent connects", || upstream.accept().ok());
    connection.set_nonblocking(false).unwrap();
    connection.set_read_timeout(Some(LONG)).unwrap();
    connection
}

/// A running `culvert-connect`.
struct Connect {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl Connect {
    fn start(stack: &Stack) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_private(&folder.path().join("token"), world().token(CALLER)).unwrap();
        let port = port::free();
        let mut command = Command::new(program("culvert-connect"));
        command
            .arg("--relay")
            .arg(format!("https://localhost:{}", stack.public));
        command.arg("--token-file").arg(folder.path().join("token"));
        command.arg("--ca").arg(world().ca_file());
        command.arg("--listen").arg(format!("127.0.0.1:{port}"));
        let mut connect = Self {
            process: Process::start("culvert-connect", folder.path(), &mut command),
            port,
            folder,
        };
        until("culvert-connect listens", || {
            connect.process.assert_running();
            port::answers(port)
        });
        connect
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Runs a Python script that trusts the tests' authority and knows the proxy.
    fn python(&self, script: &str) -> String {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/.venv/bin/python3");
        let output = Command::new(python)
            .args(["-c", script, &self.port.to_string()])
            .arg(world().ca_file())
            .env("HTTPS_PROXY", format!("http://127.0.0.1:{}", self.port))
            .env("REQUESTS_CA_BUNDLE", world().ca_file())
            .output()
            .expect("tests/run.sh has installed it");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A tool's connection, on which it has sent this.
    fn tool(&self, bytes: &str) -> TcpStream {
        let mut tool = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        tool.set_read_timeout(Some(LONG)).unwrap();
        tool.write_all(bytes.as_bytes()).unwrap();
        tool
    }

    /// Sends bytes as a tool would, and reads everything that comes back.
    fn say(&self, bytes: &str) -> String {
        let mut tool = self.tool(bytes);
        let mut answer = String::new();
        tool.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn requests_reaches_the_upstream_under_its_own_name() {
    let nginx = Nginx::start();
    let stack = start(&nginx.url());
    let connect = Connect::start(&stack);
    let seen = connect.python(
        "import requests\n\
         answer = requests.get('https://vcenter.sddc.local/api/vm', timeout=60)\n\
         print(answer.status_code, answer.json()['host'])",
    );
    assert_eq!(seen, "200 vcenter.sddc.local");
}

/// pyvmomi knows plain proxies only, and sends its CONNECT as HTTP/1.0 without Host.
#[test]
fn pyvmomi_calls_an_operation_of_vsphere() {
    let upstream = Upstream::start_named(&["vcenter.sddc.local"], |request, connection| {
        connection.read_body(request, |_| ())?;
        connection.answer(
            "200 OK",
            br#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns:xsd="http://www.w3.org/2001/XMLSchema"><soapenv:Body><CurrentTimeResponse xmlns="urn:vim25"><returnval>2026-01-02T03:04:05Z</returnval></CurrentTimeResponse></soapenv:Body></soapenv:Envelope>"#,
        )
    });
    let stack = start(&upstream.url());
    let connect = Connect::start(&stack);
    let seen = connect.python(
        "import ssl, sys\n\
         from pyVmomi import SoapStubAdapter, vim\n\
         context = ssl.create_default_context(cafile=sys.argv[2])\n\
         stub = SoapStubAdapter('vcenter.sddc.local', 443, path='/sdk', version='vim.version.version12',\n\
                                httpProxyHost='127.0.0.1', httpProxyPort=int(sys.argv[1]), sslContext=context)\n\
         print(vim.ServiceInstance('ServiceInstance', stub).CurrentTime())",
    );
    assert!(seen.starts_with("2026-01-02 03:04:05"), "{seen}");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].target(), "/sdk");
}

#[test]
fn what_the_relay_refuses_the_tool_gets_with_its_reason() {
    let stack = start("https://127.0.0.1:9");
    let connect = Connect::start(&stack);
    for (target, status, code) in [
        ("alias.sddc.local:443", 403, "policy-denied"),
        ("nsx.sddc.local:443", 404, "unknown-endpoint"),
        ("vcenter.sddc.local:443", 502, "upstream-unreachable"),
    ] {
        let answer = connect.say(&format!("CONNECT {target} HTTP/1.0\r\n\r\n"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{answer}");
        assert!(
            head.contains("culvert-call: ") && head.contains("proxy-status: "),
            "{answer}"
        );
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(
            problem["type"]
                .as_str()
                .unwrap()
                .ends_with(&format!("#{code}")),
            "{answer}"
        );
    }
    let answer = connect.say("GET http://vcenter.sddc.local/ HTTP/1.1\r\nHost: v\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert!(answer.contains("https:// only"), "{answer}");
}

/// A token is read when it is needed: the next connection has the new one.
#[test]
fn a_renewed_token_counts_at_once_and_an_open_file_is_refused() {
    let nginx = Nginx::start();
    let stack = start(&nginx.url());
    let connect = Connect::start(&stack);
    let request = "CONNECT vcenter.sddc.local:443 HTTP/1.0\r\n\r\n";
    write_private(&connect.token_file(), world().token(OTHER_CALLER)).unwrap();
    // Of a tenant that has no agent.
    assert!(connect.say(request).starts_with("HTTP/1.1 503 "));
    write_private(&connect.token_file(), "a.b.c").unwrap();
    // Not 407: a credential of the tool's own would change nothing.
    let answer = connect.say(request);
    let file = connect.token_file().display().to_string();
    let line = answer.lines().next().unwrap();
    assert!(
        line.starts_with("HTTP/1.1 502 ") && line.contains(&file) && line.contains("call "),
        "{answer}"
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
    let call = problem["call"].as_str().unwrap();
    assert!(line.contains(&format!("call {call}")), "{answer}");
    assert!(head.contains(&format!("Culvert-Call: {call}")), "{answer}");
    assert!(head.contains("; error=http_request_denied; "), "{answer}");
    write_private(&connect.token_file(), world().token(CALLER)).unwrap();
    let mut tool = TcpStream::connect((Ipv4Addr::LOCALHOST, connect.port)).unwrap();
    tool.write_all(request.as_bytes()).unwrap();
    let mut start = [0; 12];
    tool.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.0 200");

    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(connect.token_file(), open).unwrap();
    let answer = connect.say(request);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains("chmod 600"),
        "{answer}"
    );
}

/// As `printf ... | nc` does.
#[test]
fn a_tool_that_says_all_at_once_and_ends_its_direction_gets_its_answer() {
    let (stack, upstream) = start_tcp();
    let connect = Connect::start(&stack);
    let mut tool = connect.tool(&format!("{CONNECT}early"));
    tool.shutdown(Shutdown::Write).unwrap();
    let mut upstream = accepted(&upstream);
    let mut heard = String::new();
    upstream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "early");
    upstream.write_all(b"late").unwrap();
    drop(upstream);
    let mut answer = String::new();
    tool.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nlate"),
        "{answer}"
    );
}

/// Neither side takes what SIGTERM cuts short for the end.
#[test]
fn a_connection_that_outlives_the_drain_ends_with_a_reset_on_both_sides() {
    let (stack, upstream) = start_tcp();
    let mut connect = Connect::start(&stack);
    let mut tool = connect.tool(CONNECT);
    let mut upstream = accepted(&upstream);
    upstream.write_all(b"half of ").unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"half of ") {
        let mut byte = [0];
        tool.read_exact(&mut byte).unwrap();
        got.extend(byte);
    }
    connect.process.terminate();
    for end in [&mut tool, &mut upstream] {
        let error = end.read(&mut [0]).expect_err("no clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert!(connect.process.wait().success());
}

/// Who presses Ctrl-C twice waits no longer.
#[test]
fn a_second_signal_breaks_off_what_the_first_one_lets_go_on() {
    let (stack, upstream) = start_tcp();
    let mut connect = Connect::start(&stack);
    let mut tool = connect.tool(CONNECT);
    let _upstream = accepted(&upstream);
    connect.process.signal(Signal::INT);
    until("it lets the connection go on", || {
        connect.process.log().contains("connections may go on")
    });
    connect.process.signal(Signal::INT);
    let mut answer = Vec::new();
    let broken = tool.read_to_end(&mut answer).expect_err("no clean end");
    assert_eq!(broken.kind(), ErrorKind::ConnectionReset);
    assert!(connect.process.wait().success());
    let log = connect.process.log();
    assert!(log.contains("asked again"), "{log}");
}

#[test]
fn flags_that_make_no_sense_end_it_with_2_and_files_that_are_of_no_use_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let missing = folder.path().join("missing");
    write_private(&token, "a.b.c").unwrap();
    let run = |relay: &str, token: &PathBuf, listen: &str| -> Output {
        let token = token.to_str().unwrap();
        let arguments = ["--relay", relay, "--token-file", token, "--listen", listen];
        stack::run("culvert-connect", &arguments)
    };
    let relay = "https://relay.example.com";
    let url = "expected https://";
    for (output, code, reason) in [
        (run("foo", &token, "127.0.0.1:0"), 2, url),
        (
            run("http://relay.example.com", &token, "127.0.0.1:0"),
            2,
            url,
        ),
        (
            run("https://relay.example.com/x", &token, "127.0.0.1:0"),
            2,
            url,
        ),
        (run(relay, &missing, "127.0.0.1:0"), 78, "--token-file"),
        (run(relay, &token, "0.0.0.0:0"), 2, "--allow-other-machines"),
    ] {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(reason), "{errors}");
    }
    let output = run(relay, &token, "localhost:3128");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("expected an IP address"), "{errors}");
    assert_eq!(
        stack::run("culvert-connect", &["--version"]).status.code(),
        Some(0)
    );
}
