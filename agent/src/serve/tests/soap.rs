//! SOAP calls: decided on by the operation in their body, forwarded byte for byte.

use culvert_proto::code::ErrorCode;
use http::HeaderValue;

use super::*;

const RULES: &str = r#"
version = 1
[[rule]]
id = "reads"
action = "allow"
path = ["/sdk"]
soap_op = ["RetrieveServiceContent", "Retrieve*"]
soap_ns = "urn:vim25"
[[rule]]
id = "rest"
action = "allow"
path = ["/sdk/**", "/api/**"]
[[rule]]
id = "storage policies"
action = "allow"
path = ["/pbm/sdk"]
soap_op = ["PbmQueryProfile"]
[[rule]]
id = "reads under sdk"
action = "allow"
path = ["/sdk/**"]
soap_op = ["Retrieve*"]
[[rule]]
id = "twin"
action = "allow"
path = ["/sdk/vim25/*/VirtualMachine/*/PowerOnVM_Task"]
"#;

fn envelope(operation: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope \
         xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body>\
         <{operation} xmlns=\"urn:vim25\"><_this type=\"X\">y</_this></{operation}>\
         </soapenv:Body></soapenv:Envelope>"
    )
}

fn sdk(length: usize) -> CallHead {
    let mut head = post("/sdk", BodyLength::Exact(length as u64));
    head.headers.insert(
        "content-type",
        HeaderValue::from_static("text/xml; charset=utf-8"),
    );
    head.headers
        .insert("soapaction", HeaderValue::from_static("urn:vim25/8.0.1.0"));
    head
}

