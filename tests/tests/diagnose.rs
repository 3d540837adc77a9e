//! `culvert-agent diagnose` and `culvert-agent pin`: what they say of each thing that can be wrong.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

use culvert_demo::certs::Authority;
use culvert_demo::files::write_private;
use culvert_tests::issuer::world;
use culvert_tests::process::program;
use culvert_tests::squid::Squid;
use culvert_tests::stack::Configured;
use culvert_tests::{Nginx, Stack, Upstream, port, stack, wait};

fn diagnose(configured: &Configured, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = Command::new(program("culvert-agent"))
        .args(["diagnose", "--config"])
        .arg(configured.file("agent.toml"))
        .env_remove("RUST_LOG")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    (output.status.code(), text(&output))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The line of a step, and the two behind it.
fn step<'t>(text: &'t str, name: &str) -> &'t str {
    let at = text.find(&format!(" {name} "));
    let start = at.unwrap_or_else(|| panic!("no step {name} in\n{text}"));
    let start = text[..start].rfind('\n').map_or(0, |end| end + 1);
    let end = text[start..].match_indices('\n').nth(1);
    &text[start..end.map_or(text.len(), |(end, _)| start + end)]
}

fn assert_step(text: &str, name: &str, outcome: &str, words: &str) {
    let found = step(text, name);
    assert!(
        found.starts_with(outcome) && found.contains(words),
        "{name} is not {outcome} with {words:?}:\n{text}"
    );
}

#[test]
fn everything_that_works_is_said_to_work() {
    let nginx = Nginx::start();
    let configured = Stack::options()
        .endpoint("vcenter", &nginx.url())
        .configure();
    let _relay = relay(&configured);
    let (code, text) = diagnose(&configured, &[]);
    for (name, words) in [
        ("dns", "localhost"),
        ("proxy", "none"),
        ("tls", "TLS 1.3"),
        ("token", "lives"),
        ("websocket", "relay-1"),
        ("registration", "vcenter"),
        ("upstream vcenter", ": HEAD / gets 404 Not Found"),
    ] {
        assert_step(&text, name, "ok", words);
    }
    assert!(text.contains("pin_sha256 = [\""), "{text}");
    assert!(text.contains("CN=localhost"), "{text}");
    assert_eq!(code, Some(0), "{text}");
    wait::until("what was asked is logged", || {
        !nginx.access_log().is_empty()
    });
    let asked = nginx.access_log();
    assert_eq!(asked.lines().count(), 1, "{asked}");
    assert!(asked.contains("\"HEAD / HTTP/1.1\""), "{asked}");

    let squid = Squid::start(&[configured.public]);
    let proxy = [
        ("CULVERT_RELAY__PROXY", &*squid.url_with_credential()),
        ("NO_PROXY", ""),
    ];
    let (code, text) = diagnose(&configured, &proxy);
    assert_step(&text, "proxy", "ok", "opened a tunnel");
    // The issuer's port is not one that this squid lets through to.
    assert_step(&text, "token", "FAIL", "corporate proxy");
    assert_step(&text, "websocket", "skip", "");
    assert_eq!(code, Some(1), "{text}");
    let wrong = [("CULVERT_RELAY__PROXY", &*squid.url()), ("NO_PROXY", "")];
    let (_, text) = diagnose(&configured, &wrong);
    assert_step(&text, "proxy", "FAIL", "407");
}

/// A relay that is ready.
fn relay(configured: &Configured) -> culvert_tests::process::Process {
    let relay = configured.start("culvert-relay");
    wait::until("the relay listens", || port::answers(configured.public));
    relay
}

