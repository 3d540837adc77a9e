use std::path::Path;

use culvert_policy::{Action, Mode, SoapOps};

use super::*;
use crate::policy_file::{TestCall, parse};

fn parsed(text: &str) -> Result<PolicyFile, ConfigError> {
    parse(&format!("version = 1\n{text}"), Path::new("policy.toml"))
}

fn ids(file: &PolicyFile) -> Vec<String> {
    file.policy.rules().map(|rule| rule.id.clone()).collect()
}

/// Whether the rule that `by` names (or none) decides a POST of this operation to `/sdk`.
fn allows(file: &PolicyFile, endpoint: &str, caller: &str, operation: &str) -> bool {
    let call = TestCall {
        method: "POST".to_owned(),
        target: Some(TestCall::parse_target("/sdk").unwrap()),
        soap_op: Some(operation.to_owned()),
        caller: caller.to_owned(),
        ..TestCall::new(endpoint, Mode::Http)
    };
    file.policy.decide(&call.facts(&file.policy)).is_allow()
}

#[test]
fn every_preset_passes_its_own_tests_and_each_of_its_rules_is_tested() {
    assert_eq!(names().count(), 5);
    for name in names() {
        let file = load(name).unwrap_or_else(|error| panic!("{error}"));
        assert!(file.tests.len() >= 7, "{name}");
        let text = text(name).unwrap();
        let written: Written = toml::from_str(text).unwrap();
        let own: Vec<String> = written
            .rule
            .iter()
            .map(|rule| rule.get_ref().spec(&document(name).unwrap()).unwrap().id)
            .collect();
        let untested: Vec<_> = file
            .untested_rules()
            .into_iter()
            .filter(|id| own.iter().any(|own| own == id))
            .collect();
        assert!(untested.is_empty(), "{name}: {untested:?}");
        assert!(text.starts_with("# "), "{name} says what it is for");
    }
}

/// A policy narrows presets by these keys, which takes that their rules leave them alone.
#[test]
fn no_rule_of_a_preset_is_about_endpoints_or_callers() {
    for rule in names().flat_map(|name| rules(name).unwrap()) {
        assert!(
            rule.endpoint.is_empty() && rule.caller.is_empty(),
            "{}",
            rule.id
        );
        assert!(rule.mode.is_empty() && rule.scope.is_empty(), "{}", rule.id);
        assert!(rule.source.is_empty() && rule.enforce, "{}", rule.id);
        assert!(!rule.path.is_empty(), "{}", rule.id);
    }
}

/// The SOAP operations of a preset, written out: no glob lets an unknown one in.
fn operations(name: &str) -> Vec<String> {
    let rules = rules(name).unwrap();
    let named = rules.iter().filter_map(|rule| match &rule.soap_op {
        Some(SoapOps::Names(names)) => Some(names.clone()),
        Some(SoapOps::All) => panic!("{name}: {} allows every operation", rule.id),
        None => None,
    });
    named.flatten().collect()
}

#[test]
fn every_operation_of_a_preset_is_written_out_and_exists() {
    for name in names() {
        for operation in operations(name) {
            assert!(
                culvert_policy::operations::is_known(&operation),
                "{name}: {operation}"
            );
        }
    }
}

#[test]
fn reading_never_writes() {
    for operation in operations("vsphere-readonly") {
        assert!(culvert_policy::operations::reads(&operation), "{operation}");
        assert!(!operation.ends_with("_Task"), "{operation}");
    }
    for rule in rules("vsphere-readonly")
        .unwrap()
        .into_iter()
        .chain(rules("nsx-readonly").unwrap())
    {
        let session = rule.id == "session";
        let writes = rule
            .method
            .iter()
            .any(|method| !matches!(&**method, "GET" | "HEAD"));
        let reads = !writes || session || rule.soap_op.is_some();
        assert!(rule.action == Action::Deny || reads, "{}", rule.id);
        assert!(rule.upgrade.is_empty());
    }
    assert!(
        rules("sddc-never")
            .unwrap()
            .iter()
            .all(|rule| rule.action == Action::Deny)
    );
}

#[test]
fn a_listed_preset_adds_its_rules_behind_the_files_own() {
    let file = parsed(
        "presets = [\"sddc-never\", \"nsx-readonly\"]\n[[rule]]\nid = \"own\"\naction = \"deny\"\n",
    )
    .unwrap();
    let ids = ids(&file);
    assert_eq!(ids[0], "own");
    assert_eq!(ids[1], "sddc-never:appliance");
    assert!(ids.contains(&"nsx-readonly:reads".to_owned()));
    assert_eq!(file.own_rules, 1);
    assert_eq!(file.untested_rules(), ["own"]);
}

#[test]
fn a_preset_brings_those_that_it_includes_under_its_own_name() {
    let file = parsed("presets = [\"vsphere-provision\"]\n").unwrap();
    let ids = ids(&file);
    for rule in ["soap-session", "soap-power", "soap-clone"] {
        assert!(ids.contains(&format!("vsphere-provision:{rule}")), "{rule}");
    }
    assert!(allows(&file, "vcenter", "anybody", "Login"));
    assert!(allows(&file, "vcenter", "anybody", "CloneVM_Task"));
    assert!(!allows(&file, "vcenter", "anybody", "Destroy_Task"));
}

#[test]
fn a_preset_can_be_narrowed_and_used_twice() {
    let file = parsed(
        "[[preset]]\nname = \"vsphere-readonly\"\nendpoint = [\"vc-*\"]\n\
         [[preset]]\nname = \"vsphere-operator\"\nid = \"night shift\"\nendpoint = [\"vc-1\"]\n\
         caller = [\"night-*\"]\nsource = [\"10.0.0.0/8\"]\nenforce = true\n\
         [[preset]]\nname = \"vsphere-operator\"\ncaller = [\"boss\"]\n\
         [[preset]]\nname = \"vsphere-provision\"\nenforce = false\n",
    )
    .unwrap();
    assert!(ids(&file).contains(&"night shift:soap-power".to_owned()));
    for (endpoint, caller, operation, expected) in [
        ("vc-1", "anybody", "QueryPerf", true),
        ("nsx", "anybody", "QueryPerf", false),
        ("vc-1", "anybody", "PowerOnVM_Task", false),
        ("vc-1", "night-7", "PowerOnVM_Task", false),
        ("nsx", "boss", "PowerOnVM_Task", true),
        ("vc-1", "anybody", "CloneVM_Task", false),
    ] {
        let found = allows(&file, endpoint, caller, operation);
        assert_eq!(found, expected, "{endpoint} {caller} {operation}");
    }
}
