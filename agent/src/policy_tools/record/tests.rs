use super::*;

fn line(fields: &str) -> String {
    format!(
        "{{\"seq\":1,\"time\":\"2026-11-26T14:50:03.123Z\",\"event\":\"call\",\"call\":\"0f\",\
         \"tenant\":\"acme\",\"endpoint\":\"vcenter\",\"mode\":\"http\",{fields},\"hash\":\"9c\"}}\n"
    )
}

fn denied(fields: &str) -> String {
    line(&format!(
        "\"decision\":\"deny\",\"reason\":\"no-rule\",{fields}"
    ))
}

/// The suggestion for an audit log of these lines.
fn suggested(lines: &[String], rules: &[&str]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines.concat()).unwrap();
    let args = RecordArgs {
        files: vec![file.path().to_owned()],
        rule: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        endpoint: None,
    };
    record(&args).unwrap().text
}

fn rules(text: &str) -> &str {
    text.split_once("version = 1\n").unwrap().1.trim()
}

#[test]
fn what_was_denied_without_a_rule_becomes_a_rule() {
    let get = |path: &str| {
        denied(&format!(
            "\"method\":\"GET\",\"target\":\"{path}\",\"caller\":\"director-7\""
        ))
    };
    let text = suggested(
        &[
            get("/api/vcenter/vm/vm-42"),
            get("/api/vcenter/vm/vm-43?x=y"),
            get("/api/vcenter/cluster/domain-c8"),
            get("/api/v1/x/0f1e2d3c-aaaa-bbbb-cccc-0123456789ab/7"),
        ],
        &[],
    );
    assert_eq!(
        rules(&text),
        "[[rule]]\nid = \"recorded-1\"\naction = \"allow\"\nendpoint = [\"vcenter\"]\n\
         mode = [\"http\"]\nmethod = [\"GET\"]\npath = [\"/api/v1/x/*/*\", \
         \"/api/vcenter/cluster/domain-c*\", \"/api/vcenter/vm/vm-*\"]\n\
         caller = [\"director-7\"]"
    );
    assert!(text.starts_with("# Suggested from 4 calls"), "{text}");
}

#[test]
fn soap_operations_and_actions_are_named_and_never_widened() {
    let soap = |operation: &str, caller: &str| {
        denied(&format!(
            "\"method\":\"POST\",\"target\":\"/sdk\",\"caller\":\"{caller}\",\
             \"soap_op\":\"{operation}\",\"soap_ns\":\"urn:vim25\""
        ))
    };
    let power = |action: &str| {
        denied(&format!(
            "\"method\":\"POST\",\"target\":\"/api/vcenter/vm/vm-1/power?action={action}\",\
             \"caller\":\"b\""
        ))
    };
    let text = suggested(
        &[
            soap("Login", "a"),
            soap("RetrievePropertiesEx", "a"),
            soap("RetrievePropertiesEx", "a"),
            soap("Login", "c"),
            soap("RetrievePropertiesEx", "c"),
            power("start"),
            power("stop"),
        ],
        &[],
    );
    let text = rules(&text);
    assert!(
        text.contains("soap_op = [\"Login\", \"RetrievePropertiesEx\"]\nsoap_ns = \"urn:vim25\""),
        "{text}"
    );
    assert!(
        text.contains("caller = [\"a\", \"c\"]"),
        "callers who do the same share: {text}"
    );
    assert!(
        text.contains("query = { \"action\" = [\"start\"] }"),
        "{text}"
    );
    assert_eq!(text.matches("[[rule]]").count(), 3, "{text}");
}

#[test]
fn methods_and_paths_are_put_together_only_as_they_were_seen() {
    let call = |method: &str, path: &str| {
        denied(&format!(
            "\"method\":\"{method}\",\"target\":\"{path}\",\"caller\":\"a\""
        ))
    };
    let text = suggested(
        &[call("GET", "/a"), call("POST", "/b"), call("GET", "/c")],
        &[],
    );
    assert!(
        rules(&text).contains("method = [\"GET\"]\npath = [\"/a\", \"/c\"]"),
        "{text}"
    );
    assert!(
        rules(&text).contains("method = [\"POST\"]\npath = [\"/b\"]"),
        "{text}"
    );
}

