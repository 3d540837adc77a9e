//! How much a tenant may have, and that it is forgotten when it has nothing.

use std::time::SystemTime;

use culvert_config::quota::PerSecond;
use culvert_identity::EndpointPatterns;
use culvert_proto::principal::{Principal, PrincipalKind, Proof};
use tokio::time::advance;

use super::*;

fn name(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn caller(tenant: &str) -> Arc<VerifiedToken> {
    Arc::new(VerifiedToken {
        principal: Principal {
            tenant: name(tenant),
            subject: "director-7".into(),
            scopes: Vec::new(),
            kind: PrincipalKind::Caller,
            expires: SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
            proof: Proof::Jwt,
        },
        endpoints: EndpointPatterns::default(),
        may_register: false,
        may_call: true,
        call_endpoints: None,
        bound_to: None,
    })
}

/// Quotas of a few; acme has one of its own.
fn tenants() -> Tenants {
    let limits = RelayLimits {
        tenant_max_sessions: Some(2),
        tenant_max_calls: Some(3),
        ..RelayLimits::default()
    };
    let acme = Tenant {
        name: name("acme"),
        quota: Quota {
            max_call_rate: Some(PerSecond(5)),
            max_calls: 100,
            ..limits.quota()
        },
    };
    Tenants::new(&limits, &[acme], Arc::default())
}

fn enter(tenants: &Tenants, tenant: &str) -> Result<CallSeat, Exceeded> {
    let id = CallId(fastrand::u128(..).to_ne_bytes());
    tenants.enter(id, &caller(tenant), None, &Arc::default())
}

#[test]
fn a_tenant_has_as_many_calls_as_it_may_and_no_other_notices() {
    let tenants = tenants();
    let mut seats: Vec<_> = (0..3).map(|_| enter(&tenants, "globex").unwrap()).collect();
    let full = enter(&tenants, "globex").unwrap_err();
    assert_eq!((full.what, full.retry_after), (QuotaKind::Calls, None));
    let _other = enter(&tenants, "initech").unwrap();
    seats.pop();
    seats.push(enter(&tenants, "globex").unwrap());
    assert!(enter(&tenants, "globex").is_err());
    let usage = &tenants.list()[0];
    assert_eq!((usage.calls, usage.refused), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_begins_as_many_calls_a_second_as_it_may() {
    let tenants = tenants();
    for _ in 0..5 {
        enter(&tenants, "acme").unwrap();
    }
    let fast = enter(&tenants, "acme").unwrap_err();
    let wait = Duration::from_millis(200);
    assert_eq!(
        (fast.what, fast.retry_after),
        (QuotaKind::CallRate, Some(wait))
    );
    for _ in 0..20 {
        enter(&tenants, "globex").unwrap();
    }
    advance(wait).await;
    enter(&tenants, "acme").unwrap();
    assert!(enter(&tenants, "acme").is_err());
}

#[test]
fn a_tenant_has_as_many_sessions_as_it_may() {
    let tenants = tenants();
    let one = tenants.enter_session(&name("globex")).unwrap();
    let _two = tenants.enter_session(&name("globex")).unwrap();
    let full = tenants.enter_session(&name("globex")).unwrap_err();
    assert_eq!(full.what, QuotaKind::Sessions);
    let _other = tenants.enter_session(&name("initech")).unwrap();
    drop(one);
    tenants.enter_session(&name("globex")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_forgotten_when_it_has_nothing_and_owes_nothing() {
    let tenants = tenants();
    let call = enter(&tenants, "globex").unwrap();
    let session = tenants.enter_session(&name("initech")).unwrap();
    drop(enter(&tenants, "acme").unwrap());
    tenants.forget_idle();
    assert_eq!(
        tenants.list().len(),
        3,
        "acme could make its calls again at once"
    );
    advance(Duration::from_secs(1)).await;
    tenants.forget_idle();
    assert_eq!(tenants.list().len(), 2);
    drop((call, session));
    tenants.forget_idle();
    assert_eq!(tenants.list().len(), 0);
}

#[test]
fn names_without_end_take_no_memory_without_end() {
    let tenants = tenants();
    let kept = enter(&tenants, "kept").unwrap();
    for number in 0..MANY + 10 {
        drop(tenants.enter_session(&name(&format!("t{number}"))).unwrap());
    }
    assert!(tenants.list().len() <= MANY);
    assert!(tenants.list().iter().any(|usage| usage.calls == 1));
    drop(kept);
}
