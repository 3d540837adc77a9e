//! What `check` says, and `run` before it begins.

use super::*;

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

/// Whoever begins with what ships has nothing to mend before it is changed.
#[test]
fn the_examples_fit_each_other() {
    let files = Files::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples");
    for file in ["agent.toml", "policy.toml"] {
        std::fs::copy(examples.join(file), files.path(file)).unwrap();
    }
    std::fs::copy(files.path("ca.pem"), files.path("vmca.pem")).unwrap();
    let checked = check(&files.config());
    assert_eq!((checked.status.code(), &*stderr(&checked)), (Some(0), ""));
    // Rules and tests, and nothing that they lack.
    let shown = stdout(&checked);
    let about = shown.lines().filter(|line| line.starts_with("# policy: "));
    assert_eq!(about.count(), 1, "{shown}");
    let config = files.config();
    let lint = agent(&["policy", "lint", "--config", config.to_str().unwrap()]);
    assert_eq!(stdout(&lint), "nothing found\n");
}
