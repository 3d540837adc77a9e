//! What a caller gets: the upstream's answer, or a refusal that says who refused and why.

use culvert_tests::curl::{Curl, Http};
use culvert_tests::issuer::{OTHER_CALLER, world};
use culvert_tests::stack::{caller_token, run};
use culvert_tests::wait::until;
use culvert_tests::{Nginx, Stack, Upstream};

#[test]
fn an_allowed_call_gets_the_upstreams_answer_over_http1_and_http2() {
    let nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    for (http, version) in [(Http::One, "HTTP/1.1"), (Http::Two, "HTTP/2")] {
        let answer = stack.call("/api/vm?names=a&names=b%20c").http(http).ok();
        assert_eq!(
            (answer.status, answer.version.as_str()),
            (200, version),
            "{answer}"
        );
        let seen = answer.json();
        assert_eq!(seen["method"], "GET");
        assert_eq!(seen["target"], "/api/vm?names=a&names=b%20c");
        // The upstream sees its own name, not the relay's.
        assert_eq!(seen["host"], nginx.url().trim_start_matches("https://"));
        answer.call();
    }
}

#[test]
fn every_method_and_kind_of_answer_passes_as_it_is() {
    let nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    std::fs::write(nginx.files().join("known"), "0123456789").unwrap();
    for http in Http::BOTH {
        let head = stack.call("/files/known").arg("--head").http(http).ok();
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("10")),
            "{head}"
        );

        let part = stack
            .call("/files/known")
            .header("Range: bytes=2-4")
            .http(http)
            .ok();
        assert_eq!((part.status, part.text().as_str()), (206, "234"), "{part}");

        let parts = stack
            .call("/files/known")
            .header("Range: bytes=0-1,7-")
            .http(http)
            .ok();
        let kind = parts.header("content-type").unwrap_or_default();
        assert!(
            kind.starts_with("multipart/byteranges; boundary="),
            "{parts}"
        );
        let text = parts.text();
        assert!(
            text.contains("\r\n\r\n01\r\n") && text.contains("\r\n\r\n789\r\n"),
            "{parts}"
        );
        let beyond = stack
            .call("/files/known")
            .header("Range: bytes=10-")
            .http(http)
            .ok();
        assert_eq!(
            (beyond.status, beyond.header("content-range")),
            (416, Some("bytes */10")),
            "{beyond}"
        );

        let etag = head.header("etag").unwrap();
        let condition = format!("If-None-Match: {etag}");
        let same = stack
            .call("/files/known")
            .header(&condition)
            .http(http)
            .ok();
        assert_eq!((same.status, same.body.len()), (304, 0), "{same}");

        assert_eq!(stack.call("/empty").http(http).ok().status, 204);
        // The upstream's own errors are its answers, not ours.
        let error = stack.call("/error").http(http).ok();
        assert_eq!((error.status, error.code().as_str()), (500, ""), "{error}");
        for method in ["PUT", "DELETE", "PATCH", "OPTIONS"] {
            let answer = stack.call("/api/thing").method(method).http(http).ok();
            assert_eq!(answer.json()["method"], method, "{answer}");
        }
    }
}

#[test]
fn a_redirect_is_passed_on_and_never_followed() {
    let nginx = Nginx::start();
    let stack = Stack::start(&nginx.url());
    let answer = stack.call("/moved").ok();
    assert_eq!(answer.status, 302);
    assert!(
        answer
            .header("location")
            .unwrap()
            .ends_with("/api/elsewhere"),
        "{answer}"
    );
    assert!(
        !nginx.access_log().contains("elsewhere"),
        "{}",
        nginx.access_log()
    );
}

#[test]
fn a_denied_call_says_who_denied_it_and_never_reaches_the_upstream() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    for http in Http::BOTH {
        for method in ["GET", "POST", "DELETE"] {
            let answer = stack
                .call("/forbidden/fruit")
                .method(method)
                .http(http)
                .ok();
            answer.assert_refused(403, "policy-denied", "agent");
            let call = answer.call();
            // Both logs tell of the call under the same id; the agent's names the rule.
            until("the call is in the relay's log", || {
                stack.relay.log().contains(&call)
            });
            until("the agent's line names the rule", || {
                let log = stack.agent.log();
                let line = log.lines().find(|line| line.contains(&call));
                line.is_some_and(|line| line.contains("nothing-forbidden"))
            });
        }
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn the_rule_is_told_to_callers_only_if_the_policy_says_so() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let silent = stack.call("/forbidden/fruit").ok();
    assert!(!silent.text().contains("nothing-forbidden"), "{silent}");

    let policy =
        culvert_tests::stack::POLICY.replace("version = 1", "version = 1\nreveal_rule = true");
    let stack = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .policy(&policy)
        .start();
    let told = stack.call("/forbidden/fruit").ok();
    told.assert_refused(403, "policy-denied", "agent");
    assert!(told.text().contains("nothing-forbidden"), "{told}");
}

