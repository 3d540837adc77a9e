//! Admin listeners for other machines: TLS and a token, or none.

use std::process::Output;

use culvert_demo::files::write_private;
use culvert_tests::issuer::world;
use culvert_tests::stack::{Configured, run};
use culvert_tests::wait::until;
use culvert_tests::{Curl, Stack};
use serde_json::Value;

const TOKEN: &str = "c0ffee00c0ffee00";

/// Relay and agent that answer operators on every address of this machine, and the agent's port.
fn open() -> (Configured, u16) {
    let options = Stack::options().endpoint("vcenter", "https://127.0.0.1:9");
    let configured = options.configure();
    let agent = configured.open_admin(TOKEN);
    (configured, agent)
}

fn shows(request: Curl, token: &str) -> Curl {
    request.header(&format!("Authorization: Bearer {token}"))
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(&[&out[..], &err[..]].concat()).into_owned()
}

/// Path, method and responses of each operation in a description of OpenAPI.
fn operations(description: &Value) -> Vec<(String, String, &Value)> {
    let paths = description["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, operations)| {
        let path = path.replace("{id}", "0123456789abcdef");
        let operations = operations.as_object().unwrap().iter();
        operations.map(move |(method, operation)| {
            let method = method.to_uppercase();
            (path.clone(), method, &operation["responses"])
        })
    });
    operations.collect()
}

/// What an operator's tools do from another machine, and what strangers get there.
#[test]
fn operators_elsewhere_are_answered_over_tls_and_for_the_token_alone() {
    let (configured, agent) = open();
    let mut processes = [
        configured.start("culvert-relay"),
        configured.start("culvert-agent"),
    ];
    let both = [
        ("culvert-relay", configured.admin),
        ("culvert-agent", agent),
    ];
    for ((program, port), process) in both.into_iter().zip(&mut processes) {
        let ask = |path: &str| Curl::new(&format!("https://localhost:{port}{path}"));
        until("the listener answers", || {
            process.assert_running();
            shows(ask("/healthz"), TOKEN).run().status == 200
        });
        for path in [
            "/healthz",
            "/readyz",
            "/metrics",
            "/",
            "/api/v1/status",
            "/x",
        ] {
            let stranger = ask(path).run();
            assert_eq!(stranger.status, 401, "{program} {path}: {stranger}");
            let wrong = shows(ask(path), "c0ffee00c0ffee01").run();
            assert_eq!(wrong.status, 401, "{program} {path}: {wrong}");
        }
        let description = shows(ask("/api/v1/openapi.json"), TOKEN).ok().json();
        for (path, method, responses) in operations(&description) {
            let stranger = ask(&path).method(&method).run();
            assert_eq!(stranger.status, 401, "{program} {method} {path}");
            assert!(responses["401"].is_object(), "{program} {method} {path}");
        }
        let metrics = shows(ask("/metrics"), TOKEN).ok();
        assert!(metrics.text().contains("# EOF"), "{metrics}");
        // As browsers ask, by whatever name the listener is reached.
        let page = ask("/").args(["--user", &format!("admin:{TOKEN}")]);
        let page = page.header("Host: relay.elsewhere.example").ok();
        assert!(page.text().contains("<!doctype html>"), "{page}");
        let plain = Curl::new(&format!("http://127.0.0.1:{port}/healthz")).run();
        assert_eq!(plain.status, 0, "{plain}");

        let url = format!("https://localhost:{port}");
        let (file, ca) = (configured.file("admin.token"), world().ca_file());
        let (file, ca) = (file.to_str().unwrap(), ca.to_str().unwrap());
        let status = |more: &[&str]| {
            let output = run(program, &[&["status", "--admin", &url], more].concat());
            (output.status.code(), text(&output))
        };
        let (code, shown) = status(&["--token-file", file, "--ca", ca]);
        assert_eq!(code, Some(0), "{shown}");
        let asked = ["ready", "--admin", &url, "--token-file", file, "--ca", ca];
        until("the probe says so", || {
            let output = run(program, &asked);
            output.status.code() == Some(0) && output.stdout == b"ready\n"
        });
        let (code, shown) = status(&["--ca", ca]);
        assert_eq!(code, Some(1), "{shown}");
        assert!(shown.contains("401") && shown.contains("token"), "{shown}");
        let (code, shown) = status(&["--token-file", "/nonexistent", "--ca", ca]);
        assert_eq!(code, Some(2), "{shown}");
    }

    // A new token counts at once, and the log of neither says it.
    let file = configured.file("admin.token");
    std::fs::remove_file(&file).unwrap();
    write_private(&file, "decafbaddecafbad").unwrap();
    for (port, process) in [configured.admin, agent].into_iter().zip(&processes) {
        let url = format!("https://localhost:{port}/healthz");
        let ask = |token| shows(Curl::new(&url), token);
        assert_eq!(ask(TOKEN).run().status, 401);
        assert_eq!(ask("decafbaddecafbad").run().status, 200);
        let log = process.log();
        assert!(!log.contains(TOKEN) && !log.contains("decafbad"), "{log}");
    }

    // Without its relay the agent serves nobody: the probe says so.
    processes[0].kill();
    let url = format!("https://localhost:{agent}");
    let (file, ca) = (file.to_str().unwrap(), world().ca_file());
    let (token, ca) = (["--token-file", file], ["--ca", ca.to_str().unwrap()]);
    until("the agent is not ready", || {
        let asked = [&["ready", "--admin", &url], &token[..], &ca].concat();
        let output = run("culvert-agent", &asked);
        output.status.code() == Some(1) && text(&output).contains("503")
    });
}

