//! What callers read.

use super::*;

const CALL: CallId = CallId([0xAB; 16]);

fn header<'a>(response: &'a Response<()>, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

#[test]
fn a_problem_says_what_happened_where_and_what_to_do() {
    let problem = Problem::new(ErrorCode::EndpointOffline, "wait for \"vcenter\"");
    let (response, body) = problem.answer("relay.example.com", CALL, &Method::GET);
    assert_eq!(response.status(), 503);
    assert_eq!(
        header(&response, "content-type"),
        Some("application/problem+json")
    );
    assert_eq!(
        header(&response, "culvert-call"),
        Some("abababababababababababababababab")
    );
    assert_eq!(header(&response, "retry-after"), Some("5"));
    assert_eq!(
        header(&response, "proxy-status"),
        Some("culvert-relay; error=destination_unavailable; details=\"endpoint-offline\"")
    );
    assert_eq!(
        body,
        "{\"type\":\"https://relay.example.com/.culvert/errors#endpoint-offline\",\
         \"title\":\"The endpoint's agent is not connected\",\"status\":503,\
         \"detail\":\"wait for \\\"vcenter\\\"\",\"call\":\"abababababababababababababababab\",\
         \"layer\":\"relay\"}"
    );
}

#[test]
fn every_code_has_its_status_and_a_body_that_is_json() {
    for code in ErrorCode::ALL {
        let problem = Problem {
            rule: Some("a\u{1}b".into()),
            ..Problem::new(*code, "x\\y")
        };
        let (response, body) = problem.answer("d", CALL, &Method::POST);
        assert_eq!(response.status().as_u16(), code.status());
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["type"], format!("https://d/.culvert/errors#{code}"));
        assert_eq!(body["status"], code.status());
        assert_eq!(body["detail"], "x\\y");
        assert_eq!(body["rule"], "a\u{1}b");
        let status = header(&response, "proxy-status").unwrap();
        assert!(status.ends_with(&format!("details=\"{code}\"")), "{status}");
        assert!(!status.contains("internal"), "{status}");
    }
}

#[test]
fn an_answer_to_head_has_no_body_and_says_its_length() {
    let problem = Problem::bad_request("x");
    let (_, body) = problem.answer("d", CALL, &Method::GET);
    let (response, none) = problem.answer("d", CALL, &Method::HEAD);
    assert_eq!(none, "");
    assert_eq!(
        header(&response, "content-length"),
        Some(&*body.len().to_string())
    );
}

#[test]
fn a_missing_and_a_bad_credential_are_challenged() {
    let (response, _) =
        Problem::unauthenticated("send a token", None).answer("d", CALL, &Method::GET);
    assert_eq!(
        header(&response, "www-authenticate"),
        Some("Bearer realm=\"culvert\"")
    );
    let (response, _) = Problem::unauthenticated("the token expired", Some("invalid_token"))
        .answer("d", CALL, &Method::GET);
    assert_eq!(
        header(&response, "www-authenticate"),
        Some(
            "Bearer realm=\"culvert\", error=\"invalid_token\", \
             error_description=\"the token expired\""
        )
    );
    let (response, _) = Problem::forbidden("x").answer("d", CALL, &Method::GET);
    let challenge = header(&response, "www-authenticate").unwrap();
    assert!(challenge.ends_with("error=\"insufficient_scope\""));
}

/// Trailers alone are an answer in HTTP/2 only.
#[test]
fn a_problem_is_told_in_what_its_caller_speaks() {
    for (media, version, kind) in [
        (
            "application/grpc+proto",
            Version::HTTP_2,
            "application/grpc",
        ),
        (
            "application/grpc",
            Version::HTTP_11,
            "text/xml; charset=utf-8",
        ),
        (
            "application/grpc-web",
            Version::HTTP_2,
            "text/xml; charset=utf-8",
        ),
        (
            "application/soap+xml; action=\"a\"",
            Version::HTTP_11,
            "application/soap+xml; charset=utf-8",
        ),
        ("text/xml", Version::HTTP_2, "text/xml; charset=utf-8"),
    ] {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]);
        let mut problem = Problem::new(ErrorCode::PolicyDenied, "x");
        problem.soap = true;
        problem.told_in(Dialect::of(&headers), version);
        let (response, _) = problem.answer("d", CALL, &Method::POST);
        assert_eq!(header(&response, "content-type"), Some(kind), "{media}");
    }
    assert_eq!(Dialect::of(&HeaderMap::new()), Dialect::Other);
}

