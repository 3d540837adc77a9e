//! `explain`, and the tools below `policy`.

use super::*;

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

#[test]
fn explain_says_what_is_decided_of_where_a_move_leads() {
    let files = Files::new();
    files.write(
        "policy.toml",
        &POLICY.replace("\"GET\"]", "\"GET\", \"MOVE\"]"),
    );
    let moved = |method: &str, to: &str| {
        let call = [
            "--endpoint",
            "vcenter",
            "--path",
            "/api/vcenter/a",
            "--caller",
            "director-7",
        ];
        let to = ["--method", method, "--destination", to];
        explain(&files, &[&call[..], &to].concat())
    };
    let allowed = stdout(&moved("MOVE", "/api/vcenter/b"));
    assert!(
        allowed
            .starts_with("allow, by rule \"inventory\", and by \"inventory\" at the destination\n"),
        "{allowed}"
    );
    let denied = stdout(&moved("MOVE", "/etc"));
    assert!(
        denied.starts_with("deny: no rule allows the call (at the destination)\n"),
        "{denied}"
    );
    assert!(
        denied.contains("at the destination:\n  \"inventory\" (allow) does not match"),
        "{denied}"
    );
    let refused = stdout(&moved("MOVE", "container/object"));
    assert!(
        refused.starts_with("deny: the destination is not accepted"),
        "{refused}"
    );
    assert_eq!(moved("GET", "/api/vcenter/b").status.code(), Some(2));
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