#[test]
fn each_step_that_fails_is_named_with_what_to_do() {
    let upstream = Upstream::plain();
    let strange = Nginx::start_signed_by(&Authority::generate().unwrap());
    let down = format!("https://localhost:{}", port::free());
    let configured = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .endpoint("down", &down)
        .endpoint("untrusted", &strange.url())
        .endpoint("second", "https://nowhere.invalid")
        .endpoint("stray", &upstream.url())
        .configure();
    let closed = format!("wss://localhost:{}", port::free());
    let stranger = configured.file("stranger.pem");
    std::fs::write(&stranger, Authority::generate().unwrap().pem()).unwrap();
    let stranger = stranger.display().to_string();

    let (code, text) = diagnose(
        &configured,
        &[("CULVERT_RELAY__URL", "wss://nowhere.invalid")],
    );
    assert_step(&text, "dns", "FAIL", "resolver");
    assert_step(&text, "tls", "skip", "");
    assert_eq!(code, Some(1), "{text}");
    let (_, text) = diagnose(&configured, &[("CULVERT_RELAY__URL", &closed)]);
    assert_step(&text, "tcp", "FAIL", "corporate proxy");

    let _relay = relay(&configured);
    let (_, text) = diagnose(&configured, &[("CULVERT_RELAY__CA", &stranger)]);
    assert_step(&text, "tls", "FAIL", "set relay.ca to the file of the CA");
    let shown = &text[text.find(" tls ").unwrap()..text.find(" token ").unwrap()];
    assert!(
        shown.contains("Culvert development authority"),
        "the certificate is shown: {text}"
    );
    assert!(
        !shown.contains("pin"),
        "no key takes the pin of a relay: {text}"
    );
    let (_, text) = diagnose(&configured, &[("CULVERT_OAUTH__CLIENT_SECRET", "wrong")]);
    assert_step(&text, "token", "FAIL", "invalid_client");
    assert!(!text.contains("wrong"), "{text}");
    let (_, text) = diagnose(&configured, &[("CULVERT_OAUTH__CA", &stranger)]);
    assert_step(&text, "token", "FAIL", "TLS");

    let (code, text) = diagnose(&configured, &[]);
    assert_step(&text, "websocket", "ok", "relay-1");
    assert!(
        text.contains("FAIL  registration   stray: refused"),
        "{text}"
    );
    assert!(text.contains("ok    registration   vcenter"), "{text}");
    assert_step(&text, "upstream vcenter", "ok", "TLS 1.3");
    assert_step(&text, "upstream down", "FAIL", "refused");
    assert_step(&text, "upstream second", "FAIL", "resolve");
    assert_step(
        &text,
        "upstream untrusted",
        "FAIL",
        "invalid peer certificate",
    );
    assert!(text.contains("steps failed"), "{text}");
    assert_eq!(code, Some(1), "{text}");

    // The pin that it prints is the one that works.
    let shown = &text[text.find("upstream untrusted").unwrap()..];
    let pin = &shown[shown.find("pin_sha256 = [").unwrap()..];
    let pin = &pin[..=pin.find(']').unwrap()];
    let file = configured.file("agent.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let start = config.find("name = \"untrusted\"").unwrap();
    let (before, after) = config.split_at(start);
    let ca = after.find("ca = ").unwrap();
    let line = after[ca..].find('\n').unwrap();
    let pinned = format!("{before}{}{pin}{}", &after[..ca], &after[ca + line..]);
    std::fs::write(&file, pinned).unwrap();
    let (_, text) = diagnose(&configured, &[]);
    assert_step(&text, "upstream untrusted", "ok", "answers with TLS");

    std::fs::write(&file, "[relay]\n").unwrap();
    assert_eq!(diagnose(&configured, &[]).0, Some(78));
}

/// Plain HTTP, whoever asks.
fn without_tls() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.read(&mut [0; 1024]);
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    port
}