/// What lacks one of the two is refused before it runs, and the error says what is missing.
#[test]
fn an_address_beyond_this_machine_without_a_token_is_refused() {
    let cases = [
        (
            "culvert-relay",
            "relay.toml",
            "token_file = \"admin.token\"",
            "",
        ),
        (
            "culvert-agent",
            "agent.toml",
            "token_file = \"admin.token\"",
            "",
        ),
        (
            "culvert-agent",
            "agent.toml",
            "certificate = \"relay.pem\"\nprivate_key = \"relay.key\"\n",
            "",
        ),
        (
            "culvert-agent",
            "agent.toml",
            "private_key = \"relay.key\"",
            "",
        ),
        (
            "culvert-agent",
            "agent.toml",
            "token_file = \"admin.token\"",
            "token_file = \"relay.pem\"",
        ),
    ];
    for (program, file, from, to) in cases {
        let (configured, _) = open();
        let from = match program {
            "culvert-relay" => format!("[admin]\n{from}"),
            _ => from.to_owned(),
        };
        configured.replace(file, &from, to);
        let file = configured.file(file);
        let output = run(program, &["check", "--config", file.to_str().unwrap()]);
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(78), "{from}: {shown}");
        assert!(
            ["token", "certificate"]
                .iter()
                .any(|word| shown.contains(word)),
            "{shown}"
        );
    }
    let (configured, _) = open();
    std::fs::remove_file(configured.file("admin.token")).unwrap();
    write_private(&configured.file("admin.token"), "short").unwrap();
    let file = configured.file("relay.toml");
    let output = run(
        "culvert-relay",
        &["check", "--config", file.to_str().unwrap()],
    );
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(78), "{shown}");
    assert!(
        shown.contains("at least 16") && !shown.contains("short"),
        "{shown}"
    );
}

/// By a name that is not this machine's, and with a body that is too long.
#[test]
fn the_descriptions_have_every_refusal_of_every_operation() {
    let stack = Stack::without_upstream();
    let socket = stack.file("admin.sock").display().to_string();
    let relay = |path: &str| Curl::new(&format!("http://127.0.0.1:{}{path}", stack.admin));
    let agent =
        |path: &str| Curl::new(&format!("http://localhost{path}")).args(["--unix-socket", &socket]);
    let programs: [&dyn Fn(&str) -> Curl; 2] = [&relay, &agent];
    let long = "x".repeat(20_000);
    for ask in programs {
        let description = ask("/api/v1/openapi.json").ok().json();
        for (path, method, responses) in operations(&description) {
            let ask = || ask(&path).method(&method);
            let foreign = ask().header("Host: elsewhere.example").run();
            let too_long = ask().args(["--data-binary", &long]).run();
            for (refused, status) in [(foreign, 403), (too_long, 413)] {
                assert_eq!(refused.status, status, "{method} {path}: {refused}");
                let described = &responses[status.to_string()];
                assert!(described.is_object(), "{method} {path}: {status}");
            }
        }
    }
}

/// The address for callers is the one that everybody knows. What it answers is meant for them.
#[test]
fn who_asks_the_public_address_is_told_which_one_is_meant() {
    let stack = Stack::without_upstream();
    let url = format!("https://localhost:{}", stack.public);
    let ca = world().ca_file();
    let ca = ca.to_str().unwrap();
    for (program, setting) in [
        ("culvert-relay", "listen.admin"),
        ("culvert-agent", "[admin]"),
    ] {
        let output = run(program, &["status", "--admin", &url, "--ca", ca]);
        let shown = text(&output);
        assert_eq!(output.status.code(), Some(2), "{shown}");
        let told = format!("{url} is a relay's address for callers and agents");
        assert!(shown.contains(&told) && shown.contains(setting), "{shown}");
    }
}