#[test]
fn what_no_rule_allows_is_denied() {
    let upstream = Upstream::plain();
    let policy = r#"
version = 1

[[rule]]
id = "read"
action = "allow"
endpoint = ["vcenter"]
method = ["GET"]
path = ["/api/vcenter/**"]
caller = ["caller-acme"]
scope = ["culvert:call"]
"#;
    let stack = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .policy(policy)
        .without_waiting();
    let mut stack = stack.start();
    stack.await_endpoint("vcenter");
    assert_eq!(stack.call("/api/vcenter/vm").ok().status, 200);
    for path in [
        "/api/other",
        "/api/vcenterx/vm",
        "/API/vcenter/vm",
        "/",
        "/api/vcenter/../x",
    ] {
        let answer = stack.call(path).ok();
        assert!([400, 403].contains(&answer.status), "{path}: {answer}");
    }
    let post = stack.call("/api/vcenter/vm").method("POST").ok();
    post.assert_refused(403, "policy-denied", "agent");
    assert_eq!(upstream.requests().len(), 1);
}

/// Browsers, `fetch`, axios and `curl -g` leave these raw.
#[test]
fn what_tools_leave_raw_in_a_target_is_escaped_for_policy_logs_and_upstream() {
    let upstream = Upstream::plain();
    let policy = format!(
        "{}\n[[rule]]\nid = \"locked\"\naction = \"deny\"\npath = [\"/api/locked%5B1%5D\"]\n",
        culvert_tests::stack::POLICY
    );
    let stack = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .policy(&policy)
        .start();
    let (path, query) = ("/api/a%5Bb%5D%7Bc%7D%7C%5E", "q%5B%5D=%7Bd%7D%7C%5E%60");
    for http in Http::BOTH {
        let call = |path| stack.call(path).http(http).ok();
        let answer = call("/api/a[b]{c}|^?q[]={d}|^`");
        assert_eq!(answer.status, 200, "{answer}");
        for log in [&stack.relay, &stack.agent] {
            until("the log has the call in that spelling", || {
                let log = log.log();
                let mut lines = log.lines().filter(|line| line.contains(&answer.call()));
                lines.any(|line| line.contains(path))
            });
        }
        call("/api/locked[1]").assert_refused(403, "policy-denied", "agent");
        call("/api/a\\b").assert_refused(400, "bad-request", "relay");
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    let spelled = format!("{path}?{query}");
    assert!(requests.iter().all(|request| request.target() == spelled));
}

/// vSphere has `%2f` in its own names for a `/`, and so `%252f` in paths.
#[test]
fn an_escaped_percent_sign_passes_where_the_endpoint_takes_it_and_is_no_escaped_slash() {
    let upstream = Upstream::plain();
    let policy = "version = 1\n[[rule]]\nid = \"disks\"\naction = \"allow\"\n\
                  path = [\"/folder/a%252fb/**\"]\n";
    let stack = Stack::options()
        .endpoint("vcenter", &upstream.url())
        .endpoint_settings("allow_encoded_slash = true\nallow_encoded_percent = true\n")
        .policy(policy)
        .agent("\n[audit]\nfile = \"audit.log\"\n")
        .start();
    let disk = "/folder/a%252fb/x.vmdk?dcPath=a%252fb&dsName=c";
    for http in Http::BOTH {
        let call = |path| stack.call(path).http(http).ok();
        assert_eq!(call(disk).status, 200);
        for path in ["/folder/a%2fb/x", "/folder/a/b/x", "/folder/c%252fd/x"] {
            call(path).assert_refused(403, "policy-denied", "agent");
        }
        for path in ["/folder/a%252fb/%252e%252e/x", "/folder/a%252fb/%2578"] {
            call(path).assert_refused(400, "bad-request", "relay");
        }
    }
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.target() == disk));

    let (config, log) = (stack.file("agent.toml"), stack.file("audit.log"));
    let policy = |arguments: &[&str]| {
        let output = run("culvert-agent", &[&["policy"], arguments].concat());
        String::from_utf8(output.stdout).unwrap()
    };
    let config = ["--config", config.to_str().unwrap()];
    let explained = [
        &["explain", "--endpoint", "vcenter", "--path", disk],
        &config[..],
    ]
    .concat();
    let explained = policy(&explained);
    assert!(
        explained.starts_with("allow, by rule \"disks\""),
        "{explained}"
    );
    until("the log has the calls that no rule allowed", || {
        policy(&["record", log.to_str().unwrap()]).contains("\"/folder/c%252fd/x\"")
    });
}

