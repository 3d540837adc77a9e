//! What a revocation covers, and for how long.

use culvert_proto::principal::{PrincipalKind, Proof};

use super::*;

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn endpoint(name: &str) -> EndpointName {
    EndpointName::new(name).unwrap()
}

fn caller(name: &str, subject: &str) -> Principal {
    Principal {
        tenant: tenant(name),
        subject: subject.into(),
        scopes: Vec::new(),
        kind: PrincipalKind::Caller,
        expires: 0,
        proof: Proof::Jwt,
    }
}

/// `subject/tenant/session/endpoint`, `-` for none.
fn scope(text: &str) -> Scope {
    let parts: Vec<Option<&str>> = text
        .split('/')
        .map(|part| (part != "-").then_some(part))
        .collect();
    Scope {
        subject: parts[0].map(str::to_owned),
        tenant: parts[1].map(tenant),
        session: parts[2].map(|id| SessionId(id.parse().unwrap())),
        endpoint: parts[3].map(endpoint),
    }
}

fn add(revocations: &Revocations, text: &str, ttl: Option<u64>) -> RevocationId {
    let ttl = ttl.map(Duration::from_secs);
    let revocation = Revocation::new(scope(text), None, ttl);
    revocations.add(revocation).unwrap().id
}

#[test]
fn a_revocation_covers_what_fits_all_that_it_names_and_nothing_else() {
    // (scope, calls that it forbids, agents that it forbids), among those below.
    let cases = [
        (
            "ann/-/-/-",
            "ann@acme>vc ann@acme>- ann@globex>vc",
            "ann@acme#1 ann@globex#3",
        ),
        (
            "-/acme/-/-",
            "ann@acme>vc ann@acme>- bob@acme>vc bob@acme>nsx",
            "ann@acme#1 bob@acme#2",
        ),
        ("ann/acme/-/-", "ann@acme>vc ann@acme>-", "ann@acme#1"),
        ("-/acme/-/vc", "ann@acme>vc bob@acme>vc", ""),
        ("bob/acme/-/vc", "bob@acme>vc", ""),
        ("-/-/2/-", "", "bob@acme#2"),
        ("ann/-/2/-", "", ""),
        ("bob/acme/2/-", "", "bob@acme#2"),
        ("an/-/-/-", "", ""),
        ("ANN/-/-/-", "", ""),
        ("-/globex/-/vc", "ann@globex>vc", ""),
    ];
    let calls = [
        "ann@acme>vc",
        "ann@acme>-",
        "bob@acme>vc",
        "bob@acme>nsx",
        "ann@globex>vc",
    ];
    let agents = ["ann@acme#1", "bob@acme#2", "ann@globex#3"];
    for (text, forbidden_calls, forbidden_agents) in cases {
        let revocations = Revocations::default();
        add(&revocations, text, None);
        let forbids_call = |call: &&str| {
            let (who, to) = call.split_once('>').unwrap();
            let (subject, tenant) = who.split_once('@').unwrap();
            let to = (to != "-").then(|| endpoint(to));
            revocations
                .of_call(&caller(tenant, subject), to.as_ref())
                .is_some()
        };
        let found: Vec<_> = calls.into_iter().filter(forbids_call).collect();
        assert_eq!(found.join(" "), forbidden_calls, "{text}");
        let forbids_agent = |agent: &&str| {
            let (who, session) = agent.split_once('#').unwrap();
            let (subject, name) = who.split_once('@').unwrap();
            let session = SessionId(session.parse().unwrap());
            revocations
                .of_agent(&tenant(name), subject, Some(session))
                .is_some()
        };
        let found: Vec<_> = agents.into_iter().filter(forbids_agent).collect();
        assert_eq!(found.join(" "), forbidden_agents, "{text}");
    }
}

#[test]
fn the_revocation_of_a_session_keeps_no_new_session_out() {
    let revocations = Revocations::default();
    add(&revocations, "-/-/2/-", None);
    assert!(revocations.of_agent(&tenant("acme"), "ann", None).is_none());
}

