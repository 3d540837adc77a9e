//! SOAP and its JSON twin: neither is reached by a rule that was not written for it.

use super::*;
use crate::look::Look;

const POWER_OFF: &str = "/sdk/vim25/8.0.2.0/VirtualMachine/vm-42/PowerOffVM_Task";

fn twin(path: &CanonicalTarget) -> CallFacts<'_> {
    CallFacts {
        method: "POST",
        soap: Soap::Json,
        ..get(path)
    }
}

fn paths(rule: RuleSpec, path: &str) -> RuleSpec {
    RuleSpec {
        path: strings(&[path]),
        ..rule
    }
}

#[test]
fn the_twin_is_allowed_only_by_a_path_that_names_it() {
    let path = target(POWER_OFF);
    for (pattern, expected) in [
        ("/**", false),
        ("/sdk/**", false),
        ("/*/vim25/**", false),
        ("/sdk/*/**", false),
        ("/sdk/vim*/**", false),
        ("/sdk/**/PowerOffVM_Task", false),
        ("/SDK/vim25/**", false),
        ("/sdk/vim25/**", true),
        ("/sdk/vim25/*/VirtualMachine/*/PowerOffVM_Task", true),
    ] {
        let rule = paths(allow("a"), pattern);
        assert_eq!(hits(&rule, &twin(&path)), expected, "{pattern}");
    }
    assert!(!hits(&allow("no path"), &twin(&path)));
    let two = RuleSpec {
        path: strings(&["/sdk/vim25/8.0.1.0/**", "/**"]),
        ..allow("the one that matches must name it")
    };
    assert!(!hits(&two, &twin(&path)));
    let all = RuleSpec {
        soap_op: Some(SoapOps::All),
        ..paths(allow("all"), "/sdk/**")
    };
    assert!(!hits(&all, &twin(&path)));
}

#[test]
fn a_rule_with_operations_is_about_the_twin_too() {
    let path = target(POWER_OFF);
    let names = |rule, ops: &[&str]| RuleSpec {
        soap_op: Some(SoapOps::Names(strings(ops))),
        soap_ns: Some("urn:vim25".to_owned()),
        ..rule
    };
    let named = || paths(allow("a"), "/sdk/vim25/**");
    assert!(hits(&names(named(), &["PowerO*"]), &twin(&path)));
    assert!(!hits(&names(named(), &["PowerOn*"]), &twin(&path)));
    assert!(!hits(&names(named(), &["poweroffvm_task"]), &twin(&path)));
    let of_another_service = RuleSpec {
        soap_ns: Some("urn:other".to_owned()),
        ..names(named(), &["PowerO*"])
    };
    assert!(!hits(&of_another_service, &twin(&path)));
    let denies = |ops| policy([named(), names(deny("d"), ops)]);
    for (ops, rule) in [(&["POWEROFFVM_TASK"], "d"), (&["Destroy_Task"], "a")] {
        assert_eq!(
            denies(ops).decide(&twin(&path)).rule(),
            Some(rule),
            "{ops:?}"
        );
    }
}

/// Or else an envelope that calls something harmless would carry what the path calls.
#[test]
fn an_envelope_on_a_path_of_the_twin_is_denied_whatever_it_calls() {
    let names = |rule, ops: &[&str]| RuleSpec {
        soap_op: Some(SoapOps::Names(strings(ops))),
        ..rule
    };
    let (reads, all) = (
        names(paths(allow("reads"), "/sdk/**"), &["Retrieve*"]),
        RuleSpec {
            soap_op: Some(SoapOps::All),
            ..paths(allow("all"), "/sdk/vim25/**")
        },
    );
    for path in [POWER_OFF, "/SDK/vim25;x=1/8.0/VirtualMachine/vm-1/y"] {
        let path = target(path);
        let call = CallFacts {
            soap: Soap::Operation {
                ns: "urn:vim25",
                name: "RetrieveServiceContent",
            },
            ..twin(&path)
        };
        let allowing = policy([reads.clone(), all.clone()]);
        let Decision::Deny(denial) = allowing.decide(&call) else {
            panic!("allowed on {path}")
        };
        assert_eq!(denial.reason(), DenyReason::SoapUndetermined, "{path}");
        // By what the path calls, and by what the body does.
        for operation in ["PowerOffVM_Task", "RetrieveServiceContent"] {
            let policy = policy([all.clone(), names(deny("no"), &[operation])]);
            assert_eq!(policy.decide(&call).rule(), Some("no"), "{operation}");
        }
    }
}

/// A reload brings a policy that wants to see what nobody looked at.
#[test]
fn a_call_that_was_not_looked_into_is_denied_where_it_should_have_been() {
    let all = RuleSpec {
        soap_op: Some(SoapOps::All),
        ..paths(allow("soap"), "/pbm/sdk")
    };
    let policy = policy([all, allow("anything")]);
    for (path, reason) in [
        ("/sdk", Some(DenyReason::SoapUndetermined)),
        (POWER_OFF, Some(DenyReason::SoapUndetermined)),
        ("/PBM/sdk", Some(DenyReason::SoapUndetermined)),
        ("/api/x", None),
    ] {
        let path = target(path);
        let call = CallFacts {
            soap: Soap::No,
            ..twin(&path)
        };
        let looked = policy.look(call.endpoint, call.method, &path);
        assert_eq!(looked == Look::No, reason.is_none());
        match policy.decide(&call) {
            Decision::Allow(_) => assert_eq!(reason, None, "{path}"),
            Decision::Deny(denial) => assert_eq!(Some(denial.reason()), reason, "{path}"),
        }
        let explained = policy.explain(&call).to_string();
        assert_eq!(
            explained.contains("could not be read"),
            reason.is_some(),
            "{explained}"
        );
    }
}
