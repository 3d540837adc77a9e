//! The programs as their operators meet them: exit codes, configuration errors, admin listener.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use culvert_tests::issuer::world;
use culvert_tests::process::{Process, program};
use culvert_tests::stack::{Configured, run};
use culvert_tests::wait::until;
use culvert_tests::{Curl, Stack, Upstream, port};

const PROGRAMS: [&str; 2] = ["culvert-relay", "culvert-agent"];

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Good configuration of both programs.
fn good() -> Configured {
    Stack::options()
        .endpoint("vcenter", "https://localhost:1")
        .configure()
}

fn check(program: &str, config: &Path) -> Output {
    run(program, &["check", "--config", config.to_str().unwrap()])
}

#[test]
fn help_and_version_succeed_and_a_wrong_flag_is_usage() {
    for program in PROGRAMS {
        for arguments in [&["--help"][..], &["--version"], &["run", "--help"]] {
            let output = run(program, arguments);
            assert_eq!(output.status.code(), Some(0), "{program} {arguments:?}");
            assert!(!output.stdout.is_empty());
        }
        let help = String::from_utf8(run(program, &["--help"]).stdout).unwrap();
        assert!(help.contains("Exit codes: 0 "), "{help}");
        for arguments in [&["--no-such-flag"][..], &["no-such-command"], &["run"], &[]] {
            let output = run(program, arguments);
            assert_eq!(output.status.code(), Some(2), "{program} {arguments:?}");
            assert!(!output.stderr.is_empty());
        }
    }
}

#[test]
fn a_good_configuration_checks_with_0_and_shows_no_secret() {
    let good = good();
    for (program, file) in [
        ("culvert-relay", "relay.toml"),
        ("culvert-agent", "agent.toml"),
    ] {
        let output = check(program, &good.file(file));
        assert_eq!(output.status.code(), Some(0), "{}", error(&output));
        let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &error(&output);
        assert!(!shown.contains(world().secret()), "{shown}");
        assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    }
}

/// What is asked of a running program, and cannot be.
#[test]
fn a_question_that_makes_no_sense_is_usage() {
    for (program, arguments) in [
        ("culvert-relay", &["status", "--admin", "foo"][..]),
        ("culvert-relay", &["revoke"]),
        ("culvert-relay", &["revoke", "--reason", "x"]),
        ("culvert-relay", &["revoke", "--tenant", "AC-ME"]),
        ("culvert-agent", &["status", "--admin", "foo"]),
    ] {
        let output = run(program, arguments);
        assert_eq!(output.status.code(), Some(2), "{program} {arguments:?}");
        assert!(!error(&output).is_empty());
    }
}

/// What is wrong is named by file, line and key; `check` and `run` agree.
#[test]
fn a_wrong_configuration_ends_with_78_and_says_where() {
    let cases = [
        (
            "culvert-relay",
            "relay.toml",
            "node = \"relay-1\"",
            "nod = \"relay-1\"",
            "nod",
        ),
        (
            "culvert-relay",
            "relay.toml",
            "domain = ",
            "domain = 7 #",
            "domain",
        ),
        (
            "culvert-relay",
            "relay.toml",
            "\"ES256\"",
            "\"none\"",
            "algorithms",
        ),
        (
            "culvert-relay",
            "relay.toml",
            "\"ES256\"",
            "\"HS256\"",
            "algorithms",
        ),
        (
            "culvert-relay",
            "relay.toml",
            "\"relay.key\"",
            "\"missing.key\"",
            "private_key",
        ),
        (
            "culvert-relay",
            "relay.toml",
            "certificate = \"relay.pem\"",
            "certificate = \"relay.key\"",
            "tls.certificate",
        ),
        ("culvert-agent", "agent.toml", "wss://", "http://", "url"),
        (
            "culvert-agent",
            "agent.toml",
            "sessions = 1",
            "sessions = 1\nsessions = 2",
            "sessions",
        ),
        (
            "culvert-agent",
            "agent.toml",
            "name = \"vcenter\"",
            "name = \"v--c\"",
            "name",
        ),
        (
            "culvert-agent",
            "agent.toml",
            "\"secret\"",
            "\"missing\"",
            "client_secret_file",
        ),
        (
            "culvert-agent",
            "policy.toml",
            "\"deny\"",
            "\"refuse\"",
            "action",
        ),
        (
            "culvert-agent",
            "policy.toml",
            "caller = ",
            "callers = ",
            "callers",
        ),
        (
            "culvert-agent",
            "policy.toml",
            "version = 1",
            "version = 2",
            "version",
        ),
    ];
    let good = good();
    for (program, file, from, to, key) in cases {
        let path = good.file(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let bad = text.replacen(from, to, 1);
        assert_ne!(text, bad, "{from:?} is not in {file}");
        std::fs::write(&path, &bad).unwrap();
        let line = 1 + bad
            .lines()
            .position(|line| line.contains(to.lines().last().unwrap()))
            .unwrap();

        let main = if program == "culvert-relay" {
            "relay.toml"
        } else {
            "agent.toml"
        };
        let main = good.file(main);
        for command in ["check", "run"] {
            let output = run(program, &[command, "--config", main.to_str().unwrap()]);
            let text = error(&output);
            assert_eq!(
                output.status.code(),
                Some(78),
                "{command} with {to:?}: {text}"
            );
            assert!(text.contains(file), "{to:?}: no file in {text}");
            assert!(text.contains(key), "{to:?}: no key {key} in {text}");
            assert!(
                text.contains(&format!(":{line}")),
                "{to:?}: not line {line} in {text}"
            );
        }
        std::fs::write(&path, text).unwrap();
    }
}

#[test]
fn a_configuration_that_is_missing_or_empty_ends_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.toml");
    std::fs::write(&empty, "").unwrap();
    for program in PROGRAMS {
        for file in [
            &empty,
            &folder.path().join("missing.toml"),
            &folder.path().to_owned(),
        ] {
            let output = check(program, file);
            assert_eq!(output.status.code(), Some(78), "{}", error(&output));
            assert!(
                error(&output).contains(file.to_str().unwrap()),
                "{}",
                error(&output)
            );
        }
    }
}