#[test]
fn what_is_lifted_is_allowed_again() {
    let revocations = Revocations::default();
    let texts = ["ann/-/-/-", "-/acme/-/-", "-/acme/-/vc", "-/-/1/-"];
    let ids = texts.map(|text| add(&revocations, text, None));
    let ann = caller("acme", "ann");
    let vc = endpoint("vc");
    for id in ids {
        assert!(revocations.of_call(&ann, Some(&vc)).is_some() || id == ids[3]);
        assert!(revocations.lift(id).is_some());
        assert!(revocations.lift(id).is_none(), "it is gone");
    }
    assert!(revocations.of_call(&ann, Some(&vc)).is_none());
    assert!(revocations.is_empty());
    let list = revocations.read();
    assert!(list.by_subject.is_empty() && list.by_tenant.is_empty() && list.others.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_with_a_time_limit_is_over_by_itself() {
    let revocations = Revocations::default();
    let id = add(&revocations, "ann/-/-/-", Some(60));
    add(&revocations, "-/-/7/-", None);
    let ann = caller("acme", "ann");
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(revocations.of_call(&ann, None).is_some());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(revocations.of_call(&ann, None).is_none());
    assert_eq!(revocations.len(), 1, "that of the session");
    assert!(revocations.lift(id).is_none(), "there is nothing to lift");
    tokio::time::advance(SESSION_MEMORY).await;
    revocations.forget_old();
    assert!(revocations.read().by_id.is_empty());
    assert_eq!(revocations.count.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_and_no_more_and_old_ones_make_room() {
    let revocations = Revocations::default();
    for number in 0..MAX_REVOCATIONS {
        let ttl = (number < 10).then_some(60);
        add(&revocations, &format!("s{number}/-/-/-"), ttl);
    }
    let one_more = || Revocation::new(scope("x/-/-/-"), None, None);
    assert_eq!(revocations.add(one_more()).unwrap_err(), Full);
    assert!(revocations.of_call(&caller("acme", "x"), None).is_none());
    tokio::time::advance(Duration::from_secs(60)).await;
    revocations.add(one_more()).unwrap();
    assert_eq!(revocations.len(), MAX_REVOCATIONS - 9);
}

#[test]
fn a_scope_is_about_something_that_can_be() {
    let long = format!("{}/-/-/-", "s".repeat(256));
    for (text, expected) in [
        ("-/-/-/-", Err(ScopeError::Nothing)),
        ("-/-/-/vc", Err(ScopeError::EndpointAlone)),
        ("ann/-/-/vc", Err(ScopeError::EndpointAlone)),
        ("-/acme/1/vc", Err(ScopeError::SessionAndEndpoint)),
        ("/-/-/-", Err(ScopeError::Subject)),
        ("a\nb/-/-/-", Err(ScopeError::Subject)),
        (&long, Err(ScopeError::Subject)),
        ("ann/acme/1/-", Ok(())),
        ("ann/acme/-/vc", Ok(())),
    ] {
        assert_eq!(scope(text).check(), expected, "{text:.20}");
    }
}

#[test]
fn an_id_is_read_as_it_is_written() {
    let id = RevocationId(0xab);
    assert_eq!(id.to_string(), "00000000000000ab");
    assert_eq!(id.to_string().parse(), Ok(id));
    assert!("g".parse::<RevocationId>().is_err());
}

#[test]
fn an_id_is_read_as_it_is_shown_and_what_is_none_is_told_what_one_is() {
    let id = RevocationId::random();
    assert_eq!(id.to_string().parse(), Ok(id));
    for text in ["", "zzz", "12345678901234567"] {
        let error = text.parse::<RevocationId>().unwrap_err().to_string();
        assert!(error.contains("16 hexadecimal digits"), "{text}: {error}");
    }
}
