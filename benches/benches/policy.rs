//! What a decision costs in a policy of a thousand rules, and what it takes to get there: the
//! canonical target, the operation of a SOAP body.
//!
//! `cargo bench -p culvert-bench --bench policy`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use culvert_policy::{
    Action, CallFacts, CanonicalTarget, Mode, PathOptions, Policy, RuleSpec, Soap, SoapOps, soap,
};

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

/// A thousand rules as an administrator of many endpoints would write them: inventories and
/// power by path, SOAP by operation, and a fence.
fn thousand_rules() -> Vec<RuleSpec> {
    let mut rules: Vec<RuleSpec> = Vec::new();
    for endpoint in 0..100 {
        let name = format!("vcenter-{endpoint}");
        for kind in 0..8 {
            rules.push(RuleSpec {
                endpoint: vec![name.clone()],
                mode: vec![Mode::Http],
                method: strings(&["GET", "POST"]),
                path: vec![
                    format!("/api/vcenter/kind-{kind}/*/power"),
                    format!("/rest/kind-{kind}/**"),
                ],
                caller: strings(&["director-*"]),
                scope: strings(&["vcenter.read"]),
                source: vec!["10.0.0.0/8".parse().unwrap()],
                ..RuleSpec::new(format!("{name} kind {kind}"), Action::Allow)
            });
        }
        rules.push(RuleSpec {
            endpoint: vec![name.clone()],
            path: strings(&["/sdk"]),
            soap_op: Some(SoapOps::Names(strings(&[
                "Login",
                "Logout",
                "RetrieveServiceContent",
                "CreateFilter",
                "WaitForUpdatesEx",
                "RetrievePropertiesEx",
            ]))),
            ..RuleSpec::new(format!("{name} soap"), Action::Allow)
        });
        rules.push(RuleSpec {
            path: vec![format!("/api/appliance/part-{endpoint}/**")],
            ..RuleSpec::new(format!("never {endpoint}"), Action::Deny)
        });
    }
    rules
}

fn decisions(c: &mut Criterion) {
    let policy = Policy::compile(thousand_rules()).unwrap();
    assert_eq!(policy.rules().len(), 1000);
    let scopes = strings(&["vcenter.read"]);
    let target = |text| CanonicalTarget::parse(text, PathOptions::default()).unwrap();
    let operation = Soap::Operation {
        ns: "urn:vim25",
        name: "RetrievePropertiesEx",
    };
    let mut group = c.benchmark_group("policy/1000 rules");
    for (name, method, path, soap, allowed) in [
        (
            "allow a request",
            "GET",
            "/api/vcenter/kind-7/vm-42/power",
            Soap::No,
            true,
        ),
        ("allow an operation", "POST", "/sdk", operation, true),
        (
            "deny by a rule",
            "GET",
            "/api/Appliance/part-99/x",
            Soap::No,
            false,
        ),
        (
            "deny by none",
            "GET",
            "/elsewhere/and/deeper",
            Soap::No,
            false,
        ),
    ] {
        let target = target(path);
        let call = CallFacts {
            endpoint: "vcenter-99",
            mode: Mode::Http,
            method,
            target: Some(&target),
            destination: None,
            caller: "director-7",
            scopes: &scopes,
            soap,
            upgrade: None,
            source: Some("10.1.2.3".parse().unwrap()),
            host: None,
            port: None,
        };
        assert_eq!(policy.decide(&call).is_allow(), allowed, "{name}");
        group.bench_function(name, |b| {
            b.iter(|| policy.decide(black_box(&call)).is_allow())
        });
    }
    group.finish();
}

fn facts(c: &mut Criterion) {
    c.bench_function("policy/canonical target", |b| {
        b.iter(|| {
            let target = black_box("/api/vcenter/vm/vm-42/power?action=start");
            CanonicalTarget::parse(target, PathOptions::default())
        });
    });
    let envelope = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\"><e:Body>\
        <RetrievePropertiesEx xmlns=\"urn:vim25\"><_this type=\"PropertyCollector\">p</_this>\
        </RetrievePropertiesEx></e:Body></e:Envelope>";
    c.bench_function("policy/operation of a SOAP body", |b| {
        b.iter(|| soap::operation(black_box(envelope.as_bytes()), true));
    });
}

criterion_group!(benches, decisions, facts);
criterion_main!(benches);