#[tokio::test(start_paused = true)]
async fn a_permitted_operation_is_forwarded_byte_for_byte() {
    for pieces in [1, 7, 1000] {
        let mut tunnel = Tunnel::new(RULES).await;
        let body = envelope("RetrieveServiceContent");
        let mut call = tunnel.upload(&sdk(body.len()));
        for piece in body.as_bytes().chunks(body.len().div_ceil(pieces)) {
            call.send
                .write_bytes(Bytes::copy_from_slice(piece))
                .await
                .unwrap();
        }
        call.send.finish().unwrap();
        let mut upstream = tunnel.connection().await;
        let request = upstream.request().await.unwrap();
        assert!(
            request.contains(&format!("content-length: {}\r\n", body.len())),
            "{request}"
        );
        assert_eq!(upstream.body(body.len()).await.unwrap(), body.as_bytes());
        upstream.send(HELLO).await;
        assert_eq!(body_of(&mut call).await, b"hello");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_no_rule_names_is_refused_as_soap() {
    let mut tunnel = Tunnel::new(RULES).await;
    let body = envelope("Destroy_Task");
    let refusal = refusal(&mut tunnel.call(&sdk(body.len()), body)).await;
    assert_eq!(refusal.code, ErrorCode::PolicyDenied);
    assert!(refusal.soap);
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn an_operation_with_an_endless_name_makes_no_endless_line() {
    let tunnel = Tunnel::new(RULES).await;
    let body =
        envelope("Destroy_Task").replace("\"urn:vim25\"", &format!("'{}'", "\"".repeat(40_000)));
    let body = body.replace("Destroy_Task", &"x".repeat(5_000));
    let refusal = refusal(&mut tunnel.call(&sdk(body.len()), body)).await;
    assert_eq!(refusal.code, ErrorCode::PolicyDenied);
    let line = tunnel.serving.accounts().audit.take_lines().remove(0);
    assert!(line.len() < 2_000, "{} bytes", line.len());
}

#[tokio::test(start_paused = true)]
async fn a_soap_call_whose_operation_is_not_certain_is_refused() {
    let mut tunnel = Tunnel::new(RULES).await;
    let good = envelope("RetrieveServiceContent");
    for (body, words) in [
        (good.replace("?>", "?><!DOCTYPE x>"), "document type"),
        (good.replace("UTF-8", "UTF-16"), "UTF-8"),
        (String::new(), "not a SOAP"),
        ("{\"json\": true}".into(), "not"),
        (good.replace("</soapenv:Envelope>", ""), "ends before"),
        (format!("{}{good}", " ".repeat(70_000)), "within the first"),
    ] {
        let refusal = refusal(&mut tunnel.call(&sdk(body.len()), body)).await;
        assert_eq!(refusal.code, ErrorCode::PolicyDenied, "{words}");
        assert!(
            refusal.detail.contains(words),
            "{words}: {}",
            refusal.detail
        );
        assert!(refusal.soap);
    }
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn headers_that_disagree_with_the_body_are_refused() {
    let mut tunnel = Tunnel::new(RULES).await;
    let body = envelope("RetrieveServiceContent");
    let odd: &[u8] = b"multipart/related; boundary=b; x=\"\xe9\"";
    for (name, value, words) in [
        ("soapaction", &b"urn:vim25/Destroy_Task"[..], "SOAPAction"),
        ("soapaction", b"urn:other", "SOAPAction"),
        ("soapaction", b"\xe9", "SOAPAction"),
        ("content-type", b"text/xml; charset=utf-16", "charset"),
        ("content-type", b"multipart/related; boundary=x", "parts"),
        ("content-type", odd, "plain"),
        ("content-encoding", b"gzip", "compressed"),
        ("content-encoding", b"identity\xe9", "compressed"),
    ] {
        let mut head = sdk(body.len());
        let value = HeaderValue::from_bytes(value).unwrap();
        head.headers.append(name, value.clone());
        let refusal = refusal(&mut tunnel.call(&head, body.clone())).await;
        assert_eq!(refusal.code, ErrorCode::PolicyDenied, "{value:?}");
        assert!(refusal.detail.contains(words), "{}", refusal.detail);
    }
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn whatever_brings_a_body_to_the_soap_path_is_soap() {
    let mut tunnel = Tunnel::new(RULES).await;
    let body = envelope("Destroy_Task");
    for (method, target) in [
        (Method::PUT, "/sdk"),
        (Method::PATCH, "/sdk/vimService"),
        (Method::DELETE, "/SDK/x"),
        (Method::POST, "/sdk/"),
    ] {
        let length = BodyLength::Exact(body.len() as u64);
        let head = CallHead {
            body: length,
            ..head(method.clone(), target)
        };
        let refusal = refusal(&mut tunnel.call(&head, body.clone())).await;
        assert_eq!(refusal.code, ErrorCode::PolicyDenied, "{method} {target}");
    }
    tunnel.assert_untouched();
    let _call = tunnel.call(&get("/sdk/vimServiceVersions.xml"), "");
    assert!(
        tunnel.connection().await.request().await.is_some(),
        "reading a file is no SOAP call"
    );
}

#[tokio::test(start_paused = true)]
async fn a_soap_body_longer_than_announced_is_refused() {
    let mut tunnel = Tunnel::new(RULES).await;
    let body = envelope("RetrieveServiceContent");
    let refusal = refusal(&mut tunnel.call(&sdk(body.len() - 1), body)).await;
    assert_eq!(refusal.code, ErrorCode::BadRequest);
    tunnel.assert_untouched();
}

#[tokio::test(start_paused = true)]
async fn a_path_that_a_rule_with_operations_names_is_soap_too() {
    let mut tunnel = Tunnel::new(RULES).await;
    let post = |body: &str| post("/pbm/sdk", BodyLength::Exact(body.len() as u64));
    for body in [envelope("PbmDelete"), "{}".to_owned(), String::new()] {
        let refusal = refusal(&mut tunnel.call(&post(&body), body)).await;
        assert_eq!(refusal.code, ErrorCode::PolicyDenied);
        assert!(refusal.soap);
    }
    tunnel.assert_untouched();
    let body = envelope("PbmQueryProfile");
    let _call = tunnel.call(&post(&body), body);
    assert!(tunnel.connection().await.request().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_json_twin_is_reached_by_a_rule_that_names_it_and_never_with_an_envelope() {
    let mut tunnel = Tunnel::new(RULES).await;
    let twin = |operation: &str, body: &str| {
        let path = format!("/sdk/vim25/8.0.2.0/VirtualMachine/vm-42/{operation}");
        CallHead {
            target: path.into(),
            ..post("/sdk", BodyLength::Exact(body.len() as u64))
        }
    };
    for (operation, body, soap) in [
        ("PowerOffVM_Task", "{}".to_owned(), false),
        ("PowerOffVM_Task", String::new(), false),
        ("PowerOnVM_Task", envelope("PowerOnVM_Task"), true),
        // What a rule allows as SOAP does not carry what the path calls.
        ("PowerOnVM_Task", envelope("RetrieveServiceContent"), true),
        ("Destroy_Task", envelope("RetrieveServiceContent"), true),
        ("PowerOnVM_Task", "x".to_owned(), true),
    ] {
        let refusal = refusal(&mut tunnel.call(&twin(operation, &body), body.clone())).await;
        assert_eq!(refusal.code, ErrorCode::PolicyDenied, "{operation} {body}");
        assert_eq!(refusal.soap, soap, "{operation} {body}");
    }
    let mut packed = twin("PowerOnVM_Task", "{}");
    let gzip = HeaderValue::from_static("gzip");
    packed.headers.insert("content-encoding", gzip);
    let refusal = refusal(&mut tunnel.call(&packed, "{}")).await;
    assert!(refusal.detail.contains("compressed"), "{}", refusal.detail);
    tunnel.assert_untouched();
    let body = " {\"host\": null}";
    let _call = tunnel.call(&twin("PowerOnVM_Task", body), body);
    let mut upstream = tunnel.connection().await;
    assert!(upstream.request().await.is_some());
    assert_eq!(upstream.body(body.len()).await.unwrap(), body.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn an_envelope_that_a_get_or_put_brings_is_looked_into_and_refused() {
    let mut tunnel = Tunnel::new(RULES).await;
    // What POST may call too: SOAP is called by nothing else.
    for operation in ["Destroy_Task", "RetrieveServiceContent"] {
        for method in [Method::GET, Method::PUT] {
            let body = envelope(operation);
            let head = CallHead {
                body: BodyLength::Exact(body.len() as u64),
                ..head(method.clone(), "/sdk")
            };
            let refusal = refusal(&mut tunnel.call(&head, body)).await;
            assert_eq!(
                refusal.code,
                ErrorCode::PolicyDenied,
                "{method} {operation}"
            );
        }
    }
    tunnel.assert_untouched();
}

/// What is to be looked at before the upstream hears of the call cannot wait for the upstream.
#[tokio::test(start_paused = true)]
async fn a_soap_caller_that_waits_with_its_body_is_told_to_send_it() {
    let mut tunnel = Tunnel::new(RULES).await;
    let body = envelope("RetrieveServiceContent");
    let mut head = sdk(body.len());
    let expect = HeaderValue::from_static("100-continue");
    head.headers.insert("expect", expect);
    let mut call = tunnel.upload(&head);
    let Head::Interim(go_on) = first(&mut call).await.unwrap() else {
        panic!("nobody lets the caller go on")
    };
    assert_eq!(go_on.status, 100);
    tunnel.assert_untouched();
    call.send.write_bytes(body.clone().into()).await.unwrap();
    call.send.finish().unwrap();
    let mut upstream = tunnel.connection().await;
    let request = upstream.request().await.unwrap();
    assert!(!request.contains("expect"), "{request}");
    assert_eq!(upstream.body(body.len()).await.unwrap(), body.as_bytes());
    upstream.send(HELLO).await;
    assert_eq!(body_of(&mut call).await, b"hello");
}