#[test]
fn another_tenants_endpoint_looks_like_one_that_does_not_exist() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let theirs = world().token(OTHER_CALLER);
    for http in Http::BOTH {
        let unknown = stack.call_endpoint("nothing", "/").http(http).ok();
        unknown.assert_refused(404, "unknown-endpoint", "relay");
        let other = Curl::new(&stack.url("/")).token(&theirs).http(http).ok();
        other.assert_refused(404, "unknown-endpoint", "relay");
        let none = Curl::new(&stack.url_of("acme", "nothing", "/"))
            .token(&theirs)
            .http(http)
            .ok();

        let shape = |answer: &culvert_tests::Answer| {
            let mut problem = answer.json();
            let call = answer.call();
            problem["call"] = "".into();
            let names = ["vcenter", "nothing"];
            let text = names
                .iter()
                .fold(problem.to_string(), |text, name| text.replace(name, "-"));
            let mut headers: Vec<_> = answer
                .headers
                .iter()
                .map(|(name, _)| name.clone())
                .collect();
            headers.sort();
            assert!(!text.contains(&call));
            (answer.status, text, headers)
        };
        assert_eq!(
            shape(&other),
            shape(&none),
            "a caller can tell the two apart"
        );
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn a_call_without_a_credential_is_challenged() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    for http in Http::BOTH {
        let answer = Curl::new(&stack.url("/api/vm")).http(http).ok();
        answer.assert_refused(401, "unauthenticated", "relay");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Bearer"), "{answer}");
        // Whether the endpoint exists is nothing to tell a stranger.
        let nothing = Curl::new(&stack.url_of("acme", "nothing", "/api/vm"))
            .http(http)
            .ok();
        nothing.assert_refused(401, "unauthenticated", "relay");
    }
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn the_credential_may_come_in_each_of_the_documented_ways() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let token = caller_token();
    use base64::Engine;
    let basic = base64::prelude::BASE64_STANDARD.encode(format!("x:{token}"));
    for header in [
        format!("Culvert-Authorization: Bearer {token}"),
        format!("Proxy-Authorization: Bearer {token}"),
        format!("Proxy-Authorization: Basic {basic}"),
    ] {
        for http in Http::BOTH {
            let answer = Curl::new(&stack.url("/")).header(&header).http(http).ok();
            assert_eq!(answer.status, 200, "{header:.40}: {answer}");
        }
    }
    // Not one of them went on to the upstream.
    for request in upstream.requests() {
        assert!(
            request
                .headers
                .iter()
                .all(|(_, value)| !value.contains(token)),
            "{request:?}"
        );
    }
}

#[test]
fn headers_of_the_upstream_pass_and_headers_of_the_way_do_not() {
    let upstream = Upstream::start(|_, connection| {
        connection.send(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
             Connection: X-Hop\r\nX-Hop: gone\r\nKeep-Alive: timeout=9\r\nX-End: stays\r\n\r\nok",
        )?;
        Ok(culvert_tests::upstream::Then::KeepAlive)
    });
    let stack = Stack::start(&upstream.url());
    for http in Http::BOTH {
        let answer = stack
            .call("/")
            .http(http)
            .header("Authorization: Basic dXBzdHJlYW06aXRz")
            .header("Cookie: vmware_soap_session=1; b=2")
            .header("vmware-api-session-id: 8d2f")
            .header("X-Forwarded-For: 1.2.3.4")
            .header("Forwarded: for=1.2.3.4")
            .header("X-Real-IP: 1.2.3.4")
            .header("X-Original-URL: /elsewhere")
            .header("X-Rewrite-URL: /elsewhere")
            .header("X-HTTP-Method-Override: DELETE")
            .header("Culvert-Call: forged")
            .ok();
        let cookies = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "set-cookie")
            .count();
        assert_eq!((answer.status, cookies), (200, 2), "{answer}");
        assert_eq!(answer.header("x-end"), Some("stays"));
        for name in ["x-hop", "keep-alive", "transfer-encoding"] {
            assert_eq!(answer.header(name), None, "{answer}");
        }
        assert_ne!(answer.call(), "forged");
    }
    for request in upstream.requests() {
        assert_eq!(request.all("authorization"), ["Basic dXBzdHJlYW06aXRz"]);
        assert_eq!(request.all("cookie"), ["vmware_soap_session=1; b=2"]);
        assert_eq!(request.all("vmware-api-session-id"), ["8d2f"]);
        for gone in [
            "x-real-ip",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "culvert-authorization",
            "proxy-authorization",
            "proxy-connection",
        ] {
            assert_eq!(request.all(gone), [""; 0], "{request:?}");
        }
        let text = format!("{request:?}");
        assert!(
            !text.contains("1.2.3.4") && !text.contains("forged"),
            "{text}"
        );
        assert_eq!(request.all("host").len(), 1);
    }
}

