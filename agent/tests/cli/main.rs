//! The program as an administrator meets it: commands, words, exit codes.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const AGENT: &str = r#"
[relay]
url = "wss://relay.example.com"
ca = "ca.pem"

[oauth]
grant = "client_credentials"
issuer = "https://issuer.example.com"
client_id = "sddc-fra-1"
client_secret_file = "secret"

[[endpoint]]
name = "vcenter"
upstream = "https://vcenter.sddc.local"
pin_sha256 = ["0707070707070707070707070707070707070707070707070707070707070707"]

[policy]
file = "policy.toml"
"#;

const POLICY: &str = r#"
version = 1

[[rule]]
id = "inventory"
action = "allow"
endpoint = ["vcenter"]
method = ["GET"]
path = ["/api/vcenter/**"]
caller = ["director-*"]

[[test]]
name = "directors read"
call = { endpoint = "vcenter", method = "GET", path = "/api/vcenter/vm", caller = "director-7" }
expect = "allow"
"#;

/// A folder with an agent's files.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let certificate = rcgen::generate_simple_self_signed(vec!["relay".to_owned()]).unwrap();
        files.write("ca.pem", &certificate.cert.pem());
        files.write("agent.toml", AGENT);
        files.write("policy.toml", POLICY);
        let secret = files.write("secret", "very-secret\n");
        std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("agent.toml")
    }
}

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_culvert-agent"))
        .args(arguments)
        .output()
        .unwrap()
}

fn check(config: &Path) -> Output {
    agent(&["check", "--config", config.to_str().unwrap()])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn check_prints_what_the_agent_would_run_with_and_no_secret() {
    let output = check(&Files::new().config());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("client_id = \"sddc-fra-1\""), "{shown}");
    assert!(
        shown.contains("sessions = 2"),
        "defaults are shown too: {shown}"
    );
    assert!(!shown.contains("very-secret"), "{shown}");
}

#[test]
fn a_wrong_configuration_is_78_with_file_line_and_key() {
    let files = Files::new();
    files.write(
        "agent.toml",
        &AGENT.replace("name = \"vcenter\"", "name = \"V Center\""),
    );
    let output = check(&files.config());
    assert_eq!(output.status.code(), Some(78));
    let words = stderr(&output);
    assert!(
        words.contains("agent.toml:13:8: endpoint[1].name: "),
        "{words}"
    );
}

