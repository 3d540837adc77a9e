//! Upstreams as data centres have them: HTTP/1.1 and HTTP/2, old and new TLS, client certificates,
//! names that lead where they should not.

use culvert_tests::issuer::world;
use culvert_tests::pattern::{BLOCK, Check, Source};
use culvert_tests::{Nginx, Stack, StackOptions};

/// An agent with `settings` for its one endpoint.
fn stack(nginx: &Nginx, settings: &str) -> Stack {
    options(nginx, settings).start()
}

fn options(nginx: &Nginx, settings: &str) -> StackOptions {
    let options = Stack::options().endpoint("vcenter", &nginx.url());
    options.endpoint_settings(settings)
}

fn spoken(stack: &Stack) -> String {
    let answer = stack.call("/api/tls").ok();
    assert_eq!(answer.status, 200, "{answer}");
    answer.text()
}

#[test]
fn an_upstream_is_spoken_to_in_the_http_and_the_tls_that_it_has() {
    for (listen, tls, setting, expected) in [
        ("", "TLSv1.2", "auto", "HTTP/1.1 TLSv1.2 NONE"),
        ("", "TLSv1.3", "auto", "HTTP/1.1 TLSv1.3 NONE"),
        ("http2", "TLSv1.2 TLSv1.3", "auto", "HTTP/1.1 TLSv1.3 NONE"),
        ("http2", "TLSv1.2", "h2", "HTTP/2.0 TLSv1.2 NONE"),
        ("http2", "TLSv1.3", "h2", "HTTP/2.0 TLSv1.3 NONE"),
    ] {
        let nginx = Nginx::start_with(listen, &format!("ssl_protocols {tls};"));
        let stack = stack(&nginx, &format!("upstream_protocol = \"{setting}\""));
        for _ in 0..3 {
            assert_eq!(spoken(&stack), expected);
        }
    }
    let nginx = Nginx::start();
    let stack = stack(&nginx, "upstream_protocol = \"h2\"");
    let answer = stack.call("/api/tls").ok();
    // Whether it turns the protocol down in TLS or only does not choose it.
    assert_eq!(answer.status, 502, "{answer}");
    assert!(answer.code().starts_with("upstream-"), "{answer}");
}

/// Far beyond every window, and many at once.
#[test]
fn bodies_go_both_ways_over_http_2_whole() {
    const LENGTH: usize = 32 << 20;
    let nginx = Nginx::start_with("http2", "");
    let stack = stack(&nginx, "upstream_protocol = \"h2\"");
    let (mut source, mut block) = (Source::default(), [0; BLOCK]);
    let mut content = Vec::with_capacity(LENGTH);
    while content.len() < LENGTH {
        source.fill(&mut block);
        content.extend_from_slice(&block);
    }
    let file = stack.file("content");
    std::fs::write(&file, &content).unwrap();
    let upload = stack
        .call("/files/large")
        .args(["--upload-file", file.to_str().unwrap()]);
    assert_eq!(upload.ok().status, 201);
    assert_eq!(std::fs::read(nginx.files().join("large")).unwrap(), content);
    let mut calls: Vec<_> = (0..4).map(|_| stack.call("/files/large").start()).collect();
    for call in &mut calls {
        assert_eq!(call.head().status, 200);
        let mut check = Check::default();
        call.each(|piece| check.take(piece));
        assert_eq!(check.result(), Ok(LENGTH as u64));
    }
}

#[test]
fn a_client_certificate_is_shown_where_an_upstream_asks_for_one() {
    for listen in ["", "http2"] {
        let directives = format!(
            "ssl_verify_client on; ssl_client_certificate {};",
            world().ca_file().display()
        );
        let nginx = Nginx::start_with(listen, &directives);
        let protocol = if listen.is_empty() { "http1" } else { "h2" };
        let protocol = format!("upstream_protocol = \"{protocol}\"");
        let settings = format!(
            "{protocol}\nclient_certificate = \"client.pem\"\nclient_private_key = \"client.key\""
        );
        let configured = options(&nginx, &settings).configure();
        let leaf = world().authority.issue(&["agent"]).unwrap();
        leaf.write(&configured.file(""), "client").unwrap();
        let with = configured.run();
        assert!(spoken(&with).ends_with("SUCCESS"));
        // nginx lets the handshake pass and answers 400 itself.
        let without = stack(&nginx, &protocol);
        assert_eq!(without.call("/api/tls").ok().status, 400);
    }
}

#[test]
fn a_name_leads_only_where_the_endpoint_says() {
    let nginx = Nginx::start();
    // `localhost` speaks for itself, unless the endpoint says where it may lead.
    let wide = "allow_networks = [\"10.0.0.0/8\", \"0.0.0.0/0\", \"::/0\"]";
    let answer = stack(&nginx, wide).call("/api/tls").ok();
    answer.assert_refused(502, "upstream-unreachable", "agent");
    assert!(answer.text().contains("loopback"), "{answer}");
    let named = "allow_networks = [\"127.0.0.0/8\", \"::1\"]";
    assert_eq!(stack(&nginx, named).call("/api/tls").ok().status, 200);
}

/// `localhost` has an IPv6 address first, where nobody listens.
#[test]
fn an_address_that_refuses_does_not_keep_from_the_next() {
    let nginx = Nginx::start();
    assert!(std::net::TcpStream::connect(("::1", port_of(&nginx))).is_err());
    let stack = stack(&nginx, "allow_networks = [\"::1\", \"127.0.0.1\"]");
    assert_eq!(stack.call("/api/tls").ok().status, 200);
}

fn port_of(nginx: &Nginx) -> u16 {
    let url = nginx.url();
    url.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn an_upstream_that_is_silent_is_given_up_phase_by_phase() {
    // A socket that takes connections, by the kernel's grace, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", silent.local_addr().unwrap().port());
    for protocol in ["http1", "h2"] {
        let stack = Stack::options()
            .endpoint("vcenter", &url)
            .endpoint_settings(&format!(
                "timeouts = {{ tls = \"200ms\" }}\nupstream_protocol = \"{protocol}\""
            ))
            .start();
        let answer = stack.call("/").ok();
        answer.assert_refused(504, "upstream-timeout", "agent");
        assert!(answer.text().contains("TLS handshake"), "{answer}");
    }
}
