//! SOAP: allowed by rules that say so, and where it could be read.

use super::*;

#[test]
fn soap_is_allowed_only_by_a_rule_that_says_so() {
    let path = target("/sdk");
    let plain = CallFacts {
        method: "POST",
        ..get(&path)
    };
    let calls = |ns, name| CallFacts {
        soap: Soap::Operation { ns, name },
        ..plain
    };
    let (login, destroy) = (
        calls("urn:vim25", "Login"),
        calls("urn:vim25", "Destroy_Task"),
    );
    let names = |ops: &[&str]| Some(SoapOps::Names(strings(ops)));

    assert!(!hits(
        &RuleSpec {
            path: strings(&["/sdk/**"]),
            ..allow("path")
        },
        &login
    ));
    let all = RuleSpec {
        soap_op: Some(SoapOps::All),
        ..allow("all")
    };
    assert!(hits(&all, &login));
    assert!(!hits(&all, &plain), "every key that is given must match");
    let some = RuleSpec {
        soap_op: names(&["Log*"]),
        ..allow("some")
    };
    assert!(hits(&some, &login));
    assert!(!hits(&some, &destroy));
    assert!(
        !hits(&some, &calls("urn:vim25", "login")),
        "an allow rule sees the exact spelling"
    );
    let ns = RuleSpec {
        soap_ns: Some("urn:vim25".to_owned()),
        ..some
    };
    assert!(hits(&ns, &login));
    assert!(!hits(&ns, &calls("urn:other", "Login")));
    let no = RuleSpec {
        soap_op: names(&["Destroy_Task"]),
        ..deny("no")
    };
    assert!(hits(&no, &destroy));
    assert!(hits(&no, &calls("urn:vim25", "DESTROY_TASK")));
    assert!(!hits(&no, &login));
    assert!(hits(&deny("any"), &login));
}

/// What `policy lint` and `policy explain` say of such rules and calls is so.
#[test]
fn soap_is_allowed_by_post_alone_and_denied_by_any_method() {
    let path = target("/sdk");
    let all = RuleSpec {
        soap_op: Some(SoapOps::All),
        ..allow("all")
    };
    let no = RuleSpec {
        soap_op: Some(SoapOps::Names(strings(&["Login"]))),
        ..deny("no")
    };
    for method in ["POST", "GET", "HEAD", "OPTIONS", "PUT", "PATCH", "post"] {
        let (ns, name) = ("urn:vim25", "Login");
        let call = CallFacts {
            method,
            soap: Soap::Operation { ns, name },
            ..get(&path)
        };
        assert_eq!(hits(&all, &call), method == "POST", "{method}");
        let policy = policy([all.clone(), no.clone()]);
        assert_eq!(policy.decide(&call).rule(), Some("no"), "{method}");
        let explained = policy.explain(&call).to_string();
        let told = explained.contains("SOAP is called by POST");
        assert_eq!(told, method != "POST", "{explained}");
    }
}

#[test]
fn soap_that_could_not_be_read_is_never_allowed() {
    let path = target("/sdk");
    let call = CallFacts {
        method: "POST",
        soap: Soap::Undetermined,
        ..get(&path)
    };
    let all = RuleSpec {
        soap_op: Some(SoapOps::All),
        ..allow("all")
    };
    let policy_of_one = policy([all.clone(), allow("wide")]);
    let Decision::Deny(denial) = policy_of_one.decide(&call) else {
        panic!("allowed")
    };
    assert_eq!(denial.reason(), DenyReason::SoapUndetermined);

    let names = Some(SoapOps::Names(strings(&["Destroy_Task"])));
    let no = RuleSpec {
        soap_op: names,
        ..deny("no")
    };
    let policy = policy([all, no]);
    let Decision::Deny(denial) = policy.decide(&call) else {
        panic!("allowed")
    };
    assert_eq!(
        denial.rule(),
        Some("no"),
        "it might be what the rule denies"
    );
}