/// The advice is for what is wrong, and not for what is wrong most often.
#[test]
fn a_server_that_is_none_of_the_expected_kind_is_called_by_its_kind() {
    let nginx = Nginx::start_with("", "ssl_protocols TLSv1.2 TLSv1.3;");
    let bare = without_tls();
    let configured = Stack::options()
        .endpoint("vcenter", &nginx.url())
        .endpoint("bare", &format!("https://localhost:{bare}"))
        .configure();
    let other = nginx.url().replace("https://", "wss://");
    let (_, text) = diagnose(&configured, &[("CULVERT_RELAY__URL", &other)]);
    assert_step(&text, "tls", "ok", "TLS 1.3");
    assert_step(&text, "websocket", "FAIL", "no relay: check the URL");
    assert_step(
        &text,
        "upstream bare",
        "FAIL",
        "speaks no TLS: check the port",
    );

    let plain = format!("wss://localhost:{bare}");
    let (_, text) = diagnose(&configured, &[("CULVERT_RELAY__URL", &plain)]);
    assert_step(&text, "tls", "FAIL", "speaks no TLS: check host and port");

    // A token that somebody else put into a file is not one that an issuer gave just now.
    let file = configured.file("agent.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let (before, after) = config.split_once("[oauth]").unwrap();
    let (_, after) = after.split_once("[[endpoint]]").unwrap();
    let read = "[oauth]\ngrant = \"token_file\"\nclient_id = \"agent-acme\"\ntoken_file = \"token\"\n\n[[endpoint]]";
    std::fs::write(&file, format!("{before}{read}{after}")).unwrap();
    write_private(&configured.file("token"), "junk").unwrap();
    let _relay = relay(&configured);
    let (_, text) = diagnose(&configured, &[]);
    assert_step(&text, "token", "ok", "the relay will judge it");
    assert_step(
        &text,
        "websocket",
        "FAIL",
        "the relay did not accept the token",
    );
}

/// nginx takes the connection in either case, and refuses each request with a 400.
#[test]
fn an_upstream_that_refuses_every_call_does_not_pass_for_one_that_works() {
    let directives = format!(
        "ssl_verify_client on; ssl_client_certificate {};",
        world().ca_file().display()
    );
    let nginx = Nginx::start();
    let strict = Nginx::start_with("", &directives);
    let configured = Stack::options()
        .endpoint("vcenter", &nginx.url())
        .endpoint("bare", &nginx.url().replace("https://", "http://"))
        .endpoint("strict", &strict.url())
        .configure();
    let file = configured.file("agent.toml");
    let http = std::fs::read_to_string(&file).unwrap();
    let mut bytes = http.clone();
    for name in ["vcenter", "bare", "strict"] {
        let line = format!("name = \"{name}\"\n");
        let mode = format!("mode = [\"connect\"]\nconnect = [\"{name}.local:443\"]\n");
        bytes = bytes.replace(&line, &format!("{line}{mode}"));
    }
    // What is carried as bytes may be any protocol, and is not asked.
    std::fs::write(&file, bytes).unwrap();
    let (_, text) = diagnose(&configured, &[]);
    for name in ["upstream vcenter", "upstream bare", "upstream strict"] {
        assert_step(&text, name, "ok", "nothing was asked");
    }
    assert_eq!(nginx.access_log(), "");
    std::fs::write(&file, http).unwrap();
    let (code, text) = diagnose(&configured, &[]);
    assert_step(&text, "upstream vcenter", "ok", "HEAD / gets");
    assert_step(&text, "upstream bare", "FAIL", "write https://");
    assert_step(&text, "upstream strict", "FAIL", "client_certificate");
    assert_eq!(code, Some(1), "{text}");
}

#[test]
fn pin_shows_the_chain_and_the_line_to_paste() {
    let nginx = Nginx::start_signed_by(&Authority::generate().unwrap());
    let address = nginx.url().replace("https://", "");
    let output = stack::run("culvert-agent", &["pin", &address]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    for words in [
        "nothing of it is verified",
        "CN=localhost",
        "names    localhost",
        "pin_sha256 = [\"",
    ] {
        assert!(shown.contains(words), "{words:?} is not in {shown}");
    }
    let json = text(&stack::run("culvert-agent", &["pin", "--json", &address]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(shown.contains(json["pin_sha256"].as_str().unwrap()));
    assert_eq!(json["verified"], false);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = server.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut io, _) = server.accept().unwrap();
        io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // Until the other side has read it and leaves.
        let _ = io.read_to_end(&mut Vec::new());
    });
    for (arguments, code, words) in [
        (vec!["pin", "localhost:1"], 1, "cannot connect"),
        (vec!["pin", &plain], 1, "speaks no TLS"),
        (vec!["pin", "nowhere.invalid"], 1, "cannot resolve"),
        (vec!["pin", "http://x"], 2, "expected HOST"),
        (vec!["pin"], 2, "Usage"),
    ] {
        let output = stack::run("culvert-agent", &arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words), "{said}");
    }
    answering.join().unwrap();
}