#[test]
fn only_calls_that_a_rule_could_have_allowed_count() {
    let path = |path: &str| format!("\"method\":\"GET\",\"target\":\"{path}\",\"caller\":\"a\"");
    let lines = [
        line(&format!(
            "\"decision\":\"deny\",\"rule\":\"no\",\"reason\":\"rule\",{}",
            path("/denied")
        )),
        line(&format!(
            "\"decision\":\"deny\",\"reason\":\"soap-undetermined\",{}",
            path("/odd")
        )),
        line(&format!(
            "\"decision\":\"none\",\"reason\":\"dot-segment\",{}",
            path("/dots")
        )),
        line(&format!(
            "\"decision\":\"allow\",\"rule\":\"learn\",{}",
            path("/learnt")
        )),
        line(&format!(
            "\"decision\":\"allow\",\"rule\":\"x\",\"shadow\":[\"soon\"],{}",
            path("/shadow")
        )),
        "{\"event\":\"start\"}\n".to_owned(),
        "no JSON\n".to_owned(),
    ];
    assert_eq!(rules(&suggested(&lines, &[])), "");
    let text = suggested(&lines, &["learn", "soon"]);
    assert!(text.contains("path = [\"/learnt\", \"/shadow\"]"), "{text}");
}

#[test]
fn a_rule_that_allows_moves_to_somewhere_is_found_by_them() {
    let moved = "\"decision\":\"allow\",\"rule\":\"files\",\"destination_rule\":\"learn\",\
        \"method\":\"MOVE\",\"target\":\"/files/a\",\"destination\":\"/bin/b\",\"caller\":\"a\"";
    let text = suggested(&[line(moved)], &["learn"]);
    let both = "method = [\"MOVE\"]\npath = [\"/bin/b\", \"/files/a\"]";
    assert!(rules(&text).contains(both), "{text}");
}

#[test]
fn what_a_rule_cannot_say_is_left_out_and_told() {
    let call = |target: &str, caller: &str| {
        denied(&format!(
            "\"method\":\"GET\",\"target\":\"{target}\",\"caller\":\"{caller}\""
        ))
    };
    let text = suggested(
        &[
            call("/a*b", "a"),
            call("/x", "c*"),
            call("/ticket/***", "a"),
            call("/x?action=a&action=b", "a"),
        ],
        &[],
    );
    assert_eq!(text.matches("# No rule for 1 of them").count(), 3, "{text}");
    assert!(rules(&text).contains("path = [\"/ticket/*\"]"), "{text}");
}

#[test]
fn connections_are_named_by_host_and_port() {
    let text = suggested(
        &["{\"event\":\"call\",\"decision\":\"deny\",\"reason\":\"no-rule\",\"endpoint\":\"vcenter\",\
           \"mode\":\"connect\",\"method\":\"CONNECT\",\"target\":\"VC.sddc.local:443\",\
           \"caller\":\"a\\\"b\"}\n"
            .to_owned()],
        &[],
    );
    assert!(
        rules(&text).contains("host = [\"vc.sddc.local\"]\nport = [443]"),
        "{text}"
    );
    assert!(rules(&text).contains("mode = [\"connect\"]"), "{text}");
    assert!(rules(&text).contains("caller = [\"a\\\"b\"]"), "{text}");
}

/// Callers write paths too, and a rule is not theirs to widen.
#[test]
fn no_caller_makes_a_wildcard() {
    let call = |target: &str, more: &str| {
        denied(&format!(
            "\"method\":\"POST\",\"target\":\"{target}\",\"caller\":\"a\"{more}"
        ))
    };
    let soap = ",\"soap_op\":\"Login\",\"soap_ns\":\"urn:vim25\"";
    for target in [
        "/sdk/**",
        "/sdk/*",
        "/sdk/***",
        "/api/***/x",
        "/api/a;token=***",
    ] {
        for more in ["", soap] {
            let text = suggested(&[call(target, more)], &[]);
            assert_eq!(rules(&text), "", "{target}");
            assert!(
                text.contains("# No rule for 1 of them: their path"),
                "{text}"
            );
        }
    }
    let text = suggested(
        &[call("/sdk/ticket/***", soap), call("/nfc/***/x", "")],
        &[],
    );
    for path in ["\"/sdk/ticket/*\"", "\"/nfc/*/x\""] {
        assert!(rules(&text).contains(path), "what the log masks: {text}");
    }
}

#[test]
fn an_odd_call_spoils_the_rules_of_no_other() {
    let call = |method: &str, target: &str, more: &str| {
        denied(&format!(
            "\"method\":\"{method}\",\"target\":\"{target}\",\"caller\":\"a\"{more}"
        ))
    };
    let soap = |name: &str| format!(",\"soap_op\":\"{name}\",\"soap_ns\":\"urn:x\"");
    let long = format!("/{}", "x".repeat(1100));
    for odd in [
        call("POST", "/x?action=start;b=c", ""),
        call("POST", "/a**b", &soap("Login")),
        call("POST", "/sdk", &soap("all")),
        call("GET", "/sdk", &soap("Login")),
        call("GET", "/x/***", ""),
        call("GET", &long, ""),
        call("GET", "/ws", ",\"upgrade\":\"a b\""),
        call("get", "/x", ""),
    ] {
        let text = suggested(&[call("GET", "/good", ""), odd.clone()], &[]);
        assert!(rules(&text).contains("path = [\"/good\"]"), "{odd}: {text}");
        assert_eq!(text.matches("[[rule]]").count(), 1, "{odd}: {text}");
        assert!(text.contains("# No rule for 1 of them: "), "{odd}: {text}");
    }
}