#[test]
fn a_policy_whose_own_tests_fail_does_not_check() {
    let good = good();
    let policy = good.file("policy.toml");
    let test = r#"
[[test]]
name = "nobody is forbidden anything"
call = { endpoint = "vcenter", method = "GET", path = "/forbidden/x", caller = "caller-acme" }
expect = "allow"
"#;
    let text = std::fs::read_to_string(&policy).unwrap() + test;
    std::fs::write(&policy, text).unwrap();
    let output = check("culvert-agent", &good.file("agent.toml"));
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned() + &error(&output);
    assert!(shown.contains("nobody is forbidden anything"), "{shown}");
    assert!(
        shown.contains("nothing-forbidden"),
        "the rule that decided is not named: {shown}"
    );
}

/// Adds to a file of a configuration.
fn add(file: &Path, text: &str) {
    let before = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, before + text).unwrap();
}

/// The unit makes `/var/log/culvert-agent` when it starts the agent, and an operator checks before.
#[test]
fn the_folder_of_the_audit_log_may_be_missing_for_check_and_must_be_there_for_run() {
    let good = good();
    let config = good.file("agent.toml");
    add(&config, "\n[audit]\nfile = \"nowhere/audit.log\"\n");
    let output = check("culvert-agent", &config);
    let said = error(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("warning: there is no folder") && said.contains("nowhere"),
        "{said}"
    );
    let output = good.command("culvert-agent").output().unwrap();
    let said = error(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("audit.file") && said.contains("nowhere"),
        "{said}"
    );
    std::fs::create_dir(good.file("nowhere")).unwrap();
    assert_eq!(error(&check("culvert-agent", &config)), "");
}

/// What the contract prints: an address for other nodes at one that is alone, and callers who are verified
/// without a word of whose they are.
#[test]
fn the_configurations_of_the_contract_pass_and_what_does_nothing_is_said() {
    let good = Stack::options()
        .endpoint("vcenter", "https://localhost:1")
        .listen("peer = \"127.0.0.1:9443\"\n")
        .relay("\n[directory]\nkind = \"memory\"\n")
        .agent("\n[verify_callers]\n")
        .configure();
    let output = check("culvert-relay", &good.file("relay.toml"));
    let said = error(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("listen.peer (127.0.0.1:9443) does nothing"),
        "{said}"
    );
    let output = check("culvert-agent", &good.file("agent.toml"));
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let callers = &shown[shown.find("verify_callers").expect("it is shown")..];
    assert!(callers.contains(&world().issuer), "{shown}");

    let relay = good.file("relay.toml");
    add(
        &relay,
        "\n[peer]\nname = \"relays.example\"\ncertificate = \"relay.pem\"\n\
         private_key = \"relay.key\"\nca = \"relay.pem\"\n",
    );
    let output = check("culvert-relay", &relay);
    assert_eq!(output.status.code(), Some(78), "{}", error(&output));
}

/// An operator who keeps what is shown has the same agent.
#[test]
fn what_check_shows_of_a_client_with_a_key_checks_again() {
    let good = good();
    let config = good.file("agent.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (secret, key) = (
        "client_secret_file = \"secret\"",
        "private_key_jwt = { key_file = \"relay.key\", key_id = \"1\" }",
    );
    assert!(text.contains(secret), "{text}");
    std::fs::write(&config, text.replace(secret, key)).unwrap();
    let output = check("culvert-agent", &config);
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    std::fs::write(&config, &output.stdout).unwrap();
    let again = check("culvert-agent", &config);
    assert_eq!(again.status.code(), Some(0), "{}", error(&again));
    assert_eq!(again.stdout, output.stdout);
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let good = good();
    for (program, config, secret) in [
        ("culvert-relay", "relay.toml", "relay.key"),
        ("culvert-agent", "agent.toml", "secret"),
    ] {
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(good.file(secret), open).unwrap();
        let output = check(program, &good.file(config));
        assert_eq!(output.status.code(), Some(78), "{}", error(&output));
        assert!(error(&output).contains(secret), "{}", error(&output));
    }
}

