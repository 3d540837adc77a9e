use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn files(folder: &str, prefix: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(prefix)
        })
        .collect();
    files.sort();
    files
}

fn parsed(text: &str) -> Result<PolicyFile, ConfigError> {
    parse(text, Path::new("policy.toml"))
}

#[test]
fn every_shipped_policy_loads_and_passes_its_own_tests() {
    let files = files("examples", "policy");
    assert!(files.len() >= 2);
    for file in files {
        let policy = load(&file).unwrap_or_else(|error| panic!("{error}"));
        policy.run_tests().unwrap();
        assert!(policy.policy.rules().len() > 0);
    }
}

#[test]
fn every_invalid_policy_is_refused_with_the_message_that_it_promises() {
    let files = files("invalid/policy", "");
    assert!(files.len() >= 50);
    let mut broken = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let promised: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# expect: "))
            .collect();
        let message = load(&file).map_or_else(|error| error.to_string(), |_| "accepted".to_owned());
        let missing: Vec<_> = promised
            .iter()
            .filter(|promise| !message.contains(**promise))
            .collect();
        if promised.is_empty() || !missing.is_empty() {
            broken.push(format!("{}: {message:?} lacks {missing:?}", file.display()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_policy_that_is_not_there_or_not_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    assert!(
        load(&file)
            .unwrap_err()
            .to_string()
            .contains("cannot read the file")
    );
    fs::write(&file, b"version = 1\n# \xff\n").unwrap();
    assert!(load(&file).is_err());
    fs::write(&file, b"").unwrap();
    assert!(
        load(&file)
            .unwrap_err()
            .to_string()
            .contains("version is missing")
    );
}

/// Whatever is lost of a file that has tests at its end: either the loss is noticed, or it fell
/// on a line's end, where the rest is a policy of its own.
#[test]
fn a_policy_that_is_cut_inside_of_a_line_is_refused() {
    let text = fs::read_to_string(files("examples", "policy.toml").remove(0)).unwrap();
    for end in 0..text.len() {
        if !text[..end].ends_with('\n') {
            assert!(parsed(&text[..end]).is_err(), "accepted {:?}", &text[..end]);
        }
    }
}

#[test]
fn an_error_names_file_line_column_and_key() {
    let text = "version = 1\n[[rule]]\nid = \"a\"\naction = \"deny\"\npath = [\"/a\", \"b\"]\n";
    let error = parsed(text).unwrap_err();
    assert_eq!(error.file, Path::new("policy.toml"));
    assert_eq!(error.position, Some((5, 15)));
    assert_eq!(error.key.as_deref(), Some("rule[1].path"));
    assert!(error.message.contains("\"b\""), "{error}");
}

#[test]
fn the_first_of_several_errors_is_the_one_that_is_shown() {
    let text = "version = 1\n[[rule]]\nid = \"a\"\naction = \"deny\"\nmethod = [\"get\"]\n\
                endpoint = [\"A\"]\n";
    assert_eq!(
        parsed(text).unwrap_err().key.as_deref(),
        Some("rule[1].method")
    );
}

#[test]
fn a_rule_keeps_every_key_that_was_written() {
    let text = r#"
version = 1
[[rule]]
id = "all keys"
action = "allow"
endpoint = ["vcenter"]
mode = ["http", "terminate"]
method = ["POST"]
path = ["/sdk/**"]
caller = ["director-*"]
scope = ["vcenter.read"]
query = { action = ["start", "stop"], b = ["c"] }
soap_op = ["Login*"]
soap_ns = "urn:vim25"
upgrade = ["websocket"]
source = ["10.0.0.0/8", "192.0.2.1"]
max_body = "64 MiB"
rate = "20/s"
enforce = false
host = ["esx-*"]
port = [902]
"#;
    let file = parsed(text).unwrap();
    let rule = file.policy.rules().next().unwrap();
    let strings = |items: &[&str]| {
        items
            .iter()
            .map(|item| (*item).to_owned())
            .collect::<Vec<_>>()
    };
    let expected = RuleSpec {
        endpoint: strings(&["vcenter"]),
        mode: vec![culvert_policy::Mode::Http, culvert_policy::Mode::Terminate],
        method: strings(&["POST"]),
        path: strings(&["/sdk/**"]),
        caller: strings(&["director-*"]),
        scope: strings(&["vcenter.read"]),
        query: vec![
            ("action".to_owned(), strings(&["start", "stop"])),
            ("b".to_owned(), strings(&["c"])),
        ],
        soap_op: Some(culvert_policy::SoapOps::Names(strings(&["Login*"]))),
        soap_ns: Some("urn:vim25".to_owned()),
        upgrade: strings(&["websocket"]),
        source: vec![
            "10.0.0.0/8".parse().unwrap(),
            "192.0.2.1/32".parse().unwrap(),
        ],
        max_body: Some(64 * 1024 * 1024),
        rate: Some("20/s".parse().unwrap()),
        enforce: false,
        host: strings(&["esx-*"]),
        port: vec![902],
        ..RuleSpec::new("all keys", culvert_policy::Action::Allow)
    };
    assert_eq!(*rule, expected);
    assert!(!file.reveal_rule);
}

#[test]
fn a_file_without_rules_denies_every_call() {
    let file = parsed("version = 1\nreveal_rule = true\n").unwrap();
    assert!(file.reveal_rule);
    let call = TestCall {
        target: Some(TestCall::parse_target("/").unwrap()),
        ..TestCall::new("vcenter", culvert_policy::Mode::Http)
    };
    assert!(!file.policy.decide(&call.facts(&file.policy)).is_allow());
}

/// `load` refuses such files; whoever runs the tests again learns why, rule by rule.
#[test]
fn a_failing_test_explains_itself() {
    let text = "version = 1\n[[rule]]\nid = \"a\"\naction = \"allow\"\nmethod = [\"GET\"]\n\
                [[test]]\nname = \"t\"\nexpect = \"allow\"\n\
                call = { endpoint = \"e\", method = \"GET\", path = \"/\" }\n";
    let mut file = parsed(text).unwrap();
    file.tests[0].call.method = "PUT".to_owned();
    let failures = file.run_tests().unwrap_err();
    assert_eq!(failures.len(), 1);
    assert!(
        failures[0]
            .to_string()
            .contains("found deny without a rule; expected allow")
    );
    assert!(
        failures[0]
            .explanation
            .contains("method: the call has \"PUT\"")
    );
}

/// Which rule decided and why the others did not: what there is to mend. Not those that are about other calls.
#[test]
fn a_policy_that_fails_a_test_says_which_rules_matter_to_it() {
    let file = |call: &str, expect: &str| {
        let text = format!(
            r#"
version = 1
[[rule]]
id = "reads"
action = "allow"
method = ["GET"]
path = ["/api/**"]
caller = ["director-*"]
[[rule]]
id = "writes"
action = "allow"
method = ["PUT"]
path = ["/api/**"]
caller = ["director-*"]
scope = ["w"]
[[rule]]
id = "elsewhere"
action = "allow"
path = ["/other"]
[[rule]]
id = "never"
action = "deny"
method = ["DELETE"]
[[rule]]
id = "soon"
action = "allow"
path = ["/new"]
enforce = false
[[test]]
name = "t"
call = {{ endpoint = "e", caller = "director-7", {call} }}
expect = {expect}
"#
        );
        parsed(&text).unwrap_err().message
    };
    for (call, expect, said) in [
        (
            "method = \"PUT\", path = \"/api/vm\"",
            "\"allow\"",
            r#"test "t" fails: found deny without a rule; expected allow
  "reads" (allow) does not match
    method: the call has "PUT", the rule wants ["GET"]
  "writes" (allow) does not match
    scope: the call has [], the rule wants ["w"]"#,
        ),
        (
            "method = \"DELETE\", path = \"/other\"",
            "\"allow\"",
            r#"test "t" fails: found deny by rule "never"; expected allow
  "elsewhere" (allow) matches
  "never" (deny) matches"#,
        ),
        (
            "method = \"GET\", path = \"/api/vm\"",
            "\"allow\"\nrule = \"writes\"",
            r#"test "t" fails: found allow by rule "reads"; expected allow by rule "writes"
  "reads" (allow) matches
  "writes" (allow) does not match
    method: the call has "GET", the rule wants ["PUT"]
    scope: the call has [], the rule wants ["w"]"#,
        ),
        (
            "method = \"GET\", path = \"/new\"",
            "\"allow\"",
            r#"test "t" fails: found deny without a rule; expected allow
  "soon" (allow, not enforced) matches"#,
        ),
        (
            "method = \"MOVE\", path = \"/other\", destination = \"/new\"",
            "\"allow\"",
            r#"test "t" fails: found deny without a rule at the destination; expected allow
  "elsewhere" (allow) matches
at the destination:
  "soon" (allow, not enforced) matches"#,
        ),
    ] {
        assert_eq!(file(call, expect), said);
    }
}

#[test]
fn the_fact_that_no_operation_is_given_is_part_of_a_soap_call() {
    let text = "version = 1\n[[rule]]\nid = \"a\"\naction = \"allow\"\nsoap_op = \"all\"\n\
                [[test]]\nname = \"unread\"\nexpect = \"deny\"\n\
                call = { endpoint = \"e\", method = \"POST\", path = \"/sdk\" }\n\
                [[test]]\nname = \"read\"\nexpect = \"allow\"\n\
                call = { endpoint = \"e\", method = \"POST\", path = \"/sdk\", soap_op = \"X\" }\n";
    parsed(text).unwrap();
}

/// As the agent decides: the path of SOAP's JSON twin names the operation, and no envelope does.
#[test]
fn an_operation_in_the_body_of_a_call_of_the_twin_is_denied() {
    let text = r#"
version = 1
[[rule]]
id = "reads"
action = "allow"
path = ["/sdk/**"]
soap_op = ["RetrieveServiceContent"]
[[rule]]
id = "twin"
action = "allow"
path = ["/sdk/vim25/**"]
[[test]]
name = "by its body"
call = { endpoint = "e", method = "POST", path = "/sdk/vim25/8.0/X/y/Z", soap_op = "RetrieveServiceContent" }
expect = "deny"
[[test]]
name = "by its path"
call = { endpoint = "e", method = "POST", path = "/sdk/vim25/8.0/X/y/Z" }
expect = "allow"
rule = "twin"
"#;
    parsed(text).unwrap();
}

/// As the agent decides: the same call must be allowed where it leads.
#[test]
fn a_test_can_say_where_a_move_leads() {
    let file = |expect: &str, call: &str| {
        parsed(&format!(
            r#"
version = 1
[[rule]]
id = "files"
action = "allow"
path = ["/files/**"]
[[rule]]
id = "bin"
action = "allow"
path = ["/bin/**"]
[[test]]
name = "moves"
call = {{ endpoint = "e", path = "/files/a", {call} }}
expect = "{expect}"
"#
        ))
    };
    let moves = |to: &str| format!("method = \"MOVE\", destination = \"{to}\"");
    let moved = file("allow", &moves("/bin/a")).unwrap();
    assert!(moved.untested_rules().is_empty(), "both rules decide");
    file("deny", &moves("/etc/a")).unwrap();
    for (call, what) in [
        (
            moves("/etc/a"),
            "found deny without a rule at the destination; expected allow",
        ),
        (moves("bin/a"), "must begin with '/'"),
        (
            "method = \"move\"".to_owned(),
            "found \"move\"; expected a method, such as \"GET\"",
        ),
        (
            "method = \"PUT\", destination = \"/bin/a\"".to_owned(),
            "only a call with method = \"COPY\" or \"MOVE\" has a destination",
        ),
    ] {
        let error = file("allow", &call).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
