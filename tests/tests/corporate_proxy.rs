//! A corporate proxy between the agent and the relay, and between the agent and the token issuer:
//! a real squid.

use std::process::Command;

use culvert_tests::issuer::world;
use culvert_tests::squid::{PASSWORD, USER};
use culvert_tests::stack::Configured;
use culvert_tests::wait::{eventually, until};
use culvert_tests::{Curl, Squid, Stack, Upstream};

/// The port of the token issuer.
fn issuer_port() -> u16 {
    let issuer = &world().issuer;
    let digits = issuer.rsplit(':').next().unwrap().trim_end_matches('/');
    digits.parse().unwrap()
}

fn lines_of(squid: &Squid, words: &str) -> usize {
    let log = squid.access_log();
    log.lines().filter(|line| line.contains(words)).count()
}

/// A configured stack, and `relay.proxy` in `agent.toml` where `proxy` is one.
fn configured(upstream: &Upstream, settings: &str) -> Configured {
    let options = Stack::options().endpoint("vcenter", &upstream.url());
    options.link(settings).configure()
}

#[test]
fn an_agent_reaches_relay_and_issuer_through_a_proxy_that_wants_a_password() {
    let upstream = Upstream::plain();
    let configured = configured(&upstream, "");
    let squid = Squid::start(&[configured.public, issuer_port()]);
    let _relay = configured.start("culvert-relay");
    // The password from a file, and from the variable that stands for the key.
    culvert_demo::files::write_private(&configured.file("password"), PASSWORD).unwrap();
    let file = configured.file("agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines = format!(
        "[relay]\nproxy = \"http://{USER}@127.0.0.1:{}\"\nproxy_password_file = \"password\"",
        squid.port()
    );
    for round in 1..=2 {
        let mut command = configured.command("culvert-agent");
        if round == 1 {
            std::fs::write(&file, text.replacen("[relay]", &lines, 1)).unwrap();
        } else {
            std::fs::write(&file, &text).unwrap();
            command.env("CULVERT_RELAY__PROXY", squid.url_with_credential());
        }
        let agent = start(&configured, &mut command);
        reached(&configured);
        // The relay's tunnel is still open; the issuer's are in the log once they have ended.
        until("the issuer was asked through the proxy", || {
            lines_of(&squid, &format!("CONNECT localhost:{}", issuer_port())) >= round
        });
        drop(agent);
        until("the relay was reached through the proxy", || {
            lines_of(&squid, &format!("CONNECT localhost:{}", configured.public)) >= round
        });
        assert!(!configured_log(&configured).contains(PASSWORD));
        assert!(!configured_log(&configured).contains("p%40ss"));
    }
}

fn start(configured: &Configured, command: &mut Command) -> culvert_tests::process::Process {
    let folder = configured.file("");
    culvert_tests::process::Process::start("culvert-agent", &folder, command)
}

fn configured_log(configured: &Configured) -> String {
    std::fs::read_to_string(configured.file("culvert-agent.log")).unwrap_or_default()
}

/// Waits until a call gets through to the agent.
fn reached(configured: &Configured) {
    let url = format!(
        "https://vcenter--acme.localhost:{}/forbidden/probe",
        configured.public
    );
    eventually("the endpoint is reachable", || {
        let answer = Curl::new(&url)
            .token(culvert_tests::stack::caller_token())
            .run();
        (answer.code() == "policy-denied").then_some(())
    });
}

#[test]
fn a_name_that_only_the_proxy_can_resolve_is_reached_as_the_environment_says() {
    let upstream = Upstream::plain();
    let configured = configured(&upstream, "");
    let squid = Squid::start(&[configured.public]);
    // The relay's certificate is for this name too, and the agent dials it by this name.
    let leaf = world()
        .authority
        .issue(&["relay.test", "localhost", "vcenter--acme.localhost"]);
    let folder = configured.file("");
    leaf.unwrap().write(&folder, "relay").unwrap();
    let relay = std::fs::read_to_string(configured.file("relay.toml")).unwrap();
    let relay = relay.replacen("domain = \"localhost\"", "domain = \"relay.test\"", 1);
    let route = "\n[[route]]\nhost = \"vcenter--acme.localhost\"\ntenant = \"acme\"\nendpoint = \"vcenter\"\n";
    std::fs::write(configured.file("relay.toml"), relay + route).unwrap();
    let agent = std::fs::read_to_string(configured.file("agent.toml")).unwrap();
    let agent = agent.replacen("wss://localhost", "wss://relay.test", 1);
    std::fs::write(configured.file("agent.toml"), agent).unwrap();
    let _relay = configured.start("culvert-relay");

    let mut command = configured.command("culvert-agent");
    command.env("HTTPS_PROXY", squid.url_with_credential());
    // The issuer is on this machine, for which the variable is not meant.
    let running = start(&configured, &mut command);
    reached(&configured);
    drop(running);
    until("the relay was reached through the proxy", || {
        lines_of(&squid, &format!("CONNECT relay.test:{}", configured.public)) > 0
    });
    assert_eq!(lines_of(&squid, &format!(":{}", issuer_port())), 0);

    // Without the proxy the name is nobody's.
    let mut command = configured.command("culvert-agent");
    command.env("HTTPS_PROXY", squid.url_with_credential());
    command.env("NO_PROXY", "other.example,.test");
    let _running = start(&configured, &mut command);
    until("the agent tried to resolve the name itself", || {
        configured_log(&configured).contains("cannot resolve relay.test")
    });
}

#[test]
fn a_proxy_that_refuses_is_named_as_the_cause_with_what_to_do() {
    let upstream = Upstream::plain();
    let configured = configured(&upstream, "");
    let squid = Squid::start(&[configured.public, issuer_port()]);
    let narrow = Squid::start(&[issuer_port()]);
    let closed = culvert_tests::port::free();
    let not_a_proxy = upstream
        .url()
        .replace("https://localhost", "http://127.0.0.1");
    let right = squid.url_with_credential();
    for (proxy, no_proxy, words) in [
        // To the issuer already.
        (squid.url(), "", "through the corporate proxy 127.0.0.1"),
        (right.replace("word", "wort"), "", "(407)"),
        (
            format!("http://127.0.0.1:{closed}"),
            "",
            "through the corporate proxy",
        ),
        // Not to the issuer, but to the relay.
        (
            narrow.url_with_credential(),
            "",
            "refused the tunnel with status 403",
        ),
        (
            squid.url(),
            "localhost:ISSUER",
            "refused the tunnel with status 407",
        ),
        (
            format!("http://127.0.0.1:{closed}"),
            "localhost:ISSUER",
            "cannot be reached",
        ),
        (not_a_proxy, "localhost:ISSUER", "corporate proxy"),
    ] {
        let before = configured_log(&configured).len();
        let mut command = configured.command("culvert-agent");
        command.env("CULVERT_RELAY__PROXY", &proxy);
        command.env(
            "NO_PROXY",
            no_proxy.replace("ISSUER", &issuer_port().to_string()),
        );
        let mut agent = start(&configured, &mut command);
        let log = eventually("the agent says why", || {
            agent.assert_running();
            let log = configured_log(&configured);
            log[before..]
                .contains(words)
                .then(|| log[before..].to_owned())
        });
        assert!(!log.contains("p%40ss") && !log.contains(PASSWORD), "{log}");
    }
}