#[test]
fn what_is_more_than_a_list_holds_becomes_several_rules() {
    let get = |path: usize, caller: usize| {
        denied(&format!(
            "\"method\":\"GET\",\"target\":\"/p{path}x\",\"caller\":\"c{caller}\""
        ))
    };
    let paths: Vec<_> = (0..2500).map(|path| get(path, 0)).collect();
    let callers: Vec<_> = (0..1500).map(|caller| get(0, caller)).collect();
    for (lines, expected) in [(paths, 3), (callers, 2)] {
        let text = suggested(&lines, &[]);
        assert_eq!(text.matches("[[rule]]").count(), expected);
        assert!(!text.contains("# No rule"), "nothing is left out");
    }
}

/// The log has them escaped (docs/audit.md), and JSON escapes them once more.
#[test]
fn callers_beyond_ascii_are_named_as_they_are() {
    for subject in [
        "DOMAIN\\admin",
        "J\u{fc}rgen",
        "a\t\"b\" 'c'",
        "\u{6f22}\\x41",
    ] {
        let escaped = subject.as_bytes().escape_ascii().to_string();
        let logged = serde_json::to_string(&escaped).unwrap();
        let line = denied(&format!(
            "\"method\":\"GET\",\"target\":\"/x\",\"caller\":{logged}"
        ));
        let policy = policy_file::parse(&suggested(&[line], &[]), Path::new("suggested")).unwrap();
        let rule = policy.policy.rules().next().unwrap();
        assert_eq!(rule.caller, [subject]);
    }
    let broken = denied(r#""method":"GET","target":"/x","caller":"a\\xZ0""#);
    assert!(suggested(&[broken], &[]).contains("the caller's subject is no text"));
}

#[test]
fn calls_that_the_log_has_only_counted_are_told_of() {
    let counted = |fields: &str, suppressed: u32| {
        format!("{{\"event\":\"denied\",\"tenant\":\"t\",{fields},\"suppressed\":{suppressed}}}\n")
    };
    let lines = [
        counted(
            "\"caller\":\"a\",\"endpoint\":\"vcenter\",\"code\":\"policy-denied\"",
            100,
        ),
        counted("\"caller\":\"*\",\"endpoint\":\"*\"", 20),
        // Neither of these is for a new rule to allow.
        counted(
            "\"caller\":\"a\",\"endpoint\":\"vcenter\",\"rule\":\"no\",\"code\":\"policy-denied\"",
            3,
        ),
        counted(
            "\"caller\":\"a\",\"endpoint\":\"vcenter\",\"code\":\"overloaded\"",
            4,
        ),
        "{\"event\":\"gap\",\"lost\":7}\n".to_owned(),
    ];
    let text = suggested(&lines, &[]);
    assert!(text.contains("own in this log: 120. To see"), "{text}");
    assert!(text.contains("denied_per_minute"), "{text}");
    assert!(text.contains("could not be written: 7."), "{text}");
    let text = suggested(&[], &[]);
    assert!(!text.contains("in this log"), "{text}");
}

/// A rule for one of its two paths would allow no such call.
#[test]
fn a_move_is_allowed_where_it_led_too() {
    let moved = |destination: &str, reason: &str| {
        line(&format!(
            "\"decision\":\"deny\",\"reason\":\"{reason}\",\"method\":\"MOVE\",\
             \"target\":\"/files/a\",\"destination\":\"{destination}\",\"caller\":\"a\""
        ))
    };
    for destination in [
        "/bin/b",
        "/bin/b?u=https://c/d",
        "//other/bin/b",
        "https://api--acme.relay.example/bin/b",
    ] {
        for reason in ["no-rule", "destination: no-rule"] {
            let text = suggested(&[moved(destination, reason)], &[]);
            let both = "method = [\"MOVE\"]\npath = [\"/bin/b\", \"/files/a\"]";
            assert!(rules(&text).contains(both), "{destination}: {text}");
            assert!(text.starts_with("# Suggested from 1 call "), "{text}");
        }
    }
    let denied = suggested(&[moved("/bin/b", "destination: rule")], &[]);
    assert_eq!(
        rules(&denied),
        "",
        "what a rule denies is not for another to allow"
    );
    let odd = suggested(&[moved("/b*n/b", "no-rule")], &[]);
    assert_eq!(rules(&odd), "");
    assert!(odd.contains("# No rule for 1 of them"), "{odd}");
}