#[test]
fn connections_to_the_upstream_are_kept_and_used_again() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    for _ in 0..10 {
        assert_eq!(stack.call("/").ok().status, 200);
    }
    assert_eq!(upstream.requests().len(), 10);
    assert_eq!(
        upstream.connections(),
        1,
        "one after the other needs one connection"
    );
}

#[test]
fn an_agent_serves_several_endpoints_and_only_those_that_its_token_names() {
    let (first, second) = (Upstream::plain(), Upstream::plain());
    let mut stack = Stack::options()
        .endpoint("vcenter", &first.url())
        .endpoint("second", &second.url())
        .endpoint("stray", &second.url())
        .start();
    stack.await_endpoint("second");
    assert_eq!(stack.call("/").ok().status, 200);
    assert_eq!(stack.call_endpoint("second", "/").ok().status, 200);
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
    // Refused at registration, for itself alone, and both sides say so.
    let stray = stack.call_endpoint("stray", "/").ok();
    stray.assert_refused(404, "unknown-endpoint", "relay");
    assert!(
        stack.relay.log().contains("stray"),
        "the relay's log does not name it"
    );
    assert!(
        stack.agent.log().contains("stray"),
        "the agent's log does not name it"
    );
}

#[test]
fn two_hundred_calls_at_once_all_succeed() {
    let nginx = Nginx::start();
    let mut stack = Stack::start(&nginx.url());
    for (http, path) in [(Http::One, "/api/one"), (Http::Two, "/api/two")] {
        let url = format!("{}/[1-200]", stack.url(path));
        let report = Curl::new(&url)
            .args(["--no-globoff", "--parallel", "--parallel-immediate"])
            .args(["--parallel-max", "200", "--output", "/dev/null"])
            .args(["--write-out", "%{http_code} %{http_version}\\n"])
            .token(caller_token())
            .http(http)
            .report();
        let expected = if http == Http::One {
            "200 1.1"
        } else {
            "200 2"
        };
        let good = report.lines().filter(|line| *line == expected).count();
        assert_eq!(good, 200, "{report}");
    }
    let log = nginx.access_log();
    let arrived = log.lines().filter(|line| line.contains(" 200 "));
    assert_eq!(arrived.count(), 400);
    stack.relay.assert_running();
    stack.agent.assert_running();
}

#[test]
fn every_call_has_an_id_of_its_own_and_one_line_in_each_log() {
    let upstream = Upstream::plain();
    let stack = Stack::start(&upstream.url());
    let calls: Vec<String> = (0..5).map(|_| stack.call("/").ok().call()).collect();
    for call in &calls {
        assert_eq!(
            calls.iter().filter(|other| *other == call).count(),
            1,
            "{calls:?}"
        );
        for process in [&stack.relay, &stack.agent] {
            until("the call has a line", || {
                process.log().contains(call.as_str())
            });
            let log = process.log();
            let lines = log
                .lines()
                .filter(|line| line.contains(call.as_str()))
                .count();
            assert_eq!(lines, 1, "{call} in\n{log}");
        }
    }
    // The logs tell nothing that would let a reader call.
    let signature = caller_token().rsplit('.').next().unwrap();
    for process in [&stack.relay, &stack.agent] {
        assert!(!process.log().contains(signature));
        assert!(!process.log().contains(world().secret()));
    }
}

/// A customer's own name for an endpoint: it leads there, and its certificate is shown to those who ask
/// for the name, and to nobody else.
#[test]
fn a_customers_own_domain_has_a_certificate_of_its_own() {
    const HOST: &str = "vc.customer.test";
    let nginx = Nginx::start();
    let configured = Stack::options()
        .endpoint("vcenter", &nginx.url())
        .tls("\n[[tls.sni]]\ncertificate = \"customer.pem\"\nprivate_key = \"customer.key\"\n")
        .relay(&format!(
            "\n[[route]]\nhost = \"{HOST}\"\ntenant = \"acme\"\nendpoint = \"vcenter\"\n"
        ))
        .configure();
    let customer = world().authority.issue(&[HOST]).unwrap();
    customer.write(&configured.file(""), "customer").unwrap();
    let stack = configured.run();
    let url = format!("https://{HOST}:{}/api/vm", stack.public);
    for http in Http::BOTH {
        let answer = Curl::new(&url).token(caller_token()).http(http).ok();
        assert_eq!(answer.json()["target"], "/api/vm", "{answer}");
        assert_eq!(stack.call("/api/vm").http(http).ok().status, 200);
    }
    // Another name that neither certificate is for.
    let stranger = format!("https://other.customer.test:{}/", stack.public);
    let refused = Curl::new(&stranger).run();
    assert_eq!(refused.exit, Some(60), "curl believes no certificate");
}