#[test]
fn an_environment_variable_overrides_a_key() {
    let good = good();
    let config = good.file("relay.toml");
    let mut command = Command::new(program("culvert-relay"));
    command.arg("check").arg("--config").arg(&config);
    let output = command
        .env("CULVERT_NODE", "from-outside")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("from-outside"));
}

/// Variables of others end no program, whatever bytes they have; one that would count is named.
#[test]
fn a_variable_that_is_not_text_matters_only_where_it_would_be_read() {
    let good = good();
    for (name, file) in [
        ("culvert-relay", "relay.toml"),
        ("culvert-agent", "agent.toml"),
    ] {
        let check_with = |variable: &str| {
            let mut command = Command::new(program(name));
            command.arg("check").arg("--config").arg(good.file(file));
            command.env(variable, OsStr::from_bytes(b"\xff"));
            command.output().unwrap()
        };
        let output = check_with("FOO");
        assert_eq!(output.status.code(), Some(0), "{}", error(&output));
        let output = check_with("RUST_LOG");
        let text = error(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains("RUST_LOG is not understood"), "{text}");
        for own in ["CULVERT_LIMITS__DRAIN", "HTTPS_PROXY"] {
            let output = check_with(own);
            let text = error(&output);
            assert_eq!(output.status.code(), Some(78), "{text}");
            assert!(text.contains(own) && text.contains(file), "{text}");
        }
    }
}

/// A script that keeps what `check` shows must not go on with half of it; `| head -1` may.
#[test]
fn output_that_cannot_be_written_is_a_failure_and_a_reader_that_left_is_none() {
    let good = good();
    for (name, file) in [
        ("culvert-relay", "relay.toml"),
        ("culvert-agent", "agent.toml"),
    ] {
        let check_into = |stdout: Stdio| {
            let mut command = Command::new(program(name));
            command.arg("check").arg("--config").arg(good.file(file));
            command.stdout(stdout).output().unwrap()
        };
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = check_into(full.into());
        let text = error(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("cannot be written"), "{text}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = check_into(writer.into());
        assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    }
}

#[test]
fn a_port_that_is_taken_is_a_failure_at_run_time() {
    let good = good();
    for port in [good.public, good.admin] {
        let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let output = good.command("culvert-relay").output().unwrap();
        let text = error(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&port.to_string()), "{text}");
    }
}

#[test]
fn the_admin_listener_tells_health_readiness_and_metrics() {
    let stack = Stack::start(&Upstream::plain().url());
    assert_eq!(stack.call("/").ok().status, 200);
    assert_eq!(stack.call("/forbidden/x").ok().status, 403);
    assert_eq!(stack.admin("/healthz").status, 200);
    assert_eq!(stack.admin("/readyz").status, 200);
    assert_eq!(stack.admin("/no-such-page").status, 404);
    let metrics = stack.admin("/metrics");
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    assert!(text.contains("# TYPE culvert_relay_"), "{text}");
    let samples = text
        .lines()
        .filter(|line| line.starts_with("culvert_relay_"))
        .count();
    assert!(samples > 5, "{text}");
    // Nothing of it is on the public address.
    for path in ["/metrics", "/healthz", "/readyz"] {
        let public = Curl::new(&format!("https://localhost:{}{path}", stack.public)).ok();
        assert_ne!(public.status, 200, "{public}");
    }
}

/// Without the issuer's keys nobody can be let in: alive, but not ready.
#[test]
fn a_relay_that_cannot_reach_the_issuer_is_alive_but_not_ready() {
    let good = good();
    let config = good.file("relay.toml");
    let nobody = format!("https://localhost:{}", port::free());
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(&world().issuer, &nobody)).unwrap();
    let mut relay = good.start("culvert-relay");
    let ask = |path: &str| Curl::new(&format!("http://127.0.0.1:{}{path}", good.admin)).run();
    until("the relay is alive", || {
        relay.assert_running();
        ask("/healthz").status == 200
    });
    assert_eq!(ask("/readyz").status, 503);
    let url = format!("https://vcenter--acme.localhost:{}/", good.public);
    let call = Curl::new(&url).token(&world().forge(|_| ())).ok();
    assert!([401, 503].contains(&call.status), "{call}");
}

#[test]
fn logs_are_json_where_asked_for() {
    let good = good();
    let mut command = good.command("culvert-relay");
    command.args(["--log-format", "json"]);
    let mut relay = Process::start("relay-json", &good.file(""), &mut command);
    until("the relay listens", || {
        relay.assert_running();
        port::answers(good.public)
    });
    relay.terminate();
    assert_eq!(relay.wait().code(), Some(0));
    let log = relay.log();
    assert!(!log.is_empty());
    for line in log.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "{line}"
        );
    }
}