#[test]
fn a_policy_whose_own_test_fails_is_78() {
    let files = Files::new();
    files.write(
        "policy.toml",
        &POLICY.replace("expect = \"allow\"", "expect = \"deny\""),
    );
    let output = check(&files.config());
    assert_eq!(output.status.code(), Some(78));
    assert!(
        stderr(&output).contains("directors read"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn every_test_of_a_policy_that_fails_is_named() {
    let files = Files::new();
    let failing = |name: &str| {
        format!(
            "[[test]]\nname = \"{name}\"\nexpect = \"allow\"\n\
             call = {{ endpoint = \"vcenter\", method = \"PUT\", path = \"/{name}\" }}\n"
        )
    };
    let text = format!("{POLICY}{}{}", failing("one"), failing("two"));
    files.write("policy.toml", &text);
    let words = stderr(&check(&files.config()));
    assert!(words.contains("test \"one\" fails"), "{words}");
    assert!(words.contains("test \"two\" fails"), "{words}");
}

/// It would expect a denial, get it because nothing there is allowed, and reassure for ever.
#[test]
fn a_test_of_an_endpoint_that_the_agent_does_not_have_is_pointed_out() {
    let files = Files::new();
    let text = format!(
        "{POLICY}[[test]]\nname = \"no changes\"\nexpect = \"deny\"\n\
         call = {{ endpoint = \"vcentre\", method = \"PUT\", path = \"/api/vcenter/vm\" }}\n"
    );
    files.write("policy.toml", &text);
    let output = check(&files.config());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(
        shown.contains(
            "about no endpoint of this agent, and therefore showing nothing: \"no changes\""
        ),
        "{shown}"
    );
    let config = files.config();
    let config = config.to_str().unwrap();
    let lint = agent(&["policy", "lint", "--config", config]);
    assert_eq!(lint.status.code(), Some(1));
    let shown = stdout(&lint);
    assert!(
        shown.contains("unknown-endpoint: \"no changes\""),
        "{shown}"
    );
    assert!(shown.contains("\"vcentre\""), "{shown}");
}

#[test]
fn a_file_that_is_no_certificate_is_78() {
    let files = Files::new();
    files.write("ca.pem", "nothing\n");
    let output = check(&files.config());
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("ca.pem"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_is_2_and_help_and_version_are_0() {
    assert_eq!(agent(&["check"]).status.code(), Some(2));
    assert_eq!(agent(&["--no-such-flag"]).status.code(), Some(2));
    assert_eq!(agent(&["--help"]).status.code(), Some(0));
    let version = agent(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(stdout(&version).starts_with("culvert-agent "));
}

fn explain(files: &Files, arguments: &[&str]) -> Output {
    let config = files.config();
    let first = ["policy", "explain", "--config", config.to_str().unwrap()];
    agent(&[&first[..], arguments].concat())
}

#[test]
fn explain_names_the_rule_and_why_others_did_not_match() {
    let files = Files::new();
    let call = [
        "--endpoint",
        "vcenter",
        "--method",
        "GET",
        "--path",
        "/api/vcenter/vm",
    ];
    let allowed = explain(&files, &[&call[..], &["--caller", "director-7"]].concat());
    assert_eq!(allowed.status.code(), Some(0), "{}", stderr(&allowed));
    assert!(
        stdout(&allowed).starts_with("allow, by rule \"inventory\""),
        "{}",
        stdout(&allowed)
    );
    let denied = explain(&files, &[&call[..], &["--caller", "somebody"]].concat());
    assert_eq!(denied.status.code(), Some(0));
    assert!(stdout(&denied).starts_with("deny"), "{}", stdout(&denied));
    assert!(stdout(&denied).contains("caller: "), "{}", stdout(&denied));
}

#[test]
fn explain_knows_the_endpoints_and_refuses_paths_like_the_agent() {
    let files = Files::new();
    let unknown = explain(&files, &["--endpoint", "nsx", "--path", "/"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        stderr(&unknown).contains("it has vcenter"),
        "{}",
        stderr(&unknown)
    );
    let odd = explain(&files, &["--endpoint", "vcenter", "--path", "/api/../x"]);
    assert!(
        stdout(&odd).starts_with("deny: the path has a segment"),
        "{}",
        stdout(&odd)
    );
    let none = explain(&files, &["--endpoint", "vcenter"]);
    assert_eq!(none.status.code(), Some(2), "a path is needed in http mode");
}

/// What no rule is ever asked about is not explained as if one were.
#[test]
fn explain_knows_which_calls_cannot_be_made() {
    let files = Files::new();
    let call = ["--endpoint", "vcenter", "--path", "/api/vcenter/vm"];
    for (more, why) in [
        (
            &["--mode", "tcp"][..],
            "vcenter has no mode tcp; it has http",
        ),
        (&["--method", "TRACE"], "takes no method \"TRACE\""),
        (&["--method", "get"], "takes no method \"get\""),
        (&["--upgrade", "h2c"], "another HTTP"),
        (&["--upgrade", "H2C"], "another HTTP"),
        (
            &["--upgrade", "websocket", "--method", "POST"],
            "a GET without a body",
        ),
    ] {
        let told = explain(&files, &[&call[..], more].concat());
        let told = stdout(&told);
        assert!(told.starts_with("deny: ") && told.contains(why), "{told}");
    }
}

/// Callers may write a name in capitals and with a dot at its end: it is the same one.
#[test]
fn explain_takes_a_name_as_the_agent_does() {
    let files = Files::new();
    let name = "mode = [\"http\", \"connect\"]\nconnect = [\"vcenter.sddc.local:443\"]\n";
    let config = AGENT.replace("pin_sha256", &format!("{name}pin_sha256"));
    files.write("agent.toml", &config);
    let rule = "version = 1\n[[rule]]\nid = \"tls\"\naction = \"allow\"\nmode = [\"connect\"]\n\
                host = [\"vcenter.sddc.local\"]\n";
    files.write("policy.toml", rule);
    let call = ["--endpoint", "vcenter", "--mode", "connect", "--host"];
    for host in ["vcenter.sddc.local", "VCenter.sddc.local."] {
        let told = explain(&files, &[&call[..], &[host, "--port", "443"]].concat());
        let told = stdout(&told);
        assert!(told.starts_with("allow, by rule \"tls\""), "{host}: {told}");
    }
    let told = explain(&files, &[&call[..], &["ESX.", "--port", "443"]].concat());
    let told = stdout(&told);
    assert!(told.contains("declares no esx:443"), "{told}");
}

/// A script that writes it to a file must not go on with half of it.
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let files = Files::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_culvert-agent"))
        .args(["check", "--config", files.config().to_str().unwrap()])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot be written"), "{output:?}");
}

#[test]
fn check_says_how_many_rules_and_which_of_them_no_test_is_about() {
    let files = Files::new();
    let more =
        "[[rule]]\nid = \"no appliance\"\naction = \"deny\"\npath = [\"/api/appliance/**\"]\n";
    let presets = POLICY.replace("version = 1", "version = 1\npresets = [\"sddc-never\"]");
    files.write("policy.toml", &format!("{presets}{more}"));
    let output = check(&files.config());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(
        shown.contains("# policy: 2 rules, 5 of presets; its test passes"),
        "{shown}"
    );
    assert!(
        shown.contains("no test is decided by \"no appliance\""),
        "{shown}"
    );
}

fn policy(files: &Files, question: &str, arguments: &[&str]) -> Output {
    let config = files.config();
    let first = ["policy", question, "--config", config.to_str().unwrap()];
    agent(&[&first[..], arguments].concat())
}

#[test]
fn lint_exits_with_1_where_it_finds_something() {
    let files = Files::new();
    let clean = policy(&files, "lint", &[]);
    assert_eq!(clean.status.code(), Some(0), "{}", stdout(&clean));
    assert_eq!(stdout(&clean), "nothing found\n");
    let odd = "[[rule]]\nid = \"soap\"\naction = \"allow\"\npath = [\"/sdk\"]\nsoap_op = [\"PowerOnVM\"]\n";
    files.write("policy.toml", &format!("{POLICY}{odd}"));
    let found = policy(&files, "lint", &[]);
    assert_eq!(found.status.code(), Some(1), "{}", stderr(&found));
    let expected = "unknown-operation: \"soap\": vSphere has no operation \"PowerOnVM\"; did you \
                    mean \"PowerOnVM_Task\"?\n1 finding\n";
    assert_eq!(stdout(&found), expected);
    let json = policy(&files, "lint", &["--json"]);
    assert_eq!(json.status.code(), Some(1));
    assert!(
        stdout(&json).contains("\"code\":\"unknown-operation\""),
        "{}",
        stdout(&json)
    );
    files.write("policy.toml", "version = 2\n");
    assert_eq!(policy(&files, "lint", &[]).status.code(), Some(78));
}

#[test]
fn lint_knows_which_modes_an_endpoint_has() {
    let files = Files::new();
    let rule = "[[rule]]\nid = \"ways\"\naction = \"allow\"\nmode = [\"connect\"]\n\
                port = [443]\ncaller = [\"director-*\"]\n";
    files.write("policy.toml", &format!("{POLICY}{rule}"));
    let without = stdout(&policy(&files, "lint", &[]));
    assert!(without.contains("\"ways\""), "{without}");
    let name = "mode = [\"http\", \"connect\"]\nconnect = [\"vcenter.sddc.local:443\"]\n";
    let agent = AGENT.replace("pin_sha256", &format!("{name}pin_sha256"));
    files.write("agent.toml", &agent);
    let with = stdout(&policy(&files, "lint", &[]));
    assert_eq!(with, "nothing found\n");
}

#[test]
fn presets_are_shown_and_named_by_explain() {
    let names = agent(&["policy", "show"]);
    assert!(
        stdout(&names).contains("vsphere-readonly: Reads everything"),
        "{}",
        stdout(&names)
    );
    let text = agent(&["policy", "show", "nsx-readonly"]);
    assert_eq!(text.status.code(), Some(0));
    assert!(stdout(&text).contains("[[rule]]"), "{}", stdout(&text));
    assert_eq!(agent(&["policy", "show", "nothing"]).status.code(), Some(2));
    let files = Files::new();
    files.write(
        "policy.toml",
        "version = 1\npresets = [\"vsphere-readonly\"]\n",
    );
    let call = [
        "--endpoint",
        "vcenter",
        "--path",
        "/sdk",
        "--soap-op",
        "QueryPerf",
    ];
    let allowed = stdout(&explain(&files, &call));
    let first = "allow, by rule \"vsphere-readonly:soap-reads\"\n";
    assert!(allowed.starts_with(first), "{allowed}");
    assert!(
        allowed.contains("\"vsphere-readonly:soap-session\" (allow) does not match"),
        "{allowed}"
    );
    let elsewhere = [
        "--endpoint",
        "vcenter",
        "--path",
        "/api",
        "--soap-op",
        "QueryPerf",
    ];
    assert_eq!(explain(&files, &elsewhere).status.code(), Some(2));
    // As the agent, which takes no envelope there, whatever it calls.
    let twin = [
        "--endpoint",
        "vcenter",
        "--path",
        "/sdk/vim25/8.0.2.0/VirtualMachine/vm-42/PowerOffVM_Task",
        "--soap-op",
        "QueryPerf",
    ];
    let denied = stdout(&explain(&files, &twin));
    assert!(denied.starts_with("deny: under /sdk/vim25/"), "{denied}");
}

#[test]
fn record_suggests_a_policy_that_check_accepts_and_that_allows_what_was_denied() {
    let files = Files::new();
    let line = "{\"seq\":1,\"event\":\"call\",\"endpoint\":\"vcenter\",\"mode\":\"http\",\
                \"method\":\"GET\",\"target\":\"/api/vcenter/vm/vm-42\",\"caller\":\"report\",\
                \"decision\":\"deny\",\"reason\":\"no-rule\",\"hash\":\"9c\"}\n";
    let log = files.write("audit.log", line);
    let output = agent(&["policy", "record", log.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    files.write("policy.toml", &stdout(&output));
    assert_eq!(check(&files.config()).status.code(), Some(0));
    let call = [
        "--endpoint",
        "vcenter",
        "--path",
        "/api/vcenter/vm/vm-43",
        "--caller",
        "report",
    ];
    let explained = stdout(&explain(&files, &call));
    assert!(
        explained.starts_with("allow, by rule \"recorded-1\""),
        "{explained}"
    );
    assert_eq!(stderr(&output), "");
    let path = log.to_str().unwrap();
    let misspelt = agent(&["policy", "record", "--rule", "zzz", path]);
    assert_eq!(misspelt.status.code(), Some(0));
    assert_eq!(stdout(&misspelt), stdout(&output));
    let warning = "warning: no call in these logs is one of the rule \"zzz\"";
    assert!(stderr(&misspelt).contains(warning), "{misspelt:?}");
    let missing = agent(&["policy", "record", "/nowhere/audit.log"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(
        stderr(&missing).contains("/nowhere/audit.log"),
        "{}",
        stderr(&missing)
    );
}

/// An agent that ends callers' TLS with the certificate `vc.pem`.
fn terminating(certificate: &rcgen::CertificateParams) -> Files {
    let files = Files::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let made = certificate.self_signed(&key).unwrap();
    files.write("vc.pem", &made.pem());
    let path = files.write("vc.key", &key.serialize_pem());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    files.write(
        "agent.toml",
        &AGENT.replace(
            "pin_sha256",
            "mode = [\"terminate\"]\n\
             connect = [\"vcenter.sddc.local:443\", \"vc.sddc.local:443\", \"10.0.0.7:443\"]\n\
             terminate = { certificate = \"vc.pem\", private_key = \"vc.key\" }\n\
             pin_sha256",
        ),
    );
    files
}

#[test]
fn a_certificate_for_callers_must_be_for_every_declared_name_and_good_now() {
    let params = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        rcgen::CertificateParams::new(names).unwrap()
    };
    let good = terminating(&params(&["*.sddc.local", "10.0.0.7"]));
    let output = check(&good.config());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("mode = [\"terminate\"]"), "{shown}");
    assert!(
        shown.contains("vc.pem") && shown.contains("[endpoint.terminate]"),
        "{shown}"
    );

    let mut expired = params(&["*.sddc.local", "10.0.0.7"]);
    expired.not_before = rcgen::date_time_ymd(2020, 1, 1);
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    for (bad, words) in [
        (
            params(&["vcenter.sddc.local", "10.0.0.7"]),
            "is not for vc.sddc.local",
        ),
        (params(&["*.sddc.local"]), "is not for 10.0.0.7"),
        (
            params(&["*.local", "10.0.0.7"]),
            "is not for vcenter.sddc.local",
        ),
        (expired, "is not valid now"),
    ] {
        let files = terminating(&bad);
        let output = check(&files.config());
        assert_eq!(output.status.code(), Some(78));
        let found = stderr(&output);
        assert!(found.contains(words), "{found}");
        assert!(
            found.contains("endpoint[1].terminate.certificate"),
            "{found}"
        );
        assert!(found.contains("agent.toml"), "{found}");
    }
    // Not the key of the certificate.
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    good.write("vc.key", &key);
    let output = check(&good.config());
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr(&output).contains("does not serve the certificate"));
    // Not a CA's.
    let files = terminating(&params(&["*.sddc.local"]));
    let text = std::fs::read_to_string(files.config()).unwrap();
    let text = text.replace("private_key =", "ca_private_key =");
    files.write(
        "agent.toml",
        &text.replace("{ certificate =", "{ ca_certificate ="),
    );
    let output = check(&files.config());
    assert!(
        stderr(&output).contains("is not the certificate of a CA"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn explain_and_presets_know_calls_whose_tls_ends_at_the_agent() {
    let files = terminating(
        &rcgen::CertificateParams::new(vec!["*.sddc.local".to_owned(), "10.0.0.7".to_owned()])
            .unwrap(),
    );
    files.write(
        "policy.toml",
        "version = 1\npresets = [\"vsphere-readonly\"]\n[[rule]]\nid = \"one\"\naction = \"allow\"\n\
         mode = [\"terminate\"]\nhost = [\"vcenter.sddc.local\"]\npath = [\"/one\"]\n",
    );
    let explain = |arguments: &[&str]| {
        let config = files.config();
        let start = ["policy", "explain", "--config", config.to_str().unwrap()];
        let call = ["--endpoint", "vcenter", "--mode", "terminate"];
        let output = agent(&[&start[..], &call, arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    let one = [
        "--path",
        "/one",
        "--host",
        "vcenter.sddc.local",
        "--port",
        "443",
    ];
    assert!(explain(&one).starts_with("allow, by rule \"one\""));
    assert!(explain(&["--path", "/one", "--host", "vc.sddc.local"]).starts_with("deny"));
    let soap = ["--path", "/sdk", "--soap-op", "RetrievePropertiesEx"];
    assert!(explain(&soap).starts_with("allow, by rule \"vsphere-readonly"));
    assert!(explain(&["--path", "/sdk", "--soap-op", "Destroy_Task"]).starts_with("deny"));
    let config = files.config();
    let lint = ["policy", "lint", "--config", config.to_str().unwrap()];
    let output = agent(&lint);
    assert!(!stdout(&output).contains("\"one\""), "{}", stdout(&output));
}

/// What only shows when a file is read is told like any other mistake, and before the agent runs: it would
/// be started again and again.
#[test]
fn a_file_that_is_of_no_use_is_78_with_line_and_key_for_check_and_run() {
    let files = Files::new();
    files.write("empty.pem", "no certificate\n");
    let made = rcgen::generate_simple_self_signed(vec!["agent".to_owned()]).unwrap();
    files.write("own.pem", &made.cert.pem());
    let keys = [
        ("own.key", made.signing_key.serialize_pem()),
        (
            "other.key",
            rcgen::KeyPair::generate().unwrap().serialize_pem(),
        ),
        ("no.key", "no key\n".to_owned()),
    ];
    for (name, text) in keys {
        let path = files.write(name, &text);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let pin = AGENT.lines().find(|line| line.starts_with("pin_sha256"));
    let pin = pin.unwrap();
    let no_identity =
        format!("{pin}\nclient_certificate = \"own.key\"\nclient_private_key = \"own.key\"");
    let other_key =
        format!("{pin}\nclient_private_key = \"other.key\"\nclient_certificate = \"own.pem\"");
    let secret = "client_secret_file = \"secret\"";
    for (from, to, key, file) in [
        (
            "ca = \"ca.pem\"",
            "ca = \"empty.pem\"",
            "relay.ca",
            "empty.pem",
        ),
        (
            "client_id =",
            "ca = \"empty.pem\"\nclient_id =",
            "oauth.ca",
            "empty.pem",
        ),
        (
            secret,
            "private_key_jwt = { key_file = \"no.key\" }",
            "oauth.private_key_jwt",
            "no.key",
        ),
        (pin, "ca = \"empty.pem\"", "endpoint[1].ca", "empty.pem"),
        (
            pin,
            no_identity.as_str(),
            "endpoint[1].client_certificate",
            "own.key",
        ),
        (
            pin,
            other_key.as_str(),
            "endpoint[1].client_private_key",
            "other.key",
        ),
        (
            "[policy]",
            "[admin]\nprivate_key = \"other.key\"\ncertificate = \"own.pem\"\n\n[policy]",
            "admin.private_key",
            "other.key",
        ),
        (
            "[policy]",
            "[admin]\nsocket = \"nowhere/admin.sock\"\n\n[policy]",
            "admin.socket",
            "nowhere",
        ),
    ] {
        let text = AGENT.replacen(from, to, 1);
        assert_ne!(text, AGENT, "{from:?} is not in it");
        let config = files.write("agent.toml", &text);
        let last = key.rsplit('.').next().unwrap();
        let wrong = to.lines().find(|line| line.starts_with(last)).unwrap();
        let line = 1 + text.lines().position(|line| line == wrong).unwrap();
        for command in ["check", "run"] {
            let output = agent(&[command, "--config", config.to_str().unwrap()]);
            let words = stderr(&output);
            assert_eq!(output.status.code(), Some(78), "{command}, {to}: {words}");
            assert!(words.contains(&format!("agent.toml:{line}:")), "{words}");
            assert!(words.contains(&format!(" {key}: ")), "{words}");
            assert!(words.contains(file), "{words}");
            assert!(!words.contains("-----BEGIN"), "{words}");
        }
    }
}

/// The folder of a unit's socket is only there while the unit runs.
#[test]
fn check_knows_no_better_of_a_socket_that_a_service_manager_makes_the_folder_of() {
    let files = Files::new();
    let socket = "[admin]\nsocket = \"/run/culvert-not-started/admin.sock\"\n";
    files.write("agent.toml", &format!("{AGENT}\n{socket}"));
    let output = check(&files.config());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