/// Clients of gRPC show the message of trailers, and of anything else only the status of HTTP.
#[test]
fn a_refused_grpc_call_gets_trailers_with_the_same_text() {
    let problem = Problem {
        grpc: true,
        rule: Some("no-100%".into()),
        ..Problem::of_agent(ErrorCode::PolicyDenied, "ask Jörg")
    };
    let (response, body) = problem.answer("d", CALL, &Method::POST);
    assert_eq!((response.status(), &*body), (StatusCode::OK, &b""[..]));
    let field = |name| header(&response, name);
    assert_eq!(field("content-type"), Some("application/grpc"));
    assert_eq!(field("grpc-status"), Some("7"));
    let message = field("grpc-message").unwrap();
    let text = "The policy of the data centre denied the call: ask J%C3%B6rg (rule no-100%25) \
                [policy-denied, call ab";
    assert!(message.starts_with(text), "{message}");
    assert!(field("culvert-call").is_some() && field("proxy-status").is_some());
}

#[test]
fn a_refused_soap_call_gets_a_fault_with_the_same_text() {
    let refusal = Refusal {
        code: ErrorCode::PolicyDenied,
        detail: "ask <admin> & co\r\n".into(),
        rule: Some("no-destroy".into()),
        soap: true,
    };
    let (response, body) = Problem::from(refusal).answer("d", CALL, &Method::POST);
    assert_eq!(response.status(), 500);
    assert_eq!(
        header(&response, "content-type"),
        Some("text/xml; charset=utf-8")
    );
    assert_eq!(
        header(&response, "proxy-status"),
        Some("culvert-agent; error=http_request_denied; details=\"policy-denied\"")
    );
    let body = std::str::from_utf8(&body).unwrap();
    let text = "<faultstring>The policy of the data centre denied the call: ask &lt;admin&gt; \
                &amp; co (rule no-destroy) [policy-denied, call ab";
    assert!(body.contains(text), "{body}");
    assert!(body.contains("xsi:type=\"NoPermission\""));
}

/// A client of SOAP 1.2 takes an envelope of 1.1 for a version mismatch, and hides the text.
#[test]
fn a_refused_call_of_soap_1_2_gets_a_fault_of_its_version() {
    let problem = Problem {
        soap: true,
        soap12: true,
        ..Problem::of_agent(ErrorCode::PolicyDenied, "ask <admin>")
    };
    let (response, body) = problem.answer("d", CALL, &Method::POST);
    assert_eq!(response.status(), 500);
    let kind = header(&response, "content-type");
    assert_eq!(kind, Some("application/soap+xml; charset=utf-8"));
    let body = std::str::from_utf8(&body).unwrap();
    for part in [
        "xmlns:soapenv=\"http://www.w3.org/2003/05/soap-envelope\"",
        "<soapenv:Code><soapenv:Value>soapenv:Sender</soapenv:Value></soapenv:Code>",
        "<soapenv:Text xml:lang=\"en\">The policy of the data centre denied the call: ask &lt;admin&gt; [",
        "<privilegeId>culvert.policy-denied</privilegeId>",
    ] {
        assert!(body.contains(part), "{part}: {body}");
    }
    let plain = Problem {
        soap: false,
        ..problem
    };
    let (response, _) = plain.answer("d", CALL, &Method::POST);
    let kind = header(&response, "content-type");
    assert_eq!(kind, Some("application/problem+json"));
}

#[test]
fn a_refusal_names_the_side_that_gave_it() {
    for (code, layer) in [
        (ErrorCode::PolicyDenied, Layer::Agent),
        // Agents have no such word: it is another relay node's.
        (ErrorCode::Forbidden, Layer::Relay),
    ] {
        let refusal = Refusal {
            code,
            detail: "ask somebody".into(),
            rule: None,
            soap: false,
        };
        assert_eq!(Problem::from(refusal).layer, layer, "{code}");
    }
}
