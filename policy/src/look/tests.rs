use super::*;
use crate::canonical::PathOptions;
use crate::{Policy, RuleSpec, SoapOps};

fn target(text: &str) -> CanonicalTarget {
    let options = PathOptions::ALL;
    CanonicalTarget::parse(text, options).unwrap()
}

fn policy(paths: &[&str]) -> Policy {
    let rule = RuleSpec {
        endpoint: vec!["vc*".to_owned()],
        path: paths.iter().map(|path| (*path).to_owned()).collect(),
        soap_op: Some(SoapOps::All),
        ..RuleSpec::new("a", Action::Allow)
    };
    Policy::compile(vec![rule]).unwrap()
}

#[test]
fn what_goes_to_sdk_or_under_it_is_soap_by_any_spelling_and_method_that_brings_a_body() {
    let policy = Policy::deny_all();
    for (method, path, expected) in [
        ("POST", "/sdk", Look::Soap),
        ("POST", "/sdk/", Look::Soap),
        ("POST", "/SDK", Look::Soap),
        ("POST", "/%73dk", Look::Soap),
        ("POST", "/%C5%BFdk", Look::Soap),
        ("POST", "/sdk/vimService", Look::Soap),
        ("POST", "/sdk;x=1/vimService", Look::Soap),
        ("PUT", "/sdk", Look::Soap),
        ("POST", "/sdk/vim25", Look::Soap),
        ("POST", "/sdk/vim2/8.0/x", Look::Soap),
        ("GET", "/sdk/vimServiceVersions.xml", Look::No),
        ("POST", "/", Look::No),
        ("POST", "/sdkx", Look::No),
        ("POST", "/api/sdk", Look::No),
        (
            "POST",
            "/sdk/vim25/8.0.2.0/Folder/group-v3/Destroy_Task",
            Look::Json,
        ),
        ("GET", "/sdk/vim25/8.0.2.0/Folder/group-v3/name", Look::Json),
        ("POST", "/SDK/Vim25;x/8.0.2.0", Look::Json),
    ] {
        assert_eq!(
            policy.look("vcenter", method, &target(path)),
            expected,
            "{method} {path}"
        );
    }
}

#[test]
fn a_path_that_a_rule_with_operations_names_is_soap_too() {
    let policy = policy(&["/pbm/sdk", "/sms/**"]);
    for (endpoint, path, expected) in [
        ("vcenter", "/pbm/sdk", Look::Soap),
        ("vcenter", "/PBM/sdk;x/", Look::Soap),
        ("vcenter", "/sms/a/b", Look::Soap),
        ("vcenter", "/pbm", Look::No),
        ("nsx", "/pbm/sdk", Look::No),
        ("nsx", "/sdk", Look::Soap),
    ] {
        assert_eq!(
            policy.look(endpoint, "POST", &target(path)),
            expected,
            "{endpoint} {path}"
        );
    }
}

#[test]
fn a_rule_that_is_not_enforced_makes_no_path_soap() {
    let rule = |enforce| RuleSpec {
        path: vec!["/pbm/sdk".to_owned()],
        soap_op: Some(SoapOps::All),
        enforce,
        ..RuleSpec::new("a", Action::Allow)
    };
    for (enforce, expected) in [(true, Look::Soap), (false, Look::No)] {
        let policy = Policy::compile(vec![rule(enforce)]).unwrap();
        let looked = policy.look("vcenter", "POST", &target("/pbm/sdk"));
        assert_eq!(looked, expected, "enforce = {enforce}");
    }
}

#[test]
fn the_twin_names_its_operation_in_its_path() {
    for (path, expected) in [
        (
            "/sdk/vim25/8.0/VirtualMachine/vm-1/PowerOffVM_Task",
            Some("PowerOffVM_Task"),
        ),
        (
            "/sdk/vim25/8.0/VirtualMachine/vm-1/PowerOffVM_Task/",
            Some("PowerOffVM_Task"),
        ),
        (
            "/SDK/VIM25/8.0/X/y/Destroy%5FTask;a=b",
            Some("Destroy_Task"),
        ),
        ("/sdk/vim25", None),
        ("/sdk/other/8.0", None),
        ("/x/sdk/vim25/8.0", None),
    ] {
        assert_eq!(target(path).twin_operation(), expected, "{path}");
    }
}
